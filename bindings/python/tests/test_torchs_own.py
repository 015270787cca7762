"""torch's own inputs for its optimizers, given to both torch's classes and ours.

Each configuration of ``torch.testing._internal.common_optimizers`` runs in each dtype. Beside the
two runs, torch's class runs in float64, with numbers for tensors. The unit of the bounds is eps *
(the largest |parameter| + the sum of all |updates|) per step, for each element. Rounding the
parameter once per step is half a unit.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import hypothesis
import pytest
import torch
from torch import Tensor

import fused_adam.torch as fused

pytest.importorskip("expecttest", reason="torch.testing._internal needs expecttest")

# The import would change settings of hypothesis and torch.backends for all test modules.
PROFILE = hypothesis.settings.get_current_profile_name()
with mock.patch.object(torch.backends, "disable_global_flags"):
    from torch.testing._internal import common_optimizers
hypothesis.settings.load_profile(PROFILE)

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
FLAGS = ("foreach", "fused", "differentiable", "capturable")
#: Flags that ours refuses.
REFUSED = ("differentiable", "capturable")


@dataclass(frozen=True)
class Case:
    """A class of torch and of ours, with arguments."""

    info: Any
    dtype: torch.dtype
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.info.name

    def __str__(self) -> str:
        of = ",".join(f"{key}={text(value)}" for key, value in self.kwargs.items())
        return f"{self.name}-{str(self.dtype).removeprefix('torch.')}-{of or 'default'}"

    def has(self, flag: str) -> bool:
        return bool(self.kwargs.get(flag))

    def without(self, *flags: str) -> dict[str, Any]:
        """A copy of the arguments. Schedulers write to the tensors in them."""
        return copy.deepcopy({k: v for k, v in self.kwargs.items() if k not in flags})

    def ours(self, params: Any, kwargs: dict[str, Any]) -> torch.optim.Optimizer:
        return getattr(fused, self.name)(params, **kwargs)

    def torchs(self, params: Any, kwargs: dict[str, Any]) -> torch.optim.Optimizer:
        return self.info.optim_cls(params, **kwargs)


@dataclass(frozen=True)
class Difference:
    """What ours does differently (a regular expression), in which cases, and why."""

    at: str
    ours: str
    applies: Callable[[Case], bool]
    reason: str


#: All differences from torch (2.15). One that is not here fails, and so does one that is gone.
DIFFERENCES = [
    Difference(
        "constructor",
        "^ValueError: capturable=True is not supported, expected False$",
        lambda case: case.has("capturable"),
        "It is for CUDA graphs. On the CPU, torch's step takes it only with fused=True.",
    ),
    Difference(
        "constructor",
        "^ValueError: differentiable=True is not supported, expected False$",
        lambda case: case.has("differentiable") and not case.has("capturable"),
        "Autograd does not record the step.",
    ),
    Difference(
        "sparse gradient",
        "^RuntimeError: .* is sparse .* torch.optim.(SGD|Adagrad) supports and this class does not",
        lambda case: case.info.supports_sparse,
        "Only dense gradients are implemented.",
    ),
    Difference(
        "complex parameter",
        "^TypeError: parameter .* is torch.complex64, expected one of torch.float32, ",
        lambda case: case.info.supports_complex,
        "Only real parameters are implemented.",
    ),
    Difference(
        "states",
        "^(?!mu_product)[a-z_]+ is torch.float32 instead of torch.float16$",
        lambda case: case.dtype == torch.float16 and has_buffers(case),
        "Averages of squares are often below the range of float16.",
    ),
    Difference(
        "states",
        "^mu_product is torch.float64 instead of torch.float32$",
        lambda case: case.name == "NAdam",
        "A product of many momenta that is rounded to float32 at each step loses digits.",
    ),
    Difference(
        "states",
        "^square_avg is the variance$",
        lambda case: case.name == "RMSprop" and case.has("centered"),
        "The mean square minus the squared mean loses digits. state_dict has the mean square.",
    ),
    Difference(
        "values",
        "^finite where torch's is not$",
        lambda case: has_zero_divisor(case),
        "eps is 0 in float16, so torch divides 0 by 0. Ours computes in float32.",
    ),
    Difference(
        "values",
        "^beyond the rounding of float64$",
        lambda case: case.dtype == torch.float64 and case.name == "NAdam",
        "torch rounds mu_product to float32.",
    ),
    Difference(
        "values",
        "^beyond the rounding of float64$",
        lambda case: case.dtype == torch.float64 and case.name == "RAdam",
        "The rectification magnifies the rounding of beta2^t, which the two compute differently.",
    ),
    Difference(
        "values",
        "^beyond the rounding of float64$",
        lambda case: case.dtype == torch.float64 and rounds_step_size(case),
        "torch computes the step size and 1 - lr * weight_decay in the dtype of a tensor lr.",
    ),
]

#: Classes of torch that have no counterpart.
NOT_PROVIDED = {"ASGD", "Adadelta", "Adafactor", "LBFGS", "Muon", "Rprop", "SparseAdam"}


def has_buffers(case: Case) -> bool:
    """Whether the state has tensors of the shape of the parameter."""
    return case.name != "SGD" or case.has("momentum")


def adds_penalty(case: Case) -> bool:
    """Whether the gradient that the states see depends on the parameter."""
    is_decoupled = case.name == "AdamW" or case.has("decoupled_weight_decay")
    return case.has("weight_decay") and not is_decoupled


def rounds_step_size(case: Case) -> bool:
    """Whether torch computes with a tensor lr in float32, before it uses the result as a number."""
    if not isinstance(case.kwargs.get("lr"), Tensor) or case.has("fused"):
        return False
    names = ("Adam", "AdamW", "NAdam", "RAdam", *([] if case.has("foreach") else ["Adamax"]))
    return case.name in names


def has_zero_divisor(case: Case) -> bool:
    """Whether torch's denominator is 0, or its reciprocal infinite, where a gradient is 0."""
    if case.dtype != torch.float16 or case.name == "SGD" or adds_penalty(case) or case.has("fused"):
        return False
    is_reciprocal = case.name == "RAdam" and not case.has("foreach")
    return case.kwargs.get("eps", 1e-8) < (1e-5 if is_reciprocal else 2.0**-25)


