//! Programs that are written for candle's optimizers compile and run with these.

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::{Optimizer as _, ParamsAdamW};
use fused_adam::AdamW;
use fused_adam_candle::{Optimizer, fused_adam};

use crate::common::{elements, everything, grads, tensor_bits, uniform, var};
use crate::digits::Random;

fn is_shared<T: std::fmt::Debug + Send + Sync>() {}

/// Calls every method of candle's `AdamW` and of its trait, with the types that candle has.
macro_rules! program_of_adamw {
    ($AdamW:ty) => {{
        is_shared::<$AdamW>();
        let new_lr: fn(Vec<Var>, f64) -> Result<$AdamW> = <$AdamW>::new_lr;
        let params: for<'a> fn(&'a $AdamW) -> &'a ParamsAdamW = <$AdamW>::params;
        let set_params: fn(&mut $AdamW, ParamsAdamW) = <$AdamW>::set_params;

        let w = Var::new(&[[1.0_f64, -2.0], [0.5, 3.0]], &Device::Cpu)?;
        let b = Var::new(0.25_f64, &Device::Cpu)?;
        let loss = || w.broadcast_add(&b)?.sqr()?.sum_all();
        let mut opt = new_lr(vec![w.clone(), b.clone()], 0.125)?;
        assert_eq!((params(&opt).lr, params(&opt).weight_decay), (0.125, 0.01));
        opt.backward_step(&loss()?)?;
        let ParamsAdamW { eps, .. } = *opt.params();
        let changed = ParamsAdamW { lr: 0.25, beta1: 0.8, eps, ..opt.params().clone() };
        set_params(&mut opt, changed);
        assert_eq!((opt.learning_rate(), opt.params().beta1), (0.25, 0.8));
        opt.step(&loss()?.backward()?)?;
        opt.set_learning_rate(0.0625);
        assert_eq!((opt.learning_rate(), opt.params().lr), (0.0625, 0.0625));
        opt.backward_step(&loss()?)?;
        assert!(format!("{opt:?}").contains("lr: 0.0625"));

        let other = ParamsAdamW { lr: 0.5, beta1: 0.7, beta2: 0.9, eps: 0.5, weight_decay: 0.125 };
        let mut opt = <$AdamW>::new(vec![b.clone()], other.clone())?;
        opt.backward_step(&loss()?)?;
        let mut opt = <$AdamW>::from_slice(&[&w, &b], other.clone())?;
        opt.backward_step(&loss()?)?;
        assert_eq!(<$AdamW>::empty(other)?.params().beta1, 0.7);
        [elements::<f64>(&w), elements::<f64>(&b)].concat()
    }};
}

#[test]
fn a_program_of_adamw() -> Result<()> {
    let theirs = program_of_adamw!(candle_nn::AdamW);
    let ours = program_of_adamw!(fused_adam_candle::AdamW);
    assert_eq!((theirs.len(), ours.len()), (5, 5));
    for (a, b) in theirs.iter().zip(&ours) {
        assert!((a - b).abs() < 1e-14, "{theirs:?}, {ours:?}");
    }
    Ok(())
}

/// Calls every method of candle's `SGD`. Returns all numbers that it computes.
macro_rules! program_of_sgd {
    ($SGD:ty, $E:ty) => {{
        let push: fn(&mut $SGD, &Var) = <$SGD>::push;
        let into_inner: fn($SGD) -> Vec<Var> = <$SGD>::into_inner;

        let mut random = Random(11);
        let [a, b, c] = [&[3, 50][..], &[], &[7]].map(|shape| var::<$E>(&mut random, shape));
        let mut opt = <$SGD>::new(vec![a.clone()], 0.1)?;
        let mut run = Vec::new();
        for step in 0..6 {
            match step {
                2 => push(&mut opt, &b),
                3 => opt.set_learning_rate(0.3 * opt.learning_rate()),
                4 => push(&mut opt, &c),
                _ => {}
            }
            let mut grad = |var: &Var| {
                let grad = uniform::<$E>(&mut random, var.elem_count());
                Tensor::from_vec(grad, var.shape(), &Device::Cpu).unwrap()
            };
            opt.step(&grads([&a, &b, &c].map(|var| (var, grad(var)))))?;
            run.extend([&a, &b, &c].map(|var| tensor_bits(var)));
        }
        assert!(format!("{opt:?}").contains("0.03"));
        let vars = into_inner(opt);
        assert_eq!(vars.len(), 3);
        assert!(vars.iter().zip([&a, &b, &c]).all(|(var, of)| var.id() == of.id()));
        let mut opt = <$SGD>::from_slice(&[&c], 0.5)?;
        opt.backward_step(&c.sqr()?.sum_all()?)?;
        assert_eq!(<$SGD>::empty(0.25)?.learning_rate(), 0.25);
        run.push(tensor_bits(&c));
        run
    }};
}

