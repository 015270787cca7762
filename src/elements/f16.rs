//! IEEE 754 binary16: one sign bit, five of exponent, ten of mantissa.
//!
//! Normal numbers are rounded by integer arithmetic on the bits of the `f32`. The subnormals are
//! the multiples of 2^-24 below 2^-14, and adding 0.75 to an `f32` that small rounds it to such a
//! multiple: 2^-24 is the last place there.

use half::f16;

use super::{Element, Half, columns, to_odd};
use crate::simd::{F32Register, Isa, Real, U32Lanes};

impl Real for f16 {
    fn from_f64(x: f64) -> Self {
        f16::from_f32(to_odd(x))
    }

    fn to_f64(self) -> f64 {
        f16::to_f64(self)
    }
}

impl Element for f16 {
    type Float = f32;
    const NAME: &'static str = "f16";

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

    columns!(F16);
}

impl Half for f16 {}

/// The difference of the two exponents' biases, where `f32` has its exponent.
const BIAS: u32 = (127 - 15) << 23;
/// The bits of 2^-14, the least normal number, as `f32`.
const LEAST_NORMAL: u32 = (127 - 14) << 23;
/// The bits of 2^16 as `f32`: from here on all is infinite.
const INFINITE: u32 = (127 + 16) << 23;
/// Infinity and a quiet NaN.
const INFINITY: u32 = 0x7C00;
const NAN: u32 = 0x7E00;
/// 0.75.
const MAGIC: f32 = 0.75;
/// The least subnormal, 2^-24.
const UNIT: f32 = f32::from_bits((127 - 24) << 23);

/// The `f32` of bits in the lower halves of `bits`. Exact.
#[inline(always)]
pub(crate) fn decode<L: F32Register>(bits: L::Bits) -> L {
    let magnitude = bits.masked(0x7FFF);
    let sign = bits.masked(0x8000).left(16);
    let normal = magnitude.left(13).plus_all(BIAS);
    // Infinity and NaN have the top exponent in either format.
    let finite = magnitude.if_below(INFINITY, normal, normal.plus_all(BIAS));
    // 2^23 + n, less 2^23, is n as a number.
    let count = L::from_bits(magnitude.or(magnitude.splat(0x4B00_0000))) + -8_388_608.0;
    let subnormal = (count * UNIT).to_bits();
    L::from_bits(magnitude.if_below(0x0400, subnormal, finite).or(sign))
}

/// The bits nearest to `lanes`, ties to even, in the lower halves.
#[inline(always)]
pub(crate) fn nearest<L: F32Register>(lanes: L) -> L::Bits {
    let magnitude = lanes.to_bits().masked(0x7FFF_FFFF);
    let last = magnitude.right(13).masked(1);
    let normal = magnitude.plus_all(0x0FFF).plus(last);
    let subnormal = L::from_bits(magnitude) + MAGIC;
    finish(lanes, magnitude, normal, subnormal)
}

/// One of the two neighbours of `lanes`: the one away from zero with a probability that is the
/// distance from the other, if the lower halves of `noise` are random bits. An exact value stays.
///
/// Thirteen random bits decide: as many as a normal number loses. Among the subnormals a
/// probability is rounded to a multiple of 2^-13.
#[inline(always)]
pub(crate) fn stochastic<L: F32Register>(lanes: L, noise: L::Bits) -> L::Bits {
    let magnitude = lanes.to_bits().masked(0x7FFF_FFFF);
    let noise = noise.right(3).masked(0x1FFF);
    let normal = magnitude.plus(noise);
    // The middle of one of 2^13 parts of −½ to ½, in units: it cannot make a tie with the sum's
    // rounding.
    let within_unit = L::from_bits(noise.left(10).or(noise.splat(0x3F80_0200))) + -1.5;
    let subnormal = L::from_bits(magnitude) + within_unit * UNIT + MAGIC;
    finish(lanes, magnitude, normal, subnormal)
}

/// Puts the cases together: `normal` is an `f32`'s bits, to be cut, and `subnormal` a number 0.75
/// too large.
#[inline(always)]
fn finish<L: F32Register>(lanes: L, magnitude: L::Bits, normal: L::Bits, subnormal: L) -> L::Bits {
    let normal = normal.plus_all(BIAS.wrapping_neg()).right(13);
    let subnormal = subnormal.to_bits().plus_all(MAGIC.to_bits().wrapping_neg());
    let too_large =
        magnitude.if_below(0x7F80_0001, magnitude.splat(INFINITY), magnitude.splat(NAN));
    let sign = lanes.to_bits().right(16).masked(0x8000);
    let large = magnitude.if_below(INFINITE, normal, too_large);
    magnitude.if_below(LEAST_NORMAL, subnormal, large).or(sign)
}
