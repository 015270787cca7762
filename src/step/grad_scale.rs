//! Scaling and clipping of the gradient before the rule uses it, in the same pass. The gradient's
//! buffer is not written.

use crate::error::Error;
use crate::rules::{Kernel, check, check_at_least_0, reference, round_coefficient};
use crate::simd::{Float, Lanes};

/// A factor and a bound for the gradient: g' = max(−bound, min(bound, factor·g)).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct GradScale {
    pub factor: f64,
    /// Infinity for no bound.
    pub bound: f64,
}

impl GradScale {
    pub const NONE: Self = GradScale { factor: 1.0, bound: f64::INFINITY };

    pub fn check(self) -> Result<(), Error> {
        check_at_least_0("grad_scale", self.factor)?;
        if self.bound == f64::INFINITY {
            return Ok(());
        }
        check("clip_value", self.bound, self.bound > 0.0, "a number above 0")
    }

    /// Returns `kernel` with the gradient scaled and clamped first. The factor and the bound are
    /// rounded to `F` once.
    pub fn before<K, F: Float>(self, kernel: K) -> Result<Scaled<K, F>, Error> {
        let change = match self {
            Self::NONE => Change::None,
            GradScale { bound: f64::INFINITY, .. } => Change::Scale,
            _ => Change::ScaleAndClip,
        };
        let bound = match change {
            Change::ScaleAndClip => {
                let bound: F = round_coefficient(self.bound, "clip_value", self.bound)?;
                let above_0 = bound.to_f64() > 0.0;
                let expected = "above 0 once rounded to the type computed with";
                check("clip_value", self.bound, above_0, expected)?;
                bound
            }
            Change::None | Change::Scale => F::from_f64(0.0),
        };
        let factor = round_coefficient(self.factor, "grad_scale", self.factor)?;
        Ok(Scaled { kernel, change, factor, bound })
    }
}

#[derive(Clone, Copy, Debug)]
enum Change {
    None,
    Scale,
    ScaleAndClip,
}

/// A kernel that scales and clamps the gradient, then calls the kernel inside. An infinite gradient
/// becomes NaN before it is clamped, so that it stays visible.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scaled<K, F> {
    kernel: K,
    change: Change,
    factor: F,
    bound: F,
}

impl<F: Float, K: Kernel<F, N>, const N: usize> Kernel<F, N> for Scaled<K, F> {
    const HAND_WRITTEN: bool = K::HAND_WRITTEN;

    #[inline(always)]
    fn update<L: Lanes<Float = F>>(&self, theta: L, grad: L, state: [L; N]) -> (L, [L; N]) {
        let grad = match self.change {
            Change::None => grad,
            Change::Scale => grad * self.factor,
            Change::ScaleAndClip => {
                let grad = grad.if_finite(grad);
                (grad * self.factor).clamp_max(self.bound).clamp_min(-self.bound)
            }
        };
        self.kernel.update(theta, grad, state)
    }

    #[inline(always)]
    fn reference(&self, theta: F, grad: F, state: [F; N]) -> (F, [F; N]) {
        let (unscaled, mut grad) = (grad, grad);
        if !matches!(self.change, Change::None) {
            grad = self.factor * grad;
        }
        if matches!(self.change, Change::ScaleAndClip) {
            grad = reference::if_finite(unscaled, grad);
            if grad > self.bound {
                grad = self.bound;
            }
            if grad < -self.bound {
                grad = -self.bound;
            }
        }
        self.kernel.reference(theta, grad, state)
    }
}
