//! The factor by which a loss is multiplied so that its 16-bit gradients do not vanish.

use crate::error::Error;
use crate::rules::{check, check_above_0};

/// A loss scale that follows the gradients: it grows while they are finite and shrinks when one is
/// not, in which case that step is skipped. Its defaults and its rule are those of torch's
/// `GradScaler`.
///
/// ```
/// use fused_adam::LossScale;
///
/// let mut scale = LossScale { growth_interval: 2, ..LossScale::default() };
/// assert_eq!(scale.scale, 65536.0);
/// scale.update(false);
/// assert_eq!(scale.scale, 32768.0); // after a gradient that was not finite
/// scale.update(true);
/// scale.update(true);
/// assert_eq!(scale.scale, 65536.0); // after two that were
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "checkpoint", serde(deny_unknown_fields))]
pub struct LossScale {
    /// What the loss of the next step is to be multiplied with. Default: 65536.
    pub scale: f64,
    /// What it is multiplied with after `growth_interval` finite steps in a row. Default: 2.
    pub growth_factor: f64,
    /// What it is multiplied with after a step that was not finite. Default: 0.5.
    pub backoff_factor: f64,
    /// At least 1. Default: 2000.
    pub growth_interval: u64,
    /// Finite steps since the scale changed last.
    pub finite_steps: u64,
}

impl Default for LossScale {
    fn default() -> Self {
        LossScale {
            scale: 65536.0,
            growth_factor: 2.0,
            backoff_factor: 0.5,
            growth_interval: 2000,
            finite_steps: 0,
        }
    }
}

impl LossScale {
    /// One that stays as it is.
    pub fn constant(scale: f64) -> Self {
        LossScale { scale, growth_factor: 1.0, backoff_factor: 1.0, ..LossScale::default() }
    }

    /// Checks every field.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let LossScale { scale, growth_factor, backoff_factor, .. } = *self;
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

    /// What follows from the gradients of a step: whether all were finite. A scale that would
    /// outgrow `f32`, or fall below its least normal number, stays.
    pub fn update(&mut self, finite: bool) {
        if !finite {
            let shrunk = self.scale * self.backoff_factor;
            if shrunk >= f64::from(f32::MIN_POSITIVE) {
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
