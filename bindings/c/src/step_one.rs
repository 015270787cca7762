//! Steps of one buffer with states that the caller stores, with functions for the usual types.

use std::ffi::c_void;

use crate::buffers::{DType, FusedAdamType};
use crate::options::{FusedAdamOptions, FusedAdamReport};
use crate::rule::{FusedAdamRule, copied};
use crate::status::{Failure, FusedAdamStatus, guarded};
use crate::step::{FusedAdamParam, step_tensors};

/// A step of one tensor.
///
/// # Safety
///
/// As for [`fused_adam_step_all`].
unsafe fn step_one(
    rule: *const FusedAdamRule,
    tensor: FusedAdamParam,
    options: *const FusedAdamOptions,
    report: *mut FusedAdamReport,
) -> Result<(), Failure> {
    // SAFETY: the caller's promise.
    unsafe { step_tensors(&[copied(rule)?], &[tensor], options, report) }
}

/// A tensor with theta, gradient and states of these types, and with nothing else.
fn tensor<T, G, S>(
    [theta_type, grad_type, state_type]: [FusedAdamType; 3],
    (t, len): (u64, usize),
    theta: *mut T,
    grad: *const G,
    (states, state_count): (*const *mut S, usize),
) -> FusedAdamParam {
    FusedAdamParam {
        rule: 0,
        t,
        len,
        theta: theta.cast(),
        grad: grad.cast(),
        states: states.cast(),
        state_count,
        scalars: std::ptr::null(),
        scalar_count: 0,
        copy: std::ptr::null_mut(),
        seed: 0,
        offset: 0,
        theta_type: theta_type as i32,
        grad_type: grad_type as i32,
        state_type: state_type as i32,
        copy_type: 0,
        correction: std::ptr::null_mut(),
        correction_bits: 0,
    }
}

/// Takes step number `t`, counted from 1, of a rule on buffers of float. The caller stores the
/// states.
///
/// - len: the number of elements of each buffer. If it is 0, the buffers can be NULL.
/// - theta: the parameters. The step updates them.
/// - grad: their gradient. The step reads it.
/// - states: an array of state_count pointers to the states, in the order of
///   fused_adam_rule_state_name. The step updates them. Before the first step, set their elements
///   to fused_adam_rule_initial_state, which is 0 for most rules.
/// - options: the options of the step. NULL for the defaults.
/// - report: where to store what the step did. NULL if you do not need it.
///
/// If the rule has scalars, the step uses those of fused_adam_rule_scalar_after. Use
/// fused_adam_step_all to pass other values.
///
/// Errors, requirements on the buffers, and threads: as for fused_adam_step_all.
///
/// # Safety
///
/// As for fused_adam_step_all.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_step_f32(
    rule: *const FusedAdamRule,
    t: u64,
    len: usize,
    theta: *mut f32,
    grad: *const f32,
    states: *const *mut f32,
    state_count: usize,
    options: *const FusedAdamOptions,
    report: *mut FusedAdamReport,
) -> FusedAdamStatus {
    let types = [FusedAdamType::F32; 3];
    let tensor = tensor(types, (t, len), theta, grad, (states, state_count));
    // SAFETY: the caller's promise.
    guarded(|| unsafe { step_one(rule, tensor, options, report) })
}

/// The same as fused_adam_step_f32, for buffers of double. It computes in double.
///
/// # Safety
///
/// As for fused_adam_step_all.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_step_f64(
    rule: *const FusedAdamRule,
    t: u64,
    len: usize,
    theta: *mut f64,
    grad: *const f64,
    states: *const *mut f64,
    state_count: usize,
    options: *const FusedAdamOptions,
    report: *mut FusedAdamReport,
) -> FusedAdamStatus {
    let types = [FusedAdamType::F64; 3];
    let tensor = tensor(types, (t, len), theta, grad, (states, state_count));
    // SAFETY: the caller's promise.
    guarded(|| unsafe { step_one(rule, tensor, options, report) })
}

