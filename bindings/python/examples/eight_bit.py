"""Compares optimizer states in 8 bits with states of float32, and with other 8-bit optimizers.

    python examples/eight_bit.py --plot DIR --json FILE    # takes an hour on two cores
    python examples/eight_bit.py --tiny                    # takes seconds, and checks the results

It prints three tables:

- *memory*: the bytes of all tensors in ``optimizer.state``, for each parameter;
- *speed*: the time of ``optimizer.step()``. Each round times all optimizers in turn;
- *training*: a transformer that predicts the next character of the topics of Python's ``help()``.
  Each optimizer trains it from the same weights on the same batches, and *distance* is the RMS
  difference of all weights from those of the run with float32 states.

bitsandbytes and torchao are compared if they are installed. ``--plot`` needs matplotlib.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import math
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from torch import Tensor, nn

import fused_adam
from fused_adam.torch import AdamW, AdamW8bit

HYPER = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}
#: The steps whose distance is printed, and those whose weights are compared.
PRINTED = (100, 300, 1000)
COMPARED = (1, 2, 5, 10, 20, 30, 50, 70, 100, 150, 200, 300, 400, 500, 600, 700, 800, 900, 1000)
#: The elements of a block of bitsandbytes and torchao, which is 8 blocks of fused-adam.
BLOCK = 256

Params = list[nn.Parameter]
Make = Callable[[Params], torch.optim.Optimizer]


# Optimizers.


def bitsandbytes(kind: str = "AdamW8bit", **options: Any) -> Make:
    return lambda params: theirs("bitsandbytes.optim", kind)(params, **HYPER, **options)


def torchao(kind: str = "AdamW8bit", **options: Any) -> Make:
    return lambda params: theirs("torchao.optim", kind)(params, **HYPER, **options)


def theirs(module: str, kind: str) -> Any:
    return getattr(importlib.import_module(module), kind)


def ours(kind: Any = AdamW, **options: Any) -> Make:
    def make(params: Params) -> torch.optim.Optimizer:
        return kind([(str(i), param) for i, param in enumerate(params)], **{**HYPER, **options})

    return make


def torchs(params: Params) -> torch.optim.Optimizer:
    return torch.optim.AdamW(params, **HYPER, fused=True)


class Rounded(AdamW):
    """AdamW with states of float32, which a function rounds after each step."""

    def __init__(self, *arguments: Any, codes: Callable[[Tensor, Tensor], None], **options: Any):
        super().__init__(*arguments, **options)
        self.codes = codes

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        result = super().step(closure)
        for state in self.state.values():
            self.codes(state["exp_avg"], state["exp_avg_sq"])
        return result


def to_nearest(m: Tensor, v: Tensor) -> None:
    """Round to the nearest codes of fused-adam."""
    rule = fused_adam.Rule("adamw")
    for name, state in (("m", m), ("v", v)):
        blocks = fused_adam.encode_state(rule, name, state.numpy())
        state.copy_(torch.from_numpy(fused_adam.decode_state(rule, name, blocks, state.shape)))


def flashoptim(m: Tensor, v: Tensor) -> None:
    """Round to the codes of FlashOptim, arXiv 2602.23349: to nearest, with scales of float16."""
    m, v = m.view(-1, 32), v.view(-1, 32)
    scale = m.abs().amax(1, keepdim=True).clamp(min=1e-12)
    x = m / scale
    y = torch.floor(2 * x / (1 + x.abs()) * 127 + 0.5) / 127
    m.copy_(y / (2 - y.abs()) * scale.half().float())
    root = v.sqrt()
    scale = root.amax(1, keepdim=True).clamp(min=1e-12)
    v.copy_((torch.floor(root / scale * 255 + 0.5) / 255 * scale.half().float()).square())


class Half(torch.optim.Optimizer):
    """Trains a bfloat16 parameter in the place of a float32 one.

    Args:
        params: one parameter of float32, which the model uses. A step sets it.
        make: creates the optimizer of the bfloat16 parameter.
        exact: if True, the model uses the master weights, and the gradient is float32. If False,
            the model uses the bfloat16 parameter, and the gradient is rounded to bfloat16.
    """

    def __init__(self, params: Params, make: Make, exact: bool = False) -> None:
        super().__init__(params, {})
        (self.used,) = params
        self.exact = exact
        self.theta = nn.Parameter(self.used.detach().bfloat16())
        self.theta.grad_dtype = torch.float32 if exact else torch.bfloat16
        self.inner = make([self.theta])
        self.show()

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        self.theta.grad = self.used.grad.to(self.theta.grad_dtype)
        self.inner.step()
        self.show()

    @torch.no_grad()
    def show(self) -> None:
        self.used.copy_(self.master() if self.exact else self.theta)

    def master(self) -> Tensor:
        """The bfloat16 parameter joined with its correction, where there is one."""
        theta = self.theta.detach()
        correction = self.inner.state[self.theta].get("correction")
        if correction is None:
            return theta.float()
        if correction.dtype == torch.uint8:
            low = correction.view(torch.int8).int() << 8
        else:
            low = correction.int()
        return ((theta.view(torch.int16).int() << 16) + low).view(torch.float32)


class Copied(torch.optim.Optimizer):
    """Trains float32 master weights, of which the model uses a copy in bfloat16."""

    def __init__(self, params: Params) -> None:
        super().__init__(params, {})
        (self.used,) = params
        self.theta = nn.Parameter(self.used.detach().clone())
        self.inner = ours()([self.theta])
        with torch.no_grad():
            self.used.copy_(self.theta.bfloat16())

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        self.theta.grad = self.used.grad.bfloat16().float()
        self.inner.step()
        self.used.copy_(self.theta.bfloat16())

    def master(self) -> Tensor:
        return self.theta.detach()


def half(make: Make, exact: bool = False) -> Make:
    return lambda params: Half(params, make, exact)


@dataclass(frozen=True)
class Run:
    """A row of the table of training.

    Attributes:
        name: what the table calls it.
        make: creates the optimizer.
        flat: whether all weights are one parameter, so that all states are in 8 bits.
        package: what has to be installed.
        control: whether it is enough to train with one seed.
        reference: the run from which the distance is measured.
    """

    name: str
    make: Make
    flat: bool = True
    package: str = "fused_adam"
    control: bool = False
    reference: str = "f32"


RUNS = [
    Run("f32", ours()),
    Run("f32, repeated", ours(), control=True),
    Run("f32, torch.optim", torchs, control=True),
    Run("f32, bitsandbytes", bitsandbytes("AdamW"), package="bitsandbytes", control=True),
    Run("f32, torchao", torchao("_AdamW"), package="torchao", control=True),
    Run("f32, lr * (1 + 1e-6)", ours(lr=HYPER["lr"] * (1 + 1e-6))),
    Run("8 bit", ours(AdamW8bit, min_8bit_size=0)),
    Run("8 bit, large tensors", ours(AdamW8bit), flat=False, control=True),
    Run("8 bit, to nearest", ours(Rounded, codes=to_nearest)),
    Run("FlashOptim's codes", ours(Rounded, codes=flashoptim)),
    Run("bf16, to nearest", ours(state_dtype=torch.bfloat16), control=True),
    Run("bf16, stochastic", ours(state_dtype=torch.bfloat16, stochastic_rounding=True)),
    Run("bitsandbytes", bitsandbytes(min_8bit_size=0), package="bitsandbytes"),
    Run(
        "bitsandbytes, large tensors",
        bitsandbytes(),
        flat=False,
        package="bitsandbytes",
        control=True,
    ),
    Run("torchao", torchao(), package="torchao"),
    Run("torchao, large tensors", torchao(), flat=False, package="torchao", control=True),
]
#: The model computes with weights that are rounded to bfloat16, and so are the gradients.
COPIED = "bf16 θ, f32 master weights"
EIGHT: dict[str, Any] = {"state": "8bit", "min_8bit_size": 0}
SPLIT24, SPLIT32 = {"master_weights": "split24"}, {"master_weights": "split32"}
RUNS += [
    Run("split32 θ, f32", half(ours(**SPLIT32), exact=True), control=True),
    Run("split24 θ, 8 bit", half(ours(**SPLIT24, **EIGHT), exact=True)),
    Run(COPIED, Copied, reference=COPIED),
    Run("bf16 θ, split24, 8 bit", half(ours(**SPLIT24, **EIGHT)), reference=COPIED),
    Run(
        "bf16 θ, 8 bit, stochastic",
        half(ours(**EIGHT, stochastic_rounding=True)),
        reference=COPIED,
    ),
    Run(
        "bf16 θ, f32, stochastic",
        half(ours(state_dtype=torch.float32, stochastic_rounding=True)),
        reference=COPIED,
        control=True,
    ),
]


def missing(package: str) -> str | None:
    """Why a package cannot be compared."""
    return None if importlib.util.find_spec(package) else f"{package} is not installed"


# Training.


class Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        parts = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        attention = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attention.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """A causal language model over 96 characters. All its weights are parts of ``flat``."""

    def __init__(self, seed: int, options: argparse.Namespace) -> None:
        super().__init__()
        torch.manual_seed(seed)
        width, layers = options.width, options.layers
        self.embed, self.position = nn.Embedding(96, width), nn.Embedding(options.context, width)
        self.layers = nn.ModuleList(Layer(width, 4) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 96, bias=False)
        for name, param in self.named_parameters():
            if param.dim() == 2:
                scale = 0.02 / math.sqrt(2 * layers) if "out" in name or "down" in name else 0.02
                nn.init.normal_(param, std=scale)
            elif "bias" in name:
                nn.init.zeros_(param)
        # Each tensor begins at a block, so that the blocks are those of separate tensors.
        lens = [-(-param.numel() // BLOCK) * BLOCK for param in self.parameters()]
        flat = nn.Parameter(torch.zeros(sum(lens)))
        flat.grad = torch.zeros_like(flat)
        pieces = zip(self.parameters(), flat.data.split(lens), flat.grad.split(lens))
        self.own = torch.zeros(len(flat), dtype=torch.bool)
        for (param, data, grad), mask in zip(pieces, self.own.split(lens)):
            size, shape = param.numel(), param.shape
            data[:size] = param.data.flatten()
            mask[:size] = True
            # Values of bfloat16, so that all runs begin with the same weights.
            data.copy_(data.bfloat16())
            param.data, param.grad = data[:size].view(shape), grad[:size].view(shape)
        # Not a parameter of this module, but of the optimizer.
        self.flat = [flat]

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.position.weight
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))

    def loss(self, windows: Tensor) -> Tensor:
        logits = self(windows[:, :-1])
        return nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


def text() -> str:
    """The topics of Python's ``help()``, which every installation of Python has."""
    return "\n".join(topics[name] for name in sorted(topics))


