"""Split master weights: ``master_weights="split24"`` and ``"split32"`` of all classes."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import re
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
import torch.distributed

import dtensors
import fused_adam
import fused_adam.torch as fused
import master_weights
import workers
from common import CASES, Case, assert_same_bits
from block8 import ALL, assert_same_contents, contents
from fused_adam import Rule, decode_state, encode_state, join_weights, split_weights
from master_weights import DTYPES, OPTIONS

#: Not a multiple of 32.
SIZE = 5100
TORCHS = [case for case in CASES if case.is_torchs]

options = pytest.mark.parametrize("option", OPTIONS)
cases = pytest.mark.parametrize("case", CASES, ids=str)


def start(n: int = SIZE) -> torch.Tensor:
    return torch.linspace(-1, 1, n).bfloat16()


def grad_in(t: int, shape: Any = SIZE) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(t)).bfloat16()


def parameter(n: int = SIZE) -> torch.nn.Parameter:
    return torch.nn.Parameter(start(n))


def make(case: Case, params: Any, **more: Any) -> Any:
    return getattr(fused, case.name)(params, **{**case.options, **more})


def steps(weight: torch.Tensor, optimizer: Any, first: int, last: int) -> None:
    for t in range(first, last):
        weight.grad = grad_in(t, weight.shape).to(weight.dtype)
        optimizer.step()


def model_of(**params: torch.nn.Parameter) -> torch.nn.Module:
    network = torch.nn.Module()
    for name, param in params.items():
        setattr(network, name, param)
    return network


def master_of(optimizer: Any, weight: torch.nn.Parameter) -> torch.Tensor:
    return optimizer.get_fp32_model_state_dict(model_of(w=weight))["w"]


def ints(tensor: torch.Tensor) -> np.ndarray:
    """The bits of ``float32`` numbers."""
    return tensor.detach().contiguous().numpy().reshape(-1).view(np.uint32).astype(np.int64)


def nearest(weights: torch.Tensor) -> torch.Tensor:
    """The nearest ``bfloat16``, ties away from zero, by its bits."""
    upper = ((ints(weights) + 2**15) >> 16).astype(np.uint16)
    return torch.from_numpy(upper.view(np.int16)).view(torch.bfloat16).reshape(weights.shape)


def joined(theta: torch.Tensor, correction: torch.Tensor) -> np.ndarray:
    """The bits of the master weights."""
    upper = theta.detach().contiguous().view(torch.int16).numpy().astype(np.int64).reshape(-1)
    low = correction.numpy().astype(np.int64).reshape(-1)
    if correction.dtype == torch.uint8:
        low = np.where(low < 128, low, low - 256) * 256
    return ((upper << 16) + low) % 2**32


def hash_of(name: str) -> int:
    return fused._base.name_hash(name)


# Bits


@cases
def test_split32_has_the_bits_of_float32(case: Case):
    """Those of a run of ``float32`` parameters with the same gradients, states included."""
    weight, plain = parameter(), torch.nn.Parameter(start().float())
    optimizer, expected = make(case, [weight], master_weights="split32"), make(case, [plain])
    for t in range(1, 9):
        steps(weight, optimizer, t, t + 1)
        plain.grad = weight.grad.float()
        expected.step()
        assert_same_bits(master_of(optimizer, weight), plain, "the master weights")
        assert_same_bits(weight, nearest(plain), "the parameter")
    state = optimizer.state[weight]
    assert state["correction"].dtype == torch.int16 and state["correction"].any()
    assert np.array_equal(joined(weight, state["correction"]), ints(plain))
    for name in case.buffers:
        assert_same_bits(state[name], expected.state[plain][name], name)


@pytest.mark.parametrize("seed", [None, 11])
@cases
def test_split24_has_the_bits_of_the_rule(case: Case, seed: int | None):
    """The seed is the hash of the name, combined with that of ``stochastic_rounding``."""
    weight = parameter()
    stochastic = False if seed is None else seed
    optimizer = make(
        case, [("w", weight)], master_weights="split24", stochastic_rounding=stochastic
    )
    rule = Rule(case.rule, **case.hyper)
    theta, scalars = start(), np.array(rule.scalars_after(0))
    correction = torch.zeros(SIZE, dtype=torch.uint8)
    states = [torch.full((SIZE,), initial) for initial in rule.initial]
    for t in range(1, 6):
        more = {"scalars": scalars, "seed": (seed or 0) ^ hash_of("w"), "backend": "scalar"}
        rule.step(t, theta, grad_in(t), *states, correction=correction, **more)
        steps(weight, optimizer, t, t + 1)
    assert_same_bits(weight, theta, "theta")
    found = optimizer.state[weight]
    assert found["correction"].dtype == torch.uint8 and correction.any()
    assert torch.equal(found["correction"], correction)
    for name, state in zip(case.buffers, states, strict=True):
        assert_same_bits(found[name], state, name)
    assert found["seed"] == hash_of("w") and found["step"] == 5


def test_split24_rounds_the_step_of_float32_to_24_bits():
    """Up or down to a number of 24 bits, as often as its distance says."""
    n = 200_000
    weight, plain = parameter(n), torch.nn.Parameter(start(n).float())
    optimizer, expected = (
        fused.SGD([weight], lr=1e-4, master_weights="split24"),
        fused.SGD([plain], lr=1e-4),
    )
    steps(weight, optimizer, 1, 2)
    plain.grad = weight.grad.float()
    expected.step()
    exact, found = ints(plain), joined(weight, optimizer.state[weight]["correction"])
    assert np.array_equal(found % 256, np.zeros(n))
    error = found - exact
    assert error.min() > -256 and error.max() < 256
    assert np.array_equal(error[exact % 256 == 0], np.zeros((exact % 256 == 0).sum()))
    weights = torch.from_numpy(found.astype(np.uint32)).view(torch.float32)
    assert_same_bits(weight, nearest(weights), "the parameter")
    # The standard deviation of an error is at most 128 units.
    assert abs(error.mean()) < 5 * 128 / n**0.5
    assert error.std() > 50


def test_small_steps_are_not_lost():
    """At this learning rate, ``bfloat16`` alone stands still."""
    n, lr, count = 4096, 1e-5, 200
    ends = {}
    for option in (None, *OPTIONS):
        weight = torch.nn.Parameter(torch.ones(n, dtype=torch.bfloat16))
        optimizer = fused.SGD([weight], lr=lr, master_weights=option)
        for _ in range(count):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
        ends[option] = master_of(optimizer, weight).double()
    assert torch.equal(ends[None], torch.ones(n).double())
    torch.testing.assert_close(ends["split32"].mean().item(), 1 - lr * count, rtol=0, atol=1e-5)
    # Each step rounds to a multiple of 2^-16 below 1: by a standard deviation of at most half.
    noise = 2.0**-17 * count**0.5
    error = ends["split24"] - ends["split32"]
    assert error.std() < 1.2 * noise
    assert abs(error.mean()) < 5 * noise / n**0.5


def test_another_name_has_other_random_bits():
    found = []
    for name in ("w", "v"):
        weight = parameter()
        optimizer = fused.AdamW([(name, weight)], master_weights="split24")
        steps(weight, optimizer, 1, 3)
        found.append(optimizer.state[weight]["correction"])
    assert not torch.equal(*found)


@options
@pytest.mark.parametrize("name", ["AdamW", "SGD"])
def test_number_of_threads(name: str, option: str):
    results = []
    before = torch.get_num_threads()
    try:
        for torchs, own in ((1, 0), (2, 0), (1, 3)):
            torch.set_num_threads(torchs)
            fused_adam.set_num_threads(own)
            weight = parameter(1_000_003)
            optimizer = getattr(fused, name)([weight], master_weights=option)
            steps(weight, optimizer, 1, 3)
            results.append(contents(optimizer))
    finally:
        torch.set_num_threads(before)
        fused_adam.set_num_threads(0)
    for found in results[1:]:
        assert_same_contents(found, results[0])


LAYOUTS = {
    "transposed": lambda whole: whole.T,
    "with gaps": lambda whole: torch.cat((whole, whole), 1)[:, : whole.shape[1]],
    "channels last": lambda whole: whole.reshape(6, 7, 10, 13).to(
        memory_format=torch.channels_last
    ),
}


@pytest.mark.parametrize("grad_is_alike", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_orders(layout: str, grad_is_alike: bool):
    """A correction has that of its parameter. The bits of ``split32`` do not depend on it."""
    plain = LAYOUTS[layout](start(5460).reshape(60, 91))
    weight = torch.nn.Parameter(plain)
    whole = torch.nn.Parameter(plain.detach().clone(memory_format=torch.contiguous_format))
    assert not weight.is_contiguous()
    optimizer, expected = (fused.AdamW([it], master_weights="split32") for it in (weight, whole))
    for t in range(1, 5):
        whole.grad = grad_in(t, whole.shape)
        weight.grad = whole.grad.clone()
        if grad_is_alike:
            weight.grad = torch.empty_like(weight).copy_(whole.grad)
        optimizer.step()
        expected.step()
    assert_same_bits(weight, whole, "the parameter")
    correction = optimizer.state[weight]["correction"]
    assert torch.equal(correction, expected.state[whole]["correction"]) and correction.any()
    if layout != "with gaps":
        assert correction.stride() == weight.stride()
    assert_same_bits(master_of(optimizer, weight), master_of(expected, whole), "float32")


@options
@pytest.mark.parametrize("n", [0, 1, 31, 33])
def test_small_and_empty_parameters(n: int, option: str):
    weight = parameter(n)
    optimizer = fused.AdamW([weight], lr=0.1, master_weights=option)
    steps(weight, optimizer, 1, 3)
    assert optimizer.state[weight]["correction"].shape == (n,)
    assert n == 0 or not torch.equal(weight, start(n))


@options
def test_with_states_in_8_bits(option: str):
    weight = parameter()
    optimizer = fused.AdamW([("w", weight)], master_weights=option, **ALL)
    rule = Rule("adamw", lr=1e-3, weight_decay=0.01)
    theta, correction = start(), torch.zeros(SIZE, dtype=DTYPES[option])
    states = [torch.from_numpy(encode_state(rule, name, np.zeros(SIZE))) for name in rule.states]
    for t in range(1, 6):
        rule.step(t, theta, grad_in(t), *states, correction=correction, seed=hash_of("w"))
        steps(weight, optimizer, t, t + 1)
    found = optimizer.state[weight]
    assert_same_bits(weight, theta, "theta")
    assert torch.equal(found["correction"], correction) and correction.any()
    for name, state in zip(("exp_avg", "exp_avg_sq"), states):
        assert torch.equal(found[name], state)


def test_stochastic_rounding_does_not_round_parameters_that_have_a_correction():
    """Their master weights are those without it. States of 16 bits are still rounded so."""
    ends = {}
    for seed, dtype in ((False, None), (7, None), (7, torch.bfloat16), (False, torch.bfloat16)):
        weight = parameter()
        optimizer = fused.AdamW(
            [weight], master_weights="split32", stochastic_rounding=seed, state_dtype=dtype
        )
        steps(weight, optimizer, 1, 5)
        assert_same_bits(weight, nearest(master_of(optimizer, weight)), "to nearest")
        ends[seed, dtype] = {k: v for k, v in contents(optimizer).items() if k != "seed"}
    assert_same_contents(ends[7, None], ends[False, None])
    with_states = [ends[seed, torch.bfloat16]["exp_avg of 0"] for seed in (False, 7)]
    assert with_states[0].dtype == torch.bfloat16 and not torch.equal(*with_states)


# Options


def test_arguments_of_all_classes():
    for case in CASES:
        parameters = inspect.signature(getattr(fused, case.name)).parameters
        assert parameters["master_weights"].default is None
        assert parameters["master_weights"].kind is inspect.Parameter.KEYWORD_ONLY


@cases
def test_by_default_there_is_no_correction(case: Case):
    weight = parameter(10)
    optimizer = make(case, [weight])
    steps(weight, optimizer, 1, 2)
    assert "correction" not in optimizer.state[weight]
    assert "master_weights" not in optimizer.param_groups[0]
    torchs = case.torchs([parameter(10)]) if case.is_torchs else optimizer
    assert optimizer.param_groups[0].keys() == torchs.param_groups[0].keys()


@pytest.mark.parametrize("wrong", ["split16", True, 24, torch.uint8, ""])
def test_values_that_are_refused(wrong: Any):
    message = re.escape(f"master_weights is {wrong!r}, expected None, 'split24' or 'split32'")
    for case in CASES:
        with pytest.raises(ValueError, match=f"^{message}$"):
            make(case, [parameter(3)], master_weights=wrong)
    with pytest.raises(ValueError, match=f"^{message}$"):
        fused.AdamW([{"params": [parameter(3)], "master_weights": wrong}])
    weight = parameter(3)
    optimizer = fused.AdamW([{"params": [weight]}, {"params": [parameter(3)]}])
    optimizer.param_groups[0]["master_weights"] = wrong
    weight.grad = torch.ones_like(weight)
    with pytest.raises(ValueError, match=f"^parameter group 0: {message}$"):
        optimizer.step()
    assert not optimizer.state and torch.equal(weight, start(3))


def test_groups_may_differ():
    """Only parameters of ``bfloat16`` have a correction. Others are as without the option."""
    weights = {name: parameter() for name in ("eight", "sixteen", "none")}
    weights |= {
        "single": torch.nn.Parameter(start().float()),
        "double": torch.nn.Parameter(start().double()),
    }
    optimizer = fused.AdamW(
        [
            {"params": [weights["eight"], weights["single"], weights["double"]]},
            {"params": [weights["sixteen"]], "master_weights": "split32"},
            {"params": [weights["none"]], "master_weights": None},
        ],
        master_weights="split24",
    )
    plain = {name: parameter().detach().to(it.dtype) for name, it in weights.items()}
    plain = {name: torch.nn.Parameter(it) for name, it in plain.items()}
    other = fused.AdamW(plain.values())
    for t in range(1, 4):
        for one in (*weights.values(), *plain.values()):
            one.grad = grad_in(t).to(one.dtype)
        optimizer.step()
        other.step()
    kinds = {
        name: optimizer.state[it]["correction"].dtype
        for name, it in weights.items()
        if "correction" in optimizer.state[it]
    }
    assert kinds == {"eight": torch.uint8, "sixteen": torch.int16}
    found = [group.get("master_weights", "absent") for group in optimizer.param_groups]
    assert found == ["split24", "split32", "absent"]
    for name in ("none", "single", "double"):
        assert_same_bits(weights[name], plain[name], name)
        assert "seed" not in optimizer.state[weights[name]]
    dtypes = {name: optimizer.state[it]["exp_avg"].dtype for name, it in weights.items()}
    assert dtypes["none"] == torch.bfloat16 and dtypes["double"] == torch.float64
    assert {dtypes[name] for name in ("eight", "sixteen", "single")} == {torch.float32}
    later = parameter(7)
    optimizer.add_param_group({"params": [later]})
    steps(later, optimizer, 1, 2)
    assert optimizer.state[later]["correction"].dtype == torch.uint8


@options
@cases
def test_states_are_those_of_float32(case: Case, option: str):
    for chosen, expected in ((None, torch.float32), (torch.bfloat16, torch.bfloat16)):
        weight = parameter(40)
        optimizer = make(case, [weight], master_weights=option, state_dtype=chosen)
        steps(weight, optimizer, 1, 3)
        for name in case.buffers:
            assert optimizer.state[weight][name].dtype == expected
        assert optimizer.state[weight]["step"] == 2


@options
def test_adagrad_has_a_complete_state_at_once(option: str):
    """``torch.distributed.checkpoint`` loads the entries that are there."""
    for chosen in (None, torch.bfloat16):
        weight = parameter(10)
        optimizer = fused.Adagrad([weight], master_weights=option, state_dtype=chosen)
        assert optimizer.state[weight].keys() == {"step", "sum", "correction", "seed"}


def test_bytes_of_the_states():
    for option, least in (("split24", 1.0), ("split32", 2.0)):
        weight = parameter(2**16)
        optimizer = fused.AdamW([weight], master_weights=option, state="8bit")
        steps(weight, optimizer, 1, 2)
        kept = [it for it in optimizer.state[weight].values() if isinstance(it, torch.Tensor)]
        each = sum(it.untyped_storage().nbytes() for it in kept) / weight.numel()
        assert 2.06 + least < each <= 2.07 + least


HALF = "expected torch.bfloat16, torch.float32 or torch.float64 with master_weights='split24'"


def test_float16_is_refused():
    first, half = parameter(3), torch.nn.Parameter(start(4).half())
    message = f"parameter 1 (`b`, shape (4,)) of parameter group 0 is torch.float16, {HALF}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        fused.AdamW([("a", first), ("b", half)], master_weights="split24")
    optimizer = fused.AdamW([("a", first)], master_weights="split24")
    with pytest.raises(ValueError, match=re.escape(HALF)):
        optimizer.add_param_group({"params": [("b", half)]})
    assert len(optimizer.param_groups) == 1, "a group that is refused is not kept"
    optimizer.add_param_group({"params": [("b", half)], "master_weights": None})
    first.data = first.data.half()
    first.grad = torch.ones_like(first)
    message = f"parameter 0 (`a`, shape (3,)) is torch.float16, {HALF}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        optimizer.step()
    assert not optimizer.state, "nothing has changed"


def test_the_width_changes_in_a_run():
    """From 8 to 16 bits exactly. Back, the correction would be rounded."""
    weight = parameter()
    optimizer = fused.SGD([("w", weight)], lr=1e-3, momentum=0.9, master_weights="split24")
    steps(weight, optimizer, 1, 3)
    plain = torch.nn.Parameter(master_of(optimizer, weight))
    other = fused.SGD([("w", plain)], lr=1e-3, momentum=0.9)
    buffer = optimizer.state[weight]["momentum_buffer"]
    other.state[plain]["momentum_buffer"] = buffer.clone()
    optimizer.param_groups[0]["master_weights"] = "split32"
    steps(weight, optimizer, 3, 5)
    for t in range(3, 5):
        plain.grad = grad_in(t).float()
        other.step()
    assert_same_bits(master_of(optimizer, weight), plain, "the master weights")
    optimizer.param_groups[0]["master_weights"] = "split24"
    before = contents(optimizer)
    message = (
        "correction of parameter 0 (`w`, shape (5100,)) of parameter group 0 is torch.int16, "
        "expected torch.uint8"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        optimizer.step()
    assert_same_contents(contents(optimizer), before)


# Weights of float32


def networks() -> tuple[torch.nn.Module, torch.nn.Module]:
    """A model of ``float32``, and one of ``bfloat16`` with a tied and a frozen parameter."""
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        network = torch.nn.Sequential(
            torch.nn.Linear(7, 7), torch.nn.BatchNorm1d(7), torch.nn.Linear(7, 7, bias=False)
        )
        network[2].weight = network[0].weight
        network[0].bias.requires_grad_(False)
        found.append(network)
    return found[0], found[1].bfloat16()


def split_to_nearest(weights: torch.Tensor) -> torch.Tensor:
    """Rounded to the nearest 24 bits, ties away from zero."""
    rounded = ((ints(weights) + 128) // 256 * 256).astype(np.uint32)
    return torch.from_numpy(rounded.view(np.int32)).view(torch.float32).reshape(weights.shape)


@options
def test_weights_of_float32(option: str):
    """They are set and read to the bit, or to 24 bits. The next step goes on from there."""
    single, network = networks()
    weights = single.state_dict()
    names = [name for name, _ in single.named_parameters(remove_duplicate=False)]
    optimizer = fused.AdamW(network.named_parameters(), lr=0.0, master_weights=option)
    optimizer.set_fp32_model_state_dict(network, weights)
    for later in (False, True):
        found = optimizer.get_fp32_model_state_dict(network)
        assert found.keys() == weights.keys() and "2.weight" in names
        for name, value in weights.items():
            expected = value
            if name in names and option == "split24":
                expected = split_to_nearest(value)
            if name in names:
                assert_same_bits(found[name], expected, name)
                assert_same_bits(network.state_dict()[name], nearest(expected), name)
            elif value.is_floating_point():
                assert_same_bits(found[name], value.bfloat16().float(), name)
            else:
                assert torch.equal(found[name], value)
        assert network[2].weight is network[0].weight
        if not later:
            assert optimizer.state[network[0].weight]["step"] == 0
            assert optimizer.state[network[0].bias].keys() == {"correction"}
            for param in network.parameters():
                param.grad = torch.ones_like(param) if param.requires_grad else None
            optimizer.step()
    single.load_state_dict(found)


def test_weights_before_the_first_step_are_those_of_the_model():
    network = networks()[1]
    optimizer = fused.AdamW(network.parameters(), master_weights="split24")
    found = optimizer.get_fp32_model_state_dict(network)
    for name, value in network.state_dict().items():
        expected = value.float() if value.is_floating_point() else value
        assert torch.equal(found[name], expected) and found[name].dtype == expected.dtype
    assert not optimizer.state


def test_sgd_begins_its_momentum_with_the_first_gradient():
    """Also if a state was made before, to hold the weights."""
    results = []
    for sets in (False, True):
        weight = parameter()
        network = model_of(w=weight)
        optimizer = fused.SGD(
            [weight], lr=0.1, momentum=0.9, dampening=0.5, master_weights="split32"
        )
        if sets:
            optimizer.set_fp32_model_state_dict(network, {"w": start().float()})
        steps(weight, optimizer, 1, 3)
        results.append(contents(optimizer))
    assert_same_contents(*results)


def test_weights_that_are_refused():
    weight = parameter(4)
    network = model_of(w=weight)
    optimizer = fused.AdamW([("w", weight)], master_weights="split32")
    steps(weight, optimizer, 1, 2)
    before = contents(optimizer)
    wrong = {
        ValueError: ({"w": torch.ones(3)}, "`w` has shape (3,), or other placements than its"),
        TypeError: ({"w": torch.ones(4).int()}, "`w` is torch.int32, expected a tensor of torch."),
        RuntimeError: ({}, "Missing key(s) in state_dict"),
    }
    for error, (weights, message) in wrong.items():
        with pytest.raises(error, match=re.escape(message)):
            optimizer.set_fp32_model_state_dict(network, weights)
        assert_same_contents(contents(optimizer), before)


def test_weights_without_a_key():
    """torch loads the others before it raises. Their corrections are set too."""
    first, second = parameter(4), parameter(4)
    network = model_of(a=first, b=second)
    optimizer = fused.AdamW([("a", first), ("b", second)], master_weights="split32")
    steps(first, optimizer, 1, 2)
    values = torch.tensor([0.1, -0.3, 1e-3, 7.7])
    with pytest.raises(RuntimeError, match="Missing key"):
        optimizer.set_fp32_model_state_dict(network, {"a": values})
    assert_same_bits(optimizer.get_fp32_model_state_dict(network)["a"], values, "a")


def test_weights_after_the_option_has_changed():
    """A correction of another width is replaced, and one without the option is not used."""
    weight, values = parameter(4), torch.tensor([0.1, -0.3, 1e-3, 7.7])
    network = model_of(w=weight)
    optimizer = fused.AdamW([("w", weight)], master_weights="split32")
    optimizer.set_fp32_model_state_dict(network, {"w": values})
    optimizer.param_groups[0]["master_weights"] = "split24"
    optimizer.set_fp32_model_state_dict(network, {"w": values})
    assert optimizer.state[weight]["correction"].dtype == torch.uint8
    optimizer.param_groups[0]["master_weights"] = None
    found = optimizer.get_fp32_model_state_dict(network)["w"]
    assert_same_bits(found, weight.detach().float(), "without master weights")


@options
def test_special_values(option: str):
    # The last is between two numbers of ``bfloat16``. torch rounds it to the even one.
    finite = [0.0, -0.0, 3.4e38, 1e-45, 1.0 + 2.0**-8]
    values = torch.tensor([float("inf"), float("-inf"), float("nan"), *finite])
    weight = torch.nn.Parameter(torch.zeros(8, dtype=torch.bfloat16))
    network = model_of(w=weight)
    optimizer = fused.AdamW([weight], master_weights=option)
    optimizer.set_fp32_model_state_dict(network, {"w": values})
    found = master_of(optimizer, weight)
    exact = values if option == "split32" else split_to_nearest(values)
    assert_same_bits(found, exact, "the weights")
    assert weight[5].isinf() and (found[5] == values[5] or option == "split24")
    assert weight[7] > values[7] > values[7].bfloat16()


# Checkpoints


def resumed(
    how: str, case: Case, option: str, weight: torch.nn.Parameter, optimizer: Any
) -> tuple[Any, Any]:
    if how == "pickle":
        return pickle.loads(pickle.dumps((weight, optimizer)))
    if how == "deepcopy":
        return copy.deepcopy((weight, optimizer))
    packed = optimizer.state_dict()
    if how == "torch.save":
        file = io.BytesIO()
        torch.save(packed, file)
        packed = torch.load(io.BytesIO(file.getvalue()))
    fresh = torch.nn.Parameter(weight.detach().clone())
    optimizer = make(case, [("layer.w", fresh)], master_weights=option)
    optimizer.load_state_dict(packed)
    return fresh, optimizer


#: A ``state_dict`` of a centered RMSprop has torch's mean square, which rounds the variance.
RESUMED = [
    (case, how)
    for how in ("state_dict", "torch.save", "pickle", "deepcopy")
    for case in CASES
    if how in ("pickle", "deepcopy") or not case.options.get("centered")
]


@options
@pytest.mark.parametrize("case, how", RESUMED, ids=str)
def test_goes_on_to_the_bit(case: Case, how: str, option: str):
    whole, weight = parameter(), parameter()
    steps(whole, expected := make(case, [("layer.w", whole)], master_weights=option), 1, 9)
    steps(weight, optimizer := make(case, [("layer.w", weight)], master_weights=option), 1, 5)
    before = copy.deepcopy(contents(optimizer))
    assert before["correction of 0"].any()
    after, twin = resumed(how, case, option, weight, optimizer)
    assert_same_contents(contents(twin), before)
    steps(after, twin, 5, 9)
    assert_same_contents(contents(twin), contents(expected))
    assert_same_contents(contents(optimizer), before)
    # The option is kept, or was given again.
    twin.add_param_group({"params": [("other", other := parameter(4))]})
    steps(other, twin, 1, 2)
    assert twin.state[other]["correction"].dtype == DTYPES[option]
    assert [group["master_weights"] for group in twin.param_groups] == [option, option]


def test_a_loaded_dictionary_does_not_change():
    weight = parameter()
    optimizer = fused.AdamW([weight], master_weights="split32")
    steps(weight, optimizer, 1, 3)
    packed = copy.deepcopy(optimizer.state_dict())
    kept = copy.deepcopy(packed)
    optimizer.load_state_dict(packed)
    steps(weight, optimizer, 3, 5)
    assert packed["param_groups"] == kept["param_groups"]
    assert torch.equal(packed["state"][0]["correction"], kept["state"][0]["correction"])


@pytest.mark.parametrize("before", [None, *OPTIONS])
@pytest.mark.parametrize("after", [None, *OPTIONS])
def test_states_of_another_option(before: str | None, after: str | None):
    """The optimizer's own option counts. What is not exact is refused, by name."""
    weight = parameter()
    first = fused.AdamW([("w", weight)], master_weights=before)
    steps(weight, first, 1, 4)
    weights = master_of(first, weight)
    second = fused.AdamW([("w", weight)], master_weights=after)
    packed = copy.deepcopy(first.state_dict())
    if (before, after) == ("split32", "split24"):
        message = (
            "correction of parameter 0 (`w`, shape (5100,)) of parameter group 0 is torch.int16, "
            "expected torch.uint8"
        )
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            second.load_state_dict(packed)
        assert not second.state
        return
    second.load_state_dict(packed)
    assert second.param_groups[0].get("master_weights") == after
    expected = weights if after is not None else weight.detach().float()
    assert_same_bits(master_of(second, weight), expected, "the weights")
    kind = torch.float32 if before or after else torch.bfloat16
    assert second.state[weight]["exp_avg"].dtype == kind
    steps(weight, second, 4, 6)
    found = second.state[weight].get("correction")
    assert (found is None) == (after is None)
    assert found is None or found.dtype == DTYPES[after]
    assert second.state[weight]["step"] == 5


