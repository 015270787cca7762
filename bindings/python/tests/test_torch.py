"""The optimizers of ``fused_adam.torch`` as replacements of torch's."""

from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import pytest
import torch

import fused_adam
import fused_adam.torch as fused
from common import CASES, Case, Reference, assert_same_bits

TORCHS = [case for case in CASES if case.is_torchs]


def model(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))


def train(network: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: int, start: int = 0):
    """Take steps on random data, and return the last loss."""
    loss = None
    for step in range(start, start + steps):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(8, 6, generator=generator)
        optimizer.zero_grad()
        loss = (network(x) - x[:, :3].cos()).square().mean()
        loss.backward()
        optimizer.step()
    return loss


def assert_same_parameters(ours: torch.nn.Module, expected: torch.nn.Module) -> None:
    for (name, param), other in zip(ours.named_parameters(), expected.parameters()):
        assert_same_bits(param, other, name)


@pytest.mark.parametrize("case", TORCHS, ids=str)
def test_agrees_with_torch(case: Case):
    # Both compute in f64, and only differ in the order of operations. In addition, torch stores
    # NAdam's product of momenta in f32.
    tolerance = 1e-7 if case.name == "NAdam" else 1e-11
    ours, theirs = model().double(), model().double()
    pairs = [(ours, case.ours(ours.parameters())), (theirs, case.torchs(theirs.parameters()))]
    for step in range(20):
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(step)).double()
        for network, optimizer in pairs:
            optimizer.zero_grad()
            (network(x) - x[:, :3].cos()).square().mean().backward()
            optimizer.step()
    for param, other in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(param, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("how", ["state_dict", "pickle", "deepcopy", "file"])
def test_goes_on_to_the_bit(case: Case, how: str):
    whole, parts = model(), model()
    train(whole, case.ours(whole.parameters()), 9)
    optimizer = case.ours(parts.parameters())
    train(parts, optimizer, 4)
    if how == "state_dict":
        packed = copy.deepcopy(optimizer.state_dict())
        optimizer = case.ours(parts.parameters())
        optimizer.load_state_dict(packed)
    elif how == "file":
        file = io.BytesIO()
        torch.save((parts.state_dict(), optimizer.state_dict()), file)
        file.seek(0)
        weights, packed = torch.load(file)
        parts = model(seed=5)
        parts.load_state_dict(weights)
        optimizer = case.ours(parts.parameters())
        optimizer.load_state_dict(packed)
    elif how == "pickle":
        parts, optimizer = pickle.loads(pickle.dumps((parts, optimizer)))
    else:
        parts, optimizer = copy.deepcopy((parts, optimizer))
    train(parts, optimizer, 5, start=4)
    if case.options.get("centered") and how in ("state_dict", "file"):
        # A `state_dict` has torch's mean square, which the variance is computed from.
        for param, other in zip(parts.parameters(), whole.parameters()):
            torch.testing.assert_close(param, other, rtol=1e-4, atol=1e-5)
    else:
        assert_same_parameters(parts, whole)


@pytest.mark.parametrize("case", TORCHS, ids=str)
@pytest.mark.parametrize("to_torch", [True, False], ids=["to-torch", "from-torch"])
def test_state_dict_goes_to_torch_and_back(case: Case, to_torch: bool):
    """Either can continue from the other's state, with the same result as torch alone."""
    tolerance = 1e-6 if case.name == "NAdam" else 1e-11
    first, second = (case.ours, case.torchs) if to_torch else (case.torchs, case.ours)
    network, alone = model().double(), model().double()

    def go(network, optimizer, steps, start):
        for step in range(start, start + steps):
            x = torch.randn(8, 6, generator=torch.Generator().manual_seed(step)).double()
            optimizer.zero_grad()
            (network(x) - x[:, :3].cos()).square().mean().backward()
            optimizer.step()

    go(alone, case.torchs(alone.parameters()), 8, 0)
    optimizer = first(network.parameters())
    go(network, optimizer, 4, 0)
    packed = optimizer.state_dict()
    optimizer = second(network.parameters())
    optimizer.load_state_dict(packed)
    go(network, optimizer, 4, 4)
    for param, other in zip(network.parameters(), alone.parameters()):
        torch.testing.assert_close(param, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("case", TORCHS, ids=str)
def test_states_and_groups_are_those_of_torch(case: Case):
    ours, theirs = model(), model()
    packed = []
    for network, optimizer in [
        (ours, case.ours(ours.parameters())),
        (theirs, case.torchs(theirs.parameters())),
    ]:
        train(network, optimizer, 3)
        packed.append(optimizer.state_dict())
    mine, torchs = packed
    assert mine["param_groups"] == torchs["param_groups"]
    assert mine["state"].keys() == torchs["state"].keys()
    for number, state in torchs["state"].items():
        for name, expected in state.items():
            found = mine["state"][number][name]
            assert (found is None) == (expected is None), name
            if expected is not None:
                # The product of momenta is stored in f64.
                dtype = torch.float64 if name == "mu_product" else expected.dtype
                assert found.dtype == dtype and found.stride() == expected.stride(), name
                torch.testing.assert_close(found, expected.to(dtype), rtol=1e-3, atol=1e-5)
        assert mine["state"][number].keys() == state.keys()


def test_groups_schedulers_and_frozen_parameters():
    def run(network, optimizer_class):
        a, b, c, d = network.parameters()
        d.requires_grad_(False)
        groups = [{"params": [a, b]}, {"params": [c], "weight_decay": 0.0, "lr": 0.5}]
        optimizer = optimizer_class(groups, lr=0.1, weight_decay=0.1)
        optimizer.add_param_group({"params": [d], "lr": 0.2})
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
        for step in range(6):
            x = torch.randn(8, 6, generator=torch.Generator().manual_seed(step)).double()
            optimizer.zero_grad(set_to_none=step % 2 == 0)
            if step == 3:
                d.requires_grad_(True)
            network(x).square().mean().backward()
            optimizer.step()
            scheduler.step()
        return optimizer

    ours, theirs = model().double(), model().double()
    mine, torchs = run(ours, fused.AdamW), run(theirs, torch.optim.AdamW)
    for param, other in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(param, other, rtol=1e-11, atol=1e-11)
        assert mine.state[param]["step"] == torchs.state[other]["step"]
    rates = [[group["lr"] for group in opt.param_groups] for opt in (mine, torchs)]
    assert rates[0] == rates[1]


def test_lr_in_a_tensor():
    results = []
    for lr in (0.125, torch.tensor(0.125), torch.tensor([0.125], dtype=torch.float64)):
        network = model()
        optimizer = fused.Adam(network.parameters(), lr=lr)
        train(network, optimizer, 3)
        results.append(network)
    assert_same_parameters(results[0], results[1])
    assert_same_parameters(results[0], results[2])


def test_closures_and_hooks():
    network, seen = model(), []
    optimizer = fused.AdamW(network.parameters())
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))

    def closure():
        seen.append("closure")
        assert torch.is_grad_enabled()
        optimizer.zero_grad()
        loss = network(torch.ones(1, 6)).square().sum()
        loss.backward()
        return loss

    loss = optimizer.step(closure)
    assert loss > 0 and seen == ["before", "closure", "after"]


