//! Registers of `f32` filled from 16-bit elements and written to them: the bits of their lanes, and what
//! each instruction set has to widen and narrow and compare them.

use pulp::Simd;

use super::registers::Registers;
use crate::backend::{MixedRegister, Register};
use crate::elements::words::{Representation, Words};

/// What `pulp` can do with an instruction set, and between 16, 32 and 64 bits.
pub trait Instructions: Simd {
    /// As many 16-bit numbers as a register has 32-bit lanes.
    type Halves: bytemuck::Pod;

    /// Each with zeros above it.
    fn widen(self, halves: Self::Halves) -> Self::u32s;

    /// The lower halves; the upper ones are zero.
    fn narrow(self, words: Self::u32s) -> Self::Halves;

    /// The smaller word in each lane.
    fn smaller_words(self, a: Self::u32s, b: Self::u32s) -> Self::u32s;

    /// The larger word in each lane.
    fn larger_words(self, a: Self::u32s, b: Self::u32s) -> Self::u32s;

    /// The lanes of a register as `f64`, in two registers and any order.
    fn doubles(self, a: Self::f32s) -> [Self::f64s; 2];

    /// Each with zeros below it.
    #[inline(always)]
    fn widen_upper(self, halves: Self::Halves) -> Self::u32s {
        self.wrapping_dyn_shl_u32s(self.widen(halves), self.splat_u32s(16))
    }

    /// The upper halves.
    #[inline(always)]
    fn narrow_upper(self, words: Self::u32s) -> Self::Halves {
        self.narrow(self.wrapping_dyn_shr_u32s(words, self.splat_u32s(16)))
    }

    /// The upper halves of two registers, each rounded by its lower half to the nearest, ties to
    /// even: in the lower and in the upper halves of one.
    #[inline(always)]
    fn nearest_pair(self, even: Self::u32s, odd: Self::u32s) -> Self::u32s {
        let sixteen = self.splat_u32s(16);
        let round = |words| {
            let last = self.wrapping_dyn_shr_u32s(words, sixteen);
            let last = self.and_u32s(last, self.splat_u32s(1));
            self.add_u32s(self.add_u32s(words, self.splat_u32s(0x7FFF)), last)
        };
        let (even, odd) = (self.wrapping_dyn_shr_u32s(round(even), sixteen), round(odd));
        self.or_u32s(even, self.and_u32s(odd, self.splat_u32s(UPPER)))
    }

    /// `words` where a lane of `a` is a number, and all bits set where it is NaN.
    #[inline(always)]
    fn unless_nan(self, a: Self::f32s, words: Self::u32s) -> Self::u32s {
        self.select_u32s(self.equal_f32s(a, a), words, self.splat_u32s(!0))
    }
}

#[cfg(target_arch = "x86_64")]
impl Instructions for pulp::x86::V3 {
    type Halves = pulp::u16x8;

    #[inline(always)]
    fn widen(self, halves: pulp::u16x8) -> pulp::u32x8 {
        self.convert_u16x8_to_u32x8(halves)
    }

    #[inline(always)]
    fn smaller_words(self, a: pulp::u32x8, b: pulp::u32x8) -> pulp::u32x8 {
        bytemuck::cast(self.avx2._mm256_min_epu32(bytemuck::cast(a), bytemuck::cast(b)))
    }

    #[inline(always)]
    fn larger_words(self, a: pulp::u32x8, b: pulp::u32x8) -> pulp::u32x8 {
        bytemuck::cast(self.avx2._mm256_max_epu32(bytemuck::cast(a), bytemuck::cast(b)))
    }

    #[inline(always)]
    fn doubles(self, a: pulp::f32x8) -> [pulp::f64x4; 2] {
        let [low, high]: [pulp::f32x4; 2] = bytemuck::cast(a);
        [self.convert_f32x4_to_f64x4(low), self.convert_f32x4_to_f64x4(high)]
    }

    #[inline(always)]
    fn narrow(self, words: pulp::u32x8) -> pulp::u16x8 {
        let words = bytemuck::cast(words);
        // Within each half of the register, then the two halves to the bottom.
        let packed = self.avx2._mm256_packus_epi32(words, words);
        let packed: [pulp::u16x8; 2] =
            bytemuck::cast(self.avx2._mm256_permute4x64_epi64::<0b1000>(packed));
        packed[0]
    }

