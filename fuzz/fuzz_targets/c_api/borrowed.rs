//! Steps on tensors whose states the caller stores: `fused_adam_step_all`, and the functions for
//! one tensor. Each is repeated with the core's `step_all`.

use std::ffi::c_void;
use std::ptr::{null, null_mut};

use fused_adam::{AnyRule, ParamMut, Rule, StepOptions, step_all};
use fused_adam_c::FusedAdamStatus as Status;
use fused_adam_c::*;

use crate::beside::{Beside, with_beside};
use crate::elements::{BF16, BLOCK8, Elements, F16, F32, F64, U8, U16, with_elements};
use crate::options::{NO_REPORT, OptionsHandle, expect_report, scalar};
use crate::rules::RuleHandle;
use crate::source::Source;
use crate::status::{c, expect_unless, of_result};

/// A tensor with its buffers. A clone has copies of them.
#[derive(Clone)]
struct Borrowed {
    rule: usize,
    t: u64,
    len: usize,
    /// Of θ, the gradient and the states.
    types: [i32; 3],
    theta: Elements,
    grad: Elements,
    states: Vec<Elements>,
    scalars: Option<Box<[f64]>>,
    beside: Beside,
    seed: u64,
    offset: u64,
}

impl Borrowed {
    fn new(rule: usize, of: Option<&AnyRule>, types: [i32; 3], source: &mut Source) -> Self {
        let len = source.pick(&[0, 1, 5, 31, 32, 33, 64, 67, 100, 200]);
        let [theta_type, grad_type, state_type] = types;
        let names = of.map_or(2, |rule| rule.states().len());
        let states = if source.rarely() { source.below(5) } else { names };
        let scalars = of.map_or(0, |rule| rule.scalars().len());
        let scalars = if source.rarely() { source.below(3) } else { scalars };
        Borrowed {
            rule,
            t: source.count(),
            len,
            types,
            theta: Elements::random(theta_type, len, source),
            grad: Elements::random(grad_type, len, source),
            states: (0..states).map(|_| Elements::random(state_type, len, source)).collect(),
            scalars: (source.below(4) == 3)
                .then(|| (0..scalars).map(|_| source.number()).collect::<Box<[f64]>>())
                // Without scalars, the pointer is NULL.
                .filter(|scalars| !scalars.is_empty()),
            beside: Beside::Nothing,
            seed: source.count(),
            offset: if source.rarely() { source.count() } else { 32 * source.below(3) as u64 },
        }
    }

    /// Types that go together, but rarely.
    fn types(source: &mut Source) -> [i32; 3] {
        if source.rarely() {
            return [source.pick(&[F32, F64, BF16, F16]), F32, source.pick(&[BLOCK8, F64])];
        }
        match source.below(4) {
            0 => [F64; 3],
            _ => [
                source.pick(&[F32, BF16, F16]),
                source.pick(&[F32, BF16, F16]),
                source.pick(&[F32, BF16, F16, BLOCK8]),
            ],
        }
    }

