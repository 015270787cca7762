"""The optimizers: torch's classes with another ``step``, and AdaBound and Lion."""

from __future__ import annotations

from typing import Any, Literal, TypeGuard

import torch
import torch.optim as _torch
from torch import Tensor

from ._base import Fused
from ._master_weights import dtype_of


class Adam(Fused, _torch.Adam):
    """Implements Adam, as ``torch.optim.Adam``.

    Kingma and Ba, https://arxiv.org/abs/1412.6980, algorithm 1.

    Args:
        params: an iterable of parameters, of named parameters, or of dicts that define groups.
        lr: the learning rate, a number or a tensor of one element, at least 0. Default: 1e-3.
        betas: the decay rates of the averages of the gradient and of its square, each in [0, 1).
            Default: (0.9, 0.999).
        eps: added to the root in the denominator, at least 0. Default: 1e-8.
        weight_decay: the L2 penalty, which is added to the gradient, at least 0. Default: 0.
        amsgrad: divide by the largest average of squares so far. Default: False.
        foreach: accepted, and has no effect.
        maximize: maximize the objective instead of minimizing it. Default: False.
        capturable: must be False.
        differentiable: must be False.
        fused: has no effect on the step. With True, ``torch.amp.GradScaler`` leaves the scaling of
            gradients to the step, as in torch. Default: None.
        decoupled_weight_decay: subtract lr * weight_decay * param from the parameter instead of
            adding the L2 penalty to the gradient. Default: False.
        state_dtype: the ``dtype`` of the states of parameters that are not ``float64``:
            ``torch.float32``, ``torch.bfloat16`` or ``torch.float16``. Default: that of the
            parameter, but ``float32`` for ``float16``.
        stochastic_rounding: round values that are stored in 16 bits stochastically: True, or a seed
            from 0 to 2**64 - 1. Default: False.
        state: ``"8bit"`` keeps the states of large parameters in 8 bits. Default: None.
        min_8bit_size: with ``state="8bit"``, parameters with fewer elements keep the states that
            they have without it. Default: 4096.
        master_weights: ``"split32"`` or ``"split24"`` keeps master weights of 32 or 24 bits for
            parameters of ``bfloat16``: what the parameter lacks is in the state ``correction``.
            A parameter group may have another value. Default: None.
    """

    _kind = "adam"

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        state_dtype: torch.dtype | None = None,
        stochastic_rounding: bool | int = False,
        state: Literal["8bit"] | None = None,
        min_8bit_size: int = 4096,
        master_weights: Literal["split24", "split32"] | None = None,
    ) -> None:
        self._set_options(state_dtype, stochastic_rounding, state, min_8bit_size, master_weights)
        _torch.Adam.__init__(
            self,
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=decoupled_weight_decay,
        )

    def _buffer_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        return (*self._buffers, "max_exp_avg_sq") if group["amsgrad"] else self._buffers


