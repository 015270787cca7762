"""What the tests of ``DTensor`` parameters run on one to four processes."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.placement_types import _StridedShard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

import fused_adam.torch as fused
from processes import SIDES
from workers import Check

STEPS = 4
WORLDS = (1, 2, 3, 4)
#: Optimizers with their options.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "AdamW": ("AdamW", {"lr": 0.01}),
    "AdamW-amsgrad": ("AdamW", {"lr": 0.01, "amsgrad": True, "weight_decay": 0.1}),
    "SGD": ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}),
    "NAdam": ("NAdam", {"lr": 0.01}),
    "RMSprop": ("RMSprop", {"lr": 0.01, "centered": True}),
    "RMSprop-momentum": ("RMSprop", {"lr": 0.01, "centered": True, "momentum": 0.9}),
    "Adagrad": ("Adagrad", {"lr": 0.01, "initial_accumulator_value": 0.1}),
}
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
#: Whole tensors: their shapes, and the dimension that the processes share, if any.
TENSORS: dict[str, tuple[tuple[int, ...], int | None]] = {
    "even": ((6, 5), 0),
    "uneven": ((7, 3), 0),
    "two": ((2,), 0),
    "one": ((1, 4), 0),
    "columns": ((4, 5), 1),
    "row": ((1, 7), 1),
    "narrow": ((3, 2), 1),
    "cube": ((3, 5, 4), 1),
    "everywhere": ((3, 3), None),
    "scalar": ((), None),
    "plain": ((4, 3), None),
}
SAVED = ("AdamW-amsgrad", "RMSprop-momentum", "NAdam", "SGD")
SEED = 7
VARIANTS = ("accumulated", "compiled", "ignored")
#: Tensors of two and three dimensions, most of them uneven.
WHOLE_ON_GRIDS = ["even", "uneven", "columns", "narrow", "cube"]

Found = dict[Any, Any]


def model(seed: int = 0, hidden: int = 5) -> torch.nn.Module:
    """A model with 5 rows, 5, 2 rows and 2 elements: uneven and empty shards."""
    torch.manual_seed(seed)
    layers = torch.nn.Linear(6, hidden), torch.nn.Tanh(), torch.nn.Linear(hidden, 2)
    return torch.nn.Sequential(*layers)


def sharded(
    world: int, dtype: torch.dtype, policy: MixedPrecisionPolicy | None = None, seed: int = 0
) -> torch.nn.Module:
    network = model(seed).to(dtype)
    fully_shard(
        network, mesh=init_device_mesh("cpu", (world,)), mp_policy=policy or MixedPrecisionPolicy()
    )
    return network


def backward(
    network: torch.nn.Module,
    dtype: torch.dtype,
    step: int,
    rank: int = 0,
    zero_grad: bool = True,
) -> None:
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(10 * step + rank)).to(dtype)
    if zero_grad:
        network.zero_grad()
    out = network(x)
    (out - x[:, : out.shape[1]].cos()).square().mean().backward()


def full(tensors: Any) -> list[torch.Tensor]:
    """The whole tensors. Gloo has no integers of 16 bits."""

    def whole(tensor: Any) -> torch.Tensor:
        is_short = tensor.dtype == torch.int16
        return (tensor.int() if is_short else tensor).full_tensor().to(tensor.dtype)

    wholes = (whole(tensor) if isinstance(tensor, DTensor) else tensor for tensor in tensors)
    return [tensor.detach().clone() for tensor in wholes]


def whole(name: str, dtype: torch.dtype, step: int = -1) -> torch.Tensor:
    """A tensor, or its gradient in a step: the same on all ranks."""
    number = 1000 * list(TENSORS).index(name) + step + 1
    generator = torch.Generator().manual_seed(number)
    return torch.randn(TENSORS[name][0], generator=generator, dtype=torch.float64).to(dtype)


def distributed(name: str, tensor: torch.Tensor, mesh: Any) -> torch.Tensor:
    if name == "plain":
        return tensor
    dim = TENSORS[name][1]
    return distribute_tensor(tensor, mesh, [Replicate() if dim is None else Shard(dim)])


def grids(world: int) -> list[tuple[int, int]]:
    """Meshes of two dimensions."""
    return [(a, world // a) for a in range(1, world + 1) if world % a == 0]


def placements_on(sizes: tuple[int, int]) -> list[list[Any]]:
    """Placements of one tensor on a mesh of two dimensions, also as FSDP2 does over others."""
    strided = [[_StridedShard(dim, split_factor=sizes[1]), Shard(dim)] for dim in (0, 1)]
    kinds = Shard(0), Shard(1), Replicate()
    return [*map(list, itertools.product(kinds, kinds)), *strided]


def shard_of(tensor: torch.Tensor, mesh: Any, placements: list[Any]) -> torch.Tensor:
    """The shard of this process, as torch cuts it."""
    for size, own, placement in zip(mesh.shape, mesh.get_coordinate(), placements):
        if not placement.is_replicate():
            parts, _ = placement._split_tensor(tensor, size, with_padding=False)
            tensor = parts[own]
    return tensor.contiguous()


def placed(tensor: torch.Tensor, mesh: Any, placements: list[Any]) -> DTensor:
    """A tensor whose shards may be interleaved and uneven, which ``distribute_tensor`` is not."""
    return DTensor.from_local(
        shard_of(tensor, mesh, placements),
        mesh,
        placements,
        run_check=False,
        shape=tensor.shape,
        stride=tensor.stride(),
    )


@functools.cache
def run_whole_grid(name: str) -> torch.Tensor:
    """The parameter after the steps of ``stochastic`` on one process."""
    found = run_whole("AdamW", WHOLE_ON_GRIDS, torch.bfloat16, stochastic_rounding=SEED)
    return found[name]


def optimizer_of(case: str, params: Any, side: str = "ours", **more: Any) -> torch.optim.Optimizer:
    name, options = CASES[case]
    return getattr(SIDES[side], name)(params, **options, **more)


def locals_of(optimizer: torch.optim.Optimizer) -> list[int]:
    """The addresses of the shards of parameters and states."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    states = [optimizer.state[param] for param in params]
    tensors = params + [v for state in states for v in state.values() if isinstance(v, DTensor)]
    return [t._local_tensor.data_ptr() for t in tensors if isinstance(t, DTensor)]


