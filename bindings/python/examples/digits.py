"""Trains a small network on handwritten digits, with torch's AdamW and with fused-adam's.

    python examples/digits.py

Only the optimizer class differs.
"""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import Any

import torch

import fused_adam.torch

DATA = Path(__file__).parents[3] / "data" / "digits.csv.gz"


def digits(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Return 1797 images of 8x8 pixels from 0 to 1, and their labels."""
    with gzip.open(DATA, "rt") as file:
        rows = [
            [int(float(cell)) for cell in row] for row in csv.reader(file) if row[0][:1].isdigit()
        ]
    table = torch.tensor(rows)
    return table[:, :64].to(dtype) / 16, table[:, 64]


def train(
    optimizer_class: Any, epochs: int = 12, dtype: torch.dtype = torch.float32, **options: Any
) -> tuple[list[float], float]:
    """Return the loss after each epoch, and the accuracy on a held-out fifth of the images."""
    images, labels = digits(dtype)
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(64, 48), torch.nn.Tanh(), torch.nn.Linear(48, 10))
    network.to(dtype)
    optimizer = optimizer_class(network.parameters(), **options)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1))
    held_out, rest = order[: len(order) // 5], order[len(order) // 5 :]
    losses = []
    for epoch in range(epochs):
        shuffled = rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(epoch))]
        for batch in shuffled.split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(images[batch]), labels[batch]).backward()
            optimizer.step()
        schedule.step()
        with torch.no_grad():
            losses.append(
                float(torch.nn.functional.cross_entropy(network(images[rest]), labels[rest]))
            )
    with torch.no_grad():
        right = network(images[held_out]).argmax(1) == labels[held_out]
    return losses, float(right.float().mean())


def main() -> None:
    options = {"lr": 5e-3, "weight_decay": 0.01}
    for name, optimizer_class in [
        ("torch.optim.AdamW", torch.optim.AdamW),
        ("fused_adam.torch.AdamW", fused_adam.torch.AdamW),
    ]:
        losses, accuracy = train(optimizer_class, **options)
        print(f"{name:<24} loss {losses[0]:.6f} … {losses[-1]:.6f}, accuracy {accuracy:.1%}")


if __name__ == "__main__":
    main()
