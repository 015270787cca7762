//! One step of many tensors, whoever owns their states: checks the options and rules, computes the
//! norm if it is needed, and runs the pass unless the step is skipped.

use core::sync::atomic::AtomicU64;

use super::message::{self, AllGather, MaySkip};
use super::options::{ClipNorm, Report, StepOptions};
use super::param::{Param, PassContext};
use super::pass::{self, PieceSize};
#[cfg(feature = "parallel")]
use super::pieces::total_bytes;
use super::states::States;
use super::tensor::{Grad, TensorBuffers};
use crate::elements::rounding::Rounding;
use crate::error::Error;
use crate::norm::GradNorm;
use crate::rules::state::{State, names};
use crate::rules::{Kernel, KernelVisitor, Rule, check_above_0, check_at_least_0};
use crate::simd::Float;
use crate::simd::dispatch::Engine;
use crate::step::Parallelism;
use crate::step::grad_scale::GradScale;
use crate::step::{advance_scalars, check_float_mode, check_same_states, next_step_number};
#[cfg(feature = "parallel")]
use crate::threads::share;

/// The arguments of a step other than its tensors.
pub(super) struct StepPlan<'c, R> {
    /// The rule of each group.
    pub rules: &'c [R],
    pub options: &'c StepOptions,
    /// The factor on gradients before anything else, such as 1 / the loss scale.
    pub grad_scale: f64,
    /// Whether to skip the step if a gradient is not finite.
    pub skip: bool,
    /// The factor of the schedule, for the report.
    pub lr_factor: f64,
    /// The loss scale, if it cannot shrink any more: then a step is not skipped, but fails.
    pub exhausted_scale: Option<f64>,
    /// Whether the caller has set the scalars after this step. Otherwise they are computed from
    /// those before it.
    pub scalars_are_next: bool,
}