def plain(value: Any) -> Any:
    """A value with a number for each tensor."""
    if isinstance(value, tuple):
        return tuple(map(plain, value))
    return value.item() if isinstance(value, Tensor) else value


def text(value: Any) -> str:
    """A value for a test id."""
    if isinstance(value, tuple):
        return f"({','.join(map(text, value))})"
    if not isinstance(value, Tensor):
        return str(value)
    numbers = ",".join(f"{number:g}" for number in value.flatten().tolist())
    return f"tensor({numbers}{f',shape={tuple(value.shape)}' if value.dim() else ''})"


def inputs(info: Any, dtype: torch.dtype, devices: tuple[str, ...]) -> list[Case]:
    """Torch's inputs for these devices, each once. Those with ``capturable`` also without it."""
    found: dict[str, Case] = {}
    all_of = common_optimizers._get_optim_inputs_including_global_cliquey_kwargs
    for device in devices:
        bare = info.optim_inputs_func(device=device, dtype=dtype)
        for each in [*bare, *all_of(device, dtype, info)]:
            # A flag that is False is the default.
            kwargs = {k: v for k, v in each.kwargs.items() if v or k not in FLAGS}
            rest = {k: v for k, v in kwargs.items() if k != "capturable"}
            for case in (Case(info, dtype, kwargs), Case(info, dtype, rest)):
                found.setdefault(str(case), case)
    return list(found.values())


INFOS = [info for info in common_optimizers.optim_db if info.name not in NOT_PROVIDED]
CASES = [
    case
    for info in INFOS
    for dtype in DTYPES
    # The inputs for other devices are arguments too. Their tensors are on the CPU.
    for case in inputs(info, dtype, ("cpu", "cuda", "mps"))
]


def scheduled() -> Iterator[Any]:
    """The schedulers of each class: with all inputs in float64, and the first 3 in float32."""
    for info in INFOS:
        for makers in info.scheduler_inputs:
            sample = torch.optim.SGD([torch.zeros(1)], lr=0.1)
            names = "+".join(type(make(sample)).__name__ for make in makers)
            for dtype, count in ((torch.float64, None), (torch.float32, 3)):
                for case in inputs(info, dtype, ("cpu",))[:count]:
                    if not any(map(case.has, FLAGS)):
                        yield pytest.param(case, makers, id=f"{case}-{names}")


SCHEDULED = list(scheduled())


