//! The arithmetic a rule is written in: the same few operations on one number or on many.
//!
//! A rule is written once, over [`Lanes`], and each backend instantiates it for its own register
//! type. Every operation is one IEEE-754 operation per lane with one rounding to nearest-even, or
//! is exact. There is no fused multiply-add here, on purpose: whether one is fused would decide
//! the bits.

use core::ops::{Add, Div, Mul, Sub};

use crate::Float;

/// Some number of elements that are computed at once.
///
/// `a + b`, `a - b`, `a * b` and `a / b` act lane by lane; `a + x` and `a * x` take one number
/// `x` (a coefficient) for all lanes.
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
