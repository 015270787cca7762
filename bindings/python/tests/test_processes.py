"""Data-parallel wrappers on two processes, sharded loss scaling, and distributed checkpoints."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)

import fused_adam.torch as fused
import processes
import workers
from common import assert_same_bits
from processes import INFINITE, PROCESSES, SIDES, STEPS, model

pytestmark = [
    pytest.mark.skipif(
        not torch.distributed.is_gloo_available(), reason="this torch was built without gloo"
    ),
    pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning"),
]

OPTIONS = list(itertools.product((None, True), (False, True), (False, True)))
OPTION_IDS = [
    f"fused={option}{'-unscale' * unscale}{'-orig' * orig}" for option, unscale, orig in OPTIONS
]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What ran on two processes: the results of each rank."""
    ranks = workers.spawn(processes.CHECKS, tmp_path_factory.mktemp("ranks"), PROCESSES)
    for check in processes.CHECKS:
        workers.results(ranks, check.__name__)
    return ranks


def assert_close(ours: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for number, (param, other) in enumerate(zip(ours, expected, strict=True)):
        message = f"parameter {number}: {(param - other).abs().max() if param.numel() else 0}"
        assert torch.allclose(param, other, rtol=0.0, atol=1e-6), message


@pytest.mark.parametrize("option, unscale, orig", OPTIONS, ids=OPTION_IDS)
def test_sharded_grad_scaler(
    ranks: list[dict[str, Any]], option: bool | None, unscale: bool, orig: bool
):
    """Each rank behaves as with torch's AdamW, also after a step with an infinite gradient."""
    for rank in ranks:
        found = rank["with_infinite_gradients"]
        ours = found["ours", option, unscale, orig]
        # torch's scaler and its fused AdamW raise an error after ``unscale_``.
        torchs = found["torchs", None if unscale else option, unscale, orig]
        for what in ("moved", "scales", "steps"):
            assert ours[what] == torchs[what], what
        assert_close(ours["shards"], torchs["shards"])


# With ``fused=True`` and without ``unscale_``, the scaler does not tell the other ranks.
SKIPPED = [options for options in OPTIONS if not options[0] or options[1]]
SKIPPED_IDS = [name for name, options in zip(OPTION_IDS, OPTIONS) if options in SKIPPED]


@pytest.mark.parametrize("option, unscale, orig", SKIPPED, ids=SKIPPED_IDS)
def test_all_ranks_skip_a_step(
    ranks: list[dict[str, Any]], option: bool | None, unscale: bool, orig: bool
):
    assert len(ranks) == PROCESSES
    for rank in ranks:
        found = rank["with_infinite_gradients"]["ours", option, unscale, orig]
        assert found["moved"] == [step != INFINITE for step in range(STEPS)]
        assert found["scales"] == [1024.0 if step < INFINITE else 512.0 for step in range(STEPS)]
        assert found["steps"] and set(found["steps"]) == {STEPS - 1.0}


@pytest.mark.parametrize("clip", [False, True], ids=["plain", "clip"])
def test_distributed_data_parallel(ranks: list[dict[str, Any]], clip: bool):
    results = [rank["data_parallel"] for rank in ranks]
    for found in results:
        assert_close(found["ours", clip], found["torchs", clip])
    for param, other in zip(*(found["ours", clip] for found in results), strict=True):
        assert_same_bits(param, other, "the ranks have the same parameters")


@pytest.mark.parametrize("after", SIDES)
@pytest.mark.parametrize("before", SIDES)
@pytest.mark.parametrize("name", [name for name, _ in processes.SAVED])
def test_sharded_checkpoint(ranks: list[dict[str, Any]], name: str, before: str, after: str):
    for rank in ranks:
        found, expected = (
            rank["sharded_checkpoints"][name, before, then] for then in (after, "without a break")
        )
        assert_close(found, expected)
        # A centered RMSprop computes its variance from torch's mean square.
        if before == after and name != "RMSprop":
            for param, other in zip(found, expected, strict=True):
                assert_same_bits(param, other, f"{name} is resumed to the bit")


# Distributed checkpoints on one process


def train(network: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    dtype = next(network.parameters()).dtype
    for step in steps:
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(step)).to(dtype)
        optimizer.zero_grad()
        (network(x) - x[:, :3].cos()).square().mean().backward()
        optimizer.step()


def save(
    network: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    path: Path,
    options: StateDictOptions,
) -> None:
    weights, states = get_state_dict(network, optimizer, options=options)
    dcp.save({"model": weights, "optimizer": states}, checkpoint_id=path)


def load(
    network: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    path: Path,
    options: StateDictOptions,
) -> None:
    weights, states = get_state_dict(network, optimizer, options=options)
    loaded = {"model": weights, "optimizer": states}
    dcp.load(loaded, checkpoint_id=path)
    set_state_dict(
        network,
        optimizer,
        model_state_dict=loaded["model"],
        optim_state_dict=loaded["optimizer"],
        options=options,
    )


@pytest.fixture(params=[False, True], ids=["nested", "flat"])
def options(request: pytest.FixtureRequest) -> StateDictOptions:
    return StateDictOptions(flatten_optimizer_state_dict=request.param)


CHECKPOINTS: list[tuple[str, dict[str, Any]]] = [
    ("RMSprop", {"lr": 0.01, "centered": True, "momentum": 0.9}),
    ("RMSprop", {"lr": 0.01, "centered": True}),
    ("AdamW", {"lr": 0.01, "amsgrad": True}),
    ("NAdam", {"lr": 0.01}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}),
]