@options
@pytest.mark.parametrize("case", TORCHS, ids=str)
def test_states_of_torch(case: Case, option: str):
    """A run of ``bfloat16`` in torch goes on with states of ``float32``."""
    weight = parameter()
    torchs = case.torchs([("w", weight)])
    steps(weight, torchs, 1, 4)
    packed = copy.deepcopy(torchs.state_dict())
    saved, begin = dict(packed["state"].get(0, {})), weight.detach().clone()
    loaded = make(case, [("w", weight)], master_weights=option)
    loaded.load_state_dict(packed)
    for optimizer in (loaded, fused.from_torch(torchs, master_weights=option)):
        weight.data.copy_(begin)
        assert_same_bits(master_of(optimizer, weight), begin.float(), "the weights")
        for name in case.buffers:
            found = optimizer.state[weight][name]
            assert found.dtype == torch.float32
            if not case.options.get("centered"):
                assert_same_bits(found, saved[name].float(), name)
        steps(weight, optimizer, 4, 6)
        assert optimizer.state[weight]["correction"].dtype == DTYPES[option]
        # SGD of torch does not count its steps.
        counted = (3 if case.buffers else 2) if case.rule == "sgd" else 5
        assert optimizer.state[weight]["step"] == counted


def test_torchs_class_loads_the_states():
    weight = parameter()
    optimizer = fused.AdamW([weight], master_weights="split32", state="8bit")
    steps(weight, optimizer, 1, 3)
    torchs = torch.optim.AdamW([weight])
    torchs.load_state_dict(optimizer.dequantized_state_dict())
    steps(weight, torchs, 3, 4)
    assert torchs.state[weight]["step"] == 3


