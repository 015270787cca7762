"""Compares the time of a step of torch's fused AdamW with fused-adam's, as a table and a plot.

    python examples/compare.py [--test] [--plot FILE.svg]

Each round times both optimizers, one after the other. A time is the median over the rounds, and a
ratio is the median of the ratios of the rounds. ``--plot`` needs matplotlib.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch

import fused_adam
import fused_adam.torch


def gpt2() -> list[int]:
    """The 148 tensors of GPT-2 small (Radford and others, 2019): 12 layers of width 768."""
    d = 768
    layer = [d, d, 3 * d * d, 3 * d, d * d, d, d, d, 4 * d * d, 4 * d, 4 * d * d, d]
    return [50257 * d, 1024 * d, *(layer * 12), d, d]


Call = Callable[[], object]


def timed(call: Call, least: float, before: Call | None = None) -> float:
    """Return the time of one call in seconds. It does not include the calls of ``before``."""
    call()
    took, calls = 0.0, 0
    while True:
        if before is not None:
            before()
        start = time.perf_counter()
        call()
        took += time.perf_counter() - start
        calls += 1
        if took >= least:
            return took / calls


def params(lens: list[int]) -> list[torch.Tensor]:
    made = [torch.full((n,), 0.5).requires_grad_() for n in lens]
    for param in made:
        param.grad = torch.rand(param.shape).add_(0.1)
    return made


def cases(testing: bool) -> Iterator[tuple[str, Call, Call, Call | None]]:
    small = 1 << 16
    for name, lens in [
        ("16 elements", [16]),
        ("2^20", [1 << 20]),
        ("2^24", [small if testing else 1 << 24]),
        ("2^26", [small if testing else 1 << 26]),
        ("1000 tensors of 16", [16] * 1000),
        ("1000 tensors of 1000", [1000] * 1000),
        ("GPT-2 small", [small] * 4 if testing else gpt2()),
    ]:
        # A generator, so that only one pair of optimizers is in memory at a time.
        theirs = torch.optim.AdamW(params(lens), fused=True)
        ours = fused_adam.torch.AdamW(params(lens))
        yield name, theirs.step, ours.step, None
        if name == "2^20":
            # After a backward pass, some of torch's threads spin, waiting for the next operation.
            other = torch.rand(1 << 20)
            yield f"{name}, after torch's own work", theirs.step, ours.step, other.cos_
        if name == "GPT-2 small":
            weights = theirs.param_groups[0]["params"]

            def clip_and_step() -> None:
                torch.nn.utils.clip_grad_norm_(weights, 1.0)
                theirs.step()

            both = lambda: fused_adam.torch.clip_grad_norm_and_step(ours, 1.0)  # noqa: E731
            yield "GPT-2 small, clip and step", clip_and_step, both, None


def border() -> None:
    """Print the overhead of a call from NumPy."""
    theta, grad = np.ones(16, np.float32), np.ones(16, np.float32)
    flat = fused_adam.Flat(fused_adam.Rule("adamw"), theta)
    took = min(timed(lambda: flat.step(theta, grad), 0.02) for _ in range(15))
    print(f"\na step of a NumPy array of 16 elements: {took * 1e6:.2f} µs")
    print("(the arithmetic takes 0.05 µs or less of it)")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--test", action="store_true", help="run each step once, on small tensors")
    parser.add_argument("--plot", metavar="FILE", help="plot the ratios to FILE")
    options = parser.parse_args()
    rounds, least = (1, 0.0) if options.test else (11, 0.03)
    rows = []
    print("| AdamW step | torch, fused | fused-adam | times as fast |")
    print("|---|---|---|---|")
    for name, theirs, ours, before in cases(options.test):
        pairs = [(timed(theirs, least, before), timed(ours, least, before)) for _ in range(rounds)]
        their, our = (statistics.median(times) for times in zip(*pairs))
        ratio = statistics.median(a / b for a, b in pairs)
        rows.append((name, ratio))
        print(f"| {name} | {their * 1e6:.1f} µs | {our * 1e6:.1f} µs | {ratio:.2f} |", flush=True)
    border()
    if options.plot:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(8, 0.5 * len(rows) + 1.2), layout="constrained")
        names, ratios = zip(*reversed(rows))
        colors = ["#286eb4" if ratio >= 1 else "#c85a3c" for ratio in ratios]
        axes.barh(names, [ratio - 1 for ratio in ratios], left=1, color=colors)
        for name, ratio in zip(names, ratios):
            axes.annotate(
                f"{ratio:.2f}",
                (max(ratio, 1), name),
                (5, 0),
                textcoords="offset points",
                va="center",
            )
        axes.axvline(1, color="black", linewidth=1)
        axes.set_xscale("log")
        axes.set_xlim(min(0.8, *ratios) * 0.95, max(ratios) * 1.3)
        for axis in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
            axis("{x:g}")
        axes.set_xlabel("times as fast as torch's fused AdamW")
        figure.savefig(options.plot)
        print(f"plotted to {options.plot}")


if __name__ == "__main__":
    main()
