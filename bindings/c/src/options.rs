//! What a step may be asked for, by name, and what it says it did.

use std::ffi::c_char;
use std::num::NonZeroUsize;

use fused_adam::{Backend, ClipNorm, Report, Rounding, Schedule, StepOptions};

use crate::buffers::{self, handle_mut};
use crate::rule::truth;
use crate::status::{Failure, FusedAdamStatus, guarded, guarded_or};
use crate::text;

/// What is done to the gradients of a step, and how it runs: made by fused_adam_options_new, freed
/// by fused_adam_options_free. Where functions take it, NULL stands for the defaults.
///
/// One thread at a time may change it; while none does, any number may use it.
pub struct FusedAdamOptions(pub(crate) StepOptions);

/// What a step did.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FusedAdamReport {
    /// The norm of all gradients, scaled but not clipped: the largest |g| with "clip_norm_inf", else
    /// the root of the sum of the squares. The same on every machine and number of threads. 0 if
    /// has_grad_norm is false.
    pub grad_norm: f64,
    /// What the gradients were multiplied with to clip their norm: 1 if they were not.
    pub clip_factor: f64,
    /// The largest change of an element of theta. 0 if has_largest_update is false.
    pub largest_update: f64,
    /// How many gradients were infinite or NaN. 0 if has_grad_norm is false.
    pub nonfinite: u64,
    /// Whether the gradients were looked at: for "clip_norm", "clip_norm_inf", "skip_nonfinite",
    /// "report_norm", or a loss scale.
    pub has_grad_norm: bool,
    /// Whether "report_largest_update" asked for it.
    pub has_largest_update: bool,
    /// That no step was taken, since a gradient was infinite or NaN.
    pub skipped: bool,
}

impl From<Report> for FusedAdamReport {
    fn from(report: Report) -> Self {
        FusedAdamReport {
            grad_norm: report.grad_norm.unwrap_or(0.0),
            clip_factor: report.clip_factor,
            largest_update: report.largest_update.unwrap_or(0.0),
            nonfinite: report.nonfinite.unwrap_or(0),
            has_grad_norm: report.grad_norm.is_some(),
            has_largest_update: report.largest_update.is_some(),
            skipped: report.skipped,
        }
    }
}

/// The names of [`fused_adam_options_set`].
const NAMES: [&str; 7] = [
    "grad_scale",
    "clip_norm",
    "clip_norm_inf",
    "clip_value",
    "skip_nonfinite",
    "report_norm",
    "report_largest_update",
];

/// Infinity is no bound.
fn bound(value: f64) -> Option<f64> {
    (value != f64::INFINITY).then_some(value)
}

fn set(options: &mut StepOptions, name: &str, value: f64) -> Result<(), Failure> {
    match name {
        "grad_scale" => options.grad_scale = value,
        "clip_norm" => options.clip_norm = bound(value).map(ClipNorm::Two),
        "clip_norm_inf" => options.clip_norm = bound(value).map(ClipNorm::Inf),
        "clip_value" => options.clip_value = bound(value),
        "skip_nonfinite" => options.skip_nonfinite = truth(name, value)?,
        "report_norm" => options.report_norm = truth(name, value)?,
        "report_largest_update" => options.report_largest_update = truth(name, value)?,
        _ => {
            let names = NAMES.join(", ");
            let message = format!("there is no option `{name}`, expected one of {names}");
            return Err(Failure::new(FusedAdamStatus::Unknown, message));
        }
    }
    Ok(())
}

/// Makes options that are all at their defaults.
///
/// - out: where the new handle is put, for fused_adam_options_free to free.
///
/// Returns FUSED_ADAM_STATUS_NULL for a NULL. Any thread may call it.
///
/// # Safety
///
/// `out` is NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_options_new(
    out: *mut *mut FusedAdamOptions,
) -> FusedAdamStatus {
    // SAFETY: the caller's promise.
    unsafe { buffers::make(out, || Ok(FusedAdamOptions(StepOptions::default()))) }
}

/// Frees options. NULL is fine. Optimizers have their own copies.
///
/// # Safety
///
/// `options` is NULL or options that are not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_options_free(options: *mut FusedAdamOptions) {
    // SAFETY: the caller's promise.
    unsafe { buffers::free(options) }
}

