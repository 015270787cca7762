//! `ArrayOptimizer` takes the same steps as the core on slices, whatever the memory order of its
//! arrays, and detects arrays and rules that do not match its states.

/// In the same program, so that the kernels of all rules are compiled only once.
#[path = "owner/checkpoints.rs"]
mod checkpoints;
#[path = "owner/common.rs"]
mod common;
#[path = "owner/eight_bits.rs"]
mod eight_bits;

use fused_adam_ndarray::fused_adam::{
    AdaGrad, AdamW, AnyRule, ClipNorm, Error as CoreError, Flat, GradScaler, GroupId, LrSchedule,
    NAdam, Optimizer, Rounding, Rule, Sgd, Tensor, bf16,
};
use fused_adam_ndarray::{ArrayOptimizer, Error, Pair};
use ndarray::{Array1, Array2};

use crate::common::{bits, laid_out, numbers};

fn weights() -> Array2<f32> {
    numbers((4, 3), 0)
}

/// An optimizer with one array.
fn with_one<R: Rule>(rule: R, theta: &Array2<f32>) -> ArrayOptimizer<R> {
    let mut opt = ArrayOptimizer::new(rule).unwrap();
    opt.add(GroupId::default(), "w", theta).unwrap();
    opt
}

/// The memory order of θ can change between steps, and the states follow it.
#[test]
fn its_steps_are_those_of_flat_buffers() {
    let rule = AdaGrad { initial_accumulator_value: 0.1, ..AdaGrad::default() };
    let mut flat: Vec<f32> = weights().iter().copied().collect();
    let mut reference = Flat::new(rule, flat.len()).unwrap();
    let mut opt = with_one(rule, &weights());
    let mut theta = weights();
    for (step, layout) in [1, 1, 0, 2, 1, 0, 0].into_iter().enumerate() {
        theta = laid_out(&theta, layout);
        let grad = theta.map(|x| x * 2.0 + 0.1);
        let flat_grad: Vec<f32> = flat.iter().map(|x| x * 2.0 + 0.1).collect();
        opt.step([Pair::new("w", &mut theta, &grad)]).unwrap();
        reference.step(&mut flat, &flat_grad).unwrap();
        assert_eq!(bits(&theta), bits(&flat), "step {step}");
        let v = opt.state::<f32>("w", "v").unwrap();
        assert_eq!(v.strides(), theta.strides(), "step {step}");
        assert_eq!(bits(&v), bits(reference.state("v").unwrap()), "step {step}");
    }
    assert_eq!((opt.steps(), opt.t("w"), opt.t("b")), (7, Some(7), None));
    assert_eq!((opt.state::<f32>("w", "m"), opt.state::<f32>("b", "v")), (None, None));
    assert_eq!(opt.state::<f64>("w", "v"), None);
}

