//! Groups: one norm for all, and their own hyper-parameters. Variables that are added later.

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{Optimizer as _, ParamsAdamW};
use fused_adam::{
    AdamW, AnyRule, ClipNorm, Flat, GradNorm, Lion, LrSchedule, Rule, StepOptions, bf16,
};
use fused_adam_candle::{Error, GroupId, Optimizer, fused_adam};

use crate::common::{bits, elements, everything, grads, tensor_bits, uniform, var};
use crate::digits::Random;

/// The group that is always there.
fn first() -> GroupId {
    GroupId::default()
}

fn tensor<E: crate::common::Number>(elements: &[E], var: &Var) -> Tensor {
    Tensor::from_slice(elements, var.shape(), &Device::Cpu).unwrap()
}

/// Three groups are bit-identical to those of the core, with one norm over all. It is not the norm
/// of any group alone.
#[test]
fn groups_are_clipped_by_one_norm() {
    const BOUND: f64 = 0.75;
    let mut random = Random(17);
    let vars = [var::<f32>(&mut random, &[4, 9]), var::<f32>(&mut random, &[9])];
    let half = var::<bf16>(&mut random, &[2, 5]);
    let rules: [AnyRule; 3] = [
        AdamW { lr: 1e-2, ..AdamW::default() }.into(),
        AdamW { lr: 3e-2, weight_decay: 0.0, ..AdamW::default() }.into(),
        Lion { lr: 0.5, ..Lion::default() }.into(),
    ];
    let options = StepOptions { clip_norm: Some(ClipNorm::Two(BOUND)), ..StepOptions::default() };

    let mut opt: Optimizer = Optimizer::empty(rules[0]).unwrap();
    let groups = [first(), opt.add_group(rules[1]).unwrap(), opt.add_group(rules[2]).unwrap()];
    opt.add(groups[0], "w", &vars[0]).unwrap();
    opt.add(groups[1], "b", &vars[1]).unwrap();
    opt.add(groups[2], "half", &half).unwrap();
    *opt.options_mut() = options;

    let mut core = fused_adam::Optimizer::new(rules[0]).unwrap();
    let of_core = [first(), core.add_group(rules[1]).unwrap(), core.add_group(rules[2]).unwrap()];
    let w = core.add::<f32>(of_core[0], "w", 36).unwrap();
    let b = core.add::<f32>(of_core[1], "b", 9).unwrap();
    let h = core.add::<bf16>(of_core[2], "half", 10).unwrap();
    core.options = options;
    let mut theta: [Vec<f32>; 2] = [elements(&vars[0]), elements(&vars[1])];
    let mut half_theta: Vec<bf16> = elements(&half);

    for _ in 0..5 {
        let grad = [36, 9].map(|len| uniform::<f32>(&mut random, len));
        let half_grad = uniform::<bf16>(&mut random, 10);
        let mut norm = GradNorm::new();
        norm.add(&grad[0]);
        norm.add(&grad[1]);
        norm.add(&half_grad);
        let report = opt.step_with_report(&grads([
            (&vars[0], tensor(&grad[0], &vars[0])),
            (&vars[1], tensor(&grad[1], &vars[1])),
            (&half, tensor(&half_grad, &half)),
        ]));
        let report = report.unwrap();
        assert!(norm.two_norm() > BOUND);
        assert_eq!(report.grad_norm, Some(norm.two_norm()));
        assert_eq!(report.clip_factor, BOUND / norm.two_norm());

        let [theta_w, theta_b] = &mut theta;
        let expected = core.step([
            fused_adam::Tensor::new(w, theta_w, &grad[0]),
            fused_adam::Tensor::new(b, theta_b, &grad[1]),
            fused_adam::Tensor::new(h, &mut half_theta, &half_grad),
        ]);
        assert_eq!(Ok(report), expected);
        for ((var, theta), name) in vars.iter().zip(&theta).zip(["w", "b"]) {
            assert_eq!(tensor_bits(var), bits(theta), "{name}");
            for state in ["m", "v"] {
                let found = opt.state(name, state).unwrap().unwrap();
                let expected = core.state::<f32>(core.id(name).unwrap(), state).unwrap();
                assert_eq!(tensor_bits(&found), bits(expected), "{name}.{state}");
            }
        }
        assert_eq!(tensor_bits(&half), bits(&half_theta));
    }
}

/// The norm can be reported without clipping. The step has the same bits.
#[test]
fn the_norm_on_request() {
    let step = |report_norm| {
        let vars = [Var::new(&[1.5_f32], &Device::Cpu), Var::new(&[-2_f64], &Device::Cpu)];
        let vars = vars.map(Result::unwrap);
        let mut opt = Optimizer::empty(AdamW::default()).unwrap();
        let other = opt.add_group(AdamW { lr: 1e-2, ..AdamW::default() }).unwrap();
        opt.add(first(), "single", &vars[0]).unwrap();
        opt.add(other, "double", &vars[1]).unwrap();
        opt.options_mut().report_norm = report_norm;
        let twice = |var: &Var| (var.as_tensor() * 2.0).unwrap();
        let grads = grads(vars.iter().map(|var| (var, twice(var))));
        (opt.step_with_report(&grads).unwrap(), vars.map(|var| tensor_bits(&var)))
    };
    let ((without, bits), (with, same)) = (step(false), step(true));
    assert_eq!((without.grad_norm, with.grad_norm), (None, Some(5.0)));
    assert_eq!(with.clip_factor, 1.0);
    assert_eq!(bits, same);
}

