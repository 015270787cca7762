//! Rules by name, with hyper-parameters by name. The names come from the serialized form of a rule,
//! so no rule is listed here.

use std::ffi::c_char;

use fused_adam::{AnyRule, Rule};
use serde_json::{Map, Number, Value};

use crate::buffers::{self, handle, place};
use crate::locks::Copied;
use crate::status::{Failure, FusedAdamStatus, guarded, guarded_or};
use crate::text;

/// A rule with its hyper-parameters, such as AdamW. Made by fused_adam_rule_new, freed by
/// fused_adam_rule_free.
///
/// Any number of threads may use and change a rule at the same time. Each call works with a copy of
/// the hyper-parameters from its beginning.
pub struct FusedAdamRule(pub(crate) Copied<AnyRule>);

/// The hyper-parameters that the rule of a handle has now.
///
/// # Safety
///
/// `rule` is NULL or a rule.
pub(crate) unsafe fn copied(rule: *const FusedAdamRule) -> Result<AnyRule, Failure> {
    // SAFETY: the caller's promise.
    Ok(unsafe { handle("rule", rule) }?.0.get())
}

/// The hyper-parameters of a rule by name: numbers, integers and booleans.
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
    let value = shown(value);
    Failure::new(FusedAdamStatus::Value, format!("`{name}` is {value}, expected {expected}"))
}

/// A number as C programs write it: an integer without a point.
pub(crate) fn shown(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() <= MOST_WHOLE {
        format!("{value:.0}")
    } else {
        format!("{value:?}")
    }
}

/// A boolean from a number.
pub(crate) fn truth(name: &str, value: f64) -> Result<bool, Failure> {
    match value {
        0.0 => Ok(false),
        1.0 => Ok(true),
        _ => Err(outside(name, value, "0 or 1")),
    }
}

/// Every integer up to this one is exact in double.
const MOST_WHOLE: f64 = (1_u64 << 53) as f64;

/// An integer from a double.
fn whole(name: &str, value: f64) -> Result<u64, Failure> {
    if value.fract() == 0.0 && (0.0..=MOST_WHOLE).contains(&value) {
        return Ok(value as u64);
    }
    Err(outside(name, value, "a whole number from 0 to 2^53"))
}

/// The new value of a hyper-parameter, with the type of the present value.
fn changed(present: &Value, name: &str, value: f64) -> Result<Value, Failure> {
    Ok(match present {
        Value::Bool(_) => Value::Bool(truth(name, value)?),
        Value::Number(number) if number.is_u64() => Value::from(whole(name, value)?),
        _ => Number::from_f64(value).map_or(Value::Null, Value::Number),
    })
}

/// Sets a hyper-parameter.
pub(crate) fn set(rule: &mut AnyRule, name: &str, value: f64) -> Result<(), Failure> {
    if !value.is_finite() {
        // First report a name that does not exist.
        get(rule, name)?;
        return Err(outside(name, value, "a finite number"));
    }
    if name == "lr" {
        // All rules have `lr`, and a schedule changes it before each step.
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

/// The value of a hyper-parameter.
pub(crate) fn get(rule: &AnyRule, name: &str) -> Result<f64, Failure> {
    let parameters = parameters(rule)?;
    match parameters.get(name) {
        Some(Value::Bool(truth)) => Ok(f64::from(u8::from(*truth))),
        Some(value) => Ok(value.as_f64().unwrap_or(f64::NAN)),
        None => Err(unknown(rule, name, &parameters)),
    }
}

/// The name of rule number `i`, counted from 0, such as "adamw". NULL, which is not an error, if
/// there are no more rules.
///
/// Returns a string that stays valid forever. Any thread may call it.
#[unsafe(no_mangle)]
pub extern "C" fn fused_adam_rule_name_at(i: usize) -> *const c_char {
    guarded_or(std::ptr::null(), || {
        Ok(AnyRule::NAMES.get(i).map_or(std::ptr::null(), |name| text::lasting(name)))
    })
}

/// Makes a rule from its name, such as "adamw", with default hyper-parameters.
/// fused_adam_rule_name_at lists the names.
///
/// - out: where to store the new handle, or NULL after an error. Free it with fused_adam_rule_free.
///
/// Returns FUSED_ADAM_STATUS_UNKNOWN if there is no such rule, with a message that lists them;
/// FUSED_ADAM_STATUS_NULL and FUSED_ADAM_STATUS_TEXT. Any thread may call it.
///
/// # Safety
///
/// `name` is NULL or ends with a NUL; `out` is NULL or valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_rule_new(
    name: *const c_char,
    out: *mut *mut FusedAdamRule,
) -> FusedAdamStatus {
    // SAFETY: the caller's promise.
    let named =
        || Ok(FusedAdamRule(Copied::new(unsafe { text::borrowed("name", name) }?.parse()?)));
    // SAFETY: the caller's promise.
    unsafe { buffers::make(out, named) }
}

/// Makes a copy of a rule. Free it with fused_adam_rule_free.
///
/// Returns FUSED_ADAM_STATUS_NULL if a pointer is NULL.
///
/// # Safety
///
/// `rule` is NULL or a rule; `out` is NULL or valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_rule_clone(
    rule: *const FusedAdamRule,
    out: *mut *mut FusedAdamRule,
) -> FusedAdamStatus {
    // SAFETY: the caller's promise.
    unsafe { buffers::make(out, || Ok(FusedAdamRule(Copied::new(copied(rule)?)))) }
}

