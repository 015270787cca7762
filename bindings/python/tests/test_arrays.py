"""The interface for arrays: arguments, results and errors."""

from __future__ import annotations

import array
import copy
import doctest
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest

import fused_adam
from fused_adam import Flat, Rule


def ones(n: int = 4, dtype: type = np.float32) -> np.ndarray:
    return np.ones(n, dtype)


def test_examples_in_the_docs():
    failed, tried = doctest.testmod(fused_adam)
    assert failed == 0 < tried


def test_first_step_has_the_size_of_lr():
    theta, m, v = ones(), np.zeros(4, np.float32), np.zeros(4, np.float32)
    Rule("adam", lr=0.5).step(1, theta, 7 * ones(), m, v)
    np.testing.assert_allclose(theta, 0.5, rtol=1e-6)
    np.testing.assert_allclose(m, 0.7, rtol=1e-6)


def test_flat_equals_the_rule():
    rule = Rule("adamw", lr=0.1, amsgrad=True)
    theta, twin = ones(100), ones(100)
    states = [np.zeros(100, np.float32) for _ in rule.states]
    flat = Flat(rule, theta)
    for t in (1, 2, 3):
        grad = np.sin(np.arange(100, dtype=np.float32) + t)
        flat.step(theta, grad)
        rule.step(t, twin, grad, *states)
    assert theta.tobytes() == twin.tobytes() and flat.t == 3
    assert [flat.states[name].tobytes() for name in rule.states] == [s.tobytes() for s in states]


def test_anything_with_memory_is_taken():
    torch = pytest.importorskip("torch")
    expected = ones()
    Rule("sgd", lr=0.5).step(1, expected, ones())

    class OnlyDlpack:
        """Only supports DLPack, in the newest version or the oldest."""

        def __init__(self, of, old: bool) -> None:
            self.of, self.old = of, old

        def __dlpack__(self, **options):
            if self.old and options:
                raise TypeError("no options")
            return self.of.__dlpack__(**options)

        def __dlpack_device__(self):
            return self.of.__dlpack_device__()

    for make in (
        lambda: array.array("f", [1.0] * 4),
        lambda: bytearray_of_floats(),
        lambda: torch.ones(4),
        lambda: OnlyDlpack(ones(), old=False),
        lambda: OnlyDlpack(torch.ones(4), old=False),
        lambda: OnlyDlpack(torch.ones(4), old=True),
        lambda: np.ones((2, 2), np.float32, order="F"),
    ):
        theta = make()
        memory = theta.of if isinstance(theta, OnlyDlpack) else theta
        grad = np.ones((2, 2), np.float32, order="F") if np.ndim(memory) == 2 else ones()
        Rule("sgd", lr=0.5).step(1, theta, grad)
        assert np.asarray(memory).tobytes() == expected.tobytes(), type(theta)


def bytearray_of_floats() -> memoryview:
    return memoryview(bytearray(ones().tobytes())).cast("f")


def test_stochastic_rounding_repeats():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    of = ml_dtypes.bfloat16

    def run(seed: int) -> bytes:
        theta = np.ones(500, of)
        Rule("sgd", lr=1e-3).step(1, theta, np.ones(500, of), seed=seed)
        return theta.tobytes()

    assert run(1) == run(1) != run(2)


def test_shards_draw_the_random_bits_of_the_whole():
    of = pytest.importorskip("ml_dtypes").bfloat16
    rule = Rule("sgd", lr=1e-3)

    def run(*bounds: int) -> bytes:
        theta = np.ones(500, of)
        for start, end in zip(bounds, bounds[1:]):
            rule.step(1, theta[start:end], np.ones(end - start, of), seed=3, offset=start)
        return theta.tobytes()

    assert run(0, 500) == run(0, 123, 124, 500)


