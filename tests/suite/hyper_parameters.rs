//! The range of every hyper-parameter of every rule, and that no value outside of it is accepted.
//! The hyper-parameters come from the rules' serialized forms, so new rules are tested too.

use fused_adam::{AnyRule, Error, Flat, Optimizer, Rule, Step};
use serde::de::value::{self, MapAccessDeserializer, MapDeserializer};
use serde::de::{Deserialize, Deserializer, IntoDeserializer, Visitor};
use serde_json::Value;

use crate::common::random_rule::random_rule;
use crate::common::{Random, rules};

/// A serialized value that, unlike JSON's, can be NaN or infinite.
#[derive(Clone, Debug)]
enum Given {
    Number(f64),
    Whole(u64),
    Truth(bool),
    Nothing,
    Fields(Vec<(String, Given)>),
}

impl Given {
    fn of(value: &Value) -> Self {
        match value {
            Value::Null => Given::Nothing,
            Value::Bool(truth) => Given::Truth(*truth),
            Value::Number(number) => match number.as_u64() {
                Some(whole) => Given::Whole(whole),
                None => Given::Number(number.as_f64().unwrap()),
            },
            other => panic!("no hyper-parameter is like {other}"),
        }
    }
}

impl<'de> IntoDeserializer<'de> for Given {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Given {
    type Error = value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self {
            Given::Number(number) => visitor.visit_f64(number),
            Given::Whole(whole) => visitor.visit_u64(whole),
            Given::Truth(truth) => visitor.visit_bool(truth),
            Given::Nothing => visitor.visit_unit(),
            Given::Fields(fields) => visitor.visit_map(MapDeserializer::new(fields.into_iter())),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self {
            Given::Nothing => visitor.visit_none(),
            some => visitor.visit_some(some),
        }
    }

