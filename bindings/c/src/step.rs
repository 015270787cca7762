//! Steps of many tensors with states that the caller stores, by the core's `step_all`.

use std::ffi::c_void;

use fused_adam::{AnyRule, Element, Error, ParamMut, Rule, State, bf16, f16, step_all};

use crate::buffers::{
    AddressRange, Buffer, DType, array, check_apart, handle, slice, slice_mut, with_element,
    with_state,
};
use crate::options::{FusedAdamOptions, FusedAdamReport, or_default};
use crate::rule::FusedAdamRule;
use crate::split;
use crate::status::{Failure, FusedAdamStatus, guarded};
use crate::threads;

/// One tensor in a call of fused_adam_step_all, with states that the caller stores. Set the
/// structure to zero before you set its members: 0 and NULL mean "not used", and 0 is the number of
/// float.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FusedAdamParam {
    /// The index of its rule among the rules of the call.
    pub rule: usize,
    /// The step number, counted from 1.
    pub t: u64,
    /// The number of elements of each buffer.
    pub len: usize,
    /// The parameters. The step updates them.
    pub theta: *mut c_void,
    /// Their gradient. The step reads it.
    pub grad: *const c_void,
    /// An array of state_count pointers to the states, in the order of fused_adam_rule_state_name.
    /// The step updates them.
    pub states: *const *mut c_void,
    /// The number of states.
    pub state_count: usize,
    /// An array of scalar_count scalars, in the order of fused_adam_rule_scalar_name, with their
    /// values after this step: advance them with fused_adam_rule_advance_scalars before you call
    /// the step, which only reads them. NULL to use the values of fused_adam_rule_scalar_after,
    /// which are correct if all steps used the current hyper-parameters.
    pub scalars: *const f64,
    /// The number of scalars.
    pub scalar_count: usize,
    /// If theta is float: where to store a 16-bit copy of the new theta, rounded to nearest. NULL
    /// for none.
    pub copy: *mut c_void,
    /// The seed of the tensor's random bits, combined with the seed of the options. Give each
    /// tensor a different one. States in 8 bits and corrections of 8 bits use it even if the
    /// options round to nearest.
    pub seed: u64,
    /// If the buffers are a part of a larger tensor, such as the shard of one machine: the index of
    /// their first element in the whole tensor. It only affects stochastic rounding, whose random
    /// bits depend on the index in the whole tensor. With states in 8 bits it must be a multiple of
    /// 32.
    pub offset: u64,
    /// The FusedAdamType of theta.
    pub theta_type: i32,
    /// The FusedAdamType of grad.
    pub grad_type: i32,
    /// The FusedAdamType of all states.
    pub state_type: i32,
    /// The FusedAdamType of copy, if it is not NULL: FUSED_ADAM_TYPE_BF16 or FUSED_ADAM_TYPE_F16.
    pub copy_type: i32,
    /// If theta is bfloat16: the lower part of split master weights, with as many elements. The
    /// step updates it. fused_adam_split_weights explains it. NULL for none.
    pub correction: *mut c_void,
    /// The number of bits of an element of correction: 16 for uint16_t, 8 for uint8_t, or 0 for no
    /// correction.
    pub correction_bits: i32,
}

/// The buffers of one tensor that have passed the checks.
struct CheckedTensor<'a> {
    borrowed: &'a FusedAdamParam,
    theta: Buffer,
    grad: Buffer,
    states: &'a [*mut c_void],
    of_states: DType,
    scalars: Option<Buffer>,
    beside: Option<Buffer>,
}

