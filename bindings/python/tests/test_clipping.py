"""Clipping by the norm of all processes: FSDP1, FSDP2, tensor parallel layers and ZeRO.

Each number of processes is started once. Each process runs all checks of ``clipping.py``.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed

import clipping
import workers
from common import assert_same_bits

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_gloo_available(), reason="this torch was built without gloo"
)

WORLDS = (1, 2, 3, 4)
worlds = pytest.mark.parametrize("world", WORLDS)

Ranks = dict[int, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    """What each rank found, by the number of processes. Three have a group for two devices."""
    folder = tmp_path_factory.mktemp("clipping")
    backends = {3: "cpu:gloo,cuda:gloo"}
    return {
        world: workers.spawn(clipping.CHECKS, folder, world, backends.get(world, "gloo"))
        for world in WORLDS
    }


def assert_pairs(pairs: list[tuple[str, torch.Tensor, torch.Tensor]], where: str) -> None:
    assert len(pairs) > clipping.STEPS
    for name, own, expected in pairs:
        assert_same_bits(own, expected, f"{name}, {where}")


@worlds
def test_shards_have_the_bits_of_the_whole(ranks: Ranks, world: int):
    """Norms, parameters and states, with stochastic rounding of ``bfloat16``."""
    for rank, found in enumerate(workers.results(ranks[world], "shards")):
        kinds = {key[0] for key in found}
        assert kinds == {"FSDP2", "HSDP", "TP", "FSDP2 and TP"}
        for key, pairs in found.items():
            assert_pairs(pairs, f"{key}, rank {rank} of {world}")


@worlds
@pytest.mark.parametrize("check", ["offloaded", "ignored_params", "zero", "data_parallel"])
def test_other_ways_have_the_bits_of_one_process(ranks: Ranks, world: int, check: str):
    for rank, found in enumerate(workers.results(ranks[world], check)):
        assert_pairs(found["pairs"], f"rank {rank} of {world}")


@worlds
@pytest.mark.parametrize("use_orig_params", [False, True])
def test_flattened_parameters(ranks: Ranks, world: int, use_orig_params: bool):
    """FSDP1 has the norm of all shards, with the same bits on all ranks."""
    found = [rank[use_orig_params] for rank in workers.results(ranks[world], "flattened")]
    first, _ = found[0]["sides"][0]
    for rank in found:
        (norms, params), (torchs, others) = rank["sides"]
        for norm, of_first, other in zip(norms, first, torchs, strict=True):
            assert_same_bits(norm, of_first, f"a norm of {world} ranks")
            assert abs(norm - other) <= 1e-6 * other
            assert norm > 0.02, "the gradients are clipped"
        for param, other in zip(params, others, strict=True):
            # torch divides by the norm + 1e-6.
            assert param.numel() == 0 or (param - other).abs().max() <= 1e-5
        assert rank["unchanged"]
        assert "FullyShardedDataParallel" in rank["error"]
        assert "process_group=model.process_group" in rank["error"]


#: What is wrong on the last process, with its error. In the first step too, and in a later one.
WRONG = {
    "infinite": ("ValueError", "the gradients' norm is inf"),
    "wrong gradient": ("RuntimeError", "is a Tensor, expected a DTensor"),
    "wrong lr": ("ValueError", "lr"),
    "twice": ("ValueError", "is listed twice"),
}
#: The same, in a later step only.
WRONG_LATER = {
    "wrong step": ("ValueError", "step of parameter 0"),
    "max_norm": ("ValueError", "max_norm is -1.0, expected a number from 0 on"),
    "other max_norm": ("ValueError", "max_norm is norm_type 2 and 1.5 on rank"),
    "other norm_type": ("ValueError", "max_norm is norm_type inf and 0.5 on rank"),
}


@worlds
@pytest.mark.parametrize(
    "what, stepped",
    [*itertools.product(WRONG, (False, True)), *((what, True) for what in WRONG_LATER)],
)
def test_all_processes_raise(ranks: Ranks, world: int, what: str, stepped: bool):
    """The process with the error raises it. The others name the process and the error."""
    kind, text = (WRONG | WRONG_LATER)[what]
    for rank, of_rank in enumerate(workers.results(ranks[world], "outcomes")):
        result = of_rank[what, stepped]
        if world == 1 and what.startswith("other"):
            assert result["error"] is None
            continue
        assert result["unchanged"], f"rank {rank} of {world}"
        name, message = result["error"]
        assert text in message
        alike = what == "infinite" or what.startswith("other")
        if rank == world - 1 or alike:
            assert name == kind
        else:
            assert name == "RuntimeError"
            assert message.startswith(f"rank {world - 1} cannot take the step: {kind}: ")


@worlds
@pytest.mark.parametrize("stepped", [False, True], ids=["first", "later"])
def test_all_processes_skip_or_step(ranks: Ranks, world: int, stepped: bool):
    found = workers.results(ranks[world], "outcomes")
    for rank in found:
        assert rank["skipped", stepped]["error"] is None
        assert rank["skipped", stepped]["unchanged"]
        assert rank["skipped", stepped]["norm"] == float("inf")
    norms = {float(rank["no gradients", stepped]["norm"]) for rank in found}
    assert len(norms) == 1 and (world == 1) == (norms == {0.0})
    unchanged = [rank["no gradients", stepped]["unchanged"] for rank in found]
    # The last ranks of three and four have few elements, and the last has no gradients.
    assert unchanged[-1] and (world == 1 or not unchanged[0])


@worlds
def test_one_exchange(ranks: Ranks, world: int):
    for found in workers.results(ranks[world], "collectives"):
        assert len(found) >= 2
        for calls in found.values():
            assert len(calls) == (0 if world == 1 else 1), "on all processes"
            assert all(size < 1000 for size in calls)


def test_groups_of_some_processes(ranks: Ranks):
    found = workers.results(ranks[4], "sub_groups")
    for rank in found:
        assert_pairs(rank["pairs"], "in a stage")
    own = [rank["own"] for rank in found]
    assert own[0] == own[1] and own[2] == own[3] and own[0] != own[2]
    for rank in found:
        assert rank["both"] == found[0]["both"]
        assert abs(rank["both"] - (own[0] ** 2 + own[2] ** 2).sqrt()) < 1e-12


def test_equal_meshes(tmp_path: Path):
    """In processes of their own, since torch keeps meshes of earlier groups in its caches."""
    found = workers.results(workers.spawn([clipping.equal_meshes], tmp_path, 4), "equal_meshes")
    for rank, of_rank in enumerate(found):
        assert len(of_rank) == 6
        for key, pairs in of_rank.items():
            assert_pairs(pairs, f"{key}, rank {rank}")


def test_unrelated_meshes(ranks: Ranks):
    """They are an error on all processes, also on those that are not in a mesh."""
    for found in workers.results(ranks[4], "unrelated_meshes"):
        assert "are not of one mesh, expected dimensions of one mesh" in found["crossed"]
        assert "overlap in the processes [0, " in found["some and all"]


@worlds
def test_gradients_that_are_summed_first(ranks: Ranks, world: int):
    """Clipping sums them before anything can fail. A missing state does not sum them twice."""
    for rank, found in enumerate(workers.results(ranks[world], "partial_gradients")):
        norm = world * 6**0.5
        assert abs(found["clip", 0] - norm) < 1e-12 and abs(found["clip", 1] - norm) < 1e-12
        assert abs(found["error", 0] - norm) < 1e-12
        text = "" if rank == world - 1 else f"rank {world - 1} cannot take the step: ValueError: "
        assert found["error", 1].startswith(text + "`lr` is -1.0")
        # One step, two steps.
        assert abs(found["error"][0] - 0.9899) < 1e-4 and abs(found["state"][0] - 0.9798) < 1e-4


@worlds
def test_ignored_parameters_of_fsdp1(ranks: Ranks, world: int):
    for found in workers.results(ranks[world], "flattened"):
        ours, torchs = found["ignored"]
        assert abs(ours - torchs) <= 1e-6 * torchs


def test_eight_processes(tmp_path: Path):
    """Interleaved shards have torch's layout. An error has the rank, also on a part of a mesh."""
    found = workers.results(workers.spawn([clipping.interleaved], tmp_path, 8), "interleaved")
    for rank, of_rank in enumerate(found):
        assert len(of_rank["indices"]) == 18
        for key, (own, expected) in of_rank["indices"].items():
            assert torch.equal(own, expected), f"{key}, rank {rank}"
        assert_pairs(of_rank["pairs"], f"rank {rank}")
        if rank < 4:
            assert of_rank["error"] is None
        elif rank != 6:
            assert of_rank["error"].startswith("rank 6 cannot take the step")


