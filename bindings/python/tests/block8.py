"""What the tests of states in 8 bits share, and what they run on one or two processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

import fused_adam.torch as fused
from common import CASES, assert_same_bits
from fused_adam import Rule, decode_state
from workers import Check

#: Not a multiple of 32.
SIZE = 5100
#: States in 8 bits for parameters of any size.
ALL: dict[str, Any] = {"state": "8bit", "min_8bit_size": 0}

Found = dict[Any, Any]


def start(n: int = SIZE, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.linspace(-1, 1, n).to(dtype)


def blocks_of(n: int) -> tuple[int, int]:
    return (n + 31) // 32, 33


def grad_of(param: torch.Tensor, t: int) -> torch.Tensor:
    return (param.detach().float() * t).sin().to(param.dtype)


def local(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach().clone()


def contents(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """All parameters and states, or their shards."""
    found = {}
    params = [param for group in optimizer.param_groups for param in group["params"]]
    for number, param in enumerate(params):
        found[f"param {number}"] = local(param)
        for name, state in (optimizer.state[param] if param in optimizer.state else {}).items():
            if isinstance(state, torch.Tensor):
                found[f"{name} of {number}"] = local(state)
    return found


def assert_same_contents(
    ours: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]
) -> None:
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        if not value.is_floating_point():
            assert ours[name].dtype == value.dtype and torch.equal(ours[name], value), name
        else:
            assert_same_bits(ours[name], value, name)


def model(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    layers = torch.nn.Linear(64, 80), torch.nn.Tanh(), torch.nn.Linear(80, 64)
    return torch.nn.Sequential(*layers)


def backward(network: torch.nn.Module, step: int, rank: int) -> None:
    x = torch.randn(8, 64, generator=torch.Generator().manual_seed(10 * step + rank))
    network.zero_grad()
    (network(x) - x.cos()).square().mean().backward()


def data_parallel(rank: int, world: int, folder: Path) -> Found:
    """Trains with DDP, with the optimizer alone and in a ``ZeroRedundancyOptimizer``."""
    found: Found = {}
    for how in ("ddp", "zero"):
        network = DistributedDataParallel(model())
        params = list(network.parameters())
        if how == "ddp":
            optimizer: Any = fused.AdamW8bit(params, lr=0.01)
        else:
            optimizer = ZeroRedundancyOptimizer(
                params, optimizer_class=fused.AdamW, lr=0.01, state="8bit"
            )
        for step in range(4):
            backward(network, step, rank)
            optimizer.step()
        own = optimizer if how == "ddp" else optimizer.optim
        found[how] = contents(own)
        found[f"params of {how}"] = [local(param) for param in params]
        if how == "zero":
            optimizer.consolidate_state_dict(to=0)
            if rank == 0:
                found["consolidated"] = {
                    number: state["exp_avg"].dtype
                    for number, state in optimizer.state_dict()["state"].items()
                }
    return found


#: Whole tensors: their shapes, the shape of the mesh for two processes, and the placements.
SHARDED: dict[str, tuple[tuple[int, ...], tuple[int, ...], list[Any]]] = {
    "even": ((96, 64), (2,), [Shard(0)]),
    "uneven": ((7, 33), (2,), [Shard(0)]),
    "columns": ((40, 50), (2,), [Shard(1)]),
    "one row": ((1, 70), (2,), [Shard(0)]),
    "everywhere": ((60, 7), (2,), [Replicate()]),
    "HSDP": ((50, 70), (2, 1), [Replicate(), Shard(0)]),
    "two dimensions": ((50, 70), (1, 2), [Shard(0), Shard(1)]),
}


def shards(rank: int, world: int, folder: Path) -> Found:
    """Steps shards, and beside them plain tensors with the seed that a shard should have."""
    found: Found = {}
    kinds = (torch.float32, False), (torch.bfloat16, 11)
    for name, (shape, sizes, placements) in SHARDED.items():
        mesh = init_device_mesh("cpu", tuple(min(size, world) for size in sizes))
        numel = int(np.prod(shape))
        index = local(distribute_tensor(torch.arange(numel).reshape(shape), mesh, placements))
        first = int(index.flatten()[0]) if index.numel() else 0
        seed = fused._base.name_hash(name) ^ (first * 0x9E3779B97F4A7C15) % 2**64
        pairs = []
        for dtype, stochastic in kinds:
            whole = start(numel, dtype).reshape(shape)
            param = torch.nn.Parameter(distribute_tensor(whole, mesh, placements))
            optimizer = fused.AdamW([(name, param)], stochastic_rounding=stochastic, **ALL)
            theta = local(param)
            states = [torch.zeros(blocks_of(theta.numel()), dtype=torch.uint8) for _ in range(2)]
            rule = Rule("adamw", lr=1e-3, weight_decay=0.01)
            for t in range(1, 5):
                grad = grad_of(whole, t)
                param.grad = distribute_tensor(grad, mesh, placements)
                optimizer.step()
                theta = theta.contiguous()
                rule.step(
                    t, theta, local(param.grad).contiguous(), *states, seed=seed ^ int(stochastic)
                )
            expected = {
                "param 0": theta,
                "step of 0": torch.tensor(4.0),
                "exp_avg of 0": states[0],
                "exp_avg_sq of 0": states[1],
            }
            pairs.append((contents(optimizer), expected))
        found[name] = pairs
    return found


def equal_shards(rank: int, world: int, folder: Path) -> Found:
    mesh = init_device_mesh("cpu", (world,))
    whole = start(64 * 50).reshape(64, 50).repeat(world, 1)
    split, everywhere = (
        torch.nn.Parameter(distribute_tensor(whole, mesh, [placement]))
        for placement in (Shard(0), Replicate())
    )
    optimizer = fused.AdamW([("split", split), ("everywhere", everywhere)], **ALL)
    found = {"start": local(split)}
    for t in range(1, 4):
        for param in (split, everywhere):
            param.grad = distribute_tensor(grad_of(whole, t), mesh, param.placements)
        optimizer.step()
    found["shard"] = optimizer.state[split]["exp_avg"]
    found["replica"] = optimizer.state[everywhere]["exp_avg"]
    return found


def sharded(world: int, seed: int = 0) -> torch.nn.Module:
    network = model(seed)
    fully_shard(network, mesh=init_device_mesh("cpu", (world,)))
    return network


def exported(rank: int, world: int, folder: Path) -> Found:
    """The ``state_dict`` after training with ``fully_shard`` and clipping."""
    network = sharded(world)
    params = list(network.parameters())
    optimizer = fused.AdamW(network.named_parameters(), lr=0.01, **ALL)
    for step in range(3):
        backward(network, step, rank)
        fused.clip_grad_norm_and_step(optimizer, 0.1)
    packed, rule = optimizer.state_dict()["state"], Rule("adamw")
    found: Found = {"kinds": set(), "shapes": [], "values": []}
    for number, param in enumerate(params):
        for name, own in zip(("exp_avg", "exp_avg_sq"), rule.states):
            state, blocks = packed[number][name], optimizer.state[param][name]
            assert blocks.dtype == torch.uint8 and type(blocks) is torch.Tensor
            found["kinds"].add((type(state).__name__, state.dtype))
            found["shapes"].append((tuple(state.shape), tuple(param.shape)))
            shape = tuple(local(param).shape)
            expected = decode_state(rule, own, blocks.numpy(), shape)
            found["values"].append((local(state), torch.from_numpy(expected)))
    return found


def classes(rank: int, world: int, folder: Path) -> Found:
    """Trains with ``fully_shard`` and each class, and loads what it saves."""
    found: Found = {}
    for case in CASES:
        if not case.buffers:
            continue
        network = sharded(world)
        optimizer = getattr(fused, case.name)(network.named_parameters(), **case.options, **ALL)
        advance(network, optimizer, range(3))
        of_case = {"before": contents(optimizer)}
        twin = getattr(fused, case.name)(network.named_parameters(), **case.options, **ALL)
        saved = get_state_dict(network, optimizer)
        set_state_dict(network, twin, model_state_dict=saved[0], optim_state_dict=saved[1])
        of_case["loaded"] = contents(twin)
        advance(network, twin, range(3, 5))
        of_case["kinds"] = {it[case.buffers[0]].dtype for it in twin.state.values()}
        found[str(case)] = of_case
    return found


def grad_in(step: int, number: int, shape: Any) -> torch.Tensor:
    """A gradient that does not depend on the number of processes."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(100 * number + step))


