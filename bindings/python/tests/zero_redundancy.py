"""Trains with fused-adam's AdamW in torch's ZeroRedundancyOptimizer. Prints a hash of the bits."""

from __future__ import annotations

import hashlib
import sys

import torch
import torch.distributed as dist
from torch.distributed.optim import ZeroRedundancyOptimizer

import fused_adam.torch


def main() -> None:
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = torch.nn.Sequential(torch.nn.Linear(10, 33), torch.nn.Tanh(), torch.nn.Linear(33, 7))
    options = {"lr": 0.01, "weight_decay": 0.1}
    if "--alone" in sys.argv:
        optimizer = fused_adam.torch.AdamW(network.parameters(), **options)
    else:
        optimizer = ZeroRedundancyOptimizer(
            network.parameters(), optimizer_class=fused_adam.torch.AdamW, **options
        )
    for step in range(10):
        # The same on every process, so that the gradients are equal.
        x = torch.randn(32, 10, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (network(x) - x[:, :7].sin()).square().mean().backward()
        optimizer.step()
    bits = b"".join(param.detach().numpy().tobytes() for param in network.parameters())
    print(hashlib.sha256(bits).hexdigest(), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
