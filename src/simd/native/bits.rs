//! The bits of `pulp`'s registers of `f32`, and the loads and stores of 8-bit and 16-bit numbers.

use pulp::Simd;

use super::{F32s, NativeSimd, UPPER, Unrolled};
use crate::simd::{F32Register, Register, U32Lanes};

/// The bits of `U` registers of `f32`.
#[derive(Clone, Copy)]
pub struct U32s<P: Simd, const U: usize> {
    simd: P,
    of: [P::u32s; U],
}

impl<P: Simd, const U: usize> U32s<P, U> {
    #[inline(always)]
    fn map(mut self, f: impl Fn(P::u32s) -> P::u32s) -> Self {
        for a in &mut self.of {
            *a = f(*a);
        }
        self
    }

    #[inline(always)]
    fn zero(simd: P) -> Self {
        U32s { simd, of: [simd.splat_u32s(0); U] }
    }

    #[inline(always)]
    fn zip(mut self, other: Self, f: impl Fn(P, P::u32s, P::u32s) -> P::u32s) -> Self {
        for (a, b) in self.of.iter_mut().zip(other.of) {
            *a = f(self.simd, *a, b);
        }
        self
    }
}

impl<P: NativeSimd, const U: usize> U32Lanes for U32s<P, U> {
    #[inline(always)]
    fn splat(self, x: u32) -> Self {
        U32s { of: [self.simd.splat_u32s(x); U], ..self }
    }
    #[inline(always)]
    fn wrapping_add(self, other: Self) -> Self {
        self.zip(other, P::add_u32s)
    }
    #[inline(always)]
    fn and(self, other: Self) -> Self {
        self.zip(other, P::and_u32s)
    }
    #[inline(always)]
    fn or(self, other: Self) -> Self {
        self.zip(other, P::or_u32s)
    }
    #[inline(always)]
    fn xor(self, other: Self) -> Self {
        self.zip(other, P::xor_u32s)
    }
    #[inline(always)]
    fn shl(self, by: u32) -> Self {
        let by = self.simd.splat_u32s(by);
        self.map(|a| self.simd.wrapping_dyn_shl_u32s(a, by))
    }
    #[inline(always)]
    fn shr(self, by: u32) -> Self {
        let by = self.simd.splat_u32s(by);
        self.map(|a| self.simd.wrapping_dyn_shr_u32s(a, by))
    }
    #[inline(always)]
    fn wrapping_mul(self, other: Self) -> Self {
        self.zip(other, P::umul)
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.zip(other, P::umax)
    }
    #[inline(always)]
    fn reduce_max(self) -> u32 {
        let mut max = self.of[0];
        for a in &self.of[1..] {
            max = self.simd.umax(max, *a);
        }
        self.simd.reduce_umax(max)
    }
    #[inline(always)]
    fn select_below(mut self, limit: u32, then: Self, otherwise: Self) -> Self {
        let limit = self.simd.splat_u32s(limit);
        for i in 0..U {
            let below = self.simd.less_than_u32s(self.of[i], limit);
            self.of[i] = self.simd.select_u32s(below, then.of[i], otherwise.of[i]);
        }
        self
    }
}

impl<P: NativeSimd, const U: usize> F32Register for F32s<P, U> {
    type Bits = U32s<P, U>;

    #[inline(always)]
    fn to_bits(self) -> U32s<P, U> {
        let mut bits = U32s::zero(self.simd);
        for (register, a) in bits.of.iter_mut().zip(self.of) {
            *register = self.simd.transmute_u32s_f32s(a);
        }
        bits
    }

    #[inline(always)]
    fn from_bits(bits: U32s<P, U>) -> Self {
        let simd = bits.simd;
        let mut lanes = F32s { simd, of: [simd.splat_f32s(0.0); U] };
        for (lane, register) in lanes.of.iter_mut().zip(bits.of) {
            *lane = simd.transmute_f32s_u32s(register);
        }
        lanes
    }

    #[inline(always)]
    fn unless_nan(self, mut bits: U32s<P, U>) -> U32s<P, U> {
        for (register, a) in bits.of.iter_mut().zip(self.of) {
            *register = self.simd.unless_nan(a, *register);
        }
        bits
    }

