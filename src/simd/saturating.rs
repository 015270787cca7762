//! Saturating arithmetic: one number at a time, where nothing becomes infinite.
//!
//! A step computes an element again in this arithmetic if a state would become infinite or NaN. So
//! a gradient whose square overflows leaves finite states. `kernels.md` says when.

use core::ops::{Add, Div, Mul, Sub};

use super::{Float, Lanes, Sealed};

/// A number that is finite or NaN. An operation whose result would be infinite gives ±MAX.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Saturating<F>(F);

impl<F: Float> Saturating<F> {
    /// An operand. An infinite one becomes NaN, so that it stays visible.
    #[inline(always)]
    pub fn new(x: F) -> Self {
        Saturating(x.if_finite(x))
    }

    /// The number.
    #[inline(always)]
    pub fn get(self) -> F {
        self.0
    }

    /// The result of an operation.
    #[inline(always)]
    fn result(x: F) -> Self {
        Saturating(x.clamp_max(F::MAX).clamp_min(-F::MAX))
    }
}

macro_rules! operators {
    ($($Op:ident: $op:ident),*) => {$(
        impl<F: Float> $Op for Saturating<F> {
            type Output = Self;

            #[inline(always)]
            fn $op(self, other: Self) -> Self {
                Self::result(self.0.$op(other.0))
            }
        }
    )*};
}

operators!(Add: add, Sub: sub, Mul: mul, Div: div);

impl<F: Float> Add<F> for Saturating<F> {
    type Output = Self;

    #[inline(always)]
    fn add(self, x: F) -> Self {
        Self::result(self.0 + x)
    }
}

impl<F: Float> Mul<F> for Saturating<F> {
    type Output = Self;

    #[inline(always)]
    fn mul(self, x: F) -> Self {
        Self::result(self.0 * x)
    }
}

impl<F: Float> Sealed for Saturating<F> {}

impl<F: Float> Lanes for Saturating<F> {
    type Float = F;

    #[inline(always)]
    fn sqrt(self) -> Self {
        Saturating(self.0.sqrt())
    }

    #[inline(always)]
    fn abs(self) -> Self {
        Saturating(self.0.abs())
    }

    #[inline(always)]
    fn fast_max(self, other: Self) -> Self {
        Saturating(self.0.fast_max(other.0))
    }

    #[inline(always)]
    fn rdiv(self, x: F) -> Self {
        Self::result(self.0.rdiv(x))
    }

    #[inline(always)]
    fn clamp_max(self, x: F) -> Self {
        Saturating(self.0.clamp_max(x))
    }

    #[inline(always)]
    fn clamp_min(self, x: F) -> Self {
        Saturating(self.0.clamp_min(x))
    }

    #[inline(always)]
    fn sign(self) -> Self {
        Saturating(self.0.sign())
    }

    /// A gradient whose square is at most MAX, so that averages of both have the right ratio.
    #[inline(always)]
    fn squarable(self) -> Self {
        Saturating(self.0.clamp_max(F::ROOT).clamp_min(-F::ROOT))
    }
}
