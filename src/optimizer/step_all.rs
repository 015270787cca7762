//! A step of many tensors whose states the caller owns: the step of an
//! [`Optimizer`](super::Optimizer) without stored states. It is for frameworks that already store
//! the states.

use half::bf16;

use super::message::{self, AllGather};
use super::options::{Report, StepOptions};
use super::param::{Param, StepBatch, Types};
use super::pass::{step_of, step_of_blocks, step_of_tiles};
use super::shard::{Position, Shard};
use super::states::{Columns, States};
use super::step_plan::StepPlan;
use super::tensor::{Grad, TensorBuffers, common_methods};
use crate::elements::block8::Block8;
use crate::elements::column::DType;
use crate::elements::rows::Beside;
use crate::elements::split::Correction;
use crate::elements::{Element, Half, StateElement};
use crate::error::Error;
use crate::rules::Rule;
use crate::step::select::for_each_fused;
use crate::step::{
    Scalars, check_scalars, check_state, check_states, check_step_number, scalars_after,
};

/// One tensor in a call of [`step_all`]: θ, its gradient, its states, its rule and its step number.
#[derive(Debug)]
pub struct ParamMut<'a> {
    rule: usize,
    t: u64,
    seed: u64,
    buffers: TensorBuffers<'a>,
    states: Columns<'a>,
    scalars: Option<Scalars>,
}

impl<'a> ParamMut<'a> {
    /// A tensor that takes step number `t` ≥ 1 with rule number `rule` of the list. `theta` and
    /// `grad` have the same length.
    pub fn new<T: Element, G: Element>(
        rule: usize,
        t: u64,
        theta: &'a mut [T],
        grad: &'a [G],
    ) -> Self {
        let buffers = TensorBuffers::new(theta, Grad::Read(G::column(grad)));
        ParamMut { rule, t, seed: 0, buffers, states: Columns::new(), scalars: None }
    }

    /// Adds the next of the states that [`Rule::states`] names. All states of a tensor have one
    /// type: an element type, or [`Block8`](crate::Block8) for 8 bits.
    #[must_use]
    pub fn with_state<S: StateElement>(mut self, state: &'a mut [S]) -> Self {
        self.states.push(S::column_mut(state));
        self
    }

    /// The scalars that the rule keeps beside its states, with their values after this step, as
    /// [`Rule::advance_scalars`] computes them from those before it. Default:
    /// [`Rule::scalar_after`] `t`, the values after `t` steps with the current hyper-parameters.
    #[must_use]
    pub fn with_scalars(mut self, scalars: &[f64]) -> Self {
        self.scalars = Some(Scalars::from_slice(scalars));
        self
    }

    /// Sets the seed of the random bits of this tensor. It is combined with the seed of
    /// [`Rounding::Stochastic`](crate::Rounding::Stochastic). Give each tensor another one, also
    /// for states in 8 bits: tensors with the same seed have the same random bits. Default: 0.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }
}

common_methods!(ParamMut);

/// Takes a step on many tensors, in one parallel region, with states that the caller owns. The bits
/// are those of [`Step`](crate::Step) on each tensor alone. It scales, clips and skips as
/// [`StepOptions`] says. It allocates a few bytes for each tensor.
///
/// ```
/// use fused_adam::{AdamW, ParamMut, StepOptions, step_all};
///
/// let rules = [AdamW::default(), AdamW { weight_decay: 0.0, ..AdamW::default() }];
/// let (mut weights, mut bias) = ([0.5_f32; 6], [0.0_f32; 2]);
/// let (mut m, mut v) = ([0.0_f32; 8], [0.0_f32; 8]);
/// let ((m0, m1), (v0, v1)) = (m.split_at_mut(6), v.split_at_mut(6));
/// step_all(&rules, &StepOptions::default(), [
///     ParamMut::new(0, 1, &mut weights, &[1.0_f32; 6]).with_state(m0).with_state(v0),
///     ParamMut::new(1, 1, &mut bias, &[1.0_f32; 2]).with_state(m1).with_state(v1),
/// ])?;
/// assert!((bias[0] + 1e-3).abs() < 1e-6);
/// # Ok::<(), fused_adam::Error>(())
/// ```
///
/// # Errors
///
/// Nothing is written if the step fails. Errors name a tensor by its number in the list:
///
/// - [`Error::RuleIndex`] for a rule number that is not in `rules`;
/// - [`Error::StepNumber`] for `t` = 0;
/// - [`Error::MissingState`], [`Error::SuperfluousState`] and [`Error::Scalars`];
/// - [`Error::Blocks`] for a wrong number of blocks of a state in 8 bits;
/// - the errors of [`Optimizer::step`](super::Optimizer::step).
pub fn step_all<'a, R: Rule>(
    rules: &[R],
    options: &StepOptions,
    tensors: impl IntoIterator<Item = ParamMut<'a>>,
) -> Result<Report, Error> {
    step_borrowed(rules, options, tensors, None)
}

