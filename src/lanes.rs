//! The arithmetic a rule is written in: the same few operations on one element or on many.
//!
//! A rule is written once, over [`Lanes`], and each backend instantiates it for its own register
//! type. Every operation is one IEEE-754 operation per element with one rounding to nearest-even.
//! There is no fused multiply-add here, on purpose: whether one is fused would decide the bits.

use core::ops::{Add, Div, Mul, Sub};

use crate::Element;

/// Some number of elements that are computed at once.
///
/// `a + b`, `a - b`, `a * b` and `a / b` act lane by lane; `a + x` and `a * x` take one element
/// `x` (a coefficient) for all lanes.
pub trait Lanes:
    Copy
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Add<Self::Element, Output = Self>
    + Mul<Self::Element, Output = Self>
{
    /// What each lane holds.
    type Element: Element;

    /// The correctly rounded square root of each lane: −0 stays −0, below it is NaN.
    fn sqrt(self) -> Self;

    /// In each lane `self` where `self > other`, else `other`: also where they are equal, and
    /// where either is NaN. So a NaN in `other` is kept and one in `self` is dropped.
    fn larger(self, other: Self) -> Self;
}
