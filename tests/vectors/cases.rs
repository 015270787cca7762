//! The cases: rules with their hyper-parameters and options, and the results of each.

use fused_adam::{AnyRule, Backend, Rule};
use serde_json::{Map, Value, json};

use crate::coefficients;
use crate::common::rules;
use crate::inputs::Inputs;
use crate::run::{FEW_FORMATS, FORMATS, STEPS, run};

/// Options of the step that are not hyper-parameters.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub grad_scale: f64,
    /// Infinity for none.
    pub clip_value: f64,
}

/// A case as it is in the file of its rule.
#[derive(Clone, Debug)]
pub struct Case {
    json: Value,
}

/// A case before its results are computed.
struct Plan {
    name: String,
    rule: AnyRule,
    options: Options,
    formats: &'static [&'static str],
}

/// Every case, in the order of the files.
fn plans() -> Vec<Plan> {
    let none = Options { grad_scale: 1.0, clip_value: f64::INFINITY };
    let variants = rules::variants_with_other_starts().into_iter();
    let variants =
        variants.map(|(name, rule)| Plan { name, rule, options: none, formats: FORMATS });
    let more = more().into_iter().map(|(name, changes)| {
        let (rule, _) = name.split_once('-').unwrap();
        let Value::Object(changes) = changes else { panic!("not an object: {changes}") };
        let changes = changes.iter().map(|(name, value)| (name.as_str(), value.clone()));
        let rule = rules::with(&rules::default(rule), changes).unwrap_or_else(|| panic!("{name}"));
        Plan { name: name.to_owned(), rule, options: none, formats: FEW_FORMATS }
    });
    let options = Options { grad_scale: 0.5, clip_value: 0.1 };
    let clipped = rules::names().map(rules::default).map(|rule| {
        let name = format!("{}-scaled-clipped", rule.name());
        Plan { name, rule, options, formats: &FEW_FORMATS[..2] }
    });
    let mut plans: Vec<Plan> = variants.chain(more).chain(clipped).collect();
    plans.sort_by_key(|plan| AnyRule::NAMES.iter().position(|name| *name == plan.rule.name()));
    plans
}

/// The names of all cases.
pub fn names() -> Vec<String> {
    plans().into_iter().map(|plan| plan.name).collect()
}

/// Makes every case with the scalar reference.
pub fn make(inputs: &Inputs) -> Vec<Case> {
    plans().iter().map(|plan| Case::make(plan, inputs)).collect()
}

/// Cases of the other branches of the arithmetic: both kinds of decay, both forms of averages, and
/// options that change no states.
fn more() -> Vec<(&'static str, Value)> {
    vec![
        ("sgd-decay", json!({ "weight_decay": 0.1, "maximize": true })),
        ("sgd-nesterov", json!({ "momentum": 0.9, "nesterov": true, "weight_decay": 0.1 })),
        ("sgd-dampening", json!({ "momentum": 0.4, "dampening": 0.5 })),
        (
            "sgd-average",
            json!({
                "momentum": 0.9, "average": true, "nesterov": true,
                "weight_decay": 0.1, "decoupled_weight_decay": true,
            }),
        ),
        ("rmsprop-options", json!({ "eps_inside": true, "weight_decay": 0.1, "alpha": 0.45 })),
        (
            "rmsprop-centered-momentum-options",
            json!({ "centered": true, "momentum": 0.9, "eps_inside": true, "maximize": true }),
        ),
        ("adagrad-options", json!({ "lr_decay": 0.1, "weight_decay": 0.1, "maximize": true })),
        ("adagrad-start", json!({ "initial_accumulator_value": 0.3 })),
        ("adam-decay", json!({ "weight_decay": 0.1, "maximize": true })),
        ("adam-low_betas", json!({ "beta1": 0.3, "beta2": 0.45, "bias_correction": false })),
        ("adamw-low_betas", json!({ "beta1": 0.0, "beta2": 0.45, "amsgrad": true })),
        ("adamw-half_betas", json!({ "beta1": 0.5, "beta2": 0.5 })),
        ("adamw-no_decay", json!({ "weight_decay": 0.0, "maximize": true })),
        ("adamax-options", json!({ "weight_decay": 0.1, "maximize": true, "beta2": 0.4 })),
        ("nadam-decay", json!({ "weight_decay": 0.1, "maximize": true, "beta1": 0.4 })),
        ("nadam-decoupled", json!({ "weight_decay": 0.1, "decoupled_weight_decay": true })),
        ("radam-decay", json!({ "weight_decay": 0.1, "maximize": true })),
        ("radam-decoupled", json!({ "weight_decay": 0.1, "decoupled_weight_decay": true })),
        ("adabound-decay", json!({ "weight_decay": 0.1, "maximize": true, "gamma": 0.0 })),
        (
            "adabound-decoupled",
            json!({
                "weight_decay": 0.1, "decoupled_weight_decay": true,
                "amsbound": true, "final_lr": 0.02, "gamma": 0.5,
            }),
        ),
        ("adabelief-decay", json!({ "weight_decay": 0.1, "maximize": true, "beta2": 0.4 })),
        ("adabelief-decoupled", json!({ "weight_decay": 0.1, "decoupled_weight_decay": true })),
        ("lion-options", json!({ "weight_decay": 0.1, "maximize": true, "beta1": 0.4 })),
        (
            "ademamix-warmup",
            json!({ "alpha_warmup": 500, "beta3_warmup": 500, "weight_decay": 0.1 }),
        ),
        ("ademamix-low_betas", json!({ "beta1": 0.0, "beta3": 0.45, "maximize": true })),
    ]
}

impl Case {
    pub fn from_json(json: Value) -> Self {
        Case { json }
    }

