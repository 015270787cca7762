//! Checks that the rules that tests draw at random cover all cases.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use fused_adam::Rule;
use serde_json::{Map, Value};

use crate::common::random_rule::random_rule_from;
use crate::common::{Random, rules};

const DRAWS: u64 = 2000;

/// The booleans among the hyper-parameters.
fn truths(of: &Map<String, Value>) -> Vec<(String, bool)> {
    of.iter().filter_map(|(field, value)| Some((field.clone(), value.as_bool()?))).collect()
}

/// At 0, below one half, or above: kernels differ in these.
fn kind(number: f64) -> (bool, bool) {
    (number == 0.0, number < 0.5)
}

/// Both values of each boolean, and all their combinations; each number at 0, below one half and
/// above; and all sets of states. Combinations that a rule does not allow are not required.
#[test]
fn rules_of_every_kind_are_drawn() {
    let variants = rules::variants();
    for name in rules::names() {
        let mut combinations = HashSet::new();
        let mut states = HashSet::new();
        let mut values: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut kinds = HashSet::new();
        for seed in 0..DRAWS {
            let rule = random_rule_from(name, &mut Random(seed), 1 + seed);
            let drawn = rules::fields(&rule);
            combinations.insert(truths(&drawn));
            states.insert(rule.states());
            for (field, value) in drawn {
                kinds.extend(value.as_f64().map(|number| (field.clone(), kind(number))));
                values.entry(field).or_default().insert(value.to_string());
            }
        }

        for (variant, rule) in variants.iter().filter(|(_, rule)| rule.name() == name) {
            assert!(states.contains(rule.states()), "the states of {variant}");
        }
        let default = rules::default(name);
        let fields = rules::fields(&default);
        for (field, its_default) in &fields {
            let distinct = values[field].len();
            let expected = if its_default.is_boolean() { 2 } else { 100 };
            assert!(distinct >= expected, "{field} of {name} takes {distinct} values");
            for number in [0.0, 0.25, 0.75].into_iter().filter(|_| its_default.is_f64()) {
                let possible = rules::with(&default, [(field.as_str(), number.into())]).is_some();
                let drawn = kinds.contains(&(field.clone(), kind(number)));
                assert!(drawn || !possible, "{field} of {name} is never like {number}");
            }
        }
        let switches = truths(&fields);
        for choice in 0..1_usize << switches.len() {
            let chosen: Vec<(String, bool)> = (switches.iter().enumerate())
                .map(|(i, (field, _))| (field.clone(), choice >> i & 1 == 1))
                .collect();
            // Some are only valid together with another number than the default.
            let allows = |number: Option<&str>| {
                let truths = chosen.iter().map(|(field, truth)| (field.as_str(), (*truth).into()));
                let number = number.map(|field| (field, 0.9.into()));
                rules::with(&default, truths.chain(number)).is_some()
            };
            let possible = allows(None) || fields.keys().any(|field| allows(Some(field)));
            assert!(combinations.contains(&chosen) || !possible, "{name} with {chosen:?}");
        }
    }
}

#[test]
fn the_same_seed_draws_the_same_rule() {
    for name in rules::names() {
        let draw = |seed| random_rule_from(name, &mut Random(seed), 1);
        assert!((0..100).all(|seed| draw(seed) == draw(seed)));
        assert!((0..100).any(|seed| draw(seed) != draw(seed + 1)));
    }
}
