//! Rules from outside the crate, with more states than a tensor stores inline, and with scalars:
//! the same bits with slices, `Flat`, an optimizer, and a checkpoint.

use fused_adam::{
    AnyRule, CheckpointReader, Element, Error, Flat, Float, GroupId, Kernel, KernelVisitor, Lanes,
    NAdam, Optimizer, ParamMut, Rule, State, Step, StepOptions, Tensor, step_all,
};
use serde::{Deserialize, Serialize};

use crate::common::{Bits, difference};
use crate::equality::chunks;

/// Five averages, each of the one before and the first of the gradient, and a learning rate that is
/// the sum of all previous ones. It has the name of one of the crate's rules.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Five {
    lr: f64,
}

impl Rule for Five {
    fn name(&self) -> &'static str {
        "adam"
    }

    fn lr(&self) -> f64 {
        self.lr
    }

    fn set_lr(&mut self, lr: f64) {
        self.lr = lr;
    }

    fn states(&self) -> &'static [State] {
        const {
            &[
                State::signed("m"),
                State::signed("v"),
                State::signed("c"),
                State::signed("d"),
                State::signed("e"),
            ]
        }
    }

    fn initial_state(&self, i: usize) -> f64 {
        i as f64
    }

    fn scalars(&self) -> &'static [&'static str] {
        &["sum", "steps"]
    }

    fn scalar_after(&self, i: usize, t: u64) -> f64 {
        t as f64 * if i == 0 { self.lr } else { 1.0 }
    }

    fn advance_scalars(&self, _: u64, scalars: &mut [f64]) {
        scalars[0] += self.lr;
        scalars[1] += 1.0;
    }

    fn check(&self) -> Result<(), Error> {
        Ok(())
    }

    fn visit_kernel<F: Float, W: KernelVisitor<F>>(
        &self,
        _: u64,
        scalars: &[f64],
        visitor: W,
    ) -> Result<(), Error> {
        visitor.visit(&FiveKernel { sum: F::from_f64(scalars[0]), steps: F::from_f64(scalars[1]) })
    }
}

#[derive(Clone, Copy, Debug)]
struct FiveKernel<F> {
    sum: F,
    steps: F,
}

impl<F: Float> Kernel<F, 5> for FiveKernel<F> {
    #[inline(always)]
    fn update<L: Lanes<Float = F>>(&self, theta: L, grad: L, mut state: [L; 5]) -> (L, [L; 5]) {
        let mut x = grad;
        for average in &mut state {
            *average = *average + (x - *average) * F::from_f64(0.25);
            x = *average;
        }
        (theta - x * self.sum * self.steps, state)
    }
}

const LEN: usize = 5000;
const STEPS: u64 = 6;

fn grad<E: Element>(t: u64) -> Vec<E> {
    (0..LEN).map(|i| E::from_f64((i as f64 + t as f64).sin())).collect()
}

/// The learning rate of step `t`: a schedule.
fn lr(t: u64) -> f64 {
    1e-3 / t as f64
}

/// θ and the states after some steps of a rule on slices, with scalars that the caller stores.
fn on_slices<E: Element, R: Rule>(
    rule: &R,
    schedule: fn(&mut R, u64),
) -> (Vec<E>, Vec<Vec<E>>, Vec<f64>) {
    let mut rule = rule.clone();
    let mut theta = vec![E::from_f64(1.0); LEN];
    let initial = |i| vec![E::from_f64(rule.initial_state(i)); LEN];
    let mut states: Vec<Vec<E>> = (0..rule.states().len()).map(initial).collect();
    let mut scalars: Vec<f64> =
        (0..rule.scalars().len()).map(|i| rule.scalar_after(i, 0)).collect();
    for t in 1..=STEPS {
        schedule(&mut rule, t);
        rule.advance_scalars(t, &mut scalars);
        let mut slices: Vec<&mut [E]> = states.iter_mut().map(Vec::as_mut_slice).collect();
        let step =
            Step::new(&rule, t).with_backend(fused_adam::Backend::Scalar).with_scalars(&scalars);
        step.run(&mut theta, &grad(t), &mut slices).unwrap();
    }
    (theta, states, scalars)
}

