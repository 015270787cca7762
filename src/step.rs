//! One step on plain slices: everything is checked, then the kernel runs.

use core::marker::PhantomData;
#[cfg(feature = "parallel")]
use core::num::NonZeroUsize;

use crate::backend::columns::{Buffers, Column, ColumnMut, Mixed, Table};
#[cfg(feature = "parallel")]
use crate::backend::parallel;
use crate::backend::{Engine, Swept};
use crate::elements::Single;
use crate::elements::rounding::{Noise, Rounding};
use crate::scaled::GradScale;
use crate::types::{Copied, CopyLoop, Loop, Parameter};
use crate::{Adam, AdamW, Backend, Element, Error, Kernel, Rule, WithKernel};

/// On which threads a step runs, and how it is cut. The bits are the same for all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Schedule {
    /// Long buffers in chunks on the threads of the caller's rayon pool (or on others, by `on_threads`), short ones on the
    /// calling thread; without the feature `parallel` always on the calling thread. The default.
    ///
    /// A caller that is in no pool works too, beside the global one, and the step ends when that has had
    /// its turn: where the pool is busy with long jobs, a pool for steps or [`Serial`](Self::Serial)
    /// serves better.
    #[default]
    Auto,
    /// On the calling thread.
    Serial,
    /// In chunks of this many elements on the same threads, however short the buffers.
    #[cfg(feature = "parallel")]
    Chunks(NonZeroUsize),
}

/// One step of a rule, to be taken on plain slices. Nothing is allocated, but for rayon's job of some
/// dozen bytes when a parallel step is called from outside of any pool.
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

    /// Has every gradient multiplied by `factor` before the rule sees it, in the same pass: one over
    /// a loss scale, say, or what clips a norm. `grad` itself is not written. The factor, from 0 up, is
    /// rounded to the type that is computed with, and the product once. Default: 1.
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
    /// stays. The bound, above 0, is rounded to the type that is computed with. Default: infinity, which is none.
    pub fn clip_value(self, bound: f64) -> Self {
        Step { scale: GradScale { bound, ..self.scale }, ..self }
    }

    /// Takes the step: updates `theta` and each state in place, from `grad`, all of one element
    /// type.
    ///
    /// `state` holds the buffers that [`Rule::state_names`] names, in that order. All slices are
    /// equally long; empty ones are fine. NaN and infinities in them follow IEEE 754.
    ///
    /// # Errors
    ///
    /// All are found before anything is written: [`Error::HyperParameter`],
    /// [`Error::StepNumber`] for t = 0, [`Error::Length`], [`Error::MissingState`],
    /// [`Error::SuperfluousState`] and [`Error::BackendNotAvailable`].
    pub fn run<E: Element>(
        &self,
        theta: &mut [E],
        grad: &[E],
        state: &mut [&mut [E]],
    ) -> Result<(), Error> {
        self.run_on(theta, grad, state)
    }

    /// Takes the step with a gradient, or states, of another type than `theta`: see [`Parameter`]
    /// for the types that go together.
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
    pub fn run_mixed<T: Parameter<G, S>, G, S>(
        &self,
        theta: &mut [T],
        grad: &[G],
        state: &mut [&mut [S]],
    ) -> Result<(), Error> {
        self.run_on(theta, grad, state)
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
    pub fn run_with_copy<G, S, H: Copied<G, S>>(
        &self,
        theta: &mut [f32],
        grad: &[G],
        state: &mut [&mut [S]],
        copy: &mut [H],
    ) -> Result<(), Error> {
        self.run_on_with_copy(theta, grad, state, copy)
    }

    /// [`run_mixed`](Self::run_mixed) on states of any type that is a slice underneath.
    pub(crate) fn run_on<T: Parameter<G, S>, G, S, B: AsMut<[S]>>(
        &self,
        theta: &mut [T],
        grad: &[G],
        state: &mut [B],
    ) -> Result<(), Error> {
        let checked = self.checked(theta.len(), grad.len(), state)?;
        T::Loop::step(checked, theta, grad, state)
    }

    /// [`run_with_copy`](Self::run_with_copy) on states of any type that is a slice underneath.
    pub(crate) fn run_on_with_copy<G, S, H: Copied<G, S>, B: AsMut<[S]>>(
        &self,
        theta: &mut [f32],
        grad: &[G],
        state: &mut [B],
        copy: &mut [H],
    ) -> Result<(), Error> {
        let checked = self.checked(theta.len(), grad.len(), state)?;
        check_length("copy", copy.len(), theta.len())?;
        H::CopyLoop::step(checked, theta, grad, state, copy)
    }

    /// All checks that do not depend on the kernel.
    fn checked<S, B: AsMut<[S]>>(
        &self,
        theta: usize,
        grad: usize,
        state: &mut [B],
    ) -> Result<Checked<'r, R>, Error> {
        if self.t == 0 {
            return Err(Error::StepNumber { t: 0, expected: "1 for the first step" });
        }
        self.rule.check()?;
        self.scale.check()?;
        let names = self.rule.state_names();
        check_states(names, state.len())?;
        check_length("grad", grad, theta)?;
        for (name, state) in names.iter().zip(state.iter_mut()) {
            check_length(name, state.as_mut().len(), theta)?;
        }
        let noise = match self.rounding {
            Rounding::Nearest => None,
            Rounding::Stochastic { seed } => Some(Noise::new(seed, self.t, self.offset)),
        };
        let how = How { engine: self.backend.resolve()?, schedule: self.schedule, names };
        Ok(Checked { rule: self.rule, t: self.t, scale: self.scale, how, noise })
    }
}

