//! A step through burn is bit-identical to fused-adam's scalar reference: for every rule and type,
//! with several tensors of several ranks, over several steps.

mod common;

use std::collections::BTreeMap;

use burn::backend::Element as BurnElement;
use burn::module::{Module, Param};
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Tensor};
use common::{Rng, bytes, rules, tensor};
use fused_adam::{
    AnyRule, Backend, Block8, Element, Flat, Parallelism, Rule, Step, bf16, bytemuck, f16,
};
use fused_adam_burn::FusedConfig;
use proptest::prelude::*;

/// One parameter of each rank.
#[derive(Module, Debug)]
struct Parameters {
    vector: Param<Tensor<1>>,
    matrix: Param<Tensor<2>>,
    volume: Param<Tensor<3>>,
}

/// One parameter of the reference.
struct Plain<T, S> {
    theta: Vec<T>,
    states: Vec<Vec<S>>,
}

impl<T: Element, S: Element<Float = T::Float>> Plain<T, S> {
    fn new(rule: &AnyRule, theta: Vec<T>) -> Self {
        let states = (0..rule.states().len())
            .map(|i| vec![S::from_f64(rule.initial_state(i)); theta.len()])
            .collect();
        Plain { theta, states }
    }

    fn step(&mut self, rule: &AnyRule, t: u64, grad: &[T]) {
        let mut states: Vec<&mut [S]> = self.states.iter_mut().map(Vec::as_mut_slice).collect();
        Step::new(rule, t)
            .with_backend(Backend::Scalar)
            .with_parallelism(Parallelism::Serial)
            .run_mixed(&mut self.theta, grad, &mut states)
            .unwrap();
    }
}

/// Compares both, with parameters of `T` and states of `S`.
fn check<T, S>(rule: AnyRule, f32_states: Option<bool>, lens: [usize; 3], steps: u64, seed: u64)
where
    T: Element + BurnElement,
    S: Element<Float = T::Float>,
{
    let device = Device::flex().autodiff();
    let mut rng = Rng(seed);
    let shapes = ([lens[0]], [lens[1], 3], [2, lens[2], 2]);
    let sizes = [lens[0], 3 * lens[1], 4 * lens[2]];
    let mut plain = sizes.map(|len| Plain::<T, S>::new(&rule, rng.numbers(len)));
    let [first, second, third] = plain.each_ref().map(|plain| plain.theta.clone());
    let mut model = Parameters {
        vector: Param::from_tensor(tensor(first, shapes.0, &device)),
        matrix: Param::from_tensor(tensor(second, shapes.1, &device)),
        volume: Param::from_tensor(tensor(third, shapes.2, &device)),
    };
    let config = FusedConfig { f32_states, ..FusedConfig::new(rule) };
    let fused = config.build().unwrap();
    let mut optim = ModuleOptimizer::from(fused.clone());
    let inner = Device::flex();
    for t in 1..=steps {
        // As a learning rate scheduler does.
        let mut now = rule;
        now.set_lr(rule.lr() / t as f64);
        let grads = sizes.map(|len| rng.numbers::<T>(len));
        for (plain, grad) in plain.iter_mut().zip(&grads) {
            plain.step(&now, t, grad);
        }
        let [first, second, third] = grads;
        let mut grads = GradientsParams::new();
        grads.register(model.vector.id, tensor(first, shapes.0, &inner));
        grads.register(model.matrix.id, tensor(second, shapes.1, &inner));
        grads.register(model.volume.id, tensor(third, shapes.2, &inner));
        model = optim.step(now.lr(), model, grads);

        let ours =
            [bytes(&model.vector.val()), bytes(&model.matrix.val()), bytes(&model.volume.val())];
        for (number, (ours, plain)) in ours.iter().zip(&plain).enumerate() {
            let expected: &[u8] = bytemuck::cast_slice(&plain.theta);
            assert!(ours == expected, "parameter {number} after step {t} of {rule:?}");
        }
    }
    assert_eq!(fused.copied(), 0, "nothing else held the parameters");

    // Also compares the states of one parameter, which is stepped without a module.
    let mut rng = Rng(seed);
    let (mut plain, mut state) = (Plain::<T, S>::new(&rule, rng.numbers(lens[0])), None);
    let mut theta = tensor(plain.theta.clone(), shapes.0, &inner);
    for t in 1..=steps {
        let grad = rng.numbers::<T>(lens[0]);
        plain.step(&rule, t, &grad);
        let grad = tensor(grad, shapes.0, &inner);
        let (next, kept) = fused.try_step(rule.lr(), theta, grad, state).unwrap();
        (theta, state) = (next, Some(kept));
    }
    let state = state.unwrap();
    assert_eq!(state.t(), steps);
    for (state_of, expected) in rule.states().iter().zip(&plain.states) {
        let name = state_of.name();
        let expected: &[u8] = bytemuck::cast_slice(expected);
        assert!(bytes(state.get(name).unwrap()) == expected, "{name} of {rule:?}");
    }
}