def advance(network: torch.nn.Module, optimizer: Any, steps: range) -> None:
    for step in steps:
        for number, param in enumerate(network.parameters()):
            grad = grad_in(step, number, param.shape).to(param.dtype)
            if isinstance(param, DTensor):
                grad = distribute_tensor(grad, param.device_mesh, param.placements)
            param.grad = grad
        optimizer.step()


PAIRS = [("8bit", "8bit"), ("8bit", "float32"), ("float32", "8bit")]


def whole_of(tensors: Any) -> torch.Tensor:
    return torch.cat([it.full_tensor().detach().flatten() for it in tensors])


def whole_states(network: torch.nn.Module, optimizer: Any) -> dict[str, torch.Tensor]:
    _, packed = get_state_dict(network, optimizer)
    return {
        f"{name} of {param}": state.full_tensor().clone()
        for param, states in packed["state"].items()
        for name, state in states.items()
        if isinstance(state, DTensor)
    }


def checkpoints(rank: int, world: int, folder: Path) -> Found:
    """Two processes save and go on. One and two load, and go on."""
    found: Found = {}
    more = {"8bit": ALL, "float32": {}}

    def make(network: torch.nn.Module, kind: str) -> Any:
        return fused.AdamW(network.named_parameters(), lr=0.01, **more[kind])

    if world == 2:
        for kind in more:
            network = sharded(world)
            optimizer = make(network, kind)
            advance(network, optimizer, range(4))
            found[kind, "at the break"] = whole_states(network, optimizer)
            saved = dict(zip(("model", "optimizer"), get_state_dict(network, optimizer)))
            dcp.save(saved, checkpoint_id=folder / f"eight-bit-{kind}")
            advance(network, optimizer, range(4, 8))
            found[kind, "without a break"] = whole_of(network.parameters())
    for before, after in PAIRS:
        network = sharded(world, seed=5)
        optimizer = make(network, after)
        loaded = dict(zip(("model", "optimizer"), get_state_dict(network, optimizer)))
        dcp.load(loaded, checkpoint_id=folder / f"eight-bit-{before}")
        set_state_dict(
            network,
            optimizer,
            model_state_dict=loaded["model"],
            optim_state_dict=loaded["optimizer"],
        )
        kinds = {it["exp_avg"].dtype for it in optimizer.state.values()}
        states, begin = whole_states(network, optimizer), whole_of(network.parameters())
        advance(network, optimizer, range(4, 8))
        end = whole_of(network.parameters())
        found[before, after] = {"states": states, "kinds": kinds, "start": begin, "end": end}
    return found


