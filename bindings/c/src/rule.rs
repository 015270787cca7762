//! A rule, made from its name, and its hyper-parameters by name. Which names a rule has is what its
//! serialised form says: no rule is written out here.

use std::ffi::c_char;

use fused_adam::{AnyRule, Rule};
use serde_json::{Map, Number, Value};

use crate::buffers::{self, handle, handle_mut, place};
use crate::status::{Failure, FusedAdamStatus, guarded, guarded_or};
use crate::text;

/// A rule with its hyper-parameters, such as AdamW: made by fused_adam_rule_new, freed by
/// fused_adam_rule_free.
///
/// One thread at a time may change it; while none does, any number may use it.
pub struct FusedAdamRule(pub(crate) AnyRule);

/// The hyper-parameters of a rule by name: numbers, and truth values.
fn parameters(rule: &AnyRule) -> Result<Map<String, Value>, Failure> {
    let missing = || Failure::new(FusedAdamStatus::Other, format!("`{rule}` has no parameters"));
    let whole = serde_json::to_value(rule).map_err(|_| missing())?;
    match whole {
        Value::Object(mut whole) => match whole.remove(rule.name()) {
            Some(Value::Object(parameters)) => Ok(parameters),
            _ => Err(missing()),
        },
        _ => Err(missing()),
    }
}

#[cold]
fn unknown(rule: &AnyRule, name: &str, parameters: &Map<String, Value>) -> Failure {
    let known: Vec<&str> = parameters.keys().map(String::as_str).collect();
    let message =
        format!("`{rule}` has no hyper-parameter `{name}`, expected one of {}", known.join(", "));
    Failure::new(FusedAdamStatus::Unknown, message)
}

#[cold]
fn outside(name: &str, value: f64, expected: &str) -> Failure {
    Failure::new(FusedAdamStatus::Value, format!("`{name}` is {value:?}, expected {expected}"))
}

/// A truth value, as a number.
pub(crate) fn truth(name: &str, value: f64) -> Result<bool, Failure> {
    match value {
        0.0 => Ok(false),
        1.0 => Ok(true),
        _ => Err(outside(name, value, "0 or 1")),
    }
}

/// Changes a hyper-parameter.
pub(crate) fn set(rule: &mut AnyRule, name: &str, value: f64) -> Result<(), Failure> {
    if !value.is_finite() {
        // What is not there is said first.
        get(rule, name)?;
        return Err(outside(name, value, "a finite number"));
    }
    if name == "lr" {
        // A schedule changes it before each step, and all rules have it.
        *rule.lr_mut() = value;
        return Ok(());
    }
    let mut parameters = parameters(rule)?;
    let Some(parameter) = parameters.get_mut(name) else {
        return Err(unknown(rule, name, &parameters));
    };
    *parameter = if parameter.is_boolean() {
        Value::Bool(truth(name, value)?)
    } else {
        Number::from_f64(value).map_or(Value::Null, Value::Number)
    };
    let whole = Map::from_iter([(rule.name().to_owned(), Value::Object(parameters))]);
    *rule = serde_json::from_value(Value::Object(whole))
        .map_err(|error| outside(name, value, &format!("another value: {error}")))?;
    Ok(())
}

/// A hyper-parameter.
pub(crate) fn get(rule: &AnyRule, name: &str) -> Result<f64, Failure> {
    let parameters = parameters(rule)?;
    match parameters.get(name) {
        Some(Value::Bool(truth)) => Ok(f64::from(u8::from(*truth))),
        Some(value) => Ok(value.as_f64().unwrap_or(f64::NAN)),
        None => Err(unknown(rule, name, &parameters)),
    }
}

/// Makes the rule of this name, with its defaults: "sgd", "rmsprop", "adagrad", "adam", "adamw",
/// "adamax", "nadam", "radam", "adabound", "adabelief" or "lion".
///
/// - out: where the new handle is put, for fused_adam_rule_free to free; NULL after an error.
///
/// Returns FUSED_ADAM_STATUS_UNKNOWN if there is no such rule, with a message that lists them;
/// FUSED_ADAM_STATUS_NULL and FUSED_ADAM_STATUS_TEXT. Any thread may call it.
///
/// # Safety
///
/// `name` is NULL or ends with a NUL; `out` is NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_rule_new(
    name: *const c_char,
    out: *mut *mut FusedAdamRule,
) -> FusedAdamStatus {
    // SAFETY: the caller's promise.
    let named = || Ok(FusedAdamRule(unsafe { text::borrowed("name", name) }?.parse()?));
    // SAFETY: the caller's promise.
    unsafe { buffers::make(out, named) }
}

/// Makes a copy of a rule, for fused_adam_rule_free to free.
///
/// Returns FUSED_ADAM_STATUS_NULL for a NULL.
///
/// # Safety
///
/// `rule` is NULL or a rule that no other thread changes; `out` is NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_rule_clone(
    rule: *const FusedAdamRule,
    out: *mut *mut FusedAdamRule,
) -> FusedAdamStatus {
    // SAFETY: the caller's promise.
    unsafe { buffers::make(out, || Ok(FusedAdamRule(handle("rule", rule)?.0))) }
}

/// Frees a rule. NULL is fine. Optimizers have their own copies.
///
/// # Safety
///
/// `rule` is NULL or a rule that is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_rule_free(rule: *mut FusedAdamRule) {
    // SAFETY: the caller's promise.
    unsafe { buffers::free(rule) }
}

