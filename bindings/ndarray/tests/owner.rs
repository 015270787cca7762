//! `ArrayOptimizer` takes the same steps as the core on slices, whatever the memory order of its
//! arrays, and detects arrays and rules that do not match its states.

/// In the same program, so that the kernels of all rules are compiled only once.
#[path = "owner/eight_bits.rs"]
mod eight_bits;

use fused_adam_ndarray::fused_adam::{
    AdaGrad, AdamW, AnyRule, ClipNorm, Flat, NAdam, Rounding, Rule, Sgd, StepOptions, bf16,
};
use fused_adam_ndarray::{ArrayOptimizer, Error, Pair, ParamMut, step_all};
use ndarray::{Array1, Array2, ArrayD, ShapeBuilder};

fn weights() -> Array2<f32> {
    Array2::from_shape_fn((4, 3), |(i, j)| 0.1 * i as f32 - 0.2 * j as f32)
}

fn by_columns(of: &Array2<f32>) -> Array2<f32> {
    let mut array = Array2::zeros(of.raw_dim().f());
    array.assign(of);
    array
}

fn bits<'a>(array: impl IntoIterator<Item = &'a f32>) -> Vec<u32> {
    array.into_iter().map(|x| x.to_bits()).collect()
}

/// The memory order of θ can change between steps.
#[test]
fn its_steps_are_those_of_flat_buffers() {
    let rule = AdaGrad { initial_accumulator_value: 0.1, ..AdaGrad::default() };
    let mut flat: Vec<f32> = weights().iter().copied().collect();
    let mut reference = Flat::new(rule, flat.len()).unwrap();
    let mut opt = ArrayOptimizer::new(rule).unwrap();
    let mut theta = by_columns(&weights());
    for step in 0..6 {
        let grad = theta.map(|x| x * 2.0 + 0.1);
        let flat_grad: Vec<f32> = flat.iter().map(|x| x * 2.0 + 0.1).collect();
        opt.step([Pair::new(&mut theta, &grad)]).unwrap();
        reference.step(&mut flat, &flat_grad).unwrap();
        assert_eq!(bits(&theta), bits(&flat), "step {step}");
        let v = opt.state(0, "v").unwrap();
        assert_eq!(bits(v), bits(reference.state("v").unwrap()), "step {step}");
        if step == 2 {
            // The states have the memory order of θ in the first step.
            assert_eq!(opt.state(0, "v").unwrap().strides(), theta.strides());
            theta = theta.as_standard_layout().to_owned();
        }
    }
    assert_eq!((opt.t(), opt.state(0, "m"), opt.state(1, "v")), (6, None, None));
}

/// A step of the list uses the rules of its groups, one norm, and separate random bits for each
/// array.
#[test]
fn a_list_is_one_step() {
    let (rules, seed) = ([AdamW::default(), AdamW { lr: 1e-2, ..AdamW::default() }], 3);
    let options = StepOptions {
        clip_norm: Some(ClipNorm::Two(0.5)),
        rounding: Rounding::Stochastic { seed },
        ..StepOptions::default()
    };
    let mut opt = ArrayOptimizer::<_, bf16>::new(rules[0]).unwrap();
    assert_eq!(opt.add_group(rules[1]).unwrap(), 1);
    opt.options = options;
    let w = Array2::from_elem((40, 3), bf16::ONE);
    let b = Array1::from_elem(100, bf16::ONE);
    let (mut w1, mut b1, mut w2, mut b2) = (w.clone(), b.clone(), w.clone(), b.clone());
    let zeros = |_| (w.map(|_| bf16::ZERO), b.map(|_| bf16::ZERO));
    let mut states = [0, 1].map(zeros);
    for t in 1..4 {
        let report =
            opt.step([Pair::new(&mut w1, &w), Pair::new(&mut b1, &b).with_group(1)]).unwrap();
        assert_eq!(report.grad_norm, Some(220.0_f64.sqrt()));
        let [(w_m, b_m), (w_v, b_v)] = &mut states;
        step_all(
            &rules,
            &options,
            [
                ParamMut::new(0, t, &mut w2, &w).with_state(w_m).with_state(w_v),
                ParamMut::new(1, t, &mut b2, &b).with_seed(1).with_state(b_m).with_state(b_v),
            ],
        )
        .unwrap();
    }
    assert!(w1 == w2 && b1 == b2 && w1 != w && b1 != b);
    assert_eq!(opt.state(1, "v"), Some(states[1].1.view().into_dyn()));
}