def run_whole(case: str, names: list[str], dtype: torch.dtype, **more: Any) -> Found:
    """Steps of tensors that are not distributed: what the shards are compared to."""
    params = {name: torch.nn.Parameter(whole(name, dtype)) for name in names}
    optimizer = optimizer_of(case, list(params.items()), **more)
    for step in range(STEPS):
        for name, param in params.items():
            param.grad = whole(name, dtype, step)
        optimizer.step()
    return contents(optimizer, params)


def run_shards(
    case: str, names: list[str], dtype: torch.dtype, mesh: Any, **more: Any
) -> tuple[Found, str | None]:
    """Steps of shards with the same gradients, and what is wrong with the states, if anything."""
    params = {
        name: torch.nn.Parameter(distributed(name, whole(name, dtype), mesh)) for name in names
    }
    optimizer = optimizer_of(case, list(params.items()), **more)
    wrong, before = None, []
    for step in range(STEPS):
        for name, param in params.items():
            param.grad = distributed(name, whole(name, dtype, step), mesh)
        optimizer.step()
        if step > 0 and locals_of(optimizer) != before:
            wrong = f"step {step} replaced a shard"
        before = locals_of(optimizer)
    for name, param in params.items():
        for key, state in optimizer.state[param].items():
            if isinstance(state, torch.Tensor) and state.shape == param.shape and param.ndim:
                if type(state) is not type(param.data):
                    wrong = f"{key} of {name} is a {type(state).__name__}"
                elif name != "plain" and state.placements != param.placements:
                    wrong = f"{key} of {name} has the placements {state.placements}"
    return contents(optimizer, params), wrong


def contents(optimizer: torch.optim.Optimizer, params: dict[str, torch.Tensor]) -> Found:
    """The whole parameters and states, by name."""
    found: Found = {}
    for name, param in params.items():
        found[name] = full([param])[0]
        for key, state in optimizer.state[param].items():
            is_tensor = isinstance(state, torch.Tensor)
            found[f"{key} of {name}"] = full([state])[0] if is_tensor else state
    return found


# The checks. Each returns data, which the tests compare.


