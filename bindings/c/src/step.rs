//! Steps whose states the caller keeps: of one buffer by element type, or of many tensors at once.
//! All of them become one call of the core's `step_all`.

use std::ffi::c_void;

use fused_adam::{AnyRule, Element, Error, Lent, Rule, State, bf16, f16, step_all};

use crate::buffers::{Buffer, FusedAdamType, Span, array, check_apart, handle, slice, slice_mut};
use crate::options::{FusedAdamOptions, FusedAdamReport, or_default};
use crate::rule::FusedAdamRule;
use crate::status::{Failure, FusedAdamStatus, guarded};
use crate::threads;

/// One tensor in a step of fused_adam_step_all, with states that the caller keeps. To be set to zero
/// before its members are: 0 and NULL stand for "not used", and for float.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FusedAdamLent {
    /// Which of the rules of the call it is stepped by.
    pub rule: usize,
    /// The number of its step, from 1 on.
    pub t: u64,
    /// How many elements each of its buffers has.
    pub len: usize,
    /// The parameters, which are updated.
    pub theta: *mut c_void,
    /// Their gradient, which is read.
    pub grad: *const c_void,
    /// An array of state_count pointers, to the states that fused_adam_rule_state_name names, in
    /// that order. They are updated.
    pub states: *const *mut c_void,
    /// How many states there are.
    pub state_count: usize,
    /// An array of scalar_count numbers: the scalars that fused_adam_rule_scalar_name names, as
    /// they are after this step, which fused_adam_rule_advance_scalars makes of those before it.
    /// They are read. NULL for what fused_adam_rule_scalar_after says, which is right where the
    /// hyper-parameters have been the present ones in all steps.
    pub scalars: *const f64,
    /// How many scalars there are.
    pub scalar_count: usize,
    /// Where the new theta, if it is float, is stored a second time in 16 bits, rounded to the
    /// nearest; or NULL.
    pub copy: *mut c_void,
    /// What its random bits are drawn from, together with the seed of the options.
    pub seed: u64,
    /// If it is a part of a tensor, the shard of one machine, say: which element of the whole is its first one.
    /// It concerns stochastic rounding alone, whose random bits belong to the whole.
    pub offset: u64,
    /// The FusedAdamType of theta.
    pub theta_type: i32,
    /// The FusedAdamType of grad.
    pub grad_type: i32,
    /// The FusedAdamType of all states.
    pub state_type: i32,
    /// The FusedAdamType of copy, if there is one: one of the two of 16 bits.
    pub copy_type: i32,
}

/// What one tensor's buffers are, once they have passed their checks.
struct Checked<'a> {
    lent: &'a FusedAdamLent,
    theta: Buffer,
    grad: Buffer,
    states: &'a [*mut c_void],
    of_states: FusedAdamType,
    scalars: Option<Buffer>,
    copy: Option<Buffer>,
}

