"""Parameters that are ``DTensor``s: FSDP2, tensor parallel layers, checkpoints that are resharded.

Each number of processes is started once. Each process runs all checks of ``dtensors.py``.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed

import dtensors
import fused_adam.torch as fused
from common import assert_same_bits
import workers
from dtensors import CASES, DTYPES, SAVED, SEED, STEPS, TENSORS, WORLDS

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_gloo_available(), reason="this torch was built without gloo"
)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """What each rank found, by the number of processes. Two processes save checkpoints."""
    folder = tmp_path_factory.mktemp("dtensors")
    return {world: workers.spawn(dtensors.CHECKS, folder, world) for world in (2, 1, 3, 4)}


def results(
    ranks: dict[int, list[dict[str, Any]]], world: int, check: str
) -> list[dict[Any, Any]]:
    """What the ranks found in a check."""
    assert len(ranks[world]) == world
    return workers.results(ranks[world], check)


def assert_trained(
    ours: dict[str, Any], torchs: dict[str, Any], tolerance: float, names: str
) -> None:
    """All parameters moved, and to the same place as torch's."""
    pairs = zip(ours["before"], ours["after"], torchs["after"], strict=True)
    for number, (before, after, other) in enumerate(pairs):
        where = f"parameter {number} of {names}"
        assert (after - before).abs().max() > 1e-4, f"{where} did not move"
        error = (after - other).abs().max()
        assert error <= tolerance, f"{where} is off by {error}"


def assert_same(ours: dict[str, Any], expected: dict[str, Any], names: str) -> None:
    """The same parameters and states, to the bit."""
    assert ours.keys() == expected.keys(), names
    for key, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert_same_bits(ours[key], value, f"{key} ({names})")
        else:
            assert ours[key] == value, f"{key} ({names})"


def tolerance_of(case: str, dtype: str) -> float:
    """The largest difference from torch. Its product of NAdam's momenta is in ``float32``."""
    return 1e-6 if dtype == "float32" else 1e-8 if case == "NAdam" else 1e-11


worlds = pytest.mark.parametrize("world", WORLDS)


@worlds
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "case, clip",
    [*((case, False) for case in CASES), ("AdamW", True)],
    ids=[*CASES, "AdamW-clip"],
)
def test_fully_shard(
    ranks: dict[int, list[dict[str, Any]]], world: int, case: str, clip: bool, dtype: str
):
    """FSDP2 with uneven and empty shards, beside torch's class."""
    for rank, found in enumerate(results(ranks, world, "fsdp2")):
        ours, torchs = (found[case, dtype, clip, side] for side in ("ours", "torchs"))
        names = f"{case}, {dtype}, rank {rank} of {world}"
        assert_trained(ours, torchs, tolerance_of(case, dtype), names)
        assert ours["shards"] == torchs["shards"]
        if world == 3:
            empty = [0 in shard for shard in ours["shards"]]
            assert empty == [False, False, rank == 2, rank == 2], "the last shards are empty"
        if clip:
            assert len(ours["norms"]) == STEPS
            assert all(norm > 0.1 for norm in ours["norms"]), "the gradients are clipped"


@worlds
@pytest.mark.parametrize("variant", dtensors.VARIANTS)
def test_variants_of_fully_shard(
    ranks: dict[int, list[dict[str, Any]]], world: int, variant: str
):
    for rank, found in enumerate(results(ranks, world, "variants")):
        ours, torchs = (found[variant, side] for side in ("ours", "torchs"))
        assert_trained(ours, torchs, 1e-11, f"{variant}, rank {rank} of {world}")


@worlds
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_shards_have_the_bits_of_the_whole(
    ranks: dict[int, list[dict[str, Any]]], world: int, case: str, dtype: str
):
    """Shards, replicas and a plain parameter in one optimizer. All are stepped in place."""
    expected = dtensors.run_whole(case, list(TENSORS), DTYPES[dtype])
    for rank, found in enumerate(results(ranks, world, "same_gradients")):
        contents, wrong = found[case, dtype]
        assert wrong is None, f"{wrong} ({case}, {dtype}, rank {rank} of {world})"
        assert_same(contents, expected, f"{case}, {dtype}, rank {rank} of {world}")


