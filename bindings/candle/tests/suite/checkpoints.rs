//! An optimizer that is saved, loaded and resumed is bit-identical to one that was never stopped.
//! Also files that do not fit.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{Init, Optimizer as _, ParamsAdamW, VarMap};
use fused_adam::{AnyRule, Flat, GradScaler, LrSchedule, NAdam, Rule, bf16, f16};
use fused_adam_candle::{AdamW, Error, Optimizer, fused_adam};

use crate::common::{bits, elements, everything, rules, uniform, var};
use crate::digits::Random;

const NAMES: [&str; 4] = ["w", "b", "half.w", "double"];

/// A model with all types, its optimizer, and its gradients.
struct Training {
    vars: Vec<Var>,
    opt: Optimizer,
    random: Random,
}

impl Training {
    fn new(rule: AnyRule, seed: u64) -> Self {
        let mut random = Random(seed);
        let vars = vec![
            var::<f32>(&mut random, &[3, 50]),
            var::<bf16>(&mut random, &[7]),
            var::<f16>(&mut random, &[2, 2, 2]),
            var::<f64>(&mut random, &[]),
        ];
        let mut opt = Optimizer::with_names(NAMES.into_iter().zip(vars.clone()), rule).unwrap();
        opt.set_lr_schedule(LrSchedule::warmup(6)).unwrap();
        Training { vars, opt, random }
    }

    fn steps(&mut self, steps: u64) {
        for _ in 0..steps {
            let mut grads = Tensor::new(0.0_f32, &Device::Cpu).unwrap().backward().unwrap();
            for (i, var) in self.vars.iter().enumerate() {
                let grad = uniform::<f64>(&mut self.random, var.elem_count());
                let grad = Tensor::from_vec(grad, var.shape(), &Device::Cpu).unwrap();
                // The second variable gets its first gradient late.
                if i != 1 || self.opt.steps() > 2 {
                    grads.insert(var, grad.to_dtype(var.dtype()).unwrap());
                }
            }
            self.opt.step(&grads).unwrap();
        }
    }
}

#[test]
fn resumed_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("training.safetensors");
    for rule in rules() {
        let mut whole = Training::new(rule, 1);
        whole.steps(10);
        let whole = everything(&whole.opt, &whole.vars).unwrap();
        for stop in [0, 1, 4, 10] {
            let mut stopped = Training::new(rule, 1);
            stopped.steps(stop);
            stopped.opt.save_with_variables(&path).unwrap();

            // A different start, different hyper-parameters, and steps that the loaded file
            // replaces.
            let mut other = rule;
            other.set_lr(2.0 * other.lr());
            let mut resumed = Training::new(other, 2);
            resumed.steps(if stop == 4 { 3 } else { 0 });
            resumed.opt.load_with_variables(&path).unwrap();
            resumed.random = Random(stopped.random.0);
            resumed.steps(10 - stop);
            assert!(everything(&resumed.opt, &resumed.vars).unwrap() == whole, "{rule:?}, {stop}");

            // The states alone. candle saves the variables.
            stopped.opt.save(&path).unwrap();
            let mut resumed = Training::new(other, 3);
            resumed.opt.load(&path).unwrap();
            for (new, old) in resumed.vars.iter().zip(&stopped.vars) {
                new.set(old).unwrap();
            }
            resumed.random = Random(stopped.random.0);
            resumed.steps(10 - stop);
            assert!(everything(&resumed.opt, &resumed.vars).unwrap() == whole, "{rule:?}, {stop}");
        }
    }
}