/// Takes a step in which each process has a shard of the tensors, or some of them, and the norm is
/// that of the gradients of all processes. So clipping and skipping have the same bits for any
/// number of processes.
///
/// It is [`step_all`] with one exchange between the norm and the step. `all_gather` gets the
/// message of this process, whose length is the same on all processes. It returns the messages of
/// all processes in the order of their ranks, as `MPI_Allgather` does. It is called once, also if
/// this process cannot take the step or has no tensors: then the message says so. (If an iterator
/// or a rule of the caller panics, it is not called.) All processes read the same messages. So
/// **all take the step, all skip it, or all fail.**
///
/// All processes must have the same `grad_scale`, `clip_norm`, `clip_value` and `skip_nonfinite`,
/// which is checked, and the same rules. A gradient that several processes have is counted on one
/// of them, and [left out](ParamMut::without_norm) on the others. The norm is computed and reported
/// even if no option needs it. Without clipping and skipping, use [`step_all`].
///
/// ```
/// use fused_adam::{AdamW, ClipNorm, ParamMut, StepOptions, step_all_distributed};
///
/// let options = StepOptions { clip_norm: Some(ClipNorm::Two(1.0)), ..StepOptions::default() };
/// let (mut theta, mut m, mut v) = ([0.5_f32; 4], [0.0_f32; 4], [0.0_f32; 4]);
/// let shard = ParamMut::new(0, 1, &mut theta, &[1.5_f32; 4]);
/// let shard = shard.with_state(&mut m).with_state(&mut v);
/// // Stands for the all-gather of two processes that have the same gradients.
/// let all_gather = |message: &[u8]| Ok(message.repeat(2));
/// let report = step_all_distributed(&[AdamW::default()], &options, [shard], all_gather)?;
/// assert_eq!(report.grad_norm, Some(18.0_f64.sqrt()));
/// # Ok::<(), fused_adam::Error>(())
/// ```
///
/// # Errors
///
/// Those of [`step_all`]. If other processes have an error and this one has none:
///
/// - [`Error::OtherProcess`], with the rank and the error of the first of them;
/// - [`Error::OptionDiffers`] if an option differs between processes;
/// - [`Error::AllGather`] if `all_gather` does not return one message of each process, or returns
///   this error itself.
pub fn step_all_distributed<'a, R: Rule>(
    rules: &[R],
    options: &StepOptions,
    tensors: impl IntoIterator<Item = ParamMut<'a>>,
    all_gather: impl FnOnce(&[u8]) -> Result<Vec<u8>, Error>,
) -> Result<Report, Error> {
    message::once(all_gather, |all_gather| step_borrowed(rules, options, tensors, Some(all_gather)))
}

fn step_borrowed<'a, R: Rule>(
    rules: &[R],
    options: &StepOptions,
    tensors: impl IntoIterator<Item = ParamMut<'a>>,
    all_gather: Option<AllGather<'_>>,
) -> Result<Report, Error> {
    let tensors = tensors.into_iter();
    let alone = tensors.size_hint() == (1, Some(1));
    let mut params = Vec::with_capacity(tensors.size_hint().0);
    let mut all_buffers = Vec::with_capacity(tensors.size_hint().0);
    for (number, borrowed) in tensors.enumerate() {
        let ParamMut { rule: group, t, seed, buffers, mut states, scalars } = borrowed;
        let named = |error: Error| error.of_tensor(number, alone);
        let unknown = Error::RuleIndex { rule: group, rules: rules.len() };
        let rule = rules.get(group).ok_or(unknown).map_err(named)?;
        let declared = rule.states();
        check_states(declared, states.len()).map_err(named)?;
        check_step_number(t).map_err(named)?;
        let next_scalars = match scalars {
            Some(scalars) => {
                check_scalars(rule.scalars(), scalars.len()).map_err(named)?;
                scalars
            }
            None if rule.scalars().is_empty() => Scalars::new(),
            None => {
                rule.check().map_err(|error| error.at_group(group, rules.len()))?;
                scalars_after(rule, t)
            }
        };
        let (theta, grad) = (buffers.theta.dtype(), buffers.grad.column().dtype());
        let state = states.first().map_or(theta, |state| state.dtype());
        let param = Param {
            // Errors give its number in the list.
            name: String::new(),
            group,
            len: buffers.theta.len(),
            types: Types { theta, grad, state },
            step: step_of_types(Types { theta, grad, state }),
            t: t - 1,
            states: None,
            scalars: Scalars::new(),
            next_scalars,
            seed,
        };
        param.check(&buffers).map_err(named)?;
        for (declared, borrowed) in declared.iter().zip(&mut states) {
            let name = declared.name();
            if borrowed.dtype() == DType::Block8 {
                check_state(declared, borrowed, param.len).map_err(named)?;
            } else {
                param.check_length(name, borrowed.len()).map_err(named)?;
            }
            let dtype = borrowed.dtype();
            if dtype != state || dtype.is_f64() != theta.is_f64() {
                let expected = match theta {
                    DType::F64 => "f64",
                    _ if state.is_f64() => "f32, bf16, f16 or 8 bits",
                    _ => state.name(),
                };
                return Err(named(param.wrong_type(name, dtype.name(), expected)));
            }
        }
        params.push(Param { states: Some(States::borrowed(states, declared)), ..param });
        all_buffers.push(Some(buffers));
    }
    let plan = StepPlan {
        rules,
        options,
        grad_scale: options.grad_scale,
        skip: options.skip_nonfinite,
        exhausted_scale: None,
        lr_factor: 1.0,
        scalars_are_next: true,
    };
    plan.run(&mut params, &mut all_buffers, all_gather)
}

/// [`step_of`] for types that are known at run time.
fn step_of_types<R: Rule>(types: Types) -> StepBatch<R> {
    macro_rules! choose {
        ($([$theta:ident $grad:ident $state:ident])*) => {
            match (types.theta, types.grad, types.state) {
                $((
                    <$theta as StateElement>::DTYPE,
                    <$grad as StateElement>::DTYPE,
                    <$state as StateElement>::DTYPE,
                ) => step_of::<$theta, $grad, $state, R>(),)*
                (_, _, DType::Block8) => step_of_blocks::<R>(),
                _ => step_of_tiles::<R>(),
            }
        };
    }
    for_each_fused!(choose)
}