impl<'a> Checked<'a> {
    /// Checks the buffers of one tensor, and adds where they lie to `spans`.
    ///
    /// # Safety
    ///
    /// As for [`fused_adam_step_all`].
    unsafe fn new(
        lent: &'a FusedAdamLent,
        rules: &[AnyRule],
        tensor: Option<usize>,
        spans: &mut Vec<Span>,
    ) -> Result<Self, Failure> {
        let &FusedAdamLent { rule: group, len, state_count, .. } = lent;
        let rule = rules.get(group).ok_or(Error::UnknownGroup { group, groups: rules.len() })?;
        let declared = rule.states();
        if state_count != declared.len() {
            let (given, expected) = (state_count, declared.len());
            let names = declared.iter().map(State::name).collect();
            return Err(match declared.get(given) {
                Some(state) => Error::MissingState { name: state.name(), expected, names },
                None => Error::SuperfluousState { given, expected, names },
            }
            .into());
        }
        // SAFETY: the caller promises that there are `state_count` pointers.
        let states = unsafe { array("states", lent.states, state_count) }?;
        let buffer =
            |name, pointer, of, written| Buffer { pointer, len, of, name, tensor, written };
        let of = FusedAdamType::of("theta_type", lent.theta_type)?;
        let theta = buffer("theta", lent.theta, of, true);
        let of = FusedAdamType::of("grad_type", lent.grad_type)?;
        let grad = buffer("grad", lent.grad.cast_mut(), of, false);
        let of_states = FusedAdamType::of("state_type", lent.state_type)?;
        spans.push(theta.span()?);
        spans.push(grad.span()?);
        for (declared, &state) in declared.iter().zip(states) {
            spans.push(buffer(declared.name(), state, of_states, true).span()?);
        }
        let mut scalars = None;
        if !lent.scalars.is_null() || lent.scalar_count != 0 {
            let (pointer, len) = (lent.scalars.cast_mut().cast(), lent.scalar_count);
            let of = FusedAdamType::F64;
            let buffer = Buffer { pointer, len, of, name: "scalars", tensor, written: false };
            spans.push(buffer.span()?);
            scalars = Some(buffer);
        }
        let mut copy = None;
        if !lent.copy.is_null() {
            let of = copy_type(lent.copy_type)?;
            let buffer = buffer("copy", lent.copy, of, true);
            spans.push(buffer.span()?);
            copy = Some(buffer);
        }
        Ok(Checked { lent, theta, grad, states, of_states, scalars, copy })
    }

    /// The tensor for the core.
    ///
    /// # Safety
    ///
    /// The buffers of all tensors of the call are apart, and stay as they are for `'b`.
    unsafe fn lend<'b>(&self) -> Lent<'b> {
        // SAFETY: the caller's promise, and each type is that of its buffer.
        unsafe {
            match self.theta.of {
                FusedAdamType::F32 => self.of_theta::<f32>(),
                FusedAdamType::F64 => self.of_theta::<f64>(),
                FusedAdamType::Bf16 => self.of_theta::<bf16>(),
                FusedAdamType::F16 => self.of_theta::<f16>(),
            }
        }
    }

    /// # Safety
    ///
    /// As for [`lend`](Self::lend), with theta of type `T`.
    unsafe fn of_theta<'b, T: Element>(&self) -> Lent<'b> {
        // SAFETY: the caller's promise, and each type is that of its buffer.
        unsafe {
            match self.grad.of {
                FusedAdamType::F32 => self.of_grad::<T, f32>(),
                FusedAdamType::F64 => self.of_grad::<T, f64>(),
                FusedAdamType::Bf16 => self.of_grad::<T, bf16>(),
                FusedAdamType::F16 => self.of_grad::<T, f16>(),
            }
        }
    }

    /// # Safety
    ///
    /// As for [`lend`](Self::lend), with theta of type `T` and grad of type `G`.
    unsafe fn of_grad<'b, T: Element, G: Element>(&self) -> Lent<'b> {
        let &FusedAdamLent { rule, t, seed, offset, len, .. } = self.lent;
        // SAFETY: the caller's promise.
        let (theta, grad) = unsafe { (slice_mut::<T>(self.theta), slice::<G>(self.grad)) };
        let mut lent = Lent::new(rule, t, theta, grad).seed(seed).offset(offset);
        for &pointer in self.states {
            let of = self.of_states;
            let state = Buffer { pointer, len, of, ..self.theta };
            // SAFETY: the caller's promise, and each type is that of the buffer.
            lent = unsafe {
                match of {
                    FusedAdamType::F32 => lent.state(slice_mut::<f32>(state)),
                    FusedAdamType::F64 => lent.state(slice_mut::<f64>(state)),
                    FusedAdamType::Bf16 => lent.state(slice_mut::<bf16>(state)),
                    FusedAdamType::F16 => lent.state(slice_mut::<f16>(state)),
                }
            };
        }
        if let Some(scalars) = self.scalars {
            // SAFETY: the caller's promise.
            lent = lent.scalars(unsafe { slice::<f64>(scalars) });
        }
        match self.copy {
            None => lent,
            // SAFETY: the caller's promise, and each type is that of the buffer.
            Some(copy) => unsafe {
                match copy.of {
                    FusedAdamType::F16 => lent.copy(slice_mut::<f16>(copy)),
                    _ => lent.copy(slice_mut::<bf16>(copy)),
                }
            },
        }
    }
}

