//! One step on plain slices: check all arguments, then run the rule's kernel.
//!
//! The data flow, one file per stage: [`Step`], in this file, checks the slices and builds [`Rows`]
//! from them. [`chunks`] cuts the rows for threads. [`select`] selects the loop for the element
//! types. [`vector`] is that loop, and [`tiles`] is the loop for types without their own.
//! [`blocks`] is the loop for states in 8 bits.
//! [`grad_scale`] scales and clips the gradient before the rule's arithmetic. [`flat`] owns the
//! states of one buffer.

mod blocks;
mod checks;
mod chunks;
mod flat;
pub(crate) mod grad_scale;
mod scalars;
pub(crate) mod select;
mod tiles;
mod vector;

pub use chunks::Parallelism;
pub use flat::Flat;

use core::marker::PhantomData;

use half::bf16;

use crate::elements::block8::Block8;
use crate::elements::column::{Column, ColumnMut};
use crate::elements::rounding::{Noise, Rounding};
use crate::elements::rows::{Beside, Rows};
use crate::elements::split::Correction;
use crate::elements::{Element, Half, StateElement};
use crate::error::Error;
use crate::rules::state::{State, names};
use crate::rules::{Kernel, KernelVisitor, Rule};
use crate::simd::dispatch::{Backend, Engine};
use checks::check_length;
pub(crate) use checks::{
    check_blocks, check_float_mode, check_length_as, check_offset, check_same_states,
    check_scalars, check_state, check_states, check_step_number, next_step_number,
};
use grad_scale::GradScale;
pub(crate) use scalars::{Scalars, advance_scalars, scalars_after};

/// One step of a rule on plain slices.
///
/// A step allocates only in three cases: rayon allocates a job of a few dozen bytes when a parallel
/// step is called from outside any pool; a rule with more than four states needs a list of them;
/// and so does a rule with more than two scalars, unless you set them with
/// [`with_scalars`](Self::with_scalars).
///
/// ```
/// use fused_adam::{AdamW, Backend, Parallelism, Step};
///
/// let adamw = AdamW { lr: 1e-2, amsgrad: true, ..AdamW::default() };
/// let (mut theta, grad) = (vec![0.5_f32; 1000], vec![1.0_f32; 1000]);
/// let (mut m, mut v, mut v_max) = (vec![0.0; 1000], vec![0.0; 1000], vec![0.0; 1000]);
/// Step::new(&adamw, 1)
///     .with_backend(Backend::Wide)
///     .with_parallelism(Parallelism::Serial)
///     .run(&mut theta, &grad, &mut [&mut m, &mut v, &mut v_max])?;
/// # Ok::<(), fused_adam::Error>(())
/// ```
///
/// The step is elementwise, but for states in 8 bits: there, a part begins at a multiple of 32, and
/// a NaN spreads to the 32 elements of its block. You can step any part of the buffers alone, such
/// as one machine's shard, and get the same bits as in a step of the whole. With stochastic
/// rounding, set [`with_offset`](Self::with_offset):
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
    parallelism: Parallelism,
    rounding: Rounding,
    seed: u64,
    offset: u64,
    scale: GradScale,
    scalars: Option<&'r [f64]>,
}

impl<'r, R: Rule> Step<'r, R> {
    /// Step number `t` ≥ 1 of `rule`. The step number only affects the step's coefficients (bias
    /// corrections and schedules) and its random bits. It is not checked that `t` increases: it may
    /// repeat, skip numbers or decrease.
    pub fn new(rule: &'r R, t: u64) -> Self {
        Step {
            rule,
            t,
            backend: Backend::default(),
            parallelism: Parallelism::default(),
            rounding: Rounding::default(),
            seed: 0,
            offset: 0,
            scale: GradScale::NONE,
            scalars: None,
        }
    }

    /// Sets the backend. Default: [`Backend::Auto`].
    pub fn with_backend(self, backend: Backend) -> Self {
        Step { backend, ..self }
    }

    /// Sets the threads that the step runs on. Default: [`Parallelism::Auto`].
    pub fn with_parallelism(self, parallelism: Parallelism) -> Self {
        Step { parallelism, ..self }
    }

    /// Sets the rounding of values that are stored in 16 bits. Default: [`Rounding::Nearest`].
    pub fn with_rounding(self, rounding: Rounding) -> Self {
        Step { rounding, ..self }
    }

