//! The optimizer that computed a state, and whether a rule can continue it.

use burn_core::tensor::TensorData;
use burn_optim::StateSource;
use fused_adam::{AnyRule, Rule};

/// The name of a rule of fused-adam, or one of the texts below.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Origin(&'static str);

const BURNS_ADAM: &str = "burn's Adam or AdamW (`moment_1`, `moment_2`)";
const BURNS_LAMB: &str = "burn's Lamb (`moment_1`, `moment_2`)";
const BURNS_ADAGRAD: &str = "burn's AdaGrad (`sum`)";
const UNKNOWN: &str = "an unknown optimizer";

/// burn's optimizers whose states are continued: where their records have the step number `time`
/// and the states, and the names of the states, ours first.
const CONTINUED: [(&str, &str, &[Names]); 3] = [
    (BURNS_ADAM, ".momentum", &MOMENTS),
    (BURNS_LAMB, "", &MOMENTS),
    (BURNS_ADAGRAD, ".lr_decay", &[("v", "sum")]),
];

type Names = (&'static str, &'static str);

const MOMENTS: [Names; 3] = [("m", "moment_1"), ("v", "moment_2"), ("v_max", "max_moment_2")];

/// burn's other optimizers, with an entry of their records that no other of them has. The records
/// have no step number, or this crate has no such rule.
const OTHER_BURNS: [(&str, &str); 5] = [
    ("momentum", "burn's Lion (`momentum`)"),
    ("momentum.velocity", "burn's Sgd or Muon (`momentum.velocity`)"),
    ("momentum.exp_avg", "burn's Adan (`momentum.exp_avg`)"),
    ("square_avg.square_avg", "burn's RmsProp (`square_avg.square_avg`)"),
    ("second_moment", "burn's Adafactor (`second_moment`)"),
];

/// The optimizers with the same averages: `m` of the gradients, `v` of their squares, and with
/// AMSGrad `v_max`, the maximum of all `v`. None of them is stored with a bias correction.
const AVERAGES: [&str; 7] = ["adam", "adamw", "nadam", "radam", "adabound", BURNS_ADAM, BURNS_LAMB];

impl Origin {
    pub fn rule(name: &'static str) -> Self {
        Origin(name)
    }

    /// The origin with this name in a record.
    pub fn from_record(name: &TensorData) -> Self {
        let burns = CONTINUED.iter().map(|(name, ..)| name);
        let burns = burns.chain(OTHER_BURNS.iter().map(|(_, name)| name));
        let mut known = AnyRule::NAMES.iter().chain(burns);
        Origin(known.find(|known| known.as_bytes() == name.as_bytes()).unwrap_or(&UNKNOWN))
    }

    /// Its name in a record.
    pub fn name(self) -> &'static str {
        self.0
    }

    /// Whether the states mean the same in this rule.
    pub fn continues_as(self, rule: &AnyRule) -> bool {
        let both = [self.0, rule.name()];
        self.0 == rule.name()
            || both.iter().all(|name| AVERAGES.contains(name))
            || both == [BURNS_ADAGRAD, "adagrad"]
    }

    /// The optimizer with its states, for a message.
    pub fn describe<'a>(self, states: impl Iterator<Item = &'a str>) -> String {
        if AnyRule::NAMES.contains(&self.0) { with_states(self.0, states) } else { self.0.into() }
    }
}

/// A rule with its states, for a message.
pub(crate) fn with_states<'a>(rule: &str, states: impl Iterator<Item = &'a str>) -> String {
    let states: Vec<String> = states.map(|state| format!("`{state}`")).collect();
    let states = if states.is_empty() { "no states".into() } else { states.join(", ") };
    format!("`{rule}` ({states})")
}

/// Takes a state of burn's own optimizers from a record: the optimizer, the step number, and the
/// states with our names. Without states if no rule continues them.
pub(crate) fn take_burns(
    prefix: &str,
    src: &mut StateSource,
) -> (Origin, u64, Vec<(&'static str, TensorData)>) {
    for (origin, at, names) in CONTINUED {
        let at = format!("{prefix}{at}");
        let take = |&(ours, burns)| Some((ours, src.take_tensor(&at, burns)?));
        let states: Vec<_> = names.iter().filter_map(take).collect();
        let t = src.take_scalar(&at, "time").and_then(|t| t.try_into().ok());
        if let (Some(t), false) = (t, states.is_empty()) {
            return (Origin(origin), t, states);
        }
    }
    let other = OTHER_BURNS.iter().find(|(entry, _)| src.take_tensor(prefix, entry).is_some());
    (Origin(other.map_or(UNKNOWN, |(_, name)| name)), 0, Vec::new())
}
