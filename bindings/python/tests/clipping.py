"""What the tests of clipping run on one to four processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FullyShardedDataParallel, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel

import fused_adam.torch as fused
from dtensors import placed, shard_of
from fused_adam.torch._dtensor import ranges_of
from workers import Check

STEPS = 3
MAX_NORM = 0.5
SEED = 3
NORM_TYPES = (2.0, float("inf"))
#: The layers of the model that are parallel.
PARALLEL = {"0": ColwiseParallel, "2": RowwiseParallel}

Found = dict[Any, Any]


def model(dtype: torch.dtype = torch.float32, hidden: int = 12) -> torch.nn.Module:
    """A model with a norm, which has no parallel layer, and an output with few rows."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(6, hidden), torch.nn.Tanh(), torch.nn.Linear(hidden, 3)]
    return torch.nn.Sequential(*layers, torch.nn.LayerNorm(3)).to(dtype)


def set_gradients(
    network: torch.nn.Module, step: int, change: Callable[[str, torch.Tensor], None] | None = None
) -> None:
    """Set gradients that do not depend on the number of processes."""
    for number, (name, param) in enumerate(network.named_parameters()):
        generator = torch.Generator().manual_seed(100 * number + step)
        grad = torch.randn(param.shape, generator=generator).to(param.dtype)
        if change is not None:
            change(name, grad)
        if isinstance(param, DTensor):
            grad = placed(grad, param.device_mesh, param.placements)
        param.grad = grad


def train(network: torch.nn.Module, optimizer: Any, norm_type: float = 2.0) -> list[torch.Tensor]:
    """The norm of each step."""
    norms = []
    for step in range(STEPS):
        set_gradients(network, step)
        norms.append(fused.clip_grad_norm_and_step(optimizer, MAX_NORM, norm_type))
    return norms


def alone(dtype: torch.dtype, hidden: int, norm_type: float, **options: Any) -> Any:
    """The norms, the parameters and the first average of a run on one process."""
    network = model(dtype, hidden)
    optimizer = fused.AdamW(network.named_parameters(), lr=0.01, **options)
    norms = train(network, optimizer, norm_type)
    states = [optimizer.state[param]["exp_avg"] for param in network.parameters()]
    return norms, [param.detach() for param in network.parameters()], states


def compared(
    network: torch.nn.Module, dtype: torch.dtype, hidden: int, norm_type: float
) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    """Pairs that must be equal: norms, and shards of parameters and states."""
    options: dict[str, Any] = {}
    if dtype == torch.bfloat16:
        options["stochastic_rounding"] = SEED
    optimizer = fused.AdamW(network.named_parameters(), lr=0.01, **options)
    norms = train(network, optimizer, norm_type)
    norms_alone, *wholes = alone(dtype, hidden, norm_type, **options)
    pairs = [(f"norm {i}", *pair) for i, pair in enumerate(zip(norms, norms_alone, strict=True))]
    for (name, param), *expected in zip(network.named_parameters(), *wholes, strict=True):
        for what, own, whole in zip(
            ("", "exp_avg of "), (param, optimizer.state[param]["exp_avg"]), expected
        ):
            if isinstance(own, DTensor):
                whole = shard_of(whole, own.device_mesh, own.placements)
                own = own.to_local()
            pairs.append((what + name, own.detach().clone(), whole))
    return pairs


# The checks.


