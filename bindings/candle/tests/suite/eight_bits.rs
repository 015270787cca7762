//! States in 8 bits: steps are bit-identical to the core's, small variables have wider states, and
//! checkpoints resume to the bit or convert.

use std::num::NonZeroUsize;

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::Optimizer as _;
use fused_adam::{
    AdamW, AnyRule, Backend, Block8, Flat, GradScaler, GroupId, LrSchedule, Parallelism, Rule,
    StateElement, bf16, bytemuck, f16,
};
use fused_adam_candle::{Error, Optimizer, fused_adam};

use crate::common::{Number, bits, elements, everything, rules, tensor_bits, uniform, var};
use crate::digits::Random;

/// Variables with fewer elements have states of `f32` or `f64`.
const MIN: usize = 40;

/// With 1, 2 and 3 blocks, and smaller ones of the types with other defaults.
const NAMES: [&str; 6] = ["a", "b", "c", "small half", "small bf16", "double"];

fn vars(random: &mut Random) -> Vec<Var> {
    vec![
        var::<f32>(random, &[5, 13]),
        var::<bf16>(random, &[MIN]),
        var::<f16>(random, &[4, 4, 5]),
        var::<f16>(random, &[MIN - 1]),
        var::<bf16>(random, &[3]),
        var::<f64>(random, &[MIN - 1]),
    ]
}

fn optimizer(vars: &[Var], rule: AnyRule) -> Optimizer {
    let mut opt = Optimizer::with_names(NAMES.into_iter().zip(vars.iter().cloned()), rule).unwrap();
    opt.set_8bit_states(MIN).unwrap();
    opt
}

/// The seed that the core derives from a name.
fn seed(name: &str) -> u64 {
    let mut core = fused_adam::Optimizer::new(AdamW::default()).unwrap();
    let id = core.add::<f32>(GroupId::default(), name, 1).unwrap();
    core.seed(id, 0).unwrap()
}

/// Takes a step of one variable alone, and of the core on a copy. Compares θ and states.
pub fn is_the_core<E: Number<Float = S::Float>, S: StateElement>(
    opt: &mut Optimizer,
    (name, var): (&str, &Var),
    reference: &mut Flat<AnyRule, S>,
    random: &mut Random,
) {
    let mut theta: Vec<E> = elements(var);
    let grad = uniform::<E>(random, theta.len());
    reference.step_mixed(&mut theta, &grad).unwrap();
    let mut grads = Tensor::new(0.0_f32, &Device::Cpu).unwrap().backward().unwrap();
    grads.insert(var, Tensor::from_vec(grad, var.shape(), &Device::Cpu).unwrap());
    opt.step(&grads).unwrap();
    let rule = *reference.rule();
    let place = || format!("{rule:?}, {name}, t {}", reference.t());
    assert!(bits(&theta) == bits::<E>(&elements(var)), "{}", place());
    for state in rule.states() {
        let found = tensor_bits(&opt.state(name, state.name()).unwrap().unwrap());
        let expected: &[u8] = bytemuck::cast_slice(reference.state(state.name()).unwrap());
        assert!(found == expected, "{} of {}", state.name(), place());
    }
}

#[test]
fn every_rule_and_type_is_the_core() {
    let mut random = Random(31);
    let chunks = Parallelism::Chunks(NonZeroUsize::new(33).unwrap());
    for rule in rules() {
        let all = vars(&mut random);
        let mut opt = optimizer(&all, rule);
        fn flat<S: StateElement>(rule: AnyRule, var: &Var, name: &str) -> Flat<AnyRule, S> {
            let flat = Flat::new(rule, var.elem_count()).unwrap();
            flat.with_seed(seed(name)).with_backend(Backend::Scalar)
        }
        let [a, b, c] = &mut [0, 1, 2].map(|i| flat::<Block8>(rule, &all[i], NAMES[i]));
        let [half, bfloat] = &mut [3, 4].map(|i| flat::<f32>(rule, &all[i], NAMES[i]));
        let double = &mut flat::<f64>(rule, &all[5], NAMES[5]);
        for t in 0..3 {
            opt.options_mut().parallelism = if t == 1 { chunks } else { Parallelism::Auto };
            let of = |i: usize| (NAMES[i], &all[i]);
            is_the_core::<f32, _>(&mut opt, of(0), a, &mut random);
            is_the_core::<bf16, _>(&mut opt, of(1), b, &mut random);
            is_the_core::<f16, _>(&mut opt, of(2), c, &mut random);
            is_the_core::<f16, _>(&mut opt, of(3), half, &mut random);
            is_the_core::<bf16, _>(&mut opt, of(4), bfloat, &mut random);
            is_the_core::<f64, _>(&mut opt, of(5), double, &mut random);
        }
    }
}

fn loss(vars: &[Var]) -> Tensor {
    let squares = |var: &Var| {
        let sum = (var.as_tensor() - 0.5).unwrap().sqr().unwrap().sum_all().unwrap();
        sum.to_dtype(DType::F64).unwrap()
    };
    let zero = Tensor::new(0.0_f64, &Device::Cpu).unwrap();
    vars.iter().map(squares).fold(zero, |sum, square| (sum + square).unwrap())
}

