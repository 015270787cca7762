//! The reference: a whole step written by hand, one element after the other.
//!
//! It shares no arithmetic with the fused kernels, so that they can be tested against it. From top
//! to bottom: the loop ([`step`]), loading and storing an element, stochastic rounding and its
//! random bits, and the operations that rules share. The arithmetic of a rule is
//! [`Kernel::reference`], next to its [`Kernel::update`]: at the end of the rule's file, or in
//! [`moments`](super::moments) for rules with the states m and v. `kernels.md` describes the same
//! in words.

use half::{bf16, f16};

use super::Kernel;
use super::parts::{Decay, Descent, Ema};
use crate::elements::block8::Code;
use crate::elements::column::{Column, ColumnMut, DType};
use crate::elements::rounding::Noise;
use crate::elements::rows::{Beside, Rows};
use crate::elements::split::Correction;
use crate::simd::Float;
use crate::simd::saturating::Saturating;

/// The number of rows that are loaded and stored together, so that the element type of a column is
/// matched once for all of them. They are whole blocks of 8-bit states.
const BLOCK: usize = 64;

/// Takes a step on each row.
#[inline(never)]
pub(crate) fn step<F: Float, K: Kernel<F, N>, const N: usize>(kernel: &K, rows: Rows<'_, N>) {
    let Rows { mut theta, grad, mut state, mut beside, noise } = rows;
    let zero = F::from_f64(0.0);
    let (mut thetas, mut grads, mut states) = ([zero; BLOCK], [zero; BLOCK], [[zero; BLOCK]; N]);
    for start in (0..theta.len()).step_by(BLOCK) {
        let len = BLOCK.min(theta.len() - start);
        load(theta.as_ref(), start, &mut thetas[..len]);
        if let (Beside::Correction(low), ColumnMut::Bf16(theta)) = (&beside, &theta) {
            for (i, x) in thetas[..len].iter_mut().enumerate() {
                *x = F::from_f64(joined(theta[start + i], low, start + i).into());
            }
        }
        load(grad, start, &mut grads[..len]);
        for (numbers, state) in states.iter_mut().zip(&state) {
            load(state.as_ref(), start, &mut numbers[..len]);
        }
        for i in 0..len {
            let old = states.each_ref().map(|numbers| numbers[i]);
            let (mut new_theta, mut new) = kernel.reference(thetas[i], grads[i], old);
            if new.iter().any(|x| !x.to_f64().is_finite()) {
                (new_theta, new) = saturating(kernel, thetas[i], grads[i], old);
            }
            thetas[i] = new_theta;
            for (numbers, new) in states.iter_mut().zip(new) {
                numbers[i] = new;
            }
        }
        if let Beside::Copy(copy) = &mut beside {
            store(copy, start, &thetas[..len], None);
        }
        // For the random bits, θ is buffer 0 and the states follow.
        match (&mut beside, &mut theta) {
            (Beside::Correction(low), ColumnMut::Bf16(theta)) => {
                for (i, x) in thetas[..len].iter().enumerate() {
                    let random = |noise| block_word(noise, start + i, 3 << 30) >> 24;
                    let single = x.to_f64() as f32;
                    theta[start + i] = split(single, low, start + i, noise.map(random));
                }
            }
            _ => store(&mut theta, start, &thetas[..len], noise.map(|noise| (noise, 0))),
        }
        for (buffer, (state, numbers)) in (1..).zip(state.iter_mut().zip(&mut states)) {
            clamp_to(state.dtype(), &mut numbers[..len]);
            store(state, start, &numbers[..len], noise.map(|noise| (noise, buffer)));
        }
    }
}

/// The step of one element in saturating arithmetic.
fn saturating<F: Float, K: Kernel<F, N>, const N: usize>(
    kernel: &K,
    theta: F,
    grad: F,
    state: [F; N],
) -> (F, [F; N]) {
    let state = state.map(Saturating::new);
    let (theta, state) = kernel.update(Saturating::new(theta), Saturating::new(grad), state);
    (theta.get(), state.map(Saturating::get))
}

/// Clamps numbers to ±MAX of a 16-bit type. NaN stays NaN.
fn clamp_to<F: Float>(dtype: DType, numbers: &mut [F]) {
    let most = match dtype {
        // Blocks are clamped when they are encoded.
        DType::F32 | DType::F64 | DType::Block8 => return,
        DType::Bf16 => F::from_f64(bf16::MAX.into()),
        DType::F16 => F::from_f64(f16::MAX.into()),
    };
    for x in numbers {
        *x = match *x {
            x if x > most => most,
            x if x < -most => -most,
            x => x,
        };
    }
}

