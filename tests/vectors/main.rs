//! The published test vectors in `data/vectors`: every available backend must give their bits.
//!
//! `docs/test-vectors.md` describes the files. There is one test for each backend and case of a
//! rule, for the norm, for the coefficients, and for the files themselves. With the environment
//! variable `WRITE_VECTORS` the program writes the files instead, from the scalar reference.
//!
//! The last line of the output is a hash of what was computed. It is the same on every machine.

mod cases;
mod coefficients;
#[path = "../common/mod.rs"]
mod common;
mod files;
mod hash;
mod inputs;
mod norms;
mod run;

// Links to the compiled kernels.
use fused_adam_test_kernels as _;

use cases::{Case, compare_all};
use files::Files;
use fused_adam::Backend;
use inputs::Inputs;
use libtest_mimic::{Arguments, Failed, Trial};

fn main() {
    let inputs: &'static Inputs = Box::leak(Box::new(Inputs::new()));
    if std::env::var_os("WRITE_VECTORS").is_some() {
        Files::make(inputs).write();
        return;
    }
    let files: &'static Files = Box::leak(Box::new(Files::read()));
    let mut trials = vec![
        Trial::test("files::inputs", || files.check_inputs(inputs)),
        Trial::test("files::every_rule_has_cases", || files.check_cases()),
        Trial::test("files::safetensors_equals_json", || files.check_safetensors()),
        Trial::test("files::every_changed_bit_is_found", || changed_bits(files, inputs)),
    ];
    for norm in files.norms() {
        let name = format!("norm::{}", norms::name(norm));
        trials.push(Trial::test(name, || norms::check(norm).map_err(Failed::from)));
    }
    for case in files.cases() {
        let name = format!("coefficients::{}", case.name());
        trials.push(Trial::test(name, || coefficients::check(case).map_err(Failed::from)));
    }
    for &backend in Backend::ALL {
        for case in files.cases() {
            let name = format!("{backend}::{}", case.name());
            let test = move || check(case, inputs, backend);
            trials.push(Trial::test(name, test).with_ignored_flag(!backend.is_available()));
        }
    }
    let conclusion = libtest_mimic::run(&Arguments::from_args(), trials);
    hash::print(Backend::ALL.iter().map(Backend::to_string));
    conclusion.exit();
}

/// Takes the steps of a case and compares every published bit.
fn check(case: &Case, inputs: &Inputs, backend: Backend) -> Result<(), Failed> {
    let results = case.results(inputs, backend)?;
    for buffer in &results {
        let name = format!("{}, {}", case.name(), buffer.place());
        hash::add(&backend.to_string(), &name, buffer.words());
    }
    Ok(compare_all(&results, &case.published())?)
}

/// Any changed bit fails, in each buffer of each run of a case, and the message names the place.
fn changed_bits(files: &Files, inputs: &Inputs) -> Result<(), Failed> {
    let case = files.cases().find(|case| case.name() == "adamw").ok_or("no case `adamw`")?;
    let results = case.results(inputs, Backend::Scalar)?;
    let mut published = case.published();
    for i in 0..published.len() {
        let (changed, word) = published[i].with_changed_bit(i);
        let place = format!("{}[{word}]", changed.place());
        let original = std::mem::replace(&mut published[i], changed);
        match compare_all(&results, &published) {
            Ok(()) => return Err(format!("a changed bit is not found: {place}").into()),
            Err(message) if message.contains(&place) => {}
            Err(message) => return Err(format!("not named: {place}, but {message}").into()),
        }
        published[i] = original;
    }
    Ok(())
}
