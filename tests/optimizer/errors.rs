//! The errors of an optimizer: their exact messages, and that they change nothing.

use fused_adam::{
    AdamW, ClipNorm, Error, Flat, GradScaler, GroupId, LrSchedule, Optimizer, RmsProp, Tensor, bf16,
};

fn two() -> Optimizer {
    let mut opt = Optimizer::new(AdamW::default()).unwrap();
    opt.add::<f32>(GroupId::default(), "w", 2).unwrap();
    opt.add::<f64>(GroupId::default(), "d", 2).unwrap();
    opt
}

/// The message of a step with a bad tensor after a good one. Nothing was written.
fn refusal<'a>(opt: &mut Optimizer, bad: Tensor<'a>) -> String {
    let mut theta = [0.5_f64; 2];
    let error = opt.step([Tensor::new("d", &mut theta, &[1.0_f64; 2]), bad]).unwrap_err();
    assert_eq!((theta, opt.steps(), opt.t(opt.id("d").unwrap())), ([0.5; 2], 0, Some(0)));
    assert_eq!(opt.state::<f64>(opt.id("d").unwrap(), "m"), None);
    error.to_string()
}

#[test]
fn tensors_that_do_not_fit() {
    let opt = &mut two();
    let (theta, grad) = (&mut [0.5_f32; 2], &[1.0_f32; 2]);
    let mut check = |bad: Tensor<'_>, message: &str| assert_eq!(refusal(opt, bad), message);
    check(
        Tensor::new("x", theta, grad),
        "there is no parameter `x`, expected one that was registered",
    );
    check(
        Tensor::new("w", &mut [0.0_f32; 3], grad),
        "`theta` of parameter `w` has 3 elements, expected 2",
    );
    check(Tensor::new("w", theta, &grad[..1]), "`grad` of parameter `w` has 1 element, expected 2");
    check(
        Tensor::new("w", &mut [bf16::ONE; 2], grad),
        "`theta` of parameter `w` is bf16, expected f32",
    );
    check(
        Tensor::new("w", theta, &[1.0_f64; 2]),
        "`grad` of parameter `w` is f64, expected f32, bf16 or f16",
    );
    check(
        Tensor::new("d", &mut [0.0_f64; 2], &[1.0_f64; 2]),
        "parameter `d` was given twice, expected once a step",
    );
    check(
        Tensor::new("w", theta, grad).with_copy(&mut [bf16::ONE; 3]),
        "`copy` of parameter `w` has 3 elements, expected 2",
    );
    assert_eq!(*theta, [0.5; 2]);
}

#[test]
fn options_outside_their_range() {
    let check = |set: &dyn Fn(&mut Optimizer), message: &str| {
        let opt = &mut two();
        set(opt);
        let theta = &mut [0.5_f32; 2];
        assert_eq!(refusal(opt, Tensor::new("w", theta, &[f32::INFINITY; 2])), message);
        assert_eq!(*theta, [0.5; 2]);
    };
    check(
        &|opt| opt.options.clip_norm = Some(ClipNorm::Two(-1.0)),
        "`clip_norm` is -1.0, expected a finite number of at least 0",
    );
    check(
        &|opt| opt.options.clip_value = Some(0.0),
        "`clip_value` is 0.0, expected a finite number above 0",
    );
    check(
        &|opt| opt.grad_scaler = Some(GradScaler::constant(f64::NAN)),
        "`loss_scale` is NaN, expected a finite number above 0",
    );
    check(
        &|opt| opt.options.clip_norm = Some(ClipNorm::Inf(1.0)),
        "the gradients' norm is inf, expected a finite one to clip, or `skip_nonfinite`",
    );
    check(
        &|opt| opt.rule_mut(GroupId::default()).unwrap().eps = 1e-60,
        "`eps` is 1e-60, expected above 0 once rounded to the type computed with",
    );
}

