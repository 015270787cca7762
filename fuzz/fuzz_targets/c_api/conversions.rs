//! Conversions of buffers: split master weights, and states in 8 bits.

use std::ffi::CStr;
use std::ptr::{null, null_mut};

use fused_adam::{Correction, Rule};
use fused_adam_c::FusedAdamStatus as Status;
use fused_adam_c::*;

use crate::elements::{BF16, BLOCK8, Elements, F32, U8, U16};
use crate::rules::RuleHandle;
use crate::source::Source;
use crate::status::{c, expect_unless};

/// Splits weights or joins them, rarely with wrong arguments.
pub fn split_or_join(source: &mut Source) {
    let (len, split) = (source.pick(&[33, 0, 1, 1023, 1024, 1025, 2100]), source.below(2) == 0);
    let bits = source.pick(&[U16, U8]);
    let mut weights = Elements::random(F32, len, source);
    let mut theta = Elements::random(BF16, len, source);
    let mut low = Elements::random(bits, len, source);
    let mut twins = [weights.clone(), theta.clone(), low.clone()];
    let before = twins.clone();

    let (mut at, mut faults) = ([weights.pointer(), theta.pointer(), low.pointer()], Vec::new());
    let (mut given_len, mut given_bits) = (len, bits);
    if source.rarely() && len > 1 {
        let i = source.below(3);
        match source.below(4) {
            0 => {
                faults.push(Status::Null);
                at[i] = null_mut();
            }
            1 if i < 2 => {
                faults.push(Status::Misaligned);
                given_len -= 1;
                at[i] = at[i].wrapping_byte_add(1);
            }
            2 => {
                // Of these two, one is written. The weights are the longest.
                faults.push(Status::Overlap);
                at[if split { 1 } else { 2 }] = at[0];
            }
            _ => {
                faults.push(Status::Value);
                given_bits = source.pick(&[0, 1, 24, -16, i32::MAX]);
            }
        }
    } else if len == 0 && source.below(2) == 0 {
        at = [null_mut(); 3];
    }
    let [weights_at, theta_at, low_at] = at;
    let status = match split {
        true => c!(fused_adam_split_weights(
            given_len,
            weights_at.cast(),
            theta_at.cast(),
            low_at,
            given_bits
        )),
        false => c!(fused_adam_join_weights(
            given_len,
            theta_at.cast(),
            low_at,
            given_bits,
            weights_at.cast()
        )),
    };
    if expect_unless(&faults, status, Status::Ok) {
        let [Elements::F32(weights), Elements::Bf16(theta), low] = &mut twins else {
            unreachable!("their types")
        };
        let low = match low {
            Elements::U16(low) => Correction::Bits16(low),
            Elements::U8(low) => Correction::Bits8(low),
            _ => unreachable!("a correction"),
        };
        match split {
            true => low.split(weights, theta).expect("equal lengths"),
            false => low.join(theta, weights).expect("equal lengths"),
        }
    } else {
        twins = before;
    }
    for (one, other) in [&weights, &theta, &low].into_iter().zip(&twins) {
        assert!(one.same(other), "{one:?}, expected {other:?}");
    }
}

/// Encodes a state in 8 bits or decodes it, rarely with wrong arguments.
pub fn encode_or_decode(rule: &RuleHandle, source: &mut Source) {
    let (len, encode) = (source.pick(&[33, 0, 1, 31, 32, 64, 65, 100]), source.below(2) == 0);
    let states = rule.rule.states();
    let i = if source.rarely() { source.word() as usize } else { source.below(4) };
    let mut elements = Elements::random(F32, len, source);
    let mut blocks = Elements::random(BLOCK8, len, source);
    let bytes = fused_adam_state_bytes(BLOCK8, len);
    assert_eq!(bytes, blocks.bytes().len());
    let mut twins = [elements.clone(), blocks.clone()];
    let before = twins.clone();

    let (mut at, mut faults) = ([elements.pointer(), blocks.pointer()], Vec::new());
    let mut given_len = len;
    if source.rarely() && len > 1 {
        match source.below(5) {
            0 => {
                faults.push(Status::Null);
                at[source.below(2)] = null_mut();
            }
            1 => {
                faults.push(Status::Misaligned);
                given_len -= 1;
                at[0] = at[0].wrapping_byte_add(1);
            }
            2 if len >= 33 => {
                // The elements are longer.
                faults.push(Status::Overlap);
                at[1] = at[0];
            }
            3 => {
                faults.extend([Status::Null, Status::Length]);
                (given_len, at) = (usize::MAX, [null_mut(); 2]);
            }
            _ => {}
        }
    }
    if states.get(i).is_none() {
        faults.push(Status::Unknown);
    }
    let handle = source.or_null(rule.handle, &mut faults);
    let status = match encode {
        true => c!(fused_adam_rule_encode_state(handle, i, given_len, at[0].cast(), at[1].cast())),
        false => c!(fused_adam_rule_decode_state(handle, i, given_len, at[1].cast(), at[0].cast())),
    };
    if expect_unless(&faults, status, Status::Ok) {
        let [Elements::F32(elements), Elements::Block8(blocks)] = &mut twins else {
            unreachable!("their types")
        };
        match encode {
            true => states[i].encode(elements, blocks),
            false => states[i].decode(blocks, elements),
        }
    } else {
        twins = before;
    }
    for (one, other) in [&elements, &blocks].into_iter().zip(&twins) {
        assert!(one.same(other), "{one:?}, expected {other:?}");
    }
}

/// Functions of numbers.
pub fn numbers(source: &mut Source) {
    let (number, len) = (source.word() as i32, source.word() as usize);
    for number in [number, number & 7] {
        let bytes = fused_adam_state_bytes(number, len);
        let expected = match number {
            0 => len.checked_mul(4),
            1 => len.checked_mul(8),
            2 | 3 => len.checked_mul(2),
            4 => len.div_ceil(32).checked_mul(33),
            _ => None,
        };
        assert_eq!(bytes, expected.filter(|bytes| *bytes <= isize::MAX as usize).unwrap_or(0));
        // SAFETY: the library's strings stay valid forever.
        let name = unsafe { CStr::from_ptr(fused_adam_status_name(number)) };
        assert_eq!(name == c"unknown code", !(0..=18).contains(&number));
        let i = number as usize;
        assert_eq!(fused_adam_rule_name_at(i).is_null(), i >= fused_adam::AnyRule::NAMES.len());
    }
    c!(fused_adam_rule_free(null_mut()));
    c!(fused_adam_options_free(null_mut()));
    c!(fused_adam_optimizer_free(null_mut()));
    assert!(c!(fused_adam_backend_resolved(null())).is_null());
}
