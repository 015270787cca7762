//! States that something else has kept, for an optimizer to continue with.

use smallvec::SmallVec;

use super::owner::Optimizer;
use super::param::ParamId;
use super::states::States;
use crate::elements::StateElement;
use crate::elements::column::DType;
use crate::error::Error;
use crate::rules::state::names;
use crate::rules::{Rule, State};
use crate::step::{Scalars, check_states, scalars_after};

/// A rule with more than four states needs an allocation.
type Columns<'a, S> = SmallVec<[&'a [S]; 4]>;

impl<R: Rule> Optimizer<R> {
    /// Sets the step number, the scalars and all states of a parameter. Use it to continue a run
    /// whose states something else has kept: another optimizer, or a file of another format.
    ///
    /// `t` is the number of steps taken. [`steps`](Self::steps) becomes at least `t`. The scalars
    /// are in the order of [`Rule::scalars`]. Without any, they get their values after `t` steps
    /// with the present hyper-parameters. The states have their names, and any order.
    ///
    /// ```
    /// use fused_adam::{AdamW, GroupId, Optimizer};
    ///
    /// let mut opt = Optimizer::new(AdamW::default())?;
    /// let w = opt.add::<f32>(GroupId::default(), "w", 2)?;
    /// opt.set_states(w, 10, &[], &[("m", &[0.5_f32, -0.5]), ("v", &[0.25, 0.25])])?;
    /// assert_eq!((opt.t(w), opt.state::<f32>(w, "v")), (Some(10), Some(&[0.25, 0.25][..])));
    /// # Ok::<(), fused_adam::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Nothing changes after an error: [`Error::ForeignId`]; [`Error::MissingState`] for a name
    /// that is missing, [`Error::SuperfluousState`] for more states than the rule keeps, and
    /// [`Error::Scalars`] for another number; [`Error::TensorType`] for another type than was
    /// registered; [`Error::TensorLength`], or with states in 8 bits [`Error::Blocks`];
    /// [`Error::OutOfMemory`].
    pub fn set_states<S: StateElement>(
        &mut self,
        id: ParamId,
        t: u64,
        scalars: &[f64],
        states: &[(&str, &[S])],
    ) -> Result<(), Error> {
        let (id_of, groups) = (self.id, &self.groups);
        let own = self.params.get_mut(id.index).filter(|_| id.optimizer == id_of);
        let own = own.ok_or(Error::ForeignId { what: "parameter" })?;
        let (rule, expected) = (&groups[own.group], S::slots(own.len));
        let at = |error: Error| error.at(format!("parameter `{}`", own.name));
        check_states(rule.states(), states.len()).map_err(at)?;
        let mut ordered = Columns::new();
        for name in rule.states().iter().map(State::name) {
            let found = states.iter().find(|(of, _)| *of == name);
            let Some(&(_, state)) = found else {
                let (expected, names) = (rule.states().len(), names(rule.states()));
                return Err(at(Error::MissingState { name, expected, names }));
            };
            ordered.push(state);
            if S::DTYPE != own.types.state {
                return Err(own.wrong_type(name, S::DTYPE.name(), own.types.state.name()));
            }
            if S::DTYPE != DType::Block8 {
                own.check_length(name, state.len())?;
            } else if state.len() != expected {
                let (blocks, len) = (state.len(), own.len);
                return Err(at(Error::Blocks { name, blocks, expected, len }));
            }
        }
        let scalars = match scalars.len() {
            0 if t == 0 => Scalars::new(),
            0 => scalars_after(rule, t),
            given if given == rule.scalars().len() => scalars.into(),
            given => {
                let (names, expected) = (rule.scalars(), rule.scalars().len());
                return Err(at(Error::Scalars { given, expected, names }));
            }
        };
        let mut new = States::new(own.types.state, own.len, rule)?;
        for (i, state) in ordered.into_iter().enumerate() {
            if let Some(to) = new.get_mut(i).and_then(S::of_mut) {
                to.copy_from_slice(state);
            }
        }
        (own.t, own.states, own.scalars) = (t, Some(new), scalars);
        self.steps = self.steps.max(t);
        Ok(())
    }
}
