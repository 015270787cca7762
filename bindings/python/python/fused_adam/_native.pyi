from collections.abc import Callable, Sequence
from typing import Any, final

__all__ = [
    "RULES",
    "Rule",
    "__version__",
    "failed_step",
    "get_num_threads",
    "join_weights",
    "set_num_threads",
    "split_weights",
    "torch_step",
    "use_torch_threads",
]

RULES: tuple[str, ...]
__version__: str

@final
class Rule:
    """An update rule with its hyper-parameters, created by name.

    ``RULES`` lists the names. A rule does not change. For another ``lr``, make a new one:
    ``rule.replace(lr=0.1)``.
    """

    def __new__(cls, name: str, /, **hyper_parameters: float | bool) -> Rule: ...
    def __getnewargs_ex__(self) -> tuple[tuple[str], dict[str, Any]]: ...
    @property
    def name(self) -> str: ...
    @property
    def states(self) -> Sequence[str]: ...
    @property
    def initial(self) -> Sequence[float]: ...
    @property
    def scalars(self) -> Sequence[str]: ...
    def scalars_after(self, t: int) -> list[float]: ...
    def replace(self, **changes: float | bool) -> Rule:
        """Return a copy with some hyper-parameters changed."""
    @property
    def hyper_parameters(self) -> dict[str, Any]: ...
    def step(
        self,
        t: int,
        theta: Any,
        grad: Any,
        *states: Any,
        scalars: Any = None,
        correction: Any = None,
        grad_scale: float = 1.0,
        clip_value: float | None = None,
        seed: int | None = None,
        offset: int = 0,
        backend: str | None = None,
    ) -> None:
        """Perform step number ``t`` in place.

        All arrays are contiguous, of one shape and in the same memory order. A state may also be
        in 8 bits: an array of ``uint8``, as ``fused_adam.encode_state`` returns it. Then the others
        are in row-major order.

        Args:
            t: the step number, 1 for the first step.
            theta: the parameter. It is updated.
            grad: its gradient.
            *states: the states, in the order of ``states``. They are updated. ``m`` and ``v`` are
                torch's ``exp_avg`` and ``exp_avg_sq``.
            scalars: an array of ``float64`` with the scalars before the step, in the order of
                ``scalars``. It is updated. Default: they follow from ``t``.
            correction: makes ``theta``, of ``bfloat16``, the upper part of split master weights: an
                array of ``uint16``, or of ``uint8`` for 24 bits in all, at first of zeros. It is
                updated. One of 8 bits is rounded stochastically, by default with the seed 0.
            grad_scale: multiplies the gradient. Finite, at least 0.
            clip_value: clamps each element of the gradient to ± this bound, after ``grad_scale``.
                Finite, above 0. Default: no bound.
            seed: turns on stochastic rounding of 16-bit arrays. The same seed gives the same bits.
                States in 8 bits are always rounded stochastically, by default with the seed 0.
                Default: rounding to nearest.
            offset: the index of the first element in the whole array, if the arrays are a shard.
                The shard then has the random bits of the whole. It matters only with ``seed``,
                with a correction of 8 bits, or with states in 8 bits. With these it is a multiple
                of 32.
            backend: ``"auto"``, ``"scalar"``, ``"wide"``, ``"native"``, ``"avx2"``, ``"avx512"`` or
                ``"neon"``. All give the same bits. Default: ``"auto"``.
        """

    def encode_state(self, state: str, elements: Any, blocks: Any) -> None:
        """Encode ``elements``, an array of ``float32``, in the array ``blocks`` of ``uint8``.

        ``fused_adam.encode_state`` creates ``blocks``.
        """
    def decode_state(self, state: str, blocks: Any, elements: Any) -> None:
        """Decode ``blocks``, an array of ``uint8``, to the array ``elements`` of ``float32``.

        ``fused_adam.decode_state`` creates ``elements``.
        """

def split_weights(weights: Any, theta: Any, correction: Any) -> None:
    """Split master weights in their nearest ``bfloat16`` and a correction.

    All arrays are contiguous, of one shape and in the same memory order.

    Args:
        weights: the master weights, an array of ``float32``.
        theta: an array of ``bfloat16``, which is set.
        correction: an array of ``uint16``, or of ``uint8``, which is set. One of 8 bits has the
            nearest 24 bits.
    """

def join_weights(theta: Any, correction: Any, weights: Any) -> None:
    """Set ``weights``, an array of ``float32``, to the master weights. Exact.

    Args:
        theta: an array of ``bfloat16``.
        correction: its correction, an array of ``uint16`` or of ``uint8``.
        weights: an array of ``float32``, which is set.
    """

def failed_step(reason: str) -> bytes: ...
def get_num_threads() -> int: ...
def set_num_threads(n: int) -> None: ...
def use_torch_threads(parallel_for: int, get_num_threads: int) -> None: ...
def torch_step(
    kind: str,
    groups: list[dict[str, Any]],
    state: dict[Any, dict[str, Any]],
    fresh: list[Any],
    *,
    loss_scale: float = 1.0,
    clip_norm: float | None = None,
    inf_norm: bool = False,
    skip_nonfinite: bool = False,
    seed: int | None = None,
    all_gather: Callable[[bytes], tuple[bytes, list[int]]] | None = None,
    counts: Callable[[Any], bool] | None = None,
) -> tuple[list[tuple[Any, dict[str, Any]]], float | None, bool]: ...
