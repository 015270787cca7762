//! bfloat16: the upper half of an `f32`. One sign bit, eight of exponent, seven of mantissa.

use half::bf16;

use super::storage::Storage;
use super::words::{Representation, Words};
use super::{Element, Half, Single, to_odd};
use crate::backend::columns::{Column, ColumnMut};

impl Element for bf16 {
    type Float = f32;
    const NAME: &'static str = "bf16";

    fn from_f64(x: f64) -> Self {
        bf16::from_f32(to_odd(x))
    }

    fn to_f64(self) -> f64 {
        bf16::to_f64(self)
    }

    fn from_float(x: f32) -> Self {
        bf16::from_f32(x)
    }

    fn to_float(self) -> f32 {
        bf16::to_f32(self)
    }
}

impl Single for bf16 {}
impl Half for bf16 {}

impl Storage for bf16 {
    fn column(buffer: &[Self]) -> Column<'_> {
        Column::Bf16(buffer)
    }
    fn column_mut(buffer: &mut [Self]) -> ColumnMut<'_> {
        ColumnMut::Bf16(buffer)
    }
    fn of_column(column: Column<'_>) -> Option<&[Self]> {
        if let Column::Bf16(buffer) = column { Some(buffer) } else { None }
    }
    fn of_column_mut(column: ColumnMut<'_>) -> Option<&mut [Self]> {
        if let ColumnMut::Bf16(buffer) = column { Some(buffer) } else { None }
    }
}

/// The `f32` of bits in the upper halves of `words`, where the lower ones are zero. Exact.
#[inline(always)]
pub(crate) fn decode<L: Representation>(words: L::Words) -> L {
    L::from_words(words)
}

/// The bits nearest to `lanes`, ties to even, in the upper halves; below them is anything.
#[inline(always)]
pub(crate) fn nearest<L: Representation>(lanes: L) -> L::Words {
    // The upper half of a NaN could be an infinity, or the sum overflow.
    lanes.unless_nan(lanes.to_words().nearest_upper())
}

/// One of the two neighbours of `lanes`: the one away from zero with a probability that is the
/// distance from the other, if the lower halves of `noise` are random bits. An exact value stays.
/// In the upper halves.
#[inline(always)]
pub(crate) fn stochastic<L: Representation>(lanes: L, noise: L::Words) -> L::Words {
    let bits = lanes.to_words();
    lanes.unless_nan(bits.plus(noise.masked(0xFFFF)))
}