@pytest.mark.parametrize(
    "name, options",
    [("Adam", {}), ("Adam", {"fused": True}), ("SGD", {"fused": True}), ("Lion", {})],
)
def test_grad_scaler(name: str, options: dict):
    """Loss scaling does not change the result, and a step with infinite gradients is skipped.

    With ``fused=True`` the gradients stay scaled, as in torch.
    """
    plain, scaled = model(), model()
    optimizer = getattr(fused, name)(plain.parameters(), lr=0.1)
    train(plain, optimizer, 4)
    optimizer = getattr(fused, name)(scaled.parameters(), lr=0.1, **options)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for step in range(4):
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        scaler.scale((scaled(x) - x[:, :3].cos()).square().mean()).backward()
        before = [param.grad.clone() for param in scaled.parameters()]
        scaler.step(optimizer)
        factor = 1 if options else 1024
        for a, b in zip(before, scaled.parameters()):
            assert torch.equal(a / factor, b.grad)
        scaler.update()
    # Scaling by a power of two is exact.
    assert_same_parameters(scaled, plain)

    kept = copy.deepcopy(scaled)
    state = copy.deepcopy(optimizer.state_dict())
    next(scaled.parameters()).grad[0, 0] = float("inf")
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 512.0
    assert_same_parameters(scaled, kept)
    for a, b in zip(state["state"].values(), optimizer.state_dict()["state"].values()):
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_grad_scaler_after_unscale_and_clipping():
    plain, scaled = model(), model()
    results = []
    for network, scale in [(plain, 1.0), (scaled, 256.0)]:
        optimizer = fused.AdamW(network.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        scaler.scale(network(torch.ones(1, 6)).square().sum()).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        scaler.step(optimizer)
        results.append(network)
    assert_same_parameters(*results)


def test_clip_and_step():
    clipped, reference = model(), model()
    optimizer = fused.AdamW(clipped.parameters(), lr=0.1)
    for network in (clipped, reference):
        (100 * network(torch.ones(1, 6))).square().sum().backward()
    grads = [param.grad.clone() for param in clipped.parameters()]
    exact = torch.cat([grad.double().flatten() for grad in grads]).norm()
    norm = fused.clip_grad_norm_and_step(optimizer, 0.5)
    torch.testing.assert_close(norm, exact, rtol=1e-15, atol=0)
    case = Case("AdamW", {}, "adamw", {"lr": 0.1, "weight_decay": 0.01})
    for param, twin, grad in zip(clipped.parameters(), reference.parameters(), grads):
        assert torch.equal(param.grad, grad), "the gradient is not written"
        one = Reference(case, twin)
        one.step(grad, grad_scale=0.5 / float(norm))
        assert_same_bits(param, one.theta, "clipped")

    largest = fused.clip_grad_norm_and_step(optimizer, 1e9, float("inf"))
    assert largest == max(grad.abs().max() for grad in grads)


def test_clip_with_a_norm_that_is_not_finite():
    network = model()
    optimizer = fused.AdamW(network.parameters())
    train(network, optimizer, 2)
    kept = copy.deepcopy(network)
    steps = optimizer.state[next(network.parameters())]["step"].clone()
    next(network.parameters()).grad[0, 0] = float("nan")
    with pytest.raises(ValueError, match="norm"):
        fused.clip_grad_norm_and_step(optimizer, 1.0)
    assert fused.clip_grad_norm_and_step(optimizer, 1.0, skip_nonfinite=True).isnan()
    assert_same_parameters(network, kept)
    assert optimizer.state[next(network.parameters())]["step"] == steps


class Weight(torch.nn.Parameter):
    """A subclass of a subclass."""


def test_subclasses_of_tensors():
    weight, plain = Weight(torch.ones(5)), torch.ones(5, requires_grad=True)
    for param in (weight, plain):
        param.grad = torch.ones(5)
        fused.AdamW([param]).step()
    assert_same_bits(weight, plain, "a subclass")


def test_empty_and_scalar_parameters():
    empty, scalar = torch.empty(0, 3, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    empty.grad, scalar.grad = torch.empty(0, 3), torch.tensor(1.0)
    fused.Adam([empty, scalar], lr=0.5).step()
    torch.testing.assert_close(scalar.detach(), torch.tensor(1.5))


def with_grad(param: torch.Tensor, grad: torch.Tensor | None = None) -> torch.Tensor:
    param = param.requires_grad_()
    param.grad = torch.ones_like(param) if grad is None else grad
    return param


def shared() -> list[torch.Tensor]:
    memory = torch.ones(6)
    return [with_grad(memory[:4]), with_grad(memory[2:])]


def strided_pair(shift: int) -> list[torch.Tensor]:
    memory = torch.ones(9)
    return [with_grad(memory[:8:2]), with_grad(memory[shift:][:8:2])]


def freed(start: int, of: str = "param") -> list[torch.Tensor]:
    """A parameter or gradient, at an offset in a storage, whose memory was freed."""
    memory = torch.ones(start + 4)
    part = memory[start:]
    tensors = [with_grad(part) if of == "param" else with_grad(torch.ones(4), part)]
    memory.untyped_storage().resize_(0)
    return tensors


def halves() -> list[torch.Tensor]:
    """The upper halves of another parameter's elements, as 16-bit numbers."""
    memory = torch.ones(8)
    return [with_grad(memory[::2]), with_grad(memory.view(torch.bfloat16)[1::4])]


def negated() -> torch.Tensor:
    return torch.tensor([1 + 2j]).conj().imag.detach()


BAD_STEPS = [
    (
        lambda: [with_grad(torch.ones(3, 3), torch.ones(3, 3).to_sparse())],
        RuntimeError,
        "Adam does not support sparse gradients, please consider SparseAdam instead",
    ),
    (
        lambda: [with_grad(torch.ones(3, dtype=torch.complex64))],
        TypeError,
        r"parameter 1 \(shape \(3,\)\) is torch.complex64, expected one of",
    ),
    (
        lambda: [with_grad(torch.ones(3, device="meta"))],
        RuntimeError,
        r"parameter 1 \(shape \(3,\)\) is on the device meta, expected cpu",
    ),
    (lambda: [with_grad(torch.ones(1).expand(3))], RuntimeError, "several elements in one place"),
    (shared, ValueError, r"parameter 1 .* and parameter 2 .* overlap in memory"),
    (lambda: strided_pair(0), ValueError, "overlap in memory, expected what is written"),
    (
        lambda: [with_grad(torch.zeros(5).as_strided((3, 3), (1, 1)))],
        ValueError,
        "overlap in memory, expected what",
    ),
    (lambda: freed(0), ValueError, r"parameter 1 \(shape \(4,\)\) has no memory"),
    (lambda: freed(4), ValueError, "has no memory: it"),
    (lambda: freed(4, "grad"), ValueError, "the gradient of parameter 1 .* has no memory"),
    (lambda: [with_grad(torch.ones(4), torch._efficientzerotensor(8)[4:])], ValueError, "has no"),
    (halves, ValueError, "overlap in memory, expected what is written"),
    (lambda: [with_grad(torch.ones(1), negated())], RuntimeError, "gradient of .* is a negated"),
    (lambda: [with_grad(negated())], RuntimeError, r"parameter 1 .* is a negated view"),
]


def test_a_step_number_without_memory():
    param = with_grad(torch.ones(4))
    optimizer = fused.AdamW([param])
    optimizer.step()
    before = param.detach().clone()
    memory = torch.ones(4)
    optimizer.state[param]["step"] = memory[2]
    memory.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match="has no memory"):
        optimizer.step()
    assert torch.equal(param.detach(), before)


def test_what_others_put_into_groups_and_states():
    """A tuple of parameters, additional entries, and hooks that replace a state."""
    param = with_grad(torch.ones(4))
    optimizer = fused.NAdam([param], lr=0.1)
    optimizer.param_groups[0]["params"] = (param,)
    optimizer.step()
    assert not torch.equal(param.detach(), torch.ones(4))
    state = optimizer.state_dict()
    state["state"]["epoch"] = 3
    other = fused.NAdam([param], lr=0.1)
    other.load_state_dict(state)
    other.step()
    assert other.state[param]["step"] == 2
    wrapped = fused.RMSprop([param])
    wrapped.register_state_dict_post_hook(lambda _, state: {"inner": state})
    assert list(wrapped.state_dict()) == ["inner"]


@pytest.mark.parametrize("schedule", ["one cycle", "cyclic", "by hand", "loaded"])
def test_nadam_under_changing_betas(schedule):
    """torch multiplies the momenta of all steps. This does too, even if they changed."""

    def trained(optimizer_class, first_class=None):
        torch.manual_seed(3)
        params = [torch.nn.Parameter(torch.rand(5, dtype=torch.float64)) for _ in range(3)]
        options = {"lr": 0.05, "betas": (0.6, 0.99)} if schedule == "loaded" else {"lr": 0.05}
        optimizer = (first_class or optimizer_class)(params, **options)
        lrs = torch.optim.lr_scheduler
        scheduler = {
            "one cycle": lambda: lrs.OneCycleLR(optimizer, 0.1, total_steps=20),
            "cyclic": lambda: lrs.CyclicLR(optimizer, 0.01, 0.1, step_size_up=4),
        }.get(schedule, lambda: None)()
        for step in range(20):
            if schedule == "by hand" and step == 7:
                optimizer.param_groups[0].update(betas=(0.7, 0.99), momentum_decay=0.1)
            if schedule == "loaded" and step == 7:
                state = optimizer.state_dict()
                optimizer = optimizer_class(params, lr=0.05)
                state["param_groups"][0]["betas"] = (0.9, 0.999)
                optimizer.load_state_dict(state)
            for number, param in enumerate(params):
                param.grad = (
                    torch.sin(param.detach() * (step + number + 1)) if step or number else None
                )
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
        return torch.stack([param.detach() for param in params])

    theirs = trained(torch.optim.NAdam)
    assert (trained(fused.NAdam) - theirs).abs().max() < 1e-6
    if schedule == "loaded":
        assert (trained(fused.NAdam, torch.optim.NAdam) - theirs).abs().max() < 1e-6


@pytest.mark.parametrize("how", ["whole", "state_dict", "pickle"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_nadam_under_changing_betas_to_the_bit(dtype, how):
    """The product of momenta is that of the rule. It is not rounded, not even in files."""
    params = [torch.linspace(-1, 2, 7).to(dtype).requires_grad_() for _ in range(3)]
    twins = [param.detach().clone() for param in params]
    states = [[torch.zeros_like(twin) for _ in range(2)] for twin in twins]
    scalars = np.ones(1)
    optimizer = fused.NAdam(params, lr=0.05)
    for t in range(1, 13):
        betas = (0.5 + 0.03 * t, 0.99)
        if t == 6 and how == "pickle":
            params, optimizer = pickle.loads(pickle.dumps((params, optimizer)))
        if t == 6 and how == "state_dict":
            packed = optimizer.state_dict()
            optimizer = fused.NAdam(params, lr=0.05)
            optimizer.load_state_dict(packed)
        optimizer.param_groups[0]["betas"] = betas
        rule = fused_adam.Rule("nadam", lr=0.05, beta1=betas[0], beta2=betas[1])
        after = []
        for number, (param, twin, own) in enumerate(zip(params, twins, states)):
            param.grad = torch.sin(twin * (t + number))
            after.append(scalars.copy())
            rule.step(t, twin, param.grad, *own, scalars=after[-1], backend="scalar")
        scalars = after[0]
        optimizer.step()
        for param, twin in zip(params, twins):
            assert_same_bits(param, twin, f"step {t}")
            assert float(optimizer.state[param]["mu_product"]) == scalars[0]


def test_nadam_of_parameters_that_began_at_other_times():
    """Each parameter has its own product, independent of the previous parameter."""
    params = [with_grad(torch.ones(3)) for _ in range(4)]
    optimizer = fused.NAdam(params, lr=0.05)
    params[1].grad = None
    optimizer.step()
    params[1].grad = torch.ones(3)
    optimizer.param_groups[0]["betas"] = (0.7, 0.99)
    optimizer.step()
    # The same momenta, in a separate call for each parameter.
    rules = [fused_adam.Rule("nadam", lr=0.05, beta1=beta1) for beta1 in (0.9, 0.7)]
    for param in params:
        steps = rules[1:] if param is params[1] else rules
        theta, m, v, scalars = torch.ones(3), torch.zeros(3), torch.zeros(3), np.ones(1)
        for t, rule in enumerate(steps, 1):
            beta2 = 0.999 if rule is rules[0] else 0.99
            rule = fused_adam.Rule("nadam", **{**rule.hyper_parameters, "beta2": beta2})
            rule.step(t, theta, torch.ones(3), m, v, scalars=scalars)
        assert_same_bits(param, theta, "a parameter")
        assert float(optimizer.state[param]["mu_product"]) == scalars[0]


def test_a_skipped_step_leaves_the_product():
    param = with_grad(torch.ones(4))
    optimizer = fused.NAdam([param])
    optimizer.step()
    before = optimizer.state[param]["mu_product"].clone()
    param.grad = torch.full((4,), float("inf"))
    fused.clip_grad_norm_and_step(optimizer, 1.0, skip_nonfinite=True)
    assert torch.equal(optimizer.state[param]["mu_product"], before)
    with pytest.raises(ValueError, match="norm is inf"):
        fused.clip_grad_norm_and_step(optimizer, 1.0)
    assert torch.equal(optimizer.state[param]["mu_product"], before)


def test_nadam_is_loaded_through_hooks():
    """The state that a hook returns is loaded."""
    param = with_grad(torch.ones(3, dtype=torch.bfloat16))
    saved = fused.NAdam([param])
    saved.step()
    saved.step()
    loaded = fused.NAdam([param])
    loaded.register_load_state_dict_pre_hook(lambda _, state: state["inner"])
    loaded.load_state_dict({"inner": saved.state_dict()})
    products = [one.state[param]["mu_product"] for one in (saved, loaded)]
    assert torch.equal(*products) and products[0] is not products[1]
    assert len(loaded._optimizer_load_state_dict_pre_hooks) == 1


def test_numbers_have_the_type_of_torchs():
    torch.set_default_dtype(torch.float64)
    try:
        param = with_grad(torch.ones(4))
        optimizer = fused.NAdam([param])
        optimizer.step()
        for name in ("step", "mu_product"):
            assert optimizer.state[param][name].dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("make, error, message", BAD_STEPS, ids=[bad[2] for bad in BAD_STEPS])
def test_tensors_that_are_refused(make, error, message):
    params = make()
    whole = with_grad(torch.ones(4))
    optimizer = fused.AdamW([whole, *params])
    with pytest.raises(error, match=message):
        optimizer.step()
    assert torch.equal(whole.detach(), torch.ones(4)), "nothing has changed"
    assert whole not in optimizer.state


BAD_ARGUMENTS = [
    ("Adam", {"lr": -1.0}, "Invalid learning rate: -1.0"),
    ("Adam", {"betas": (1.0, 0.9)}, "Invalid beta parameter at index 0: 1.0"),
    ("AdamW", {"eps": -1.0}, "Invalid epsilon value: -1.0"),
    ("AdamW", {"lr": torch.ones(2)}, "Tensor lr must be 1-element"),
    ("NAdam", {"momentum_decay": -1.0}, "Invalid momentum_decay value: -1.0"),
    ("SGD", {"nesterov": True}, "Nesterov momentum requires a momentum and zero dampening"),
    ("Adagrad", {"lr_decay": -1.0}, "Invalid lr_decay value: -1.0"),
    ("RMSprop", {"alpha": -1.0}, "Invalid alpha value: -1.0"),
    ("AdaBound", {"lr": -1.0}, "Invalid learning rate: -1.0"),
    ("AdaBound", {"gamma": 1.0}, "Invalid gamma parameter: 1.0"),
    ("AdaBound", {"final_lr": -1.0}, "Invalid final learning rate: -1.0"),
    ("Lion", {"betas": (0.9, 1.0)}, "Invalid beta parameter at index 1: 1.0"),
    ("Lion", {"weight_decay": -1.0}, "Invalid weight_decay value: -1.0"),
    ("Adam", {"capturable": True}, "capturable=True is not supported, expected False"),
    ("AdamW", {"differentiable": True}, "differentiable=True is not supported, expected False"),
]


@pytest.mark.parametrize(
    "name, options, message", BAD_ARGUMENTS, ids=[bad[2] for bad in BAD_ARGUMENTS]
)
def test_arguments_that_are_refused(name, options, message):
    param = torch.ones(3, requires_grad=True)
    with pytest.raises(ValueError, match=message):
        getattr(fused, name)([param], **options)
    if hasattr(torch.optim, name) and "not supported" not in message:
        with pytest.raises(ValueError, match=message):
            getattr(torch.optim, name)([param], **options)


def test_wrong_states_are_refused():
    param = with_grad(torch.ones(3))
    optimizer = fused.Adam([param])
    optimizer.step()
    state, kept = optimizer.state[param], param.detach().clone()
    for key, wrong, message in [
        ("step", torch.tensor(0.5), r"step of parameter 0 \(shape \(3,\)\) is 0.5, expected"),
        ("exp_avg", torch.zeros(2), r"exp_avg of parameter 0 .* has shape \(2,\), expected"),
        ("exp_avg", torch.zeros(3, 1), r"has shape \(3, 1\)"),
        ("step", torch.tensor(1e20), "expected a whole number"),
        ("exp_avg_sq", torch.zeros(3, dtype=torch.float64), "is torch.float64, and the param"),
    ]:
        right, state[key] = state[key], wrong
        with pytest.raises((TypeError, ValueError), match=message):
            optimizer.step()
        state[key] = right
    assert torch.equal(param.detach(), kept) and state["step"] == 1
    with pytest.raises(TypeError, match="expected one of fused_adam.torch"):
        fused.clip_grad_norm_and_step(torch.optim.Adam([param]), 1.0)
    with pytest.raises(ValueError, match="norm_type is 3"):
        fused.clip_grad_norm_and_step(optimizer, 1.0, 3)
    with pytest.raises(ValueError, match="max_norm is nan"):
        fused.clip_grad_norm_and_step(optimizer, float("nan"))


def test_a_dampened_first_step_that_fails_is_still_the_first():
    """SGD has no step number, so a buffer that was made for a failed step must not stay."""
    ours, theirs = with_grad(torch.ones(4)), with_grad(torch.ones(4))
    options = {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}
    mine, torchs = fused.SGD([ours, *shared()], **options), torch.optim.SGD([theirs], **options)
    with pytest.raises(ValueError, match="overlap"):
        mine.step()
    mine.param_groups[0]["params"] = [ours]
    for optimizer in (mine, torchs):
        optimizer.step()
        optimizer.step()
    torch.testing.assert_close(ours, theirs)


def test_a_negated_view_has_its_sign():
    param = with_grad(torch.zeros(3), torch.tensor([1 + 2j, 3j, -1j]).conj().imag)
    assert param.grad.is_neg()
    fused.SGD([param], lr=1.0).step()
    assert param.tolist() == [2.0, 3.0, -1.0]


def test_interleaved_parameters_are_apart():
    params = strided_pair(1)
    fused.SGD(params, lr=0.5).step()
    assert all(torch.equal(param.detach(), torch.full((4,), 0.5)) for param in params)


def test_centred_rmsprop_goes_to_torch_and_back():
    """torch keeps the variance, which it does not use, and steps the mean square."""
    options = {"lr": 0.01, "centered": True}
    ours, alone = model().double(), model().double()
    train_in = [fused.RMSprop, torch.optim.RMSprop, fused.RMSprop]
    optimizer = None
    for i, optimizer_class in enumerate(train_in):
        packed = optimizer.state_dict() if optimizer else None
        optimizer = optimizer_class(ours.parameters(), **options)
        if packed:
            optimizer.load_state_dict(packed)
        for step in range(4 * i, 4 * i + 4):
            x = torch.randn(8, 6, generator=torch.Generator().manual_seed(step)).double()
            optimizer.zero_grad()
            ours(x).square().mean().backward()
            optimizer.step()
    optimizer = torch.optim.RMSprop(alone.parameters(), **options)
    for step in range(12):
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(step)).double()
        optimizer.zero_grad()
        alone(x).square().mean().backward()
        optimizer.step()
    for param, other in zip(ours.parameters(), alone.parameters()):
        torch.testing.assert_close(param, other, rtol=1e-10, atol=1e-10)


def test_autograd_notices_a_step():
    weight = torch.full((3,), 2.0, requires_grad=True)
    loss = (weight**3).sum()
    loss.backward(retain_graph=True)
    fused.SGD([weight], lr=0.5).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_skipped_first_step_is_not_the_first():
    param = with_grad(torch.ones(4), torch.full((4,), float("inf")))
    optimizer = fused.SGD([param], lr=0.1, momentum=0.9, dampening=0.5)
    fused.clip_grad_norm_and_step(optimizer, 1.0, skip_nonfinite=True)
    assert param not in optimizer.state
    param.grad = torch.ones(4)
    optimizer.step()
    torch.testing.assert_close(param.detach(), torch.full((4,), 0.9))


def test_what_only_says_that_it_is_a_tensor():
    from unittest.mock import MagicMock

    param = with_grad(torch.ones(3))
    optimizer = fused.Adam([param])
    optimizer.step()
    optimizer.state[param]["exp_avg"] = MagicMock(spec=torch.Tensor)
    with pytest.raises((TypeError, RuntimeError)):
        optimizer.step()


def test_nadam_in_sixteen_bits_keeps_its_product_after_loading():
    def steps(optimizer, n):
        for _ in range(n):
            optimizer.step()

    param = with_grad(torch.ones(3, dtype=torch.bfloat16))
    whole, parts = fused.NAdam([param]), fused.NAdam([param])
    steps(whole, 6)
    steps(parts, 3)
    loaded = fused.NAdam([param])
    loaded.load_state_dict(parts.state_dict())
    steps(loaded, 3)
    found, expected = (one.state[param]["mu_product"] for one in (loaded, whole))
    assert torch.equal(found, expected) and found.dtype == torch.float64
    # The two do not share it.
    assert not torch.equal(found, parts.state[param]["mu_product"])


def test_signatures_are_torchs():
    import inspect

    for name in ("Adam", "AdamW", "NAdam", "RAdam", "Adamax", "RMSprop", "Adagrad", "SGD"):
        of = [inspect.signature(getattr(where, name)) for where in (fused, torch.optim)]
        ours, torchs = (dict(signature.parameters) for signature in of)
        own = ["state_dtype", "stochastic_rounding", "state", "min_8bit_size", "master_weights"]
        assert list(ours) == [*torchs, *own]
        for key, expected in torchs.items():
            assert (ours[key].default, ours[key].kind) == (expected.default, expected.kind), key


def test_a_group_that_is_refused_is_not_added():
    optimizer = fused.Adam([torch.ones(1, requires_grad=True)])
    with pytest.raises(ValueError, match="capturable=True is not supported"):
        optimizer.add_param_group(
            {"params": [torch.ones(2, requires_grad=True)], "capturable": True}
        )
    assert len(optimizer.param_groups) == 1


def test_a_state_is_laid_out_as_its_parameter():
    image = torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last)
    param = with_grad(image, torch.ones(2, 3, 4, 5))
    optimizer = fused.AdamW([param])
    optimizer.step()
    assert param.stride() != param.detach().contiguous().stride()
    assert optimizer.state[param]["exp_avg"].stride() == param.stride()


def test_adagrad_starts_a_later_group_where_it_started_the_first():
    first, later = with_grad(torch.ones(4)), with_grad(torch.ones(4))
    optimizer = fused.Adagrad([first], lr=0.1, initial_accumulator_value=3.0)
    optimizer.add_param_group({"params": [later]})
    optimizer.step()
    assert torch.equal(first, later)
    assert optimizer.state[later]["sum"].tolist() == [4.0] * 4


def test_what_a_failed_step_made_is_taken_back():
    """A state from before stays, without the entries that the failed step added."""
    param = with_grad(torch.ones(4))
    optimizer = fused.Adam([param], lr=0.1)
    optimizer.step()
    before = dict(optimizer.state[param])
    optimizer.param_groups[0]["amsgrad"] = True
    param.grad = torch.full((4,), float("nan"))
    with pytest.raises(ValueError):
        fused.clip_grad_norm_and_step(optimizer, 1.0)
    assert optimizer.state[param].keys() == before.keys()
    assert all(optimizer.state[param][name] is tensor for name, tensor in before.items())
    assert optimizer.state[param]["step"] == 1


def test_centred_rmsprop_keeps_one_second_moment():
    param = with_grad(torch.ones(4))
    torchs = torch.optim.RMSprop([param], centered=True)
    torchs.step()
    optimizer = fused.RMSprop([param], centered=True)
    optimizer.load_state_dict(torchs.state_dict())
    assert optimizer.state[param].keys() == {"step", "square_avg", "grad_avg"}