impl<'a> CheckedTensor<'a> {
    /// Checks the buffers of one tensor, and adds their address ranges to `spans`.
    ///
    /// # Safety
    ///
    /// As for [`fused_adam_step_all`].
    unsafe fn new(
        borrowed: &'a FusedAdamParam,
        rules: &[AnyRule],
        tensor: Option<usize>,
        spans: &mut Vec<AddressRange>,
    ) -> Result<Self, Failure> {
        let &FusedAdamParam { rule: group, len, state_count, .. } = borrowed;
        let rule = rules.get(group).ok_or(Error::RuleIndex { rule: group, rules: rules.len() })?;
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
        let states = unsafe { array("states", borrowed.states, state_count) }?;
        let buffer =
            |name, pointer, of, written| Buffer { pointer, len, of, name, tensor, written };
        let of = DType::element("theta_type", borrowed.theta_type)?;
        let theta = buffer("theta", borrowed.theta, of, true);
        let of = DType::element("grad_type", borrowed.grad_type)?;
        let grad = buffer("grad", borrowed.grad.cast_mut(), of, false);
        let of_states = DType::state("state_type", borrowed.state_type)?;
        spans.push(theta.span()?);
        spans.push(grad.span()?);
        for (declared, &state) in declared.iter().zip(states) {
            spans.push(buffer(declared.name(), state, of_states, true).span()?);
        }
        let mut scalars = None;
        if !borrowed.scalars.is_null() || borrowed.scalar_count != 0 {
            let (pointer, len) = (borrowed.scalars.cast_mut().cast(), borrowed.scalar_count);
            let of = DType::F64;
            let buffer = Buffer { pointer, len, of, name: "scalars", tensor, written: false };
            spans.push(buffer.span()?);
            scalars = Some(buffer);
        }
        let beside = beside(
            (borrowed.copy, borrowed.copy_type),
            (borrowed.correction, borrowed.correction_bits),
            |name, pointer, of| buffer(name, pointer, of, true),
        )?;
        if let Some(beside) = beside {
            spans.push(beside.span()?);
        }
        Ok(CheckedTensor { borrowed, theta, grad, states, of_states, scalars, beside })
    }

    /// The tensor, for the core.
    ///
    /// # Safety
    ///
    /// The buffers of all tensors of the call do not overlap, and nothing else uses them during
    /// `'b`.
    unsafe fn reborrow<'b>(&self) -> ParamMut<'b> {
        // SAFETY: the caller's promise, and each type is that of its buffer.
        unsafe { with_element!(self.theta.of, T => self.of_theta::<T>()) }
    }

    /// # Safety
    ///
    /// As for [`reborrow`](Self::reborrow), with theta of type `T`.
    unsafe fn of_theta<'b, T: Element>(&self) -> ParamMut<'b> {
        // SAFETY: the caller's promise, and each type is that of its buffer.
        unsafe { with_element!(self.grad.of, G => self.of_grad::<T, G>()) }
    }

    /// # Safety
    ///
    /// As for [`reborrow`](Self::reborrow), with theta of type `T` and grad of type `G`.
    unsafe fn of_grad<'b, T: Element, G: Element>(&self) -> ParamMut<'b> {
        let &FusedAdamParam { rule, t, seed, offset, len, .. } = self.borrowed;
        // SAFETY: the caller's promise.
        let (theta, grad) = unsafe { (slice_mut::<T>(self.theta), slice::<G>(self.grad)) };
        let mut borrowed = ParamMut::new(rule, t, theta, grad).with_seed(seed).with_offset(offset);
        for &pointer in self.states {
            let of = self.of_states;
            let state = Buffer { pointer, len, of, ..self.theta };
            // SAFETY: the caller's promise, and each type is that of the buffer.
            borrowed = unsafe { with_state!(of, S => borrowed.with_state(slice_mut::<S>(state))) };
        }
        if let Some(scalars) = self.scalars {
            // SAFETY: the caller's promise.
            borrowed = borrowed.with_scalars(unsafe { slice::<f64>(scalars) });
        }
        let Some(beside) = self.beside else { return borrowed };
        // SAFETY: the caller's promise, and each type is that of the buffer.
        unsafe {
            match beside.of {
                DType::F16 => borrowed.with_copy(slice_mut::<f16>(beside)),
                DType::Bf16 => borrowed.with_copy(slice_mut::<bf16>(beside)),
                _ => borrowed.with_correction(split::correction(beside)),
            }
        }
    }
}