def fsdp2(rank: int, world: int, folder: Path) -> Found:
    """Trains with ``fully_shard``, with data that differ between the ranks."""
    found: Found = {}
    for case, name, clip in itertools.product(CASES, ("float32", "float64"), (False, True)):
        if clip and case != "AdamW":
            continue
        dtype = DTYPES[name]
        for side in SIDES:
            network = sharded(world, dtype)
            params = list(network.parameters())
            optimizer = optimizer_of(case, params, side)
            before, norms = full(params), []
            for step in range(STEPS):
                backward(network, dtype, step, rank)
                if clip:
                    norm = torch.nn.utils.clip_grad_norm_(params, 0.1)
                    norms += full([norm])
                optimizer.step()
            shards = [list(param.to_local().shape) for param in params]
            found[case, name, clip, side] = {
                "before": before,
                "after": full(params),
                "norms": norms,
                "shards": shards,
            }
    return found


def variants(rank: int, world: int, folder: Path) -> Found:
    """``fully_shard`` with accumulated gradients, compiled, and with ignored parameters."""
    found: Found = {}
    for variant, side in itertools.product(VARIANTS, SIDES):
        network = model().double()
        ignored = {network[2].weight} if variant == "ignored" else None
        mesh = init_device_mesh("cpu", (world,))
        fully_shard(network, mesh=mesh, ignored_params=ignored)
        if variant == "compiled":
            network.compile(backend="eager")
        params = list(network.parameters())
        optimizer = optimizer_of("AdamW", params, side)
        before = full(params)
        for step in range(STEPS):
            accumulates = variant == "accumulated" and step % 2 == 0
            network.set_requires_gradient_sync(not accumulates)
            # Ignored parameters are not reduced, so all ranks have the same data then.
            data = 0 if variant == "ignored" else rank
            adds = variant == "accumulated" and not accumulates
            backward(network, torch.float64, step, data, zero_grad=not adds)
            if not accumulates:
                optimizer.step()
        found[variant, side] = {"before": before, "after": full(params)}
    return found


def same_gradients(rank: int, world: int, folder: Path) -> Found:
    """Distributes whole gradients, so that shards have the bits of the whole."""
    mesh = init_device_mesh("cpu", (world,))
    found: Found = {}
    for case, name in itertools.product(CASES, DTYPES):
        found[case, name] = run_shards(case, list(TENSORS), DTYPES[name], mesh)
    mixed = run_shards("AdamW", list(TENSORS), torch.bfloat16, mesh, state_dtype=torch.float32)
    found["AdamW", "bfloat16 with float32 states"] = mixed
    return found


def reduced_precision(rank: int, world: int, folder: Path) -> Found:
    """Trains with ``fully_shard`` and bfloat16, and returns the gradients of each step."""
    found: Found = {}
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    kinds = ("policy", torch.float32, policy), ("plain", torch.bfloat16, None)
    for name, dtype, used in kinds:
        network = sharded(world, dtype, used)
        optimizer = fused.AdamW(network.named_parameters(), lr=0.01)
        before, grads = full(network.parameters()), []
        for step in range(STEPS):
            backward(network, torch.bfloat16, step, rank)
            torch.nn.utils.clip_grad_norm_(network.parameters(), 0.1)
            grads.append(full(param.grad for param in network.parameters()))
            optimizer.step()
        after = full(network.parameters())
        found[name] = {"before": before, "grads": grads, "after": after}
    return found