    /// Sets the seed of the random bits of this buffer, as
    /// [`ParamMut::with_seed`](crate::ParamMut::with_seed) does. It is combined with the seed of
    /// [`Rounding::Stochastic`], by exclusive or. Buffers that are stepped one by one need
    /// different seeds. Default: 0.
    pub fn with_seed(self, seed: u64) -> Self {
        Step { seed, ..self }
    }

    /// Sets the index of the first element of `theta` in the whole tensor, for a step on a part of
    /// it. It only affects stochastic rounding, whose random bits depend on the index in the whole.
    /// With 8-bit states, a part has to begin with a block: the index is a multiple of 32. Default:
    /// 0.
    pub fn with_offset(self, first: u64) -> Self {
        Step { offset: first, ..self }
    }

    /// Multiplies every gradient by `factor` before the rule uses it, in the same pass. Use it to
    /// undo a loss scale or to clip a norm. `grad` itself is not written. The factor must be finite
    /// and ≥ 0. It is rounded to the compute type (`f64` for `f64` buffers, otherwise `f32`), and
    /// the product is rounded once. Default: 1.
    ///
    /// ```
    /// use fused_adam::{AdamW, Step};
    ///
    /// let (mut theta, mut m, mut v) = ([1.0_f32], [0.0], [0.0]);
    /// let grad = [512.0]; // the loss was multiplied by 1024
    /// Step::new(&AdamW::default(), 1)
    ///     .with_grad_scale(1.0 / 1024.0)
    ///     .run(&mut theta, &grad, &mut [&mut m, &mut v])?;
    /// assert!((grad, m[0]) == ([512.0], 0.1 * 0.5));
    /// # Ok::<(), fused_adam::Error>(())
    /// ```
    pub fn with_grad_scale(self, factor: f64) -> Self {
        Step { scale: GradScale { factor, ..self.scale }, ..self }
    }

    /// Clamps every gradient to ±`bound` after it has been scaled, in the same pass. NaN stays NaN.
    /// The bound must be > 0. It is rounded to the compute type. Default: infinity, which clamps
    /// nothing.
    pub fn with_clip_value(self, bound: f64) -> Self {
        Step { scale: GradScale { bound, ..self.scale }, ..self }
    }

    /// The scalars that the rule keeps beside its states, with their values after this step, as
    /// [`Rule::advance_scalars`] computes them from those before it. Default:
    /// [`Rule::scalar_after`] `t`, the values after `t` steps with the current hyper-parameters.
    ///
    /// ```
    /// use fused_adam::{NAdam, Rule, Step};
    ///
    /// let (mut theta, mut m, mut v) = ([1.0_f64], [0.0], [0.0]);
    /// let (mut nadam, mut scalars) = (NAdam::default(), [1.0]); // the empty product
    /// for t in 1..=10 {
    ///     nadam.beta1 = 0.9 + 0.005 * t as f64; // a schedule
    ///     nadam.advance_scalars(t, &mut scalars);
    ///     Step::new(&nadam, t)
    ///         .with_scalars(&scalars)
    ///         .run(&mut theta, &[1.0], &mut [&mut m, &mut v])?;
    /// }
    /// # Ok::<(), fused_adam::Error>(())
    /// ```
    pub fn with_scalars(self, scalars: &'r [f64]) -> Self {
        Step { scalars: Some(scalars), ..self }
    }

    /// Takes the step: updates `theta` and each state in place from `grad`. All have the same
    /// element type.
    ///
    /// `state` holds the buffers that [`Rule::states`] names, in that order. All slices must have
    /// the same length, which may be 0. NaN and infinities in them propagate as IEEE 754 says.
    ///
    /// # Errors
    ///
    /// Nothing is written if the step fails. In this order:
    ///
    /// - [`Error::StepNumber`] for `t` = 0;
    /// - [`Error::HyperParameter`] for a hyper-parameter, the gradient scale or the clip value
    ///   outside its range;
    /// - [`Error::MissingState`] or [`Error::SuperfluousState`] for a wrong number of states;
    /// - [`Error::Length`] for a slice whose length is not that of `theta`, and [`Error::Blocks`]
    ///   and [`Error::Offset`] for states in 8 bits;
    /// - [`Error::BackendNotAvailable`];
    /// - [`Error::Scalars`] for a wrong number of scalars;
    /// - [`Error::HyperParameter`] for a coefficient that the compute type cannot hold;
    /// - [`Error::KernelStates`] if the rule's kernel keeps another number of states than the rule
    ///   names. No rule of this crate does.
    pub fn run<E: Element>(
        &self,
        theta: &mut [E],
        grad: &[E],
        state: &mut [&mut [E]],
    ) -> Result<(), Error> {
        self.run_on(theta, grad, state, Beside::default())
    }

