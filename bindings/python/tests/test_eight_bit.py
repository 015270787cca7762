"""States in 8 bits: ``state="8bit"`` of all classes, their checkpoints, and the aliases."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import re
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed

import block8
import digits
import fused_adam
import fused_adam.torch as fused
import workers
from block8 import ALL, SIZE, assert_same_contents, blocks_of, contents, grad_of, start
from common import CASES, Case, assert_same_bits
from fused_adam import Rule, decode_state, encode_state

#: The optimizers that have states.
STATEFUL = [case for case in CASES if case.buffers]
TORCHS = [case for case in STATEFUL if case.is_torchs]


def make(case: Case, params: Any, **more: Any) -> Any:
    return getattr(fused, case.name)(params, **{**case.options, **ALL, **more})


def steps(weight: torch.nn.Parameter, optimizer: Any, first: int, last: int) -> None:
    for t in range(first, last):
        weight.grad = grad_of(weight, t)
        optimizer.step()


def hash_of(name: str) -> int:
    return fused._base.name_hash(name)


# Bits


# With a seed, a rule also rounds a parameter of 16 bits stochastically.
ROUNDINGS = [
    (torch.float32, None),
    (torch.float32, 11),
    (torch.bfloat16, 11),
    (torch.float16, 11),
]


@pytest.mark.parametrize("dtype, seed", ROUNDINGS, ids=str)
@pytest.mark.parametrize("case", STATEFUL, ids=str)
def test_bits_are_those_of_the_rule(case: Case, dtype: torch.dtype, seed: int | None):
    """The seed is the hash of the name, combined with that of ``stochastic_rounding``."""
    weight = torch.nn.Parameter(start(dtype=dtype))
    optimizer = make(case, [("w", weight)], stochastic_rounding=False if seed is None else seed)
    rule = Rule(case.rule, **case.hyper)
    theta, scalars = start(dtype=dtype), np.array(rule.scalars_after(0))
    states = [
        torch.from_numpy(encode_state(rule, name, np.full(SIZE, initial)))
        for name, initial in zip(rule.states, rule.initial, strict=True)
    ]
    for t in range(1, 6):
        options = {"scalars": scalars, "seed": (seed or 0) ^ hash_of("w"), "backend": "scalar"}
        rule.step(t, theta, grad_of(theta, t), *states, **options)
        steps(weight, optimizer, t, t + 1)
    assert_same_bits(weight, theta, "theta")
    for name, state in zip(case.buffers, states, strict=True):
        found = optimizer.state[weight][name]
        assert found.dtype == torch.uint8 and found.shape == blocks_of(SIZE)
        assert torch.equal(found, state), name
        assert found.any(), f"{name} is not 0"
    assert optimizer.state[weight]["seed"] == hash_of("w")
    assert optimizer.state[weight]["step"] == 5


def test_another_name_has_other_random_bits():
    found = []
    for name in ("w", "v"):
        weight = torch.nn.Parameter(start())
        optimizer = fused.AdamW([(name, weight)], **ALL)
        steps(weight, optimizer, 1, 3)
        found.append(optimizer.state[weight]["exp_avg"])
    assert not torch.equal(*found)


@pytest.mark.parametrize("name", ["AdamW", "SGD", "Lion"])
def test_number_of_threads(name: str):
    """The bits are the same, on torch's threads and on others."""
    results = []
    before = torch.get_num_threads()
    options = {"momentum": 0.9} if name == "SGD" else {}
    try:
        for torchs, own in ((1, 0), (2, 0), (4, 0), (1, 3)):
            torch.set_num_threads(torchs)
            fused_adam.set_num_threads(own)
            weight = torch.nn.Parameter(start(1_000_003))
            optimizer = getattr(fused, name)([weight], **ALL, **options)
            steps(weight, optimizer, 1, 4)
            results.append(contents(optimizer))
    finally:
        torch.set_num_threads(before)
        fused_adam.set_num_threads(0)
    for found in results[1:]:
        assert_same_contents(found, results[0])


