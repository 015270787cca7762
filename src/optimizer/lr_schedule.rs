//! How step sizes change over a training run: pure functions of the step number.

use core::f64::consts::PI;

/// A factor for the step size, as a function of the number of steps taken so far.
///
/// It has no state: a run that is resumed needs nothing but the number. The factors are those of
/// torch's schedulers of the same names where torch has them; a group's own `lr` is what they
/// multiply.
///
/// ```
/// use fused_adam::LrSchedule;
///
/// let schedule = LrSchedule::warmup(100).then(100, LrSchedule::Cosine { steps: 900, floor: 0.1 });
/// assert_eq!(schedule.factor(0), 0.01);
/// assert_eq!(schedule.factor(99), 1.0);
/// assert_eq!(schedule.factor(100), 1.0);
/// assert!((schedule.factor(1000) - 0.1).abs() < 1e-15);
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum LrSchedule {
    /// `factor` for `steps` steps, then 1 (torch's `ConstantLR`).
    Constant {
        /// The factor.
        factor: f64,
        /// For how long; `u64::MAX` for ever.
        steps: u64,
    },
    /// A straight line that reaches `to` after `steps` steps and stays there (`LinearLR`).
    Linear {
        /// The factor at first.
        from: f64,
        /// The factor at last.
        to: f64,
        /// Steps between them.
        steps: u64,
    },
    /// Half a cosine, from 1 to `floor` (`CosineAnnealingLR`). Like torch's it rises again after
    /// `steps` steps, by another half: use [`then`](Self::then) to go on with something else.
    Cosine {
        /// Steps to the floor.
        steps: u64,
        /// The least factor.
        floor: f64,
    },
    /// The same, from the start after every period (`CosineAnnealingWarmRestarts`).
    CosineRestarts {
        /// Steps in the first period.
        steps: u64,
        /// How many times longer each next one is.
        growth: u64,
        /// The least factor.
        floor: f64,
    },
    /// Times `gamma` after every `every` steps (`StepLR`).
    Step {
        /// Steps between changes.
        every: u64,
        /// The factor of each.
        gamma: f64,
    },
    /// Times `gamma` at each of these step numbers (`MultiStepLR`).
    MultiStep {
        /// The step numbers, in any order.
        at: Vec<u64>,
        /// The factor of each.
        gamma: f64,
    },
    /// Times `gamma` after every step (`ExponentialLR`).
    Exponential {
        /// The factor of each step.
        gamma: f64,
    },
    /// A power of the share of steps that are left (`PolynomialLR`).
    Polynomial {
        /// Steps to 0.
        steps: u64,
        /// The power.
        power: f64,
    },
    /// Up to 1 and down again, each by half a cosine (`OneCycleLR` in two phases; a group's `lr` is
    /// its `max_lr`). The last factor stays.
    OneCycle {
        /// Steps in all.
        steps: u64,
        /// The share of them that rises: torch's `pct_start`, 0.3 by default.
        rise: f64,
        /// The factor at first: one over torch's `div_factor`, 1/25 by default.
        first: f64,
        /// The factor at last: `first` over torch's `final_div_factor`, `first`/10⁴ by default.
        last: f64,
    },
    /// One after the other (`SequentialLR`): each of the first ones until the step number beside
    /// it, counted from its own start, and then the last.
    Sequence {
        /// The first ones, and where each ends.
        until: Vec<(u64, LrSchedule)>,
        /// The last one.
        last: Box<LrSchedule>,
    },
}

impl LrSchedule {
    /// From 1/`steps` in a straight line to 1, which step number `steps` is the first to have.
    pub fn warmup(steps: u64) -> Self {
        let steps = steps.max(1);
        LrSchedule::Linear { from: 1.0 / steps as f64, to: 1.0, steps: steps - 1 }
    }

    /// Warm-up, a plateau, and a straight line down to `floor`.
    pub fn warmup_stable_decay(warmup: u64, stable: u64, decay: u64, floor: f64) -> Self {
        let stays = LrSchedule::Constant { factor: 1.0, steps: u64::MAX };
        let decays = LrSchedule::Linear { from: 1.0, to: floor, steps: decay };
        LrSchedule::warmup(warmup).then(warmup, stays).then(warmup.saturating_add(stable), decays)
    }

    /// This one until step number `at`, then `next`, which begins with its own step 0. Step numbers
    /// of calls that follow each other are to rise.
    #[must_use]
    pub fn then(self, at: u64, next: LrSchedule) -> Self {
        let (mut until, last) = match self {
            LrSchedule::Sequence { until, last } => (until, *last),
            other => (Vec::new(), other),
        };
        until.push((at, last));
        LrSchedule::Sequence { until, last: Box::new(next) }
    }

    /// The factor after `step` steps: 0 for the first one.
    pub fn factor(&self, step: u64) -> f64 {
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
                        return part.factor(step.saturating_sub(start));
                    }
                    start = *end;
                }
                last.factor(step - start)
            }
        }
    }
}

/// How much of `steps` lies behind, at most 1.
fn share(step: u64, steps: u64) -> f64 {
    if step >= steps { 1.0 } else { step as f64 / steps as f64 }
}

/// `step` in half turns of `steps` steps each.
fn turns(step: u64, steps: u64) -> f64 {
    if steps == 0 { 1.0 } else { step as f64 / steps as f64 }
}

/// From `from` at 0 to `to` at 1.
fn cosine(from: f64, to: f64, turns: f64) -> f64 {
    to + (from - to) * (1.0 + libm::cos(PI * turns)) / 2.0
}

/// Where in which period.
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
