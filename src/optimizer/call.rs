//! One step of many tensors, whoever keeps their states: what is asked for is checked, the norm is
//! taken if it is wanted, and the pass follows unless it is to be skipped.

use core::sync::atomic::AtomicU64;

use super::options::{ClipNorm, Report, StepOptions};
use super::param::{Param, Plan};
use super::pass;
#[cfg(feature = "parallel")]
use super::pieces::total_cost;
use super::tensor::{Grad, TensorBuffers};
use crate::elements::rounding::Rounding;
use crate::error::Error;
use crate::norm::GradNorm;
use crate::rules::state::{State, names};
use crate::rules::{Kernel, Rule, WithKernel, check_above_0, check_at_least_0};
use crate::simd::Float;
use crate::simd::dispatch::Engine;
#[cfg(feature = "parallel")]
use crate::step::Schedule;
use crate::step::grad_scale::GradScale;
use crate::step::{advance_scalars, check_same_states};
#[cfg(feature = "parallel")]
use crate::threads::share;

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
    /// The parameters' next scalars are the caller's, and not to be made of those before.
    pub scalars_are_next: bool,
}

impl<R: Rule> Call<'_, R> {
    /// Takes the step of every parameter that has buffers, which have been checked.
    pub fn run(
        &self,
        params: &mut [Param<'_, R>],
        tensors: &mut [Option<TensorBuffers<'_>>],
    ) -> Result<Report, Error> {
        let engine = self.options.backend.resolve()?;
        self.check_bounds()?;
        self.check_rules(params, tensors)?;
        let chunk = self.chunk(tensors);
        self.pass(params, tensors, engine, chunk)
    }

    /// The norm first, if it is wanted; then the step.
    fn pass(
        &self,
        params: &mut [Param<'_, R>],
        tensors: &mut [Option<TensorBuffers<'_>>],
        engine: Engine,
        chunk: Option<usize>,
    ) -> Result<Report, Error> {
        let Call { options, grad_scale, skip, lr_factor, .. } = *self;
        let wanted = skip || options.report_norm || options.clip_norm.is_some();
        let norm = wanted.then(|| pass::norm(engine, chunk, tensors));
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
        let plan = Plan {
            rules: self.rules,
            engine,
            scale: self.scale(clip_factor),
            seed: match options.rounding {
                Rounding::Nearest => None,
                Rounding::Stochastic { seed } => Some(seed),
            },
            largest_update: measure.then(|| AtomicU64::new(0)),
        };
        if skipped {
            for TensorBuffers { grad, .. } in tensors.iter_mut().flatten() {
                if let Grad::Zero(grad) = grad {
                    grad.fill_with_zeros();
                }
            }
        } else {
            for (param, buffers) in params.iter_mut().zip(tensors.iter()) {
                if buffers.is_some() && param.states.is_none() {
                    param.create_states(&self.rules[param.group]);
                }
            }
            pass::run(&plan, chunk, params, tensors)?;
        }
        let largest_update =
            plan.largest_update.map(|largest| f64::from_bits(largest.into_inner()));
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
    /// refused before anything is written. Also finds the scalars after the step.
    fn check_rules(
        &self,
        params: &mut [Param<'_, R>],
        tensors: &[Option<TensorBuffers<'_>>],
    ) -> Result<(), Error> {
        let scale = self.scale(1.0);
        scale.check()?;
        let mut checked = None;
        for (param, _) in params.iter_mut().zip(tensors).filter(|(_, buffers)| buffers.is_some()) {
            let rule = &self.rules[param.group];
            let states = rule.states();
            if let Some(made) = &param.states {
                check_same_states(states, made.declared())?;
            }
            let kernel = (param.group, param.t, param.types.theta.is_f64());
            // Also those of a rule that was here before.
            let has_scalars = !rule.scalars().is_empty()
                || !param.scalars.is_empty()
                || !param.next_scalars.is_empty();
            if checked == Some(kernel) && !has_scalars {
                continue;
            }
            rule.check()?;
            let t = param.t.checked_add(1).ok_or(Error::StepNumber {
                t: param.t,
                expected: "less than u64::MAX for another step to follow",
            })?;
            if has_scalars && !self.scalars_are_next {
                advance_scalars(rule, t, &param.scalars, &mut param.next_scalars);
            }
            let check = CheckKernel { scale, states };
            if param.types.theta.is_f64() {
                rule.with_kernel::<f64, _>(t, &param.next_scalars, check)?;
            } else {
                rule.with_kernel::<f32, _>(t, &param.next_scalars, check)?;
            }
            checked = Some(kernel);
        }
        Ok(())
    }

    /// Bytes of θ in a piece of a step; none for the calling thread alone.
    #[cfg(feature = "parallel")]
    fn chunk(&self, tensors: &[Option<TensorBuffers<'_>>]) -> Option<usize> {
        match self.options.schedule {
            Schedule::Serial => None,
            Schedule::Chunks(chunk) => Some(chunk.get().saturating_mul(8)),
            Schedule::Auto => share::chunk_bytes(total_cost(tensors)),
        }
    }

    /// The calling thread alone.
    #[cfg(not(feature = "parallel"))]
    fn chunk(&self, _: &[Option<TensorBuffers<'_>>]) -> Option<usize> {
        None
    }
}

/// Computes a kernel's coefficients, and does nothing with them.
struct CheckKernel {
    scale: GradScale,
    states: &'static [State],
}

impl<F: Float> WithKernel<F> for CheckKernel {
    fn with<K: Kernel<F, N>, const N: usize>(self, kernel: &K) -> Result<(), Error> {
        self.scale.before::<K, F>(*kernel)?;
        if N != self.states.len() {
            return Err(Error::KernelStates { kernel: N, names: names(self.states) });
        }
        Ok(())
    }
}
