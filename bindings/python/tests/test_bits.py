"""Steps of tensors of any shape, strides and type are bit-identical to the reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fused_adam
from common import CASES, VARIANTS, Case, Reference, assert_same_bits

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@st.composite
def laid_out(draw: st.DrawFn) -> tuple[tuple[int, ...], list[int], tuple[int, ...], bool]:
    """A shape, the order of its dimensions in memory, the steps of a slice, whether to expand."""
    shape = tuple(draw(st.lists(st.integers(0, 9), max_size=4)))
    order = draw(st.permutations(range(len(shape))))
    steps = tuple(draw(st.sampled_from([1, 1, 1, 2, 3])) for _ in shape)
    return shape, list(order), steps, draw(st.booleans())


def make(layout, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """A tensor with this memory layout, in a larger piece of memory."""
    shape, order, steps, _ = layout
    sizes = [shape[i] * steps[i] for i in order]
    base = torch.randn(sizes, generator=generator, dtype=torch.float64).to(dtype)
    back = [order.index(i) for i in range(len(shape))]
    tensor = base.permute(back)
    return tensor[tuple(slice(None, None, step) for step in steps)]


@settings(max_examples=150, deadline=None, print_blob=True)
@given(
    case=st.sampled_from(CASES),
    dtype=st.sampled_from(DTYPES),
    layouts=st.lists(st.tuples(laid_out(), laid_out()), min_size=1, max_size=4),
    seed=st.integers(0, 2**32 - 1),
    threads=st.sampled_from([0, 1, 3]),
)
def test_any_layout_gives_the_bits_of_the_reference(case, dtype, layouts, seed, threads):
    generator = torch.Generator().manual_seed(seed)
    params, memories, outside = [], [], []
    for own, _ in layouts:
        param = make(own, dtype, generator)
        memory = torch.as_strided(
            param, (param.untyped_storage().nbytes() // param.element_size(),), (1,), 0
        )
        is_inside = torch.zeros(memory.shape, dtype=torch.bool)
        torch.as_strided(is_inside, param.shape, param.stride(), param.storage_offset()).fill_(True)
        memories.append(memory)
        outside.append((~is_inside, memory[~is_inside].clone()))
        params.append(param.requires_grad_())
    references = [Reference(case, param) for param in params]
    optimizer = case.ours(params)
    fused_adam.set_num_threads(threads)
    try:
        for _ in range(3):
            for param, (own, of_grad), reference in zip(params, layouts, references):
                shape, (_, order, steps, expanded) = own[0], of_grad
                fits = len(order) == len(shape)
                layout = (shape, order if fits else own[1], steps if fits else own[2], False)
                grad = make(layout, dtype, generator)
                if expanded and grad.dim() > 0 and grad.shape[0] > 1:
                    grad = grad[:1].expand(grad.shape)
                param.grad = grad
                before = grad.clone()
                reference.step(grad)
                assert_same_bits(param.grad, before, "the gradient before the step")
            optimizer.step()
    finally:
        fused_adam.set_num_threads(0)
    for i, (param, reference) in enumerate(zip(params, references)):
        assert_same_bits(param, reference.theta, f"parameter {i}")
        state = optimizer.state[param]
        for name, expected in zip(case.buffers, reference.states):
            assert_same_bits(state[name], expected, f"{name} of parameter {i}")
        where, before = outside[i]
        assert_same_bits(memories[i].detach()[where], before, f"memory beside parameter {i}")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_long_tensors_on_threads(case: Case):
    generator = torch.Generator().manual_seed(7)
    param = torch.randn(700_001, generator=generator).requires_grad_()
    small = torch.randn(5, 3, generator=generator).requires_grad_()
    references = [Reference(case, param), Reference(case, small)]
    optimizer = case.ours([param, small])
    for _ in range(2):
        for one, reference in zip([param, small], references):
            one.grad = torch.randn(one.shape, generator=generator)
            reference.step(one.grad)
        optimizer.step()
    assert_same_bits(param, references[0].theta, "the long one")
    assert_same_bits(small, references[1].theta, "the short one")


@settings(max_examples=60, deadline=None, print_blob=True)
@given(
    len_=st.integers(0, 3000),
    start=st.integers(0, 7),
    variant=st.sampled_from(VARIANTS),
    dtype=st.sampled_from([np.float32, np.float64, np.float16, "bfloat16"]),
    backend=st.sampled_from(["auto", "wide", "scalar"]),
    special=st.booleans(),
    decays=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_arrays_of_numpy(len_, start, variant, dtype, backend, special, decays, seed):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    dtype = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    random = np.random.default_rng(seed)
    name, options = variant
    weight_decay = {"weight_decay": float(random.uniform(0.0, 0.1))}
    rule = fused_adam.Rule(name, **options, **(weight_decay if decays else {}))

    def numbers() -> np.ndarray:
        found = random.standard_normal(start + len_ + 4)
        if special:
            places = random.integers(0, found.size, 8)
            found[places] = random.choice([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, 6e4], 8)
        return found.astype(dtype)

    all_ours = [numbers() for _ in range(2 + len(rule.states))]
    for state in all_ours[2:]:
        np.copyto(state, np.abs(state))
    all_expected = [array.copy() for array in all_ours]
    part = slice(start, start + len_)
    t = int(random.integers(1, 10**9))
    rule.step(t, *[array[part] for array in all_ours], backend=backend)
    rule.step(t, *[array[part] for array in all_expected], backend="scalar")
    for array, expected in zip(all_ours, all_expected):
        array, expected = (torch.from_numpy(x.astype(np.float64)) for x in (array, expected))
        assert_same_bits(array, expected, f"seed {seed}")
