"""What the tests run on two processes: torch's data-parallel wrappers."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler
from torch.nn.parallel import DistributedDataParallel

import fused_adam.torch as fused
from workers import Check

PROCESSES = 2
SIDES = {"ours": fused, "torchs": torch.optim}
#: The step in which a gradient is infinite, of how many.
INFINITE, STEPS = 2, 4


def model(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))


def sharded(seed: int = 0, use_orig_params: bool = False) -> FullyShardedDataParallel:
    device = torch.device("cpu")
    return FullyShardedDataParallel(model(seed), device_id=device, use_orig_params=use_orig_params)


def loss_of(network: torch.nn.Module, rank: int, step: int) -> torch.Tensor:
    """The loss on data that differ between the ranks."""
    generator = torch.Generator().manual_seed(PROCESSES * step + rank)
    x = torch.randn(8, 6, generator=generator)
    return (network(x) - x[:, :3].cos()).square().mean()


def train(
    network: torch.nn.Module, optimizer: torch.optim.Optimizer, rank: int, steps: range
) -> None:
    for step in steps:
        optimizer.zero_grad()
        loss_of(network, rank, step).backward()
        optimizer.step()


def copies(network: torch.nn.Module) -> list[torch.Tensor]:
    return [param.detach().clone() for param in network.parameters()]


def with_infinite_gradients(
    rank: int, world: int, folder: Path
) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Trains with FSDP and a loss scale. In one step, the shard of rank 0 has an infinity."""
    found = {}
    for key in itertools.product(SIDES, (None, True), (False, True), (False, True)):
        side, fused_option, unscale, use_orig_params = key
        if side == "torchs" and fused_option and unscale:
            continue  # torch raises: the scaler's flag has another shape than its step number.
        network = sharded(use_orig_params=use_orig_params)
        params = list(network.parameters())
        optimizer = SIDES[side].AdamW(params, lr=0.01, fused=fused_option)
        scaler = ShardedGradScaler("cpu", init_scale=1024.0)
        moved, scales = [], []
        for step in range(STEPS):
            optimizer.zero_grad()
            scaler.scale(loss_of(network, rank, step)).backward()
            if step == INFINITE and rank == 0:
                next(p for p in params if p.numel()).grad.view(-1)[0] = float("inf")
            before = copies(network)
            if unscale:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
            moved.append(not all(map(torch.equal, before, copies(network))))
            scales.append(scaler.get_scale())
        steps = [float(optimizer.state[param]["step"]) for param in params if param.numel()]
        found[key] = {"moved": moved, "scales": scales, "shards": copies(network), "steps": steps}
    return found


def data_parallel(
    rank: int, world: int, folder: Path
) -> dict[tuple[str, bool], list[torch.Tensor]]:
    """Trains with DDP, whose gradients are views of buckets, with and without clipping."""
    found = {}
    for side, clip in itertools.product(SIDES, (False, True)):
        network = DistributedDataParallel(model(), gradient_as_bucket_view=True)
        optimizer = SIDES[side].AdamW(network.parameters(), lr=0.01)
        for step in range(5):
            optimizer.zero_grad()
            loss_of(network, rank, step).backward()
            if clip and side == "ours":
                fused.clip_grad_norm_and_step(optimizer, 0.1)
            else:
                if clip:
                    torch.nn.utils.clip_grad_norm_(network.parameters(), 0.1)
                optimizer.step()
        found[side, clip] = copies(network)
    return found


#: Optimizers whose states are sharded and saved, with their options.
SAVED: list[tuple[str, dict[str, Any]]] = [
    ("AdamW", {"lr": 0.01, "amsgrad": True}),
    ("RMSprop", {"lr": 0.01, "centered": True, "momentum": 0.9}),
]


def sharded_checkpoints(
    rank: int, world: int, folder: Path
) -> dict[tuple[str, str, str], Any]:
    """Saves a run with FSDP, and goes on with ours or torch's, or without a break."""
    found = {}
    for name, options in SAVED:
        for before in SIDES:
            network = sharded()
            optimizer = getattr(SIDES[before], name)(network.parameters(), **options)
            train(network, optimizer, rank, range(4))
            saved = dict(zip(("model", "optimizer"), get_state_dict(network, optimizer)))
            path = folder / f"{name}-{before}"
            dcp.save(saved, checkpoint_id=path)
            train(network, optimizer, rank, range(4, 8))
            found[name, before, "without a break"] = copies(network)
            for after in SIDES:
                network = sharded(seed=5)
                optimizer = getattr(SIDES[after], name)(network.parameters(), **options)
                loaded = dict(zip(("model", "optimizer"), get_state_dict(network, optimizer)))
                dcp.load(loaded, checkpoint_id=path)
                set_state_dict(
                    network,
                    optimizer,
                    model_state_dict=loaded["model"],
                    optim_state_dict=loaded["optimizer"],
                )
                train(network, optimizer, rank, range(4, 8))
                found[name, before, after] = copies(network)
    return found


CHECKS: list[Check] = [
    with_infinite_gradients,
    data_parallel,
    sharded_checkpoints,
]
