"""ZeRO stage 1 by hand: each process keeps the optimizer states of its shard only.

    torchrun --nproc-per-node 4 examples/zero1.py

All parameters are in one flat buffer, which is split into shards, one for each process. A step

1. sums the gradients of all processes; each process gets the sum for its shard (reduce-scatter);
2. steps the shard on the process that owns its states;
3. distributes the new parameters to all processes (all-gather).

A step is elementwise. So from the same gradients it has the same bits as a step of the whole buffer
on one process. The order in which gradients are summed depends on the number of processes, which
would change the bits. To avoid this, each process here computes the gradient of the whole batch,
divided by the number of processes, which must be a power of two.
"""

from __future__ import annotations

import hashlib
import os

import torch
import torch.distributed as dist

from fused_adam import Flat, Rule


class Zero1:
    """A module's parameters in one flat buffer, stepped in shards, one for each process."""

    def __init__(self, module: torch.nn.Module, rule: Rule) -> None:
        self.world, self.rank = dist.get_world_size(), dist.get_rank()
        params = list(module.parameters())
        length = sum(param.numel() for param in params)
        padded = -(-length // self.world) * self.world
        self.theta, self.grad = torch.zeros(padded), torch.zeros(padded)
        start = 0
        for param in params:
            part = slice(start, start + param.numel())
            self.theta[part] = param.detach().flatten()
            param.data = self.theta[part].view(param.shape)
            param.grad = self.grad[part].view(param.shape)
            start += param.numel()
        self.shard = self.theta.chunk(self.world)[self.rank].clone()
        self.shard_grad = torch.zeros_like(self.shard)
        self.flat = Flat(rule, self.shard.numpy())

    def step(self) -> None:
        dist.reduce_scatter_tensor(self.shard_grad, self.grad)
        self.flat.step(self.shard, self.shard_grad)
        dist.all_gather_into_tensor(self.theta, self.shard)
        self.grad.zero_()


def train(steps: int = 20) -> str:
    """Train a small network. Return a hash of the bits of its parameters."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = torch.nn.Sequential(torch.nn.Linear(10, 33), torch.nn.Tanh(), torch.nn.Linear(33, 7))
    zero = Zero1(network, Rule("adamw", lr=0.01, weight_decay=0.1))
    for step in range(steps):
        x = torch.randn(32, 10, generator=torch.Generator().manual_seed(step))
        loss = (network(x) - x[:, :7].sin()).square().mean() / zero.world
        loss.backward()
        zero.step()
    length = sum(param.numel() for param in network.parameters())
    bits = zero.theta[:length].numpy().tobytes()
    return hashlib.sha256(bits).hexdigest()


def main() -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo")
    found = train()
    if dist.get_rank() == 0:
        print(f"{dist.get_world_size()} processes: {found}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