/// A step whose arguments have been checked.
pub struct Checked<'r, R> {
    rule: &'r R,
    t: u64,
    scale: GradScale,
    how: How,
    pub(crate) noise: Option<Noise>,
}

impl<R: Rule> Checked<'_, R> {
    /// On buffers of types that have a loop of their own, rounded to the nearest.
    #[inline(always)]
    pub(crate) fn fused<T, G, S, B: AsMut<[S]>>(
        self,
        theta: &mut [T],
        grad: &[G],
        state: &mut [B],
        copy: Option<&mut [G]>,
    ) -> Result<(), Error>
    where
        T: Swept,
        G: Swept<Float = T::Float>,
        S: Swept<Float = T::Float>,
    {
        let Checked { rule, t, scale, how, .. } = self;
        let element = PhantomData::<S>;
        rule.with_kernel(t, RunFused { how, scale, theta, grad, state, copy, element })
    }

    /// On buffers of any mixture of types that are computed with in `f32`.
    pub(crate) fn mixed<T: Single, G: Single, S: Single, B: AsMut<[S]>>(
        self,
        theta: &mut [T],
        grad: &[G],
        state: &mut [B],
        copy: Option<ColumnMut<'_>>,
    ) -> Result<(), Error> {
        let Checked { rule, t, scale, how, noise } = self;
        let (theta, grad) = (T::column_mut(theta), G::column(grad));
        let element = PhantomData::<S>;
        let run = RunMixed { how, scale, theta, grad, state, copy, noise, element };
        rule.with_kernel(t, run)
    }
}

/// How a step runs, and the names of its states.
#[derive(Clone, Copy)]
struct How {
    engine: Engine,
    schedule: Schedule,
    names: &'static [&'static str],
}

impl How {
    /// Has `table` stepped by `step`, whole or in chunks.
    fn sweep<T: Table>(self, step: impl Fn(T) + Sync, table: T) {
        match self.schedule {
            #[cfg(feature = "parallel")]
            Schedule::Chunks(chunk) => parallel::sweep(chunk.get(), &step, table),
            #[cfg(feature = "parallel")]
            Schedule::Auto => parallel::auto(&step, table),
            _ => step(table),
        }
    }

    /// The states as the kernel wants them.
    fn states<S, B: AsMut<[S]>, const N: usize>(
        self,
        state: &mut [B],
    ) -> Result<[&mut [S]; N], Error> {
        match <&mut [B; N]>::try_from(state) {
            Ok(state) => Ok(state.each_mut().map(AsMut::as_mut)),
            Err(_) => Err(Error::KernelStates { kernel: N, names: self.names }),
        }
    }
}

