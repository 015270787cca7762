//! What a step may be asked for, and what it says it did.

#[cfg(doc)]
use super::Optimizer;
use crate::elements::rounding::Rounding;
use crate::simd::dispatch::Backend;
use crate::step::Schedule;

/// What is done to the gradients of a step, and how it runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepOptions {
    /// What every gradient is multiplied with before all else, from 0 up. Default: 1.
    pub grad_scale: f64,
    /// Scales all gradients down together where their norm is larger than this. Default: none.
    pub clip_norm: Option<ClipNorm>,
    /// Holds every gradient within ± this, after it has been scaled. Default: none.
    pub clip_value: Option<f64>,
    /// Takes no step if a gradient is infinite or NaN, or if the norm of finite `f64` gradients is
    /// past the largest `f64`. Default: `false`, unless there is a loss scale.
    pub skip_nonfinite: bool,
    /// Reports the norm of the gradients also where nothing else needs it; this reads them once
    /// more. Default: `false`.
    pub report_norm: bool,
    /// Reports the largest |Δθ|; this takes longer. Default: `false`.
    pub report_largest_update: bool,
    /// Default: [`Backend::Auto`].
    pub backend: Backend,
    /// With `Schedule::Chunks` pieces have eight bytes of θ for each element that is named, of
    /// whatever type. Default: [`Schedule::Auto`].
    pub schedule: Schedule,
    /// How what is stored in 16 bits is rounded. The seed is combined with each parameter's name,
    /// as [`Optimizer::seed`] says. Default: [`Rounding::Nearest`].
    pub rounding: Rounding,
}

impl Default for StepOptions {
    fn default() -> Self {
        StepOptions {
            grad_scale: 1.0,
            clip_norm: None,
            clip_value: None,
            skip_nonfinite: false,
            report_norm: false,
            report_largest_update: false,
            backend: Backend::default(),
            schedule: Schedule::default(),
            rounding: Rounding::default(),
        }
    }
}

/// A bound for the norm of all gradients together, from 0 up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ClipNorm {
    /// For √Σg².
    Two(f64),
    /// For the largest |g|.
    Inf(f64),
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Report {
    /// The norm of all gradients, scaled but not clipped: the largest |g| with [`ClipNorm::Inf`],
    /// else √Σg²: of the gradients as they were given, rounded once, then times `grad_scale` over
    /// the loss scale. The same on every machine, whatever the number of threads. None if nothing
    /// asked for it.
    pub grad_norm: Option<f64>,
    /// What the gradients were multiplied with to clip their norm: 1 if they were not.
    pub clip_factor: f64,
    /// How many gradients were infinite or NaN. None if nothing asked for it.
    pub nonfinite: Option<u64>,
    /// That no step was taken, since a gradient was not finite, or their norm.
    pub skipped: bool,
    /// The largest |Δθ|; one that is NaN does not count. None if it was not asked for.
    pub largest_update: Option<f64>,
    /// What the schedule multiplied the step sizes with.
    pub lr_factor: f64,
}