/// Loads the elements from `start` on. The conversion is exact: `F` is `f64` for a column of `f64`,
/// otherwise `f32`.
fn load<F: Float>(column: Column<'_>, start: usize, to: &mut [F]) {
    fn each<T: Copy + Into<f64>, F: Float>(from: &[T], to: &mut [F]) {
        for (to, &from) in to.iter_mut().zip(from) {
            *to = F::from_f64(from.into());
        }
    }
    match column {
        Column::F32(from) => each(&from[start..], to),
        Column::F64(from) => each(&from[start..], to),
        Column::Bf16(from) => each(&from[start..], to),
        Column::F16(from) => each(&from[start..], to),
        Column::Block8(from) => {
            for (to, i) in to.iter_mut().zip(start..) {
                let block = &from.blocks[i / 32];
                *to = F::from_f64(decoded(block[i % 32], block[32], from.code).into());
            }
        }
    }
}

/// The number with this code, in a block with this byte of the scale.
fn decoded(code: u8, scale: u8, of: Code) -> f32 {
    let one = u32::from(scale) << 23;
    let magnitude = if of.signed { code & 0x7F } else { code };
    let sum = one.wrapping_add(u32::from(magnitude) << 18);
    let x = f32::from_bits(sum) - f32::from_bits(one);
    if of.signed && code >= 0x80 { f32::from_bits(x.to_bits() | 1 << 31) } else { x }
}

/// Encodes a block of a state. `bits` are the random bits of each of its elements.
fn encode(block: &mut [u8; 33], of: Code, numbers: &[f32], bits: impl Fn(usize) -> u32) {
    *block = [0; 33];
    if numbers.iter().any(|x| !x.is_finite()) {
        block[32] = 255;
        return;
    }
    let (top, exponents) = if of.signed { (14.75, -120..=124) } else { (251.0, -120..=120) };
    let magnitude = |x: f32| if of.signed { x.abs() } else { larger(x, 0.0) };
    let largest = numbers.iter().map(|x| magnitude(*x)).fold(0.0, f32::max);
    let fits = |exponent: &i32| f64::from(largest) <= top * 2.0_f64.powi(*exponent);
    let (least, most) = (exponents.clone().find(fits), *exponents.end());
    let scale = 2.0_f64.powi(least.unwrap_or(most));
    block[32] = (least.unwrap_or(most) + 127) as u8;
    for (i, x) in numbers.iter().enumerate() {
        let a = smaller(magnitude(*x), (top * scale) as f32) * (1.0 / scale) as f32;
        let (kept, cut) = ((a + 1.0).to_bits() >> 18, (a + 1.0).to_bits() & 0x3_FFFF);
        let added = if of.nearest { 1 << 17 } else { bits(i) };
        let mut code = kept - (127 << 5) + u32::from(cut + added >= 1 << 18);
        if of.divisor && *x > 0.0 && code == 0 {
            code = 1;
        }
        let sign = if of.signed && x.is_sign_negative() { 0x80 } else { 0 };
        block[i] = sign | code as u8;
    }
}

/// The 18 random bits of element `i` in an 8-bit state with this number, from 0. A pair of states
/// shares a word.
fn block_bits(noise: Noise, i: usize, state: usize) -> u32 {
    let word = block_word(noise, i, (1 << 31) + state as u32 / 2);
    if state.is_multiple_of(2) { word >> 14 } else { word & 0x3_FFFF }
}

/// The random word of element `i`, of which its block of 32 elements has two random words.
///
/// The key is that of 16-bit buffers, but with another number added to its second word. The counter
/// is the index of the first element of the block in the whole tensor.
fn block_word(noise: Noise, i: usize, group: u32) -> u32 {
    let halves = |x: u64| [x as u32, (x >> 32) as u32];
    let [k0, k1] = threefry_2x32_13(halves(noise.seed), halves(noise.t));
    let index = noise.first.wrapping_add(i as u64);
    let within = index % 32;
    let [first, step] = threefry_2x32_13([k0, k1.wrapping_add(group)], halves(index - within));
    first.wrapping_add((within as u32).wrapping_mul(step))
}

