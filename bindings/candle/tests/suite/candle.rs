//! Compares with candle's own AdamW: its published example, and a training run.

use crate::digits::{Digits, Network};
use candle_core::test_utils::{to_vec0_round, to_vec2_round};
use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::{Init, Linear, Module, Optimizer, ParamsAdamW, VarMap};

/// Fits the line y = 3·x1 + x2 − 2 to four points, starting from zeros. Candle's own test of its
/// AdamW expects these numbers after 100 steps. They come from torch.
fn fits_the_line(opt: &mut impl Optimizer, w: &Tensor, b: &Tensor) -> Result<()> {
    let points = Tensor::new(&[[2_f32, 1.], [7., 4.], [-4., 12.], [5., 8.]], &Device::Cpu)?;
    let w_true = Tensor::new(&[[3_f32, 1.]], &Device::Cpu)?;
    let b_true = Tensor::new(-2_f32, &Device::Cpu)?;
    let wanted = Linear::new(w_true, Some(b_true)).forward(&points)?;
    let line = Linear::new(w.clone(), Some(b.clone()));
    for _ in 0..100 {
        let loss = line.forward(&points)?.sub(&wanted)?.sqr()?.sum_all()?;
        opt.backward_step(&loss)?;
    }
    assert_eq!(to_vec2_round(w, 4)?, [[2.7257, 0.7097]]);
    assert_eq!(to_vec0_round(b, 4)?, 0.7873);
    Ok(())
}

const LINE: ParamsAdamW =
    ParamsAdamW { lr: 0.1, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 };

fn line_by<AdamW: Optimizer<Config = ParamsAdamW>>() -> Result<()> {
    let w = Var::new(&[[0_f32, 0.]], &Device::Cpu)?;
    let b = Var::new(0_f32, &Device::Cpu)?;
    let mut opt = AdamW::new(vec![w.clone(), b.clone()], LINE)?;
    fits_the_line(&mut opt, &w, &b)
}

#[test]
fn candles_published_numbers_by_candle() -> Result<()> {
    line_by::<candle_nn::AdamW>()
}

#[test]
fn candles_published_numbers() -> Result<()> {
    line_by::<fused_adam_candle::AdamW>()
}

#[test]
fn candles_published_numbers_from_a_var_map() -> Result<()> {
    let map = VarMap::new();
    let w = map.get((1, 2), "w", Init::Const(0.), DType::F32, &Device::Cpu)?;
    let b = map.get((), "b", Init::Const(0.), DType::F32, &Device::Cpu)?;
    let mut opt = fused_adam_candle::AdamW::from_var_map(&map, LINE)?;
    assert_eq!(opt.names().collect::<Vec<_>>(), ["b", "w"]);
    fits_the_line(&mut opt, &w, &b)
}

/// The losses of each batch and finally of the held-out digits, and all weights at the end.
struct Run {
    losses: Vec<f64>,
    weights: Vec<f64>,
}

const EPOCHS: usize = 10;

fn train<AdamW: Optimizer<Config = ParamsAdamW>>(dtype: DType) -> Result<Run> {
    let digits = Digits::load(dtype)?;
    let network = Network::new(1, dtype)?;
    let params = ParamsAdamW { lr: 3e-3, ..ParamsAdamW::default() };
    let mut opt = AdamW::new(network.vars.clone(), params)?;
    let scalar = |loss: Tensor| loss.to_dtype(DType::F64)?.to_scalar::<f64>();
    let mut losses = Vec::new();
    for _ in 0..EPOCHS {
        for batch in digits.batches() {
            let loss = network.loss(&batch?)?;
            opt.backward_step(&loss)?;
            losses.push(scalar(loss)?);
        }
    }
    losses.push(scalar(network.loss(&digits.held_out)?)?);
    assert!(network.accuracy(&digits.held_out)? > 0.9);
    let mut weights = Vec::new();
    for var in &network.vars {
        weights.extend(var.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?);
    }
    Ok(Run { losses, weights })
}