/// The same bits with each way to store states, with a schedule that changes the rule.
fn every_owner<E: Bits, R>(rule: R, schedule: fn(&mut R, u64))
where
    R: Rule + Serialize + for<'a> Deserialize<'a>,
{
    let (theta, states, scalars) = on_slices::<E, R>(&rule, schedule);
    let expect = |what: &str, got: &[E], expected: &[E]| {
        assert_eq!(difference(what, got, expected), None);
    };

    let mut flat = Flat::new(rule.clone(), LEN).unwrap();
    let mut own = vec![E::from_f64(1.0); LEN];
    for t in 1..=STEPS {
        schedule(flat.rule_mut(), t);
        flat.step(&mut own, &grad(t)).unwrap();
        if t == 3 {
            let scalars = flat.scalars().to_vec();
            let (rule, t, states, _) = flat.into_parts();
            flat = Flat::resume(rule, t, states).unwrap().with_scalars(&scalars).unwrap();
        }
    }
    expect("theta of the owner", &own, &theta);
    assert_eq!(flat.scalars(), scalars);

    // Cut into many pieces, and saved and loaded in between.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("states");
    let optimizer = || {
        let mut opt = Optimizer::new(rule.clone()).unwrap();
        opt.options.parallelism = chunks(100);
        opt.add::<E>(GroupId::default(), "w", LEN).unwrap();
        opt.add::<E>(GroupId::default(), "never", 3).unwrap();
        opt
    };
    let mut opt = optimizer();
    let mut own = vec![E::from_f64(1.0); LEN];
    for t in 1..=STEPS {
        schedule(opt.rule_mut(GroupId::default()).unwrap(), t);
        opt.step([Tensor::new("w", &mut own, &grad::<E>(t))]).unwrap();
        if t == 3 {
            opt.checkpoint().save(&path).unwrap();
            opt = optimizer();
            CheckpointReader::open(&path).unwrap().load(&mut opt).unwrap();
        }
    }
    expect("theta of the optimizer", &own, &theta);
    let w = opt.id("w").unwrap();
    assert_eq!(opt.scalars(w), Some(&scalars[..]));
    for (state, expected) in rule.states().iter().zip(&states) {
        expect(state.name(), opt.state::<E>(w, state.name()).unwrap(), expected);
    }

    // With `step_all` and states that the caller stores.
    let mut rule = rule;
    let mut own = vec![E::from_f64(1.0); LEN];
    let initial = |i| vec![E::from_f64(rule.initial_state(i)); LEN];
    let mut borrowed: Vec<Vec<E>> = (0..rule.states().len()).map(initial).collect();
    let mut scalars: Vec<f64> =
        (0..rule.scalars().len()).map(|i| rule.scalar_after(i, 0)).collect();
    let options = StepOptions { parallelism: chunks(100), ..StepOptions::default() };
    for t in 1..=STEPS {
        schedule(&mut rule, t);
        rule.advance_scalars(t, &mut scalars);
        let grad = grad::<E>(t);
        let one = ParamMut::new(0, t, &mut own, &grad).with_scalars(&scalars);
        let one = borrowed.iter_mut().fold(one, |one, state| one.with_state(state));
        step_all(std::slice::from_ref(&rule), &options, [one]).unwrap();
    }
    expect("theta of the list", &own, &theta);
}

#[test]
fn five_states_and_scalars() {
    every_owner::<f32, _>(Five { lr: 1e-3 }, |rule, t| rule.lr = lr(t));
    every_owner::<f64, _>(Five { lr: 1e-3 }, |rule, t| rule.lr = lr(t));
}

/// NAdam's product of momenta is that of the steps taken, however its betas change.
#[test]
fn nadam_under_a_schedule_of_betas() {
    let schedule = |rule: &mut NAdam, t: u64| rule.beta1 = 0.5 + 0.08 * t as f64;
    every_owner::<f32, _>(NAdam::default(), schedule);
    every_owner::<f64, _>(NAdam::default(), schedule);
}

