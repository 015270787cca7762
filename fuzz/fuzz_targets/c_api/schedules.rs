//! Learning-rate schedules: phases of the header, and the schedule of the core that they describe.

use std::ptr::{null, null_mut};

use fused_adam::LrSchedule;
use fused_adam_c::FusedAdamStatus as Status;
use fused_adam_c::*;

use crate::source::Source;
use crate::status::{c, expect, expect_unless};

/// Phases, with the numbers that they point to.
pub struct Phases {
    phases: Vec<FusedAdamLrPhase>,
    _at: Vec<Box<[u64]>>,
    /// The schedule, if the phases are valid.
    pub schedule: Option<LrSchedule>,
    pub faults: Vec<Status>,
}

impl Phases {
    pub fn random(source: &mut Source) -> Self {
        let count = source.below(4);
        let (mut phases, mut numbers) = (Vec::new(), Vec::new());
        let (mut faults, mut whole, mut start) = (Vec::new(), None, 0_u64);
        for i in 0..count {
            let last = i + 1 == count;
            let at: Box<[u64]> = (0..source.below(3)).map(|_| source.count()).collect();
            let until = match (last, source.rarely()) {
                (_, true) => source.count(),
                (true, _) => 0,
                (false, _) => start.saturating_add(source.below(20) as u64 + 1),
            };
            let mut phase = FusedAdamLrPhase {
                kind: 1 + source.below(10) as i32,
                steps: source.count(),
                every: source.count(),
                growth: source.count(),
                at: at.as_ptr(),
                at_count: at.len(),
                factor: source.number(),
                from: source.number(),
                to: source.number(),
                floor: source.number(),
                gamma: source.number(),
                power: source.number(),
                rise: source.number(),
                first: source.number(),
                last: source.number(),
                until,
            };
            if source.rarely() {
                phase.kind = source.pick(&[0, -1, 11, i32::MAX]);
            }
            if source.rarely() && phase.kind == FusedAdamLr::MultiStep as i32 && !at.is_empty() {
                phase.at = null();
                faults.push(Status::Null);
            }
            match described(&phase, &at).filter(|schedule| schedule.check().is_ok()) {
                None => faults.push(Status::Value),
                Some(schedule) => {
                    whole = Some(match whole {
                        None => schedule,
                        Some(before) => LrSchedule::then(before, start, schedule),
                    });
                }
            }
            if if last { until != 0 } else { until <= start } {
                faults.push(Status::Value);
            }
            start = until;
            phases.push(phase);
            numbers.push(at);
        }
        Phases { phases, _at: numbers, schedule: whole, faults }
    }

    /// The array and its length.
    pub fn array(&self, source: &mut Source) -> (*const FusedAdamLrPhase, usize, Vec<Status>) {
        let mut faults = self.faults.clone();
        let mut pointer = self.phases.as_ptr();
        if self.phases.is_empty() {
            pointer = if source.below(2) == 0 { null() } else { pointer };
        } else {
            pointer = source.or_null(pointer.cast_mut(), &mut faults);
        }
        (pointer, self.phases.len(), faults)
    }
}

/// The schedule of a phase, if its kind exists.
fn described(phase: &FusedAdamLrPhase, at: &[u64]) -> Option<LrSchedule> {
    let &FusedAdamLrPhase { steps, every, growth, factor, from, to, floor, gamma, .. } = phase;
    let &FusedAdamLrPhase { power, rise, first, last, .. } = phase;
    Some(match phase.kind {
        1 => LrSchedule::warmup(steps),
        2 => LrSchedule::Constant { factor, steps },
        3 => LrSchedule::Linear { from, to, steps },
        4 => LrSchedule::Cosine { steps, floor },
        5 => LrSchedule::CosineRestarts { steps, growth, floor },
        6 => LrSchedule::Step { every, gamma },
        7 => LrSchedule::MultiStep { at: at.to_vec(), gamma },
        8 => LrSchedule::Exponential { gamma },
        9 => LrSchedule::Polynomial { steps, power },
        10 => LrSchedule::OneCycle { steps, rise, first, last },
        _ => return None,
    })
}

/// Calls fused_adam_lr_factor.
pub fn factor(source: &mut Source) {
    let phases = Phases::random(source);
    let (pointer, count, faults) = phases.array(source);
    let (step, mut factor) = (source.count(), -1.5);
    expect(c!(fused_adam_lr_factor(pointer, count, step, null_mut())), Status::Null);
    let status = c!(fused_adam_lr_factor(pointer, count, step, &raw mut factor));
    if expect_unless(&faults, status, Status::Ok) {
        let expected = phases.schedule.map_or(1.0, |schedule| schedule.factor(step));
        assert_eq!(factor.to_bits(), expected.to_bits());
        assert!(factor >= 0.0, "the factor is {factor}");
    } else {
        assert_eq!(factor, -1.5);
    }
}
