"""Sharded optimizer states, with processes that communicate over the loopback device."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_gloo_available(), reason="this torch was built without gloo"
)

HERE = Path(__file__).parent


def run(script: Path, processes: int, *arguments: str) -> str:
    """Run the script on this many processes, and return its output."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={processes}", str(script), *arguments]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONDEVMODE", None)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def hashes(printed: str) -> list[str]:
    return re.findall(r"[0-9a-f]{64}", printed)


def test_zero1_over_the_flat_api():
    script = HERE.parent / "examples" / "zero1.py"
    found = [hashes(run(script, processes)) for processes in (1, 2, 4)]
    assert [len(of_one) for of_one in found] == [1, 1, 1]
    assert len({of_one[0] for of_one in found}) == 1, found


def test_zero_redundancy_optimizer():
    """With 1, 2 and 4 processes, torch's wrapper has the same result as the optimizer alone."""
    script = HERE / "zero_redundancy.py"
    alone = hashes(run(script, 1, "--alone"))
    assert len(alone) == 1
    for processes in (1, 2, 4):
        assert set(hashes(run(script, processes))) == set(alone), processes