/// A step on buffers of types that have a loop of their own, waiting for its kernel.
struct RunFused<'a, T, G, S, B> {
    how: How,
    scale: GradScale,
    theta: &'a mut [T],
    grad: &'a [G],
    state: &'a mut [B],
    copy: Option<&'a mut [G]>,
    element: PhantomData<S>,
}

impl<T, G, S, B: AsMut<[S]>> WithKernel<T::Float> for RunFused<'_, T, G, S, B>
where
    T: Swept,
    G: Swept<Float = T::Float>,
    S: Swept<Float = T::Float>,
{
    fn with<K: Kernel<T::Float, N>, const N: usize>(self, kernel: &K) -> Result<(), Error> {
        let RunFused { how, scale, theta, grad, state, copy, .. } = self;
        let state = how.states::<S, B, N>(state)?;
        let kernel = scale.before(*kernel)?;
        let step = |buffers| how.engine.sweep(&kernel, buffers);
        how.sweep(step, Buffers { theta, grad, state, copy });
        Ok(())
    }
}

/// A step on mixed buffers, waiting for its kernel.
struct RunMixed<'a, S, B> {
    how: How,
    scale: GradScale,
    theta: ColumnMut<'a>,
    grad: Column<'a>,
    state: &'a mut [B],
    copy: Option<ColumnMut<'a>>,
    noise: Option<Noise>,
    element: PhantomData<S>,
}

impl<S: Single, B: AsMut<[S]>> WithKernel<f32> for RunMixed<'_, S, B> {
    fn with<K: Kernel<f32, N>, const N: usize>(self, kernel: &K) -> Result<(), Error> {
        let RunMixed { how, scale, theta, grad, state, copy, noise, .. } = self;
        let state = how.states::<S, B, N>(state)?.map(S::column_mut);
        let kernel = scale.before(*kernel)?;
        let step = |mixed| how.engine.sweep_mixed(&kernel, mixed);
        how.sweep(step, Mixed { theta, grad, state, copy, noise });
        Ok(())
    }
}

pub(crate) fn check_states(names: &'static [&'static str], given: usize) -> Result<(), Error> {
    let expected = names.len();
    match names.get(given) {
        Some(name) => Err(Error::MissingState { name, expected, names }),
        None if given > expected => Err(Error::SuperfluousState { given, expected, names }),
        None => Ok(()),
    }
}

/// That a rule keeps the states that were made for it.
pub(crate) fn check_same_states(
    names: &'static [&'static str],
    made: &'static [&'static str],
) -> Result<(), Error> {
    if names == made {
        return Ok(());
    }
    let other = names.iter().zip(made).position(|(name, made)| name != made);
    match names.get(other.unwrap_or(made.len())) {
        Some(name) => Err(Error::MissingState { name, expected: names.len(), names }),
        None => check_states(names, made.len()),
    }
}

fn check_length(name: &'static str, len: usize, expected: usize) -> Result<(), Error> {
    if len == expected { Ok(()) } else { Err(Error::Length { name, len, expected }) }
}

impl Adam {
    /// Step number `t` ≥ 1 on plain slices, with the backend and the threads chosen
    /// automatically; see [`Step`] to choose them, and for AMSGrad's third state.
    ///
    /// # Errors
    ///
    /// Those of [`Step::run`]; with `amsgrad`, that `v_max` is missing.
    pub fn step<E: Element>(
        &self,
        t: u64,
        theta: &mut [E],
        grad: &[E],
        m: &mut [E],
        v: &mut [E],
    ) -> Result<(), Error> {
        Step::new(self, t).run(theta, grad, &mut [m, v])
    }
}

impl AdamW {
    /// Step number `t` ≥ 1 on plain slices, with the backend and the threads chosen
    /// automatically; see [`Step`] to choose them, and for AMSGrad's third state.
    ///
    /// # Errors
    ///
    /// Those of [`Step::run`]; with `amsgrad`, that `v_max` is missing.
    pub fn step<E: Element>(
        &self,
        t: u64,
        theta: &mut [E],
        grad: &[E],
        m: &mut [E],
        v: &mut [E],
    ) -> Result<(), Error> {
        Step::new(self, t).run(theta, grad, &mut [m, v])
    }
}
