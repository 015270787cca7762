//! How numbers are rounded to 16 bits, and the random bits of stochastic rounding.
//!
//! The bits come from a counter-based generator, Threefry-2x32 with 13 rounds (Salmon, Moraes, Dror
//! and Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", 2011): a bijection of 64 bits for each
//! key, from additions, rotations and exclusive ors. The counter is the index of the element; the
//! key is what the same generator makes of the step number under the seed; and of the 64 bits that
//! come out each buffer has its own sixteen. So nothing depends on threads, chunks, splits or
//! registers.

use crate::simd::U32Lanes;

/// How what is stored in 16 bits is rounded.
///
/// It concerns θ and the states where they are [`bf16`](half::bf16) or [`f16`](half::f16). `f32`
/// and `f64` are stored as they are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rounding {
    /// To the nearest number, ties to the even one. The default.
    #[default]
    Nearest,
    /// To one of the two neighbours, at random, so that the mean is the unrounded number. Small
    /// changes, which rounding to the nearest would lose every time, then add up as they should.
    ///
    /// The random bits are a function of this seed, the step number, the index of the element
    /// (counted from [`Step::offset`](crate::Step::offset)) and the buffer. The same step gives the
    /// same bits again.
    Stochastic {
        /// Chooses the random bits. Tensors that are stepped one by one should have different ones.
        seed: u64,
    },
}

/// The random bits of one step on a range of elements.
#[derive(Clone, Copy)]
pub(crate) struct Noise {
    pub(crate) seed: u64,
    pub(crate) t: u64,
    /// The index of the range's first element.
    pub(crate) first: u64,
    /// What the generator makes of `t` under `seed`.
    key: [u32; 2],
}

impl Noise {
    pub fn new(seed: u64, t: u64, first: u64) -> Self {
        let [low, high] = halves(t);
        Noise { seed, t, first, key: threefry(halves(seed), low, high) }
    }

    /// The same for the range without its first `rows` elements.
    #[inline(always)]
    pub fn skip(self, rows: usize) -> Self {
        Noise { first: self.first.wrapping_add(rows as u64), ..self }
    }

    /// The two words of each element, whose halves go to the buffers of a group of four: θ is
    /// buffer 0, the states follow. `at` counts the elements of the range, and `iota` the lanes.
    #[inline(always)]
    pub fn words<W: U32Lanes>(&self, iota: W, at: usize, group: usize) -> [W; 2] {
        let [low, high] = halves(self.first.wrapping_add(at as u64));
        let counter_low = iota.plus_all(low);
        // Lanes that are past a multiple of 2^32 have wrapped around.
        let counter_high =
            counter_low.if_below(low, iota.splat(high.wrapping_add(1)), iota.splat(high));
        threefry(self.key_of(group), counter_low, counter_high)
    }

    #[inline(always)]
    fn key_of(&self, group: usize) -> [u32; 2] {
        [self.key[0], self.key[1].wrapping_add(group as u32)]
    }
}

/// The lower half and the upper half.
#[inline(always)]
fn halves(x: u64) -> [u32; 2] {
    [x as u32, (x >> 32) as u32]
}

/// Threefry-2x32 with 13 rounds.
#[inline(always)]
fn threefry<W: U32Lanes>(key: [u32; 2], low: W, high: W) -> [W; 2] {
    const PARITY: u32 = 0x1BD1_1BDA;
    const EVEN: [u32; 4] = [13, 15, 26, 6];
    const ODD: [u32; 4] = [17, 29, 16, 24];
    let keys = [key[0], key[1], PARITY ^ key[0] ^ key[1]];
    let inject = |[a, b]: [W; 2], first: u32, second: u32| [a.plus_all(first), b.plus_all(second)];
    let x = inject([low, high], keys[0], keys[1]);
    let x = inject(four_rounds(x, EVEN), keys[1], keys[2].wrapping_add(1));
    let x = inject(four_rounds(x, ODD), keys[2], keys[0].wrapping_add(2));
    let x = inject(four_rounds(x, EVEN), keys[0], keys[1].wrapping_add(3));
    round(x, ODD[0])
}

#[inline(always)]
fn four_rounds<W: U32Lanes>(x: [W; 2], [r0, r1, r2, r3]: [u32; 4]) -> [W; 2] {
    round(round(round(round(x, r0), r1), r2), r3)
}

#[inline(always)]
fn round<W: U32Lanes>([a, b]: [W; 2], by: u32) -> [W; 2] {
    let a = a.plus(b);
    [a, b.rotate(by).xor(a)]
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
            assert_eq!(threefry(key, counter[0], counter[1]), answer);
        }
    }
}
