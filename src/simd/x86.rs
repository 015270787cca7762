//! AVX2 and AVX-512: widening, narrowing, rounding and comparing, for which `pulp`'s trait `Simd`
//! has no methods.

use core::arch::x86_64::__m256i;

use pulp::Simd;

use super::native::{NativeSimd, Unrolled};

/// The predicate of a comparison that is true where either operand is NaN.
const UNORDERED: i32 = 3;

/// `minps` and `maxps` return their second operand where the operands are equal or one is NaN. So
/// one instruction is the whole comparison and selection.
macro_rules! fast_min_max {
    () => {
        fast_min_max!(fast_min_f32s, min_f32s, f32s);
        fast_min_max!(fast_max_f32s, max_f32s, f32s);
        fast_min_max!(fast_min_f64s, min_f64s, f64s);
        fast_min_max!(fast_max_f64s, max_f64s, f64s);
    };
    ($fast:ident, $instruction:ident, $register:ident) => {
        #[inline(always)]
        fn $fast(self, a: Self::$register, b: Self::$register) -> Self::$register {
            self.$instruction(a, b)
        }
    };
}

impl NativeSimd for pulp::x86::V3 {
    type Halves = pulp::u16x8;
    type Block = Unrolled<Self, 4>;

    #[inline(always)]
    fn block(self) -> Self::Block {
        Unrolled(self)
    }

    fast_min_max!();

    #[inline(always)]
    fn has_nan_f32s(self, a: pulp::f32x8) -> bool {
        let a = bytemuck::cast(a);
        self.avx._mm256_movemask_ps(self.avx._mm256_cmp_ps::<UNORDERED>(a, a)) != 0
    }

    #[inline(always)]
    fn has_nan_f64s(self, a: pulp::f64x4) -> bool {
        let a = bytemuck::cast(a);
        self.avx._mm256_movemask_pd(self.avx._mm256_cmp_pd::<UNORDERED>(a, a)) != 0
    }

    #[inline(always)]
    fn widen(self, halves: pulp::u16x8) -> pulp::u32x8 {
        self.convert_u16x8_to_u32x8(halves)
    }

    #[inline(always)]
    fn umin(self, a: pulp::u32x8, b: pulp::u32x8) -> pulp::u32x8 {
        bytemuck::cast(self.avx2._mm256_min_epu32(bytemuck::cast(a), bytemuck::cast(b)))
    }

    #[inline(always)]
    fn umax(self, a: pulp::u32x8, b: pulp::u32x8) -> pulp::u32x8 {
        bytemuck::cast(self.avx2._mm256_max_epu32(bytemuck::cast(a), bytemuck::cast(b)))
    }

    #[inline(always)]
    fn umul(self, a: pulp::u32x8, b: pulp::u32x8) -> pulp::u32x8 {
        bytemuck::cast(self.avx2._mm256_mullo_epi32(bytemuck::cast(a), bytemuck::cast(b)))
    }

    #[inline(always)]
    fn reduce_umax(self, a: pulp::u32x8) -> u32 {
        let [low, high]: [pulp::u32x4; 2] = bytemuck::cast(a);
        let (sse2, sse4_1) = (self.sse2, self.sse4_1);
        let a = sse4_1._mm_max_epu32(bytemuck::cast(low), bytemuck::cast(high));
        let a = sse4_1._mm_max_epu32(a, sse2._mm_shuffle_epi32::<0b01_00_11_10>(a));
        let a = sse4_1._mm_max_epu32(a, sse2._mm_shuffle_epi32::<0b10_11_00_01>(a));
        bytemuck::cast::<_, [u32; 4]>(a)[0]
    }

    #[inline(always)]
    fn widen_bytes(self, bytes: &[u8]) -> pulp::u32x8 {
        let eight: u64 = bytemuck::pod_read_unaligned(&bytes[..8]);
        bytemuck::cast(self.avx2._mm256_cvtepu8_epi32(bytemuck::cast([eight, 0])))
    }

    #[inline(always)]
    fn narrow_bytes(self, words: &[pulp::u32x8], bytes: &mut [u8]) {
        for (words, bytes) in words.chunks(4).zip(bytes.chunks_mut(32)) {
            store_bytes(self, lowest_bytes(self, words), bytes);
        }
    }

    /// Packs the signs with saturation: a word below 0 becomes the least number.
    #[inline(always)]
    fn narrow_signed_bytes(self, words: &[pulp::u32x8], signs: &[pulp::u32x8], bytes: &mut [u8]) {
        let (avx, avx2) = (self.avx, self.avx2);
        let both = words.chunks(4).zip(signs.chunks(4));
        for ((words, signs), bytes) in both.zip(bytes.chunks_mut(32)) {
            let [a, b, c, d] = four(signs);
            let (ab, cd) = (avx2._mm256_packs_epi32(a, b), avx2._mm256_packs_epi32(c, d));
            let signs = avx2._mm256_packs_epi16(ab, cd);
            let signs = avx2._mm256_and_si256(signs, avx._mm256_set1_epi8(i8::MIN));
            store_bytes(self, avx2._mm256_or_si256(lowest_bytes(self, words), signs), bytes);
        }
    }

    #[inline(always)]
    fn doubles(self, a: pulp::f32x8) -> [pulp::f64x4; 2] {
        let [low, high]: [pulp::f32x4; 2] = bytemuck::cast(a);
        [self.convert_f32x4_to_f64x4(low), self.convert_f32x4_to_f64x4(high)]
    }

    #[inline(always)]
    fn narrow(self, words: pulp::u32x8) -> pulp::u16x8 {
        let words = bytemuck::cast(words);
        // Packs within each half of the register, then moves the two results to the lower half.
        let packed = self.avx2._mm256_packus_epi32(words, words);
        let packed: [pulp::u16x8; 2] =
            bytemuck::cast(self.avx2._mm256_permute4x64_epi64::<0b1000>(packed));
        packed[0]
    }

