"""What torch's ``step`` takes, and the options that torch's classes do not have."""

from __future__ import annotations

import copy
import inspect
import itertools
import pickle
import re
import warnings

import pytest
import torch

import fused_adam
import fused_adam.torch as fused
from common import CASES, Case, assert_same_bits

TORCHS = [case for case in CASES if case.is_torchs]


def param(values: torch.Tensor, grad: torch.Tensor | None = None) -> torch.nn.Parameter:
    made = torch.nn.Parameter(values)
    made.grad = torch.ones_like(made) if grad is None else grad
    return made


def test_a_learning_rate_that_ends_just_below_zero():
    ends = []
    for start, total in itertools.product((1.0, 1 / 3, 0.1, 0.7), range(1, 60)):
        results = []
        for optimizer_class in (fused.AdamW, torch.optim.AdamW):
            weight = param(torch.ones(3, dtype=torch.float64))
            optimizer = optimizer_class([weight], lr=1e-3)
            schedule = torch.optim.lr_scheduler.LinearLR(optimizer, start, 0.0, total)
            for _ in range(total + 1):
                optimizer.step()
                schedule.step()
            ends.append(optimizer.param_groups[0]["lr"])
            results.append(weight.detach())
        torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)
    assert any(lr < 0.0 for lr in ends), "no schedule ended below 0"


def test_a_learning_rate_below_zero_is_refused():
    weight = param(torch.ones(3))
    optimizer = fused.AdamW([weight])
    optimizer.param_groups[0]["lr"] = -1e-5
    with pytest.raises(ValueError, match="`lr` is -1e-5, expected a finite number of at least 0"):
        optimizer.step()


def test_hyper_parameters_of_a_group_without_gradients():
    """They may be anything, as in torch."""
    for optimizer_class in (fused.SGD, torch.optim.SGD):
        still, weight = torch.nn.Parameter(torch.ones(2)), param(torch.ones(2))
        optimizer = optimizer_class([{"params": [still]}, {"params": [weight]}], momentum=0.5)
        optimizer.param_groups[0]["momentum"] = 1.25
        optimizer.step()
        still.grad = torch.ones(2)
        if optimizer_class is fused.SGD:
            with pytest.raises(ValueError, match=r"parameter group 0: `momentum` is 1.25"):
                optimizer.step()


def test_betas_have_torchs_name():
    weight = param(torch.ones(2))
    optimizer = fused.Adam([weight])
    optimizer.param_groups[0]["betas"] = (0.9, 1.5)
    with pytest.raises(ValueError, match=re.escape("`betas[1]` is 1.5, expected")):
        optimizer.step()


STEPS = {
    "int64": lambda t: torch.tensor(t),
    "int32": lambda t: torch.tensor(t, dtype=torch.int32),
    "bfloat16": lambda t: torch.tensor(t, dtype=torch.bfloat16),
    "a number": lambda t: t,
    "a float": float,
}


@pytest.mark.parametrize("make", STEPS.values(), ids=STEPS.keys())
def test_step_numbers_of_other_types(make):
    """They become ``float32``: ``bfloat16`` would stop at 256."""
    ours, plain = param(torch.ones(3)), param(torch.ones(3))
    optimizer, other = fused.AdamW([ours]), fused.AdamW([plain])
    optimizer.step()
    other.step()
    for one, t in ((optimizer, make(256)), (other, torch.tensor(256.0))):
        one.state[one.param_groups[0]["params"][0]]["step"] = t
    for _ in range(3):
        optimizer.step()
        other.step()
    step = optimizer.state[ours]["step"]
    assert step.dtype == torch.float32 and step == 259
    assert_same_bits(ours, plain, "theta")


def test_a_step_number_stays_if_the_step_fails():
    weight = param(torch.ones(3))
    optimizer = fused.AdamW([weight])
    optimizer.step()
    before = optimizer.state[weight]["step"] = torch.tensor(3)
    weight.grad = torch.full((3,), float("nan"))
    with pytest.raises(ValueError, match="norm"):
        fused.clip_grad_norm_and_step(optimizer, 1.0)
    assert optimizer.state[weight]["step"] is before