/// Stores `from` as the elements from `start` on. 16-bit elements are rounded to nearest, ties to
/// even, or stochastically with the random bits of a buffer.
fn store<F: Float>(
    column: &mut ColumnMut<'_>,
    start: usize,
    from: &[F],
    random: Option<(Noise, usize)>,
) {
    let numbers = from.iter().map(|x| x.to_f64()).zip(start..);
    let halves = random.filter(|(noise, _)| noise.halves);
    let bits = |i| halves.map(|(noise, buffer)| random_bits(noise, i, buffer));
    match column {
        ColumnMut::F64(to) => numbers.for_each(|(x, i)| to[i] = x),
        ColumnMut::F32(to) => numbers.for_each(|(x, i)| to[i] = x as f32),
        ColumnMut::Bf16(to) => numbers.for_each(|(x, i)| match bits(i) {
            None => to[i] = bf16::from_f32(x as f32),
            Some(random) => to[i] = bf16_stochastic(x as f32, random),
        }),
        ColumnMut::F16(to) => numbers.for_each(|(x, i)| match bits(i) {
            None => to[i] = f16::from_f32(x as f32),
            Some(random) => to[i] = f16_stochastic(x as f32, random),
        }),
        ColumnMut::Block8(to) => {
            let mut singles = [0.0; BLOCK];
            for (single, x) in singles.iter_mut().zip(from) {
                *single = x.to_f64() as f32;
            }
            let (noise, buffer) = random.expect("8-bit states have random bits");
            for (number, numbers) in singles[..from.len()].chunks(32).enumerate() {
                let first = start + 32 * number;
                let bits = |i| block_bits(noise, first + i, buffer - 1);
                encode(&mut to.blocks[first / 32], to.code, numbers, bits);
            }
        }
    }
}

/// The master weight whose upper part is `theta` and whose correction is number `i`.
fn joined(theta: bf16, correction: &Correction<'_>, i: usize) -> f32 {
    let low = match correction {
        Correction::Bits16(low) => i32::from(low[i] as i16),
        Correction::Bits8(low) => i32::from(low[i] as i8) << 8,
    };
    f32::from_bits((u32::from(theta.to_bits()) << 16).wrapping_add_signed(low))
}

/// Stores the correction of a master weight, and returns its upper part. 8 bits are rounded away
/// from zero if the 8 bits that are cut off plus `random` reach 2^8, else towards zero.
fn split(x: f32, correction: &mut Correction<'_>, i: usize, random: Option<u32>) -> bf16 {
    let bits = if x.is_nan() { 0x7FC0_0000 } else { x.to_bits() };
    let kept = match correction {
        Correction::Bits16(_) => bits,
        Correction::Bits8(_) => {
            let random = random.expect("a correction of 8 bits has random bits");
            (bits + random) >> 8 << 8
        }
    };
    let upper = (kept >> 16) + u32::from(kept & 0xFFFF >= 0x8000);
    match correction {
        Correction::Bits16(low) => low[i] = kept as u16,
        Correction::Bits8(low) => low[i] = (kept >> 8) as u8,
    }
    bf16::from_bits(upper as u16)
}

/// Rounds `x` to one of its two neighbours in bf16: away from zero if the 16 bits cut off plus
/// `random` reach 2^16, otherwise towards zero. NaN and infinities are rounded to nearest.
fn bf16_stochastic(x: f32, random: u16) -> bf16 {
    if x.is_nan() || x.is_infinite() {
        return bf16::from_f32(x);
    }
    let (kept, cut) = (x.to_bits() >> 16, x.to_bits() & 0xFFFF);
    let up = cut + u32::from(random) >= 1 << 16;
    bf16::from_bits((kept + u32::from(up)) as u16)
}

/// The same for `f16`, with 13 of the random bits.
fn f16_stochastic(x: f32, random: u16) -> f16 {
    if x.is_nan() || x.is_infinite() {
        return f16::from_f32(x);
    }
    let random = u32::from(random >> 3);
    let sign = if x.is_sign_negative() { 0x8000 } else { 0 };
    let size = x.abs();
    let bits = if size >= 65536.0 {
        0x7C00
    } else if size >= 2.0_f32.powi(-14) {
        let (kept, cut) = (size.to_bits() >> 13, size.to_bits() & 0x1FFF);
        kept - (112 << 10) + u32::from(cut + random >= 1 << 13)
    } else {
        // In units of 2^-24: add a number from −½ to ½, the middle of one of 2^13 intervals, then
        // round.
        let units = size * 2.0_f32.powi(24);
        let moved = units + ((random as f32 + 0.5) / 8192.0 - 0.5);
        moved.round_ties_even() as u32
    };
    f16::from_bits(sign | bits as u16)
}

/// The 16 random bits of element `i` in one buffer.
///
/// The key is the generator's output for the step number under the seed, with the number of the
/// group of four buffers added to its second word. The counter is the index of the element in the
/// whole tensor. Each buffer of the group uses 16 of the 64 output bits.
fn random_bits(noise: Noise, i: usize, buffer: usize) -> u16 {
    let halves = |x: u64| [x as u32, (x >> 32) as u32];
    let [k0, k1] = threefry_2x32_13(halves(noise.seed), halves(noise.t));
    let key = [k0, k1.wrapping_add(buffer as u32 / 4)];
    let index = noise.first.wrapping_add(i as u64);
    let [low, high] = threefry_2x32_13(key, halves(index));
    match buffer % 4 {
        0 => low as u16,
        1 => (low >> 16) as u16,
        2 => high as u16,
        _ => (high >> 16) as u16,
    }
}

