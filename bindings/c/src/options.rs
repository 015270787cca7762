//! The options of a step, by name, and the report of a step.

use std::ffi::c_char;
use std::num::NonZeroUsize;

use fused_adam::{Backend, ClipNorm, Parallelism, Report, Rounding, StepOptions};

use crate::buffers::{self, handle};
use crate::locks::Copied;
use crate::rule::truth;
use crate::status::{Failure, FusedAdamStatus, guarded, guarded_or};
use crate::text;

/// The options of a step: how it scales and clips the gradients, and how it runs. Made by
/// fused_adam_options_new, freed by fused_adam_options_free. Functions that take options accept
/// NULL for the defaults.
///
/// Any number of threads may use and change options at the same time. Each call works with a copy
/// from its beginning.
pub struct FusedAdamOptions(Copied<StepOptions>);

/// What a step did.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FusedAdamReport {
    /// The norm of all gradients, after scaling and before clipping: the largest |g| with
    /// "clip_norm_inf", else the root of the sum of squares. It is the same on every machine and
    /// with any number of threads. 0 if has_grad_norm is false.
    pub grad_norm: f64,
    /// The factor by which the gradients were multiplied to clip their norm. 1 if they were not
    /// clipped.
    pub clip_factor: f64,
    /// The largest change of an element of theta. 0 if has_largest_update is false.
    pub largest_update: f64,
    /// The factor by which the learning-rate schedule multiplied the learning rates. 1 without one.
    pub lr_factor: f64,
    /// The number of gradients that were infinite or NaN. 0 if has_grad_norm is false.
    pub nonfinite: u64,
    /// Whether the step computed the norm: for "clip_norm", "clip_norm_inf", "skip_nonfinite",
    /// "report_norm", or a loss scale.
    pub has_grad_norm: bool,
    /// Whether "report_largest_update" was set.
    pub has_largest_update: bool,
    /// Whether the step was skipped because a gradient was infinite or NaN.
    pub skipped: bool,
}

impl From<Report> for FusedAdamReport {
    fn from(report: Report) -> Self {
        FusedAdamReport {
            grad_norm: report.grad_norm.unwrap_or(0.0),
            clip_factor: report.clip_factor,
            largest_update: report.largest_update.unwrap_or(0.0),
            lr_factor: report.lr_factor,
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

/// The bound for a value. Infinity means none.
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

/// Makes options with default values.
///
/// - out: where to store the new handle. Free it with fused_adam_options_free.
///
/// Returns FUSED_ADAM_STATUS_NULL if `out` is NULL. Any thread may call it.
///
/// # Safety
///
/// `out` is NULL or valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_options_new(
    out: *mut *mut FusedAdamOptions,
) -> FusedAdamStatus {
    // SAFETY: the caller's promise.
    unsafe { buffers::make(out, || Ok(FusedAdamOptions(Copied::new(StepOptions::default())))) }
}

/// Frees options. Does nothing for NULL. Optimizers have their own copies.
///
/// # Safety
///
/// `options` is NULL or options that are not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_options_free(options: *mut FusedAdamOptions) {
    // SAFETY: the caller's promise.
    unsafe { buffers::free(options) }
}

/// Sets an option:
///
/// - "grad_scale": the factor for every gradient, applied before everything else, such as 1 divided
///   by a loss scale. Default 1.
/// - "clip_norm": scales all gradients down if the root of the sum of their squares is larger than
///   this. Default INFINITY, no limit.
/// - "clip_norm_inf": the same for the largest |g|. Of the two, the one that you set last applies.
/// - "clip_value": clamps every gradient to plus and minus this, after scaling. Default INFINITY,
///   no limit.
/// - "skip_nonfinite": 1 to skip the step if a gradient is infinite or NaN. Default 0.
/// - "report_norm": 1 to report the gradient norm even if no other option needs it. This reads the
///   gradients once more. Default 0.
/// - "report_largest_update": 1 to report the largest change of an element of theta. This takes
///   longer. Default 0.
///
/// Each step checks the ranges.
///
/// Returns FUSED_ADAM_STATUS_UNKNOWN if there is no such option, with a message that lists them;
/// FUSED_ADAM_STATUS_VALUE for a boolean that is not 0 or 1; FUSED_ADAM_STATUS_NULL and
/// FUSED_ADAM_STATUS_TEXT.
///
/// # Safety
///
/// `options` is NULL or options; `name` is NULL or ends with a NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_options_set(
    options: *mut FusedAdamOptions,
    name: *const c_char,
    value: f64,
) -> FusedAdamStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let options = unsafe { handle("options", options) }?;
        // SAFETY: the caller's promise.
        let name = unsafe { text::borrowed("name", name) }?;
        options.0.change(|options| set(options, name, value))
    })
}

