//! An owner of the states of one flat buffer.

use half::bf16;

use super::{
    Parallelism, Scalars, Step, advance_scalars, check_blocks, check_length_as, check_same_states,
    check_scalars, check_states, next_step_number, scalars_after,
};
use crate::elements::column::DType;
use crate::elements::rounding::Rounding;
use crate::elements::rows::Beside;
use crate::elements::split::Correction;
use crate::elements::{self, Element, Half, StateElement};
use crate::error::Error;
use crate::rules::{Rule, State};
use crate::simd::dispatch::Backend;
use crate::step::grad_scale::GradScale;

/// A rule, its state for one flat buffer of parameters, and the number of steps taken.
///
/// ```
/// use fused_adam::{AdamW, Flat};
///
/// let mut theta = vec![0.5_f32; 1000];
/// let mut opt = Flat::new(AdamW::default(), theta.len())?;
/// for _ in 0..10 {
///     let grad: Vec<f32> = theta.iter().map(|x| 2.0 * x).collect();
///     opt.step(&mut theta, &grad)?;
/// }
/// assert_eq!(opt.t(), 10);
/// assert!(theta[0] < 0.5);
/// # Ok::<(), fused_adam::Error>(())
/// ```
///
/// `S` is the type of the states: an element type, or [`Block8`](crate::Block8) for 8 bits:
///
/// ```
/// use fused_adam::{AdamW, Block8, Flat};
///
/// let (mut theta, grad) = (vec![0.5_f32; 1000], vec![1.0_f32; 1000]);
/// let mut opt = Flat::<_, Block8>::new(AdamW::default(), theta.len())?;
/// opt.step_mixed(&mut theta, &grad)?;
/// assert_eq!(opt.state("m").map(size_of_val), Some(32 * 33));
/// # Ok::<(), fused_adam::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Flat<R, S> {
    rule: R,
    t: u64,
    state: Vec<Vec<S>>,
    /// The states that `state` holds.
    declared: &'static [State],
    scalars: Scalars,
    /// The scalars after the step in progress. Kept to reuse its memory.
    next_scalars: Scalars,
    backend: Backend,
    parallelism: Parallelism,
    rounding: Rounding,
    seed: u64,
    offset: u64,
    scale: GradScale,
}

impl<R: Rule, S: StateElement> Flat<R, S> {
    /// Creates the states for `len` parameters, with the values before the first step: zeros,
    /// unless the rule sets another [initial value](Rule::initial_state). Steps allocate nothing
    /// more, except as [`Step`] says.
    ///
    /// # Errors
    ///
    /// [`Error::HyperParameter`] and [`Error::OutOfMemory`].
    pub fn new(rule: R, len: usize) -> Result<Self, Error> {
        rule.check()?;
        let states = rule.states().iter().enumerate();
        let state = states.map(|(i, declared)| {
            let (mut state, value) = (elements::zeros(S::slots(len))?, rule.initial_state(i));
            // Fresh pages are already zero.
            if value != 0.0 {
                S::fill(&mut state, len, value, declared.code());
            }
            Ok(state)
        });
        let state = state.collect::<Result<_, Error>>()?;
        Self::resume(rule, 0, state)
    }

    /// Resumes after step `t` with the states that [`Rule::states`] names, in that order, as
    /// returned by [`into_parts`](Self::into_parts).
    ///
    /// # Errors
    ///
    /// [`Error::HyperParameter`], [`Error::MissingState`], [`Error::SuperfluousState`], and
    /// [`Error::Length`] or [`Error::Blocks`] if the states are not equally long.
    pub fn resume(rule: R, t: u64, state: Vec<Vec<S>>) -> Result<Self, Error> {
        rule.check()?;
        check_states(rule.states(), state.len())?;
        let expected = state.first().map_or(0, Vec::len);
        for (declared, state) in rule.states().iter().zip(&state) {
            if S::DTYPE == DType::Block8 {
                let len = expected.saturating_mul(DType::Block8.block());
                check_blocks(declared.name(), state.len(), len)?;
            } else {
                check_length_as(declared.name(), state.len(), expected, "the first state")?;
            }
        }
        let (declared, scalars) = (rule.states(), scalars_after(&rule, t));
        Ok(Flat {
            rule,
            t,
            state,
            declared,
            next_scalars: scalars.clone(),
            scalars,
            backend: Backend::default(),
            parallelism: Parallelism::default(),
            rounding: Rounding::default(),
            seed: 0,
            offset: 0,
            scale: GradScale::NONE,
        })
    }

