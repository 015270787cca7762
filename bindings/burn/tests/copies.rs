//! Which bytes are copied: compares addresses before and after a step, and checks the optimizer's
//! counter.

mod common;

use burn::module::Param;
use burn::nn::{Linear, LinearConfig};
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Tensor};
use common::{address, bytes, tensor};
use fused_adam::{AdamW, bf16};
use fused_adam_burn::{Fused, FusedConfig};

const WEIGHT: u64 = 5 * 3 * 4;
const BIAS: u64 = 3 * 4;

fn fused() -> Fused {
    FusedConfig::new(AdamW::default()).build().unwrap()
}

fn model() -> Linear {
    LinearConfig::new(5, 3).init(&Device::flex().autodiff())
}

/// A step with gradients from burn.
fn step(optim: &mut ModuleOptimizer, model: Linear) -> Linear {
    let input = Tensor::<2>::ones([4, 5], &Device::flex().autodiff());
    let grads = model.forward(input).square().mean().backward();
    let grads = GradientsParams::from_grads(grads, &model);
    optim.step(1e-2, model, grads)
}

fn addresses(model: &Linear) -> [usize; 2] {
    [address(&model.weight.val()), address(&model.bias.as_ref().unwrap().val())]
}

#[test]
fn a_training_loop_copies_nothing() {
    let (fused, mut model) = (fused(), model());
    let mut optim = ModuleOptimizer::from(fused.clone());
    // burn initializes the parameters on first access.
    let before = addresses(&model);
    for _ in 0..5 {
        model = step(&mut optim, model);
        assert_eq!(addresses(&model), before);
    }
    assert_eq!(fused.copied(), 0);
}

#[test]
fn states_stay_where_they_are() {
    let (fused, device) = (fused(), Device::flex());
    let tensor = |x: f32| tensor(vec![x; 1000], [1000], &device);
    let (mut theta, mut state) = fused.try_step(1e-2, tensor(1.0), tensor(0.5), None).unwrap();
    let before = ["m", "v"].map(|name| address(state.get(name).unwrap()));
    for _ in 0..3 {
        (theta, state) = fused.try_step(1e-2, theta, tensor(0.5), Some(state)).unwrap();
    }
    assert_eq!(["m", "v"].map(|name| address(state.get(name).unwrap())), before);
    assert_eq!((state.t(), fused.copied()), (4, 0));
}

/// States in 8 bits stay where they are, and are copied if a clone shares them.
#[test]
fn states_in_8_bits_are_copied_once() {
    let config = FusedConfig::new(AdamW::default()).with_8bit_states(0);
    let (fused, device) = (config.build().unwrap(), Device::flex());
    let tensor = |x: f32| tensor(vec![x; 1000], [1000], &device);
    let (theta, state) = fused.try_step(1e-2, tensor(1.0), tensor(0.5), None).unwrap();
    let before = state.blocks("m").unwrap().as_ptr();
    let (theta, state) = fused.try_step(1e-2, theta, tensor(0.5), Some(state)).unwrap();
    assert_eq!((state.blocks("m").unwrap().as_ptr(), fused.copied()), (before, 0));

    let clone = state.clone();
    let blocks = clone.blocks("v").unwrap().to_vec();
    let (theta, state) = fused.try_step(1e-2, theta, tensor(0.5), Some(state)).unwrap();
    assert_eq!(fused.copied(), 2 * 32 * 33);
    assert_eq!(clone.blocks("v").unwrap(), blocks);
    assert_ne!(state.blocks("v").unwrap(), blocks);
    let _ = fused.try_step(1e-2, theta, tensor(0.5), Some(state)).unwrap();
    assert_eq!(fused.copied(), 2 * 32 * 33);
}

