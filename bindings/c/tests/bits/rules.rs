//! Rules made through the header by name. This checks that each name sets its hyper-parameter.

use std::ffi::{CStr, CString};
use std::ptr::null_mut;

use fused_adam::{AnyRule, Rule};
use fused_adam_c::*;
use serde_json::Value;

use crate::common::rules;
use crate::expect_ok;

/// A rule through the header.
pub struct Handle(*mut FusedAdamRule);

impl Handle {
    /// A rule with all hyper-parameters of `rule`. Also reads them back.
    pub fn of(rule: &AnyRule) -> Self {
        let mut handle = null_mut();
        let name = CString::new(rule.name()).unwrap();
        // SAFETY: each pointer is valid for the call.
        unsafe {
            expect_ok(fused_adam_rule_new(name.as_ptr(), &raw mut handle));
            assert_eq!(CStr::from_ptr(fused_adam_rule_name(handle)), &*name);
            let fields = fields(rule);
            for (name, value) in &fields {
                expect_ok(fused_adam_rule_set(handle, name.as_ptr(), *value));
            }
            let mut i = 0;
            for (name, value) in &fields {
                let mut got = f64::NAN;
                expect_ok(fused_adam_rule_get(handle, name.as_ptr(), &raw mut got));
                assert_eq!(got.to_bits(), value.to_bits(), "{name:?}");
                assert!(!fused_adam_rule_parameter_name(handle, i).is_null());
                i += 1;
            }
            assert!(fused_adam_rule_parameter_name(handle, i).is_null(), "one was not set");
        }
        Handle(handle)
    }

    pub fn get(&self) -> *const FusedAdamRule {
        self.0
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: it is not used again.
        unsafe { fused_adam_rule_free(self.0) };
    }
}

/// Every hyper-parameter by its name in the header, which is that of its field. Booleans are 0 or
/// 1, and integers are passed as doubles.
fn fields(rule: &AnyRule) -> Vec<(CString, f64)> {
    let number = |value: &Value| match value {
        Value::Bool(truth) => Some(f64::from(u8::from(*truth))),
        other => other.as_f64(),
    };
    rules::fields(rule)
        .into_iter()
        .filter_map(|(name, value)| Some((CString::new(name).unwrap(), number(&value)?)))
        .collect()
}