/// A rule that replaces another has the scalars after the same number of its own steps.
#[test]
fn rules_that_change_places() {
    let rules = ["adam", "nadam", "adam", "adam", "nadam", "nadam"].map(|name| {
        let rule: AnyRule = name.parse().unwrap();
        rule
    });
    let mut opt = Optimizer::new(rules[0]).unwrap();
    let w = opt.add::<f64>(GroupId::default(), "w", 2).unwrap();
    let mut flat = Flat::new(rules[0], 2).unwrap();
    let mut thetas = [[1.0_f64; 2]; 3];
    let (mut m, mut v) = ([0.0; 2], [0.0; 2]);
    for (t, rule) in (1..).zip(rules) {
        let grad = [(t as f64).sin(), 0.5];
        *opt.rule_mut(GroupId::default()).unwrap() = rule;
        opt.step([Tensor::new(w, &mut thetas[0], &grad)]).unwrap();
        *flat.rule_mut() = rule;
        flat.step(&mut thetas[1], &grad).unwrap();
        Step::new(&rule, t).run(&mut thetas[2], &grad, &mut [&mut m, &mut v]).unwrap();
        let expected = rule.scalars().len();
        assert_eq!((opt.scalars(w).unwrap().len(), flat.scalars().len()), (expected, expected));
        for theta in &thetas[..2] {
            let off = (theta[0] - thetas[2][0]).abs();
            assert!(off < 1e-14, "step {t} of {rule}: {theta:?} for {:?}", thetas[2]);
        }
    }
}

/// A rule from outside is not one of torch's rules, whatever its name and the names of its states.
#[test]
fn a_name_does_not_make_a_rule_torchs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("states");
    let mut opt = Optimizer::new(Five { lr: 1e-3 }).unwrap();
    opt.add::<f32>(GroupId::default(), "w", 2).unwrap();
    opt.step([Tensor::new("w", &mut [1.0_f32; 2], &[1.0_f32; 2])]).unwrap();
    opt.torch_checkpoint().save(&path).unwrap();
    assert_eq!(CheckpointReader::open(&path).unwrap().names(), Vec::<String>::new());
}

/// A wrong number of scalars or states is an error with their names. Nothing has changed.
#[test]
fn scalars_and_states_that_do_not_fit() {
    let rule = Five { lr: 1e-3 };
    let message = r#"1 scalar was given, expected the scalars `sum`, `steps`"#;
    let (mut theta, grad) = ([1.0_f32; 2], [1.0_f32; 2]);
    let mut states = [[0.0_f32; 2]; 5];
    let mut slices: Vec<&mut [f32]> = states.iter_mut().map(|state| &mut state[..]).collect();
    let error = Step::new(&rule, 1).with_scalars(&[0.0]).run(&mut theta, &grad, &mut slices);
    assert_eq!(error.unwrap_err().to_string(), message);
    let reborrow = |count: usize, states: &mut [[f32; 2]], theta: &mut [f32]| {
        let one = ParamMut::new(0, 1, theta, &grad);
        let one = states[..count].iter_mut().fold(one, |one, state| one.with_state(state));
        step_all(std::slice::from_ref(&rule), &StepOptions::default(), [one]).map(|_| ())
    };
    let error = reborrow(4, &mut states, &mut theta).unwrap_err();
    let cause = error.cause();
    assert!(matches!(cause, Error::MissingState { name: "e", expected: 5, .. }), "{error}");
    assert_eq!(reborrow(5, &mut states, &mut theta), Ok(()));
    assert!(theta[0] < 1.0);
    let error = Flat::<_, f32>::new(rule.clone(), 2).unwrap().with_scalars(&[0.0]).unwrap_err();
    assert_eq!(error.to_string(), message);
}

/// A first step that fails or is skipped leaves no scalars. Wrong hyper-parameters are an error
/// before any use of them, for every step number.
#[test]
fn scalars_of_steps_that_are_not_taken() {
    let mut opt = Optimizer::new(NAdam::default()).unwrap();
    let w = opt.add::<f32>(GroupId::default(), "w", 2).unwrap();
    let (mut theta, bad) = ([1.0_f32; 2], [f32::NAN; 2]);
    opt.options.clip_norm = Some(fused_adam::ClipNorm::Two(1.0));
    assert!(opt.step([Tensor::new(w, &mut theta, &bad)]).is_err());
    assert_eq!(opt.scalars(w), Some(&[][..]));
    opt.options.skip_nonfinite = true;
    assert!(opt.step([Tensor::new(w, &mut theta, &bad)]).unwrap().skipped);
    assert_eq!(opt.scalars(w), Some(&[][..]));

    let rule = NAdam { momentum_decay: f64::NAN, ..NAdam::default() };
    let (mut m, mut v) = ([0.0_f32; 2], [0.0_f32; 2]);
    let one = ParamMut::new(0, u64::MAX / 2, &mut theta, &[1.0_f32; 2])
        .with_state(&mut m)
        .with_state(&mut v);
    let error = step_all(&[rule], &StepOptions::default(), [one]).unwrap_err();
    assert!(matches!(error, Error::HyperParameter { name: "momentum_decay", .. }), "{error}");
}
