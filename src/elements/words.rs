//! Integer lanes: the bits of `f32` lanes, for arithmetic on representations.
//!
//! Conversions from and to 16 bits and the random bits of stochastic rounding are written once,
//! over [`Words`], as rules are over [`Lanes`].

use crate::Lanes;

/// As many `u32` as a register of `f32` has lanes.
pub trait Words: Copy {
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

    /// Towards the high bits, by less than 32.
    fn left(self, by: u32) -> Self;

    /// Towards the low bits, by less than 32, filled up with zeros.
    fn right(self, by: u32) -> Self;

    /// `then` where a lane is less than `limit`, both without sign, else `otherwise`.
    fn if_below(self, limit: u32, then: Self, otherwise: Self) -> Self;

    /// Towards the high bits and in again at the low ones, by 1 to 31.
    #[inline(always)]
    fn rotate(self, by: u32) -> Self {
        self.left(by).or(self.right(32 - by))
    }

    /// The upper half, rounded by the lower one to the nearest, ties to even; below it is anything.
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

/// `f32` lanes that can be taken apart.
pub trait Representation: Lanes<Float = f32> {
    /// Their bits.
    type Words: Words;

    /// The bits of each lane.
    fn to_words(self) -> Self::Words;

    /// The lanes of these bits.
    fn from_words(words: Self::Words) -> Self;

    /// `words` where a lane is a number, and all bits set where it is NaN.
    fn unless_nan(self, words: Self::Words) -> Self::Words;
}

impl Words for u32 {
    #[inline(always)]
    fn splat(self, x: u32) -> Self {
        x
    }
    #[inline(always)]
    fn plus(self, other: Self) -> Self {
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
    fn left(self, by: u32) -> Self {
        self << by
    }
    #[inline(always)]
    fn right(self, by: u32) -> Self {
        self >> by
    }
    #[inline(always)]
    fn if_below(self, limit: u32, then: Self, otherwise: Self) -> Self {
        if self < limit { then } else { otherwise }
    }
}

impl Representation for f32 {
    type Words = u32;

    #[inline(always)]
    fn to_words(self) -> u32 {
        self.to_bits()
    }

    #[inline(always)]
    fn from_words(words: u32) -> Self {
        f32::from_bits(words)
    }

    #[inline(always)]
    fn unless_nan(self, words: u32) -> u32 {
        if self.is_nan() { !0 } else { words }
    }
}