@worlds
def test_replicas_count_once(ranks: Ranks, world: int):
    for found in workers.results(ranks[world], "replicas"):
        assert found["norm"] == 3.0


DYING = """
import os, sys
import torch, torch.distributed as dist
from datetime import timedelta
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
import fused_adam.torch as fused

rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method=sys.argv[2], rank=rank, world_size=2,
                        timeout=timedelta(seconds=60))
mesh = init_device_mesh("cpu", (2,))
param = torch.nn.Parameter(distribute_tensor(torch.ones(4), mesh, [Shard(0)]))
param.grad = distribute_tensor(torch.ones(4), mesh, [Shard(0)])
if rank == 1:
    os._exit(0)
optimizer = fused.AdamW([param])
try:
    fused.clip_grad_norm_and_step(optimizer, 1.0)
except RuntimeError as error:
    local = param.to_local().detach()
    assert torch.equal(local, torch.ones(2)), local
    assert not optimizer.state, optimizer.state
    print("raised:", error, flush=True)
os._exit(0)
"""


def test_a_process_that_dies(tmp_path: Path):
    """The other one raises the engine's error, and has changed nothing."""
    command = [sys.executable, "-c", DYING]
    address = f"file://{tmp_path / 'rendezvous'}"
    started = [
        subprocess.Popen([*command, str(rank), address], stdout=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    try:
        printed, _ = started[0].communicate(timeout=120)
        started[1].communicate(timeout=120)
    finally:
        for process in started:
            process.kill()
    assert printed.startswith("raised:"), printed
