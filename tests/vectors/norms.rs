//! The gradient norm: gradients, and the norms of them all.
//!
//! The sums are made with big integers, and the roots are rounded as `kernels.md` says in *Gradient
//! norm*. So the crate's own norm is checked against another program also here.

use fused_adam::{Element, GradNorm, bf16, f16};
use num_bigint::BigUint;
use serde_json::{Value, json};

use crate::common::{Bits, Random};
use crate::hash;
use crate::run::{Hex, words};

/// The name of a case.
pub fn name(case: &Value) -> &str {
    case["name"].as_str().expect("a name")
}

/// Makes all cases.
pub fn make() -> Vec<Value> {
    let random = &mut Random(5);
    let mut cases = vec![
        case("empty", &[Grad::of::<f32>(&[])]),
        case("zeros", &[Grad::of(&[0.0_f32, -0.0]), Grad::of(&[0.0_f64])]),
        case("largest_f32", &[Grad::of(&[f32::MAX; 4])]),
        case("least_f32", &[Grad::of(&[f32::from_bits(1); 9])]),
        case("least_f64", &[Grad::of(&[f64::from_bits(1); 9])]),
        case("subnormal_norm", &[Grad::of(&[f64::from_bits(3), f64::from_bits(1 << 20)])]),
        case("overflow", &[Grad::of(&[f64::MAX; 4])]),
        case("half_way", &[Grad::of(&[2_f64.powi(53), 2_f64.powi(27), 1.0])]),
        case("above_half_way", &[Grad::of(&[2_f64.powi(53), 2_f64.powi(27), 1.0, 1e-150])]),
        case("infinite", &[Grad::of(&[1.0_f32, f32::INFINITY]), Grad::of(&[f16::NEG_INFINITY])]),
        case("nan", &[Grad::of(&[1.0_f32, f32::INFINITY, f32::NAN]), Grad::of(&[bf16::NAN])]),
    ];
    for (label, wild) in [("ordinary", false), ("every_magnitude", true)] {
        let all = [
            Grad::draw::<f32>(random, 300, wild),
            Grad::draw::<f64>(random, 150, wild),
            Grad::draw::<bf16>(random, 300, wild),
            Grad::draw::<f16>(random, 300, wild),
        ];
        for grad in &all {
            cases.push(case(&format!("{label}_{}", grad.dtype), std::slice::from_ref(grad)));
        }
        cases.push(case(&format!("{label}_all"), &all));
    }
    cases
}

/// A gradient, its bits, and its numbers, which `f64` has exactly.
struct Grad {
    dtype: &'static str,
    bits: String,
    numbers: Vec<f64>,
}

impl Grad {
    fn of<E: Bits + Hex>(grad: &[E]) -> Self {
        let numbers = grad.iter().map(|x| x.to_f64()).collect();
        Grad { dtype: E::NAME, bits: words(grad), numbers }
    }

    fn draw<E: Bits + Hex>(random: &mut Random, len: usize, wild: bool) -> Self {
        let mut grad = Vec::new();
        while grad.len() < len {
            let any = E::any_bits(random.bits());
            let ordinary = E::from_f64(random.uniform() * 1e-3);
            grad.push(if wild && any.to_f64().is_finite() { any } else { ordinary });
        }
        Self::of(&grad)
    }
}

/// A case with the norms that exact integers give.
fn case(name: &str, grads: &[Grad]) -> Value {
    let numbers = || grads.iter().flat_map(|grad| grad.numbers.iter().copied());
    let nonfinite = numbers().filter(|x| !x.is_finite()).count();
    let (two_norm, inf_norm) = if numbers().any(f64::is_nan) {
        (f64::NAN, f64::NAN)
    } else if nonfinite > 0 {
        (f64::INFINITY, f64::INFINITY)
    } else {
        (root(&numbers().map(square).sum()), numbers().map(f64::abs).fold(0.0, f64::max))
    };
    let gradients: Vec<Value> =
        grads.iter().map(|grad| json!({ "type": grad.dtype, "bits": grad.bits })).collect();
    json!({
        "name": name,
        "gradients": gradients,
        "two_norm": two_norm.hex(),
        "inf_norm": inf_norm.hex(),
        "nonfinite": nonfinite,
    })
}

/// x²·2^2148, exactly.
fn square(x: f64) -> BigUint {
    let bits = x.to_bits();
    let (exponent, fraction) = (bits >> 52 & 0x7FF, bits & ((1 << 52) - 1));
    let integer = if exponent == 0 { fraction } else { fraction | 1 << 52 };
    BigUint::from(integer).pow(2) << (2 * exponent.saturating_sub(1))
}

/// The `f64` nearest to the root of `sum` / 2^2148, ties to even.
fn root(sum: &BigUint) -> f64 {
    // The root times 2^1074 with 64 more bits, rounded down, and whether it is exact.
    let wide = sum << 128_u32;
    let root = wide.sqrt();
    let exact = &root * &root == wide;
    // An f64 has 53 bits, the lowest of weight 2^0 here or above, so `cut` bits are rounded off.
    let cut = 64.max(root.bits().saturating_sub(53));
    let (mut kept, rest) = (&root >> cut, &root % (BigUint::from(1_u32) << cut));
    let half = BigUint::from(1_u32) << (cut - 1);
    let odd = kept.bit(0);
    if rest > half || rest == half && (!exact || odd) {
        kept += 1_u32;
    }
    // `kept` has at most 53 bits, or is 2^53: the sum with the exponent's bits carries into them.
    let kept = kept.iter_u64_digits().next().unwrap_or(0);
    let steps = cut - 64;
    if kept < 1 << 52 {
        return f64::from_bits(kept);
    }
    let bits = kept + (steps << 52);
    if bits >= 0x7FF0_0000_0000_0000 { f64::INFINITY } else { f64::from_bits(bits) }
}

/// Compares the crate's norm with the published one.
pub fn check(case: &Value) -> Result<(), String> {
    let mut norm = GradNorm::new();
    for grad in case["gradients"].as_array().expect("gradients") {
        let bits = grad["bits"].as_str().expect("bits");
        match grad["type"].as_str() {
            Some("f64") => norm.add(&numbers::<f64>(bits)),
            Some("f32") => norm.add(&numbers::<f32>(bits)),
            Some("bf16") => norm.add(&numbers::<bf16>(bits)),
            Some("f16") => norm.add(&numbers::<f16>(bits)),
            other => return Err(format!("the type {other:?}")),
        }
    }
    for (which, got) in [("two_norm", norm.two_norm()), ("inf_norm", norm.inf_norm())] {
        hash::add("norms", &format!("{} {which}", name(case)), &got.hex());
        let expected = case[which].as_str().expect("a norm");
        if got.hex() != expected {
            return Err(format!("{which} is {}, not {expected}", got.hex()));
        }
    }
    let expected = case["nonfinite"].as_u64();
    if expected != Some(norm.nonfinite()) {
        return Err(format!("nonfinite is {}, not {expected:?}", norm.nonfinite()));
    }
    Ok(())
}

fn numbers<E: Bits + Element>(bits: &str) -> Vec<E> {
    let words = bits.split(' ').filter(|word| !word.is_empty());
    words.map(|word| E::any_bits(u64::from_str_radix(word, 16).expect("a word"))).collect()
}
