//! AdaGrad: the gradient over the root of the sum of all its squares.
//!
//! ```text
//! g' = g, or −g to maximize;   then g' + λ·θ for L2 decay λ > 0
//! v' = v + g'·g'
//! d  = √v' + ε
//! q  = ((lr/(1+(t−1)·lr_decay))·g') / d
//! θ' = θ − q
//! ```

use super::parts::{Descent, check_above_0, check_at_least_0, round_coefficient, round_eps};
use super::state::V;
use super::{Kernel, Rule, State, WithKernel, reference};
use crate::error::Error;
use crate::simd::{Float, Lanes};

/// AdaGrad.
///
/// Duchi, Hazan and Singer, "AdamUpdate Subgradient Methods for Online Learning and Stochastic
/// Optimization" (2011). Conventions and defaults are torch's.
///
/// The state is `v`, the sum of the squared gradients; it starts at `initial_accumulator_value`.
///
/// ```
/// use fused_adam::{AdaGrad, Flat};
///
/// let mut opt = Flat::new(AdaGrad { lr: 1.0, ..AdaGrad::default() }, 1)?;
/// let mut theta = [1.0_f32];
/// opt.step(&mut theta, &[3.0])?; // v = 9
/// opt.step(&mut theta, &[4.0])?; // v = 25
/// assert_eq!(theta, [1.0 - 3.0 / 3.0 - 4.0 / 5.0]);
/// # Ok::<(), fused_adam::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "checkpoint", serde(deny_unknown_fields))]
pub struct AdaGrad {
    /// The step size: finite and ≥ 0. Default 1e-2.
    pub lr: f64,
    /// How fast the step size falls with the number of steps: finite and ≥ 0. Default 0.
    pub lr_decay: f64,
    /// What the sum starts at: finite and ≥ 0. [`Flat::new`](crate::Flat::new) uses it; on plain
    /// slices the caller fills `v` with it. Default 0.
    pub initial_accumulator_value: f64,
    /// ε in the denominator: finite and > 0, also once rounded to `f32`. Default 1e-10.
    pub eps: f64,
    /// λ of the L2 penalty, `g + λ·θ`: finite and ≥ 0. Default 0.
    pub weight_decay: f64,
    /// Climbs along the gradient, not down. Default false.
    pub maximize: bool,
}

impl Default for AdaGrad {
    fn default() -> Self {
        AdaGrad {
            lr: 1e-2,
            lr_decay: 0.0,
            initial_accumulator_value: 0.0,
            eps: 1e-10,
            weight_decay: 0.0,
            maximize: false,
        }
    }
}

impl Rule for AdaGrad {
    fn name(&self) -> &'static str {
        "adagrad"
    }

    fn lr(&self) -> f64 {
        self.lr
    }

    fn set_lr(&mut self, lr: f64) {
        self.lr = lr;
    }

    fn states(&self) -> &'static [State] {
        static STATES: [State; 1] = [V];
        &STATES
    }

    fn initial_state(&self, _: usize) -> f64 {
        self.initial_accumulator_value
    }

    fn check(&self) -> Result<(), Error> {
        check_at_least_0("lr", self.lr)?;
        check_at_least_0("lr_decay", self.lr_decay)?;
        check_at_least_0("initial_accumulator_value", self.initial_accumulator_value)?;
        check_above_0("eps", self.eps)?;
        check_at_least_0("weight_decay", self.weight_decay)
    }

    fn with_kernel<F: Float, W: WithKernel<F>>(
        &self,
        t: u64,
        _: &[f64],
        then: W,
    ) -> Result<(), Error> {
        let lr = self.lr / (1.0 + (t - 1) as f64 * self.lr_decay);
        then.with(&AdaGradKernel {
            descent: Descent::new(self.maximize, self.lr, self.weight_decay, false)?,
            eps: round_eps(self.eps)?,
            lr: round_coefficient(lr, "lr", self.lr)?,
        })
    }
}

#[derive(Clone, Copy)]
struct AdaGradKernel<F> {
    descent: Descent<F>,
    eps: F,
    lr: F,
}

impl<F: Float> Kernel<F, 1> for AdaGradKernel<F> {
    const HAND_WRITTEN: bool = true;

    #[inline(always)]
    fn update<L: Lanes<Float = F>>(&self, theta: L, grad: L, [v]: [L; 1]) -> (L, [L; 1]) {
        let g = self.descent.gradient(theta, grad);
        let v = v + g * g;
        let q = g * self.lr / (v.sqrt() + self.eps);
        (self.descent.descend(theta, q), [v])
    }

    fn reference(&self, theta: F, grad: F, [v]: [F; 1]) -> (F, [F; 1]) {
        let g = reference::gradient(&self.descent, theta, grad);
        let v = v + g * g;
        let q = self.lr * g / (v.sqrt() + self.eps);
        (reference::descend(&self.descent, theta, q), [v])
    }
}