def tokens() -> tuple[Tensor, Tensor]:
    """The text as numbers below 96, and its held-out last tenth."""
    codes = [ord(char) - 31 if " " <= char <= "~" else int(char != "\n") for char in text()]
    data = torch.tensor(codes)
    border = len(data) * 9 // 10
    return data[:border], data[border:]


def windows(data: Tensor, count: int, generator: torch.Generator, length: int) -> Tensor:
    starts = torch.randint(len(data) - length, (count, 1), generator=generator)
    return data[starts + torch.arange(length + 1)]


def train(task: tuple[int, str, argparse.Namespace]) -> dict[str, Any]:
    """Train on one thread. Return held-out losses, and the weights after the steps ``COMPARED``."""
    seed, name, options = task
    torch.set_num_threads(1)
    (run,) = (run for run in RUNS if run.name == name)
    if options.tiny:
        # torchao compiles its step, which takes longer than the rest.
        torch.compiler.set_stance("force_eager")
    model = Transformer(seed, options)
    optimizer = run.make(model.flat if run.flat else list(model.parameters()))
    training, held_out = tokens()
    length = options.context
    held_out = windows(held_out, 96, torch.Generator().manual_seed(0), length)
    batches = torch.Generator().manual_seed(seed)
    weights, losses = {}, {}
    begun = time.perf_counter()
    for step in range(options.steps + 1):
        if step % 50 == 0 or step == options.steps:
            with torch.no_grad():
                losses[step] = statistics.mean(
                    model.loss(part).item() for part in held_out.split(8)
                )
        if step in (0, *COMPARED, options.steps):
            has_master = isinstance(optimizer, (Half, Copied))
            master = optimizer.master() if has_master else model.flat[0].detach()
            weights[step] = master[model.own]
        if step < options.steps:
            model.flat[0].grad.zero_()
            model.loss(windows(training, options.batch, batches, length)).backward()
            optimizer.step()
    took = time.perf_counter() - begun
    return {
        "seed": seed,
        "name": name,
        "losses": losses,
        "weights": {step: kept.numpy() for step, kept in weights.items()},
        "state_bytes": bytes_of(optimizer)[0] / int(model.own.sum()),
        "sizes": {key: param.numel() for key, param in model.named_parameters()},
        "took": took,
    }