def tensor_parallel(rank: int, world: int, folder: Path) -> Found:
    """Trains with parallel layers, with the same data on all ranks."""
    found: Found = {}
    mesh = init_device_mesh("cpu", (world,))
    for case, side in itertools.product(CASES, SIDES):
        # Parallel layers of torch need shards of equal size.
        network = model(hidden=12).double()
        parallelize_module(network, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
        params = list(network.parameters())
        optimizer = optimizer_of(case, params, side)
        before = full(params)
        for step in range(STEPS):
            backward(network, torch.float64, step)
            torch.nn.utils.clip_grad_norm_(params, 0.1)
            optimizer.step()
        found[case, side] = {
            "before": before,
            "after": full(params),
            "placements": [str(param.placements) for param in params],
        }
    return found


def stochastic(rank: int, world: int, folder: Path) -> Found:
    """Rounds shards stochastically, on meshes of one and two dimensions."""
    found: Found = {}
    mesh = init_device_mesh("cpu", (world,))
    for case, states in itertools.product(("AdamW", "SGD"), (None, torch.float32)):
        more = {"stochastic_rounding": SEED, "state_dtype": states}
        found[case, str(states)] = run_shards(case, list(TENSORS), torch.bfloat16, mesh, **more)
    for sizes in grids(world):
        square = init_device_mesh("cpu", sizes)
        for placements in placements_on(sizes):
            params = {}
            for name in WHOLE_ON_GRIDS:
                theta = placed(whole(name, torch.bfloat16), square, placements)
                params[name] = torch.nn.Parameter(theta)
            optimizer = optimizer_of("AdamW", list(params.items()), stochastic_rounding=SEED)
            for step in range(STEPS):
                for name, param in params.items():
                    param.grad = placed(whole(name, torch.bfloat16, step), square, placements)
                optimizer.step()
            locals_ = {name: param.to_local().detach() for name, param in params.items()}
            found[sizes, str(placements)] = {
                name: (local, shard_of(run_whole_grid(name), square, placements))
                for name, local in locals_.items()
            }
    return found


def refusals(rank: int, world: int, folder: Path) -> Found:
    """Steps that must be refused: the errors, and what they changed."""
    mesh = init_device_mesh("cpu", (world,))

    def param_of(name: str, dtype: torch.dtype = torch.float32) -> torch.nn.Parameter:
        param = torch.nn.Parameter(distributed(name, whole(name, dtype), mesh))
        param.grad = distributed(name, whole(name, dtype, 0), mesh)
        return param

    # No collectives here: if only some ranks refuse a step, they go on differently.
    def shards_of(
        optimizer: torch.optim.Optimizer, named: list[tuple[str, torch.nn.Parameter]]
    ) -> dict[str, torch.Tensor]:
        found = {}
        for name, param in named:
            states = optimizer.state[param] if param in optimizer.state else {}
            for key, value in {"param": param, **states}.items():
                if isinstance(value, torch.Tensor):
                    local = value._local_tensor if isinstance(value, DTensor) else value
                    found[f"{key} of {name}"] = local.detach().clone()
        return found

    def attempt(
        wanted: Callable[[torch.optim.Optimizer], Any],
        spoil: Callable[[], None],
        named: list[tuple[str, torch.nn.Parameter]],
        stepped: bool,
        **more: Any,
    ) -> Found:
        optimizer = optimizer_of("AdamW", named, **more)
        if stepped:
            optimizer.step()
        spoil()
        before, error = shards_of(optimizer, named), None
        try:
            wanted(optimizer)
        except Exception as raised:
            error = (type(raised).__name__, str(raised))
        after = shards_of(optimizer, named)
        same = before.keys() == after.keys()
        same = same and all(torch.equal(before[key], after[key]) for key in before)
        return {"error": error, "unchanged": same}

    def step(optimizer: torch.optim.Optimizer) -> None:
        optimizer.step()

    found: Found = {}
    for stepped in (False, True):
        named = [("even", param_of("even")), ("uneven", param_of("uneven"))]

        other = whole("uneven", torch.float32, 1)

        def spoil(grad: torch.Tensor = other, param: torch.Tensor = named[1][1]) -> None:
            param.grad = grad

        found["no DTensor", stepped] = attempt(step, spoil, named, stepped)

        named = [("even", param_of("even")), ("uneven", param_of("uneven"))]
        elsewhere = init_device_mesh("cpu", (1, world))

        def spoil_mesh(param: torch.Tensor = named[1][1]) -> None:
            param.grad = placed(other, elsewhere, [Replicate(), Shard(0)])

        found["another mesh", stepped] = attempt(step, spoil_mesh, named, stepped)

        plain = torch.nn.Parameter(whole("plain", torch.float32))
        plain.grad = whole("plain", torch.float32, 0)
        named = [("even", param_of("even")), ("plain", plain)]

        def spoil_plain(param: torch.Tensor = plain) -> None:
            grad = whole("plain", torch.float32, 1)
            param.grad = distribute_tensor(grad, mesh, [Replicate()])

        found["a DTensor", stepped] = attempt(step, spoil_plain, named, stepped)

    summands = torch.nn.Parameter(DTensor.from_local(torch.ones(2), mesh, [Partial()]))
    found["summands"] = []
    for case in CASES:
        try:
            optimizer_of(case, [("sum", summands)])
        except RuntimeError as raised:
            found["summands"].append(str(raised))
    # A group that is refused is not kept.
    plain = torch.nn.Parameter(torch.ones(2))
    optimizer = fused.SGD([("plain", plain)], lr=0.1)
    try:
        optimizer.add_param_group({"params": [("sum", summands)]})
    except RuntimeError as raised:
        found["summands"].append(str(raised))
    found["groups"] = len(optimizer.param_groups)
    return found


def other_placements(rank: int, world: int, folder: Path) -> Found:
    """Gradients whose placements differ from those of their parameter, but whose mesh does not."""
    mesh = init_device_mesh("cpu", (world,))
    found: Found = {}
    for case in CASES:
        params = {
            name: torch.nn.Parameter(distributed(name, whole(name, torch.float32), mesh))
            for name in ("uneven", "everywhere")
        }
        optimizer = optimizer_of(case, list(params.items()))
        for step in range(STEPS):
            grads = {name: whole(name, torch.float32, step) for name in params}
            params["uneven"].grad = distribute_tensor(grads["uneven"], mesh, [Replicate()])
            # As after the backward pass of a layer norm in ``SequenceParallel``.
            own = grads["everywhere"] if rank == 0 else torch.zeros_like(grads["everywhere"])
            params["everywhere"].grad = DTensor.from_local(own, mesh, [Partial()])
            optimizer.step()
        found[case] = contents(optimizer, params)
    return found


def communication(rank: int, world: int, folder: Path) -> Found:
    """Counts the collectives of steps."""
    found: Found = {}
    mesh = init_device_mesh("cpu", (world,))
    for case, seed in (*((case, False) for case in CASES), ("AdamW", SEED)):
        dtype = torch.bfloat16 if seed else torch.float32
        names = list(TENSORS)
        params = {
            name: torch.nn.Parameter(distributed(name, whole(name, dtype), mesh)) for name in names
        }
        optimizer = optimizer_of(case, list(params.items()), stochastic_rounding=seed)
        counts = []
        for step in range(3):
            for name, param in params.items():
                param.grad = distributed(name, whole(name, dtype, step), mesh)
            with CommDebugMode() as mode:
                optimizer.step()
            counts.append(mode.get_total_counts())
        with CommDebugMode() as mode:
            full(params.values())
        found[case, bool(seed)] = {"steps": counts, "full_tensor": mode.get_total_counts()}
    return found


def set_gradients(network: torch.nn.Module, step: int) -> None:
    """Sets gradients that do not depend on the number of processes."""
    for number, param in enumerate(network.parameters()):
        generator = torch.Generator().manual_seed(100 * number + step)
        grad = torch.randn(param.shape, generator=generator).to(param.dtype)
        param.grad = distribute_tensor(grad, param.device_mesh, param.placements)


def advance(network: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        set_gradients(network, step)
        optimizer.step()


def checkpoints(rank: int, world: int, folder: Path) -> Found:
    """Two processes save and go on. All numbers of processes load, and go on."""
    found: Found = {}
    for case, before in itertools.product((*SAVED, "stochastic"), SIDES):
        random = case == "stochastic"
        if random and before == "torchs":
            continue
        dtype = torch.bfloat16 if random else torch.float32
        path = folder / f"{case}-{before}"

        def make(network: torch.nn.Module, side: str) -> torch.optim.Optimizer:
            more = {"stochastic_rounding": SEED} if random else {}
            base = "AdamW" if random else case
            return optimizer_of(base, network.named_parameters(), side, **more)

        if world == 2:
            network = sharded(world, dtype)
            optimizer = make(network, before)
            advance(network, optimizer, range(4))
            saved = dict(zip(("model", "optimizer"), get_state_dict(network, optimizer)))
            dcp.save(saved, checkpoint_id=path)
            found[case, before, "at the break"] = full(network.parameters())
            advance(network, optimizer, range(4, 8))
            found[case, before, "without a break"] = full(network.parameters())
        for after in ["ours"] if random else SIDES:
            network = sharded(world, dtype, seed=5)
            optimizer = make(network, after)
            loaded = dict(zip(("model", "optimizer"), get_state_dict(network, optimizer)))
            dcp.load(loaded, checkpoint_id=path)
            set_state_dict(
                network,
                optimizer,
                model_state_dict=loaded["model"],
                optim_state_dict=loaded["optimizer"],
            )
            advance(network, optimizer, range(4, 8))
            found[case, before, after] = full(network.parameters())
    return found


CHECKS: list[Check] = [
    fsdp2,
    variants,
    same_gradients,
    reduced_precision,
    tensor_parallel,
    stochastic,
    refusals,
    other_placements,
    communication,
    checkpoints,
]
