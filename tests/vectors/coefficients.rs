//! The coefficients of each step, with the names that `kernels.md` gives them.
//!
//! They are taken from the kernel that the rule computes, through its `Debug` form, which has every
//! field. A field without a name here is an error, so none is left out.

use fused_adam::{AnyRule, Error, Float, Kernel, KernelVisitor, Rule};
use serde_json::{Map, Value};

use crate::cases::{Case, compare};
use crate::hash;
use crate::run::{Hex, STEPS};

/// The name in `kernels.md` of a coefficient of this rule, by its field. The rate of an average has
/// the name of its hyper-parameter behind it. `None` for fields that only choose a branch.
fn name(rule: &str, field: &str) -> Option<&'static str> {
    Some(match (rule, field) {
        (_, "descent.coefficient" | "plain.descent.coefficient") => "K",
        (_, "delta.root_scale" | "root_scale") => "R",
        (_, "delta.eps" | "eps") => "E",
        (_, "delta.step_size" | "step_size" | "lr" | "plain.lr") => "LR",
        ("sgd", "m.rate") => "RATE momentum",
        ("sgd", "kept") => "T",
        ("rmsprop", "rate.rate") => "RATE alpha",
        ("rmsprop", "momentum.rate") => "RATE momentum",
        ("rmsprop", "alpha") => "A",
        ("lion", "direction.rate") => "RATE beta1",
        ("lion", "m.rate") => "RATE beta2",
        (_, "m.rate" | "m1.rate") => "RATE beta1",
        (_, "v.rate" | "u.rate" | "s.rate") => "RATE beta2",
        (_, "m2.rate") => "RATE beta3",
        ("adabound", "delta.lower") => "LOW",
        ("adabound", "delta.upper") => "HIGH",
        ("nadam", "delta.of_grad") => "A",
        ("nadam", "delta.of_m") => "B",
        ("ademamix", "of_m1") => "A",
        ("ademamix", "of_m2") => "B",
        (_, "descent.sign" | "plain.descent.sign") => return None,
        (_, field) => match field.rsplit('.').next() {
            Some("maximize" | "decay" | "from_one") => return None,
            Some("nesterov" | "average" | "eps_inside" | "adaptive") => return None,
            _ => panic!("the coefficient `{field}` of {rule} has no name"),
        },
    })
}

/// The coefficients of every step, in `f32` and `f64`: by their names, a word for each step. At the
/// end, words that are the same as the one before are left out.
pub fn of(rule: &AnyRule) -> Value {
    let all = [("f32", in_type::<f32>(rule)), ("f64", in_type::<f64>(rule))];
    all.into_iter().map(|(name, of)| (name.to_owned(), Value::Object(of))).collect()
}

fn in_type<F: Float + Hex + std::str::FromStr>(rule: &AnyRule) -> Map<String, Value> {
    let mut steps: Vec<(&'static str, Vec<String>)> = Vec::new();
    let mut scalars: Vec<f64> =
        (0..rule.scalars().len()).map(|i| rule.scalar_after(i, 0)).collect();
    for t in 1..=STEPS[2] {
        rule.advance_scalars(t, &mut scalars);
        let mut show = Show(Vec::new());
        rule.visit_kernel::<F, _>(t, &scalars, &mut show).unwrap();
        let unused = unused(rule, &show.0);
        for (field, value) in show.0 {
            let Some(name) = name(rule.name(), &field).filter(|name| !unused.contains(name)) else {
                continue;
            };
            let Ok(value) = value.parse::<F>() else { panic!("`{field}` is {value}") };
            match steps.iter_mut().find(|(known, _)| *known == name) {
                Some((_, words)) => words.push(value.hex()),
                None => steps.push((name, vec![value.hex()])),
            }
        }
    }
    let shortened = steps.into_iter().map(|(name, mut words)| {
        assert_eq!(words.len() as u64, STEPS[2], "{name} of {rule}");
        while words.len() > 1 && words[words.len() - 1] == words[words.len() - 2] {
            words.pop();
        }
        (name.to_owned(), words.join(" ").into())
    });
    shortened.collect()
}

/// The coefficients that no line of the rule uses with its options. `kernels.md` does not compute
/// them.
fn unused(rule: &AnyRule, fields: &[(String, String)]) -> Vec<&'static str> {
    let is = |name: &str, value: &str| {
        fields.iter().any(|(field, got)| field.rsplit('.').next() == Some(name) && got == value)
    };
    let keeps = |state: &str| rule.states().iter().any(|kept| kept.name() == state);
    let mut unused = Vec::new();
    if is("decay", "None") {
        unused.push("K");
    }
    if rule.name() == "sgd" && is("average", "true") {
        unused.push("T");
    }
    if rule.name() == "rmsprop" && !keeps("m") {
        unused.push("A");
    }
    if rule.name() == "rmsprop" && !keeps("b") {
        unused.push("RATE momentum");
    }
    unused
}

/// Keeps the fields of a kernel with their values, as text.
struct Show(Vec<(String, String)>);

impl<F: Float> KernelVisitor<F> for &mut Show {
    fn visit<K: Kernel<F, N>, const N: usize>(self, kernel: &K) -> Result<(), Error> {
        // In this form each field has a line, and the fields of a field are indented.
        let text = format!("{kernel:#?}");
        let mut outer: Vec<&str> = Vec::new();
        for line in text.lines() {
            match line.trim().split_once(": ") {
                Some((field, value)) if value.ends_with('{') => outer.push(field),
                Some((field, value)) => {
                    let path: Vec<&str> =
                        outer.iter().copied().filter(|f| !f.is_empty()).chain([field]).collect();
                    self.0.push((path.join("."), value.trim_end_matches(',').to_owned()));
                }
                // A structure without a field name, inside of a tuple or outermost.
                None if line.ends_with('{') || line.ends_with('(') => outer.push(""),
                None => {
                    outer.pop();
                }
            }
        }
        Ok(())
    }
}

/// Compares the published coefficients with those of the rule.
pub fn check(case: &Case) -> Result<(), String> {
    let got = of(&case.rule());
    for (float, expected) in case.coefficients() {
        let (got, expected) = (got[float].as_object().unwrap(), expected.as_object().unwrap());
        if got.keys().ne(expected.keys()) {
            return Err(format!("{float}: {:?}, not {:?}", got.keys(), expected.keys()));
        }
        for (name, words) in got {
            let (words, expected) = (words.as_str().unwrap(), expected[name].as_str().unwrap());
            hash::add("coefficients", &format!("{} {float} {name}", case.name()), words);
            compare(words, expected).map_err(|e| format!("{float}, {name}, step - 1 {e}"))?;
        }
    }
    Ok(())
}