def check(case: Case, seen: list[str], *at: str) -> None:
    """Assert that the differences that were seen are those of the table."""
    expected = [one.ours for one in DIFFERENCES if one.at in at and one.applies(case)]
    unlisted = [one for one in seen if not any(re.search(ours, one) for ours in expected)]
    gone = [ours for ours in expected if not any(re.search(ours, one) for one in seen)]
    assert not unlisted and not gone, f"not in the table: {unlisted}, gone: {gone}"


# Runs


@contextlib.contextmanager
def doubles() -> Iterator[None]:
    """Numbers in states, such as ``mu_product``, are float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@functools.cache
def parameters(dtype: torch.dtype) -> list[Tensor]:
    """A matrix, a vector that begins at 0 so that it is as large as its updates, and a number."""
    generator = torch.Generator().manual_seed(1)
    shapes = ((4, 5), (6,), ())
    params = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    params[1].zero_()
    return [param.to(dtype) for param in params]


@functools.cache
def gradients(dtype: torch.dtype, step: int) -> list[Tensor]:
    """The gradients of a step. One element is always 0, and one only sometimes not."""
    generator = torch.Generator().manual_seed(100 + step)
    grads = [
        torch.randn(param.shape, generator=generator, dtype=torch.float64) / 2
        for param in parameters(dtype)
    ]
    grads[0][0, 0] = 0.0
    if step % 3:
        grads[0][1, 1] = 0.0
    return [grad.to(dtype) for grad in grads]


class Run:
    """Parameters with their optimizer."""

    def __init__(
        self, params: Iterable[Tensor], make: Callable[[Any, dict[str, Any]], Any], kwargs: Any
    ):
        needs_grad = not kwargs.get("differentiable")
        self.params = [torch.nn.Parameter(p.detach().clone(), needs_grad) for p in params]
        self.optimizer = make(self.params, kwargs)

    def step(self, grads: list[Tensor]) -> None:
        for param, grad in zip(self.params, grads):
            param.grad = grad.to(param.dtype, copy=True)
        self.optimizer.step()

    def states(self) -> list[dict[str, Any]]:
        return [self.optimizer.state.get(param, {}) for param in self.params]

    def rates(self) -> list[float]:
        return [float(group["lr"]) for group in self.optimizer.param_groups]


@dataclass(frozen=True)
class Exact:
    """The float64 run after some steps, and what the bounds depend on."""

    steps: int
    params: list[Tensor]
    states: list[dict[str, Tensor]]
    #: The largest magnitude of each element so far, and the sum of the magnitudes of its updates.
    largest: list[Tensor]
    path: list[Tensor]
    #: The largest magnitude of an element so far, for each state.
    largest_states: list[dict[str, float]]

    def unit(self, i: int, dtype: torch.dtype) -> Tensor:
        return self.steps * torch.finfo(dtype).eps * (self.largest[i] + self.path[i])


class ExactRun(Run):
    """torch's class in float64, with numbers for tensors. ``mu_product`` is in float64 too."""

    def __init__(self, case: Case):
        kwargs = {key: plain(value) for key, value in case.without(*FLAGS).items()}
        with doubles():
            super().__init__([p.double() for p in parameters(case.dtype)], case.torchs, kwargs)
        params = [param.detach().clone() for param in self.params]
        none: list[dict[str, Any]] = [{} for _ in params]
        zeros = [torch.zeros_like(param) for param in params]
        self.last = Exact(0, params, none, [param.abs() for param in params], zeros, none)

    def follow(self, grads: list[Tensor], rates: list[float]) -> Exact:
        """Take a step with these learning rates."""
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        with doubles():
            self.step(grads)
        old = self.last
        params = [param.detach().clone() for param in self.params]
        states = []
        for given in self.states():
            state = {k: v.detach().clone() for k, v in given.items() if isinstance(v, Tensor)}
            if "grad_avg" in state:
                state["variance"] = state["square_avg"] - state["grad_avg"].square()
            states.append(state)
        self.last = Exact(
            old.steps + 1,
            params,
            states,
            [torch.maximum(a, param.abs()) for a, param in zip(old.largest, params)],
            [a + (b - c).abs() for a, b, c in zip(old.path, params, old.params)],
            [
                {k: max(before.get(k, 0.0), float(v.abs().max())) for k, v in state.items()}
                for before, state in zip(old.largest_states, states)
            ],
        )
        return self.last


#: The float64 runs. Cases that only differ in flags share one.
EXACT: dict[str, list[Exact]] = {}


