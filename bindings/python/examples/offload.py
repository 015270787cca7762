"""Trains a transformer whose optimizer states are on the CPU: with FSDP2, torchao and DeepSpeed.

    python examples/offload.py --plot offload.png --json offload.json
    python examples/offload.py --tiny    # takes seconds, also without an accelerator

Each of the three trains on one accelerator: with torch's fused AdamW, for DeepSpeed also with its
``DeepSpeedCPUAdam``, and with ``fused_adam.torch.AdamW``. Each run is a process of its own. The
model predicts the next byte of the source code of ``torch.nn``, or of a file. A table shows the
last loss and the median times of a step, without the first two steps:

- *optimizer*: in the optimizer, without transfers between the CPU and the accelerator;
- *whole*: the call in the training loop, with all that FSDP2, torchao or DeepSpeed do in it.

Packages that are missing are skipped. torchao needs an accelerator.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

RUNS = [
    ("FSDP2", "torch, fused"),
    ("FSDP2", "fused-adam"),
    ("torchao", "torch, fused"),
    ("torchao", "fused-adam"),
    ("DeepSpeed", "DeepSpeedCPUAdam"),
    ("DeepSpeed", "torch, fused"),
    ("DeepSpeed", "fused-adam"),
]
HYPER = {"lr": 3e-4, "betas": (0.9, 0.95), "weight_decay": 0.1}
#: Steps that are not timed.
WARM_UP = 2


class Skip(Exception):
    """Why a run is not possible here."""


class Transformer(nn.Module):
    """A causal language model over bytes."""

    def __init__(self, width: int, layers: int, context: int) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(256, width), nn.Embedding(context, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width,
                max(width // 64, 1),
                4 * width,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(layers)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 256)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        length, device = tokens.shape[1], tokens.device
        x = self.embed(tokens) + self.position(torch.arange(length, device=device))
        mask = nn.Transformer.generate_square_subsequent_mask(length, device, x.dtype)
        for layer in self.layers:
            x = layer(x, src_mask=mask, is_causal=True)
        return self.head(self.norm(x))


def text(path: str | None) -> torch.Tensor:
    """The bytes of a file, or of the source code of ``torch.nn``."""
    folder = Path(nn.__file__).parent
    files = [Path(path)] if path else sorted(folder.rglob("*.py"))
    return torch.tensor(list(b"".join(file.read_bytes() for file in files)), dtype=torch.uint8)


def batch(data: torch.Tensor, step: int, options: argparse.Namespace) -> torch.Tensor:
    """The tokens of a step: of each sequence one more than the context."""
    length = options.context + 1
    generator = torch.Generator().manual_seed(step)
    starts = torch.randint(len(data) - length, (options.batch,), generator=generator)
    return torch.stack([data[start : start + length] for start in starts.tolist()]).long()


def loss_of(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    logits = model(tokens[:, :-1]).float()
    return nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def accelerator() -> str | None:
    """The type of the accelerator, if there is one."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return found.type if found and found.type != "mps" else None


def synchronize() -> None:
    if accelerator():
        torch.accelerator.synchronize()


def make(name: str, params: Any) -> torch.optim.Optimizer:
    if name == "fused-adam":
        from fused_adam.torch import AdamW

        return AdamW(params, **HYPER)
    return torch.optim.AdamW(params, fused=True, **HYPER)