@worlds
def test_float32_states_of_bfloat16_shards(ranks: dict[int, list[dict[str, Any]]], world: int):
    expected = dtensors.run_whole(
        "AdamW", list(TENSORS), torch.bfloat16, state_dtype=torch.float32
    )
    assert expected["exp_avg of even"].dtype == torch.float32
    for rank, found in enumerate(results(ranks, world, "same_gradients")):
        contents, wrong = found["AdamW", "bfloat16 with float32 states"]
        assert wrong is None, wrong
        assert_same(contents, expected, f"rank {rank} of {world}")


@worlds
@pytest.mark.parametrize("kind", ["policy", "plain"])
def test_fully_shard_with_bfloat16(
    ranks: dict[int, list[dict[str, Any]]], world: int, kind: str
):
    """A mixed-precision policy, or parameters of bfloat16: the gradients give the same bits."""
    for rank, found in enumerate(results(ranks, world, "reduced_precision")):
        run = found[kind]
        params = [torch.nn.Parameter(param) for param in run["before"]]
        assert {param.dtype for param in params} == {
            torch.float32 if kind == "policy" else torch.bfloat16
        }
        optimizer = fused.AdamW(params, lr=0.01)
        for grads in run["grads"]:
            for param, grad in zip(params, grads, strict=True):
                assert grad.abs().max() > 0
                param.grad = grad
            optimizer.step()
        for number, (param, after) in enumerate(zip(params, run["after"], strict=True)):
            names = f"parameter {number}, {kind}, rank {rank} of {world}"
            assert_same_bits(after, param, names)


@worlds
@pytest.mark.parametrize("case", CASES)
def test_tensor_parallel(ranks: dict[int, list[dict[str, Any]]], world: int, case: str):
    """Parallel layers, with clipping, beside torch's class."""
    for rank, found in enumerate(results(ranks, world, "tensor_parallel")):
        ours, torchs = (found[case, side] for side in ("ours", "torchs"))
        shards = ["(Shard(dim=0),)", "(Shard(dim=0),)", "(Shard(dim=1),)", "(Replicate(),)"]
        assert ours["placements"] == shards
        names = f"{case}, rank {rank} of {world}"
        assert_trained(ours, torchs, tolerance_of(case, "float64"), names)


@worlds
@pytest.mark.parametrize("states", [None, torch.float32], ids=str)
@pytest.mark.parametrize("case", ["AdamW", "SGD"])
def test_stochastic_rounding(
    ranks: dict[int, list[dict[str, Any]]], world: int, case: str, states: torch.dtype | None
):
    """The random bits are those of the whole tensor."""
    nearest, expected = (
        dtensors.run_whole(
            case, list(TENSORS), torch.bfloat16, stochastic_rounding=seed, state_dtype=states
        )
        for seed in (False, SEED)
    )
    assert not torch.equal(nearest["even"], expected["even"])
    for rank, found in enumerate(results(ranks, world, "stochastic")):
        contents, wrong = found[case, str(states)]
        assert wrong is None, wrong
        assert_same(contents, expected, f"{case}, rank {rank} of {world}")


@worlds
def test_stochastic_rounding_on_a_mesh_of_two_dimensions(
    ranks: dict[int, list[dict[str, Any]]], world: int
):
    """Also shards of several dimensions, and interleaved ones."""
    for rank, found in enumerate(results(ranks, world, "stochastic")):
        meshes = [key for key in found if isinstance(key[0], tuple)]
        assert len(meshes) == 11 * len(dtensors.grids(world))
        for mesh in meshes:
            for name, (shard, expected) in found[mesh].items():
                assert_same_bits(shard, expected, f"{name} on the mesh {mesh}, rank {rank}")


