//! The gradient norm: compared with big integers, and in any order.

use fused_adam::{Element, GradNorm, bf16, f16};
use num_bigint::BigUint;
use proptest::prelude::*;

use crate::common::{Bits, Random};

/// The norm of `grad`.
fn norm<E: Element>(grad: &[E]) -> GradNorm {
    let mut norm = GradNorm::new();
    norm.add(grad);
    norm
}

/// Σx²·2^2148, exactly.
fn exact_sum(grad: impl IntoIterator<Item = f64>) -> BigUint {
    grad.into_iter().map(square).sum()
}

fn square(x: f64) -> BigUint {
    let bits = x.to_bits();
    let (exponent, fraction) = (bits >> 52 & 0x7FF, bits & ((1 << 52) - 1));
    let integer = if exponent == 0 { fraction } else { fraction | 1 << 52 };
    BigUint::from(integer).pow(2) << (2 * exponent.saturating_sub(1))
}

/// Checks that `got` is the number nearest to √`sum`.
fn close(got: f64, sum: &BigUint) -> Result<(), String> {
    if *sum == BigUint::ZERO {
        return if got == 0.0 { Ok(()) } else { Err(format!("{got} of zeros")) };
    }
    if got == f64::INFINITY {
        let too_large = *sum > square(f64::MAX);
        return if too_large { Ok(()) } else { Err("infinite too early".into()) };
    }
    // The midpoints to its neighbours: twice its integer significand, plus and minus one.
    let (bits, one) = (got.to_bits(), BigUint::from(1_u32));
    let exponent = (bits >> 52 & 0x7FF).saturating_sub(1);
    let integer = bits & ((1 << 52) - 1) | u64::from(bits >> 52 & 0x7FF != 0) << 52;
    let twice = BigUint::from(integer) << 1_u32;
    let (below, above) = ((&twice - &one) << exponent, (twice + one) << exponent);
    // (2·x·2^1074)² against 4·Σ·2^2148.
    let sum = sum << 2_u32;
    if below.pow(2) <= sum && sum <= above.pow(2) {
        Ok(())
    } else {
        Err(format!("{got:e} is not the norm"))
    }
}

fn check<E: Bits>(grad: &[E]) -> Result<(), String> {
    close(norm(grad).two_norm(), &exact_sum(grad.iter().map(|g| g.to_f64())))?;
    let largest = grad.iter().map(|g| g.to_f64().abs()).fold(0.0, f64::max);
    if norm(grad).inf_norm() == largest { Ok(()) } else { Err("not the largest".into()) }
}

