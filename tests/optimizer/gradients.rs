//! How a step changes its gradients, and its report.

use fused_adam::{
    Adam, AdamW, AnyRule, Backend, ClipNorm, GradNorm, GradScaler, GroupId, Optimizer, Parallelism,
    ParamId, Report, RmsProp, Sgd, Tensor, bf16,
};

use crate::common::{Bits, Numbers, Random};
use crate::equality::chunks;

fn sgd(len: usize) -> (Optimizer<Sgd>, ParamId) {
    let mut opt = Optimizer::new(Sgd { lr: 1.0, ..Sgd::default() }).unwrap();
    let id = opt.add::<f32>(GroupId::default(), "w", len).unwrap();
    (opt, id)
}

fn step(opt: &mut Optimizer<Sgd>, theta: &mut [f32], grad: &[f32]) -> Report {
    opt.step([Tensor::new("w", theta, grad)]).unwrap()
}

/// Backends add squares in different ways, and parallelism cuts gradients in different ways.
#[test]
fn every_backend_and_cut_has_the_bits_of_one_norm() {
    fn check<E: Bits>() {
        // With empty tensors, a short one, and one that is cut.
        let lens = [0, 5, 300_001, 0, 3000];
        let all: Vec<E> = Numbers::Ordinary.fill(&mut Random(4), lens.iter().sum());
        let mut whole = GradNorm::new();
        whole.add(&all);
        for backend in Backend::ALL.iter().copied().filter(|backend| backend.is_available()) {
            for parallelism in [Parallelism::Serial, chunks(1), chunks(13), chunks(5000)] {
                let mut opt = Optimizer::new(Sgd { lr: 1.0, ..Sgd::default() }).unwrap();
                (opt.options.backend, opt.options.parallelism) = (backend, parallelism);
                opt.options.report_norm = true;
                let mut rest = &all[..];
                let mut theta = lens.map(|len| vec![E::from_f64(0.0); len]);
                let tensors = theta.iter_mut().enumerate().map(|(i, theta)| {
                    let id = opt.add::<E>(GroupId::default(), &i.to_string(), theta.len());
                    let (grad, after) = rest.split_at(theta.len());
                    rest = after;
                    Tensor::new(id.unwrap(), theta, grad)
                });
                let tensors: Vec<_> = tensors.collect();
                let norm = opt.step(tensors).unwrap().grad_norm.unwrap();
                let (what, expected) = (E::NAME, whole.two_norm());
                assert_eq!(
                    norm.to_bits(),
                    expected.to_bits(),
                    "{what}, {backend}, {parallelism:?}"
                );
            }
        }
    }
    check::<f32>();
    check::<bf16>();
    check::<f64>();
}

#[test]
fn norms_clip_together() {
    let (mut opt, _) = sgd(2);
    opt.options.clip_norm = Some(ClipNorm::Two(1.0));
    let mut theta = [0.0; 2];
    let report = step(&mut opt, &mut theta, &[3.0, -4.0]);
    assert_eq!((report.grad_norm, report.clip_factor), (Some(5.0), 0.2));
    assert_eq!(theta, [-3.0 * 0.2, 4.0 * 0.2]);

    opt.options.clip_norm = Some(ClipNorm::Inf(2.0));
    let report = step(&mut opt, &mut [0.0; 2], &[3.0, -4.0]);
    assert_eq!((report.grad_norm, report.clip_factor), (Some(4.0), 0.5));

    opt.options.clip_norm = Some(ClipNorm::Two(5.0));
    assert_eq!(step(&mut opt, &mut [0.0; 2], &[3.0, -4.0]).clip_factor, 1.0);
    // A norm of zero is not a divisor.
    opt.options.clip_norm = Some(ClipNorm::Two(0.0));
    assert_eq!(step(&mut opt, &mut [0.0; 2], &[0.0, 0.0]).clip_factor, 1.0);
}

/// The norm is divided by the loss scale, and values are clipped last.
#[test]
fn scale_then_norm_then_values() {
    let (mut opt, _) = sgd(2);
    opt.grad_scaler = Some(GradScaler::constant(1024.0));
    opt.options.clip_norm = Some(ClipNorm::Two(2.5));
    opt.options.clip_value = Some(1.75);
    let mut theta = [0.0; 2];
    let report = step(&mut opt, &mut theta, &[3.0 * 1024.0, -4.0 * 1024.0]);
    assert_eq!((report.grad_norm, report.clip_factor), (Some(5.0), 0.5));
    assert_eq!(theta, [-1.5, 1.75]);
}

#[test]
fn what_is_not_finite_is_skipped() {
    let (mut opt, id) = sgd(3);
    opt.grad_scaler = Some(GradScaler { growth_interval: 2, ..GradScaler::default() });
    let mut theta = [1.0; 3];
    for bad in [f32::NAN, f32::INFINITY] {
        let mut grad = [1.0, bad, 1.0];
        let report = opt.step([Tensor::zero_grad(id, &mut theta, &mut grad)]).unwrap();
        assert!(report.skipped);
        assert_eq!((report.nonfinite, theta, grad), (Some(1), [1.0; 3], [0.0; 3]));
    }
    assert_eq!((opt.steps(), opt.t(id)), (0, Some(0)));
    assert_eq!(opt.grad_scaler.unwrap().scale, 16384.0);
    for _ in 0..2 {
        assert!(!step(&mut opt, &mut theta, &[0.0; 3]).skipped);
    }
    assert_eq!((opt.steps(), opt.grad_scaler.unwrap().scale), (2, 32768.0));
}

