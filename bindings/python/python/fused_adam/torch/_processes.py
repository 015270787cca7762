"""The processes that compute a norm together, and the exchange of their messages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .._native import failed_step

#: ``None`` is the group of all processes.
Group = Any


class Processes:
    """Gathers the messages of all processes, once for each step.

    Args:
        groups: groups that span a grid of processes. A message is sent along one after the other.
        counts: whether this process adds the gradient of a parameter to the norm.
    """

    def __init__(self, groups: Sequence[Group], counts: Callable[[Tensor], bool]) -> None:
        self.groups = groups
        self.counts = counts
        self._is_done = False

    def all_gather(self, message: bytes) -> bytes:
        """Return the messages of all processes, in the order of their ranks."""
        self._is_done = True
        for group in self.groups:
            message = _all_gather(message, group)
        return message

    def tell(self, error: Exception) -> None:
        """Tell the other processes that this one has failed, unless they know."""
        if not self._is_done:
            self.all_gather(failed_step(f"{type(error).__name__}: {error}"))


def _all_gather(message: bytes, group: Group) -> bytes:
    count = dist.get_world_size(group)
    if count == 1:
        return message
    own = torch.frombuffer(bytearray(message), dtype=torch.uint8).to(_device(group))
    all_messages = own.new_empty(count, len(message))
    dist.all_gather(list(all_messages.unbind()), own, group=group)
    return all_messages.cpu().numpy().tobytes()


def _device(group: Group) -> torch.device:
    """Return a device whose tensors the backend of a group takes: the CPU if possible."""
    pairs = (pair.split(":") for pair in dist.get_backend_config(group).split(","))
    kinds = [pair[0] for pair in pairs]
    return torch.device("cpu" if "cpu" in kinds else kinds[0])


def processes_of(params: Sequence[Tensor], group: Group = None) -> Processes | None:
    """Return the processes that share the norm of these parameters. ``None`` if it is only this.

    Args:
        params: all parameters of an optimizer.
        group: the group that the caller wants. By default it follows from the meshes of the
            parameters.
    """
    if not dist.is_available() or not dist.is_initialized():
        return None
    if group is not None:
        return Processes([group], lambda param: _is_first(param, ()))
    flattened = (number for number, p in enumerate(params) if getattr(p, "_fsdp_flattened", False))
    number = next(flattened, None)
    if number is not None:
        raise ValueError(
            f"parameter {number} is a shard of FullyShardedDataParallel, expected "
            "process_group=model.process_group to clip by the norm of all shards"
        )
    meshes: list[Any] = [getattr(param, "device_mesh", None) for param in params]
    groups: dict[str, Group] = {}
    for mesh in dict.fromkeys(mesh for mesh in meshes if mesh is not None):
        groups.update((of.group_name, of) for of in mesh.get_all_groups())
    if not groups:
        return None
    # The order must be the same on all processes. From the last dimension to the first, messages
    # have the order of the mesh.
    grid = list(reversed(groups.values()))
    _check_grid(grid)
    total = 1
    for of in grid:
        total *= dist.get_world_size(of)
    is_all = total == dist.get_world_size()
    return Processes([None] if is_all else grid, lambda param: _is_first(param, grid))


def _ranks(group: Group) -> list[int]:
    return dist.get_process_group_ranks(group)


def _check_grid(groups: Sequence[Group]) -> None:
    """Check that no two groups have two processes in common, as dimensions of a mesh."""
    for number, group in enumerate(groups):
        for other in groups[:number]:
            common = set(_ranks(group)) & set(_ranks(other))
            if len(common) > 1:
                raise ValueError(
                    f"the meshes of the parameters overlap in the processes {sorted(common)}, "
                    "expected dimensions of one mesh, or a process_group"
                )


def _is_first(param: Any, grid: Sequence[Group]) -> bool:
    """Return whether no process before this one has the same elements."""
    inside: set[str] = set()
    if hasattr(param, "device_mesh"):
        groups = param.device_mesh.get_all_groups()
        inside = {group.group_name for group in groups}
        for group, placement in zip(groups, param.placements):
            if placement.is_replicate() and dist.get_rank(group) != 0:
                return False
    return all(of.group_name in inside or dist.get_rank(of) == 0 for of in grid)