@pytest.mark.parametrize("name", ["AdamW", "SGD", "NAdam"])
def test_a_parameter_that_is_listed_twice(name: str):
    results = []
    for where in (fused, torch.optim):
        twice, once = (param(torch.ones(2, dtype=torch.float64)) for _ in range(2))
        with pytest.warns(UserWarning, match="duplicate parameters"):
            optimizer = getattr(where, name)([twice, once, twice], foreach=False)
        for _ in range(3):
            optimizer.step()
        if where is fused:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                optimizer = copy.deepcopy(optimizer)
            with pytest.raises(ValueError, match="listed twice"):
                fused.clip_grad_norm_and_step(optimizer, 1.0)
        results.append((twice.detach(), once.detach()))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)


def test_an_eps_of_zero():
    """0 / 0 is NaN in torch, and 0 here. Everything else is the same."""
    for name in ("AdamW", "RMSprop", "Adagrad", "Adamax"):
        results = []
        for where in (fused, torch.optim):
            grad = torch.tensor([1.0, -2.0, 1e-20, 0.0])
            weight = param(torch.ones(4), grad)
            optimizer = getattr(where, name)([weight], lr=0.1, eps=0.0)
            optimizer.step()
            results.append(weight.detach())
        torch.testing.assert_close(results[0][:3], results[1][:3])
        assert results[0][3].isfinite(), name


# Types of states, and stochastic rounding


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("how", ["state_dict", "pickle", "deepcopy"])
def test_options_and_states_are_kept_on_resume(case: Case, how: str):
    """To the bit, with ``float32`` states of ``bfloat16`` parameters and random bits."""
    if case.options.get("centered") and how == "state_dict":
        pytest.skip("a state_dict has the mean square, which the variance is computed from")
    extra = {"state_dtype": torch.float32, "stochastic_rounding": 7}
    start = torch.linspace(-1, 1, 40).to(torch.bfloat16)

    def make(weight):
        return getattr(fused, case.name)([("layer.w", weight)], **case.options, **extra)

    def steps(weight, optimizer, first, last):
        for t in range(first, last):
            weight.grad = (weight.detach().float() * t).sin().to(torch.bfloat16)
            optimizer.step()

    whole, weight = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    steps(whole, expected := make(whole), 1, 9)
    optimizer = make(weight)
    steps(weight, optimizer, 1, 5)
    if how == "state_dict":
        packed = copy.deepcopy(optimizer.state_dict())
        assert not {"state_dtype", "stochastic_rounding"} & packed["param_groups"][0].keys()
        optimizer = make(weight)
        optimizer.load_state_dict(packed)
    elif how == "pickle":
        weight, optimizer = pickle.loads(pickle.dumps((weight, optimizer)))
    else:
        weight, optimizer = copy.deepcopy((weight, optimizer))
    steps(weight, optimizer, 5, 9)
    assert_same_bits(weight, whole, "theta")
    for name, state in expected.state[whole].items():
        found = optimizer.state[weight][name]
        if isinstance(state, torch.Tensor):
            assert_same_bits(found, state, name)
            assert name in ("step", "mu_product") or found.dtype == torch.float32
        else:
            assert (name, found) == ("seed", state)
    if case.rule == "sgd":
        assert optimizer.state[weight]["step"] == 8


def test_bits_are_those_of_the_rule():
    """The seed of a parameter is that of the optimizer, combined with the hash of its name."""
    start = torch.linspace(-1, 1, 100).to(torch.bfloat16)
    weight, other = (torch.nn.Parameter(start.clone()) for _ in range(2))
    optimizer = fused.AdamW([("w", weight), ("v", other)], lr=0.01, stochastic_rounding=11)
    # FNV-1a of "w", as in kernels.md.
    seed = 11 ^ 0xAF63EA4C86020456
    theta, m, v = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    rule = fused_adam.Rule("adamw", lr=0.01, weight_decay=0.01)
    for t in range(1, 4):
        for one in (weight, other):
            one.grad = one.detach().sin()
        rule.step(t, theta, theta.sin(), m, v, seed=seed)
        optimizer.step()
    assert_same_bits(weight, theta, "theta")
    assert optimizer.state[weight]["seed"] == 0xAF63EA4C86020456
    assert not torch.equal(weight, other), "each parameter has its own random bits"


