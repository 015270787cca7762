//! Wrong calls: their messages, and that they change nothing.

mod common;

use burn::config::Config;
use burn::grad_clipping::GradientClippingConfig;
use burn::module::Param;
use burn::optim::{GradientsParams, ModuleOptimizer, Optimizer};
use burn::tensor::{DType, Device, Tensor};
use common::{bytes, tensor};
use fused_adam::{Adam, AdamW, Backend, Error, Rule, Sgd};
use fused_adam_burn::{Fused, FusedConfig, StepError};

fn fused() -> Fused {
    FusedConfig::new(AdamW::default()).build().unwrap()
}

fn ones(len: usize) -> Tensor<1> {
    tensor(vec![1.0_f32; len], [len], &Device::flex())
}

/// Checks that a step returned an error with this message.
#[track_caller]
fn refused(step: Result<impl Sized, StepError>, message: &str) {
    match step {
        Err(error) => assert_eq!(error.to_string(), message),
        Ok(_) => panic!("expected {message:?}"),
    }
}

#[test]
fn hyper_parameters_are_refused_before_any_step() {
    let config = FusedConfig::new(AdamW { beta1: 1.0, ..AdamW::default() });
    let message = "`beta1` is 1.0, expected a number in [0, 1)";
    assert_eq!(config.build().unwrap_err().to_string(), message);
    assert_eq!(config.init().err().unwrap().to_string(), message);

    // burn passes the learning rate to each step.
    let unused = FusedConfig::new(AdamW { lr: f64::NAN, ..AdamW::default() });
    assert!(unused.init().is_ok());
}

#[test]
fn step_sizes_are_refused_in_the_step() {
    for lr in [-1.0, f64::NAN, f64::INFINITY] {
        let error = fused().try_step(lr, ones(3), ones(3), None).unwrap_err();
        assert!(
            matches!(error, StepError::Step(Error::HyperParameter { name: "lr", .. })),
            "{error}"
        );
    }
    // burn's `Learner` uses a learning rate of zero before its scheduler's first step.
    assert!(fused().try_step(0.0, ones(3), ones(3), None).is_ok());
}

#[test]
fn shapes() {
    refused(
        fused().try_step(0.1, ones(3), ones(4), None),
        "`grad` has the shape [4], expected [3] as of `theta`",
    );
    let (_, state) = fused().try_step(0.1, ones(4), ones(4), None).unwrap();
    refused(
        fused().try_step(0.1, ones(3), ones(3), Some(state)),
        "`m` has the shape [4], expected [3] as of `theta`",
    );
    let device = Device::flex();
    let matrix = |shape| tensor(vec![1.0_f32; 6], shape, &device);
    refused(
        fused().try_step::<2>(0.1, matrix([2, 3]), matrix([3, 2]), None),
        "`grad` has the shape [3, 2], expected [2, 3] as of `theta`",
    );
}

#[test]
fn types() {
    let doubles = tensor(vec![1.0_f64; 3], [3], &Device::flex());
    refused(
        fused().try_step(0.1, ones(3), doubles.clone(), None),
        "`grad` is f64, expected f32, bf16 or f16",
    );
    refused(fused().try_step(0.1, doubles.clone(), ones(3), None), "`grad` is f32, expected f64");
    let (_, state) = fused().try_step(0.1, ones(3), ones(3), None).unwrap();
    refused(
        fused().try_step(0.1, doubles.clone(), doubles, Some(state)),
        "`m` is f32, expected f64",
    );
}

#[test]
fn states_in_8_bits() {
    let config = FusedConfig::new(AdamW::default()).with_8bit_states(3);
    let in_8_bits = config.build().unwrap();
    let doubles = |len: usize| tensor(vec![1.0_f64; len], [len], &Device::flex());
    refused(
        in_8_bits.try_step(0.1, doubles(3), doubles(3), None),
        "`theta` is f64, expected f32, bf16 or f16 for states in 8 bits",
    );
    let (_, state) = in_8_bits.try_step(0.1, doubles(2), doubles(2), None).unwrap();
    assert_eq!(state.get("m").unwrap().dtype(), DType::F64);
    refused(
        config.clone().with_8bit_states(0).build().unwrap().try_step(
            0.1,
            ones(2),
            ones(2),
            Some(state),
        ),
        "`m` is f64, expected f32, bf16, f16 or 8 bits",
    );

    // The number of blocks, with and without a conversion. Then nothing has changed.
    let (theta, state) = in_8_bits.try_step(0.1, ones(32), ones(32), None).unwrap();
    let (before, m) = (bytes(&theta), state.blocks("m").unwrap().to_vec());
    for optim in [&in_8_bits, &fused()] {
        refused(
            optim.try_step(0.1, ones(33), ones(33), Some(state.clone())),
            "`m` has 1 block, expected 2 for 33 elements",
        );
        refused(
            optim.try_step(-1.0, theta.clone(), ones(32), Some(state.clone())),
            "`lr` is -1.0, expected a finite number of at least 0",
        );
    }
    assert_eq!((bytes(&theta), state.blocks("m").unwrap(), state.t()), (before, &m[..], 1));
}

