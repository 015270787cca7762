"""Reads the files of the test vectors and compares words: see `docs/test-vectors.md`."""

from __future__ import annotations

import json
import struct
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from arithmetic import Array
from storage import BITS, widen

LENGTH = 70
GRADIENTS = 16
DIGITS = {"f64": 16, "f32": 8, "bf16": 4, "f16": 4, "8bit": 66, "correction": 0}

Inputs = dict[str, dict[str, Array]]
Tensor = tuple[str, list[int], bytes]  # dtype, shape and bytes


class Malformed(Exception):
    """A file does not have the layout that the page describes."""


@dataclass
class Report:
    """Differences and counts of one file, and the tensors that its words are."""

    differences: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def expect(self, tensor: str, where: str, kind: str, got: Array, text: Any) -> bool:
        """Compares with the words of a buffer. Only the first difference is reported."""
        expected = parse(where, kind, text)
        self.add_tensor(tensor, kind, expected)
        self.counts["words"] += len(expected)
        if got.shape != expected.shape:
            raise Malformed(f"{where}: {len(expected)} words are published, not {len(got)}")
        different = got != expected
        if got.ndim == 2:  # blocks of states in 8 bits
            different = different.any(axis=1)
        if not different.any():
            return True
        i = int(np.argmax(different))
        self.differences.append(
            f"{where}[{i}]: got {word(got[i])}, expected {word(expected[i])}"
            f" ({np.count_nonzero(different)} of {len(got)} differ)"
        )
        return False

    def add_tensor(self, name: str, kind: str, words: Array) -> None:
        dtype = kind.upper() if kind in BITS else f"U{8 * words.itemsize}"
        # The blocks of a state are one dimension of bytes.
        shape = [words.size] if kind == "8bit" else list(words.shape)
        data = words.astype(words.dtype.newbyteorder("<")).tobytes()
        self.tensors[name] = (dtype, shape, data)


def parse(where: str, kind: str, text: Any) -> Array:
    """The words of a buffer as unsigned integers, or as rows of 33 bytes."""
    if not isinstance(text, str):
        raise Malformed(f"{where}: {text!r} is not a string of words")
    parts = text.split(" ") if text else []
    digits = DIGITS[kind] or (2 if parts and len(parts[0]) == 2 else 4)
    for i, part in enumerate(parts):
        if len(part) != digits or not set(part) <= set("0123456789abcdef"):
            raise Malformed(f"{where}[{i}]: {part!r} is not a word of {digits} digits")
    data = bytes.fromhex("".join(parts))
    if kind == "8bit":
        return np.frombuffer(data, np.uint8).reshape(-1, 33)
    big_endian = np.frombuffer(data, f">u{digits // 2}")
    return big_endian.astype(big_endian.dtype.newbyteorder("="))


def word(x: Any) -> str:
    return x.tobytes().hex() if isinstance(x, np.ndarray) else f"{int(x):0{2 * x.itemsize}x}"


def read_json(path: Path, keys: set[str]) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if set(content) != keys or content["format"] != 1:
        raise Malformed(f"keys {sorted(content)}, format {content.get('format')}")
    return content


def read_inputs(folder: Path, report: Report) -> Inputs:
    inputs = {}
    for kind, buffers in read_json(folder / "inputs.json", {"format", "inputs"})["inputs"].items():
        where = f"inputs/{kind}"
        theta = parse(f"{where}/theta", kind, buffers["theta"])
        texts = enumerate(buffers["grad"])
        grad = np.stack([parse(f"{where}/grad[{i}]", kind, text) for i, text in texts])
        if theta.shape != (LENGTH,) or grad.shape != (GRADIENTS, LENGTH):
            raise Malformed(f"{where}: {theta.shape} and {grad.shape} elements")
        report.add_tensor(f"{where}/theta", kind, theta)
        report.add_tensor(f"{where}/grad", kind, grad)
        report.counts["words"] += theta.size + grad.size
        inputs[kind] = {"theta": widen(kind, theta), "grad": widen(kind, grad)}
    if set(inputs) != set(BITS):
        raise Malformed(f"inputs: types {sorted(inputs)}")
    return inputs


def read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The metadata and the tensors of a file."""
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    data = data[8 + length :]
    metadata = header.pop("__metadata__")
    if set(metadata) != {"fused_adam_vectors"}:
        raise Malformed(f"metadata {sorted(metadata)}")
    end = 0
    tensors = {}
    for name, tensor in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        start, stop = tensor["data_offsets"]
        if start != end or stop < start:
            raise Malformed(f"{name}: offsets {start} and {stop}, expected {end} and more")
        end = stop
        tensors[name] = (tensor["dtype"], tensor["shape"], data[start:stop])
    if end != len(data):
        raise Malformed(f"{len(data)} bytes of data, expected {end}")
    return json.loads(metadata["fused_adam_vectors"]), tensors


def check_safetensors(
    folder: Path, cases: list[dict[str, Any]], complete: bool, report: Report
) -> None:
    """Compares with the JSON files: `report.tensors` has their words, `cases` their cases.

    If not all of them were read, further cases and tensors are not looked at.
    """
    metadata, tensors = read_safetensors(folder / "vectors.safetensors")
    if set(metadata) != {"format", "cases"} or metadata["format"] != 1:
        raise Malformed("metadata: the format is not 1")

    def by_name(cases: list[dict[str, Any]]) -> dict[str, str]:
        short = [{k: v for k, v in case.items() if k != "coefficients"} for case in cases]
        short = [case | {"runs": sorted(case["runs"])} for case in short]
        return {case["name"]: json.dumps(case, sort_keys=True) for case in short}

    for what, found, expected in (
        ("metadata of case ", by_name(metadata["cases"]), by_name(cases)),
        ("", tensors, report.tensors),
    ):
        for name in expected | found if complete else expected:
            if name not in found:
                report.differences.append(f"{what}{name}: missing")
            elif name not in expected:
                report.differences.append(f"{what}{name}: in no JSON file")
            elif found[name] != expected[name]:
                report.differences.append(f"{what}{name}: not as in the JSON file")
    report.counts["tensors"] += len(report.tensors)
