//! SIMD: registers, their arithmetic, and the instruction sets that have them.
//!
//! All code above this module is written once over these traits, and compiled for each instruction
//! set:
//!
//! - [`Lanes`] is the arithmetic that rules are written in: the same few operations on one number
//!   or on several. [`U32Lanes`] is the same for the bits of the numbers.
//! - [`Register`] adds loads and stores. [`F32Register`] adds loads and stores of 16-bit numbers.
//! - [`Isa`] is an instruction set: a token that proves that the CPU has it, with a register type
//!   for each [`Float`].
//!
//! There is one file for each implementation: [`one`] (a single number), [`saturating`] (a single
//! number that cannot become infinite), [`portable`] (the crate `wide`), and [`native`] with `x86`
//! and `aarch64` (the crate `pulp`). [`dispatch`] selects one of them at run time.
//!
//! **Inlining.** Every method here is `#[inline(always)]`, and so is every function between
//! [`Engine::vectorize`](dispatch::Engine::vectorize) and a kernel's arithmetic. A function that is
//! not inlined is compiled without the instruction set, and so are closures that are passed to it.
//! `tests/codegen.rs` checks the machine code.

#[cfg(target_arch = "aarch64")]
mod aarch64;
pub(crate) mod dispatch;
pub(crate) mod native;
pub(crate) mod one;
pub(crate) mod portable;
pub(crate) mod saturating;
#[cfg(target_arch = "x86_64")]
mod x86;

use core::fmt::Debug;
use core::ops::{Add, Div, Mul, Neg, Sub};

/// Seals public traits. It cannot be named outside of the crate, so a trait that requires it cannot
/// be implemented there.
pub trait Sealed {}

/// A floating-point type that converts from and to `f64`: `f32`, `f64`, [`bf16`](half::bf16) or
/// [`f16`](half::f16). The trait is sealed.
pub trait Real: Sealed + bytemuck::Pod + PartialOrd + Debug + Send + Sync {
    /// Rounds `x` to the nearest number of this type, ties to even.
    fn from_f64(x: f64) -> Self;

    /// Converts to `f64`. Exact.
    fn to_f64(self) -> f64;

    /// The largest finite number of this type.
    const MAX: Self;

    /// The same as [`from_f64`](Self::from_f64), but at most ±[`MAX`](Self::MAX). NaN stays NaN.
    fn saturating_from_f64(x: f64) -> Self {
        let most = Self::MAX.to_f64();
        Self::from_f64(x.clamp(-most, most))
    }
}

/// A type that kernels compute with: `f32` or `f64`.
///
/// A number of this type is also [`Lanes`] with one lane. The trait is sealed, since every
/// instruction set needs registers for each `Float`.
pub trait Float: Real + Lanes<Float = Self> + Neg<Output = Self> {
    /// The largest number whose square is finite.
    #[doc(hidden)]
    const ROOT: Self;

    /// The registers of this type in the instruction set `I`.
    #[doc(hidden)]
    type In<I: Isa>: Register<Float = Self, Isa = I>;

    /// A register of `f32` as one of this type. Only `f32` has such registers.
    #[doc(hidden)]
    fn from_singles<I: Isa>(lanes: I::F32) -> Self::In<I>;

    /// The opposite of [`from_singles`](Self::from_singles).
    #[doc(hidden)]
    fn to_singles<I: Isa>(lanes: Self::In<I>) -> I::F32;
}