/// Frees a rule. Does nothing for NULL. Optimizers have their own copies.
///
/// # Safety
///
/// `rule` is NULL or a rule that is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_rule_free(rule: *mut FusedAdamRule) {
    // SAFETY: the caller's promise.
    unsafe { buffers::free(rule) }
}

/// Sets a hyper-parameter of a rule: "lr", "beta1", "weight_decay" and so on. The names are those
/// of the fields in the documentation of the Rust crate. Booleans such as "amsgrad" are 0 or 1.
/// Counts, such as a number of steps, are whole numbers from 0 to 2^53.
///
/// Each step checks that the hyper-parameters are consistent. fused_adam_rule_check does so at
/// once.
///
/// Returns FUSED_ADAM_STATUS_UNKNOWN if the rule has no such hyper-parameter, with a message that
/// lists them; FUSED_ADAM_STATUS_VALUE if the value is not finite, if a boolean is not 0 or 1, or
/// if a count is not a whole number in its range; FUSED_ADAM_STATUS_NULL and
/// FUSED_ADAM_STATUS_TEXT.
///
/// # Safety
///
/// `rule` is NULL or a rule; `name` is NULL or ends with a NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_rule_set(
    rule: *mut FusedAdamRule,
    name: *const c_char,
    value: f64,
) -> FusedAdamStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (rule, name) = unsafe { (handle("rule", rule)?, text::borrowed("name", name)?) };
        rule.0.change(|rule| set(rule, name, value))
    })
}

/// Stores a hyper-parameter of a rule at `value`. A boolean is 0 or 1.
///
/// Returns FUSED_ADAM_STATUS_UNKNOWN if the rule has no such hyper-parameter, with a message that
/// lists them; FUSED_ADAM_STATUS_NULL and FUSED_ADAM_STATUS_TEXT.
///
/// # Safety
///
/// `rule` is NULL or a rule; `name` is NULL or ends with a NUL; `value` is NULL or valid for
/// writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_rule_get(
    rule: *const FusedAdamRule,
    name: *const c_char,
    value: *mut f64,
) -> FusedAdamStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (rule, name) = unsafe { (copied(rule)?, text::borrowed("name", name)?) };
        let value = place("value", value)?;
        let got = get(&rule, name)?;
        // SAFETY: it is not NULL, so the caller promises that it may be written.
        unsafe { value.write(got) };
        Ok(())
    })
}

/// Checks that all hyper-parameters of a rule are in their ranges and consistent, as each step
/// does.
///
/// Returns FUSED_ADAM_STATUS_VALUE with a message that names the first hyper-parameter that is not,
/// and FUSED_ADAM_STATUS_NULL.
///
/// # Safety
///
/// `rule` is NULL or a rule.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_rule_check(rule: *const FusedAdamRule) -> FusedAdamStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        Ok(unsafe { copied(rule) }?.check()?)
    })
}

