//! One step on plain slices: everything is checked, then the rule's kernel runs.
//!
//! The way of the data, one file each: [`Step`] here checks the slices and makes [`Rows`] of them;
//! [`chunks`] cuts these for threads; [`sweep`] finds the loop of their types; [`vector`] is that
//! loop, and [`tiles`] the one for types that have none; [`grad_scale`] goes before the rule's
//! arithmetic. [`flat`] owns the states of one buffer.

mod chunks;
mod flat;
pub(crate) mod grad_scale;
pub(crate) mod sweep;
mod tiles;
mod vector;

pub use chunks::Schedule;
pub use flat::Flat;

use core::marker::PhantomData;

use smallvec::SmallVec;

use crate::elements::column::{Column, ColumnMut};
use crate::elements::rounding::{Noise, Rounding};
use crate::elements::rows::Rows;
use crate::elements::{Element, Half};
use crate::error::Error;
use crate::rules::state::{State, names};
use crate::rules::{Kernel, Rule, WithKernel};
use crate::simd::dispatch::{Backend, Engine};
use grad_scale::GradScale;

/// One step of a rule, to be taken on plain slices. Nothing is allocated, but for rayon's job of
/// some dozen bytes when a parallel step is called from outside of any pool.
///
/// ```
/// use fused_adam::{AdamW, Backend, Schedule, Step};
///
/// let adamw = AdamW { lr: 1e-2, amsgrad: true, ..AdamW::default() };
/// let (mut theta, grad) = (vec![0.5_f32; 1000], vec![1.0_f32; 1000]);
/// let (mut m, mut v, mut v_max) = (vec![0.0; 1000], vec![0.0; 1000], vec![0.0; 1000]);
/// Step::new(&adamw, 1)
///     .backend(Backend::Wide)
///     .schedule(Schedule::Serial)
///     .run(&mut theta, &grad, &mut [&mut m, &mut v, &mut v_max])?;
/// # Ok::<(), fused_adam::Error>(())
/// ```
///
/// The step is elementwise. So any part of the buffers may be stepped alone, say the shard that
/// this machine owns, and gets the bits that it would get in a step of the whole:
///
/// ```
/// # use fused_adam::{AdamW, Step};
/// # let adamw = AdamW::default();
/// # let (mut theta, grad) = (vec![0.5_f32; 1000], vec![1.0_f32; 1000]);
/// # let (mut m, mut v) = (vec![0.0; 400], vec![0.0; 400]);
/// let shard = 600..1000;
/// Step::new(&adamw, 1).run(&mut theta[shard.clone()], &grad[shard], &mut [&mut m, &mut v])?;
/// # Ok::<(), fused_adam::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a step does nothing until `run`"]
pub struct Step<'r, R> {
    rule: &'r R,
    t: u64,
    backend: Backend,
    schedule: Schedule,
    rounding: Rounding,
    offset: u64,
    scale: GradScale,
    scalars: Option<&'r [f64]>,
}

impl<'r, R: Rule> Step<'r, R> {
    /// Step number `t` of `rule`, from 1 on. The number enters the step's coefficients (bias
    /// corrections and schedules) and its random bits, and nothing else: it may stand still, jump
    /// or go backwards, and the caller is trusted with it.
    pub fn new(rule: &'r R, t: u64) -> Self {
        Step {
            rule,
            t,
            backend: Backend::default(),
            schedule: Schedule::default(),
            rounding: Rounding::default(),
            offset: 0,
            scale: GradScale::NONE,
            scalars: None,
        }
    }

    /// Asks for a backend. Default: [`Backend::Auto`].
    pub fn backend(self, backend: Backend) -> Self {
        Step { backend, ..self }
    }

    /// Asks for threads. Default: [`Schedule::Auto`].
    pub fn schedule(self, schedule: Schedule) -> Self {
        Step { schedule, ..self }
    }

    /// Asks for a rounding of what is stored in 16 bits. Default: [`Rounding::Nearest`].
    pub fn rounding(self, rounding: Rounding) -> Self {
        Step { rounding, ..self }
    }

    /// Says that the first element of `theta` is number `first` of a whole, of which this is a
    /// part. It concerns stochastic rounding alone, whose random bits belong to the whole. Default:
    /// 0.
    pub fn offset(self, first: u64) -> Self {
        Step { offset: first, ..self }
    }