def training(options: argparse.Namespace, results: list[dict[str, Any]]) -> Iterator[None]:
    """Train with each optimizer and seed. Yields after each run."""
    wanted = {run.reference for run in RUNS if run.name in (options.runs or [])}
    wanted.update(options.runs or [])
    chosen = []
    for run in RUNS:
        if reason := missing(run.package):
            print(f"{run.name}: skipped: {reason}", file=sys.stderr)
        elif not options.runs or run.name in wanted:
            chosen.append(run)
    tasks = [
        (seed, run.name, options)
        for seed in range(1, options.seeds + 1)
        for run in chosen
        if seed == 1 or not run.control
    ]
    references: dict[str, dict[int, Any]] = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=context) as pool:
        for i, result in enumerate(pool.map(train, tasks), 1):
            weights = result.pop("weights")
            (run,) = (run for run in chosen if run.name == result["name"])
            if run.name == run.reference:
                references[run.name] = weights
            reference = references[run.reference]
            result["reference"] = run.reference
            # In float64, where the squares of small differences do not underflow.
            far = {step: kept.astype("float64") - reference[step] for step, kept in weights.items()}
            last = far[options.steps]
            result["distances"] = {step: rms(difference) for step, difference in far.items()}
            result["moved"] = rms(weights[options.steps].astype("float64") - weights[0])
            result["largest"] = float(abs(last).max())
            sizes = result.pop("sizes")
            result["of_tensors"] = {
                step: dict(zip(sizes, squares(far[step], list(sizes.values()))))
                for step in (*PRINTED, options.steps)
                if step in far
            }
            results.append(result)
            loss, distance = result["losses"][options.steps], result["distances"][options.steps]
            print(
                f"{i:3}/{len(tasks)}  seed {result['seed']}  {result['name']:<28}  "
                f"loss {loss:.4f}  distance {distance:.2e}  {result['took']:4.0f} s",
                file=sys.stderr,
                flush=True,
            )
            yield


