//! `f32` and `f64`: stored as they are computed, and lanes of one.

use super::storage::Storage;
use super::{Element, Float, Single};
use crate::Lanes;
use crate::backend::columns::{Column, ColumnMut};

impl Element for f32 {
    type Float = f32;
    const NAME: &'static str = "f32";

    #[inline(always)]
    fn from_f64(x: f64) -> Self {
        x as f32
    }

    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(self)
    }

    #[inline(always)]
    fn from_float(x: f32) -> Self {
        x
    }

    #[inline(always)]
    fn to_float(self) -> f32 {
        self
    }
}

impl Float for f32 {}
impl Single for f32 {}

impl Storage for f32 {
    fn column(buffer: &[Self]) -> Column<'_> {
        Column::F32(buffer)
    }
    fn column_mut(buffer: &mut [Self]) -> ColumnMut<'_> {
        ColumnMut::F32(buffer)
    }
    fn of_column(column: Column<'_>) -> Option<&[Self]> {
        if let Column::F32(buffer) = column { Some(buffer) } else { None }
    }
    fn of_column_mut(column: ColumnMut<'_>) -> Option<&mut [Self]> {
        if let ColumnMut::F32(buffer) = column { Some(buffer) } else { None }
    }
}

impl Element for f64 {
    type Float = f64;
    const NAME: &'static str = "f64";

    #[inline(always)]
    fn from_f64(x: f64) -> Self {
        x
    }

    #[inline(always)]
    fn to_f64(self) -> f64 {
        self
    }

    #[inline(always)]
    fn from_float(x: f64) -> Self {
        x
    }

    #[inline(always)]
    fn to_float(self) -> f64 {
        self
    }
}

impl Float for f64 {}

/// One number as lanes.
macro_rules! one_lane {
    ($float:ty) => {
        impl Lanes for $float {
            type Float = $float;

            #[inline(always)]
            fn sqrt(self) -> Self {
                <$float>::sqrt(self)
            }

            #[inline(always)]
            fn abs(self) -> Self {
                <$float>::abs(self)
            }

            #[inline(always)]
            fn larger(self, other: Self) -> Self {
                if self > other { self } else { other }
            }

            #[inline(always)]
            fn under(self, x: Self) -> Self {
                x / self
            }

            #[inline(always)]
            fn at_most(self, x: Self) -> Self {
                if self > x { x } else { self }
            }

            #[inline(always)]
            fn at_least(self, x: Self) -> Self {
                if self < x { x } else { self }
            }

            #[inline(always)]
            fn sign(self) -> Self {
                if self > 0.0 {
                    1.0
                } else if self < 0.0 {
                    -1.0
                } else {
                    self
                }
            }
        }
    };
}

one_lane!(f32);
one_lane!(f64);
