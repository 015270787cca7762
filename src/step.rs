//! One step on plain slices: everything is checked, then the kernel runs.

#[cfg(feature = "parallel")]
use core::num::NonZeroUsize;

#[cfg(feature = "parallel")]
use crate::backend::parallel;
use crate::backend::{Buffers, Engine};
use crate::{Adam, AdamW, Backend, Element, Error, Kernel, Rule, WithKernel};

/// On which threads a step runs, and how it is cut. The bits are the same for all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Schedule {
    /// Long buffers in chunks on the threads of the caller's rayon pool, short ones on the
    /// calling thread; without the feature `parallel` always on the calling thread. The default.
    #[default]
    Auto,
    /// On the calling thread.
    Serial,
    /// In chunks of this many elements on the threads of the caller's rayon pool, however short
    /// the buffers.
    #[cfg(feature = "parallel")]
    Chunks(NonZeroUsize),
}

/// One step of a rule, to be taken on plain slices. Nothing is allocated.
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
}

impl<'r, R: Rule> Step<'r, R> {
    /// Step number `t` of `rule`, from 1 on. The number enters the bias corrections and nothing
    /// else: it may stand still, jump or go backwards, and the caller is trusted with it.
    pub fn new(rule: &'r R, t: u64) -> Self {
        Step { rule, t, backend: Backend::default(), schedule: Schedule::default() }
    }

    /// Asks for a backend. Default: [`Backend::Auto`].
    pub fn backend(self, backend: Backend) -> Self {
        Step { backend, ..self }
    }

    /// Asks for threads. Default: [`Schedule::Auto`].
    pub fn schedule(self, schedule: Schedule) -> Self {
        Step { schedule, ..self }
    }

    /// Takes the step: updates `theta` and each state in place, from `grad`.
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

    /// [`run`](Self::run) on states of any type that is a slice underneath.
    pub(crate) fn run_on<E: Element, S: AsMut<[E]>>(
        &self,
        theta: &mut [E],
        grad: &[E],
        state: &mut [S],
    ) -> Result<(), Error> {
        if self.t == 0 {
            return Err(Error::StepNumber { t: 0, expected: "1 for the first step" });
        }
        self.rule.check()?;
        let names = self.rule.state_names();
        check_states(names, state.len())?;
        check_length("grad", grad.len(), theta.len())?;
        for (name, state) in names.iter().zip(state.iter_mut()) {
            check_length(name, state.as_mut().len(), theta.len())?;
        }
        let engine = self.backend.resolve()?;
        let schedule = self.schedule;
        self.rule.with_kernel(self.t, Run { engine, schedule, names, theta, grad, state })
    }
}

/// A step whose arguments have been checked, waiting for its kernel.
struct Run<'a, E, S> {
    engine: Engine,
    schedule: Schedule,
    names: &'static [&'static str],
    theta: &'a mut [E],
    grad: &'a [E],
    state: &'a mut [S],
}

impl<E: Element, S: AsMut<[E]>> WithKernel<E> for Run<'_, E, S> {
    fn with<K: Kernel<E, N>, const N: usize>(self, kernel: &K) -> Result<(), Error> {
        let Run { engine, schedule, names, theta, grad, state } = self;
        let Ok(state) = <&mut [S; N]>::try_from(state) else {
            return Err(Error::KernelStates { kernel: N, names });
        };
        let state = state.each_mut().map(AsMut::as_mut);
        let buffers = Buffers { theta, grad, state };
        match schedule {
            #[cfg(feature = "parallel")]
            Schedule::Chunks(chunk) => parallel::sweep(engine, chunk.get(), kernel, buffers),
            #[cfg(feature = "parallel")]
            Schedule::Auto => parallel::auto(engine, kernel, buffers),
            _ => engine.sweep(kernel, buffers),
        }
        Ok(())
    }
}

fn check_states(names: &'static [&'static str], given: usize) -> Result<(), Error> {
    let expected = names.len();
    match names.get(given) {
        Some(name) => Err(Error::MissingState { name, expected, names }),
        None if given > expected => Err(Error::SuperfluousState { given, expected, names }),
        None => Ok(()),
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