/// Steps have the rules of the groups, the schedule, the loss scale, one norm and the random bits
/// of the core's optimizer, whatever the order of the list and the memory order of the arrays.
#[test]
fn its_steps_are_those_of_the_core() {
    let rules = [AdamW::default(), AdamW { lr: 1e-2, ..AdamW::default() }];
    let names = ["a", "b", "c"];
    let mut core = Optimizer::new(rules[0]).unwrap();
    let mut opt = ArrayOptimizer::new(rules[0]).unwrap();
    let (core_group, group) = (core.add_group(rules[1]).unwrap(), opt.add_group(rules[1]).unwrap());
    let mut arrays = [0, 1, 2].map(|layout| laid_out(&numbers::<bf16>((9, 5), 0), layout));
    for (i, (name, array)) in names.iter().zip(&arrays).enumerate() {
        let groups = [(GroupId::default(), GroupId::default()), (core_group, group)][i % 2];
        core.add::<bf16>(groups.0, name, 45).unwrap();
        opt.add(groups.1, name, array).unwrap();
    }
    let schedule = LrSchedule::warmup(5);
    core.set_lr_schedule(schedule.clone()).unwrap();
    opt.set_lr_schedule(schedule).unwrap();
    let scaler = GradScaler { scale: 4.0, growth_interval: 2, ..GradScaler::default() };
    core.grad_scaler = Some(scaler);
    opt.set_grad_scaler(Some(scaler));
    core.options.clip_norm = Some(ClipNorm::Two(0.5));
    core.options.rounding = Rounding::Stochastic { seed: 3 };
    *opt.options_mut() = core.options;
    let mut plain = [0, 1, 2].map(|_| elements(&numbers((9, 5), 0)));
    for t in 1..6 {
        let grads = [1, 2, 3].map(|i| numbers::<bf16>((9, 5), 3 * t + i));
        let flat = grads.each_ref().map(elements);
        let tensors = names.iter().zip(&mut plain).zip(&flat);
        let report =
            core.step(tensors.map(|((name, theta), grad)| Tensor::new(*name, theta, grad)));
        let pairs = names.iter().zip(&mut arrays).zip(&grads);
        let mut pairs: Vec<_> =
            pairs.map(|((name, theta), grad)| Pair::new(name, theta, grad)).collect();
        pairs.rotate_left(t as usize % 3);
        assert_eq!(opt.step(pairs), Ok(report.unwrap()));
        for ((name, array), plain) in names.iter().zip(&arrays).zip(&plain) {
            assert!(bits(array) == bits(plain), "{name}, t {t}");
            for state in ["m", "v"] {
                let expected = core.state::<bf16>(core.id(name).unwrap(), state).unwrap();
                assert!(bits(opt.state::<bf16>(name, state).unwrap()) == bits(expected));
            }
        }
    }
    assert_ne!(plain[0], plain[2]);
    assert_eq!(opt.grad_scaler(), core.grad_scaler.as_ref());
    assert!(opt.names().eq(names) && opt.lr_schedule() == core.lr_schedule());
}

/// The elements in row-major order.
fn elements(array: &Array2<bf16>) -> Vec<bf16> {
    array.iter().copied().collect()
}

/// A step takes some of the arrays. The others do not change.
#[test]
fn a_step_of_some_arrays() {
    let (mut w, mut b) = (weights(), weights());
    let (grad, before) = (numbers::<f32>((4, 3), 1), weights());
    let mut opt = with_one(NAdam::default(), &w);
    opt.add(GroupId::default(), "b", &b).unwrap();
    opt.step([Pair::new("w", &mut w, &grad)]).unwrap();
    assert_eq!((opt.t("w"), opt.t("b"), opt.steps()), (Some(1), Some(0), 1));
    opt.step([Pair::new("b", &mut b, &grad)]).unwrap();
    assert!(bits(&w) == bits(&b) && w != before);
    assert_eq!((opt.t("b"), opt.steps()), (Some(1), 2));

    // Arrays can be added at any time.
    let mut late = before.clone();
    opt.add(GroupId::default(), "late", &late).unwrap();
    opt.step([Pair::new("late", &mut late, &grad), Pair::new("w", &mut w, &grad)]).unwrap();
    assert!(bits(&late) == bits(&b) && opt.t("late") == Some(1) && opt.t("w") == Some(2));
}

/// NAdam's product of momenta with a schedule of β1, also when the states are rearranged and when a
/// step is skipped.
#[test]
fn scalars_are_kept_between_steps() {
    let mut reference = Flat::new(NAdam::default(), 12).unwrap();
    let (mut flat, mut theta) = (weights().into_raw_vec_and_offset().0, weights());
    let mut opt = with_one(NAdam::default(), &theta);
    assert_eq!((opt.scalars("w"), opt.scalars("b")), (Some(&[][..]), None));
    let (nan, grad) = (weights() * f32::NAN, weights() + 1.0);
    opt.options_mut().skip_nonfinite = true;
    for (step, beta1) in [0.9, 0.5, 0.99, 0.3, 0.95, 0.7].into_iter().enumerate() {
        theta = laid_out(&theta, step % 3);
        reference.rule_mut().beta1 = beta1;
        opt.rule_mut(GroupId::default()).unwrap().beta1 = beta1;
        reference.step(&mut flat, grad.as_slice().unwrap()).unwrap();
        assert!(opt.step([Pair::new("w", &mut theta, &nan)]).unwrap().skipped);
        opt.step([Pair::new("w", &mut theta, &grad)]).unwrap();
        assert_eq!(bits(&theta), bits(&flat), "step {step}");
        assert_eq!(opt.scalars("w"), Some(reference.scalars()), "step {step}");
    }
    assert_eq!(opt.steps(), 6);
}