    fn param(&mut self) -> ParamMut<'_> {
        let (rule, t) = (self.rule, self.t);
        let grad = &self.grad;
        let mut param = with_elements!(&mut self.theta, theta => {
            with_elements!(grad, grad => ParamMut::new(rule, t, theta, grad))
        });
        param = param.with_seed(self.seed).with_offset(self.offset);
        for state in &mut self.states {
            param = match state {
                Elements::Block8(state) => param.with_state(state),
                state => with_elements!(state, state => param.with_state(state)),
            };
        }
        if let Some(scalars) = &self.scalars {
            param = param.with_scalars(scalars);
        }
        with_beside!(param, &mut self.beside)
    }

    #[track_caller]
    fn expect_same(&self, expected: &Self) {
        assert!(self.theta.same(&expected.theta), "θ: {:?} {:?}", self.theta, expected.theta);
        assert!(self.grad.same(&expected.grad), "the gradient");
        for (i, (state, expected)) in self.states.iter().zip(&expected.states).enumerate() {
            assert!(state.same(expected), "state {i}: {state:?}, expected {expected:?}");
        }
        assert_eq!(self.scalars.is_some(), expected.scalars.is_some());
        assert!(self.beside.same(&expected.beside), "what is beside θ");
    }

    /// The structure. `states` is where it finds the pointers to the states.
    fn structure(
        &mut self,
        states: &mut Vec<*mut c_void>,
        source: &mut Source,
        faults: &mut Vec<Status>,
    ) -> FusedAdamParam {
        *states = self.states.iter_mut().map(Elements::pointer).collect();
        let members = self.beside.members(source, faults);
        let [theta_type, grad_type, state_type] = self.types;
        let mut param = FusedAdamParam {
            rule: self.rule,
            t: self.t,
            len: self.len,
            theta: self.theta.pointer(),
            grad: self.grad.pointer(),
            states: states.as_ptr(),
            state_count: states.len(),
            scalars: self.scalars.as_ref().map_or(null(), |scalars| scalars.as_ptr()),
            scalar_count: self.scalars.as_ref().map_or(0, |scalars| scalars.len()),
            copy: members.copy,
            seed: self.seed,
            offset: self.offset,
            theta_type,
            grad_type,
            state_type,
            copy_type: members.copy_type,
            correction: members.correction,
            correction_bits: members.correction_bits,
        };
        if source.rarely() {
            self.wrong(&mut param, states, source, faults);
        }
        param
    }

    /// Makes one argument wrong, where that is possible.
    fn wrong(
        &self,
        param: &mut FusedAdamParam,
        states: &mut [*mut c_void],
        source: &mut Source,
        faults: &mut Vec<Status>,
    ) {
        match source.below(11) {
            0 if self.len > 0 => {
                faults.push(Status::Null);
                param.theta = null_mut();
            }
            1 if self.len > 0 => {
                faults.push(Status::Null);
                param.grad = null();
            }
            2 if self.len > 0 && !states.is_empty() => {
                faults.push(Status::Null);
                states[states.len() - 1] = null_mut();
            }
            3 if !states.is_empty() => {
                faults.push(Status::Null);
                param.states = null();
            }
            4 if self.len > 1 => {
                faults.push(Status::Misaligned);
                // The last element is left out, so that the buffer ends within its memory.
                param.len -= 1;
                param.theta = param.theta.wrapping_byte_add(1);
            }
            5 if self.len > 0 && self.types[0] == self.types[1] => {
                faults.push(Status::Overlap);
                param.grad = param.theta;
            }
            6 if self.len > 0 && states.len() > 1 => {
                faults.push(Status::Overlap);
                states[0] = states[1];
            }
            7 => {
                faults.push(Status::Type);
                param.theta_type = [BLOCK8, 5, -1, i32::MAX, i32::MIN][source.below(5)];
            }
            8 => {
                faults.push(Status::Type);
                param.state_type = [5, -1, i32::MAX, i32::MIN][source.below(4)];
            }
            // No buffer has so many elements, so there is none.
            9 => {
                faults.extend([Status::Null, Status::Length]);
                (param.theta, param.grad, param.len) = (null_mut(), null(), usize::MAX - 31);
                (param.copy, param.correction) = (null_mut(), null_mut());
                states.fill(null_mut());
            }
            10 if self.scalars.is_some() => {
                faults.push(Status::Null);
                param.scalars = null();
            }
            // Empty buffers can be NULL.
            _ if self.len == 0 => (param.theta, param.grad) = (null_mut(), null()),
            _ => {}
        }
    }
}

/// What a call can return for these tensors, if it has no wrong pointer: the order of the checks
/// is not described.
fn possible(given: &[Borrowed], rules: &[AnyRule], options: &StepOptions) -> Vec<Status> {
    let mut given = given.to_vec();
    let mut statuses = Vec::new();
    for tensor in &mut given {
        match rules.get(tensor.rule).map(Rule::states) {
            None => statuses.push(Status::Unknown),
            Some(states) if states.len() != tensor.states.len() => statuses.push(Status::States),
            Some(_) => {}
        }
        statuses.push(of_result(&step_all(rules, options, [tensor.param()])));
    }
    statuses.retain(|status| *status != Status::Ok);
    statuses
}

/// The options of a call, rarely NULL.
fn options_of(
    handle: &OptionsHandle,
    source: &mut Source,
) -> (*const FusedAdamOptions, StepOptions) {
    match source.below(4) {
        0 => (null(), scalar()),
        _ => (handle.handle, handle.options),
    }
}

