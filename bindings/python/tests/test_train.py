"""A small training run has the same result as with torch's own optimizer."""

from __future__ import annotations

import pytest
import torch

import digits
import fused_adam.torch

RUNS = [
    ("AdamW", {"lr": 5e-3}),
    ("Adam", {"lr": 5e-3}),
    ("SGD", {"lr": 0.3, "momentum": 0.9}),
    ("NAdam", {"lr": 5e-3}),
]


@pytest.mark.parametrize("name, options", RUNS, ids=[run[0] for run in RUNS])
def test_digits(name, options):
    ours, accuracy = digits.train(getattr(fused_adam.torch, name), **options)
    theirs, _ = digits.train(getattr(torch.optim, name), **options)
    assert accuracy > 0.9
    # In f32 the two round differently, by 1e-7 per step, and 276 steps of training amplify that.
    assert ours == pytest.approx(theirs, rel=5e-3)


def test_digits_in_f64():
    # Only the order of operations differs, so each step differs by rounding, about 1e-16.
    ours, _ = digits.train(fused_adam.torch.AdamW, dtype=torch.float64, lr=5e-3)
    theirs, _ = digits.train(torch.optim.AdamW, dtype=torch.float64, lr=5e-3)
    assert ours == pytest.approx(theirs, rel=1e-9)