/// Without skipping, NaN propagates as in IEEE 754.
#[test]
fn what_is_not_finite_is_stepped() {
    let (mut opt, _) = sgd(3);
    let mut theta = [1.0; 3];
    step(&mut opt, &mut theta, &[1.0, f32::NAN, f32::INFINITY]);
    assert!(theta[0] == 0.0 && theta[1].is_nan() && theta[2] == f32::NEG_INFINITY);
}

#[test]
fn the_largest_update() {
    let (mut opt, _) = sgd(10_000);
    let mut grad = vec![0.5; 10_000];
    grad[7_777] = -3.0;
    grad[5] = f32::NAN;
    opt.options.report_largest_update = true;
    assert_eq!(step(&mut opt, &mut vec![0.0; 10_000], &grad).largest_update, Some(3.0));
    opt.options.report_largest_update = false;
    assert_eq!(step(&mut opt, &mut vec![0.0; 10_000], &grad).largest_update, None);
}

/// Only what the options need is measured.
#[test]
fn a_plain_report() {
    let (mut opt, _) = sgd(2);
    let report = step(&mut opt, &mut [0.0; 2], &[1.0; 2]);
    assert_eq!((report.grad_norm, report.nonfinite, report.largest_update), (None, None, None));
    opt.options.report_norm = true;
    assert_eq!(step(&mut opt, &mut [0.0; 2], &[3.0, 4.0]).grad_norm, Some(5.0));
}

/// Compares with torch's GradScaler over a sequence of finite and other steps.
#[test]
fn the_scale_follows() {
    let mut scale = GradScaler { growth_interval: 3, scale: 8.0, ..GradScaler::default() };
    let mut scales = Vec::new();
    for finite in [true, true, true, true, false, true, true, true, false, false] {
        scale.update(finite);
        scales.push(scale.scale);
    }
    assert_eq!(scales, [8.0, 8.0, 16.0, 16.0, 8.0, 8.0, 8.0, 16.0, 8.0, 4.0]);
    let mut large = GradScaler { scale: 3e38, growth_interval: 1, ..GradScaler::default() };
    large.update(true);
    assert_eq!(large.scale, 3e38);
}

/// Steps are skipped until the scale cannot shrink any more. Then that is an error, for as long as
/// gradients are not finite, and the first finite one is taken.
#[test]
fn the_scale_stays_a_scale() {
    let (mut opt, _) = sgd(2);
    opt.grad_scaler = Some(GradScaler::default());
    let mut theta = [1.0; 2];
    for _ in 0..142 {
        assert!(step(&mut opt, &mut theta, &[f32::NAN; 2]).skipped);
    }
    let scale = opt.grad_scaler.unwrap().scale;
    assert_eq!(scale, f64::from(f32::MIN_POSITIVE));
    let (id, before) = (opt.id("w").unwrap(), opt.grad_scaler);
    for _ in 0..2 {
        let mut grad = [f32::NAN; 2];
        let error = opt.step([Tensor::zero_grad(id, &mut theta, &mut grad)]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the loss scale is 1.1754943508222875e-38, which cannot shrink further, and the \
             gradients are still not finite"
        );
        assert!(grad[0].is_nan() && opt.grad_scaler == before && theta == [1.0; 2]);
    }
    assert!(!step(&mut opt, &mut theta, &[scale as f32; 2]).skipped);
    assert_eq!(theta, [0.0; 2]);

    let never = GradScaler { growth_interval: 0, ..GradScaler::default() };
    opt.grad_scaler = Some(never);
    let id = opt.id("w").unwrap();
    let error = opt.step([Tensor::new(id, &mut theta, &[1.0_f32; 2])]).unwrap_err();
    assert_eq!(error.to_string(), "`growth_interval` is 0.0, expected at least 1");
    assert_eq!((theta, opt.grad_scaler), ([0.0; 2], Some(never)));
}

/// States are found by the names with which they were made, even if the rule has others now.
#[test]
fn states_keep_their_names() {
    let mut opt = Optimizer::<AnyRule>::new(Adam::default().into()).unwrap();
    let id = opt.add::<f32>(GroupId::default(), "w", 2).unwrap();
    opt.step([Tensor::new(id, &mut [1.0_f32; 2], &[2.0_f32; 2])]).unwrap();
    let states = |opt: &Optimizer<AnyRule>| {
        ["m", "v"].map(|name| opt.state::<f32>(id, name).unwrap().to_vec())
    };
    let before = states(&opt);
    assert_ne!(before[0], before[1]);
    *opt.rule_mut(GroupId::default()).unwrap() =
        RmsProp { centered: true, ..RmsProp::default() }.into();
    assert_eq!(states(&opt), before);
}

/// Frozen parameters keep their state and their step number, and have no state before their first
/// gradient.
#[test]
fn frozen_parameters_stay() {
    let mut opt = Optimizer::new(AdamW::default()).unwrap();
    let [a, b] = ["a", "b"].map(|name| opt.add::<f32>(GroupId::default(), name, 2).unwrap());
    let (mut theta_a, mut theta_b) = ([1.0_f32; 2], [1.0_f32; 2]);
    opt.step([Tensor::new(a, &mut theta_a, &[1.0_f32; 2])]).unwrap();
    assert_eq!(opt.state::<f32>(b, "m"), None);
    opt.step([Tensor::new(b, &mut theta_b, &[1.0_f32; 2])]).unwrap();
    let m = opt.state::<f32>(a, "m").unwrap().to_vec();
    opt.step([Tensor::new(b, &mut theta_b, &[1.0_f32; 2])]).unwrap();
    assert_eq!((opt.t(a), opt.t(b), opt.steps()), (Some(1), Some(2), 3));
    assert_eq!(opt.state::<f32>(a, "m"), Some(&m[..]));
    assert_eq!(opt.state::<f64>(a, "m"), None);
    assert_eq!(opt.state::<f32>(a, "v_max"), None);
}
