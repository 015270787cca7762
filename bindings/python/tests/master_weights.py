"""What the tests of split master weights share, and what they run on one or two processes."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

import dtensors
import fused_adam.torch as fused
from dtensors import STEPS, TENSORS, whole
from block8 import advance, contents, grad_of, local, whole_of
from fused_adam import Rule
from workers import Check

OPTIONS = ("split24", "split32")
DTYPES = {"split24": torch.uint8, "split32": torch.int16}

Found = dict[Any, Any]


def model(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    layers = torch.nn.Linear(12, 10), torch.nn.Tanh(), torch.nn.Linear(10, 12)
    return torch.nn.Sequential(*layers).bfloat16()


def backward(network: torch.nn.Module, step: int) -> None:
    """The same data on all ranks."""
    x = torch.randn(8, 12, generator=torch.Generator().manual_seed(step)).bfloat16()
    network.zero_grad()
    (network(x) - x.cos()).square().mean().backward()


def data_parallel(rank: int, world: int, folder: Path) -> Found:
    """Trains with DDP, with the optimizer alone and in a ``ZeroRedundancyOptimizer``."""
    found: Found = {}
    for how, option in itertools.product(("ddp", "zero"), OPTIONS):
        network = DistributedDataParallel(model())
        params = list(network.parameters())

        def make(params: Any) -> Any:
            if how == "ddp":
                return fused.AdamW(params, lr=1e-3, master_weights=option)
            return ZeroRedundancyOptimizer(
                params, optimizer_class=fused.AdamW, lr=1e-3, master_weights=option
            )

        optimizer = make(params)
        for step in range(3):
            backward(network, step)
            optimizer.step()
        if how == "zero":
            optimizer.consolidate_state_dict(to=0)
            packed = [optimizer.state_dict() if rank == 0 else None]
            torch.distributed.broadcast_object_list(packed, src=0)
            twin, own = make(params), optimizer.optim
            twin.load_state_dict(packed[0])
            found[how, option, "saved"] = contents(own)
            found[how, option, "loaded"] = contents(twin.optim)
            backward(network, 3)
            twin.step()
            found[how, option, "params"] = [param.detach().clone() for param in params]
        else:
            found[how, option] = contents(optimizer)
            weights = optimizer.get_fp32_model_state_dict(network)
            found[how, option, "weights"] = weights
    return found


def shards(rank: int, world: int, folder: Path) -> Found:
    """Steps shards with whole gradients, so that they have the bits of the whole."""
    mesh = init_device_mesh("cpu", (world,))
    found: Found = {}
    for case, option in itertools.product(dtensors.CASES, OPTIONS):
        more = {"master_weights": option, "stochastic_rounding": 7}
        run = dtensors.run_shards(case, list(TENSORS), torch.bfloat16, mesh, **more)
        found[case, option] = run
    return found


def shards_in_8_bits(rank: int, world: int, folder: Path) -> Found:
    """Steps shards with states in 8 bits too, and beside them plain tensors with their seeds."""
    mesh = init_device_mesh("cpu", (world,))
    tensor = torch.linspace(-1, 1, 96 * 64).reshape(96, 64).bfloat16()
    param = torch.nn.Parameter(distribute_tensor(tensor, mesh, [Shard(0)]))
    optimizer = fused.AdamW([("w", param)], lr=1e-3, master_weights="split24", state="8bit")
    theta, first = local(param), rank * tensor.numel() // world
    seed = fused._base.name_hash("w") ^ (first * 0x9E3779B97F4A7C15) % 2**64
    correction = torch.zeros_like(theta, dtype=torch.uint8)
    states = [torch.zeros(theta.numel() // 32, 33, dtype=torch.uint8) for _ in range(2)]
    rule = Rule("adamw", lr=1e-3, weight_decay=0.01)
    for t in range(1, 4):
        param.grad = distribute_tensor(grad_of(tensor, t), mesh, [Shard(0)])
        optimizer.step()
        rule.step(t, theta, local(param.grad), *states, correction=correction, seed=seed)
    packed = optimizer.state_dict()["state"][0]
    return {
        "ours": contents(optimizer),
        "expected": {
            "param 0": theta,
            "step of 0": torch.tensor(3.0),
            "exp_avg of 0": states[0],
            "exp_avg_sq of 0": states[1],
            "correction of 0": correction,
        },
        "keys": list(packed),
    }


def sharded(world: int, seed: int = 0) -> torch.nn.Module:
    network = model(seed)
    fully_shard(network, mesh=init_device_mesh("cpu", (world,)))
    return network


def weights_of(network: torch.nn.Module, optimizer: Any) -> torch.Tensor:
    """The master weights of all processes."""
    return whole_of(optimizer.get_fp32_model_state_dict(network).values())


def checkpoints(rank: int, world: int, folder: Path) -> Found:
    """Two processes save and go on. One and two load, and go on."""
    found: Found = {}
    full = StateDictOptions(full_state_dict=True)
    flat = StateDictOptions(flatten_optimizer_state_dict=True)

    def make(network: torch.nn.Module, option: str | None) -> Any:
        return fused.AdamW(network.named_parameters(), lr=1e-3, master_weights=option)

    if world == 2:
        for option in OPTIONS:
            network = sharded(world)
            optimizer = make(network, option)
            advance(network, optimizer, range(4))
            found[option, "at the break"] = weights_of(network, optimizer)
            saved = dict(zip(("model", "optimizer"), get_state_dict(network, optimizer)))
            dcp.save(saved, checkpoint_id=folder / f"master-{option}")
            _, packed = get_state_dict(network, optimizer, options=flat)
            dcp.save(packed, checkpoint_id=folder / f"flat-{option}")
            states = get_state_dict(network, optimizer, options=full)
            if rank == 0:
                torch.save(states, folder / f"full-{option}")
            torch.distributed.barrier()
            advance(network, optimizer, range(4, 8))
            found[option, "without a break"] = weights_of(network, optimizer)
    for option, how in itertools.product(OPTIONS, ("sharded", "full", "flat")):
        network = sharded(world, seed=5)
        optimizer = make(network, option)
        how_to = {"full": full, "flat": flat}.get(how)
        if how == "full":
            states = torch.load(folder / f"full-{option}")
        else:
            options = how_to or StateDictOptions()
            parts = get_state_dict(network, optimizer, options=options)
            loaded = dict(zip(("model", "optimizer"), parts))
            if how == "flat":
                dcp.load(parts[1], checkpoint_id=folder / f"flat-{option}")
                dcp.load({"model": parts[0]}, checkpoint_id=folder / f"master-{option}")
            else:
                dcp.load(loaded, checkpoint_id=folder / f"master-{option}")
            states = loaded["model"], loaded["optimizer"]
        set_state_dict(
            network,
            optimizer,
            model_state_dict=states[0],
            optim_state_dict=states[1],
            options=how_to,
        )
        kinds = {
            (type(it["correction"]), it["correction"].dtype) for it in optimizer.state.values()
        }
        begin = weights_of(network, optimizer)
        advance(network, optimizer, range(4, 8))
        end = weights_of(network, optimizer)
        found[option, how] = {"kinds": kinds, "start": begin, "end": end}
    for before, after in (OPTIONS, OPTIONS[::-1]):
        network = sharded(world, seed=5)
        optimizer = make(network, after)
        loaded = dict(zip(("model", "optimizer"), get_state_dict(network, optimizer)))
        dcp.load(loaded, checkpoint_id=folder / f"master-{before}")
        try:
            set_state_dict(
                network,
                optimizer,
                model_state_dict=loaded["model"],
                optim_state_dict=loaded["optimizer"],
            )
            found[before, after] = "loaded"
        except ValueError as error:
            found[before, after] = str(error)
    return found


def float32_weights(rank: int, world: int, folder: Path) -> Found:
    """Sets the master weights of shards, and reads them."""
    network = sharded(world)
    weights = {name: value.float() * 1.001 for name, value in network.state_dict().items()}
    found: Found = {"set": whole_of(weights.values())}
    for option in OPTIONS:
        optimizer = fused.SGD(network.parameters(), lr=0.0, momentum=0.9, master_weights=option)
        optimizer.set_fp32_model_state_dict(network, weights)
        found[option] = weights_of(network, optimizer)
        found[option, "params"] = whole_of(network.parameters())
        advance(network, optimizer, range(1))
        found[option, "later"] = weights_of(network, optimizer)
    wrong = {name: value.full_tensor() for name, value in weights.items()}
    try:
        optimizer.set_fp32_model_state_dict(network, wrong)
        found["plain"] = "set"
    except ValueError as error:
        found["plain"] = str(error)
    return found


def fsdp1(rank: int, world: int, folder: Path) -> Found:
    """Trains with FSDP1, and loads what it saves."""
    found: Found = {}
    for option in OPTIONS:

        def make(seed: int) -> tuple[Any, Any]:
            device = torch.device("cpu")
            network = FullyShardedDataParallel(model(seed), device_id=device)
            return network, fused.AdamW(network.parameters(), lr=1e-3, master_weights=option)

        network, optimizer = make(0)
        for step in range(3):
            backward(network, step)
            optimizer.step()
        saved = dict(zip(("model", "optimizer"), get_state_dict(network, optimizer)))
        dcp.save(saved, checkpoint_id=folder / f"master-fsdp1-{world}-{option}")
        twin, other = make(5)
        loaded = dict(zip(("model", "optimizer"), get_state_dict(twin, other)))
        dcp.load(loaded, checkpoint_id=folder / f"master-fsdp1-{world}-{option}")
        set_state_dict(
            twin, other, model_state_dict=loaded["model"], optim_state_dict=loaded["optimizer"]
        )
        of_option = {"saved": contents(optimizer), "loaded": contents(other)}
        for one, of in ((network, optimizer), (twin, other)):
            backward(one, 3)
            of.step()
        of_option |= {"expected": contents(optimizer), "resumed": contents(other)}
        try:
            optimizer.get_fp32_model_state_dict(network)
            of_option["weights"] = "read"
        except ValueError as error:
            of_option["weights"] = str(error)
        found[option] = of_option
    return found


CHECKS: list[Check] = [
    data_parallel,
    shards,
    shards_in_8_bits,
    checkpoints,
    float32_weights,
    fsdp1,
]