/// One or more elements that are computed at once, one in each lane.
///
/// `a + b`, `a - b`, `a * b` and `a / b` act lane by lane. `a + x` and `a * x` take one number `x`,
/// such as a coefficient, for all lanes.
///
/// Every operation is exact, or is one IEEE 754 operation per lane, rounded once to nearest, ties
/// to even. There is no fused multiply-add: whether one is fused would change the bits. The trait
/// is sealed.
pub trait Lanes:
    Sealed
    + Copy
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Add<Self::Float, Output = Self>
    + Mul<Self::Float, Output = Self>
{
    /// The type of each lane.
    type Float: Float;

    /// The square root of each lane, correctly rounded. −0 gives −0, and numbers below 0 give NaN.
    fn sqrt(self) -> Self;

    /// The absolute value of each lane.
    fn abs(self) -> Self;

    /// The larger of `self` and `other` in each lane: `self` where `self > other`, else `other`.
    ///
    /// So it returns `other` where they are equal, and where either is NaN: a NaN in `other` is
    /// kept, and a NaN in `self` is dropped.
    fn fast_max(self, other: Self) -> Self;

    /// The reversed division: `x / self` in each lane.
    fn rdiv(self, x: Self::Float) -> Self;

    /// Clamps each lane to at most `x`: `x` where `self > x`, else `self`. NaN stays NaN.
    fn clamp_max(self, x: Self::Float) -> Self;

    /// Clamps each lane to at least `x`: `x` where `self < x`, else `self`. NaN stays NaN.
    fn clamp_min(self, x: Self::Float) -> Self;

    /// The sign of each lane: 1 above 0, −1 below 0, and the lane itself where it is ±0 or NaN.
    fn sign(self) -> Self;

    /// In saturating arithmetic, clamps each lane to ±[`ROOT`](Float::ROOT). Elsewhere it returns
    /// the lanes as they are.
    #[doc(hidden)]
    #[inline(always)]
    fn squarable(self) -> Self {
        self
    }

    /// NaN where `other` is infinite or NaN, else the lane itself: `self − (other − other)`.
    #[inline(always)]
    #[expect(clippy::eq_op, reason = "the difference is 0 or NaN")]
    fn if_finite(self, other: Self) -> Self {
        self - (other - other)
    }
}

/// As many `u32` as a register of `f32` has lanes, for arithmetic on the bits of numbers.
///
/// The conversions from and to 16 bits, and the random bits of stochastic rounding, are written
/// once over this trait, as rules are over [`Lanes`].
pub trait U32Lanes: Copy {
    /// `x` in every lane.
    fn splat(self, x: u32) -> Self;

    /// The sum in each lane, modulo 2^32.
    fn wrapping_add(self, other: Self) -> Self;

    /// Bitwise and.
    fn and(self, other: Self) -> Self;

    /// Bitwise or.
    fn or(self, other: Self) -> Self;

    /// Bitwise exclusive or.
    fn xor(self, other: Self) -> Self;

    /// Shifts each lane left by `by` < 32 bits.
    fn shl(self, by: u32) -> Self;

    /// Shifts each lane right by `by` < 32 bits, and fills up with zeros.
    fn shr(self, by: u32) -> Self;

    /// The product in each lane, modulo 2^32.
    fn wrapping_mul(self, other: Self) -> Self;

    /// The larger one in each lane. The comparison is unsigned.
    fn max(self, other: Self) -> Self;

    /// The largest lane. The comparison is unsigned.
    fn reduce_max(self) -> u32;

    /// `then` where a lane is less than `limit`, else `otherwise`. The comparison is unsigned.
    fn select_below(self, limit: u32, then: Self, otherwise: Self) -> Self;

    /// Rotates each lane left by 1 to 31 bits.
    #[inline(always)]
    fn rotate_left(self, by: u32) -> Self {
        self.shl(by).or(self.shr(32 - by))
    }

    /// Rounds each lane to its upper half, to nearest, ties to even. The lower half of the result
    /// is unspecified.
    #[inline(always)]
    fn round_upper(self) -> Self {
        self.wrapping_add_scalar(0x7FFF).wrapping_add(self.shr(16).and_scalar(1))
    }

    /// Adds `x` to every lane, modulo 2^32.
    #[inline(always)]
    fn wrapping_add_scalar(self, x: u32) -> Self {
        self.wrapping_add(self.splat(x))
    }

    /// Keeps the bits that are set in `x`.
    #[inline(always)]
    fn and_scalar(self, x: u32) -> Self {
        self.and(self.splat(x))
    }
}

/// [`Lanes`] that can be loaded from a slice and stored to a slice.
pub trait Register: Lanes {
    /// The instruction set that the register belongs to.
    type Isa: Isa;

    /// The number of lanes.
    const LANES: usize;

    /// Loads the first `LANES` numbers of `from`.
    fn load(isa: Self::Isa, from: &[Self::Float]) -> Self;

