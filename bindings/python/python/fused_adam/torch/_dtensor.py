"""Where the shard of a ``DTensor`` lies in the whole tensor."""

from __future__ import annotations

from math import prod

from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset


def offset_of(tensor: DTensor) -> int | None:
    """Return the index of the first element of this process's shard in the whole tensor.

    ``None`` if the shard is not one range of the elements in row-major order.
    """
    # A subclass of ``Shard`` interleaves the shards of two dimensions of the mesh.
    if any(type(placement) not in (Shard, Replicate) for placement in tensor.placements):
        return None
    whole = tuple(tensor.shape)
    local, start = compute_local_shape_and_global_offset(
        whole, tensor.device_mesh, tensor.placements
    )
    if 0 in local:
        return 0
    cut = next((dim for dim, n in enumerate(local) if n != whole[dim]), len(whole))
    if any(n != 1 for n in local[:cut]) or tuple(local[cut + 1 :]) != whole[cut + 1 :]:
        return None
    return sum(first * prod(whole[dim + 1 :]) for dim, first in enumerate(start))