/// With every parameter type.
fn check_all(rule: AnyRule, lens: [usize; 3], steps: u64, seed: u64) {
    check::<f32, f32>(rule, None, lens, steps, seed);
    check::<f64, f64>(rule, Some(true), lens, steps, seed);
    check::<bf16, bf16>(rule, None, lens, steps, seed);
    check::<f16, f16>(rule, Some(false), lens, steps, seed);
    check::<bf16, f32>(rule, Some(true), lens, steps, seed);
    check::<f16, f32>(rule, None, lens, steps, seed);
}

/// Compares parameters with states in 8 bits.
fn check_8bit<T>(rule: AnyRule, len: usize, steps: u64, seed: u64)
where
    T: Element<Float = f32> + BurnElement,
{
    let (mut rng, device) = (Rng(seed), Device::flex());
    let fused = FusedConfig::new(rule).with_8bit_states(len).build().unwrap();
    let fused = fused.with_parallelism(Parallelism::Chunks(33.try_into().unwrap()));
    let mut plain = rng.numbers::<T>(2 * len);
    let mut theta = tensor(plain.clone(), [len, 2], &device);
    let (mut state, mut reference) = (None, None);
    for t in 1..=steps {
        let grad = rng.numbers::<T>(2 * len);
        let given = tensor(grad.clone(), [len, 2], &device);
        let (next, kept) = fused.try_step(rule.lr(), theta, given, state).unwrap();
        let reference = reference.get_or_insert_with(|| {
            let flat = Flat::<_, Block8>::new(rule, 2 * len).unwrap();
            flat.with_backend(Backend::Scalar).with_seed(kept.seed().unwrap_or(0))
        });
        reference.step_mixed(&mut plain, &grad).unwrap();
        let expected: &[u8] = bytemuck::cast_slice(&plain);
        assert!(bytes(&next) == expected, "step {t} of {rule:?}");
        for of in rule.states() {
            let name = of.name();
            assert!(kept.blocks(name) == reference.state(name), "{name}, step {t} of {rule:?}");
            assert!(kept.get(name).is_none());
        }
        (theta, state) = (next, Some(kept));
    }
}

#[test]
fn every_rule_with_states_in_8_bits() {
    for (seed, rule) in (1..).zip(rules()) {
        for len in [0, 1, 16, 47] {
            check_8bit::<f32>(rule, len, 3, seed);
            check_8bit::<bf16>(rule, len, 3, seed);
            check_8bit::<f16>(rule, len, 3, seed);
        }
    }
}

/// The sizes of the states, and that small parameters have states of `f32` unless told otherwise.
#[test]
fn states_of_large_parameters_have_1_byte_and_a_scale() {
    let step = |len: usize, config: FusedConfig| {
        let ones = || tensor(vec![bf16::ONE; len], [len], &Device::flex());
        config.build().unwrap().try_step(0.1, ones(), ones(), None).unwrap().1
    };
    let config = || FusedConfig::new(fused_adam::AdamW::default()).with_8bit_states(4096);
    let size = |of: &[Block8]| size_of_val(of);
    let state = step(4096, config());
    let sizes = ["m", "v"].map(|name| size(state.blocks(name).unwrap()));
    assert_eq!(sizes, [4096 + 128; 2]);
    let state = step(4095, config());
    assert!(state.blocks("m").is_none() && state.seed().is_none());
    assert_eq!(state.get("m").unwrap().dtype(), burn::tensor::DType::F32);
    let state = step(4095, config().with_f32_states(false));
    assert_eq!(state.get("m").unwrap().dtype(), burn::tensor::DType::BF16);
    assert_eq!(size(step(4095, config().with_8bit_states(0)).blocks("m").unwrap()), 4096 + 128);
}

/// Parameters that differ in θ or in the gradient have other random bits.
#[test]
fn seeds_of_parameters_differ() {
    let fused = FusedConfig::new(fused_adam::AdamW::default()).with_8bit_states(0);
    let fused = fused.build().unwrap();
    let seed = |theta: f32, last: f32| {
        let of = |values| tensor(values, [3], &Device::flex());
        let (theta, grad) = (of(vec![theta; 3]), of(vec![0.0, 0.0, last]));
        fused.try_step(0.1, theta, grad, None).unwrap().1.seed().unwrap()
    };
    assert_eq!(seed(1.0, 1.0), seed(1.0, 1.0));
    assert_ne!(seed(1.0, 1.0), seed(2.0, 1.0));
    assert_ne!(seed(1.0, 1.0), seed(1.0, 2.0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn every_rule_and_type(
        lens in [0..70_usize, 0..40_usize, 0..30_usize],
        steps in 1..6_u64,
        seed: u64,
    ) {
        for rule in rules() {
            check_all(rule, lens, steps, seed);
        }
    }
}

/// Large enough for several threads: a rule with each number of states.
#[test]
fn long_parameters() {
    let by_states: BTreeMap<usize, AnyRule> =
        rules().into_iter().map(|rule| (rule.states().len(), rule)).collect();
    for rule in by_states.into_values() {
        check::<f32, f32>(rule, None, [600_001, 100_003, 17], 2, 7);
    }
}
