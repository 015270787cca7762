//! What differs from candle, as the documentation of the crate lists it: candle's side and this
//! one.

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::{Optimizer, ParamsAdamW};

use crate::common::grads;

type Theirs = candle_nn::AdamW;
type Ours = fused_adam_candle::AdamW;

fn params(change: impl FnOnce(&mut ParamsAdamW)) -> ParamsAdamW {
    let mut params = ParamsAdamW { lr: 0.5, weight_decay: 0.0, ..ParamsAdamW::default() };
    change(&mut params);
    params
}

/// The first element of a variable.
fn first(var: &Var) -> f64 {
    var.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap()[0]
}

#[test]
fn refused_here_and_not_in_candle() {
    let integers = Var::zeros(2, DType::U32, &Device::Cpu).unwrap();
    assert!(Theirs::new(vec![integers.clone()], ParamsAdamW::default()).is_ok());
    assert!(Ours::new(vec![integers], ParamsAdamW::default()).is_err());
    let no_eps = || params(|of| of.eps = 0.0);
    assert!(Theirs::empty(no_eps()).is_ok() && Ours::empty(no_eps()).is_err());
    let w = Var::zeros(2, DType::F32, &Device::Cpu).unwrap();
    let twice = || vec![w.clone(), w.clone()];
    assert!(Theirs::new(twice(), ParamsAdamW::default()).is_ok());
    assert!(Ours::new(twice(), ParamsAdamW::default()).is_err());
}

/// The gradient of the second variable has another shape. Returns the first variable.
fn wrong_shape<O: Optimizer<Config = ParamsAdamW>>() -> Result<f64> {
    let [a, b] = [3.0_f32, 4.0].map(|x| Var::new(&[x], &Device::Cpu).unwrap());
    let mut opt = O::new(vec![a.clone(), b.clone()], params(|_| {}))?;
    let wrong = Tensor::new(&[1.0_f32, 2.0], &Device::Cpu)?;
    let one = Tensor::new(&[1.0_f32], &Device::Cpu)?;
    assert!(opt.step(&grads([(&a, one), (&b, wrong)])).is_err());
    Ok(first(&a))
}

#[test]
fn errors_before_and_after_a_write() -> Result<()> {
    assert_ne!(wrong_shape::<Theirs>()?, 3.0);
    assert_eq!(wrong_shape::<Ours>()?, 3.0);
    Ok(())
}

/// θ = 1 after a step with each gradient.
fn after<O: Optimizer<Config = ParamsAdamW>>(dtype: DType, steps: &[f64]) -> Result<f64> {
    let w = Var::ones(2, dtype, &Device::Cpu)?;
    let mut opt = O::new(vec![w.clone()], params(|_| {}))?;
    for grad in steps {
        let grad = Tensor::full(*grad, 2, &Device::Cpu)?.to_dtype(dtype)?;
        opt.step(&grads([(&w, grad)]))?;
    }
    Ok(first(&w))
}

#[test]
fn large_infinite_and_nan_gradients() -> Result<()> {
    // In candle v is infinite, and the variable stays as it is.
    assert_eq!(after::<Theirs>(DType::F32, &[1e30, 1.0, 1.0])?, 1.0);
    let ours = after::<Ours>(DType::F32, &[1e30, 1.0, 1.0])?;
    assert!(ours.is_finite() && ours < 0.6, "{ours}");
    for grad in [f64::INFINITY, f64::NEG_INFINITY, f64::NAN] {
        assert!(!after::<Theirs>(DType::F32, &[grad])?.is_finite());
        assert!(!after::<Ours>(DType::F32, &[grad])?.is_finite());
    }
    Ok(())
}

/// In `f16` candle's ε is 0, and a gradient of 0 gives 0 / 0.
#[test]
fn zero_gradients_in_f16() -> Result<()> {
    assert!(after::<Theirs>(DType::F16, &[0.0])?.is_nan());
    assert_eq!(after::<Ours>(DType::F16, &[0.0])?, 1.0);
    Ok(())
}

/// The second variable has no gradient in the first step.
fn late<O: Optimizer<Config = ParamsAdamW>>() -> Result<f64> {
    let [a, b] = [0, 1].map(|_| Var::new(&[0.0_f64], &Device::Cpu).unwrap());
    let mut opt = O::new(vec![a.clone(), b.clone()], params(|_| {}))?;
    let one = Tensor::new(&[1.0_f64], &Device::Cpu)?;
    opt.step(&grads([(&a, one.clone())]))?;
    opt.step(&grads([(&a, one.clone()), (&b, one)]))?;
    Ok(first(&b))
}

/// The first step of Adam has the size of the learning rate, if it counts as the first.
#[test]
fn step_numbers() -> Result<()> {
    assert!((late::<Ours>()? + 0.5).abs() < 1e-6);
    assert!((late::<Theirs>()? + 0.5).abs() > 0.05);
    Ok(())
}
