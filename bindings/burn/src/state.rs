//! The states of a parameter, and how burn's checkpoints store them.

use std::borrow::Cow;

use burn_core::tensor::{DType, Device, Tensor, TensorData};
use burn_optim::{RecordState, StateSink, StateSource};
use fused_adam::{AnyRule, Error, Rule, State};

/// The name of a byte tensor that lists the names of all states and scalars of a record, separated
/// by spaces. A record needs the list, because burn can look up an entry by name but cannot list
/// the entries.
const NAMES: &str = "names";

/// The name of a state or scalar, from a rule or from a record.
type Name = Cow<'static, str>;

/// The states and scalars of one parameter, with the names that the rule gives them, and the number
/// of steps taken.
///
/// burn's checkpoints store them as the tensors `m`, `v` and so on, numbers such as `mu_product`,
/// the number `t`, and the tensor `names`. If the checkpoint is from a rule with other states, the
/// next step fails.
#[derive(Clone, Debug)]
pub struct FusedState<const D: usize> {
    t: u64,
    states: Vec<(Name, Tensor<D>)>,
    scalars: Vec<(Name, f64)>,
}

impl<const D: usize> FusedState<D> {
    pub(crate) fn new(
        t: u64,
        states: impl Iterator<Item = (&'static str, Tensor<D>)>,
        scalars: impl Iterator<Item = (&'static str, f64)>,
    ) -> Self {
        let states = states.map(|(name, state)| (name.into(), state)).collect();
        let scalars = scalars.map(|(name, scalar)| (name.into(), scalar)).collect();
        FusedState { t, states, scalars }
    }

    /// The number of steps taken.
    pub fn t(&self) -> u64 {
        self.t
    }

    /// The state with this name, such as `m`, if there is one.
    pub fn get(&self, name: &str) -> Option<&Tensor<D>> {
        self.states.iter().find(|(of, _)| *of == name).map(|(_, state)| state)
    }

    /// The scalar with this name, such as `mu_product`, after the steps taken, if there is one.
    pub fn scalar(&self, name: &str) -> Option<f64> {
        self.scalars.iter().find(|(of, _)| *of == name).map(|(_, scalar)| *scalar)
    }

    pub(crate) fn map(self, mut to: impl FnMut(Tensor<D>) -> Tensor<D>) -> Self {
        let states = self.states.into_iter().map(|(name, state)| (name, to(state))).collect();
        FusedState { states, ..self }
    }

    /// The states in the order of the rule, if they are the states of this rule.
    pub(crate) fn into_states_of(
        mut self,
        rule: &AnyRule,
    ) -> Result<Vec<(&'static str, Tensor<D>)>, Error> {
        let (declared, given) = (rule.states(), self.states.len());
        let expected = declared.len();
        let names = || declared.iter().map(State::name).collect();
        let take = |state: &State| {
            let name = state.name();
            let i = self.states.iter().position(|(of, _)| *of == name);
            let i = i.ok_or_else(|| Error::MissingState { name, expected, names: names() })?;
            Ok((name, self.states.swap_remove(i).1))
        };
        let states = declared.iter().map(take).collect::<Result<Vec<_>, Error>>()?;
        if self.states.is_empty() {
            return Ok(states);
        }
        Err(Error::SuperfluousState { given, expected, names: names() })
    }

    /// The scalars in the order of the rule. A scalar that the record does not have gets the value
    /// after the same number of steps of this rule.
    pub(crate) fn scalars_of(&self, rule: &AnyRule) -> Vec<f64> {
        let scalar = |(i, &name)| self.scalar(name).unwrap_or_else(|| rule.scalar_after(i, self.t));
        rule.scalars().iter().enumerate().map(scalar).collect()
    }
}

impl<const D: usize> RecordState for FusedState<D> {
    fn state_flatten(&self, prefix: &str, out: &mut StateSink) {
        out.push_scalar(prefix, "t", self.t.into());
        let mut names: Vec<&str> = Vec::new();
        for (name, state) in &self.states {
            out.push_tensor(prefix, name, state.to_data());
            names.push(name);
        }
        for (name, scalar) in &self.scalars {
            out.push_scalar(prefix, name, (*scalar).into());
            names.push(name);
        }
        if !names.is_empty() {
            let bytes = names.join(" ").into_bytes();
            let len = bytes.len();
            out.push_tensor(prefix, NAMES, TensorData::new(bytes, [len]));
        }
    }

    fn state_unflatten(prefix: &str, src: &mut StateSource, device: &Device) -> Option<Self> {
        let t = src.take_scalar(prefix, "t")?.try_into().ok()?;
        let (mut states, mut scalars) = (Vec::new(), Vec::new());
        let names = src.take_tensor(prefix, NAMES).filter(|names| names.dtype() == DType::U8);
        let names = names.as_ref().map_or(&[][..], |names| names.as_bytes());
        // If an entry is missing, the next step reports it.
        for name in String::from_utf8_lossy(names).split_terminator(' ') {
            let owned = || Name::from(name.to_owned());
            if let Some(data) = src.take_tensor(prefix, name) {
                let dtype = data.dtype();
                states.push((owned(), Tensor::from_data(data, (device, dtype))));
            } else if let Some(scalar) = src.take_scalar(prefix, name) {
                scalars.extend(f64::try_from(scalar).ok().map(|scalar| (owned(), scalar)));
            }
        }
        Some(FusedState { t, states, scalars })
    }
}
