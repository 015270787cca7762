"""Clipping by the norm of all gradients, and the step, in two passes over memory."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ._base import Fused
from ._processes import processes_of, redistribute

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def clip_grad_norm_and_step(
    optimizer: torch.optim.Optimizer,
    max_norm: float,
    norm_type: float = 2.0,
    *,
    skip_nonfinite: bool = False,
    process_group: ProcessGroup | None = None,
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

    If parameters are sharded, the norm is that of the gradients of all processes. Each process
    calls this function, also one without gradients. They exchange one message of about 900 bytes.
    Then all take the step, all skip it, or all raise. The processes are:

    - those of the meshes of ``DTensor`` parameters (``fully_shard``, ``parallelize_module``). A
      gradient that several processes have counts once, and so does that of a plain parameter
      beside them;
    - those of ``process_group`` if it is given. Each plain gradient is then a shard of its own,
      and a ``DTensor`` counts once for each mesh that it is on. Under
      ``FullyShardedDataParallel`` it is required: pass ``model.process_group``;
    - those of a ``ZeroRedundancyOptimizer``, if ``optimizer`` is one.

    Args:
        optimizer: an optimizer of ``fused_adam.torch``, or a ``ZeroRedundancyOptimizer`` of one.
        max_norm: the max norm of the gradients.
        norm_type: 2 or infinity.
        skip_nonfinite: if the norm is not finite, skip the step instead of raising ``ValueError``.
            In either case nothing changes. (``clip_grad_norm_`` does not raise by default.)
        process_group: the processes whose gradients have one norm. Default: as above.

    Returns:
        The norm of the gradients before clipping, as a ``float64`` tensor. The 2-norm is the
        correctly rounded root of the exact sum, so it does not depend on the number of threads or
        of processes.
    """
    own = optimizer
    if type(optimizer).__name__ == "ZeroRedundancyOptimizer":
        zero: Any = optimizer
        own = zero.optim
        process_group = zero.process_group if process_group is None else process_group
    if not isinstance(own, Fused):
        name = type(own).__name__
        raise TypeError(f"optimizer is a {name}, expected one of fused_adam.torch")
    params = [param for group in own.param_groups for param in group["params"]]
    processes = processes_of(params, process_group)
    own._norm = None
    redistribute(params)
    try:
        own._request = _request(max_norm, norm_type, skip_nonfinite)
        if processes is not None:
            own._request |= {"all_gather": processes.all_gather, "counts": processes.counts}
        optimizer.step()
    except Exception as error:
        if processes is not None:
            processes.tell(error)
        raise
    finally:
        own._request = None
    norm = own._norm
    return torch.tensor(0.0 if norm is None else norm, dtype=torch.float64)


def _request(max_norm: float, norm_type: float, skip_nonfinite: bool) -> dict[str, Any]:
    """Return the keyword arguments of ``torch_step``."""
    if isinstance(max_norm, Tensor) and max_norm.numel() == 1:
        max_norm = float(max_norm)
    if not isinstance(max_norm, (int, float)) or not max_norm >= 0.0:
        raise ValueError(f"max_norm is {max_norm!r}, expected a number from 0 on")
    if norm_type not in (2, 2.0, float("inf"), "inf"):
        raise ValueError(f"norm_type is {norm_type!r}, expected 2 or infinity")
    return {
        # An infinite ``max_norm`` does not clip. It only requests the norm.
        "clip_norm": min(float(max_norm), sys.float_info.max),
        "inf_norm": norm_type not in (2, 2.0),
        "skip_nonfinite": skip_nonfinite,
    }
