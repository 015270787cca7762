//! Learning-rate schedules: pure functions of the step number.

use core::f64::consts::PI;

use crate::error::Error;
use crate::rules::{check, check_at_least_0};

/// A factor on the learning rate, as a function of the number of steps taken so far.
///
/// A schedule has no state: to resume a run, it needs only the number of steps. Variants that torch
/// has too give the factors of its scheduler of the same name. The factor multiplies the `lr` of
/// each group.
///
/// ```
/// use fused_adam::LrSchedule;
///
/// let falls = LrSchedule::Cosine { steps: 900, floor: 0.1 };
/// let stays = LrSchedule::Constant { factor: 0.1, steps: u64::MAX };
/// let schedule = LrSchedule::warmup(100).then(100, falls).then(1000, stays);
/// assert_eq!(schedule, LrSchedule::warmup_cosine(100, 1000, 0.1));
/// assert_eq!((schedule.factor(0), schedule.factor(99)), (0.01, 1.0));
/// assert_eq!((schedule.factor(1000), schedule.factor(5000)), (0.1, 0.1));
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum LrSchedule {
    /// `factor` for `steps` steps, then 1 (`ConstantLR`).
    Constant {
        /// The factor.
        factor: f64,
        /// The number of steps; `u64::MAX` for no end.
        steps: u64,
    },
    /// Linear from `from` to `to` in `steps` steps, then constant (`LinearLR`).
    Linear {
        /// The first factor.
        from: f64,
        /// The last factor.
        to: f64,
        /// The number of steps from the first factor to the last.
        steps: u64,
    },
    /// Half a cosine wave from 1 down to `floor` (`CosineAnnealingLR`). As in torch, it rises again
    /// over the next `steps` steps. Use [`then`](Self::then) to continue with another schedule.
    Cosine {
        /// The number of steps to the floor.
        steps: u64,
        /// The smallest factor.
        floor: f64,
    },
    /// The same, restarted after every period (`CosineAnnealingWarmRestarts`).
    CosineRestarts {
        /// The number of steps in the first period.
        steps: u64,
        /// The ratio of the length of each period to that of the one before.
        growth: u64,
        /// The smallest factor.
        floor: f64,
    },
    /// Multiplies the factor by `gamma` after every `every` steps (`StepLR`).
    Step {
        /// The number of steps between changes.
        every: u64,
        /// The multiplier of each change.
        gamma: f64,
    },
    /// Multiplies the factor by `gamma` at each of these step numbers (`MultiStepLR`).
    MultiStep {
        /// The step numbers, in any order.
        at: Vec<u64>,
        /// The multiplier of each change.
        gamma: f64,
    },
    /// Multiplies the factor by `gamma` after every step (`ExponentialLR`).
    Exponential {
        /// The multiplier of each step.
        gamma: f64,
    },
    /// The share of steps that are left, raised to `power` (`PolynomialLR`).
    Polynomial {
        /// The number of steps to 0.
        steps: u64,
        /// The power.
        power: f64,
    },
    /// Rises to 1 and falls again, each along half a cosine wave (`OneCycleLR` with two phases; the
    /// group's `lr` is its `max_lr`). After `steps` steps the factor stays at `last`.
    OneCycle {
        /// The total number of steps.
        steps: u64,
        /// The share of steps in which the factor rises: torch's `pct_start`, whose default is 0.3.
        rise: f64,
        /// The first factor: 1 / torch's `div_factor`. Torch's default gives 1/25.
        first: f64,
        /// The last factor: `first` / torch's `final_div_factor`. Torch's default gives
        /// `first`/10⁴.
        last: f64,
    },
    /// Several schedules in sequence (`SequentialLR`). Each counts steps from its own start.
    Sequence {
        /// All schedules but the last, each with the step number at which it ends.
        until: Vec<(u64, LrSchedule)>,
        /// The last schedule.
        last: Box<LrSchedule>,
    },
}

