//! Rounding to 16 bits, and the random bits of stochastic rounding, also for 8-bit states.
//!
//! The random bits come from a counter-based generator, Threefry-2x32 with 13 rounds (Salmon,
//! Moraes, Dror and Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", 2011). For each key it is
//! a bijection of 64 bits, made of additions, rotations and exclusive ors.
//!
//! - The counter is the index of the element.
//! - The key is the output of the same generator for the step number, with the seed as its key. For
//!   each further group of four buffers, 1 is added to the key's second word.
//! - Each of the four buffers of a group uses its own 16 of the 64 bits of output.
//!
//! Eight-bit states have the generator's output for each block of 32 elements, under other keys.
//! See [`BlockBits`].
//!
//! So the random bits do not depend on threads, chunks, splits or registers.

use super::block8::{BLOCK, CUT};
use crate::simd::{F32Register, U32Lanes};

/// The rounding of θ and the states to 16 bits.
///
/// It applies to buffers of [`bf16`](half::bf16) and [`f16`](half::f16). `f32` and `f64` are stored
/// as they are computed. A 16-bit copy of θ is always rounded to nearest. States in 8 bits do not
/// depend on it: they are rounded stochastically, with the seed of [`Stochastic`](Self::Stochastic)
/// or with 0 in its place, but running maxima such as `v_max` to nearest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Rounding {
    /// Rounds to the nearest number, ties to even. The default.
    #[default]
    Nearest,
    /// Rounds to one of the two neighbours at random, so that the expected value is the unrounded
    /// number. Small changes, which rounding to nearest loses at every step, then add up.
    ///
    /// The random bits are a function of the seed, the step number, the index of the element
    /// (counted from [`Step::with_offset`](crate::Step::with_offset)) and the buffer. The same step
    /// gives the same bits again.
    Stochastic {
        /// Selects the random bits. Use different seeds for tensors that are stepped one by one.
        seed: u64,
    },
}

impl Rounding {
    /// The seed of stochastic rounding.
    pub(crate) fn seed(self) -> Option<u64> {
        match self {
            Rounding::Nearest => None,
            Rounding::Stochastic { seed } => Some(seed),
        }
    }
}

/// The random bits of one step on a range of elements: for 8-bit states, and for 16-bit buffers if
/// they are rounded stochastically.
#[derive(Clone, Copy)]
pub(crate) struct Noise {
    /// Whether 16-bit buffers are rounded stochastically.
    pub(crate) halves: bool,
    pub(crate) seed: u64,
    pub(crate) t: u64,
    /// The index of the range's first element.
    pub(crate) first: u64,
    /// The generator's output for `t`, with `seed` as its key.
    key: [u32; 2],
}

impl Noise {
    /// Those of step number `t` with this seed. Without a seed, 16-bit buffers are rounded to
    /// nearest, and the seed of 8-bit states is 0. `own` is combined with the seed.
    pub fn new(seed: Option<u64>, own: u64, t: u64, first: u64) -> Self {
        let ([low, high], of_halves) = (halves(t), seed.is_some());
        let seed = seed.unwrap_or(0) ^ own;
        Noise { halves: of_halves, seed, t, first, key: threefry(halves(seed), low, high) }
    }

    /// The random bits of a range that starts elsewhere.
    pub fn starting_at(self, first: u64) -> Self {
        Noise { first, ..self }
    }

    /// The random bits of the range without its first `rows` elements.
    #[inline(always)]
    pub fn skip(self, rows: usize) -> Self {
        Noise { first: self.first.wrapping_add(rows as u64), ..self }
    }

    /// The two random words of each lane. Their four halves are for the four buffers of the group.
    /// θ is buffer 0, and the states follow. `at` is the index of the first lane's element in the
    /// range, and `iota` holds the indices of the lanes.
    #[inline(always)]
    pub fn words<W: U32Lanes>(&self, iota: W, at: usize, group: usize) -> [W; 2] {
        let [low, high] = halves(self.first.wrapping_add(at as u64));
        let counter_low = iota.wrapping_add_scalar(low);
        // The lower word of a lane that is past a multiple of 2^32 has wrapped around.
        let counter_high =
            counter_low.select_below(low, iota.splat(high.wrapping_add(1)), iota.splat(high));
        threefry(self.key_of(group), counter_low, counter_high)
    }

