//! A rule, made from its name, and its hyper-parameters by name. Which names a rule has is what its
//! serialised form says: no rule is written out here.

use std::ffi::c_char;

use fused_adam::{AnyRule, Error, Rule};
use serde_json::{Map, Number, Value};

use crate::buffers::{self, Buffer, FusedAdamType, handle, handle_mut, place, slice_mut};
use crate::status::{Failure, FusedAdamStatus, guarded, guarded_or};
use crate::text;

/// A rule with its hyper-parameters, such as AdamW: made by fused_adam_rule_new, freed by
/// fused_adam_rule_free.
///
/// One thread at a time may change it; while none does, any number may use it.
pub struct FusedAdamRule(pub(crate) AnyRule);

/// The hyper-parameters of a rule by name: numbers, whole numbers, and truth values.
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

/// Up to here every whole number is a double.
const MOST_WHOLE: f64 = (1_u64 << 53) as f64;

/// A whole number, as a double.
fn whole(name: &str, value: f64) -> Result<u64, Failure> {
    if value.fract() == 0.0 && (0.0..=MOST_WHOLE).contains(&value) {
        return Ok(value as u64);
    }
    Err(outside(name, value, "a whole number from 0 to 2^53"))
}

/// The new value of a hyper-parameter, of the kind that the present one is.
fn changed(present: &Value, name: &str, value: f64) -> Result<Value, Failure> {
    Ok(match present {
        Value::Bool(_) => Value::Bool(truth(name, value)?),
        Value::Number(number) if number.is_u64() => Value::from(whole(name, value)?),
        _ => Number::from_f64(value).map_or(Value::Null, Value::Number),
    })
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
        rule.set_lr(value);
        return Ok(());
    }
    let mut parameters = parameters(rule)?;
    let Some(parameter) = parameters.get_mut(name) else {
        return Err(unknown(rule, name, &parameters));
    };
    *parameter = changed(parameter, name, value)?;
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

/// The name of rule number `i` of those that there are, from 0 on, such as "adamw"; NULL, which is
/// not an error, when there are no more.
///
/// Returns a text that is valid for ever. Any thread may call it.
#[unsafe(no_mangle)]
pub extern "C" fn fused_adam_rule_name_at(i: usize) -> *const c_char {
    guarded_or(std::ptr::null(), || {
        Ok(AnyRule::NAMES.get(i).map_or(std::ptr::null(), |name| text::lasting(name)))
    })
}

/// Makes the rule of this name, such as "adamw", with its defaults. fused_adam_rule_name_at lists
/// the names.
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
/// the field in the documentation of the Rust crate. Truth values such as "amsgrad" are 0 or 1, and
/// those that count, such as a number of steps, are whole numbers from 0 to 2^53.
///
/// Whether all of them go together is checked in each step, or by fused_adam_rule_check.
///
/// Returns FUSED_ADAM_STATUS_UNKNOWN if the rule has no such hyper-parameter, with a message that
/// lists them; FUSED_ADAM_STATUS_VALUE if the value is not finite, not 0 or 1 for a truth value, or
/// not whole for a number that counts; FUSED_ADAM_STATUS_NULL and FUSED_ADAM_STATUS_TEXT.
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
        Ok(unsafe { handle("rule", rule) }?.0.states().len())
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
        let states = unsafe { handle("rule", rule) }?.0.states();
        Ok(states.get(i).map_or(std::ptr::null(), |state| text::lasting(state.name())))
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

/// How many scalars a rule keeps for each parameter beside its states: numbers that do not follow
/// from the number of the step, such as the product of the momenta of all steps, which a schedule
/// may change. 0 for most rules, and for NULL.
///
/// # Safety
///
/// `rule` is NULL or a rule that no other thread changes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_rule_scalar_count(rule: *const FusedAdamRule) -> usize {
    guarded_or(0, || {
        // SAFETY: the caller's promise.
        Ok(unsafe { handle("rule", rule) }?.0.scalars().len())
    })
}

/// The name of scalar number `i` of a rule, from 0 on, such as "mu_product": in this order they are
/// handed to a step. NULL, which is not an error, when there are no more.
///
/// Returns a text that is valid for ever; NULL for a NULL too.
///
/// # Safety
///
/// `rule` is NULL or a rule that no other thread changes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_rule_scalar_name(
    rule: *const FusedAdamRule,
    i: usize,
) -> *const c_char {
    guarded_or(std::ptr::null(), || {
        // SAFETY: the caller's promise.
        let names = unsafe { handle("rule", rule) }?.0.scalars();
        Ok(names.get(i).map_or(std::ptr::null(), |name| text::lasting(name)))
    })
}

