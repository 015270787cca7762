//! Examples that were computed by hand: from textbooks, tutorials and first principles.

use fused_adam::{AdEMAMix, AdaBound, Adam, AdamW, Element, Flat};

/// Runs Adam on one parameter, and returns θ after each step.
fn path<E: Element>(adam: Adam, start: f64, gradient: fn(f64) -> f64, steps: usize) -> Vec<f64> {
    let mut opt = Flat::new(adam, 1).unwrap();
    let mut theta = [E::from_f64(start)];
    let mut path = Vec::new();
    for _ in 0..steps {
        let grad = [E::from_f64(gradient(theta[0].to_f64()))];
        opt.step(&mut theta, &grad).unwrap();
        path.push(theta[0].to_f64());
    }
    path
}

/// m and v after each of the gradients.
fn moments(adam: Adam, gradients: &[f64]) -> Vec<(f64, f64)> {
    let mut opt = Flat::new(adam, 1).unwrap();
    let step = |&gradient: &f64| {
        opt.step(&mut [0.0], &[gradient]).unwrap();
        (opt.state("m").unwrap()[0], opt.state("v").unwrap()[0])
    };
    gradients.iter().map(step).collect()
}

fn assert_close(got: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len());
    for (got, expected) in got.iter().zip(expected) {
        assert!((got - expected).abs() <= tolerance, "{got} is not {expected}");
    }
}

#[test]
fn first_step_on_a_parabola() {
    let adam = Adam { lr: 0.1, ..Adam::default() };
    assert_close(&path::<f32>(adam, 0.5, |x| 2.0 * x, 1), &[0.4], 1e-7);
    assert_close(&path::<f64>(adam, 0.5, |x| 2.0 * x, 1), &[0.4], 1e-8);
}

/// p² from 10 with lr 1.05. (A tutorial that has often been copied prints 6.93, 5.99 … 0.95 from
/// the third step on: its column of v̂ is wrong.)
#[test]
fn ten_steps_on_a_parabola() {
    let adam = Adam { lr: 1.05, ..Adam::default() };
    let expected = [8.95, 7.9046, 6.8679, 5.8446, 4.8404, 3.8621, 2.9175, 2.0154, 1.1653, 0.3774];
    assert_close(&path::<f64>(adam, 10.0, |x| 2.0 * x, 10), &expected, 5.1e-5);
    assert_close(&path::<f32>(adam, 10.0, |x| 2.0 * x, 10), &expected, 5.3e-5);
}

#[test]
fn first_moments() {
    let adam = Adam { beta1: 0.8, ..Adam::default() };
    let m: Vec<f64> = moments(adam, &[20.0, -5.0, 8.0]).iter().map(|&(m, _)| m).collect();
    assert_close(&m, &[4.0, 2.2, 3.36], 1e-14);
}

#[test]
fn second_moments() {
    let adam = Adam { beta2: 0.95, ..Adam::default() };
    let v: Vec<f64> = moments(adam, &[0.5, -0.3, 0.8]).iter().map(|&(_, v)| v).collect();
    assert_close(&v, &[0.0125, 0.016_375, 0.047_556_25], 1e-16);
}

#[test]
fn first_step_has_size_lr_for_any_gradient_scale() {
    for scale in [1e-5, 1e-3, 1.0, 1e3, 1e15] {
        let adam = Adam { lr: 0.01, eps: 1e-20, ..Adam::default() };
        let mut opt = Flat::new(adam, 2).unwrap();
        let mut theta = [0.0_f32; 2];
        opt.step(&mut theta, &[scale, -3.0 * scale]).unwrap();
        assert_close(&theta.map(f64::from), &[-0.01, 0.01], 1e-8);
    }
}

/// Without bias correction it is (1−β1)/√(1−β2) ≈ 3.16 times as large.
#[test]
fn first_step_without_bias_correction() {
    let adam = Adam { lr: 0.01, bias_correction: false, eps: 1e-20, ..Adam::default() };
    let factor = (1.0 - 0.9) / (1.0_f64 - 0.999).sqrt();
    assert!((factor - 3.16).abs() < 0.01);
    assert_close(&path::<f64>(adam, 0.0, |_| 5.0, 1), &[-0.01 * factor], 1e-12);
}

/// The second moment of AMSGrad keeps a large gradient that Adam's forgets.
#[test]
fn amsgrad_keeps_the_largest_second_moment() {
    let adam = Adam { amsgrad: true, beta2: 0.5, ..Adam::default() };
    let mut opt = Flat::new(adam, 1).unwrap();
    let mut largest = 0.0;
    for gradient in [1.0, 8.0, 0.5, 0.25, 4.0, 16.0, 1.0] {
        opt.step(&mut [0.0_f64], &[gradient]).unwrap();
        largest = f64::max(largest, opt.state("v").unwrap()[0]);
        assert_eq!(opt.state("v_max").unwrap(), [largest]);
    }
    assert!(opt.state("v").unwrap()[0] < largest);
}

