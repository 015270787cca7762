"""The processes that compute a norm together, and the exchange of their messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .._native import failed_step

#: ``None`` is the group of all processes.
Group = Any

_UNRELATED = "expected dimensions of one mesh, or a process_group"


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

    def all_gather(self, message: bytes) -> tuple[bytes, list[int]]:
        """Return the messages of all processes in the order of their ranks, and the ranks."""
        self._is_done = True
        size = 8 + len(message)
        message = dist.get_rank().to_bytes(8, "big") + message
        for group in self.groups:
            message = _all_gather(message, group)
        parts = sorted(message[start : start + size] for start in range(0, len(message), size))
        ranks = [int.from_bytes(part[:8], "big") for part in parts]
        if len(set(ranks)) != len(ranks):
            raise ValueError(f"the meshes of the parameters are not of one mesh, {_UNRELATED}")
        return b"".join(part[8:] for part in parts), ranks

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


@torch.compiler.disable  # type: ignore[untyped-decorator, unused-ignore]
def processes_of(params: Sequence[Tensor], group: Group = None) -> Processes | None:
    """Return the processes that share the norm of these parameters. ``None`` if it is only this.

    Args:
        params: all parameters of an optimizer.
        group: the group that the caller wants. By default it follows from the meshes of the
            parameters.
    """
    if not dist.is_available() or not dist.is_initialized():
        return None
    flattened = [number for number, param in enumerate(params) if _is_flattened(param)]
    if group is not None:
        if not isinstance(group, dist.ProcessGroup) or dist.get_rank(group) < 0:
            expected = "expected a ProcessGroup that has this process"
            raise ValueError(f"process_group is {group!r}, {expected}")
        # Beside shards of FSDP1, others are parameters that it ignores, so all processes have them.
        ignored = [group] if flattened else []
        return Processes(
            [group], lambda param: _is_first(param, [] if _is_flattened(param) else ignored)
        )
    if flattened:
        raise ValueError(
            f"parameter {flattened[0]} is a shard of FullyShardedDataParallel, expected "
            "process_group=model.process_group to clip by the norm of all shards"
        )
    grid = _grid_of(getattr(param, "device_mesh", None) for param in params)
    if not grid:
        return None
    total = 1
    for of in grid:
        total *= dist.get_world_size(of)
    known: dict[Any, bool] = {}

    def counts(param: Any) -> bool:
        """Most parameters have the same mesh and placements."""
        key = id(getattr(param, "device_mesh", None)), getattr(param, "placements", None)
        if key not in known:
            known[key] = _is_first(param, grid)
        return known[key]

    return Processes([None] if total == dist.get_world_size() else grid, counts)


@torch.compiler.disable  # type: ignore[untyped-decorator, unused-ignore]
def redistribute(params: Iterable[Any]) -> None:
    """Give gradients the placements of their parameters. Only the mesh must be the same.

    This may communicate, so it comes before anything that can fail on one process.
    """
    for param in params:
        grad = param.grad
        if hasattr(param, "placements") and hasattr(grad, "placements"):
            if grad.placements != param.placements and grad.device_mesh == param.device_mesh:
                param.grad = grad.redistribute(param.device_mesh, param.placements)


def _is_flattened(param: Tensor) -> bool:
    """Return whether FSDP1 has made the parameter."""
    return bool(getattr(param, "_fsdp_flattened", False))


def _grid_of(meshes: Iterable[Any]) -> list[Group]:
    """Return the groups of the dimensions of all meshes, each once.

    Two meshes may have groups of their own with the same processes.
    """
    known = {id(mesh): mesh for mesh in meshes if mesh is not None}.values()
    groups: dict[tuple[int, ...], Group] = {}
    for mesh in known:
        groups.update((_ranks(of), of) for of in _groups_of(mesh))
    # All processes of these meshes must find the same groups.
    own = {rank for mesh in known if _groups_of(mesh) for rank in mesh.mesh.flatten().tolist()}
    for mesh in known:
        common = own & set(mesh.mesh.flatten().tolist())
        if common and not _groups_of(mesh):
            _refuse(common)
    # The order must be the same on all processes.
    grid = list(groups)
    for number, ranks in enumerate(grid):
        for other in grid[:number]:
            common = set(ranks) & set(other)
            if len(common) > 1:
                _refuse(common)
    return [groups[ranks] for ranks in grid]


def _refuse(common: set[int]) -> None:
    raise ValueError(
        f"the meshes of the parameters overlap in the processes {sorted(common)}, {_UNRELATED}"
    )


def _ranks(group: Group) -> tuple[int, ...]:
    return tuple(dist.get_process_group_ranks(group))


def _groups_of(mesh: Any) -> list[Group]:
    """Return the groups of the dimensions of a mesh; none if it does not have this process."""
    return [] if mesh.get_coordinate() is None else mesh.get_all_groups()


def _is_first(param: Any, grid: Sequence[Group]) -> bool:
    """Return whether no process before this one has the same elements."""
    inside: set[tuple[int, ...]] = set()
    if hasattr(param, "device_mesh"):
        groups = _groups_of(param.device_mesh)
        if not groups:
            return False
        inside = {_ranks(group) for group in groups}
        for group, placement in zip(groups, param.placements):
            if placement.is_replicate() and dist.get_rank(group) != 0:
                return False
    return all(_ranks(of) in inside or dist.get_rank(of) == 0 for of in grid)