class Run:
    """A model, and its optimizers. The subclasses are the three ways to offload."""

    #: The optimizers whose steps are timed.
    optimizers: list[torch.optim.Optimizer]

    def __init__(self, model: Transformer, name: str, options: argparse.Namespace) -> None:
        raise NotImplementedError

    def backward(self, tokens: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def step(self) -> None:
        raise NotImplementedError


class Fsdp2(Run):
    """Parameters of ``float32`` and gradients on the CPU. It computes in ``bfloat16``."""

    def __init__(self, model: Transformer, name: str, options: argparse.Namespace) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard

        device = accelerator()
        backend = dist.get_default_backend_for_device(device) if device else "gloo"
        dist.init_process_group(f"cpu:gloo,{device}:{backend}" if device else "gloo")
        mesh = init_device_mesh(device or "cpu", (dist.get_world_size(),))
        # Pinned memory makes transfers fast. It needs an accelerator.
        kind: dict[str, Any] = {
            "mesh": mesh,
            "offload_policy": CPUOffloadPolicy(pin_memory=device is not None),
            "mp_policy": MixedPrecisionPolicy(torch.bfloat16, reduce_dtype=torch.float32),
        }
        for layer in model.layers:
            fully_shard(layer, **kind)
        fully_shard(model, **kind)
        self.model = model
        self.optimizers = [make(name, model.parameters())]

    def backward(self, tokens: torch.Tensor) -> torch.Tensor:
        loss = loss_of(self.model, tokens)
        loss.backward()
        return loss

    def step(self) -> None:
        self.optimizers[0].step()
        self.optimizers[0].zero_grad()


class Torchao(Run):
    """Parameters of ``float32`` on the accelerator, and copies of them on the CPU."""

    def __init__(self, model: Transformer, name: str, options: argparse.Namespace) -> None:
        device = accelerator()
        if device not in ("cuda", "xpu"):
            raise Skip("torchao's CPUOffloadOptimizer needs CUDA or XPU")
        from torchao.optim import CPUOffloadOptimizer

        self.device, self.model = device, model.to(device)
        # fused-adam cannot step small parameters on the accelerator, as torchao does by default.
        # torchao wants a class, to make an optimizer for each parameter.
        self.optimizer = CPUOffloadOptimizer(
            self.model.parameters(), lambda params: make(name, params), minimal_size=0
        )
        self.optimizers = list(self.optimizer.optim_dict.values())

    def backward(self, tokens: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device, torch.bfloat16):
            loss = loss_of(self.model, tokens)
        loss.backward()
        return loss

    def step(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()


class DeepSpeed(Run):
    """ZeRO stage 2: ``bfloat16`` on the accelerator, and ``float32`` parameters on the CPU."""

    def __init__(self, model: Transformer, name: str, options: argparse.Namespace) -> None:
        device = accelerator()
        if device is None:
            os.environ["DS_ACCELERATOR"] = "cpu"
        import deepspeed

        deepspeed.utils.logger.setLevel("ERROR")
        if device is None:
            # Otherwise DeepSpeed compiles a communication operator for the CPU.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        if name == "DeepSpeedCPUAdam":
            if options.tiny and not deepspeed.git_version_info.installed_ops["cpu_adam"]:
                raise Skip("deepspeed was installed without DS_BUILD_CPU_ADAM=1")
            # This compiles it, where it was not done before.
            optimizer = deepspeed.ops.adam.DeepSpeedCPUAdam(model.parameters(), **HYPER)
        else:
            optimizer = make(name, model.parameters())
        config = {
            "train_micro_batch_size_per_gpu": options.batch,
            "bf16": {"enabled": True},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "zero_optimization": {
                "stage": 2,
                "offload_optimizer": {"device": "cpu", "pin_memory": device is not None},
            },
        }
        deepspeed.init_distributed(verbose=False)
        self.engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
        self.optimizers = [optimizer]

    def backward(self, tokens: torch.Tensor) -> torch.Tensor:
        loss = loss_of(self.engine, tokens)
        self.engine.backward(loss)
        return loss

    def step(self) -> None:
        self.engine.step()


PARTS: dict[str, tuple[type[Run], str]] = {
    "FSDP2": (Fsdp2, "torch"),
    "torchao": (Torchao, "torchao"),
    "DeepSpeed": (DeepSpeed, "deepspeed"),
}


def train(part: str, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train, and return the times of steps in seconds and the losses."""
    kind, package = PARTS[part]
    if importlib.util.find_spec(package) is None:
        raise Skip(f"{package} is not installed")
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    data, device = text(options.text), accelerator() or "cpu"
    model = Transformer(options.width, options.layers, options.context)
    size = sum(param.numel() for param in model.parameters())
    run = kind(model, name, options)
    inside, begun = [0.0], [0.0]

    def before(*_: Any) -> None:
        begun[0] = time.perf_counter()

    def after(*_: Any) -> None:
        inside[0] += time.perf_counter() - begun[0]

    for optimizer in run.optimizers:
        optimizer.register_step_pre_hook(before)
        optimizer.register_step_post_hook(after)
    losses, steps, wholes = [], [], []
    for step in range(options.steps):
        loss = run.backward(batch(data, step, options).to(device))
        synchronize()
        inside[0], start = 0.0, time.perf_counter()
        run.step()
        synchronize()
        wholes.append(time.perf_counter() - start)
        steps.append(inside[0])
        losses.append(loss.item())
        if step % max(options.steps // 10, 1) == 0 or step == options.steps - 1:
            where = f"{part}, {name}: step {step + 1} of {options.steps}"
            print(f"{where}, loss {losses[-1]:.4f}", file=sys.stderr, flush=True)
    return {"parameters": size, "optimizer": steps, "whole": wholes, "losses": losses}


def child(part: str, name: str, options: argparse.Namespace) -> None:
    """One run, in the environment of ``start``."""
    folder = Path(options.run)
    try:
        found = train(part, name, options)
    except Skip as reason:
        found = {"skipped": str(reason)}
    if dist.is_initialized():
        dist.destroy_process_group()
    (folder / "result.json").write_text(json.dumps(found))


def start(part: str, name: str, arguments: list[str]) -> dict[str, Any]:
    """One run in a process of its own, with the environment that torchrun gives a single one."""
    environment = {
        **os.environ,
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",
        "GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", "lo"),
    }
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, *arguments, "--run", folder, "--only", part, name]
        done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL)
        result = Path(folder) / "result.json"
        if done.returncode or not result.exists():
            return {"failed": f"the process ended with {done.returncode}"}
        return json.loads(result.read_text())


def table(runs: list[dict[str, Any]]) -> str:
    lines = [f"{'':<10} {'optimizer':<17} {'optimizer ms':>12} {'whole ms':>10} {'loss':>8}"]
    for run in runs:
        line = f"{run['part']:<10} {run['name']:<17} "
        for reason in ("skipped", "failed"):
            if reason in run:
                line += f"{reason}: {run[reason]}"
        if "losses" in run:
            medians = (
                1e3 * statistics.median(run[key][WARM_UP:]) for key in ("optimizer", "whole")
            )
            line += "{:>12.2f} {:>10.2f} ".format(*medians) + f"{run['losses'][-1]:>8.4f}"
        lines.append(line)
    return "\n".join(lines)


def plot(runs: list[dict[str, Any]], path: str) -> None:
    """Draw the losses of each part over each other."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(PARTS), figsize=(12, 3.5), sharey=True)
    styles = {"torch, fused": "C0-", "DeepSpeedCPUAdam": "C2:", "fused-adam": "C1--"}
    for axis, part in zip(axes, PARTS):
        axis.set_title(part)
        axis.set_xlabel("step")
        for run in runs:
            if run["part"] == part and "losses" in run:
                width = 2.0 if run["name"] == "fused-adam" else 1.2
                axis.plot(run["losses"], styles[run["name"]], label=run["name"], linewidth=width)
        if axis.lines:
            axis.legend()
        else:
            axis.text(0.5, 0.5, "skipped", ha="center", transform=axis.transAxes)
    axes[0].set_ylabel("loss")
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="a small model, 8 steps")
    parser.add_argument("--width", type=int, default=1024, help="default: %(default)s")
    parser.add_argument("--layers", type=int, default=24, help="default: %(default)s")
    parser.add_argument("--context", type=int, default=512, help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--threads", type=int, help="of torch; default: all cores")
    parser.add_argument("--text", help="a file; default: the source code of torch.nn")
    parser.add_argument("--json", help="write all times and losses to this file")
    parser.add_argument("--plot", help="draw the losses into this file; needs matplotlib")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="a part; also an optimizer")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.tiny:
        options.width, options.layers, options.context = 64, 2, 32
        options.batch, options.steps = 4, 8
    if options.run:
        child(*options.only, options)
        return

    only = tuple(options.only or ())
    chosen = [run for run in RUNS if run[: len(only)] == only]
    device = accelerator()
    name = torch.get_device_module(device).get_device_name() if device == "cuda" else device
    print(f"torch {torch.__version__}, {name or 'no accelerator'}, {os.cpu_count()} CPUs")
    runs = []
    for part, optimizer in chosen:
        runs.append({"part": part, "name": optimizer, **start(part, optimizer, sys.argv[1:])})
    print(table(runs))
    if options.json:
        header = {"torch": torch.__version__, "accelerator": name, "options": vars(options)}
        Path(options.json).write_text(json.dumps({**header, "runs": runs}, indent=1))
    if options.plot:
        plot(runs, options.plot)
    if any("failed" in run for run in runs):
        sys.exit(1)


if __name__ == "__main__":
    main()
