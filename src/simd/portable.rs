//! Portable SIMD on the crate `wide`: the same code on every target, with the instructions that
//! the *build* enables. Registers are 256 bits in name; a plain build for x86-64 computes each as
//! two of 128.

use wide::{f32x8, f64x4, i16x8, u16x8, u32x8};

use super::{F32Register, Isa, Lanes, Register, U32Lanes};

/// The registers of the crate `wide`.
#[derive(Clone, Copy)]
pub struct Portable;

impl Isa for Portable {
    type F32 = f32x8;
    type F64 = f64x4;
}

impl Lanes for f32x8 {
    type Float = f32;

    #[inline(always)]
    fn sqrt(self) -> Self {
        f32x8::sqrt(self)
    }

    #[inline(always)]
    fn abs(self) -> Self {
        f32x8::abs(self)
    }

    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        self.simd_gt(other).select(self, other)
    }

    #[inline(always)]
    fn under(self, x: f32) -> Self {
        f32x8::splat(x) / self
    }

    #[inline(always)]
    fn at_most(self, x: f32) -> Self {
        let x = f32x8::splat(x);
        self.simd_gt(x).select(x, self)
    }

    #[inline(always)]
    fn at_least(self, x: f32) -> Self {
        let x = f32x8::splat(x);
        self.simd_lt(x).select(x, self)
    }

    #[inline(always)]
    fn sign(self) -> Self {
        let below = self.simd_lt(f32x8::ZERO).select(-f32x8::ONE, self);
        self.simd_gt(f32x8::ZERO).select(f32x8::ONE, below)
    }
}

impl Register for f32x8 {
    type Isa = Portable;
    const LANES: usize = 8;

    #[inline(always)]
    fn load(_: Portable, from: &[f32]) -> Self {
        bytemuck::pod_read_unaligned(bytemuck::cast_slice(&from[..Self::LANES]))
    }

    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        to[..Self::LANES].copy_from_slice(self.as_array());
    }
}

impl F32Register for f32x8 {
    type Bits = u32x8;

    #[inline(always)]
    fn to_bits(self) -> u32x8 {
        bytemuck::cast(self)
    }

    #[inline(always)]
    fn from_bits(bits: u32x8) -> Self {
        bytemuck::cast(bits)
    }

    #[inline(always)]
    fn unless_nan(self, bits: u32x8) -> u32x8 {
        bytemuck::cast::<_, u32x8>(self.simd_ne(self)) | bits
    }

    #[inline(always)]
    fn iota(_: Portable) -> u32x8 {
        u32x8::new([0, 1, 2, 3, 4, 5, 6, 7])
    }

    #[inline(always)]
    fn load_lower(_: Portable, from: &[u16]) -> u32x8 {
        let halves: u16x8 =
            bytemuck::pod_read_unaligned(bytemuck::cast_slice(&from[..Self::LANES]));
        u32x8::from(halves)
    }

    #[inline(always)]
    fn store_lower(bits: u32x8, to: &mut [u16]) {
        let halves: [u16; 8] = bytemuck::cast(i16x8::from_i32x8_truncate(bytemuck::cast(bits)));
        to[..Self::LANES].copy_from_slice(&halves);
    }
}

impl U32Lanes for u32x8 {
    #[inline(always)]
    fn splat(self, x: u32) -> Self {
        u32x8::splat(x)
    }
    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        self + other
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
    fn left(self, by: u32) -> Self {
        self << by
    }
    #[inline(always)]
    fn right(self, by: u32) -> Self {
        self >> by
    }
    #[inline(always)]
    fn if_below(self, limit: u32, then: Self, otherwise: Self) -> Self {
        self.simd_lt(u32x8::splat(limit)).select(then, otherwise)
    }
}

impl Lanes for f64x4 {
    type Float = f64;

    #[inline(always)]
    fn sqrt(self) -> Self {
        f64x4::sqrt(self)
    }

    #[inline(always)]
    fn abs(self) -> Self {
        f64x4::abs(self)
    }

    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        self.simd_gt(other).select(self, other)
    }

    #[inline(always)]
    fn under(self, x: f64) -> Self {
        f64x4::splat(x) / self
    }

    #[inline(always)]
    fn at_most(self, x: f64) -> Self {
        let x = f64x4::splat(x);
        self.simd_gt(x).select(x, self)
    }

    #[inline(always)]
    fn at_least(self, x: f64) -> Self {
        let x = f64x4::splat(x);
        self.simd_lt(x).select(x, self)
    }

    #[inline(always)]
    fn sign(self) -> Self {
        let below = self.simd_lt(f64x4::ZERO).select(-f64x4::ONE, self);
        self.simd_gt(f64x4::ZERO).select(f64x4::ONE, below)
    }
}

impl Register for f64x4 {
    type Isa = Portable;
    const LANES: usize = 4;

    #[inline(always)]
    fn load(_: Portable, from: &[f64]) -> Self {
        bytemuck::pod_read_unaligned(bytemuck::cast_slice(&from[..Self::LANES]))
    }

    #[inline(always)]
    fn store(self, to: &mut [f64]) {
        to[..Self::LANES].copy_from_slice(self.as_array());
    }
}
