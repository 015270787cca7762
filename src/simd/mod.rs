//! SIMD: what a register can compute, and the instruction sets that have such registers.
//!
//! Everything above this module is written once over these traits, and compiled for each
//! instruction set:
//!
//! - [`Lanes`] is the arithmetic that rules are written in: the same few operations on one number
//!   or on many. [`U32Lanes`] is the same for their bits.
//! - [`Register`] adds loads and stores, [`F32Register`] also those of 16-bit numbers.
//! - [`Isa`] is an instruction set: a token that proves that the CPU has it, with a register type
//!   for each [`Float`].
//!
//! There is one file for each implementation: [`one`] (a single number), [`portable`] (the crate
//! `wide`), [`native`] with `x86` and `aarch64` (the crate `pulp`). [`dispatch`] chooses among them
//! when the program runs.
//!
//! **Inlining.** Every method here is `#[inline(always)]`, and so is every function between
//! [`Engine::vectorize`](dispatch::Engine::vectorize) and a kernel's arithmetic. A function that
//! is not inlined is compiled without the instruction set, and closures passed to it are too.
//! `tests/codegen.rs` looks at the machine code.

#[cfg(target_arch = "aarch64")]
mod aarch64;
pub(crate) mod dispatch;
pub(crate) mod native;
pub(crate) mod one;
pub(crate) mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use core::fmt::Debug;
use core::ops::{Add, Div, Mul, Neg, Sub};

/// A type of real numbers that converts from and to `f64`. The trait is sealed.
pub trait Real: bytemuck::Pod + PartialOrd + Debug + Send + Sync {
    /// The number nearest to `x`, ties to even.
    fn from_f64(x: f64) -> Self;

    /// The same number in `f64`.
    fn to_f64(self) -> f64;
}

/// A number that kernels compute with: `f32` or `f64`.
///
/// It is also [`Lanes`] of one. The trait is sealed, since each instruction set has registers for
/// each of the two.
pub trait Float: Real + Lanes<Float = Self> + Neg<Output = Self> {
    /// Its registers in an instruction set.
    #[doc(hidden)]
    type In<I: Isa>: Register<Float = Self, Isa = I>;
}

/// Some number of elements that are computed at once.
///
/// `a + b`, `a - b`, `a * b` and `a / b` act lane by lane; `a + x` and `a * x` take one number
/// `x` (a coefficient) for all lanes.
///
/// Every operation is one IEEE 754 operation per lane with one rounding to nearest, ties to even,
/// or is exact. There is no fused multiply-add here, on purpose: whether one is fused would decide
/// the bits.
pub trait Lanes:
    Copy
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Add<Self::Float, Output = Self>
    + Mul<Self::Float, Output = Self>
{
    /// What each lane holds.
    type Float: Float;

    /// The correctly rounded square root of each lane: −0 stays −0, below it is NaN.
    fn sqrt(self) -> Self;

    /// Each lane without its sign.
    fn abs(self) -> Self;

    /// In each lane `self` where `self > other`, else `other`: also where they are equal, and
    /// where either is NaN. So a NaN in `other` is kept and one in `self` is dropped.
    fn larger(self, other: Self) -> Self;

    /// `x` over each lane.
    fn under(self, x: Self::Float) -> Self;

    /// In each lane `x` where `self > x`, else `self`: NaN stays.
    fn at_most(self, x: Self::Float) -> Self;

    /// In each lane `x` where `self < x`, else `self`: NaN stays.
    fn at_least(self, x: Self::Float) -> Self;

    /// 1 where a lane is above 0, −1 where it is below, and the lane itself where it is ±0 or NaN.
    fn sign(self) -> Self;
}

/// As many `u32` as a register of `f32` has lanes: for arithmetic on the bits of numbers.
///
/// Conversions from and to 16 bits and the random bits of stochastic rounding are written once over
/// this trait, as rules are over [`Lanes`].
pub trait U32Lanes: Copy {
    /// `x` in every lane.
    fn splat(self, x: u32) -> Self;

    /// The sum, modulo 2^32.
    fn plus(self, other: Self) -> Self;

    /// Bits that are set in both.
    fn and(self, other: Self) -> Self;

    /// Bits that are set in either.
    fn or(self, other: Self) -> Self;

    /// Bits that are set in one.
    fn xor(self, other: Self) -> Self;

    /// Shifts towards the high bits, by less than 32.
    fn left(self, by: u32) -> Self;

