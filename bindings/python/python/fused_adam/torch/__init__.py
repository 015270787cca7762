"""Drop-in replacements for ``torch.optim``: a step is one call into Rust for all parameters.

Each class has the arguments and the defaults of the class of the same name in ``torch.optim``, and
its constructor raises the same errors. A ``state_dict`` goes both ways between the two. Only the
import changes:

    from fused_adam.torch import AdamW

``AdaBound`` and ``Lion`` are not in ``torch.optim``. They follow its conventions. ``from_torch``
takes over a running optimizer.

Each class has five more arguments: ``state_dtype``, the type of the states,
``stochastic_rounding`` for parameters and states of 16 bits, ``state="8bit"`` with
``min_8bit_size`` for states in 8 bits, and ``master_weights`` for parameters of ``bfloat16``. They
are kept by pickle and deepcopy. Only ``master_weights`` is in ``param_groups`` and in a
``state_dict``. ``AdamW8bit`` and similar names are those of bitsandbytes for ``state="8bit"``.

Differences from ``torch.optim`` are in the README, with their reasons. In short: the arithmetic is
that of ``kernels.md``, which is more exact than torch's and has the same bits on every machine.
Parameters are dense CPU tensors of ``float32``, ``float64``, ``bfloat16`` or ``float16``, with any
strides. ``capturable=True``, ``differentiable=True``, sparse gradients and tensors that share
memory raise an error.

Long steps run on torch's intra-op threads, as many as ``torch.set_num_threads`` sets. If
``fused_adam.set_num_threads`` was called, or in a forked process, they run on a separate thread
pool.
"""

from __future__ import annotations

from ._aliases import Adagrad8bit, Adam8bit, AdamW8bit, Lion8bit, RMSprop8bit, SGD8bit
from ._backward import StepInBackward
from ._clip import clip_grad_norm_and_step
from ._optimizers import (
    SGD,
    AdaBound,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    Lion,
    NAdam,
    RAdam,
    RMSprop,
    from_torch,
)
from ._threads import use

__all__ = [
    "AdaBound",
    "Adagrad",
    "Adagrad8bit",
    "Adam",
    "Adam8bit",
    "AdamW",
    "AdamW8bit",
    "Adamax",
    "Lion",
    "Lion8bit",
    "NAdam",
    "RAdam",
    "RMSprop",
    "RMSprop8bit",
    "SGD",
    "SGD8bit",
    "StepInBackward",
    "clip_grad_norm_and_step",
    "from_torch",
]

use()