/// The type of a copy, which has 16 bits.
pub(crate) fn copy_type(number: i32) -> Result<FusedAdamType, Failure> {
    match FusedAdamType::of("copy_type", number)? {
        of @ (FusedAdamType::Bf16 | FusedAdamType::F16) => Ok(of),
        of => {
            let message = format!("`copy_type` is {}, expected bf16 or f16", of.name());
            Err(Failure::new(FusedAdamStatus::Type, message))
        }
    }
}

/// Takes a step on tensors whose structures have been found.
///
/// # Safety
///
/// As for [`fused_adam_step_all`].
unsafe fn step_tensors(
    rules: &[AnyRule],
    tensors: &[FusedAdamLent],
    options: *const FusedAdamOptions,
    report: *mut FusedAdamReport,
) -> Result<(), Failure> {
    let (mut spans, mut checked) = (Vec::new(), Vec::with_capacity(tensors.len()));
    for (i, lent) in tensors.iter().enumerate() {
        let number = (tensors.len() > 1).then_some(i);
        // SAFETY: the caller's promise.
        checked.push(unsafe { Checked::new(lent, rules, number, &mut spans) }?);
    }
    check_apart(&mut spans)?;
    let bytes = checked.iter().map(|tensor| tensor.theta.len * tensor.theta.of.bytes()).sum();
    // SAFETY: all buffers have passed their checks and are apart, and the caller promises the rest.
    let lent: Vec<Lent<'_>> = checked.iter().map(|tensor| unsafe { tensor.lend() }).collect();
    // SAFETY: the caller's promise.
    let options = unsafe { or_default(options) };
    let took = threads::run(options, bytes, |options| step_all(rules, options, lent))?;
    if !report.is_null() {
        // SAFETY: the caller promises that it may be written.
        unsafe { report.write(took.into()) };
    }
    Ok(())
}

/// Takes a step on many tensors, in one parallel region, with states that the caller keeps. The
/// results are to the bit those of a step on each tensor alone; a norm that is clipped is that of all
/// gradients together.
///
/// - rules: an array of rule_count rules. A tensor says by number which one is its own.
/// - tensors: an array of tensor_count structures.
/// - options: what else is asked for; NULL for the defaults.
/// - report: where to write what was done; NULL if nobody wants to know.
///
/// Buffers may be of any length, the empty ones NULL; they are aligned to their elements and
/// share no memory, but gradients, which are only read, may share it with each other.
///
/// Everything is checked before anything is written; nothing has changed after an error, which
/// names a tensor by its number. Returns FUSED_ADAM_STATUS_NULL, FUSED_ADAM_STATUS_LENGTH,
/// FUSED_ADAM_STATUS_MISALIGNED, FUSED_ADAM_STATUS_OVERLAP, FUSED_ADAM_STATUS_UNKNOWN for a rule that is not there,
/// FUSED_ADAM_STATUS_VALUE for hyper-parameters, options or step numbers outside their ranges,
/// FUSED_ADAM_STATUS_TYPE for types that do not go together, FUSED_ADAM_STATUS_STATES for more or
/// fewer states or scalars than the rule keeps, and FUSED_ADAM_STATUS_NONFINITE.
///
/// Any number of threads may call it, each on buffers of its own.
///
/// # Safety
///
/// Each pointer that is not NULL points to what is said of it, for as many elements as are said; no
/// other thread writes any of it during the call, nor reads what the call writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_step_all(
    rules: *const *const FusedAdamRule,
    rule_count: usize,
    tensors: *const FusedAdamLent,
    tensor_count: usize,
    options: *const FusedAdamOptions,
    report: *mut FusedAdamReport,
) -> FusedAdamStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (rules, tensors) = unsafe {
            (array("rules", rules, rule_count)?, array("tensors", tensors, tensor_count)?)
        };
        // SAFETY: the caller's promise.
        let rule = |rule: &*const FusedAdamRule| Ok(unsafe { handle("rules", *rule) }?.0);
        let rules: Vec<AnyRule> = rules.iter().map(rule).collect::<Result<_, Failure>>()?;
        // SAFETY: the caller's promise.
        unsafe { step_tensors(&rules, tensors, options, report) }
    })
}

