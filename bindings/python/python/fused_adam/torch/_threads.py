"""torch's own threads, for long steps."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import torch

from .._native import use_torch_threads


def _functions(*names: str) -> list[int]:
    """Return the addresses of functions in torch's library; 0 for a function that is missing."""
    # Except on Windows, the lookup of a symbol also searches the dependencies of the library.
    path = torch._C.__file__
    if sys.platform == "win32":
        path = str(Path(torch.__file__).parent / "lib" / "torch_cpu.dll")
    try:
        library = ctypes.CDLL(path)
    except OSError:
        return [0] * len(names)
    found = (getattr(library, name, None) for name in names)
    return [
        ctypes.cast(function, ctypes.c_void_p).value or 0 if function else 0 for function in found
    ]


def use() -> None:
    """Run long steps on torch's threads, if its library has the functions."""
    use_torch_threads(*_functions("torch_parallel_for", "torch_get_num_threads"))
