//! `f32` and `f64`, which are stored as they are computed.

use super::{Element, columns};
use crate::simd::{Isa, Register};

macro_rules! stored_as_computed {
    ($float:ident, $variant:ident, $register:ident) => {
        impl Element for $float {
            type Float = $float;
            type DefaultState = $float;
            const NAME: &'static str = stringify!($float);

            #[inline(always)]
            fn from_float(x: Self) -> Self {
                x
            }

            #[inline(always)]
            fn to_float(self) -> Self {
                self
            }

            #[inline(always)]
            fn load<I: Isa>(isa: I, from: &[Self]) -> I::$register {
                Register::load(isa, from)
            }

            #[inline(always)]
            fn store<I: Isa>(lanes: I::$register, to: &mut [Self]) {
                Register::store(lanes, to);
            }

            columns!($variant);
        }
    };
}

stored_as_computed!(f32, F32, F32);
stored_as_computed!(f64, F64, F64);
