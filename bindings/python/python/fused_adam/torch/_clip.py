"""Clipping by the norm of all gradients, and the step, in two passes over memory."""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from ._base import Fused


def clip_grad_norm_and_step(
    optimizer: Fused,
    max_norm: float,
    norm_type: float = 2.0,
    *,
    skip_nonfinite: bool = False,
) -> Tensor:
    """Clip the gradient norm of all parameters of ``optimizer`` and perform a step, in two passes.

    It replaces ``torch.nn.utils.clip_grad_norm_`` and ``optimizer.step``. The norm is that of the
    gradients of this optimizer's parameters. Gradients are read once for the norm and once for the
    step. They are not modified.

    If ``max_norm / norm`` is less than 1, the step uses the gradients multiplied by it. (torch uses
    ``max_norm / (norm + 1e-6)``.)

    With a ``GradScaler``, call ``unscale_`` first, and do not call ``scaler.step``:

        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        norm = clip_grad_norm_and_step(optimizer, max_norm=1.0, skip_nonfinite=True)
        scaler.update()

    Without ``unscale_`` it clips the scaled gradients, and ``scaler.update`` fails.

    Args:
        optimizer: an optimizer of ``fused_adam.torch``.
        max_norm: the max norm of the gradients.
        norm_type: 2 or infinity.
        skip_nonfinite: if the norm is not finite, skip the step instead of raising ``ValueError``.
            In either case nothing changes. (``clip_grad_norm_`` does not raise by default.)

    Returns:
        The norm of the gradients before clipping, as a ``float64`` tensor. The 2-norm is the
        correctly rounded root of the exact sum, so it does not depend on the number of threads.
    """
    if not isinstance(optimizer, Fused):
        name = type(optimizer).__name__
        raise TypeError(f"optimizer is a {name}, expected one of fused_adam.torch")
    if isinstance(max_norm, Tensor) and max_norm.numel() == 1:
        max_norm = float(max_norm)
    if not isinstance(max_norm, (int, float)) or not max_norm >= 0.0:
        raise ValueError(f"max_norm is {max_norm!r}, expected a number from 0 on")
    if norm_type not in (2, 2.0, float("inf"), "inf"):
        raise ValueError(f"norm_type is {norm_type!r}, expected 2 or infinity")
    optimizer._request = {
        # An infinite ``max_norm`` does not clip. It only requests the norm.
        "clip_norm": min(float(max_norm), sys.float_info.max),
        "inf_norm": norm_type not in (2, 2.0),
        "skip_nonfinite": skip_nonfinite,
    }
    optimizer._norm = None
    try:
        optimizer.step()
    finally:
        optimizer._request = None
    norm = optimizer._norm
    return torch.tensor(0.0 if norm is None else norm, dtype=torch.float64)
