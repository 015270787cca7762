//! The loss scale: a factor on the loss that keeps 16-bit gradients from underflowing.

use crate::error::Error;
use crate::rules::{check, check_above_0};

/// A dynamic loss scale. It grows while the gradients are finite. When one is not, it shrinks, and
/// the step is skipped. The algorithm and the defaults are those of torch's `GradScaler`.
///
/// ```
/// use fused_adam::GradScaler;
///
/// let mut scale = GradScaler { growth_interval: 2, ..GradScaler::default() };
/// assert_eq!(scale.scale, 65536.0);
/// scale.update(false);
/// assert_eq!(scale.scale, 32768.0); // after a step that was not finite
/// scale.update(true);
/// scale.update(true);
/// assert_eq!(scale.scale, 65536.0); // after two finite steps
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct GradScaler {
    /// The loss scale: multiply the loss of the next step by it. Finite and > 0. Default: 65536.
    pub scale: f64,
    /// The factor on `scale` after `growth_interval` finite steps in a row: finite and ≥ 1.
    /// Default: 2.
    pub growth_factor: f64,
    /// The factor on `scale` after a step that was not finite: in (0, 1]. Default: 0.5.
    pub backoff_factor: f64,
    /// The number of finite steps in a row after which `scale` grows: at least 1. Default: 2000.
    pub growth_interval: u64,
    /// The number of finite steps since `scale` was last updated. Default: 0.
    pub finite_steps: u64,
}

/// The scale does not shrink below the least normal `f32`.
const LEAST_SCALE: f64 = f32::MIN_POSITIVE as f64;

impl Default for GradScaler {
    fn default() -> Self {
        GradScaler {
            scale: 65536.0,
            growth_factor: 2.0,
            backoff_factor: 0.5,
            growth_interval: 2000,
            finite_steps: 0,
        }
    }
}

impl GradScaler {
    /// A loss scale that does not change.
    pub fn constant(scale: f64) -> Self {
        GradScaler { scale, growth_factor: 1.0, backoff_factor: 1.0, ..GradScaler::default() }
    }

    /// Whether the scale should shrink after a step that is not finite, and cannot.
    pub(super) fn is_exhausted(&self) -> bool {
        self.backoff_factor < 1.0 && self.scale * self.backoff_factor < LEAST_SCALE
    }

    /// Checks every field.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let GradScaler { scale, growth_factor, backoff_factor, .. } = *self;
        check_above_0("loss_scale", scale)?;
        check(
            "growth_factor",
            growth_factor,
            growth_factor >= 1.0,
            "a finite number of at least 1",
        )?;
        let shrinks = backoff_factor > 0.0 && backoff_factor <= 1.0;
        check("backoff_factor", backoff_factor, shrinks, "a number in (0, 1]")?;
        let interval = self.growth_interval;
        check("growth_interval", interval as f64, interval > 0, "at least 1")
    }

    /// Updates the loss scale after a step. `finite` says whether all gradients of the step were
    /// finite. `scale` stays as it is if it would become larger than the largest `f32` or smaller
    /// than the smallest normal `f32`.
    pub fn update(&mut self, finite: bool) {
        if !finite {
            let shrunk = self.scale * self.backoff_factor;
            if shrunk >= LEAST_SCALE {
                self.scale = shrunk;
            }
            self.finite_steps = 0;
            return;
        }
        self.finite_steps = self.finite_steps.saturating_add(1);
        if self.finite_steps >= self.growth_interval {
            let grown = self.scale * self.growth_factor;
            if grown <= f64::from(f32::MAX) {
                self.scale = grown;
            }
            self.finite_steps = 0;
        }
    }
}