impl LrSchedule {
    /// A linear warm-up: the first step has the factor 1/`steps`, and step number `steps` is the
    /// first with the factor 1.
    pub fn warmup(steps: u64) -> Self {
        let steps = steps.max(1);
        LrSchedule::Linear { from: 1.0 / steps as f64, to: 1.0, steps: steps - 1 }
    }

    /// Warm-up in `warmup` steps, then half a cosine down to `floor`, which step number `total`
    /// reaches and which stays.
    ///
    /// ```
    /// use fused_adam::LrSchedule;
    ///
    /// let schedule = LrSchedule::warmup_cosine(100, 1000, 0.1);
    /// assert_eq!((schedule.factor(0), schedule.factor(100)), (0.01, 1.0));
    /// assert_eq!((schedule.factor(1000), schedule.factor(2000)), (0.1, 0.1));
    /// ```
    pub fn warmup_cosine(warmup: u64, total: u64, floor: f64) -> Self {
        let falls = LrSchedule::Cosine { steps: total.saturating_sub(warmup).max(1), floor };
        let stays = LrSchedule::Constant { factor: floor, steps: u64::MAX };
        LrSchedule::warmup(warmup).then(warmup, falls).then(total.max(warmup), stays)
    }

    /// A linear warm-up of `warmup` steps, then 1 for `stable` steps, then linear to `floor` in
    /// `decay` steps.
    pub fn warmup_stable_decay(warmup: u64, stable: u64, decay: u64, floor: f64) -> Self {
        let stays = LrSchedule::Constant { factor: 1.0, steps: u64::MAX };
        let decays = LrSchedule::Linear { from: 1.0, to: floor, steps: decay };
        LrSchedule::warmup(warmup).then(warmup, stays).then(warmup.saturating_add(stable), decays)
    }

    /// Follows this schedule until step number `at`, then `next`, which counts from its own step 0.
    /// In a chain of calls, `at` must increase.
    #[must_use]
    pub fn then(self, at: u64, next: LrSchedule) -> Self {
        let (mut until, last) = match self {
            LrSchedule::Sequence { until, last } => (until, *last),
            other => (Vec::new(), other),
        };
        until.push((at, last));
        LrSchedule::Sequence { until, last: Box::new(next) }
    }

    /// Checks every field. [`Optimizer::set_lr_schedule`](super::Optimizer::set_lr_schedule) calls
    /// it.
    ///
    /// # Errors
    ///
    /// [`Error::HyperParameter`] for the first field outside its range. All factors are finite and
    /// at least 0. `steps`, `every` and `growth` are at least 1, except `steps` of `Constant` and
    /// `Linear`, which may be 0. `rise` is in [0, 1]. The step numbers of a `Sequence` do not
    /// decrease.
    pub fn check(&self) -> Result<(), Error> {
        match *self {
            LrSchedule::Constant { factor, .. } => check_at_least_0("factor", factor),
            LrSchedule::Linear { from, to, .. } => {
                check_at_least_0("from", from)?;
                check_at_least_0("to", to)
            }
            LrSchedule::Cosine { steps, floor } => {
                check_at_least_1("steps", steps)?;
                check_at_least_0("floor", floor)
            }
            LrSchedule::CosineRestarts { steps, growth, floor } => {
                check_at_least_1("steps", steps)?;
                check_at_least_1("growth", growth)?;
                check_at_least_0("floor", floor)
            }
            LrSchedule::Step { every, gamma } => {
                check_at_least_1("every", every)?;
                check_at_least_0("gamma", gamma)
            }
            LrSchedule::MultiStep { gamma, .. } | LrSchedule::Exponential { gamma } => {
                check_at_least_0("gamma", gamma)
            }
            LrSchedule::Polynomial { steps, power } => {
                check_at_least_1("steps", steps)?;
                check_at_least_0("power", power)
            }
            LrSchedule::OneCycle { steps, rise, first, last } => {
                check_at_least_1("steps", steps)?;
                check("rise", rise, (0.0..=1.0).contains(&rise), "a number in [0, 1]")?;
                check_at_least_0("first", first)?;
                check_at_least_0("last", last)
            }
            LrSchedule::Sequence { ref until, ref last } => {
                let mut start = 0;
                for &(end, ref part) in until {
                    check("until", end as f64, end >= start, "no less than the one before it")?;
                    start = end;
                    part.check()?;
                }
                last.check()
            }
        }
    }

