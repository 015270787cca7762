//! The inputs that all cases share: θ and sixteen gradients, in each element type.
//!
//! Element 0 to 31 are numbers as in training. From 32 to 63 they are of every magnitude, among
//! them zeros, subnormals, and gradients whose square overflows. From 64 on, some gradients are
//! infinite or NaN. With states in 8 bits these are three blocks, the last of them not full.

use fused_adam::{bf16, f16};
use serde_json::{Map, Value, json};

use crate::common::{Bits, Random};
use crate::run::{Hex, words};

/// The number of elements.
pub const LEN: usize = 70;

/// The number of gradients. Step `t` takes gradient number `(t - 1) mod 16`.
pub const GRADS: usize = 16;

/// The buffers of one element type.
pub struct Of<E> {
    pub theta: Vec<E>,
    pub grads: Vec<Vec<E>>,
}

/// The buffers of each element type.
pub struct Inputs {
    pub f64: Of<f64>,
    pub f32: Of<f32>,
    pub bf16: Of<bf16>,
    pub f16: Of<f16>,
}

impl Inputs {
    pub fn new() -> Self {
        Inputs { f64: Of::new(1), f32: Of::new(2), bf16: Of::new(3), f16: Of::new(4) }
    }

    /// The content of `inputs.json`.
    pub fn to_json(&self) -> Value {
        let mut all = Map::new();
        self.f64.add_to(&mut all);
        self.f32.add_to(&mut all);
        self.bf16.add_to(&mut all);
        self.f16.add_to(&mut all);
        Value::Object(all)
    }
}

impl<E: Bits + Hex> Of<E> {
    fn new(seed: u64) -> Self {
        let random = &mut Random(seed);
        let theta = (0..LEN).map(|i| theta(random, i)).collect();
        let grads = (0..GRADS).map(|row| (0..LEN).map(|i| grad(random, row, i)).collect());
        Of { theta, grads: grads.collect() }
    }

    fn add_to(&self, all: &mut Map<String, Value>) {
        let grads: Vec<String> = self.grads.iter().map(|grad| words(grad)).collect();
        all.insert(E::NAME.to_owned(), json!({ "theta": words(&self.theta), "grad": grads }));
    }
}

/// A finite number of any magnitude of the type.
fn any<E: Bits>(random: &mut Random) -> E {
    loop {
        let x = E::any_bits(random.bits());
        if x.to_f64().is_finite() {
            return x;
        }
    }
}

fn theta<E: Bits>(random: &mut Random, i: usize) -> E {
    match i {
        34 => E::from_f64(-0.0),
        39 => E::MAX,
        40..64 => any(random),
        _ => E::from_f64(random.uniform()),
    }
}

fn grad<E: Bits>(random: &mut Random, row: usize, i: usize) -> E {
    let ordinary = E::from_f64(random.uniform() / 8.0);
    match i {
        // A gradient of a row that is often 0.
        3 if row % 4 != 2 => E::from_f64(0.0),
        33 => E::from_f64(0.0),
        34 => E::from_f64(-0.0),
        // The least subnormal.
        35 => E::any_bits(1),
        36 => E::MAX,
        37 if row.is_multiple_of(2) => E::MAX,
        37 => E::from_f64(-E::MAX.to_f64()),
        38 if row == 3 => E::MAX,
        48..64 => any(random),
        64 if row == 5 => E::from_f64(f64::NAN),
        65 if row == 7 => E::from_f64(f64::INFINITY),
        66 => E::from_f64(f64::NEG_INFINITY),
        _ => ordinary,
    }
}
