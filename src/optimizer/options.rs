//! The options of a step, and its report.

#[cfg(doc)]
use super::Optimizer;
use crate::elements::rounding::Rounding;
use crate::simd::dispatch::Backend;
use crate::step::Parallelism;

/// How a step changes the gradients, and how it runs.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields, default))]
pub struct StepOptions {
    /// Multiplies every gradient, before anything else. Finite and ≥ 0. Default: 1.
    pub grad_scale: f64,
    /// Scales all gradients down together if their norm is larger than this bound. Default: no
    /// clipping.
    pub clip_norm: Option<ClipNorm>,
    /// Clamps every gradient to ± this bound, after it has been scaled. Finite and > 0. Default: no
    /// clipping.
    pub clip_value: Option<f64>,
    /// Skips the step if a gradient is infinite or NaN, or if the norm overflows, which the norm of
    /// finite `f64` gradients can. Default: `false`. An [`Optimizer`] with a loss scale always
    /// skips such steps.
    pub skip_nonfinite: bool,
    /// Reports the norm of the gradients even if no other option needs it. This reads the gradients
    /// a second time. Default: `false`.
    pub report_norm: bool,
    /// Reports the largest |Δθ|. The step takes longer. Default: `false`.
    pub report_largest_update: bool,
    /// The backend. Default: [`Backend::Auto`].
    pub backend: Backend,
    /// The threads that the step runs on. With `Parallelism::Chunks`, small tensors share a chunk.
    /// Default: [`Parallelism::Auto`].
    pub parallelism: Parallelism,
    /// The rounding of values that are stored in 16 bits, and the seed of states in 8 bits. The
    /// seed is combined with the name of each parameter: see [`Optimizer::seed`]. Default:
    /// [`Rounding::Nearest`].
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
            parallelism: Parallelism::default(),
            rounding: Rounding::default(),
        }
    }
}

/// A bound for the norm of all gradients together: finite and ≥ 0.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum ClipNorm {
    /// A bound for the 2-norm, √Σg².
    Two(f64),
    /// A bound for the infinity norm, the largest |g|.
    Inf(f64),
}

/// The result of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Report {
    /// The norm of all gradients after scaling and before clipping: the largest |g| with
    /// [`ClipNorm::Inf`], otherwise √Σg². It is the norm of the gradients as given, rounded once,
    /// multiplied by `grad_scale` over the loss scale. It is the same on every machine and for
    /// every number of threads. `None` if no option needed it. In a distributed step it is that of
    /// all processes.
    pub grad_norm: Option<f64>,
    /// The factor that clipped the norm of the gradients; 1 if they were not clipped.
    pub clip_factor: f64,
    /// The number of gradients that were infinite or NaN, in a distributed step on all processes.
    /// `None` if nothing needed it.
    pub nonfinite: Option<u64>,
    /// Whether the step was skipped because a gradient, or the norm, was not finite.
    pub skipped: bool,
    /// The largest |Δθ| on this process, not counting NaN. `None` if `report_largest_update` is
    /// off.
    pub largest_update: Option<f64>,
    /// The factor that the schedule multiplied the learning rates by.
    pub lr_factor: f64,
}
