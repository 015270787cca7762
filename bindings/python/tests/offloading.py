"""What the tests of offloading run on one and two processes: FSDP2 and DeepSpeed, on the CPU."""

from __future__ import annotations

import gc
import importlib.util
import logging
import os
import traceback
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor

from processes import SIDES
from workers import Check

WORLDS = (1, 2)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
#: All steps of a run, and the steps before its checkpoint.
STEPS, SAVED = 6, 3
HYPER = {"lr": 0.02, "betas": (0.9, 0.95), "eps": 1e-6, "weight_decay": 0.1}
#: The gradients are clipped to this norm, which is below their norm in all steps.
MAX_NORM = 0.1
STAGES = (1, 2, 3)
#: Whose optimizer a run begins with, and whose it is resumed with.
RESUMED = [("ours", "ours"), ("ours", "torchs"), ("torchs", "ours")]

Found = dict[Any, Any]


def resumed(world: int, dtype: str) -> list[tuple[str, str]]:
    """The pairs that DeepSpeed runs. Each takes some time."""
    return RESUMED if world == 2 and dtype == "float32" else RESUMED[:1]


def has_deepspeed() -> bool:
    return importlib.util.find_spec("deepspeed") is not None


def model(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2))


def make(optimizer_class: Any, network: torch.nn.Module) -> Any:
    """An optimizer with two groups: only matrices have a weight decay."""
    params = list(network.parameters())
    groups = [
        {"params": [param for param in params if param.ndim == 2]},
        {"params": [param for param in params if param.ndim == 1], "weight_decay": 0.0},
    ]
    return optimizer_class(groups, **HYPER)


def scheduled(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LambdaLR:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 / (1.0 + 0.2 * step))


def loss_of(network: Any, rank: int, step: int, dtype: torch.dtype) -> torch.Tensor:
    """The loss on data that differ between the ranks."""
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(10 * step + rank))
    return (network(x.to(dtype)).float() - 3.0 * x[:, :2].cos()).square().mean()


# FSDP2


def fsdp2(rank: int, world: int, folder: Path) -> Found:
    """Trains with and without ``CPUOffloadPolicy``, saves a checkpoint, and resumes from it."""
    found: Found = {}
    mesh = init_device_mesh("cpu", (world,))
    for dtype in DTYPES:
        for side in SIDES:
            for offload in (False, True):
                found[dtype, side, offload] = _fsdp2(rank, mesh, dtype, side, offload, folder)
    return found


def _fsdp2(rank: int, mesh: Any, dtype: str, side: str, offload: bool, folder: Path) -> Found:
    # Pinned memory needs an accelerator.
    policy = CPUOffloadPolicy(pin_memory=False) if offload else OffloadPolicy()
    mixed = MixedPrecisionPolicy(param_dtype=DTYPES[dtype], reduce_dtype=torch.float32)

    def start(seed: int) -> tuple[torch.nn.Module, torch.optim.Optimizer, Any]:
        network = model(seed)
        fully_shard(network, mesh=mesh, offload_policy=policy, mp_policy=mixed)
        optimizer = make(SIDES[side].AdamW, network)
        return network, optimizer, scheduled(optimizer)

    def train(network: Any, optimizer: Any, scheduler: Any, steps: range) -> list[float]:
        losses = []
        for step in steps:
            optimizer.zero_grad()
            loss = loss_of(network, rank, step, torch.float32)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), MAX_NORM)
            optimizer.step()
            scheduler.step()
            losses.append(loss.item())
        return losses

    def full(network: torch.nn.Module) -> list[torch.Tensor]:
        return [param.full_tensor().detach().clone() for param in network.parameters()]

    network, optimizer, scheduler = start(0)
    before = full(network)
    losses = train(network, optimizer, scheduler, range(SAVED))
    path, saves = folder / f"fsdp2-{mesh.size()}-{dtype}", side == "ours" and offload
    if saves:
        saved = dict(zip(("model", "optimizer"), get_state_dict(network, optimizer)))
        dcp.save({**saved, "scheduler": scheduler.state_dict()}, checkpoint_id=path)
    losses += train(network, optimizer, scheduler, range(SAVED, STEPS))
    params = list(network.parameters())
    tensors = params + [param.grad for param in params]
    states = (state for param in params for state in optimizer.state[param].values())
    tensors += [state for state in states if state.ndim]
    kinds = {(isinstance(t, DTensor), t.device.type, t.dtype) for t in tensors}
    found = {"before": before, "losses": losses, "after": full(network), "kinds": kinds}
    if saves:
        network, optimizer, scheduler = start(5)
        loaded = dict(zip(("model", "optimizer"), get_state_dict(network, optimizer)))
        loaded["scheduler"] = scheduler.state_dict()
        dcp.load(loaded, checkpoint_id=path)
        set_state_dict(
            network,
            optimizer,
            model_state_dict=loaded["model"],
            optim_state_dict=loaded["optimizer"],
        )
        scheduler.load_state_dict(loaded["scheduler"])
        train(network, optimizer, scheduler, range(SAVED, STEPS))
        found["resumed"] = full(network)
    return found