    /// Takes the step with `theta`, `grad` and states of different element types. `f64` can only be
    /// combined with `f64`. `f32`, `bf16` and `f16` can be combined freely. 16-bit values are
    /// computed in `f32` and rounded as set by [`with_rounding`](Self::with_rounding).
    ///
    /// For all types but `f64`, the states may also be in 8 bits: [`Block8`](crate::Block8). They
    /// are rounded stochastically, whatever the rounding: give each buffer a seed of its own, by
    /// [`with_seed`](Self::with_seed). Running maxima are rounded to nearest.
    ///
    /// ```
    /// use fused_adam::{AdamW, Rounding, Step, bf16};
    ///
    /// // θ and the gradient in 16 bits, the states in 32.
    /// let mut theta = vec![bf16::ONE; 1000];
    /// let grad = vec![bf16::from_f32(0.1); 1000];
    /// let (mut m, mut v) = (vec![0.0_f32; 1000], vec![0.0_f32; 1000]);
    /// Step::new(&AdamW::default(), 1)
    ///     .with_rounding(Rounding::Stochastic { seed: 7 })
    ///     .run_mixed(&mut theta, &grad, &mut [&mut m, &mut v])?;
    /// # Ok::<(), fused_adam::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`run`](Self::run).
    pub fn run_mixed<
        T: Element,
        G: Element<Float = T::Float>,
        S: StateElement<Float = T::Float>,
    >(
        &self,
        theta: &mut [T],
        grad: &[G],
        state: &mut [&mut [S]],
    ) -> Result<(), Error> {
        self.run_on(theta, grad, state, Beside::default())
    }

    /// Takes the step on `f32` master weights, and in the same pass stores the new `theta` also in
    /// `copy`, rounded to nearest in 16 bits.
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
    pub fn run_with_copy<G: Element<Float = f32>, S: StateElement<Float = f32>, H: Half>(
        &self,
        theta: &mut [f32],
        grad: &[G],
        state: &mut [&mut [S]],
        copy: &mut [H],
    ) -> Result<(), Error> {
        self.run_on(theta, grad, state, Beside::Copy(H::column_mut(copy)))
    }

