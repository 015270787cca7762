"""Drop-in replacements for ``torch.optim``: a step is one call into Rust for all parameters.

Each class has the arguments and the defaults of the class of the same name in ``torch.optim``, and
its constructor raises the same errors. A ``state_dict`` goes both ways between the two. Only the
import changes:

    from fused_adam.torch import AdamW

``AdaBound`` and ``Lion`` are not in ``torch.optim``. They follow its conventions.

Differences from ``torch.optim``:

- The arithmetic is that of ``kernels.md``. It is more exact than torch's, and has the same bits on
  every machine.
- Gradients are never modified. After ``scaler.step(optimizer)`` of a ``GradScaler`` they are still
  multiplied by the loss scale. Call ``scaler.unscale_(optimizer)`` before the step if you read
  them.
- ``foreach`` and ``fused`` are accepted and have no effect. ``capturable=True`` and
  ``differentiable=True`` raise ``ValueError``.
- Parameters are dense CPU tensors of ``float32``, ``float64``, ``bfloat16`` or ``float16``, with
  any strides. Sparse gradients, complex parameters and ``DTensor`` raise an error.
- A parameter that is listed twice, parameters that share memory, and a gradient that is the
  parameter's own memory raise ``ValueError``.
- ``step`` checks the hyper-parameters and raises ``ValueError``: for an ``eps`` that is 0 or rounds
  to 0, an infinite hyper-parameter, a momentum above 1, a dampening outside of [0, 1], an ``alpha``
  of 1 or more, and whatever was set out of range later.

Long steps run on torch's intra-op threads, as many as ``torch.set_num_threads`` sets. If
``fused_adam.set_num_threads`` was called, or in a forked process, they run on a separate thread
pool.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.optim as _torch
from torch import Tensor

from ._native import torch_step, use_torch_threads

__all__ = [
    "AdaBound",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Lion",
    "NAdam",
    "RAdam",
    "RMSprop",
    "SGD",
    "clip_grad_norm_and_step",
]


def _functions(*names: str) -> list[int]:
    """Return the addresses of functions in torch's library; 0 for a function that is missing."""
    # Except on Windows, the lookup of a symbol also searches the dependencies of the library.
    path = torch._C.__file__
    if sys.platform == "win32":
        path = str(Path(torch.__file__).parent / "lib" / "torch_cpu.dll")
    try:
        library = ctypes.CDLL(path)
    except OSError:
        return [0] * len(names)
    found = (getattr(library, name, None) for name in names)
    return [
        ctypes.cast(function, ctypes.c_void_p).value or 0 if function else 0 for function in found
    ]


use_torch_threads(*_functions("torch_parallel_for", "torch_get_num_threads"))


def _scalar_dtype() -> torch.dtype:
    """The dtype of ``step`` in the state of torch's own optimizers."""
    return torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32


class _Fused(torch.optim.Optimizer):
    """Base class: ``step`` as one call for all parameters, and the initial states."""

    _kind: str
    #: The names of the states that have the shape of the parameter.
    _buffers: tuple[str, ...] = ("exp_avg", "exp_avg_sq")
    #: ``torch.amp.GradScaler`` then sets ``grad_scale`` and ``found_inf`` on the optimizer.
    _step_supports_amp_scaling = True

    #: Extra keyword arguments of ``torch_step`` for the next step.
    _request: dict[str, Any] | None = None
    _norm: float | None = None

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        group = {**self.defaults, **param_group}
        for option in ("capturable", "differentiable"):
            if group.get(option):
                raise ValueError(f"{option}=True is not supported, expected False")
        super().add_param_group(param_group)

    def _buffer_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        return self._buffers

    def _init_state(self, param: Tensor, group: dict[str, Any], state: dict[str, Any]) -> None:
        """Create the missing entries of ``state``, in torch's layout."""
        if "step" not in state and self._kind != "sgd":
            state["step"] = torch.tensor(0.0, dtype=_scalar_dtype(), device="cpu")
        for name in self._buffer_names(group):
            if state.get(name) is None:
                state[name] = torch.zeros_like(param, memory_format=torch.preserve_format)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Perform a single optimization step.

        Args:
            closure: a closure that reevaluates the model and returns the loss. Optional.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        found_inf = getattr(self, "found_inf", None)
        if found_inf is not None and bool(found_inf):
            return loss
        request = self._request or {}
        scale = getattr(self, "grad_scale", None)
        if scale is not None:
            request = {**request, "loss_scale": float(scale)}
        self._take(request)
        return loss

    def _take(self, request: dict[str, Any]) -> None:
        groups, state = self.param_groups, self.state
        missing, self._norm, _ = torch_step(self._kind, groups, state, [], **request)
        if not missing:
            return
        before = {param: dict(state[param]) if param in state else None for param, _ in missing}
        try:
            for param, group in missing:
                self._init_state(param, group, state[param])
            fresh = [param for param, _ in missing]
            left, self._norm, skipped = torch_step(self._kind, groups, state, fresh, **request)
            if left:
                raise RuntimeError("a state is missing after it was made")
        except BaseException:
            self._restore(before)
            raise
        if skipped:
            self._restore(before)

    def _restore(self, before: dict[Tensor, dict[str, Any] | None]) -> None:
        """Remove the states that were created for a step that failed or was skipped."""
        for param, old in before.items():
            if old is None:
                self.state.pop(param, None)
            else:
                self.state[param] = old


