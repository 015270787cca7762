"""Whether tensors with gaps share elements."""

from __future__ import annotations

import torch
from torch import Tensor


def are_apart(tensors: list[Tensor]) -> bool:
    """Return whether the elements of the first tensor overlap neither each other nor the others."""
    own, *others = (_places(tensor) for tensor in tensors)
    if bool((own.sort().values.diff() == 0).any()):
        return False
    return not any(bool(torch.isin(other, own).any()) for other in others)


def _places(tensor: Tensor) -> Tensor:
    """Return the address of each byte of a tensor."""
    places = torch.tensor(tensor.data_ptr(), dtype=torch.int64, device="cpu")
    size = tensor.element_size()
    for n, stride in [*zip(tensor.shape, (size * stride for stride in tensor.stride())), (size, 1)]:
        places = places[..., None] + stride * torch.arange(n, dtype=torch.int64, device="cpu")
    return places.flatten()
