//! Rules: each handle has a rule of the core beside it, whose fields are set in the same way.

use std::ffi::CStr;
use std::ptr::{null, null_mut};

use fused_adam::{AnyRule, Rule};
use fused_adam_c::FusedAdamStatus as Status;
use fused_adam_c::*;

use crate::source::{Source, Text};
use crate::status::{c, expect, expect_unless, of_result};

/// A rule and the handle of its twin.
pub struct RuleHandle {
    pub handle: *mut FusedAdamRule,
    pub rule: AnyRule,
}

/// A hyper-parameter of a rule.
enum Field<'a> {
    Number(&'a mut f64),
    Truth(&'a mut bool),
    Count(&'a mut u64),
}

/// Declares the hyper-parameters of all rules: numbers, booleans and counts.
macro_rules! declare_fields {
    ($($Rule:ident [$($number:ident)*] [$($truth:ident)*] [$($count:ident)*])*) => {
        /// The names of the hyper-parameters of any rule. Some are listed several times.
        const FIELDS: &[&str] =
            &[$($(stringify!($number),)* $(stringify!($truth),)* $(stringify!($count),)*)*];

        fn field<'a>(rule: &'a mut AnyRule, name: &str) -> Option<Field<'a>> {
            match rule {
                $(AnyRule::$Rule(rule) => match name {
                    $(stringify!($number) => Some(Field::Number(&mut rule.$number)),)*
                    $(stringify!($truth) => Some(Field::Truth(&mut rule.$truth)),)*
                    $(stringify!($count) => Some(Field::Count(&mut rule.$count)),)*
                    _ => None,
                },)*
                rule => panic!("the fields of {rule} are missing here"),
            }
        }
    };
}

declare_fields! {
    Sgd [lr momentum dampening weight_decay]
        [decoupled_weight_decay nesterov average maximize] []
    RmsProp [lr alpha eps weight_decay momentum] [eps_inside centered maximize] []
    AdaGrad [lr lr_decay initial_accumulator_value eps weight_decay] [maximize] []
    Adam [lr beta1 beta2 eps weight_decay] [amsgrad maximize bias_correction] []
    AdamW [lr beta1 beta2 eps weight_decay] [amsgrad maximize bias_correction] []
    AdaMax [lr beta1 beta2 eps weight_decay] [maximize] []
    NAdam [lr beta1 beta2 eps weight_decay momentum_decay] [decoupled_weight_decay maximize] []
    RAdam [lr beta1 beta2 eps weight_decay] [decoupled_weight_decay maximize] []
    AdaBound [lr beta1 beta2 final_lr gamma eps weight_decay]
        [decoupled_weight_decay amsbound maximize] []
    AdaBelief [lr beta1 beta2 eps weight_decay] [decoupled_weight_decay maximize] []
    Lion [lr beta1 beta2 weight_decay] [maximize] []
    AdEMAMix [lr beta1 beta2 beta3 alpha eps weight_decay] [maximize]
        [alpha_warmup beta3_warmup]
}

/// The name of a hyper-parameter, mostly of this rule.
pub fn field_name(rule: &mut AnyRule, source: &mut Source) -> Text {
    let own: Vec<&str> =
        FIELDS.iter().copied().filter(|name| field(rule, name).is_some()).collect();
    if source.rarely() { source.name(FIELDS) } else { Text::new(source.pick(&own)) }
}

/// Sets a hyper-parameter as fused_adam_rule_set describes.
pub fn set_field(rule: &mut AnyRule, name: &str, value: f64) -> Status {
    match field(rule, name) {
        None => return Status::Unknown,
        Some(_) if !value.is_finite() => return Status::Value,
        Some(Field::Number(field)) => *field = value,
        Some(Field::Truth(field)) if value == 0.0 || value == 1.0 => *field = value == 1.0,
        Some(Field::Count(field))
            if value.fract() == 0.0 && (0.0..=9_007_199_254_740_992.0).contains(&value) =>
        {
            *field = value as u64;
        }
        _ => return Status::Value,
    }
    Status::Ok
}

pub fn get_field(rule: &mut AnyRule, name: &str) -> Option<f64> {
    Some(match field(rule, name)? {
        Field::Number(number) => *number,
        Field::Truth(truth) => f64::from(u8::from(*truth)),
        Field::Count(count) => *count as f64,
    })
}

impl Drop for RuleHandle {
    fn drop(&mut self) {
        c!(fused_adam_rule_free(self.handle));
    }
}

impl RuleHandle {
    pub fn new(rule: AnyRule) -> Self {
        let (name, mut handle) = (Text::new(rule.name()), null_mut());
        expect(c!(fused_adam_rule_new(name.pointer(), &raw mut handle)), Status::Ok);
        RuleHandle { handle, rule }
    }

    /// Makes a rule of any name.
    pub fn try_new(source: &mut Source) -> Option<Self> {
        let (name, mut faults, mut handle) =
            (source.name(AnyRule::NAMES), Vec::new(), null_mut::<FusedAdamRule>().wrapping_add(1));
        let out = source.or_null(&raw mut handle, &mut faults);
        let text = name.checked(&mut faults).to_owned();
        let rule = text.parse::<AnyRule>();
        let expected = if rule.is_ok() { Status::Ok } else { Status::Unknown };
        let status = c!(fused_adam_rule_new(name.pointer(), out));
        if expect_unless(&faults, status, expected) {
            return rule.ok().map(|rule| RuleHandle { handle, rule });
        }
        assert!(out.is_null() || handle.is_null());
        None
    }