/// NAdam's product of momenta with a schedule of β1: in one optimizer, and with a file between the
/// steps.
#[test]
fn scalars_are_kept_between_steps() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("training.safetensors");
    let mut random = Random(5);
    let var = var::<f32>(&mut random, &[11]);
    let saved_var = var.as_tensor().copy().and_then(|copy| Var::from_tensor(&copy)).unwrap();
    let mut theta: Vec<f32> = elements(&var);
    let of = |var: &Var| Optimizer::with_names([("w", var.clone())], NAdam::default()).unwrap();
    let (mut opt, mut saved) = (of(&var), of(&saved_var));
    let mut reference = Flat::new(NAdam::default(), theta.len()).unwrap();
    for beta1 in [0.9, 0.5, 0.99, 0.3, 0.95, 0.7] {
        let rule = NAdam { beta1, ..NAdam::default() };
        *reference.rule_mut() = rule;
        let grad = uniform::<f32>(&mut random, theta.len());
        reference.step(&mut theta, &grad).unwrap();
        let grad = Tensor::from_vec(grad, theta.len(), &Device::Cpu).unwrap();
        for (opt, var) in [(&mut opt, &var), (&mut saved, &saved_var)] {
            let mut grads = Tensor::new(0.0_f32, &Device::Cpu).unwrap().backward().unwrap();
            grads.insert(var, grad.clone());
            opt.set_params(rule);
            opt.step(&grads).unwrap();
            assert_eq!(bits(&theta), bits(&elements::<f32>(var)), "{beta1}");
        }
        saved.save(&path).unwrap();
        saved = of(&saved_var);
        saved.load(&path).unwrap();
    }
}

#[test]
fn the_loss_scale_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("training.safetensors");
    let mut saved = Training::new(AnyRule::AdamW(fused_adam::AdamW::default()), 1);
    saved.opt.set_grad_scaler(Some(GradScaler::constant(1024.0)));
    saved.steps(2);
    saved.opt.save(&path).unwrap();
    let mut loaded = Training::new(AnyRule::AdamW(fused_adam::AdamW::default()), 1);
    loaded.opt.load(&path).unwrap();
    assert_eq!(loaded.opt.grad_scaler(), saved.opt.grad_scaler());
    assert!(loaded.opt.grad_scaler().is_some());
}

/// The variables of a map come in any order, but are identified by their names.
#[test]
fn a_var_map_from_file_to_file() {
    let folder = tempfile::tempdir().unwrap();
    let (states, weights) = (folder.path().join("states"), folder.path().join("weights"));
    let map = || {
        let map = VarMap::new();
        let init = Init::Const(0.5);
        let get = |name| map.get(4, name, init, DType::F32, &Device::Cpu).unwrap();
        let all = ["a", "b", "c", "d", "e"].map(get);
        (map, all)
    };
    let train = |opt: &mut AdamW, all: &[Tensor], steps| {
        for _ in 0..steps {
            let mut loss = Tensor::new(0.0_f32, &Device::Cpu).unwrap();
            for (i, tensor) in all.iter().enumerate() {
                let apart = (tensor - i as f64).unwrap();
                loss = (loss + apart.sqr().unwrap().sum_all().unwrap()).unwrap();
            }
            opt.backward_step(&loss).unwrap();
        }
    };
    let bits =
        |all: &[Tensor]| -> Vec<Vec<u8>> { all.iter().map(crate::common::tensor_bits).collect() };

    let (saved, all) = map();
    let mut opt = AdamW::from_var_map(&saved, ParamsAdamW::default()).unwrap();
    train(&mut opt, &all, 5);
    opt.save(&states).unwrap();
    saved.save(&weights).unwrap();
    train(&mut opt, &all, 5);

    let (mut loaded, again) = map();
    loaded.load(&weights).unwrap();
    let mut opt = AdamW::from_var_map(&loaded, ParamsAdamW::default()).unwrap();
    opt.load(&states).unwrap();
    train(&mut opt, &again, 5);
    assert_eq!(bits(&all), bits(&again));
}

/// An optimizer of these variables, each of which has taken a step.
fn of(vars: &[(&str, Var)], rule: &str) -> Optimizer {
    let mut opt = Optimizer::with_names(vars.iter().cloned(), rule.parse().unwrap()).unwrap();
    let loss = |(_, var): &(&str, Var)| var.sqr().unwrap().sum_all().unwrap();
    for of in vars {
        opt.backward_step(&loss(of)).unwrap();
    }
    opt
}