def rms(x: Any) -> float:
    return float((x * x).mean() ** 0.5)


def squares(x: Any, sizes: list[int]) -> list[float]:
    """The sum of squares of each of the tensors of which ``x`` consists."""
    borders = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    return [float((x[a:b] ** 2).sum()) for a, b in zip(borders, borders[1:])]


def training_table(results: list[dict[str, Any]]) -> str:
    """One row for each optimizer, over all seeds."""
    last = max(results[0]["losses"], key=int)
    printed = sorted(
        {step for step in (*map(str, PRINTED), last) if step in results[0]["distances"]}, key=int
    )
    final = {(r["seed"], r["name"]): r["losses"][last] for r in results}
    steps = " | ".join(f"at {step}" for step in printed)
    lines = [
        f"| states | held-out loss | minus f32 | {steps} |",
        "|---|---|---|" + "---|" * len(printed),
    ]
    for name in dict.fromkeys(result["name"] for result in results):
        mine = [result for result in results if result["name"] == name]
        losses = [result["losses"][last] for result in mine]
        beside = [final[r["seed"], name] - final[r["seed"], r["reference"]] for r in mine]
        cells = [average(losses, ".4f"), average(beside, "+.4f")]
        for step in printed:
            distances = [result["distances"][step] for result in mine]
            cells.append(f"{geometric(distances):.1e}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def average(numbers: list[float], form: str) -> str:
    """The mean and the standard deviation."""
    mean = format(statistics.mean(numbers), form)
    return f"{mean} ± {statistics.stdev(numbers):.4f}" if len(numbers) > 1 else mean


def geometric(numbers: list[float]) -> float:
    return statistics.geometric_mean(numbers) if min(numbers) > 0.0 else max(numbers)


# Memory.


def bytes_of(optimizer: torch.optim.Optimizer) -> tuple[int, int]:
    """The bytes of all tensors in the states of an optimizer, and of those in ``correction``."""
    found: dict[int, int] = {}

    def visit(value: Any) -> None:
        if hasattr(value, "__tensor_flatten__"):
            for name in value.__tensor_flatten__()[0]:
                visit(getattr(value, name))
        elif isinstance(value, Tensor):
            # A tensor of codes that all states share counts once.
            found[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()

    corrections = 0
    for state in getattr(optimizer, "inner", optimizer).state.values():
        for name, value in state.items():
            if name == "correction":
                corrections += value.nbytes
            else:
                visit(value)
    return sum(found.values()), corrections


def memory(options: argparse.Namespace, rows: list[dict[str, Any]]) -> Iterator[None]:
    """Bytes a parameter of one large tensor, for float32 and for bfloat16 parameters."""
    size = 1 << (16 if options.tiny else 20)
    for dtype in (torch.float32, torch.bfloat16):
        for name, (package, make) in steppers(dtype).items():
            if missing(package):
                continue
            param = nn.Parameter(torch.zeros(size, dtype=dtype))
            param.grad = torch.ones_like(param)
            optimizer = make([param])
            # torchao need not compile its step for this.
            with torch.compiler.set_stance("force_eager"):
                optimizer.step()
            states, corrections = bytes_of(optimizer)
            row = {"name": name, "parameters": str(dtype).removeprefix("torch.")}
            row["weight_bytes"] = dtype.itemsize + corrections / size
            row["state_bytes"] = states / size
            rows.append(row)
            yield


def memory_table(rows: list[dict[str, Any]]) -> str:
    lines = ["| parameters | optimizer | weights | states | both |", "|---|---|---|---|---|"]
    for row in rows:
        weight, state = row["weight_bytes"], row["state_bytes"]
        kind = row["parameters"]
        lines.append(
            f"| {kind} | {row['name']} | {weight:g} | {state:.3f} | {weight + state:.3f} |"
        )
    return "\n".join(lines)


# Speed.


def steppers(dtype: torch.dtype) -> dict[str, tuple[str, Make]]:
    """The optimizers whose step is timed: names, packages and how to create them."""
    if dtype == torch.float32:
        return {
            "torch.optim, fused": ("torch", torchs),
            "fused-adam, f32": ("fused_adam", ours()),
            "fused-adam, 8 bit": ("fused_adam", ours(AdamW8bit)),
            "bitsandbytes": ("bitsandbytes", bitsandbytes()),
            "torchao": ("torchao", torchao()),
        }
    stochastic = {"stochastic_rounding": True}
    return {
        "torch.optim, fused": ("torch", torchs),
        "fused-adam, bf16": ("fused_adam", ours(**stochastic)),
        "fused-adam, 8 bit": ("fused_adam", ours(AdamW8bit, **stochastic)),
        "fused-adam, split24, 8 bit": ("fused_adam", ours(AdamW8bit, **SPLIT24)),
        "bitsandbytes": ("bitsandbytes", bitsandbytes()),
        "torchao": ("torchao", torchao(bf16_stochastic_round=True)),
    }


def timed(call: Callable[[], object], least: float) -> float:
    """Return the time of one call in seconds."""
    took, calls = 0.0, 0
    while True:
        start = time.perf_counter()
        call()
        took += time.perf_counter() - start
        calls += 1
        if took >= least:
            return took / calls


def cases(options: argparse.Namespace) -> Iterator[tuple[str, torch.dtype, list[int]]]:
    if options.tiny:
        yield "2^14", torch.float32, [1 << 14]
        yield "2^14", torch.bfloat16, [1 << 14]
        return
    for dtype in (torch.float32, torch.bfloat16):
        yield "2^16", dtype, [1 << 16]
        yield "2^24", dtype, [1 << 24]
        yield "64 of 2^18", dtype, [1 << 18] * 64


def speed(options: argparse.Namespace, rows: list[dict[str, Any]]) -> Iterator[None]:
    """Time the steps of all optimizers. Yields after each case."""
    torch.set_num_threads(options.threads)
    rounds, least = (3, 0.0) if options.tiny else (options.rounds, 0.05)
    if options.tiny:
        torch.compiler.set_stance("force_eager")
    for name, dtype, lens in cases(options):
        # All optimizers step the same parameters. Each has its own states.
        params = [nn.Parameter(torch.full((n,), 0.5, dtype=dtype)) for n in lens]
        for param in params:
            param.grad = torch.rand(param.shape).add_(0.1).to(dtype)
        steps = {}
        for optimizer, (package, make) in steppers(dtype).items():
            if reason := missing(package):
                print(f"{optimizer}: skipped: {reason}", file=sys.stderr)
                continue
            steps[optimizer] = make(params).step
            start = time.perf_counter()
            # The first call creates the states. torchao compiles its step.
            steps[optimizer]()
            steps[optimizer]()
            first = time.perf_counter() - start
            print(f"{name}, {optimizer}: the first steps took {first:.1f} s", file=sys.stderr)
        times: dict[str, list[float]] = {optimizer: [] for optimizer in steps}
        for _ in range(rounds):
            for optimizer, step in steps.items():
                step()
                times[optimizer].append(timed(step, least))
        rows += [
            {
                "case": name,
                "parameters": str(dtype).removeprefix("torch."),
                "elements": sum(lens),
                "name": optimizer,
                "times": kept,
            }
            for optimizer, kept in times.items()
        ]
        del steps, params
        yield


def speed_table(rows: list[dict[str, Any]]) -> str:
    """The medians, and how many times as long as the 8-bit step of fused-adam."""
    lines = [
        "| parameters | elements | optimizer | ms | ns an element | ratio to 8 bit |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        (eight,) = (
            other["times"]
            for other in rows
            if other["name"] == "fused-adam, 8 bit"
            and all(other[key] == row[key] for key in ("case", "parameters"))
        )
        median = statistics.median(row["times"])
        beside = statistics.median(a / b for a, b in zip(row["times"], eight))
        lines.append(
            f"| {row['parameters']} | {row['case']} | {row['name']} | {median * 1e3:.3g} "
            f"| {median * 1e9 / row['elements']:.3g} | {beside:.3g} |"
        )
    return "\n".join(lines)


# The program.


def check(found: dict[str, Any], options: argparse.Namespace) -> None:
    """Raise AssertionError where a result is not as it should be."""
    for row in found.get("memory", []):
        if row["name"] == "fused-adam, 8 bit":
            # Two codes, two scales for 32, and less than 100 bytes for step number and seed.
            assert row["state_bytes"] < 66 / 32 + 100 / (1 << 16), row
    results = {(r["name"], r["seed"]): r for r in found.get("training", [])}
    last = str(options.steps)
    for (name, seed), result in results.items():
        reference = results[result["reference"], seed]
        loss, losses = reference["losses"][last], result["losses"]
        assert losses[last] < losses["0"] - 1, (name, losses)
        if name in ("f32, repeated", "split32 θ, f32"):
            assert set(result["distances"].values()) == {0.0}, result["distances"]
        if name in ("8 bit", "split24 θ, 8 bit"):
            assert abs(losses[last] - loss) < 0.02, (seed, losses[last], loss)
            distance = result["distances"][last]
            assert 0.0 < distance < 0.1 * reference["moved"], (distance, reference["moved"])
        if name == "split24 θ, 8 bit" and ("8 bit", seed) in results:
            # θ in 24 bits adds little.
            ratio = distance / results["8 bit", seed]["distances"][last]
            assert 0.8 < ratio < 1.2, (seed, ratio)


def machine() -> dict[str, Any]:
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    for package in ("bitsandbytes", "torchao"):
        if not missing(package):
            versions[package] = importlib.metadata.version(package)
    digest = hashlib.sha256(text().encode()).hexdigest()[:16]
    return {"versions": versions, "text": f"{len(text())} characters, SHA-256 {digest}…"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="a small model; check the results")
    parser.add_argument("--only", choices=["memory", "speed", "training"], help="one table")
    parser.add_argument("--seeds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--runs", nargs="+", metavar="NAME", help="rows of the table of training")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes that train")
    parser.add_argument("--threads", type=int, default=2, help="of a timed step; default: 2")
    parser.add_argument("--rounds", type=int, default=15, help="default: %(default)s")
    parser.add_argument("--json", metavar="FILE", help="write all results to FILE")
    parser.add_argument("--read", metavar="FILE", help="read results; run nothing")
    parser.add_argument("--plot", metavar="DIR", help="draw pictures into DIR")
    options = parser.parse_args()
    options.width, options.layers, options.context, options.batch = 80, 3, 64, 8
    if options.tiny:
        options.runs = options.runs or [
            "f32, repeated",
            "split32 θ, f32",
            "8 bit",
            "bitsandbytes",
            "torchao",
            "split24 θ, 8 bit",
        ]
        options.width, options.layers, options.context = 48, 2, 32
        options.seeds, options.steps = min(options.seeds, 2), min(options.steps, 120)

    found: dict[str, Any] = {}
    parts = {"memory": memory, "speed": speed, "training": training}
    tables = {"memory": memory_table, "speed": speed_table, "training": training_table}
    if options.read:
        found = json.loads(Path(options.read).read_text())
    else:
        found["machine"] = machine()
        for name, run in parts.items():
            if options.only in (None, name):
                found[name] = []
                for _ in run(options, found[name]):
                    if options.json:
                        Path(options.json).write_text(json.dumps(found))
        # The keys are strings then, as when the results are read from a file.
        found = json.loads(json.dumps(found))
    print(*(f"{key}: {value}" for key, value in found["machine"].items()), sep="\n")
    for name, table in tables.items():
        if name in found:
            print(f"\n{name.capitalize()}\n\n{table(found[name])}")
    if options.tiny:
        check(found, options)
    if options.plot:
        import eight_bit_plots

        eight_bit_plots.draw(found, Path(options.plot))


if __name__ == "__main__":
    main()
