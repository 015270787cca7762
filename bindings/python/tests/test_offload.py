"""Steps on the CPU for training on an accelerator: FSDP2, torchao and DeepSpeed.

The processes of FSDP2 and DeepSpeed train on the CPU, with their options for offloading. torchao's
class refuses to run without an accelerator: here its streams are replaced by dummies. What needs an
accelerator is ``examples/offload.py``, which is also run here.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed

import fused_adam.torch as fused
import offloading
import workers
from common import assert_same_bits
from offloading import DTYPES, HYPER, RESUMED, SAVED, STAGES, STEPS, WORLDS, scheduled
from processes import SIDES

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_gloo_available(), reason="this torch was built without gloo"
)

worlds = pytest.mark.parametrize("world", WORLDS)
dtypes = pytest.mark.parametrize("dtype", DTYPES)
stages = pytest.mark.parametrize("stage", STAGES)
Ranks = dict[int, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    """What each rank found, by the number of processes."""
    folder = tmp_path_factory.mktemp("offload")
    return {world: workers.spawn(offloading.CHECKS, folder, world) for world in WORLDS}


def of_fsdp2(ranks: Ranks, world: int) -> list[dict[Any, Any]]:
    """What the ranks found with FSDP2."""
    assert len(ranks[world]) == world
    return workers.results(ranks[world], "fsdp2")


def of_deepspeed(ranks: Ranks, world: int, check: str) -> list[dict[Any, Any]]:
    """What the ranks found in a check of DeepSpeed."""
    if not offloading.has_deepspeed():
        pytest.skip("could not import 'deepspeed'")
    assert len(ranks[world]) == world
    return workers.results(workers.results(ranks[world], "deepspeed"), check)


def assert_losses(ours: list[float], expected: list[float], tolerance: float) -> None:
    assert len(ours) == len(expected) == STEPS
    assert ours == pytest.approx(expected, rel=tolerance)
    assert len(set(expected)) == STEPS


def assert_close(
    ours: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 1e-6
) -> None:
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        error = (ours[name] - value).abs().max()
        assert error <= tolerance, f"{name} is off by {error}"


def assert_same(ours: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        assert_same_bits(ours[name], value, name)


def assert_moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> None:
    for name, value in before.items():
        assert (after[name] - value).abs().max() > 1e-2, f"{name} did not move"


def numbered(tensors: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"parameter {number}": tensor for number, tensor in enumerate(tensors)}


# FSDP2


@worlds
@dtypes
def test_fsdp2(ranks: Ranks, world: int, dtype: str):
    """``CPUOffloadPolicy`` changes nothing on the CPU. The result is that of torch's AdamW."""
    for found in of_fsdp2(ranks, world):
        ours, torchs = (found[dtype, side, True] for side in ("ours", "torchs"))
        before, after = numbered(ours["before"]), numbered(ours["after"])
        assert_moved(before, after)
        assert_losses(ours["losses"], torchs["losses"], 1e-5 if dtype == "float32" else 1e-2)
        # With bfloat16, an activation may be rounded to a neighbour.
        assert_close(after, numbered(torchs["after"]), 1e-6 if dtype == "float32" else 1e-3)
        assert_same(after, numbered(found[dtype, "ours", False]["after"]))
        assert ours["kinds"] == {(True, "cpu", torch.float32)}, "all are DTensors on the CPU"


@worlds
@dtypes
def test_fsdp2_resumes(ranks: Ranks, world: int, dtype: str):
    for found in of_fsdp2(ranks, world):
        ours = found[dtype, "ours", True]
        assert_same(numbered(ours["resumed"]), numbered(ours["after"]))


# DeepSpeed


@worlds
@stages
@dtypes
def test_deepspeed(ranks: Ranks, world: int, stage: int, dtype: str):
    """ZeRO-Offload with clipping and a scheduler, beside torch's AdamW."""
    runs = of_deepspeed(ranks, world, "_zero")
    for found in runs:
        ours, torchs = (found[stage, dtype, side] for side in ("ours", "torchs"))
        assert_losses(ours["losses"], torchs["losses"], 1e-5 if dtype == "float32" else 1e-2)
        assert_moved(ours["start"], ours["contents"])
        tolerance = 1e-6 if dtype == "float32" else 1e-3
        assert_close(ours["contents"], torchs["contents"], tolerance)
        # All ranks have the same parameters.
        assert_same(ours["parameters"], runs[0][stage, dtype, "ours"]["parameters"])


@worlds
@stages
@dtypes
def test_deepspeed_steps_flat_partitions(ranks: Ranks, world: int, stage: int, dtype: str):
    """DeepSpeed has one call for each partition of a group, which is flat and of ``float32``."""
    for found in of_deepspeed(ranks, world, "_zero"):
        seen = found[stage, dtype, "ours"]["seen"]
        assert len(seen) == 2 * STEPS, "two groups"
        for step in range(STEPS):
            for group in range(2):
                lr, kind, gradient, address = seen[2 * step + group]
                assert lr == pytest.approx(HYPER["lr"] / (1.0 + 0.2 * step))
                assert kind == (torch.float32, 1, "cpu", True)
                assert gradient == (torch.float32, True)
                assert address == seen[group][3], "it is stepped in place"