def shards(rank: int, world: int, folder: Path) -> Found:
    """``fully_shard`` on meshes of one and two dimensions, also with parallel layers."""
    found: Found = {}
    for norm_type, dtype in zip((*NORM_TYPES, 2.0), (torch.float32, torch.float64, torch.bfloat16)):
        for hidden in (5, 12):
            network = model(dtype, hidden)
            fully_shard(network, mesh=init_device_mesh("cpu", (world,)))
            names = "FSDP2", str(dtype), hidden
            found[names] = compared(network, dtype, hidden, norm_type)
        for rows in (rows for rows in range(1, world + 1) if world % rows == 0):
            sizes = (rows, world // rows)
            mesh = init_device_mesh("cpu", sizes, mesh_dim_names=("dp", "tp"))
            network = model(dtype)
            fully_shard(network, mesh=mesh)
            found["HSDP", str(dtype), sizes] = compared(network, dtype, 12, norm_type)

            # The norm's parameters are on the sub-mesh "dp" only.
            network = model(dtype)
            plan = {layer: style() for layer, style in PARALLEL.items()}
            parallelize_module(network, mesh["tp"], plan)
            only = sizes[0] == 1
            if only:
                found["TP", str(dtype), sizes] = compared(network, dtype, 12, norm_type)
            network = model(dtype)
            parallelize_module(network, mesh["tp"], plan)
            fully_shard(network, mesh=mesh["dp"])
            found["FSDP2 and TP", str(dtype), sizes] = compared(network, dtype, 12, norm_type)
    return found


def offloaded(rank: int, world: int, folder: Path) -> Found:
    """``CPUOffloadPolicy``, as far as it goes without an accelerator."""
    network = model()
    policy = CPUOffloadPolicy(pin_memory=False)
    fully_shard(network, mesh=init_device_mesh("cpu", (world,)), offload_policy=policy)
    return {"pairs": compared(network, torch.float32, 12, 2.0)}


def ignored_params(rank: int, world: int, folder: Path) -> Found:
    """Plain parameters beside DTensors: replicas, which count once."""
    network = model()
    ignored = {network[0].bias}
    fully_shard(network, mesh=init_device_mesh("cpu", (world,)), ignored_params=ignored)
    return {"pairs": compared(network, torch.float32, 12, 2.0)}


def flattened(rank: int, world: int, folder: Path) -> Found:
    """FSDP1, beside its own ``clip_grad_norm_``. Without a group it is refused."""
    found: Found = {}
    for use_orig_params in (False, True):
        sides = []
        for ours in (True, False):
            network = FullyShardedDataParallel(
                model(hidden=5), device_id=torch.device("cpu"), use_orig_params=use_orig_params
            )
            optimizer = fused.AdamW(network.parameters(), lr=0.01)
            norms = []
            for step in range(STEPS):
                optimizer.zero_grad()
                generator = torch.Generator().manual_seed(world * step + rank)
                x = torch.randn(8, 6, generator=generator)
                (network(x) - x[:, :3].cos()).square().mean().backward()
                if ours:
                    group = network.process_group
                    norms.append(
                        fused.clip_grad_norm_and_step(optimizer, 0.01, process_group=group)
                    )
                else:
                    norms.append(network.clip_grad_norm_(0.01))
                    optimizer.step()
            sides.append((norms, [param.detach().clone() for param in network.parameters()]))
        error = None
        before = [param.detach().clone() for param in network.parameters()]
        try:
            fused.clip_grad_norm_and_step(optimizer, 0.01)
        except ValueError as raised:
            error = str(raised)
        unchanged = all(map(torch.equal, before, network.parameters()))
        found[use_orig_params] = {"sides": sides, "error": error, "unchanged": unchanged}
    # Ignored parameters are on all processes, and count once.
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, 3))
    sharded = FullyShardedDataParallel(
        network, device_id=torch.device("cpu"), ignored_modules=[network[1]]
    )
    optimizer = fused.AdamW(sharded.parameters(), lr=0.01)
    sharded(torch.ones(2, 6)).square().mean().backward()
    norm = fused.clip_grad_norm_and_step(
        optimizer, MAX_NORM, process_group=sharded.process_group
    )
    found["ignored"] = (norm, sharded.clip_grad_norm_(MAX_NORM))
    return found


def zero(rank: int, world: int, folder: Path) -> Found:
    """``ZeroRedundancyOptimizer``: each process has some whole parameters, perhaps none."""
    network = model(hidden=5)
    optimizer = ZeroRedundancyOptimizer(
        network.parameters(), optimizer_class=fused.AdamW, lr=0.01
    )
    norms = train(network, optimizer)
    norms_alone, params, _ = alone(torch.float32, 5, 2.0)
    pairs = [(f"norm {i}", *pair) for i, pair in enumerate(zip(norms, norms_alone, strict=True))]
    named = network.named_parameters()
    pairs += [(name, own.detach(), whole) for (name, own), whole in zip(named, params)]
    one = torch.nn.Linear(2, 1, bias=False)
    one.weight.grad = torch.ones(1, 2)
    optimizer = ZeroRedundancyOptimizer(one.parameters(), optimizer_class=fused.AdamW, lr=0.01)
    norm = fused.clip_grad_norm_and_step(optimizer, MAX_NORM)
    pairs.append(("the norm of one parameter", norm, torch.tensor(2.0).double().sqrt()))
    return {"pairs": pairs}


