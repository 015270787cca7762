//! Options of a step: each handle has options of the core beside it. Those run with the scalar
//! backend on one thread, since the results do not depend on it.

use std::ptr::null_mut;

use fused_adam::{Backend, ClipNorm, Parallelism, Report, Rounding, StepOptions};
use fused_adam_c::FusedAdamStatus as Status;
use fused_adam_c::*;

use crate::source::Source;
use crate::status::{c, expect, expect_unless};

/// Options and the handle of their twin.
pub struct OptionsHandle {
    pub handle: *mut FusedAdamOptions,
    pub options: StepOptions,
}

/// The options of the scalar reference that has the same results as the defaults.
pub fn scalar() -> StepOptions {
    let (backend, parallelism) = (Backend::Scalar, Parallelism::Serial);
    StepOptions { backend, parallelism, ..StepOptions::default() }
}

impl Drop for OptionsHandle {
    fn drop(&mut self) {
        c!(fused_adam_options_free(self.handle));
    }
}

impl OptionsHandle {
    pub fn new() -> Self {
        let mut handle = null_mut();
        expect(c!(fused_adam_options_new(null_mut())), Status::Null);
        expect(c!(fused_adam_options_new(&raw mut handle)), Status::Ok);
        OptionsHandle { handle, options: scalar() }
    }

    pub fn set(&mut self, source: &mut Source) {
        let mut faults = Vec::new();
        let handle = source.or_null(self.handle, &mut faults);
        let (mut options, mut expected) = (self.options, Status::Ok);
        let status = match source.below(5) {
            0 => {
                let name = source.name(&["scalar", "wide", "native", "auto", "avx2", "avx512"]);
                let found = name.checked(&mut faults).parse::<Backend>();
                expected = match found {
                    Err(_) => Status::Unknown,
                    Ok(backend) if !backend.is_available() => Status::Backend,
                    Ok(_) => Status::Ok,
                };
                let resolved = c!(fused_adam_backend_resolved(name.pointer()));
                let available = found.is_ok_and(Backend::is_available);
                assert_eq!(!resolved.is_null(), available);
                c!(fused_adam_options_set_backend(handle, name.pointer()))
            }
            1 => {
                let elements = [0, usize::MAX, 1, 7, 32, 100][source.below(6)];
                c!(fused_adam_options_set_chunk(handle, elements))
            }
            2 => {
                options.rounding = Rounding::Nearest;
                c!(fused_adam_options_round_to_nearest(handle))
            }
            3 => {
                let seed = source.count();
                options.rounding = Rounding::Stochastic { seed };
                c!(fused_adam_options_round_stochastically(handle, seed))
            }
            _ => {
                let (name, value) = (source.name(&NAMES), source.number());
                expected = set_option(&mut options, name.checked(&mut faults), value);
                c!(fused_adam_options_set(handle, name.pointer(), value))
            }
        };
        if expect_unless(&faults, status, expected) {
            self.options = options;
        }
    }
}

const NAMES: [&str; 7] = [
    "grad_scale",
    "clip_norm",
    "clip_norm_inf",
    "clip_value",
    "skip_nonfinite",
    "report_norm",
    "report_largest_update",
];

/// Sets an option as fused_adam_options_set describes.
fn set_option(options: &mut StepOptions, name: &str, value: f64) -> Status {
    let bounded = value != f64::INFINITY;
    match name {
        "grad_scale" => options.grad_scale = value,
        "clip_norm" => options.clip_norm = bounded.then_some(ClipNorm::Two(value)),
        "clip_norm_inf" => options.clip_norm = bounded.then_some(ClipNorm::Inf(value)),
        "clip_value" => options.clip_value = bounded.then_some(value),
        _ => {
            let option = match name {
                "skip_nonfinite" => &mut options.skip_nonfinite,
                "report_norm" => &mut options.report_norm,
                "report_largest_update" => &mut options.report_largest_update,
                _ => return Status::Unknown,
            };
            if value != 0.0 && value != 1.0 {
                return Status::Value;
            }
            *option = value == 1.0;
        }
    }
    Status::Ok
}

/// A report that no step has written.
pub const NO_REPORT: FusedAdamReport = FusedAdamReport {
    grad_norm: -1.0,
    clip_factor: -2.0,
    largest_update: -3.0,
    lr_factor: -4.0,
    nonfinite: 5,
    has_grad_norm: false,
    has_largest_update: true,
    skipped: true,
};

/// Checks that a report is that of the core.
#[track_caller]
pub fn expect_report(got: &FusedAdamReport, report: &Report) {
    for (found, expected) in [
        (got.grad_norm, report.grad_norm.unwrap_or(0.0)),
        (got.clip_factor, report.clip_factor),
        (got.largest_update, report.largest_update.unwrap_or(0.0)),
        (got.lr_factor, report.lr_factor),
    ] {
        let same = found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan());
        assert!(same, "{got:?}, expected {report:?}");
    }
    assert_eq!(got.nonfinite, report.nonfinite.unwrap_or(0));
    assert_eq!(got.has_grad_norm, report.grad_norm.is_some());
    assert_eq!(got.has_largest_update, report.largest_update.is_some());
    assert_eq!(got.skipped, report.skipped);
}
