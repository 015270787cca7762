//! What is kept of a parameter between steps, and its way into burn's checkpoints and back.

use std::borrow::Cow;

use burn_core::tensor::{DType, Device, Tensor, TensorData};
use burn_optim::{RecordState, StateSink, StateSource};
use fused_adam::{AnyRule, Error, Rule, State};

/// The tensor of bytes in which a record says what it holds: the names of all states and scalars,
/// one space apart. burn hands out what is asked for by name, and does not say what there is.
const NAMES: &str = "names";

/// A rule's, or one of a record.
type Name = Cow<'static, str>;

/// The states and scalars of one parameter, by the names that the rule gives them, and the number
/// of steps taken.
///
/// In burn's checkpoints they are the tensors `m`, `v` and so on, the numbers such as `mu_product`,
/// the number `t`, and the tensor `names`. A checkpoint of another rule is found out by the next
/// step, if that one keeps other states or scalars.
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

    /// The state of this name, such as `m`, if there is one.
    pub fn get(&self, name: &str) -> Option<&Tensor<D>> {
        self.states.iter().find(|(of, _)| *of == name).map(|(_, state)| state)
    }

    /// The scalar of this name, such as `mu_product`, after the steps taken, if there is one.
    pub fn scalar(&self, name: &str) -> Option<f64> {
        self.scalars.iter().find(|(of, _)| *of == name).map(|(_, scalar)| *scalar)
    }

    pub(crate) fn map(self, mut to: impl FnMut(Tensor<D>) -> Tensor<D>) -> Self {
        let states = self.states.into_iter().map(|(name, state)| (name, to(state))).collect();
        FusedState { states, ..self }
    }

    /// The states in the order of the rule, if they are the rule's.
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

    /// The scalars in the order of the rule, if they are the rule's.
    pub(crate) fn scalars_of(&self, rule: &AnyRule) -> Result<Vec<f64>, Error> {
        let (names, given) = (rule.scalars(), self.scalars.len());
        let scalars: Option<Vec<f64>> = names.iter().map(|name| self.scalar(name)).collect();
        let scalars = scalars.filter(|scalars| scalars.len() == given);
        scalars.ok_or(Error::Scalars { given, expected: names.len(), names })
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
        // What is not there after all the next step will miss.
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
