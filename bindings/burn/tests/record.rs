//! burn's checkpoints: a run that is saved, loaded and resumed is bit-identical to one that was
//! never stopped.

mod common;
#[path = "../examples/digits/training.rs"]
mod training;

use burn::backend::Element as BurnElement;
use burn::module::Module;
use burn::optim::{ModuleOptimizer, OptimizerRecord};
use burn::tensor::{Device, Tensor, TensorData};
use burn_optim::{RecordState, StateSink, StateSource};
use common::{Rng, bytes, rules, tensor};
use fused_adam::{AdamW, AnyRule, Block8, Element, Flat, NAdam, Rule, bf16, bytemuck, f16};
use fused_adam_burn::{Fused, FusedConfig, FusedState};
use training::{Digits, Network, train};

fn config() -> FusedConfig {
    FusedConfig::new(AdamW { amsgrad: true, ..AdamW::default() })
}

/// The bytes of all parameters.
fn weights(model: &Network) -> Vec<Vec<u8>> {
    [&model.hidden, &model.output]
        .into_iter()
        .flat_map(|layer| [bytes(&layer.weight.val()), bytes(&layer.bias.as_ref().unwrap().val())])
        .collect()
}

#[test]
fn a_training_that_was_stopped_goes_on_to_the_bit() {
    let device = Device::flex().autodiff();
    let digits = Digits::load().unwrap();
    let start = Network::new(&device);
    let run = |model: Network, optim: &mut ModuleOptimizer, epochs| {
        train(model, optim, 3e-3, &digits, epochs, &device)
    };

    let mut optim = config().init().unwrap();
    let unstopped = run(start.clone(), &mut optim, 0..4);

    let dir = tempfile::tempdir().unwrap();
    let (model_file, optim_file) = (dir.path().join("model.bpk"), dir.path().join("optim.bpk"));
    let mut optim = config().init().unwrap();
    run(start, &mut optim, 0..2).save_file(&model_file).unwrap();
    optim.save(&optim_file).unwrap();
    drop(optim);

    // As in a new process: another network, whose weights and parameter ids come from the file.
    let fused = config().build().unwrap();
    let mut optim = ModuleOptimizer::from(fused.clone()).load(&optim_file).unwrap();
    let model = Network::new(&device).load_file(&model_file);
    let size: u64 = weights(&model).iter().map(|bytes| bytes.len() as u64).sum();
    let resumed = run(model, &mut optim, 2..4);
    assert!(weights(&resumed) == weights(&unstopped));
    assert_ne!(weights(&resumed), weights(&Network::new(&device)));

    // Loaded tensors are views of the file. θ and three states are each copied once to their own
    // memory.
    assert!(fused.copied() <= 4 * size, "{} of {size}", fused.copied());
}

/// One parameter with any rule and type, and a record in memory between two of its steps.
fn check<T: Element + BurnElement>(config: FusedConfig, seed: u64) {
    let (rule, fused) = (config.rule, config.build().unwrap());
    let run = |save_after: Option<u64>| {
        let device = Device::flex().autodiff();
        let mut rng = Rng(seed);
        let mut model =
            burn::module::Param::from_tensor(tensor::<T, 2>(rng.numbers(7 * 11), [7, 11], &device));
        let mut optim = ModuleOptimizer::from(fused.clone());
        for t in 1..=4 {
            let mut grads = burn::optim::GradientsParams::new();
            let grad = tensor::<T, 2>(rng.numbers(7 * 11), [7, 11], &Device::flex());
            grads.register(model.id, grad);
            model = optim.step(rule.lr(), model, grads);
            if save_after == Some(t) {
                let bytes = optim.into_bytes().unwrap();
                optim = ModuleOptimizer::from(fused.clone()).from_bytes(bytes).unwrap();
            }
        }
        (bytes(&model.val()), optim.to_record())
    };
    let (unstopped, record) = run(None);
    // The name of the rule, and the states and their names.
    let tensors = match rule.states().len() {
        0 => 1,
        states => states + 2,
    };
    assert_eq!(record.len(), tensors);
    for t in 1..4 {
        let (resumed, record) = run(Some(t));
        assert!(resumed == unstopped, "{rule:?} saved after step {t}");
        assert_eq!(record.len(), tensors);
    }
}

#[test]
fn every_rule_and_type_goes_on_to_the_bit() {
    for (seed, rule) in (1..).zip(rules()) {
        let config = || FusedConfig::new(rule);
        check::<f32>(config(), seed);
        check::<f64>(config(), seed);
        check::<bf16>(config(), seed);
        check::<f16>(config(), seed);
        check::<f32>(config().with_8bit_states(77), seed);
        check::<bf16>(config().with_8bit_states(0), seed);
        check::<f16>(config().with_8bit_states(78), seed);
    }
}