def data_parallel(rank: int, world: int, folder: Path) -> Found:
    """DDP needs no exchange: all processes have all gradients."""
    network = DistributedDataParallel(model())
    return {"pairs": compared(network.module, torch.float32, 12, 2.0)}


def outcomes(rank: int, world: int, folder: Path) -> Found:
    """Steps in which processes differ: what each finds, and whether anything has changed."""
    mesh = init_device_mesh("cpu", (world,))
    last = world - 1

    def attempt(
        spoil: Callable[[torch.nn.Module, Any], Any] = lambda *_: None,
        stepped: bool = True,
        **options: Any,
    ) -> Found:
        network = model(hidden=5)
        fully_shard(network, mesh=mesh)
        optimizer = fused.AdamW(network.named_parameters(), lr=0.01)
        set_gradients(network, 0)
        if stepped:
            optimizer.step()
        spoil(network, optimizer)
        before = contents(network, optimizer)
        norm, error = None, None
        try:
            options = {"max_norm": MAX_NORM, **options}
            norm = fused.clip_grad_norm_and_step(optimizer, **options)
        except Exception as raised:
            error = (type(raised).__name__, str(raised))
        after = contents(network, optimizer)
        same = before.keys() == after.keys()
        same = same and all(torch.equal(before[key], after[key]) for key in before)
        return {"norm": norm, "error": error, "unchanged": same}

    def contents(network: torch.nn.Module, optimizer: Any) -> dict[str, torch.Tensor]:
        found = {}
        for name, param in network.named_parameters():
            found[name] = param.to_local().detach().clone()
            for key, state in optimizer.state.get(param, {}).items():
                local = state.to_local() if isinstance(state, DTensor) else state
                found[f"{key} of {name}"] = local.clone()
        return found

    def infinite(network: torch.nn.Module, _: Any) -> None:
        if rank == 0:
            network[0].weight.grad.to_local()[0, 0] = float("inf")

    def no_gradients(network: torch.nn.Module, _: Any) -> None:
        if rank == last:
            network.zero_grad()

    def wrong_gradient(network: torch.nn.Module, _: Any) -> None:
        if rank == last:
            network[0].weight.grad = torch.ones(5, 6)

    def wrong_lr(_: torch.nn.Module, optimizer: Any) -> None:
        if rank == last:
            optimizer.param_groups[0]["lr"] = -1.0

    def wrong_step(network: torch.nn.Module, optimizer: Any) -> None:
        if rank == last:
            optimizer.state[network[0].weight]["step"].fill_(-3.0)

    def twice(network: torch.nn.Module, optimizer: Any) -> None:
        if rank == last:
            optimizer.param_groups[0]["params"].append(network[0].weight)
            optimizer._find_duplicates()

    found: Found = {}
    for stepped in (False, True):
        found["infinite", stepped] = attempt(infinite, stepped)
        found["skipped", stepped] = attempt(infinite, stepped, skip_nonfinite=True)
        found["no gradients", stepped] = attempt(no_gradients, stepped)
        found["wrong gradient", stepped] = attempt(wrong_gradient, stepped)
        found["wrong lr", stepped] = attempt(wrong_lr, stepped)
        found["twice", stepped] = attempt(twice, stepped)
    found["wrong step", True] = attempt(wrong_step)
    found["max_norm", True] = attempt(max_norm=MAX_NORM if rank < last else -1.0)
    found["other max_norm", True] = attempt(max_norm=MAX_NORM if rank < last else 1.5)
    found["other norm_type", True] = attempt(norm_type=2 if rank < last else float("inf"))
    return found


