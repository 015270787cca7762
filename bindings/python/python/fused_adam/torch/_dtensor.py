"""Where the shard of a ``DTensor`` lies in the whole tensor."""

from __future__ import annotations

from math import prod

from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset


def offset_of(tensor: DTensor) -> int | None:
    """Return the index of the first element of this process's shard in the whole tensor.

    ``None`` if the shard is not one range of the elements in row-major order.
    """
    whole, mesh = tuple(tensor.shape), tensor.device_mesh
    for size, placement in zip(mesh.shape, tensor.placements):
        # A subclass of ``Shard`` interleaves the shards of two dimensions of the mesh. The answer
        # must be the same on all processes, also on those with an empty shard.
        if type(placement) not in (Shard, Replicate):
            return None
        if size > 1 and isinstance(placement, Shard) and prod(whole[: placement.dim]) != 1:
            return None
    local, start = compute_local_shape_and_global_offset(whole, mesh, tensor.placements)
    if 0 in local:
        return 0
    return sum(first * prod(whole[dim + 1 :]) for dim, first in enumerate(start))