impl<R: Rule> StepPlan<'_, R> {
    /// Steps every parameter that has buffers. The buffers have been checked. With an all-gather,
    /// the norm is that of all processes.
    pub fn run(
        &self,
        params: &mut [Param<'_, R>],
        tensors: &mut [Option<TensorBuffers<'_>>],
        all_gather: Option<AllGather<'_>>,
    ) -> Result<Report, Error> {
        check_float_mode()?;
        let engine = self.options.backend.resolve()?;
        self.check_bounds()?;
        self.check_rules(params, tensors)?;
        let piece = self.piece_size(tensors);
        self.norm_and_step(params, tensors, (engine, piece), all_gather)
    }

    /// Computes the norm if it is needed, then takes the step.
    fn norm_and_step(
        &self,
        params: &mut [Param<'_, R>],
        tensors: &mut [Option<TensorBuffers<'_>>],
        (engine, piece): (Engine, Option<PieceSize>),
        all_gather: Option<AllGather<'_>>,
    ) -> Result<Report, Error> {
        let StepPlan { options, grad_scale, skip, lr_factor, .. } = *self;
        // All that can fail comes before the exchange, so that no process fails after it alone.
        // Without an exchange, a step that is skipped creates no states.
        let mut created = Vec::new();
        if all_gather.is_some() {
            created = self.create_states(params, tensors)?;
        }
        let wanted =
            skip || options.report_norm || options.clip_norm.is_some() || all_gather.is_some();
        let norm = wanted.then(|| pass::norm(engine, piece, tensors));
        let norm = match (norm, all_gather) {
            (Some(norm), Some(all_gather)) => {
                let may_skip = match (skip, self.exhausted_scale) {
                    (false, _) => MaySkip::No,
                    (true, None) => MaySkip::Yes,
                    (true, Some(_)) => MaySkip::Exhausted,
                };
                Some(message::norm_of_all(all_gather, &norm, options, grad_scale, may_skip)?)
            }
            (norm, _) => norm,
        };
        let grad_norm = norm.as_ref().map(|norm| self.norm_of(norm) * grad_scale);
        let nonfinite = norm.as_ref().map(GradNorm::nonfinite);
        // The norm of finite `f64` gradients may overflow.
        let finite = nonfinite == Some(0) && grad_norm.is_some_and(f64::is_finite);
        let skipped = skip && !finite;
        if let (true, Some(scale)) = (skipped, self.exhausted_scale) {
            return Err(Error::LossScale { scale });
        }
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
        let context = PassContext {
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
            if created.is_empty() {
                created = self.create_states(params, tensors)?;
            }
            for (number, states) in created {
                params[number].states = Some(states);
            }
            pass::run(&context, piece, params, tensors)?;
        }
        let largest_update =
            context.largest_update.map(|largest| f64::from_bits(largest.into_inner()));
        Ok(Report { grad_norm, clip_factor, nonfinite, skipped, largest_update, lr_factor })
    }

    /// Creates the states of each parameter that takes its first step, with its index.
    fn create_states<'s>(
        &self,
        params: &[Param<'s, R>],
        tensors: &[Option<TensorBuffers<'_>>],
    ) -> Result<Vec<(usize, States<'s>)>, Error> {
        let (alone, mut created) = (tensors.len() == 1, Vec::new());
        for (number, (param, buffers)) in params.iter().zip(tensors).enumerate() {
            if buffers.is_some() && param.states.is_none() {
                let states = States::new(param.types.state, param.len, &self.rules[param.group]);
                let states = states.map_err(|error| error.of_param(&param.name, number, alone))?;
                created.push((number, states));
            }
        }
        Ok(created)
    }

    /// The scaling and clipping of a gradient before its rule uses it.
    fn scale(&self, clip_factor: f64) -> GradScale {
        let bound = self.options.clip_value.unwrap_or(f64::INFINITY);
        GradScale { factor: self.grad_scale * clip_factor, bound }
    }

    /// The norm to clip, or √Σg².
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

    /// Checks each rule and computes each kernel of this step, so that every error is found before
    /// anything is written. Also computes the scalars after the step.
    fn check_rules(
        &self,
        params: &mut [Param<'_, R>],
        tensors: &[Option<TensorBuffers<'_>>],
    ) -> Result<(), Error> {
        let scale = self.scale(1.0);
        scale.check()?;
        let (alone, mut checked) = (tensors.len() == 1, None);
        for (number, (param, buffers)) in params.iter_mut().zip(tensors).enumerate() {
            if buffers.is_none() {
                continue;
            }
            let group = param.group;
            let rule = &self.rules[group];
            let states = rule.states();
            let at_group = |error: Error| error.at_group(group, self.rules.len());
            let name = &param.name;
            let at_param = |error: Error| error.of_param(name, number, alone);
            if let Some(made) = &param.states {
                check_same_states(states, made.declared()).map_err(at_param)?;
            }
            let kernel = (param.group, param.t, param.types.theta.is_f64());
            // Includes the scalars of a rule that this group had before.
            let has_scalars = !rule.scalars().is_empty()
                || !param.scalars.is_empty()
                || !param.next_scalars.is_empty();
            if checked == Some(kernel) && !has_scalars {
                continue;
            }
            rule.check().map_err(at_group)?;
            let t = next_step_number(param.t).map_err(at_param)?;
            if has_scalars && !self.scalars_are_next {
                advance_scalars(rule, t, &param.scalars, &mut param.next_scalars);
            }
            let check = CheckKernel { scale, states };
            let made = if param.types.theta.is_f64() {
                rule.visit_kernel::<f64, _>(t, &param.next_scalars, check)
            } else {
                rule.visit_kernel::<f32, _>(t, &param.next_scalars, check)
            };
            made.map_err(at_group)?;
            checked = Some(kernel);
        }
        Ok(())
    }

    /// The size of the pieces that threads take, or `None` for the calling thread alone.
    fn piece_size(&self, tensors: &[Option<TensorBuffers<'_>>]) -> Option<PieceSize> {
        match self.options.parallelism {
            Parallelism::Serial => None,
            #[cfg(feature = "parallel")]
            Parallelism::Chunks(elements) => Some(PieceSize::Elements(elements.get())),
            #[cfg(feature = "parallel")]
            Parallelism::Auto => share::chunk_bytes(total_bytes(tensors)).map(PieceSize::Bytes),
            #[cfg(not(feature = "parallel"))]
            Parallelism::Auto => {
                let _ = tensors;
                None
            }
        }
    }
}

/// The visitor that checks a kernel and does not use it.
struct CheckKernel {
    scale: GradScale,
    states: &'static [State],
}

impl<F: Float> KernelVisitor<F> for CheckKernel {
    fn visit<K: Kernel<F, N>, const N: usize>(self, kernel: &K) -> Result<(), Error> {
        self.scale.before::<K, F>(*kernel)?;
        if N != self.states.len() {
            return Err(Error::KernelStates { kernel: N, names: names(self.states) });
        }
        Ok(())
    }
}
