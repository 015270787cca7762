"""States in 8 bits: tensors of ``torch.uint8`` with a row for each block of 32 elements."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import Rule

#: The number of elements of a block, and of its bytes: a code for each element, and their scale.
_ELEMENTS, _BYTES = 32, 33

_MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")

#: For each kind of optimizer a rule that has all of its states, and torch's names of them.
_STATES: dict[str, tuple[Rule, tuple[str, ...]]] = {
    "adam": (Rule("adam", amsgrad=True), _MOMENTS),
    "nadam": (Rule("nadam"), _MOMENTS[:2]),
    "radam": (Rule("radam"), _MOMENTS[:2]),
    "adamax": (Rule("adamax"), ("exp_avg", "exp_inf")),
    "rmsprop": (
        Rule("rmsprop", centered=True, momentum=0.9),
        ("square_avg", "grad_avg", "momentum_buffer"),
    ),
    "adagrad": (Rule("adagrad"), ("sum",)),
    "sgd": (Rule("sgd", momentum=0.9), ("momentum_buffer",)),
    "adabound": (Rule("adabound", amsbound=True), _MOMENTS),
    "lion": (Rule("lion"), ("exp_avg",)),
}


def names_of(kind: str) -> tuple[str, ...]:
    """Return the names of all states that a kind of optimizer can have."""
    return _STATES[kind][1]


def are_blocks(state: Any) -> bool:
    """Return whether a state is in 8 bits."""
    return isinstance(state, Tensor) and state.dtype == torch.uint8


def is_sharded(param: Tensor) -> bool:
    """Return whether a parameter is a part of a tensor, or is one on each of several processes."""
    return hasattr(param, "placements") or bool(getattr(param, "_fsdp_flattened", False))


def local_of(tensor: Any) -> Tensor:
    """Return the tensor itself, or the shard of a ``DTensor`` that this process has."""
    local: Tensor = tensor.to_local() if hasattr(tensor, "placements") else tensor
    return local.detach()


def shape_of(param: Tensor) -> tuple[int, int]:
    """Return the shape of the states in 8 bits of a parameter, or of its shard."""
    return -(-local_of(param).numel() // _ELEMENTS), _BYTES


def filled(kind: str, name: str, param: Tensor, value: float) -> Tensor:
    """Return a state in 8 bits whose elements have this value."""
    if value == 0.0:
        return torch.zeros(shape_of(param), dtype=torch.uint8, device=param.device)
    local = local_of(param)
    return encode(kind, name, torch.full(local.shape, value, device="cpu"), param.device)


def encode(kind: str, name: str, state: Tensor, device: torch.device) -> Tensor:
    """Return a state, or its shard, in 8 bits. Rounds to nearest."""
    elements = local_of(state).to(device="cpu", dtype=torch.float32).contiguous()
    blocks = torch.empty(shape_of(elements), dtype=torch.uint8, device="cpu")
    rule, own = _rule_of(kind, name)
    rule.encode_state(own, elements, blocks)
    return blocks.to(device)


def decode(kind: str, name: str, blocks: Tensor, param: Tensor) -> Tensor:
    """Return a state in 8 bits as ``float32``, with the shape and the placements of ``param``."""
    state = torch.empty_like(
        param, dtype=torch.float32, memory_format=torch.contiguous_format, requires_grad=False
    )
    local = local_of(state)
    elements = local if local.is_contiguous() else torch.empty(local.shape, device="cpu")
    rule, own = _rule_of(kind, name)
    rule.decode_state(own, blocks.to("cpu").contiguous(), elements)
    if elements is not local:
        local.copy_(elements)
    return state


def _rule_of(kind: str, name: str) -> tuple[Rule, str]:
    """Return a rule and its own name of a state."""
    rule, names = _STATES[kind]
    return rule, rule.states[names.index(name)]