/// Sets the backend, which is the instruction set that a step uses: "auto", "scalar", "wide",
/// "native", "avx2", "avx512" or "neon". The default is "auto", which is the fastest. The results
/// are bit-identical with all of them.
///
/// Returns FUSED_ADAM_STATUS_UNKNOWN if there is no such backend, with a message that lists them;
/// FUSED_ADAM_STATUS_BACKEND if this CPU does not support it; FUSED_ADAM_STATUS_NULL and
/// FUSED_ADAM_STATUS_TEXT.
///
/// # Safety
///
/// `options` is NULL or options; `name` is NULL or ends with a NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_options_set_backend(
    options: *mut FusedAdamOptions,
    name: *const c_char,
) -> FusedAdamStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let options = unsafe { handle("options", options) }?;
        // SAFETY: the caller's promise.
        let backend: Backend = unsafe { text::borrowed("name", name) }?.parse()?;
        if !backend.is_available() {
            let available = Backend::ALL.iter().copied().filter(|b| b.is_available());
            let available = available.map(Backend::name).collect();
            let backend = backend.name();
            return Err(fused_adam::Error::BackendNotAvailable { backend, available }.into());
        }
        options.0.change(|options| options.backend = backend);
        Ok(())
    })
}

/// Sets the number of elements in a chunk. Threads share a step in chunks of about this many
/// elements, even if the buffers are short. With 0, the default, the library chooses. With
/// SIZE_MAX, the step runs on the calling thread. The results are bit-identical in all cases.
///
/// Returns FUSED_ADAM_STATUS_NULL if `options` is NULL.
///
/// # Safety
///
/// `options` is NULL or options.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_options_set_chunk(
    options: *mut FusedAdamOptions,
    elements: usize,
) -> FusedAdamStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let options = unsafe { handle("options", options) }?;
        let parallelism = match NonZeroUsize::new(elements) {
            None => Parallelism::Auto,
            Some(NonZeroUsize::MAX) => Parallelism::Serial,
            Some(elements) => Parallelism::Chunks(elements),
        };
        options.0.change(|options| options.parallelism = parallelism);
        Ok(())
    })
}

/// Rounds values that are stored in 16 bits to the nearest number, ties to even. This is the
/// default. States in 8 bits, and corrections of 8 bits, are rounded stochastically in any case,
/// here with the seed 0.
///
/// Returns FUSED_ADAM_STATUS_NULL if `options` is NULL.
///
/// # Safety
///
/// `options` is NULL or options.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_options_round_to_nearest(
    options: *mut FusedAdamOptions,
) -> FusedAdamStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let options = unsafe { handle("options", options) }?;
        options.0.change(|options| options.rounding = Rounding::Nearest);
        Ok(())
    })
}

/// Rounds values that are stored in 16 bits up or down at random, such that the expected value is
/// exact (stochastic rounding). The random bits depend only on the seed, the step number, the
/// parameter and the element. States and corrections of 8 bits use the seed too.
///
/// Returns FUSED_ADAM_STATUS_NULL if `options` is NULL.
///
/// # Safety
///
/// `options` is NULL or options.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_options_round_stochastically(
    options: *mut FusedAdamOptions,
    seed: u64,
) -> FusedAdamStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let options = unsafe { handle("options", options) }?;
        options.0.change(|options| options.rounding = Rounding::Stochastic { seed });
        Ok(())
    })
}

/// The backend that runs if you set the backend `name`. It resolves "auto" and "native", for
/// example to "avx512". NULL, which is not an error, if this CPU does not support the backend.
///
/// Returns a string that stays valid forever. Returns NULL for NULL, and for an unknown name;
/// fused_adam_last_status is then FUSED_ADAM_STATUS_NULL or FUSED_ADAM_STATUS_UNKNOWN. Any thread
/// may call it.
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

/// The options of a handle, or the defaults for NULL.
///
/// # Safety
///
/// `options` is NULL or options.
pub(crate) unsafe fn or_default(options: *const FusedAdamOptions) -> StepOptions {
    // SAFETY: the caller's promise.
    unsafe { options.as_ref() }.map_or_else(StepOptions::default, |options| options.0.get())
}
