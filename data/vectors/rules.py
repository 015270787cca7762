"""The rules of `kernels.md`, in its order, and the order of a step.

Each rule has two functions. The first computes the coefficients in `f64`: names in upper case are
coefficients, and a `Decay` holds the RATE of an average. The second has the lines for each element.
It gives the states `s` new values and returns `q`. `h` holds the hyper-parameters, `c` the
coefficients. `RULES` has the states of each rule, in order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from arithmetic import (
    ROOT,
    Array,
    Decay,
    Saturating,
    acc,
    avg,
    clamp_max,
    clamp_min,
    correction,
    if_finite,
    larger,
    libm_exp,
    libm_log,
    libm_pow,
    neighbour,
    power,
    saturating,
    shrink,
    sign,
    sqrt,
)

Names = SimpleNamespace
Values = dict[str, Any]


@dataclass
class Scalars:
    """What coefficients depend on besides the hyper-parameters and the step number.

    A function of `libm` may give a neighbour of the nearest `f64`. `ulps` is 1 or -1 to take the
    one above or below.
    """

    mu_product: float = 1.0
    ulps: int = 0


def two_betas(h: Names) -> Values:
    return {"beta1": Decay.of(h.beta1), "beta2": Decay.of(h.beta2)}


# Sgd


def sgd_coefficients(h: Names, t: int, scalars: Scalars) -> Values:
    c: Values = {"LR": h.lr}
    if h.momentum > 0:
        c["momentum"] = Decay.of(h.momentum)
        if not h.average:
            c["T"] = 1.0 if t == 1 else 1.0 - h.dampening
    return c


def sgd(h: Names, c: Names, g: Array, s: Names) -> Array:
    if h.momentum == 0:
        return c.LR * g
    if not h.average:
        s.m = acc(s.m, c.T * g, c.momentum)
        d = g + shrink(s.m, c.momentum) if h.nesterov else s.m
    else:
        s.m = avg(s.m, g, c.momentum)
        d = avg(s.m, g, c.momentum) if h.nesterov else s.m
    return c.LR * d


# RmsProp


def rmsprop_coefficients(h: Names, t: int, scalars: Scalars) -> Values:
    c: Values = {"LR": h.lr, "E": h.eps, "alpha": Decay.of(h.alpha)}
    if h.centered:
        c["A"] = h.alpha
    if h.momentum > 0:
        c["momentum"] = Decay.of(h.momentum)
    return c


def rmsprop(h: Names, c: Names, g: Array, s: Names) -> Array:
    if not h.centered:
        s.v = avg(s.v, g * g, c.alpha)
    else:
        o = g - s.m  # the old m
        s.v = avg(s.v, c.A * (o * o), c.alpha)
        s.m = avg(s.m, g, c.alpha)
    d = sqrt(s.v + c.E) if h.eps_inside else sqrt(s.v) + c.E
    if h.momentum == 0:
        return c.LR * g / d
    s.b = acc(s.b, g / d, c.momentum)
    return c.LR * s.b


# AdaGrad


def adagrad_coefficients(h: Names, t: int, scalars: Scalars) -> Values:
    return {"LR": h.lr / (1.0 + float(t - 1) * h.lr_decay), "E": h.eps}


def adagrad(h: Names, c: Names, g: Array, s: Names) -> Array:
    s.v = s.v + g * g
    return c.LR * g / (sqrt(s.v) + c.E)


# Adam and AdamW


def adam_coefficients(h: Names, t: int, scalars: Scalars) -> Values:
    c1 = correction(h.beta1, t) if h.bias_correction else 1.0
    c2 = correction(h.beta2, t) if h.bias_correction else 1.0
    return {"R": 1.0 / math.sqrt(c2), "LR": h.lr / c1, "E": h.eps, **two_betas(h)}


def adam(h: Names, c: Names, g: Array, s: Names) -> Array:
    s.m = avg(s.m, g, c.beta1)
    s.v = avg(s.v, g * g, c.beta2)
    w = s.v
    if h.amsgrad:
        s.v_max = if_finite(larger(s.v_max, s.v), s.v_max)  # the old v_max twice
        w = s.v_max
    d = sqrt(w) * c.R + c.E
    return c.LR * s.m / d


# AdaMax


def adamax_coefficients(h: Names, t: int, scalars: Scalars) -> Values:
    return {"LR": h.lr / correction(h.beta1, t), "E": h.eps, **two_betas(h)}


def adamax(h: Names, c: Names, g: Array, s: Names) -> Array:
    s.m = avg(s.m, g, c.beta1)
    s.u = if_finite(larger(shrink(s.u, c.beta2), abs(g) + c.E), s.u)  # the old u twice
    return c.LR * s.m / s.u


# NAdam


def nadam_coefficients(h: Names, t: int, scalars: Scalars) -> Values:
    base = neighbour(libm_pow(0.96, h.momentum_decay), scalars.ulps)
    p = power(base, t)
    mu = h.beta1 * (1.0 - 0.5 * p)
    next_mu = h.beta1 * (1.0 - 0.5 * (p * base))
    product = scalars.mu_product = scalars.mu_product * mu
    return {
        "R": 1.0 / math.sqrt(correction(h.beta2, t)),
        "E": h.eps,
        "A": h.lr * (1.0 - mu) / (1.0 - product),
        "B": h.lr * next_mu / (1.0 - product * next_mu),
        **two_betas(h),
        "mu_product": product,
    }


def nadam(h: Names, c: Names, g: Array, s: Names) -> Array:
    s.m = avg(s.m, g, c.beta1)
    s.v = avg(s.v, g * g, c.beta2)
    d = sqrt(s.v) * c.R + c.E
    return (c.A * g + c.B * s.m) / d


# RAdam


def radam_coefficients(h: Names, t: int, scalars: Scalars) -> Values:
    p1 = power(h.beta1, t)
    p2 = power(h.beta2, t)
    lr1 = h.lr / (1.0 - p1)
    end = 2.0 / (1.0 - h.beta2) - 1.0
    rho = end - 2.0 * float(t) * p2 / (1.0 - p2)
    if rho > 5:
        rect = (rho - 4.0) * (rho - 2.0) * end / ((end - 4.0) * (end - 2.0) * rho)
        lr = lr1 * math.sqrt(1.0 - p2) * math.sqrt(rect)
    else:
        lr = lr1
    return {"E": h.eps, "LR": lr, "rho": rho, **two_betas(h)}


def radam(h: Names, c: Names, g: Array, s: Names) -> Array:
    s.m = avg(s.m, g, c.beta1)
    s.v = avg(s.v, g * g, c.beta2)
    if c.rho > 5:
        return c.LR * s.m / (sqrt(s.v) + c.E)
    return c.LR * s.m


# AdaBound and AMSBound


def adabound_coefficients(h: Names, t: int, scalars: Scalars) -> Values:
    gamma_t = h.gamma * float(t)
    if gamma_t == 0:
        high = math.inf
    elif h.final_lr == 0:
        high = 0.0
    else:
        high = h.final_lr * (1.0 + 1.0 / gamma_t)
    return {
        "LR": h.lr * math.sqrt(correction(h.beta2, t)) / correction(h.beta1, t),
        "LOW": h.final_lr * (1.0 - 1.0 / (gamma_t + 1.0)),
        "HIGH": high,
        "E": h.eps,
        **two_betas(h),
    }


def adabound(h: Names, c: Names, g: Array, s: Names) -> Array:
    s.m = avg(s.m, g, c.beta1)
    s.v = avg(s.v, g * g, c.beta2)
    w = s.v
    if h.amsbound:
        s.v_max = if_finite(larger(s.v_max, s.v), s.v_max)  # the old v_max twice
        w = s.v_max
    rate = c.LR / (sqrt(w) + c.E)
    rate = clamp_min(rate, c.LOW)
    rate = clamp_max(rate, c.HIGH)
    return rate * s.m


# AdaBelief


def adabelief_coefficients(h: Names, t: int, scalars: Scalars) -> Values:
    return {
        "R": 1.0 / math.sqrt(correction(h.beta2, t)),
        "LR": h.lr / correction(h.beta1, t),
        "E": h.eps,
        **two_betas(h),
    }


def adabelief(h: Names, c: Names, g: Array, s: Names) -> Array:
    s.m = avg(s.m, g, c.beta1)
    o = g - s.m  # the new m
    s.s = avg(s.s, o * o, c.beta2) + c.E
    d = sqrt(s.s) * c.R + c.E
    return c.LR * s.m / d


# Lion


def lion_coefficients(h: Names, t: int, scalars: Scalars) -> Values:
    return {"LR": h.lr, **two_betas(h)}


def lion(h: Names, c: Names, g: Array, s: Names) -> Array:
    q = c.LR * sign(avg(s.m, g, c.beta1))  # the old m
    s.m = avg(s.m, g, c.beta2)
    return q


# AdEMAMix


def ademamix_beta3(h: Names, t: int, ulps: int) -> float:
    if t >= h.beta3_warmup:
        return h.beta3
    x = float(t) / float(h.beta3_warmup)
    i1 = 1.0 / libm_log(h.beta1)
    i3 = 1.0 / libm_log(h.beta3)
    return min(neighbour(libm_exp(1.0 / ((1.0 - x) * i1 + x * i3)), ulps), h.beta3)


def ademamix_coefficients(h: Names, t: int, scalars: Scalars) -> Values:
    alpha_t = h.alpha
    if t < h.alpha_warmup:
        alpha_t = h.alpha * (float(t) / float(h.alpha_warmup))
    return {
        "R": 1.0 / math.sqrt(correction(h.beta2, t)),
        "A": h.lr / correction(h.beta1, t),
        "B": h.lr * alpha_t,
        "E": h.eps,
        **two_betas(h),
        "beta3": Decay.of(ademamix_beta3(h, t, scalars.ulps)),
    }


def ademamix(h: Names, c: Names, g: Array, s: Names) -> Array:
    s.m1 = avg(s.m1, g, c.beta1)
    s.m2 = avg(s.m2, g, c.beta3)
    s.v = avg(s.v, g * g, c.beta2)
    d = sqrt(s.v) * c.R + c.E
    return (c.A * s.m1 + c.B * s.m2) / d


@dataclass
class Rule:
    states: Callable[[Names], list[str]]  # their names, in order
    coefficients: Callable[[Names, int, Scalars], Values]
    lines: Callable[[Names, Names, Array, Names], Array]
    decay: str  # "L2", "decoupled", or "option": `decoupled_weight_decay` chooses
    libm: str = ""  # how it uses `libm`: "once", or in "each step"

    def decoupled(self, h: Names) -> bool:
        return h.decoupled_weight_decay if self.decay == "option" else self.decay == "decoupled"


M, M_V = ["m"], ["m", "v"]
RULES = {
    "sgd": Rule(lambda h: M if h.momentum > 0 else [], sgd_coefficients, sgd, "option"),
    "rmsprop": Rule(
        lambda h: ["v"] + M * h.centered + ["b"] * (h.momentum > 0),
        rmsprop_coefficients,
        rmsprop,
        "L2",
    ),
    "adagrad": Rule(lambda h: ["v"], adagrad_coefficients, adagrad, "L2"),
    "adam": Rule(lambda h: M_V + ["v_max"] * h.amsgrad, adam_coefficients, adam, "L2"),
    "adamw": Rule(lambda h: M_V + ["v_max"] * h.amsgrad, adam_coefficients, adam, "decoupled"),
    "adamax": Rule(lambda h: ["m", "u"], adamax_coefficients, adamax, "L2"),
    "nadam": Rule(lambda h: M_V, nadam_coefficients, nadam, "option", "once"),
    "radam": Rule(lambda h: M_V, radam_coefficients, radam, "option"),
    "adabound": Rule(
        lambda h: M_V + ["v_max"] * h.amsbound, adabound_coefficients, adabound, "option"
    ),
    "adabelief": Rule(lambda h: ["m", "s"], adabelief_coefficients, adabelief, "option"),
    "lion": Rule(lambda h: M, lion_coefficients, lion, "decoupled"),
    "ademamix": Rule(
        lambda h: ["m1", "m2", "v"], ademamix_coefficients, ademamix, "decoupled", "each step"
    ),
}


def coefficients(rule: Rule, h: Names, steps: int, ulps: int = 0) -> list[Values]:
    """All coefficients of steps 1 to `steps`, except SCALE and BOUND, in `f64`."""
    scalars = Scalars(ulps=ulps)
    result = []
    for t in range(1, steps + 1):
        values = rule.coefficients(h, t, scalars)
        if h.weight_decay != 0:
            values["K"] = h.lr * h.weight_decay if rule.decoupled(h) else h.weight_decay
        result.append(values)
    return result


# Order of a step.


def scale_and_clip(c: Names, g: Array) -> Array:
    """Gradient scale and clip value. SCALE and BOUND are None where there is neither."""
    if c.BOUND is None:
        return g if c.SCALE is None else c.SCALE * g
    g = if_finite(c.SCALE * g, g)
    g = clamp_max(g, c.BOUND)
    return clamp_min(g, -c.BOUND)


def lines_2_to_7(rule: Rule, h: Names, c: Names, theta: Array, g: Array, s: Names) -> Array:
    """Gives the states new values, and returns the new θ."""
    g = scale_and_clip(c, g)
    if h.maximize:
        g = -g
    decay = h.weight_decay != 0
    if decay and not rule.decoupled(h):
        g = g + c.K * theta
    if isinstance(g, Saturating):
        root = ROOT[g.dtype]
        g = clamp_min(clamp_max(g, root), -root)
    q = rule.lines(h, c, g, s)
    if decay and rule.decoupled(h):
        q = c.K * theta + q
    return theta - q


def lines_2_to_8(
    rule: Rule, h: Names, c: Names, theta: Array, g: Array, old: dict[str, Array]
) -> tuple[Array, dict[str, Array]]:
    """The new θ and states in `F`, before they are rounded to their types."""
    s = Names(**old)
    new_theta = lines_2_to_7(rule, h, c, theta, g, s)
    new = vars(s)
    finite = np.ones(theta.shape, bool)
    for x in new.values():
        finite &= np.isfinite(x)
    if not finite.all():  # line 8: Overflow
        again = ~finite
        s = Names(**{name: saturating(x[again]) for name, x in old.items()})
        new_theta[again] = lines_2_to_7(
            rule, h, c, saturating(theta[again]), saturating(g[again]), s
        )
        for name, x in vars(s).items():
            new[name][again] = x
    return new_theta, new
