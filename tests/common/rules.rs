//! The crate's rules and their hyper-parameters, from their serialized forms. No rule is listed
//! here: a new one is found by its name in `AnyRule::NAMES`.

#![allow(dead_code, reason = "each program uses its part")]

use fused_adam::{AnyRule, Rule};
use serde_json::{Map, Value};

/// The names of all rules.
pub fn names() -> impl Iterator<Item = &'static str> {
    AnyRule::NAMES.iter().copied()
}

/// The rule with this name and its defaults.
pub fn default(name: &str) -> AnyRule {
    name.parse().unwrap_or_else(|error| panic!("{error}"))
}

/// The hyper-parameters by name: numbers, integers and booleans.
pub fn fields(rule: &AnyRule) -> Map<String, Value> {
    let fields = serde_json::to_value(rule).map(|mut whole| whole[rule.name()].take());
    match fields {
        Ok(Value::Object(fields)) => fields,
        other => panic!("`{rule}` has no hyper-parameters: {other:?}"),
    }
}

/// The rule with some hyper-parameters changed, if they are valid and consistent.
pub fn with<'a>(
    rule: &AnyRule,
    changes: impl IntoIterator<Item = (&'a str, Value)>,
) -> Option<AnyRule> {
    let mut fields = fields(rule);
    fields.extend(changes.into_iter().map(|(name, value)| (name.to_owned(), value)));
    let whole = Map::from_iter([(rule.name().to_owned(), Value::Object(fields))]);
    let rule: AnyRule = serde_json::from_value(Value::Object(whole)).ok()?;
    rule.check().is_ok().then_some(rule)
}

/// The rule with one hyper-parameter changed, if the rule has it.
pub fn with_if_any(rule: AnyRule, name: &str, value: impl Into<Value>) -> AnyRule {
    if !fields(&rule).contains_key(name) {
        return rule;
    }
    let value = value.into();
    with(&rule, [(name, value.clone())]).unwrap_or_else(|| panic!("`{rule}` with {name} {value}"))
}

/// The rule with this learning rate, including its other learning rates, such as AdaBound's
/// `final_lr`.
pub fn with_step_size(rule: AnyRule, lr: f64) -> AnyRule {
    let others = fields(&rule).into_iter().filter(|(name, _)| name.ends_with("_lr"));
    let others: Vec<(String, Value)> = others.map(|(name, _)| (name, lr.into())).collect();
    let all = others.iter().map(|(name, value)| (name.as_str(), value.clone()));
    with(&rule, all.chain([("lr", lr.into())])).unwrap_or_else(|| panic!("{rule} with lr {lr}"))
}

/// The rule with weight decay, and with every boolean changed that can be changed without changing
/// the states.
pub fn switched(rule: AnyRule) -> AnyRule {
    let states = rule.states();
    let decays = with(&rule, [("weight_decay", 0.1.into())]).unwrap_or(rule);
    fields(&rule).iter().fold(decays, |rule, (field, value)| {
        let changed = value.as_bool().and_then(|truth| with(&rule, [(&**field, (!truth).into())]));
        changed.filter(|changed| changed.states() == states).unwrap_or(rule)
    })
}

/// Every rule with its defaults, and with each option or pair of options that changes its states.
/// Each has a name, such as `rmsprop-centered-momentum`.
pub fn variants() -> Vec<(String, AnyRule)> {
    variants_by(Rule::states)
}

/// The same, and with options that change the initial values of the states.
pub fn variants_with_other_starts() -> Vec<(String, AnyRule)> {
    variants_by(|rule| {
        let names = rule.states();
        let starts: Vec<f64> = (0..names.len()).map(|i| rule.initial_state(i)).collect();
        (names, starts)
    })
}

fn variants_by<K: PartialEq>(states: impl Fn(&AnyRule) -> K) -> Vec<(String, AnyRule)> {
    let mut variants = Vec::new();
    for name in names() {
        let default = default(name);
        let fields = fields(&default);
        let options: Vec<(String, &str, Value)> =
            fields.iter().filter_map(|(field, value)| option(field, value)).collect();
        let mut seen = vec![states(&default)];
        variants.push((name.to_owned(), default));
        let singles = options.iter().map(|one| vec![one]);
        let pairs = (0..options.len())
            .flat_map(|i| options[i + 1..].iter().map(move |other| (i, other)))
            .map(|(i, other)| vec![&options[i], other]);
        for chosen in singles.chain(pairs) {
            let changes = chosen.iter().map(|(_, field, value)| (*field, value.clone()));
            let Some(rule) = with(&default, changes) else { continue };
            let states = states(&rule);
            if !seen.contains(&states) {
                seen.push(states);
                let labels = chosen.iter().map(|(label, ..)| format!("-{label}"));
                variants.push((name.to_owned() + &labels.collect::<String>(), rule));
            }
        }
    }
    variants
}

/// The other choice of a hyper-parameter: the other boolean, or for a number that is 0, such as
/// momentum, a different one, and 0 for one that is not.
fn option<'a>(field: &'a str, default: &Value) -> Option<(String, &'a str, Value)> {
    match default {
        Value::Bool(false) => Some((field.to_owned(), field, Value::Bool(true))),
        Value::Bool(true) => Some((format!("no_{field}"), field, Value::Bool(false))),
        Value::Number(number) if number.is_f64() && number.as_f64() == Some(0.0) => {
            Some((field.to_owned(), field, 0.9.into()))
        }
        Value::Number(number) if number.is_f64() => {
            Some((format!("no_{field}"), field, 0.0.into()))
        }
        _ => None,
    }
}