@pytest.mark.parametrize("order", ["torchs-ours", "ours-torchs", "ours-ours"])
@pytest.mark.parametrize(
    "name, hyper", CHECKPOINTS, ids=["-".join((name, *hyper)) for name, hyper in CHECKPOINTS]
)
def test_checkpoint(
    name: str,
    hyper: dict[str, Any],
    order: str,
    options: StateDictOptions,
    tmp_path: Path,
):
    """The run that is resumed has the result of torch alone."""
    # torch stores NAdam's product of momenta in float32.
    tolerance = 1e-6 if name == "NAdam" else 1e-11
    first, second = (getattr(SIDES[side], name) for side in order.split("-"))
    network, alone = model().double(), model().double()
    train(alone, getattr(torch.optim, name)(alone.parameters(), **hyper), range(8))
    optimizer = first(network.parameters(), **hyper)
    train(network, optimizer, range(4))
    save(network, optimizer, tmp_path, options)
    network = model(seed=5).double()
    optimizer = second(network.parameters(), **hyper)
    load(network, optimizer, tmp_path, options)
    train(network, optimizer, range(4, 8))
    for param, other in zip(network.parameters(), alone.parameters()):
        torch.testing.assert_close(param, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("reverse", [False, True], ids=["", "reversed"])
@pytest.mark.parametrize("state_dtype", [torch.float32, None], ids=str)
def test_checkpoint_of_stochastic_rounding(
    state_dtype: torch.dtype | None, reverse: bool, options: StateDictOptions, tmp_path: Path
):
    """A run goes on to the bit, also if the parameters are listed in another order."""

    def make(network: torch.nn.Module, reverse: bool = False) -> fused.AdamW:
        params = list(network.parameters())
        return fused.AdamW(
            params[::-1] if reverse else params,
            lr=0.01,
            state_dtype=state_dtype,
            stochastic_rounding=7,
        )

    whole, parts = model().bfloat16(), model().bfloat16()
    expected = make(whole)
    train(whole, expected, range(8))
    optimizer = make(parts)
    train(parts, optimizer, range(4))
    save(parts, optimizer, tmp_path, options)
    parts = model(seed=5).bfloat16()
    optimizer = make(parts, reverse)
    load(parts, optimizer, tmp_path, options)
    train(parts, optimizer, range(4, 8))
    for (name, param), other in zip(parts.named_parameters(), whole.parameters()):
        assert_same_bits(param, other, name)
        for key, value in expected.state[other].items():
            found = optimizer.state[param][key]
            if isinstance(value, torch.Tensor):
                assert_same_bits(found, value, f"{key} of {name}")
                if key != "step":
                    assert found.dtype == state_dtype or state_dtype is None
            else:
                assert found == value, f"{key} of {name}"


def test_states_alone_without_a_file(options: StateDictOptions):
    """Ours takes all states that ``get_optimizer_state_dict`` returns for torch's."""
    network = model().double()
    theirs = torch.optim.AdamW(network.parameters(), amsgrad=True)
    train(network, theirs, range(4))
    packed = get_optimizer_state_dict(network, theirs, options=options)
    fresh = model(seed=5).double()
    ours = fused.AdamW(fresh.parameters(), amsgrad=True)
    set_optimizer_state_dict(fresh, ours, packed, options=options)
    for param, other in zip(fresh.parameters(), network.parameters()):
        assert ours.state[param].keys() == theirs.state[other].keys()
        for key, value in theirs.state[other].items():
            assert_same_bits(ours.state[param][key], value, key)