def exact_run(case: Case) -> list[Exact]:
    """The float64 run before the first step, and after each of 10 steps."""
    key = str(Case(case.info, case.dtype, case.without(*FLAGS)))
    if key not in EXACT:
        run = ExactRun(case)
        start, rates = run.last, run.rates()
        after = [run.follow(gradients(case.dtype, step), rates) for step in range(10)]
        EXACT[key] = [start, *after]
    return EXACT[key]


def distance(a: Tensor, b: Tensor) -> Tensor:
    return (a.detach().double() - b.detach().double()).abs()


def assert_near(found: Tensor, expected: Tensor, bound: Tensor | float) -> None:
    far = ~(distance(found, expected) <= bound)
    assert not bool(far.any()), f"{found.detach()} instead of {expected}, within {bound}"


def ours_bound(case: Case, exact: Exact, i: int) -> Tensor:
    """How far ours may be from the float64 run."""
    # In float64, the other run is rounded too, and RAdam's rectification magnifies the rounding.
    double = 100.0 if case.name == "RAdam" else 2.0
    share = double if case.dtype == torch.float64 else 0.5
    return share * exact.unit(i, case.dtype)


def torchs_dtype(case: Case) -> torch.dtype:
    """The dtype in which torch rounds: float32 for some numbers, even in float64."""
    is_single = case.name == "NAdam" or rounds_step_size(case) or case.has("differentiable")
    return torch.float32 if case.dtype == torch.float64 and is_single else case.dtype


def torchs_bound(case: Case, exact: Exact, i: int) -> Tensor:
    """How far torch's may be from the float64 run."""
    return torch.maximum(ours_bound(case, exact, i), exact.unit(i, torchs_dtype(case)))


def compare_values(case: Case, ours: Run, theirs: Run, exact: Exact) -> list[str]:
    """Check the parameters against the bounds. Returns the differences."""
    seen: set[str] = set()
    for i, (mine, torchs, expected) in enumerate(zip(ours.params, theirs.params, exact.params)):
        assert_near(mine, expected, ours_bound(case, exact, i))
        finite = torchs.isfinite()
        if not bool(finite.all()):
            seen.add("finite where torch's is not")
        limit = torchs_bound(case, exact, i)
        assert_near(torchs[finite], expected[finite], limit[finite])
        if case.dtype in (torch.float32, torch.float64):
            assert_near(mine, torchs, limit)
        small = 2.0 * exact.unit(i, torch.float64)
        if case.dtype == torch.float64 and bool((distance(mine, torchs) > small).any()):
            seen.add("beyond the rounding of float64")
    return sorted(seen)


def compare_states(case: Case, ours: Run, theirs: Run, exact: Exact) -> list[str]:
    """Check the states: names, shapes, strides, and values within a unit. Returns differences."""
    seen: set[str] = set()
    for i, (mine, torchs) in enumerate(zip(ours.states(), theirs.states())):
        names = {"square_avg": "variance"} if "grad_avg" in mine else {}
        seen.update(f"{of} is the {name}" for of, name in names.items())
        assert mine.keys() == torchs.keys()
        for name, value in torchs.items():
            key = names.get(name, name)
            own = mine[name]
            assert (own is None) == (value is None), name
            if value is None:
                continue
            if own.dtype != value.dtype:
                seen.add(f"{name} is {own.dtype} instead of {value.dtype}")
            assert own.shape == value.shape and own.stride() == value.stride(), name
            for found, of, rounded in ((own, key, case.dtype), (value, name, torchs_dtype(case))):
                eps = torch.finfo(found.dtype).eps
                if adds_penalty(case) and name != "mu_product":
                    eps = max(eps, torch.finfo(rounded).eps)
                bound = exact.steps * eps * exact.largest_states[i][of]
                assert_near(found, exact.states[i][of], bound)
    return sorted(seen)


def compare_packed(case: Case, ours: Run, theirs: Run) -> None:
    """The ``state_dict`` has torch's groups, names and shapes."""
    mine, torchs = ours.optimizer.state_dict(), theirs.optimizer.state_dict()
    groups = [
        [{k: plain(v) for k, v in group.items() if k not in REFUSED} for group in packed]
        for packed in (mine["param_groups"], torchs["param_groups"])
    ]
    assert groups[0] == groups[1]
    assert mine["state"].keys() == torchs["state"].keys()
    for number, state in torchs["state"].items():
        assert mine["state"][number].keys() == state.keys()
        for name, value in state.items():
            own = mine["state"][number][name]
            assert own is None if value is None else own.shape == value.shape, name


def refusal(make: Callable[[], Any]) -> str | None:
    """The error, as text."""
    try:
        make()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


