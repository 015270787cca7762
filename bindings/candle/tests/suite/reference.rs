//! A step is bit-identical to the scalar reference on each variable: every rule, every type.

use std::num::NonZeroUsize;

use crate::common::{Number, bits, elements, rules, uniform, var};
use crate::digits::Random;
use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};
use fused_adam::{AnyRule, Backend, Parallelism, Rule, State, Step, bf16, f16};
use fused_adam_candle::{Optimizer, fused_adam};
use proptest::prelude::*;

/// The reference's copy of a variable.
struct Twin<E: Number> {
    theta: Vec<E>,
    states: Vec<Vec<E::DefaultState>>,
    t: u64,
}

/// Scalars, empty shapes, and more than one piece.
const SHAPES: [&[usize]; 6] = [&[], &[3, 7], &[3, 0], &[1], &[2, 5, 3], &[4099]];

/// The memory layout of a gradient.
#[derive(Clone, Copy, Debug)]
enum Layout {
    None,
    Plain,
    Transposed,
    /// A part of a larger tensor.
    Narrowed,
    /// The variable itself, which is the gradient of half its square.
    Variable,
    /// The first variable with the same shape, which is also stepped.
    Other,
}

const LAYOUTS: [Layout; 6] = [
    Layout::None,
    Layout::Plain,
    Layout::Transposed,
    Layout::Narrowed,
    Layout::Variable,
    Layout::Other,
];

fn gradient<E: Number>(random: &mut Random, layout: Layout, vars: &[Var], number: usize) -> Tensor {
    let var = &vars[number];
    let dims = var.dims();
    let reversed: Vec<usize> = dims.iter().rev().copied().collect();
    let len = var.elem_count();
    match layout {
        Layout::Transposed => {
            let axes: Vec<usize> = (0..dims.len()).rev().collect();
            let grad = Tensor::from_vec(uniform::<E>(random, len), reversed, &Device::Cpu).unwrap();
            grad.permute(axes).unwrap()
        }
        Layout::Narrowed => {
            let grad =
                Tensor::from_vec(uniform::<E>(random, 5 + len), 5 + len, &Device::Cpu).unwrap();
            grad.narrow(0, 5, len).unwrap().reshape(dims).unwrap()
        }
        Layout::Variable => var.as_tensor().clone(),
        Layout::Other => {
            vars.iter().find(|other| other.dims() == dims).unwrap().as_detached_tensor()
        }
        Layout::Plain | Layout::None => {
            Tensor::from_vec(uniform::<E>(random, len), dims, &Device::Cpu).unwrap()
        }
    }
}

fn grad_store() -> GradStore {
    Tensor::new(0.0_f32, &Device::Cpu).unwrap().backward().unwrap()
}

