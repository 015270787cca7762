"""Writes lr_schedules.json: the learning rates of torch's schedulers for a base lr of 1.

    python lr_schedules.py > lr_schedules.json     (torch 2.15.0)
"""

import json
import warnings

import torch
from torch.optim import lr_scheduler as s

warnings.simplefilter("ignore")


def values(make, steps):
    p = torch.nn.Parameter(torch.zeros(1))
    opt = torch.optim.SGD([p], lr=1.0)
    schedule = make(opt)
    out = []
    for _ in range(steps):
        out.append(opt.param_groups[0]["lr"])
        opt.step()
        schedule.step()
    return out


def sequence(opt):
    return s.SequentialLR(
        opt,
        [s.LinearLR(opt, 0.1, 1.0, 9), s.CosineAnnealingLR(opt, 30, 0.05)],
        milestones=[10],
    )


table = {
    "constant": (lambda o: s.ConstantLR(o, 0.25, 7), 20),
    "linear": (lambda o: s.LinearLR(o, 0.1, 0.8, 12), 20),
    "cosine": (lambda o: s.CosineAnnealingLR(o, 20, 0.1), 45),
    "cosine_restarts": (lambda o: s.CosineAnnealingWarmRestarts(o, 5, 2, 0.01), 50),
    "cosine_restarts_equal": (lambda o: s.CosineAnnealingWarmRestarts(o, 6, 1, 0.0), 20),
    "step": (lambda o: s.StepLR(o, 4, 0.3), 20),
    "multi_step": (lambda o: s.MultiStepLR(o, [3, 8, 8, 15], 0.5), 20),
    "exponential": (lambda o: s.ExponentialLR(o, 0.9), 40),
    "polynomial": (lambda o: s.PolynomialLR(o, 15, 2.0), 20),
    "one_cycle": (lambda o: s.OneCycleLR(o, 1.0, 40), 40),
    "one_cycle_early": (
        lambda o: s.OneCycleLR(o, 1.0, 50, pct_start=0.1, div_factor=10, final_div_factor=100),
        50,
    ),
    "sequence": (sequence, 40),
}
rows = (f" {json.dumps(name)}: {json.dumps(values(*row))}" for name, row in table.items())
print("{\n" + ",\n".join(rows) + "\n}")
