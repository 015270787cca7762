//! The element axis: what a buffer stores, and what is computed with.
//!
//! A buffer stores `f32`, `f64`, `bf16` or `f16`. Kernels compute in [`Float`]s, `f32` or `f64`: a
//! 16-bit number becomes an `f32` when it is loaded and is rounded when it is stored, in the same
//! pass. How, is said in one file for each 16-bit type, once over [`words::Words`], for all
//! registers; [`rounding`] has the random bits of stochastic rounding.

pub(crate) mod bf16;
pub(crate) mod f16;
mod float;
pub(crate) mod rounding;
pub(crate) mod words;

use core::ops::Neg;

use crate::backend::columns::{AnySlice, AnySliceMut, Column, ColumnMut};
use crate::types::Parameter;
use crate::{Lanes, backend};

/// A number that kernels compute with: `f32` or `f64`.
///
/// The trait is sealed, since each backend has register types for each of them.
pub trait Float:
    Element<Float = Self>
    + Neg<Output = Self>
    + backend::wide::WideFloat
    + backend::native::NativeFloat
    + Lanes<Float = Self>
{
}

/// A number that buffers hold: `f32`, `f64`, [`bf16`](half::bf16) or [`f16`](half::f16).
///
/// The trait is sealed.
pub trait Element:
    bytemuck::Pod
    + Send
    + Sync
    + PartialOrd
    + core::fmt::Debug
    + Parameter<Self, Self>
    + storage::AnyStorage
{
    /// What is computed with: `f64` for `f64`, else `f32`.
    type Float: Float;

    /// The name of the type.
    const NAME: &'static str;

    /// The element nearest to `x`, ties to even.
    fn from_f64(x: f64) -> Self;

    /// The same number in `f64`.
    fn to_f64(self) -> f64;

    /// The element nearest to `x`, ties to even.
    fn from_float(x: Self::Float) -> Self;

    /// The same number, to compute with.
    fn to_float(self) -> Self::Float;
}

/// An element that is computed with in `f32`: `f32`, [`bf16`](half::bf16) or [`f16`](half::f16).
///
/// The trait is sealed. Buffers of these types may be mixed in one step.
pub trait Single: Element<Float = f32> + storage::Storage {}

/// A 16-bit element: [`bf16`](half::bf16) or [`f16`](half::f16).
///
/// The trait is sealed.
pub trait Half: Single {}

pub(crate) mod storage {
    use super::{AnySlice, AnySliceMut, Column, ColumnMut};

    /// A buffer of any element type, which is known at run time only.
    pub trait AnyStorage: Sized {
        fn any(buffer: &[Self]) -> AnySlice<'_>;
        fn any_mut(buffer: &mut [Self]) -> AnySliceMut<'_>;
        /// The slice, if it is of this type.
        fn of(any: AnySlice<'_>) -> Option<&[Self]>;
        fn of_mut(any: AnySliceMut<'_>) -> Option<&mut [Self]>;
    }

    impl AnyStorage for f64 {
        fn any(buffer: &[Self]) -> AnySlice<'_> {
            AnySlice::Double(buffer)
        }
        fn any_mut(buffer: &mut [Self]) -> AnySliceMut<'_> {
            AnySliceMut::Double(buffer)
        }
        fn of(any: AnySlice<'_>) -> Option<&[Self]> {
            if let AnySlice::Double(buffer) = any { Some(buffer) } else { None }
        }
        fn of_mut(any: AnySliceMut<'_>) -> Option<&mut [Self]> {
            if let AnySliceMut::Double(buffer) = any { Some(buffer) } else { None }
        }
    }

    /// A buffer of `f32`, `bf16` or `f16`, which is known at run time only.
    pub trait Storage: Sized {
        fn column(buffer: &[Self]) -> Column<'_>;
        fn column_mut(buffer: &mut [Self]) -> ColumnMut<'_>;
        fn of_column(column: Column<'_>) -> Option<&[Self]>;
        fn of_column_mut(column: ColumnMut<'_>) -> Option<&mut [Self]>;
    }

    impl<E: Storage> AnyStorage for E {
        fn any(buffer: &[Self]) -> AnySlice<'_> {
            AnySlice::Single(E::column(buffer))
        }
        fn any_mut(buffer: &mut [Self]) -> AnySliceMut<'_> {
            AnySliceMut::Single(E::column_mut(buffer))
        }
        fn of(any: AnySlice<'_>) -> Option<&[Self]> {
            if let AnySlice::Single(column) = any { E::of_column(column) } else { None }
        }
        fn of_mut(any: AnySliceMut<'_>) -> Option<&mut [Self]> {
            if let AnySliceMut::Single(column) = any { E::of_column_mut(column) } else { None }
        }
    }
}

/// `x` in `f32`; if that is not exact, the neighbour whose last bit is set. Rounding that to a type
/// with fewer bits gives what rounding `x` itself does.
fn to_odd(x: f64) -> f32 {
    let nearest = x as f32;
    let back = f64::from(nearest);
    if back == x || x.is_nan() {
        return nearest;
    }
    let bits = nearest.to_bits();
    f32::from_bits((if back.abs() > x.abs() { bits - 1 } else { bits }) | 1)
}
