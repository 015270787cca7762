//! Portable SIMD on the crate `wide`: the same code on every target, with the instructions that the
//! build enables. Registers have 256 bits. A plain build for x86-64 computes each as two registers
//! of 128 bits.

use core::ops::{Add, Div, Mul, Sub};

use wide::{f32x4, f32x8, f64x2, f64x4, i16x8, u16x8, u32x8};

use super::{F32Register, Isa, Lanes, Register, Sealed, U32Lanes};

/// The [`Isa`] of the crate `wide`.
#[derive(Clone, Copy)]
pub struct Portable;

impl Isa for Portable {
    type F32 = F32x8;
    type F64 = F64x4;
}

/// Declares a register of `f32` or `f64`. It wraps a type of `wide`, so that no public trait is
/// implemented for a type of `wide`.
macro_rules! registers {
    ($(#[$doc:meta])* $name:ident: $float:ident, $lanes:literal, $wide:ident, $half:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub struct $name($wide);

        registers!(@operator $name, Add, add, $name, |a, b| a.0 + b.0);
        registers!(@operator $name, Sub, sub, $name, |a, b| a.0 - b.0);
        registers!(@operator $name, Mul, mul, $name, |a, b| a.0 * b.0);
        registers!(@operator $name, Div, div, $name, |a, b| a.0 / b.0);
        registers!(@operator $name, Add, add, $float, |a, x| a.0 + $wide::splat(x));
        registers!(@operator $name, Mul, mul, $float, |a, x| a.0 * $wide::splat(x));

        impl Sealed for $name {}

        impl Lanes for $name {
            type Float = $float;

            #[inline(always)]
            fn sqrt(self) -> Self {
                $name(self.0.sqrt())
            }

            #[inline(always)]
            fn abs(self) -> Self {
                $name(self.0.abs())
            }

            #[inline(always)]
            fn fast_max(self, other: Self) -> Self {
                $name(self.0.simd_gt(other.0).select(self.0, other.0))
            }

            #[inline(always)]
            fn rdiv(self, x: $float) -> Self {
                $name($wide::splat(x) / self.0)
            }

            #[inline(always)]
            fn clamp_max(self, x: $float) -> Self {
                let x = $wide::splat(x);
                $name(self.0.simd_gt(x).select(x, self.0))
            }

            #[inline(always)]
            fn clamp_min(self, x: $float) -> Self {
                let x = $wide::splat(x);
                $name(self.0.simd_lt(x).select(x, self.0))
            }

            #[inline(always)]
            fn sign(self) -> Self {
                let below = self.0.simd_lt($wide::ZERO).select(-$wide::ONE, self.0);
                $name(self.0.simd_gt($wide::ZERO).select($wide::ONE, below))
            }
        }

        impl Register for $name {
            type Isa = Portable;
            const LANES: usize = $lanes;

            #[inline(always)]
            fn load(_: Portable, from: &[$float]) -> Self {
                $name(bytemuck::pod_read_unaligned(bytemuck::cast_slice(&from[..Self::LANES])))
            }

            #[inline(always)]
            fn store(self, to: &mut [$float]) {
                to[..Self::LANES].copy_from_slice(self.0.as_array());
            }

            #[inline(always)]
            fn surely_finite(self) -> bool {
                // The sum of the halves needs half as many comparisons.
                let [low, high]: [$half; 2] = bytemuck::cast(self.0);
                let sum = low + high;
                (sum - sum).simd_eq($half::ZERO).all()
            }
        }
    };
    (@operator $name:ident, $Op:ident, $op:ident, $other:ty, |$a:ident, $b:ident| $result:expr) => {
        impl $Op<$other> for $name {
            type Output = Self;

            #[inline(always)]
            fn $op(self, other: $other) -> Self {
                let ($a, $b) = (self, other);
                $name($result)
            }
        }
    };
}

registers!(
    /// Eight lanes of `f32`.
    F32x8: f32, 8, f32x8, f32x4
);

registers!(
    /// Four lanes of `f64`.
    F64x4: f64, 4, f64x4, f64x2
);

/// The bits of an [`F32x8`].
#[derive(Clone, Copy)]
pub struct U32x8(u32x8);

impl F32Register for F32x8 {
    type Bits = U32x8;

    #[inline(always)]
    fn to_bits(self) -> U32x8 {
        U32x8(bytemuck::cast(self.0))
    }

    #[inline(always)]
    fn from_bits(bits: U32x8) -> Self {
        F32x8(bytemuck::cast(bits.0))
    }

    #[inline(always)]
    fn unless_nan(self, bits: U32x8) -> U32x8 {
        U32x8(bytemuck::cast::<_, u32x8>(self.0.simd_ne(self.0)) | bits.0)
    }

    #[inline(always)]
    fn iota(_: Portable) -> U32x8 {
        U32x8(u32x8::new([0, 1, 2, 3, 4, 5, 6, 7]))
    }

    #[inline(always)]
    fn load_lower(_: Portable, from: &[u16]) -> U32x8 {
        let halves: u16x8 =
            bytemuck::pod_read_unaligned(bytemuck::cast_slice(&from[..Self::LANES]));
        U32x8(u32x8::from(halves))
    }

    #[inline(always)]
    fn store_lower(bits: U32x8, to: &mut [u16]) {
        let halves: [u16; 8] = bytemuck::cast(i16x8::from_i32x8_truncate(bytemuck::cast(bits.0)));
        to[..Self::LANES].copy_from_slice(&halves);
    }

    #[inline(always)]
    fn load_u8(_: Portable, from: &[u8]) -> U32x8 {
        let mut words = [0; 8];
        for (word, byte) in words.iter_mut().zip(&from[..Self::LANES]) {
            *word = u32::from(*byte);
        }
        U32x8(u32x8::new(words))
    }

    #[inline(always)]
    fn store_u8(bits: U32x8, to: &mut [u8]) {
        for (byte, word) in to[..Self::LANES].iter_mut().zip(bits.0.to_array()) {
            *byte = word as u8;
        }
    }
}

impl U32Lanes for U32x8 {
    #[inline(always)]
    fn splat(self, x: u32) -> Self {
        U32x8(u32x8::splat(x))
    }

    #[inline(always)]
    fn wrapping_add(self, other: Self) -> Self {
        U32x8(self.0 + other.0)
    }

    #[inline(always)]
    fn and(self, other: Self) -> Self {
        U32x8(self.0 & other.0)
    }

    #[inline(always)]
    fn or(self, other: Self) -> Self {
        U32x8(self.0 | other.0)
    }

    #[inline(always)]
    fn xor(self, other: Self) -> Self {
        U32x8(self.0 ^ other.0)
    }

    #[inline(always)]
    fn shl(self, by: u32) -> Self {
        U32x8(self.0 << by)
    }

    #[inline(always)]
    fn shr(self, by: u32) -> Self {
        U32x8(self.0 >> by)
    }

    #[inline(always)]
    fn wrapping_mul(self, other: Self) -> Self {
        U32x8(self.0 * other.0)
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        U32x8(self.0.max(other.0))
    }

    #[inline(always)]
    fn reduce_max(self) -> u32 {
        self.0.reduce_max()
    }

    #[inline(always)]
    fn select_below(self, limit: u32, then: Self, otherwise: Self) -> Self {
        U32x8(self.0.simd_lt(u32x8::splat(limit)).select(then.0, otherwise.0))
    }
}
