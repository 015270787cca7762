//! Element types: what a buffer stores, and what a kernel computes with.
//!
//! A buffer stores `f32`, `f64`, `bf16` or `f16`. Kernels compute in a [`Float`], which is `f32` or
//! `f64`. A 16-bit number is widened to `f32` when it is loaded, and rounded when it is stored, in
//! the same pass. Each type has one file, written once over [`simd`](crate::simd) for all
//! registers.
//!
//! States are also stored in 8 bits, in blocks of 32 elements with a scale. They are decoded before
//! the arithmetic and encoded after it, in the same pass.
//!
//! - [`rounding`]: rounding to 16 bits, and the random bits of stochastic rounding.
//! - [`block8`] and [`codec`]: states in 8 bits.
//! - [`split`]: `f32` master weights, split in `bf16` and a correction.
//! - [`convert`]: conversions of slices.
//! - [`column`]: slices whose element type is known at run time.
//! - [`rows`]: the buffers of one step.

pub(crate) mod bf16;
pub(crate) mod block8;
pub(crate) mod codec;
pub(crate) mod column;
pub(crate) mod convert;
pub(crate) mod f16;
mod float;
pub(crate) mod rounding;
pub(crate) mod rows;
pub(crate) mod split;

use crate::error::Error;
use crate::simd::{Float, Isa, Real, Sealed};
use block8::Code;
use column::{Column, ColumnMut, DType};

/// A type that states are stored in: an [`Element`], or [`Block8`](block8::Block8) for 32 elements
/// in 8 bits. The trait is sealed.
pub trait StateElement: Sealed + bytemuck::Pod + Send + Sync {
    /// The type that this type is computed in: `f64` for `f64`, else `f32`.
    type Float: Float + Element<Float = Self::Float>;

    /// The element type whose loop steps states of this type: `f32` for 8 bits, else this type.
    #[doc(hidden)]
    type Unpacked: Element<Float = Self::Float>;

    /// The name of the type: `f32`, `f64`, `bf16`, `f16` or `8 bits`.
    const NAME: &'static str;

    /// The type, for comparison at run time.
    #[doc(hidden)]
    const DTYPE: DType;

    /// The length of a slice for `len` elements: `len`, or in 8 bits ⌈`len` / 32⌉.
    fn slots(len: usize) -> usize;

    /// Sets all `len` elements of a state to `value`, rounded to nearest and at most ±MAX of the
    /// type.
    #[doc(hidden)]
    fn fill(state: &mut [Self], len: usize, value: f64, code: Code);

    /// Makes a column of a slice.
    #[doc(hidden)]
    fn column(slice: &[Self]) -> Column<'_>;

    /// Makes a column of a mutable slice.
    #[doc(hidden)]
    fn column_mut(slice: &mut [Self]) -> ColumnMut<'_>;

    /// The slice of a column, if it has this type.
    #[doc(hidden)]
    fn of(column: Column<'_>) -> Option<&[Self]>;

    /// The mutable slice of a column, if it has this type.
    #[doc(hidden)]
    fn of_mut(column: ColumnMut<'_>) -> Option<&mut [Self]>;
}

/// A type that buffers store: `f32`, `f64`, [`bf16`](half::bf16) or [`f16`](half::f16).
///
/// The buffers of one step may have different types if all are computed in the same
/// [`Float`](StateElement::Float): `f64` goes only with `f64`, and `f32`, `bf16` and `f16` go
/// together in any mixture. The trait is sealed.
pub trait Element: StateElement<Unpacked = Self> + Real {
    /// The type of the states of a parameter of this type, unless you choose another one: `f32` for
    /// `f16`, else this type. `f16` has too narrow a range: the mean square of gradients below
    /// 1.7e-4 is 0, and that of gradients above 256 is held at the largest number.
    type DefaultState: Element<Float = Self::Float>;

    /// Rounds `x` to the nearest number of this type, ties to even.
    fn from_float(x: Self::Float) -> Self;

    /// Converts to the type of the computation. Exact.
    fn to_float(self) -> Self::Float;

    /// Loads the first elements of `from`, as many as a register has lanes.
    #[doc(hidden)]
    fn load<I: Isa>(isa: I, from: &[Self]) -> RegisterOf<Self, I>;

    /// Rounds the lanes to nearest, and stores them in the first elements of `to`.
    #[doc(hidden)]
    fn store<I: Isa>(lanes: RegisterOf<Self, I>, to: &mut [Self]);

    /// Loads the same elements as `load`, in the order of lanes that is cheapest. For steps in
    /// which all buffers have this type, and so the same order.
    #[doc(hidden)]
    #[inline(always)]
    fn load_unordered<I: Isa>(isa: I, from: &[Self]) -> RegisterOf<Self, I> {
        Self::load(isa, from)
    }

    /// Stores lanes that are in the order of `load_unordered`, and that were computed only from
    /// elements of this type.
    #[doc(hidden)]
    #[inline(always)]
    fn store_unordered<I: Isa>(lanes: RegisterOf<Self, I>, to: &mut [Self]) {
        Self::store::<I>(lanes, to);
    }
}

/// Allocates `slots` slots of zeros.
///
/// # Errors
///
/// [`Error::OutOfMemory`].
pub(crate) fn zeros<S: StateElement>(slots: usize) -> Result<Vec<S>, Error> {
    // Fresh pages are already zero.
    let zeroed = bytemuck::allocation::try_zeroed_vec(slots);
    zeroed.map_err(|()| Error::OutOfMemory { bytes: slots.saturating_mul(size_of::<S>()) })
}

/// The register that elements of type `E` are computed in, in the instruction set `I`.
pub type RegisterOf<E, I> = <<E as StateElement>::Float as Float>::In<I>;

/// A 16-bit element type: [`bf16`](half::bf16) or [`f16`](half::f16). The trait is sealed.
pub trait Half: Element<Float = f32> {}

/// Implements [`StateElement`] for an element type.
macro_rules! state_element {
    ($element:ident, $float:ident, $variant:ident, $name:literal) => {
        impl $crate::elements::StateElement for $element {
            type Float = $float;
            type Unpacked = $element;
            const NAME: &'static str = $name;
            const DTYPE: $crate::elements::column::DType =
                $crate::elements::column::DType::$variant;

            #[inline(always)]
            fn slots(len: usize) -> usize {
                len
            }
            fn fill(state: &mut [Self], len: usize, value: f64, _: $crate::elements::block8::Code) {
                state[..len].fill(<$element as $crate::simd::Real>::saturating_from_f64(value));
            }
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
        }
    };
}
pub(crate) use state_element;

/// Rounds `x` to odd in `f32`: if the result is not exact, it is the neighbour of `x` whose last
/// bit is set. So rounding the result to a 16-bit type gives the same as rounding `x` itself.
pub(crate) fn to_odd(x: f64) -> f32 {
    let nearest = x as f32;
    let back = f64::from(nearest);
    if back == x || x.is_nan() {
        return nearest;
    }
    let bits = nearest.to_bits();
    f32::from_bits((if back.abs() > x.abs() { bits - 1 } else { bits }) | 1)
}
