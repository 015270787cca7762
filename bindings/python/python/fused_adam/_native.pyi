from collections.abc import Sequence
from typing import Any, final

__all__ = [
    "RULES",
    "Rule",
    "__version__",
    "get_num_threads",
    "set_num_threads",
    "torch_step",
    "use_torch_threads",
]

RULES: tuple[str, ...]
__version__: str

@final
class Rule:
    """An update rule with its hyper-parameters, created by name."""

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
    @property
    def hyper_parameters(self) -> dict[str, Any]: ...
    def step(
        self,
        t: int,
        theta: Any,
        grad: Any,
        *states: Any,
        scalars: Any = None,
        grad_scale: float = 1.0,
        clip_value: float | None = None,
        seed: int | None = None,
        offset: int = 0,
        backend: str | None = None,
    ) -> None: ...

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
) -> tuple[list[tuple[Any, dict[str, Any]]], float | None, bool]: ...