    /// Returns the rule, the number of steps taken, the states and the scalars, for
    /// [`resume`](Self::resume) and [`with_scalars`](Self::with_scalars).
    pub fn into_parts(self) -> (R, u64, Vec<Vec<S>>, Vec<f64>) {
        (self.rule, self.t, self.state, self.scalars.to_vec())
    }

    /// Sets the scalars, as returned by [`scalars`](Self::scalars). Default: their values after the
    /// steps taken, [`Rule::scalar_after`].
    ///
    /// # Errors
    ///
    /// [`Error::Scalars`] if their number is not that of the rule's scalars.
    pub fn with_scalars(mut self, scalars: &[f64]) -> Result<Self, Error> {
        check_scalars(self.rule.scalars(), scalars.len())?;
        self.scalars.clear();
        self.scalars.extend_from_slice(scalars);
        Ok(self)
    }

    /// Sets the backend. Default: [`Backend::Auto`].
    #[must_use]
    pub fn with_backend(self, backend: Backend) -> Self {
        Flat { backend, ..self }
    }

    /// Sets the threads that steps run on. Default: [`Parallelism::Auto`].
    #[must_use]
    pub fn with_parallelism(self, parallelism: Parallelism) -> Self {
        Flat { parallelism, ..self }
    }

    /// Sets the rounding of values that are stored in 16 bits. Default: [`Rounding::Nearest`].
    #[must_use]
    pub fn with_rounding(self, rounding: Rounding) -> Self {
        Flat { rounding, ..self }
    }

    /// Sets the seed of the random bits: see [`Step::with_seed`]. Default: 0.
    #[must_use]
    pub fn with_seed(self, seed: u64) -> Self {
        Flat { seed, ..self }
    }

    /// Sets the index of the first element in the whole tensor, for stochastic rounding: see
    /// [`Step::with_offset`]. Default: 0.
    #[must_use]
    pub fn with_offset(self, first: u64) -> Self {
        Flat { offset: first, ..self }
    }

    /// Multiplies every gradient by `factor` before the rule uses it: see
    /// [`Step::with_grad_scale`]. Default: 1.
    #[must_use]
    pub fn with_grad_scale(mut self, factor: f64) -> Self {
        self.set_grad_scale(factor);
        self
    }

    /// Clamps every gradient to ±`bound` after it has been scaled: see [`Step::with_clip_value`].
    /// Default: infinity, which clamps nothing.
    #[must_use]
    pub fn with_clip_value(mut self, bound: f64) -> Self {
        self.scale.bound = bound;
        self
    }

    /// Changes the factor of [`with_grad_scale`](Self::with_grad_scale) between steps. It is
    /// checked on the next step.
    pub fn set_grad_scale(&mut self, factor: f64) {
        self.scale.factor = factor;
    }

    /// Takes the next step: updates `theta` in place from `grad`. Both have the element type of the
    /// states.
    ///
    /// # Errors
    ///
    /// As for [`Step::run`]. Then neither the states nor the number of steps has changed.
    pub fn step(&mut self, theta: &mut [S], grad: &[S]) -> Result<(), Error>
    where
        S: Element,
    {
        self.step_mixed(theta, grad)
    }