/// The same as fused_adam_step_f32, for buffers that hold the bits of bfloat16. It computes in
/// float, and rounds as the options say. For states in float use fused_adam_step_all.
///
/// # Safety
///
/// As for fused_adam_step_all.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_step_bf16(
    rule: *const FusedAdamRule,
    t: u64,
    len: usize,
    theta: *mut u16,
    grad: *const u16,
    states: *const *mut u16,
    state_count: usize,
    options: *const FusedAdamOptions,
    report: *mut FusedAdamReport,
) -> FusedAdamStatus {
    let types = [FusedAdamType::Bf16; 3];
    let tensor = tensor(types, (t, len), theta, grad, (states, state_count));
    // SAFETY: the caller's promise.
    guarded(|| unsafe { step_one(rule, tensor, options, report) })
}

/// The same as fused_adam_step_bf16, for buffers that hold the bits of IEEE 754 half precision.
///
/// # Safety
///
/// As for fused_adam_step_all.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_step_f16(
    rule: *const FusedAdamRule,
    t: u64,
    len: usize,
    theta: *mut u16,
    grad: *const u16,
    states: *const *mut u16,
    state_count: usize,
    options: *const FusedAdamOptions,
    report: *mut FusedAdamReport,
) -> FusedAdamStatus {
    let types = [FusedAdamType::F16; 3];
    let tensor = tensor(types, (t, len), theta, grad, (states, state_count));
    // SAFETY: the caller's promise.
    guarded(|| unsafe { step_one(rule, tensor, options, report) })
}

/// The same as fused_adam_step_f32, with states in 8 bits: see FUSED_ADAM_TYPE_BLOCK8.
///
/// - states: an array of state_count pointers to the states, each of as many bytes as
///   fused_adam_state_bytes returns. Before the first step, set the bytes to 0; or encode
///   fused_adam_rule_initial_state with fused_adam_rule_encode_state, where it is not 0.
///
/// States in 8 bits are rounded stochastically, with the seed of
/// fused_adam_options_round_stochastically, or 0. Give each tensor a different seed. For other
/// types of theta and gradients, use fused_adam_step_all.
///
/// # Safety
///
/// As for fused_adam_step_all.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_step_8bit(
    rule: *const FusedAdamRule,
    t: u64,
    len: usize,
    theta: *mut f32,
    grad: *const f32,
    states: *const *mut u8,
    state_count: usize,
    options: *const FusedAdamOptions,
    report: *mut FusedAdamReport,
) -> FusedAdamStatus {
    let types = [FusedAdamType::F32, FusedAdamType::F32, FusedAdamType::Block8];
    let tensor = tensor(types, (t, len), theta, grad, (states, state_count));
    // SAFETY: the caller's promise.
    guarded(|| unsafe { step_one(rule, tensor, options, report) })
}

/// The same as fused_adam_step_f32, on master weights that fused_adam_split_weights has split:
/// theta and the gradient hold the bits of bfloat16, and the states are float.
///
/// - correction: what theta lacks to be the master weights. The step updates it. Set it to 0 where
///   you change theta yourself.
/// - correction_bits: 16 for a correction in uint16_t, 8 for one in uint8_t.
///
/// A correction of 8 bits is rounded stochastically, as states are in fused_adam_step_8bit. For
/// gradients and states of other types, use fused_adam_step_all.
///
/// # Safety
///
/// As for fused_adam_step_all.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_step_split(
    rule: *const FusedAdamRule,
    t: u64,
    len: usize,
    theta: *mut u16,
    correction: *mut c_void,
    correction_bits: i32,
    grad: *const u16,
    states: *const *mut f32,
    state_count: usize,
    options: *const FusedAdamOptions,
    report: *mut FusedAdamReport,
) -> FusedAdamStatus {
    let types = [FusedAdamType::Bf16, FusedAdamType::Bf16, FusedAdamType::F32];
    let tensor = tensor(types, (t, len), theta, grad, (states, state_count));
    let tensor = FusedAdamParam { correction, correction_bits, ..tensor };
    guarded(|| {
        // Not optional here. 0 would be a step without one.
        DType::correction(correction_bits)?;
        // SAFETY: the caller's promise.
        unsafe { step_one(rule, tensor, options, report) }
    })
}
