"""torch's optimizers, with a step that is one call into fused-adam for all tensors.

Each class takes the arguments of the class of the same name in ``torch.optim``, has its defaults and
its error messages, and reads and writes its ``state_dict``. So the import is the one line that changes:

    from fused_adam.torch import AdamW

``AdaBound`` and ``Lion`` are not in ``torch.optim``; they follow its conventions.

What differs: a step is computed as fused-adam's ``kernels.md`` says, more exactly than torch's and with
the same bits on every machine. Gradients are never written. ``foreach`` and ``fused`` are accepted and
change nothing; ``capturable`` and ``differentiable`` are refused. Parameters are dense and on the CPU,
of ``float32``, ``float64``, ``bfloat16`` or ``float16``, in any strides. Long steps run on torch's threads, whose number
is that of ``torch.set_num_threads``, unless ``fused_adam.set_num_threads`` has set another; in a forked process on threads
of its own.
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
    """The addresses of functions in torch's library; 0 for one that is not there."""
    # Elsewhere than on Windows a name is also looked for in what a library stands on.
    path = torch._C.__file__
    if sys.platform == "win32":
        path = str(Path(torch.__file__).parent / "lib" / "torch_cpu.dll")
    try:
        library = ctypes.CDLL(path)
    except OSError:
        return [0] * len(names)
    found = (getattr(library, name, None) for name in names)
    return [ctypes.cast(function, ctypes.c_void_p).value or 0 if function else 0 for function in found]


use_torch_threads(*_functions("torch_parallel_for", "torch_get_num_threads"))


def _scalar_dtype() -> torch.dtype:
    """That of torch's own step numbers."""
    return torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32


class _Fused(torch.optim.Optimizer):
    """What all of them share: ``step``, in one call, and where states come from."""

    _kind: str
    #: The name of each state that has the shape of its parameter.
    _buffers: tuple[str, ...] = ("exp_avg", "exp_avg_sq")
    #: ``torch.amp.GradScaler`` hands ``grad_scale`` and ``found_inf`` to such an optimizer.
    _step_supports_amp_scaling = True

    #: What the next step is asked for beside the ordinary.
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
        """Fill in what ``state`` lacks, in the layout of torch."""
        if "step" not in state and self._kind != "sgd":
            state["step"] = torch.tensor(0.0, dtype=_scalar_dtype(), device="cpu")
        for name in self._buffer_names(group):
            if state.get(name) is None:
                state[name] = torch.zeros_like(param, memory_format=torch.preserve_format)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step. With a ``closure``, it is called first, and what it returns is returned."""
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
        """Take back the states that were made for a step which was not taken."""
        for param, old in before.items():
            if old is None:
                self.state.pop(param, None)
            else:
                self.state[param] = old


class Adam(_Fused, _torch.Adam):
    """``torch.optim.Adam``: https://arxiv.org/abs/1412.6980, algorithm 1."""

    _kind = "adam"

    def _buffer_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        return (*self._buffers, "max_exp_avg_sq") if group["amsgrad"] else self._buffers


class AdamW(Adam, _torch.AdamW):
    """``torch.optim.AdamW``: Adam with decoupled weight decay, https://arxiv.org/abs/1711.05101."""


class NAdam(_Fused, _torch.NAdam):
    """``torch.optim.NAdam``: Adam with Nesterov's momentum (Dozat, 2016).

    The product of all momenta, ``mu_product``, is ``float64`` here, where torch rounds it to ``float32``.
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

        # The last hook sees what the others have made of it.
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
                # torch has made it of the parameter's type, which may have fewer digits.
                product = torch.as_tensor(product, dtype=torch.float64, device="cpu")
                self.state[param]["mu_product"] = product.clone()


class RAdam(_Fused, _torch.RAdam):
    """``torch.optim.RAdam``: Adam with a rectified variance, https://arxiv.org/abs/1908.03265."""

    _kind = "radam"


class Adamax(_Fused, _torch.Adamax):
    """``torch.optim.Adamax``: https://arxiv.org/abs/1412.6980, algorithm 2."""

    _kind = "adamax"
    _buffers = ("exp_avg", "exp_inf")


