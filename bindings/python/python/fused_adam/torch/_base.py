"""The base class: ``step`` as one call into Rust for all parameters, and their states."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, TypeGuard

import torch
from torch import Tensor

from .._native import torch_step
from . import _eight_bit, _master_weights

#: The types of a state of a parameter that is not ``float64``.
_STATE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

#: The attributes that are options of an instance. They are not in ``param_groups``, so that
#: torch's classes and flattened checkpoints read the same dictionaries. ``master_weights`` is only
#: the default of groups, which have it unless it is ``None``.
_OPTIONS = (
    "_state_dtype",
    "_seed",
    "_eight_bit",
    "_min_8bit_size",
    "_master_weights",
    "_step_supports_amp_scaling",
)


def scalar_dtype() -> torch.dtype:
    """The dtype of ``step`` in the state of torch's own optimizers."""
    return torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32


def name_hash(name: str) -> int:
    """Return the FNV-1a hash of 64 bits of a name, as in ``kernels.md``."""
    hashed = 0xCBF29CE484222325
    for byte in name.encode():
        hashed = ((hashed ^ byte) * 0x100000001B3) % 2**64
    return hashed


class Fused(torch.optim.Optimizer):
    """The base class of all optimizers of ``fused_adam.torch``."""

    _kind: str
    #: The names of the states that have the shape of the parameter.
    _buffers: tuple[str, ...] = ("exp_avg", "exp_avg_sq")

    _state_dtype: torch.dtype | None = None
    #: The seed of stochastic rounding. ``None`` rounds to nearest.
    _seed: int | None = None
    #: Whether the states of large parameters are in 8 bits.
    _eight_bit = False
    #: The least number of elements of such a parameter.
    _min_8bit_size = 4096
    #: The ``master_weights`` of a group that has none.
    _master_weights: str | None = None
    #: Whether a group lists a parameter twice.
    _has_duplicates = False

    #: Extra keyword arguments of ``torch_step`` for the next step.
    _request: dict[str, Any] | None = None
    _norm: float | None = None

    def _set_options(
        self,
        state_dtype: torch.dtype | None,
        stochastic_rounding: bool | int,
        state: str | None,
        min_8bit_size: int,
        master_weights: str | None,
    ) -> None:
        """Check and set the options of the instance. Called before the constructor of torch."""
        if state_dtype is not None and state_dtype not in _STATE_DTYPES:
            known = ", ".join(map(str, _STATE_DTYPES))
            raise ValueError(f"state_dtype is {state_dtype}, expected None or one of {known}")
        try:
            seed = operator.index(stochastic_rounding)
        except TypeError:
            kind = type(stochastic_rounding).__name__
            message = f"stochastic_rounding is a {kind}, expected a bool or a seed"
            raise TypeError(message) from None
        if not 0 <= seed < 2**64:
            raise ValueError(f"stochastic_rounding is {stochastic_rounding}, expected 0 to 2**64-1")
        self._state_dtype = state_dtype
        if stochastic_rounding is not False:
            self._seed = 0 if stochastic_rounding is True else seed
        if state is not None and state != "8bit":
            raise ValueError(f"state is {state!r}, expected None or '8bit'")
        self._eight_bit = state is not None
        try:
            self._min_8bit_size = operator.index(min_8bit_size)
        except TypeError:
            kind = type(min_8bit_size).__name__
            raise TypeError(f"min_8bit_size is a {kind}, expected a whole number") from None
        if self._min_8bit_size < 0:
            raise ValueError(f"min_8bit_size is {min_8bit_size}, expected at least 0")
        _master_weights.check(master_weights)
        self._master_weights = master_weights

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, as in torch."""
        group = {**self.defaults, **param_group}
        for option in ("capturable", "differentiable"):
            if group.get(option):
                raise ValueError(f"{option}=True is not supported, expected False")
        master_weights = group.get("master_weights", self._master_weights)
        _master_weights.check(master_weights)
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        group.pop("master_weights", None)
        if master_weights is not None:
            group["master_weights"] = master_weights
        try:
            for param in group["params"]:
                if hasattr(param, "placements"):
                    from ._dtensor import check_placements

                    check_placements(param, self._name_of(param))
                self._is_8bit(param)
                _master_weights.check_dtype(param, group, self._place_of)
        except BaseException:
            self.param_groups.pop()
            raise
        self._find_duplicates()

    def _find_duplicates(self) -> None:
        groups = (group["params"] for group in self.param_groups)
        self._has_duplicates = any(len(set(params)) != len(params) for params in groups)

    def __getstate__(self) -> dict[str, Any]:
        options = {name: getattr(self, name) for name in _OPTIONS if name in self.__dict__}
        return {**super().__getstate__(), **options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._find_duplicates()

    # States

    def _buffer_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        return self._buffers

    def _dtype_of_states(
        self, param: Tensor, group: dict[str, Any], saved: torch.dtype | None = None
    ) -> torch.dtype:
        """The dtype of the states of a parameter, which were perhaps saved in another one."""
        if param.dtype == torch.float64:
            return param.dtype
        if self._state_dtype is not None:
            return self._state_dtype
        if param.dtype == torch.float16 or _master_weights.dtype_of(param, group) is not None:
            return torch.float32
        return saved if saved in _STATE_DTYPES else param.dtype

    def _is_8bit(self, param: Tensor) -> bool:
        """Whether the states of a parameter are in 8 bits, once they are made."""
        if not self._eight_bit or param.numel() < self._min_8bit_size:
            return False
        if param.dtype == torch.float64:
            known = "torch.float32, torch.bfloat16 or torch.float16"
            raise TypeError(
                f"{self._place_of(param)} is {param.dtype}, expected {known} with state='8bit'"
            )
        return param.dtype in _STATE_DTYPES

    def _initial(self, name: str, group: dict[str, Any]) -> float:
        """The value of a state before the first step."""
        return 0.0

    def _init_state(self, param: Tensor, group: dict[str, Any], state: dict[str, Any]) -> None:
        """Create or replace the entries of ``state`` that a step cannot use, in torch's layout."""
        names = self._buffer_names(group)
        kept = [state[name] for name in names if state.get(name) is not None]
        # All states of a parameter are of one kind.
        eight_bit = any(map(_eight_bit.are_blocks, kept)) or (
            bool(names) and not kept and self._is_8bit(param)
        )
        correction = _master_weights.dtype_of(param, group)
        seeded = self._seed is not None or eight_bit or correction is not None
        if self._kind != "sgd" or seeded:
            step = state.get("step")
            if step is None:
                # A momentum buffer without a step number is from an earlier step.
                step = 1.0 if state.get("momentum_buffer") is not None else 0.0
            if not _is_counter(step):
                try:
                    number = float(step)
                except (TypeError, ValueError, RuntimeError):
                    name = self._name_of(param)
                    message = f"step of parameter {name} is {step}, expected a number"
                    raise ValueError(message) from None
                state["step"] = torch.tensor(number, dtype=scalar_dtype(), device="cpu")
        for name in names:
            if state.get(name) is not None:
                continue
            initial = self._initial(name, group)
            if eight_bit:
                state[name] = _eight_bit.filled(self._kind, name, param, initial)
            else:
                state[name] = torch.full_like(
                    param,
                    initial,
                    dtype=self._dtype_of_states(param, group),
                    memory_format=torch.preserve_format,
                )
        if correction is not None:
            state["correction"] = _master_weights.correction_of(
                state.get("correction"), param, correction, self._place_of(param)
            )
        # A checkpoint that was flattened has an empty dict for what another class did not save.
        if seeded and not isinstance(state.get("seed"), int):
            state["seed"] = name_hash(self._name_of(param))

    def _name_of(self, param: Tensor) -> str:
        """The name of a parameter if it has one, else its position.

        Groups may have parameters of one name. Each but the first has its number added.
        """
        position, seen = 0, Counter[str]()
        for group in self.param_groups:
            names = group.get("param_names")
            for number, other in enumerate(group["params"]):
                name = str(names[number]) if names else str(position)
                if other is param:
                    return f"{name}#{seen[name]}" if seen[name] else name
                seen[name] += 1
                position += 1
        raise RuntimeError("the parameter is in no group")

    def _place_of(self, param: Tensor) -> str:
        """A parameter in a message: its position, its group, its name and its shape."""
        position = 0
        for number, group in enumerate(self.param_groups):
            for index, other in enumerate(group["params"]):
                if other is param:
                    names = group.get("param_names")
                    name = f"`{names[index]}`, " if names else ""
                    shape = tuple(param.shape)
                    return f"parameter {position} ({name}shape {shape}) of parameter group {number}"
                position += 1
        raise RuntimeError("the parameter is in no group")

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the optimizer as a :class:`dict`, as torch's class does.

        States in 8 bits are tensors of ``torch.uint8``. Those of a ``DTensor``, or of a shard of
        FSDP1, are decoded to ``float32``, so that a distributed checkpoint can reshard them. Their
        corrections may get another ``dtype``, with the same numbers, for collectives.
        """
        return self._exported(super().state_dict(), decodes=False)

    def dequantized_state_dict(self) -> dict[str, Any]:
        """Return ``state_dict`` with states in 8 bits decoded to ``float32``.

        torch's class of the same name loads it, and so does an optimizer without ``state="8bit"``.
        """
        return self._exported(super().state_dict(), decodes=True)

    def _exported(self, packed: dict[str, Any], decodes: bool) -> dict[str, Any]:
        # Hooks may have replaced the contents.
        for number, group, param in self._numbered(packed.get("param_groups", [])):
            state = packed["state"].get(number)
            if isinstance(state, dict):
                exported = self._export(param, group, state, decodes)
                if exported is not state:
                    packed["state"][number] = exported
        return packed

    def _export(
        self, param: Tensor, group: dict[str, Any], state: dict[str, Any], decodes: bool
    ) -> dict[str, Any]:
        """The state of a parameter in a ``state_dict``."""
        is_sharded = _eight_bit.is_sharded(param)
        correction = state.get("correction")
        if is_sharded and isinstance(correction, Tensor):
            dtype = _master_weights.exported_dtype(param, correction.dtype)
            state = {**state, "correction": correction.to(dtype)}
        if not (decodes or is_sharded):
            return state
        names = [name for name in _eight_bit.names_of(self._kind) if name in state]
        decoded = {
            name: _eight_bit.decode(self._kind, name, state[name], param)
            for name in names
            if _eight_bit.are_blocks(state[name])
        }
        if not decoded:
            return state
        exported = {**state, **decoded}
        if self._seed is None and correction is None:
            # States of ``float32`` have none, and it follows from the name of the parameter.
            exported.pop("seed", None)
        return exported

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of an optimizer: of this class, or of torch's class of the same name.

        Unlike torch's, it keeps the ``dtype`` in which states were saved, unless the optimizer has
        a ``state_dtype`` or the parameter is of ``float16`` or ``float64``, or has master weights.

        States that were saved in 8 bits are decoded if the optimizer has no ``state="8bit"``.
        Others are encoded if it has, rounded to nearest.

        Groups keep their own ``master_weights``. A correction of 8 bits becomes one of 16 bits, the
        other way round it is refused. Without ``master_weights`` it is dropped, and where there is
        none it begins at 0: with the parameters as they are.

        Args:
            state_dict: what ``state_dict`` returned.
        """
        loaded = state_dict

        def look(_: Any, changed: dict[str, Any]) -> dict[str, Any]:
            nonlocal loaded
            loaded = changed
            own = [group.get("master_weights") for group in self.param_groups]
            groups = [
                _with_option(saved, option)
                for saved, option in zip(changed["param_groups"], own)
            ]
            groups += changed["param_groups"][len(own) :]
            return {**changed, "param_groups": groups, "state": self._shielded(changed)}

        def finish(_: Any) -> None:
            for number, group, param in self._numbered(loaded["param_groups"]):
                saved = loaded["state"].get(number)
                if isinstance(saved, dict) and param in self.state:
                    self._take_over(param, group, saved)

        # The first hook is the last of its kind, so it sees the changes of all other hooks. The
        # other one is the first, so all others see its changes.
        hooks = (
            self.register_load_state_dict_pre_hook(look),
            self.register_load_state_dict_post_hook(finish, prepend=True),
        )
        try:
            super().load_state_dict(state_dict)
        finally:
            for hook in hooks:
                hook.remove()

    def _numbered(
        self, groups: list[dict[str, Any]]
    ) -> Iterator[tuple[Any, dict[str, Any], Tensor]]:
        """The parameters and their groups, each with its number in groups of a ``state_dict``."""
        numbers = (number for group in groups for number in group["params"])
        params = ((group, param) for group in self.param_groups for param in group["params"])
        return ((number, *of) for number, of in zip(numbers, params))

    def _shielded(self, loaded: dict[str, Any]) -> dict[Any, Any]:
        """The states of a ``state_dict``, where torch does not see those in 8 bits.

        It would cast them all to the type of the parameter, before the first of them is converted.
        """
        states = dict(loaded["state"])
        options = {
            number: saved.get("master_weights")
            for saved in loaded["param_groups"]
            for number in saved["params"]
        }
        for number, group, param in self._numbered(loaded["param_groups"]):
            saved = states.get(number)
            if not isinstance(saved, dict):
                continue
            shields = {}
            correction = saved.get("correction")
            if isinstance(correction, Tensor):
                shields["correction"] = _Shield()
                if _master_weights.dtype_of(param, group) is not None:
                    place = self._place_of(param)
                    _master_weights.check_saved(correction, param, group, options[number], place)
            for name in _eight_bit.names_of(self._kind):
                value = saved.get(name)
                if _eight_bit.are_blocks(value):
                    found, expected = tuple(saved[name].shape), _eight_bit.shape_of(param)
                    if found != expected:
                        raise ValueError(
                            f"{name} of {self._place_of(param)} has shape {found}, expected "
                            f"{expected} for a state in 8 bits"
                        )
                if isinstance(value, Tensor) and (
                    _eight_bit.are_blocks(value) or self._is_8bit(param)
                ):
                    shields[name] = _Shield()
            if shields:
                states[number] = {**saved, **shields}
        return states

    def _take_over(
        self, param: Tensor, group: dict[str, Any], saved: dict[str, Any], copy: bool = True
    ) -> None:
        """Take over the state of a parameter, which another optimizer may have saved."""
        state, is_8bit = self.state[param], self._is_8bit(param)
        for name, value in saved.items():
            if isinstance(value, Tensor):
                self._keep(param, group, name, value, copy)
        self._keep_correction(param, group, saved.get("correction"), copy)
        self._adopt(group, state)
        for name in _eight_bit.names_of(self._kind):
            value = state.get(name)
            if not isinstance(value, Tensor):
                continue
            if is_8bit and value.is_floating_point():
                # A step refuses a state that is placed in another way than its parameter.
                if _is_placed_as(value, param):
                    state[name] = _eight_bit.encode(self._kind, name, value, param.device)
            elif not is_8bit and _eight_bit.are_blocks(value):
                decoded = _eight_bit.decode(self._kind, name, value, param)
                state[name] = decoded.to(self._dtype_of_states(param, group))

    def _keep(
        self, param: Tensor, group: dict[str, Any], name: str, value: Tensor, copy: bool = True
    ) -> None:
        """Take over a tensor of a saved state. torch has cast it to the type of the parameter.

        It is copied, so that a later step does not change what was loaded.
        """
        known = type(value) is Tensor or type(value).__name__ == "DTensor"
        is_buffer = name in _eight_bit.names_of(self._kind)
        if name == "step" and copy and self.state[param].get("step") is value:
            self.state[param]["step"] = value.clone()
        elif name != "step" and value.is_floating_point() and known:
            if is_buffer and self._is_8bit(param):
                # It is encoded next.
                self.state[param][name] = value
                return
            dtype = self._dtype_of_states(param, group, value.dtype)
            self.state[param][name] = value.to(device=param.device, dtype=dtype, copy=copy)
        elif known and is_buffer and _eight_bit.are_blocks(value):
            self.state[param][name] = value.to(device=param.device, copy=copy).contiguous()

    def _keep_correction(
        self, param: Tensor, group: dict[str, Any], saved: Any, copy: bool
    ) -> None:
        state, dtype = self.state[param], _master_weights.dtype_of(param, group)
        state.pop("correction", None)
        if dtype is not None and isinstance(saved, Tensor):
            found = saved.to(dtype) if saved.dtype == torch.float32 else saved
            found = _master_weights.correction_of(found, param, dtype, self._place_of(param))
            state["correction"] = found.to(device=param.device, copy=copy and found is saved)

    def _adopt(self, group: dict[str, Any], state: dict[str, Any]) -> None:
        """Convert torch's state of a parameter to that of this class, where they differ."""

    # Master weights

    @torch.no_grad()
    def get_fp32_model_state_dict(self, model: torch.nn.Module) -> dict[str, Any]:
        """Return ``model.state_dict()`` with the master weights of this optimizer, in ``float32``.

        They are exact. Other tensors of 16 bits are converted to ``float32``, the rest is as it is.

        Args:
            model: a model with parameters of this optimizer, or a ``DistributedDataParallel`` of
                it. The weights of a ``DTensor`` are a ``DTensor`` of the same placements. FSDP1 is
                refused.
        """
        model = _master_weights.unwrapped(model)
        found = {
            name: value.float() if _is_half(value) else value
            for name, value in model.state_dict().items()
        }
        groups = self._groups()
        for name, param in model.named_parameters(remove_duplicate=False):
            correction = self.state.get(param, {}).get("correction")
            has_one = _master_weights.dtype_of(param, groups.get(param, {})) is not None
            if isinstance(correction, Tensor) and has_one:
                found[name] = _master_weights.join(param, correction)
        return found

    def _groups(self) -> dict[Tensor, dict[str, Any]]:
        return {param: group for group in self.param_groups for param in group["params"]}

    @torch.no_grad()
    def set_fp32_model_state_dict(
        self, model: torch.nn.Module, state_dict: dict[str, Any]
    ) -> None:
        """Load ``state_dict`` in ``model``, and set the master weights of this optimizer.

        It is ``model.load_state_dict``, but parameters with ``master_weights`` get their part of
        the weights of ``float32``, and the rest is in their corrections. ``"split32"`` keeps all
        bits. ``"split24"`` rounds to the nearest 24 bits.

        Args:
            model: as for ``get_fp32_model_state_dict``.
            state_dict: the weights, such as those of the model before it was converted to
                ``bfloat16``. Those of a ``DTensor`` are a ``DTensor`` of the same placements.

        Raises:
            ValueError: if the weights of a parameter have another shape or other placements.
            TypeError: if they are no tensor of floats.
            RuntimeError: that of ``model.load_state_dict``, such as for a missing key. Other
                parameters are loaded then, as by torch.
        """
        model = _master_weights.unwrapped(model)
        groups = self._groups()
        found = []
        for name, param in model.named_parameters(remove_duplicate=False):
            group = groups.get(param)
            dtype = None if group is None else _master_weights.dtype_of(param, group)
            if group is None or dtype is None or name not in state_dict:
                continue
            weights = state_dict[name]
            if not (isinstance(weights, Tensor) and weights.is_floating_point()):
                kind = weights.dtype if isinstance(weights, Tensor) else type(weights).__name__
                raise TypeError(f"`{name}` is {kind}, expected a tensor of torch.float32")
            if not _is_placed_as(weights, param):
                raise ValueError(
                    f"`{name}` has shape {tuple(weights.shape)}, or other placements than its "
                    f"parameter, expected those of {self._place_of(param)}"
                )
            found.append((param, group, dtype, weights))
        try:
            model.load_state_dict(state_dict)
        finally:
            # Also after an error: torch may have loaded some parameters before it.
            for param, group, dtype, weights in found:
                state = self.state[param]
                # It may be of another option.
                state.pop("correction", None)
                if param.requires_grad:
                    # All of it, so that a distributed checkpoint that is loaded next finds it.
                    self._init_state(param, group, state)
                state["correction"] = _master_weights.split(weights, param, dtype)

    # Steps

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Perform a single optimization step.

        Args:
            closure: a closure that reevaluates the model and returns the loss. Optional.

        Returns:
            What the closure returned, or ``None``.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        found_inf = getattr(self, "found_inf", None)
        if found_inf is not None and bool(found_inf):
            return loss
        request = dict(self._request or {})
        scale = getattr(self, "grad_scale", None)
        if scale is not None:
            request["loss_scale"] = float(scale)
        if self._seed is not None:
            request["seed"] = self._seed
        for groups in self._calls(request):
            self._take(groups, request)
        return loss

    def _calls(self, request: dict[str, Any]) -> list[list[dict[str, Any]]]:
        """The groups of each call. A parameter that is listed twice is stepped twice."""
        if not self._has_duplicates:
            return [self.param_groups]
        if "clip_norm" in request:
            raise ValueError("a parameter is listed twice in its group, expected once to clip")
        calls: list[list[dict[str, Any]]] = []
        for number, group in enumerate(self.param_groups):
            counts: dict[Tensor, int] = {}
            for param in group["params"]:
                turn = counts[param] = counts.get(param, -1) + 1
                if turn == len(calls):
                    calls.append([{**group, "params": []} for group in self.param_groups])
                calls[turn][number]["params"].append(param)
        for call in calls:
            for group in call:
                group.pop("param_names", None)
        return calls

    def _take(self, groups: list[dict[str, Any]], request: dict[str, Any]) -> None:
        state = self.state
        missing, self._norm, _ = torch_step(self._kind, groups, state, [], **request)
        if not missing:
            return
        before = {param: dict(state[param]) if param in state else None for param, _ in missing}
        try:
            for param, group in missing:
                self._init_state(param, group, state[param])
            # SGD has no step number: its first step is the one that makes the buffer.
            new = (param for param, _ in missing)
            fresh = [p for p in new if (before[p] or {}).get("momentum_buffer") is None]
            left, self._norm, skipped = torch_step(self._kind, groups, state, fresh, **request)
            if left:
                raise RuntimeError("a state is missing after it was made")
        except BaseException:
            self._restore(before)
            raise
        if skipped:
            self._restore(before)

    def _restore(self, before: dict[Tensor, dict[str, Any] | None]) -> None:
        """Remove the states that were created for a step that failed or was skipped."""
        for param, old in before.items():
            if old is None:
                self.state.pop(param, None)
            else:
                self.state[param] = old


class _Shield:
    """Stands for a tensor that torch must not see."""


def _with_option(group: dict[str, Any], option: str | None) -> dict[str, Any]:
    """A group of a ``state_dict`` with this ``master_weights``."""
    others = {key: value for key, value in group.items() if key != "master_weights"}
    return others if option is None else {**others, "master_weights": option}


def _is_half(value: Any) -> TypeGuard[Tensor]:
    """Whether it is a tensor of 16 bits."""
    return isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)


def _is_placed_as(value: Any, param: Any) -> bool:
    """Whether a state has the shape and the placements of its parameter."""
    if hasattr(value, "placements") != hasattr(param, "placements"):
        return False
    if hasattr(param, "placements") and (
        value.device_mesh != param.device_mesh or value.placements != param.placements
    ):
        return False
    return bool(value.shape == param.shape)


def _is_counter(step: Any) -> bool:
    """Whether a step number is a tensor that a step can count in."""
    return (
        isinstance(step, Tensor)
        and step.dtype in (torch.float32, torch.float64)
        and step.numel() == 1
        and step.device.type == "cpu"
        and step.layout == torch.strided
    )
