//! One number at a time, without an instruction set, for the last few elements of a buffer.

use super::{F32Register, Float, Isa, Lanes, Real, Register, Sealed, U32Lanes};

/// The [`Isa`] of one lane.
#[derive(Clone, Copy, Debug)]
pub struct OneLane;

impl Isa for OneLane {
    type F32 = f32;
    type F64 = f64;
}

impl Real for f32 {
    const MAX: Self = f32::MAX;

    #[inline(always)]
    fn from_f64(x: f64) -> Self {
        x as f32
    }

    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
}

impl Real for f64 {
    const MAX: Self = f64::MAX;

    #[inline(always)]
    fn from_f64(x: f64) -> Self {
        x
    }

    #[inline(always)]
    fn to_f64(self) -> f64 {
        self
    }
}

impl Float for f32 {
    const ROOT: Self = (1_u64 << 63) as f32 * 2.0_f32.next_down();
    type In<I: Isa> = I::F32;

    #[inline(always)]
    fn from_singles<I: Isa>(lanes: I::F32) -> I::F32 {
        lanes
    }

    #[inline(always)]
    fn to_singles<I: Isa>(lanes: I::F32) -> I::F32 {
        lanes
    }
}

impl Float for f64 {
    const ROOT: Self = f64::from_bits((1023 + 511) << 52) * 2.0_f64.next_down();
    type In<I: Isa> = I::F64;

    fn from_singles<I: Isa>(_: I::F32) -> I::F64 {
        unreachable!("f64 is not combined with f32")
    }

    fn to_singles<I: Isa>(_: I::F64) -> I::F32 {
        unreachable!("f64 is not combined with f32")
    }
}

macro_rules! one_lane {
    ($float:ty) => {
        impl Sealed for $float {}

        impl Lanes for $float {
            type Float = $float;

            #[inline(always)]
            fn sqrt(self) -> Self {
                <$float>::sqrt(self)
            }

            #[inline(always)]
            fn abs(self) -> Self {
                <$float>::abs(self)
            }

            #[inline(always)]
            fn fast_max(self, other: Self) -> Self {
                if self > other { self } else { other }
            }

            #[inline(always)]
            fn rdiv(self, x: Self) -> Self {
                x / self
            }

            #[inline(always)]
            fn clamp_max(self, x: Self) -> Self {
                if self > x { x } else { self }
            }

            #[inline(always)]
            fn clamp_min(self, x: Self) -> Self {
                if self < x { x } else { self }
            }

            #[inline(always)]
            fn sign(self) -> Self {
                if self > 0.0 {
                    1.0
                } else if self < 0.0 {
                    -1.0
                } else {
                    self
                }
            }
        }

        impl Register for $float {
            type Isa = OneLane;
            const LANES: usize = 1;

            #[inline(always)]
            fn load(_: OneLane, from: &[$float]) -> $float {
                from[0]
            }

            #[inline(always)]
            fn store(self, to: &mut [$float]) {
                to[0] = self;
            }

            #[inline(always)]
            fn surely_finite(self) -> bool {
                self.is_finite()
            }
        }
    };
}

one_lane!(f32);
one_lane!(f64);

impl F32Register for f32 {
    type Bits = u32;

    #[inline(always)]
    fn to_bits(self) -> u32 {
        f32::to_bits(self)
    }

    #[inline(always)]
    fn from_bits(bits: u32) -> Self {
        f32::from_bits(bits)
    }

    #[inline(always)]
    fn unless_nan(self, bits: u32) -> u32 {
        if self.is_nan() { !0 } else { bits }
    }

    #[inline(always)]
    fn iota(_: OneLane) -> u32 {
        0
    }

    #[inline(always)]
    fn load_lower(_: OneLane, from: &[u16]) -> u32 {
        from[0].into()
    }

    #[inline(always)]
    fn store_lower(bits: u32, to: &mut [u16]) {
        to[0] = bits as u16;
    }

    #[inline(always)]
    fn load_u8(_: OneLane, from: &[u8]) -> u32 {
        from[0].into()
    }

    #[inline(always)]
    fn store_u8(bits: u32, to: &mut [u8]) {
        to[0] = bits as u8;
    }
}

impl U32Lanes for u32 {
    #[inline(always)]
    fn splat(self, x: u32) -> Self {
        x
    }
    #[inline(always)]
    fn wrapping_add(self, other: Self) -> Self {
        self.wrapping_add(other)
    }
    #[inline(always)]
    fn and(self, other: Self) -> Self {
        self & other
    }
    #[inline(always)]
    fn or(self, other: Self) -> Self {
        self | other
    }
    #[inline(always)]
    fn xor(self, other: Self) -> Self {
        self ^ other
    }
    #[inline(always)]
    fn shl(self, by: u32) -> Self {
        self << by
    }
    #[inline(always)]
    fn shr(self, by: u32) -> Self {
        self >> by
    }
    #[inline(always)]
    fn wrapping_mul(self, other: Self) -> Self {
        self.wrapping_mul(other)
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Ord::max(self, other)
    }
    #[inline(always)]
    fn reduce_max(self) -> u32 {
        self
    }
    #[inline(always)]
    fn select_below(self, limit: u32, then: Self, otherwise: Self) -> Self {
        if self < limit { then } else { otherwise }
    }
}
