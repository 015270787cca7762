//! A step of the optimizer: checks the buffers of its parameters and passes them to the core.

use std::ffi::c_void;

use fused_adam::{Element, Error, ParamId, Tensor, bf16, f16};

use crate::buffers::{
    AddressRange, Buffer, DType, array, check_apart, slice, slice_mut, with_element,
};
use crate::optimizer::{Contents, FusedAdamOptimizer, write};
use crate::options::FusedAdamReport;
use crate::rule;
use crate::split;
use crate::status::{Failure, FusedAdamStatus, guarded};
use crate::step::beside;
use crate::threads;

/// One parameter in one step of an optimizer. Set the structure to zero before you set its members:
/// 0 and NULL mean "not used".
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FusedAdamTensor {
    /// The number of the parameter, from fused_adam_optimizer_add.
    pub param: usize,
    /// The number of elements of each buffer, as registered.
    pub len: usize,
    /// The parameters, of the registered type. The step updates them.
    pub theta: *mut c_void,
    /// Their gradient, of the registered type. The step only reads it, unless zero_grad is 1.
    pub grad: *const c_void,
    /// If theta is float: where to store a 16-bit copy of the new theta, rounded to nearest. NULL
    /// for none.
    pub copy: *mut c_void,
    /// The FusedAdamType of copy, if it is not NULL: FUSED_ADAM_TYPE_BF16 or FUSED_ADAM_TYPE_F16.
    pub copy_type: i32,
    /// 1 to set the gradient to zero in the same pass, also if the step is skipped. 0 to leave it.
    pub zero_grad: i32,
    /// If theta is bfloat16: the lower part of split master weights, with as many elements. The
    /// step updates it. Pass it in every step. fused_adam_split_weights explains it. NULL for none.
    pub correction: *mut c_void,
    /// The number of bits of an element of correction: 16 for uint16_t, 8 for uint8_t, or 0 for no
    /// correction.
    pub correction_bits: i32,
}

/// The buffers of one parameter in one step.
struct StepTensor {
    id: ParamId,
    theta: Buffer,
    grad: Buffer,
    beside: Option<Buffer>,
}

impl StepTensor {
    fn new(
        opt: &Contents,
        number: usize,
        tensor: &FusedAdamTensor,
        spans: &mut Vec<AddressRange>,
    ) -> Result<Self, Failure> {
        let &FusedAdamTensor { param, len, theta, grad, zero_grad, .. } = tensor;
        let own = opt.param(param)?;
        let zero = rule::truth("zero_grad", f64::from(zero_grad))?;
        let tensor_number = Some(number);
        let buffer = |name, pointer, of, written| Buffer {
            pointer,
            len,
            of,
            name,
            tensor: tensor_number,
            written,
        };
        let theta = buffer("theta", theta, own.theta, true);
        let grad = buffer("grad", grad.cast_mut(), own.grad, zero);
        if len != own.len {
            let (name, expected) = (opt.core.names().nth(param).unwrap_or_default(), own.len);
            let param = name.to_owned();
            return Err(Error::TensorLength { param, buffer: "theta", len, expected }.into());
        }
        spans.push(theta.span()?);
        spans.push(grad.span()?);
        let beside = beside(
            (tensor.copy, tensor.copy_type),
            (tensor.correction, tensor.correction_bits),
            |name, pointer, of| buffer(name, pointer, of, true),
        )?;
        if let Some(beside) = beside {
            spans.push(beside.span()?);
        }
        // The caller can get the addresses of the states, so it could pass them as buffers.
        for state in opt.states(own) {
            spans.push(Buffer { tensor: tensor_number, ..state }.span()?);
        }
        Ok(StepTensor { id: own.id, theta, grad, beside })
    }

    /// The tensor, for the core.
    ///
    /// # Safety
    ///
    /// The buffers of all tensors of the call do not overlap, and nothing else uses them during
    /// `'a`.
    unsafe fn reborrow<'a>(&self) -> Tensor<'a> {
        // SAFETY: the caller's promise, and each type is that of its buffer.
        unsafe { with_element!(self.theta.of, T => self.of_theta::<T>()) }
    }