/// A step of one buffer whose elements are all of one type.
struct One {
    rule: *const FusedAdamRule,
    of: FusedAdamType,
    lent: FusedAdamLent,
    options: *const FusedAdamOptions,
    report: *mut FusedAdamReport,
}

impl One {
    /// # Safety
    ///
    /// As for [`fused_adam_step_all`].
    unsafe fn step(self) -> FusedAdamStatus {
        let One { rule, of, lent, options, report } = self;
        let of = of as i32;
        let lent = FusedAdamLent { theta_type: of, grad_type: of, state_type: of, ..lent };
        guarded(|| {
            // SAFETY: the caller's promise.
            unsafe {
                let rules = [handle("rule", rule)?.0];
                step_tensors(&rules, &[lent], options, report)
            }
        })
    }
}

/// The parts of a tensor that are the same for all types.
fn lent<E>(
    t: u64,
    len: usize,
    theta: *mut E,
    grad: *const E,
    states: *const *mut E,
    state_count: usize,
) -> FusedAdamLent {
    FusedAdamLent {
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
        theta_type: 0,
        grad_type: 0,
        state_type: 0,
        copy_type: 0,
    }
}

/// Takes step number `t`, from 1 on, of a rule on buffers of float whose states the caller keeps.
///
/// - len: how many elements each buffer has. With 0 they may be NULL.
/// - theta: the parameters, which are updated.
/// - grad: their gradient, which is read.
/// - states: an array of state_count pointers, to the states that fused_adam_rule_state_name names, in
///   that order. They are updated; before the first step they are what
///   fused_adam_rule_initial_state says, which is 0 as a rule.
/// - options: what else is asked for; NULL for the defaults.
/// - report: where to write what was done; NULL if nobody wants to know.
///
/// Scalars of the rule, if it keeps any, are those that fused_adam_rule_scalar_after gives:
/// fused_adam_step_all takes others.
///
/// Errors, what the buffers must be, and threads: as for fused_adam_step_all.
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
    let lent = lent(t, len, theta, grad, states, state_count);
    // SAFETY: the caller's promise.
    unsafe { One { rule, of: FusedAdamType::F32, lent, options, report }.step() }
}

/// The same as fused_adam_step_f32, on buffers of double, and computed in double.
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
    let lent = lent(t, len, theta, grad, states, state_count);
    // SAFETY: the caller's promise.
    unsafe { One { rule, of: FusedAdamType::F64, lent, options, report }.step() }
}

/// The same as fused_adam_step_f32, on buffers that hold the bits of bfloat16. It is computed in
/// float, and rounded as the options say. Use fused_adam_step_all for states in float.
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
    let lent = lent(t, len, theta, grad, states, state_count);
    // SAFETY: the caller's promise.
    unsafe { One { rule, of: FusedAdamType::Bf16, lent, options, report }.step() }
}

/// The same as fused_adam_step_bf16, on buffers that hold the bits of IEEE 754 half precision.
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
    let lent = lent(t, len, theta, grad, states, state_count);
    // SAFETY: the caller's promise.
    unsafe { One { rule, of: FusedAdamType::F16, lent, options, report }.step() }
}