# Tests


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """torch's fused kernels start all threads, even for small tensors."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", sorted(info.name for info in common_optimizers.optim_db))
def test_classes(name: str) -> None:
    if name in NOT_PROVIDED:
        assert not hasattr(fused, name)
        pytest.skip(f"{name} is not provided")
    assert issubclass(getattr(fused, name), getattr(torch.optim, name))


def test_inputs_were_found() -> None:
    assert len({str(case) for case in CASES}) == len(CASES) > 1000
    assert len(SCHEDULED) > 100 and len(ERRORS) > 300
    for info in INFOS:
        for dtype in DTYPES:
            own = [case for case in CASES if (case.info, case.dtype) == (info, dtype)]
            assert len(own) > 20, (info.name, dtype)


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda one: f"{one.at}-{one.reason}")
def test_each_difference_has_an_input(difference: Difference) -> None:
    assert any(difference.applies(case) for case in CASES)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_inputs(case: Case) -> None:
    kwargs, seen = case.without(), []
    expected = refusal(lambda: case.torchs(parameters(case.dtype), kwargs))
    error = refusal(lambda: case.ours(parameters(case.dtype), kwargs))
    if expected is not None:
        assert error == expected
        return
    if error is not None:
        seen.append(error)
    check(case, seen, "constructor")

    exact = exact_run(case)
    if any(map(case.has, REFUSED)):
        load_what_is_refused(case, exact[4])
        return
    ours, theirs = (
        Run(parameters(case.dtype), make, case.without()) for make in (case.ours, case.torchs)
    )
    train((ours, theirs), range(6), case.dtype)
    check(case, compare_values(case, ours, theirs, exact[6]), "values")
    check(case, compare_states(case, ours, theirs, exact[6]), "states")
    compare_packed(case, ours, theirs)

    # Each goes on from the other's parameters and state.
    started = [
        torch.where(param.isfinite(), param.detach(), other.to(case.dtype))
        for param, other in zip(theirs.params, exact[6].params)
    ]
    mine = Run(started, case.ours, case.without())
    torchs = Run(ours.params, case.torchs, case.without())
    mine.optimizer.load_state_dict(theirs.optimizer.state_dict())
    torchs.optimizer.load_state_dict(ours.optimizer.state_dict())
    train((mine, torchs), range(6, 10), case.dtype)
    for i in range(len(mine.params)):
        limit = torchs_bound(case, exact[10], i)
        assert_near(mine.params[i], exact[10].params[i], limit)
        finite = torchs.params[i].isfinite() if has_zero_divisor(case) else ...
        assert_near(torchs.params[i][finite], exact[10].params[i][finite], limit[finite])


def train(runs: tuple[Run, ...], steps: range, dtype: torch.dtype) -> None:
    for step in steps:
        for run in runs:
            run.step(gradients(dtype, step))


def load_what_is_refused(case: Case, exact: Exact) -> None:
    """In a loaded ``state_dict``, the flags that the constructor refuses have no effect."""
    saved = case
    if case.has("capturable") and not case.has("fused"):
        # torch's step refuses it, and without it the constructor refuses a tensor lr and foreach.
        saved = Case(case.info, case.dtype, case.without("capturable", "foreach"))
    ours = Run(parameters(case.dtype), case.ours, case.without(*REFUSED, "foreach"))
    theirs = Run(parameters(case.dtype), case.torchs, saved.without())
    train((ours, theirs), range(2), case.dtype)
    packed = theirs.optimizer.state_dict()
    for group in packed["param_groups"]:
        group.update({flag: True for flag in REFUSED if case.has(flag)})
    ours.optimizer.load_state_dict(packed)
    train((ours,), range(2, 4), case.dtype)
    for i, param in enumerate(ours.params):
        assert_near(param, exact.params[i], torchs_bound(saved, exact, i))


@pytest.mark.parametrize("case, makers", SCHEDULED)
def test_schedulers(case: Case, makers: list[Callable[[Any], Any]]) -> None:
    ours, theirs = (
        Run(parameters(case.dtype), make, case.without()) for make in (case.ours, case.torchs)
    )
    schedulers = [[make(run.optimizer) for make in makers] for run in (ours, theirs)]
    exact, rates = ExactRun(case), set()
    for step in range(14):
        grads = gradients(case.dtype, step)
        exact.follow(grads, theirs.rates())
        for run, own in zip((ours, theirs), schedulers):
            run.step(grads)
            for scheduler in own:
                # The loss does not fall.
                is_plateau = isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
                scheduler.step(1.0) if is_plateau else scheduler.step()
        assert ours.rates() == theirs.rates()
        rates.add(ours.rates()[0])
    assert len(rates) > 1, "the schedule changed nothing"
    check(case, compare_values(case, ours, theirs, exact.last), "values")
    check(case, compare_states(case, ours, theirs, exact.last), "states")


def error_inputs(info: Any, dtype: torch.dtype, device: str) -> list[Any]:
    """Torch's error inputs for a kind of device, with tensors on the CPU."""
    torch.manual_seed(0)
    with mock.patch.object(common_optimizers, "_get_device_type", lambda _: device):
        return info.optim_error_inputs_func(device="cpu", dtype=dtype)