/// A schedule is checked when it is set, and an old one stays after an error.
#[test]
fn schedules_outside_their_range() {
    let mut opt = two();
    opt.set_lr_schedule(LrSchedule::warmup(7)).unwrap();
    let mut check = |schedule: LrSchedule, message: &str| {
        assert_eq!(opt.set_lr_schedule(schedule.clone()).unwrap_err().to_string(), message);
        // A part of a sequence too.
        let later = LrSchedule::warmup(3).then(3, schedule);
        assert_eq!(opt.set_lr_schedule(later).unwrap_err().to_string(), message);
        assert_eq!(opt.lr_schedule(), Some(&LrSchedule::warmup(7)));
    };
    let (at_least_0, at_least_1) = ("a finite number of at least 0", "at least 1");
    let mut below = |name: &str, schedule| {
        check(schedule, &format!("`{name}` is -0.5, expected {at_least_0}"));
    };
    below("factor", LrSchedule::Constant { factor: -0.5, steps: 9 });
    below("from", LrSchedule::Linear { from: -0.5, to: 1.0, steps: 9 });
    below("to", LrSchedule::Linear { from: 1.0, to: -0.5, steps: 9 });
    below("floor", LrSchedule::Cosine { steps: 9, floor: -0.5 });
    below("floor", LrSchedule::CosineRestarts { steps: 9, growth: 1, floor: -0.5 });
    below("gamma", LrSchedule::Step { every: 9, gamma: -0.5 });
    below("gamma", LrSchedule::MultiStep { at: vec![1], gamma: -0.5 });
    below("gamma", LrSchedule::Exponential { gamma: -0.5 });
    below("power", LrSchedule::Polynomial { steps: 9, power: -0.5 });
    below("first", LrSchedule::OneCycle { steps: 9, rise: 0.3, first: -0.5, last: 0.0 });
    below("last", LrSchedule::OneCycle { steps: 9, rise: 0.3, first: 0.0, last: -0.5 });
    let mut zero = |name: &str, schedule| {
        check(schedule, &format!("`{name}` is 0.0, expected {at_least_1}"));
    };
    zero("steps", LrSchedule::Cosine { steps: 0, floor: 0.0 });
    zero("steps", LrSchedule::CosineRestarts { steps: 0, growth: 1, floor: 0.0 });
    zero("growth", LrSchedule::CosineRestarts { steps: 1, growth: 0, floor: 0.0 });
    zero("every", LrSchedule::Step { every: 0, gamma: 0.5 });
    zero("steps", LrSchedule::Polynomial { steps: 0, power: 1.0 });
    zero("steps", LrSchedule::OneCycle { steps: 0, rise: 0.3, first: 0.0, last: 0.0 });
    check(
        LrSchedule::Exponential { gamma: f64::NAN },
        "`gamma` is NaN, expected a finite number of at least 0",
    );
    check(
        LrSchedule::OneCycle { steps: 9, rise: 1.5, first: 0.0, last: 0.0 },
        "`rise` is 1.5, expected a number in [0, 1]",
    );

    let falling =
        LrSchedule::warmup(3).then(9, LrSchedule::warmup(3)).then(8, LrSchedule::warmup(1));
    assert_eq!(
        opt.set_lr_schedule(falling).unwrap_err().to_string(),
        "`until` is 8.0, expected no less than the one before it"
    );
    opt.set_lr_schedule(None).unwrap();
    assert_eq!(opt.lr_schedule(), None);
}

/// An id of another optimizer names nothing here, even if its number does.
#[test]
fn ids_of_another_optimizer() {
    let (mut opt, mut other) = (two(), two());
    let group = other.add_group(AdamW::default()).unwrap();
    let mine = opt.add_group(AdamW::default()).unwrap();
    let (id, theirs) = (opt.id("w").unwrap(), other.id("w").unwrap());
    assert_ne!((group, theirs), (mine, id));

    let mut theta = [0.5_f32; 2];
    let error = opt.step([Tensor::new(theirs, &mut theta, &[1.0_f32; 2])]).unwrap_err();
    let message =
        "the parameter is an id of another optimizer, expected one that this optimizer returned";
    assert_eq!((error.to_string().as_str(), theta), (message, [0.5; 2]));
    let error = opt.add::<f32>(group, "x", 2).unwrap_err();
    assert_eq!(error, Error::ForeignId { what: "group" });
    assert_eq!((opt.t(theirs), opt.scalars(theirs), opt.seed(theirs, 1)), (None, None, None));
    assert_eq!(opt.state::<f32>(theirs, "m"), None);
    assert!(opt.rule(group).is_none() && opt.rule_mut(group).is_none());
    assert!(opt.rule(mine).is_some() && opt.t(id) == Some(0));
    opt.add::<f32>(GroupId::default(), "x", 2).unwrap();
}

#[test]
fn registering_twice() {
    let mut opt = two();
    let error = opt.add::<f32>(GroupId::default(), "w", 5).unwrap_err();
    assert_eq!(error.to_string(), "there is a parameter `w` already, expected another name");
    let bad = AdamW { beta1: 1.0, ..AdamW::default() };
    assert!(matches!(opt.add_group(bad), Err(Error::HyperParameter { name: "beta1", .. })));
    assert!(Optimizer::new(bad).is_err());
}