LAYOUTS = {
    "transposed": lambda whole: whole.T,
    "with gaps": lambda whole: torch.cat((whole, whole), 1)[:, : whole.shape[1]],
    "channels last": lambda whole: whole.reshape(6, 7, 10, 13),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_blocks_are_in_row_major_order(layout: str):
    """A parameter of another memory order has the bits of a contiguous one, so it can be loaded."""
    plain = LAYOUTS[layout](start(5460).reshape(60, 91))
    whole = torch.nn.Parameter(plain.detach().clone(memory_format=torch.contiguous_format))
    if layout == "channels last":
        plain = plain.to(memory_format=torch.channels_last)
    weight = torch.nn.Parameter(plain)
    assert not weight.is_contiguous() and whole.is_contiguous()
    optimizers = fused.AdamW([weight], **ALL), fused.AdamW([whole], **ALL)
    for one, optimizer in zip((weight, whole), optimizers):
        steps(one, optimizer, 1, 3)
    optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
    for one, optimizer in zip((weight, whole), optimizers):
        steps(one, optimizer, 3, 5)
    assert_same_contents(contents(optimizers[0]), contents(optimizers[1]))
    decoded = optimizers[0].dequantized_state_dict()["state"][0]["exp_avg"]
    assert decoded.shape == weight.shape


@pytest.mark.parametrize("n", [0, 1, 31, 32, 33])
def test_small_and_empty_parameters(n: int):
    weight = torch.nn.Parameter(start(n))
    optimizer = fused.Adagrad([weight], initial_accumulator_value=0.5, **ALL)
    steps(weight, optimizer, 1, 3)
    assert optimizer.state[weight]["sum"].shape == blocks_of(n)
    assert weight.isfinite().all() and (n == 0 or not torch.equal(weight, start(n)))


# Options


def test_small_parameters_keep_their_states():
    sizes = {"large": 4096, "small": 4095}
    for least, expected in ((None, {"large"}), (0, {"large", "small"}), (4097, set())):
        weights = {name: torch.nn.Parameter(start(n)) for name, n in sizes.items()}
        more = {} if least is None else {"min_8bit_size": least}
        optimizer = fused.AdamW(weights.items(), state="8bit", **more)
        plain = torch.nn.Parameter(start(4095))
        other = fused.AdamW([("small", plain)])
        for t in range(1, 4):
            for weight in (*weights.values(), plain):
                weight.grad = grad_of(weight, t)
            optimizer.step()
            other.step()
        states = {name: optimizer.state[weight] for name, weight in weights.items()}
        found = {name for name in sizes if states[name]["exp_avg"].dtype == torch.uint8}
        assert found == expected, least
        assert {name for name in sizes if "seed" in states[name]} == expected
        if "small" not in expected:
            assert_same_bits(weights["small"], plain, "the small one is as without the option")


def test_by_default_states_are_not_in_8_bits():
    weight = torch.nn.Parameter(start())
    optimizer = fused.AdamW([weight], min_8bit_size=0)
    steps(weight, optimizer, 1, 2)
    assert optimizer.state[weight]["exp_avg"].dtype == torch.float32
    assert "seed" not in optimizer.state[weight]


@pytest.mark.parametrize("case", STATEFUL, ids=str)
def test_the_type_of_states_is_for_those_that_are_not_in_8_bits(case: Case):
    large, small = (torch.nn.Parameter(start(n, torch.bfloat16)) for n in (SIZE, 5))
    optimizer = make(case, [large, small], min_8bit_size=100, state_dtype=torch.float32)
    for weight in (large, small):
        weight.grad = grad_of(weight, 1)
    optimizer.step()
    for name in case.buffers:
        assert optimizer.state[large][name].dtype == torch.uint8
        assert optimizer.state[small][name].dtype == torch.float32


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"state": "4bit"}, ValueError, "state is '4bit', expected None or '8bit'"),
        ({"state": torch.uint8}, ValueError, "state is torch.uint8, expected None or '8bit'"),
        ({"state": True}, ValueError, "state is True, expected None or '8bit'"),
        ({"min_8bit_size": -1}, ValueError, "min_8bit_size is -1, expected at least 0"),
        ({"min_8bit_size": 0.5}, TypeError, "min_8bit_size is a float, expected a whole number"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], error: Any, message: str):
    for case in CASES:
        with pytest.raises(error, match=f"^{re.escape(message)}$"):
            getattr(fused, case.name)([torch.nn.Parameter(start())], **options)


DOUBLE = (
    "is torch.float64, expected torch.float32, torch.bfloat16 or torch.float16 with state='8bit'"
)


def test_float64_is_refused():
    first, small, large = (torch.nn.Parameter(start(n).double()) for n in (3, 5, 4096))
    optimizer = fused.AdamW([first, small], state="8bit")
    message = f"parameter 2 (`b`, shape (4096,)) of parameter group 1 {DOUBLE}"
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        fused.AdamW([{"params": [("a", first), ("c", small)]}, {"params": [("b", large)]}],
                    state="8bit")
    with pytest.raises(TypeError, match=re.escape(DOUBLE)):
        optimizer.add_param_group({"params": [large]})
    assert len(optimizer.param_groups) == 1, "a group that is refused is not kept"
    for weight in (first, small):
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert optimizer.state[small]["exp_avg"].dtype == torch.float64


