#!/usr/bin/env python3
"""Computes the test vectors again and compares every bit.

    python3 check.py [RULE…] [--folder FOLDER] [--steps N]

A RULE is the name of a file, such as `adamw` or `norm`; without one, all are checked. FOLDER has
the files; the default is the folder of this program. `--steps 10` leaves out the results after step
1000, which take the most time. The program needs Python 3.10 and NumPy.

It was written from `kernels.md` and `docs/test-vectors.md`, and shares no code with the crate.
`arithmetic.py` has the common parts, `rules.py` the rules, `storage.py` the element types, and
`vectors.py` reads the files. This file computes all runs.

The first difference of each run is printed, as CASE, RUN, after step T, BUFFER[INDEX]. The exit
status is 1 if there is any.

The functions `pow`, `log` and `exp` are those of the Rust crate `libm`, which this program does not
have. It takes the nearest `f64`. If the published coefficients need a neighbour of this number, one
unit in the last place away, it takes the neighbour and counts it in its output. Nothing else is
taken from the results.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from arithmetic import Array, Decay, gradient_norm, rounded
from rules import RULES, Names, Rule, Values, coefficients, lines_2_to_8
from storage import (
    BITS,
    Blocks,
    Half,
    Plain,
    Split,
    nearest,
    rounded_initial,
    widen,
    without_nan_bits,
)
from vectors import (
    GRADIENTS,
    LENGTH,
    Inputs,
    Malformed,
    Report,
    check_safetensors,
    parse,
    read_inputs,
    read_json,
    word,
)

STEPS = (1, 10, 1000)
FLOAT = {"f32": np.float32, "f64": np.float64}
SUFFIXES = ("", "stochastic", "copy_bf16", "copy_f16", "correction_16", "correction_8")


def words_of(numbers: list[Any], kind: str) -> Array:
    return without_nan_bits(kind, np.array(numbers, FLOAT[kind]).view(BITS[kind][0]))


# Runs. All runs of a case that compute in the same `F` are rows of one array.


@dataclass(frozen=True)
class Run:
    name: str
    theta: str
    grad: str
    state: str
    suffix: str

    @staticmethod
    def of(name: str) -> Run:
        types, _, suffix = name.partition("-")
        theta, grad, state = types.split("/")
        if not {theta, grad} <= set(BITS) or state not in (*BITS, "8bit") or suffix not in SUFFIXES:
            raise Malformed(f"unknown run {name}")
        return Run(name, theta, grad, state, suffix)

    @property
    def f(self) -> str:
        return "f64" if self.theta == "f64" else "f32"

    @property
    def correction(self) -> int:
        """The width of the correction, or 0."""
        return {"correction_16": 16, "correction_8": 8}.get(self.suffix, 0)

    def theta_format(self) -> Any:
        if self.correction > 0:
            return Split(self.correction)
        if self.theta in FLOAT:
            return Plain(self.theta)
        return Half(self.theta, 0, self.suffix == "stochastic")

    def state_format(self, name: str, number: int) -> Any:
        if self.state in FLOAT:
            return Plain(self.state)
        if self.state == "8bit":
            return Blocks(name, number, LENGTH)
        return Half(self.state, number + 1, self.suffix == "stochastic")

    def initial_theta(self, inputs: Inputs) -> Array:
        return inputs["f32" if self.correction > 0 else self.theta]["theta"]

    def initial_state(self, h: Names) -> Array:
        kind = "f32" if self.state == "8bit" else self.state
        x = rounded_initial(kind, getattr(h, "initial_accumulator_value", 0.0))
        return np.full(LENGTH, x)


class Buffer:
    """θ or one state of all rows. Rows with the same format are stored together."""

    def __init__(self, formats: list[Any], initial: list[Array]) -> None:
        groups: dict[str, tuple[Any, list[int]]] = {}
        for row, form in enumerate(formats):
            groups.setdefault(f"{type(form)} {vars(form)}", (form, []))[1].append(row)
        self.groups = list(groups.values())
        self.store(np.stack(initial), 0)

    def store(self, x: Array, t: int) -> None:
        """Stores the numbers. `loaded` is what the next step computes with."""
        self.stored = [form.store(x[rows], t) for form, rows in self.groups]
        self.loaded = np.empty_like(x)
        for (form, rows), stored in zip(self.groups, self.stored, strict=True):
            self.loaded[rows] = form.load(stored)

    def words(self, row: int) -> list[Array]:
        """The words of a row, and those of its correction."""
        for (form, rows), stored in zip(self.groups, self.stored, strict=True):
            if row in rows:
                return [x[rows.index(row)] for x in form.words(stored)]
        raise IndexError(row)


class Rows:
    """Runs of one case with the same `F`."""

    def __init__(self, rule: Rule, h: Names, runs: list[Run], inputs: Inputs) -> None:
        self.rule, self.h, self.runs = rule, h, runs
        self.theta = Buffer(
            [run.theta_format() for run in runs], [run.initial_theta(inputs) for run in runs]
        )
        self.states = {
            name: Buffer(
                [run.state_format(name, number) for run in runs],
                [run.initial_state(h) for run in runs],
            )
            for number, name in enumerate(rule.states(h))
        }
        gradients = [inputs[run.grad]["grad"] for run in runs]
        self.grad = [np.stack([grad[i] for grad in gradients]) for i in range(GRADIENTS)]

    def step(self, t: int, c: Names) -> None:
        old = {name: buffer.loaded for name, buffer in self.states.items()}
        g = self.grad[(t - 1) % GRADIENTS]
        theta, new = lines_2_to_8(self.rule, self.h, c, self.theta.loaded, g, old)
        assert all(x.dtype == g.dtype for x in [theta, *new.values()])
        self.theta.store(theta, t)
        for name, buffer in self.states.items():
            buffer.store(new[name], t)

    def results(self, row: int) -> dict[str, tuple[str, Array]]:
        """The kind of words and the words of each buffer of a run."""
        run = self.runs[row]
        theta, *correction = self.theta.words(row)
        results = {"theta": (run.theta, theta)}
        if correction:
            results["correction"] = ("correction", correction[0])
        for name, buffer in self.states.items():
            results[name] = (run.state, buffer.words(row)[0])
        if run.suffix.startswith("copy"):
            kind = run.suffix.removeprefix("copy_")
            copy = nearest(kind, self.theta.loaded[row])
            results["copy"] = (kind, without_nan_bits(kind, copy))
        return results


# Coefficients.


def coefficient_words(values: list[Values], kind: str) -> dict[str, Array]:
    """The words of each coefficient, one for each step, under the published names."""
    result = {}
    for name, x in values[0].items():
        if isinstance(x, Decay):
            numbers = [FLOAT[kind](v[name].rate) for v in values]
            result[f"RATE {name}"] = words_of(numbers, kind)
        elif name.isupper():
            result[name] = words_of([FLOAT[kind](v[name]) for v in values], kind)
    return result


def all_steps(where: str, words: Array) -> Array:
    """The last word holds for all later steps."""
    if not 1 <= len(words) <= STEPS[-1]:
        raise Malformed(f"{where}: {len(words)} words")
    return np.concatenate([words, np.repeat(words[-1:], STEPS[-1] - len(words))])


def with_libm(rule: Rule, h: Names, published: dict[str, str], report: Report) -> list[Values]:
    """The coefficients of all steps, with the results of `libm` that the published ones need."""
    tries = [coefficients(rule, h, STEPS[-1], ulps) for ulps in ((0, 1, -1) if rule.libm else (0,))]
    equal = np.ones((len(tries), STEPS[-1]), bool)  # all coefficients of a step are equal
    for i, values in enumerate(tries):
        for name, words in coefficient_words(values, "f64").items():
            equal[i] &= words == all_steps(name, parse(name, "f64", published[name]))
    if rule.libm == "once":
        equal[:] = equal.all(axis=1, keepdims=True)
    choice = np.argmax(equal, axis=0)  # the first one, if none is equal
    changed = np.count_nonzero(choice)
    report.counts["libm"] += min(changed, 1) if rule.libm == "once" else changed
    return [tries[i][t] for t, i in enumerate(choice)]


def check_coefficients(case: Values, rule: Rule, h: Names, report: Report) -> list[Values]:
    published = case["coefficients"]
    if set(published) != set(FLOAT):
        raise Malformed(f"{case['name']}: coefficients of {sorted(published)}")
    names = set(coefficient_words(coefficients(rule, h, 1), "f64"))
    for kind in FLOAT:
        if set(published[kind]) != names:
            found = sorted(published[kind])
            raise Malformed(f"{case['name']}, {kind}: coefficients {found}, not {sorted(names)}")
    values = with_libm(rule, h, published["f64"], report)
    for kind in FLOAT:
        for name, own in coefficient_words(values, kind).items():
            where = f"{case['name']}, coefficients of {kind}, {name}"
            tensor = f"{case['name']}/coefficients/{kind}/{name}"
            expected = all_steps(where, parse(where, kind, published[kind][name]))
            count = len(published[kind][name].split(" "))
            report.expect(tensor, where, kind, own[:count], published[kind][name])
            later = np.flatnonzero(own[count:] != expected[count:])
            if len(later) > 0:
                i = count + int(later[0])
                report.differences.append(
                    f"{where}[{i}]: got {word(own[i])}, expected {word(expected[i])}, the last one"
                )
    return values


# Cases.


def options(case: Values, f: type) -> Values:
    """SCALE and BOUND, which are not published."""
    scale, bound = case.get("grad_scale"), case.get("clip_value")
    if bound is not None and scale is None:
        scale = 1.0
    return {
        "SCALE": None if scale is None else f(scale),
        "BOUND": None if bound is None else f(bound),
    }


def check_case(case: Values, rule: Rule, inputs: Inputs, steps: int, report: Report) -> None:
    required = {"name", "rule", "hyper_parameters", "coefficients", "runs"}
    if not required <= set(case) <= required | {"grad_scale", "clip_value"}:
        raise Malformed(f"{case['name']}: keys {sorted(case)}")
    h = SimpleNamespace(**case["hyper_parameters"])
    values = check_coefficients(case, rule, h, report)
    runs = [Run.of(name) for name in case["runs"]]
    wrong: set[str] = set()  # the runs with a difference
    for kind, f in FLOAT.items():
        some = [run for run in runs if run.f == kind]
        if not some:
            continue
        rows = Rows(rule, h, some, inputs)
        for t in range(1, steps + 1):
            c = rounded(values[t - 1], f)
            vars(c).update(options(case, f))
            rows.step(t, c)
            if t in STEPS:
                for row, run in enumerate(some):
                    results = rows.results(row)
                    if hasattr(c, "mu_product"):
                        results["mu_product"] = ("f64", words_of([c.mu_product], "f64"))
                    check_results(case, run, t, results, wrong, report)
    report.counts["cases"] += 1
    report.counts["runs"] += len(runs)


def check_results(
    case: Values,
    run: Run,
    t: int,
    results: dict[str, tuple[str, Array]],
    wrong: set[str],
    report: Report,
) -> None:
    where = f"{case['name']}, {run.name}, after step {t}"
    published = case["runs"][run.name]
    if set(published) != {str(step) for step in STEPS}:
        raise Malformed(f"{case['name']}, {run.name}: steps {sorted(published)}")
    published = published[str(t)]
    if set(published) != set(results):
        raise Malformed(f"{where}: {sorted(published)}, expected {sorted(results)}")
    before = len(report.differences)
    for name, (kind, words) in results.items():
        tensor = f"{case['name']}/{run.name}/{t}/{name}"
        if not report.expect(tensor, f"{where}, {name}", kind, words, published[name]):
            # Keep only the first difference of a run.
            del report.differences[before + (run.name not in wrong) :]
            before = len(report.differences)
            wrong.add(run.name)


def check_norm(case: Values, report: Report) -> None:
    name = case["name"]
    if set(case) != {"name", "gradients", "two_norm", "inf_norm", "nonfinite"}:
        raise Malformed(f"{name}: keys {sorted(case)}")
    numbers: list[float] = []
    for i, gradient in enumerate(case["gradients"]):
        kind = gradient["type"]
        words = parse(f"{name}, gradient {i}", kind, gradient["bits"])
        report.add_tensor(f"norm/{name}/{i}", kind, words)
        numbers += widen(kind, words).astype(np.float64).tolist()
    two_norm, inf_norm, nonfinite = gradient_norm(numbers)
    for key, norm in (("two_norm", two_norm), ("inf_norm", inf_norm)):
        got = words_of([norm], "f64")
        report.expect(f"norm/{name}/{key}", f"{name}, {key}", "f64", got, case[key])
    if case["nonfinite"] != nonfinite:
        expected = case["nonfinite"]
        report.differences.append(f"{name}, nonfinite: got {nonfinite}, expected {expected}")
    report.counts["cases"] += 1


def check_file(name: str, folder: Path, inputs: Inputs, steps: int, report: Report) -> list[Values]:
    """Checks one JSON file, and returns the cases of a rule."""
    if name == "norm":
        for case in read_json(folder / "norm.json", {"format", "cases"})["cases"]:
            check_norm(case, report)
        return []
    content = read_json(folder / f"{name}.json", {"format", "rule", "cases"})
    for case in content["cases"]:
        if content["rule"] != name or case["rule"] != name:
            raise Malformed(f"{case['name']}: rule {case['rule']}")
        check_case(case, RULES[name], inputs, steps, report)
    return content["cases"]


# The program.


def guarded(label: str, report: Report, function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls the function and prints the line of this file. A malformed file is a difference."""
    result = None
    try:
        result = function(*arguments, report)
    except Malformed as error:
        report.differences.append(f"malformed: {error}")
    except Exception as error:  # whatever a damaged file leads to
        report.differences.append(f"malformed: {type(error).__name__}: {error}")
    counts = report.counts
    line = [f"{counts[k]} {k}" for k in ("cases", "runs", "words", "tensors") if counts[k] > 0]
    if counts["libm"] > 0:
        line.append(f"{counts['libm']} of libm next to the nearest f64")
    line.append(f"DIFFERENCES: {len(report.differences)}" if report.differences else "equal")
    print(f"{label}: {', '.join(line)}", *report.differences, sep="\n    ", flush=True)
    return result