    /// A copy of the rule, by fused_adam_rule_clone.
    pub fn copy(&self) -> Self {
        let mut handle = null_mut();
        expect(c!(fused_adam_rule_clone(self.handle, &raw mut handle)), Status::Ok);
        let mut none = handle;
        expect(c!(fused_adam_rule_clone(null(), &raw mut none)), Status::Null);
        assert!(none.is_null());
        RuleHandle { handle, rule: self.rule }
    }

    pub fn set(&mut self, source: &mut Source) {
        let (name, value, mut faults) =
            (field_name(&mut self.rule, source), source.number(), Vec::new());
        let handle = source.or_null(self.handle, &mut faults);
        let text = name.checked(&mut faults);
        let status = c!(fused_adam_rule_set(handle, name.pointer(), value));
        let expected = match faults[..] {
            [] => set_field(&mut self.rule, text, value),
            _ => Status::Ok,
        };
        expect_unless(&faults, status, expected);
        self.get(source);
    }

    fn get(&mut self, source: &mut Source) {
        let (name, mut faults, mut value) = (field_name(&mut self.rule, source), Vec::new(), -1.5);
        let place = source.or_null(&raw mut value, &mut faults);
        let text = name.checked(&mut faults);
        let status = c!(fused_adam_rule_get(self.handle, name.pointer(), place));
        let expected = get_field(&mut self.rule, text);
        let otherwise = if expected.is_some() { Status::Ok } else { Status::Unknown };
        let ok = expect_unless(&faults, status, otherwise);
        assert_eq!(value.to_bits(), expected.filter(|_| ok).unwrap_or(-1.5).to_bits());
    }

    /// What the header has to say of a rule.
    pub fn describe(&self, source: &mut Source) {
        let (rule, handle) = (self.rule, self.handle);
        // SAFETY: the library's strings stay valid forever.
        let text = |string| unsafe { CStr::from_ptr(string) }.to_str().expect("UTF-8");
        expect(c!(fused_adam_rule_check(handle)), of_result(&rule.check()));
        assert_eq!(text(c!(fused_adam_rule_name(handle))), rule.name());
        let i = if source.rarely() { source.word() as usize } else { source.below(4) };
        assert_eq!(c!(fused_adam_rule_state_count(handle)), rule.states().len());
        let name = c!(fused_adam_rule_state_name(handle, i));
        match rule.states().get(i) {
            Some(state) => assert_eq!(text(name), state.name()),
            None => assert!(name.is_null()),
        }
        let initial = c!(fused_adam_rule_initial_state(handle, i));
        assert_eq!(initial.to_bits(), rule.initial_state(i).to_bits());
        assert_eq!(c!(fused_adam_rule_scalar_count(handle)), rule.scalars().len());
        let name = c!(fused_adam_rule_scalar_name(handle, i));
        let t = source.count();
        let after = c!(fused_adam_rule_scalar_after(handle, i, t));
        match rule.scalars().get(i) {
            Some(scalar) => assert_eq!(text(name), *scalar),
            None => assert!(name.is_null() && after == 0.0),
        }
        if rule.check().is_ok() && i < rule.scalars().len() {
            assert_eq!(after.to_bits(), rule.scalar_after(i, t).to_bits());
        }
        let parameter = c!(fused_adam_rule_parameter_name(handle, i));
        if !parameter.is_null() {
            let mut value = 0.0;
            expect(c!(fused_adam_rule_get(handle, parameter, &raw mut value)), Status::Ok);
        }
        // NULL is no rule.
        assert!(c!(fused_adam_rule_name(null())).is_null());
        assert!(c!(fused_adam_rule_state_name(null(), i)).is_null());
        assert_eq!(c!(fused_adam_rule_state_count(null())), 0);
        expect(c!(fused_adam_rule_check(null())), Status::Null);
    }

    /// Advances the scalars of a parameter.
    pub fn advance(&self, source: &mut Source) {
        let (t, names) = (source.count(), self.rule.scalars());
        let count = if source.rarely() { source.below(3) } else { names.len() };
        let mut scalars: Box<[f64]> = (0..count).map(|_| source.number()).collect();
        let (mut expected, mut faults) = (scalars.clone(), Vec::new());
        let mut pointer = scalars.as_mut_ptr();
        if count > 0 {
            pointer = source.or_null(pointer, &mut faults);
        }
        let handle = source.or_null(self.handle, &mut faults);
        // The number and the step number may be checked before the pointer.
        if count != names.len() {
            faults.push(Status::States);
        }
        if t == 0 || self.rule.check().is_err() {
            faults.push(Status::Value);
        }
        let status = c!(fused_adam_rule_advance_scalars(handle, t, pointer, count));
        if expect_unless(&faults, status, Status::Ok) {
            self.rule.advance_scalars(t, &mut expected);
        }
        let bits = |all: &[f64]| all.iter().map(|x| x.to_bits()).collect::<Vec<u64>>();
        assert_eq!(bits(&scalars), bits(&expected));
    }
}