    #[inline(always)]
    fn key_of(&self, group: usize) -> [u32; 2] {
        [self.key[0], self.key[1].wrapping_add(group as u32)]
    }
}

/// The group of buffers whose random words two 8-bit states share: those with the numbers
/// 2·`pair` and 2·`pair` + 1.
#[inline(always)]
pub(crate) fn group_of_states(pair: usize) -> usize {
    (1 << 31) + pair
}

/// The number of blocks whose random words are drawn together.
pub(crate) const TOGETHER: usize = 32;

/// The group of the random words of a correction of 8 bits.
pub(crate) const GROUP_OF_CORRECTION: usize = 3 << 30;

/// The random bits of one block of a pair of 8-bit states, or of a correction of 8 bits: two random
/// words. The counter of the generator is the index of the block's first element.
///
/// The bits of element i are in the word w₀ + i·w₁. This is the hash of Dietzfelbinger, "Universal
/// hashing and k-wise independence via integer arithmetic without primes", 1996. The first state of
/// the pair has the upper 18 bits of the word: those of any two elements of the block are
/// independent. The second state has the lower 18 bits, of which the upper 14 are independent. A
/// correction has the upper 8 bits.
#[derive(Clone, Copy)]
pub(crate) struct BlockBits(pub [u32; 2]);

impl BlockBits {
    /// Draws the words of the blocks that begin at element `at` of the range, one in each lane.
    #[inline(always)]
    pub fn draw<L: F32Register>(
        isa: L::Isa,
        noise: Noise,
        at: usize,
        group: usize,
    ) -> [L::Bits; 2] {
        noise.words(L::iota(isa).shl(BLOCK.ilog2()), at, group)
    }

    /// The words of the elements from number `at` on.
    #[inline(always)]
    pub fn words<L: F32Register>(self, isa: L::Isa, at: usize) -> L::Bits {
        let index = L::iota(isa).wrapping_add_scalar(at as u32);
        let [first, step] = self.0.map(|word| index.splat(word));
        index.wrapping_mul(step).wrapping_add(first)
    }

    /// The bits in a word of the first or the second state of the pair.
    #[inline(always)]
    pub fn of_state<W: U32Lanes>(word: W, state: usize) -> W {
        if state.is_multiple_of(2) { word.shr(32 - CUT) } else { word.and_scalar((1 << CUT) - 1) }
    }
}

/// The lower and the upper half.
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
    let inject = |[a, b]: [W; 2], first: u32, second: u32| {
        [a.wrapping_add_scalar(first), b.wrapping_add_scalar(second)]
    };
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
    let a = a.wrapping_add(b);
    [a, b.rotate_left(by).xor(a)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::one::OneLane;

    /// The known answers for 13 rounds that the authors of the generator published.
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

    /// The words and the random bits in the table of `kernels.md`, which another implementation
    /// computed.
    #[test]
    fn blocks_have_the_bits_of_the_specification() {
        let noise = Noise::new(Some(7), 0, 1, 0);
        let of = |group| {
            let bits = BlockBits(noise.words(0_u32, 0, group));
            [0, 1, 31].map(|i| bits.words::<f32>(OneLane, i))
        };
        let words = of(group_of_states(0));
        assert_eq!(words, [0x6F7C_62A1, 0xC787_07B9, 0x18C6_6089]);
        let bits = |state| words.map(|word| BlockBits::of_state(word, state));
        assert_eq!(bits(0), [0x1_BDF1, 0x3_1E1C, 0x0_6319]);
        assert_eq!(bits(1), [0x0_62A1, 0x3_07B9, 0x2_6089]);
        assert_eq!(of(GROUP_OF_CORRECTION)[..2], [0xE927_BF7B, 0xFFB3_57C4]);
    }
}