#[test]
fn states_of_large_variables_have_1_byte_and_a_scale() {
    let of = |min_8bit_size| {
        let all = [4096, 4095].map(|len| Var::zeros(len, DType::F32, &Device::Cpu).unwrap());
        let vars = ["large", "small"].into_iter().zip(all.clone());
        let mut opt = Optimizer::with_names(vars, AdamW::default()).unwrap();
        opt.set_8bit_states(min_8bit_size).unwrap();
        opt.backward_step(&loss(&all)).unwrap();
        let state = |name, state| opt.state(name, state).unwrap().unwrap();
        ["large", "small"].map(|name| [state(name, "m"), state(name, "v")])
    };
    let [[m, v], [small, _]] = of(4096);
    assert_eq!((m.dtype(), m.dims()), (DType::U8, &[128, 33][..]));
    assert_eq!(m.elem_count() + v.elem_count(), 4096 * 2 + 256);
    assert_eq!((small.dtype(), small.dims()), (DType::F32, &[4095][..]));
    let [_, [small, _]] = of(0);
    assert_eq!((small.dtype(), small.dims()), (DType::U8, &[128, 33][..]));
}

#[test]
fn resumed_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("training.safetensors");
    let train = |opt: &mut Optimizer, vars: &[Var], steps| {
        for _ in 0..steps {
            opt.backward_step(&loss(vars)).unwrap();
        }
    };
    for rule in rules() {
        let all = vars(&mut Random(7));
        let mut whole = optimizer(&all, rule);
        train(&mut whole, &all, 5);
        let whole = everything(&whole, &all).unwrap();

        let all = vars(&mut Random(7));
        let mut stopped = optimizer(&all, rule);
        train(&mut stopped, &all, 2);
        stopped.save_with_variables(&path).unwrap();
        let all = vars(&mut Random(8));
        let mut resumed = optimizer(&all, rule);
        resumed.load_with_variables(&path).unwrap();
        assert_eq!(resumed.state("a", "m").unwrap().map(|m| tensor_bits(&m)), {
            stopped.state("a", "m").unwrap().map(|m| tensor_bits(&m))
        });
        train(&mut resumed, &all, 3);
        assert!(everything(&resumed, &all).unwrap() == whole, "{rule:?}");
    }
}

/// States of `f32` are encoded when they are loaded, and states in 8 bits are decoded.
#[test]
fn loading_converts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("training.safetensors");
    let single = || [var::<f32>(&mut Random(3), &[5, 13])];
    let of = |vars: &[Var; 1], in_8_bits| {
        let mut opt = Optimizer::with_names([("w", vars[0].clone())], AdamW::default()).unwrap();
        if in_8_bits {
            opt.set_8bit_states(0).unwrap();
        }
        opt
    };
    for in_8_bits in [false, true] {
        let (saved_var, var) = (single(), single());
        let mut saved = of(&saved_var, in_8_bits);
        saved.backward_step(&loss(&saved_var)).unwrap();
        saved.save(&path).unwrap();
        let mut loaded = of(&var, !in_8_bits);
        loaded.load(&path).unwrap();
        for state in AdamW::default().states() {
            let of = |opt: &Optimizer<AdamW>| opt.state("w", state.name()).unwrap().unwrap();
            let (from, to) = (of(&saved), of(&loaded));
            let blocks =
                |of: &Tensor| bytemuck::cast_slice::<u8, Block8>(&tensor_bits(of)).to_vec();
            if in_8_bits {
                let mut expected = [0.0; 65];
                state.decode(&blocks(&from), &mut expected);
                assert_eq!(bits(&elements::<f32>(&to)), bits(&expected));
            } else {
                let mut expected = [[0; 33]; 3];
                state.encode(&elements::<f32>(&from), &mut expected);
                assert_eq!(blocks(&to), expected);
            }
        }
        assert_eq!(loaded.t("w"), Some(1));
    }
}

/// The settings before the call stay.
#[test]
fn it_keeps_the_other_settings() {
    let all = vars(&mut Random(1));
    let mut opt =
        Optimizer::with_names(NAMES.into_iter().zip(all.clone()), AdamW::default()).unwrap();
    opt.set_learning_rate(0.25);
    opt.options_mut().clip_value = Some(0.5);
    opt.set_grad_scaler(Some(GradScaler::constant(64.0)));
    opt.set_lr_schedule(LrSchedule::warmup(4)).unwrap();
    opt.set_8bit_states(MIN).unwrap();
    assert_eq!((opt.learning_rate(), opt.options().clip_value), (0.25, Some(0.5)));
    assert_eq!(opt.grad_scaler(), Some(&GradScaler::constant(64.0)));
    assert_eq!(opt.backward_step_with_report(&loss(&all)).unwrap().lr_factor, 0.25);
}

#[test]
fn refused_by_name() {
    let all = vars(&mut Random(1));
    let mut opt = optimizer(&all, AdamW::default().into());
    let error = opt.set_8bit_states(MIN - 1).unwrap_err();
    assert!(matches!(&error, Error::EightBitStates { variable } if variable == "double"));
    let message = "variable `double` is f64, expected f32, bf16 or f16 for states in 8 bits";
    assert_eq!(error.to_string(), message);

    // It still has the types of the call before.
    opt.backward_step(&loss(&all)).unwrap();
    let dtype = |opt: &Optimizer, name| opt.state(name, "m").unwrap().unwrap().dtype();
    let dtypes = NAMES.map(|name| dtype(&opt, name));
    use DType::{F32, F64, U8};
    assert_eq!(dtypes, [U8, U8, U8, F32, F32, F64]);

    let before = everything(&opt, &all).unwrap();
    let error = opt.set_8bit_states(MIN).unwrap_err();
    let message = "`set_8bit_states` was called after step 1, expected it before the first";
    assert_eq!(error.to_string(), message);
    assert_eq!(everything(&opt, &all).unwrap(), before);
}