/// The buffer that a step writes beside theta, if there is one: a copy of theta in 16 bits, or the
/// correction of split master weights. Each is given with its type or its number of bits.
pub(crate) fn beside(
    (copy, of_copy): (*mut c_void, i32),
    (correction, bits): (*mut c_void, i32),
    buffer: impl FnOnce(&'static str, *mut c_void, DType) -> Buffer,
) -> Result<Option<Buffer>, Failure> {
    match (!copy.is_null(), !correction.is_null() || bits != 0) {
        (false, false) => Ok(None),
        (true, false) => Ok(Some(buffer("copy", copy, copy_type(of_copy)?))),
        (false, true) => Ok(Some(buffer("correction", correction, DType::correction(bits)?))),
        (true, true) => {
            let message = "`copy` and `correction` are both given, expected at most one of them: \
                           theta is f32 to be copied, and bf16 to have a correction";
            Err(Failure::new(FusedAdamStatus::Type, message))
        }
    }
}

/// The type of a 16-bit copy.
fn copy_type(number: i32) -> Result<DType, Failure> {
    match DType::element("copy_type", number)? {
        of @ (DType::Bf16 | DType::F16) => Ok(of),
        of => {
            let message = format!("`copy_type` is {}, expected bf16 or f16", of.name());
            Err(Failure::new(FusedAdamStatus::Type, message))
        }
    }
}

/// Takes a step on tensors whose structures have been read.
///
/// # Safety
///
/// As for [`fused_adam_step_all`].
pub(crate) unsafe fn step_tensors(
    rules: &[AnyRule],
    tensors: &[FusedAdamParam],
    options: *const FusedAdamOptions,
    report: *mut FusedAdamReport,
) -> Result<(), Failure> {
    let (mut spans, mut checked) = (Vec::new(), Vec::with_capacity(tensors.len()));
    for (i, borrowed) in tensors.iter().enumerate() {
        let number = (tensors.len() > 1).then_some(i);
        // SAFETY: the caller's promise.
        checked.push(unsafe { CheckedTensor::new(borrowed, rules, number, &mut spans) }?);
    }
    check_apart(&mut spans)?;
    let bytes = checked.iter().map(|tensor| tensor.theta.len * tensor.theta.of.bytes()).sum();
    // SAFETY: all buffers passed the checks and do not overlap; the caller promises the rest.
    let borrowed: Vec<ParamMut<'_>> =
        checked.iter().map(|tensor| unsafe { tensor.reborrow() }).collect();
    // SAFETY: the caller's promise.
    let options = unsafe { or_default(options) };
    let took = threads::run(options, bytes, |options| step_all(rules, options, borrowed))?;
    if !report.is_null() {
        // SAFETY: the caller promises that it is valid for writes.
        unsafe { report.write(took.into()) };
    }
    Ok(())
}

/// Takes a step on many tensors in one parallel region, with states that the caller stores. The
/// results are bit-identical to separate steps on each tensor, except that clipping uses the norm
/// of all gradients.
///
/// - rules: an array of rule_count rules: `const FusedAdamRule *rules[]`. Each tensor has the index
///   of its rule.
/// - tensors: an array of tensor_count structures.
/// - options: the options of the step. NULL for the defaults.
/// - report: where to store what the step did. NULL if you do not need it.
///
/// Buffers can have any length. Empty ones can be NULL. They must be aligned to their elements,
/// except that states in 8 bits can have any address. They must not overlap, except that
/// gradients, which are only read, can overlap each other.
///
/// All arguments are checked before anything is written. After an error nothing has changed, and
/// the message has the index of the tensor. Returns FUSED_ADAM_STATUS_NULL,
/// FUSED_ADAM_STATUS_LENGTH, FUSED_ADAM_STATUS_MISALIGNED, FUSED_ADAM_STATUS_OVERLAP,
/// FUSED_ADAM_STATUS_UNKNOWN if a rule does not exist, FUSED_ADAM_STATUS_VALUE if a
/// hyper-parameter, an option, a step number, an offset or correction_bits is outside its range,
/// FUSED_ADAM_STATUS_TYPE if the types cannot be combined, FUSED_ADAM_STATUS_STATES if the number
/// of states or scalars is not that of the rule, and FUSED_ADAM_STATUS_NONFINITE.
///
/// Any number of threads may call it at the same time, each with its own buffers.
///
/// # Safety
///
/// Each pointer that is not NULL points to as many elements as its description says. During the
/// call, no other thread writes to them, or reads what the call writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_step_all(
    rules: *const *const FusedAdamRule,
    rule_count: usize,
    tensors: *const FusedAdamParam,
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
        let rule = |rule: &*const FusedAdamRule| Ok(unsafe { handle("rules", *rule) }?.0.get());
        let rules: Vec<AnyRule> = rules.iter().map(rule).collect::<Result<_, Failure>>()?;
        // SAFETY: the caller's promise.
        unsafe { step_tensors(&rules, tensors, options, report) }
    })
}
