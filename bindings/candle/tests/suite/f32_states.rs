//! States of `f32` for 16-bit variables, or of the type of the variable.

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::Optimizer as _;
use fused_adam::{AdamW, AnyRule, Flat, bf16, f16};
use fused_adam_candle::{Error, Optimizer, fused_adam};

use crate::common::{everything, rules, tensor_bits, var};
use crate::digits::Random;
use crate::eight_bits::is_the_core;

fn pair(random: &mut Random) -> [Var; 2] {
    [var::<bf16>(random, &[5, 13]), var::<f16>(random, &[70])]
}

fn optimizer(vars: &[Var; 2], rule: AnyRule, f32_states: bool) -> Optimizer {
    let names = ["bf16", "f16"].into_iter().zip(vars.iter().cloned());
    let mut opt = Optimizer::with_names(names, rule).unwrap();
    opt.set_f32_states(f32_states).unwrap();
    opt
}

#[test]
fn every_rule_is_the_core() {
    let mut random = Random(41);
    for rule in rules() {
        let vars = pair(&mut random);
        let mut opt = optimizer(&vars, rule, true);
        let mut bf16s = Flat::<_, f32>::new(rule, 65).unwrap();
        let mut f16s = Flat::<_, f32>::new(rule, 70).unwrap();
        for _ in 0..3 {
            is_the_core::<bf16, _>(&mut opt, ("bf16", &vars[0]), &mut bf16s, &mut random);
            is_the_core::<f16, _>(&mut opt, ("f16", &vars[1]), &mut f16s, &mut random);
        }
        let mut opt = optimizer(&vars, rule, false);
        let mut bf16s = Flat::<_, bf16>::new(rule, 65).unwrap();
        let mut f16s = Flat::<_, f16>::new(rule, 70).unwrap();
        for _ in 0..3 {
            is_the_core::<bf16, _>(&mut opt, ("bf16", &vars[0]), &mut bf16s, &mut random);
            is_the_core::<f16, _>(&mut opt, ("f16", &vars[1]), &mut f16s, &mut random);
        }
    }
}

fn train<C>(opt: &mut Optimizer<C>, vars: &[Var], steps: u32) {
    for _ in 0..steps {
        let zero = Tensor::new(0_f64, &Device::Cpu).unwrap();
        let square =
            |var: &Var| var.sqr().unwrap().sum_all().unwrap().to_dtype(DType::F64).unwrap();
        let loss = vars.iter().fold(zero, |sum, var| (sum + square(var)).unwrap());
        opt.backward_step_with_report(&loss).unwrap();
    }
}

/// Types of the states: of a large variable of each type, and of a small one.
#[test]
fn together_with_8_bits() {
    use DType::{BF16, F16, F32, U8};
    let of = |f32_states: Option<bool>, min_8bit_size: Option<usize>| {
        let (mut random, shape) = (Random(5), [3_usize]);
        let vars = [
            var::<bf16>(&mut random, &[64]),
            var::<f16>(&mut random, &[64]),
            var::<bf16>(&mut random, &shape),
            var::<f16>(&mut random, &shape),
        ];
        let mut opt = Optimizer::new(vars.to_vec(), AdamW::default()).unwrap();
        if let Some(f32_states) = f32_states {
            opt.set_f32_states(f32_states).unwrap();
        }
        if let Some(size) = min_8bit_size {
            opt.set_8bit_states(size).unwrap();
        }
        train(&mut opt, &vars, 1);
        ["0", "1", "2", "3"].map(|name| opt.state(name, "v").unwrap().unwrap().dtype())
    };
    assert_eq!(of(None, None), [BF16, F32, BF16, F32]);
    assert_eq!(of(Some(true), None), [F32; 4]);
    assert_eq!(of(Some(false), None), [BF16, F16, BF16, F16]);
    assert_eq!(of(None, Some(64)), [U8, U8, F32, F32]);
    assert_eq!(of(Some(true), Some(64)), [U8, U8, F32, F32]);
    assert_eq!(of(Some(false), Some(64)), [U8, U8, BF16, F16]);
}

#[test]
fn resumed_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("training.safetensors");
    let rule = AnyRule::from(AdamW::default());
    for f32_states in [true, false] {
        let vars = pair(&mut Random(7));
        let mut whole = optimizer(&vars, rule, f32_states);
        train(&mut whole, &vars, 5);
        let whole = everything(&whole, &vars).unwrap();

        let vars = pair(&mut Random(7));
        let mut stopped = optimizer(&vars, rule, f32_states);
        train(&mut stopped, &vars, 2);
        stopped.save_with_variables(&path).unwrap();
        let vars = pair(&mut Random(8));
        let mut resumed = optimizer(&vars, rule, f32_states);
        resumed.load_with_variables(&path).unwrap();
        train(&mut resumed, &vars, 3);
        assert_eq!(everything(&resumed, &vars).unwrap(), whole);

        // States of another type are refused by name.
        let vars = pair(&mut Random(8));
        let mut other = optimizer(&vars, rule, !f32_states);
        let before = everything(&other, &vars).unwrap();
        let error = other.load_with_variables(&path).unwrap_err();
        assert!(matches!(error, Error::Checkpoint(_)));
        let (found, expected) = if f32_states { ("f32", "bf16") } else { ("bf16", "f32") };
        let message = format!("the type of `bf16.m` is {found}, expected {expected}");
        assert_eq!(error.to_string(), format!("{}: {message}", path.display()));
        assert_eq!(everything(&other, &vars).unwrap(), before);
    }
}

/// States in 8 bits become states of `f32`.
#[test]
fn loading_decodes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("training.safetensors");
    let vars = pair(&mut Random(9));
    let mut saved = optimizer(&vars, AdamW::default().into(), true);
    saved.set_8bit_states(0).unwrap();
    train(&mut saved, &vars, 1);
    saved.save(&path).unwrap();
    let mut loaded = optimizer(&vars, AdamW::default().into(), true);
    loaded.load(&path).unwrap();
    let v = loaded.state("bf16", "v").unwrap().unwrap();
    assert_eq!((v.dtype(), v.dims(), loaded.t("bf16")), (DType::F32, &[5, 13][..], Some(1)));
    assert!(tensor_bits(&v).iter().any(|byte| *byte != 0));
}

#[test]
fn refused_after_a_step() {
    let vars = pair(&mut Random(10));
    let mut opt = optimizer(&vars, AdamW::default().into(), true);
    opt.set_f32_states(false).unwrap();
    opt.set_f32_states(true).unwrap();
    train(&mut opt, &vars, 2);
    let before = everything(&opt, &vars).unwrap();
    let error = opt.set_f32_states(false).unwrap_err();
    assert!(matches!(error, Error::StepsTaken { method: "set_f32_states", steps: 2 }));
    let message = "`set_f32_states` was called after step 2, expected it before the first";
    assert_eq!(error.to_string(), message);
    assert_eq!(everything(&opt, &vars).unwrap(), before);
    train(&mut opt, &vars, 1);
    assert_eq!(opt.state("bf16", "m").unwrap().unwrap().dtype(), DType::F32);
}
