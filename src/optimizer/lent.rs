//! A step of many tensors whose states the caller keeps: what an [`Optimizer`](super::Optimizer)
//! does, without its memory. It is for frameworks that have a place for states already.

use half::bf16;

use super::call::Call;
use super::options::{Report, StepOptions};
use super::param::{Param, StepBatch, Types};
use super::pass::step_batch;
use super::states::{Columns, States};
use super::tensor::{Grad, TensorBuffers};
use crate::elements::column::DType;
use crate::elements::{Element, Half};
use crate::error::Error;
use crate::rules::Rule;
use crate::step::{Scalars, check_scalars, check_states, scalars_after};

/// One tensor in a step of [`step_all`]: θ, its gradient, its states, its rule and its step number.
pub struct Lent<'a> {
    rule: usize,
    t: u64,
    seed: u64,
    offset: u64,
    buffers: TensorBuffers<'a>,
    states: Columns<'a>,
    scalars: Option<Scalars>,
}

impl<'a> Lent<'a> {
    /// A tensor that takes step number `t`, from 1 on, of rule number `rule`.
    pub fn new<T: Element, G: Element>(
        rule: usize,
        t: u64,
        theta: &'a mut [T],
        grad: &'a [G],
    ) -> Self {
        let grad = Grad::Read(G::column(grad));
        let buffers = TensorBuffers { theta: T::column_mut(theta), grad, copy: None };
        Lent { rule, t, seed: 0, offset: 0, buffers, states: Columns::new(), scalars: None }
    }

    /// The next of the states that [`Rule::states`] names. All of a tensor are of one type.
    #[must_use]
    pub fn state<S: Element>(mut self, state: &'a mut [S]) -> Self {
        self.states.push(S::column_mut(state));
        self
    }

    /// The scalars that the rule keeps, as they are after this step: [`Rule::advance_scalars`]
    /// makes them of those before it. Default: what they are after `t` steps with these
    /// hyper-parameters, [`Rule::scalar_after`].
    #[must_use]
    pub fn scalars(mut self, scalars: &[f64]) -> Self {
        self.scalars = Some(Scalars::from_slice(scalars));
        self
    }

    /// Has the new θ, which is `f32`, stored a second time, rounded to nearest.
    #[must_use]
    pub fn copy<H: Half>(mut self, copy: &'a mut [H]) -> Self {
        self.buffers.copy = Some(H::column_mut(copy));
        self
    }

    /// What this tensor's random bits are drawn from, together with the seed of
    /// [`Rounding::Stochastic`](crate::Rounding::Stochastic). Default: 0.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Says that this is a part of a tensor, the shard of one machine, say, whose first element is
    /// number `first` of the whole. It concerns stochastic rounding alone, whose random bits belong
    /// to the whole. Default: 0.
    #[must_use]
    pub fn offset(mut self, first: u64) -> Self {
        self.offset = first;
        self
    }
}

/// Takes a step on many tensors, in one parallel region, with states that the caller keeps: the
/// bits are those of [`Step`](crate::Step) on each tensor alone. It clips, scales and skips as
/// [`StepOptions`] says. Some bytes are allocated for each tensor.
///
/// ```
/// use fused_adam::{AdamW, Lent, StepOptions, step_all};
///
/// let rules = [AdamW::default(), AdamW { weight_decay: 0.0, ..AdamW::default() }];
/// let (mut weights, mut bias) = ([0.5_f32; 6], [0.0_f32; 2]);
/// let (mut m, mut v) = ([0.0_f32; 8], [0.0_f32; 8]);
/// let ((m0, m1), (v0, v1)) = (m.split_at_mut(6), v.split_at_mut(6));
/// step_all(&rules, &StepOptions::default(), [
///     Lent::new(0, 1, &mut weights, &[1.0_f32; 6]).state(m0).state(v0),
///     Lent::new(1, 1, &mut bias, &[1.0_f32; 2]).state(m1).state(v1),
/// ])?;
/// assert!((bias[0] + 1e-3).abs() < 1e-6);
/// # Ok::<(), fused_adam::Error>(())
/// ```
///
/// # Errors
///
/// All are found before anything is written: [`Error::UnknownGroup`] for a rule that is not in
/// `rules`, [`Error::StepNumber`] for t = 0, [`Error::MissingState`], [`Error::SuperfluousState`],
/// [`Error::Scalars`], and those of [`Optimizer::step`](super::Optimizer::step), where a tensor's
/// number in the list stands for its name.
pub fn step_all<'a, R: Rule>(
    rules: &[R],
    options: &StepOptions,
    tensors: impl IntoIterator<Item = Lent<'a>>,
) -> Result<Report, Error> {
    let tensors = tensors.into_iter();
    let mut params = Vec::with_capacity(tensors.size_hint().0);
    let mut all_buffers = Vec::with_capacity(tensors.size_hint().0);
    for (number, lent) in tensors.enumerate() {
        let Lent { rule: group, t, seed, offset, buffers, states, scalars } = lent;
        let rule = rules.get(group).ok_or(Error::UnknownGroup { group, groups: rules.len() })?;
        let declared = rule.states();
        check_states(declared, states.len())?;
        let before =
            t.checked_sub(1).ok_or(Error::StepNumber { t, expected: "1 for the first step" })?;
        let next_scalars = match scalars {
            Some(scalars) => {
                check_scalars(rule.scalars(), scalars.len())?;
                scalars
            }
            None if rule.scalars().is_empty() => Scalars::new(),
            None => {
                rule.check()?;
                scalars_after(rule, t)
            }
        };
        let (theta, grad) = (buffers.theta.dtype(), buffers.grad.column().dtype());
        let state = states.first().map_or(theta, |state| state.dtype());
        let param = Param {
            // Its number stands for it, in errors alone.
            name: String::new(),
            group,
            len: buffers.theta.len(),
            types: Types { theta, grad, state },
            step: step_of_types(Types { theta, grad, state }),
            t: before,
            states: None,
            scalars: Scalars::new(),
            next_scalars,
            seed,
            offset,
        };
        let named = |error: Error| error.of_tensor(number);
        param.check(&buffers).map_err(named)?;
        for (name, lent) in declared.iter().map(|state| state.name()).zip(&states) {
            param.check_length(name, lent.len()).map_err(named)?;
            let dtype = lent.dtype();
            if dtype != state || dtype.is_f64() != theta.is_f64() {
                let expected = match theta {
                    DType::F64 => "f64",
                    _ if state.is_f64() => "f32, bf16 or f16",
                    _ => state.name(),
                };
                return Err(named(param.wrong_type(name, dtype.name(), expected)));
            }
        }
        params.push(Param { states: Some(States::lent(states, declared)), ..param });
        all_buffers.push(Some(buffers));
    }
    let call = Call {
        rules,
        options,
        grad_scale: options.grad_scale,
        skip: options.skip_nonfinite,
        lr_factor: 1.0,
        scalars_are_next: true,
    };
    call.run(&mut params, &mut all_buffers)
}

/// The code for these types.
fn step_of_types<R: Rule>(types: Types) -> StepBatch<R> {
    use DType::{Bf16, F32, F64};
    match (types.theta, types.grad, types.state) {
        (F64, ..) => step_batch::<f64, f64, f64, R>,
        (F32, Bf16, F32) => step_batch::<f32, bf16, f32, R>,
        (Bf16, Bf16, Bf16) => step_batch::<bf16, bf16, bf16, R>,
        (Bf16, Bf16, F32) => step_batch::<bf16, bf16, f32, R>,
        // Those without a loop of their own too: see `step_of`.
        _ => step_batch::<f32, f32, f32, R>,
    }
}