/// In `f32` and `f64` the bits are those of candle.
#[test]
fn a_program_of_sgd() -> Result<()> {
    assert_eq!(program_of_sgd!(candle_nn::SGD, f32), program_of_sgd!(fused_adam_candle::SGD, f32));
    assert_eq!(program_of_sgd!(candle_nn::SGD, f64), program_of_sgd!(fused_adam_candle::SGD, f64));
    Ok(())
}

/// A loop for any optimizer of candle's trait.
fn fit<O: candle_nn::Optimizer>(config: O::Config) -> Result<f32> {
    let w = Var::new(0_f32, &Device::Cpu)?;
    let mut opt = O::new(vec![w.clone()], config)?;
    for _ in 0..300 {
        opt.backward_step(&(w.as_tensor() - 1.0)?.sqr()?)?;
    }
    w.to_scalar()
}

#[test]
fn a_generic_program() -> Result<()> {
    let params = ParamsAdamW { lr: 0.1, weight_decay: 0.0, ..ParamsAdamW::default() };
    let all = [
        fit::<candle_nn::AdamW>(params.clone())?,
        fit::<fused_adam_candle::AdamW>(params)?,
        fit::<candle_nn::SGD>(0.1)?,
        fit::<fused_adam_candle::SGD>(0.1)?,
    ];
    assert!(all.iter().all(|w| (w - 1.0).abs() < 1e-3), "{all:?}");
    Ok(())
}

/// A variable that `push` cannot add makes every step fail, until it can be added.
#[test]
fn push_is_checked_by_the_next_step() {
    let ones = |len: usize, dtype| Var::ones(len, dtype, &Device::Cpu).unwrap();
    let (w, double) = (ones(40, DType::F32), ones(40, DType::F64));
    let last = ones(2, DType::F32);
    let mut opt = Optimizer::new(vec![w.clone()], AdamW::default()).unwrap();
    opt.set_8bit_states(40).unwrap();
    opt.push(&double);
    opt.push(&last);
    assert_eq!(opt.names().collect::<Vec<_>>(), ["0", "2"]);
    let vars = [w, double, last];
    let grads = grads(vars.iter().map(|var| (var, var.as_tensor().clone())));
    let before = everything(&opt, &vars).unwrap();
    for _ in 0..2 {
        let error = opt.step_with_report(&grads).unwrap_err();
        let message = "variable `1` is f64, expected f32, bf16 or f16 for states in 8 bits";
        assert_eq!(error.to_string(), message);
        assert_eq!(everything(&opt, &vars).unwrap(), before);
    }
    opt.set_8bit_states(41).unwrap();
    opt.step(&grads).unwrap();
    assert_eq!(opt.names().collect::<Vec<_>>(), ["0", "2", "1"]);
    assert_eq!(["0", "1", "2"].map(|name| opt.t(name)), [Some(1); 3]);
    assert_eq!(opt.state("1", "m").unwrap().unwrap().dtype(), DType::F64);
}

/// A number that is the name of another variable is not used, also if that variable was refused.
#[test]
fn push_takes_a_free_name() {
    let ones = |dtype| Var::ones(3, dtype, &Device::Cpu).unwrap();
    let vars = [DType::F32; 4].map(ones);
    let named = [("1", vars[0].clone()), ("3", vars[1].clone())];
    let mut opt = Optimizer::with_names(named, AdamW::default()).unwrap();
    opt.push(&vars[2]);
    opt.push(&vars[3]);
    assert_eq!(opt.names().collect::<Vec<_>>(), ["1", "3", "2", "4"]);
    opt.step(&grads(vars.iter().map(|var| (var, var.as_tensor().clone())))).unwrap();
    assert_eq!(["1", "2", "3", "4"].map(|name| opt.t(name)), [Some(1); 4]);

    // The name 2, after the 1 that is taken, is that of the variable that is refused.
    let vars = [DType::F32, DType::F64, DType::F32].map(ones);
    let mut opt = Optimizer::with_names([("1", vars[0].clone())], AdamW::default()).unwrap();
    opt.set_8bit_states(3).unwrap();
    opt.push(&vars[1]);
    opt.push(&vars[2]);
    let grads = grads(vars.iter().map(|var| (var, var.as_tensor().clone())));
    let error = opt.step_with_report(&grads).unwrap_err().to_string();
    assert!(error.starts_with("variable `2` is f64"), "{error}");
    opt.set_8bit_states(4).unwrap();
    opt.step(&grads).unwrap();
    assert_eq!(opt.names().collect::<Vec<_>>(), ["1", "3", "2"]);
}

/// The names, hyper-parameters and settings, but no elements.
#[test]
fn debug() {
    let w = Var::new(&[123.5_f32], &Device::Cpu).unwrap();
    let opt = Optimizer::with_names([("weights", w)], AdamW::default()).unwrap();
    let text = format!("{opt:?}");
    assert!(text.starts_with("Optimizer") && !text.contains("123.5"), "{text}");
    for part in ["AdamW", "beta2: 0.999", "weights", "steps: 0", "clip_norm: None"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}
