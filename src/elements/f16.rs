//! IEEE 754 binary16, with one sign bit, five exponent bits and ten mantissa bits.
//!
//! Normal numbers are rounded by integer arithmetic on the bits of the `f32`. Subnormals are the
//! multiples of 2^-24 below 2^-14. Adding 0.75 to so small an `f32` rounds it to such a multiple,
//! since 2^-24 is the unit in the last place of the sum.

use half::f16;

use super::{Element, Half, state_element, to_odd};
use crate::simd::{F32Register, Isa, Real, Sealed, U32Lanes};

impl Sealed for f16 {}

impl Real for f16 {
    const MAX: Self = f16::MAX;

    fn from_f64(x: f64) -> Self {
        f16::from_f32(to_odd(x))
    }

    fn to_f64(self) -> f64 {
        f16::to_f64(self)
    }
}

impl Element for f16 {
    type DefaultState = f32;

    fn from_float(x: f32) -> Self {
        f16::from_f32(x)
    }

    fn to_float(self) -> f32 {
        f16::to_f32(self)
    }

    #[inline(always)]
    fn load<I: Isa>(isa: I, from: &[Self]) -> I::F32 {
        decode(I::F32::load_lower(isa, bytemuck::cast_slice(from)))
    }

    #[inline(always)]
    fn store<I: Isa>(lanes: I::F32, to: &mut [Self]) {
        I::F32::store_lower(nearest(lanes), bytemuck::cast_slice_mut(to));
    }
}

state_element!(f16, f32, F16, "f16");

impl Half for f16 {}

/// The difference of the two exponent biases, at the place of the exponent of an `f32`.
const BIAS: u32 = (127 - 15) << 23;
/// The bits of 2^-14, the smallest normal number, as `f32`.
const LEAST_NORMAL: u32 = (127 - 14) << 23;
/// The bits of 2^16 as `f32`. Numbers from here on become infinite.
const INFINITE: u32 = (127 + 16) << 23;
/// The bits of infinity.
const INFINITY: u32 = 0x7C00;
/// The bits of a quiet NaN.
const NAN: u32 = 0x7E00;
/// What is added to an `f32` to round it to a subnormal: see the top of this file.
const MAGIC: f32 = 0.75;
/// The smallest subnormal, 2^-24.
const UNIT: f32 = f32::from_bits((127 - 24) << 23);

/// Converts bits in the lower halves to `f32`. Exact.
#[inline(always)]
pub(crate) fn decode<L: F32Register>(bits: L::Bits) -> L {
    let magnitude = bits.and_scalar(0x7FFF);
    let sign = bits.and_scalar(0x8000).shl(16);
    let normal = magnitude.shl(13).wrapping_add_scalar(BIAS);
    // Infinity and NaN have the largest exponent in both formats.
    let finite = magnitude.select_below(INFINITY, normal, normal.wrapping_add_scalar(BIAS));
    // The bits of 2^23, or'ed with the integer n, are 2^23 + n. Minus 2^23, this is n as a number.
    let count = L::from_bits(magnitude.or(magnitude.splat(0x4B00_0000))) + -8_388_608.0;
    let subnormal = (count * UNIT).to_bits();
    L::from_bits(magnitude.select_below(0x0400, subnormal, finite).or(sign))
}

/// Rounds `lanes` to nearest, ties to even. The bits are in the lower halves. The upper halves are
/// 0.
#[inline(always)]
pub(crate) fn nearest<L: F32Register>(lanes: L) -> L::Bits {
    let magnitude = lanes.to_bits().and_scalar(0x7FFF_FFFF);
    let last = magnitude.shr(13).and_scalar(1);
    let normal = magnitude.wrapping_add_scalar(0x0FFF).wrapping_add(last);
    let subnormal = L::from_bits(magnitude) + MAGIC;
    finish(lanes, magnitude, normal, subnormal)
}

/// Rounds `lanes` to one of the two neighbours, if the lower halves of `noise` are random bits. The
/// probability of the neighbour away from zero is the distance from the other one, in units of the
/// distance between the two. Exact values do not change. The bits are in the lower halves. The
/// upper halves are 0.
///
/// Thirteen random bits decide, as many as a normal number loses. For subnormals, the probability
/// is rounded to a multiple of 2^-13.
#[inline(always)]
pub(crate) fn stochastic<L: F32Register>(lanes: L, noise: L::Bits) -> L::Bits {
    let magnitude = lanes.to_bits().and_scalar(0x7FFF_FFFF);
    let noise = noise.shr(3).and_scalar(0x1FFF);
    let normal = magnitude.wrapping_add(noise);
    // In units of 2^-24: the middle of one of the 2^13 equal parts of the interval from −½ to ½. So
    // the rounding of the sum cannot meet a tie.
    let within_unit = L::from_bits(noise.shl(10).or(noise.splat(0x3F80_0200))) + -1.5;
    let subnormal = L::from_bits(magnitude) + within_unit * UNIT + MAGIC;
    finish(lanes, magnitude, normal, subnormal)
}

/// Selects the case for each lane. `normal` is the bits of an `f32`, whose lower bits are to be cut
/// off. `subnormal` is 0.75 too large.
#[inline(always)]
fn finish<L: F32Register>(lanes: L, magnitude: L::Bits, normal: L::Bits, subnormal: L) -> L::Bits {
    let normal = normal.wrapping_add_scalar(BIAS.wrapping_neg()).shr(13);
    let subnormal = subnormal.to_bits().wrapping_add_scalar(MAGIC.to_bits().wrapping_neg());
    let too_large =
        magnitude.select_below(0x7F80_0001, magnitude.splat(INFINITY), magnitude.splat(NAN));
    let sign = lanes.to_bits().shr(16).and_scalar(0x8000);
    let large = magnitude.select_below(INFINITE, normal, too_large);
    magnitude.select_below(LEAST_NORMAL, subnormal, large).or(sign)
}
