//! States in 8 bits: steps are bit-identical to the core's on row-major copies, in any memory order
//! of θ. Also which arrays keep states of `f32`, and wrong calls.

use std::ops::Range;

use fused_adam_ndarray::fused_adam::{
    self, AdaGrad, AdaMax, AdamW, AnyRule, Backend, Block8, ClipNorm, Element, Flat, GroupId,
    Optimizer, Parallelism, RmsProp, Rule, Sgd, StateElement, StepOptions, bf16, f16,
};
use fused_adam_ndarray::{ArrayOptimizer, Error, Pair, ParamMut, step_all, step_with};
use ndarray::{Array1, Array2, ArrayD, Axis, s};

use crate::common::{bits, laid_out, numbers};

/// Rules with zero to three states, with every kind of state and with another initial value.
fn rules() -> [AnyRule; 6] {
    [
        Sgd::default().into(),
        Sgd { momentum: 0.9, ..Sgd::default() }.into(),
        AdamW { amsgrad: true, ..AdamW::default() }.into(),
        AdaMax::default().into(),
        AdaGrad { initial_accumulator_value: 0.3, ..AdaGrad::default() }.into(),
        RmsProp { centered: true, momentum: 0.5, ..RmsProp::default() }.into(),
    ]
}

fn blocks(number: usize) -> Array1<Block8> {
    Array1::from_elem(number, [0; 33])
}

fn adamw() -> AnyRule {
    AdamW::default().into()
}

/// The initial states of a rule.
fn initial<S: StateElement>(rule: AnyRule, len: usize) -> Vec<Vec<S>> {
    Flat::new(rule, len).unwrap().into_parts().2
}

/// A step of the core on slices, with its scalar backend.
fn core_step<T: Element, S: StateElement>(
    (rule, t, seed): (AnyRule, u64, u64),
    theta: &mut [T],
    grad: &[T],
    states: &mut [Vec<S>],
) {
    let options = StepOptions { backend: Backend::Scalar, ..StepOptions::default() };
    let borrowed = fused_adam::ParamMut::new(0, t, theta, grad).with_seed(seed);
    let borrowed = states.iter_mut().fold(borrowed, |borrowed, state| borrowed.with_state(state));
    fused_adam::step_all(&[rule], &options, [borrowed]).unwrap();
}

fn is_the_core<T: Element<Float = f32>>(rule: AnyRule, parallelism: Parallelism) {
    let options = StepOptions { parallelism, ..StepOptions::default() };
    for shape in [(0, 3), (1, 1), (4, 8), (5, 13), (9, 31)] {
        for (layout, grad_layout) in [(0, 0), (0, 1), (1, 1), (2, 1), (1, 0)] {
            let mut theta = laid_out(&numbers::<T>(shape, 0), layout);
            let mut plain: Vec<T> = theta.iter().copied().collect();
            let mut expected = initial::<Block8>(rule, plain.len());
            let mut states: Vec<_> = expected.iter().cloned().map(Array1::from).collect();
            for t in 1..4 {
                let grad = laid_out(&numbers::<T>(shape, t), grad_layout);
                let flat_grad: Vec<T> = grad.iter().copied().collect();
                core_step((rule, t, 0), &mut plain, &flat_grad, &mut expected);
                let mut given: Vec<_> = states.iter_mut().map(|state| &mut **state).collect();
                step_with(&rule, t, &options, &mut theta, &grad, &mut given).unwrap();
                let place = format!("{rule:?}, {shape:?}, {layout}, {grad_layout}, t {t}");
                assert!(bits(&theta) == bits(&plain), "{place}");
                assert!(states.iter().zip(&expected).all(|(a, b)| a.to_vec() == *b), "{place}");
            }
        }
    }
}

#[test]
fn steps_are_those_of_the_core() {
    #[cfg(feature = "parallel")]
    let chunks = Parallelism::Chunks(std::num::NonZeroUsize::new(33).unwrap());
    #[cfg(not(feature = "parallel"))]
    let chunks = Parallelism::Serial;
    for rule in rules() {
        is_the_core::<f32>(rule, Parallelism::Auto);
        is_the_core::<bf16>(rule, Parallelism::Serial);
        is_the_core::<f16>(rule, chunks);
    }
}