/// Changes an option:
///
/// - "grad_scale": what every gradient is multiplied with before all else, such as one over a loss
///   scale. Default 1.
/// - "clip_norm": scales all gradients down together where the root of the sum of their squares is
///   larger than this. INFINITY, the default, for no bound.
/// - "clip_norm_inf": the same for the largest |g|. The one of the two that is set last holds.
/// - "clip_value": holds every gradient within plus and minus this, after it has been scaled.
///   INFINITY, the default, for no bound.
/// - "skip_nonfinite": 1 to take no step if a gradient is infinite or NaN. Default 0.
/// - "report_norm": 1 to report the norm of the gradients also where nothing else needs it, which reads
///   them once more. Default 0.
/// - "report_largest_update": 1 to report it; this takes longer. Default 0.
///
/// Ranges are checked in each step.
///
/// Returns FUSED_ADAM_STATUS_UNKNOWN if there is no such option, with a message that lists them;
/// FUSED_ADAM_STATUS_VALUE for a truth value that is not 0 or 1; FUSED_ADAM_STATUS_NULL and
/// FUSED_ADAM_STATUS_TEXT.
///
/// # Safety
///
/// `options` is NULL or options that no other thread uses; `name` is NULL or ends with a NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_options_set(
    options: *mut FusedAdamOptions,
    name: *const c_char,
    value: f64,
) -> FusedAdamStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let options = unsafe { handle_mut("options", options) }?;
        // SAFETY: the caller's promise.
        set(&mut options.0, unsafe { text::borrowed("name", name) }?, value)
    })
}

/// Chooses how many elements are computed at once, and with which instructions: "auto", which is the
/// default and the fastest, "scalar", "wide", "native", "avx2", "avx512" or "neon". The results
/// are the same to the bit.
///
/// Returns FUSED_ADAM_STATUS_UNKNOWN if there is no such backend, with a message that lists them;
/// FUSED_ADAM_STATUS_BACKEND if this CPU cannot run it; FUSED_ADAM_STATUS_NULL and
/// FUSED_ADAM_STATUS_TEXT.
///
/// # Safety
///
/// `options` is NULL or options that no other thread uses; `name` is NULL or ends with a NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_options_set_backend(
    options: *mut FusedAdamOptions,
    name: *const c_char,
) -> FusedAdamStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let options = unsafe { handle_mut("options", options) }?;
        // SAFETY: the caller's promise.
        let backend: Backend = unsafe { text::borrowed("name", name) }?.parse()?;
        if !backend.is_available() {
            let available = Backend::ALL.into_iter().filter(|b| b.is_available());
            let available = available.map(Backend::name).collect();
            let backend = backend.name();
            return Err(fused_adam::Error::BackendNotAvailable { backend, available }.into());
        }
        options.0.backend = backend;
        Ok(())
    })
}

/// Says how a step is cut for its threads: into pieces of about so many elements, however short the
/// buffers. 0, the default, leaves it to the library, and SIZE_MAX keeps the step on the calling
/// thread. The results are the same to the bit.
///
/// Returns FUSED_ADAM_STATUS_NULL for a NULL.
///
/// # Safety
///
/// `options` is NULL or options that no other thread uses.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_options_set_chunk(
    options: *mut FusedAdamOptions,
    elements: usize,
) -> FusedAdamStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let options = unsafe { handle_mut("options", options) }?;
        options.0.schedule = match NonZeroUsize::new(elements) {
            None => Schedule::Auto,
            Some(NonZeroUsize::MAX) => Schedule::Serial,
            Some(elements) => Schedule::Chunks(elements),
        };
        Ok(())
    })
}

/// Has what is stored in 16 bits rounded to the nearest number, ties to even. It is the default.
///
/// Returns FUSED_ADAM_STATUS_NULL for a NULL.
///
/// # Safety
///
/// `options` is NULL or options that no other thread uses.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_options_round_to_nearest(
    options: *mut FusedAdamOptions,
) -> FusedAdamStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        unsafe { handle_mut("options", options) }?.0.rounding = Rounding::Nearest;
        Ok(())
    })
}

/// Has what is stored in 16 bits rounded up or down by chance, so that it is right on average. The
/// chance depends on the seed, the number of the step, the parameter and the element, and on nothing else.
///
/// Returns FUSED_ADAM_STATUS_NULL for a NULL.
///
/// # Safety
///
/// `options` is NULL or options that no other thread uses.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_options_round_stochastically(
    options: *mut FusedAdamOptions,
    seed: u64,
) -> FusedAdamStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        unsafe { handle_mut("options", options) }?.0.rounding = Rounding::Stochastic { seed };
        Ok(())
    })
}

/// The backend that runs when the one of this name is asked for, with "auto" and "native" looked
/// up: "avx512", say. NULL, which is not an error, if this CPU cannot run it.
///
/// Returns a text that is valid for ever. Also NULL for a name that is none, with
/// FUSED_ADAM_STATUS_UNKNOWN as fused_adam_last_status, and for NULL. Any thread may call it.
///
/// # Safety
///
/// `name` is NULL or ends with a NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_backend_resolved(name: *const c_char) -> *const c_char {
    guarded_or(std::ptr::null(), || {
        // SAFETY: the caller's promise.
        let backend: Backend = unsafe { text::borrowed("name", name) }?.parse()?;
        Ok(backend.resolved().map_or(std::ptr::null(), |backend| text::lasting(backend.name())))
    })
}

/// The options of a handle, or the defaults.
///
/// # Safety
///
/// `options` is NULL or options that no other thread changes.
pub(crate) unsafe fn or_default(options: *const FusedAdamOptions) -> StepOptions {
    // SAFETY: the caller's promise.
    unsafe { options.as_ref() }.map_or_else(StepOptions::default, |options| options.0)
}