    /// # Safety
    ///
    /// As for [`reborrow`](Self::reborrow), with theta of type `T`.
    unsafe fn of_theta<'a, T: Element>(&self) -> Tensor<'a> {
        // SAFETY: the caller's promise, and each type is that of its buffer.
        unsafe { with_element!(self.grad.of, G => self.of_grad::<T, G>()) }
    }

    /// # Safety
    ///
    /// As for [`reborrow`](Self::reborrow), with theta of type `T` and grad of type `G`.
    unsafe fn of_grad<'a, T: Element, G: Element>(&self) -> Tensor<'a> {
        // SAFETY: the caller's promise; `check_apart` treated a gradient that is zeroed as written.
        unsafe {
            let theta = slice_mut::<T>(self.theta);
            let tensor = match self.grad.written {
                true => Tensor::zero_grad(self.id, theta, slice_mut::<G>(self.grad)),
                false => Tensor::new(self.id, theta, slice::<G>(self.grad)),
            };
            let Some(beside) = self.beside else { return tensor };
            match beside.of {
                DType::F16 => tensor.with_copy(slice_mut::<f16>(beside)),
                DType::Bf16 => tensor.with_copy(slice_mut::<bf16>(beside)),
                _ => tensor.with_correction(split::correction(beside)),
            }
        }
    }
}

/// Takes a step on the given parameters, in any order, in one parallel region. Other parameters,
/// their states and their step numbers do not change.
///
/// - tensors: an array of tensor_count structures.
/// - report: where to store what the step did. NULL if you do not need it.
///
/// All arguments are checked before anything is written. Returns FUSED_ADAM_STATUS_BUSY if another
/// call uses the optimizer, FUSED_ADAM_STATUS_UNKNOWN if a parameter does not exist,
/// FUSED_ADAM_STATUS_DUPLICATE if one is given twice, FUSED_ADAM_STATUS_LENGTH if a length is not
/// the registered one, and the errors of fused_adam_step_all.
///
/// # Safety
///
/// `opt` is NULL or an optimizer. Each other pointer that is not NULL points to as many elements as
/// its description says. During the call, no other thread writes to them, or reads what the call
/// writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_optimizer_step(
    opt: *mut FusedAdamOptimizer,
    tensors: *const FusedAdamTensor,
    tensor_count: usize,
    report: *mut FusedAdamReport,
) -> FusedAdamStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (mut opt, tensors) = unsafe { (write(opt)?, array("tensors", tensors, tensor_count)?) };
        // The threads of a pool can share the contents, but not the guard of their lock.
        let opt: &mut Contents = &mut opt;
        let (mut spans, mut tensors_to_step) = (Vec::new(), Vec::with_capacity(tensors.len()));
        for (i, tensor) in tensors.iter().enumerate() {
            tensors_to_step.push(StepTensor::new(opt, i, tensor, &mut spans)?);
        }
        // First, because a tensor that is given twice also overlaps itself.
        let mut given = vec![false; opt.params.len()];
        for tensor in tensors {
            if std::mem::replace(&mut given[tensor.param], true) {
                let name = opt.core.names().nth(tensor.param).unwrap_or_default();
                return Err(Error::GivenTwice { param: name.to_owned() }.into());
            }
        }
        check_apart(&mut spans)?;
        let bytes =
            tensors_to_step.iter().map(|tensor| tensor.theta.len * tensor.theta.of.bytes()).sum();
        // SAFETY: all buffers passed the checks and do not overlap; the caller promises the rest.
        let borrowed: Vec<Tensor<'_>> =
            tensors_to_step.iter().map(|tensor| unsafe { tensor.reborrow() }).collect();
        let own = opt.core.options;
        let took = threads::run(own, bytes, |options| {
            opt.core.options = *options;
            let took = opt.core.step(borrowed);
            opt.core.options = own;
            took
        })?;
        if !report.is_null() {
            // SAFETY: the caller promises that it is valid for writes.
            unsafe { report.write(took.into()) };
        }
        Ok(())
    })
}