def test_a_parameter_that_becomes_float64_later():
    network = torch.nn.Linear(64, 64)
    optimizer = fused.AdamW(network.parameters(), state="8bit")
    network.double()
    network.weight.grad = torch.ones_like(network.weight)
    message = f"parameter 0 (shape (64, 64)) of parameter group 0 {DOUBLE}"
    with pytest.raises(TypeError, match=re.escape(message)):
        optimizer.step()
    assert not optimizer.state, "nothing has changed"


ALIASES = {
    name: getattr(fused, f"{name}8bit")
    for name in ("Adam", "AdamW", "Lion", "RMSprop", "Adagrad", "SGD")
}


@pytest.mark.parametrize("name", ALIASES)
def test_aliases(name: str):
    results = []
    options = {"momentum": 0.9} if name == "SGD" else {}
    for of, more in ((ALIASES[name], {}), (getattr(fused, name), {"state": "8bit"})):
        weight, small = torch.nn.Parameter(start()), torch.nn.Parameter(start(5))
        optimizer = of([("w", weight), ("s", small)], 0.01, **options, **more)
        for t in range(1, 4):
            weight.grad, small.grad = grad_of(weight, t), grad_of(small, t)
            optimizer.step()
        assert optimizer.param_groups[0]["lr"] == 0.01
        results.append(contents(optimizer))
    assert any(key.dtype == torch.uint8 for key in results[0].values())
    assert_same_contents(*results)
    assert issubclass(ALIASES[name], getattr(fused, name))
    twin = pickle.loads(pickle.dumps(optimizer))
    assert type(twin) is type(optimizer)
    larger = ALIASES[name]([torch.nn.Parameter(start(4096))], min_8bit_size=4097, **options)
    weight = larger.param_groups[0]["params"][0]
    steps(weight, larger, 1, 2)
    assert all(state.dtype != torch.uint8 for state in contents(larger).values())


def test_every_alias_of_the_package_is_tested():
    assert {f"{name}8bit" for name in ALIASES} == {it for it in fused.__all__ if "8bit" in it}


# Checkpoints


def resumed(how: str, case: Case, weight: torch.nn.Parameter, optimizer: Any) -> tuple[Any, Any]:
    if how == "pickle":
        return pickle.loads(pickle.dumps((weight, optimizer)))
    if how == "deepcopy":
        return copy.deepcopy((weight, optimizer))
    packed = optimizer.state_dict()
    assert not {"state", "min_8bit_size"} & packed["param_groups"][0].keys()
    if how == "torch.save":
        file = io.BytesIO()
        torch.save(packed, file)
        packed = torch.load(io.BytesIO(file.getvalue()))
    fresh = torch.nn.Parameter(weight.detach().clone())
    optimizer = make(case, [("layer.w", fresh)])
    optimizer.load_state_dict(packed)
    return fresh, optimizer


@pytest.mark.parametrize("how", ["state_dict", "torch.save", "pickle", "deepcopy"])
@pytest.mark.parametrize("case", STATEFUL, ids=str)
def test_goes_on_to_the_bit(case: Case, how: str):
    whole, weight = torch.nn.Parameter(start()), torch.nn.Parameter(start())
    steps(whole, expected := make(case, [("layer.w", whole)]), 1, 9)
    steps(weight, optimizer := make(case, [("layer.w", weight)]), 1, 5)
    before = copy.deepcopy(contents(optimizer))
    after, twin = resumed(how, case, weight, optimizer)
    assert_same_contents(contents(twin), before)
    steps(after, twin, 5, 9)
    assert_same_contents(contents(twin), contents(expected))
    assert_same_contents(contents(optimizer), before)
    # The options are kept, or were given again.
    twin.add_param_group({"params": [("other", other := torch.nn.Parameter(start(40)))]})
    steps(other, twin, 1, 2)
    assert twin.state[other][case.buffers[0]].dtype == torch.uint8


def test_a_loaded_dictionary_does_not_change():
    """So it can be loaded again, to go back twice."""
    weight = torch.nn.Parameter(start())
    optimizer = fused.AdamW([weight], **ALL)
    steps(weight, optimizer, 1, 3)
    for packed in (optimizer.state_dict(), optimizer.dequantized_state_dict()):
        packed = copy.deepcopy(packed)
        kept = copy.deepcopy(packed)
        optimizer.load_state_dict(packed)
        steps(weight, optimizer, 3, 5)
        for name, value in kept["state"][0].items():
            found = packed["state"][0][name]
            assert torch.equal(found, value) if isinstance(value, torch.Tensor) else found == value