/// Its states and its step number start at its first gradient.
#[test]
fn a_variable_that_is_added_later() {
    let mut random = Random(23);
    let (early, late) = (var::<f32>(&mut random, &[7]), var::<bf16>(&mut random, &[3, 4]));
    let mut opt = Optimizer::with_names([("early", early.clone())], AdamW::default()).unwrap();
    opt.set_f32_states(true).unwrap();
    for _ in 0..3 {
        opt.step(&grads([(&early, tensor(&uniform::<f32>(&mut random, 7), &early))])).unwrap();
    }
    let rule = AdamW { lr: 0.5, ..AdamW::default() };
    let group = opt.add_group(rule).unwrap();
    opt.add(group, "late", &late).unwrap();
    assert_eq!((opt.t("early"), opt.t("late")), (Some(3), Some(0)));
    assert!(opt.state("late", "m").unwrap().is_none());

    let mut theta: Vec<bf16> = elements(&late);
    let mut reference = Flat::<AdamW, f32>::new(rule, 12).unwrap();
    for t in 1..4 {
        let grad = uniform::<bf16>(&mut random, 12);
        reference.step_mixed(&mut theta, &grad).unwrap();
        let early_grad = tensor(&uniform::<f32>(&mut random, 7), &early);
        opt.step(&grads([(&early, early_grad), (&late, tensor(&grad, &late))])).unwrap();
        assert_eq!((opt.t("early"), opt.t("late")), (Some(3 + t), Some(t)));
        assert_eq!(tensor_bits(&late), bits(&theta));
        // `set_f32_states` holds for it too.
        let m = opt.state("late", "m").unwrap().unwrap();
        assert_eq!(tensor_bits(&m), bits(reference.state("m").unwrap()));
    }
    assert_eq!(opt.names().collect::<Vec<_>>(), ["early", "late"]);
    assert_eq!(opt.into_inner().len(), 2);
}

/// candle's trait gets the learning rate of the first group and sets that of all. The methods for a
/// group change only that one.
#[test]
fn learning_rates_and_hyper_parameters() {
    let lr = |lr| ParamsAdamW { lr, ..ParamsAdamW::default() };
    let mut opt = Optimizer::empty(lr(0.5)).unwrap();
    let other = opt.add_group(lr(0.25)).unwrap();
    let lrs = |opt: &Optimizer<ParamsAdamW>| {
        let of = |group| (opt.rule(group).unwrap().lr(), opt.group_params(group).unwrap().lr);
        let (one, other) = (of(first()), of(other));
        assert_eq!((one.0, other.0), (one.1, other.1));
        assert_eq!((opt.learning_rate(), opt.params().lr), (one.0, one.0));
        (one.0, other.0)
    };
    assert_eq!(lrs(&opt), (0.5, 0.25));
    opt.set_group_learning_rate(other, 2.0).unwrap();
    assert_eq!(lrs(&opt), (0.5, 2.0));
    opt.set_learning_rate(3.0);
    assert_eq!(lrs(&opt), (3.0, 3.0));
    opt.set_params(lr(4.0));
    assert_eq!(lrs(&opt), (4.0, 3.0));
    opt.set_group_params(other, ParamsAdamW { beta1: 0.5, ..lr(5.0) }).unwrap();
    assert_eq!(lrs(&opt), (4.0, 5.0));
    assert_eq!((opt.params().beta1, opt.group_params(other).unwrap().beta1), (0.9, 0.5));

    // A schedule multiplies both.
    let [a, b] = [0, 1].map(|_| Var::new(0_f64, &Device::Cpu).unwrap());
    opt.add(first(), "a", &a).unwrap();
    opt.add(other, "b", &b).unwrap();
    opt.set_lr_schedule(LrSchedule::warmup(2)).unwrap();
    let one = Tensor::new(1_f64, &Device::Cpu).unwrap();
    opt.step(&grads([(&a, one.clone()), (&b, one)])).unwrap();
    let moved = [&a, &b].map(|var| var.to_scalar::<f64>().unwrap());
    assert!((moved[0] + 2.0).abs() < 1e-6 && (moved[1] + 2.5).abs() < 1e-6, "{moved:?}");
    assert_eq!(lrs(&opt), (4.0, 5.0));
}