/// Changes a hyper-parameter of a rule: "lr", "beta1", "weight_decay" and so on, by the name of
/// the field in the documentation of the Rust crate. Truth values such as "amsgrad" are 0 or 1.
///
/// Whether all of them go together is checked in each step, or by fused_adam_rule_check.
///
/// Returns FUSED_ADAM_STATUS_UNKNOWN if the rule has no such hyper-parameter, with a message that
/// lists them; FUSED_ADAM_STATUS_VALUE if the value is not finite, or not 0 or 1 for a truth
/// value; FUSED_ADAM_STATUS_NULL and FUSED_ADAM_STATUS_TEXT.
///
/// # Safety
///
/// `rule` is NULL or a rule that no other thread uses; `name` is NULL or ends with a NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_rule_set(
    rule: *mut FusedAdamRule,
    name: *const c_char,
    value: f64,
) -> FusedAdamStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (rule, name) = unsafe { (handle_mut("rule", rule)?, text::borrowed("name", name)?) };
        set(&mut rule.0, name, value)
    })
}

/// Puts a hyper-parameter of a rule at `value`; a truth value is 0 or 1.
///
/// Returns FUSED_ADAM_STATUS_UNKNOWN if the rule has no such hyper-parameter, with a message that
/// lists them; FUSED_ADAM_STATUS_NULL and FUSED_ADAM_STATUS_TEXT.
///
/// # Safety
///
/// `rule` is NULL or a rule that no other thread changes; `name` is NULL or ends with a NUL; `value` is
/// NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_rule_get(
    rule: *const FusedAdamRule,
    name: *const c_char,
    value: *mut f64,
) -> FusedAdamStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (rule, name) = unsafe { (handle("rule", rule)?, text::borrowed("name", name)?) };
        let value = place("value", value)?;
        let got = get(&rule.0, name)?;
        // SAFETY: it is not NULL, so the caller promises that it may be written.
        unsafe { value.write(got) };
        Ok(())
    })
}

/// Checks that all hyper-parameters of a rule are in their ranges and go together, as each step
/// does.
///
/// Returns FUSED_ADAM_STATUS_VALUE with a message that names the first one that is not, and
/// FUSED_ADAM_STATUS_NULL.
///
/// # Safety
///
/// `rule` is NULL or a rule that no other thread changes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_rule_check(rule: *const FusedAdamRule) -> FusedAdamStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        Ok(unsafe { handle("rule", rule) }?.0.check()?)
    })
}

/// The name of a rule, such as "adamw"; NULL for NULL.
///
/// Returns a text that is valid for ever.
///
/// # Safety
///
/// `rule` is NULL or a rule that no other thread changes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_rule_name(rule: *const FusedAdamRule) -> *const c_char {
    guarded_or(std::ptr::null(), || {
        // SAFETY: the caller's promise.
        Ok(text::lasting(unsafe { handle("rule", rule) }?.0.name()))
    })
}

/// The name of hyper-parameter number `i` of a rule, from 0 on, in alphabetical order; NULL, which
/// is not an error, when there are no more.
///
/// Returns a text that is valid for ever; NULL for a NULL too.
///
/// # Safety
///
/// `rule` is NULL or a rule that no other thread changes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_rule_parameter_name(
    rule: *const FusedAdamRule,
    i: usize,
) -> *const c_char {
    guarded_or(std::ptr::null(), || {
        // SAFETY: the caller's promise.
        let parameters = parameters(&unsafe { handle("rule", rule) }?.0)?;
        let mut names: Vec<&String> = parameters.keys().collect();
        names.sort();
        Ok(names.get(i).map_or(std::ptr::null(), |name| text::lasting(name)))
    })
}

/// How many states a rule keeps for each parameter with the hyper-parameters that it has: from none
/// for plain "sgd" to 3 for "adamw" with "amsgrad". 0 for NULL.
///
/// # Safety
///
/// `rule` is NULL or a rule that no other thread changes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_rule_state_count(rule: *const FusedAdamRule) -> usize {
    guarded_or(0, || {
        // SAFETY: the caller's promise.
        Ok(unsafe { handle("rule", rule) }?.0.state_names().len())
    })
}

/// The name of state number `i` of a rule, from 0 on, such as "m" or "v": in this order they are handed
/// to a step. NULL, which is not an error, when there are no more.
///
/// Returns a text that is valid for ever; NULL for a NULL too.
///
/// # Safety
///
/// `rule` is NULL or a rule that no other thread changes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_rule_state_name(
    rule: *const FusedAdamRule,
    i: usize,
) -> *const c_char {
    guarded_or(std::ptr::null(), || {
        // SAFETY: the caller's promise.
        let names = unsafe { handle("rule", rule) }?.0.state_names();
        Ok(names.get(i).map_or(std::ptr::null(), |name| text::lasting(name)))
    })
}

/// What the elements of state number `i` are before the first step: 0, but for "adagrad" with an
/// "initial_accumulator_value". 0 for NULL.
///
/// # Safety
///
/// `rule` is NULL or a rule that no other thread changes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_rule_initial_state(
    rule: *const FusedAdamRule,
    i: usize,
) -> f64 {
    guarded_or(0.0, || {
        // SAFETY: the caller's promise.
        Ok(unsafe { handle("rule", rule) }?.0.initial_state(i))
    })
}