    /// Takes the next step with `theta` and `grad` of element types that can be combined with that
    /// of the states: see [`Step::run_mixed`].
    ///
    /// ```
    /// use fused_adam::{AdamW, Flat, bf16};
    ///
    /// let mut opt = Flat::<_, f32>::new(AdamW::default(), 1000)?;
    /// let (mut theta, grad) = (vec![bf16::ONE; 1000], vec![bf16::ONE; 1000]);
    /// opt.step_mixed(&mut theta, &grad)?;
    /// # Ok::<(), fused_adam::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`Step::run`]. Then neither the states nor the number of steps has changed.
    pub fn step_mixed<T: Element<Float = S::Float>, G: Element<Float = S::Float>>(
        &mut self,
        theta: &mut [T],
        grad: &[G],
    ) -> Result<(), Error> {
        self.check_theta(theta.len())?;
        self.count(|step, state| step.run_on(theta, grad, state, Beside::default()))
    }

    /// Takes the next step on `f32` master weights, and stores the new `theta` also in `copy`: see
    /// [`Step::run_with_copy`].
    ///
    /// # Errors
    ///
    /// As for [`Step::run`]. Then neither the states nor the number of steps has changed.
    pub fn step_with_copy<G: Element<Float = f32>, H: Half>(
        &mut self,
        theta: &mut [f32],
        grad: &[G],
        copy: &mut [H],
    ) -> Result<(), Error>
    where
        S: StateElement<Float = f32>,
    {
        self.check_theta(theta.len())?;
        let beside = Beside::Copy(H::column_mut(copy));
        self.count(|step, state| step.run_on(theta, grad, state, beside))
    }

    /// Takes the next step on split master weights, `theta` and its `correction`: see
    /// [`Step::run_split`].
    ///
    /// # Errors
    ///
    /// As for [`Step::run`]. Then neither the states nor the number of steps has changed.
    pub fn step_split<'c, G: Element<Float = f32>>(
        &mut self,
        theta: &mut [bf16],
        correction: impl Into<Correction<'c>>,
        grad: &[G],
    ) -> Result<(), Error>
    where
        S: StateElement<Float = f32>,
    {
        self.check_theta(theta.len())?;
        let beside = Beside::Correction(correction.into());
        self.count(|step, state| step.run_on(theta, grad, state, beside))
    }

    /// Checks that `theta` is as long as the states, if there are any.
    fn check_theta(&self, len: usize) -> Result<(), Error> {
        match (self.state.first(), self.declared.first()) {
            (Some(state), Some(declared)) if S::DTYPE == DType::Block8 => {
                check_blocks(declared.name(), state.len(), len)
            }
            (Some(state), _) => check_length_as("theta", len, state.len(), "the states"),
            (None, _) => Ok(()),
        }
    }

    /// Calls `run` to take the next step, and counts it.
    #[inline(always)]
    fn count(
        &mut self,
        run: impl FnOnce(Step<'_, R>, &mut [Vec<S>]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let t = next_step_number(self.t)?;
        check_same_states(self.rule.states(), self.declared)?;
        self.rule.check()?;
        advance_scalars(&self.rule, t, &self.scalars, &mut self.next_scalars);
        let step = Step::new(&self.rule, t)
            .with_scalars(&self.next_scalars)
            .with_backend(self.backend)
            .with_parallelism(self.parallelism)
            .with_rounding(self.rounding)
            .with_seed(self.seed)
            .with_offset(self.offset)
            .with_grad_scale(self.scale.factor)
            .with_clip_value(self.scale.bound);
        run(step, &mut self.state)?;
        self.t = t;
        core::mem::swap(&mut self.scalars, &mut self.next_scalars);
        Ok(())
    }

    /// The number of steps taken.
    pub fn t(&self) -> u64 {
        self.t
    }

    /// The rule.
    pub fn rule(&self) -> &R {
        &self.rule
    }

    /// The rule, to change between steps, such as its `lr`. It is checked on the next step. If it
    /// then keeps other states than before, that step fails.
    pub fn rule_mut(&mut self) -> &mut R {
        &mut self.rule
    }

    /// The state with this name, such as `m`, or `None` if the rule does not keep it.
    pub fn state(&self, name: &str) -> Option<&[S]> {
        let i = self.declared.iter().position(|state| state.name() == name)?;
        self.state.get(i).map(Vec::as_slice)
    }

    /// The scalars after the steps taken, in the order of [`Rule::scalars`].
    pub fn scalars(&self) -> &[f64] {
        &self.scalars
    }
}
