"""Element types, stochastic rounding, states in 8 bits and split master weights of `kernels.md`.

The classes at the end are the formats of a buffer. A format stores rows of numbers, one row for
each run, and loads them again. The functions before them compute with the bits of numbers, as
unsigned integers.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np

from arithmetic import Array, clamp_max, clamp_min

SEED = 0x1_2345_6789
OFFSET = 2**32 - 32
BLOCK = 32
MASK = 0xFFFF_FFFF

# The dtype of the bits, and the NaN that is written in their place.
BITS = {
    "f64": (np.uint64, 0x7FF8_0000_0000_0000),
    "f32": (np.uint32, 0x7FC0_0000),
    "bf16": (np.uint16, 0x7FC0),
    "f16": (np.uint16, 0x7E00),
}
LARGEST_16 = {"bf16": np.float32((2 - 2**-7) * 2.0**127), "f16": np.float32(65504)}


# Element types.


def bits(x: Array) -> Array:
    """The bits of `f32` numbers."""
    return x.view(np.uint32)


def number(b: Array) -> Array:
    """The `f32` numbers with these bits."""
    return b.astype(np.uint32, copy=False).view(np.float32)


def widen(kind: str, b: Array) -> Array:
    if kind == "f64":
        return b.view(np.float64)
    if kind == "f32":
        return b.view(np.float32)
    if kind == "f16":
        return b.view(np.float16).astype(np.float32)
    return number(b.astype(np.uint32) << 16)


def nearest_bf16(x: Array) -> Array:
    b = bits(x)
    even = (b + 0x7FFF + ((b >> 16) & 1)) >> 16
    return np.where(np.isnan(x), BITS["bf16"][1], even).astype(np.uint16)


def nearest_f16(x: Array) -> Array:
    return x.astype(np.float16).view(np.uint16)


def nearest(kind: str, x: Array) -> Array:
    return nearest_bf16(x) if kind == "bf16" else nearest_f16(x)


def clamp_16(kind: str, x: Array) -> Array:
    """A state of 16 bits is clamped to the largest finite number before it is rounded."""
    return clamp_min(clamp_max(x, LARGEST_16[kind]), -LARGEST_16[kind])


def without_nan_bits(kind: str, b: Array) -> Array:
    """Each NaN becomes the one that the files have."""
    b = b.copy()
    b[np.isnan(widen(kind, b))] = BITS[kind][1]
    return b


def rounded_initial(kind: str, x: float) -> np.float32 | np.float64:
    """`x` ≥ 0, rounded once to an element type, and at most its largest number."""
    if kind == "f64":
        return np.float64(x)
    digits, least, largest = {
        "bf16": (8, -125, LARGEST_16["bf16"]),
        "f16": (11, -13, LARGEST_16["f16"]),
    }.get(kind, (24, -125, np.finfo(np.float32).max))
    exponent = max(math.frexp(x)[1], least) - digits
    integer = round(math.ldexp(x, -exponent))  # ties to even
    return np.float32(min(math.ldexp(integer, exponent), float(largest)))


# Random bits. Words are Python's integers or arrays of `uint64`, always below 2^32.


def threefry(key: list[Any], counter: list[Any]) -> list[Any]:
    rotation = [13, 15, 26, 6, 17, 29, 16, 24]
    k = [key[0], key[1], 0x1BD11BDA ^ key[0] ^ key[1]]
    a = (counter[0] + k[0]) & MASK
    b = (counter[1] + k[1]) & MASK
    for r in range(13):
        a = (a + b) & MASK
        n = rotation[r % 8]
        b = (((b << n) | (b >> (32 - n))) & MASK) ^ a
        if r % 4 == 3:
            j = (r + 1) // 4
            a = (a + k[j % 3]) & MASK
            b = (b + k[(j + 1) % 3] + j) & MASK
    return [a, b]


def low_and_high(x: Any) -> list[Any]:
    return [x & MASK, x >> 32]


@cache
def step_key(t: int) -> list[int]:
    return threefry(low_and_high(SEED), low_and_high(t))


@cache
def random(t: int, buffer: int, length: int) -> Array:
    k0, k1 = step_key(t)
    index = np.arange(OFFSET, OFFSET + length, dtype=np.uint64)
    word = threefry([k0, (k1 + buffer // 4) & MASK], low_and_high(index))[buffer % 4 // 2]
    return (word & 0xFFFF if buffer % 2 == 0 else word >> 16).astype(np.uint32)


@cache
def block_words(t: int, number_of_key: int, length: int) -> Array:
    """`w` of Random bits of a block, with this number added to `k1`."""
    k0, k1 = step_key(t)
    index = np.arange(OFFSET, OFFSET + length, dtype=np.uint64)
    within = index % BLOCK
    w0, w1 = threefry([k0, (k1 + number_of_key) & MASK], low_and_high(index - within))
    return ((w0 + within * w1) & MASK).astype(np.uint32)


@cache
def block_random(t: int, state: int, length: int) -> Array:
    w = block_words(t, 2**31 + state // 2, length)
    return w >> 14 if state % 2 == 0 else w % 2**18


# Stochastic rounding.


def to_bf16(x: Array, random: Array) -> Array:
    result = (bits(x) + random) >> 16
    return np.where(np.isnan(x), BITS["bf16"][1], result).astype(np.uint16)


def to_f16(x: Array, random: Array) -> Array:
    size = np.abs(x)
    random13 = random >> 3
    normal = (bits(size) + random13 - np.uint32(112 << 23)) >> 13
    part = (random13.astype(np.float32) + np.float32(0.5)) / np.float32(8192) - np.float32(0.5)
    u = size * np.float32(2**24) + part
    small = np.rint(np.where(size < 2.0**-14, u, np.float32(0))).astype(np.uint32)
    h = np.where(size >= 65536, 0x7C00, np.where(size >= 2.0**-14, normal, small))
    h = np.where(np.isnan(x), BITS["f16"][1], ((bits(x) >> 31) << 15) | h)
    return h.astype(np.uint16)


# States in 8 bits: an array [rows, blocks, 33].


def decode(stored: Array, signs: bool, length: int) -> Array:
    code = stored[..., :BLOCK].astype(np.uint32)
    one = stored[..., BLOCK:].astype(np.uint32) << 23
    c = code & 0x7F if signs else code
    x = number(one + (c << 18)) - number(one)
    if signs:
        x = number(bits(x) | ((code & 0x80) << 24))
    return x.reshape(len(stored), -1)[:, :length]


def encode(x: Array, r: Array | int, signs: bool, divides: bool) -> Array:
    rows, length = x.shape
    blocks = -(-length // BLOCK)
    # An element that does not exist is a zero: its code is 0, and it is never the largest.
    x = np.pad(x, ((0, 0), (0, blocks * BLOCK - length))).reshape(rows, blocks, BLOCK)
    if not signs:
        x = np.where(x <= 0, np.float32(0), x)
    top, top_exponent, largest_e = (14.75, 4, 251) if signs else (251.0, 8, 247)
    size = np.abs(x)
    finite = np.isfinite(x).all(axis=2, keepdims=True)
    size = np.where(finite, size, np.float32(0))
    # The largest is fraction * 2^exponent, with a fraction in [1/2, 1), and so is `top`.
    fraction, exponent = np.frexp(size.max(axis=2, keepdims=True))
    least = exponent - top_exponent + (fraction > top / 2**top_exponent)
    least = np.where(fraction == 0, -120, np.maximum(least, -120))
    e = np.minimum(least + 127, largest_e)
    size = np.minimum(size, np.ldexp(np.float32(top), e - 127))
    y = size * np.ldexp(np.float32(1), 128 - e) + np.float32(2)
    c = ((bits(y) + r) >> 18) % 256
    if divides:
        c = np.where((c == 0) & (x > 0), 1, c)
    if signs:
        c = c | ((bits(x) >> 31) << 7)
    stored = np.zeros((rows, blocks, BLOCK + 1), np.uint8)
    stored[..., :BLOCK] = np.where(finite, c, 0)
    stored[..., BLOCK:] = np.where(finite, e, 255)
    return stored


# Split master weights.


def join(theta: Array, low: Array) -> Array:
    return number((theta.astype(np.uint32) << 16) + low.astype(np.int32).view(np.uint32))


def split(x: Array, width: int, r: Array | int) -> tuple[Array, Array]:
    b = np.where(np.isnan(x), np.uint32(0x7FC0_0000), bits(x))
    if width == 8:
        b = (b + r) & np.uint32(0xFFFF_FF00)
    theta = ((b + np.uint32(2**15)) >> 16).astype(np.uint16)
    if width == 8:
        return theta, ((b >> 8) & 0xFF).astype(np.uint8)
    return theta, (b & 0xFFFF).astype(np.uint16)


# Formats of a buffer. `t` is 0 where numbers are stored without a step. `words` gives what the
# files have: the buffer, and its correction if there is one.


class Plain:
    """`f32` and `f64`."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def store(self, x: Array, t: int) -> Array:
        return x

    def load(self, stored: Array) -> Array:
        return stored

    def words(self, stored: Array) -> list[Array]:
        return [without_nan_bits(self.kind, stored.view(BITS[self.kind][0]))]