/// Maximizing f is minimizing −f.
#[test]
fn maximize_mirrors_the_gradient() {
    let down = Adam { lr: 0.1, ..Adam::default() };
    let up = Adam { maximize: true, ..down };
    assert_eq!(path::<f32>(down, 1.0, |x| x.sin(), 20), path::<f32>(up, 1.0, |x| -x.sin(), 20));
}

/// Decoupled weight decay shrinks θ independently of the gradient. L2 decay is part of the
/// gradient, so the first step still has size lr.
#[test]
fn the_two_kinds_of_decay() {
    let decoupled = AdamW { lr: 0.1, weight_decay: 0.5, ..AdamW::default() };
    let mut theta = [2.0_f64];
    decoupled.step(1, &mut theta, &[0.0], [&mut [0.0], &mut [0.0]]).unwrap();
    assert_close(&theta, &[2.0 - 0.1 * 0.5 * 2.0], 1e-15);

    let l2 = Adam { lr: 0.1, weight_decay: 0.5, ..Adam::default() };
    let (mut theta, mut m) = ([2.0_f64], [0.0]);
    l2.step(1, &mut theta, &[3.0], [&mut m, &mut [0.0]]).unwrap();
    assert_close(&theta, &[1.9], 1e-8);
    assert_close(&m, &[0.1 * (3.0 + 0.5 * 2.0)], 1e-15);
}

/// Algorithm 1 of the paper with its schedules of α and β3, at the start of the warm-up, at its end
/// and after it.
#[test]
fn ademamix_is_that_of_its_paper() {
    let (lr, [beta1, beta2, beta3], alpha, eps, decay) = (0.01, [0.9, 0.99, 0.999], 5.0, 1e-8, 0.1);
    let (beta3_warmup, alpha_warmup) = (20, 10);
    let rule = AdEMAMix {
        lr,
        beta1,
        beta2,
        beta3,
        alpha,
        beta3_warmup,
        alpha_warmup,
        eps,
        weight_decay: decay,
        ..AdEMAMix::default()
    };
    let mut opt = Flat::new(rule, 1).unwrap();
    let (mut theta, mut expected) = ([1.0_f64], 1.0_f64);
    let (mut m1, mut m2, mut v) = (0.0, 0.0, 0.0);
    for t in 1..=30_u32 {
        let g = expected.sin() + 0.1 * f64::from(t % 3);
        opt.step(&mut theta, &[g]).unwrap();

        let (steps, part) = (f64::from(t), f64::from(t) / beta3_warmup as f64);
        let (start, end) = (f64::ln(beta1), f64::ln(beta3));
        let beta3_t = f64::min((start * end / ((1.0 - part) * end + part * start)).exp(), beta3);
        let alpha_t = f64::min(steps * alpha / alpha_warmup as f64, alpha);
        m1 = beta1 * m1 + (1.0 - beta1) * g;
        m2 = beta3_t * m2 + (1.0 - beta3_t) * g;
        v = beta2 * v + (1.0 - beta2) * g * g;
        let (m1_hat, v_hat) = (m1 / (1.0 - beta1.powf(steps)), v / (1.0 - beta2.powf(steps)));
        expected -= lr * ((m1_hat + alpha_t * m2) / (v_hat.sqrt() + eps) + decay * expected);
        assert_close(&theta, &[expected], 1e-13);
    }
    assert_close(opt.state("m2").unwrap(), &[m2], 1e-15);
}

/// A final learning rate of 0 bounds every step by 0, however slowly the bounds converge.
#[test]
fn adabound_with_a_final_lr_of_0_stands_still() {
    for gamma in [1e-3, f64::MIN_POSITIVE / 8.0] {
        let rule = AdaBound { final_lr: 0.0, gamma, ..AdaBound::default() };
        assert_eq!(one_step(rule, 1.0_f64), 1.0, "gamma {gamma}");
        assert_eq!(one_step(rule, 1.0_f32), 1.0, "gamma {gamma}");
    }
}

fn one_step<E: Element>(rule: AdaBound, start: E) -> f64 {
    let (mut opt, mut theta) = (Flat::new(rule, 1).unwrap(), [start]);
    opt.step(&mut theta, &[E::from_f64(3.0)]).unwrap();
    theta[0].to_f64()
}
