//! The expected values of burn-optim 0.22.1's tests of its Adam and AdamW (in `adam.rs` and
//! `adamw.rs`), for fused-adam, with the tolerances of those tests. burn's own optimizers run here
//! too, to show that the copied numbers and the setup are correct.

mod common;

use burn::module::Param;
use burn::nn::Linear;
use burn::optim::decay::WeightDecayConfig;
use burn::optim::{AdamConfig, AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Tensor, TensorData, Tolerance};
use common::APART;
use fused_adam::{Adam, AdamW, AnyRule};
use fused_adam_burn::FusedConfig;

const LR: f64 = 0.01;
const WEIGHT_DECAY: f32 = 0.5;
const EPS: f32 = 1e-8;

/// Two steps, each on one of the inputs.
const INPUTS: [[[f32; 6]; 2]; 2] = [
    [
        [0.6294, 0.0940, 0.8176, 0.8824, 0.5228, 0.4310],
        [0.7152, 0.9559, 0.7893, 0.5684, 0.5939, 0.8883],
    ],
    [
        [0.8491, 0.2108, 0.8939, 0.4433, 0.5527, 0.2528],
        [0.3270, 0.0412, 0.5538, 0.9605, 0.3195, 0.9085],
    ],
];

const WEIGHT: [[f32; 6]; 6] = [
    [-0.3206, 0.1374, 0.4043, 0.3200, 0.0859, 0.0671],
    [0.0777, -0.0185, -0.3667, 0.2550, 0.1955, -0.2922],
    [-0.0190, 0.0346, -0.2962, 0.2484, -0.2780, 0.3130],
    [-0.2980, -0.2214, -0.3715, -0.2981, -0.0761, 0.1626],
    [0.3300, -0.2182, 0.3717, -0.1729, 0.3796, -0.0304],
    [-0.0159, -0.0120, 0.1258, 0.1921, 0.0293, 0.3833],
];

const BIAS: [f32; 6] = [-0.3905, 0.0884, -0.0970, 0.1176, 0.1366, 0.0130];

const ADAM_WEIGHT: [[f32; 6]; 6] = [
    [-0.340528, 0.118929, 0.384336, 0.300010, 0.066034, 0.047154],
    [0.057757, -0.036690, -0.386649, 0.235010, 0.175624, -0.312133],
    [-0.038940, 0.016306, -0.316151, 0.228410, -0.297819, 0.293047],
    [-0.317929, -0.239100, -0.391449, -0.318087, -0.095948, 0.142651],
    [0.310050, -0.235909, 0.351736, -0.192888, 0.359710, -0.050343],
    [-0.035840, -0.030203, 0.105840, 0.172110, 0.009440, 0.363346],
];

const ADAM_BIAS: [f32; 6] = [-0.410499, 0.068401, -0.116999, 0.097601, 0.116601, -0.006999];

const ADAM_AMSGRAD_WEIGHT: [[f32; 6]; 6] = [
    [-0.912581, -0.45855266, -0.19159931, -0.27599907, -0.5099529, -0.52870435],
    [-0.51813257, -0.6139855, -0.95747274, -0.34102926, -0.40051416, -0.8847862],
    [-0.6144831, -0.5611032, -0.88870645, -0.34762973, -0.8708557, -0.28300446],
    [-0.89046997, -0.81515276, -0.96212786, -0.89056766, -0.6712612, -0.43338546],
    [-0.2659906, -0.8119961, -0.22424538, -0.76724064, -0.21633498, -0.62582666],
    [-0.6113979, -0.60751605, -0.4701342, -0.4039118, -0.56638455, -0.2126299],
];

const ADAM_AMSGRAD_BIAS: [f32; 6] =
    [-0.8817203, -0.40389994, -0.58891493, -0.37475723, -0.35579407, -0.47914788];

const ADAMW_WEIGHT: [[f32; 6]; 6] = [
    [-0.337295, 0.117827, 0.380358, 0.296868, 0.065232, 0.046534],
    [0.057032, -0.036518, -0.382951, 0.232516, 0.173738, -0.309182],
    [-0.038703, 0.016052, -0.313155, 0.225982, -0.295039, 0.289981],
    [-0.314920, -0.237394, -0.387704, -0.315067, -0.095153, 0.141081],
    [0.306815, -0.234226, 0.348083, -0.191115, 0.356002, -0.049993],
    [-0.035634, -0.030083, 0.104636, 0.170244, 0.009196, 0.359580],
];

const ADAMW_BIAS: [f32; 6] = [-0.406555, 0.067568, -0.115982, 0.096477, 0.115287, -0.007080];