@worlds
@stages
@dtypes
def test_deepspeed_resumes(ranks: Ranks, world: int, stage: int, dtype: str):
    """From a checkpoint of ours, and to and from those of torch's AdamW."""
    for found in of_deepspeed(ranks, world, "_zero"):
        for before, after in offloading.resumed(world, dtype):
            whole = found[stage, dtype, before]["contents"]
            resumed = found[stage, dtype, before, after]
            if before == after:
                assert_same(resumed, whole)
            else:
                assert_close(resumed, whole)


@stages
def test_deepspeed_cpu_adam(ranks: Ranks, stage: int):
    """The result of DeepSpeed's own optimizer, and a run that continues its checkpoint."""
    (found,) = of_deepspeed(ranks, 1, "_cpu_adam")
    if not found:
        pytest.skip("deepspeed was installed without DS_BUILD_CPU_ADAM=1")
    assert_close(found[stage, "ours"], found[stage, "deepspeeds"], 1e-5)
    assert_close(found[stage, "resumed"], found[stage, "deepspeeds"], 1e-5)


@stages
def test_deepspeed_replaces_adagrad(ranks: Ranks, stage: int):
    """A known limit: DeepSpeed makes a new optimizer of torch's class."""
    (found,) = of_deepspeed(ranks, 1, "_adagrad")
    assert found[stage] == "torch.optim.adagrad"


def test_deepspeed_needs_two_options(ranks: Ranks):
    (found,) = of_deepspeed(ranks, 1, "_refusals")
    assert len(found) == 2
    for option, message in found.items():
        assert option in message


# torchao


class _Dummy:
    """A stream or an event that does nothing."""

    def __enter__(self) -> _Dummy:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def record_event(self) -> _Dummy:
        return self

    def synchronize(self) -> None:
        pass

    def wait_stream(self, _: _Dummy) -> None:
        pass


class _TorchWithDummies:
    """The module ``torch``, but with dummies for streams, and without pinned memory."""

    cuda = SimpleNamespace(
        Stream=_Dummy, current_stream=lambda: _Dummy(), stream=lambda stream: stream
    )

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def empty_like(*arguments: Any, pin_memory: bool = False, **more: Any) -> torch.Tensor:
        return torch.empty_like(*arguments, **more)


Offload = Callable[..., Any]


@pytest.fixture
def offloaded(monkeypatch: pytest.MonkeyPatch) -> Offload:
    """torchao's ``CPUOffloadOptimizer``. Its device is the CPU; all else is its own code."""
    pytest.importorskip("torchao")
    from torchao.optim import cpu_offload

    monkeypatch.setattr(cpu_offload, "get_available_devices", lambda: ["cpu", "cuda"])
    monkeypatch.setattr(cpu_offload, "torch", _TorchWithDummies())
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: None)
    return cpu_offload.CPUOffloadOptimizer


def big_model(seed: int = 0) -> torch.nn.Module:
    """A model whose matrices are offloaded, and whose biases are below ``minimal_size``."""
    torch.manual_seed(seed)
    layers = torch.nn.Linear(64, 96), torch.nn.Tanh(), torch.nn.Linear(96, 64)
    return torch.nn.Sequential(*layers)


def groups_of(network: torch.nn.Module) -> list[dict[str, Any]]:
    params = list(network.parameters())
    return [
        {"params": [param for param in params if param.ndim == 2]},
        {"params": [param for param in params if param.ndim == 1], "weight_decay": 0.0},
    ]


def train(network: torch.nn.Module, optimizer: Any, scheduler: Any, steps: range, parts: int = 1):
    dtype = next(network.parameters()).dtype
    for step in steps:
        x = torch.randn(8, 64, generator=torch.Generator().manual_seed(step)).to(dtype)
        optimizer.zero_grad()
        for part in x.chunk(parts):
            ((network(part) - 3.0 * part.cos()).square().mean() / parts).backward()
        optimizer.step()
        scheduler.step()


def weights(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: param.detach().clone() for name, param in network.named_parameters()}


