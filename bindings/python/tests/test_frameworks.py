"""Short runs in training frameworks, beside torch's AdamW, and resumed from their checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import fused_adam.torch as fused
from common import assert_same_bits

SIDES = {"ours": fused, "torchs": torch.optim}
#: All steps of a run, and the steps before its checkpoint.
STEPS, SAVED = 8, 4
HYPER = {"lr": 0.02, "betas": (0.9, 0.95), "eps": 1e-6, "weight_decay": 0.1}

#: Names and values of the parameters.
Weights = dict[str, torch.Tensor]
#: Trains in a folder up to a number of steps, from the checkpoint in another folder or from the
#: beginning. Saves a checkpoint after ``SAVED`` steps, and returns the first and last parameters.
Run = Callable[[str, Path, int, Path | None], tuple[Weights, Weights]]

#: Whose optimizer a run begins with, and whose it is resumed with.
resumptions = pytest.mark.parametrize(
    "begin, end", [(begin, end) for begin in SIDES for end in SIDES], ids=lambda side: side
)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Work in a folder of the test, without a network, on one thread."""
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make(side: str, params: Any) -> torch.optim.Optimizer:
    return SIDES[side].AdamW(params, **HYPER)


def scheduled(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LambdaLR:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 / (1.0 + 0.2 * step))


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3))


def examples() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Inputs and targets of all steps of a run, 8 a step."""
    x = torch.randn(8 * STEPS, 6, generator=torch.Generator().manual_seed(1))
    return list(zip(x, 3.0 * x[:, :3].cos()))


def copies(module: torch.nn.Module) -> Weights:
    return {name: param.detach().clone() for name, param in module.named_parameters()}


def assert_close(ours: Weights, expected: Weights, start: Weights, tolerance: float = 1e-5) -> None:
    """Each parameter has changed by what is expected, except for rounding."""
    for name, value in expected.items():
        change = (value - start[name]).norm()
        difference = (ours[name] - value).norm()
        assert change > 0.01 * start[name].norm(), f"{name} has changed by {change}"
        # Each step rounds the parameter.
        rounding = STEPS * 2.0**-24 * value.norm()
        assert difference <= tolerance * change + rounding, f"{name}: {difference / change}"


def assert_agrees(run: Run, folder: Path, tolerance: float = 1e-5) -> None:
    """A run has the result of torch's AdamW."""
    start, expected = run("torchs", folder / "torchs", STEPS, None)
    before, ours = run("ours", folder / "ours", STEPS, None)
    for name, value in start.items():
        assert_same_bits(before[name], value, name)
    assert_close(ours, expected, start, tolerance)


def assert_resumes(run: Run, begin: str, end: str, folder: Path, tolerance: float = 1e-5) -> None:
    """A run that is resumed has the bits of one that is not interrupted."""
    _, whole = run(begin, folder / "whole", STEPS, None)
    _, half = run(begin, folder / "half", SAVED, None)
    _, parts = run(end, folder / "parts", STEPS, folder / "half")
    if begin == end:
        for name, expected in whole.items():
            assert_same_bits(parts[name], expected, name)
    assert_close(parts, whole, half, tolerance)


# transformers


def run_trainer(
    side: str, folder: Path, steps: int, resume: Path | None
) -> tuple[Weights, Weights]:
    import transformers

    # A model without biases: the gradient of a key's bias is only rounding, which Adam amplifies.
    config = transformers.LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=16,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config)
    tokens = torch.randint(32, (64, 12), generator=torch.Generator().manual_seed(1))
    optimizer = make(side, model.parameters())
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        max_grad_norm=0.5,
        save_strategy="steps",
        save_steps=SAVED,
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        seed=0,
    )
    transformers.utils.logging.disable_progress_bar()
    trainer = transformers.Trainer(
        model=model,
        args=arguments,
        train_dataset=[{"input_ids": row, "labels": row} for row in tokens],
        optimizers=(optimizer, scheduled(optimizer)),
    )
    before = copies(model)
    trainer.train(resume_from_checkpoint=str(resume / f"checkpoint-{SAVED}") if resume else None)
    assert trainer.state.global_step == steps
    return before, copies(model)