    /// The same as for AVX-512, but with a signed comparison: AVX2 has no unsigned one.
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

    /// Takes two instructions. A select takes three more.
    #[inline(always)]
    fn unless_nan(self, a: pulp::f32x8, words: pulp::u32x8) -> pulp::u32x8 {
        let a = bytemuck::cast(a);
        let nan = self.avx._mm256_cmp_ps::<UNORDERED>(a, a);
        bytemuck::cast(self.avx._mm256_or_ps(nan, bytemuck::cast(words)))
    }
}

/// Up to four registers, repeated to be four.
#[inline(always)]
fn four(words: &[pulp::u32x8]) -> [__m256i; 4] {
    let last = words.len() - 1;
    [
        bytemuck::cast(words[0]),
        bytemuck::cast(words[last.min(1)]),
        bytemuck::cast(words[last.min(2)]),
        bytemuck::cast(words[last.min(3)]),
    ]
}

/// The lowest bytes of up to four registers. Packing works within the halves of a register, so they
/// are in the order of [`store_bytes`].
#[inline(always)]
fn lowest_bytes(simd: pulp::x86::V3, words: &[pulp::u32x8]) -> __m256i {
    let (avx, avx2) = (simd.avx, simd.avx2);
    let ([a, b, c, d], lowest) = (four(words), avx._mm256_set1_epi16(0xFF));
    let ab = avx2._mm256_and_si256(avx2._mm256_packus_epi32(a, b), lowest);
    let cd = avx2._mm256_and_si256(avx2._mm256_packus_epi32(c, d), lowest);
    avx2._mm256_packus_epi16(ab, cd)
}

/// Stores packed bytes in order.
#[inline(always)]
fn store_bytes(simd: pulp::x86::V3, packed: __m256i, bytes: &mut [u8]) {
    let order = simd.avx._mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    let ordered = simd.avx2._mm256_permutevar8x32_epi32(packed, order);
    let len = bytes.len();
    bytes.copy_from_slice(&bytemuck::bytes_of(&bytemuck::cast::<_, pulp::u32x8>(ordered))[..len]);
}

impl NativeSimd for pulp::x86::V4 {
    type Halves = pulp::u16x16;
    type Block = Unrolled<Self, 2>;

    #[inline(always)]
    fn block(self) -> Self::Block {
        Unrolled(self)
    }

    fast_min_max!();

    #[inline(always)]
    fn has_nan_f32s(self, a: pulp::f32x16) -> bool {
        let a = bytemuck::cast(a);
        self.avx512f._mm512_cmp_ps_mask::<UNORDERED>(a, a) != 0
    }

    #[inline(always)]
    fn has_nan_f64s(self, a: pulp::f64x8) -> bool {
        let a = bytemuck::cast(a);
        self.avx512f._mm512_cmp_pd_mask::<UNORDERED>(a, a) != 0
    }

    #[inline(always)]
    fn widen(self, halves: pulp::u16x16) -> pulp::u32x16 {
        self.convert_u16x16_to_u32x16(halves)
    }

    #[inline(always)]
    fn umin(self, a: pulp::u32x16, b: pulp::u32x16) -> pulp::u32x16 {
        bytemuck::cast(self.avx512f._mm512_min_epu32(bytemuck::cast(a), bytemuck::cast(b)))
    }

    #[inline(always)]
    fn umax(self, a: pulp::u32x16, b: pulp::u32x16) -> pulp::u32x16 {
        bytemuck::cast(self.avx512f._mm512_max_epu32(bytemuck::cast(a), bytemuck::cast(b)))
    }

    #[inline(always)]
    fn umul(self, a: pulp::u32x16, b: pulp::u32x16) -> pulp::u32x16 {
        bytemuck::cast(self.avx512f._mm512_mullo_epi32(bytemuck::cast(a), bytemuck::cast(b)))
    }

    #[inline(always)]
    fn reduce_umax(self, a: pulp::u32x16) -> u32 {
        self.avx512f._mm512_reduce_max_epu32(bytemuck::cast(a))
    }

    #[inline(always)]
    fn widen_bytes(self, bytes: &[u8]) -> pulp::u32x16 {
        let sixteen: [u64; 2] = bytemuck::pod_read_unaligned(&bytes[..16]);
        bytemuck::cast(self.avx512f._mm512_cvtepu8_epi32(bytemuck::cast(sixteen)))
    }

    #[inline(always)]
    fn narrow_bytes(self, words: &[pulp::u32x16], bytes: &mut [u8]) {
        for (a, bytes) in words.iter().zip(bytes.chunks_exact_mut(16)) {
            let narrow = self.avx512f._mm512_cvtepi32_epi8(bytemuck::cast(*a));
            bytes.copy_from_slice(bytemuck::bytes_of(&bytemuck::cast::<_, [u64; 2]>(narrow)));
        }
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

    /// Takes one permutation. Widening and shifting take two instructions.
    #[inline(always)]
    fn widen_upper(self, halves: pulp::u16x16) -> pulp::u32x16 {
        let spread = bytemuck::cast(
            [0_u32, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15].map(|i| i << 16),
        );
        let halves = bytemuck::cast([halves, halves]);
        bytemuck::cast(self.avx512bw._mm512_maskz_permutexvar_epi16(0xAAAA_AAAA, spread, halves))
    }

    /// Takes one permutation. Shifting and narrowing take three instructions.
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

    /// Rounds both registers at once, in 16-bit lanes. A number is rounded up if its lower half,
    /// plus 1 if the upper half is odd, is more than 0x8000. The addition saturates, so that a sum
    /// that would overflow is also more than 0x8000.
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