def fsdp1(rank: int, world: int, folder: Path) -> Found:
    """Trains with FSDP1, and loads what it saves."""

    def make(seed: int) -> tuple[Any, Any]:
        device = torch.device("cpu")
        network = FullyShardedDataParallel(model(seed), device_id=device)
        return network, fused.AdamW(network.parameters(), lr=0.01, **ALL)

    def kinds(optimizer: Any) -> set[torch.dtype]:
        return {state["exp_avg"].dtype for state in optimizer.state.values()}

    network, optimizer = make(0)
    for step in range(3):
        backward(network, step, rank)
        optimizer.step()
    saved = dict(zip(("model", "optimizer"), get_state_dict(network, optimizer)))
    dcp.save(saved, checkpoint_id=folder / f"eight-bit-fsdp1-{world}")
    twin, other = make(5)
    loaded = dict(zip(("model", "optimizer"), get_state_dict(twin, other)))
    dcp.load(loaded, checkpoint_id=folder / f"eight-bit-fsdp1-{world}")
    set_state_dict(
        twin, other, model_state_dict=loaded["model"], optim_state_dict=loaded["optimizer"]
    )
    packed = [it.dequantized_state_dict()["state"][0] for it in (other, optimizer)]
    states = {name: tuple(it[name] for it in packed) for name in ("exp_avg", "exp_avg_sq")}
    backward(twin, 3, rank)
    other.step()
    return {"kinds": kinds(optimizer), "states": states, "resumed": kinds(other)}


CHECKS: list[Check] = [
    data_parallel,
    shards,
    equal_shards,
    exported,
    classes,
    checkpoints,
    fsdp1,
]