def test_torch_does_not_cast_corrections(monkeypatch: pytest.MonkeyPatch):
    weight = parameter()
    optimizer = fused.AdamW([weight], master_weights="split32")
    steps(weight, optimizer, 1, 2)
    seen = []
    name = "_process_value_according_to_param_policy"
    before = getattr(torch.optim.Optimizer, name)

    def record(param: Any, value: Any, param_id: int, param_groups: Any, key: Any = None) -> Any:
        seen.append(key)
        return before(param, value, param_id, param_groups, key)

    monkeypatch.setattr(torch.optim.Optimizer, name, staticmethod(record))
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert seen == ["step", "exp_avg", "exp_avg_sq"]


@pytest.mark.parametrize("kind", [torch.int32, torch.float32], ids=str)
@options
def test_corrections_of_shards_are_loaded(option: str, kind: torch.dtype):
    """A ``state_dict`` of a sharded model may have another type, with the same numbers."""
    weight = parameter()
    optimizer = fused.AdamW([weight], master_weights=option)
    steps(weight, optimizer, 1, 3)
    before = contents(optimizer)
    packed = copy.deepcopy(optimizer.state_dict())
    packed["state"][0]["correction"] = packed["state"][0]["correction"].to(kind)
    if option == "split24" and kind == torch.int32:
        with pytest.raises(ValueError, match="is torch.int32, and was saved with master_weights="):
            optimizer.load_state_dict(packed)
    else:
        optimizer.load_state_dict(packed)
    assert_same_contents(contents(optimizer), before)


