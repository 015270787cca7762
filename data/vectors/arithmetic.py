"""Arithmetic and common parts of `kernels.md`: see its sections of these names.

Numbers of buffers are NumPy arrays of `float32` or `float64`, so each operation is rounded once, to
the nearest number of that type. `F` is this type. Coefficients are computed with Python's `float`,
which is `f64`, and then rounded to `F`.
"""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from fractions import Fraction
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray

LARGEST = {np.dtype(f): np.finfo(f).max for f in (np.float32, np.float64)}
# The largest number whose square is finite.
ROOT = {
    np.dtype(np.float32): np.float32(2.0**64 - 2.0**40),
    np.dtype(np.float64): np.float64(2.0**512 - 2.0**459),
}

sqrt = np.sqrt


class Saturating(np.ndarray):
    """An array of numbers in saturating arithmetic: see Overflow.

    An operation whose result would be infinite gives the largest finite number of that sign.
    """

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        plain = [x.view(np.ndarray) if isinstance(x, Saturating) else x for x in inputs]
        result = getattr(ufunc, method)(*plain, **kwargs)
        if result.dtype.kind != "f":
            return result  # a comparison
        largest = LARGEST[result.dtype]
        # `minimum` and `maximum` keep NaN.
        return np.maximum(np.minimum(result, largest), -largest).view(Saturating)


def saturating(x: Array) -> Saturating:
    """An infinite number becomes NaN."""
    return np.where(np.isinf(x), x.dtype.type(np.nan), x).view(Saturating)


# Coefficients: everything here is `f64`.


def power(beta: float, t: int) -> float:
    square, product = beta, 1.0
    while t > 0:
        if t % 2 == 1:
            product = product * square
        square = square * square
        t >>= 1
    return product


def correction(beta: float, t: int) -> float:
    return 1.0 - power(beta, t)


def libm_pow(x: float, y: float) -> float:
    """`pow`, rounded to the nearest `f64`. `libm_log` and `libm_exp` are of this kind too.

    The Rust crate `libm` may give a neighbour of this number. So may a platform's C library. The
    functions of `decimal` give the same number on all platforms.
    """
    if x == 0.0 or y == 0.0:
        return x**y
    with localcontext() as context:
        context.prec = 60
        return float((Decimal(x).ln() * Decimal(y)).exp())


def libm_log(x: float) -> float:
    if x == 0.0:
        return -math.inf
    with localcontext() as context:
        context.prec = 60
        return float(Decimal(x).ln())


def libm_exp(x: float) -> float:
    with localcontext() as context:
        context.prec = 60
        return float(Decimal(x).exp())


def neighbour(x: float, ulps: int) -> float:
    """The `f64` that is `ulps` units in the last place above `x`, for -1, 0 and 1."""
    return x if ulps == 0 else math.nextafter(x, math.inf * ulps)


class Decay(NamedTuple):
    """The decay rate β of an average: its form, and RATE."""

    at_least_half: bool
    rate: Any

    @staticmethod
    def of(beta: float) -> Decay:
        return Decay(True, 1.0 - beta) if beta >= 0.5 else Decay(False, beta)


def rounded(values: dict[str, Any], f: type) -> SimpleNamespace:
    """The coefficients of a step, each rounded once to `F`.

    Names in lower case that are no `Decay`, such as RAdam's `rho`, are no coefficients.
    """

    def one(name: str, x: Any) -> Any:
        if isinstance(x, Decay):
            return Decay(x.at_least_half, f(x.rate))
        return f(x) if name.isupper() else x

    return SimpleNamespace(**{name: one(name, x) for name, x in values.items()})


# Moving averages.


def avg(a: Array, x: Array, beta: Decay) -> Array:
    if beta.at_least_half:
        return a + beta.rate * (x - a)
    return x - beta.rate * (x - a)


def acc(a: Array, x: Array, beta: Decay) -> Array:
    if beta.at_least_half:
        return a + (x - beta.rate * a)
    return beta.rate * a + x


def shrink(a: Array, beta: Decay) -> Array:
    if beta.at_least_half:
        return a - beta.rate * a
    return beta.rate * a


# Comparisons. A comparison with NaN is false.


def select(condition: Array, a: Any, b: Array) -> Array:
    """`a` where the condition holds, else `b`, in the arithmetic of `b`."""
    return np.where(condition, a, b).view(type(b))


def larger(a: Array, b: Array) -> Array:
    return select(a > b, a, b)


def clamp_min(x: Array, low: Any) -> Array:
    return select(x < low, low, x)


def clamp_max(x: Array, up: Any) -> Array:
    return select(x > up, up, x)


def sign(x: Array) -> Array:
    one = x.dtype.type(1)
    return select(x > 0, one, select(x < 0, -one, x))


def if_finite(x: Array, y: Array) -> Array:
    return x - (y - y)


# Gradient norm.


def two_norm(numbers: list[float]) -> float:
    """The root of the sum of squares, rounded once. The numbers are finite."""
    # In units of 2^-2148, the square of the least `f64`, each square is an integer.
    total = sum(int(Fraction(x) * 2**1074) ** 2 for x in numbers)
    if total == 0:
        return 0.0
    if total >= 2**4288:
        return math.inf
    # The last bit of `top` has the weight 2^e in `f64`: cut so that `top` has 127 or 128 bits.
    cut = total.bit_length() - 128
    cut += cut % 2
    top = total >> cut if cut > 0 else total << -cut
    e = cut - 2148
    root = math.isqrt(top)
    if root * root != top or (cut > 0 and total % (1 << cut) != 0):
        root |= 1
    # Conversion and division of Python's integers are rounded once, ties to even.
    if e < 0:
        return root / (1 << (-e // 2))
    try:
        return float(root << (e // 2))
    except OverflowError:
        return math.inf


def gradient_norm(numbers: list[float]) -> tuple[float, float, int]:
    """`two_norm`, `inf_norm` and `nonfinite`."""
    nonfinite = sum(not math.isfinite(x) for x in numbers)
    if any(math.isnan(x) for x in numbers):
        return math.nan, math.nan, nonfinite
    if nonfinite > 0:
        return math.inf, math.inf, nonfinite
    return two_norm(numbers), max((abs(x) for x in numbers), default=0.0), 0
