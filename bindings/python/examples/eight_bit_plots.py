"""Draws the results of ``eight_bit.py``: curves of training, distances from f32, and costs."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

GREY, OURS, LIGHT, BNB, AO = "#55595e", "#1f6fb5", "#6fb1e0", "#d9702b", "#2e8b57"
COLORS = {
    "torch.optim, fused": GREY,
    "fused-adam, f32": LIGHT,
    "fused-adam, bf16": LIGHT,
    "fused-adam, 8 bit": OURS,
    "bitsandbytes": BNB,
    "torchao": AO,
}
#: The runs whose curves and distances are drawn, with their colors and what the pictures call them.
CURVES = [
    ("8 bit", OURS, "fused-adam"),
    ("bitsandbytes", BNB, "bitsandbytes"),
    ("torchao", AO, "torchao"),
]
DISTANCES = [
    *reversed(CURVES),
    ("f32, lr * (1 + 1e-6)", GREY, "f32, lr × (1 + 10⁻⁶)"),
]


def draw(found: dict[str, Any], folder: Path) -> None:
    plt.rcParams.update(
        {
            "font.size": 11,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": "#999999",
            "axes.titlelocation": "left",
            "axes.titleweight": "bold",
            "axes.titlesize": 12,
            "svg.hashsalt": "fused-adam",
            "figure.facecolor": "white",
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    if "training" in found:
        save(training(found["training"]), folder / "eight-bit-training.svg")
        save(distances(found["training"]), folder / "eight-bit-distance.svg")
    if "memory" in found and "speed" in found:
        save(costs(found), folder / "eight-bit-cost.svg")


def save(figure: Any, file: Path) -> None:
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)
    print(f"plotted to {file}")


def of(results: list[dict[str, Any]], name: str, key: str) -> tuple[list[int], list[list[float]]]:
    """The steps, and for each seed the values of all steps."""
    mine = [result[key] for result in results if result["name"] == name]
    return [int(step) for step in mine[0]], [list(values.values()) for values in mine]


def training(results: list[dict[str, Any]]) -> Any:
    """Held-out losses over those of f32, and below it the differences."""
    names = {result["name"] for result in results}
    curves = [curve for curve in CURVES if curve[0] in names]
    figure, axes = plt.subplots(
        2,
        len(curves),
        figsize=(9, 5.6),
        sharex=True,
        sharey="row",
        squeeze=False,
        layout="constrained",
        height_ratios=[1.35, 1],
    )
    steps, reference = of(results, "f32", "losses")
    mean = [statistics.mean(column) for column in zip(*reference)]
    scatter = [statistics.stdev(column) for column in zip(*reference)]
    skip = next(i for i, step in enumerate(steps) if step >= 100)
    for (name, color, label), (above, below) in zip(curves, axes.T):
        _, losses = of(results, name, "losses")
        own = [statistics.mean(column) for column in zip(*losses)]
        above.set_title(label, color=color)
        above.plot(steps, mean, color="#c9ccd1", linewidth=7, solid_capstyle="round")
        above.plot(steps, own, color=color, linewidth=1.8)
        final = f"{own[-1]:.3f}"
        above.annotate(
            final,
            (steps[-1], own[-1]),
            (0, 10),
            textcoords="offset points",
            ha="right",
            color=color,
        )
        below.fill_between(
            steps[skip:],
            [-x for x in scatter[skip:]],
            scatter[skip:],
            color="#e6e8eb",
            linewidth=0,
        )
        below.axhline(0, color="#9aa0a6", linewidth=1)
        differences = [[a - b for a, b in zip(x, y)] for x, y in zip(losses, reference)]
        for difference in differences:
            below.plot(steps[skip:], difference[skip:], color=color, linewidth=0.8, alpha=0.45)
        average = [statistics.mean(column) for column in zip(*differences)]
        below.plot(steps[skip:], average[skip:], color=color, linewidth=2.2)
        below.set_xlabel("step")
    axes[0, 0].set_ylabel("held-out loss")
    axes[1, 0].set_ylabel("minus that of f32")
    axes[0, 0].annotate(
        "wide grey line: f32 states",
        (steps[2], mean[2]),
        (18, 8),
        textcoords="offset points",
        color=GREY,
        fontsize=10,
    )
    axes[1, 0].annotate(
        "grey band: scatter of f32 over seeds",
        (0.98, 0.03),
        xycoords="axes fraction",
        ha="right",
        color=GREY,
        fontsize=9.5,
    )
    return figure


def distances(results: list[dict[str, Any]]) -> Any:
    """The distances of all weights from those of f32, over the steps."""
    names = {result["name"] for result in results}
    figure, axes = plt.subplots(figsize=(9, 4.8), layout="constrained")
    ends = []
    for name, color, label in DISTANCES:
        if name not in names:
            continue
        steps, kept = of(results, name, "distances")
        # The first step begins with the same states, so it has no distance.
        steps, kept = steps[2:], [values[2:] for values in kept]
        for values in kept:
            axes.plot(steps, values, color=color, linewidth=0.8, alpha=0.4)
        mean = [statistics.geometric_mean(column) for column in zip(*kept)]
        axes.plot(steps, mean, color=color, linewidth=2.6)
        ends.append((mean[-1], color, label))
    below = 0.0
    for end, color, label in sorted(ends):
        # Labels that would overlap are moved up.
        below = max(end, 2.3 * below)
        text = f"{label}  {scientific(end)}"
        axes.annotate(
            text,
            (steps[-1], below),
            (8, 0),
            textcoords="offset points",
            va="center",
            color=color,
            annotation_clip=False,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(steps[0], steps[-1])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("step")
    axes.set_title("RMS distance of all weights from the run with f32 states")
    axes.grid(axis="y", color="#eceef0")
    return figure


def scientific(x: float) -> str:
    mantissa, exponent = f"{x:.1e}".split("e")
    return f"{mantissa} · 10" + str(int(exponent)).translate(
        str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    )


def costs(found: dict[str, Any]) -> Any:
    """Bars: the bytes of a parameter, and the time of a step."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained", sharey=True)
    memory = {row["name"]: row for row in found["memory"] if row["parameters"] == "float32"}
    rows = [row for row in found["speed"] if row["parameters"] == "float32"]
    # A tiny run has only one size.
    chosen = [row for row in rows if row["case"] == "2^24"] or rows
    speed = {row["name"]: statistics.median(row["times"]) * 1e9 / row["elements"] for row in chosen}
    names = [name for name in reversed(COLORS) if name in speed and name in memory]
    colors = [COLORS[name] for name in names]
    states = [memory[name]["state_bytes"] for name in names]
    times = [speed[name] for name in names]
    left.barh(names, states, color=colors)
    right.barh(names, times, color=colors)
    for name, state, took in zip(names, states, times):
        for axes, text, x in ((left, f"{state:.2f}", state), (right, f"{took:.2g}", took)):
            axes.annotate(text, (x, name), (4, 0), textcoords="offset points", va="center")
    left.set_title("bytes of states a parameter")
    right.set_title("ns an element and step")
    left.set_xlim(0, 9.5)
    right.set_xlim(0, max(times) * 1.15)
    for axes in (left, right):
        axes.tick_params(axis="y", length=0)
        axes.spines["bottom"].set_visible(False)
        axes.set_xticks([])
    return figure
