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
    pub fn new(x: F) -> Self {
        Saturating(if x.to_f64().is_infinite() { F::from_f64(f64::NAN) } else { x })
    }

    /// The number.
    pub fn get(self) -> F {
        self.0
    }

    /// The result of an operation.
    fn result(x: F) -> Self {
        Saturating(x.clamp_max(F::MAX).clamp_min(-F::MAX))
    }
}

macro_rules! operators {
    ($($Op:ident: $op:ident),*) => {$(
        impl<F: Float> $Op for Saturating<F> {
            type Output = Self;

            fn $op(self, other: Self) -> Self {
                Self::result(self.0.$op(other.0))
            }
        }
    )*};
}

operators!(Add: add, Sub: sub, Mul: mul, Div: div);

impl<F: Float> Add<F> for Saturating<F> {
    type Output = Self;

    fn add(self, x: F) -> Self {
        Self::result(self.0 + x)
    }
}

impl<F: Float> Mul<F> for Saturating<F> {
    type Output = Self;

    fn mul(self, x: F) -> Self {
        Self::result(self.0 * x)
    }
}

impl<F: Float> Sealed for Saturating<F> {}

impl<F: Float> Lanes for Saturating<F> {
    type Float = F;

    fn sqrt(self) -> Self {
        Saturating(self.0.sqrt())
    }

    fn abs(self) -> Self {
        Saturating(self.0.abs())
    }

    fn fast_max(self, other: Self) -> Self {
        Saturating(self.0.fast_max(other.0))
    }

    fn rdiv(self, x: F) -> Self {
        Self::result(self.0.rdiv(x))
    }

    fn clamp_max(self, x: F) -> Self {
        Saturating(self.0.clamp_max(x))
    }

    fn clamp_min(self, x: F) -> Self {
        Saturating(self.0.clamp_min(x))
    }

    fn sign(self) -> Self {
        Saturating(self.0.sign())
    }
}