    /// Has every gradient multiplied by `factor` before the rule sees it, in the same pass: one
    /// over a loss scale, say, or what clips a norm. `grad` itself is not written. The factor, from
    /// 0 up, is rounded to the type that is computed with, and the product once. Default: 1.
    ///
    /// ```
    /// use fused_adam::{AdamW, Step};
    ///
    /// let (mut theta, mut m, mut v) = ([1.0_f32], [0.0], [0.0]);
    /// let grad = [512.0]; // of a loss that was multiplied by 1024
    /// Step::new(&AdamW::default(), 1)
    ///     .grad_scale(1.0 / 1024.0)
    ///     .run(&mut theta, &grad, &mut [&mut m, &mut v])?;
    /// assert!((grad, m[0]) == ([512.0], 0.1 * 0.5));
    /// # Ok::<(), fused_adam::Error>(())
    /// ```
    pub fn grad_scale(self, factor: f64) -> Self {
        Step { scale: GradScale { factor, ..self.scale }, ..self }
    }

    /// Has every gradient, after it has been scaled, held within ±`bound`, in the same pass; NaN
    /// stays. The bound, above 0, is rounded to the type that is computed with. Default: infinity,
    /// which is none.
    pub fn clip_value(self, bound: f64) -> Self {
        Step { scale: GradScale { bound, ..self.scale }, ..self }
    }

    /// The scalars that the rule keeps beside its states, as they are after this step:
    /// [`Rule::advance_scalars`] makes them of those before it. Default: what they are after `t`
    /// steps with these hyper-parameters, [`Rule::scalar_after`].
    ///
    /// ```
    /// use fused_adam::{NAdam, Rule, Step};
    ///
    /// let (mut theta, mut m, mut v) = ([1.0_f64], [0.0], [0.0]);
    /// let (mut nadam, mut scalars) = (NAdam::default(), [1.0]); // the product of no momenta
    /// for t in 1..=10 {
    ///     nadam.beta1 = 0.9 + 0.005 * t as f64; // a schedule
    ///     nadam.advance_scalars(t, &mut scalars);
    ///     Step::new(&nadam, t)
    ///         .scalars(&scalars)
    ///         .run(&mut theta, &[1.0], &mut [&mut m, &mut v])?;
    /// }
    /// # Ok::<(), fused_adam::Error>(())
    /// ```
    pub fn scalars(self, scalars: &'r [f64]) -> Self {
        Step { scalars: Some(scalars), ..self }
    }

    /// Takes the step: updates `theta` and each state in place, from `grad`, all of one element
    /// type.
    ///
    /// `state` holds the buffers that [`Rule::states`] names, in that order. All slices are
    /// equally long; empty ones are fine. NaN and infinities in them follow IEEE 754.
    ///
    /// # Errors
    ///
    /// All are found before anything is written: [`Error::HyperParameter`],
    /// [`Error::StepNumber`] for t = 0, [`Error::Length`], [`Error::MissingState`],
    /// [`Error::SuperfluousState`], [`Error::Scalars`] and [`Error::BackendNotAvailable`].
    pub fn run<E: Element>(
        &self,
        theta: &mut [E],
        grad: &[E],
        state: &mut [&mut [E]],
    ) -> Result<(), Error> {
        self.run_on(theta, grad, state, None)
    }

    /// Takes the step with a gradient, or states, of another type than `theta`: `f64` goes with
    /// `f64` alone, and `f32`, `bf16` and `f16` go together in any mixture. What is stored in 16
    /// bits is computed in `f32`, and rounded as [`rounding`](Self::rounding) says.
    ///
    /// ```
    /// use fused_adam::{AdamW, Rounding, Step, bf16};
    ///
    /// // Everything in 16 bits but the moments.
    /// let mut theta = vec![bf16::ONE; 1000];
    /// let grad = vec![bf16::from_f32(0.1); 1000];
    /// let (mut m, mut v) = (vec![0.0_f32; 1000], vec![0.0_f32; 1000]);
    /// Step::new(&AdamW::default(), 1)
    ///     .rounding(Rounding::Stochastic { seed: 7 })
    ///     .run_mixed(&mut theta, &grad, &mut [&mut m, &mut v])?;
    /// # Ok::<(), fused_adam::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`run`](Self::run).
    pub fn run_mixed<T: Element, G: Element<Float = T::Float>, S: Element<Float = T::Float>>(
        &self,
        theta: &mut [T],
        grad: &[G],
        state: &mut [&mut [S]],
    ) -> Result<(), Error> {
        self.run_on(theta, grad, state, None)
    }

