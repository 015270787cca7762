//! The settings of an optimizer: hyper-parameters of its groups, options, and loss scale.

use std::ffi::c_char;

use fused_adam::GradScaler;

use crate::buffers::place;
use crate::optimizer::{FusedAdamOptimizer, read, write};
use crate::options::{FusedAdamOptions, or_default};
use crate::rule;
use crate::status::{FusedAdamStatus, guarded, guarded_or};
use crate::text;

/// A dynamic loss scale, as in torch.amp.GradScaler. It grows while the gradients are finite. If
/// one is not, the step is skipped and the scale shrinks.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FusedAdamGradScaler {
    /// The factor for the loss of the next step. 65536 is a common initial value.
    pub scale: f64,
    /// The factor for scale after growth_interval finite steps in a row. Usually 2; 1 for a
    /// constant scale.
    pub growth_factor: f64,
    /// The factor for scale after a step with a gradient that is not finite. Usually 0.5; 1 for a
    /// constant scale.
    pub backoff_factor: f64,
    /// The number of finite steps before the scale grows: at least 1, usually 2000.
    pub growth_interval: u64,
    /// The number of finite steps since the last change of the scale. Initially 0.
    pub finite_steps: u64,
}

/// Sets a hyper-parameter of a group's rule, as fused_adam_rule_set does: for example "lr". With a
/// learning-rate schedule, this is the value that the schedule multiplies. It takes effect from the
/// next step on. If the rule now has other states than before, the next step fails.
///
/// Returns FUSED_ADAM_STATUS_UNKNOWN if the group or the hyper-parameter does not exist, and the
/// errors of fused_adam_rule_set.
///
/// # Safety
///
/// `opt` is NULL or an optimizer; `name` is NULL or ends with a NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_optimizer_set(
    opt: *mut FusedAdamOptimizer,
    group: usize,
    name: *const c_char,
    value: f64,
) -> FusedAdamStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (mut opt, name) = unsafe { (write(opt)?, text::borrowed("name", name)?) };
        rule::set(opt.rule_mut(group)?, name, value)
    })
}

/// Stores a hyper-parameter of a group's rule at `value`, as fused_adam_rule_get does.
///
/// Returns FUSED_ADAM_STATUS_UNKNOWN if the group or the hyper-parameter does not exist, and the
/// errors of fused_adam_rule_get.
///
/// # Safety
///
/// `opt` is NULL or an optimizer; `name` is NULL or ends with a NUL; `value` is NULL or valid for
/// writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_optimizer_get(
    opt: *const FusedAdamOptimizer,
    group: usize,
    name: *const c_char,
    value: *mut f64,
) -> FusedAdamStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (opt, name) = unsafe { (read(opt)?, text::borrowed("name", name)?) };
        let place = place("value", value)?;
        let got = rule::get(opt.rule(group)?, name)?;
        // SAFETY: it is not NULL, so the caller promises that it may be written.
        unsafe { place.write(got) };
        Ok(())
    })
}

/// Sets the options of later steps, or the defaults if `options` is NULL. The optimizer stores a
/// copy.
///
/// Returns FUSED_ADAM_STATUS_NULL if `opt` is NULL.
///
/// # Safety
///
/// `opt` is NULL or an optimizer; `options` is NULL or options.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_optimizer_set_options(
    opt: *mut FusedAdamOptimizer,
    options: *const FusedAdamOptions,
) -> FusedAdamStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        unsafe { write(opt)?.core.options = or_default(options) };
        Ok(())
    })
}

/// Sets a dynamic loss scale, or removes it if `loss_scale` is NULL. Initially there is none. With
/// a loss scale, a step divides the gradients by the scale. If a gradient is not finite, the step
/// is skipped.
///
/// Each step checks the fields. Returns FUSED_ADAM_STATUS_NULL if `opt` is NULL.
///
/// # Safety
///
/// `opt` is NULL or an optimizer; `loss_scale` is NULL or valid for reads.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_optimizer_set_grad_scaler(
    opt: *mut FusedAdamOptimizer,
    loss_scale: *const FusedAdamGradScaler,
) -> FusedAdamStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (mut opt, given) = unsafe { (write(opt)?, loss_scale.as_ref()) };
        opt.core.grad_scaler = given.map(|given| GradScaler {
            scale: given.scale,
            growth_factor: given.growth_factor,
            backoff_factor: given.backoff_factor,
            growth_interval: given.growth_interval,
            finite_steps: given.finite_steps,
        });
        Ok(())
    })
}

/// The factor for the loss of the next step. 1 without a loss scale, and for NULL. Also 1 while
/// another call changes the optimizer; fused_adam_last_status is then FUSED_ADAM_STATUS_BUSY.
///
/// # Safety
///
/// `opt` is NULL or an optimizer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_optimizer_loss_scale(opt: *const FusedAdamOptimizer) -> f64 {
    guarded_or(1.0, || {
        // SAFETY: the caller's promise.
        Ok(unsafe { read(opt) }?.core.grad_scaler.map_or(1.0, |scale| scale.scale))
    })
}
