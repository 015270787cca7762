//! The element axis: what a buffer stores, and what is computed with.
//!
//! A buffer stores `f32`, `f64`, `bf16` or `f16`. Kernels compute in [`Float`]s, `f32` or `f64`: a
//! 16-bit number becomes an `f32` when it is loaded and is rounded when it is stored, in the same
//! pass. Each type is one file, written once over [`simd`](crate::simd) for all registers.
//! [`rounding`] has the random bits of stochastic rounding, [`convert`] whole slices, [`column`]
//! slices whose type is known when the program runs.

pub(crate) mod bf16;
pub(crate) mod column;
pub(crate) mod convert;
pub(crate) mod f16;
mod float;
pub(crate) mod rounding;
pub(crate) mod rows;

use crate::simd::{Float, Isa, Real};
use column::{Column, ColumnMut, DType};

/// A number that buffers hold: `f32`, `f64`, [`bf16`](half::bf16) or [`f16`](half::f16).
///
/// Types go together in one step if they are computed with in the same [`Float`](Self::Float):
/// `f64` with `f64` alone, and `f32`, `bf16` and `f16` in any mixture. The trait is sealed.
pub trait Element: Real {
    /// What is computed with: `f64` for `f64`, else `f32`.
    type Float: Float + Element<Float = Self::Float>;

    /// The name of the type.
    const NAME: &'static str;

    /// The type, to be compared when the program runs.
    #[doc(hidden)]
    const DTYPE: DType;

    /// The element nearest to `x`, ties to even.
    fn from_float(x: Self::Float) -> Self;

    /// The same number, to compute with.
    fn to_float(self) -> Self::Float;

    /// Loads the first elements of `from`, as many as a register has lanes.
    #[doc(hidden)]
    fn load<I: Isa>(isa: I, from: &[Self]) -> RegisterOf<Self, I>;

    /// Stores the lanes, rounded to nearest, in the first elements of `to`.
    #[doc(hidden)]
    fn store<I: Isa>(lanes: RegisterOf<Self, I>, to: &mut [Self]);

    /// Loads the same elements in whichever order of lanes is cheapest: for a step in which all
    /// buffers are of this type, and so in the same order.
    #[doc(hidden)]
    #[inline(always)]
    fn load_unordered<I: Isa>(isa: I, from: &[Self]) -> RegisterOf<Self, I> {
        Self::load(isa, from)
    }

    /// Stores lanes that are in the order of `load_unordered` and come from elements of this type
    /// alone.
    #[doc(hidden)]
    #[inline(always)]
    fn store_unordered<I: Isa>(lanes: RegisterOf<Self, I>, to: &mut [Self]) {
        Self::store::<I>(lanes, to);
    }

    /// A slice whose type is known when the program runs.
    #[doc(hidden)]
    fn column(slice: &[Self]) -> Column<'_>;

    #[doc(hidden)]
    fn column_mut(slice: &mut [Self]) -> ColumnMut<'_>;

    /// The slice, if it is of this type.
    #[doc(hidden)]
    fn of(column: Column<'_>) -> Option<&[Self]>;

    #[doc(hidden)]
    fn of_mut(column: ColumnMut<'_>) -> Option<&mut [Self]>;
}

/// The register that elements `E` are computed in, in the instruction set `I`.
pub type RegisterOf<E, I> = <<E as Element>::Float as Float>::In<I>;

/// A 16-bit element: [`bf16`](half::bf16) or [`f16`](half::f16). The trait is sealed.
pub trait Half: Element<Float = f32> {}

/// Implements what is the same for each element type: its place among the columns.
macro_rules! columns {
    ($variant:ident) => {
        const DTYPE: $crate::elements::column::DType = $crate::elements::column::DType::$variant;

        #[inline(always)]
        fn column(slice: &[Self]) -> $crate::elements::column::Column<'_> {
            $crate::elements::column::Column::$variant(slice)
        }
        #[inline(always)]
        fn column_mut(slice: &mut [Self]) -> $crate::elements::column::ColumnMut<'_> {
            $crate::elements::column::ColumnMut::$variant(slice)
        }
        #[inline(always)]
        fn of(column: $crate::elements::column::Column<'_>) -> Option<&[Self]> {
            match column {
                $crate::elements::column::Column::$variant(slice) => Some(slice),
                _ => None,
            }
        }
        #[inline(always)]
        fn of_mut(column: $crate::elements::column::ColumnMut<'_>) -> Option<&mut [Self]> {
            match column {
                $crate::elements::column::ColumnMut::$variant(slice) => Some(slice),
                _ => None,
            }
        }
    };
}
pub(crate) use columns;

/// `x` in `f32`; if that is not exact, the neighbour whose last bit is set. Rounding that to a type
/// with fewer bits gives what rounding `x` itself does.
pub(crate) fn to_odd(x: f64) -> f32 {
    let nearest = x as f32;
    let back = f64::from(nearest);
    if back == x || x.is_nan() {
        return nearest;
    }
    let bits = nearest.to_bits();
    f32::from_bits((if back.abs() > x.abs() { bits - 1 } else { bits }) | 1)
}