def test_transformers(tmp_path: Path):
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    assert_agrees(run_trainer, tmp_path)


@resumptions
def test_transformers_resumes(begin: str, end: str, tmp_path: Path):
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    assert_resumes(run_trainer, begin, end, tmp_path)


# accelerate


@pytest.fixture
def accelerate() -> Iterator[Any]:
    """The package, whose state of the process is reset afterwards."""
    package = pytest.importorskip("accelerate")
    yield package
    package.state.AcceleratorState._reset_state(reset_partial_state=True)


def run_accelerate(
    side: str, folder: Path, steps: int, resume: Path | None
) -> tuple[Weights, Weights]:
    import accelerate

    accelerator = accelerate.Accelerator(cpu=True)
    model = network()
    optimizer = make(side, model.parameters())
    loader = torch.utils.data.DataLoader(examples(), batch_size=8)
    model, optimizer, loader, scheduler = accelerator.prepare(
        model, optimizer, loader, scheduled(optimizer)
    )
    before = copies(model)
    start = 0
    if resume:
        accelerator.load_state(str(resume / "saved"))
        start = SAVED
        loader = accelerator.skip_first_batches(loader, SAVED)
    for step, (x, y) in zip(range(start, steps), loader):
        optimizer.zero_grad()
        accelerator.backward((model(x) - y).square().mean())
        accelerator.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        scheduler.step()
        if step == SAVED - 1:
            accelerator.save_state(str(folder / "saved"))
    return before, copies(model)


def test_accelerate(accelerate: Any, tmp_path: Path):
    assert_agrees(run_accelerate, tmp_path)


@resumptions
def test_accelerate_resumes(accelerate: Any, begin: str, end: str, tmp_path: Path):
    assert_resumes(run_accelerate, begin, end, tmp_path)


# lightning

#: A weight that is rounded to bf16 the other way changes a gradient by far more than its rounding.
PRECISIONS = {"32-true": 1e-5, "bf16-mixed": 1e-3}
LIGHTNING_WARNINGS = [
    r"ignore:`isinstance\(treespec, LeafSpec\):FutureWarning",
    "ignore:The dirpath has changed:UserWarning",
]
in_lightning = pytest.mark.filterwarnings(*LIGHTNING_WARNINGS)
precisions = pytest.mark.parametrize("precision", PRECISIONS)


def run_lightning(precision: str) -> Run:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self, side: str) -> None:
            super().__init__()
            self.side, self.inner = side, network()

        def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
            x, y = batch
            return (self.inner(x) - y).square().mean()

        def configure_optimizers(self) -> dict[str, Any]:
            optimizer = make(self.side, self.parameters())
            schedule = {"scheduler": scheduled(optimizer), "interval": "step"}
            return {"optimizer": optimizer, "lr_scheduler": schedule}

    def run(side: str, folder: Path, steps: int, resume: Path | None) -> tuple[Weights, Weights]:
        module = Module(side)
        # An epoch is what comes before the checkpoint.
        loader = torch.utils.data.DataLoader(examples()[: 8 * SAVED], batch_size=8)
        before = copies(module)
        trainer = lightning.Trainer(
            accelerator="cpu",
            devices=1,
            precision=precision,
            gradient_clip_val=0.5,
            max_steps=steps,
            logger=False,
            callbacks=[
                lightning.pytorch.callbacks.ModelCheckpoint(
                    folder, "saved", every_n_train_steps=SAVED, save_top_k=-1
                )
            ],
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        trainer.fit(module, loader, ckpt_path=str(resume / "saved.ckpt") if resume else None)
        assert trainer.global_step == steps
        return before, copies(module)

    return run


@in_lightning
@precisions
def test_lightning(precision: str, tmp_path: Path):
    pytest.importorskip("lightning")
    assert_agrees(run_lightning(precision), tmp_path, PRECISIONS[precision])


@in_lightning
@resumptions
@precisions
def test_lightning_resumes(precision: str, begin: str, end: str, tmp_path: Path):
    pytest.importorskip("lightning")
    assert_resumes(run_lightning(precision), begin, end, tmp_path, PRECISIONS[precision])