class RMSprop(_Fused, _torch.RMSprop):
    """``torch.optim.RMSprop`` (Hinton, 2012; centred: https://arxiv.org/abs/1308.0850).

    With ``centered`` the state holds the variance of the gradient, as ``variance``: torch holds the mean of
    its square, which has no digit of the variance where the mean is large. A ``state_dict`` has both.
    """

    _kind = "rmsprop"

    def _buffer_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        names = ["variance", "grad_avg"] if group["centered"] else ["square_avg"]
        return (*names, "momentum_buffer") if group["momentum"] > 0 else tuple(names)

    def state_dict(self) -> dict[str, Any]:
        """torch's ``state_dict``; with ``centered`` it holds ``square_avg`` beside ``variance``."""
        packed = super().state_dict()
        # Hooks may have made anything of it.
        for number, state in packed.get("state", {}).items():
            if isinstance(state, dict) and "variance" in state:
                packed["state"][number] = {**state, "square_avg": self._square(state)}
        return packed

    @staticmethod
    def _square(state: dict[str, Any]) -> Tensor:
        """The mean square that belongs to a variance."""
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
                # torch's class hands a variance on as it was, while it steps the mean square.
                if "variance" not in state or not torch.equal(square, self._square(state)):
                    variance = square.double() - state["grad_avg"].double().square()
                    state["variance"] = variance.clamp_(min=0.0).to(square.dtype)
                del state["square_avg"]


class Adagrad(_Fused, _torch.Adagrad):
    """``torch.optim.Adagrad`` (Duchi and others, 2011)."""

    _kind = "adagrad"
    _buffers = ("sum",)

    def _init_state(self, param: Tensor, group: dict[str, Any], state: dict[str, Any]) -> None:
        initial = group["initial_accumulator_value"]
        if state.get("sum") is None:
            keep = torch.preserve_format
            state["sum"] = torch.full_like(param, initial, memory_format=keep)
        super()._init_state(param, group, state)


class SGD(_Fused, _torch.SGD):
    """``torch.optim.SGD``, with momentum, dampening and Nesterov's momentum."""

    _kind = "sgd"

    def _buffer_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("momentum_buffer",) if group["momentum"] != 0 else ()


class _Own(_Fused):
    """For what torch does not have: arguments checked with its words."""

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
    """Adam whose step size is clipped between bounds that close in on ``final_lr``.

    https://arxiv.org/abs/1902.09843. The bounds do not follow ``lr``: a schedule that lowers it has to lower
    ``final_lr`` of the groups too. With ``amsbound`` it is AMSBound, of the same paper.
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
    """The sign of an average of gradients: https://arxiv.org/abs/2302.06675, algorithm 2."""

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
    """Whether no element of the first is in the place of another, of it or of the others."""
    own, *others = (_places(tensor) for tensor in tensors)
    if bool((own.sort().values.diff() == 0).any()):
        return False
    return not any(bool(torch.isin(other, own).any()) for other in others)


def _places(tensor: Tensor) -> Tensor:
    """The address of each byte."""
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
    """``clip_grad_norm_`` for all parameters of ``optimizer``, and its ``step``, in two passes.

    Gradients are read once for the norm and once for the step, and are not written. Returns the norm
    before clipping, of ``float64``: the correctly rounded root of the exact sum, which is the same for
    any number of threads. ``norm_type`` is 2 or infinity. The factor is ``max_norm / norm`` where that is
    less than 1 (torch has ``max_norm / (norm + 1e-6)``). With a norm that is not finite nothing changes: with
    ``skip_nonfinite`` the step is skipped, else ``ValueError`` is raised.
    """
    if not isinstance(optimizer, _Fused):
        name = type(optimizer).__name__
        raise TypeError(f"optimizer is a {name}, expected one of fused_adam.torch")
    if not max_norm >= 0.0:
        raise ValueError(f"max_norm is {max_norm}, expected a number from 0 on")
    if float(norm_type) not in (2.0, float("inf")):
        raise ValueError(f"norm_type is {norm_type}, expected 2 or infinity")
    optimizer._request = {
        # Infinity is for the norm alone.
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