/// Blocks that have others between them are copied, and the others do not change.
#[test]
fn views_of_blocks() {
    let rule = adamw();
    let grad = numbers::<f32>((9, 31), 1);
    let (mut theta, mut expected) = (grad.clone(), grad.clone());
    let (mut m, mut v) = (blocks(9), blocks(9));
    let options = StepOptions::default();
    step_with(&rule, 1, &options, &mut expected, &grad, &mut [&mut m, &mut v]).unwrap();

    let canary: Block8 = [77; 33];
    let mut around = Array2::from_elem((9, 3), canary);
    around.column_mut(0).fill([0; 33]);
    around.column_mut(1).fill([0; 33]);
    let (mut own, rest) = around.view_mut().split_at(Axis(1), 2);
    let (mut own_m, mut own_v) = own.multi_slice_mut((s![.., 0], s![..;-1, 1]));
    step_with(&rule, 1, &options, &mut theta, &grad, &mut [&mut own_m, &mut own_v]).unwrap();
    assert_eq!(bits(&theta), bits(&expected));
    assert!(own_m == m && own_v == v);
    assert!(rest.iter().all(|block| *block == canary));
}

/// A list with states in 8 bits and in `f32`, in one step: one norm, and the seeds of the arrays.
#[test]
fn a_list_with_f32_states() {
    let rules = [adamw()];
    let options = StepOptions { clip_norm: Some(ClipNorm::Two(0.5)), ..StepOptions::default() };
    let (large, small) = (numbers::<f32>((9, 31), 0), numbers::<f32>((3, 5), 0));
    let (large_grad, small_grad) = (numbers::<f32>((9, 31), 1), numbers::<f32>((3, 5), 1));
    let (mut w, mut b) = (laid_out(&large, 1), laid_out(&small, 1));
    let (mut w_m, mut w_v) = (blocks(9), blocks(9));
    let (mut b_m, mut b_v) = (small.map(|_| 0.0_f32), small.map(|_| 0.0_f32));
    let report = step_all(
        &rules,
        &options,
        [
            ParamMut::new(0, 1, &mut w, &large_grad)
                .with_seed(5)
                .with_state(&mut w_m)
                .with_state(&mut w_v),
            ParamMut::new(0, 1, &mut b, &small_grad)
                .with_f32_state(&mut b_m)
                .with_f32_state(&mut b_v),
        ],
    )
    .unwrap();

    let (mut flat_w, mut flat_b) = (large, small);
    let (mut m, mut v) = (blocks(9), blocks(9));
    let (mut flat_m, mut flat_v) = ([0.0_f32; 15], [0.0_f32; 15]);
    fn slice<T>(array: &mut Array2<T>) -> &mut [T] {
        array.as_slice_mut().unwrap()
    }
    let expected = fused_adam::step_all(
        &rules,
        &options,
        [
            fused_adam::ParamMut::new(0, 1, slice(&mut flat_w), large_grad.as_slice().unwrap())
                .with_seed(5)
                .with_state(m.as_slice_mut().unwrap())
                .with_state(v.as_slice_mut().unwrap()),
            fused_adam::ParamMut::new(0, 1, slice(&mut flat_b), small_grad.as_slice().unwrap())
                .with_state(&mut flat_m)
                .with_state(&mut flat_v),
        ],
    )
    .unwrap();
    assert_eq!(report.grad_norm, expected.grad_norm);
    assert!(bits(&w) == bits(&flat_w) && bits(&b) == bits(&flat_b));
    assert!(w_m == m && w_v == v && bits(&b_m) == bits(&flat_m) && bits(&b_v) == bits(&flat_v));
}

