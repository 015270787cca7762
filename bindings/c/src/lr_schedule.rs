//! Learning-rate schedules: an array of phases, each of which is one of the core's `LrSchedule`.

use fused_adam::LrSchedule;

use crate::buffers::{array, place};
use crate::optimizer::{self, FusedAdamOptimizer};
use crate::status::{Failure, FusedAdamStatus, guarded};

/// The kind of a phase of a learning-rate schedule: how its factor depends on the number of steps.
/// Those that torch has too give the factors of its scheduler of the same name.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FusedAdamLr {
    /// Linear from 1 / `steps` in the first step to 1 in step number `steps`, counted from 1.
    Warmup = 1,
    /// `factor` for `steps` steps, then 1 (ConstantLR). UINT64_MAX steps do not end.
    Constant = 2,
    /// Linear from `from` to `to` in `steps` steps, then constant (LinearLR).
    Linear = 3,
    /// Half a cosine wave from 1 down to `floor` in `steps` steps (CosineAnnealingLR). As in torch,
    /// it then rises again, unless another phase follows.
    Cosine = 4,
    /// The same, restarted after every period (CosineAnnealingWarmRestarts). The first period has
    /// `steps` steps, and each one is `growth` times as long as the one before.
    CosineRestarts = 5,
    /// Multiplies the factor by `gamma` after every `every` steps (StepLR).
    Step = 6,
    /// Multiplies the factor by `gamma` after each of the numbers of steps in `at` (MultiStepLR).
    MultiStep = 7,
    /// Multiplies the factor by `gamma` after every step (ExponentialLR).
    Exponential = 8,
    /// The share of `steps` steps that is left, raised to `power` (PolynomialLR).
    Polynomial = 9,
    /// Rises from `first` to 1 in the share `rise` of `steps` steps, and falls to `last` in the
    /// rest, each along half a cosine wave (OneCycleLR with two phases). It then stays at `last`.
    OneCycle = 10,
}

/// A phase of a learning-rate schedule. Set the structure to zero before you set its members. Which
/// members a phase uses depends on its kind. It ignores the others.
///
/// Each phase counts the steps from its own start.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FusedAdamLrPhase {
    /// A FusedAdamLr.
    pub kind: i32,
    /// The number of steps: at least 1, or at least 0 for FUSED_ADAM_LR_WARMUP,
    /// FUSED_ADAM_LR_CONSTANT and FUSED_ADAM_LR_LINEAR.
    pub steps: u64,
    /// For FUSED_ADAM_LR_STEP: the number of steps between changes, at least 1.
    pub every: u64,
    /// For FUSED_ADAM_LR_COSINE_RESTARTS: the ratio of the lengths of two periods, at least 1.
    pub growth: u64,
    /// For FUSED_ADAM_LR_MULTI_STEP: an array of at_count numbers of steps, in any order. With 3,
    /// the factor changes after the third step.
    pub at: *const u64,
    /// The length of that array.
    pub at_count: usize,
    /// For FUSED_ADAM_LR_CONSTANT: the factor. It is finite and at least 0, as all factors are.
    pub factor: f64,
    /// For FUSED_ADAM_LR_LINEAR: the first factor.
    pub from: f64,
    /// For FUSED_ADAM_LR_LINEAR: the last factor.
    pub to: f64,
    /// For FUSED_ADAM_LR_COSINE and FUSED_ADAM_LR_COSINE_RESTARTS: the smallest factor.
    pub floor: f64,
    /// For FUSED_ADAM_LR_STEP, FUSED_ADAM_LR_MULTI_STEP and FUSED_ADAM_LR_EXPONENTIAL: the
    /// multiplier of each change.
    pub gamma: f64,
    /// For FUSED_ADAM_LR_POLYNOMIAL: the power, at least 0.
    pub power: f64,
    /// For FUSED_ADAM_LR_ONE_CYCLE: the share of steps in which the factor rises, from 0 to 1.
    pub rise: f64,
    /// For FUSED_ADAM_LR_ONE_CYCLE: the first factor.
    pub first: f64,
    /// For FUSED_ADAM_LR_ONE_CYCLE: the last factor.
    pub last: f64,
    /// The number of steps that training has taken when the next phase begins. 0 for the last
    /// phase, which does not end.
    pub until: u64,
}

impl FusedAdamLrPhase {
    /// # Safety
    ///
    /// As for [`schedule`].
    unsafe fn schedule(&self) -> Result<LrSchedule, Failure> {
        let &FusedAdamLrPhase { steps, every, growth, factor, from, to, floor, .. } = self;
        let &FusedAdamLrPhase { gamma, power, rise, first, last, .. } = self;
        const KINDS: [FusedAdamLr; 10] = {
            use FusedAdamLr::*;
            [
                Warmup,
                Constant,
                Linear,
                Cosine,
                CosineRestarts,
                Step,
                MultiStep,
                Exponential,
                Polynomial,
                OneCycle,
            ]
        };
        let kind = KINDS.into_iter().find(|&kind| kind as i32 == self.kind).ok_or_else(|| {
            let message = format!("`kind` is {}, expected a FusedAdamLr, 1 to 10", self.kind);
            Failure::new(FusedAdamStatus::Value, message)
        })?;
        let schedule = match kind {
            FusedAdamLr::Warmup => LrSchedule::warmup(steps),
            FusedAdamLr::Constant => LrSchedule::Constant { factor, steps },
            FusedAdamLr::Linear => LrSchedule::Linear { from, to, steps },
            FusedAdamLr::Cosine => LrSchedule::Cosine { steps, floor },
            FusedAdamLr::CosineRestarts => LrSchedule::CosineRestarts { steps, growth, floor },
            FusedAdamLr::Step => LrSchedule::Step { every, gamma },
            FusedAdamLr::MultiStep => {
                // SAFETY: the caller's promise.
                let at = unsafe { array("at", self.at, self.at_count) }?.to_vec();
                LrSchedule::MultiStep { at, gamma }
            }
            FusedAdamLr::Exponential => LrSchedule::Exponential { gamma },
            FusedAdamLr::Polynomial => LrSchedule::Polynomial { steps, power },
            FusedAdamLr::OneCycle => LrSchedule::OneCycle { steps, rise, first, last },
        };
        schedule.check()?;
        Ok(schedule)
    }
}

