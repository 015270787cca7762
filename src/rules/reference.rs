//! The reference: the whole step written out by hand, one element after the other.
//!
//! It shares no arithmetic with the fused kernels, so that they can be checked against it. From top
//! to bottom: the loop ([`step`]), how an element is loaded and stored, stochastic rounding, its
//! random bits, and the lines that rules share. What a rule does between them is
//! [`Kernel::reference`] at the end of the rule's own file. `kernels.md` says the same in words.

use half::{bf16, f16};

use super::Kernel;
use super::parts::{Decay, Descent, Ema};
use crate::elements::column::{Column, ColumnMut};
use crate::elements::rounding::Noise;
use crate::elements::rows::Rows;
use crate::simd::Float;

/// Rows that are loaded and stored together, so that the type of a column is looked at once for
/// them.
const BLOCK: usize = 64;

/// Takes a step on each row.
#[inline(never)]
pub(crate) fn step<F: Float, K: Kernel<F, N>, const N: usize>(kernel: &K, rows: Rows<'_, N>) {
    let Rows { mut theta, grad, mut state, mut copy, noise } = rows;
    let zero = F::from_f64(0.0);
    let (mut thetas, mut grads, mut states) = ([zero; BLOCK], [zero; BLOCK], [[zero; BLOCK]; N]);
    for start in (0..theta.len()).step_by(BLOCK) {
        let len = BLOCK.min(theta.len() - start);
        load(theta.as_ref(), start, &mut thetas[..len]);
        load(grad, start, &mut grads[..len]);
        for (numbers, state) in states.iter_mut().zip(&state) {
            load(state.as_ref(), start, &mut numbers[..len]);
        }
        for i in 0..len {
            let old = states.each_ref().map(|numbers| numbers[i]);
            let (new_theta, new) = kernel.reference(thetas[i], grads[i], old);
            thetas[i] = new_theta;
            for (numbers, new) in states.iter_mut().zip(new) {
                numbers[i] = new;
            }
        }
        if let Some(copy) = &mut copy {
            store(copy, start, &thetas[..len], None);
        }
        // θ is buffer 0 of the random bits, the states follow.
        store(&mut theta, start, &thetas[..len], noise.map(|noise| (noise, 0)));
        for (buffer, (state, numbers)) in (1..).zip(state.iter_mut().zip(&states)) {
            store(state, start, &numbers[..len], noise.map(|noise| (noise, buffer)));
        }
    }
}

/// The elements from `start` on, to compute with. Exact: `F` is `f64` for a column of `f64`, else
/// `f32`.
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
    }
}

/// Stores `from` as the elements from `start` on. In 16 bits they are rounded to nearest, ties to
/// even, or by the random bits of a buffer.
fn store<F: Float>(
    column: &mut ColumnMut<'_>,
    start: usize,
    from: &[F],
    random: Option<(Noise, usize)>,
) {
    let numbers = from.iter().map(|x| x.to_f64()).zip(start..);
    let bits = |i| random.map(|(noise, buffer)| random_bits(noise, i, buffer));
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
    }
}

/// The neighbour of `x` away from zero, if the part that is cut off exceeds what `random` leaves to
/// the next unit; else the one towards zero.
fn bf16_stochastic(x: f32, random: u16) -> bf16 {
    if x.is_nan() || x.is_infinite() {
        return bf16::from_f32(x);
    }
    let (kept, cut) = (x.to_bits() >> 16, x.to_bits() & 0xFFFF);
    let up = cut + u32::from(random) >= 1 << 16;
    bf16::from_bits((kept + u32::from(up)) as u16)
}

/// The same for `f16`, with thirteen of the random bits.
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
        // In units of 2^-24: moved by the middle of one of 2^13 parts of −½ to ½, then rounded.
        let units = size * 2.0_f32.powi(24);
        let moved = units + ((random as f32 + 0.5) / 8192.0 - 0.5);
        moved.round_ties_even() as u32
    };
    f16::from_bits(sign | bits as u16)
}

/// The sixteen random bits of element `i` of the range in one buffer.
///
/// The key is what the generator makes of the step number under the seed, with the number of the
/// group of four buffers added to its second word. The counter is the element's index in the whole.
/// Of the 64 bits that come out each buffer of the group has its own sixteen.
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

/// Threefry-2x32 with 13 rounds, of one counter.
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

/// The gradient of what is minimized: g, or −g to maximize; then + λ·θ for L2 decay.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of the generator's authors for 13 rounds.
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