    #[inline(always)]
    fn iota(Unrolled(simd): Unrolled<P, U>) -> U32s<P, U> {
        const NUMBERS: [u32; 64] = {
            let mut numbers = [0; 64];
            let mut i = 0;
            while i < 64 {
                numbers[i] = i as u32;
                i += 1;
            }
            numbers
        };
        let mut bits = U32s::zero(simd);
        bits.of.copy_from_slice(&P::as_simd_u32s(&NUMBERS).0[..U]);
        bits
    }

    #[inline(always)]
    fn load_lower(Unrolled(simd): Unrolled<P, U>, from: &[u16]) -> U32s<P, U> {
        let mut bits = U32s::zero(simd);
        for (register, halves) in bits.of.iter_mut().zip(from.chunks_exact(Self::LANES / U)) {
            *register = simd.widen(bytemuck::pod_read_unaligned(bytemuck::cast_slice(halves)));
        }
        bits
    }

    #[inline(always)]
    fn load_upper(Unrolled(simd): Unrolled<P, U>, from: &[u16]) -> U32s<P, U> {
        let mut bits = U32s::zero(simd);
        for (register, halves) in bits.of.iter_mut().zip(from.chunks_exact(Self::LANES / U)) {
            *register =
                simd.widen_upper(bytemuck::pod_read_unaligned(bytemuck::cast_slice(halves)));
        }
        bits
    }

    #[inline(always)]
    fn store_upper(bits: U32s<P, U>, to: &mut [u16]) {
        for (register, to) in bits.of.into_iter().zip(to.chunks_exact_mut(Self::LANES / U)) {
            let halves = bits.simd.narrow_upper(register);
            bytemuck::cast_slice_mut(to).copy_from_slice(bytemuck::bytes_of(&halves));
        }
    }

    /// A pair of registers holds the even and the odd elements. Separating them takes one
    /// instruction for each register. Widening them in order takes two, or a permutation.
    #[inline(always)]
    fn load_upper_unordered(Unrolled(simd): Unrolled<P, U>, from: &[u16]) -> U32s<P, U> {
        if U % 2 == 1 {
            return Self::load_upper(Unrolled(simd), from);
        }
        let (sixteen, upper) = (simd.splat_u32s(16), simd.splat_u32s(UPPER));
        let mut bits = U32s::zero(simd);
        let elements = from.chunks_exact(2 * Self::LANES / U);
        for (pair, elements) in bits.of.chunks_exact_mut(2).zip(elements) {
            let both: P::u32s = bytemuck::pod_read_unaligned(bytemuck::cast_slice(elements));
            pair[0] = simd.wrapping_dyn_shl_u32s(both, sixteen);
            pair[1] = simd.and_u32s(both, upper);
        }
        bits
    }

    #[inline(always)]
    fn store_round_unordered(bits: U32s<P, U>, to: &mut [u16]) {
        if U % 2 == 1 {
            return Self::store_upper(bits.round_upper(), to);
        }
        let elements = to.chunks_exact_mut(2 * Self::LANES / U);
        for (pair, elements) in bits.of.chunks_exact(2).zip(elements) {
            let both = bits.simd.nearest_pair(pair[0], pair[1]);
            bytemuck::cast_slice_mut(elements).copy_from_slice(bytemuck::bytes_of(&both));
        }
    }

    #[inline(always)]
    fn load_u8(Unrolled(simd): Unrolled<P, U>, from: &[u8]) -> U32s<P, U> {
        let mut bits = U32s::zero(simd);
        for (register, bytes) in bits.of.iter_mut().zip(from.chunks_exact(Self::LANES / U)) {
            *register = simd.widen_bytes(bytes);
        }
        bits
    }

    #[inline(always)]
    fn store_u8(bits: U32s<P, U>, to: &mut [u8]) {
        bits.simd.narrow_bytes(&bits.of, &mut to[..Self::LANES]);
    }

    #[inline(always)]
    fn store_signed_u8(bits: U32s<P, U>, signs: Self, to: &mut [u8]) {
        let signs = signs.to_bits();
        bits.simd.narrow_signed_bytes(&bits.of, &signs.of, &mut to[..Self::LANES]);
    }

    #[inline(always)]
    fn store_lower(bits: U32s<P, U>, to: &mut [u16]) {
        for (register, to) in bits.of.into_iter().zip(to.chunks_exact_mut(Self::LANES / U)) {
            let halves = bits.simd.narrow(register);
            bytemuck::cast_slice_mut(to).copy_from_slice(bytemuck::bytes_of(&halves));
        }
    }
}