def collectives(rank: int, world: int, folder: Path) -> Found:
    """The number of exchanges of one step."""
    calls, real = [], dist.all_gather

    def counted(outputs: list[torch.Tensor], own: torch.Tensor, group: Any = None) -> Any:
        calls.append(own.numel())
        return real(outputs, own, group=group)

    found: Found = {}
    for sizes in ((world,), (1, world), (world, 1)):
        network = model()
        names = ("replicate", "shard")[-len(sizes) :]
        mesh = init_device_mesh("cpu", sizes, mesh_dim_names=names)
        fully_shard(network, mesh=mesh)
        optimizer = fused.AdamW(network.parameters())
        set_gradients(network, 0)
        dist.all_gather = counted
        try:
            fused.clip_grad_norm_and_step(optimizer, MAX_NORM)
        finally:
            dist.all_gather = real
        found[sizes] = list(calls)
        calls.clear()
    return found


def sub_groups(rank: int, world: int, folder: Path) -> Found:
    """Meshes that do not have all processes, as the stages of a pipeline."""
    if world != 4:
        return {}
    stages = init_device_mesh("cpu", (2, 2), mesh_dim_names=("stage", "dp"))
    network = model(hidden=5)
    fully_shard(network, mesh=stages["dp"])
    pairs = compared(network, torch.float32, 5, 2.0)
    # Stages with other gradients have other norms, unless a group of all is given.
    optimizer = fused.AdamW(network.parameters(), lr=0.01)
    set_gradients(network, rank // 2)
    own = fused.clip_grad_norm_and_step(optimizer, MAX_NORM)
    set_gradients(network, rank // 2)
    both = fused.clip_grad_norm_and_step(optimizer, MAX_NORM, process_group=dist.group.WORLD)
    return {"pairs": pairs, "own": own, "both": both}


def equal_meshes(rank: int, world: int, folder: Path) -> Found:
    """Layers with meshes of their own, which are equal but have groups of their own."""
    found: Found = {}
    for rows in (rows for rows in range(1, world + 1) if world % rows == 0):
        network = model()
        for layer in (network[0], network[2]):
            sizes = (rows, world // rows)
            fully_shard(layer, mesh=init_device_mesh("cpu", sizes, mesh_dim_names=("dp", "tp")))
        found[rows] = compared(network, torch.float32, 12, 2.0)
        network = model()
        for layer in (network[0], network[2]):
            mesh = init_device_mesh("cpu", sizes, mesh_dim_names=("dp", "tp"))
            fully_shard(layer, mesh=mesh["tp"])
        found[rows, "tp"] = compared(network, torch.float32, 12, 2.0)
    return found


def unrelated_meshes(rank: int, world: int, folder: Path) -> Found:
    """Meshes that are no dimensions of one, or that do not have all processes."""
    if world != 4:
        return {}

    def attempt(*placed_on: tuple[DeviceMesh, list[Any]]) -> str:
        params = []
        for mesh, placements in placed_on:
            tensor = DTensor.from_local(torch.ones(2), mesh, placements, run_check=False)
            grad = DTensor.from_local(torch.full((2,), 3.0), mesh, placements, run_check=False)
            params.append(torch.nn.Parameter(tensor))
            params[-1].grad = grad
        try:
            return f"{float(fused.clip_grad_norm_and_step(fused.AdamW(params), MAX_NORM)):.6f}"
        except ValueError as raised:
            return str(raised)

    grid = init_device_mesh("cpu", (2, 2), mesh_dim_names=("a", "b"))
    crossed = DeviceMesh("cpu", [[0, 3], [1, 2]], mesh_dim_names=("u", "v"))
    some = DeviceMesh("cpu", [0, 1, 2])
    both = [Shard(0), Shard(0)]
    return {
        "crossed": attempt((grid, both), (crossed["v"], [Shard(0)])),
        "some and all": attempt((grid, both), (some, [Shard(0)])),
    }


def partial_gradients(rank: int, world: int, folder: Path) -> Found:
    """Gradients that must be summed first, with an error or a missing state on one process."""
    mesh = init_device_mesh("cpu", (world,))
    found: Found = {}
    for what in ("clip", "error", "state"):
        params = [
            torch.nn.Parameter(DTensor.from_local(torch.ones(3), mesh, [Replicate()]))
            for _ in range(2)
        ]
        optimizer = fused.AdamW(params, lr=0.01)
        for step in range(2):
            for param in params:
                param.grad = DTensor.from_local(torch.ones(3), mesh, [Partial()])
            if step == 1 and rank == world - 1:
                if what == "error":
                    optimizer.param_groups[0]["lr"] = -1.0
                if what == "state":
                    del optimizer.state[params[1]]
            if what == "state":
                optimizer.step()
                continue
            try:
                found[what, step] = float(fused.clip_grad_norm_and_step(optimizer, MAX_NORM))
            except (RuntimeError, ValueError) as raised:
                found[what, step] = str(raised)
        found[what] = params[0].to_local().detach().clone()
    return found


def interleaved(rank: int, world: int, folder: Path) -> Found:
    """Eight processes: uneven shards over parallel layers, and two of three mesh dimensions."""
    found: Found = {}
    mesh = init_device_mesh("cpu", (4, 2), mesh_dim_names=("dp", "tp"))
    for rows in (12, 14, 26):
        network = model(torch.bfloat16, rows)
        plan = {layer: style() for layer, style in PARALLEL.items()}
        parallelize_module(network, mesh["tp"], plan)
        whole = {name: torch.arange(p.numel()) for name, p in model(hidden=rows).named_parameters()}
        shapes = {name: p.shape for name, p in model(hidden=rows).named_parameters()}
        # The real layout: a tensor of indices that FSDP2 shards.
        with torch.no_grad():
            local = {}
            for name, param in network.named_parameters():
                index = whole[name].reshape(shapes[name]).to(torch.float32)
                if isinstance(param, DTensor):
                    index = placed(index, param.device_mesh, param.placements).to_local()
                local[name] = index
        holder = torch.nn.Module()
        for name, param in network.named_parameters():
            like = local[name]
            if isinstance(param, DTensor):
                like = DTensor.from_local(
                    like, param.device_mesh, param.placements, shape=param.shape,
                    stride=param.stride(), run_check=False,
                )
            holder.register_parameter(name.replace(".", "_"), torch.nn.Parameter(like))
        fully_shard(holder, mesh=mesh["dp"])
        for name, param in holder.named_parameters():
            shape, ranges = ranges_of(param)
            index = torch.zeros(shape)
            expected = torch.arange(index.numel()).reshape(shape)
            for dim, pieces in enumerate(ranges):
                chosen = [i for start, end in pieces for i in range(start, end)]
                expected = expected.index_select(dim, torch.tensor(chosen, dtype=torch.int64))
            found[name, rows] = (param.to_local().detach().long(), expected)
    cube = init_device_mesh("cpu", (2, 2, 2), mesh_dim_names=("stage", "dp", "tp"))
    network = model(hidden=5)
    fully_shard(network, mesh=cube["dp", "tp"])
    pairs = compared(network, torch.float32, 5, 2.0)
    optimizer = fused.AdamW(network.named_parameters(), lr=-0.0)
    set_gradients(network, 0)
    if rank == 6:
        optimizer.param_groups[0]["lr"] = -1.0
    error = None
    try:
        fused.clip_grad_norm_and_step(optimizer, MAX_NORM)
    except (RuntimeError, ValueError) as raised:
        error = str(raised)
    return {"indices": found, "pairs": pairs, "error": error}


def replicas(rank: int, world: int, folder: Path) -> Found:
    """A parameter that all processes have, with an explicit group: it counts once."""
    mesh = init_device_mesh("cpu", (world,))
    param = torch.nn.Parameter(DTensor.from_local(torch.ones(4), mesh, [Replicate()]))
    param.grad = DTensor.from_local(torch.full((4,), 1.5), mesh, [Replicate()])
    optimizer = fused.AdamW([param])
    group = dist.group.WORLD
    return {"norm": fused.clip_grad_norm_and_step(optimizer, MAX_NORM, process_group=group)}


CHECKS: list[Check] = [
    shards,
    offloaded,
    ignored_params,
    flattened,
    zero,
    data_parallel,
    outcomes,
    collectives,
    sub_groups,
    unrelated_meshes,
    partial_gradients,
    replicas,
]