def test_other_threads_run_meanwhile():
    """Other Python threads run during a large step."""
    theta, grad = ones(1 << 24), ones(1 << 24)
    flat, done, turns = Flat(Rule("adamw"), theta), threading.Event(), [0]

    def count() -> None:
        while not done.is_set():
            turns[0] += 1

    # If the step held the GIL, the interpreter would only switch threads between steps.
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1.0)
    thread = threading.Thread(target=count)
    try:
        thread.start()
        before = turns[0]
        flat.step(theta, grad)
        during = turns[0] - before
    finally:
        done.set()
        sys.setswitchinterval(interval)
        thread.join()
    assert during > 0


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_a_forked_process_has_threads_of_its_own():
    code = """
import os, numpy as np, fused_adam
def run():
    theta = np.ones(1 << 20, np.float32)
    fused_adam.Flat(fused_adam.Rule("adamw", lr=0.1), theta).step(theta, theta.copy())
    return theta
first = run()
pid = os.fork()
if pid == 0:
    os._exit(0 if run().tobytes() == first.tobytes() else 3)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=60)


def test_threads_do_not_show():
    results = set()
    try:
        for n in (0, 1, 2, 5):
            fused_adam.set_num_threads(n)
            assert n == 0 or fused_adam.get_num_threads() == n
            theta = np.linspace(-1, 1, 1 << 20, dtype=np.float32)
            Flat(Rule("adamw", lr=0.1), theta).step(theta, theta.copy())
            results.add(theta.tobytes())
    finally:
        fused_adam.set_num_threads(0)
    assert len(results) == 1


def read_only() -> np.ndarray:
    found = ones()
    found.setflags(write=False)
    return found


def shifted() -> np.ndarray:
    return np.frombuffer(bytearray(17), np.uint8)[1:].view(np.float32)


BAD = [
    (lambda: Rule("adam", lr=-1.0), ValueError, "lr` is -1.0, expected"),
    (lambda: Rule("adam", lr="fast"), TypeError, "lr is 'fast', expected a number"),
    (lambda: Rule("adam", amsgrad=1), TypeError, "amsgrad is 1, expected True or False"),
    (lambda: Rule("adam", lr=float("nan")), ValueError, "lr is NaN, expected a finite number"),
    (lambda: Rule("adam", eps=0.0), ValueError, "eps` is 0.0, expected"),
    (lambda: Rule("adam", beta1=1.0), ValueError, "beta1` is 1.0, expected"),
    (
        lambda: Rule("adam", rate=1.0),
        TypeError,
        "adam has no hyper-parameter \"rate\", expected one of",
    ),
    (lambda: Rule("adamm"), ValueError, "adamm"),
    (lambda: Rule("sgd").step(0, ones(), ones()), ValueError, "step number `t` is 0, expected 1"),
    (lambda: Rule("sgd").step(-1, ones(), ones()), OverflowError, "negative"),
    (
        lambda: Rule("adam").step(1, ones(), ones(), ones()),
        TypeError,
        "1 state was given, expected 2",
    ),
    (
        lambda: Rule("sgd").step(1, ones(), ones(3)),
        ValueError,
        "grad has 3 elements, expected 4 as theta has",
    ),
    (
        lambda: Rule("sgd").step(1, ones(), ones(dtype=np.float64)),
        ValueError,
        "grad.*f64, expected f32",
    ),
    (
        lambda: Rule("sgd").step(1, ones(dtype=np.int32), ones()),
        TypeError,
        "type int32, expected float32",
    ),
    (
        lambda: Rule("sgd").step(1, ones(dtype=np.complex64), ones()),
        TypeError,
        "type complex64, expected",
    ),
    (lambda: Rule("sgd").step(1, ones(dtype=">f4"), ones()), TypeError, "bytes swapped"),
    (lambda: Rule("sgd").step(1, read_only(), ones()), ValueError, "theta is read-only"),
    (lambda: Rule("sgd").step(1, b"\0" * 16, ones()), TypeError, "type uint8, expected float32"),
    (
        lambda: Rule("sgd").step(1, ones(8)[::2], ones()),
        ValueError,
        "theta does not lie in memory as one piece",
    ),
    (
        lambda: Rule("sgd").step(1, ones()[::-1], ones()),
        ValueError,
        "theta does not lie in memory as one piece",
    ),
    (
        lambda: Rule("sgd").step(1, np.broadcast_to(ones(1), 4), ones()),
        ValueError,
        "read-only|one piece",
    ),
    (
        lambda: Rule("sgd").step(1, ones().reshape(2, 2), ones().reshape(2, 2).T),
        ValueError,
        "grad does not lie",
    ),
    (lambda: Rule("sgd").step(1, shifted(), ones()), ValueError, "expected a multiple of 4"),
    (lambda: Rule("sgd").step(1, [1.0], ones()), TypeError, "expected an array, not list"),
    (lambda: Rule("sgd").step(1, None, ones()), TypeError, "expected an array, not NoneType"),
    (lambda: overlapping(), ValueError, "theta and grad overlap in memory"),
    (lambda: Rule("sgd").step(1, ones(), ones(), backend="gpu"), ValueError, "gpu"),
    (
        lambda: Rule("sgd").step(1, ones(), ones(), grad_scale=-1.0),
        ValueError,
        "grad_scale` is -1.0, expected",
    ),
    (
        lambda: Rule("sgd").step(1, ones(), ones(), clip_value=0.0),
        ValueError,
        "clip_value` is 0.0, expected",
    ),
    (
        lambda: with_scalars(np.ones(2)),
        ValueError,
        "2 scalars were given, expected the scalar `mu_product`",
    ),
    (
        lambda: with_scalars(np.ones(0)),
        ValueError,
        "0 scalars were given, expected the scalar `mu_product`",
    ),
    (
        lambda: with_scalars(ones(1)),
        TypeError,
        "scalars is an array of f32, expected a contiguous one of f64",
    ),
    (lambda: with_scalars(np.ones(4)[::2]), TypeError, "expected a contiguous one of f64"),
    (lambda: with_scalars([1.0]), TypeError, "expected an array, not list"),
    (lambda: with_scalars(np.broadcast_to(np.float64(1.0), 1)), ValueError, "scalars is read-only"),
    (lambda: with_scalars(np.array([3.0])), ValueError, "mu_product` is 1.*, expected"),
    (lambda: shared_scalars(), ValueError, "scalars overlaps in memory with another array"),
    (
        lambda: Rule("sgd").step(1, ones(), ones(), scalars=np.ones(1)),
        ValueError,
        "expected none",
    ),
    (lambda: fused_adam.set_num_threads(-1), ValueError, "is -1, expected 0 or more"),
]


def overlapping() -> None:
    memory = ones(6)
    Rule("sgd").step(1, memory[:4], memory[2:])


def with_scalars(scalars: object) -> None:
    Rule("nadam").step(1, ones(), ones(), ones(), ones(), scalars=scalars)


def shared_scalars() -> None:
    memory = np.ones(5)
    Rule("nadam").step(1, memory[:4], np.ones(4), np.ones(4), np.ones(4), scalars=memory[3:4])


@pytest.mark.parametrize("call, error, message", BAD, ids=[str(i) for i in range(len(BAD))])
def test_what_is_refused_and_how(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_nothing_changes_after_an_error():
    theta, m, v = ones(), np.zeros(4, np.float32), np.zeros(3, np.float32)
    with pytest.raises(ValueError, match="v has 3 elements"):
        Rule("adam").step(1, theta, ones(), m, v)
    assert theta.tobytes() == ones().tobytes() and not m.any()


def test_rules_say_what_they_are():
    rule = Rule("nadam", lr=0.5)
    assert (rule.name, list(rule.states), list(rule.initial)) == ("nadam", ["m", "v"], [0.0, 0.0])
    assert rule.hyper_parameters["lr"] == 0.5
    assert "lr=0.5" in repr(rule) and eval(repr(rule)).hyper_parameters == rule.hyper_parameters
    assert rule.replace(lr=0.25).hyper_parameters == {**rule.hyper_parameters, "lr": 0.25}


@pytest.mark.parametrize("name", fused_adam.RULES)
def test_every_rule_is_made_again_from_what_it_says(name):
    default = Rule(name)
    assert Rule(name, **default.hyper_parameters).hyper_parameters == default.hyper_parameters
    for key, value in default.hyper_parameters.items():
        other = (not value) if isinstance(value, bool) else type(value)(value / 2)
        try:
            changed = Rule(name, **{key: other})
        except ValueError as error:
            # It is inconsistent with another one.
            assert "expected" in str(error)
            continue
        assert changed.hyper_parameters == {**default.hyper_parameters, key: other}


def options_of(kind: type) -> list[tuple[str, str]]:
    """All hyper-parameters of this type, of all rules."""
    defaults = {name: Rule(name).hyper_parameters for name in fused_adam.RULES}
    return [
        (name, key)
        for name in defaults
        for key, value in defaults[name].items()
        if type(value) is kind
    ]


def test_rules_are_listed():
    assert "adamw" in fused_adam.RULES and len(set(fused_adam.RULES)) == len(fused_adam.RULES)
    assert [Rule(name).name for name in fused_adam.RULES] == list(fused_adam.RULES)
    with pytest.raises(ValueError, match=", ".join(fused_adam.RULES)):
        Rule("no such rule")


def test_truth_values_by_name():
    assert options_of(bool)
    for name, key in options_of(bool):
        for truth in (True, False, np.True_):
            try:
                rule = Rule(name, **{key: truth})
            except ValueError as error:
                # Some also need another one, but all have the right type.
                assert "expected" in str(error)
            else:
                assert rule.hyper_parameters[key] is bool(truth)
        for wrong in (1, 0.0, "yes", None):
            with pytest.raises(TypeError, match=f"{key} is .*, expected True or False"):
                Rule(name, **{key: wrong})


@pytest.mark.skipif(not options_of(int), reason="no rule counts anything")
def test_whole_numbers_by_name():
    torch = pytest.importorskip("torch")
    for name, key in options_of(int):
        of_libraries = (np.int64(7), np.uint8(7), np.float32(7), torch.tensor(7))
        for number in (0, 7, 7.0, 2**53 + 1, 2**64 - 1, *of_libraries):
            found = Rule(name, **{key: number}).hyper_parameters[key]
            assert type(found) is int and found == int(number)
        for wrong in (-1, 2.5, 2**64, -1.0, 2.0**64, float("nan"), float("inf"), np.int64(-1)):
            with pytest.raises(ValueError, match=f"{key} is .*, expected a whole number from 0"):
                Rule(name, **{key: wrong})
        for wrong in (True, False, np.True_, "7", None, [7]):
            with pytest.raises(TypeError, match=f"{key} is .*, expected a whole number from 0"):
                Rule(name, **{key: wrong})
        copied = pickle.loads(pickle.dumps(Rule(name, **{key: 2**64 - 1})))
        assert copied.hyper_parameters[key] == 2**64 - 1


def with_beta1(beta1: float) -> Rule:
    return Rule("nadam", lr=0.1, beta1=beta1)


def test_scalars_go_on_under_a_schedule():
    """NAdam's product of momenta is that of the steps taken, and ``Flat`` stores it."""
    assert list(with_beta1(0.5).scalars) == ["mu_product"]
    assert with_beta1(0.5).scalars_after(0) == [1.0]
    theta, m, v = np.array([0.5, -0.25, 1.0, -2.0]), np.zeros(4), np.zeros(4)
    twin, without = theta.copy(), theta.copy()
    flat, scalars = Flat(with_beta1(0.5), twin), np.array([1.0])
    lost = {name: state.copy() for name, state in flat.states.items()}
    for t in range(1, 21):
        rule, grad = with_beta1(0.5 + 0.02 * t), theta * t
        rule.step(t, without, grad, *lost.values())
        rule.step(t, theta, grad, m, v, scalars=scalars)
        flat.rule = rule
        flat.step(twin, grad)
        assert theta.tobytes() == twin.tobytes() and scalars.tobytes() == flat.scalars.tobytes()
    assert theta.tobytes() != without.tobytes(), "it makes a difference"


