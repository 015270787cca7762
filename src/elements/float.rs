//! `f32` and `f64`, which are stored as they are computed.

use super::{Element, state_element};
use crate::simd::{Isa, Register};

macro_rules! stored_as_computed {
    ($float:ident, $register:ident) => {
        impl Element for $float {
            type DefaultState = $float;

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
        }
    };
}

stored_as_computed!(f32, F32);
stored_as_computed!(f64, F64);
state_element!(f32, f32, F32, "f32");
state_element!(f64, f64, F64, "f64");
