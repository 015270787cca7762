//! bfloat16: the upper half of an `f32`, with one sign bit, eight exponent bits and seven mantissa
//! bits.

use half::bf16;

use super::{Element, Half, state_element, to_odd};
use crate::simd::{F32Register, Isa, Real, Sealed, U32Lanes};

impl Sealed for bf16 {}

impl Real for bf16 {
    const MAX: Self = bf16::MAX;

    fn from_f64(x: f64) -> Self {
        bf16::from_f32(to_odd(x))
    }

    fn to_f64(self) -> f64 {
        bf16::to_f64(self)
    }
}

impl Element for bf16 {
    type DefaultState = bf16;

    fn from_float(x: f32) -> Self {
        bf16::from_f32(x)
    }

    fn to_float(self) -> f32 {
        bf16::to_f32(self)
    }

    #[inline(always)]
    fn load<I: Isa>(isa: I, from: &[Self]) -> I::F32 {
        decode(I::F32::load_upper(isa, bytemuck::cast_slice(from)))
    }

    #[inline(always)]
    fn store<I: Isa>(lanes: I::F32, to: &mut [Self]) {
        I::F32::store_upper(nearest(lanes), bytemuck::cast_slice_mut(to));
    }

    #[inline(always)]
    fn load_unordered<I: Isa>(isa: I, from: &[Self]) -> I::F32 {
        decode(I::F32::load_upper_unordered(isa, bytemuck::cast_slice(from)))
    }

    #[inline(always)]
    fn store_unordered<I: Isa>(lanes: I::F32, to: &mut [Self]) {
        // The lower half of any NaN is 0 here, so it stays NaN. Not so on SPARC and older MIPS
        // CPUs, whose arithmetic makes other NaNs. The crate does not support them.
        I::F32::store_round_unordered(lanes.to_bits(), bytemuck::cast_slice_mut(to));
    }
}

state_element!(bf16, f32, Bf16, "bf16");

impl Half for bf16 {}

/// Converts bits in the upper halves to `f32`. The lower halves must be 0. Exact.
#[inline(always)]
pub(crate) fn decode<L: F32Register>(bits: L::Bits) -> L {
    L::from_bits(bits)
}

/// Rounds `lanes` to nearest, ties to even. The bits are in the upper halves. The lower halves are
/// unspecified.
#[inline(always)]
pub(crate) fn nearest<L: F32Register>(lanes: L) -> L::Bits {
    // The upper half of a NaN could be an infinity, or the sum could overflow.
    lanes.unless_nan(lanes.to_bits().round_upper())
}

/// Rounds `lanes` to one of the two neighbours, if the lower halves of `noise` are random bits. The
/// probability of the neighbour away from zero is the distance from the other one, in units of the
/// distance between the two. Exact values do not change. The bits are in the upper halves. The
/// lower halves are unspecified.
#[inline(always)]
pub(crate) fn stochastic<L: F32Register>(lanes: L, noise: L::Bits) -> L::Bits {
    let bits = lanes.to_bits();
    lanes.unless_nan(bits.wrapping_add(noise.and_scalar(0xFFFF)))
}