fn is_the_reference<E>(rule: AnyRule, parallelism: Parallelism, random: &mut Random)
where
    E: Number,
    E::DefaultState: Number,
{
    // Each shape twice.
    let vars: Vec<Var> =
        SHAPES.iter().chain(&SHAPES).map(|shape| var::<E>(random, shape)).collect();
    let mut twins: Vec<Twin<E>> = Vec::new();
    for var in &vars {
        let filled = |i| vec![fused_adam::Real::from_f64(rule.initial_state(i)); var.elem_count()];
        let states = (0..rule.states().len()).map(filled).collect();
        twins.push(Twin { theta: elements(var), states, t: 0 });
    }
    let mut opt: Optimizer = candle_nn::Optimizer::new(vars.clone(), rule).unwrap();
    opt.options_mut().parallelism = parallelism;
    for _ in 0..4 {
        let mut grads = grad_store();
        for (number, twin) in twins.iter_mut().enumerate() {
            let layout = LAYOUTS[(random.uniform().abs() * 6.0) as usize];
            if let Layout::None = layout {
                continue;
            }
            let grad = gradient::<E>(random, layout, &vars, number);
            let plain: Vec<E> = elements(&grad);
            grads.insert(&vars[number], grad);
            twin.t += 1;
            let mut states: Vec<&mut [E::DefaultState]> =
                twin.states.iter_mut().map(|s| &mut s[..]).collect();
            Step::new(&rule, twin.t)
                .with_backend(Backend::Scalar)
                .with_parallelism(Parallelism::Serial)
                .run_mixed(&mut twin.theta, &plain, &mut states)
                .unwrap();
        }
        opt.step_with_report(&grads).unwrap();
        for (number, (twin, var)) in twins.iter().zip(&vars).enumerate() {
            let place = || format!("{rule:?}, {}, variable {number}, t {}", E::NAME, twin.t);
            assert_eq!(bits(&twin.theta), bits::<E>(&elements(var)), "{}", place());
            if var.elem_count() == 0 {
                continue;
            }
            let name = number.to_string();
            assert_eq!(opt.t(&name), Some(twin.t), "{}", place());
            for (state, expected) in rule.states().iter().map(State::name).zip(&twin.states) {
                let found = opt.state(&name, state).unwrap();
                assert_eq!(found.is_some(), twin.t > 0, "{}, {state}", place());
                if let Some(found) = found {
                    assert_eq!(found.dims(), var.dims());
                    assert_eq!(
                        bits(expected),
                        bits::<E::DefaultState>(&elements(&found)),
                        "{}, {state}",
                        place()
                    );
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, ..ProptestConfig::default() })]

    #[test]
    fn every_rule_and_type_is_the_reference(
        seed: u64,
        chunk in 1_usize..5000,
    ) {
        let mut random = Random(seed);
        let chunks = Parallelism::Chunks(NonZeroUsize::new(chunk).unwrap());
        for rule in rules() {
            for parallelism in [Parallelism::Auto, Parallelism::Serial, chunks] {
                is_the_reference::<f32>(rule, parallelism, &mut random);
                is_the_reference::<f64>(rule, parallelism, &mut random);
                is_the_reference::<bf16>(rule, parallelism, &mut random);
                is_the_reference::<f16>(rule, parallelism, &mut random);
            }
        }
    }
}

#[test]
fn variables_of_all_types_in_one_step() {
    let vars = [
        Var::new(&[1.0_f32, -2.0], &Device::Cpu).unwrap(),
        Var::new(&[1.0_f64, -2.0], &Device::Cpu).unwrap(),
        Var::new(&[bf16::ONE, -bf16::ONE], &Device::Cpu).unwrap(),
        Var::new(&[f16::ONE, -f16::ONE], &Device::Cpu).unwrap(),
    ];
    let sign = fused_adam::Lion { lr: 0.5, weight_decay: 0.0, ..Default::default() };
    let mut opt =
        Optimizer::with_names(["a", "b", "c", "d"].into_iter().zip(vars.clone()), sign).unwrap();
    let mut grads = grad_store();
    for var in &vars {
        grads.insert(var, var.as_tensor().clone());
    }
    opt.step_with_report(&grads).unwrap();
    let all: Vec<Vec<f64>> =
        vars.iter().map(|var| elements(&var.to_dtype(candle_core::DType::F64).unwrap())).collect();
    assert_eq!(all, [[0.5, -1.5], [0.5, -1.5], [0.5, -0.5], [0.5, -0.5]]);
}

/// Locks nest as deep as there are variables, also on a thread with little stack.
#[test]
fn thousands_of_variables_on_a_small_stack() {
    let small = std::thread::Builder::new().stack_size(256 << 10);
    let run = || {
        let new = |_| Var::new(&[1.0_f32], &Device::Cpu).unwrap();
        let vars: Vec<Var> = (0..20_000).map(new).collect();
        let sign = fused_adam::Lion { lr: 0.5, weight_decay: 0.0, ..Default::default() };
        let mut opt: Optimizer<_> = candle_nn::Optimizer::new(vars.clone(), sign).unwrap();
        let mut grads = grad_store();
        let ones = Tensor::new(&[1.0_f32], &Device::Cpu).unwrap();
        for var in &vars {
            grads.insert(var, ones.clone());
        }
        opt.step_with_report(&grads).unwrap();
        assert!(vars.iter().all(|var| elements::<f32>(var) == [0.5]));
    };
    small.spawn(run).unwrap().join().unwrap();
}

/// Two optimizers with common variables in opposite orders, on two threads.
#[test]
fn two_optimizers_of_the_same_variables_take_turns() {
    let new = |_| Var::new(&[0.0_f64], &Device::Cpu).unwrap();
    let vars: Vec<Var> = (0..50).map(new).collect();
    let step = |vars: Vec<Var>| {
        let sgd = fused_adam::Sgd { lr: 1.0, ..Default::default() };
        let mut opt: Optimizer<_> = candle_nn::Optimizer::new(vars.clone(), sgd).unwrap();
        let mut grads = grad_store();
        for var in &vars {
            grads.insert(var, Tensor::new(&[-1.0_f64], &Device::Cpu).unwrap());
        }
        for _ in 0..200 {
            opt.step_with_report(&grads).unwrap();
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| step(vars.clone()));
        scope.spawn(|| step(vars.iter().rev().cloned().collect()));
    });
    assert!(vars.iter().all(|var| elements::<f64>(var) == [400.0]));
}

/// A thread that reads a variable sees its value before or after a step.
#[test]
fn a_reader_on_another_thread_sees_whole_steps() {
    let vars: Vec<Var> =
        (0..4).map(|_| Var::new(&[0.0_f64; 50_000], &Device::Cpu).unwrap()).collect();
    let sgd = fused_adam::Sgd { lr: 1.0, ..Default::default() };
    let mut opt: Optimizer<_> = candle_nn::Optimizer::new(vars.clone(), sgd).unwrap();
    let mut grads = grad_store();
    for var in &vars {
        grads.insert(var, Tensor::new(&[-1.0_f64; 50_000], &Device::Cpu).unwrap());
    }
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut last = 0.0;
            while last < 100.0 {
                for var in &vars {
                    let all = elements::<f64>(var);
                    assert!(all.iter().all(|x| *x == all[0]));
                    last = all[0];
                }
            }
        });
        for _ in 0..100 {
            opt.step_with_report(&grads).unwrap();
        }
        reader.join().unwrap();
    });
}