class Adam(_Fused, _torch.Adam):
    """Implements Adam (https://arxiv.org/abs/1412.6980, algorithm 1), as ``torch.optim.Adam``."""

    _kind = "adam"

    def _buffer_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        return (*self._buffers, "max_exp_avg_sq") if group["amsgrad"] else self._buffers


class AdamW(Adam, _torch.AdamW):
    """Implements AdamW, as ``torch.optim.AdamW``.

    It is Adam with decoupled weight decay: https://arxiv.org/abs/1711.05101.
    """


class NAdam(_Fused, _torch.NAdam):
    """Implements NAdam (Dozat, 2016), as ``torch.optim.NAdam``.

    It is Adam with Nesterov momentum. ``mu_product``, the product of all momenta, is ``float64``;
    torch rounds it to ``float32``.
    """

    _kind = "nadam"

    def _init_state(self, param: Tensor, group: dict[str, Any], state: dict[str, Any]) -> None:
        super()._init_state(param, group, state)
        if "mu_product" not in state:
            state["mu_product"] = torch.tensor(1.0, dtype=torch.float64, device="cpu")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load torch's ``state_dict``, or this class's."""
        loaded = state_dict

        def look(_: Any, changed: dict[str, Any]) -> None:
            nonlocal loaded
            loaded = changed

        # This hook is the last one, so it sees the changes of all other hooks.
        hook = self.register_load_state_dict_pre_hook(look)
        try:
            super().load_state_dict(state_dict)
        finally:
            hook.remove()
        numbers = (number for group in loaded["param_groups"] for number in group["params"])
        params = (param for group in self.param_groups for param in group["params"])
        for number, param in zip(numbers, params):
            product = loaded["state"].get(number, {}).get("mu_product")
            if product is not None and param in self.state:
                # torch has cast it to the dtype of the parameter, which may have less precision.
                product = torch.as_tensor(product, dtype=torch.float64, device="cpu")
                self.state[param]["mu_product"] = product.clone()


class RAdam(_Fused, _torch.RAdam):
    """Implements RAdam (https://arxiv.org/abs/1908.03265), as ``torch.optim.RAdam``.

    It is Adam with a rectified variance.
    """

    _kind = "radam"


class Adamax(_Fused, _torch.Adamax):
    """Implements Adamax, as ``torch.optim.Adamax``.

    See https://arxiv.org/abs/1412.6980, algorithm 2.
    """

    _kind = "adamax"
    _buffers = ("exp_avg", "exp_inf")


class RMSprop(_Fused, _torch.RMSprop):
    """Implements RMSprop (Hinton, 2012), as ``torch.optim.RMSprop``.

    The centered version is from https://arxiv.org/abs/1308.0850. With ``centered=True`` the state
    holds ``variance``, the variance of the gradient. torch holds ``square_avg``, the mean square,
    which loses all digits of the variance where the mean is large. A ``state_dict`` has both.
    """

    _kind = "rmsprop"

    def _buffer_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        names = ["variance", "grad_avg"] if group["centered"] else ["square_avg"]
        return (*names, "momentum_buffer") if group["momentum"] > 0 else tuple(names)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the optimizer as a :class:`dict`.

        It is torch's ``state_dict``. With ``centered=True`` it has ``square_avg`` and ``variance``.
        """
        packed = super().state_dict()
        # Hooks may have replaced the contents.
        for number, state in packed.get("state", {}).items():
            if isinstance(state, dict) and "variance" in state:
                packed["state"][number] = {**state, "square_avg": self._square(state)}
        return packed

    @staticmethod
    def _square(state: dict[str, Any]) -> Tensor:
        """Return the mean square that corresponds to a variance."""
        mean: Tensor = state["grad_avg"]
        variance: Tensor = state["variance"]
        return mean.double().square().add_(variance).to(variance.dtype)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load torch's ``state_dict``, or this class's."""
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            for state in (self.state[p] for p in group["params"] if p in self.state):
                square = state.get("square_avg")
                if not group["centered"] or square is None:
                    continue
                # torch's class updates the mean square, and keeps an old variance unchanged.
                if "variance" not in state or not torch.equal(square, self._square(state)):
                    variance = square.double() - state["grad_avg"].double().square()
                    state["variance"] = variance.clamp_(min=0.0).to(square.dtype)
                del state["square_avg"]


class Adagrad(_Fused, _torch.Adagrad):
    """Implements Adagrad (Duchi et al., 2011), as ``torch.optim.Adagrad``."""

    _kind = "adagrad"
    _buffers = ("sum",)

    def _init_state(self, param: Tensor, group: dict[str, Any], state: dict[str, Any]) -> None:
        initial = group["initial_accumulator_value"]
        if state.get("sum") is None:
            keep = torch.preserve_format
            state["sum"] = torch.full_like(param, initial, memory_format=keep)
        super()._init_state(param, group, state)


class SGD(_Fused, _torch.SGD):
    """Implements SGD with momentum, dampening and Nesterov momentum, as ``torch.optim.SGD``."""

    _kind = "sgd"

    def _buffer_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("momentum_buffer",) if group["momentum"] != 0 else ()


class _Own(_Fused):
    """Base class of optimizers that torch does not have. Checks arguments as torch does."""

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        lr, betas, weight_decay = defaults["lr"], defaults["betas"], defaults["weight_decay"]
        if isinstance(lr, Tensor) and lr.numel() != 1:
            raise ValueError("Tensor lr must be 1-element")
        if not 0.0 <= lr:
            raise ValueError(f"Invalid learning rate: {lr}")
        for index, beta in enumerate(betas):
            if not 0.0 <= beta < 1.0:
                raise ValueError(f"Invalid beta parameter at index {index}: {beta}")
        if not 0.0 <= weight_decay:
            raise ValueError(f"Invalid weight_decay value: {weight_decay}")
        super().__init__(params, defaults)


class AdaBound(_Own):
    """Implements AdaBound (https://arxiv.org/abs/1902.09843).

    It is Adam with a step size that is clipped between two bounds. Both bounds converge to
    ``final_lr``. They do not depend on ``lr``: a schedule that lowers ``lr`` must also lower the
    ``final_lr`` of the parameter groups. ``amsbound=True`` selects AMSBound, from the same paper.
    """

    _kind = "adabound"

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        final_lr: float = 0.1,
        gamma: float = 1e-3,
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsbound: bool = False,
        *,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
    ) -> None:
        if not 0.0 <= eps:
            raise ValueError(f"Invalid epsilon value: {eps}")
        if not 0.0 <= final_lr:
            raise ValueError(f"Invalid final learning rate: {final_lr}")
        if not 0.0 <= gamma < 1.0:
            raise ValueError(f"Invalid gamma parameter: {gamma}")
        defaults = {
            "lr": lr,
            "betas": betas,
            "final_lr": final_lr,
            "gamma": gamma,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsbound": amsbound,
            "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def _buffer_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        return (*self._buffers, "max_exp_avg_sq") if group["amsbound"] else self._buffers


class Lion(_Own):
    """Implements Lion (https://arxiv.org/abs/2302.06675, algorithm 2).

    The update is the sign of an average of gradients.
    """

    _kind = "lion"
    _buffers = ("exp_avg",)

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0,
        *,
        maximize: bool = False,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, defaults)


def _are_apart(tensors: list[Tensor]) -> bool:
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


def clip_grad_norm_and_step(
    optimizer: _Fused,
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
    if not isinstance(optimizer, _Fused):
        name = type(optimizer).__name__
        raise TypeError(f"optimizer is a {name}, expected one of fused_adam.torch")
    if not max_norm >= 0.0:
        raise ValueError(f"max_norm is {max_norm}, expected a number from 0 on")
    if float(norm_type) not in (2.0, float("inf")):
        raise ValueError(f"norm_type is {norm_type}, expected 2 or infinity")
    optimizer._request = {
        # An infinite ``max_norm`` does not clip. It only requests the norm.
        "clip_norm": min(float(max_norm), sys.float_info.max),
        "inf_norm": norm_type != 2.0,
        "skip_nonfinite": skip_nonfinite,
    }
    optimizer._norm = None
    try:
        optimizer.step()
    finally:
        optimizer._request = None
    norm = optimizer._norm
    return torch.tensor(0.0 if norm is None else norm, dtype=torch.float64)
