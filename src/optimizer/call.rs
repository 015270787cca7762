//! One step of many tensors, whoever keeps their states: what is asked for is checked, the norm is
//! taken if it is wanted, and the pass follows unless it is to be skipped.

use core::sync::atomic::AtomicU64;

#[cfg(feature = "parallel")]
use super::pieces::total_cost;
use super::region::{Pass, norm};
use super::tensor::{Grad, Job, Type};
use super::{ClipNorm, Param, Report, StepOptions};
#[cfg(feature = "parallel")]
use crate::Schedule;
use crate::backend::Engine;
#[cfg(feature = "parallel")]
use crate::backend::parallel;
use crate::rules::{check_above_0, check_at_least_0};
use crate::scaled::GradScale;
use crate::step::check_same_states;
use crate::{Error, Float, GradNorm, Kernel, NamedRule, Rounding, WithKernel};

/// What a step is told beside its tensors.
pub(super) struct Call<'c, R> {
    /// Of each group.
    pub rules: &'c [R],
    pub options: &'c StepOptions,
    /// What gradients are multiplied with before anything else: one over the loss scale, say.
    pub grad_scale: f64,
    /// Whether a gradient that is not finite has the step skipped.
    pub skip: bool,
    /// What the schedule made of the rules, to be reported.
    pub lr_factor: f64,
}

impl<R: NamedRule> Call<'_, R> {
    /// Takes the step of every parameter that has a job, whose buffers have been checked.
    pub fn run(
        &self,
        params: &mut [Param<'_, R>],
        jobs: &mut [Option<Job<'_>>],
    ) -> Result<Report, Error> {
        let engine = self.options.backend.resolve()?;
        self.check_bounds()?;
        self.check_rules(params, jobs)?;
        let chunk = self.chunk(jobs);
        self.pass(params, jobs, engine, chunk)
    }

    /// The norm first, if it is wanted; then the step.
    fn pass(
        &self,
        params: &mut [Param<'_, R>],
        jobs: &mut [Option<Job<'_>>],
        engine: Engine,
        chunk: Option<usize>,
    ) -> Result<Report, Error> {
        let Call { options, grad_scale, skip, lr_factor, .. } = *self;
        let wanted = skip || options.report_norm || options.clip_norm.is_some();
        let norm = wanted.then(|| norm(engine, chunk, jobs));
        let grad_norm = norm.as_ref().map(|norm| self.norm_of(norm) * grad_scale);
        let nonfinite = norm.as_ref().map(GradNorm::nonfinite);
        // The norm of finite `f64`s may be past the largest.
        let finite = nonfinite == Some(0) && grad_norm.is_some_and(f64::is_finite);
        let skipped = skip && !finite;
        let clip_factor = match (options.clip_norm, grad_norm) {
            (Some(ClipNorm::Two(bound) | ClipNorm::Inf(bound)), Some(norm)) if !skipped => {
                if !norm.is_finite() {
                    return Err(Error::NonfiniteNorm { norm });
                }
                if norm > bound { bound / norm } else { 1.0 }
            }
            _ => 1.0,
        };

        let measure = options.report_largest_update;
        let pass = Pass {
            rules: self.rules,
            engine,
            scale: self.scale(clip_factor),
            seed: match options.rounding {
                Rounding::Nearest => None,
                Rounding::Stochastic { seed } => Some(seed),
            },
            largest: measure.then(|| AtomicU64::new(0)),
        };
        if skipped {
            for grad in jobs.iter_mut().flatten().map(|job| &mut job.grad) {
                if let Grad::Zero(grad) = grad {
                    grad.fill_with_zeros();
                }
            }
        } else {
            for (param, job) in params.iter_mut().zip(jobs.iter()) {
                if job.is_some() && param.states.is_none() {
                    param.create_states(&self.rules[param.group]);
                }
            }
            pass.run(chunk, params, jobs)?;
        }
        let largest_update = pass.largest.map(|largest| f64::from_bits(largest.into_inner()));
        Ok(Report { grad_norm, clip_factor, nonfinite, skipped, largest_update, lr_factor })
    }

    /// What is done to a gradient before its rule sees it.
    fn scale(&self, clip_factor: f64) -> GradScale {
        let bound = self.options.clip_value.unwrap_or(f64::INFINITY);
        GradScale { factor: self.grad_scale * clip_factor, bound }
    }

    /// The norm that is to be clipped, or √Σg².
    fn norm_of(&self, norm: &GradNorm) -> f64 {
        match self.options.clip_norm {
            Some(ClipNorm::Inf(_)) => norm.inf_norm(),
            Some(ClipNorm::Two(_)) | None => norm.two_norm(),
        }
    }

    fn check_bounds(&self) -> Result<(), Error> {
        if let Some(ClipNorm::Two(bound) | ClipNorm::Inf(bound)) = self.options.clip_norm {
            check_at_least_0("clip_norm", bound)?;
        }
        self.options.clip_value.map_or(Ok(()), |bound| check_above_0("clip_value", bound))
    }

    /// Asks each rule for each kernel that this step will need, so that whatever can be refused is
    /// refused before anything is written.
    fn check_rules(&self, params: &[Param<'_, R>], jobs: &[Option<Job<'_>>]) -> Result<(), Error> {
        let scale = self.scale(1.0);
        scale.check()?;
        let mut checked = None;
        for (param, _) in params.iter().zip(jobs).filter(|(_, job)| job.is_some()) {
            let rule = &self.rules[param.group];
            let names = rule.state_names();
            if let Some(states) = &param.states {
                check_same_states(names, states.names())?;
            }
            let kernel = (param.group, param.t, param.types.theta == Type::F64);
            if checked == Some(kernel) {
                continue;
            }
            rule.check()?;
            let t = param.t.checked_add(1).ok_or(Error::StepNumber {
                t: param.t,
                expected: "less than u64::MAX for another step to follow",
            })?;
            let dry = Dry { scale, names };
            if param.types.theta == Type::F64 {
                rule.with_kernel::<f64, _>(t, dry)?;
            } else {
                rule.with_kernel::<f32, _>(t, dry)?;
            }
            checked = Some(kernel);
        }
        Ok(())
    }

    /// Bytes of θ in a piece of a step; none for the calling thread alone.
    #[cfg(feature = "parallel")]
    fn chunk(&self, jobs: &[Option<Job<'_>>]) -> Option<usize> {
        match self.options.schedule {
            Schedule::Serial => None,
            Schedule::Chunks(chunk) => Some(chunk.get().saturating_mul(8)),
            Schedule::Auto => parallel::auto_chunk_bytes(total_cost(jobs)),
        }
    }

    /// The calling thread alone.
    #[cfg(not(feature = "parallel"))]
    fn chunk(&self, _: &[Option<Job<'_>>]) -> Option<usize> {
        None
    }
}

/// A kernel's coefficients are computed, and nothing is done with it.
struct Dry {
    scale: GradScale,
    names: &'static [&'static str],
}

impl<F: Float> WithKernel<F> for Dry {
    fn with<K: Kernel<F, N>, const N: usize>(self, kernel: &K) -> Result<(), Error> {
        self.scale.before::<K, F>(*kernel)?;
        if N != self.names.len() {
            return Err(Error::KernelStates { kernel: N, names: self.names });
        }
        Ok(())
    }
}