/// Threefry-2x32 with 13 rounds, for one counter: Salmon, Moraes, Dror and Shaw, "Parallel Random
/// Numbers: As Easy as 1, 2, 3" (2011).
fn threefry_2x32_13([k0, k1]: [u32; 2], [c0, c1]: [u32; 2]) -> [u32; 2] {
    let k2 = 0x1BD1_1BDA ^ k0 ^ k1;
    let mix = |(a, b): (u32, u32), rotations: [u32; 4]| {
        rotations.into_iter().fold((a, b), |(a, b), by| {
            let a = a.wrapping_add(b);
            (a, b.rotate_left(by) ^ a)
        })
    };
    let add = |(a, b): (u32, u32), x: u32, y: u32| (a.wrapping_add(x), b.wrapping_add(y));
    let x = add((c0, c1), k0, k1);
    let x = add(mix(x, [13, 15, 26, 6]), k1, k2.wrapping_add(1));
    let x = add(mix(x, [17, 29, 16, 24]), k2, k0.wrapping_add(2));
    let (a, b) = add(mix(x, [13, 15, 26, 6]), k0, k1.wrapping_add(3));
    let a = a.wrapping_add(b);
    [a, b.rotate_left(17) ^ a]
}

/// The gradient of the function to minimize: g, or −g to maximize, plus λ·θ for L2 decay.
pub(crate) fn gradient<F: Float>(descent: &Descent<F>, theta: F, grad: F) -> F {
    let g = if descent.maximize { -grad } else { grad };
    match descent.decay {
        Decay::L2 => g + descent.coefficient * theta,
        Decay::None | Decay::Decoupled => g,
    }
}

/// The new θ: θ − q, or θ − ((lr·λ)·θ + q) for decoupled decay.
pub(crate) fn descend<F: Float>(descent: &Descent<F>, theta: F, q: F) -> F {
    match descent.decay {
        Decay::Decoupled => theta - (descent.coefficient * theta + q),
        Decay::None | Decay::L2 => theta - q,
    }
}

/// β·average + (1−β)·x.
pub(crate) fn average<F: Float>(ema: Ema<F>, average: F, x: F) -> F {
    if ema.from_one { average + ema.rate * (x - average) } else { x - ema.rate * (x - average) }
}

/// β·sum + x.
pub(crate) fn accumulate<F: Float>(ema: Ema<F>, sum: F, x: F) -> F {
    if ema.from_one { sum + (x - ema.rate * sum) } else { ema.rate * sum + x }
}

/// β·x.
pub(crate) fn shrink<F: Float>(ema: Ema<F>, x: F) -> F {
    if ema.from_one { x - ema.rate * x } else { ema.rate * x }
}

/// The larger of `a` and `b`; `b` if one is NaN or if both are zeros.
pub(crate) fn larger<F: Float>(a: F, b: F) -> F {
    if a > b { a } else { b }
}

/// The smaller of `a` and `b`; `b` if one is NaN or if both are zeros.
pub(crate) fn smaller<F: Float>(a: F, b: F) -> F {
    if a < b { a } else { b }
}

/// `then`, or NaN if x is infinite or NaN.
pub(crate) fn if_finite<F: Float>(x: F, then: F) -> F {
    if x.to_f64().is_finite() { then } else { F::from_f64(f64::NAN) }
}

/// The sign of x: 1 or −1, or x itself if it is zero or NaN.
pub(crate) fn sign<F: Float>(x: F) -> F {
    let [zero, one] = [0.0, 1.0].map(F::from_f64);
    match x {
        x if x > zero => one,
        x if x < zero => -one,
        x => x,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that the authors of the generator publish for 13 rounds.
    #[test]
    fn threefry_gives_its_known_answers() {
        let pi = ([0x1319_8A2E, 0x0370_7344], [0x243F_6A88, 0x85A3_08D3]);
        for ((key, counter), answer) in [
            (([0, 0], [0, 0]), [0x9D1C_5EC6, 0x8BD5_0731]),
            (([!0, !0], [!0, !0]), [0xFD36_D048, 0x2D17_272C]),
            (pi, [0xBA3E_4725, 0xF27D_669E]),
        ] {
            assert_eq!(threefry_2x32_13(key, counter), answer);
        }
    }
}
