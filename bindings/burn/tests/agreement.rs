//! Compares fused-adam's AdamW with burn's on handwritten digits: with the same gradients, within a
//! bound that follows from burn's rounding; and in two separate trainings, which must end with the
//! same loss.

mod common;
#[path = "../examples/digits/training.rs"]
mod training;

use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::Device;
use common::APART;
use fused_adam::AdamW;
use fused_adam_burn::FusedConfig;
use training::{Digits, Network, evaluate, train};

const LR: f64 = 3e-3;

/// All tests draw initial weights from burn's one generator, so only one test may run at a time.
fn device() -> (MutexGuard<'static, ()>, Device) {
    static ONE: Mutex<()> = Mutex::new(());
    let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let device = Device::flex().autodiff();
    device.seed(1998);
    (one, device)
}

fn optimizers() -> [ModuleOptimizer; 2] {
    let burns = AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(1e-2).init();
    [burns, FusedConfig::new(AdamW::default()).init().unwrap()]
}

/// All parameters.
fn weights(model: &Network) -> Vec<f32> {
    [&model.hidden, &model.output]
        .into_iter()
        .flat_map(|layer| {
            let bias = layer.bias.as_ref().unwrap().val();
            [layer.weight.to_data(), bias.into_data()]
        })
        .flat_map(|data| data.iter::<f32>().collect::<Vec<_>>())
        .collect()
}

/// The largest difference between two lists of numbers.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).abs()).fold(0.0, f64::max)
}

/// The gradients are always taken at fused-adam's weights, so errors of burn do not feed back. Each
/// step can add `APART` times the learning rate, and the rounding of a θ below 2 in two operations.
#[test]
fn the_same_gradients_lead_within_a_bound() {
    let (_one, device) = device();
    let digits = Digits::load().unwrap();
    let [mut burns, mut ours] = optimizers();
    let mut model = Network::new(&device);
    let mut burns_model = model.clone();
    let cross_entropy = CrossEntropyLossConfig::new().init(&device);
    let (mut steps, mut furthest) = (0, 0.0_f64);
    for epoch in 0..3 {
        for (pixels, labels) in digits.batches(epoch, &device) {
            let loss = cross_entropy.forward(model.forward(pixels), labels);
            let mut grads = loss.backward();
            let mut copies = GradientsParams::new();
            for layer in [&model.hidden, &model.output] {
                copies.register::<2>(layer.weight.id, layer.weight.grad(&grads).unwrap());
                let bias = layer.bias.as_ref().unwrap();
                copies.register::<1>(bias.id, bias.grad(&grads).unwrap());
            }
            let grads = GradientsParams::from_module(&mut grads, &model);
            model = ours.step(LR, model, grads);
            burns_model = burns.step(LR, burns_model, copies);
            steps += 1;
            let bound = f64::from(steps) * (LR * APART + 2.0_f64.powi(-23));
            let apart = distance(&weights(&model), &weights(&burns_model));
            assert!(apart <= bound, "{apart:e} apart after {steps} steps, expected {bound:e}");
            furthest = furthest.max(apart);
        }
    }
    println!("{furthest:e} apart at most in {steps} steps");
    let start = distance(&weights(&Network::new(&device)), &weights(&model));
    assert!(start > 100.0 * furthest, "the weights have hardly moved");
}

/// Here the two trainings are separate, and a difference in one step changes the gradients of the
/// next. The bound is empirical: the losses differ by a relative 1e-5, while a wrong ε or weight
/// decay makes a difference of more than 1e-2.
#[test]
fn trainings_arrive_at_the_same_loss() {
    let (_one, device) = device();
    let digits = Digits::load().unwrap();
    let start = Network::new(&device);
    let [burns, ours] = optimizers().map(|mut optim| {
        let model = train(start.clone(), &mut optim, LR, &digits, 0..12, &device);
        evaluate(&model, &digits, &device)
    });
    println!("burn {burns:?}, ours {ours:?}");
    assert!((burns.0 - ours.0).abs() < 1e-3 * burns.0, "burn {burns:?}, ours {ours:?}");
    assert!((burns.1 - ours.1).abs() < 0.5, "burn {burns:?}, ours {ours:?}");
    assert!(ours.1 > 95.0, "{ours:?}");
}

/// Shows that the test above can fail.
#[test]
fn a_wrong_weight_decay_would_show() {
    let (_one, device) = device();
    let digits = Digits::load().unwrap();
    let start = Network::new(&device);
    let losses = [1e-2, 0.0].map(|weight_decay| {
        let rule = AdamW { weight_decay, ..AdamW::default() };
        let mut optim = FusedConfig::new(rule).init().unwrap();
        let model = train(start.clone(), &mut optim, LR, &digits, 0..12, &device);
        evaluate(&model, &digits, &device).0
    });
    println!("{losses:?}");
    assert!((losses[0] - losses[1]).abs() > 3e-3 * losses[0], "{losses:?}");
}