    /// The name of a variant, and its value.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        let Given::Fields(fields) = self else { return self.deserialize_any(visitor) };
        let map = MapDeserializer::new(fields.into_iter());
        MapAccessDeserializer::new(map).deserialize_enum(name, variants, visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

/// The rule with one hyper-parameter changed, valid or not.
fn with(rule: &AnyRule, field: &str, given: Given) -> AnyRule {
    let mut fields: Vec<(String, Given)> =
        rules::fields(rule).iter().map(|(name, value)| (name.clone(), Given::of(value))).collect();
    fields.iter_mut().find(|(name, _)| name == field).unwrap().1 = given;
    let whole = Given::Fields(vec![(rule.name().to_owned(), Given::Fields(fields))]);
    AnyRule::deserialize(whole).unwrap_or_else(|error| panic!("`{rule}` with {field}: {error}"))
}

/// Every hyper-parameter that is a number, with its rule.
fn numbers() -> Vec<(AnyRule, String)> {
    let of = |rule: AnyRule| {
        let fields = rules::fields(&rule);
        fields.into_iter().filter(|(_, value)| value.is_f64()).map(move |(name, _)| (rule, name))
    };
    rules::names().map(rules::default).flat_map(of).collect()
}

/// The expected range in the error for a hyper-parameter. None if it is valid.
fn expected_of(rule: &AnyRule, field: &str) -> Option<&'static str> {
    match rule.check() {
        Err(Error::HyperParameter { name, expected, .. }) if name == field => Some(expected),
        Err(other) => panic!("{field} of {rule}: {other}"),
        Ok(()) => None,
    }
}

/// A kind of range: its name, values outside of it, and values inside.
struct Range {
    called: &'static str,
    outside: &'static [f64],
    inside: &'static [f64],
}

const BELOW_1: Range = Range {
    called: "a number in [0, 1)",
    outside: &[-0.1, -5e-324, 1.0, 1.5, 1e300],
    inside: &[0.0, 5e-324, 0.3, 1.0 - f64::EPSILON / 2.0],
};
const UP_TO_1: Range = Range {
    called: "a number in [0, 1]",
    outside: &[-0.1, -5e-324, 1.0 + f64::EPSILON, 1.1, 1e300],
    inside: &[0.0, 5e-324, 0.3, 1.0],
};
const ABOVE_0: Range = Range {
    called: "a finite number above 0",
    outside: &[0.0, -0.0, -5e-324, -1e-8, -1e300],
    inside: &[5e-324, 1e-8, 1.0, 1e300],
};
const AT_LEAST_0: Range = Range {
    called: "a finite number of at least 0",
    outside: &[-5e-324, -1e-3, -1.0, -1e300],
    inside: &[0.0, 5e-324, 0.3, 1.0, 1e300],
};

/// The range of a hyper-parameter. Ranges that are common or published are listed here; for any
/// other, it is what the rule's error says.
fn range(rule: &AnyRule, field: &str) -> &'static Range {
    match (rule.name(), field) {
        (_, "beta1" | "beta2") | ("rmsprop", "alpha") | ("adabound", "gamma") => &BELOW_1,
        ("sgd" | "rmsprop", "momentum") | ("sgd", "dampening") => &UP_TO_1,
        (_, "eps") => &ABOVE_0,
        (_, "lr" | "weight_decay") => &AT_LEAST_0,
        ("adagrad", _) | ("nadam", "momentum_decay") | ("adabound", "final_lr") => &AT_LEAST_0,
        _ => {
            let said = expected_of(&with(rule, field, Given::Number(f64::NAN)), field);
            let said = said.unwrap_or_else(|| panic!("{field} of {rule} may be NaN"));
            let known = [&BELOW_1, &UP_TO_1, &ABOVE_0, &AT_LEAST_0];
            let found = known.into_iter().find(|range| range.called == said);
            found.unwrap_or_else(|| panic!("{field} of {rule}: what does {said:?} hold?"))
        }
    }
}

/// A step, `Flat` and an optimizer return an error with this message, before anything is written.
fn is_refused(rule: &AnyRule, message: &str) {
    const SOME: [f32; 4] = [0.1, -0.2, 0.3, -0.4];
    let (mut theta, mut states) = (SOME, vec![SOME; rule.states().len()]);
    let mut borrowed: Vec<&mut [f32]> = states.iter_mut().map(|state| &mut state[..]).collect();
    let result = Step::new(rule, 1).run(&mut theta, &SOME, &mut borrowed);
    let refused = result.expect_err(message);
    assert_eq!(refused.to_string(), message, "{rule}");
    assert!(theta == SOME && states.iter().all(|state| *state == SOME), "{rule}: was written to");
    assert_eq!(rule.check().unwrap_err().to_string(), message, "{rule}");
    assert_eq!(Flat::<_, f32>::new(*rule, 4).unwrap_err().to_string(), message, "{rule}");
    assert_eq!(Optimizer::new(*rule).err().unwrap().to_string(), message, "{rule}");
}

#[test]
fn numbers_outside_their_range_are_refused_by_name() {
    let numbers = numbers();
    assert!(numbers.len() >= 4 * rules::names().count(), "only {} were found", numbers.len());
    for (rule, field) in &numbers {
        let range = range(rule, field);
        let never = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
        for value in range.outside.iter().copied().chain(never) {
            let bad = with(rule, field, Given::Number(value));
            let message = format!("`{field}` is {value:?}, expected {}", range.called);
            is_refused(&bad, &message);
        }
    }
}

#[test]
fn numbers_in_their_range_are_fine() {
    for (rule, field) in numbers() {
        let range = range(&rule, &field);
        for &value in range.inside {
            let good = with(&rule, &field, Given::Number(value));
            // It may have to be consistent with another.
            let refused = expected_of(&good, &field);
            assert_ne!(refused, Some(range.called), "{field} of {rule} at {value:e}");
            assert!(refused.is_some() || Flat::<_, f32>::new(good, 4).is_ok());
        }
    }
}

/// However large or small, they make a step or cause an error with their name.
#[test]
fn whole_numbers_of_any_size_make_a_step_or_are_refused() {
    for rule in rules::names().map(rules::default) {
        for (field, _) in rules::fields(&rule).iter().filter(|(_, value)| value.is_u64()) {
            for whole in [0, 1, 2, 1000, u64::MAX - 1, u64::MAX] {
                let rule = with(&rule, field, Given::Whole(whole));
                for t in [1, 2, 1000, u64::MAX] {
                    let (mut theta, mut states) = ([0.5], vec![[0.0]; rule.states().len()]);
                    let mut borrowed: Vec<&mut [f64]> =
                        states.iter_mut().map(|state| &mut state[..]).collect();
                    match Step::new(&rule, t).run(&mut theta, &[0.1], &mut borrowed) {
                        Ok(()) => assert!(theta[0].is_finite(), "{rule:?} at {t}: {theta:?}"),
                        Err(Error::HyperParameter { name, .. }) => assert_eq!(name, field),
                        Err(other) => panic!("{rule:?} at {t}: {other}"),
                    }
                }
            }
        }
    }
}

/// The serialized names, which checkpoints and other languages use, are the names of the fields,
/// with their values, as Rust's `Debug` shows them.
#[test]
fn serialised_names_are_those_of_the_fields() {
    for name in rules::names() {
        for seed in 0..50 {
            let rule = random_rule(name, &mut Random(seed), |_| true);
            let shown = format!("{rule:?}");
            let (_, shown) = shown.split_once("{ ").unwrap();
            let shown = shown.split_once(" }").unwrap().0;
            let fields = rules::fields(&rule);
            let mut found = 0;
            for (field, value) in shown.split(", ").map(|field| field.split_once(": ").unwrap()) {
                let same = match fields.get(field) {
                    Some(Value::Bool(truth)) => value.parse() == Ok(*truth),
                    Some(Value::Number(number)) => value.parse() == Ok(number.as_f64().unwrap()),
                    Some(_) | None => {
                        assert_eq!(value, "None", "{field} of {rule:?} is not serialised");
                        continue;
                    }
                };
                assert!(same, "{field} of {rule:?} is serialised as {}", fields[field]);
                found += 1;
            }
            let there = fields.values().filter(|value| !value.is_null()).count();
            assert_eq!(found, there, "{rule:?} as {fields:?}");
        }
    }
}