/// The schedule of these phases; `None` if there are none.
///
/// # Safety
///
/// `phases` is NULL or points to `count` phases. The `at` of each is NULL or points to `at_count`
/// numbers.
unsafe fn schedule(
    phases: *const FusedAdamLrPhase,
    count: usize,
) -> Result<Option<LrSchedule>, Failure> {
    // SAFETY: the caller's promise.
    let phases = unsafe { array("phases", phases, count) }?;
    let (mut whole, mut start) = (None, 0);
    for (i, phase) in phases.iter().enumerate() {
        let in_phase = |failure: Failure| match count {
            1 => failure,
            _ => Failure { message: format!("phase {i}: {}", failure.message), ..failure },
        };
        // SAFETY: the caller's promise.
        let next = unsafe { phase.schedule() }.map_err(in_phase)?;
        whole = Some(match whole {
            None => next,
            Some(before) => LrSchedule::then(before, start, next),
        });
        let (until, last) = (phase.until, i + 1 == count);
        if if last { until != 0 } else { until <= start } {
            let expected = match last {
                true => "0, since the last phase does not end".to_owned(),
                false => format!("more than {start}, where the phase begins"),
            };
            let message = format!("`until` is {until}, expected {expected}");
            return Err(in_phase(Failure::new(FusedAdamStatus::Value, message)));
        }
        start = until;
    }
    Ok(whole)
}

/// Sets a schedule whose factor multiplies the learning rates of all groups in each step, as a
/// function of fused_adam_optimizer_steps. By default there is none.
///
/// - phases: an array of count phases, one after the other. With 0 phases, there is no schedule any
///   more.
///
/// For example a warm-up over 100 steps, then half a cosine wave down to 0.1. From the 1001st step
/// on the factor is 0.1:
///
/// ```c
/// const FusedAdamLrPhase phases[] = {
///   {.kind = FUSED_ADAM_LR_WARMUP, .steps = 100, .until = 100},
///   {.kind = FUSED_ADAM_LR_COSINE, .steps = 900, .floor = 0.1, .until = 1000},
///   {.kind = FUSED_ADAM_LR_CONSTANT, .steps = UINT64_MAX, .factor = 0.1},
/// };
/// ```
///
/// The optimizer copies the phases. fused_adam_optimizer_get returns the "lr" without the factor;
/// FusedAdamReport has the factor of a step. A file of fused_adam_optimizer_save has the number of
/// steps, but not the schedule. Set it again, before or after you load the file.
///
/// After an error nothing has changed. Returns FUSED_ADAM_STATUS_VALUE for a kind that does not
/// exist, and for a member outside its range, with a message that names the phase and the member;
/// FUSED_ADAM_STATUS_NULL, FUSED_ADAM_STATUS_MISALIGNED, FUSED_ADAM_STATUS_LENGTH and
/// FUSED_ADAM_STATUS_BUSY.
///
/// # Safety
///
/// `opt` is NULL or an optimizer; `phases` is NULL or points to `count` phases; the `at` of each is
/// NULL or points to `at_count` numbers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_optimizer_set_lr_schedule(
    opt: *mut FusedAdamOptimizer,
    phases: *const FusedAdamLrPhase,
    count: usize,
) -> FusedAdamStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (mut opt, schedule) = unsafe { (optimizer::write(opt)?, schedule(phases, count)?) };
        Ok(opt.core.set_lr_schedule(schedule)?)
    })
}

/// Stores the factor of a schedule for the step that follows `step` steps at `factor`. It is
/// `step` = 0 for the first step. The factor is 1 if there are 0 phases. Use it if you keep the
/// states yourself, or to plot a schedule.
///
/// Returns the errors of fused_adam_optimizer_set_lr_schedule. Any thread may call it.
///
/// # Safety
///
/// As for fused_adam_optimizer_set_lr_schedule; `factor` is NULL or valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_lr_factor(
    phases: *const FusedAdamLrPhase,
    count: usize,
    step: u64,
    factor: *mut f64,
) -> FusedAdamStatus {
    guarded(|| {
        let place = place("factor", factor)?;
        // SAFETY: the caller's promise.
        let schedule = unsafe { schedule(phases, count) }?;
        let factor = schedule.map_or(1.0, |schedule| schedule.factor(step));
        // SAFETY: it is not NULL, so the caller promises that it may be written.
        unsafe { place.write(factor) };
        Ok(())
    })
}