    /// Takes the step on master weights: stores the new `theta` a second time, in `copy`, rounded
    /// to the nearest 16-bit number, in the same pass.
    ///
    /// ```
    /// use fused_adam::{AdamW, Step, bf16};
    ///
    /// let mut theta = vec![1.0_f32; 1000];
    /// let grad = vec![bf16::from_f32(0.1); 1000];
    /// let (mut m, mut v) = (vec![0.0_f32; 1000], vec![0.0_f32; 1000]);
    /// let mut for_the_forward_pass = vec![bf16::ZERO; 1000];
    /// Step::new(&AdamW::default(), 1)
    ///     .run_with_copy(&mut theta, &grad, &mut [&mut m, &mut v], &mut for_the_forward_pass)?;
    /// assert_eq!(for_the_forward_pass[0], bf16::from_f32(theta[0]));
    /// # Ok::<(), fused_adam::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`run`](Self::run).
    pub fn run_with_copy<G: Element<Float = f32>, S: Element<Float = f32>, H: Half>(
        &self,
        theta: &mut [f32],
        grad: &[G],
        state: &mut [&mut [S]],
        copy: &mut [H],
    ) -> Result<(), Error> {
        self.run_on(theta, grad, state, Some(H::column_mut(copy)))
    }

    /// The step on states of any type that is a slice underneath, and perhaps with a copy of θ.
    #[inline]
    pub(crate) fn run_on<T, G, S, B>(
        &self,
        theta: &mut [T],
        grad: &[G],
        state: &mut [B],
        copy: Option<ColumnMut<'_>>,
    ) -> Result<(), Error>
    where
        T: Element,
        G: Element<Float = T::Float>,
        S: Element<Float = T::Float>,
        B: AsMut<[S]>,
    {
        // A rule of more states than have room here costs an allocation.
        let (mut few, mut many) = ([(); 4].map(|()| ColumnMut::default()), Vec::new());
        let columns = state.iter_mut().map(|state| S::column_mut(state.as_mut()));
        let state = match few.get_mut(..columns.len()) {
            Some(few) => {
                few.iter_mut().zip(columns).for_each(|(place, column)| *place = column);
                few
            }
            None => {
                many.extend(columns);
                &mut many
            }
        };
        let (theta, grad) = (T::column_mut(theta), G::column(grad));
        // Types that have no loop of their own share the code of `f32`, which finds tiles for them.
        if const { sweep::is_fused::<T, G, S>() } {
            self.run_columns::<T, G, S>(theta, grad, state, copy)
        } else {
            self.run_columns::<f32, f32, f32>(theta, grad, state, copy)
        }
    }

    /// Checks everything, then runs the kernel by code for the types `T`, `G` and `S`.
    #[inline(always)]
    fn run_columns<T, G, S>(
        &self,
        theta: ColumnMut<'_>,
        grad: Column<'_>,
        state: &mut [ColumnMut<'_>],
        copy: Option<ColumnMut<'_>>,
    ) -> Result<(), Error>
    where
        T: Element,
        G: Element<Float = T::Float>,
        S: Element<Float = T::Float>,
    {
        let (rule, t, len) = (self.rule, self.t, theta.len());
        if t == 0 {
            return Err(Error::StepNumber { t: 0, expected: "1 for the first step" });
        }
        rule.check()?;
        self.scale.check()?;
        let states = rule.states();
        check_states(states, state.len())?;
        check_length("grad", grad.len(), len)?;
        for (declared, state) in states.iter().zip(&*state) {
            check_length(declared.name(), state.len(), len)?;
        }
        if let Some(copy) = &copy {
            check_length("copy", copy.len(), len)?;
        }
        let noise = match self.rounding {
            Rounding::Nearest => None,
            Rounding::Stochastic { seed } => Some(Noise::new(seed, t, self.offset)),
        };
        let run = Run {
            engine: self.backend.resolve()?,
            schedule: self.schedule,
            scale: self.scale,
            states,
            theta,
            grad,
            state,
            copy,
            noise,
            types: PhantomData::<(T, G, S)>,
        };
        match self.scalars {
            Some(scalars) => {
                check_scalars(rule.scalars(), scalars.len())?;
                rule.with_kernel(t, scalars, run)
            }
            None if rule.scalars().is_empty() => rule.with_kernel(t, &[], run),
            None => rule.with_kernel(t, &scalars_after(rule, t), run),
        }
    }
}

/// A step, waiting for its kernel.
struct Run<'a, 's, Types> {
    engine: Engine,
    schedule: Schedule,
    scale: GradScale,
    states: &'static [State],
    theta: ColumnMut<'a>,
    grad: Column<'a>,
    state: &'a mut [ColumnMut<'s>],
    copy: Option<ColumnMut<'a>>,
    noise: Option<Noise>,
    types: PhantomData<Types>,
}