    /// The factor for the step that follows `step` steps: `factor(0)` is that of the first step. It
    /// is at least 0 for fields that [`check`](Self::check) accepts.
    pub fn factor(&self, step: u64) -> f64 {
        let factor = self.unclamped_factor(step);
        // What rounding may leave below a last factor of 0.
        if factor < 0.0 { 0.0 } else { factor }
    }

    fn unclamped_factor(&self, step: u64) -> f64 {
        match *self {
            LrSchedule::Constant { factor, steps } => {
                if step < steps {
                    factor
                } else {
                    1.0
                }
            }
            LrSchedule::Linear { to, steps, .. } if step >= steps => to,
            LrSchedule::Linear { from, to, steps } => from + (to - from) * share(step, steps),
            LrSchedule::Cosine { steps, floor } => cosine(1.0, floor, turns(step, steps)),
            LrSchedule::CosineRestarts { steps, growth, floor } => {
                let (at, period) = restart(step, steps.max(1), growth.max(1));
                cosine(1.0, floor, turns(at, period))
            }
            LrSchedule::Step { every, gamma } => power(gamma, step / every.max(1)),
            LrSchedule::MultiStep { ref at, gamma } => {
                power(gamma, at.iter().filter(|&&at| at <= step).count() as u64)
            }
            LrSchedule::Exponential { gamma } => power(gamma, step),
            LrSchedule::Polynomial { steps, power } => libm::pow(1.0 - share(step, steps), power),
            LrSchedule::OneCycle { steps, rise, first, last } => {
                let top = rise * steps as f64 - 1.0;
                let end = steps as f64 - 1.0;
                let step = (step as f64).min(end);
                if step <= top {
                    cosine(first, 1.0, if top > 0.0 { step / top } else { 1.0 })
                } else {
                    cosine(1.0, last, if end > top { (step - top) / (end - top) } else { 1.0 })
                }
            }
            LrSchedule::Sequence { ref until, ref last } => {
                let mut start = 0;
                for (end, part) in until {
                    if step < *end {
                        return part.unclamped_factor(step.saturating_sub(start));
                    }
                    start = *end;
                }
                last.unclamped_factor(step - start)
            }
        }
    }
}

fn check_at_least_1(name: &'static str, count: u64) -> Result<(), Error> {
    check(name, count as f64, count >= 1, "at least 1")
}

/// The share of `steps` that is done, at most 1.
fn share(step: u64, steps: u64) -> f64 {
    if step >= steps { 1.0 } else { step as f64 / steps as f64 }
}

/// `step` as a number of half turns of `steps` steps each.
fn turns(step: u64, steps: u64) -> f64 {
    if steps == 0 { 1.0 } else { step as f64 / steps as f64 }
}

/// Half a cosine wave: `from` at 0 half turns, `to` at 1.
fn cosine(from: f64, to: f64, turns: f64) -> f64 {
    to + (from - to) * (1.0 + libm::cos(PI * turns)) / 2.0
}

/// The step number within its period, and the length of that period.
fn restart(step: u64, first: u64, growth: u64) -> (u64, u64) {
    if growth == 1 {
        return (step % first, first);
    }
    let (mut at, mut period) = (step, first);
    while at >= period {
        at -= period;
        period = period.saturating_mul(growth);
    }
    (at, period)
}

/// `gamma` to an integer power.
fn power(gamma: f64, exponent: u64) -> f64 {
    libm::pow(gamma, exponent as f64)
}