/// The largest difference between two lists of numbers.
fn apart(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// The largest difference between two runs that only differ in rounding. The weights stay within ±2
/// here, so in each step either run rounds θ and the amount that is subtracted by at most one unit,
/// ε; on average by half of that, in either direction. The runs are too short for training to
/// amplify the differences. (The measured differences are less than a tenth of this bound with
/// either type. Without weight decay they exceed it.)
fn bound(run: &Run, epsilon: f64) -> f64 {
    assert!(run.weights.iter().all(|weight| weight.abs() <= 2.0));
    run.losses.len() as f64 * epsilon
}

#[test]
fn a_training_run_in_f64() -> Result<()> {
    let theirs = train::<candle_nn::AdamW>(DType::F64)?;
    let ours = train::<fused_adam_candle::AdamW>(DType::F64)?;
    let bound = bound(&theirs, f64::EPSILON);
    assert!(apart(&theirs.losses, &ours.losses) < bound);
    assert!(apart(&theirs.weights, &ours.weights) < bound);
    Ok(())
}

#[test]
fn a_training_run_in_f32() -> Result<()> {
    let exact = train::<candle_nn::AdamW>(DType::F64)?;
    let theirs = train::<candle_nn::AdamW>(DType::F32)?;
    let ours = train::<fused_adam_candle::AdamW>(DType::F32)?;
    let bound = bound(&theirs, f64::from(f32::EPSILON));
    for of in [&exact, &theirs] {
        assert!(apart(&of.losses, &ours.losses) < bound);
        assert!(apart(&of.weights, &ours.weights) < bound);
    }
    // The last loss is that of the held-out digits.
    assert!((0.1..0.2).contains(&ours.losses[ours.losses.len() - 1]));
    Ok(())
}

#[test]
fn what_candles_trait_has() -> Result<()> {
    use fused_adam_candle::fused_adam::{self, AnyRule, Rule};
    use fused_adam_candle::{Adam, AdamW, Config, GroupId, ParamsAdam};

    let params = ParamsAdamW { lr: 0.5, beta1: 0.1, beta2: 0.2, eps: 0.3, weight_decay: 0.4 };
    let AnyRule::AdamW(rule) = params.clone().into_rule() else { panic!() };
    let fused_adam::AdamW { lr, beta1, beta2, eps, weight_decay, .. } = rule;
    assert_eq!([lr, beta1, beta2, eps, weight_decay], [0.5, 0.1, 0.2, 0.3, 0.4]);
    let AnyRule::Adam(rule) = ParamsAdam::from(params).into_rule() else { panic!() };
    let fused_adam::Adam { lr, beta1, beta2, eps, weight_decay, .. } = rule;
    assert_eq!([lr, beta1, beta2, eps, weight_decay], [0.5, 0.1, 0.2, 0.3, 0.4]);
    assert_eq!(ParamsAdam::default().weight_decay, 0.0);

    let (w, b) = (Var::new(1_f32, &Device::Cpu)?, Var::new(2_f32, &Device::Cpu)?);
    let mut opt = AdamW::new_lr(vec![w.clone()], 0.25)?;
    let lr = opt.rule(GroupId::default()).map(Rule::lr);
    assert_eq!((opt.learning_rate(), lr), (0.25, Some(0.25)));
    opt.set_learning_rate(0.125);
    assert_eq!(opt.learning_rate(), 0.125);
    opt.set_params(ParamsAdamW { lr: 0.0, ..ParamsAdamW::default() });
    opt.backward_step(&w.as_tensor().sqr()?)?;
    assert_eq!((w.to_scalar::<f32>()?, opt.steps(), opt.t("0")), (1.0, 1, Some(1)));

    // A variable without a gradient is not stepped, and its step number does not change.
    let mut opt = Adam::from_slice(&[&w, &b], ParamsAdam::default())?;
    opt.backward_step(&w.as_tensor().sqr()?)?;
    assert_eq!((b.to_scalar::<f32>()?, opt.t("0"), opt.t("1")), (2.0, Some(1), Some(0)));
    assert!(opt.state("0", "m")?.is_some() && opt.state("1", "m")?.is_none());
    assert!(opt.state("2", "m")?.is_none() && opt.state("0", "no such")?.is_none());
    let vars = opt.into_inner();
    assert!(vars[0].id() == w.id() && vars[1].id() == b.id());
    assert_eq!(Adam::empty(ParamsAdam::default())?.names().count(), 0);
    Ok(())
}