    /// As with AVX-512, by a comparison with signs.
    #[inline(always)]
    fn nearest_pair(self, even: pulp::u32x8, odd: pulp::u32x8) -> pulp::u32x8 {
        const ODD_WORDS: i32 = 0xAA;
        let (avx, avx2) = (self.avx, self.avx2);
        let [one, half] = [1, 0x8000_u16].map(|x| avx._mm256_set1_epi16(x as i16));
        let (even, odd) = (bytemuck::cast(even), bytemuck::cast(odd));
        let upper = avx2._mm256_blend_epi16::<ODD_WORDS>(avx2._mm256_srli_epi32::<16>(even), odd);
        let lower = avx2._mm256_blend_epi16::<ODD_WORDS>(even, avx2._mm256_slli_epi32::<16>(odd));
        let last = avx2._mm256_and_si256(upper, one);
        let sum = avx2._mm256_xor_si256(avx2._mm256_adds_epu16(lower, last), half);
        let up = avx2._mm256_cmpgt_epi16(sum, avx._mm256_setzero_si256());
        bytemuck::cast(avx2._mm256_sub_epi16(upper, up))
    }

    /// Two instructions; a selection is three more.
    #[inline(always)]
    fn unless_nan(self, a: pulp::f32x8, words: pulp::u32x8) -> pulp::u32x8 {
        const UNORDERED: i32 = 3;
        let a = bytemuck::cast(a);
        let nan = self.avx._mm256_cmp_ps::<UNORDERED>(a, a);
        bytemuck::cast(self.avx._mm256_or_ps(nan, bytemuck::cast(words)))
    }
}

#[cfg(target_arch = "x86_64")]
impl Instructions for pulp::x86::V4 {
    type Halves = pulp::u16x16;

    #[inline(always)]
    fn widen(self, halves: pulp::u16x16) -> pulp::u32x16 {
        self.convert_u16x16_to_u32x16(halves)
    }

    #[inline(always)]
    fn smaller_words(self, a: pulp::u32x16, b: pulp::u32x16) -> pulp::u32x16 {
        bytemuck::cast(self.avx512f._mm512_min_epu32(bytemuck::cast(a), bytemuck::cast(b)))
    }

    #[inline(always)]
    fn larger_words(self, a: pulp::u32x16, b: pulp::u32x16) -> pulp::u32x16 {
        bytemuck::cast(self.avx512f._mm512_max_epu32(bytemuck::cast(a), bytemuck::cast(b)))
    }

    #[inline(always)]
    fn doubles(self, a: pulp::f32x16) -> [pulp::f64x8; 2] {
        let [low, high]: [pulp::f32x8; 2] = bytemuck::cast(a);
        [self.convert_f32x8_to_f64x8(low), self.convert_f32x8_to_f64x8(high)]
    }

    #[inline(always)]
    fn narrow(self, words: pulp::u32x16) -> pulp::u16x16 {
        self.convert_u32x16_to_u16x16(words)
    }

    /// One permutation, where widening and shifting are two.
    #[inline(always)]
    fn widen_upper(self, halves: pulp::u16x16) -> pulp::u32x16 {
        let spread = bytemuck::cast(
            [0_u32, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15].map(|i| i << 16),
        );
        let halves = bytemuck::cast([halves, halves]);
        bytemuck::cast(self.avx512bw._mm512_maskz_permutexvar_epi16(0xAAAA_AAAA, spread, halves))
    }

    /// One permutation, where shifting and narrowing are three.
    #[inline(always)]
    fn narrow_upper(self, words: pulp::u32x16) -> pulp::u16x16 {
        let mut odd = [0_u16; 32];
        for (i, odd) in odd.iter_mut().enumerate() {
            *odd = (2 * i + 1) as u16 % 32;
        }
        let upper =
            self.avx512bw._mm512_permutexvar_epi16(bytemuck::cast(odd), bytemuck::cast(words));
        bytemuck::cast::<_, [pulp::u16x16; 2]>(upper)[0]
    }

    /// In 16 bits for both registers at once: a number is rounded up if its lower half, and 1 if the
    /// upper one is odd, are more than a half. A sum that would overflow is no less.
    #[inline(always)]
    fn nearest_pair(self, even: pulp::u32x16, odd: pulp::u32x16) -> pulp::u32x16 {
        const ODD_WORDS: u32 = 0xAAAA_AAAA;
        let (f, bw) = (self.avx512f, self.avx512bw);
        let [one, half] = [1, 0x8000_u16].map(|x| f._mm512_set1_epi16(x as i16));
        let (even, odd) = (bytemuck::cast(even), bytemuck::cast(odd));
        let upper = bw._mm512_mask_blend_epi16(ODD_WORDS, f._mm512_srli_epi32::<16>(even), odd);
        let lower = bw._mm512_mask_blend_epi16(ODD_WORDS, even, f._mm512_slli_epi32::<16>(odd));
        let last = f._mm512_and_si512(upper, one);
        let up = bw._mm512_cmpgt_epu16_mask(bw._mm512_adds_epu16(lower, last), half);
        bytemuck::cast(bw._mm512_mask_add_epi16(upper, up, upper, one))
    }
}