    pub fn to_json(&self) -> &Value {
        &self.json
    }

    fn make(plan: &Plan, inputs: &Inputs) -> Self {
        let Plan { name, rule, options, formats } = plan;
        let runs = formats.iter().map(|format| {
            let after = run(format, *rule, *options, inputs, Backend::Scalar);
            let after = after.unwrap_or_else(|error| panic!("{name}: {format}: {error}"));
            let after = STEPS.iter().zip(after).map(|(t, buffers)| (t.to_string(), buffers.into()));
            ((*format).to_owned(), Value::Object(after.collect()))
        });
        let mut json = json!({
            "name": name,
            "rule": rule.name(),
            "hyper_parameters": rules::fields(rule),
            "coefficients": coefficients::of(rule),
            "runs": Value::Object(runs.collect()),
        });
        if options.clip_value.is_finite() {
            json["grad_scale"] = options.grad_scale.into();
            json["clip_value"] = options.clip_value.into();
        }
        Case { json }
    }

    pub fn name(&self) -> &str {
        self.json["name"].as_str().expect("a name")
    }

    pub fn rule(&self) -> AnyRule {
        let fields = self.json["hyper_parameters"].clone();
        serde_json::from_value(json!({ self.rule_name(): fields })).expect("a rule")
    }

    pub fn rule_name(&self) -> &str {
        self.json["rule"].as_str().expect("the name of a rule")
    }

    /// The case with the names of its runs instead of their results.
    pub fn without_results(&self) -> Value {
        let mut json = self.json.clone();
        json["runs"] = self.runs().keys().cloned().collect();
        json.as_object_mut().expect("a case").remove("coefficients");
        json
    }

    pub fn coefficients(&self) -> &Map<String, Value> {
        self.json["coefficients"].as_object().expect("the coefficients")
    }

    pub fn runs(&self) -> &Map<String, Value> {
        self.json["runs"].as_object().expect("the runs")
    }

    fn options(&self) -> Options {
        Options {
            grad_scale: self.json["grad_scale"].as_f64().unwrap_or(1.0),
            clip_value: self.json["clip_value"].as_f64().unwrap_or(f64::INFINITY),
        }
    }

    /// Takes all steps on this backend. Returns the bits of every buffer.
    pub fn results(&self, inputs: &Inputs, backend: Backend) -> Result<Vec<Buffer>, String> {
        let mut results = Vec::new();
        for format in self.runs().keys() {
            let after = run(format, self.rule(), self.options(), inputs, backend)
                .map_err(|error| format!("{format}: {error}"))?;
            for (t, buffers) in STEPS.iter().zip(after) {
                results.extend(buffers.into_iter().map(|(name, words)| Buffer {
                    format: format.clone(),
                    t: t.to_string(),
                    name,
                    words: words.as_str().expect("words").to_owned(),
                }));
            }
        }
        Ok(results)
    }

    /// The published bits of every buffer.
    pub fn published(&self) -> Vec<Buffer> {
        let mut published = Vec::new();
        for (format, steps) in self.runs() {
            for (t, buffers) in steps.as_object().expect("steps") {
                published.extend(buffers.as_object().expect("buffers").iter().map(
                    |(name, words)| Buffer {
                        format: format.clone(),
                        t: t.clone(),
                        name: name.clone(),
                        words: words.as_str().expect("words").to_owned(),
                    },
                ));
            }
        }
        published
    }
}

/// The bits of a buffer after step `t` of a run.
#[derive(Clone)]
pub struct Buffer {
    format: String,
    t: String,
    name: String,
    words: String,
}

impl Buffer {
    /// Where the buffer is in a case.
    pub fn place(&self) -> String {
        format!("{}, after step {}, {}", self.format, self.t, self.name)
    }

    pub fn words(&self) -> &str {
        &self.words
    }

    /// The buffer with one bit changed, and the index of the word that has it. Another number
    /// changes another word, digit and bit.
    pub fn with_changed_bit(&self, number: usize) -> (Buffer, usize) {
        let at = self.words.len() * (number % 7) / 7;
        let at = if self.words.as_bytes()[at] == b' ' { at + 1 } else { at };
        let digit = u32::from_str_radix(&self.words[at..=at], 16).expect("a digit");
        let digit = char::from_digit(digit ^ 1 << (number % 4), 16).unwrap();
        let words = format!("{}{digit}{}", &self.words[..at], &self.words[at + 1..]);
        (Buffer { words, ..self.clone() }, self.words[..at].matches(' ').count())
    }
}

/// Compares all buffers of a case. The error names the first word that differs.
pub fn compare_all(got: &[Buffer], expected: &[Buffer]) -> Result<(), String> {
    for (got, expected) in got.iter().zip(expected) {
        if got.place() != expected.place() {
            return Err(format!("{}, but {} is published", got.place(), expected.place()));
        }
        compare(&got.words, &expected.words).map_err(|e| format!("{}{e}", got.place()))?;
    }
    match (got.len(), expected.len()) {
        (got, expected) if got == expected => Ok(()),
        (got, expected) => Err(format!("{got} buffers, but {expected} are published")),
    }
}

/// Compares the words of a buffer.
pub fn compare(got: &str, expected: &str) -> Result<(), String> {
    let (mut gots, mut expecteds) = (got.split(' '), expected.split(' '));
    for i in 0.. {
        match (gots.next(), expecteds.next()) {
            (None, None) => break,
            (got, expected) if got == expected => {}
            (got, expected) => {
                let show = |word: Option<&str>| word.unwrap_or("missing").to_owned();
                return Err(format!("[{i}] is {}, not {}", show(got), show(expected)));
            }
        }
    }
    Ok(())
}
