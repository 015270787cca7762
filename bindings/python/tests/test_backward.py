"""Steps during the backward pass: the bits of a step after it, and what is refused."""

from __future__ import annotations

import copy
import os
import pickle
import re
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import fused_adam.torch as fused
from common import CASES, Case, assert_same_bits
from fused_adam.torch._backward import StepInBackward

STEPS = 4
#: One parameter at a time, a few, and all at the end.
BATCHES = (0, 100, 2**22)


def model(dtype: torch.dtype = torch.float32) -> torch.nn.Sequential:
    torch.manual_seed(0)
    layers = [torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 5), torch.nn.Tanh()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(5, 3)).to(dtype)


def loss_of(network: torch.nn.Module, step: int, rank: int = 0) -> Tensor:
    dtype = next(network.parameters()).dtype
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(10 * step + rank)).to(dtype)
    return (network(x) - x[:, :3].cos()).square().mean()


def groups_of(network: torch.nn.Module, named: bool) -> list[dict[str, Any]]:
    """Two groups, whose parameters are not in the order of the backward pass."""
    found = list(network.named_parameters() if named else network.parameters())
    return [{"params": found[1::2], "lr": 0.01}, {"params": found[::2]}]


def content(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """All parameters and states, by position."""
    found: dict[str, Any] = {}
    params = [param for group in optimizer.param_groups for param in group["params"]]
    for position, param in enumerate(params):
        found[f"parameter {position}"] = param.detach().clone()
        for key, value in optimizer.state.get(param, {}).items():
            is_tensor = isinstance(value, Tensor)
            found[f"{key} of parameter {position}"] = value.clone() if is_tensor else value
    return found


def assert_same(ours: dict[str, Any], expected: dict[str, Any]) -> None:
    assert ours.keys() == expected.keys()
    for key, value in expected.items():
        if isinstance(value, Tensor):
            assert_same_bits(ours[key], value, key)
        else:
            assert ours[key] == value, key


def gradients(optimizer: torch.optim.Optimizer) -> int:
    """How many parameters have a gradient."""
    params = (param for group in optimizer.param_groups for param in group["params"])
    return sum(param.grad is not None for param in params)


def assert_same_run(
    make: Callable[[torch.nn.Module], Any],
    batch_bytes: int,
    dtype: torch.dtype = torch.float32,
    loss: Callable[[torch.nn.Module, int], Tensor] = loss_of,
) -> None:
    """Train with steps in backward, and with steps after it."""
    runs = []
    for in_backward in (True, False):
        network = model(dtype)
        optimizer = make(network)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        if in_backward:
            StepInBackward(optimizer, batch_bytes=batch_bytes)
        for step in range(STEPS):
            loss(network, step).backward()
            if in_backward:
                assert gradients(optimizer) == 0
            else:
                optimizer.step()
                optimizer.zero_grad()
            # It warns if no step was taken, and a warning is an error.
            schedule.step()
        runs.append(content(optimizer))
    assert_same(*runs)
    start = content(make(model(dtype)))
    assert any(not torch.equal(value, runs[0][key]) for key, value in start.items())


# Bits


@pytest.mark.parametrize("batch_bytes", BATCHES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_bits_of_a_step_after_backward(case: Case, batch_bytes: int):
    assert_same_run(lambda network: case.ours(groups_of(network, False)), batch_bytes)


@pytest.mark.parametrize("batch_bytes", BATCHES)
@pytest.mark.parametrize("named", [False, True], ids=["", "named"])
@pytest.mark.parametrize("state_dtype", [None, torch.float32], ids=str)
@pytest.mark.parametrize("name", ["AdamW", "NAdam", "SGD"])
def test_bits_of_stochastic_rounding(
    name: str, state_dtype: torch.dtype | None, named: bool, batch_bytes: int
):
    def make(network: torch.nn.Module) -> Any:
        groups = groups_of(network, named)
        return getattr(fused, name)(groups, state_dtype=state_dtype, stochastic_rounding=7)

    assert_same_run(make, batch_bytes, torch.bfloat16)


def adamw(network: torch.nn.Module) -> fused.AdamW:
    return fused.AdamW(groups_of(network, True))


def shared_and_unused(network: Any, step: int) -> Tensor:
    """The second layer twice, the first one not in each step, the last one's bias never."""
    x = torch.full((4, 5 if step % 2 else 6), 0.5)
    x = x if step % 2 else network[0](x)
    x = network[2](network[2](x).tanh())
    return torch.nn.functional.linear(x, network[4].weight).square().sum()


def with_checkpoints(reentrant: bool) -> Callable[[torch.nn.Module, int], Tensor]:
    def loss(network: Any, step: int) -> Tensor:
        x = torch.full((4, 6), 0.1 * step, requires_grad=True)
        x = checkpoint(network[:2], x, use_reentrant=reentrant)
        return checkpoint(network[2:], x, use_reentrant=reentrant).square().sum()

    return loss


def all_in_a_nested_pass(network: torch.nn.Module, step: int) -> Tensor:
    x = torch.full((4, 6), 0.1 * step, requires_grad=True)
    return checkpoint(network, x, use_reentrant=True).square().sum()


def with_penalty(network: torch.nn.Module, step: int) -> Tensor:
    """The loss contains a gradient, so its backward pass is a second one."""
    loss = loss_of(network, step)
    found = torch.autograd.grad(loss, list(network.parameters()), create_graph=True)
    return loss + sum(grad.square().sum() for grad in found)


class NestedBackward(torch.autograd.Function):
    """Runs a backward pass of another parameter within its own."""

    @staticmethod
    def forward(context: Any, x: Tensor, layer: torch.nn.Module) -> Tensor:
        context.layer = layer
        return x.clone()

    @staticmethod
    def backward(context: Any, grad: Tensor) -> tuple[Tensor, None]:
        with torch.enable_grad():
            context.layer(torch.ones(1, 5)).sum().backward()
        return grad, None


def with_nested_backward(network: Any, step: int) -> Tensor:
    x = network[0](torch.full((4, 6), 0.1 * step))
    return network[4](NestedBackward.apply(x, network[2])).square().sum()


@pytest.mark.parametrize("batch_bytes", BATCHES)
@pytest.mark.parametrize(
    "loss",
    [
        shared_and_unused,
        with_checkpoints(False),
        with_checkpoints(True),
        all_in_a_nested_pass,
        with_penalty,
        with_nested_backward,
    ],
    ids=["shared-unused", "checkpoint", "reentrant", "all-nested", "penalty", "nested"],
)
def test_graphs(loss: Callable[[torch.nn.Module, int], Tensor], batch_bytes: int):
    assert_same_run(adamw, batch_bytes, loss=loss)


def test_two_optimizers_in_one_pass():
    runs = []
    for in_backward in (True, False):
        network = model()
        optimizers = [fused.AdamW(network[:3].parameters()), fused.SGD(network[4].parameters())]
        if in_backward:
            for optimizer, batch_bytes in zip(optimizers, (0, 2**22)):
                StepInBackward(optimizer, batch_bytes=batch_bytes)
        for step in range(STEPS):
            loss_of(network, step).backward()
            for optimizer in () if in_backward else optimizers:
                optimizer.step()
                optimizer.zero_grad()
        runs.append([content(optimizer) for optimizer in optimizers])
    for ours, expected in zip(*runs):
        assert_same(ours, expected)


# Batches


def test_batches_are_stepped_and_freed_during_the_pass(monkeypatch: pytest.MonkeyPatch):
    sizes: list[int] = []
    take = fused.AdamW._take

    def count(self: Any, groups: list[dict[str, Any]], request: dict[str, Any]) -> None:
        params = (param for group in groups for param in group["params"])
        sizes.append(sum(param.grad is not None for param in params))
        take(self, groups, request)

    monkeypatch.setattr(fused.AdamW, "_take", count)
    network = model()
    optimizer = adamw(network)
    seen = []
    network[0].weight.register_hook(lambda _: seen.append(gradients(optimizer)))
    # The parameters have 120, 20, 100, 20, 60 and 12 bytes. The last ones have gradients first.
    for batch_bytes, batches, most in (
        (0, [1, 1, 1, 1, 1, 1, 0], 1),
        (160, [4, 2], 3),
        (2**22, [6], 5),
    ):
        with StepInBackward(optimizer, batch_bytes=batch_bytes):
            sizes.clear()
            seen.clear()
            loss_of(network, 0).backward()
        assert [size for size in sizes if size] == [size for size in batches if size]
        assert seen[0] <= most and gradients(optimizer) == 0
    assert max(seen) >= 4, "without batches all gradients exist at once"


@pytest.mark.parametrize("batch_bytes", BATCHES)
@pytest.mark.parametrize("reentrant", [False, True], ids=["", "reentrant"])
def test_accumulate(reentrant: bool, batch_bytes: int):
    """Sums of three passes. The first layer takes part in the first one only.

    The end of a nested pass does not step parameters whose sums are not complete.
    """

    def losses(network: Any, step: int) -> list[Tensor]:
        found = [loss_of(network, step)]
        for k in (1, 2):
            x = network[2](torch.full((2, 5), 0.1 * k)).tanh()
            x = checkpoint(network[4], x, use_reentrant=True) if reentrant else network[4](x)
            found.append(x.square().sum())
        return found

    runs = []
    for in_backward in (True, False):
        network = model()
        optimizer = adamw(network)
        helper = StepInBackward(optimizer, batch_bytes=batch_bytes) if in_backward else None
        for step in range(STEPS):
            *first, last = losses(network, step)
            if helper is None:
                for loss in (*first, last):
                    loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                continue
            before = content(optimizer)
            with helper.accumulate():
                with helper.accumulate():
                    first[0].backward()
                first[1].backward()
            assert_same(content(optimizer), before)
            assert gradients(optimizer) == 6
            last.backward()
            assert gradients(optimizer) == 0
        runs.append(content(optimizer))
    assert_same(*runs)


def test_a_step_after_the_pass_changes_nothing():
    network = model()
    optimizer = adamw(network)
    StepInBackward(optimizer, batch_bytes=100)
    loss_of(network, 0).backward()
    before = content(optimizer)
    optimizer.step()
    assert_same(content(optimizer), before)
    assert before["step of parameter 0"] == 1

    def closure() -> Tensor:
        loss = loss_of(network, 1)
        loss.backward()
        return loss

    assert optimizer.step(closure) > 0
    assert content(optimizer)["step of parameter 0"] == 2


def test_without_the_helper_gradients_stay():
    network = model()
    optimizer = adamw(network)
    with StepInBackward(optimizer, batch_bytes=0) as helper:
        loss_of(network, 0).backward()
        assert gradients(optimizer) == 0
    before = content(optimizer)
    loss_of(network, 1).backward()
    assert gradients(optimizer) == 6
    assert_same(content(optimizer), before)
    helper.remove()
    assert "add_param_group" not in vars(optimizer)
    optimizer.step()
    # It can have another one, and it was not changed for good.
    StepInBackward(optimizer)
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        other.param_groups[0]["params"][0].grad = torch.ones(5)
        assert "add_param_group" not in vars(other)
        other.step()


def test_removed_within_a_pass():
    network = model()
    optimizer = adamw(network)
    helper = StepInBackward(optimizer)
    before = content(optimizer)
    network[0].weight.register_hook(lambda _: helper.remove())
    loss_of(network, 0).backward()
    assert_same(content(optimizer), before)
    assert gradients(optimizer) == 6


@pytest.mark.parametrize("batch_bytes", BATCHES)
def test_parameters_that_are_added_or_unfrozen_later(batch_bytes: int):
    runs = []
    for in_backward in (True, False):
        network = model()
        network[2].requires_grad_(False)
        optimizer = fused.AdamW(network[:3].parameters())
        if in_backward:
            StepInBackward(optimizer, batch_bytes=batch_bytes)
        for step in range(STEPS):
            if step == 1:
                optimizer.add_param_group({"params": network[4].parameters(), "lr": 0.01})
                network[0].requires_grad_(False)
            if step == 2:
                network[2].requires_grad_(True)
            if step == 3:
                network[4].requires_grad_(False)
            assert network[2].weight.requires_grad == (step >= 2)
            if step == 0:
                network[4].zero_grad()
            loss_of(network, step).backward()
            if not in_backward:
                optimizer.step()
                optimizer.zero_grad()
            assert gradients(optimizer) == 0
        runs.append(content(optimizer))
    assert_same(*runs)


def test_groups_that_were_changed_by_hand():
    """A parameter that is no longer in the optimizer keeps its gradient."""
    network = model()
    optimizer = adamw(network)
    StepInBackward(optimizer, batch_bytes=0)
    dropped = optimizer.param_groups.pop()["params"]
    moved = optimizer.param_groups[0]["params"].pop(0)
    before = [param.detach().clone() for param in [*dropped, moved]]
    loss_of(network, 0).backward()
    for param, value in zip([*dropped, moved], before, strict=True):
        assert param.grad is not None and torch.equal(param, value)
    steps = [optimizer.state[param]["step"] for param in optimizer.param_groups[0]["params"]]
    assert steps == [1, 1] and gradients(optimizer) == 0


# Errors


def spoil(optimizer: Any, network: Any, what: str) -> tuple[type[Exception], str]:
    if what == "lr":
        optimizer.param_groups[1]["lr"] = float("nan")
        return ValueError, "parameter group 1: `lr` is NaN"
    # Of the first layer, whose gradient is complete last.
    state = optimizer.state[network[0].weight]
    state["exp_avg"] = torch.zeros(1)
    return ValueError, "exp_avg of parameter 3 (`0.weight`, shape (5, 6)) has shape (1,)"


@pytest.mark.parametrize("batch_bytes", BATCHES)
@pytest.mark.parametrize("what", ["lr", "state"])
@pytest.mark.parametrize("stepped", [False, True], ids=["new", "stepped"])
def test_an_error_in_a_step(stepped: bool, what: str, batch_bytes: int):
    network = model()
    optimizer = adamw(network)
    StepInBackward(optimizer, batch_bytes=batch_bytes)
    if stepped:
        loss_of(network, 0).backward()
    kept = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(network.state_dict())
    error, message = spoil(optimizer, network, what)
    before = content(optimizer)
    with pytest.raises(error, match=re.escape(message)) as raised:
        loss_of(network, 1).backward()
    assert raised.value.__cause__ is None and raised.value.__context__ is None
    after = content(optimizer)
    if batch_bytes == 2**22:
        assert_same(after, before)
    key = "parameter 3" if what == "state" else "parameter 5"
    for name in (key, f"exp_avg of {key}", f"step of {key}"):
        assert (name in after) == (name in before)
        if name in before:
            assert_same_bits(after[name], before[name], name)
    # The next pass is that of a fresh run: no gradient and no parameter of this one is left.
    for group in optimizer.param_groups:
        for param in group["params"]:
            optimizer.state.pop(param, None)
    optimizer.load_state_dict(kept[0])
    network.load_state_dict(kept[1])
    if not stepped:
        optimizer.state.clear()
    other = model()
    expected = adamw(other)
    for step in (0, 2) if stepped else (2,):
        loss_of(other, step).backward()
        expected.step()
        expected.zero_grad()
    loss_of(network, 2).backward()
    assert_same(content(optimizer), content(expected))


class Failing(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(context: Any, grad: Tensor) -> Tensor:
        raise ArithmeticError("this pass fails")


@pytest.mark.parametrize("nested", [False, True], ids=["", "nested"])
def test_an_error_in_the_pass(nested: bool):
    """What was collected is not stepped by the next pass, and its gradients are not added."""
    network = model()
    optimizer = adamw(network)
    StepInBackward(optimizer)
    before = content(optimizer)
    x = network[2](Failing.apply(network[0](torch.ones(2, 6, requires_grad=True))))
    if nested:
        whole = torch.nn.Sequential(network[4])
        x = checkpoint(whole, x, use_reentrant=True)
    else:
        x = network[4](x)
    with pytest.raises(ArithmeticError, match="this pass fails"):
        x.sum().backward()
    if not nested:
        assert_same(content(optimizer), before)
    assert gradients(optimizer) == 0
    stepped = {name: param.detach().clone() for name, param in network.named_parameters()}
    network[0](torch.ones(1, 6)).sum().backward()
    moved = [name for name, param in network.named_parameters() if (param != stepped[name]).any()]
    assert moved == ["0.weight", "0.bias"]


def test_another_pass_over_the_same_graph_is_an_error():
    """The step has changed tensors that the graph needs, as a step after the first pass would."""
    network = model()
    StepInBackward(adamw(network))
    loss = loss_of(network, 0)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# What is refused


def test_step_hooks():
    network = model()
    optimizer = adamw(network)
    calls = []
    optimizer.register_step_post_hook(lambda *_: calls.append(gradients(optimizer)))
    helper = StepInBackward(optimizer, batch_bytes=0)
    loss_of(network, 0).backward()
    assert len(calls) == 1

    def clip(*_: Any) -> None:
        """Would see a part of the gradients."""

    hook = optimizer.register_step_pre_hook(clip)
    before = content(optimizer)
    with pytest.raises(RuntimeError, match="the step pre hook .*clip, which would see a part"):
        loss_of(network, 1).backward()
    assert_same(content(optimizer), before)
    helper.remove()
    with pytest.raises(RuntimeError, match="step pre hook"):
        StepInBackward(optimizer)
    hook.remove()
    StepInBackward(optimizer)


def test_clipping_is_refused():
    network = model()
    optimizer = adamw(network)
    StepInBackward(optimizer)
    loss_of(network, 0).backward()
    with pytest.raises(RuntimeError, match="clip_grad_norm_and_step needs all gradients"):
        fused.clip_grad_norm_and_step(optimizer, 1.0)
    loss_of(network, 1).backward()


@pytest.mark.parametrize("fused_option", [None, True])
def test_a_grad_scaler_is_refused(fused_option: bool | None):
    network = model()
    optimizer = fused.AdamW(network.parameters(), fused=fused_option)
    StepInBackward(optimizer)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(loss_of(network, 0)).backward()
    error, message = AssertionError, "No inf checks were recorded"
    if fused_option:
        error, message = RuntimeError, "a GradScaler needs all gradients"
    with pytest.raises(error, match=message):
        scaler.step(optimizer)


def test_arguments_that_are_refused():
    network = model()
    optimizer = adamw(network)
    with pytest.raises(TypeError, match="optimizer is a SGD, expected one of fused_adam.torch"):
        StepInBackward(torch.optim.SGD(network.parameters()))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="batch_bytes is a float, expected a whole number"):
        StepInBackward(optimizer, batch_bytes=1e6)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batch_bytes is -1, expected at least 0"):
        StepInBackward(optimizer, batch_bytes=-1)
    StepInBackward(optimizer)
    with pytest.raises(ValueError, match="already has a StepInBackward"):
        StepInBackward(optimizer)
    with pytest.warns(UserWarning, match="duplicate parameters"):
        twice = fused.AdamW([network[0].weight] * 2)
    with pytest.raises(ValueError, match="listed twice in its group"):
        StepInBackward(twice)


# Several processes


def fsdp2(world: int, rank: int, in_backward: bool, batch_bytes: int) -> dict[str, Any]:
    """Trains with ``fully_shard`` and a plain parameter, with sums of two passes."""
    network = model()
    mesh = init_device_mesh("cpu", (world,))
    for layer in (network[0], network[2], network):
        fully_shard(layer, mesh=mesh)
    scale = torch.nn.Parameter(torch.ones(()))
    optimizer = fused.AdamW([*network.parameters(), scale], lr=0.01)
    if in_backward:
        helper = StepInBackward(optimizer, batch_bytes=batch_bytes)
    for step in range(STEPS):
        if in_backward:
            with helper.accumulate():
                (scale * loss_of(network, step, rank)).backward()
            assert gradients(optimizer) == 7
        else:
            (scale * loss_of(network, step, rank)).backward()
        (scale * loss_of(network, step + STEPS, rank)).backward()
        if not in_backward:
            optimizer.step()
            optimizer.zero_grad()
        assert gradients(optimizer) == 0
    found = content(optimizer)
    for key, value in found.items():
        if isinstance(value, DTensor):
            found[key] = value._local_tensor.clone()
    return found


def refusals(rank: int) -> dict[str, str]:
    """The errors with wrappers that reduce gradients later."""
    found = {}

    def attempt(name: str, act: Callable[[], Any]) -> None:
        try:
            act()
        except RuntimeError as error:
            found[name] = str(error)

    network = DistributedDataParallel(model())
    attempt("DDP", lambda: StepInBackward(fused.AdamW(network.parameters())))
    plain = model()
    before = [param.detach().clone() for param in plain.parameters()]
    StepInBackward(fused.AdamW(plain.parameters()))
    wrapped = DistributedDataParallel(plain)
    attempt("DDP later", lambda: loss_of(wrapped, 0, rank).backward())
    assert all(map(torch.equal, plain.parameters(), before))
    for orig in (False, True):
        device = torch.device("cpu")
        flat = FullyShardedDataParallel(model(), device_id=device, use_orig_params=orig)
        optimizer = fused.AdamW(flat.parameters())
        attempt(f"FSDP1 {orig}", lambda: StepInBackward(optimizer))
    return found


def _process(rank: int, folder: Path) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    found: dict[Any, Any] = {}
    for world in (2, 1):
        path = folder / (f"{world}" if world == 2 else f"{world}-{rank}")
        dist.init_process_group(
            "gloo",
            init_method=f"file://{path}",
            rank=rank if world == 2 else 0,
            world_size=world,
            timeout=timedelta(seconds=120),
        )
        found[world, None] = fsdp2(world, rank, False, 0)
        for batch_bytes in BATCHES:
            found[world, batch_bytes] = fsdp2(world, rank, True, batch_bytes)
        if world == 2:
            found["refused"] = refusals(rank)
        dist.destroy_process_group()
    torch.save(found, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, Any]]:
    """What two processes found."""
    if not dist.is_gloo_available():
        pytest.skip("this torch was built without gloo")
    folder = tmp_path_factory.mktemp("backward")
    deadline = time.monotonic() + 240.0
    context = torch.multiprocessing.spawn(_process, args=(folder,), nprocs=2, join=False)
    try:
        while not context.join(timeout=max(deadline - time.monotonic(), 0.0)):
            if time.monotonic() > deadline:
                raise TimeoutError("the processes took more than 240 s")
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()
            process.join()
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("batch_bytes", BATCHES)
def test_fully_shard(ranks: list[dict[Any, Any]], batch_bytes: int, world: int):
    for found in ranks:
        assert_same(found[world, batch_bytes], found[world, None])
        assert found[world, None]["step of parameter 0"] == STEPS


def test_wrappers_are_refused(ranks: list[dict[Any, Any]]):
    for found in ranks:
        for name in ("DDP", "DDP later", "FSDP1 False", "FSDP1 True"):
            assert "which reduces gradients after" in found["refused"].get(name, ""), name