#[cfg(target_arch = "aarch64")]
impl Instructions for pulp::aarch64::Neon {
    type Halves = [u16; 4];

    #[inline(always)]
    fn widen(self, halves: [u16; 4]) -> pulp::u32x4 {
        bytemuck::cast(halves.map(u32::from))
    }

    #[inline(always)]
    fn smaller_words(self, a: pulp::u32x4, b: pulp::u32x4) -> pulp::u32x4 {
        bytemuck::cast(self.neon.vminq_u32(bytemuck::cast(a), bytemuck::cast(b)))
    }

    #[inline(always)]
    fn larger_words(self, a: pulp::u32x4, b: pulp::u32x4) -> pulp::u32x4 {
        bytemuck::cast(self.neon.vmaxq_u32(bytemuck::cast(a), bytemuck::cast(b)))
    }

    #[inline(always)]
    fn doubles(self, a: pulp::f32x4) -> [pulp::f64x2; 2] {
        let a: [f32; 4] = bytemuck::cast(a);
        [
            bytemuck::cast([f64::from(a[0]), f64::from(a[1])]),
            bytemuck::cast([f64::from(a[2]), f64::from(a[3])]),
        ]
    }

    #[inline(always)]
    fn narrow(self, words: pulp::u32x4) -> [u16; 4] {
        let words: [u32; 4] = bytemuck::cast(words);
        words.map(|word| word as u16)
    }
}

/// The bits of `U` registers of `f32`.
#[derive(Clone, Copy)]
pub struct WordRegisters<S: Simd, const U: usize> {
    simd: S,
    of: [S::u32s; U],
}

impl<S: Simd, const U: usize> WordRegisters<S, U> {
    #[inline(always)]
    fn map(mut self, f: impl Fn(S::u32s) -> S::u32s) -> Self {
        for a in &mut self.of {
            *a = f(*a);
        }
        self
    }

    #[inline(always)]
    fn zero(simd: S) -> Self {
        WordRegisters { simd, of: [simd.splat_u32s(0); U] }
    }

    #[inline(always)]
    fn zip(mut self, other: Self, f: impl Fn(S, S::u32s, S::u32s) -> S::u32s) -> Self {
        for (a, b) in self.of.iter_mut().zip(other.of) {
            *a = f(self.simd, *a, b);
        }
        self
    }
}

impl<S: Simd, const U: usize> Words for WordRegisters<S, U> {
    #[inline(always)]
    fn splat(self, x: u32) -> Self {
        WordRegisters { of: [self.simd.splat_u32s(x); U], ..self }
    }
    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        self.zip(other, S::add_u32s)
    }
    #[inline(always)]
    fn and(self, other: Self) -> Self {
        self.zip(other, S::and_u32s)
    }
    #[inline(always)]
    fn or(self, other: Self) -> Self {
        self.zip(other, S::or_u32s)
    }
    #[inline(always)]
    fn xor(self, other: Self) -> Self {
        self.zip(other, S::xor_u32s)
    }
    #[inline(always)]
    fn left(self, by: u32) -> Self {
        let by = self.simd.splat_u32s(by);
        self.map(|a| self.simd.wrapping_dyn_shl_u32s(a, by))
    }
    #[inline(always)]
    fn right(self, by: u32) -> Self {
        let by = self.simd.splat_u32s(by);
        self.map(|a| self.simd.wrapping_dyn_shr_u32s(a, by))
    }
    #[inline(always)]
    fn if_below(mut self, limit: u32, then: Self, otherwise: Self) -> Self {
        let limit = self.simd.splat_u32s(limit);
        for i in 0..U {
            let below = self.simd.less_than_u32s(self.of[i], limit);
            self.of[i] = self.simd.select_u32s(below, then.of[i], otherwise.of[i]);
        }
        self
    }
}

/// The upper half of a lane.
const UPPER: u32 = 0xFFFF_0000;

impl<S: Instructions, const U: usize> Representation for Registers<f32, S, U> {
    type Words = WordRegisters<S, U>;

