"""Classes with states in 8 bits, under the names that they have in bitsandbytes and torchao."""

from __future__ import annotations

from typing import Any

from ._optimizers import SGD, Adagrad, Adam, AdamW, Lion, RMSprop


class Adam8bit(Adam):
    """Implements Adam with states in 8 bits: ``Adam`` with ``state="8bit"``.

    Args:
        params: as for ``Adam``.
        arguments: further positional arguments of ``Adam``.
        options: further keyword arguments of ``Adam``.
    """

    def __init__(self, params: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(params, *arguments, **{"state": "8bit", **options})


class AdamW8bit(AdamW):
    """Implements AdamW with states in 8 bits: ``AdamW`` with ``state="8bit"``.

    Args:
        params: as for ``AdamW``.
        arguments: further positional arguments of ``AdamW``.
        options: further keyword arguments of ``AdamW``.
    """

    def __init__(self, params: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(params, *arguments, **{"state": "8bit", **options})


class Lion8bit(Lion):
    """Implements Lion with states in 8 bits: ``Lion`` with ``state="8bit"``.

    Args:
        params: as for ``Lion``.
        arguments: further positional arguments of ``Lion``.
        options: further keyword arguments of ``Lion``.
    """

    def __init__(self, params: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(params, *arguments, **{"state": "8bit", **options})


class RMSprop8bit(RMSprop):
    """Implements RMSprop with states in 8 bits: ``RMSprop`` with ``state="8bit"``.

    Args:
        params: as for ``RMSprop``.
        arguments: further positional arguments of ``RMSprop``.
        options: further keyword arguments of ``RMSprop``.
    """

    def __init__(self, params: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(params, *arguments, **{"state": "8bit", **options})


class Adagrad8bit(Adagrad):
    """Implements Adagrad with states in 8 bits: ``Adagrad`` with ``state="8bit"``.

    Args:
        params: as for ``Adagrad``.
        arguments: further positional arguments of ``Adagrad``.
        options: further keyword arguments of ``Adagrad``.
    """

    def __init__(self, params: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(params, *arguments, **{"state": "8bit", **options})


class SGD8bit(SGD):
    """Implements SGD with states in 8 bits: ``SGD`` with ``state="8bit"``.

    Args:
        params: as for ``SGD``.
        arguments: further positional arguments of ``SGD``.
        options: further keyword arguments of ``SGD``.
    """

    def __init__(self, params: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(params, *arguments, **{"state": "8bit", **options})