/// What scalar number `i` of a rule is after `t` steps that all had its present hyper-parameters:
/// with 0, what it is before the first step. 0 if there is no such scalar, and for NULL.
///
/// Also 0 if a hyper-parameter is outside its range, with FUSED_ADAM_STATUS_VALUE as
/// fused_adam_last_status.
///
/// # Safety
///
/// `rule` is NULL or a rule that no other thread changes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_rule_scalar_after(
    rule: *const FusedAdamRule,
    i: usize,
    t: u64,
) -> f64 {
    guarded_or(0.0, || {
        // SAFETY: the caller's promise.
        let rule = &unsafe { handle("rule", rule) }?.0;
        rule.check()?;
        Ok(if i < rule.scalars().len() { rule.scalar_after(i, t) } else { 0.0 })
    })
}

/// Turns the scalars of a parameter as they were after step `t` - 1 into those after step `t`,
/// which fused_adam_step_all takes in FusedAdamLent. It is to be called with the hyper-parameters
/// of that step.
///
/// - scalars: an array of count numbers, which are changed in place. Before the first step they are
///   what fused_adam_rule_scalar_after says of step 0.
///
/// Returns FUSED_ADAM_STATUS_STATES if they are not as many as the rule keeps,
/// FUSED_ADAM_STATUS_VALUE for a hyper-parameter outside its range or if `t` is 0,
/// FUSED_ADAM_STATUS_NULL and FUSED_ADAM_STATUS_MISALIGNED.
///
/// # Safety
///
/// `rule` is NULL or a rule that no other thread changes; `scalars` is NULL or points to `count`
/// numbers that no other thread uses.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_rule_advance_scalars(
    rule: *const FusedAdamRule,
    t: u64,
    scalars: *mut f64,
    count: usize,
) -> FusedAdamStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let rule = &unsafe { handle("rule", rule) }?.0;
        let names = rule.scalars();
        if count != names.len() {
            let (given, expected) = (count, names.len());
            return Err(Error::Scalars { given, expected, names }.into());
        }
        if t == 0 {
            return Err(Error::StepNumber { t, expected: "1 for the first step" }.into());
        }
        rule.check()?;
        let (pointer, of) = (scalars.cast(), FusedAdamType::F64);
        let buffer =
            Buffer { pointer, len: count, of, name: "scalars", tensor: None, written: true };
        buffer.span()?;
        // SAFETY: it has passed its checks, and the caller promises the rest.
        rule.advance_scalars(t, unsafe { slice_mut::<f64>(buffer) });
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a new value of a hyper-parameter becomes, or why it is refused.
    fn change(present: Value, value: f64) -> Result<Value, String> {
        changed(&present, "x", value).map_err(|failure| {
            assert_eq!(failure.status, FusedAdamStatus::Value);
            failure.message
        })
    }

    #[test]
    fn a_new_value_is_of_the_kind_of_the_present_one() {
        assert_eq!(change(Value::from(7_u64), 3.0), Ok(Value::from(3_u64)));
        assert_eq!(change(Value::from(7_u64), -0.0), Ok(Value::from(0_u64)));
        assert_eq!(change(Value::from(0_u64), MOST_WHOLE), Ok(Value::from(1_u64 << 53)));
        for wrong in [2.5, -1.0, 2.0 * MOST_WHOLE, 1e300, 1e-300] {
            let message = format!("`x` is {wrong:?}, expected a whole number from 0 to 2^53");
            assert_eq!(change(Value::from(7_u64), wrong), Err(message));
        }
        assert_eq!(change(Value::from(7.0), 3.0), Ok(Value::from(3.0)));
        assert_eq!(change(Value::from(7.0), 2.5), Ok(Value::from(2.5)));
        assert_eq!(change(Value::from(true), 0.0), Ok(Value::from(false)));
        let message = "`x` is 2.0, expected 0 or 1".to_owned();
        assert_eq!(change(Value::from(true), 2.0), Err(message));
    }

    /// Each hyper-parameter of each rule takes another value of its kind, and keeps it.
    #[test]
    fn every_hyper_parameter_is_set_by_name() {
        for name in AnyRule::NAMES {
            let mut rule: AnyRule = name.parse().unwrap();
            for (key, present) in parameters(&rule).unwrap() {
                let of = |failure: Failure| format!("{name}, {key}: {}", failure.message);
                let (new, wrong) = match &present {
                    Value::Bool(truth) => (f64::from(u8::from(!truth)), Some(0.5)),
                    Value::Number(n) if n.is_u64() => (12_345.0, Some(2.5)),
                    _ => (0.375, None),
                };
                if let Some(wrong) = wrong {
                    let before = rule;
                    let failure = set(&mut rule, &key, wrong).unwrap_err();
                    assert_eq!(failure.status, FusedAdamStatus::Value, "{}", failure.message);
                    assert_eq!(rule, before);
                }
                set(&mut rule, &key, new).map_err(of).unwrap();
                assert_eq!(get(&rule, &key).map_err(of), Ok(new), "{name}, {key}");
            }
        }
    }
}