/// Calls `fused_adam_step_all`.
pub fn step_many(rules: &[RuleHandle], options: &OptionsHandle, source: &mut Source) {
    let (mut faults, mut report) = (Vec::new(), NO_REPORT);
    let mut handles: Vec<*const FusedAdamRule> =
        rules.iter().map(|rule| rule.handle.cast_const()).collect();
    let core: Vec<AnyRule> = rules.iter().map(|rule| rule.rule).collect();
    let mut given: Vec<Borrowed> = Vec::new();
    for _ in 0..source.below(4) {
        let rule = if source.rarely() { source.pick(&[7, usize::MAX]) } else { 0 };
        let rule = if rule == 0 { source.below(rules.len()) } else { rule };
        let types = Borrowed::types(source);
        let mut tensor = Borrowed::new(rule, core.get(rule), types, source);
        if source.below(3) == 0 {
            tensor.beside = Beside::random(types[0], tensor.len, source);
        }
        given.push(tensor);
    }
    // Gradients can overlap each other.
    let shared = given.len() > 1
        && (given[0].types[1], given[0].len) == (given[1].types[1], given[1].len)
        && source.below(2) == 0;
    if shared {
        given[1].grad = given[0].grad.clone();
    }
    let (before, mut expected) = (given.clone(), given.clone());
    let (handle, own) = options_of(options, source);
    let report_expected = step_all(&core, &own, expected.iter_mut().map(Borrowed::param));
    let otherwise = of_result(&report_expected);

    let mut states = vec![Vec::new(); given.len()];
    let mut params: Vec<FusedAdamParam> = given
        .iter_mut()
        .zip(&mut states)
        .map(|(given, states)| given.structure(states, source, &mut faults))
        .collect();
    if shared && faults.is_empty() {
        params[1].grad = params[0].grad;
    }
    let (mut rules_at, mut params_at) = (handles.as_mut_ptr(), params.as_mut_ptr());
    if source.rarely() {
        let i = source.below(handles.len());
        faults.push(Status::Null);
        match source.below(2) {
            0 => rules_at = null_mut(),
            _ => handles[i] = null(),
        }
    }
    if !params.is_empty() {
        params_at = source.or_null(params_at, &mut faults);
    }
    let report_at = if source.rarely() { null_mut() } else { &raw mut report };
    let status = c!(fused_adam_step_all(
        rules_at,
        handles.len(),
        params_at,
        params.len(),
        handle,
        report_at
    ));
    if otherwise != Status::Ok {
        faults.push(otherwise);
        faults.extend(possible(&before, &core, &own));
    }
    let ok = expect_unless(&faults, status, Status::Ok);
    for (i, given) in given.iter().enumerate() {
        given.expect_same(if ok { &expected[i] } else { &before[i] });
    }
    match report_expected {
        Ok(expected) if ok && !report_at.is_null() => expect_report(&report, &expected),
        _ => assert_eq!(report, NO_REPORT),
    }
}

/// Calls a function for one tensor.
pub fn step_one(rule: &RuleHandle, options: &OptionsHandle, source: &mut Source) {
    let function = source.below(6);
    let types =
        [[F32; 3], [F64; 3], [BF16; 3], [F16; 3], [F32, F32, BLOCK8], [BF16, BF16, F32]][function];
    let (mut faults, mut report) = (Vec::new(), NO_REPORT);
    let mut given = Borrowed::new(0, Some(&rule.rule), types, source);
    (given.scalars, given.seed, given.offset) = (None, 0, 0);
    if function == 5 {
        let bits = source.pick(&[U16, U8]);
        given.beside = Beside::Correction(Elements::random(bits, given.len, source));
    }
    let (before, mut expected) = (given.clone(), given.clone());
    let (handle, own) = options_of(options, source);
    let report_expected = step_all(&[rule.rule], &own, [expected.param()]);
    let otherwise = of_result(&report_expected);

    let mut states = Vec::new();
    let param = given.structure(&mut states, source, &mut faults);
    let rule_at = source.or_null(rule.handle, &mut faults);
    let report_at = if source.rarely() { null_mut() } else { &raw mut report };
    let FusedAdamParam { t, len, theta, grad, states: at, state_count, .. } = param;
    /// Calls a function whose buffers have this type of θ and of states.
    macro_rules! call {
        ($function:ident, $T:ty, $S:ty) => {
            c!($function(
                rule_at,
                t,
                len,
                theta.cast::<$T>(),
                grad.cast::<$T>(),
                at.cast::<*mut $S>(),
                state_count,
                handle,
                report_at
            ))
        };
    }
    let status = match function {
        0 => call!(fused_adam_step_f32, f32, f32),
        1 => call!(fused_adam_step_f64, f64, f64),
        2 => call!(fused_adam_step_bf16, u16, u16),
        3 => call!(fused_adam_step_f16, u16, u16),
        4 => call!(fused_adam_step_8bit, f32, u8),
        _ => c!(fused_adam_step_split(
            rule_at,
            t,
            len,
            theta.cast(),
            param.correction,
            param.correction_bits,
            grad.cast(),
            at.cast(),
            state_count,
            handle,
            report_at
        )),
    };
    // The function has the types, not the caller.
    if param.theta_type != types[0] || param.state_type != types[2] {
        faults.retain(|fault| *fault != Status::Type);
    }
    if otherwise != Status::Ok {
        faults.push(otherwise);
        faults.extend(possible(std::slice::from_ref(&before), &[rule.rule], &own));
    }
    let ok = expect_unless(&faults, status, Status::Ok);
    given.expect_same(if ok { &expected } else { &before });
    match report_expected {
        Ok(expected) if ok && !report_at.is_null() => expect_report(&report, &expected),
        _ => assert_eq!(report, NO_REPORT),
    }
}
