"""Writes adam.json: single steps of Adam and AdamW, computed with NumPy, with all bits.

An independent oracle: it shares no code with the crate, and NumPy's float32 and float64 arrays
compute one IEEE 754 operation at a time. The order of operations is that of kernels.md.

    python3 tests/vectors/generate.py > tests/vectors/adam.json
"""

import json
import random

import numpy as np

SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-40, 1.2e-38, 1.0, -1e-23, 1e20]
LARGE = {np.float32: [3e38, -3e38, 3e19], np.float64: [1.7e308, -1.7e308, 3e154]}


class Saturating:
    """Numbers that are finite or NaN. A result that would be infinite is the largest number."""

    def __init__(self, numbers):
        self.numbers = numbers

    @classmethod
    def operand(cls, numbers):
        return cls(np.where(np.isinf(numbers), numbers.dtype.type(np.nan), numbers))

    @classmethod
    def result(cls, numbers):
        most = np.finfo(numbers.dtype).max
        held = np.where(numbers == np.inf, most, np.where(numbers == -np.inf, -most, numbers))
        return cls(held.astype(numbers.dtype))

    def by(self, operation, other):
        other = other.numbers if isinstance(other, Saturating) else other
        return Saturating.result(operation(self.numbers, other))

    def __add__(self, other):
        return self.by(np.add, other)

    def __sub__(self, other):
        return self.by(np.subtract, other)

    def __mul__(self, other):
        return self.by(np.multiply, other)

    def __truediv__(self, other):
        return self.by(np.divide, other)

    def __neg__(self):
        return Saturating(-self.numbers)

    def squarable(self):
        kind = self.numbers.dtype.type
        root = np.nextafter(kind(2.0**64 if kind is np.float32 else 2.0**512), kind(0.0))
        return Saturating(np.clip(self.numbers, -root, root))

    def sqrt(self):
        return Saturating(np.sqrt(self.numbers))

    def larger(self, other):
        return Saturating(np.where(self.numbers > other.numbers, self.numbers, other.numbers))


class Plain(np.ndarray):
    """IEEE 754 arithmetic, with the methods of Saturating."""

    def squarable(self):
        return self

    def sqrt(self):
        return np.sqrt(self)

    def larger(self, other):
        return np.where(self > other, self, other).view(Plain)


def power(beta, t):
    square, product = beta, 1.0
    while t:
        if t & 1:
            product *= square
        square *= square
        t >>= 1
    return product


def average(old, new, beta, real):
    if beta >= 0.5:
        return old + (new - old) * real(1.0 - beta)
    return new - (new - old) * real(beta)


def step(case, theta, g, m, v, v_max, real):
    before = [theta, g, m, v, v_max]
    after = lines(case, *[array.view(Plain) for array in before], real)
    again = [array.numbers for array in lines(case, *map(Saturating.operand, before), real)]
    states = after[1:] if case["amsgrad"] else after[1:3]
    finite = np.all([np.isfinite(state) for state in states], axis=0)
    return [np.where(finite, *both).astype(real) for both in zip(after, again)]


def lines(case, theta, g, m, v, v_max, real):
    correction1 = 1.0 - power(case["beta1"], case["t"]) if case["bias_correction"] else 1.0
    correction2 = 1.0 - power(case["beta2"], case["t"]) if case["bias_correction"] else 1.0
    decay = case["weight_decay"]
    if case["maximize"]:
        g = -g
    if decay != 0.0 and case["rule"] == "Adam":
        g = g + theta * real(decay)
    g = g.squarable()
    m = average(m, g, case["beta1"], real)
    v = average(v, g * g, case["beta2"], real)
    w = v
    if case["amsgrad"]:
        old = v_max
        v_max = old.larger(v) - (old - old)
        w = v_max
    d = w.sqrt() * real(1.0 / float(np.sqrt(np.float64(correction2)))) + real(case["eps"])
    q = m * real(case["lr"] / correction1) / d
    if decay != 0.0 and case["rule"] == "AdamW":
        q = theta * real(case["lr"] * decay) + q
    return theta - q, m, v, v_max


def main():
    rng = random.Random(2014)
    cases = []
    for i in range(64):
        # Both types × rules × AMSGrad × forms of the averages × decay or none, twice.
        element, heavy = ["f32", "f64"][i % 2], i // 8 % 2 == 0
        real, word = (np.float32, np.uint32) if element == "f32" else (np.float64, np.uint64)
        case = {
            "element": element,
            "rule": ["Adam", "AdamW"][i // 2 % 2],
            "amsgrad": bool(i // 4 % 2),
            "maximize": rng.random() < 0.3,
            "bias_correction": rng.random() < 0.8,
            "t": rng.choice([1, 2, 3, 10, 777, 123456, 10**9]),
            "lr": rng.choice([1e-3, 0.1, 3e-4]),
            "beta1": rng.choice([0.9, 0.95, 0.5] if heavy else [0.9, 0.0, 0.3]),
            "beta2": rng.choice([0.999, 0.95, 0.5] if heavy else [0.25, 0.0]),
            "eps": rng.choice([1e-8, 1e-8, 1e-3]),
            "weight_decay": rng.choice([0.01, 0.1]) if i // 16 % 2 else 0.0,
        }
        # 19 elements: whole registers and a rest in every instruction set. v is not negative.
        special = SPECIAL + LARGE[real]
        draw = lambda: rng.choice(special) if rng.random() < 0.2 else rng.uniform(-1.0, 1.0)
        with np.errstate(all="ignore"):
            buffers = [np.array([draw() for _ in range(19)], dtype=real) for _ in range(3)]
            buffers += [np.array([abs(draw()) for _ in range(19)], dtype=real) for _ in range(2)]
            theta, grad, m, v, v_max = buffers
            after = step(case, theta, grad, m, v, v_max, real)
        names = ["theta", "m", "v"] + (["v_max"] if case["amsgrad"] else [])
        hexes = lambda array: " ".join(f"{bits:x}" for bits in array.view(word))
        case["grad"] = hexes(grad)
        case["before"] = dict(zip(names, map(hexes, [theta, m, v, v_max])))
        case["after"] = dict(zip(names, map(hexes, after)))
        cases.append(case)
    print("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]")


main()