#[test]
fn it_goes_on_from_its_parts() {
    let grad = weights() + 1.0;
    let train = |opt: &mut ArrayOptimizer<AdamW, f32>, theta: &mut Array2<f32>, steps| {
        for _ in 0..steps {
            opt.step([Pair::new(theta, &grad)]).unwrap();
        }
    };
    let (mut whole, mut parts) = (weights(), weights());
    train(&mut ArrayOptimizer::new(AdamW::default()).unwrap(), &mut whole, 7);
    let mut opt = ArrayOptimizer::new(AdamW::default()).unwrap();
    train(&mut opt, &mut parts, 4);
    let (rules, t, states) = opt.into_parts();
    let mut opt = ArrayOptimizer::resume(rules[0], t, states).unwrap();
    train(&mut opt, &mut parts, 3);
    assert_eq!((bits(&whole), opt.t()), (bits(&parts), 7));
}

/// NAdam's product of momenta with a schedule of β1: in one optimizer, and in one that resumes from
/// the parts of another.
#[test]
fn scalars_are_kept_between_steps() {
    let mut reference = Flat::new(NAdam::default(), 12).unwrap();
    let (mut flat, mut theta) = (weights().into_raw_vec_and_offset().0, weights());
    let mut resumed_theta = weights();
    let mut opt = ArrayOptimizer::new(NAdam::default()).unwrap();
    let mut resumed = opt.clone();
    assert_eq!(opt.scalars(0), [0.0; 0]);
    let nan = weights() * f32::NAN;
    opt.options.skip_nonfinite = true;
    for step in 0..6 {
        let beta1 = [0.9, 0.5, 0.99, 0.3, 0.95, 0.7][step];
        reference.rule_mut().beta1 = beta1;
        opt.rule_mut(0).unwrap().beta1 = beta1;
        resumed.rule_mut(0).unwrap().beta1 = beta1;
        let grad = weights() + 1.0;
        reference.step(&mut flat, grad.as_slice().unwrap()).unwrap();
        // A skipped step does not count.
        assert!(opt.step([Pair::new(&mut theta, &nan)]).unwrap().skipped);
        opt.step([Pair::new(&mut theta, &grad)]).unwrap();
        resumed.step([Pair::new(&mut resumed_theta, &grad)]).unwrap();
        assert_eq!(bits(&theta), bits(&flat), "step {step}");
        assert_eq!(bits(&resumed_theta), bits(&flat), "step {step}");
        assert_eq!(opt.scalars(0), reference.scalars(), "step {step}");
        assert_eq!(opt.scalars(1), [0.0; 0]);

        let scalars = [resumed.scalars(0).to_vec()];
        let (rules, t, states) = resumed.into_parts();
        resumed = ArrayOptimizer::resume(rules[0], t, states).unwrap();
        resumed = resumed.with_scalars(scalars).unwrap();
    }

    // Without scalars, they follow from the hyper-parameters of the next step.
    let (_, t, states) = resumed.into_parts();
    let flat_states = states[0].iter().map(|state| state.iter().copied().collect()).collect();
    let mut resumed = ArrayOptimizer::resume(NAdam::default(), t, states).unwrap();
    let mut reference = Flat::resume(NAdam::default(), t, flat_states).unwrap();
    resumed.step([Pair::new(&mut theta, &nan)]).unwrap();
    reference.step(&mut flat, nan.as_slice().unwrap()).unwrap();
    assert_eq!(resumed.scalars(0), reference.scalars());
}