def test_parameters_without_names_have_the_seed_of_their_position():
    weights = [param(torch.ones(2, dtype=torch.bfloat16)) for _ in range(3)]
    groups = [{"params": weights[:1]}, {"params": weights[1:]}]
    optimizer = fused.SGD(groups, stochastic_rounding=True)
    optimizer.step()
    seeds = [optimizer.state[weight]["seed"] for weight in weights]
    names = [fused._base.name_hash(str(position)) for position in range(3)]
    assert seeds == names and len(set(seeds)) == 3
    assert all(optimizer.state[weight]["step"] == 1 for weight in weights)


def test_small_steps_add_up_with_stochastic_rounding():
    """A ``bfloat16`` parameter of 1 at a learning rate of 1e-4 stays where it is otherwise."""
    ends = {}
    for stochastic in (False, True):
        weight = param(torch.ones(1000, dtype=torch.bfloat16))
        optimizer = fused.AdamW([weight], lr=1e-4, stochastic_rounding=stochastic, weight_decay=0)
        for _ in range(200):
            optimizer.step()
        ends[stochastic] = weight.detach().double().mean().item()
    assert ends[False] == 1.0
    assert ends[True] == pytest.approx(1 - 200e-4, abs=2e-3)


def test_the_type_of_states():
    types = {torch.float64: torch.float64, torch.float16: torch.float32}
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        for chosen in (None, torch.float32, torch.bfloat16, torch.float16):
            for name in ("AdamW", "Adagrad", "Lion"):
                weight = param(torch.ones(3, dtype=dtype))
                optimizer = getattr(fused, name)([weight], state_dtype=chosen)
                optimizer.step()
                expected = types.get(dtype, dtype)
                if chosen is not None and dtype != torch.float64:
                    expected = chosen
                key = "sum" if name == "Adagrad" else "exp_avg"
                assert optimizer.state[weight][key].dtype == expected, (dtype, chosen, name)


