//! States in 8 bits: their size, and conversions from and to float.

use std::ffi::c_void;

use fused_adam::{Rule, State};

use crate::buffers::{Buffer, DType, check_apart, slice, slice_mut};
use crate::rule::{FusedAdamRule, copied};
use crate::status::{Failure, FusedAdamStatus, guarded, guarded_or};

/// The number of bytes of a state of `len` elements of this FusedAdamType. For
/// FUSED_ADAM_TYPE_BLOCK8 it is 33 * ((len + 31) / 32).
///
/// Returns 0 if there is no such type, and if the state does not fit into memory;
/// fused_adam_last_status is then FUSED_ADAM_STATUS_TYPE or FUSED_ADAM_STATUS_LENGTH. Any thread
/// may call it.
#[unsafe(no_mangle)]
pub extern "C" fn fused_adam_state_bytes(state_type: i32, len: usize) -> usize {
    guarded_or(0, || DType::state("state_type", state_type)?.check_len("state", len))
}

/// State number `i` of a rule, and the buffers of its elements and of its blocks, checked.
///
/// # Safety
///
/// `rule` is NULL or a rule.
unsafe fn checked(
    rule: *const FusedAdamRule,
    i: usize,
    len: usize,
    elements: (*mut c_void, bool),
    blocks: (*mut c_void, bool),
) -> Result<(State, [Buffer; 2]), Failure> {
    // SAFETY: the caller's promise.
    let states = unsafe { copied(rule) }?.states();
    let state = *states.get(i).ok_or_else(|| {
        let known: Vec<&str> = states.iter().map(State::name).collect();
        let message = format!("there is no state {i}, expected an index of {known:?}");
        Failure::new(FusedAdamStatus::Unknown, message)
    })?;
    let buffer =
        |name, (pointer, written), of| Buffer { pointer, len, of, name, tensor: None, written };
    let buffers =
        [buffer("elements", elements, DType::F32), buffer("blocks", blocks, DType::Block8)];
    let [elements, blocks] = buffers.map(Buffer::span);
    check_apart(&mut [elements?, blocks?])?;
    Ok((state, buffers))
}

/// Encodes elements of state number `i` of a rule in 8 bits, rounded to nearest.
///
/// - len: the number of elements.
/// - elements: the elements, which are read.
/// - blocks: where to store the fused_adam_state_bytes bytes of FUSED_ADAM_TYPE_BLOCK8. The meaning
///   of the codes depends on the state.
///
/// After an error nothing has changed. Returns FUSED_ADAM_STATUS_UNKNOWN if the rule has no such
/// state, FUSED_ADAM_STATUS_NULL, FUSED_ADAM_STATUS_LENGTH, FUSED_ADAM_STATUS_MISALIGNED and
/// FUSED_ADAM_STATUS_OVERLAP.
///
/// # Safety
///
/// `rule` is NULL or a rule. Each other pointer is NULL or points to what its description says.
/// During the call, no other thread writes to it, or reads what the call writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_rule_encode_state(
    rule: *const FusedAdamRule,
    i: usize,
    len: usize,
    elements: *const f32,
    blocks: *mut u8,
) -> FusedAdamStatus {
    guarded(|| {
        let (elements, blocks) = ((elements.cast_mut().cast(), false), (blocks.cast(), true));
        // SAFETY: the caller's promise.
        let (state, [elements, blocks]) = unsafe { checked(rule, i, len, elements, blocks) }?;
        // SAFETY: they have passed the checks, and the caller promises the rest.
        unsafe { state.encode(slice(elements), slice_mut(blocks)) };
        Ok(())
    })
}

/// Decodes elements of state number `i` of a rule from 8 bits.
///
/// - len: the number of elements.
/// - blocks: the fused_adam_state_bytes bytes of the state, which are read.
/// - elements: where to store the elements.
///
/// Errors: as for fused_adam_rule_encode_state.
///
/// # Safety
///
/// As for fused_adam_rule_encode_state.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_rule_decode_state(
    rule: *const FusedAdamRule,
    i: usize,
    len: usize,
    blocks: *const u8,
    elements: *mut f32,
) -> FusedAdamStatus {
    guarded(|| {
        let (elements, blocks) = ((elements.cast(), true), (blocks.cast_mut().cast(), false));
        // SAFETY: the caller's promise.
        let (state, [elements, blocks]) = unsafe { checked(rule, i, len, elements, blocks) }?;
        // SAFETY: they have passed the checks, and the caller promises the rest.
        unsafe { state.decode(slice(blocks), slice_mut(elements)) };
        Ok(())
    })
}