@pytest.mark.parametrize("minimal_size", [0, 4096])
@pytest.mark.parametrize("offload_gradients", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_torchao(
    offloaded: Offload, dtype: torch.dtype, offload_gradients: bool, minimal_size: int
):
    """It has the bits of our class alone, with groups and a scheduler, and torch's result."""
    options = {"offload_gradients": offload_gradients, "minimal_size": minimal_size, **HYPER}
    found = {}
    for side in ("alone", *SIDES):
        network = big_model().to(dtype)
        start = weights(network)
        if side == "alone":
            optimizer = fused.AdamW(groups_of(network), **HYPER)
        else:
            optimizer = offloaded(groups_of(network), SIDES[side].AdamW, **options)
            assert len(optimizer.optim_dict) == (2 if minimal_size else 4)
            assert (optimizer.d_opt is None) == (minimal_size == 0)
        train(network, optimizer, scheduled(optimizer), range(STEPS))
        if side != "alone":
            matrix = network[0].weight
            assert (matrix.grad is None) == offload_gradients
            assert optimizer.optim_dict[matrix].state
            optimizer.zero_grad()
            assert all(param.grad is None for param in network.parameters())
        found[side] = weights(network)
    assert_moved(start, found["ours"])
    assert_same(found["ours"], found["alone"])
    if dtype == torch.float32:
        assert_close(found["ours"], found["torchs"], 1e-5)


def test_torchao_accumulates_gradients(offloaded: Offload):
    """Two backward passes for each step. torchao can do it only if it keeps the gradients."""
    found = {}
    for side in ("alone", "ours"):
        network = big_model()
        if side == "alone":
            optimizer = fused.AdamW(groups_of(network), **HYPER)
        else:
            optimizer = offloaded(groups_of(network), fused.AdamW, **HYPER)
        train(network, optimizer, scheduled(optimizer), range(STEPS), parts=2)
        found[side] = weights(network)
    assert_same(found["ours"], found["alone"])


@pytest.mark.parametrize("before, after", RESUMED)
def test_torchao_resumes(offloaded: Offload, before: str, after: str):
    """From a state of ours, and to and from those of torch's AdamW."""

    def start(side: str, weights: dict[str, Any]) -> tuple[torch.nn.Module, Any, Any]:
        network = big_model()
        network.load_state_dict(weights)
        # It copies the parameters, so they are loaded before.
        optimizer = offloaded(groups_of(network), SIDES[side].AdamW, minimal_size=0, **HYPER)
        return network, optimizer, scheduled(optimizer)

    network, optimizer, scheduler = start(before, big_model().state_dict())
    train(network, optimizer, scheduler, range(SAVED))
    saved = copy.deepcopy((network.state_dict(), optimizer.state_dict(), scheduler.state_dict()))
    train(network, optimizer, scheduler, range(SAVED, STEPS))
    whole = weights(network)

    network, optimizer, scheduler = start(after, saved[0])
    optimizer.load_state_dict(saved[1])
    scheduler.load_state_dict(saved[2])
    train(network, optimizer, scheduler, range(SAVED, STEPS))
    assert_close(weights(network), whole, 1e-5)
    if before == after:
        assert_same(weights(network), whole)


def test_torchao_leaves_small_parameters_on_the_device(offloaded: Offload):
    """A known limit: their steps are refused. ``minimal_size=0`` offloads all."""
    small = torch.nn.Parameter(torch.zeros(10, device="meta"))
    optimizer = offloaded([small, torch.nn.Parameter(torch.zeros(5000))], fused.AdamW)
    small.grad = torch.zeros_like(small)
    with pytest.raises(RuntimeError, match="on the device meta, expected cpu"):
        optimizer.step()


@pytest.mark.parametrize("named", [False, True], ids=["", "named"])
def test_torchao_rounds_stochastically(offloaded: Offload, named: bool):
    """Each parameter has an optimizer of its own, so only names make their random bits differ."""
    value, grad = (torch.randn(64, 96).bfloat16() for _ in range(2))
    params = {name: torch.nn.Parameter(value.clone()) for name in ("first", "second")}
    groups = [
        {"params": [param], **({"param_names": [name]} if named else {})}
        for name, param in params.items()
    ]
    options = {"lr": 1e-3, "state_dtype": torch.float32, "stochastic_rounding": True}
    optimizer = offloaded(groups, fused.AdamW, minimal_size=0, **options)
    for param in params.values():
        (param * grad).sum().backward()
    optimizer.step()
    assert not torch.equal(params["first"], value)
    assert torch.equal(params["first"], params["second"]) != named


# The example


def run_example(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    """The runs of ``examples/offload.py``, with a small model."""
    script = Path(__file__).parents[1] / "examples" / "offload.py"
    command = [sys.executable, str(script), "--tiny", "--json", str(folder / "found.json")]
    environment = {**os.environ, "TORCHDYNAMO_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONDEVMODE", None)
    done = subprocess.run(
        [*command, *arguments], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "found.json").read_text())["runs"]


def test_example(tmp_path: Path):
    """On the CPU, only FSDP2: each process takes some seconds to import its packages."""
    ours, torchs = sorted(run_example(tmp_path, "--only", "FSDP2"), key=lambda run: run["name"])
    assert ours["name"] == "fused-adam"
    assert ours["losses"] == pytest.approx(torchs["losses"], rel=1e-2)
    assert all(time > 0.0 for time in ours["optimizer"])


@pytest.mark.skipif(
    not torch.accelerator.is_available(), reason="this machine has no accelerator of torch"
)
def test_example_on_an_accelerator(tmp_path: Path):
    """All parts whose packages are installed have the losses of torch's AdamW."""
    found = {(run["part"], run["name"]): run for run in run_example(tmp_path)}
    for part in ("FSDP2", "torchao", "DeepSpeed"):
        ours, torchs = (found[part, name] for name in ("fused-adam", "torch, fused"))
        if "skipped" in torchs:
            assert ours["skipped"] == torchs["skipped"]
        else:
            assert ours["losses"] == pytest.approx(torchs["losses"], rel=1e-2), part
