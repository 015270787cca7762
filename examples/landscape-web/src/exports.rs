//! What the page calls. Numbers are passed by value, and a path is read from memory.

use std::cell::RefCell;

use fused_adam::AnyRule;

use crate::{LANDSCAPES, Settings};

/// The last run.
struct Run {
    path: Vec<[f32; 2]>,
    hash: u64,
}

thread_local! {
    static LAST: RefCell<Run> = const { RefCell::new(Run { path: Vec::new(), hash: 0 }) };
}

/// Runs a rule and keeps its path and hash. Returns the number of points, or 0 if the crate refuses
/// the hyper-parameters. NaN stands for a rule's default.
#[cfg_attr(target_family = "wasm", unsafe(no_mangle))]
pub extern "C" fn run(
    rule: usize,
    landscape: usize,
    x: f64,
    y: f64,
    lr: f64,
    beta1: f64,
    beta2: f64,
    eps: f64,
    weight_decay: f64,
    steps: u32,
) -> usize {
    let (Some(name), Some(landscape)) = (AnyRule::NAMES.get(rule), LANDSCAPES.get(landscape))
    else {
        return 0;
    };
    let given = |value: f64| Some(value).filter(|value| !value.is_nan());
    let settings = Settings {
        start: [x, y],
        lr,
        beta1: given(beta1),
        beta2: given(beta2),
        eps: given(eps),
        weight_decay: given(weight_decay),
        steps,
    };
    LAST.with_borrow_mut(|last| {
        last.path.clear();
        match settings.run(name, landscape, |theta| last.path.push(theta)) {
            Ok(hash) => last.hash = hash,
            Err(_) => last.path.clear(),
        }
        last.path.len()
    })
}

/// The path of the last run: x and y of each point, as `f32`.
#[cfg_attr(target_family = "wasm", unsafe(no_mangle))]
pub extern "C" fn path() -> *const [f32; 2] {
    LAST.with_borrow(|last| last.path.as_ptr())
}

/// The hash of θ and the states at the end of the last run.
#[cfg_attr(target_family = "wasm", unsafe(no_mangle))]
pub extern "C" fn hash() -> u64 {
    LAST.with_borrow(|last| last.hash)
}