# DeepSpeed


def deepspeed_config(stage: int, dtype: str, **more: Any) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": 8,
        "gradient_clipping": MAX_NORM,
        "bf16": {"enabled": dtype == "bfloat16"},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {"stage": stage, "offload_optimizer": {"device": "cpu"}},
        **more,
    }


def _import_deepspeed(rank: int, world: int) -> Any:
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_SIZE": world}
    os.environ.update({name: str(value) for name, value in ranks.items()})
    os.environ["DS_ACCELERATOR"] = "cpu"
    # It decorates a function that is not called here. The compiler takes seconds to import.
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    import deepspeed

    deepspeed.utils.logger.setLevel(logging.ERROR)
    # Otherwise DeepSpeed compiles a communication operator of its own. gloo does without.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("gloo")
    return deepspeed


class _Zero:
    """A run with ZeRO-Offload."""

    def __init__(self, deepspeed: Any, stage: int, dtype: str, side: str, seed: int) -> None:
        self.network = model(seed)
        self.rank, self.dtype = dist.get_rank(), DTYPES[dtype]
        self.weights = deepspeed.utils.safe_get_full_fp32_param
        if side == "deepspeeds":
            optimizer = make(deepspeed.ops.adam.DeepSpeedCPUAdam, self.network)
        else:
            optimizer = make(SIDES[side].AdamW, self.network)
        self.seen: list[Any] = []
        optimizer.register_step_pre_hook(self._look)
        self.engine, self.optimizer, _, _ = deepspeed.initialize(
            model=self.network,
            optimizer=optimizer,
            lr_scheduler=scheduled(optimizer),
            config=deepspeed_config(stage, dtype),
        )

    def _look(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Note the learning rate and the tensors of a step."""
        for group in optimizer.param_groups:
            for param in group["params"]:
                kind = (param.dtype, param.ndim, param.device.type, param.is_contiguous())
                gradient = (param.grad.dtype, param.grad.shape == param.shape)
                self.seen.append((group["lr"], kind, gradient, param.data_ptr()))

    def train(self, steps: range) -> list[float]:
        losses = []
        for step in steps:
            loss = loss_of(self.engine, self.rank, step, self.dtype)
            self.engine.backward(loss)
            self.engine.step()
            losses.append(loss.item())
        return losses

    def parameters(self) -> dict[str, torch.Tensor]:
        """The whole parameters, of ``float32``."""
        named = self.network.named_parameters()
        return {name: self.weights(param).clone() for name, param in named}

    def contents(self) -> dict[str, torch.Tensor]:
        """The whole parameters, and the states of this rank."""
        found = self.parameters()
        for number, state in enumerate(self.optimizer.optimizer.state.values()):
            for name in ("exp_avg", "exp_avg_sq"):
                found[f"{name} of partition {number}"] = state[name].clone()
        return found


def _zero(deepspeed: Any, folder: Path) -> Found:
    """Trains with the optimizer offloaded, saves a checkpoint, and resumes from it."""
    found: Found = {}
    world = dist.get_world_size()
    for stage in STAGES:
        for dtype in DTYPES:
            for side in SIDES:
                run = _Zero(deepspeed, stage, dtype, side, 0)
                start = run.parameters()
                losses = run.train(range(SAVED))
                path = folder / f"zero{stage}-{world}-{dtype}-{side}"
                run.engine.save_checkpoint(str(path))
                losses += run.train(range(SAVED, STEPS))
                found[stage, dtype, side] = {
                    "start": start,
                    "losses": losses,
                    "contents": run.contents(),
                    "parameters": run.parameters(),
                    "seen": run.seen,
                }
            for before, after in resumed(world, dtype):
                run = _Zero(deepspeed, stage, dtype, after, 5)
                run.engine.load_checkpoint(str(folder / f"zero{stage}-{world}-{dtype}-{before}"))
                run.train(range(SAVED, STEPS))
                found[stage, dtype, before, after] = run.contents()
    return found


def _cpu_adam(deepspeed: Any, folder: Path) -> Found:
    """Trains with DeepSpeed's own optimizer and with ours, and resumes its run with ours."""
    if not deepspeed.git_version_info.installed_ops["cpu_adam"]:
        return {}
    found: Found = {}
    for stage in STAGES:
        path = str(folder / f"adam{stage}")
        for side in ("deepspeeds", "ours"):
            run = _Zero(deepspeed, stage, "float32", side, 0)
            run.train(range(SAVED))
            if side == "deepspeeds":
                run.engine.save_checkpoint(path)
            run.train(range(SAVED, STEPS))
            found[stage, side] = run.contents()
        run = _Zero(deepspeed, stage, "float32", "ours", 5)
        run.engine.load_checkpoint(path)
        run.train(range(SAVED, STEPS))
        found[stage, "resumed"] = run.contents()
    return found


def _adagrad(deepspeed: Any, folder: Path) -> Found:
    """The class whose steps DeepSpeed takes, when it gets ours."""
    found = {}
    for stage in STAGES:
        network = model()
        _, zero, _, _ = deepspeed.initialize(
            model=network,
            optimizer=SIDES["ours"].Adagrad(network.parameters()),
            config=deepspeed_config(stage, "float32"),
        )
        found[stage] = type(zero.optimizer).__module__
    return found


def _refusals(deepspeed: Any, folder: Path) -> Found:
    """What DeepSpeed says without the two options of ``deepspeed_config``."""
    found = {}
    for option, value in [
        ("zero_allow_untested_optimizer", False),
        ("zero_force_ds_cpu_optimizer", True),
    ]:
        config = deepspeed_config(2, "float32", **{option: value})
        network = model()
        optimizer = make(SIDES["ours"].AdamW, network)
        try:
            deepspeed.initialize(model=network, optimizer=optimizer, config=config)
        except Exception as error:
            found[option] = str(error)
    return found


def deepspeed(rank: int, world: int, folder: Path) -> Found:
    """All checks of DeepSpeed. It keeps its process groups, so they use the same."""
    found: Found = {}
    checks = [_zero, _cpu_adam, _adagrad, _refusals] if world == 1 else [_zero]
    package = _import_deepspeed(rank, world)
    # ZeRO-3 collects garbage often. Without the modules that is fast.
    gc.freeze()
    for check in checks:
        try:
            found[check.__name__] = check(package, folder)
        except Exception:
            found[check.__name__] = traceback.format_exc()
    gc.unfreeze()
    return found


CHECKS: list[Check] = [fsdp2, deepspeed] if has_deepspeed() else [fsdp2]