/// The name of a rule, such as "adamw"; NULL for NULL.
///
/// Returns a string that stays valid forever.
///
/// # Safety
///
/// `rule` is NULL or a rule.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_rule_name(rule: *const FusedAdamRule) -> *const c_char {
    guarded_or(std::ptr::null(), || {
        // SAFETY: the caller's promise.
        Ok(text::lasting(unsafe { copied(rule) }?.name()))
    })
}

/// The name of hyper-parameter number `i` of a rule, counted from 0, in alphabetical order. NULL,
/// which is not an error, if there are no more.
///
/// Returns a string that stays valid forever, and NULL if `rule` is NULL.
///
/// # Safety
///
/// `rule` is NULL or a rule.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_rule_parameter_name(
    rule: *const FusedAdamRule,
    i: usize,
) -> *const c_char {
    guarded_or(std::ptr::null(), || {
        // SAFETY: the caller's promise.
        let parameters = parameters(&unsafe { copied(rule) }?)?;
        let mut names: Vec<&String> = parameters.keys().collect();
        names.sort();
        Ok(names.get(i).map_or(std::ptr::null(), |name| text::lasting(name)))
    })
}

/// The number of states that a rule has for each parameter, with its current hyper-parameters: from
/// 0 for plain "sgd" to 3 for "adamw" with "amsgrad". 0 for NULL.
///
/// # Safety
///
/// `rule` is NULL or a rule.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_rule_state_count(rule: *const FusedAdamRule) -> usize {
    guarded_or(0, || {
        // SAFETY: the caller's promise.
        Ok(unsafe { copied(rule) }?.states().len())
    })
}

/// The name of state number `i` of a rule, counted from 0, such as "m" or "v". Steps take the
/// states in this order. NULL, which is not an error, if there are no more.
///
/// Returns a string that stays valid forever, and NULL if `rule` is NULL.
///
/// # Safety
///
/// `rule` is NULL or a rule.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_rule_state_name(
    rule: *const FusedAdamRule,
    i: usize,
) -> *const c_char {
    guarded_or(std::ptr::null(), || {
        // SAFETY: the caller's promise.
        let states = unsafe { copied(rule) }?.states();
        Ok(states.get(i).map_or(std::ptr::null(), |state| text::lasting(state.name())))
    })
}

/// The initial value of the elements of state number `i`. It is 0, except for "adagrad" with an
/// "initial_accumulator_value". 0 for NULL. fused_adam_rule_encode_state stores it in 8 bits.
///
/// # Safety
///
/// `rule` is NULL or a rule.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_rule_initial_state(
    rule: *const FusedAdamRule,
    i: usize,
) -> f64 {
    guarded_or(0.0, || {
        // SAFETY: the caller's promise.
        Ok(unsafe { copied(rule) }?.initial_state(i))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The new value of a hyper-parameter, or the error message.
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
            let (failed, shown) = (change(Value::from(7_u64), wrong), shown(wrong));
            let message = format!("`x` is {shown}, expected a whole number from 0 to 2^53");
            assert_eq!(failed, Err(message));
        }
        assert_eq!(change(Value::from(7.0), 3.0), Ok(Value::from(3.0)));
        assert_eq!(change(Value::from(7.0), 2.5), Ok(Value::from(2.5)));
        assert_eq!(change(Value::from(true), 0.0), Ok(Value::from(false)));
        let message = "`x` is 2, expected 0 or 1".to_owned();
        assert_eq!(change(Value::from(true), 2.0), Err(message));
    }

    #[test]
    fn integers_are_shown_as_such() {
        let numbers = [0.0, -1.0, 2.5, 1e-300, MOST_WHOLE, 1e300, f64::INFINITY];
        let expected = ["0", "-1", "2.5", "1e-300", "9007199254740992", "1e300", "inf"];
        assert_eq!(numbers.map(shown), expected);
    }

    /// Each hyper-parameter of each rule can be set to another value of its type.
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