/// Shards of rows that begin with a block have the bits of the whole.
#[test]
fn shards() {
    let grad = numbers::<f32>((6, 16), 1);
    let (mut whole, mut theta) = (grad.clone(), grad.clone());
    let (mut m, mut v) = (blocks(3), blocks(3));
    let options = StepOptions::default();
    let borrowed = ParamMut::new(0, 1, &mut whole, &grad).with_seed(9);
    let rules = [adamw()];
    step_all(&rules, &options, [borrowed.with_state(&mut m).with_state(&mut v)]).unwrap();

    let (mut shard_m, mut shard_v) = (blocks(3), blocks(3));
    let mut step = |theta: &mut Array2<f32>, rows: std::ops::Range<usize>, first| {
        let of = s![rows.start / 2..rows.end.div_ceil(2)];
        let (mut m, mut v) = (shard_m.slice_mut(of), shard_v.slice_mut(of));
        let (mut theta, grad) = (theta.slice_mut(s![rows.clone(), ..]), grad.slice(s![rows, ..]));
        let borrowed = ParamMut::new(0, 1, &mut theta, &grad).with_seed(9).with_offset(first);
        step_all(&rules, &options, [borrowed.with_state(&mut m).with_state(&mut v)])
    };
    let message = "`offset` is 16, expected a multiple of 32 for states in 8 bits";
    assert_eq!(step(&mut theta, 2..6, 16).unwrap_err().to_string(), message);
    assert_eq!(theta, grad);
    step(&mut theta, 0..2, 0).unwrap();
    step(&mut theta, 2..6, 32).unwrap();
    assert_eq!(bits(&theta), bits(&whole));
    assert!(shard_m == m && shard_v == v);
}

/// How the message ends for an array of 65 elements.
const EXPECTED: &str = "expected [3], the number of blocks of 65 elements";

#[test]
fn wrong_numbers_of_blocks_are_refused() {
    let grad = numbers::<f32>((5, 13), 1);
    let zeros = |shape: &[usize]| ArrayD::<Block8>::from_elem(shape, [0; 33]);
    for (m, v, found) in [
        (&[2][..], &[3][..], "`m` of array `0` has shape [2]"),
        (&[3], &[4], "`v` of array `0` has shape [4]"),
        (&[5, 13], &[5, 13], "`m` of array `0` has shape [5, 13]"),
        (&[3], &[3, 1], "`v` of array `0` has shape [3, 1]"),
    ] {
        let (mut theta, mut m, mut v) = (grad.clone(), zeros(m), zeros(v));
        let before = (theta.clone(), m.clone(), v.clone());
        let options = StepOptions::default();
        let states = &mut [&mut *m, &mut *v];
        let error = step_with(&adamw(), 1, &options, &mut theta, &grad, states);
        let error = error.unwrap_err();
        assert!(matches!(error, Error::Blocks { expected: 3, len: 65, .. }));
        assert_eq!(error.to_string(), format!("{found}, {EXPECTED}"));
        assert_eq!((theta, m, v), before);
    }
}

/// States of both types, more states than the rule has, and an unknown rule are errors, also if θ
/// is not in row-major order.
#[test]
fn states_that_the_rule_does_not_have_are_refused() {
    let grad = numbers::<f32>((5, 13), 1);
    for layout in 0..3 {
        let mut theta = laid_out(&grad, layout);
        let (before, mut blocks) = (theta.clone(), [blocks(3), blocks(3), blocks(3)]);
        let mut singles = [grad.clone(), grad.clone()];
        let [m, v, other] = &mut blocks;
        let [first, second] = &mut singles;
        let options = StepOptions::default();
        let both = ParamMut::new(0, 1, &mut theta, &grad);
        let both = both.with_state(&mut *m).with_state(&mut *v);
        let both = both.with_f32_state(&mut *first).with_f32_state(&mut *second);
        assert!(step_all(&[adamw()], &options, [both]).is_err());
        let three = ParamMut::new(0, 1, &mut theta, &grad);
        let three = three.with_state(&mut *m).with_state(&mut *v).with_state(other);
        assert!(step_all(&[adamw()], &options, [three]).is_err());
        let unknown = ParamMut::new(1, 1, &mut theta, &grad).with_state(&mut *m);
        assert!(step_all(&[adamw()], &options, [unknown]).is_err());
        // A state in `f32` with another number of dimensions.
        let mut line = Array1::<f32>::zeros(65);
        let wrong = ParamMut::<f32, f32, f32>::new(1, 1, &mut theta, &grad).with_state(&mut line);
        assert!(step_all(&[adamw()], &options, [wrong]).is_err());
        assert_eq!(theta, before);
    }
}

