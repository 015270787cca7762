//! Compares single steps with results from NumPy (`tests/vectors/generate.py`), bit for bit, on
//! every backend. This checks the reference itself, and that all machines agree.

use fused_adam::{Adam, Backend, Rule, State, Step};
use serde_json::Value;

use crate::common::{Bits, decoupled, difference};

#[test]
fn every_backend_gives_the_bits_of_numpy() {
    let cases: Vec<Value> =
        serde_json::from_str(include_str!("../vectors/adam.json")).expect("valid JSON");
    assert_eq!(cases.len(), 64);
    for &backend in Backend::ALL {
        if !backend.is_available() {
            println!("skipped: {backend} is not available on this CPU");
            continue;
        }
        for case in &cases {
            match case["element"].as_str() {
                Some("f32") => check::<f32>(case, backend),
                Some("f64") => check::<f64>(case, backend),
                other => panic!("unknown element {other:?}"),
            }
        }
    }
}

fn check<E: Bits>(case: &Value, backend: Backend) {
    let number = |key: &str| case[key].as_f64().unwrap();
    let flag = |key: &str| case[key].as_bool().unwrap();
    let adam = Adam {
        lr: number("lr"),
        beta1: number("beta1"),
        beta2: number("beta2"),
        eps: number("eps"),
        weight_decay: number("weight_decay"),
        amsgrad: flag("amsgrad"),
        maximize: flag("maximize"),
        bias_correction: flag("bias_correction"),
    };
    match case["rule"].as_str() {
        Some("Adam") => step::<_, E>(&adam, case, backend),
        Some("AdamW") => step::<_, E>(&decoupled(adam), case, backend),
        other => panic!("unknown rule {other:?}"),
    }
}

fn step<R: Rule + std::fmt::Debug, E: Bits>(rule: &R, case: &Value, backend: Backend) {
    let numbers = |value: &Value| -> Vec<E> {
        let words = value.as_str().unwrap().split(' ');
        words.map(|word| E::any_bits(u64::from_str_radix(word, 16).unwrap())).collect()
    };
    let names: Vec<_> = rule.states().iter().map(State::name).collect();
    let mut theta = numbers(&case["before"]["theta"]);
    let mut states: Vec<Vec<E>> = names.iter().map(|name| numbers(&case["before"][name])).collect();
    let mut slices: Vec<&mut [E]> = states.iter_mut().map(Vec::as_mut_slice).collect();
    Step::new(rule, case["t"].as_u64().unwrap())
        .with_backend(backend)
        .run(&mut theta, &numbers(&case["grad"]), &mut slices)
        .unwrap();
    for (name, got) in [("theta", &theta)].into_iter().chain(names.iter().copied().zip(&states)) {
        if let Some(difference) = difference(name, got, &numbers(&case["after"][name])) {
            panic!("{backend}, {rule:?} at t = {}: {difference}", case["t"]);
        }
    }
}