class AdamW(Adam, _torch.AdamW):
    """Implements AdamW, as ``torch.optim.AdamW``.

    Adam with decoupled weight decay: Loshchilov and Hutter, https://arxiv.org/abs/1711.05101.

    Args:
        params: an iterable of parameters, of named parameters, or of dicts that define groups.
        lr: the learning rate, a number or a tensor of one element, at least 0. Default: 1e-3.
        betas: the decay rates of the averages of the gradient and of its square, each in [0, 1).
            Default: (0.9, 0.999).
        eps: added to the root in the denominator, at least 0. Default: 1e-8.
        weight_decay: lr * weight_decay * param is subtracted from the parameter. At least 0.
            Default: 1e-2.
        amsgrad: divide by the largest average of squares so far. Default: False.
        maximize: maximize the objective instead of minimizing it. Default: False.
        foreach: accepted, and has no effect.
        capturable: must be False.
        differentiable: must be False.
        fused: has no effect on the step. With True, ``torch.amp.GradScaler`` leaves the scaling of
            gradients to the step, as in torch. Default: None.
        state_dtype: the ``dtype`` of the states of parameters that are not ``float64``:
            ``torch.float32``, ``torch.bfloat16`` or ``torch.float16``. Default: that of the
            parameter, but ``float32`` for ``float16``.
        stochastic_rounding: round values that are stored in 16 bits stochastically: True, or a seed
            from 0 to 2**64 - 1. Default: False.
        state: ``"8bit"`` keeps the states of large parameters in 8 bits. Default: None.
        min_8bit_size: with ``state="8bit"``, parameters with fewer elements keep the states that
            they have without it. Default: 4096.
        master_weights: ``"split32"`` or ``"split24"`` keeps master weights of 32 or 24 bits for
            parameters of ``bfloat16``: what the parameter lacks is in the state ``correction``.
            A parameter group may have another value. Default: None.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        state_dtype: torch.dtype | None = None,
        stochastic_rounding: bool | int = False,
        state: Literal["8bit"] | None = None,
        min_8bit_size: int = 4096,
        master_weights: Literal["split24", "split32"] | None = None,
    ) -> None:
        self._set_options(state_dtype, stochastic_rounding, state, min_8bit_size, master_weights)
        _torch.AdamW.__init__(
            self,
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            maximize=maximize,
            foreach=foreach,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
        )


class NAdam(Fused, _torch.NAdam):
    """Implements NAdam, as ``torch.optim.NAdam``.

    Adam with Nesterov momentum: Dozat, "Incorporating Nesterov Momentum into Adam" (2016). Its
    state has ``mu_product``, the product of all momenta, in ``float64``. torch rounds it to
    ``float32``.

    Args:
        params: an iterable of parameters, of named parameters, or of dicts that define groups.
        lr: the learning rate, a number or a tensor of one element, at least 0. Default: 2e-3.
        betas: the decay rates of the averages of the gradient and of its square, each in [0, 1).
            Default: (0.9, 0.999).
        eps: added to the root in the denominator, at least 0. Default: 1e-8.
        weight_decay: the L2 penalty, which is added to the gradient, at least 0. Default: 0.
        momentum_decay: how fast the momentum grows to betas[0], at least 0. Default: 4e-3.
        decoupled_weight_decay: subtract lr * weight_decay * param from the parameter instead of
            adding the L2 penalty to the gradient. Default: False.
        foreach: accepted, and has no effect.
        maximize: maximize the objective instead of minimizing it. Default: False.
        capturable: must be False.
        differentiable: must be False.
        state_dtype: the ``dtype`` of the states of parameters that are not ``float64``:
            ``torch.float32``, ``torch.bfloat16`` or ``torch.float16``. Default: that of the
            parameter, but ``float32`` for ``float16``.
        stochastic_rounding: round values that are stored in 16 bits stochastically: True, or a seed
            from 0 to 2**64 - 1. Default: False.
        state: ``"8bit"`` keeps the states of large parameters in 8 bits. Default: None.
        min_8bit_size: with ``state="8bit"``, parameters with fewer elements keep the states that
            they have without it. Default: 4096.
        master_weights: ``"split32"`` or ``"split24"`` keeps master weights of 32 or 24 bits for
            parameters of ``bfloat16``: what the parameter lacks is in the state ``correction``.
            A parameter group may have another value. Default: None.
    """

    _kind = "nadam"

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        state_dtype: torch.dtype | None = None,
        stochastic_rounding: bool | int = False,
        state: Literal["8bit"] | None = None,
        min_8bit_size: int = 4096,
        master_weights: Literal["split24", "split32"] | None = None,
    ) -> None:
        self._set_options(state_dtype, stochastic_rounding, state, min_8bit_size, master_weights)
        _torch.NAdam.__init__(
            self,
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            momentum_decay=momentum_decay,
            decoupled_weight_decay=decoupled_weight_decay,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
        )

    def _init_state(self, param: Tensor, group: dict[str, Any], state: dict[str, Any]) -> None:
        super()._init_state(param, group, state)
        if "mu_product" not in state:
            state["mu_product"] = torch.tensor(1.0, dtype=torch.float64, device="cpu")

    def _keep(
        self, param: Tensor, group: dict[str, Any], name: str, value: Tensor, copy: bool = True
    ) -> None:
        if name == "mu_product":
            self.state[param][name] = value.to(device="cpu", dtype=torch.float64, copy=True)
        else:
            super()._keep(param, group, name, value, copy)


class RAdam(Fused, _torch.RAdam):
    """Implements RAdam, as ``torch.optim.RAdam``.

    Adam with a rectified variance: Liu et al., https://arxiv.org/abs/1908.03265.

    Args:
        params: an iterable of parameters, of named parameters, or of dicts that define groups.
        lr: the learning rate, a number or a tensor of one element, at least 0. Default: 1e-3.
        betas: the decay rates of the averages of the gradient and of its square, each in [0, 1).
            Default: (0.9, 0.999).
        eps: added to the root in the denominator, at least 0. Default: 1e-8.
        weight_decay: the L2 penalty, which is added to the gradient, at least 0. Default: 0.
        decoupled_weight_decay: subtract lr * weight_decay * param from the parameter instead of
            adding the L2 penalty to the gradient. Default: False.
        foreach: accepted, and has no effect.
        maximize: maximize the objective instead of minimizing it. Default: False.
        capturable: must be False.
        differentiable: must be False.
        state_dtype: the ``dtype`` of the states of parameters that are not ``float64``:
            ``torch.float32``, ``torch.bfloat16`` or ``torch.float16``. Default: that of the
            parameter, but ``float32`` for ``float16``.
        stochastic_rounding: round values that are stored in 16 bits stochastically: True, or a seed
            from 0 to 2**64 - 1. Default: False.
        state: ``"8bit"`` keeps the states of large parameters in 8 bits. Default: None.
        min_8bit_size: with ``state="8bit"``, parameters with fewer elements keep the states that
            they have without it. Default: 4096.
        master_weights: ``"split32"`` or ``"split24"`` keeps master weights of 32 or 24 bits for
            parameters of ``bfloat16``: what the parameter lacks is in the state ``correction``.
            A parameter group may have another value. Default: None.
    """

    _kind = "radam"

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        state_dtype: torch.dtype | None = None,
        stochastic_rounding: bool | int = False,
        state: Literal["8bit"] | None = None,
        min_8bit_size: int = 4096,
        master_weights: Literal["split24", "split32"] | None = None,
    ) -> None:
        self._set_options(state_dtype, stochastic_rounding, state, min_8bit_size, master_weights)
        _torch.RAdam.__init__(
            self,
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            decoupled_weight_decay=decoupled_weight_decay,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
        )


class Adamax(Fused, _torch.Adamax):
    """Implements Adamax, as ``torch.optim.Adamax``.

    Kingma and Ba, https://arxiv.org/abs/1412.6980, algorithm 2.

    Args:
        params: an iterable of parameters, of named parameters, or of dicts that define groups.
        lr: the learning rate, a number or a tensor of one element, at least 0. Default: 2e-3.
        betas: the decay rates of the average of the gradient and of its largest magnitude, each in
            [0, 1). Default: (0.9, 0.999).
        eps: added to the magnitude of the gradient, at least 0. Default: 1e-8.
        weight_decay: the L2 penalty, which is added to the gradient, at least 0. Default: 0.
        foreach: accepted, and has no effect.
        maximize: maximize the objective instead of minimizing it. Default: False.
        differentiable: must be False.
        capturable: must be False.
        state_dtype: the ``dtype`` of the states of parameters that are not ``float64``:
            ``torch.float32``, ``torch.bfloat16`` or ``torch.float16``. Default: that of the
            parameter, but ``float32`` for ``float16``.
        stochastic_rounding: round values that are stored in 16 bits stochastically: True, or a seed
            from 0 to 2**64 - 1. Default: False.
        state: ``"8bit"`` keeps the states of large parameters in 8 bits. Default: None.
        min_8bit_size: with ``state="8bit"``, parameters with fewer elements keep the states that
            they have without it. Default: 4096.
        master_weights: ``"split32"`` or ``"split24"`` keeps master weights of 32 or 24 bits for
            parameters of ``bfloat16``: what the parameter lacks is in the state ``correction``.
            A parameter group may have another value. Default: None.
    """

    _kind = "adamax"
    _buffers = ("exp_avg", "exp_inf")

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        state_dtype: torch.dtype | None = None,
        stochastic_rounding: bool | int = False,
        state: Literal["8bit"] | None = None,
        min_8bit_size: int = 4096,
        master_weights: Literal["split24", "split32"] | None = None,
    ) -> None:
        self._set_options(state_dtype, stochastic_rounding, state, min_8bit_size, master_weights)
        _torch.Adamax.__init__(
            self,
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            foreach=foreach,
            maximize=maximize,
            differentiable=differentiable,
            capturable=capturable,
        )


class RMSprop(Fused, _torch.RMSprop):
    """Implements RMSprop, as ``torch.optim.RMSprop``.

    Hinton, "Neural Networks for Machine Learning", lecture 6 (2012). The centered version is from
    Graves, https://arxiv.org/abs/1308.0850. With ``centered=True`` the ``square_avg`` in
    ``optimizer.state`` is the variance of the gradient, where torch keeps the mean square. A
    ``state_dict`` has the mean square, as torch's. The variance is computed from it when it is
    loaded, so a resumed run differs by the rounding of the mean square: where the mean is much
    larger than the deviation, the variance then has few correct digits, or is 0.

    Args:
        params: an iterable of parameters, of named parameters, or of dicts that define groups.
        lr: the learning rate, a number or a tensor of one element, at least 0. Default: 1e-2.
        alpha: the decay rate of the average of squares, in [0, 1). Default: 0.99.
        eps: added to the root in the denominator, at least 0. Default: 1e-8.
        weight_decay: the L2 penalty, which is added to the gradient, at least 0. Default: 0.
        momentum: the share of the momentum buffer that each step keeps, in [0, 1]. Default: 0.
        centered: divide by an estimate of the standard deviation. Default: False.
        capturable: must be False.
        foreach: accepted, and has no effect.
        maximize: maximize the objective instead of minimizing it. Default: False.
        differentiable: must be False.
        state_dtype: the ``dtype`` of the states of parameters that are not ``float64``:
            ``torch.float32``, ``torch.bfloat16`` or ``torch.float16``. Default: that of the
            parameter, but ``float32`` for ``float16``.
        stochastic_rounding: round values that are stored in 16 bits stochastically: True, or a seed
            from 0 to 2**64 - 1. Default: False.
        state: ``"8bit"`` keeps the states of large parameters in 8 bits. Default: None.
        min_8bit_size: with ``state="8bit"``, parameters with fewer elements keep the states that
            they have without it. Default: 4096.
        master_weights: ``"split32"`` or ``"split24"`` keeps master weights of 32 or 24 bits for
            parameters of ``bfloat16``: what the parameter lacks is in the state ``correction``.
            A parameter group may have another value. Default: None.
    """

    _kind = "rmsprop"

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        state_dtype: torch.dtype | None = None,
        stochastic_rounding: bool | int = False,
        state: Literal["8bit"] | None = None,
        min_8bit_size: int = 4096,
        master_weights: Literal["split24", "split32"] | None = None,
    ) -> None:
        self._set_options(state_dtype, stochastic_rounding, state, min_8bit_size, master_weights)
        _torch.RMSprop.__init__(
            self,
            params,
            lr=lr,
            alpha=alpha,
            eps=eps,
            weight_decay=weight_decay,
            momentum=momentum,
            centered=centered,
            capturable=capturable,
            foreach=foreach,
            maximize=maximize,
            differentiable=differentiable,
        )

    def _buffer_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        names = ["square_avg", "grad_avg"] if group["centered"] else ["square_avg"]
        return (*names, "momentum_buffer") if group["momentum"] > 0 else tuple(names)

    def _export(
        self, param: Tensor, group: dict[str, Any], state: dict[str, Any], decodes: bool
    ) -> dict[str, Any]:
        state = super()._export(param, group, state, decodes)
        variance, mean = state.get("square_avg"), state.get("grad_avg")
        # A state in 8 bits is not torch's, so it stays the variance.
        if group["centered"] and _is_floating(variance) and _is_floating(mean):
            return {**state, "square_avg": _square(variance, mean)}
        return state

    def _adopt(self, group: dict[str, Any], state: dict[str, Any]) -> None:
        square, mean = state.get("square_avg"), state.get("grad_avg")
        if group["centered"] and _is_floating(square) and _is_floating(mean):
            variance = square.double() - mean.double().square()
            state["square_avg"] = variance.clamp_(min=0.0).to(square.dtype)


class Adagrad(Fused, _torch.Adagrad):
    """Implements Adagrad, as ``torch.optim.Adagrad``.

    Duchi, Hazan and Singer, "Adaptive Subgradient Methods" (2011).

    Args:
        params: an iterable of parameters, of named parameters, or of dicts that define groups.
        lr: the learning rate, a number or a tensor of one element, at least 0. Default: 1e-2.
        lr_decay: the learning rate of step t is lr / (1 + (t - 1) * lr_decay). At least 0. Default:
            0.
        weight_decay: the L2 penalty, which is added to the gradient, at least 0. Default: 0.
        initial_accumulator_value: the sum of squares before the first step, at least 0. Default: 0.
        eps: added to the root in the denominator, at least 0. Default: 1e-10.
        foreach: accepted, and has no effect.
        maximize: maximize the objective instead of minimizing it. Default: False.
        differentiable: must be False.
        fused: has no effect on the step. With True, ``torch.amp.GradScaler`` leaves the scaling of
            gradients to the step, as in torch. Default: None.
        state_dtype: the ``dtype`` of the states of parameters that are not ``float64``:
            ``torch.float32``, ``torch.bfloat16`` or ``torch.float16``. Default: that of the
            parameter, but ``float32`` for ``float16``.
        stochastic_rounding: round values that are stored in 16 bits stochastically: True, or a seed
            from 0 to 2**64 - 1. Default: False.
        state: ``"8bit"`` keeps the states of large parameters in 8 bits. Default: None.
        min_8bit_size: with ``state="8bit"``, parameters with fewer elements keep the states that
            they have without it. Default: 4096.
        master_weights: ``"split32"`` or ``"split24"`` keeps master weights of 32 or 24 bits for
            parameters of ``bfloat16``: what the parameter lacks is in the state ``correction``.
            A parameter group may have another value. Default: None.
    """

    _kind = "adagrad"
    _buffers = ("sum",)

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        state_dtype: torch.dtype | None = None,
        stochastic_rounding: bool | int = False,
        state: Literal["8bit"] | None = None,
        min_8bit_size: int = 4096,
        master_weights: Literal["split24", "split32"] | None = None,
    ) -> None:
        self._set_options(state_dtype, stochastic_rounding, state, min_8bit_size, master_weights)
        _torch.Adagrad.__init__(
            self,
            params,
            lr=lr,
            lr_decay=lr_decay,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
            foreach=foreach,
            maximize=maximize,
            differentiable=differentiable,
            fused=fused,
        )

        # torch's constructor makes the sums, in the type of the parameter.
        for group in self.param_groups:
            for param in group["params"]:
                dtype = self.state[param]["sum"].dtype
                if self._is_8bit(param) or dtype != self._dtype_of_states(param, group):
                    del self.state[param]["sum"]
                if "sum" not in self.state[param] or dtype_of(param, group) is not None:
                    self._init_state(param, group, self.state[param])

    def _initial(self, name: str, group: dict[str, Any]) -> float:
        return float(group["initial_accumulator_value"])


class SGD(Fused, _torch.SGD):
    """Implements SGD with momentum, dampening and Nesterov momentum, as ``torch.optim.SGD``.

    With ``stochastic_rounding`` or ``master_weights`` its state has a ``step``, which selects the
    random bits.

    Args:
        params: an iterable of parameters, of named parameters, or of dicts that define groups.
        lr: the learning rate, a number or a tensor of one element, at least 0. Default: 1e-3.
        momentum: the share of the momentum buffer that each step keeps, in [0, 1]. Default: 0.
        dampening: the gradient is multiplied by 1 - dampening before it is added to the buffer. In
            [0, 1]. Default: 0.
        weight_decay: the L2 penalty, which is added to the gradient, at least 0. Default: 0.
        nesterov: use Nesterov momentum. Needs momentum above 0 and no dampening. Default: False.
        maximize: maximize the objective instead of minimizing it. Default: False.
        foreach: accepted, and has no effect.
        differentiable: must be False.
        fused: has no effect on the step. With True, ``torch.amp.GradScaler`` leaves the scaling of
            gradients to the step, as in torch. Default: None.
        state_dtype: the ``dtype`` of the states of parameters that are not ``float64``:
            ``torch.float32``, ``torch.bfloat16`` or ``torch.float16``. Default: that of the
            parameter, but ``float32`` for ``float16``.
        stochastic_rounding: round values that are stored in 16 bits stochastically: True, or a seed
            from 0 to 2**64 - 1. Default: False.
        state: ``"8bit"`` keeps the states of large parameters in 8 bits. Default: None.
        min_8bit_size: with ``state="8bit"``, parameters with fewer elements keep the states that
            they have without it. Default: 4096.
        master_weights: ``"split32"`` or ``"split24"`` keeps master weights of 32 or 24 bits for
            parameters of ``bfloat16``: what the parameter lacks is in the state ``correction``.
            A parameter group may have another value. Default: None.
    """

    _kind = "sgd"

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        state_dtype: torch.dtype | None = None,
        stochastic_rounding: bool | int = False,
        state: Literal["8bit"] | None = None,
        min_8bit_size: int = 4096,
        master_weights: Literal["split24", "split32"] | None = None,
    ) -> None:
        self._set_options(state_dtype, stochastic_rounding, state, min_8bit_size, master_weights)
        _torch.SGD.__init__(
            self,
            params,
            lr=lr,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
            maximize=maximize,
            foreach=foreach,
            differentiable=differentiable,
            fused=fused,
        )

    def _buffer_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("momentum_buffer",) if group["momentum"] != 0 else ()


class _Own(Fused):
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
    """Implements AdaBound.

    Adam with a step size that is clipped between two bounds, which both converge to ``final_lr``:
    Luo et al., https://arxiv.org/abs/1902.09843. The bounds do not depend on ``lr``: a schedule
    that lowers ``lr`` must also lower the ``final_lr`` of the parameter groups.

    Args:
        params: an iterable of parameters, of named parameters, or of dicts that define groups.
        lr: the learning rate, a number or a tensor of one element, at least 0. Default: 1e-3.
        betas: the decay rates of the averages of the gradient and of its square, each in [0, 1).
            Default: (0.9, 0.999).
        final_lr: the learning rate that the bounds converge to, that of SGD. At least 0. Default:
            0.1.
        gamma: how fast the bounds converge, in [0, 1). Default: 1e-3.
        eps: added to the root in the denominator, at least 0. Default: 1e-8.
        weight_decay: the L2 penalty, which is added to the gradient, at least 0. Default: 0.
        amsbound: divide by the largest average of squares so far. Default: False.
        decoupled_weight_decay: subtract lr * weight_decay * param from the parameter instead of
            adding the L2 penalty to the gradient. Default: False.
        maximize: maximize the objective instead of minimizing it. Default: False.
        state_dtype: the ``dtype`` of the states of parameters that are not ``float64``:
            ``torch.float32``, ``torch.bfloat16`` or ``torch.float16``. Default: that of the
            parameter, but ``float32`` for ``float16``.
        stochastic_rounding: round values that are stored in 16 bits stochastically: True, or a seed
            from 0 to 2**64 - 1. Default: False.
        state: ``"8bit"`` keeps the states of large parameters in 8 bits. Default: None.
        min_8bit_size: with ``state="8bit"``, parameters with fewer elements keep the states that
            they have without it. Default: 4096.
        master_weights: ``"split32"`` or ``"split24"`` keeps master weights of 32 or 24 bits for
            parameters of ``bfloat16``: what the parameter lacks is in the state ``correction``.
            A parameter group may have another value. Default: None.
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
        state_dtype: torch.dtype | None = None,
        stochastic_rounding: bool | int = False,
        state: Literal["8bit"] | None = None,
        min_8bit_size: int = 4096,
        master_weights: Literal["split24", "split32"] | None = None,
    ) -> None:
        self._set_options(state_dtype, stochastic_rounding, state, min_8bit_size, master_weights)
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
    """Implements Lion.

    The update is the sign of an average of gradients: Chen et al.,
    https://arxiv.org/abs/2302.06675, algorithm 2.

    Args:
        params: an iterable of parameters, of named parameters, or of dicts that define groups.
        lr: the learning rate, a number or a tensor of one element, at least 0. Default: 1e-4.
        betas: the decay rates of the average that the sign is taken of, and of the state, each in
            [0, 1). Default: (0.9, 0.99).
        weight_decay: lr * weight_decay * param is subtracted from the parameter. At least 0.
            Default: 0.
        maximize: maximize the objective instead of minimizing it. Default: False.
        state_dtype: the ``dtype`` of the states of parameters that are not ``float64``:
            ``torch.float32``, ``torch.bfloat16`` or ``torch.float16``. Default: that of the
            parameter, but ``float32`` for ``float16``.
        stochastic_rounding: round values that are stored in 16 bits stochastically: True, or a seed
            from 0 to 2**64 - 1. Default: False.
        state: ``"8bit"`` keeps the states of large parameters in 8 bits. Default: None.
        min_8bit_size: with ``state="8bit"``, parameters with fewer elements keep the states that
            they have without it. Default: 4096.
        master_weights: ``"split32"`` or ``"split24"`` keeps master weights of 32 or 24 bits for
            parameters of ``bfloat16``: what the parameter lacks is in the state ``correction``.
            A parameter group may have another value. Default: None.
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
        state_dtype: torch.dtype | None = None,
        stochastic_rounding: bool | int = False,
        state: Literal["8bit"] | None = None,
        min_8bit_size: int = 4096,
        master_weights: Literal["split24", "split32"] | None = None,
    ) -> None:
        self._set_options(state_dtype, stochastic_rounding, state, min_8bit_size, master_weights)
        defaults = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, defaults)


def _is_floating(state: Any) -> TypeGuard[Tensor]:
    return isinstance(state, Tensor) and state.is_floating_point()


def _square(variance: Tensor, mean: Tensor) -> Tensor:
    """Return the mean square that corresponds to a variance."""
    return mean.double().square().add_(variance).to(variance.dtype)


#: The class for each of torch's.
OF_TORCH: dict[type[_torch.Optimizer], type[Fused]] = {
    _torch.Adam: Adam,
    _torch.AdamW: AdamW,
    _torch.NAdam: NAdam,
    _torch.RAdam: RAdam,
    _torch.Adamax: Adamax,
    _torch.RMSprop: RMSprop,
    _torch.Adagrad: Adagrad,
    _torch.SGD: SGD,
}


def from_torch(
    optimizer: _torch.Optimizer,
    *,
    state_dtype: torch.dtype | None = None,
    stochastic_rounding: bool | int = False,
    state: Literal["8bit"] | None = None,
    min_8bit_size: int = 4096,
    master_weights: Literal["split24", "split32"] | None = None,
) -> Fused:
    """Return an optimizer that takes over a running optimizer of ``torch.optim``.

    It has the same parameters, groups and hyper-parameters, and the states so far: the tensors
    themselves where their ``dtype`` is the same. So do not use ``optimizer`` any more. Create
    schedulers and other objects that hold the optimizer anew.

    Args:
        optimizer: an ``Adam``, ``AdamW``, ``NAdam``, ``RAdam``, ``Adamax``, ``RMSprop``,
            ``Adagrad`` or ``SGD`` of ``torch.optim``, not of a subclass.
        state_dtype: as for the classes.
        stochastic_rounding: as for the classes.
        state: as for the classes.
        min_8bit_size: as for the classes.
        master_weights: as for the classes.

    Raises:
        TypeError: if it is of another class.
    """
    kind = OF_TORCH.get(type(optimizer))
    if kind is None:
        known = ", ".join(other.__name__ for other in OF_TORCH)
        given = f"{type(optimizer).__module__}.{type(optimizer).__name__}"
        raise TypeError(f"optimizer is a {given}, expected one of torch.optim: {known}")
    groups = []
    for group in optimizer.param_groups:
        group = dict(group)
        names = group.pop("param_names", None)
        if names is not None:
            group["params"] = list(zip(names, group["params"]))
        groups.append(group)
    make: Any = kind
    new: Fused = make(
        groups,
        state_dtype=state_dtype,
        stochastic_rounding=stochastic_rounding,
        state=state,
        min_8bit_size=min_8bit_size,
        master_weights=master_weights,
    )
    new.defaults.update(optimizer.defaults)
    new.state.clear()
    for param, saved in optimizer.state.items():
        new.state[param] = dict(saved)
    for group in new.param_groups:
        for param in group["params"]:
            if param in new.state:
                new._take_over(param, group, optimizer.state[param], copy=False)
    return new
