//! The files in `data/vectors`: a JSON file for each rule, one of the inputs and one of the norms,
//! and the same numbers in one safetensors file.

use std::collections::HashMap;

use fused_adam::AnyRule;
use libtest_mimic::Failed;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use crate::cases::{self, Case};
use crate::inputs::{GRADS, Inputs, LEN};
use crate::norms;

/// The folder of the files.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/vectors");

/// The version of the layout of the files.
const FORMAT: u64 = 1;

/// The content of all files.
pub struct Files {
    inputs: Value,
    cases: Vec<Case>,
    norms: Vec<Value>,
}

impl Files {
    /// The files of the checkout.
    pub fn read() -> Self {
        let parse = |name: &str| -> Value {
            let text = read(&format!("{name}.json"));
            serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{name}.json: {error}"))
        };
        let mut cases = Vec::new();
        for name in AnyRule::NAMES {
            let Value::Array(of_rule) = parse(name)["cases"].take() else {
                panic!("{name}.json: no cases");
            };
            cases.extend(of_rule.into_iter().map(Case::from_json));
        }
        let norms = parse("norm")["cases"].as_array().expect("cases").clone();
        Files { inputs: parse("inputs")["inputs"].take(), cases, norms }
    }

    /// Makes the content, with the scalar reference.
    pub fn make(inputs: &Inputs) -> Self {
        Files { inputs: inputs.to_json(), cases: cases::make(inputs), norms: norms::make() }
    }

    /// Writes all files.
    pub fn write(&self) {
        let write = |name: &str, content: &[u8]| {
            let path = format!("{FOLDER}/{name}");
            std::fs::write(&path, content).unwrap_or_else(|error| panic!("{path}: {error}"));
            println!("{path}: {} bytes", content.len());
        };
        for &name in AnyRule::NAMES {
            let of_rule = self.cases.iter().filter(|case| case.rule_name() == name);
            let of_rule: Vec<&Value> = of_rule.map(Case::to_json).collect();
            let file = json!({ "format": FORMAT, "rule": name, "cases": of_rule });
            write(&format!("{name}.json"), &lines(&file));
        }
        write("inputs.json", &lines(&json!({ "format": FORMAT, "inputs": self.inputs })));
        write("norm.json", &lines(&json!({ "format": FORMAT, "cases": self.norms })));
        write("vectors.safetensors", &self.to_safetensors());
    }

    pub fn cases(&self) -> impl Iterator<Item = &Case> {
        self.cases.iter()
    }

    pub fn norms(&self) -> &[Value] {
        &self.norms
    }

    /// The published inputs are those that the tests step.
    pub fn check_inputs(&self, inputs: &Inputs) -> Result<(), Failed> {
        if self.inputs == inputs.to_json() { Ok(()) } else { Err("other inputs".into()) }
    }

    /// The cases are those that the program would write, in this order.
    pub fn check_cases(&self) -> Result<(), Failed> {
        let got: Vec<&str> = self.cases().map(Case::name).collect();
        let expected = cases::names();
        if got == expected { Ok(()) } else { Err(format!("{got:?}, not {expected:?}").into()) }
    }

    /// The safetensors file has the same numbers.
    pub fn check_safetensors(&self) -> Result<(), Failed> {
        if self.to_safetensors() == read("vectors.safetensors") {
            Ok(())
        } else {
            Err("it differs".into())
        }
    }

