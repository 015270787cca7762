//! The owner of one flat buffer's state, for those who do not want to keep it themselves.

use crate::{Backend, Element, Error, Rule, Schedule, Step};

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
#[derive(Clone, Debug)]
pub struct Flat<R, E> {
    rule: R,
    t: u64,
    state: Vec<Vec<E>>,
    backend: Backend,
    schedule: Schedule,
}

impl<R: Rule, E: Element> Flat<R, E> {
    /// State of zeros for `len` parameters. This is the only allocation: steps make none.
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
        let state = rule.state_names().iter().map(|_| vec![E::ZERO; len]).collect();
        Self::resume(rule, 0, state)
    }

    /// Goes on after step `t` with the states that [`Rule::state_names`] names, in that order: what
    /// [`into_parts`](Self::into_parts) gave.
    ///
    /// # Errors
    ///
    /// [`Error::HyperParameter`]. Whether `state` fits is checked on each step.
    pub fn resume(rule: R, t: u64, state: Vec<Vec<E>>) -> Result<Self, Error> {
        rule.check()?;
        Ok(Flat { rule, t, state, backend: Backend::default(), schedule: Schedule::default() })
    }

    /// The rule, the number of steps taken, and the states.
    pub fn into_parts(self) -> (R, u64, Vec<Vec<E>>) {
        (self.rule, self.t, self.state)
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

    /// Takes the next step: updates `theta` in place from `grad`.
    ///
    /// # Errors
    ///
    /// Those of [`Step::run`]; then neither the state nor the number of steps has changed.
    pub fn step(&mut self, theta: &mut [E], grad: &[E]) -> Result<(), Error> {
        let t = self.t.checked_add(1).ok_or(Error::StepNumber {
            t: self.t,
            expected: "less than u64::MAX for another step to follow",
        })?;
        Step::new(&self.rule, t).backend(self.backend).schedule(self.schedule).run_on(
            theta,
            grad,
            &mut self.state,
        )?;
        self.t = t;
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
    pub fn state(&self, name: &str) -> Option<&[E]> {
        let i = self.rule.state_names().iter().position(|&state| state == name)?;
        self.state.get(i).map(Vec::as_slice)
    }
}
