"""Large steps of torch's tensors, on torch's threads."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import fused_adam
import fused_adam.torch as fused

LONG = 1 << 20


def stepped(threads: int) -> bytes:
    """Three steps of a large tensor and a small one. The last step is clipped."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        params = [torch.linspace(-1, 1, n).requires_grad_() for n in (LONG, 10)]
        opt = fused.AdamW(params, lr=0.1)
        for param in params:
            param.grad = param.detach().cos()
        opt.step()
        opt.step()
        fused.clip_grad_norm_and_step(opt, 1.0)
        return b"".join(param.detach().numpy().tobytes() for param in params)
    finally:
        torch.set_num_threads(before)


def test_their_number_does_not_show():
    assert len({stepped(threads) for threads in (1, 2, 3, 7)}) == 1


def test_from_many_threads_at_once():
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(stepped, [2] * 8)) == {stepped(1)}


def run(code: str) -> None:
    head = """
import os, torch, fused_adam, fused_adam.torch
p = torch.ones(1 << 20, requires_grad=True)
p.grad = torch.ones(1 << 20)
opt = fused_adam.torch.AdamW([p], lr=0.1)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", head + code], check=True, timeout=120)


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_there_are_no_others_unless_asked_for():
    run("""
threads = lambda: len(os.listdir("/proc/self/task"))
torch.set_num_threads(3)
p.grad.cos_()
before = threads()
opt.step()
assert threads() == before, (before, threads())
fused_adam.set_num_threads(2)
opt.step()
assert threads() == before + 2, (before, threads())
""")


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_a_forked_process_has_threads_of_its_own():
    run("""
opt.step()
pid = os.fork()
opt.step()
if pid == 0:
    # torch's own operations would wait for threads that do not exist.
    os._exit(0 if len(set(p.detach().numpy().tolist()) - {1.0}) == 1 else 3)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
""")
    # Here only torch has used its threads before. SGD has no state for torch to allocate.
    run("""
opt = fused_adam.torch.SGD([p], lr=0.1)
p.grad.cos_()
pid = os.fork()
if pid == 0:
    opt.step()
    os._exit(0 if len(set(p.detach().numpy().tolist()) - {1.0}) == 1 else 3)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
""")