#[test]
fn states_of_other_options() {
    let (_, state) = fused().try_step(0.1, ones(3), ones(3), None).unwrap();
    let amsgrad = FusedConfig::new(Adam { amsgrad: true, ..Adam::default() }).build().unwrap();
    refused(
        amsgrad.try_step(0.1, ones(3), ones(3), Some(state)),
        "state `v_max` is missing, expected the states `m`, `v`, `v_max`",
    );
    let sgd = |momentum| FusedConfig::new(Sgd { momentum, ..Sgd::default() }).build().unwrap();
    let (_, state) = sgd(0.5).try_step(0.1, ones(3), ones(3), None).unwrap();
    refused(
        sgd(0.0).try_step(0.1, ones(3), ones(3), Some(state)),
        "1 state was given, expected none",
    );
}

#[test]
fn tensors_of_autodiff() {
    let tracked = || tensor(vec![1.0_f32; 3], [3], &Device::flex().autodiff());
    for (theta, grad, name) in [
        (tracked(), ones(3), "theta"),
        (tracked().require_grad(), tracked(), "theta"),
        (ones(3), tracked(), "grad"),
    ] {
        let message = format!(
            "`{name}` is a tensor of autodiff, expected one without: call `.inner()` on it"
        );
        let step = fused().try_step(0.1, theta, grad, None);
        assert!(matches!(&step, Err(StepError::Autodiff { tensor }) if *tensor == name));
        refused(step, &message);
    }
    // As the message says.
    let theta = tracked().require_grad().inner();
    assert!(fused().try_step(0.1, theta, tracked().inner(), None).is_ok());
}

#[test]
fn backends_that_this_machine_lacks() {
    let lacking = Backend::ALL.iter().copied().find(|backend| !backend.is_available());
    // A machine may support all of them.
    let Some(lacking) = lacking else { return };
    let error = fused().with_backend(lacking).try_step(0.1, ones(3), ones(3), None).unwrap_err();
    assert!(matches!(error, StepError::Step(Error::BackendNotAvailable { .. })), "{error}");
}

/// θ, the gradient and the states have not changed, and a correct step from them has the correct
/// result.
#[test]
fn nothing_has_changed_after_an_error() {
    let fused = fused();
    let (theta, state) = fused.try_step(0.1, ones(3), ones(3), None).unwrap();
    let (before, m) = (bytes(&theta), bytes(state.get("m").unwrap()));
    let wrong = fused.try_step(-1.0, theta.clone(), ones(3), Some(state.clone()));
    assert!(wrong.is_err());
    let wrong = fused.try_step(0.1, theta.clone(), ones(4), Some(state.clone()));
    assert!(wrong.is_err());
    assert_eq!((bytes(&theta), bytes(state.get("m").unwrap()), state.t()), (before, m, 1));
    assert_eq!(fused.copied(), 0, "bytes that a refused step copied do not count");
}

#[test]
#[should_panic(expected = "`grad` has the shape [4], expected [3] as of `theta`")]
fn burns_trait_panics_with_the_message() {
    let _ = Optimizer::step(&fused(), 0.1, ones(3), ones(4), None);
}

#[test]
#[should_panic(expected = "`lr` is -1.0")]
fn a_modules_step_panics_with_the_message() {
    let model = Param::from_tensor(tensor(vec![1.0_f32; 3], [3], &Device::flex().autodiff()));
    let mut grads = GradientsParams::new();
    grads.register(model.id, ones(3));
    let _ = ModuleOptimizer::from(fused()).step(-1.0, model, grads);
}

#[test]
fn a_config_that_is_saved_comes_back() {
    let clipping = Some(GradientClippingConfig::Norm(0.5));
    let rule = Adam { amsgrad: true, beta2: 0.99, ..Adam::default() };
    let config = FusedConfig::new(rule).with_grad_clipping(clipping).with_f32_states(true);
    let config = config.with_8bit_states(100);
    let again = FusedConfig::load_binary(&burn::config::config_to_json(&config).into_bytes());
    let again = again.unwrap();
    assert_eq!((again.rule, again.f32_states), (config.rule, Some(true)));
    assert_eq!(again.min_8bit_size, Some(100));
    assert!(matches!(again.grad_clipping, Some(GradientClippingConfig::Norm(0.5))));
    assert!(again.init().unwrap().has_gradient_clipping());

    // Fields that are missing have their defaults, and an unknown field is an error.
    let load = |json: &str| FusedConfig::load_binary(json.as_bytes());
    let lion = r#"{"lion": {"lr": 1.0, "beta1": 0.9, "beta2": 0.99,
        "weight_decay": 0.0, "maximize": false}}"#;
    let short = load(&format!(r#"{{"rule": {lion}}}"#)).unwrap();
    assert!((short.rule.name(), short.f32_states) == ("lion", None));
    assert_eq!(short.min_8bit_size, None);
    let told = |json: &str, what: &str| {
        let error = format!("{:?}", load(json).unwrap_err());
        assert!(error.contains(what), "{error}");
    };
    let sgd = load(r#"{"rule": {"sgd": {"lr": 1.0}}}"#).unwrap().rule;
    assert_eq!(sgd, Sgd { lr: 1.0, ..Sgd::default() }.into());
    told("{}", "missing field `rule`");
    told(&format!(r#"{{"rule": {lion}, "f64_states": true}}"#), "unknown field `f64_states`");
    told(r#"{"rule": {"adamx": {}}}"#, "unknown variant `adamx`");
}
