"""Split master weights: the correction beside a parameter of ``bfloat16``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from .._native import join_weights, split_weights
from ._eight_bit import is_sharded, local_of

#: The dtype of the correction for each value of the option.
DTYPES = {"split24": torch.uint8, "split32": torch.int16}

#: The dtypes of each in a ``state_dict``: see ``exported_dtype``.
_SAVED = {
    torch.uint8: (torch.uint8, torch.float32),
    torch.int16: (torch.int16, torch.int32, torch.float32),
}


def check(option: Any) -> None:
    """Check the option ``master_weights``."""
    if option is not None and not (isinstance(option, str) and option in DTYPES):
        raise ValueError(f"master_weights is {option!r}, expected None, 'split24' or 'split32'")


def dtype_of(param: Tensor, group: dict[str, Any]) -> torch.dtype | None:
    """Return the dtype of the correction of a parameter. ``None`` if it has none."""
    option = group.get("master_weights")
    return DTYPES.get(option) if option and param.dtype == torch.bfloat16 else None


def check_dtype(param: Tensor, group: dict[str, Any], place: Callable[[Tensor], str]) -> None:
    """Check that a parameter can have master weights."""
    option = group.get("master_weights")
    if option is not None and param.dtype == torch.float16:
        known = "torch.bfloat16, torch.float32 or torch.float64"
        raise ValueError(
            f"{place(param)} is {param.dtype}, expected {known} with master_weights={option!r}"
        )


def check_saved(
    value: Tensor, param: Tensor, group: dict[str, Any], option: str | None, place: str
) -> None:
    """Check a correction of a ``state_dict``, which was saved with this option if it is known.

    ``torch.distributed.checkpoint`` converts numbers to the dtype of the tensor that it loads them
    to, which does not convert a correction.
    """
    if value.shape != param.shape:
        found, expected = tuple(value.shape), tuple(param.shape)
        raise ValueError(f"correction of {place} has shape {found}, expected {expected}")
    dtype = DTYPES[group["master_weights"]]
    if option in DTYPES:
        saved = DTYPES[option]
        if value.dtype not in _SAVED[saved] or (value.is_floating_point() and saved != dtype):
            raise ValueError(
                f"correction of {place} is {value.dtype}, and was saved with master_weights="
                f"{option!r}, expected {saved}: load it with that option"
            )
    if value.dtype != torch.float32:
        check_convertible(value.dtype, dtype, place)


def exported_dtype(param: Tensor, dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of a correction in a ``state_dict``, which has the same numbers.

    FSDP1 has no states of integers, and collectives of gloo and NCCL none of 16 bits.
    """
    if getattr(param, "_fsdp_flattened", False):
        return torch.float32
    return torch.int32 if is_sharded(param) and dtype == torch.int16 else dtype


def correction_of(value: Any, param: Tensor, dtype: torch.dtype, place: str) -> Tensor:
    """Return a correction in this dtype: zeros, or that of a state, which is converted exactly."""
    if not isinstance(value, Tensor):
        return torch.zeros_like(param, dtype=dtype, memory_format=torch.preserve_format)
    check_convertible(value.dtype, dtype, place)
    # A correction of 8 bits is the upper byte of one of 16. The product wraps around.
    is_upper_byte = value.dtype == torch.uint8 != dtype
    return value.to(dtype) * 256 if is_upper_byte else value.to(dtype)


def check_convertible(found: torch.dtype, dtype: torch.dtype, place: str) -> None:
    """Check that a correction of integers can be converted to this dtype exactly."""
    if found not in (torch.uint8, *_SAVED[dtype]) or found == torch.float32:
        raise ValueError(f"correction of {place} is {found}, expected {dtype}")


def join(param: Tensor, correction: Tensor) -> Tensor:
    """Return the master weights as ``float32``, with the shape and the placements of ``param``."""
    weights = torch.empty_like(
        param, dtype=torch.float32, memory_format=torch.contiguous_format, requires_grad=False
    )
    local = local_of(weights)
    elements = local if local.is_contiguous() else torch.empty(local.shape, device="cpu")
    theta, low = local_of(param).contiguous(), local_of(correction).contiguous()
    join_weights(theta, low, elements)
    if elements is not local:
        local.copy_(elements)
    return weights


def split(weights: Tensor, param: Tensor, dtype: torch.dtype) -> Tensor:
    """Set ``param`` to its part of master weights, and return the correction."""
    correction = torch.zeros_like(param, dtype=dtype, memory_format=torch.preserve_format)
    elements = local_of(weights).to(device="cpu", dtype=torch.float32).contiguous()
    theta = torch.empty_like(elements, dtype=param.dtype)
    low = torch.empty_like(elements, dtype=dtype)
    split_weights(elements, theta, low)
    local_of(param).copy_(theta)
    local_of(correction).copy_(low)
    return correction


def unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """Return the model inside of ``DistributedDataParallel``. Refuses FSDP1."""
    if isinstance(model, DistributedDataParallel):
        model = model.module
    if any(getattr(param, "_fsdp_flattened", False) for param in model.parameters()):
        raise ValueError("the model is sharded by FullyShardedDataParallel, expected fully_shard")
    return model