@worlds
def test_parameters_of_summands_are_refused(ranks: dict[int, list[dict[str, Any]]], world: int):
    for found in results(ranks, world, "refusals"):
        assert len(found["summands"]) == len(CASES) + 1
        assert all("parameter sum has the placement" in text for text in found["summands"])
        assert found["groups"] == 1


@worlds
@pytest.mark.parametrize("case", CASES)
def test_gradients_of_other_placements(
    ranks: dict[int, list[dict[str, Any]]], world: int, case: str
):
    """They are redistributed, as torch does."""
    expected = dtensors.run_whole(case, ["uneven", "everywhere"], torch.float32)
    for rank, found in enumerate(results(ranks, world, "other_placements")):
        assert_same(found[case], expected, f"{case}, rank {rank} of {world}")


@worlds
@pytest.mark.parametrize("stepped", [False, True], ids=["first", "later"])
@pytest.mark.parametrize(
    "what, name",
    [
        ("no DTensor", "uneven"),
        ("another mesh", "uneven"),
        ("a DTensor", "plain"),
    ],
)
def test_refused(
    ranks: dict[int, list[dict[str, Any]]], world: int, what: str, name: str, stepped: bool
):
    """The error names the parameter. Nothing has changed, in the first step or a later one."""
    for rank, found in enumerate(results(ranks, world, "refusals")):
        error = found[what, stepped]["error"]
        assert error is not None, f"rank {rank} of {world} took a step"
        assert error[0] == "RuntimeError" and f"`{name}`" in error[1], error
        assert found[what, stepped]["unchanged"], f"rank {rank} of {world}"


@worlds
@pytest.mark.parametrize(
    "case, seeded",
    [*((case, False) for case in CASES), ("AdamW", True)],
    ids=[*CASES, "AdamW-stochastic"],
)
def test_a_step_does_not_communicate(
    ranks: dict[int, list[dict[str, Any]]], world: int, case: str, seeded: bool
):
    for rank, found in enumerate(results(ranks, world, "communication")):
        counts = found[case, seeded]
        assert counts["full_tensor"] > 0 or world == 1, "collectives are counted"
        assert counts["steps"] == [0, 0, 0], f"rank {rank} of {world}"


@worlds
@pytest.mark.parametrize("after", ["ours", "torchs"])
@pytest.mark.parametrize("before", ["ours", "torchs"])
@pytest.mark.parametrize("case", SAVED)
def test_resharded_checkpoint(
    ranks: dict[int, list[dict[str, Any]]], world: int, case: str, before: str, after: str
):
    """What two processes saved goes on with another number of them, or with the other class."""
    saved = results(ranks, 2, "checkpoints")[0]
    expected, broken = (
        saved[case, before, when] for when in ("without a break", "at the break")
    )
    for rank, found in enumerate(results(ranks, world, "checkpoints")):
        params = zip(found[case, before, after], expected, broken, strict=True)
        for number, (param, other, start) in enumerate(params):
            names = f"parameter {number} of {case}, rank {rank} of {world}"
            assert (param - start).abs().max() > 1e-3, f"{names} did not move"
            error = (param - other).abs().max()
            assert error <= 1e-6, f"{names} is off by {error}"
            # A centered RMSprop computes its variance from torch's mean square.
            if before == after == "ours" and not case.startswith("RMSprop"):
                assert_same_bits(param, other, names)


@worlds
def test_resharded_checkpoint_of_stochastic_rounding(
    ranks: dict[int, list[dict[str, Any]]], world: int
):
    """A run goes on to the bit, with any number of processes."""
    saved = results(ranks, 2, "checkpoints")[0]
    expected, broken = (
        saved["stochastic", "ours", when] for when in ("without a break", "at the break")
    )
    for rank, found in enumerate(results(ranks, world, "checkpoints")):
        params = zip(found["stochastic", "ours", "ours"], expected, broken, strict=True)
        for number, (param, other, start) in enumerate(params):
            assert not torch.equal(param, start)
            assert_same_bits(param, other, f"parameter {number}, rank {rank} of {world}")