def errors() -> Iterator[Any]:
    """Each error input, made twice: for ours and for torch's class."""
    for info in INFOS:
        for dtype in DTYPES:
            for device in ("cpu", "cuda"):
                pairs = zip(*(error_inputs(info, dtype, device) for _ in range(2)), strict=True)
                for ours, theirs in pairs:
                    given = ours.optimizer_error_input
                    case = Case(info, dtype, given.kwargs)
                    yield pytest.param(case, ours, theirs, id=f"{case}-{device}-{given.desc}")


ERRORS = list(errors())


@pytest.mark.parametrize("case, ours, theirs", ERRORS)
def test_error_inputs(case: Case, ours: Any, theirs: Any) -> None:
    at = common_optimizers.OptimizerErrorEnum.CONSTRUCTION_ERROR
    assert ours.error_on is at, "an error of the step, which these classes did not have"

    def construct(make: Callable[[Any, Any], Any], each: Any) -> Any:
        given = each.optimizer_error_input
        return make(given.params, given.kwargs)

    if issubclass(ours.error_type, Warning):
        made = []
        for make, each in ((case.ours, ours), (case.torchs, theirs)):
            with pytest.warns(each.error_type, match=each.error_regex):
                made.append(construct(make, each))
        compare_after_warning(case, *made)
        check(case, [], "constructor")
        return
    with pytest.raises(theirs.error_type, match=theirs.error_regex):
        construct(case.torchs, theirs)
    expected = refusal(lambda: construct(case.torchs, theirs))
    error = refusal(lambda: construct(case.ours, ours))
    assert error is not None
    check(case, [] if error == expected else [error], "constructor")


def compare_after_warning(case: Case, *optimizers: torch.optim.Optimizer) -> None:
    """What only warned works: a parameter that is listed twice is stepped twice."""
    found = []
    for optimizer in optimizers:
        params = optimizer.param_groups[0]["params"]
        for step in range(3):
            for param in params:
                param.grad = torch.full_like(param, 0.5 + step)
            optimizer.step()
        # Sets have any order.
        found.append(torch.cat([param.detach().flatten() for param in params]).sort().values)
    bound = 6 * torch.finfo(torchs_dtype(case)).eps
    torch.testing.assert_close(*found, rtol=bound, atol=bound)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
@pytest.mark.parametrize("info", INFOS, ids=lambda info: info.name)
def test_sparse_gradients(info: Any) -> None:
    case = Case(info, torch.float32, info.metadata_for_sparse[0])

    def step(make: Callable[[Any, Any], Any]) -> None:
        param = torch.nn.Parameter(torch.ones(4, 5))
        param.grad = torch.ones(4, 5).to_sparse()
        make([param], case.without()).step()

    expected, error = refusal(lambda: step(case.torchs)), refusal(lambda: step(case.ours))
    assert (expected is None) == info.supports_sparse and error is not None
    # Ours also says which tensor it is.
    is_same = expected is not None and error.startswith(expected)
    check(case, [] if is_same else [error], "sparse gradient")


@pytest.mark.parametrize("info", INFOS, ids=lambda info: info.name)
def test_complex_parameters(info: Any) -> None:
    case = Case(info, torch.complex64)

    def step(make: Callable[[Any, Any], Any]) -> None:
        param = torch.nn.Parameter(torch.ones(3, dtype=torch.complex64))
        param.grad = torch.ones(3, dtype=torch.complex64)
        make([param], case.without()).step()

    expected, error = refusal(lambda: step(case.torchs)), refusal(lambda: step(case.ours))
    assert (expected is None) == info.supports_complex and error is not None
    check(case, [error], "complex parameter")
