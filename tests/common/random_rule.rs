//! Rules with random hyper-parameters and options.

use fused_adam::{AnyRule, Element, Parallelism, Rule, Step};
use serde_json::Value;

use super::{Random, rules};

/// A rule with this name whose hyper-parameters are drawn one after the other, in random order. A
/// change is kept if the rule accepts it together with the previous ones, and `fits` does.
pub fn random_rule(name: &str, random: &mut Random, fits: impl Fn(&AnyRule) -> bool) -> AnyRule {
    let mut rule = rules::default(name);
    let defaults = rules::fields(&rule);
    let mut left: Vec<&String> = defaults.keys().collect();
    for i in (1..left.len()).rev() {
        left.swap(i, random.below(i + 1));
    }
    // A rejected change is drawn again later, when another change may have made it valid.
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

/// A rule that allows some steps from number `t` on.
pub fn random_rule_from(name: &str, random: &mut Random, t: u64) -> AnyRule {
    random_rule(name, random, |rule| (t..=t + 3).all(|t| has_kernels(rule, t)))
}

/// A random value of the default's type.
fn draw(default: &Value, random: &mut Random) -> Value {
    /// Each order of magnitude with the same probability.
    fn between(low: f64, high: f64, random: &mut Random) -> f64 {
        low * (high / low).powf(random.uniform().abs())
    }
    match default {
        Value::Bool(_) => (random.below(2) == 1).into(),
        // Up to the largest integers that are exact in f64, because bindings pass them as f64.
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

/// Whether the coefficients of step `t` are representable in both computation types.
fn has_kernels(rule: &AnyRule, t: u64) -> bool {
    fn of<E: Element>(rule: &AnyRule, t: u64) -> bool {
        let mut states: Vec<&mut [E]> = Vec::new();
        states.resize_with(rule.states().len(), Default::default);
        let step = Step::new(rule, t).with_parallelism(Parallelism::Serial);
        step.run::<E>(&mut [], &[], &mut states).is_ok()
    }
    of::<f32>(rule, t) && of::<f64>(rule, t)
}
