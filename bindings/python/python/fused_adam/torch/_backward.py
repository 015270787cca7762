"""Steps during the backward pass, so that not all gradients exist at once."""

from __future__ import annotations

import gc
import operator
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace, TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from ._base import Fused

_queue_callback: Any = torch.autograd.Variable._execution_engine.queue_callback

#: Stands for a parameter that does not take part in a step.
_ABSENT = SimpleNamespace(grad=None)


class StepInBackward:
    """Steps the parameters of ``optimizer`` during each backward pass, in batches.

    As soon as gradients of ``batch_bytes`` are complete, one call into Rust steps their parameters,
    and the gradients are freed. At the end of the pass it calls ``optimizer.step``, which steps
    what is left. So the gradients of a large model never exist all at once. The result has the bits
    of ``optimizer.step`` after the backward pass.

        optimizer = AdamW(model.parameters())
        StepInBackward(optimizer)
        for batch in data:
            loss(model(batch)).backward()    # also takes the step
            scheduler.step()

    ``optimizer.zero_grad`` and ``optimizer.step`` are no longer needed: they find no gradients. To
    sum the gradients of several passes, run all but the last of them under ``accumulate``.

    Every backward pass that reaches a parameter steps it. Where only some of them should, as in a
    GAN, call ``requires_grad_(False)`` on the others. Run one backward pass at a time for each
    optimizer.

    An error in a step is raised by ``backward``. Nothing of that batch has changed, but earlier
    batches of the pass have taken their step. The gradients that the failed pass has completed are
    dropped, whatever the error was.

    - Step post hooks of the optimizer run at the end of the pass. Step pre hooks are refused.
    - ``torch.amp.GradScaler`` and clipping by the norm need all gradients before the step.
      ``clip_grad_norm_and_step`` is refused, and ``scaler.step`` fails. ``clip_grad_norm_`` finds
      no gradients and has no effect.
    - ``fully_shard`` (FSDP2) works. ``DistributedDataParallel`` and FSDP1 are refused: they reduce
      gradients later.
    - With ``checkpoint(..., use_reentrant=True)`` each checkpointed segment is a backward pass of
      its own, so a parameter that several of them share takes several steps.
      ``use_reentrant=False`` has no such limit.
    - Whether tensors of different parameters overlap in memory is checked within a batch only.

    Args:
        optimizer: an optimizer of ``fused_adam.torch``. Its parameters get hooks, also those of
            groups that are added later.
        batch_bytes: the size of the parameters that a batch has at least. 0 steps each parameter
            on its own, which is slow for many small parameters. Default: 4 MiB.

    Raises:
        TypeError: if ``optimizer`` is of another class, or ``batch_bytes`` is not a whole number.
        ValueError: if ``batch_bytes`` is below 0, if the optimizer already has a
            ``StepInBackward``, or if it lists a parameter twice.
        RuntimeError: if the optimizer has a step pre hook, or if its parameters are those of
            ``DistributedDataParallel`` or of FSDP1.
    """

    def __init__(self, optimizer: Fused, *, batch_bytes: int = 2**22) -> None:
        if not isinstance(optimizer, Fused):
            name = type(optimizer).__name__
            raise TypeError(f"optimizer is a {name}, expected one of fused_adam.torch")
        try:
            self._limit = operator.index(batch_bytes)
        except TypeError:
            kind = type(batch_bytes).__name__
            raise TypeError(f"batch_bytes is a {kind}, expected a whole number") from None
        if self._limit < 0:
            raise ValueError(f"batch_bytes is {batch_bytes}, expected at least 0")
        hooks = optimizer._optimizer_step_pre_hooks.values()
        if any(isinstance(getattr(hook, "__self__", None), StepInBackward) for hook in hooks):
            raise ValueError("the optimizer already has a StepInBackward, expected one")
        self._optimizer = optimizer
        #: The parameters of the next batch, by their number in ``_places``.
        self._pending: dict[int, Tensor] = {}
        #: The group and the position in it of each parameter that has a hook.
        self._places: list[tuple[int, int]] = []
        self._bytes = 0
        self._is_queued = False
        self._accumulates = False
        self._checks_wrappers = True
        self._handles: list[Any] = []
        self._refuse()
        _refuse_wrappers(optimizer)
        self._handles.append(optimizer.register_step_pre_hook(self._before_step))
        self._add_param_group = optimizer.add_param_group
        optimizer.__dict__["add_param_group"] = self._add_and_watch
        try:
            for number in range(len(optimizer.param_groups)):
                self._watch(number)
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Remove the hooks. Backward passes then accumulate gradients again."""
        for handle in self._handles:
            handle.remove()
        if self._handles:
            self._optimizer.__dict__.pop("add_param_group", None)
        self._handles.clear()
        self._pending.clear()

    def __enter__(self) -> StepInBackward:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.remove()

    @contextmanager
    def accumulate(self) -> Iterator[None]:
        """Return a context in which backward passes take no step and add up their gradients.

        The next pass outside of it adds its gradients and takes the step. It also steps parameters
        that have gradients from within the context only.
        """
        before, self._accumulates = self._accumulates, True
        try:
            yield
        finally:
            self._accumulates = before

    # Hooks

    def _add_and_watch(self, param_group: dict[str, Any]) -> None:
        self._add_param_group(param_group)
        self._watch(len(self._optimizer.param_groups) - 1)

    def _watch(self, number: int) -> None:
        """Register the hooks of a parameter group."""
        for position, param in enumerate(self._optimizer.param_groups[number]["params"]):
            if not (param.is_floating_point() or param.is_complex()):
                continue
            hook = self._hook(len(self._places), _bytes_of(param))
            self._places.append((number, position))
            # A frozen parameter may be unfrozen later.
            frozen = not param.requires_grad
            if frozen:
                param.requires_grad_(True)
            try:
                self._handles.append(param.register_post_accumulate_grad_hook(hook))
            finally:
                if frozen:
                    param.requires_grad_(False)

    def _hook(self, number: int, size: int) -> Callable[[Tensor], None]:
        """Return the hook of a parameter. It is called once the gradient is complete."""
        pending, limit = self._pending, self._limit

        def collect(param: Tensor) -> None:
            if self._accumulates:
                return
            pending[number] = param
            if not self._is_queued:
                self._is_queued = True
                _queue_callback(_Pass(self))
            self._bytes += size
            if self._bytes >= limit:
                self._step_batch()

        return collect

    def _before_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self._refuse()

    # Steps

    def _refuse(self) -> None:
        """Raise an error for what needs all gradients before the step."""
        optimizer = self._optimizer
        if optimizer._has_duplicates:
            raise ValueError(
                "a parameter is listed twice in its group, expected once for StepInBackward"
            )
        for hook in optimizer._optimizer_step_pre_hooks.values():
            if hook != self._before_step:
                name = getattr(hook, "__qualname__", type(hook).__name__)
                raise RuntimeError(
                    f"the optimizer has the step pre hook {name}, which would see a part of the "
                    "gradients, expected none with StepInBackward"
                )
        if optimizer._request is not None:
            raise RuntimeError(
                "clip_grad_norm_and_step needs all gradients before the step, expected no "
                "StepInBackward"
            )
        if getattr(optimizer, "found_inf", None) is not None:
            raise RuntimeError(
                "a GradScaler needs all gradients before the step, expected no StepInBackward"
            )

    def _take_pending(self) -> list[tuple[int, Tensor]]:
        taken = list(self._pending.items())
        self._pending.clear()
        self._bytes = 0
        return taken

    def _is_there(self, number: int, param: Tensor) -> bool:
        """Whether a parameter is where it was. Otherwise user code has changed the groups."""
        group, position = self._places[number]
        groups = self._optimizer.param_groups
        if group >= len(groups):
            return False
        params = groups[group]["params"]
        return position < len(params) and params[position] is param

    def _step_batch(self) -> None:
        """Step the parameters that are pending, and free their gradients."""
        optimizer = self._optimizer
        # The rest is left to the end of the pass.
        taken = [(number, p) for number, p in self._take_pending() if self._is_there(number, p)]
        try:
            self._refuse_once()
            request = {} if optimizer._seed is None else {"seed": optimizer._seed}
            parts: dict[int, list[Tensor]] = {}
            for number, param in taken:
                parts.setdefault(self._places[number][0], []).append(param)
            groups = [
                {**optimizer.param_groups[group], "params": part} for group, part in parts.items()
            ]
            with torch.no_grad():
                try:
                    optimizer._take(groups, request)
                except Exception:
                    is_done = False
                else:
                    is_done = True
                if not is_done:
                    # The same error again, now with the positions in the whole optimizer.
                    optimizer._take(self._among_all(taken), request)
            # For schedulers, which warn if no step was taken.
            optimizer._opt_called = True  # type: ignore[attr-defined]
        finally:
            for _, param in taken:
                param.grad = None

    def _among_all(self, taken: list[tuple[int, Tensor]]) -> list[dict[str, Any]]:
        """All groups, where each parameter that is not stepped has no gradient."""
        chosen = {id(param) for _, param in taken}
        return [
            {**group, "params": [p if id(p) in chosen else _ABSENT for p in group["params"]]}
            for group in self._optimizer.param_groups
        ]

    def _finish(self) -> None:
        """Take the step of all that is left at the end of a backward pass."""
        self._is_queued = False
        if not self._handles:
            return
        if torch._C._current_autograd_node() is not None:
            # The pass ran within another one, in which other gradients may still be incomplete.
            self._step_batch()
            return
        self._take_pending()
        try:
            self._refuse_once()
            self._optimizer.step()
        finally:
            for group in self._optimizer.param_groups:
                for param in group["params"]:
                    param.grad = None

    def _refuse_once(self) -> None:
        self._refuse()
        # A model may be wrapped after its optimizer was made.
        if self._checks_wrappers:
            _refuse_wrappers(self._optimizer)
            self._checks_wrappers = False

    def _drop(self) -> None:
        """Drop the gradients that a pass that failed has completed."""
        self._is_queued = False
        for _, param in self._take_pending():
            param.grad = None


class _Pass:
    """The callback of autograd at the end of a backward pass.

    Only autograd holds it, so it is deleted without a call if the pass fails.
    """

    def __init__(self, helper: StepInBackward) -> None:
        self._helper = helper
        self._calls = 0

    def __call__(self) -> None:
        self._calls += 1
        if self._calls == 1:
            # Once more, after the callbacks that are already there: that of FSDP2 has gradients.
            _queue_callback(self)
        else:
            self._helper._finish()

    def __del__(self) -> None:
        if self._calls < 2:
            self._helper._drop()


def _bytes_of(param: Tensor) -> int:
    """The size of a parameter, or of the shard of a ``DTensor`` that this process has."""
    local = getattr(param, "_local_tensor", param)
    return int(local.numel() * local.element_size())


def _refuse_wrappers(optimizer: Fused) -> None:
    """Raise an error if a wrapper that reduces gradients later has parameters of the optimizer."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    kinds: list[type] = [DistributedDataParallel]
    if fsdp := sys.modules.get("torch.distributed.fsdp"):
        kinds.append(fsdp.FullyShardedDataParallel)
    own = {id(param) for group in optimizer.param_groups for param in group["params"]}
    for found in gc.get_objects():
        kind = type(found)
        if issubclass(kind, tuple(kinds)):
            if any(id(param) in own for param in found.parameters()):
                raise RuntimeError(
                    f"the parameters are those of {kind.__name__}, which reduces gradients after "
                    "the hooks of StepInBackward, expected fully_shard"
                )