PLACE = "correction of parameter 0 (`v`, shape (64,)) of parameter group 0"
LOADED = {
    "shape": (lambda it: torch.cat((it, it)), f"{PLACE} has shape (128,), expected (64,)"),
    "floats": (lambda it: it.double(), f"{PLACE} is torch.float64, and was saved with master"),
    "the other": (
        lambda it: it.to(torch.uint8),
        f"{PLACE} is torch.uint8, and was saved with master_weights='split32', expected "
        "torch.int16: load it with that option",
    ),
}


@pytest.mark.parametrize("what", LOADED)
def test_corrections_that_are_not_loaded(what: str):
    spoil, message = LOADED[what]
    weight = parameter(64)
    optimizer = fused.AdamW([("v", weight)], master_weights="split32")
    steps(weight, optimizer, 1, 2)
    packed = copy.deepcopy(optimizer.state_dict())
    packed["state"][0]["correction"] = spoil(packed["state"][0]["correction"])
    before = contents(optimizer)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        optimizer.load_state_dict(packed)
    assert_same_contents(contents(optimizer), before)


# What a step refuses

AT_STEP = "correction of parameter 0 (`w`, shape (5100,))"
WRONG: dict[str, tuple[Any, Any, str]] = {
    "the shape": (
        lambda it: it[:-1].clone(),
        ValueError,
        f"{AT_STEP} has shape (5099,), expected that of its parameter",
    ),
    "the type": (
        lambda it: it.float(),
        ValueError,
        f"{AT_STEP} of parameter group 0 is torch.float32, expected torch.int16",
    ),
    "the device": (
        lambda it: it.to("meta"),
        RuntimeError,
        f"{AT_STEP} is on the device meta, expected cpu",
    ),
    "repeated": (
        lambda it: it[:1].expand(SIZE),
        RuntimeError,
        f"{AT_STEP} has several elements in one place of memory, expected each in its own",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_corrections_are_refused(what: str):
    spoil, error, message = WRONG[what]
    weight = parameter()
    optimizer = fused.AdamW([("w", weight)], master_weights="split32")
    steps(weight, optimizer, 1, 2)
    right = contents(optimizer)
    optimizer.state[weight]["correction"] = spoil(optimizer.state[weight]["correction"])
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        optimizer.step()
    del optimizer.state[weight]["correction"], right["correction of 0"]
    assert_same_contents(contents(optimizer), right)


def test_a_correction_that_overlaps_is_refused():
    weight = parameter()
    optimizer = fused.AdamW([("w", weight)], master_weights="split32")
    steps(weight, optimizer, 1, 2)
    for other in (weight.detach(), optimizer.state[weight]["exp_avg"], weight.grad):
        optimizer.state[weight]["correction"] = other.view(torch.int16)[:SIZE]
        with pytest.raises(ValueError, match="overlap in memory"):
            optimizer.step()
    strided = torch.zeros(SIZE, 2, dtype=torch.int16)
    optimizer.state[weight]["correction"] = strided[:, 0]
    optimizer.state[weight]["exp_avg"] = strided.view(torch.float32)[:, 0]
    with pytest.raises(ValueError, match="overlap in memory"):
        optimizer.step()


def test_integers_are_not_a_state():
    weight = parameter(4)
    optimizer = fused.AdamW([weight])
    steps(weight, optimizer, 1, 2)
    optimizer.state[weight]["exp_avg"] = torch.zeros(4, dtype=torch.int16)
    with pytest.raises(TypeError, match="exp_avg of parameter 0 .* is torch.int16, expected one"):
        optimizer.step()


@options
def test_what_a_failed_or_skipped_step_made_is_taken_back(option: str):
    weight = parameter()
    weight.grad = torch.full_like(weight, float("nan"))
    optimizer = fused.AdamW([weight], master_weights=option)
    with pytest.raises(ValueError, match="norm"):
        fused.clip_grad_norm_and_step(optimizer, 1.0)
    fused.clip_grad_norm_and_step(optimizer, 1.0, skip_nonfinite=True)
    assert not optimizer.state and torch.equal(weight, start())


# Together with others


@options
def test_clipping_scaling_and_steps_during_the_backward_pass(option: str):
    """The bits are those of a step after the backward pass, and of gradients as they are."""
    results: dict[str, Any] = {}
    for how in ("plain", "backward", "clipped", "scaled", "scaled in the step"):
        network = master_weights.model()
        more = {"fused": True} if how == "scaled in the step" else {}
        optimizer = fused.AdamW(network.named_parameters(), master_weights=option, **more)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled="scaled" in how)
        if how == "backward":
            fused.StepInBackward(optimizer, batch_bytes=0)
        for t in range(4):
            x = torch.randn(8, 12, generator=torch.Generator().manual_seed(t)).bfloat16()
            scaler.scale((network(x) - x.cos()).square().mean()).backward()
            if how == "clipped":
                fused.clip_grad_norm_and_step(optimizer, 1e9)
            elif "scaled" in how:
                scaler.step(optimizer)
                scaler.update()
            else:
                optimizer.step()
            optimizer.zero_grad()
        results[how] = contents(optimizer)
    assert results["plain"]["correction of 0"].any()
    for how in results.keys() - {"plain"}:
        assert_same_contents(results[how], results["plain"])


# NumPy


def arrays(n: int = 40) -> list[np.ndarray]:
    theta, grad = (np.linspace(-1, 1, n).astype(ml_dtypes.bfloat16) for _ in range(2))
    return [theta, grad, *(np.zeros(n, np.float32) for _ in range(2))]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(40,), (5, 8), (0,)])