/// Takes steps on a large and a small array.
fn train(opt: &mut ArrayOptimizer<AnyRule>, [w, b]: [&mut Array2<f32>; 2], steps: Range<u64>) {
    for t in steps {
        let (w_grad, b_grad) = (numbers::<f32>((9, 31), t), numbers::<f32>((4, 8), t));
        opt.step([Pair::new("w", w, &w_grad), Pair::new("b", b, &b_grad)]).unwrap();
    }
}

/// The seed of an array's random bits in the core, by its name.
fn seed(name: &str) -> u64 {
    let mut core = Optimizer::new(adamw()).unwrap();
    let id = core.add::<f32>(GroupId::default(), name, 1).unwrap();
    core.seed(id, 0).unwrap()
}

#[test]
fn an_optimizer_keeps_small_arrays_in_f32() {
    for rule in rules() {
        let mut opt = ArrayOptimizer::new(rule).unwrap();
        let (w, b) = (numbers::<f32>((9, 31), 0), numbers::<f32>((4, 8), 0));
        let mut plain: Vec<f32> = w.iter().copied().collect();
        let mut plain_b: Vec<f32> = b.iter().copied().collect();
        let (mut w, mut b) = (laid_out(&w, 1), laid_out(&b, 1));
        opt.add_8bit(GroupId::default(), "w", &w, 33).unwrap();
        opt.add_8bit(GroupId::default(), "b", &b, 33).unwrap();
        train(&mut opt, [&mut w, &mut b], 1..4);

        let (mut states, mut states_b) = (initial::<Block8>(rule, 279), initial::<f32>(rule, 32));
        for t in 1..4 {
            let grad: Vec<f32> = numbers((9, 31), t).iter().copied().collect();
            core_step((rule, t, seed("w")), &mut plain, &grad, &mut states);
            let grad: Vec<f32> = numbers((4, 8), t).iter().copied().collect();
            core_step((rule, t, seed("b")), &mut plain_b, &grad, &mut states_b);
        }
        assert!(bits(&w) == bits(&plain) && bits(&b) == bits(&plain_b), "{rule:?}");
        for (i, of) in rule.states().iter().enumerate() {
            let (name, place) = (of.name(), format!("{} of {rule:?}", of.name()));
            assert!(opt.state("w", name).unwrap().as_slice() == Some(&states[i]), "{place}");
            let state = opt.state::<f32>("b", name).unwrap();
            assert_eq!(bits(&state), bits(&states_b[i]), "{place}");
            // In the memory order of θ, so that it is stepped in place.
            assert_eq!(state.strides(), b.strides());
            assert!(opt.state::<Block8>("b", name).is_none(), "{place}");
            assert!(opt.state::<f32>("w", name).is_none(), "{place}");
        }
    }
}

#[test]
fn the_least_size_counts_elements() {
    let mut opt = ArrayOptimizer::new(adamw()).unwrap();
    let [mut large, mut small] = [4096, 4095].map(|len| Array1::from_elem(len, bf16::ZERO));
    opt.add_8bit(GroupId::default(), "large", &large, 4096).unwrap();
    opt.add_8bit(GroupId::default(), "small", &small, 4096).unwrap();
    let (large_grad, small_grad) = (large.map(|_| bf16::ONE), small.map(|_| bf16::ONE));
    let large = Pair::new("large", &mut large, &large_grad);
    opt.step([large, Pair::new("small", &mut small, &small_grad)]).unwrap();
    assert!(opt.state::<f32>("small", "v").is_some_and(|v| v.len() == 4095));
    assert!(opt.state::<Block8>("large", "v").is_some_and(|v| v.len() == 128));
}

