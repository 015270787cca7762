//! A step of many tensors whose states the caller keeps: what an [`Optimizer`](super::Optimizer)
//! does, without its memory. It is for frameworks that have a place for states already.

use half::bf16;

use super::call::Call;
use super::region::StepBatch;
use super::tensor::{Grad, Job, MOST_LENT, States, Type, Types};
use super::{Param, Report, StepOptions};
use crate::backend::columns::AnySliceMut;
use crate::step::check_states;
use crate::types::Loop;
use crate::{Element, Error, Half, NamedRule, Parameter};

/// One tensor in a step of [`step_all`]: θ, its gradient, its states, its rule and its step number.
pub struct Lent<'a> {
    rule: usize,
    t: u64,
    seed: u64,
    offset: u64,
    job: Job<'a>,
    states: [AnySliceMut<'a>; MOST_LENT],
    given: usize,
}

impl<'a> Lent<'a> {
    /// A tensor that takes step number `t`, from 1 on, of rule number `rule`.
    pub fn new<T: Element, G: Element>(
        rule: usize,
        t: u64,
        theta: &'a mut [T],
        grad: &'a [G],
    ) -> Self {
        let job = Job { theta: T::any_mut(theta), grad: Grad::Read(G::any(grad)), copy: None };
        let states = [(); MOST_LENT].map(|()| AnySliceMut::default());
        Lent { rule, t, seed: 0, offset: 0, job, states, given: 0 }
    }

    /// The next of the states that [`Rule::state_names`](crate::Rule::state_names) names, four at the most. All of a tensor are
    /// of one type.
    #[must_use]
    pub fn state<S: Element>(mut self, state: &'a mut [S]) -> Self {
        if let Some(place) = self.states.get_mut(self.given) {
            *place = S::any_mut(state);
        }
        self.given += 1;
        self
    }

    /// Has the new θ, which is `f32`, stored a second time, rounded to the nearest.
    #[must_use]
    pub fn copy<H: Half>(mut self, copy: &'a mut [H]) -> Self {
        self.job.copy = Some(H::column_mut(copy));
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
    /// number `first` of the whole. It concerns stochastic rounding alone, whose random bits belong to the whole.
    /// Default: 0.
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
/// All are found before anything is written:
/// [`Error::UnknownGroup`] for a rule that is not in `rules`, [`Error::StepNumber`] for t = 0,
/// [`Error::MissingState`], [`Error::SuperfluousState`], and those of
/// [`Optimizer::step`](super::Optimizer::step), where a tensor's number in the list stands for its name.
pub fn step_all<'a, R: NamedRule>(
    rules: &[R],
    options: &StepOptions,
    tensors: impl IntoIterator<Item = Lent<'a>>,
) -> Result<Report, Error> {
    let tensors = tensors.into_iter();
    let mut params = Vec::with_capacity(tensors.size_hint().0);
    let mut jobs = Vec::with_capacity(tensors.size_hint().0);
    for (number, lent) in tensors.enumerate() {
        let Lent { rule, t, seed, offset, job, states, given } = lent;
        let names = rules
            .get(rule)
            .ok_or(Error::UnknownGroup { group: rule, groups: rules.len() })?
            .state_names();
        // A fifth has no place.
        check_states(names, if names.len() > MOST_LENT { given.min(MOST_LENT) } else { given })?;
        let t =
            t.checked_sub(1).ok_or(Error::StepNumber { t, expected: "1 for the first step" })?;
        let theta = job.theta.read();
        let len = theta.len();
        let (theta, grad) = (Type::of_slice(theta), Type::of_slice(job.grad.read()));
        let state = if given == 0 { theta } else { Type::of_slice(states[0].read()) };
        let step = batches(theta, grad, state);
        let param = Param {
            // Its number stands for it, in errors alone.
            name: String::new(),
            group: rule,
            len,
            types: Types { theta, grad, state, fused: step.is_some() },
            step: step.unwrap_or(|_, _, _| Ok(())),
            t,
            states: None,
            seed,
            offset,
        };
        let named = |error: Error| error.of_tensor(number);
        param.check(&job).map_err(named)?;
        for (&name, lent) in names.iter().zip(&states) {
            let lent = lent.read();
            param.check_length(name, lent.len()).map_err(named)?;
            let goes =
                (Type::of_slice(lent) == state) && (state == Type::F64) == (theta == Type::F64);
            if !goes {
                let expected = match theta {
                    Type::F64 => "f64",
                    _ if state == Type::F64 => "f32, bf16 or f16",
                    _ => state.name(),
                };
                return Err(named(param.wrong_type(name, lent.type_name(), expected)));
            }
        }
        params.push(Param { states: Some(States::lent(states, names)), ..param });
        jobs.push(Some(job));
    }
    let call = Call {
        rules,
        options,
        grad_scale: options.grad_scale,
        skip: options.skip_nonfinite,
        lr_factor: 1.0,
    };
    call.run(&mut params, &mut jobs)
}

/// The loop of these types, if they have one of their own.
fn batches<R: NamedRule>(theta: Type, grad: Type, state: Type) -> Option<StepBatch<R>> {
    use Type::{Bf16, F32, F64};
    fn of<T: Parameter<G, S>, G, S, R: NamedRule>() -> Option<StepBatch<R>> {
        T::Loop::batches::<R>()
    }
    match (theta, grad, state) {
        (F32, F32, F32) => of::<f32, f32, f32, R>(),
        (F64, F64, F64) => of::<f64, f64, f64, R>(),
        (F32, Bf16, F32) => of::<f32, bf16, f32, R>(),
        (Bf16, Bf16, Bf16) => of::<bf16, bf16, bf16, R>(),
        (Bf16, Bf16, F32) => of::<bf16, bf16, f32, R>(),
        _ => None,
    }
}