/// NAdam has the states of AdamW and a scalar, which gets the value after the same number of its
/// own steps, also when the states are rearranged.
#[test]
fn a_rule_with_other_scalars_goes_on() {
    let (mut theta, grad) = (weights(), weights());
    let mut opt = with_one(AnyRule::from(AdamW::default()), &theta);
    for (layout, rule, scalars) in [
        (0, AnyRule::from(AdamW::default()), vec![]),
        (1, NAdam::default().into(), vec![NAdam::default().scalar_after(0, 2)]),
        (2, AdamW::default().into(), vec![]),
    ] {
        theta = laid_out(&theta, layout);
        *opt.rule_mut(GroupId::default()).unwrap() = rule;
        opt.step([Pair::new("w", &mut theta, &grad)]).unwrap();
        assert_eq!(opt.scalars("w"), Some(&scalars[..]), "{rule}");
    }
}

fn refused<R: Rule>(opt: &mut ArrayOptimizer<R>, pair: Pair<'_, f32>, message: &str) {
    assert_eq!(opt.step([pair]).unwrap_err().to_string(), message);
}

/// After each of these errors the optimizer continues as if the call had not been made.
#[test]
fn what_does_not_go_with_its_states_is_refused() {
    let (mut theta, grad, mut other) = (weights(), weights(), Array2::<f32>::ones((2, 6)));
    let adamw = AnyRule::from(AdamW { amsgrad: true, ..AdamW::default() });
    let mut opt = with_one(adamw, &theta);
    opt.add(GroupId::default(), "b", &Array1::<f32>::zeros(1)).unwrap();
    let (mut expected, mut reference) = (theta.clone(), with_one(adamw, &theta));

    for _ in 0..3 {
        let message = "`grad` of array `w` has shape [3, 4], expected [4, 3]";
        refused(&mut opt, Pair::new("w", &mut theta, &grad.t().to_owned()), message);
        let message = "`theta` of array `w` has shape [2, 6], expected [4, 3]";
        refused(&mut opt, Pair::new("w", &mut other, &Array2::ones((2, 6))), message);
        let message = "there is no array `W`, expected one of `w`, `b`";
        refused(&mut opt, Pair::new("W", &mut theta, &grad), message);
        let mut wrong = theta.mapv(bf16::from_f32);
        let error = opt.step([Pair::new("w", &mut wrong, &grad)]).unwrap_err();
        assert_eq!(error.to_string(), "`theta` of parameter `w` is bf16, expected f32");
        let (mut first, mut second) = (laid_out(&theta, 1), laid_out(&theta, 2));
        let twice = [Pair::new("w", &mut first, &grad), Pair::new("w", &mut second, &grad)];
        let error = opt.step(twice).unwrap_err();
        assert_eq!(error.to_string(), "parameter `w` was given twice, expected once a step");
        assert!(first == theta && second == theta);

        if opt.steps() > 0 {
            // In another memory order: the states of the other rule stay as they are.
            let mut theta = laid_out(&theta, 1);
            let before = theta.clone();
            *opt.rule_mut(GroupId::default()).unwrap() = "adabelief".parse().unwrap();
            let message = "parameter `w`: state `s` is missing, expected the states `m`, `s`";
            refused(&mut opt, Pair::new("w", &mut theta, &grad), message);
            *opt.rule_mut(GroupId::default()).unwrap() = AdamW::default().into();
            let message = "parameter `w`: 3 states were given, expected the states `m`, `v`";
            refused(&mut opt, Pair::new("w", &mut theta, &grad), message);
            assert_eq!(theta, before);
        }
        *opt.rule_mut(GroupId::default()).unwrap() = AdamW { eps: 0.0, ..AdamW::default() }.into();
        let (mut b, b_grad) = (Array1::<f32>::zeros(1), Array1::<f32>::ones(1));
        let error = opt.step([Pair::new("b", &mut b, &b_grad)]);
        let message = "`eps` is 0.0, expected a finite number above 0";
        assert_eq!(error.unwrap_err().to_string(), message);
        *opt.rule_mut(GroupId::default()).unwrap() = adamw;

        opt.step([Pair::new("w", &mut theta, &grad)]).unwrap();
        reference.step([Pair::new("w", &mut expected, &grad)]).unwrap();
        assert_eq!(bits(&theta), bits(&expected));
        for state in ["m", "v", "v_max"] {
            let [own, expected] = [&opt, &reference].map(|opt| opt.state::<f32>("w", state));
            assert_eq!(own, expected, "{state}");
        }
    }
    assert_eq!((other, opt.t("b"), opt.steps()), (Array2::ones((2, 6)), Some(0), 3));
}