fn ones(len: usize, dtype: DType) -> Var {
    Var::ones(len, dtype, &Device::Cpu).unwrap()
}

#[test]
fn what_does_not_fit() {
    use DType::{F32, F64};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("training.safetensors");
    of(&[("a", ones(3, F32)), ("b", ones(2, F64))], "adamw").save_with_variables(&path).unwrap();
    let states_only = folder.path().join("states.safetensors");
    of(&[("a", ones(3, F32)), ("b", ones(2, F64))], "adamw").save(&states_only).unwrap();
    let other = folder.path().join("other.safetensors");
    ones(3, F32).save_safetensors("other", &other).unwrap();
    let damaged = folder.path().join("damaged.safetensors");
    let tensors = [("a", ones(3, F32)), ("b", ones(2, F64)), ("a.m", ones(3, F32))];
    let tensors = HashMap::from(tensors.map(|(name, var)| (name, var.as_tensor().clone())));
    candle_core::safetensors::save(&tensors, &damaged).unwrap();
    let nothing = folder.path().join("nothing");
    // Systems differ in their messages.
    let [no_file, directory] =
        [&nothing, folder.path()].map(|path| std::fs::read(path).unwrap_err().to_string());

    type Model = Vec<(&'static str, Var)>;
    type Case<'a> = (&'a Path, fn() -> Model, &'a str, &'a str);
    let fits: fn() -> Model = || vec![("a", ones(3, F32)), ("b", ones(2, F64))];
    let cases: [Case<'_>; 10] = [
        (&path, fits, "lion", "the rule of group 0 is adamw, expected lion"),
        (&path, || vec![("a", ones(3, F32))], "adamw", "the number of parameters is 2, expected 1"),
        (
            &path,
            || vec![("a", ones(3, F32)), ("c", ones(2, F64))],
            "adamw",
            "a parameter is `b`, expected one that is registered",
        ),
        (
            &path,
            || vec![("a", ones(3, F64)), ("b", ones(2, F64))],
            "adamw",
            "the type of `a` is f32, expected f64",
        ),
        (
            &path,
            || vec![("a", ones(4, F32)), ("b", ones(2, F64))],
            "adamw",
            "the length of `a.m` is 3, expected 4",
        ),
        (&other, fits, "adamw", "is not a checkpoint: its metadata lack `fused_adam`"),
        (&damaged, fits, "adamw", "is not a checkpoint: its metadata lack `fused_adam`"),
        (&nothing, fits, "adamw", &no_file),
        (folder.path(), fits, "adamw", &directory),
        (&states_only, fits, "adamw", "lacks the tensor `a`"),
    ];
    for (path, model, rule, message) in cases {
        let model = model();
        let vars: Vec<Var> = model.iter().map(|(_, var)| var.clone()).collect();
        let mut opt = of(&model, rule);
        let before = everything(&opt, &vars).unwrap();
        if path != states_only {
            let error = opt.load(path).expect_err(message);
            assert!(matches!(error, Error::Checkpoint(_)));
            assert_eq!(error.to_string(), format!("{}: {message}", path.display()));
            assert_eq!(everything(&opt, &vars).unwrap(), before, "changed by: {message}");
        }
        assert!(opt.load_with_variables(path).is_err(), "{message}");
        assert_eq!(everything(&opt, &vars).unwrap(), before, "changed by: {message}");
    }
    let error = of(&fits(), "adamw").load_with_variables(&states_only).unwrap_err();
    assert_eq!(error.to_string(), format!("{}: lacks the tensor `a`", states_only.display()));

    // A variable with the same name as another's state.
    let clash = of(&[("a", ones(3, F32)), ("a.m", ones(3, F32))], "adamw");
    let new = folder.path().join("new");
    let error = clash.save_with_variables(&new).unwrap_err();
    assert_eq!(error.to_string(), format!("{}: there are two tensors `a.m`", new.display()));
    assert!(!new.exists());
}