def test_numpy_weights(dtype: Any, shape: tuple[int, ...]):
    weights = np.random.default_rng(0).standard_normal(shape, np.float32)
    theta, correction = np.zeros(shape, ml_dtypes.bfloat16), np.zeros(shape, dtype)
    split_weights(weights, theta, correction)
    found = np.empty_like(weights)
    join_weights(theta, correction, found)
    tensor = torch.from_numpy(weights)
    exact = tensor if dtype == np.uint16 else split_to_nearest(tensor)
    assert_same_bits(torch.from_numpy(found), exact, "the weights")
    assert np.array_equal(theta.view(np.int16), nearest(exact).view(torch.int16).numpy())
    # A step begins from there.
    rule, grad = Rule("sgd", lr=0.5), np.ones(shape, ml_dtypes.bfloat16)
    rule.step(1, theta, grad, correction=correction)
    expected = found.copy()
    rule.step(1, expected, np.ones(shape, np.float32))
    join_weights(theta, correction, found)
    if dtype == np.uint16:
        assert np.array_equal(found, expected)
    else:
        np.testing.assert_allclose(found, expected, rtol=2.0**-15)


REFUSED = {
    "type": (np.zeros(40, np.float32), "correction is of type f32, expected uint8 or uint16"),
    "signed": (np.zeros(40, np.int16), "correction is of type int16, expected uint8 or uint16"),
    "length": (np.zeros(39, np.uint16), "correction has 39 elements, expected 40 as theta has"),
    "shape": (np.zeros((5, 8), np.uint16), "correction has another shape than theta"),
    "gaps": (np.zeros(80, np.uint16)[::2], "correction does not lie in memory as one piece"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_numpy_corrections_that_are_refused(what: str):
    correction, message = REFUSED[what]
    with pytest.raises((TypeError, ValueError), match=f"^{re.escape(message)}"):
        Rule("adamw").step(1, *arrays(), correction=correction)


def test_numpy_arguments_that_are_refused():
    rule, correction = Rule("adamw"), np.zeros(40, np.uint16)
    theta, grad, m, v = arrays()
    with pytest.raises((TypeError, ValueError), match="theta.* is f32, expected bf16 to have a"):
        rule.step(1, m, grad, v, np.zeros(40, np.float32), correction=correction)
    with pytest.raises(ValueError, match="theta and correction overlap in memory"):
        rule.step(1, theta, grad, m, v, correction=theta.view(np.uint16))
    with pytest.raises(TypeError, match="m is of type uint16, expected float32"):
        rule.step(1, theta, grad, correction, v)
    locked = correction.copy()
    locked.flags.writeable = False
    with pytest.raises(ValueError, match="correction is read-only"):
        rule.step(1, theta, grad, m, v, correction=locked)
    with pytest.raises(ValueError, match="correction is read-only"):
        split_weights(m, theta, locked)
    join_weights(theta, locked, m)
    with pytest.raises(TypeError, match="theta is an array of f32, expected bf16"):
        split_weights(m, v, correction)
    with pytest.raises(TypeError, match="weights is an array of bf16, expected f32"):
        join_weights(theta, correction, grad)
    with pytest.raises(ValueError, match="weights has another shape or memory order than theta"):
        join_weights(theta, correction, np.zeros((5, 8), np.float32))
    with pytest.raises(ValueError, match="overlap in memory, expected them to be apart"):
        split_weights(m, m.view(ml_dtypes.bfloat16)[:40], correction)


# Several processes


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """What each rank found, by the number of processes. Two processes save checkpoints."""
    if not torch.distributed.is_gloo_available():
        pytest.skip("this torch was built without gloo")
    folder = tmp_path_factory.mktemp("master_weights")
    return {world: workers.spawn(master_weights.CHECKS, folder, world) for world in (2, 1)}


worlds = pytest.mark.parametrize("world", [1, 2])


def results(ranks: dict[int, list[dict[str, Any]]], world: int, check: str) -> list[Any]:
    assert len(ranks[world]) == world
    return workers.results(ranks[world], check)


@worlds
@options
def test_data_parallel(ranks: dict[int, list[dict[str, Any]]], world: int, option: str):
    """All ranks have the bits of one. A ``ZeroRedundancyOptimizer`` resumes to the bit."""
    network = master_weights.model()
    optimizer = fused.AdamW(network.parameters(), lr=1e-3, master_weights=option)
    for step in range(3):
        master_weights.backward(network, step)
        optimizer.step()
    weights = optimizer.get_fp32_model_state_dict(network)
    found = results(ranks, world, "data_parallel")
    for of_rank in found:
        assert_same_contents(of_rank["ddp", option], contents(optimizer))
        for name, value in of_rank["ddp", option, "weights"].items():
            assert_same_bits(value, weights[name], name)
        saved = of_rank["zero", option, "saved"]
        assert DTYPES[option] in {it.dtype for it in saved.values()}
        assert_same_contents(of_rank["zero", option, "loaded"], saved)
        params = of_rank["zero", option, "params"], found[0]["zero", option, "params"]
        for one, other in zip(*params, strict=True):
            assert_same_bits(one, other, "zero")


@worlds
@options
@pytest.mark.parametrize("case", dtensors.CASES)
def test_shards_have_the_bits_of_the_whole(
    ranks: dict[int, list[dict[str, Any]]], world: int, case: str, option: str
):
    """The random bits too. A correction is a ``DTensor`` like its parameter, stepped in place."""
    more = {"master_weights": option, "stochastic_rounding": 7}
    expected = dtensors.run_whole(case, list(dtensors.TENSORS), torch.bfloat16, **more)
    for rank, found in enumerate(results(ranks, world, "shards")):
        run, wrong = found[case, option]
        assert wrong is None, f"{wrong}, rank {rank} of {world}"
        assert run.keys() == expected.keys()
        assert {"correction of even", "correction of plain"} <= run.keys()
        for key, value in expected.items():
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                assert_same_bits(run[key], value, f"{key}, rank {rank} of {world}")
            else:
                assert (run[key] == value) if isinstance(value, int) else run[key].equal(value)


@worlds
def test_shards_with_states_in_8_bits(ranks: dict[int, list[dict[str, Any]]], world: int):
    """As for states in 8 bits, the random bits are those of the shard."""
    for found in results(ranks, world, "shards_in_8_bits"):
        assert_same_contents(found["ours"], found["expected"])
        assert found["ours"]["correction of 0"].any()
        assert "seed" in found["keys"], "as with states of float32, for checkpoints"


@worlds
@options
@pytest.mark.parametrize("how", ["sharded", "full", "flat"])
def test_resharded_checkpoints(
    ranks: dict[int, list[dict[str, Any]]], world: int, how: str, option: str
):
    """What two processes saved goes on to the bit on one or two."""
    saved = results(ranks, 2, "checkpoints")[0]
    for found in results(ranks, world, "checkpoints"):
        loaded = found[option, how]
        assert [(kind.__name__, dtype) for kind, dtype in loaded["kinds"]] == [
            ("DTensor", DTYPES[option])
        ]
        assert_same_bits(loaded["start"], saved[option, "at the break"], "at the break")
        assert_same_bits(loaded["end"], saved[option, "without a break"], "at the end")
        assert not torch.equal(loaded["start"], loaded["start"].bfloat16().float())
        assert not torch.equal(loaded["start"], loaded["end"])


@worlds
def test_sharded_checkpoints_of_another_option(
    ranks: dict[int, list[dict[str, Any]]], world: int
):
    """``torch.distributed.checkpoint`` converts numbers, so the result would be wrong."""
    for found in results(ranks, world, "checkpoints"):
        for before, after in (OPTIONS, OPTIONS[::-1]):
            assert f"and was saved with master_weights='{before}'" in found[before, after]


@worlds
@options
def test_weights_of_shards(ranks: dict[int, list[dict[str, Any]]], world: int, option: str):
    for found in results(ranks, world, "float32_weights"):
        exact = found["set"] if option == "split32" else split_to_nearest(found["set"])
        assert_same_bits(found[option], exact, "the weights")
        assert_same_bits(found[option, "later"], exact, "after a step of nothing")
        assert_same_bits(found[option, "params"], nearest(exact), "the parameters")
        assert "has shape (10, 12), or other placements than its parameter" in found["plain"]


@worlds
@options
def test_flattened_parameters_of_fsdp1(
    ranks: dict[int, list[dict[str, Any]]], world: int, option: str
):
    for found in results(ranks, world, "fsdp1"):
        of = found[option]
        assert of["saved"]["correction of 0"].dtype == DTYPES[option]
        assert of["saved"]["correction of 0"].any()
        for key, value in of["saved"].items():
            assert torch.equal(of["loaded"][key], value), key
        assert_same_contents(of["resumed"], of["expected"])
        assert "sharded by FullyShardedDataParallel, expected fully_shard" in of["weights"]
