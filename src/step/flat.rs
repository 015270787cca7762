//! The owner of one flat buffer's state, for those who do not want to keep it themselves.

use super::{
    Scalars, Schedule, Step, advance_scalars, check_same_states, check_scalars, scalars_after,
};
use crate::elements::rounding::Rounding;
use crate::elements::{Element, Half};
use crate::error::Error;
use crate::rules::{Rule, State};
use crate::simd::dispatch::Backend;

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
/// `S` is what the states are stored in.
#[derive(Clone, Debug)]
pub struct Flat<R, S> {
    rule: R,
    t: u64,
    state: Vec<Vec<S>>,
    /// What the states are.
    declared: &'static [State],
    scalars: Scalars,
    /// What the scalars will be after the step under way: kept for its memory.
    next_scalars: Scalars,
    backend: Backend,
    schedule: Schedule,
    rounding: Rounding,
    offset: u64,
}

impl<R: Rule, S: Element> Flat<R, S> {
    /// State for `len` parameters, as it is before the first step: zeros, unless the rule says
    /// otherwise. This is the only allocation: steps make none.
    ///
    /// # Errors
    ///
    /// [`Error::HyperParameter`].
    ///
    /// # Panics
    ///
    /// As [`Vec`] does, if so much memory cannot be had.
    pub fn new(rule: R, len: usize) -> Result<Self, Error> {
        rule.check()?;
        let state = (0..rule.states().len())
            .map(|state| vec![S::from_f64(rule.initial_state(state)); len])
            .collect();
        Self::resume(rule, 0, state)
    }

    /// Goes on after step `t` with the states that [`Rule::states`] names, in that order: what
    /// [`into_parts`](Self::into_parts) gave.
    ///
    /// # Errors
    ///
    /// [`Error::HyperParameter`]. Whether `state` fits is checked on each step.
    pub fn resume(rule: R, t: u64, state: Vec<Vec<S>>) -> Result<Self, Error> {
        rule.check()?;
        let (declared, scalars) = (rule.states(), scalars_after(&rule, t));
        Ok(Flat {
            rule,
            t,
            state,
            declared,
            next_scalars: scalars.clone(),
            scalars,
            backend: Backend::default(),
            schedule: Schedule::default(),
            rounding: Rounding::default(),
            offset: 0,
        })
    }

    /// The rule, the number of steps taken, and the states.
    pub fn into_parts(self) -> (R, u64, Vec<Vec<S>>) {
        (self.rule, self.t, self.state)
    }

    /// Goes on with these scalars, as [`scalars`](Self::scalars) gave them. Default:
    /// [`Rule::scalar_after`] the steps taken.
    ///
    /// # Errors
    ///
    /// [`Error::Scalars`] if they are not as many as the rule keeps.
    pub fn with_scalars(mut self, scalars: &[f64]) -> Result<Self, Error> {
        check_scalars(self.rule.scalars(), scalars.len())?;
        self.scalars.clear();
        self.scalars.extend_from_slice(scalars);
        Ok(self)
    }

    /// Asks for a backend. Default: [`Backend::Auto`].
    #[must_use]
    pub fn with_backend(self, backend: Backend) -> Self {
        Flat { backend, ..self }
    }

    /// Asks for threads. Default: [`Schedule::Auto`].
    #[must_use]
    pub fn with_schedule(self, schedule: Schedule) -> Self {
        Flat { schedule, ..self }
    }

    /// Asks for a rounding of what is stored in 16 bits. Default: [`Rounding::Nearest`].
    #[must_use]
    pub fn with_rounding(self, rounding: Rounding) -> Self {
        Flat { rounding, ..self }
    }

    /// Says that the first element is number `first` of a whole, for stochastic rounding: see
    /// [`Step::offset`]. Default: 0.
    #[must_use]
    pub fn with_offset(self, first: u64) -> Self {
        Flat { offset: first, ..self }
    }

    /// Takes the next step: updates `theta` in place from `grad`, both of the type of the states.
    ///
    /// # Errors
    ///
    /// Those of [`Step::run`]; then neither the state nor the number of steps has changed.
    pub fn step(&mut self, theta: &mut [S], grad: &[S]) -> Result<(), Error> {
        self.step_mixed(theta, grad)
    }

    /// Takes the next step on types that go with that of the states: see [`Step::run_mixed`].
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
    /// Those of [`Step::run`]; then neither the state nor the number of steps has changed.
    pub fn step_mixed<T: Element<Float = S::Float>, G: Element<Float = S::Float>>(
        &mut self,
        theta: &mut [T],
        grad: &[G],
    ) -> Result<(), Error> {
        self.count(|step, state| step.run_on(theta, grad, state, None))
    }

    /// Takes the next step on master weights, and stores the new `theta` a second time in `copy`:
    /// see [`Step::run_with_copy`].
    ///
    /// # Errors
    ///
    /// Those of [`Step::run`]; then neither the state nor the number of steps has changed.
    pub fn step_with_copy<G: Element<Float = f32>, H: Half>(
        &mut self,
        theta: &mut [f32],
        grad: &[G],
        copy: &mut [H],
    ) -> Result<(), Error>
    where
        S: Element<Float = f32>,
    {
        self.count(|step, state| step.run_on(theta, grad, state, Some(H::column_mut(copy))))
    }

    /// Lets `run` take the next step, and counts it.
    #[inline(always)]
    fn count(
        &mut self,
        run: impl FnOnce(Step<'_, R>, &mut [Vec<S>]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let t = self.t.checked_add(1).ok_or(Error::StepNumber {
            t: self.t,
            expected: "less than u64::MAX for another step to follow",
        })?;
        check_same_states(self.rule.states(), self.declared)?;
        self.rule.check()?;
        advance_scalars(&self.rule, t, &self.scalars, &mut self.next_scalars);
        let step = Step::new(&self.rule, t)
            .scalars(&self.next_scalars)
            .backend(self.backend)
            .schedule(self.schedule)
            .rounding(self.rounding)
            .offset(self.offset);
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

    /// The rule, to be changed between steps: its `lr`, say. It is checked on the next step, and
    /// if it then keeps other states than before, that step is refused.
    pub fn rule_mut(&mut self) -> &mut R {
        &mut self.rule
    }

    /// The state of this name, such as `m`, if the rule keeps one.
    pub fn state(&self, name: &str) -> Option<&[S]> {
        let i = self.declared.iter().position(|state| state.name() == name)?;
        self.state.get(i).map(Vec::as_slice)
    }

    /// The scalars after the steps taken, in the order of [`Rule::scalars`].
    pub fn scalars(&self) -> &[f64] {
        &self.scalars
    }
}