/// Errors leave the optimizer as it was, so the same variable can be added in another way.
#[test]
fn refused_groups_and_variables() {
    let ones = |dtype| Var::ones(3, dtype, &Device::Cpu).unwrap();
    let mut stranger = Optimizer::empty(AdamW::default()).unwrap();
    let foreign = stranger.add_group(AdamW::default()).unwrap();
    let [w, b] = [DType::F32, DType::F64].map(ones);
    let mut opt = Optimizer::with_names([("w", w.clone())], AdamW::default()).unwrap();
    opt.add_group(AdamW::default()).unwrap();

    let text = "the group is an id of another optimizer, expected one that this optimizer returned";
    let errors = [
        opt.add(foreign, "b", &b).unwrap_err(),
        opt.set_group_params(foreign, AdamW::default()).unwrap_err(),
        opt.set_group_learning_rate(foreign, 0.5).unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, Error::Step(fused_adam::Error::ForeignId { what: "group" })));
        assert_eq!(error.to_string(), text);
    }
    assert!(opt.group_params(foreign).is_none() && opt.rule(foreign).is_none());

    let refused = |opt: &mut Optimizer<AdamW>, name: &str, var: &Var| {
        let before = everything(opt, std::slice::from_ref(&w)).unwrap();
        let error = opt.add(first(), name, var).unwrap_err().to_string();
        assert_eq!(everything(opt, std::slice::from_ref(&w)).unwrap(), before);
        error
    };
    let message = "variables `w` and `b` share their storage, expected each only once";
    assert_eq!(refused(&mut opt, "b", &w), message);
    let message = "there is a parameter `w` already, expected another name";
    assert_eq!(refused(&mut opt, "w", &b), message);
    let message = "variable `b` is u32, expected f32, f64, bf16 or f16";
    assert_eq!(refused(&mut opt, "b", &ones(DType::U32)), message);
    opt.set_8bit_states(3).unwrap();
    let message = "variable `b` is f64, expected f32, bf16 or f16 for states in 8 bits";
    assert_eq!(refused(&mut opt, "b", &b), message);
    opt.set_8bit_states(4).unwrap();
    opt.add(first(), "b", &b).unwrap();
    opt.step(&grads([&w, &b].map(|var| (var, var.as_tensor().clone())))).unwrap();
    assert_eq!((opt.t("w"), opt.t("b")), (Some(1), Some(1)));
}

fn three(random: &mut Random) -> [Var; 3] {
    [var::<f32>(random, &[40]), var::<bf16>(random, &[2, 3]), var::<f32>(random, &[5])]
}

/// An optimizer with the third variable in a group of its own; with states in 8 bits set before or
/// after the group is used.
fn grouped(vars: &[Var; 3], lr: f64) -> (Optimizer<AdamW>, GroupId) {
    let mut opt = Optimizer::with_names([("a", vars[0].clone())], AdamW::default()).unwrap();
    let group = opt.add_group(AdamW { lr, weight_decay: 0.5, ..AdamW::default() }).unwrap();
    opt.add(first(), "b", &vars[1]).unwrap();
    opt.set_8bit_states(33).unwrap();
    // The id stays valid.
    opt.add(group, "c", &vars[2]).unwrap();
    opt.set_f32_states(true).unwrap();
    (opt, group)
}

fn train(opt: &mut Optimizer<AdamW>, vars: &[Var; 3], steps: u32) {
    for _ in 0..steps {
        let grad = |var: &Var| (var.as_tensor() * 3.0).unwrap();
        opt.step(&grads(vars.iter().map(|var| (var, grad(var))))).unwrap();
    }
}

#[test]
fn groups_outlive_new_types_of_states_and_checkpoints() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("training.safetensors");
    let vars = three(&mut Random(3));
    let (mut whole, group) = grouped(&vars, 0.125);
    assert_eq!(whole.rule(group).unwrap().lr(), 0.125);
    let mut theta: Vec<f32> = elements(&vars[2]);
    train(&mut whole, &vars, 1);
    let mut reference = Flat::new(whole.group_params(group).copied().unwrap(), 5).unwrap();
    let grad: Vec<f32> = theta.iter().map(|x| x * 3.0).collect();
    reference.step(&mut theta, &grad).unwrap();
    assert_eq!(tensor_bits(&vars[2]), bits(&theta));
    train(&mut whole, &vars, 5);

    let again = three(&mut Random(3));
    let (mut stopped, _) = grouped(&again, 0.125);
    train(&mut stopped, &again, 2);
    stopped.save_with_variables(&path).unwrap();
    let again = three(&mut Random(4));
    let (mut resumed, group) = grouped(&again, 0.5);
    resumed.load_with_variables(&path).unwrap();
    assert_eq!(resumed.group_params(group).unwrap().lr, 0.125);
    train(&mut resumed, &again, 4);
    assert_eq!(everything(&resumed, &again).unwrap(), everything(&whole, &vars).unwrap());

    // Without the group, and with the variable in another one.
    let names = ["a", "b", "c"].into_iter().zip(again.clone());
    let mut other = Optimizer::with_names(names, AdamW::default()).unwrap();
    let message = |error: Error| error.to_string().split(": ").nth(1).unwrap().to_owned();
    assert_eq!(message(other.load(&path).unwrap_err()), "the number of groups is 2, expected 1");
    other.add_group(AdamW::default()).unwrap();
    assert_eq!(message(other.load(&path).unwrap_err()), "the group of `c` is 1, expected 0");
}