    /// The content of the safetensors file.
    fn to_safetensors(&self) -> Vec<u8> {
        let mut tensors = Vec::new();
        for (name, of) in self.inputs.as_object().expect("types") {
            let (path, dtype) = (format!("inputs/{name}"), float(name));
            tensors.push(Tensor::new(format!("{path}/theta"), dtype, &[LEN], text(&of["theta"])));
            let grads = of["grad"].as_array().expect("gradients").iter();
            let grads = grads.map(text).collect::<Vec<_>>().join(" ");
            tensors.push(Tensor::new(format!("{path}/grad"), dtype, &[GRADS, LEN], &grads));
        }
        for case in self.cases() {
            let name = case.name();
            for (dtype, of) in case.coefficients() {
                for (coefficient, words) in of.as_object().expect("coefficients") {
                    let path = format!("{name}/coefficients/{dtype}/{coefficient}");
                    tensors.push(Tensor::flat(path, float(dtype), text(words)));
                }
            }
            for (format, after) in case.runs() {
                for (t, buffers) in after.as_object().expect("steps") {
                    for (buffer, words) in buffers.as_object().expect("buffers") {
                        let path = format!("{name}/{format}/{t}/{buffer}");
                        tensors.push(Tensor::flat(path, dtype_of(format, buffer), text(words)));
                    }
                }
            }
        }
        for norm in self.norms() {
            let path = format!("norm/{}", norms::name(norm));
            for (i, grad) in norm["gradients"].as_array().expect("gradients").iter().enumerate() {
                let dtype = float(text(&grad["type"]));
                tensors.push(Tensor::flat(format!("{path}/{i}"), dtype, text(&grad["bits"])));
            }
            for which in ["two_norm", "inf_norm"] {
                let path = format!("{path}/{which}");
                tensors.push(Tensor::flat(path, Dtype::F64, text(&norm[which])));
            }
        }
        // One entry, because the order of several is not fixed.
        let cases: Vec<Value> = self.cases().map(Case::without_results).collect();
        let about = json!({ "format": FORMAT, "cases": cases }).to_string();
        let metadata = HashMap::from([("fused_adam_vectors".to_owned(), about)]);
        let views = tensors.iter().map(|Tensor { name, dtype, shape, bytes }| {
            let view = TensorView::new(*dtype, shape.clone(), bytes);
            (name.as_str(), view.unwrap_or_else(|error| panic!("{name}: {error}")))
        });
        safetensors::serialize(views, Some(metadata)).expect("valid tensors")
    }
}

fn read(name: &str) -> Vec<u8> {
    let path = format!("{FOLDER}/{name}");
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A tensor of the safetensors file.
struct Tensor {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    /// Little-endian.
    bytes: Vec<u8>,
}

impl Tensor {
    fn new(name: String, dtype: Dtype, shape: &[usize], words: &str) -> Self {
        let words = words.split(' ').filter(|word| !word.is_empty());
        let bytes = words.flat_map(|word| {
            let digits = (0..word.len()).step_by(2);
            let bytes = digits.map(|i| u8::from_str_radix(&word[i..i + 2], 16).expect("digits"));
            let mut bytes: Vec<u8> = bytes.collect();
            // The digits of a number begin with the highest. A block is a sequence of bytes.
            if dtype != Dtype::U8 {
                bytes.reverse();
            }
            bytes
        });
        Tensor { name, dtype, shape: shape.to_vec(), bytes: bytes.collect() }
    }

    /// Of one dimension. States in 8 bits are a sequence of bytes too, 33 for each block.
    fn flat(name: String, dtype: Dtype, words: &str) -> Self {
        let mut tensor = Tensor::new(name, dtype, &[], words);
        tensor.shape = vec![tensor.bytes.len() * 8 / dtype.bitsize()];
        tensor
    }
}

/// The type with this name.
fn float(name: &str) -> Dtype {
    match name {
        "f64" => Dtype::F64,
        "f32" => Dtype::F32,
        "bf16" => Dtype::BF16,
        "f16" => Dtype::F16,
        other => panic!("the type {other}"),
    }
}

/// The type of a buffer of a run.
fn dtype_of(format: &str, buffer: &str) -> Dtype {
    let (types, beside) = format.split_once('-').unwrap_or((format, ""));
    let types: Vec<&str> = types.split('/').collect();
    match (buffer, beside) {
        ("theta", _) => float(types[0]),
        ("copy", "copy_bf16") => Dtype::BF16,
        ("copy", _) => Dtype::F16,
        ("correction", "correction_16") => Dtype::U16,
        ("correction", _) => Dtype::U8,
        ("mu_product", _) => Dtype::F64,
        _ if types[2] == "8bit" => Dtype::U8,
        _ => float(types[2]),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("not a string: {value}"))
}

/// JSON with a line for each string of words, so that a change shows where it is.
fn lines(value: &Value) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).expect("valid JSON");
    text.push(b'\n');
    text
}