/// θ and the states after one step with this config.
fn stepped<T: Element + BurnElement>(config: &FusedConfig) -> (Tensor<1>, FusedState<1>) {
    let mut rng = Rng(3);
    let of = |rng: &mut Rng| tensor(rng.numbers::<T>(70), [70], &Device::flex());
    let (theta, grad) = (of(&mut rng), of(&mut rng));
    config.build().unwrap().try_step(0.01, theta, grad, None).unwrap()
}

/// States of `f32` and `bf16` become 8 bits in the next step, and states in 8 bits become `f32`.
#[test]
fn states_of_another_type_are_converted() {
    let rule = AdamW { lr: 0.01, ..AdamW::default() };
    let singles = FusedConfig::new(rule);
    let in_8_bits = FusedConfig::new(rule).with_8bit_states(70);
    let declared = AnyRule::from(rule).states();
    /// A state, what the next step made of it and of θ, and θ and the gradient before it.
    struct Next {
        kept: FusedState<1>,
        theta: Vec<u8>,
        state: FusedState<1>,
        expected: Vec<f32>,
        grad: Vec<f32>,
    }
    fn next(config: &FusedConfig, (theta, state): (Tensor<1>, FusedState<1>)) -> Next {
        let expected = theta.clone().try_into_vec_as().unwrap();
        let grad = Rng(4).numbers::<f32>(70);
        let given = tensor(grad.clone(), [70], &Device::flex());
        let kept = state.clone();
        let (theta, state) =
            config.build().unwrap().try_step(0.01, theta, given, Some(state)).unwrap();
        let theta = bytes(&theta);
        Next { kept, theta, state, expected, grad }
    }
    let floats = |state: &FusedState<1>, name| -> Vec<f32> {
        state.get(name).unwrap().clone().try_into_vec_as().unwrap()
    };

    for bf16_states in [false, true] {
        let Next { kept, theta, state, mut expected, grad } = if bf16_states {
            // States of `bf16`, of a parameter that is `f32` by now.
            let (_, state) = stepped::<bf16>(&singles);
            next(&in_8_bits, (stepped::<f32>(&singles).0, state))
        } else {
            next(&in_8_bits, stepped::<f32>(&singles))
        };
        let encoded = declared.iter().map(|of| {
            let mut blocks: Vec<Block8> = vec![[0; 33]; 3];
            of.encode(&floats(&kept, of.name()), &mut blocks);
            blocks
        });
        let reference = Flat::resume(rule, 1, encoded.collect()).unwrap();
        let mut reference = reference.with_seed(state.seed().unwrap());
        reference.step_mixed(&mut expected, &grad).unwrap();
        assert!(theta == bytemuck::cast_slice::<_, u8>(&expected));
        for name in ["m", "v"] {
            assert!(state.blocks(name) == reference.state(name) && state.get(name).is_none());
        }
        assert_eq!(state.t(), 2);
    }

    let Next { kept, theta, state, mut expected, grad } =
        next(&singles, stepped::<f32>(&in_8_bits));
    let decoded = declared.iter().map(|of| {
        let mut elements = vec![0.0_f32; 70];
        of.decode(kept.blocks(of.name()).unwrap(), &mut elements);
        elements
    });
    let mut reference = Flat::resume(rule, 1, decoded.collect()).unwrap();
    reference.step(&mut expected, &grad).unwrap();
    assert!(theta == bytemuck::cast_slice::<_, u8>(&expected));
    for name in ["m", "v"] {
        let expected = reference.state(name).unwrap();
        assert!(bytes(state.get(name).unwrap()) == bytemuck::cast_slice::<_, u8>(expected));
        assert!(state.blocks(name).is_none());
    }
    assert_eq!((state.t(), state.seed()), (2, None));
}

/// States in 8 bits of another version are not read, and the next step says that they are missing.
#[test]
fn other_formats_are_refused() {
    let config = FusedConfig::new(AdamW::default()).with_8bit_states(0);
    let (theta, state) = stepped::<f32>(&config);
    let mut sink = StateSink::default();
    state.state_flatten("7", &mut sink);
    let load = |version: &str| {
        let mut source = StateSource::new(sink.scalars.iter().cloned().collect());
        for (name, data) in &sink.tensors {
            let mut data = data.clone();
            if name == "7.names" {
                let names = String::from_utf8(data.as_bytes().to_vec()).unwrap();
                assert_eq!(names, "m.block8.1 v.block8.1");
                let names = names.replace("block8.1", version).into_bytes();
                let len = names.len();
                data = TensorData::new(names, [len]);
            }
            source.insert_tensor(name.replace("block8.1", version), data);
        }
        let state = FusedState::<1>::state_unflatten("7", &mut source, &Device::flex());
        config.build().unwrap().try_step(0.01, theta.clone(), theta.clone(), state).map(|_| ())
    };
    load("block8.1").unwrap();
    let message = "state `m` is missing, expected the states `m`, `v`";
    assert_eq!(load("block8.2").unwrap_err().to_string(), message);
}