class Half:
    """`bf16` and `f16`. Buffer 0 is θ; a higher number is that of a state."""

    def __init__(self, kind: str, buffer: int, stochastic: bool) -> None:
        self.kind, self.buffer, self.stochastic = kind, buffer, stochastic

    def store(self, x: Array, t: int) -> Array:
        if self.buffer > 0:
            x = clamp_16(self.kind, x)
        if t == 0 or not self.stochastic:
            return nearest(self.kind, x)
        bits16 = random(t, self.buffer, x.shape[1])
        return to_bf16(x, bits16) if self.kind == "bf16" else to_f16(x, bits16)

    def load(self, stored: Array) -> Array:
        return widen(self.kind, stored)

    def words(self, stored: Array) -> list[Array]:
        return [without_nan_bits(self.kind, stored)]


class Blocks:
    """A state in 8 bits. `state` is its number in the rule."""

    def __init__(self, name: str, state: int, length: int) -> None:
        self.state, self.length = state, length
        self.running_maximum = name in ("v_max", "u")
        self.divides = name in ("v", "s", "v_max", "u")
        self.signs = not self.divides

    def store(self, x: Array, t: int) -> Array:
        if t == 0 and not x.any():
            return np.zeros((len(x), -(-self.length // BLOCK), BLOCK + 1), np.uint8)
        r: Array | int = np.uint32(2**17)
        if t > 0 and not self.running_maximum:
            blocks = -(-self.length // BLOCK)
            r = block_random(t, self.state, blocks * BLOCK).reshape(blocks, BLOCK)
        return encode(x, r, self.signs, self.divides)

    def load(self, stored: Array) -> Array:
        return decode(stored, self.signs, self.length)

    def words(self, stored: Array) -> list[Array]:
        return [stored]


class Split:
    """θ as `bf16` with a correction of 16 or 8 bits."""

    def __init__(self, width: int) -> None:
        self.width = width

    def store(self, x: Array, t: int) -> tuple[Array, Array]:
        r: Array | int = np.uint32(128)
        if t > 0 and self.width == 8:
            r = block_words(t, 2**31 + 2**30, x.shape[1]) >> 24
        return split(x, self.width, r)

    def load(self, stored: tuple[Array, Array]) -> Array:
        theta, low = stored
        if self.width == 16:
            return join(theta, low.view(np.int16))
        return join(theta, low.view(np.int8).astype(np.int32) << 8)

    def words(self, stored: tuple[Array, Array]) -> list[Array]:
        return [without_nan_bits("bf16", stored[0]), stored[1]]