def rule_of(case: Case) -> Rule:
    return Rule(case.rule, **case.hyper)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", TORCHS, ids=str)
def test_states_of_torch_are_encoded(case: Case, dtype: torch.dtype):
    """To nearest, and the optimizer goes on."""
    weight = torch.nn.Parameter(start(dtype=dtype))
    torchs = case.torchs([("w", weight)])
    steps(weight, torchs, 1, 4)
    packed = copy.deepcopy(torchs.state_dict())
    saved = dict(packed["state"][0])
    if case.options.get("centered"):
        mean = saved["grad_avg"].double()
        variance = (saved["square_avg"].double() - mean.square()).clamp_(min=0.0)
        saved["square_avg"] = variance.to(dtype)
    for optimizer in (
        make(case, [("w", weight)]),
        fused.from_torch(torchs, **ALL),
    ):
        if not optimizer.state or case.rule == "adagrad":
            optimizer.load_state_dict(packed)
        for own, name in zip(rule_of(case).states, case.buffers, strict=True):
            expected = encode_state(rule_of(case), own, saved[name].float().numpy())
            assert torch.equal(optimizer.state[weight][name], torch.from_numpy(expected)), name
        twin = copy.deepcopy(optimizer)
        after = twin.param_groups[0]["params"][0]
        steps(after, twin, 4, 6)
        assert not torch.equal(after, weight)
        assert all(twin.state[after][name].dtype == torch.uint8 for name in case.buffers)
        assert twin.state[after]["step"] == (3 if case.rule == "sgd" else 5)
    assert_same_bits(torchs.state[weight][case.buffers[0]], packed["state"][0][case.buffers[0]], "")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", STATEFUL, ids=str)
def test_states_in_8_bits_are_decoded(case: Case, dtype: torch.dtype):
    weight = torch.nn.Parameter(start(dtype=dtype))
    optimizer = make(case, [("w", weight)])
    steps(weight, optimizer, 1, 4)
    plain = getattr(fused, case.name)([("w", weight)], **case.options)
    plain.load_state_dict(optimizer.state_dict())
    state_dtype = torch.float32 if dtype == torch.float16 else dtype
    for own, name in zip(rule_of(case).states, case.buffers, strict=True):
        blocks = optimizer.state[weight][name].numpy()
        expected = torch.from_numpy(decode_state(rule_of(case), own, blocks, SIZE))
        assert_same_bits(plain.state[weight][name], expected.to(state_dtype), name)
    assert plain.state[weight]["step"] == 3
    steps(weight, plain, 4, 6)


@pytest.mark.parametrize("case", TORCHS, ids=str)
def test_dequantized_state_dict_goes_to_torch(case: Case):
    """And back. To encode what was decoded is not exact: a block may get a smaller scale."""
    weight = torch.nn.Parameter(start())
    optimizer = make(case, [("w", weight)])
    steps(weight, optimizer, 1, 4)
    before = copy.deepcopy(contents(optimizer))
    packed = optimizer.dequantized_state_dict()
    assert_same_contents(contents(optimizer), before)
    assert optimizer.state[weight]["seed"] == hash_of("w")
    for own, name in zip(rule_of(case).states, case.buffers, strict=True):
        state = packed["state"][0][name]
        assert "seed" not in packed["state"][0], "torch's class has none"
        assert (state.dtype, state.shape) == (torch.float32, weight.shape)
        decoded = decode_state(rule_of(case), own, before[f"{name} of 0"].numpy(), SIZE)
        expected = torch.from_numpy(decoded)
        if name == "square_avg" and case.options.get("centered"):
            mean = packed["state"][0]["grad_avg"].double()
            expected = (expected.double() + mean.square()).float()
        assert_same_bits(state, expected, name)
    theirs = torch.nn.Parameter(weight.detach().clone())
    torchs = case.torchs([("w", theirs)])
    torchs.load_state_dict(copy.deepcopy(packed))
    ours = torch.nn.Parameter(weight.detach().clone())
    plain = getattr(fused, case.name)([("w", ours)], **case.options)
    plain.load_state_dict(copy.deepcopy(packed))
    for one, other in ((theirs, torchs), (ours, plain)):
        steps(one, other, 4, 6)
    torch.testing.assert_close(ours, theirs, rtol=0.0, atol=1e-5)
    if case.options.get("centered"):
        return  # The variance is computed from torch's mean square, which rounds.
    optimizer.load_state_dict(packed)
    after = contents(optimizer)
    for name in case.buffers:
        own = rule_of(case).states[case.buffers.index(name)]
        decoded = decode_state(rule_of(case), own, after[f"{name} of 0"].numpy(), SIZE)
        expected = packed["state"][0][name]
        error = (torch.from_numpy(decoded) - expected).abs()
        assert error.max() <= expected.abs().max() / 32
        assert (error == 0).float().mean() > 0.5, "most blocks have the same scale"