/// NAdam's product of momenta with a schedule of β1: with the states passed from step to step, and
/// with a file between the steps. In f64, to check every bit of the product.
#[test]
fn scalars_are_kept_between_steps() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("optim.bpk");
    let (device, inner) = (Device::flex().autodiff(), Device::flex());
    let mut rng = Rng(5);
    let mut flat = rng.numbers::<f64>(11);
    let mut reference = Flat::new(NAdam::default(), flat.len()).unwrap();
    let (mut theta, mut state) = (tensor(flat.clone(), [11], &inner), None);
    let mut model = burn::module::Param::from_tensor(tensor(flat.clone(), [11], &device));
    ModuleOptimizer::from(fused(NAdam::default())).save(&file).unwrap();
    for (step, beta1) in [0.9, 0.5, 0.99, 0.3, 0.95, 0.7].into_iter().enumerate() {
        let grad = rng.numbers::<f64>(11);
        let rule = NAdam { beta1, ..NAdam::default() };
        *reference.rule_mut() = rule;
        reference.step(&mut flat, &grad).unwrap();
        let expected: &[u8] = bytemuck::cast_slice(&flat);

        let grad_of = |device| tensor(grad.clone(), [11], device);
        let (next, kept) = fused(rule).try_step(rule.lr, theta, grad_of(&inner), state).unwrap();
        assert!(bytes(&next) == expected, "step {step}");
        assert_eq!(kept.scalar("mu_product"), reference.scalars().first().copied());
        assert_eq!(kept.scalar("m"), None);
        (theta, state) = (next, Some(kept));

        let mut optim = ModuleOptimizer::from(fused(rule)).load(&file).unwrap();
        let mut grads = burn::optim::GradientsParams::new();
        grads.register(model.id, grad_of(&inner));
        model = optim.step(rule.lr, model, grads);
        assert!(bytes(&model.val()) == expected, "step {step}, loaded");
        optim.save(&file).unwrap();
    }
}

fn fused(rule: impl Into<AnyRule>) -> Fused {
    FusedConfig::new(rule).build().unwrap()
}

/// A record after one step.
fn record(rule: impl Into<AnyRule>) -> (burn::module::ParamId, OptimizerRecord) {
    let device = Device::flex().autodiff();
    let model = burn::module::Param::from_tensor(tensor(vec![1.0_f32; 4], [4], &device));
    let mut optim = ModuleOptimizer::from(fused(rule));
    let id = model.id;
    let mut grads = burn::optim::GradientsParams::new();
    grads.register(id, tensor(vec![1.0_f32; 4], [4], &Device::flex()));
    let _ = optim.step(1e-2, model, grads);
    (id, optim.to_record())
}

/// Loads a record of one rule into an optimizer with another, and takes a step.
fn step_after_loading(of: impl Into<AnyRule>, into: impl Into<AnyRule>) {
    let (id, record) = record(of);
    let mut optim = ModuleOptimizer::from(fused(into)).load_record(record);
    let device = Device::flex().autodiff();
    let theta = tensor(vec![1.0_f32; 4], [4], &device).require_grad();
    let model = burn::module::Param::initialized(id, theta);
    let mut grads = burn::optim::GradientsParams::new();
    grads.register(id, tensor(vec![1.0_f32; 4], [4], &Device::flex()));
    let _ = optim.step(1e-2, model, grads);
}

#[test]
#[should_panic(expected = "state `v_max` is missing, expected the states `m`, `v`, `v_max`")]
fn a_record_without_a_state_is_refused() {
    step_after_loading(AdamW::default(), AdamW { amsgrad: true, ..AdamW::default() });
}

/// The states are the same. A scalar that AdamW does not have gets the value after the same number
/// of NAdam steps.
#[test]
fn a_rule_with_other_scalars_goes_on() {
    step_after_loading(NAdam::default(), AdamW::default());

    let ones = || tensor(vec![1.0_f32; 4], [4], &Device::flex());
    let (theta, state) = fused(AdamW::default()).try_step(1e-2, ones(), ones(), None).unwrap();
    let (theta, state) =
        fused(NAdam::default()).try_step(1e-2, theta, ones(), Some(state)).unwrap();
    assert_eq!(state.scalar("mu_product"), Some(NAdam::default().scalar_after(0, 2)));

    let mut reference =
        Flat::new(AnyRule::from(AdamW { lr: 1e-2, ..AdamW::default() }), 4).unwrap();
    let mut flat = [1.0_f32; 4];
    reference.step(&mut flat, &[1.0; 4]).unwrap();
    *reference.rule_mut() = NAdam { lr: 1e-2, ..NAdam::default() }.into();
    reference.step(&mut flat, &[1.0; 4]).unwrap();
    assert_eq!(bytes(&theta), bytemuck::cast_slice::<f32, u8>(&flat));
}