    /// Takes the step on split master weights: `theta` and its `correction` are together the `f32`
    /// or 24-bit weights that the step computes with. `theta` is what the model uses: these weights
    /// rounded to the nearest `bf16`. See [`Correction`].
    ///
    /// A correction of 8 bits is rounded stochastically, with the seed 0 unless the rounding has
    /// one.
    ///
    /// ```
    /// use fused_adam::{AdamW, Block8, Step, bf16};
    ///
    /// // 8 bytes a parameter for weights, gradient and states, instead of 18.
    /// let mut theta = vec![bf16::ONE; 1000];
    /// let mut correction = vec![0_u8; 1000];
    /// let grad = vec![bf16::from_f32(0.1); 1000];
    /// let mut m: Vec<Block8> = vec![[0; 33]; 32];
    /// let mut v = m.clone();
    /// for t in 1..=10 {
    ///     Step::new(&AdamW { lr: 1e-4, ..AdamW::default() }, t).run_split(
    ///         &mut theta,
    ///         &mut correction[..],
    ///         &grad,
    ///         &mut [&mut m, &mut v],
    ///     )?;
    /// }
    /// // One step of 1e-4 is lost in `bf16`. Ten of them are in the correction.
    /// let mut weights = vec![0.0; 1000];
    /// fused_adam::Correction::from(&mut correction[..]).join(&theta, &mut weights)?;
    /// assert!((weights[0] - 0.999).abs() < 1e-4);
    /// # Ok::<(), fused_adam::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`run`](Self::run).
    pub fn run_split<'c, G: Element<Float = f32>, S: StateElement<Float = f32>>(
        &self,
        theta: &mut [bf16],
        correction: impl Into<Correction<'c>>,
        grad: &[G],
        state: &mut [&mut [S]],
    ) -> Result<(), Error> {
        self.run_on(theta, grad, state, Beside::Correction(correction.into()))
    }

    /// The step with states in any type that dereferences to a slice, and optionally with a buffer
    /// beside θ.
    #[inline]
    pub(crate) fn run_on<T, G, S, B>(
        &self,
        theta: &mut [T],
        grad: &[G],
        state: &mut [B],
        beside: Beside<'_>,
    ) -> Result<(), Error>
    where
        T: Element,
        G: Element<Float = T::Float>,
        S: StateElement<Float = T::Float>,
        B: AsMut<[S]>,
    {
        // A rule with more than four states needs an allocation.
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
        // Types without their own loop share the code of `f32`, which uses tiles for them.
        if const { select::is_fused::<T, G, S>() } {
            self.run_columns::<T, G, S>(theta, grad, state, beside)
        } else if const { select::is_8bit::<S>() } {
            self.run_columns::<f32, f32, Block8>(theta, grad, state, beside)
        } else {
            self.run_columns::<f32, f32, f32>(theta, grad, state, beside)
        }
    }

    /// Checks all arguments, then runs the kernel with the code for the types `T`, `G` and `S`.
    #[inline(always)]
    fn run_columns<T, G, S>(
        &self,
        theta: ColumnMut<'_>,
        grad: Column<'_>,
        state: &mut [ColumnMut<'_>],
        beside: Beside<'_>,
    ) -> Result<(), Error>
    where
        T: Element,
        G: Element<Float = T::Float>,
        S: StateElement<Float = T::Float>,
    {
        let (rule, t, len) = (self.rule, self.t, theta.len());
        check_float_mode()?;
        check_step_number(t)?;
        rule.check()?;
        self.scale.check()?;
        let states = rule.states();
        check_states(states, state.len())?;
        check_length("grad", grad.len(), len)?;
        for (declared, state) in states.iter().zip(&mut *state) {
            check_state(declared, state, len)?;
            check_offset(self.offset, state)?;
        }
        if let Some((name, beside)) = beside.length() {
            check_length(name, beside, len)?;
        }
        let in_8bit = const { select::is_8bit::<S>() };
        let seed = self.rounding.seed();
        let drawn = in_8bit || beside.is_stochastic();
        let noise = (drawn || seed.is_some()).then(|| Noise::new(seed, self.seed, t, self.offset));
        let run = Run {
            engine: self.backend.resolve()?,
            parallelism: self.parallelism,
            scale: self.scale,
            states,
            theta,
            grad,
            state,
            beside,
            noise,
            types: PhantomData::<(T, G, S)>,
        };
        match self.scalars {
            Some(scalars) => {
                check_scalars(rule.scalars(), scalars.len())?;
                rule.visit_kernel(t, scalars, run)
            }
            None if rule.scalars().is_empty() => rule.visit_kernel(t, &[], run),
            None => rule.visit_kernel(t, &scalars_after(rule, t), run),
        }
    }
}

/// The visitor that runs the step with the kernel it receives.
struct Run<'a, 's, Types> {
    engine: Engine,
    parallelism: Parallelism,
    scale: GradScale,
    states: &'static [State],
    theta: ColumnMut<'a>,
    grad: Column<'a>,
    state: &'a mut [ColumnMut<'s>],
    beside: Beside<'a>,
    noise: Option<Noise>,
    types: PhantomData<Types>,
}

impl<T, G, S> KernelVisitor<T::Float> for Run<'_, '_, (T, G, S)>
where
    T: Element,
    G: Element<Float = T::Float>,
    S: StateElement<Float = T::Float>,
{
    #[inline]
    fn visit<K: Kernel<T::Float, N>, const N: usize>(self, kernel: &K) -> Result<(), Error> {
        let Run { engine, parallelism, scale, states, theta, grad, state, beside, noise, .. } =
            self;
        let Ok(state) = <&mut [ColumnMut<'_>; N]>::try_from(state) else {
            return Err(Error::KernelStates { kernel: N, names: names(states) });
        };
        let state = state.each_mut().map(ColumnMut::reborrow);
        let kernel = scale.before(*kernel)?;
        let rows = Rows { theta, grad, state, beside, noise };
        parallelism.each(rows, |rows| select::step_rows::<T, G, S, _, N>(engine, &kernel, rows));
        Ok(())
    }
}

macro_rules! step_of_rules {
    ($($name:ident: $Rule:ident),* $(,)?) => {$(
        step_of_rules!(@ $Rule);
    )*};
    (@ $Rule:ident) => {
        impl crate::rules::$Rule {
            /// Takes step number `t` ≥ 1 on plain slices, with the default backend, threads and
            /// rounding. Use [`Step`] to set them. `states` are those that [`states`](Rule::states)
            /// names, in that order.
            ///
            /// # Errors
            ///
            /// As for [`Step::run`].
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
    };
}

for_each_rule!(step_of_rules);
step_of_rules!(@ AnyRule);
