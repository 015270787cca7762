"""Shared code of the tests: the optimizers with their options, and the reference."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

import fused_adam
import fused_adam.torch as fused


@dataclass(frozen=True)
class Case:
    """An optimizer with options, and its rule."""

    name: str
    options: dict[str, Any]
    rule: str
    hyper: dict[str, Any] = field(default_factory=dict)
    buffers: tuple[str, ...] = ("exp_avg", "exp_avg_sq")

    def __str__(self) -> str:
        options = "-".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.name}-{options}" if options else self.name

    def ours(self, params: Any) -> torch.optim.Optimizer:
        return getattr(fused, self.name)(params, **self.options)

    def torchs(self, params: Any) -> torch.optim.Optimizer:
        return getattr(torch.optim, self.name)(params, **self.options)

    @property
    def is_torchs(self) -> bool:
        return hasattr(torch.optim, self.name)


MAX = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
CASES = [
    Case("Adam", {}, "adam", {"lr": 1e-3}),
    Case(
        "Adam",
        {"lr": 0.01, "amsgrad": True, "weight_decay": 0.1, "maximize": True},
        "adam",
        {"lr": 0.01, "amsgrad": True, "weight_decay": 0.1, "maximize": True},
        MAX,
    ),
    Case("AdamW", {}, "adamw", {"lr": 1e-3, "weight_decay": 0.01}),
    Case(
        "AdamW",
        {"lr": 0.02, "betas": (0.4, 0.95), "eps": 1e-6, "weight_decay": 0.1, "amsgrad": True},
        "adamw",
        {
            "lr": 0.02,
            "beta1": 0.4,
            "beta2": 0.95,
            "eps": 1e-6,
            "weight_decay": 0.1,
            "amsgrad": True,
        },
        MAX,
    ),
    Case("NAdam", {}, "nadam", {"lr": 2e-3}),
    Case(
        "NAdam",
        {"weight_decay": 0.1, "decoupled_weight_decay": True, "momentum_decay": 0.01},
        "nadam",
        {"lr": 2e-3, "weight_decay": 0.1, "decoupled_weight_decay": True, "momentum_decay": 0.01},
    ),
    Case("RAdam", {}, "radam", {"lr": 1e-3}),
    Case(
        "RAdam",
        {"weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True},
        "radam",
        {"lr": 1e-3, "weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True},
    ),
    Case(
        "Adamax",
        {"weight_decay": 0.1},
        "adamax",
        {"lr": 2e-3, "weight_decay": 0.1},
        ("exp_avg", "exp_inf"),
    ),
    Case("RMSprop", {}, "rmsprop", {"lr": 0.01}, ("square_avg",)),
    Case(
        "RMSprop",
        {"momentum": 0.9, "weight_decay": 0.1},
        "rmsprop",
        {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1},
        ("square_avg", "momentum_buffer"),
    ),
    Case(
        "RMSprop",
        {"centered": True},
        "rmsprop",
        {"lr": 0.01, "centered": True},
        ("square_avg", "grad_avg"),
    ),
    Case(
        "RMSprop",
        {"centered": True, "momentum": 0.9},
        "rmsprop",
        {"lr": 0.01, "centered": True, "momentum": 0.9},
        ("square_avg", "grad_avg", "momentum_buffer"),
    ),
    Case("Adagrad", {}, "adagrad", {"lr": 0.01, "eps": 1e-10}, ("sum",)),
    Case(
        "Adagrad",
        {"lr_decay": 0.1, "initial_accumulator_value": 0.5, "weight_decay": 0.1},
        "adagrad",
        {
            "lr": 0.01,
            "lr_decay": 0.1,
            "initial_accumulator_value": 0.5,
            "weight_decay": 0.1,
            "eps": 1e-10,
        },
        ("sum",),
    ),
    Case("SGD", {}, "sgd", {"lr": 1e-3}, ()),
    Case(
        "SGD",
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1},
        "sgd",
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1},
        ("momentum_buffer",),
    ),
    Case(
        "SGD",
        {"lr": 0.1, "momentum": 0.9, "nesterov": True},
        "sgd",
        {"lr": 0.1, "momentum": 0.9, "nesterov": True},
        ("momentum_buffer",),
    ),
    Case("AdaBound", {}, "adabound", {"lr": 1e-3}),
    Case(
        "AdaBound",
        {"amsbound": True, "weight_decay": 0.1, "final_lr": 0.5, "gamma": 0.01},
        "adabound",
        {"lr": 1e-3, "amsbound": True, "weight_decay": 0.1, "final_lr": 0.5, "gamma": 0.01},
        MAX,
    ),
    Case("Lion", {"weight_decay": 0.1}, "lion", {"lr": 1e-4, "weight_decay": 0.1}, ("exp_avg",)),
]


def variants() -> list[tuple[str, dict[str, Any]]]:
    """Each rule with its defaults, and with each option or pair that changes its states."""
    found = []
    for name in fused_adam.RULES:
        default = fused_adam.Rule(name)
        other: dict[str, Any] = {}
        for key, value in default.hyper_parameters.items():
            if isinstance(value, bool):
                other[key] = not value
            elif isinstance(value, float) and value == 0.0:
                other[key] = 0.9
        seen = []
        for count in (0, 1, 2):
            for keys in itertools.combinations(other, count):
                hyper = {key: other[key] for key in keys}
                try:
                    states = list(fused_adam.Rule(name, **hyper).states)
                except ValueError:
                    continue  # These options are inconsistent.
                if states not in seen:
                    seen.append(states)
                    found.append((name, hyper))
    return found


VARIANTS = variants()


class Reference:
    """One tensor, stepped by the reference of a rule, in row-major order."""

    def __init__(self, case: Case, param: torch.Tensor, state_dtype: torch.dtype | None = None):
        self.rule = fused_adam.Rule(case.rule, **case.hyper)
        if state_dtype is None and param.dtype == torch.float16:
            state_dtype = torch.float32
        self.theta = param.detach().clone(memory_format=torch.contiguous_format)
        self.states = [
            torch.full_like(self.theta, initial, dtype=state_dtype) for initial in self.rule.initial
        ]
        self.t = 0
        self.scalars = np.array(self.rule.scalars_after(0))

    def step(self, grad: torch.Tensor, **options: Any) -> None:
        self.t += 1
        grad = grad.contiguous()
        options = {"scalars": self.scalars, "backend": "scalar", **options}
        self.rule.step(self.t, self.theta, grad, *self.states, **options)


def bits(tensor: torch.Tensor) -> np.ndarray:
    """The bits of a tensor's elements in row-major order. All NaNs are the same."""
    tensor = tensor.detach().contiguous().reshape(-1)
    of = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    found = tensor.view(of).clone()
    found[tensor.isnan()] = -1
    return found.numpy()


def assert_same_bits(ours: torch.Tensor, expected: torch.Tensor, what: str) -> None:
    assert ours.dtype == expected.dtype, what
    ours, expected = bits(ours), bits(expected)
    wrong = np.flatnonzero(ours != expected)
    assert wrong.size == 0, f"{what}: {wrong.size} of {ours.size} differ, the first at {wrong[0]}"