/// The same number of states with other names are other states.
#[test]
fn states_under_other_names() {
    let momentum = RmsProp { momentum: 0.9, ..RmsProp::default() };
    let centered = RmsProp { centered: true, ..RmsProp::default() };
    let mut opt = Optimizer::new(momentum).unwrap();
    opt.add::<f32>(GroupId::default(), "w", 2).unwrap();
    let mut flat = Flat::new(momentum, 2).unwrap();
    let mut theta = [0.5_f32; 2];
    opt.step([Tensor::new("w", &mut theta, &[1.0_f32; 2])]).unwrap();
    flat.step(&mut theta, &[1.0; 2]).unwrap();
    *opt.rule_mut(GroupId::default()).unwrap() = centered;
    *flat.rule_mut() = centered;
    let before = theta;
    let error = opt.step([Tensor::new("w", &mut theta, &[1.0_f32; 2])]).unwrap_err();
    assert_eq!(&flat.step(&mut theta, &[1.0; 2]).unwrap_err(), error.cause());
    assert!(matches!(error.cause(), Error::MissingState { .. }), "{error}");
    assert_eq!(theta, before);
}

/// A limit that rounds to zero in the element type would stop all training.
#[test]
fn bounds_that_vanish() {
    let opt = &mut two();
    opt.options.clip_value = Some(1e-60);
    let message = refusal(opt, Tensor::new("w", &mut [0.5_f32; 2], &[1.0_f32; 2]));
    assert_eq!(
        message,
        "`clip_value` is 1e-60, expected above 0 once rounded to the type computed with"
    );
}

/// A rule that changes to other states than its parameters have is an error.
#[test]
fn states_of_another_rule() {
    let mut opt = Optimizer::new(AdamW::default()).unwrap();
    opt.add::<f32>(GroupId::default(), "w", 2).unwrap();
    let mut theta = [0.5_f32; 2];
    opt.step([Tensor::new("w", &mut theta, &[1.0_f32; 2])]).unwrap();
    opt.rule_mut(GroupId::default()).unwrap().amsgrad = true;
    let before = theta;
    let error = opt.step([Tensor::new("w", &mut theta, &[1.0_f32; 2])]).unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"parameter `w`: state `v_max` is missing, expected the states `m`, `v`, `v_max`"#
    );
    assert_eq!(theta, before);

    let mut opt = two();
    let group = opt.add_group(AdamW::default()).unwrap();
    opt.add::<f32>(group, "x", 2).unwrap();
    opt.rule_mut(group).unwrap().lr = -1.0;
    let error = opt.step([Tensor::new("x", &mut theta, &[1.0_f32; 2])]).unwrap_err();
    let message = "group 1: `lr` is -1.0, expected a finite number of at least 0";
    assert_eq!(error.to_string(), message);
}

/// States that cannot be allocated are an error, and no parameter has states then. A child process
/// has a limited address space.
#[test]
#[cfg(target_os = "linux")]
fn states_that_cannot_be_allocated() {
    const CHILD: &str = "FUSED_ADAM_TEST_WITH_LITTLE_MEMORY";
    const LEN: usize = 1 << 28;
    if std::env::var_os(CHILD).is_none() {
        // θ and its gradient have 1 GiB each, and the states 2 GiB.
        let limited = r#"ulimit -v 3500000 && exec "$0" --exact "$1" --test-threads=1"#;
        let output = std::process::Command::new("sh")
            .args(["-c", limited])
            .arg(std::env::current_exe().unwrap())
            .arg("errors::states_that_cannot_be_allocated")
            .env(CHILD, "1")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{output:?}");
        return;
    }
    let mut opt = Optimizer::new(AdamW::default()).unwrap();
    let small = opt.add::<f32>(GroupId::default(), "small", 2).unwrap();
    opt.add::<f32>(GroupId::default(), "large", LEN).unwrap();
    // Pages of zeros that nobody touches.
    let (mut large, grad) = (vec![0.0_f32; LEN], vec![0.0_f32; LEN]);
    let mut theta = [1.0_f32; 2];
    let tensors =
        [Tensor::new("small", &mut theta, &[1.0_f32; 2]), Tensor::new("large", &mut large, &grad)];
    let message = "parameter `large`: the states need 2147483648 bytes, which could not be \
                   allocated";
    assert_eq!(opt.step(tensors).unwrap_err().to_string(), message);
    assert_eq!((theta, opt.t(small), opt.state::<f32>(small, "m")), ([1.0; 2], Some(0), None));
}
