//! The element axis: what a buffer stores, here `f32` or `f64`.
//!
//! Both compute in their own precision. All that differs between them is said here and in the
//! register types of the backends.

use core::ops::Neg;

use crate::{Lanes, backend};

/// A number that buffers hold and kernels compute with: `f32` or `f64`.
///
/// The trait is sealed, since each backend has register types for each element.
pub trait Element:
    bytemuck::Pod
    + Send
    + Sync
    + PartialOrd
    + core::fmt::Debug
    + Neg<Output = Self>
    + backend::wide::WideElement
    + backend::native::NativeElement
    + Lanes<Element = Self>
{
    /// The name of the type.
    const NAME: &'static str;
    /// +0.
    const ZERO: Self;

    /// The element nearest to `x`, ties to even; the one rounding of a coefficient.
    fn from_f64(x: f64) -> Self;

    /// The same number in `f64`.
    fn to_f64(self) -> f64;
}

impl Element for f32 {
    const NAME: &'static str = "f32";
    const ZERO: Self = 0.0;

    fn from_f64(x: f64) -> Self {
        x as f32
    }

    fn to_f64(self) -> f64 {
        f64::from(self)
    }
}

impl Lanes for f32 {
    type Element = f32;

    #[inline(always)]
    fn sqrt(self) -> Self {
        f32::sqrt(self)
    }

    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        if self > other { self } else { other }
    }
}

impl Element for f64 {
    const NAME: &'static str = "f64";
    const ZERO: Self = 0.0;

    fn from_f64(x: f64) -> Self {
        x
    }

    fn to_f64(self) -> f64 {
        self
    }
}

impl Lanes for f64 {
    type Element = f64;

    #[inline(always)]
    fn sqrt(self) -> Self {
        f64::sqrt(self)
    }

    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        if self > other { self } else { other }
    }
}
