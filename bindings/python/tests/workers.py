"""Runs checks on several processes, which communicate over the loopback device."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing

#: Gets the rank, the number of processes and a folder. What it returns is compared by the tests.
Check = Callable[[int, int, Path], Any]


def spawn(
    checks: Sequence[Check],
    folder: Path,
    world: int,
    backend: str = "gloo",
    timeout: float = 600.0,
) -> list[dict[str, Any]]:
    """Run all checks on ``world`` processes.

    Returns:
        What each rank found, by the name of the check. The text of a traceback if it raised.
    """
    deadline = time.monotonic() + timeout
    arguments = (world, folder, backend, checks)
    context = torch.multiprocessing.spawn(_process, args=arguments, nprocs=world, join=False)
    try:
        while not context.join(timeout=max(deadline - time.monotonic(), 0.0)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{world} processes took more than {timeout} s")
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()
            process.join()
    return [torch.load(folder / f"{world}-{rank}.pt") for rank in range(world)]


def results(ranks: list[dict[str, Any]], check: str) -> list[Any]:
    """What the ranks found in a check."""
    for rank, found in enumerate(ranks):
        text = found[check] if isinstance(found[check], str) else ""
        assert not text, f"{check} on rank {rank} of {len(ranks)}: {text}"
    return [found[check] for found in ranks]


def _process(
    rank: int, world: int, folder: Path, backend: str, checks: Sequence[Check]
) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for check in checks:
        name = check.__name__
        # A group of its own, so that a check that fails on one rank does not disturb the next.
        dist.init_process_group(
            backend,
            init_method=f"file://{folder / f'{world}-{name}'}",
            rank=rank,
            world_size=world,
            timeout=timedelta(seconds=120),
        )
        # A check without communication could end, and close its connections, while other processes
        # still connect. That would be an error there.
        dist.barrier()
        try:
            found[name] = check(rank, world, folder)
        except BaseException:  # A panic is not an `Exception`.
            found[name] = traceback.format_exc()
        dist.destroy_process_group()
    torch.save(found, folder / f"{world}-{rank}.pt")
