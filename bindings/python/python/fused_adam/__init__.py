"""Optimizer steps of the Adam family in one fused pass, in place, with the same bits everywhere.

``Rule`` takes steps on arrays whose states you keep; ``Flat`` keeps them for you. ``RULES`` has the
names of all rules. Arrays are NumPy's, or
whatever offers DLPack or the buffer protocol on the CPU. ``fused_adam.torch`` has torch's optimizers.

>>> import numpy as np
>>> theta, grad = np.full(4, 0.5, np.float32), np.ones(4, np.float32)
>>> opt = Flat(Rule("adamw", lr=1e-2), theta)
>>> opt.step(theta, grad)
>>> theta.round(4).tolist() == np.full(4, 0.49, np.float32).round(4).tolist()
True
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ._native import RULES, Rule, __version__, get_num_threads, set_num_threads

__all__ = ["RULES", "Flat", "Rule", "__version__", "get_num_threads", "set_num_threads"]


class Flat:
    """A rule with the states of one array, and the number of steps taken.

    ``like`` is an array of the shape and type of the parameter. The states are NumPy arrays of that
    shape, in the attribute ``states`` by name, of ``dtype`` (default: the parameter's). ``rule`` may be
    changed between steps, for another ``lr``, say.

    ``scalars`` is an array of the numbers that ``rule.scalars`` names, after the steps taken: NAdam's
    product of all momenta is one. To go on from elsewhere set ``t``, which sets them to what they are
    if all steps were taken with this rule; then, if they were not, ``scalars``.
    """

    def __init__(self, rule: Rule, like: Any, dtype: Any = None) -> None:
        self.rule = rule
        self.t = 0
        like = np.asarray(like)
        self.states = {
            name: np.full_like(like, initial, dtype=dtype, subok=False)
            for name, initial in zip(rule.states, rule.initial)
        }

    @property
    def t(self) -> int:
        """The number of steps taken."""
        return self._t

    @t.setter
    def t(self, t: int) -> None:
        self._t = t
        self.scalars = np.array(self.rule.scalars_after(t), np.float64)

    def step(self, theta: Any, grad: Any, **options: Any) -> None:
        """Take the next step in place. ``options`` are those of ``Rule.step``."""
        states = self.states.values()
        self.rule.step(self.t + 1, theta, grad, *states, scalars=self.scalars, **options)
        self._t += 1