    /// Shifts towards the low bits, by less than 32, and fills up with zeros.
    fn right(self, by: u32) -> Self;

    /// `then` where a lane is less than `limit`, both without sign, else `otherwise`.
    fn if_below(self, limit: u32, then: Self, otherwise: Self) -> Self;

    /// Rotates towards the high bits, by 1 to 31.
    #[inline(always)]
    fn rotate(self, by: u32) -> Self {
        self.left(by).or(self.right(32 - by))
    }

    /// The upper half, rounded by the lower one to nearest, ties to even; below it is anything.
    #[inline(always)]
    fn nearest_upper(self) -> Self {
        self.plus_all(0x7FFF).plus(self.right(16).masked(1))
    }

    /// Adds `x` to every lane, modulo 2^32.
    #[inline(always)]
    fn plus_all(self, x: u32) -> Self {
        self.plus(self.splat(x))
    }

    /// Keeps the bits that are set in `x`.
    #[inline(always)]
    fn masked(self, x: u32) -> Self {
        self.and(self.splat(x))
    }
}

/// [`Lanes`] that are loaded from a slice and stored to one.
pub trait Register: Lanes {
    /// The instruction set that it belongs to.
    type Isa: Isa;

    /// The number of lanes.
    const LANES: usize;

    /// The first `LANES` numbers of `from`.
    fn load(isa: Self::Isa, from: &[Self::Float]) -> Self;

    /// Writes the lanes to the first `LANES` numbers of `to`.
    fn store(self, to: &mut [Self::Float]);
}

/// A register of `f32` that can also be taken as bits, and be loaded from and stored to 16-bit
/// numbers.
///
/// A 16-bit number is in the lower or in the upper half of its lane: `bf16` is the upper half of an
/// `f32`.
pub trait F32Register: Register<Float = f32> {
    /// The bits of its lanes.
    type Bits: U32Lanes;

    /// The bits of each lane.
    fn to_bits(self) -> Self::Bits;

    /// The lanes that have these bits.
    fn from_bits(bits: Self::Bits) -> Self;

    /// `bits` where a lane is a number, and all bits set where it is NaN.
    fn unless_nan(self, bits: Self::Bits) -> Self::Bits;

    /// The numbers of the lanes: 0, 1, 2, …
    fn iota(isa: Self::Isa) -> Self::Bits;

    /// The first `LANES` of `from` in the lower halves, zeros in the upper ones.
    fn load_lower(isa: Self::Isa, from: &[u16]) -> Self::Bits;

    /// Writes the lower halves to the first `LANES` of `to`; the upper ones are zero.
    fn store_lower(bits: Self::Bits, to: &mut [u16]);

    /// The first `LANES` of `from` in the upper halves, zeros in the lower ones.
    #[inline(always)]
    fn load_upper(isa: Self::Isa, from: &[u16]) -> Self::Bits {
        Self::load_lower(isa, from).left(16)
    }

    /// Writes the upper halves to the first `LANES` of `to`.
    #[inline(always)]
    fn store_upper(bits: Self::Bits, to: &mut [u16]) {
        Self::store_lower(bits.right(16), to);
    }

    /// [`load_upper`](Self::load_upper) in another order of lanes, if that is cheaper.
    #[inline(always)]
    fn load_upper_unordered(isa: Self::Isa, from: &[u16]) -> Self::Bits {
        Self::load_upper(isa, from)
    }

    /// Rounds to the nearest upper halves and stores them, from the order of
    /// [`load_upper_unordered`](Self::load_upper_unordered). The lower half of any NaN is zero: so
    /// it is where arithmetic makes a NaN of numbers, and where it comes from a `bf16`.
    #[inline(always)]
    fn store_nearest_unordered(bits: Self::Bits, to: &mut [u16]) {
        Self::store_upper(bits.nearest_upper(), to);
    }
}

/// An instruction set, with a number of its registers that are computed together: a token that
/// proves that the CPU has it.
pub trait Isa: Copy {
    /// Its registers of `f32`.
    type F32: F32Register<Isa = Self>;

    /// Its registers of `f64`.
    type F64: Register<Float = f64, Isa = Self>;

    /// Asks for `len` elements of `buffer` from number `start` on to be brought from memory to the
    /// first cache, if there are so many and where that pays.
    #[inline(always)]
    fn prefetch<E>(buffer: &[E], start: usize, len: usize) {
        let _ = (buffer, start, len);
    }
}