    /// Stores the lanes in the first `LANES` numbers of `to`.
    fn store(self, to: &mut [Self::Float]);

    /// True only if every lane is finite. It may be false if lanes are so large that the sum of
    /// some of them overflows.
    fn surely_finite(self) -> bool;
}

/// A register of `f32` that can be converted to bits, and that can load and store 8-bit and 16-bit
/// numbers.
///
/// A 16-bit number is in the lower or in the upper half of its lane. A `bf16` is the upper half of
/// an `f32`.
pub trait F32Register: Register<Float = f32> {
    /// A register of the lanes' bits.
    type Bits: U32Lanes;

    /// The bits of each lane.
    fn to_bits(self) -> Self::Bits;

    /// The lanes that have these bits.
    fn from_bits(bits: Self::Bits) -> Self;

    /// `bits` where a lane is a number, and all bits set where it is NaN.
    fn unless_nan(self, bits: Self::Bits) -> Self::Bits;

    /// The indices of the lanes: 0, 1, 2, …
    fn iota(isa: Self::Isa) -> Self::Bits;

    /// Loads the first `LANES` of `from` to the lower halves of the lanes. The upper halves are 0.
    fn load_lower(isa: Self::Isa, from: &[u16]) -> Self::Bits;

    /// Stores the lower halves in the first `LANES` of `to`. The upper halves must be 0.
    fn store_lower(bits: Self::Bits, to: &mut [u16]);

    /// Loads the first `LANES` of `from` to the upper halves of the lanes. The lower halves are 0.
    #[inline(always)]
    fn load_upper(isa: Self::Isa, from: &[u16]) -> Self::Bits {
        Self::load_lower(isa, from).shl(16)
    }

    /// Stores the upper halves in the first `LANES` of `to`.
    #[inline(always)]
    fn store_upper(bits: Self::Bits, to: &mut [u16]) {
        Self::store_lower(bits.shr(16), to);
    }

    /// Loads the first `LANES` of `from` to the lanes.
    fn load_u8(isa: Self::Isa, from: &[u8]) -> Self::Bits;

    /// Stores the lowest 8 bits of each lane in the first `LANES` of `to`. No lane may be above
    /// 65535.
    fn store_u8(bits: Self::Bits, to: &mut [u8]);

    /// Stores the lowest 7 bits of each lane, and as the 8th bit the sign of `signs`, in the first
    /// `LANES` of `to`. The 8th bit of each lane must be 0, and no lane may be above 65535.
    #[inline(always)]
    fn store_signed_u8(bits: Self::Bits, signs: Self, to: &mut [u8]) {
        Self::store_u8(bits.or(signs.to_bits().shr(24).and_scalar(0x80)), to);
    }

    /// The same as [`load_upper`](Self::load_upper), but may use another order of lanes if that is
    /// cheaper.
    #[inline(always)]
    fn load_upper_unordered(isa: Self::Isa, from: &[u16]) -> Self::Bits {
        Self::load_upper(isa, from)
    }

    /// Rounds the lanes to their upper halves, to nearest, and stores them, in the order of
    /// [`load_upper_unordered`](Self::load_upper_unordered). The lower half of any NaN must be 0.
    /// This holds if arithmetic on numbers made the NaN, and if it comes from a `bf16`. On CPUs
    /// whose NaNs are not those of IEEE 754-2008 (SPARC, older MIPS) the first does not hold.
    #[inline(always)]
    fn store_round_unordered(bits: Self::Bits, to: &mut [u16]) {
        Self::store_upper(bits.round_upper(), to);
    }
}

/// An instruction set, and the number of its registers that are computed together. The value is a
/// token that proves that the CPU has the instruction set.
pub trait Isa: Copy {
    /// The registers of `f32`.
    type F32: F32Register<Isa = Self>;

    /// The registers of `f64`.
    type F64: Register<Float = f64, Isa = Self>;

    /// Prefetches `len` elements of `buffer`, from index `start` on, to the L1 cache. Does nothing
    /// if the buffer is shorter, or where prefetching does not pay.
    #[inline(always)]
    fn prefetch<E: bytemuck::NoUninit>(buffer: &[E], start: usize, len: usize) {
        let _ = (buffer, start, len);
    }
}
