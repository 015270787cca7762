"""Optimizers of the Adam family: one fused pass, in place, with the same bits on every machine.

``Rule`` takes steps on arrays whose states you keep. ``Flat`` keeps the states of one array.
``RULES`` lists the names of all rules. An array is a NumPy array, or any object on the CPU with
DLPack or the buffer protocol. ``fused_adam.torch`` has the optimizers for torch; import it
explicitly.

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

from ._native import (
    RULES,
    Rule,
    __version__,
    get_num_threads,
    join_weights,
    set_num_threads,
    split_weights,
)

__all__ = [
    "RULES",
    "Flat",
    "Rule",
    "__version__",
    "decode_state",
    "encode_state",
    "get_num_threads",
    "join_weights",
    "set_num_threads",
    "split_weights",
]


def encode_state(rule: Rule, state: str, array: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return a state in 8 bits, which ``Rule.step`` takes. Rounds to nearest.

    Args:
        rule: the rule.
        state: the name of the state, one of ``rule.states``.
        array: the elements of the state.

    Returns:
        An array of the shape (⌈elements / 32⌉, 33): 32 codes and their scale in each row.
    """
    elements = np.ascontiguousarray(array, np.float32)
    blocks = np.zeros((-(-elements.size // 32), 33), np.uint8)
    rule.encode_state(state, elements, blocks)
    return blocks


def decode_state(
    rule: Rule, state: str, blocks: Any, shape: int | tuple[int, ...]
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the elements of a state in 8 bits.

    Args:
        rule: the rule.
        state: the name of the state, one of ``rule.states``.
        blocks: the state in 8 bits.
        shape: the shape of the elements.
    """
    elements = np.zeros(shape, np.float32)
    rule.decode_state(state, blocks, elements)
    return elements


class Flat:
    """Implements a rule for one array. Keeps its states and the number of steps taken.

    Args:
        rule: the rule. You may assign another one to ``rule`` between steps, for example to change
            ``lr``: ``opt.rule = opt.rule.replace(lr=0.1)``.
        like: an array with the shape and the dtype of the parameter.
        dtype: the dtype of the states. Default: the dtype of ``like``.

    ``states`` is a dict from the name of each state to a NumPy array of the shape of ``like``. The
    states ``m`` and ``v`` are torch's ``exp_avg`` and ``exp_avg_sq``.

    ``scalars`` is an array of the values that ``rule.scalars`` names, after the steps taken so far.
    NAdam's product of all momenta is one of them.

    To resume a run, set ``t``. This sets ``scalars`` to their values after ``t`` steps with the
    current rule. If earlier steps used other hyper-parameters, set ``scalars`` afterwards.
    """

    def __init__(self, rule: Rule, like: Any, dtype: Any = None) -> None:
        if not isinstance(rule, Rule):
            given = f"Rule({rule!r})" if isinstance(rule, str) else "a fused_adam.Rule"
            raise TypeError(f"rule is a {type(rule).__name__}, expected {given}")
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
        """Perform a single optimization step in place.

        Args:
            theta: the parameter. It is updated in place, like the states.
            grad: its gradient.
            **options: keyword arguments of ``Rule.step``, except ``scalars``:

                - ``correction`` makes ``theta``, of ``bfloat16``, the upper part of split master
                  weights. Default: none.
                - ``grad_scale`` multiplies the gradient. Default: 1.
                - ``clip_value`` then clamps each element of it to ± this bound. Default: no bound.
                - ``seed`` turns on stochastic rounding of 16-bit arrays. Default: to nearest.
                - ``offset`` is the index of the first element, if the arrays are a shard. It
                  matters only where random bits are used. Default: 0.
                - ``backend`` is the name of a backend. Default: ``"auto"``.
        """
        states = self.states.values()
        self.rule.step(self.t + 1, theta, grad, *states, scalars=self.scalars, **options)
        self._t += 1