def test_states_of_torch_in_float16_become_float32():
    """A gradient of 9000 does not fit into a mean square of ``float16``."""
    weight = param(torch.ones(3, dtype=torch.float16))
    torchs = torch.optim.AdamW([weight])
    torchs.step()
    optimizer = fused.AdamW([weight])
    optimizer.load_state_dict(torchs.state_dict())
    assert optimizer.state[weight]["exp_avg_sq"].dtype == torch.float32
    weight.grad.fill_(9000.0)
    optimizer.step()
    assert weight.isfinite().all() and optimizer.state[weight]["exp_avg_sq"][0] > 65504


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"state_dtype": torch.int8}, ValueError, "state_dtype is torch.int8, expected None or"),
        ({"stochastic_rounding": -1}, ValueError, "stochastic_rounding is -1, expected 0 to"),
        ({"stochastic_rounding": "yes"}, TypeError, "stochastic_rounding is a str, expected a"),
    ],
)
def test_options_that_are_refused(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        fused.AdamW([torch.ones(1, requires_grad=True)], **options)


# from_torch


@pytest.mark.parametrize("case", TORCHS, ids=str)
def test_from_torch_goes_on(case: Case):
    tolerance = 1e-6 if case.name == "NAdam" else 1e-11
    results = []
    for takes_over in (True, False):
        weights = [torch.nn.Parameter(torch.linspace(-1, 1, 5, dtype=torch.float64))]
        weights.append(torch.nn.Parameter(torch.ones(2, 3, dtype=torch.float64)))
        optimizer = case.torchs([("a", weights[0]), ("b", weights[1])])
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        for t in range(1, 9):
            for weight in weights:
                weight.grad = (weight.detach() * t).sin()
            optimizer.step()
            schedule.step()
            if t == 4 and takes_over:
                before = optimizer
                optimizer = fused.from_torch(before)
                assert type(optimizer) is getattr(fused, case.name)
                assert optimizer.param_groups == before.param_groups
                assert optimizer.defaults == before.defaults
                schedule.optimizer = optimizer
        results.append([weight.detach() for weight in weights])
    torch.testing.assert_close(*results, rtol=tolerance, atol=tolerance)


def test_from_torch_takes_the_tensors_themselves():
    weight = param(torch.ones(4))
    torchs = torch.optim.AdamW([weight])
    torchs.step()
    optimizer = fused.from_torch(torchs)
    assert optimizer.state[weight]["exp_avg"] is torchs.state[weight]["exp_avg"]
    wider = fused.from_torch(torchs, state_dtype=torch.bfloat16, stochastic_rounding=3)
    assert wider.state[weight]["exp_avg"].dtype == torch.bfloat16
    wider.step()
    with pytest.raises(TypeError, match="optimizer is a torch.optim.adadelta.Adadelta, expected"):
        fused.from_torch(torch.optim.Adadelta([weight]))
    with pytest.raises(TypeError, match="fused_adam.torch._optimizers.AdamW, expected one of"):
        fused.from_torch(optimizer)


# Messages and documentation


def test_messages_name_the_parameter():
    weight, bias = param(torch.ones(2, 3)), param(torch.ones(3, dtype=torch.complex64))
    optimizer = fused.AdamW([("fc.weight", weight), ("fc.bias", bias)])
    with pytest.raises(TypeError, match=re.escape("parameter 1 (`fc.bias`, shape (3,)) is torch.")):
        optimizer.step()
    bias.grad = None
    weight.grad = torch.ones(6).to_sparse().to_dense().reshape(2, 3)
    optimizer.step()
    optimizer.state[weight]["exp_avg"] = torch.zeros(2, 3, dtype=torch.float64)
    message = "exp_avg of parameter 0 (`fc.weight`, shape (2, 3)) is torch.float64"
    with pytest.raises(TypeError, match=re.escape(message)):
        optimizer.step()


def test_sparse_gradients_have_torchs_message():
    for name in ("Adam", "AdamW", "NAdam", "RAdam", "Adamax", "RMSprop"):
        weight = param(torch.ones(2, 2), torch.ones(2, 2).to_sparse())
        with pytest.raises(RuntimeError) as torchs:
            getattr(torch.optim, name)([weight]).step()
        start = str(torchs.value).split(",")[0]
        with pytest.raises(RuntimeError, match=start):
            getattr(fused, name)([weight]).step()
    for name in ("SGD", "Adagrad"):
        weight = param(torch.ones(2, 2), torch.ones(2, 2).to_sparse())
        with pytest.raises(RuntimeError, match=f"which torch.optim.{name} supports"):
            getattr(fused, name)([weight]).step()


def test_subclasses_without_memory_are_named():
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        fake = torch.nn.Parameter(torch.ones(3))
        fake.grad = torch.ones(3)
    with pytest.raises(RuntimeError, match="parameter 0 .* is a FakeTensor"):
        fused.AdamW([fake]).step()


@pytest.mark.parametrize("name", fused.__all__)
def test_every_argument_is_documented(name: str):
    thing = getattr(fused, name)
    documented = re.findall(r"^ {8}(\w+): ", thing.__doc__ or "", re.MULTILINE)
    if not isinstance(thing, type):
        documented = re.findall(r"^ {4,8}(\w+): ", inspect.getdoc(thing) or "", re.MULTILINE)
    expected = [key for key in inspect.signature(thing).parameters if key != "self"]
    assert [key for key in documented if key in expected] == expected


# The floating-point mode


def test_flushing_subnormal_numbers_changes_nothing():
    start = [(torch.full((n,), 1e-38), torch.full((n,), 2e-38)) for n in (5, 400_000)]

    def run() -> list[torch.Tensor]:
        weights = [param(theta.clone(), grad.clone()) for theta, grad in start]
        optimizer = fused.AdamW(weights, lr=1e-3, betas=(0.9, 0.9))
        for _ in range(3):
            optimizer.step()
        states = [optimizer.state[weight]["exp_avg_sq"] for weight in weights]
        return [*(weight.detach() for weight in weights), *states]

    expected = run()
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU cannot flush subnormal numbers")
    try:
        found = run()
        assert (torch.full((1,), 1e-38) * 0.5).item() == 0.0, "the mode is restored"
    finally:
        torch.set_flush_denormal(False)
    for one, other in zip(found, expected):
        assert_same_bits(one, other, "a tensor")


def test_a_step_at_lr_0_changes_nothing():
    """Checkpoints create states so. AdaBound's bounds do not depend on ``lr``."""
    for name in set(fused.__all__) - {"StepInBackward", "clip_grad_norm_and_step", "from_torch"}:
        weight = param(torch.full((5,), 0.7))
        optimizer = getattr(fused, name)([weight], lr=0.0, weight_decay=0.1)
        for _ in range(3):
            optimizer.step()
        assert torch.equal(weight.detach(), torch.full((5,), 0.7)), name


def test_a_seed_that_another_class_did_not_save():
    """A flattened checkpoint has an empty dict for it."""
    weight = param(torch.ones(3, dtype=torch.bfloat16))
    optimizer = fused.AdamW([weight], stochastic_rounding=7)
    optimizer.step()
    seed = optimizer.state[weight]["seed"]
    optimizer.state[weight]["seed"] = {}
    optimizer.step()
    assert optimizer.state[weight]["seed"] == seed


def test_a_loaded_dictionary_does_not_change():
    """So it can be loaded again, to go back twice."""
    weight = param(torch.ones(3))
    optimizer = fused.AdamW([weight])
    optimizer.step()
    kept = copy.deepcopy(optimizer.state_dict())
    optimizer.load_state_dict(kept)
    optimizer.step()
    assert kept["state"][0]["step"] == 1 and optimizer.state[weight]["step"] == 2


def test_parameters_of_one_name_in_two_groups():
    """Each has its own random bits."""
    weights = [param(torch.ones(2, dtype=torch.bfloat16)) for _ in range(3)]
    groups = [{"params": [("w", weight)]} for weight in weights]
    optimizer = fused.AdamW(groups, stochastic_rounding=True)
    optimizer.step()
    assert len({optimizer.state[weight]["seed"] for weight in weights}) == 3


def test_what_is_no_number_is_named():
    weight = param(torch.ones(3))
    optimizer = fused.AdamW([weight])
    for key, value in (("lr", "1e-3"), ("weight_decay", None), ("lr", torch.ones(2))):
        right = optimizer.param_groups[0][key]
        optimizer.param_groups[0][key] = value
        with pytest.raises(TypeError, match=f"^{key} of the parameter group is "):
            optimizer.step()
        optimizer.param_groups[0][key] = right
    optimizer.step()
    optimizer.state[weight]["step"] = torch.ones(2)
    with pytest.raises(ValueError, match="step of parameter 0 is tensor"):
        optimizer.step()
    with pytest.raises(ValueError, match="max_norm is tensor"):
        fused.clip_grad_norm_and_step(optimizer, torch.ones(2))


@pytest.mark.parametrize("name", ["Adam", "AdamW", "NAdam", "RAdam", "RMSprop", "Adagrad", "Lion"])
def test_a_gradient_whose_square_overflows(name: str):
    """The parameter moves as in float64, where nothing overflows."""
    ends = {}
    for dtype in (torch.float32, torch.float64):
        weight = param(torch.ones(3, dtype=dtype))
        optimizer = getattr(fused, name)([weight], lr=1e-3)
        for t in range(50):
            weight.grad.fill_(3e38 if t == 10 else 1.0)
            optimizer.step()
        ends[dtype] = weight.detach().double()
    torch.testing.assert_close(*ends.values(), rtol=0.0, atol=1e-5)