/// After each of these errors the optimizer continues as if the call had not been made.
#[test]
fn what_does_not_go_with_its_states_is_refused() {
    let (mut theta, grad) = (weights(), weights());
    let mut opt = ArrayOptimizer::new(AnyRule::from(AdamW::default())).unwrap();

    // Before the first step: a step with an error does not allocate states.
    let mut other = Array2::<f32>::ones((2, 2));
    let refused = opt.step([Pair::new(&mut other, &Array2::ones((2, 3)))]).unwrap_err();
    let message = "`grad` of array number 0 has shape [2, 3], expected [2, 2]";
    assert_eq!(refused.to_string(), message);
    assert_eq!((opt.t(), opt.state(0, "m")), (0, None));
    let refused = opt.step([Pair::new(&mut theta, &grad).with_group(1)]).unwrap_err();
    assert_eq!(refused.to_string(), "there is no group 1, expected 0");

    opt.step([Pair::new(&mut theta, &grad)]).unwrap();
    let after = (theta.clone(), opt.state(0, "m").unwrap().to_owned());

    let refused = opt.step([]).unwrap_err();
    assert_eq!(refused.to_string(), "0 arrays were given, expected 1 as in the steps before");
    let refused = opt.step([Pair::new(&mut other, &Array2::ones((2, 2)))]).unwrap_err();
    let message = "`theta` of array number 0 has shape [2, 2], expected [4, 3]";
    assert_eq!(refused.to_string(), message);
    *opt.rule_mut(0).unwrap() = "adabelief".parse().unwrap();
    let refused = opt.step([Pair::new(&mut theta, &grad)]).unwrap_err();
    let message =
        r#"array number 0 has the states ["m", "v"], expected its rule's states ["m", "s"]"#;
    assert_eq!(refused.to_string(), message);
    *opt.rule_mut(0).unwrap() = AdamW { eps: 0.0, ..AdamW::default() }.into();
    let refused = opt.step([Pair::new(&mut theta, &grad)]).unwrap_err();
    assert_eq!(refused.to_string(), "`eps` is 0.0, expected a finite number above 0");

    assert_eq!((theta.clone(), opt.state(0, "m").unwrap().to_owned()), after);
    assert_eq!((opt.t(), other), (1, Array2::ones((2, 2))));
    *opt.rule_mut(0).unwrap() = AdamW::default().into();
    opt.step([Pair::new(&mut theta, &grad)]).unwrap();
    assert_eq!((opt.t(), opt.rule(0).map(AnyRule::name), opt.rule(1)), (2, Some("adamw"), None));
}

/// NAdam has the states of AdamW and a scalar, which gets the value after the same number of its
/// own steps.
#[test]
fn a_rule_with_other_scalars_goes_on() {
    let (mut theta, grad) = (weights(), weights());
    let mut opt = ArrayOptimizer::new(AnyRule::from(AdamW::default())).unwrap();
    for (rule, scalars) in [
        (AnyRule::from(AdamW::default()), vec![]),
        (NAdam::default().into(), vec![NAdam::default().scalar_after(0, 2)]),
        (AdamW::default().into(), vec![]),
    ] {
        *opt.rule_mut(0).unwrap() = rule;
        opt.step([Pair::new(&mut theta, &grad)]).unwrap();
        assert_eq!(opt.scalars(0), scalars, "{rule}");
    }
}

#[test]
fn states_that_were_handed_in_are_checked() {
    let (mut theta, grad) = (weights(), weights());
    let state = |shape: &[usize]| ArrayD::<f32>::zeros(shape);
    let mut step = |t, states| {
        let mut opt = ArrayOptimizer::resume(AdamW::default(), t, states)?;
        opt.step([Pair::new(&mut theta, &grad)])
    };
    for (t, states, message) in [
        (1, vec![], "1 array was given, expected 0 as in the steps before"),
        (1, vec![vec![state(&[4, 3])]], r#"state `v` is missing, expected the states `m`, `v`"#),
        (
            1,
            vec![vec![state(&[4, 3]), state(&[3, 4])]],
            "`v` of array number 0 has shape [3, 4], expected [4, 3]",
        ),
        (
            u64::MAX,
            vec![vec![state(&[4, 3]), state(&[4, 3])]],
            "step number `t` is 18446744073709551615, expected less than u64::MAX for another \
             step to follow",
        ),
    ] {
        assert_eq!(step(t, states).unwrap_err().to_string(), message);
    }
    assert_eq!(theta, weights());
    let opt = ArrayOptimizer::<_, f32>::resume(AdamW::default(), 1, vec![vec![], vec![]]).unwrap();
    let refused = opt.with_scalars([vec![]]).unwrap_err();
    assert_eq!(refused.to_string(), "1 array was given, expected 2 as in the steps before");
    let bad = Sgd { lr: f64::NAN, ..Sgd::default() };
    assert!(matches!(ArrayOptimizer::<_, f32>::new(bad), Err(Error::Core(_))));
}
