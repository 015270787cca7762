//! Known properties of each rule: identities between rules, limits, and that all of them descend.

use fused_adam::{
    AdaBound, AdaGrad, Adam, AdamW, AnyRule, Flat, NAdam, RAdam, RmsProp, Rule, Sgd, Step,
};

use crate::common::{Random, difference, rules};

/// Random gradients in [−1, 1).
fn gradients(steps: usize, len: usize) -> Vec<Vec<f64>> {
    let mut random = Random(12);
    (0..steps).map(|_| (0..len).map(|_| random.uniform()).collect()).collect()
}

/// θ after each step from zero.
fn path(rule: impl Rule, gradients: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let mut theta = vec![0.0; gradients[0].len()];
    let mut opt = Flat::new(rule, theta.len()).unwrap();
    let step = |grad: &Vec<f64>| {
        opt.step(&mut theta, grad).unwrap();
        theta.clone()
    };
    gradients.iter().map(step).collect()
}

fn largest_difference(a: &[Vec<f64>], b: &[Vec<f64>]) -> f64 {
    let both = a.iter().flatten().zip(b.iter().flatten());
    both.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// Adam with v fixed at 1 divides by 1 + ε. What remains is averaged momentum.
#[test]
fn adam_with_v_held_is_momentum() {
    let adam = Adam { beta2: 0.0, eps: 1e-300, bias_correction: false, ..Adam::default() };
    let sgd = Sgd { lr: adam.lr, momentum: adam.beta1, average: true, ..Sgd::default() };
    let (mut theta, mut m) = (vec![0.0; 40], vec![0.0; 40]);
    let mut other = Flat::new(sgd, 40).unwrap();
    let mut other_theta = vec![0.0; 40];
    for (t, grad) in (1..).zip(gradients(50, 40)) {
        // With β2 = 0 the new v is g², so gradients of magnitude 1 keep it at 1.
        let grad: Vec<f64> = grad.iter().map(|g| g.signum()).collect();
        let mut v = vec![1.0; 40];
        Step::new(&adam, t).run(&mut theta, &grad, &mut [&mut m, &mut v]).unwrap();
        other.step(&mut other_theta, &grad).unwrap();
    }
    assert_eq!(difference("theta", &theta, &other_theta), None);
    assert_eq!(difference("m", &m, other.state("m").unwrap()), None);
}

#[test]
fn rmsprop_is_adam_without_momentum_and_correction() {
    let rmsprop = RmsProp { lr: 0.01, alpha: 0.99, ..RmsProp::default() };
    let adam =
        Adam { lr: 0.01, beta1: 0.0, beta2: 0.99, bias_correction: false, ..Adam::default() };
    let gradients = gradients(100, 50);
    for (a, b) in path(rmsprop, &gradients).iter().zip(&path(adam, &gradients)) {
        assert_eq!(difference("theta", a, b), None);
    }
}

#[test]
fn amsgrads_largest_moment_never_falls() {
    let rule = AdamW { amsgrad: true, beta2: 0.5, ..AdamW::default() };
    let mut opt = Flat::new(rule, 30).unwrap();
    let (mut theta, mut last) = (vec![0.0; 30], vec![0.0; 30]);
    let mut v_fell = false;
    for grad in gradients(100, 30) {
        opt.step(&mut theta, &grad).unwrap();
        let (v, v_max) = (opt.state("v").unwrap(), opt.state("v_max").unwrap());
        assert!(v_max.iter().zip(&last).all(|(new, old)| new >= old), "it fell");
        assert!(v_max.iter().zip(v).all(|(largest, v)| largest >= v), "it is not the largest");
        v_fell |= v.iter().zip(v_max).any(|(v, largest)| v < largest);
        last = v_max.to_vec();
    }
    assert!(v_fell, "nothing was put to the test");
}

/// Late in a run the bounds meet, and AdaBound is SGD with averaged momentum at `final_lr`.
#[test]
fn adabound_tends_to_sgd() {
    let adabound = AdaBound { final_lr: 0.1, ..AdaBound::default() };
    let sgd = Sgd { lr: 0.1, momentum: 0.9, average: true, ..Sgd::default() };
    let distance_at = |t: u64| {
        let states = vec![vec![0.0; 20]; 2];
        let mut late = Flat::resume(adabound, t, states).unwrap();
        let (mut a, mut b) = (vec![0.0; 20], vec![0.0; 20]);
        let mut other = Flat::new(sgd, 20).unwrap();
        for grad in gradients(10, 20) {
            late.step(&mut a, &grad).unwrap();
            other.step(&mut b, &grad).unwrap();
        }
        largest_difference(&[a], &[b])
    };
    assert!(distance_at(0) > 1e-2);
    assert!(distance_at(1_000_000) < 1e-3);
    assert!(distance_at(1_000_000_000_000) < 1e-9);
}

/// RAdam is momentum with bias correction until the variance is defined. That takes five steps at
/// β2 = 0.999; from the sixth step on the two differ.
#[test]
fn radams_first_steps_are_momentum() {
    let gradients = gradients(6, 20);
    let radam = path(RAdam { lr: 0.01, ..RAdam::default() }, &gradients);
    let (mut theta, mut m) = (vec![0.0; 20], vec![0.0; 20]);
    for (t, grad) in (1..).zip(&gradients) {
        for i in 0..20 {
            m[i] = 0.9 * m[i] + 0.1 * grad[i];
            theta[i] -= 0.01 * m[i] / (1.0 - 0.9_f64.powi(t));
        }
        let distance = largest_difference(&[theta.clone()], &radam[t as usize - 1..][..1]);
        assert_eq!(distance < 1e-15, t <= 5, "step {t}: {distance:e}");
    }
}

/// The buffer of one convention is that of the other times 1 − μ: the same path with a proportional
/// lr.
#[test]
fn both_conventions_of_momentum_agree_at_lrs_in_proportion() {
    for nesterov in [false, true] {
        let torch = Sgd { lr: 0.01, momentum: 0.75, nesterov, ..Sgd::default() };
        let averaged = Sgd { lr: 0.04, average: true, ..torch };
        let gradients = gradients(100, 20);
        let distance = largest_difference(&path(torch, &gradients), &path(averaged, &gradients));
        assert!(distance < 1e-15, "nesterov {nesterov}: {distance:e}");
    }
}

/// The variance of a centred RMSProp is the textbook's E[g²] − E[g]². It is never negative, even if
/// the gradient hardly varies and the textbook's form fails in f32.
#[test]
fn the_centred_variance_is_that_of_the_textbook() {
    let rule = RmsProp { centered: true, alpha: 0.9, ..RmsProp::default() };
    let mut opt = Flat::new(rule, 20).unwrap();
    let mut theta = vec![0.0; 20];
    let (mut mean, mut square) = (vec![0.0; 20], vec![0.0; 20]);
    for grad in gradients(60, 20) {
        opt.step(&mut theta, &grad).unwrap();
        for i in 0..20 {
            mean[i] = 0.9 * mean[i] + 0.1 * grad[i];
            square[i] = 0.9 * square[i] + 0.1 * grad[i] * grad[i];
            let variance = opt.state("v").unwrap()[i];
            assert!((variance - (square[i] - mean[i] * mean[i])).abs() < 1e-15);
        }
    }

    let mut steady = Flat::new(rule, 1).unwrap();
    let (mut theta, mut mean, mut square) = ([0.0_f32], 0.0_f32, 0.0_f32);
    let mut textbook_failed = false;
    let mut random = Random(7);
    for _ in 0..1000 {
        let g = 1000.0 + 0.01 * random.uniform() as f32;
        steady.step(&mut theta, &[g]).unwrap();
        mean = 0.9 * mean + 0.1 * g;
        square = 0.9 * square + 0.1 * g * g;
        textbook_failed |= square - mean * mean < 0.0;
        assert!(steady.state("v").unwrap()[0] >= 0.0 && theta[0].is_finite());
    }
    assert!(textbook_failed, "nothing was put to the test");
}

/// AdaGrad's sum starts at its initial value.
#[test]
fn adagrad_starts_at_its_initial_value() {
    let rule = AdaGrad { lr: 1.0, initial_accumulator_value: 16.0, ..AdaGrad::default() };
    let mut opt = Flat::new(rule, 1).unwrap();
    let mut theta = [0.0];
    opt.step(&mut theta, &[3.0]).unwrap();
    assert_eq!(opt.state("v"), Some(&[25.0][..]));
    assert!((theta[0] + 3.0 / 5.0_f64).abs() < 1e-10);
}

/// The momentum schedule in NAdam's coefficients, for step numbers at which the product cannot be
/// computed factor by factor: the coefficients of late steps are those of a product of zero.
#[test]
fn nadam_takes_any_step_number() {
    for momentum_decay in [0.0, 4e-3, 1.0, 1e300] {
        for beta1 in [0.0, 0.9, 0.999_999] {
            let rule = NAdam { momentum_decay, beta1, ..NAdam::default() };
            for t in [1, 10, 10_000, 1_000_000_000_000, u64::MAX] {
                let (mut theta, mut m, mut v) = ([1.0_f64], [0.1], [0.01]);
                Step::new(&rule, t).run(&mut theta, &[0.1], &mut [&mut m, &mut v]).unwrap();
                assert!(theta[0].is_finite() && theta[0] < 1.0, "{rule:?} at {t}: {}", theta[0]);
            }
        }
    }
}

/// Momenta that were different before: compares with torch, which multiplies them.
#[test]
fn nadam_goes_on_from_other_momenta() {
    let [mut theta, mut m, mut v] = [[1.0_f64], [0.0], [0.0]];
    let (mut expected, mut mean, mut square, mut product) = (1.0_f64, 0.0, 0.0, 1.0_f64);
    let mut scalars = [NAdam::default().scalar_after(0, 0)];
    for t in 1..=20_u64 {
        let beta1 = 0.5 + 0.02 * t as f64;
        let rule = NAdam { beta1, ..NAdam::default() };
        rule.advance_scalars(t, &mut scalars);
        let grad = (t as f64).cos();
        let step = Step::new(&rule, t).with_scalars(&scalars);
        step.run(&mut theta, &[grad], &mut [&mut m, &mut v]).unwrap();

        let mu = |t: u64| beta1 * (1.0 - 0.5 * 0.96_f64.powf(t as f64 * rule.momentum_decay));
        product *= mu(t);
        mean = beta1 * mean + (1.0 - beta1) * grad;
        square = rule.beta2 * square + (1.0 - rule.beta2) * grad * grad;
        let root = (square / (1.0 - rule.beta2.powi(t as i32))).sqrt() + rule.eps;
        expected -= rule.lr * (1.0 - mu(t)) / (1.0 - product) * grad / root;
        expected -= rule.lr * mu(t + 1) / (1.0 - product * mu(t + 1)) * mean / root;
        assert!((theta[0] - expected).abs() < 1e-13, "{t}: {} for {expected}", theta[0]);
    }
    // If they were the same, there is no difference.
    let rule = NAdam::default();
    let mut scalars = [rule.scalar_after(0, 9)];
    rule.advance_scalars(10, &mut scalars);
    let step = Step::new(&rule, 10);
    let [one, other] = [step.clone(), step.with_scalars(&scalars)].map(|step| {
        let mut theta = [1.0_f64];
        step.run(&mut theta, &[0.1], &mut [&mut [0.1], &mut [0.01]]).unwrap();
        theta[0]
    });
    assert!((one - other).abs() < 1e-15, "{one} for {other}");
}

/// A test function of two parameters, its gradient, a start, and its minimum.
struct Landscape {
    gradient: fn([f64; 2]) -> [f64; 2],
    start: [f64; 2],
    minimum: [f64; 2],
}

const LANDSCAPES: [Landscape; 3] = [
    Landscape {
        // A sphere.
        gradient: |[x, y]| [2.0 * x, 2.0 * y],
        start: [3.0, -2.0],
        minimum: [0.0, 0.0],
    },
    Landscape {
        // A ravine, 50·x² + y².
        gradient: |[x, y]| [100.0 * x, 2.0 * y],
        start: [1.0, 4.0],
        minimum: [0.0, 0.0],
    },
    Landscape {
        // Rosenbrock's function.
        gradient: |[x, y]| [-2.0 * (1.0 - x) - 400.0 * x * (y - x * x), 200.0 * (y - x * x)],
        start: [-1.2, 1.0],
        minimum: [1.0, 1.0],
    },
];

impl Landscape {
    /// The distance from the minimum after this many steps. The learning rate decreases linearly to
    /// zero over the second half. A rule that maximizes gets the negated function.
    fn distance(&self, rule: AnyRule, steps: usize) -> f64 {
        let sign = if rules::fields(&rule)["maximize"] == true { -1.0 } else { 1.0 };
        let mut theta = self.start;
        let mut opt = Flat::new(rule, 2).unwrap();
        for step in 0..steps {
            let left = (steps - step) as f64 / (steps / 2) as f64;
            opt.rule_mut().set_lr(rule.lr() * left.min(1.0));
            let grad = (self.gradient)(theta).map(|g| sign * g);
            opt.step(&mut theta, &grad).unwrap();
        }
        let off = (theta[0] - self.minimum[0]).hypot(theta[1] - self.minimum[1]);
        if off.is_finite() { off } else { f64::INFINITY }
    }
}

/// The rules without weight decay, which pulls away from the minimum: with the options that change
/// their states, and each of those with each of its booleans changed.
fn undecayed() -> Vec<AnyRule> {
    let mut all = Vec::new();
    for (_, rule) in rules::variants() {
        let rule = rules::with_if_any(rule, "weight_decay", 0.0);
        all.push(rule);
        for (field, value) in rules::fields(&rule) {
            let changed = value.as_bool().map(|truth| [(field.as_str(), (!truth).into())]);
            all.extend(changed.and_then(|change| rules::with(&rule, change)));
        }
    }
    let mut distinct: Vec<AnyRule> = Vec::new();
    all.into_iter().for_each(|rule| {
        if !distinct.contains(&rule) {
            distinct.push(rule);
        }
    });
    distinct
}

/// With one learning rate for all functions, the first of a few candidates that works.
#[test]
fn every_rule_finds_the_minimum() {
    const STEPS: usize = 40_000;
    const STEP_SIZES: [f64; 7] = [0.02, 5e-3, 1e-3, 5e-4, 1e-4, 0.1, 0.5];
    for rule in undecayed() {
        let worst = |lr: f64| {
            let rule = rules::with_step_size(rule, lr);
            let distances = LANDSCAPES.iter().map(|landscape| landscape.distance(rule, STEPS));
            distances.fold(0.0, f64::max)
        };
        let serves = STEP_SIZES.into_iter().find(|&lr| worst(lr) < 1e-2);
        assert!(serves.is_some(), "{rule:?} ends off: {STEP_SIZES:?}, {:?}", STEP_SIZES.map(worst));
    }
}

#[test]
fn names_lead_to_their_rules() {
    for name in rules::names() {
        let rule: AnyRule = name.parse().unwrap();
        assert_eq!((rule.name(), rule.to_string().as_str()), (name, name));
        assert_eq!(rule.check(), Ok(()));
    }
    let names: Vec<&str> = rules::names().collect();
    let message = format!("there is no rule `adamm`, expected one of {}", names.join(", "));
    assert_eq!("adamm".parse::<AnyRule>().unwrap_err().to_string(), message);
}

/// `Flat` scales and clips gradients as a step does, and the factor may change.
#[test]
fn flat_scales_and_clips_its_gradients() {
    let (rule, grad) = (AdamW::default(), [3.0_f32, -200.0, 0.5]);
    let (mut theta, mut m, mut v) = ([1.0_f32; 3], [0.0; 3], [0.0; 3]);
    let mut opt = Flat::new(rule, 3).unwrap().with_grad_scale(0.5).with_clip_value(4.0);
    let mut own = theta;
    for (t, factor) in [(1, 0.5), (2, 0.25)] {
        opt.set_grad_scale(factor);
        opt.step(&mut own, &grad).unwrap();
        Step::new(&rule, t)
            .with_grad_scale(factor)
            .with_clip_value(4.0)
            .run(&mut theta, &grad, &mut [&mut m, &mut v])
            .unwrap();
        assert_eq!(own.map(f32::to_bits), theta.map(f32::to_bits));
        assert_eq!(opt.state("m").unwrap(), m);
    }
    assert!(m[1] >= -4.0, "{}", m[1]);

    opt.set_grad_scale(-1.0);
    let error = opt.step(&mut own, &grad).unwrap_err();
    assert_eq!(error.to_string(), "`grad_scale` is -1.0, expected a finite number of at least 0");
    assert_eq!((opt.t(), own), (2, theta));
}

/// Any rule has the short form of a step, as each rule has.
#[test]
fn any_rule_steps_on_slices() {
    let (one, any) = (AdamW::default(), AnyRule::from(AdamW::default()));
    let [mut expected, mut got] = [[[1.0_f32], [0.0], [0.0]]; 2];
    let [theta, m, v] = &mut expected;
    one.step(1, theta, &[0.5], [m, v]).unwrap();
    let [theta, m, v] = &mut got;
    any.step(1, theta, &[0.5], [m, v]).unwrap();
    assert_eq!(got, expected);
}
