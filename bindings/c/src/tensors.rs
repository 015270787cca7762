//! A step of the optimizer: the buffers of its parameters, checked and handed to the core.

use std::ffi::c_void;

use fused_adam::{Element, Error, ParamId, Tensor, bf16, f16};

use crate::buffers::{
    Buffer, FusedAdamType, Span, array, check_apart, handle_mut, slice, slice_mut,
};
use crate::optimizer::FusedAdamOptimizer;
use crate::options::FusedAdamReport;
use crate::rule;
use crate::status::{Failure, FusedAdamStatus, guarded};
use crate::step::copy_type;
use crate::threads;

/// One parameter in one step of an optimizer. To be set to zero before its members are: 0 and NULL
/// stand for "not used".
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FusedAdamTensor {
    /// The number that fused_adam_optimizer_add gave.
    pub param: usize,
    /// How many elements its buffers have: as many as were registered.
    pub len: usize,
    /// The parameters, which are updated, of the type that was registered.
    pub theta: *mut c_void,
    /// Their gradient, of the type that was registered. It is read, and written only with
    /// zero_grad.
    pub grad: *const c_void,
    /// Where the new theta, if it is float, is stored a second time in 16 bits, rounded to the
    /// nearest; or NULL.
    pub copy: *mut c_void,
    /// The FusedAdamType of copy, if there is one: one of the two of 16 bits.
    pub copy_type: i32,
    /// 1 to have the gradient set to zero in the same pass, in a step that is skipped too; else 0.
    pub zero_grad: i32,
}

/// The buffers of one parameter in one step.
struct Job {
    id: ParamId,
    theta: Buffer,
    grad: Buffer,
    copy: Option<Buffer>,
}

impl Job {
    fn new(
        opt: &FusedAdamOptimizer,
        number: usize,
        tensor: &FusedAdamTensor,
        spans: &mut Vec<Span>,
    ) -> Result<Self, Failure> {
        let &FusedAdamTensor { param, len, theta, grad, copy, zero_grad, .. } = tensor;
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
        let copy = match copy.is_null() {
            true => None,
            false => Some(buffer("copy", copy, copy_type(tensor.copy_type)?, true)),
        };
        if let Some(copy) = copy {
            spans.push(copy.span()?);
        }
        // Where they are can be asked for, so they could be handed in.
        for state in opt.states(own) {
            spans.push(Buffer { tensor: tensor_number, ..state }.span()?);
        }
        Ok(Job { id: own.id, theta, grad, copy })
    }

    /// The tensor for the core.
    ///
    /// # Safety
    ///
    /// The buffers of all jobs of the call are apart, and stay as they are for `'a`.
    unsafe fn lend<'a>(&self) -> Tensor<'a> {
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
    unsafe fn of_theta<'a, T: Element>(&self) -> Tensor<'a> {
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
    unsafe fn of_grad<'a, T: Element, G: Element>(&self) -> Tensor<'a> {
        // SAFETY: the caller's promise; a gradient that is to be zeroed counted as written.
        unsafe {
            let theta = slice_mut::<T>(self.theta);
            let tensor = match self.grad.written {
                true => Tensor::zeroing(self.id, theta, slice_mut::<G>(self.grad)),
                false => Tensor::new(self.id, theta, slice::<G>(self.grad)),
            };
            match self.copy {
                None => tensor,
                Some(copy) if copy.of == FusedAdamType::F16 => {
                    tensor.with_copy(slice_mut::<f16>(copy))
                }
                Some(copy) => tensor.with_copy(slice_mut::<bf16>(copy)),
            }
        }
    }
}

/// Takes a step on the parameters that are handed in, in any order, in one parallel region. The others
/// stay as they are, with their states and step numbers.
///
/// - tensors: an array of tensor_count structures.
/// - report: where to write what was done; NULL if nobody wants to know.
///
/// Everything is checked before anything is written. Returns FUSED_ADAM_STATUS_UNKNOWN for a
/// parameter that is not there, FUSED_ADAM_STATUS_DUPLICATE for one that is given twice,
/// FUSED_ADAM_STATUS_LENGTH for a length that is not its own, and what fused_adam_step_all does.
///
/// # Safety
///
/// `opt` is NULL or an optimizer that no other thread uses. Each other pointer that is not NULL points to
/// what is said of it, for as many elements as are said; no other thread writes any of it during
/// the call, nor reads what the call writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_optimizer_step(
    opt: *mut FusedAdamOptimizer,
    tensors: *const FusedAdamTensor,
    tensor_count: usize,
    report: *mut FusedAdamReport,
) -> FusedAdamStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (opt, tensors) =
            unsafe { (handle_mut("opt", opt)?, array("tensors", tensors, tensor_count)?) };
        let (mut spans, mut jobs) = (Vec::new(), Vec::with_capacity(tensors.len()));
        for (i, tensor) in tensors.iter().enumerate() {
            jobs.push(Job::new(opt, i, tensor, &mut spans)?);
        }
        // Said first, since a tensor that is given twice lies where it lies.
        let mut given = vec![false; opt.params.len()];
        for tensor in tensors {
            if std::mem::replace(&mut given[tensor.param], true) {
                let name = opt.core.names().nth(tensor.param).unwrap_or_default();
                return Err(Error::GivenTwice { param: name.to_owned() }.into());
            }
        }
        check_apart(&mut spans)?;
        let bytes = jobs.iter().map(|job| job.theta.len * job.theta.of.bytes()).sum();
        // SAFETY: all buffers have passed their checks and are apart, and the caller promises the rest.
        let lent: Vec<Tensor<'_>> = jobs.iter().map(|job| unsafe { job.lend() }).collect();
        let own = opt.core.options;
        let took = threads::run(own, bytes, |options| {
            opt.core.options = *options;
            let took = opt.core.step(lent);
            opt.core.options = own;
            took
        })?;
        if !report.is_null() {
            // SAFETY: the caller promises that it may be written.
            unsafe { report.write(took.into()) };
        }
        Ok(())
    })
}
