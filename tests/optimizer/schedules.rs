//! Learning rate schedules: compared with torch's values, and in an optimizer.

use std::collections::HashMap;

use fused_adam::{GroupId, LrSchedule, Optimizer, Sgd, Tensor};

/// The output of `lr_schedules.py`.
const TORCH: &str = include_str!("../vectors/lr_schedules.json");

fn schedule(name: &str) -> LrSchedule {
    match name {
        "constant" => LrSchedule::Constant { factor: 0.25, steps: 7 },
        "linear" => LrSchedule::Linear { from: 0.1, to: 0.8, steps: 12 },
        "cosine" => LrSchedule::Cosine { steps: 20, floor: 0.1 },
        "cosine_restarts" => LrSchedule::CosineRestarts { steps: 5, growth: 2, floor: 0.01 },
        "cosine_restarts_equal" => LrSchedule::CosineRestarts { steps: 6, growth: 1, floor: 0.0 },
        "step" => LrSchedule::Step { every: 4, gamma: 0.3 },
        "multi_step" => LrSchedule::MultiStep { at: vec![15, 3, 8, 8], gamma: 0.5 },
        "exponential" => LrSchedule::Exponential { gamma: 0.9 },
        "polynomial" => LrSchedule::Polynomial { steps: 15, power: 2.0 },
        "one_cycle" => {
            LrSchedule::OneCycle { steps: 40, rise: 0.3, first: 1.0 / 25.0, last: 1.0 / 25e4 }
        }
        "one_cycle_early" => LrSchedule::OneCycle { steps: 50, rise: 0.1, first: 0.1, last: 0.001 },
        "sequence" => LrSchedule::Linear { from: 0.1, to: 1.0, steps: 9 }
            .then(10, LrSchedule::Cosine { steps: 30, floor: 0.05 }),
        name => panic!("no schedule {name}"),
    }
}

#[test]
fn values_are_torchs() {
    let torch: HashMap<String, Vec<f64>> = serde_json::from_str(TORCH).unwrap();
    assert_eq!(torch.len(), 12);
    for (name, values) in torch {
        let schedule = schedule(&name);
        for (step, value) in values.into_iter().enumerate() {
            let factor = schedule.factor(step as u64);
            // torch multiplies once per step, with one rounding each.
            let error = (factor - value).abs();
            assert!(error <= 1e-14, "{name}, step {step}: {factor}, torch has {value}");
        }
    }
}

#[test]
fn a_plateau_between_lines() {
    let schedule = LrSchedule::warmup_stable_decay(4, 3, 4, 0.5);
    let factors: Vec<f64> = (0..13).map(|step| schedule.factor(step)).collect();
    let decay = [1.0, 0.875, 0.75, 0.625, 0.5, 0.5];
    assert_eq!(factors[..4], [0.25, 0.5, 0.75, 1.0]);
    assert_eq!(factors[4..7], [1.0; 3]);
    assert_eq!(factors[7..], decay);
}

/// No schedule panics or returns a number that is not finite, for any step number and with empty
/// phases.
#[test]
fn ends_of_the_range() {
    let names = [
        "constant",
        "linear",
        "cosine",
        "cosine_restarts",
        "cosine_restarts_equal",
        "step",
        "multi_step",
        "polynomial",
        "one_cycle",
        "sequence",
    ];
    for name in names {
        for step in [0, 1, 1 << 40, u64::MAX] {
            assert!(schedule(name).factor(step).is_finite(), "{name} at {step}");
        }
    }
    for empty in [
        LrSchedule::Linear { from: 0.0, to: 1.0, steps: 0 },
        LrSchedule::Cosine { steps: 0, floor: 0.0 },
        LrSchedule::CosineRestarts { steps: 0, growth: 0, floor: 0.0 },
        LrSchedule::Step { every: 0, gamma: 0.5 },
        LrSchedule::Polynomial { steps: 0, power: 1.0 },
        LrSchedule::OneCycle { steps: 0, rise: 0.0, first: 0.1, last: 0.1 },
        LrSchedule::warmup(0),
        LrSchedule::warmup_stable_decay(0, 0, 0, 0.1),
    ] {
        for step in [0, 1, 100] {
            assert!(empty.factor(step).is_finite(), "{empty:?}");
        }
    }
}

/// The factor multiplies the learning rate of each group, and counts the steps that were taken.
#[test]
fn groups_keep_their_proportions() {
    let mut opt = Optimizer::new(Sgd { lr: 1.0, ..Sgd::default() }).unwrap();
    let slow = opt.add_group(Sgd { lr: 0.25, ..Sgd::default() }).unwrap();
    opt.add::<f64>(GroupId::default(), "a", 1).unwrap();
    opt.add::<f64>(slow, "b", 1).unwrap();
    opt.set_lr_schedule(LrSchedule::warmup(2)).unwrap();
    opt.options.skip_nonfinite = true;
    let (mut a, mut b) = ([0.0_f64], [0.0_f64]);
    for grad in [1.0, f64::NAN, 1.0] {
        opt.step([Tensor::new("a", &mut a, &[grad]), Tensor::new("b", &mut b, &[grad])]).unwrap();
    }
    assert_eq!((a, b), ([-1.5], [-0.375]));
    assert_eq!(opt.rule(slow).unwrap().lr, 0.25);
}
