//! What is kept of a parameter between steps, and its way into burn's checkpoints and back.

use burn_core::tensor::{Device, Tensor};
use burn_optim::{RecordState, StateSink, StateSource};
use fused_adam::{AnyRule, Error, Rule};

/// The names of the states that a record is searched for: those of all rules. A record cannot be asked
/// what it holds.
const NAMES: [&str; 6] = ["m", "v", "v_max", "s", "u", "b"];

/// The states of one parameter, by the names that the rule gives them, and the number of steps
/// taken.
///
/// In burn's checkpoints they are the tensors `m`, `v` and so on, and the number `t`. A checkpoint of another rule is
/// found out by the next step, if that one keeps other states.
#[derive(Clone, Debug)]
pub struct FusedState<const D: usize> {
    t: u64,
    states: Vec<(&'static str, Tensor<D>)>,
}

impl<const D: usize> FusedState<D> {
    pub(crate) fn new(t: u64, states: Vec<(&'static str, Tensor<D>)>) -> Self {
        FusedState { t, states }
    }

    /// The number of steps taken.
    pub fn t(&self) -> u64 {
        self.t
    }

    /// The state of this name, such as `m`, if there is one.
    pub fn get(&self, name: &str) -> Option<&Tensor<D>> {
        self.states.iter().find(|(of, _)| *of == name).map(|(_, state)| state)
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
        let (names, given) = (rule.state_names(), self.states.len());
        let take = |&name: &&'static str| {
            let i = self.states.iter().position(|(of, _)| *of == name);
            let i = i.ok_or(Error::MissingState { name, expected: names.len(), names })?;
            Ok(self.states.swap_remove(i))
        };
        let states = names.iter().map(take).collect::<Result<Vec<_>, Error>>()?;
        if self.states.is_empty() {
            return Ok(states);
        }
        Err(Error::SuperfluousState { given, expected: names.len(), names })
    }
}

impl<const D: usize> RecordState for FusedState<D> {
    fn state_flatten(&self, prefix: &str, out: &mut StateSink) {
        out.push_scalar(prefix, "t", self.t.into());
        for (name, state) in &self.states {
            out.push_tensor(prefix, name, state.to_data());
        }
    }

    fn state_unflatten(prefix: &str, src: &mut StateSource, device: &Device) -> Option<Self> {
        let t = src.take_scalar(prefix, "t")?.try_into().ok()?;
        let states = NAMES.iter().filter_map(|&name| {
            let data = src.take_tensor(prefix, name)?;
            let dtype = data.dtype();
            Some((name, Tensor::from_data(data, (device, dtype))))
        });
        Some(FusedState { t, states: states.collect() })
    }
}

#[cfg(test)]
mod tests {
    use fused_adam::{AdaBound, Adam, AdamW, AnyRule, RmsProp, Rule, Sgd};

    use super::NAMES;

    #[test]
    fn a_record_is_searched_for_every_state_of_every_rule() {
        let mut rules: Vec<AnyRule> =
            AnyRule::NAMES.iter().map(|name| name.parse().unwrap()).collect();
        rules.push(Adam { amsgrad: true, ..Adam::default() }.into());
        rules.push(AdamW { amsgrad: true, ..AdamW::default() }.into());
        rules.push(AdaBound { amsbound: true, ..AdaBound::default() }.into());
        rules.push(Sgd { momentum: 0.9, ..Sgd::default() }.into());
        for centered in [false, true] {
            for momentum in [0.0, 0.9] {
                rules.push(RmsProp { centered, momentum, ..RmsProp::default() }.into());
            }
        }
        for rule in rules {
            for name in rule.state_names() {
                assert!(NAMES.contains(name), "{name} of {rule}");
            }
        }
    }
}