/// Another shape with as many blocks is an error, before the first step and after it.
#[test]
fn shapes_are_those_of_the_arrays() {
    let (mut theta, mut other) = (numbers::<f32>((8, 8), 0), numbers::<f32>((4, 16), 0));
    let (grad, other_grad, before) = (theta.clone(), other.clone(), other.clone());
    let mut opt = ArrayOptimizer::new(adamw()).unwrap();
    opt.add_8bit(GroupId::default(), "w", &theta, 0).unwrap();
    for _ in 0..2 {
        let error = opt.step([Pair::new("w", &mut other, &other_grad)]).unwrap_err();
        let message = "`theta` of array `w` has shape [4, 16], expected [8, 8]";
        assert_eq!(error.to_string(), message);
        opt.step([Pair::new("w", &mut theta, &grad)]).unwrap();
    }
    assert_eq!((other, opt.t("w")), (before, Some(2)));
}

/// States out of one optimizer and into another: the run continues with the same bits.
#[test]
fn states_are_taken_over() {
    for rule in rules() {
        let new = |w: &Array2<f32>, b: &Array2<f32>| {
            let mut opt = ArrayOptimizer::new(rule).unwrap();
            opt.add_8bit(GroupId::default(), "w", w, 33).unwrap();
            opt.add_8bit(GroupId::default(), "b", b, 33).unwrap();
            opt
        };
        let (mut w, mut b) = (numbers::<f32>((9, 31), 0), laid_out(&numbers((4, 8), 0), 2));
        let mut whole = new(&w, &b);
        train(&mut whole, [&mut w, &mut b], 1..5);
        let mut opt = new(&w, &b);
        let states: Vec<_> = rule.states().iter().map(|of| of.name()).collect();
        let blocks: Vec<_> =
            states.iter().map(|&of| (of, whole.state::<Block8>("w", of).unwrap())).collect();
        let blocks: Vec<_> = blocks.iter().map(|(of, state)| (*of, &**state)).collect();
        opt.set_states("w", 4, &[], &blocks).unwrap();
        let singles: Vec<_> =
            states.iter().map(|&of| (of, whole.state::<f32>("b", of).unwrap())).collect();
        // Their order does not matter.
        let singles: Vec<_> = singles.iter().rev().map(|(of, state)| (*of, &**state)).collect();
        opt.set_states("b", 4, &[], &singles).unwrap();

        let (mut other_w, mut other_b) = (w.clone(), b.clone());
        train(&mut whole, [&mut w, &mut b], 5..8);
        train(&mut opt, [&mut other_w, &mut other_b], 5..8);
        assert!(bits(&w) == bits(&other_w) && bits(&b) == bits(&other_b), "{rule:?}");
        assert_eq!((opt.t("w"), opt.steps()), (Some(7), 7));
        for of in states {
            assert!(opt.state::<Block8>("w", of) == whole.state("w", of), "{of} of {rule:?}");
            assert_eq!(opt.state::<f32>("b", of), whole.state("b", of), "{of} of {rule:?}");
        }
    }
}

/// After each of these errors nothing has changed.
#[test]
fn states_that_do_not_fit_are_refused() {
    let theta = numbers::<f32>((5, 13), 1);
    let mut opt = ArrayOptimizer::new(adamw()).unwrap();
    opt.add_8bit(GroupId::default(), "w", &theta, 0).unwrap();
    let (three, two) = (blocks(3), blocks(2));
    for (states, message) in [
        (
            &[("m", &*two), ("v", &three)][..],
            &format!("`m` of array `w` has shape [2], {EXPECTED}")[..],
        ),
        (&[("m", &three)], "parameter `w`: state `v` is missing, expected the states `m`, `v`"),
    ] {
        assert_eq!(opt.set_states("w", 1, &[], states).unwrap_err().to_string(), message);
    }
    let error = opt.set_states("w", 1, &[], &[("m", &*theta), ("v", &theta)]).unwrap_err();
    assert_eq!(error.to_string(), "`m` of parameter `w` is f32, expected 8 bits");
    assert!(opt.t("w") == Some(0) && opt.state::<Block8>("w", "m").is_none());
}
