//! The scalars of a rule: numbers for each parameter that depend on the hyper-parameters of all
//! steps.

use std::ffi::c_char;

use fused_adam::{Error, Rule};

use crate::buffers::{Buffer, DType, slice_mut};
use crate::rule::{FusedAdamRule, copied};
use crate::status::{FusedAdamStatus, guarded, guarded_or};
use crate::text;

/// The number of scalars that a rule has for each parameter, in addition to its states. A scalar
/// cannot be computed from the step number alone, because it depends on the hyper-parameters of all
/// steps: for example the product of the momenta, which a schedule may change. 0 for most rules,
/// and for NULL.
///
/// # Safety
///
/// `rule` is NULL or a rule.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_rule_scalar_count(rule: *const FusedAdamRule) -> usize {
    guarded_or(0, || {
        // SAFETY: the caller's promise.
        Ok(unsafe { copied(rule) }?.scalars().len())
    })
}

/// The name of scalar number `i` of a rule, counted from 0, such as "mu_product". Steps take the
/// scalars in this order. NULL, which is not an error, if there are no more.
///
/// Returns a string that stays valid forever, and NULL if `rule` is NULL.
///
/// # Safety
///
/// `rule` is NULL or a rule.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_rule_scalar_name(
    rule: *const FusedAdamRule,
    i: usize,
) -> *const c_char {
    guarded_or(std::ptr::null(), || {
        // SAFETY: the caller's promise.
        let names = unsafe { copied(rule) }?.scalars();
        Ok(names.get(i).map_or(std::ptr::null(), |name| text::lasting(name)))
    })
}

/// The value of scalar number `i` of a rule after `t` steps that all used the current
/// hyper-parameters. With `t` = 0 it is the initial value. 0 if there is no such scalar, and for
/// NULL.
///
/// Also 0 if a hyper-parameter is outside its range; fused_adam_last_status is then
/// FUSED_ADAM_STATUS_VALUE.
///
/// # Safety
///
/// `rule` is NULL or a rule.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_rule_scalar_after(
    rule: *const FusedAdamRule,
    i: usize,
    t: u64,
) -> f64 {
    guarded_or(0.0, || {
        // SAFETY: the caller's promise.
        let rule = unsafe { copied(rule) }?;
        rule.check()?;
        Ok(if i < rule.scalars().len() { rule.scalar_after(i, t) } else { 0.0 })
    })
}

/// Advances the scalars of a parameter from step `t` - 1 to step `t`. FusedAdamParam takes the
/// result in fused_adam_step_all. Call this with the hyper-parameters of step `t`.
///
/// - scalars: an array of count numbers, updated in place. Before the first step, set them to the
///   values of fused_adam_rule_scalar_after with `t` = 0.
///
/// Returns FUSED_ADAM_STATUS_STATES if count is not the number of scalars of the rule,
/// FUSED_ADAM_STATUS_VALUE if a hyper-parameter is outside its range or `t` is 0,
/// FUSED_ADAM_STATUS_NULL and FUSED_ADAM_STATUS_MISALIGNED.
///
/// # Safety
///
/// `rule` is NULL or a rule; `scalars` is NULL or points to `count` numbers that no other thread
/// uses.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_rule_advance_scalars(
    rule: *const FusedAdamRule,
    t: u64,
    scalars: *mut f64,
    count: usize,
) -> FusedAdamStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let rule = unsafe { copied(rule) }?;
        let names = rule.scalars();
        if count != names.len() {
            let (given, expected) = (count, names.len());
            return Err(Error::Scalars { given, expected, names }.into());
        }
        if t == 0 {
            return Err(Error::StepNumber { t, expected: "1 for the first step" }.into());
        }
        rule.check()?;
        let (pointer, of) = (scalars.cast(), DType::F64);
        let buffer =
            Buffer { pointer, len: count, of, name: "scalars", tensor: None, written: true };
        buffer.span()?;
        // SAFETY: it has passed its checks, and the caller promises the rest.
        rule.advance_scalars(t, unsafe { slice_mut::<f64>(buffer) });
        Ok(())
    })
}