/// Names are unique, and groups belong to one optimizer.
#[test]
fn wrong_arrays_are_not_added() {
    let theta = weights();
    let mut opt = with_one(AdamW::default(), &theta);
    let error = opt.add(GroupId::default(), "w", &Array1::<f32>::zeros(5)).unwrap_err();
    let message = "there is a parameter `w` already, expected another name";
    assert_eq!(error.to_string(), message);
    let mut other = ArrayOptimizer::new(AdamW::default()).unwrap();
    let group = other.add_group(AdamW::default()).unwrap();
    let error = opt.add(group, "b", &theta).unwrap_err();
    assert_eq!(error, Error::Core(CoreError::ForeignId { what: "group" }));
    assert!(opt.rule(group).is_none() && opt.names().eq(["w"]));
    // The first array is still there, with its shape.
    opt.step([Pair::new("w", &mut theta.clone(), &theta)]).unwrap();
    let error = other.step([Pair::new("w", &mut theta.clone(), &theta)]).unwrap_err();
    assert_eq!(error.to_string(), "there is no array `w`, expected one that was added");
    let bad = Sgd { lr: f64::NAN, ..Sgd::default() };
    assert!(matches!(ArrayOptimizer::new(bad), Err(Error::Core(_))));
}

/// States from another source: with the given scalars, or with those after `t` steps.
#[test]
fn states_that_were_passed_in_are_checked() {
    let theta = weights();
    let mut opt = with_one(NAdam::default(), &theta);
    let (m, v) = (laid_out(&numbers::<f32>((4, 3), 1), 1), weights().mapv(f32::abs));
    let turned = v.t();
    for (name, scalars, states, message) in [
        ("x", &[][..], &[("m", &*m), ("v", &v)][..], "there is no array `x`, expected one of `w`"),
        (
            "w",
            &[],
            &[("m", &*m), ("v", &turned)],
            "`v` of array `w` has shape [3, 4], expected [4, 3]",
        ),
        (
            "w",
            &[],
            &[("m", &*m), ("s", &v)],
            "parameter `w`: state `v` is missing, expected the states `m`, `v`",
        ),
        (
            "w",
            &[0.5, 0.5],
            &[("m", &*m), ("v", &v)],
            "parameter `w`: 2 scalars were given, expected the scalar \
          `mu_product`",
        ),
    ] {
        let error = opt.set_states(name, 4, scalars, states).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
    assert!(opt.t("w") == Some(0) && opt.state::<f32>("w", "m").is_none());

    for scalars in [&[][..], &[0.25]] {
        opt.set_states("w", 4, scalars, &[("v", &*v), ("m", &m)]).unwrap();
        assert_eq!(opt.state("w", "m"), Some(m.view().into_dyn()));
        let (mut theta, mut flat) =
            (laid_out(&theta, 2), theta.clone().into_raw_vec_and_offset().0);
        let [flat_m, flat_v] = [&m, &v].map(|state| state.iter().copied().collect());
        let mut reference = Flat::resume(NAdam::default(), 4, vec![flat_m, flat_v]).unwrap();
        if let [_] = scalars {
            reference = reference.with_scalars(scalars).unwrap();
        }
        opt.step([Pair::new("w", &mut theta, &weights())]).unwrap();
        reference.step(&mut flat, weights().as_slice().unwrap()).unwrap();
        assert_eq!(bits(&theta), bits(&flat));
        assert_eq!((opt.t("w"), opt.scalars("w")), (Some(5), Some(reference.scalars())));
    }
}