impl<T, G, S> WithKernel<T::Float> for Run<'_, '_, (T, G, S)>
where
    T: Element,
    G: Element<Float = T::Float>,
    S: Element<Float = T::Float>,
{
    #[inline]
    fn with<K: Kernel<T::Float, N>, const N: usize>(self, kernel: &K) -> Result<(), Error> {
        let Run { engine, schedule, scale, states, theta, grad, state, copy, noise, .. } = self;
        let Ok(state) = <&mut [ColumnMut<'_>; N]>::try_from(state) else {
            return Err(Error::KernelStates { kernel: N, names: names(states) });
        };
        let state = state.each_mut().map(ColumnMut::reborrow);
        let kernel = scale.before(*kernel)?;
        let rows = Rows { theta, grad, state, copy, noise };
        schedule.each(rows, |rows| sweep::sweep::<T, G, S, _, N>(engine, &kernel, rows));
        Ok(())
    }
}

/// The scalars of one parameter.
pub(crate) type Scalars = SmallVec<[f64; 2]>;

/// The scalars of a rule after `t` steps with its present hyper-parameters.
pub(crate) fn scalars_after(rule: &impl Rule, t: u64) -> Scalars {
    (0..rule.scalars().len()).map(|i| rule.scalar_after(i, t)).collect()
}

/// Sets `next` to the scalars after step `t`, from those before it; where these are not as many as the
/// rule keeps, since it is another rule now, from those after `t` − 1 steps of it.
pub(crate) fn advance_scalars(rule: &impl Rule, t: u64, before: &[f64], next: &mut Scalars) {
    if before.len() == rule.scalars().len() {
        next.clear();
        next.extend_from_slice(before);
    } else {
        *next = scalars_after(rule, t - 1);
    }
    rule.advance_scalars(t, next);
}

/// That so many states are those of a rule.
#[inline]
pub(crate) fn check_states(states: &'static [State], given: usize) -> Result<(), Error> {
    if given == states.len() { Ok(()) } else { Err(other_states(states, given)) }
}

#[cold]
fn other_states(states: &'static [State], given: usize) -> Error {
    let (expected, names) = (states.len(), names(states));
    match states.get(given) {
        Some(state) => Error::MissingState { name: state.name(), expected, names },
        None => Error::SuperfluousState { given, expected, names },
    }
}

/// That a rule keeps the states that were made for it.
#[inline]
pub(crate) fn check_same_states(
    states: &'static [State],
    made: &'static [State],
) -> Result<(), Error> {
    if core::ptr::eq(states, made) { Ok(()) } else { check_same_names(states, made) }
}

#[cold]
fn check_same_names(states: &'static [State], made: &'static [State]) -> Result<(), Error> {
    match states.iter().zip(made).position(|(state, made)| state.name() != made.name()) {
        None => check_states(states, made.len()),
        Some(other) => Err(other_states(states, other)),
    }
}

/// That so many scalars are those of a rule.
pub(crate) fn check_scalars(expected: &'static [&'static str], given: usize) -> Result<(), Error> {
    if given == expected.len() {
        return Ok(());
    }
    Err(Error::Scalars { given, expected: expected.len(), names: expected })
}

fn check_length(name: &'static str, len: usize, expected: usize) -> Result<(), Error> {
    if len == expected { Ok(()) } else { Err(Error::Length { name, len, expected }) }
}

macro_rules! step_of_rules {
    ($($name:ident: $Rule:ident),* $(,)?) => {$(
        impl crate::rules::$Rule {
            /// Takes step number `t` ≥ 1 on plain slices, with the backend and the threads chosen
            /// automatically; see [`Step`] to choose them. `states` are those that
            /// [`states`](Rule::states) names, in that order.
            ///
            /// # Errors
            ///
            /// Those of [`Step::run`].
            pub fn step<E: Element, const N: usize>(
                &self,
                t: u64,
                theta: &mut [E],
                grad: &[E],
                mut states: [&mut [E]; N],
            ) -> Result<(), Error> {
                Step::new(self, t).run(theta, grad, &mut states)
            }
        }
    )*};
}

for_each_rule!(step_of_rules);