/// Numbers of one magnitude, of all magnitudes, or of two that are far apart.
fn draw<E: Bits>(random: &mut Random, len: usize, spread: usize) -> Vec<E> {
    let mut number = || {
        let any = E::any_bits(random.bits());
        match spread {
            0 => E::from_f64(random.uniform()),
            1 if any.to_f64().is_finite() => any,
            2 if random.below(3) == 0 => E::from_f64(1e-30 * random.uniform()),
            _ => E::from_f64(1e4 * random.uniform()),
        }
    };
    (0..len).map(|_| number()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Exact, for each element type.
    #[test]
    fn the_norm_is_exact(seed: u64, len in 0..3000_usize, spread in 0..3_usize) {
        let random = &mut Random(seed);
        let checks = [
            check(&draw::<f32>(random, len, spread)),
            check(&draw::<f64>(random, len / 8, spread)),
            check(&draw::<bf16>(random, len, spread)),
            check(&draw::<f16>(random, len, spread)),
        ];
        for check in checks {
            prop_assert!(check.is_ok(), "{check:?}");
        }
    }

    /// For any order, any cuts and any order of merging the parts.
    #[test]
    fn order_does_not_show(seed: u64, len in 0..3000_usize, spread in 0..3_usize) {
        let random = &mut Random(seed);
        let mut grad = draw::<f32>(random, len, spread);
        let whole = norm(&grad);
        for i in (1..len).rev() {
            grad.swap(i, random.below(i + 1));
        }
        let mut parts = GradNorm::new();
        let mut rest = &grad[..];
        while !rest.is_empty() {
            let (part, after) = rest.split_at(1 + random.below(rest.len()));
            if random.below(2) == 0 {
                parts.add(part);
            } else {
                let mut both = norm(part);
                both.merge(&parts);
                parts = GradNorm::from_bytes(&both.to_bytes()).unwrap();
            }
            rest = after;
        }
        prop_assert_eq!(parts, whole);
    }
}

/// The number in [2^e, 2^(e+1)), for some e of `binades`, whose square leaves the largest positive
/// remainder when it is rounded to a multiple of each unit in turn.
fn hardest(binades: std::ops::Range<i32>, units: &[f64]) -> f32 {
    let numbers = binades.flat_map(|e| {
        (1_u32 << 23..1 << 24).step_by(7).map(move |k| k as f32 / (1 << 23) as f32 * 2_f32.powi(e))
    });
    let left = |g: f32| {
        let square = f64::from(g).powi(2);
        units.iter().fold(square, |rest, unit| rest - (rest / unit).round_ties_even() * unit)
    };
    numbers.max_by(|a, b| left(*a).total_cmp(&left(*b))).unwrap()
}

/// Blocks that need all available bits: one element of the largest binade, 4094 that leave the
/// largest possible remainder for the last part of their squares, and one whose square has the last
/// bit in the window, or one just outside of it. At all magnitudes, down to the last subnormal
/// number.
#[test]
fn every_bit_of_a_block_counts() {
    let two = hardest(0..1, &[2_f64.powi(-38)]);
    let three = hardest(-20..-16, &[2_f64.powi(-38), 2_f64.powi(-79)]);
    for (most, hard) in [(two, two), (three, three), (1.0, two), (1.0, three), (1.999, three)] {
        for scale in [0, 60, 126, -60, -88, -89, -90, -107, -126] {
            let scaled = |g: f32, e: i32| (f64::from(g) * 2_f64.powi(scale + e)) as f32;
            for least in 0..60 {
                let odd = scaled(1.0 + f32::EPSILON, -least);
                let mut grad = vec![scaled(hard, 0); 4096];
                (grad[0], grad[4095]) = (scaled(most, 0), odd);
                let mut one_by_one = GradNorm::new();
                grad.iter().for_each(|&g| one_by_one.add(&[g]));
                assert_eq!(norm(&grad), one_by_one, "{most:e} {hard:e} {odd:e}");
            }
        }
    }
}

/// The same for `f64`, whose rounded squares leave a remainder of up to 2^−53 of their value.
#[test]
fn every_bit_of_a_block_of_doubles_counts() {
    let random = &mut Random(5);
    let numbers: Vec<f64> =
        (0..200_000).map(|i| (1.0 + random.uniform().abs()) * 2_f64.powi(-11 - i % 8)).collect();
    let units = [2_f64.powi(-81), 2_f64.powi(-122)];
    for units in [&units[..1], &units] {
        let left = |g: f64| {
            let rest = g.mul_add(g, -(g * g));
            units.iter().fold(rest, |rest, unit| rest - (rest / unit).round_ties_even() * unit)
        };
        let mut hardest = numbers.clone();
        hardest.sort_by(|a, b| left(*b).total_cmp(&left(*a)));
        for hard in &hardest[..4] {
            for scale in [0, 499, 500, 511, 512, 1000, -380, -450, -451, -459, -500, -1000] {
                for least in (0..40).step_by(13).chain(28..34) {
                    let scaled = |g: f64, e: i32| g * 2_f64.powi(scale) * 2_f64.powi(e);
                    let mut grad = vec![scaled(*hard, 0); 2048];
                    (grad[0], grad[2047]) = (scaled(1.0, 0), scaled(1.0 + f64::EPSILON, -least));
                    let mut one_by_one = GradNorm::new();
                    grad.iter().for_each(|&g| one_by_one.add(&[g]));
                    assert_eq!(norm(&grad), one_by_one, "{hard:e}, 2^{scale}, {least}");
                    close(norm(&grad).two_norm(), &exact_sum(grad.iter().copied())).unwrap();
                }
            }
        }
    }
}

/// Gradients of every span, with elements spread evenly over all its binades.
#[test]
fn every_span_is_exact() {
    fn check_all<E: Bits>(random: &mut Random) {
        for span in 1..60 {
            for top in [-100, 0, 127] {
                let grad: Vec<E> = (0..5000)
                    .map(|_| {
                        let number = 1.0 + random.uniform().abs();
                        E::from_f64(number * 2_f64.powi(top - random.below(span) as i32))
                    })
                    .collect();
                check(&grad).unwrap();
                let mut one_by_one = GradNorm::new();
                grad.iter().for_each(|&g| one_by_one.add(&[g]));
                assert_eq!(norm(&grad), one_by_one, "{span} binades from 2^{top} down");
            }
        }
    }
    check_all::<f32>(&mut Random(11));
    check_all::<f64>(&mut Random(12));
}

/// A hundred million elements: the sum is a hundred times that of a million.
#[test]
fn a_hundred_million_elements() {
    for spread in 0..3 {
        let million = draw::<f32>(&mut Random(7), 1_000_000, spread);
        let mut got = GradNorm::new();
        for _ in 0..100 {
            got.add(&million);
        }
        let sum = exact_sum(million.iter().map(|&g| g.into())) * 100_u32;
        close(got.two_norm(), &sum).unwrap();
    }
}

#[test]
fn ends_of_the_range() {
    assert_eq!(norm::<f32>(&[]).two_norm(), 0.0);
    assert_eq!(norm(&[0.0_f32, -0.0]).two_norm(), 0.0);
    let least = f32::from_bits(1);
    assert_eq!(norm(&[least]).two_norm(), f64::from(least));
    assert_eq!(norm(&[f32::MAX; 4]).two_norm(), 2.0 * f64::from(f32::MAX));
    // The squares of these overflow or underflow in f64.
    assert_eq!(norm(&[1e300; 4]).two_norm(), 2e300);
    assert_eq!(norm(&[f64::from_bits(1); 9]).two_norm(), f64::from_bits(3));
    assert_eq!(norm(&[f64::MAX; 4]).two_norm(), f64::INFINITY);
}

/// A subnormal norm is rounded once: (2^40 + 1, 2^20, 1) has a norm just below 2^40 + 1.5.
#[test]
fn subnormal_norms() {
    let large = f64::from_bits((1 << 40) + 1);
    let grad = [large, f64::from_bits(1 << 20), f64::from_bits(1)];
    assert_eq!(norm(&grad).two_norm(), large);
    close(norm(&[large; 3]).two_norm(), &exact_sum([large; 3])).unwrap();
    close(norm(&[f64::from_bits(1); 2]).two_norm(), &exact_sum([f64::from_bits(1); 2])).unwrap();
}

/// Counts and sums saturate.
#[test]
fn no_count_starts_over() {
    let mut infinite = norm(&[f32::INFINITY]);
    let mut large = norm(&[f64::MAX]);
    for _ in 0..200 {
        infinite.merge(&infinite.clone());
        large.merge(&large.clone());
    }
    assert_eq!((infinite.nonfinite(), infinite.two_norm()), (u64::MAX, f64::INFINITY));
    assert_eq!(large.two_norm(), f64::INFINITY);
    let past_all = large.clone();
    large.add(&[1.0_f32, 3.0]);
    large.add(&[1.0_f64, 3.0]);
    large.merge(&norm(&[0.3_f32; 5000]));
    assert_eq!(large, past_all);
    let mut small = norm(&[1.0]);
    small.merge(&past_all);
    assert_eq!(small, past_all);
}

/// The same elements have the same norm, also if some are not finite.
#[test]
fn equal_however_cut() {
    let mut grad = vec![1.0_f32; 5000];
    grad[0] = f32::INFINITY;
    grad[3000] = f32::NAN;
    let mut parts = norm(&grad[..1]);
    parts.merge(&norm(&grad[1..]));
    assert_eq!(parts, norm(&grad));
}

#[test]
fn what_is_not_finite_is_counted() {
    let mut grad = vec![1.0_f32; 5000];
    grad[17] = f32::NEG_INFINITY;
    grad[4999] = f32::INFINITY;
    let infinite = norm(&grad);
    assert_eq!((infinite.two_norm(), infinite.inf_norm()), (f64::INFINITY, f64::INFINITY));
    assert_eq!(infinite.nonfinite(), 2);
    grad[2000] = f32::NAN;
    let nan = norm(&grad);
    assert!(nan.two_norm().is_nan() && nan.inf_norm().is_nan());
    assert_eq!(nan.nonfinite(), 3);
    let nan = norm(&[1.0, f64::NAN, f64::INFINITY]);
    assert!(nan.two_norm().is_nan());
    assert_eq!(nan.nonfinite(), 2);
}