def main() -> int:
    names = [*RULES, "norm"]
    parser = argparse.ArgumentParser(description="Computes the test vectors again.")
    parser.add_argument("rule", nargs="*", help=f"one of {', '.join(names)}; default: all")
    parser.add_argument("--folder", type=Path, default=Path(__file__).resolve().parent)
    parser.add_argument("--steps", type=int, default=STEPS[-1], help="the last step to compute")
    arguments = parser.parse_args()
    unknown = set(arguments.rule) - set(names)
    if unknown:
        parser.error(f"unknown rule {', '.join(sorted(unknown))}")
    if not 1 <= arguments.steps <= STEPS[-1]:
        parser.error(f"--steps is from 1 to {STEPS[-1]}")
    folder, steps = arguments.folder, arguments.steps
    np.seterr(all="ignore")

    reports = [Report()]
    inputs = guarded("inputs.json", reports[0], read_inputs, folder)
    if inputs is None:
        return 1
    cases: list[Values] = []
    complete = not arguments.rule and steps == STEPS[-1]
    for name in dict.fromkeys(arguments.rule or names):
        report = Report()
        some = guarded(f"{name}.json", report, check_file, name, folder, inputs, steps)
        complete = complete and some is not None
        cases += some or []
        reports.append(report)
    whole = Report()
    for report in reports:
        whole.tensors |= report.tensors
    guarded("vectors.safetensors", whole, check_safetensors, folder, cases, complete)
    if any(report.differences for report in [*reports, whole]):
        return 1
    print(f"All words are equal{'' if complete else ', as far as they were checked'}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