#[test]
fn a_clone_of_the_model_keeps_its_weights() {
    let (fused, model) = (fused(), model());
    let mut optim = ModuleOptimizer::from(fused.clone());
    let clone = model.clone();
    let (before, weight) = (addresses(&clone), bytes(&clone.weight.val()));

    let model = step(&mut optim, model);
    assert_eq!(addresses(&clone), before);
    assert_eq!(bytes(&clone.weight.val()), weight);
    assert_ne!(bytes(&model.weight.val()), weight);
    assert_eq!(fused.copied(), WEIGHT + BIAS);

    // The model has its own memory by now.
    let _ = step(&mut optim, model);
    assert_eq!(fused.copied(), WEIGHT + BIAS);
}

#[test]
fn a_clone_of_the_optimizer_keeps_its_states() {
    let (fused, model) = (fused(), model());
    let mut optim = ModuleOptimizer::from(fused.clone());
    let model = step(&mut optim, model);
    let before = optim.clone().into_bytes().unwrap();

    let clone = optim.clone();
    let model = step(&mut optim, model);
    assert_eq!(fused.copied(), 2 * (WEIGHT + BIAS), "m and v");
    let _ = step(&mut optim, model);
    assert_eq!(fused.copied(), 2 * (WEIGHT + BIAS));
    assert_eq!(clone.into_bytes().unwrap().len(), before.len());
}

#[test]
fn views_are_copied_into_row_order() {
    let (fused, device) = (fused(), Device::flex());
    let matrix = |rows: usize, columns: usize| {
        let values = (0..6).map(|i| bf16::from_f32(i as f32)).collect::<Vec<_>>();
        tensor::<bf16, 2>(values, [rows, columns], &device)
    };

    // A transposed gradient is copied in each step, with the correct values.
    let theta = || tensor::<bf16, 2>(vec![bf16::ONE; 6], [3, 2], &device);
    let transposed = matrix(2, 3).transpose();
    let plain = tensor::<bf16, 2>(
        [0, 3, 1, 4, 2, 5].map(|i| bf16::from_f32(i as f32)).to_vec(),
        [3, 2],
        &device,
    );
    let (of_view, _) = fused.try_step(0.1, theta(), transposed, None).unwrap();
    assert_eq!(fused.copied(), 12);
    let (of_plain, _) = fused.try_step(0.1, theta(), plain, None).unwrap();
    assert_eq!(fused.copied(), 12);
    assert_eq!(bytes(&of_view), bytes(&of_plain));

    // An expanded element is also copied, and so are rows that are a part of other memory: without
    // its last rows, and without its first rows.
    let one = tensor::<bf16, 2>(vec![bf16::ONE], [1, 1], &device).expand([3, 2]);
    fused.try_step(0.1, theta(), one, None).unwrap();
    assert_eq!(fused.copied(), 24);
    for (rows, copied) in [(1..4, 36), (0..3, 48)] {
        let all = tensor::<bf16, 2>(vec![bf16::ONE; 10], [5, 2], &device);
        fused.try_step(0.1, theta(), all.slice([rows, 0..2]), None).unwrap();
        assert_eq!(fused.copied(), copied);
    }

    // A transposed parameter is copied once.
    let theta = matrix(2, 3).transpose();
    let ones = || tensor::<bf16, 2>(vec![bf16::ONE; 6], [3, 2], &device);
    let (theta, state) = fused.try_step(0.1, theta, ones(), None).unwrap();
    assert_eq!(fused.copied(), 60);
    fused.try_step(0.1, theta, ones(), Some(state)).unwrap();
    assert_eq!(fused.copied(), 60);
}

#[test]
fn a_parameter_that_is_frozen_or_has_no_gradient_is_left_alone() {
    let (fused, model) = (fused(), model());
    let mut optim = ModuleOptimizer::from(fused.clone());
    let Linear { weight, bias } = model;
    let model = Linear { weight: weight.set_require_grad(false), bias };
    let (at, frozen) = (address(&model.weight.val()), bytes(&model.weight.val()));
    let bias = bytes(&model.bias.as_ref().map(Param::val).unwrap());
    let model = step(&mut optim, model);
    assert_eq!((address(&model.weight.val()), bytes(&model.weight.val())), (at, frozen));
    assert_ne!(bytes(&model.bias.as_ref().map(Param::val).unwrap()), bias);
    assert!(!model.weight.val().is_require_grad());
}