def test_torch_does_not_cast_states_in_8_bits(monkeypatch: pytest.MonkeyPatch):
    """It would make a second copy of all of them, in ``float32``, before the first is converted."""
    weight, small = torch.nn.Parameter(start()), torch.nn.Parameter(start(3))
    runs = {}
    for is_8bit in (False, True):
        more = {"state": "8bit", "min_8bit_size": 4} if is_8bit else {}
        runs[is_8bit] = fused.AdamW([weight, small], **more)
        for one in (weight, small):
            one.grad = torch.ones_like(one)
        runs[is_8bit].step()
    seen = []
    name = "_process_value_according_to_param_policy"
    before = getattr(torch.optim.Optimizer, name)

    def record(param: Any, value: Any, param_id: int, param_groups: Any, key: Any = None) -> Any:
        seen.append((param_id, key))
        return before(param, value, param_id, param_groups, key)

    monkeypatch.setattr(torch.optim.Optimizer, name, staticmethod(record))
    for first, second in ((False, True), (True, False), (True, True)):
        seen.clear()
        runs[second].load_state_dict(copy.deepcopy(runs[first].state_dict()))
        assert seen == [(0, "step"), (1, "step"), (1, "exp_avg"), (1, "exp_avg_sq")]
        runs[second].step()


def test_hooks_see_the_converted_states():
    weight = torch.nn.Parameter(start())
    torchs = torch.optim.AdamW([weight])
    steps(weight, torchs, 1, 2)
    optimizer = fused.AdamW([weight], **ALL)
    seen = []
    optimizer.register_load_state_dict_post_hook(
        lambda it: seen.append(it.state[weight]["exp_avg"].dtype)
    )
    optimizer.load_state_dict(torchs.state_dict())
    assert seen == [torch.uint8]
    assert len(optimizer._optimizer_load_state_dict_post_hooks) == 1
    assert not optimizer._optimizer_load_state_dict_pre_hooks


def test_states_of_another_shape_are_not_loaded():
    weight, other = torch.nn.Parameter(start()), torch.nn.Parameter(start(64))
    optimizer = fused.AdamW([("w", weight)], **ALL)
    steps(weight, optimizer, 1, 2)
    message = (
        "exp_avg of parameter 0 (`v`, shape (64,)) of parameter group 0 has shape (160, 33), "
        "expected (2, 33) for a state in 8 bits"
    )
    for more in ({}, ALL):
        smaller = fused.AdamW([("v", other)], **more)
        steps(other, smaller, 1, 2)
        before = contents(smaller)
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            smaller.load_state_dict(optimizer.state_dict())
        assert_same_contents(contents(smaller), before)


# What a step refuses