const ADAMW_AMSGRAD_WEIGHT: [[f32; 6]; 6] = [
    [-0.7822558, -0.42578864, -0.21805696, -0.28366873, -0.46587175, -0.4805041],
    [-0.47225398, -0.54712766, -0.818136, -0.33425918, -0.38056874, -0.7601517],
    [-0.54751676, -0.5057992, -0.7632651, -0.33939594, -0.7490997, -0.28911692],
    [-0.764666, -0.7050473, -0.82187206, -0.7647438, -0.5919585, -0.40617526],
    [-0.2758856, -0.7025568, -0.24343005, -0.6672991, -0.23728128, -0.5563896],
    [-0.545104, -0.5420685, -0.43481714, -0.38321504, -0.5099243, -0.23440154],
];

const ADAMW_AMSGRAD_BIAS: [f32; 6] =
    [-0.74730563, -0.37457204, -0.51887107, -0.35184532, -0.33705732, -0.43325666];

fn adam(amsgrad: bool) -> [ModuleOptimizer; 2] {
    let rule = Adam { weight_decay: 0.5, amsgrad, ..Adam::default() };
    let burns = AdamConfig::new()
        .with_epsilon(EPS)
        .with_weight_decay(Some(WeightDecayConfig::new(WEIGHT_DECAY)))
        .with_amsgrad(amsgrad);
    [ours(rule.into()), burns.init()]
}

fn adamw(amsgrad: bool) -> [ModuleOptimizer; 2] {
    let rule = AdamW { weight_decay: 0.5, amsgrad, ..AdamW::default() };
    let burns =
        AdamWConfig::new().with_epsilon(EPS).with_weight_decay(WEIGHT_DECAY).with_amsgrad(amsgrad);
    [ours(rule.into()), burns.init()]
}

fn ours(rule: AnyRule) -> ModuleOptimizer {
    FusedConfig::new(rule).init().unwrap()
}

fn linear(device: &Device) -> Linear {
    Linear {
        weight: Param::from_data(TensorData::from(WEIGHT), device),
        bias: Some(Param::from_data(TensorData::from(BIAS), device)),
    }
}

/// Takes a step on each input. The loss is the sum of the layer's outputs.
fn train(mut optim: ModuleOptimizer, inputs: impl Iterator<Item = Tensor<2>>) -> Linear {
    let mut model = linear(&Device::flex().autodiff());
    for input in inputs {
        let grads = model.forward(input.require_grad()).backward();
        let grads = GradientsParams::from_grads(grads, &model);
        model = optim.step(LR, model, grads);
    }
    model
}

/// Two steps, with the tolerance of burn's tests, 1e-2. This is as large as a whole step, and the
/// error of burn's own optimizers is 2e-3. So the two optimizers are also compared with each other.
fn two_steps(optims: [ModuleOptimizer; 2], weight: [[f32; 6]; 6], bias: [f32; 6]) {
    let device = Device::flex().autodiff();
    let inputs = || INPUTS.into_iter().map(|x| Tensor::from_floats(x, &device));
    let [ours, burns] = optims.map(|optim| train(optim, inputs()));
    for model in [&ours, &burns] {
        check(model, TensorData::from(weight), TensorData::from(bias), 1e-2);
    }
    let burns_bias = burns.bias.as_ref().unwrap().to_data();
    check(&ours, burns.weight.to_data(), burns_bias, 2.0 * LR * APART);
}

/// Fifty steps on growing inputs, with the tolerance of burn's tests, 1e-5.
fn fifty_steps(optims: [ModuleOptimizer; 2], weight: [[f32; 6]; 6], bias: [f32; 6]) {
    let device = Device::flex().autodiff();
    for optim in optims {
        let input = |i| Tensor::ones([2, 6], &device).mul_scalar(i as f32 * 0.1);
        let model = train(optim, (1..=50).map(input));
        check(&model, TensorData::from(weight), TensorData::from(bias), 1e-5);
    }
}

fn check(model: &Linear, weight: TensorData, bias: TensorData, tolerance: f64) {
    let tolerance = Tolerance::absolute(tolerance);
    model.weight.to_data().assert_approx_eq::<f32>(&weight, tolerance);
    model.bias.as_ref().unwrap().to_data().assert_approx_eq::<f32>(&bias, tolerance);
}

#[test]
fn adam_two_steps() {
    two_steps(adam(false), ADAM_WEIGHT, ADAM_BIAS);
}

#[test]
fn adamw_two_steps() {
    two_steps(adamw(false), ADAMW_WEIGHT, ADAMW_BIAS);
}

#[test]
fn adam_amsgrad_fifty_steps() {
    fifty_steps(adam(true), ADAM_AMSGRAD_WEIGHT, ADAM_AMSGRAD_BIAS);
}

#[test]
fn adamw_amsgrad_fifty_steps() {
    fifty_steps(adamw(true), ADAMW_AMSGRAD_WEIGHT, ADAMW_AMSGRAD_BIAS);
}