def test_scalars_stay_after_an_error():
    scalars, rule = np.array([0.25]), Rule("nadam")
    with pytest.raises(ValueError, match="grad has 3 elements"):
        rule.step(2, ones(), ones(3), ones(), ones(), scalars=scalars)
    with pytest.raises(ValueError, match="grad_scale` is -1.0"):
        rule.step(2, ones(), ones(), ones(), ones(), scalars=scalars, grad_scale=-1.0)
    assert scalars == [0.25]


def test_a_flat_that_goes_on_from_elsewhere():
    rule = Rule("nadam", lr=0.1)
    whole = Flat(rule, ones(8))
    theta = ones(8)
    for _ in range(5):
        whole.step(theta, theta.copy())
    twin, part = theta.copy(), Flat(rule, theta)
    part.t, part.states = whole.t, {name: state.copy() for name, state in whole.states.items()}
    np.testing.assert_allclose(part.scalars, whole.scalars, rtol=1e-14)
    part.scalars = whole.scalars.copy()
    whole.step(theta, theta.copy())
    part.step(twin, twin.copy())
    assert theta.tobytes() == twin.tobytes() and part.t == 6


@pytest.mark.parametrize("name", ["adamw", "nadam"])
def test_a_flat_of_any_rule_is_copied_with_its_scalars(name):
    first = Flat(Rule(name, lr=0.1), ones())
    first.step(ones(), ones())
    other = pickle.loads(pickle.dumps(first))
    assert other.t == 1 and other.scalars.tobytes() == first.scalars.tobytes()


def test_an_error_of_a_number_itself_comes_through():
    class Broken:
        def __float__(self) -> float:
            raise RuntimeError("its own")

    with pytest.raises(RuntimeError, match="its own"):
        Rule("adam", lr=Broken())
    with pytest.raises(OverflowError):
        Rule("adam", lr=10**400)


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_copies_and_pickles(again):
    opt = Flat(Rule("adamw", lr=0.1 + 0.2, amsgrad=True), ones())
    opt.step(ones(), ones())
    copied = again(opt)
    assert (copied.rule.name, copied.t) == ("adamw", 1)
    assert copied.rule.hyper_parameters == opt.rule.hyper_parameters
    theta, twin = ones(), ones()
    # A shallow copy shares its states with the original, so both step from the same states.
    states = {name: state.copy() for name, state in opt.states.items()}
    opt.step(theta, ones())
    copied.states = states
    copied.step(twin, ones())
    assert theta.tobytes() == twin.tobytes()