    #[inline(always)]
    fn to_words(self) -> WordRegisters<S, U> {
        let mut words = WordRegisters::zero(self.simd);
        for (word, a) in words.of.iter_mut().zip(self.of) {
            *word = self.simd.transmute_u32s_f32s(a);
        }
        words
    }

    #[inline(always)]
    fn from_words(words: WordRegisters<S, U>) -> Self {
        let simd = words.simd;
        let mut lanes = Registers { simd, of: [simd.splat_f32s(0.0); U] };
        for (lane, word) in lanes.of.iter_mut().zip(words.of) {
            *lane = simd.transmute_f32s_u32s(word);
        }
        lanes
    }

    #[inline(always)]
    fn unless_nan(self, mut words: WordRegisters<S, U>) -> WordRegisters<S, U> {
        for (word, a) in words.of.iter_mut().zip(self.of) {
            *word = self.simd.unless_nan(a, *word);
        }
        words
    }
}

impl<S: Instructions, const U: usize> MixedRegister for Registers<f32, S, U> {
    #[inline(always)]
    fn iota(simd: S) -> WordRegisters<S, U> {
        const NUMBERS: [u32; 64] = {
            let mut numbers = [0; 64];
            let mut i = 0;
            while i < 64 {
                numbers[i] = i as u32;
                i += 1;
            }
            numbers
        };
        let mut words = WordRegisters::zero(simd);
        words.of.copy_from_slice(&S::as_simd_u32s(&NUMBERS).0[..U]);
        words
    }

    #[inline(always)]
    fn load_halves(simd: S, from: &[u16]) -> WordRegisters<S, U> {
        let mut words = WordRegisters::zero(simd);
        for (word, halves) in words.of.iter_mut().zip(from.chunks_exact(Self::LEN / U)) {
            *word = simd.widen(bytemuck::pod_read_unaligned(bytemuck::cast_slice(halves)));
        }
        words
    }

    #[inline(always)]
    fn load_upper(simd: S, from: &[u16]) -> WordRegisters<S, U> {
        let mut words = WordRegisters::zero(simd);
        for (word, halves) in words.of.iter_mut().zip(from.chunks_exact(Self::LEN / U)) {
            *word = simd.widen_upper(bytemuck::pod_read_unaligned(bytemuck::cast_slice(halves)));
        }
        words
    }

    #[inline(always)]
    fn store_upper(words: WordRegisters<S, U>, to: &mut [u16]) {
        for (word, to) in words.of.into_iter().zip(to.chunks_exact_mut(Self::LEN / U)) {
            let halves = words.simd.narrow_upper(word);
            bytemuck::cast_slice_mut(to).copy_from_slice(bytemuck::bytes_of(&halves));
        }
    }

    /// A pair of registers holds the even and the odd elements: to take them apart is one
    /// instruction for each register, where to widen them in order is two or a permutation.
    #[inline(always)]
    fn load_upper_unordered(simd: S, from: &[u16]) -> WordRegisters<S, U> {
        if U % 2 == 1 {
            return Self::load_upper(simd, from);
        }
        let (sixteen, upper) = (simd.splat_u32s(16), simd.splat_u32s(UPPER));
        let mut words = WordRegisters::zero(simd);
        let elements = from.chunks_exact(2 * Self::LEN / U);
        for (pair, elements) in words.of.chunks_exact_mut(2).zip(elements) {
            let both: S::u32s = bytemuck::pod_read_unaligned(bytemuck::cast_slice(elements));
            pair[0] = simd.wrapping_dyn_shl_u32s(both, sixteen);
            pair[1] = simd.and_u32s(both, upper);
        }
        words
    }

    #[inline(always)]
    fn store_nearest_unordered(words: WordRegisters<S, U>, to: &mut [u16]) {
        if U % 2 == 1 {
            return Self::store_upper(words.nearest_upper(), to);
        }
        let elements = to.chunks_exact_mut(2 * Self::LEN / U);
        for (pair, elements) in words.of.chunks_exact(2).zip(elements) {
            let both = words.simd.nearest_pair(pair[0], pair[1]);
            bytemuck::cast_slice_mut(elements).copy_from_slice(bytemuck::bytes_of(&both));
        }
    }

    #[inline(always)]
    fn store_halves(words: WordRegisters<S, U>, to: &mut [u16]) {
        for (word, to) in words.of.into_iter().zip(to.chunks_exact_mut(Self::LEN / U)) {
            let halves = words.simd.narrow(word);
            bytemuck::cast_slice_mut(to).copy_from_slice(bytemuck::bytes_of(&halves));
        }
    }
}
