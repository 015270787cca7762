//! The buffer that a step writes beside θ: a copy of it in 16 bits, or a correction.

use std::ffi::c_void;
use std::ptr::null_mut;

use fused_adam_c::FusedAdamStatus as Status;

use crate::elements::{BF16, Elements, F16, F32, U8, U16};
use crate::source::Source;

#[derive(Clone)]
pub enum Beside {
    Nothing,
    Copy(Elements),
    Correction(Elements),
}

/// The members of a structure for it.
pub struct Members {
    pub copy: *mut c_void,
    pub copy_type: i32,
    pub correction: *mut c_void,
    pub correction_bits: i32,
}

impl Beside {
    /// Mostly what θ of this type can have.
    pub fn random(theta_type: i32, len: usize, source: &mut Source) -> Self {
        let theta_type = if source.rarely() { source.pick(&[F32, BF16]) } else { theta_type };
        let of = source.below(4);
        match theta_type {
            F32 if of < 2 => Beside::Copy(Elements::zeros([BF16, F16][of], len)),
            BF16 if of < 2 => Beside::Correction(Elements::random([U16, U8][of], len, source)),
            _ => Beside::Nothing,
        }
    }

    /// Rarely with a wrong number or pointer.
    pub fn members(&mut self, source: &mut Source, faults: &mut Vec<Status>) -> Members {
        let mut members =
            Members { copy: null_mut(), copy_type: 0, correction: null_mut(), correction_bits: 0 };
        let wrong = source.rarely();
        match self {
            Beside::Nothing => {
                // No copy, whatever its type.
                members.copy_type = if wrong { source.word() as i32 } else { 0 };
            }
            Beside::Copy(copy) => {
                members.copy_type = if let Elements::F16(_) = copy { F16 } else { BF16 };
                members.copy = copy.pointer();
                if wrong {
                    faults.push(Status::Type);
                    members.copy_type = [F32, 1, 4, 5, -1, i32::MAX][source.below(6)];
                    if source.rarely() {
                        members.correction_bits = 16;
                    }
                }
            }
            Beside::Correction(correction) => {
                members.correction_bits = if let Elements::U8(_) = correction { U8 } else { U16 };
                members.correction = correction.pointer();
                if wrong && source.below(2) == 0 {
                    faults.push(Status::Value);
                    members.correction_bits = [0, 7, -8, 32, i32::MIN][source.below(5)];
                } else if wrong && !correction.bytes().is_empty() {
                    faults.push(Status::Null);
                    members.correction = null_mut();
                }
            }
        }
        members
    }

    /// The buffer.
    pub fn elements(&self) -> Option<&Elements> {
        match self {
            Beside::Nothing => None,
            Beside::Copy(elements) | Beside::Correction(elements) => Some(elements),
        }
    }

    pub fn same(&self, other: &Self) -> bool {
        match (self.elements(), other.elements()) {
            (Some(one), Some(other)) => one.same(other),
            (one, other) => one.is_none() && other.is_none(),
        }
    }
}

/// Adds the buffer to a `Tensor` or a `ParamMut`.
macro_rules! with_beside {
    ($tensor:expr, $beside:expr) => {
        match $beside {
            Beside::Copy(Elements::F16(copy)) => $tensor.with_copy(copy),
            Beside::Copy(Elements::Bf16(copy)) => $tensor.with_copy(copy),
            Beside::Correction(Elements::U16(low)) => $tensor.with_correction(&mut low[..]),
            Beside::Correction(Elements::U8(low)) => $tensor.with_correction(&mut low[..]),
            _ => $tensor,
        }
    };
}
pub(crate) use with_beside;