PLACE = r"of parameter 0 (`w`, shape (5100,))"
WRONG = {
    "the shape": (
        lambda state: state[:-1].clone(),
        ValueError,
        f"exp_avg {PLACE} has shape (159, 33), expected (160, 33) for a state in 8 bits",
    ),
    "flat": (
        lambda state: state.flatten(),
        ValueError,
        f"exp_avg {PLACE} has shape (5280,), expected (160, 33) for a state in 8 bits",
    ),
    "not contiguous": (
        lambda state: state.T.contiguous().T,
        ValueError,
        f"exp_avg {PLACE} is not contiguous, expected a contiguous tensor for a state in 8 bits",
    ),
    "the type": (
        lambda state: state.view(torch.int8),
        TypeError,
        f"exp_avg {PLACE} is torch.int8, expected one of torch.float32, ",
    ),
    "another kind": (
        lambda state: torch.zeros(SIZE),
        TypeError,
        f"exp_avg_sq {PLACE} is torch.uint8, and exp_avg torch.float32, expected torch.uint8 for "
        "both or for neither",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_states_are_refused(what: str):
    spoil, error, message = WRONG[what]
    weight = torch.nn.Parameter(start())
    optimizer = fused.AdamW([("w", weight)], **ALL)
    steps(weight, optimizer, 1, 2)
    optimizer.state[weight]["exp_avg"] = spoil(optimizer.state[weight]["exp_avg"])
    before = copy.deepcopy(contents(optimizer))
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        optimizer.step()
    assert_same_contents(contents(optimizer), before)


def test_states_in_8_bits_of_float64_are_refused():
    weight = torch.nn.Parameter(start(64).double())
    optimizer = fused.AdamW([("w", weight)])
    steps(weight, optimizer, 1, 2)
    for name in ("exp_avg", "exp_avg_sq"):
        optimizer.state[weight][name] = torch.zeros(2, 33, dtype=torch.uint8)
    message = "exp_avg of parameter 0 (`w`, shape (64,)) is torch.uint8, and the parameter torch."
    with pytest.raises(TypeError, match=re.escape(message)):
        optimizer.step()


def test_states_that_overlap_are_refused():
    weight = torch.nn.Parameter(start())
    optimizer = fused.AdamW([weight], **ALL)
    steps(weight, optimizer, 1, 2)
    optimizer.state[weight]["exp_avg"] = optimizer.state[weight]["exp_avg_sq"]
    with pytest.raises(ValueError, match="overlap in memory"):
        optimizer.step()


def test_bytes_are_not_a_gradient_or_a_parameter():
    weight = torch.nn.Parameter(start(4), requires_grad=False)
    optimizer = fused.AdamW([weight], **ALL)
    weight.grad = torch.ones(4)
    steps(weight, optimizer, 1, 2)
    weight.data = torch.ones(4, dtype=torch.uint8)
    with pytest.raises(TypeError, match="parameter 0 .* is torch.uint8, expected one of torch.fl"):
        optimizer.step()


def test_what_a_failed_or_skipped_step_made_is_taken_back():
    weight = torch.nn.Parameter(start())
    weight.grad = torch.full_like(weight, float("nan"))
    optimizer = fused.AdamW([weight], **ALL)
    with pytest.raises(ValueError, match="norm"):
        fused.clip_grad_norm_and_step(optimizer, 1.0)
    fused.clip_grad_norm_and_step(optimizer, 1.0, skip_nonfinite=True)
    assert not optimizer.state and torch.equal(weight, start())


# Together with others


def test_clipping_and_steps_during_the_backward_pass():
    """The bits are those of a step after the backward pass, and of clipped gradients."""
    results: dict[str, Any] = {}
    for how in ("plain", "backward", "clipped"):
        torch.manual_seed(0)
        network = torch.nn.Sequential(
            torch.nn.Linear(64, 80), torch.nn.Tanh(), torch.nn.Linear(80, 64)
        )
        optimizer = fused.AdamW(network.named_parameters(), state="8bit")
        if how == "backward":
            fused.StepInBackward(optimizer, batch_bytes=0)
        for t in range(4):
            x = torch.randn(8, 64, generator=torch.Generator().manual_seed(t))
            (network(x) - x.cos()).square().mean().backward()
            if how == "clipped":
                fused.clip_grad_norm_and_step(optimizer, 1e9)
            else:
                optimizer.step()
            optimizer.zero_grad()
        results[how] = contents(optimizer)
    kinds = [value.dtype for value in results["plain"].values()]
    assert kinds.count(torch.uint8) == 4 and torch.float32 in kinds
    for how in ("backward", "clipped"):
        assert_same_contents(results[how], results["plain"])


def test_bytes_of_the_states():
    weight = torch.nn.Parameter(start(2**18))
    optimizer = fused.AdamW([weight], state="8bit")
    steps(weight, optimizer, 1, 2)
    states = [it for it in optimizer.state[weight].values() if isinstance(it, torch.Tensor)]
    each = sum(state.untyped_storage().nbytes() for state in states) / weight.numel()
    assert 2.06 < each <= 2.07


RUNS = [
    ("AdamW", {"lr": 5e-3}),
    ("Adam", {"lr": 5e-3}),
    ("NAdam", {"lr": 5e-3}),
    ("Adamax", {"lr": 5e-3}),
    ("RMSprop", {"lr": 2e-3}),
    ("Adagrad", {"lr": 3e-2}),
    ("SGD", {"lr": 0.3, "momentum": 0.9}),
    ("Lion", {"lr": 3e-3}),
]


@pytest.mark.parametrize("name, options", RUNS, ids=[run[0] for run in RUNS])
def test_digits(name: str, options: dict[str, Any]):
    losses, accuracy = digits.train(getattr(fused, name), **ALL, **options)
    expected, _ = digits.train(getattr(fused, name), **options)
    assert losses != expected
    assert accuracy > 0.9
    assert losses[-1] == pytest.approx(expected[-1], rel=0.1, abs=5e-3)


def test_arguments_of_all_classes():
    for case in CASES:
        parameters = inspect.signature(getattr(fused, case.name)).parameters
        assert parameters["state"].default is None
        assert parameters["min_8bit_size"].default == 4096
        assert parameters["state"].kind is inspect.Parameter.KEYWORD_ONLY


# NumPy


def zeros(n: int = 40) -> np.ndarray:
    return np.zeros(n, np.float32)


def bytes_of(n: int = 40) -> np.ndarray:
    return np.zeros(blocks_of(n), np.uint8)


@pytest.mark.parametrize("name", fused_adam.RULES)
def test_numpy_states(name: str):
    """``encode_state`` and ``decode_state``, and a step that is near that of ``float32`` states."""
    rule = Rule(name)
    shape = (5, 41)
    rng = np.random.default_rng(0)
    theta = rng.standard_normal(shape, np.float32)
    grad = rng.standard_normal(shape, np.float32)
    exact = [np.full(shape, initial, np.float32) for initial in rule.initial]
    for t in (1, 2):
        rule.step(t, theta, grad, *exact)
    blocks = [encode_state(rule, own, state) for own, state in zip(rule.states, exact)]
    for own, state, encoded in zip(rule.states, exact, blocks):
        assert encoded.dtype == np.uint8 and encoded.shape == blocks_of(theta.size)
        decoded = decode_state(rule, own, encoded, shape)
        assert decoded.dtype == np.float32 and decoded.shape == shape
        assert np.abs(decoded - state).max() <= 0.04 * np.abs(state).max()
    ends = [theta.copy(), theta.copy()]
    before = [state.copy() for state in blocks]
    rule.step(3, ends[0], 2 * grad, *exact)
    rule.step(3, ends[1], 2 * grad, *blocks)
    assert np.linalg.norm(ends[0] - ends[1]) <= 0.1 * np.linalg.norm(ends[0] - theta) > 0.0
    for own, old, new in zip(rule.states, before, blocks):
        assert not np.array_equal(old, new), own


REFUSED = {
    "theta": (lambda: (bytes_of(), zeros(), zeros(), zeros()), "theta is of type uint8, expected"),
    "grad": (lambda: (zeros(), bytes_of(), zeros(), zeros()), "grad is of type uint8, expected"),
    "blocks": (
        lambda: (zeros(), zeros(), bytes_of(65), bytes_of(65)),
        "m is an array of 99 elements of uint8, expected a contiguous one of uint8 and shape "
        "(2, 33) for 40 elements in 8 bits",
    ),
    "mixed": (lambda: (zeros(), zeros(), bytes_of(), zeros()), "`v` is f32, expected 8 bits"),
    "double": (
        lambda: (np.zeros(40), np.zeros(40), bytes_of(), bytes_of()),
        "`m` is 8 bits, expected f64",
    ),
    "order": (
        lambda: (*(zeros().reshape(5, 8).T for _ in range(2)), bytes_of(), bytes_of()),
        "theta is not in row-major order, expected it for m in 8 bits",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_numpy_arrays_that_are_refused(what: str):
    arrays, message = REFUSED[what]
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        Rule("adamw").step(1, *arrays())


def test_conversions_that_are_refused():
    rule = Rule("adamw")
    with pytest.raises(ValueError, match=re.escape("""adamw has no state "b", expected one of""")):
        encode_state(rule, "b", zeros())
    with pytest.raises(ValueError, match=re.escape("and shape (2, 33) for 40 elements in 8 bits")):
        decode_state(rule, "m", bytes_of(65), 40)
    with pytest.raises(TypeError, match="elements is an array of f64, expected a contiguous one"):
        rule.encode_state("m", np.zeros(40), bytes_of())
    locked = bytes_of()
    locked.flags.writeable = False
    with pytest.raises(ValueError, match="blocks is read-only"):
        rule.encode_state("m", zeros(), locked)
    both = np.zeros(10, np.float32)
    with pytest.raises(ValueError, match="elements and blocks overlap in memory"):
        rule.encode_state("m", both, both.view(np.uint8)[:33].reshape(1, 33))


# Several processes


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """What each rank found, by the number of processes. Two processes save checkpoints."""
    if not torch.distributed.is_gloo_available():
        pytest.skip("this torch was built without gloo")
    folder = tmp_path_factory.mktemp("eight_bit")
    return {world: workers.spawn(block8.CHECKS, folder, world) for world in (2, 1)}


worlds = pytest.mark.parametrize("world", [1, 2])


def results(ranks: dict[int, list[dict[str, Any]]], world: int, check: str) -> list[Any]:
    assert len(ranks[world]) == world
    return workers.results(ranks[world], check)


@worlds
def test_distributed_data_parallel(ranks: dict[int, list[dict[str, Any]]], world: int):
    """All ranks have the same bits, also in a ``ZeroRedundancyOptimizer``."""
    found = results(ranks, world, "data_parallel")
    assert found[0]["consolidated"] == {
        number: torch.float32 if number % 2 else torch.uint8 for number in range(4)
    }
    for of_rank in found:
        assert any(it.dtype == torch.uint8 for it in of_rank["zero"].values())
        kinds = [it.dtype for it in of_rank["ddp"].values()]
        assert kinds.count(torch.uint8) == 4
        assert_same_contents(of_rank["ddp"], found[0]["ddp"])
        for how in ("ddp", "zero"):
            params = of_rank[f"params of {how}"], found[0][f"params of {how}"]
            for one, other, begin in zip(*params, block8.model().parameters(), strict=True):
                assert_same_bits(one, other, how)
                assert not torch.equal(one, begin), how
        # There each process numbers its own parameters, so that the random bits differ.
        for one, other in zip(of_rank["params of ddp"], of_rank["params of zero"], strict=True):
            torch.testing.assert_close(one, other, rtol=0.0, atol=5e-3)


@worlds
@pytest.mark.parametrize("name", block8.SHARDED)
def test_shards(ranks: dict[int, list[dict[str, Any]]], world: int, name: str):
    """A shard is stepped as a tensor of its own, whose seed has the index of its first element."""
    for rank, found in enumerate(results(ranks, world, "shards")):
        for ours, expected in found[name]:
            assert_same_contents(ours, expected)


def test_shards_have_random_bits_of_their_own(ranks: dict[int, list[dict[str, Any]]]):
    """Two equal shards with equal gradients differ. Replicas do not."""
    first, second = results(ranks, 2, "equal_shards")
    assert torch.equal(first["start"], second["start"])
    assert not torch.equal(first["shard"], second["shard"])
    assert torch.equal(first["replica"], second["replica"])


@worlds
def test_states_of_shards_are_decoded_for_checkpoints(
    ranks: dict[int, list[dict[str, Any]]], world: int
):
    for found in results(ranks, world, "exported"):
        assert found["kinds"] == {("DTensor", torch.float32)}
        assert found["shapes"], "there are states"
        for shape, expected in found["shapes"]:
            assert shape == expected
        for state, expected in found["values"]:
            assert_same_bits(state, expected, "a decoded shard")


@worlds
@pytest.mark.parametrize("case", STATEFUL, ids=str)
def test_shards_of_all_classes(ranks: dict[int, list[dict[str, Any]]], world: int, case: Case):
    """One process has the bits of plain tensors. What was saved is loaded, to a rounding."""
    network = block8.model()
    plain = make(case, network.named_parameters())
    block8.advance(network, plain, range(3))
    for rank_found in results(ranks, world, "classes"):
        found = rank_found[str(case)]
        if world == 1:
            assert_same_contents(found["before"], contents(plain))
        assert found["kinds"] == {torch.uint8}
        rule = rule_of(case)
        for own, name in zip(rule.states, case.buffers, strict=True):
            if case.options.get("centered") and name == "square_avg":
                continue  # The variance is computed from torch's mean square, which rounds.
            for number in range(4):
                n = found["before"][f"param {number}"].numel()
                before, loaded = (
                    decode_state(rule, own, found[when][f"{name} of {number}"].numpy(), n)
                    for when in ("before", "loaded")
                )
                assert np.abs(before).max() > 0
                assert np.abs(loaded - before).max() <= np.abs(before).max() / 32


@worlds
@pytest.mark.parametrize("before, after", block8.PAIRS)
def test_checkpoints_of_shards(
    ranks: dict[int, list[dict[str, Any]]], world: int, before: str, after: str
):
    """Saved on two processes and loaded on one or two, from and to states of ``float32``."""
    saver = results(ranks, 2, "checkpoints")[0]
    saved = saver[before, "at the break"]
    for found in results(ranks, world, "checkpoints"):
        loaded = found[before, after]
        for key, value in saved.items():
            other = loaded["states"][key]
            # Encoded to nearest: by at most half of a code's share, 1/64, and once more.
            largest = float(value.abs().max())
            torch.testing.assert_close(other, value, rtol=0.0, atol=0.04 * largest)
            assert largest > 0
        assert loaded["kinds"] == ({torch.uint8} if after == "8bit" else {torch.float32})
        error = (loaded["end"] - saver[before, "without a break"]).abs().max()
        moved = (loaded["end"] - loaded["start"]).abs().max()
        assert error < 0.5 * moved


@worlds
def test_flattened_parameters_of_fsdp1(ranks: dict[int, list[dict[str, Any]]], world: int):
    for found in results(ranks, world, "fsdp1"):
        assert found["kinds"] == {torch.uint8}
        for name, (state, expected) in found["states"].items():
            largest = float(expected.abs().max())
            torch.testing.assert_close(state, expected, rtol=0.0, atol=0.04 * largest, msg=name)
        assert found["resumed"] == {torch.uint8}
