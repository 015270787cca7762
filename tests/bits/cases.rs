//! Generates cases: a rule, a step number, lengths, misalignments, numbers and a rounding.

use fused_adam::{AnyRule, Rounding};
use proptest::prelude::*;

use crate::common::random_rule::random_rule_from;
use crate::common::{Numbers, Random};

/// One step, with everything that may or may not affect its bits.
#[derive(Clone, Debug)]
pub struct Case {
    pub rule: AnyRule,
    pub t: u64,
    pub len: usize,
    pub numbers: Numbers,
    pub seed: u64,
    pub rounding: Rounding,
    /// The factor for the gradient, and its limit.
    pub grad_scale: f64,
    pub clip_value: f64,
    /// The index of the first element, for stochastic rounding.
    pub first: u64,
    /// The misalignment of θ, g and the states, in elements.
    pub offsets: [usize; 5],
    /// The number of elements in a chunk, and the index of a pool, or none.
    #[cfg_attr(not(feature = "parallel"), expect(dead_code, reason = "there are no chunks"))]
    pub chunk: usize,
    #[cfg_attr(not(feature = "parallel"), expect(dead_code, reason = "there are no pools"))]
    pub pool: usize,
}

pub fn case(rule: &str) -> impl Strategy<Value = Case> + use<> {
    let numbers = prop_oneof![Just(Numbers::Ordinary), Just(Numbers::Wild), Just(Numbers::Large)];
    let chunk = prop_oneof![1..=9_usize, Just(64), Just(100), Just(1 << 10), 1..=5000_usize];
    let rest = (step_number(), numbers, any::<u64>(), any::<[u8; 5]>(), chunk, 0..9_usize);
    let rule = rule.to_owned();
    (any::<u64>(), len(), rounding(), scale(), rest).prop_map(
        move |(
            rule_seed,
            len,
            (rounding, first),
            (grad_scale, clip_value),
            (t, numbers, seed, offsets, chunk, pool),
        )| {
            let rule = random_rule_from(&rule, &mut Random(rule_seed), t);
            // A chunk of one element is a separate task. Use enough of them, but not thousands.
            let len = len.min(chunk * 500);
            let offsets = offsets.map(|offset| usize::from(offset % 16));
            Case {
                rule,
                t,
                len,
                numbers,
                seed,
                rounding,
                grad_scale,
                clip_value,
                first,
                offsets,
                chunk,
                pool,
            }
        },
    )
}

/// 0, 1, all lengths up to the largest block and its tail, lengths around its multiples, and sums
/// of powers of two.
fn len() -> impl Strategy<Value = usize> {
    let around = (1..=40_usize, prop_oneof![Just(4), Just(8), Just(16), Just(64)], 0..3_usize)
        .prop_map(|(times, width, more)| (times * width + more).saturating_sub(1));
    let powers = proptest::collection::vec(0..11_u32, 1..4)
        .prop_map(|powers| powers.into_iter().map(|power| 1 << power).sum());
    prop_oneof![2 => 0..=150_usize, 2 => around, 2 => powers]
}

/// From 1 to 10^9, each order of magnitude with the same probability.
fn step_number() -> impl Strategy<Value = u64> {
    prop_oneof![1..=10_u64, (0.0..9.0_f64).prop_map(|x| 10_f64.powf(x) as u64), Just(1_000_000_000)]
}

/// Either rounding, and the first index, also just below 2^32 and 2^64.
fn rounding() -> impl Strategy<Value = (Rounding, u64)> {
    let stochastic = any::<u64>().prop_map(|seed| Rounding::Stochastic { seed });
    let border = (prop_oneof![Just(1_u64 << 32), Just(0)], 0..1000_u64);
    let first = prop_oneof![
        Just(0),
        any::<u64>(),
        border.prop_map(|(border, before)| border.wrapping_sub(before))
    ];
    (prop_oneof![Just(Rounding::Nearest), stochastic], first)
}

/// A factor for the gradient and a limit, or neither.
fn scale() -> impl Strategy<Value = (f64, f64)> {
    let factor = prop_oneof![4 => Just(1.0), 2 => Just(0.0), 4 => 1e-6..1e3_f64, 1 => Just(1e38)];
    (factor, prop_oneof![2 => Just(f64::INFINITY), 1 => 1e-3..2.0_f64])
}
