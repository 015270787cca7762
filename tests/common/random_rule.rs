//! Rules with any hyper-parameters and options.

use fused_adam::{AnyRule, Element, Rule, Schedule, Step};
use serde_json::Value;

use super::{Random, rules};

/// A rule of this name with its hyper-parameters drawn one after the other, in any order. A change
/// is kept if the rule takes it beside the ones before, and `fits` does.
pub fn random_rule(name: &str, random: &mut Random, fits: impl Fn(&AnyRule) -> bool) -> AnyRule {
    let mut rule = rules::default(name);
    let defaults = rules::fields(&rule);
    let mut left: Vec<&String> = defaults.keys().collect();
    for i in (1..left.len()).rev() {
        left.swap(i, random.below(i + 1));
    }
    // What is refused is drawn again later, when another change may have made it possible.
    for _ in 0..3 {
        left.retain(|field| {
            let value = draw(&defaults[*field], random);
            let changed = rules::with(&rule, [(field.as_str(), value)]).filter(&fits);
            rule = changed.unwrap_or(rule);
            changed.is_none()
        });
    }
    rule
}

/// One that allows steps from number `t` on, some of them.
pub fn random_rule_from(name: &str, random: &mut Random, t: u64) -> AnyRule {
    random_rule(name, random, |rule| (t..=t + 3).all(|t| has_kernels(rule, t)))
}

/// Any value of the kind that the default is.
fn draw(default: &Value, random: &mut Random) -> Value {
    /// Each order of magnitude alike.
    fn between(low: f64, high: f64, random: &mut Random) -> f64 {
        low * (high / low).powf(random.uniform().abs())
    }
    match default {
        Value::Bool(_) => (random.below(2) == 1).into(),
        // As large as f64 holds them exactly, in which other languages hand them over.
        Value::Number(number) if !number.is_f64() => match random.below(4) {
            0 => default.clone(),
            1 => random.below(2).into(),
            2 => random.below(1000).into(),
            _ => (between(1.0, (1_u64 << 53) as f64, random) as u64).into(),
        },
        Value::Number(_) | Value::Null => match random.below(10) {
            0 | 1 => default.clone(),
            2 => 0.0.into(),
            3 => 0.5.into(),
            4 => 0.9.into(),
            5 => 0.999.into(),
            6 => 1.0.into(),
            7 => random.uniform().abs().into(),
            8 => between(1e-6, 10.0, random).into(),
            _ => between(1e-30, 1.0, random).into(),
        },
        other => panic!("no hyper-parameter is like {other}"),
    }
}

/// Whether the coefficients of step `t` can be held in both types that are computed with.
fn has_kernels(rule: &AnyRule, t: u64) -> bool {
    fn of<E: Element>(rule: &AnyRule, t: u64) -> bool {
        let mut states: Vec<&mut [E]> = Vec::new();
        states.resize_with(rule.states().len(), Default::default);
        let step = Step::new(rule, t).schedule(Schedule::Serial);
        step.run::<E>(&mut [], &[], &mut states).is_ok()
    }
    of::<f32>(rule, t) && of::<f64>(rule, t)
}
