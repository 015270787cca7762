"""Which elements of the whole tensor the shard of a ``DTensor`` has."""

from __future__ import annotations

from typing import Any

from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.placement_types import _StridedShard

#: Ranges of indices in one dimension, each with its start and its end.
Ranges = list[tuple[int, int]]


def ranges_of(tensor: DTensor) -> tuple[list[int], list[Ranges]]:
    """Return the shape of the whole tensor, and the indices of this process in each dimension."""
    shape, mesh = list(tensor.shape), tensor.device_mesh
    ranges: list[Ranges] = [[(0, size)] for size in shape]
    coordinate = mesh.get_coordinate()
    if coordinate is None:
        return shape, [[] for _ in shape]
    axes, plain = _order(mesh.shape, tensor.placements)
    for axis in axes:
        size, own, placement = mesh.shape[axis], coordinate[axis], tensor.placements[axis]
        if isinstance(placement, _StridedShard) and axis not in plain:
            parts = _chunks(ranges[placement.dim], int(placement.split_factor))
            chosen = [_chunks(part, size)[own] for part in parts]
            ranges[placement.dim] = [piece for part in chosen for piece in part]
        elif isinstance(placement, (Shard, _StridedShard)):
            ranges[placement.dim] = _chunks(ranges[placement.dim], size)[own]
    local = tuple(sum(end - start for start, end in pieces) for pieces in ranges)
    found = tuple(tensor.to_local().shape)
    if local != found:
        raise RuntimeError(
            f"the shard of a parameter has shape {found}, expected {local} by its placements "
            f"{tensor.placements}"
        )
    return shape, ranges


def check_placements(tensor: Any, name: str) -> None:
    """Check that each process has elements of the tensor, and not summands of them."""
    for placement in tensor.placements:
        if not isinstance(placement, (Shard, _StridedShard, Replicate)):
            raise RuntimeError(
                f"parameter {name} has the placement {placement}, expected Shard or Replicate"
            )


def _order(sizes: Any, placements: Any) -> tuple[list[int], set[int]]:
    """Return the order in which the dimensions of the mesh split the tensor.

    ``_StridedShard`` stands for a split after those of later dimensions, as ``fully_shard`` over
    parallel layers makes it. Also return the dimensions whose splits are plain in that order.
    """
    order: list[int] = []
    plain: set[int] = set()
    for dim in sorted({it.dim for it in placements if not isinstance(it, Replicate)}):
        axes = [axis for axis, it in enumerate(placements) if getattr(it, "dim", None) == dim]
        parts, is_reversed = 1, True
        for axis in reversed(axes):
            is_reversed &= int(getattr(placements[axis], "split_factor", 1)) == parts
            parts *= sizes[axis]
        if is_reversed:
            plain.update(axes)
            axes.reverse()
        order += axes
    return order, plain


def _chunks(ranges: Ranges, count: int) -> list[Ranges]:
    """Split the indices as ``torch.chunk`` does; the last chunks may be empty."""
    total = sum(end - start for start, end in ranges)
    size = -(-total // count)
    return [_part(ranges, size * i, size * (i + 1)) for i in range(count)]


def _part(ranges: Ranges, first: int, last: int) -> Ranges:
    """Return the indices from number ``first`` to before number ``last``."""
    found, before = [], 0
    for start, end in ranges:
        low = start + max(first - before, 0)
        high = min(end, start + last - before)
        if low < high:
            found.append((low, high))
        before += end - start
    return found
