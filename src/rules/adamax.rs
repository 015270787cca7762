//! AdaMax: Adam with the largest recent gradient in place of the root mean square.
//!
//! ```text
//! g' = g, or −g to maximize;   then g' + λ·θ for L2 decay λ > 0
//! m' = m + (1−β1)·(g' − m)                when β1 ≥ ½;   g' − β1·(g' − m)       when β1 < ½
//! u' = the larger of |g'| + ε and u − (1−β2)·u (β2 ≥ ½) or β2·u (β2 < ½)
//! q  = ((lr/(1−β1^t))·m') / u'
//! θ' = θ − q
//! ```

use super::parts::{Descent, Ema, check_averages, corrections, round_coefficient, round_eps};
use super::state::M;
use super::{Kernel, Rule, State, WithKernel, reference};
use crate::error::Error;
use crate::simd::{Float, Lanes};

/// AdaMax.
///
/// Kingma and Ba, "Adam: A Method for Stochastic Optimization" (2015), algorithm 2, with ε where
/// torch has it. Defaults are torch's.
///
/// The states are `m`, the moving average of the gradient, and `u`, the largest gradient where old
/// ones count less.
///
/// ```
/// use fused_adam::{AdaMax, Flat};
///
/// let mut opt = Flat::new(AdaMax { lr: 0.5, ..AdaMax::default() }, 2)?;
/// let mut theta = [1.0_f64, 1.0];
/// opt.step(&mut theta, &[1e3, -1e-3])?; // the first step has size lr
/// assert!((theta[0] - 0.5).abs() < 1e-4 && (theta[1] - 1.5).abs() < 1e-4);
/// # Ok::<(), fused_adam::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "checkpoint", serde(deny_unknown_fields))]
pub struct AdaMax {
    /// The step size: finite and ≥ 0. Default 2e-3.
    pub lr: f64,
    /// β1, the decay rate of `m`: in [0, 1). Default 0.9.
    pub beta1: f64,
    /// β2, the decay rate of `u`: in [0, 1). Default 0.999.
    pub beta2: f64,
    /// ε, added to |g|: finite and > 0, also once rounded to `f32`. Default 1e-8.
    pub eps: f64,
    /// λ of the L2 penalty, `g + λ·θ`: finite and ≥ 0. Default 0.
    pub weight_decay: f64,
    /// Climbs along the gradient, not down. Default false.
    pub maximize: bool,
}

impl Default for AdaMax {
    fn default() -> Self {
        AdaMax { lr: 2e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, maximize: false }
    }
}

impl Rule for AdaMax {
    fn name(&self) -> &'static str {
        "adamax"
    }

    fn lr(&self) -> f64 {
        self.lr
    }

    fn set_lr(&mut self, lr: f64) {
        self.lr = lr;
    }

    fn states(&self) -> &'static [State] {
        static STATES: [State; 2] = [M, State::non_negative("u").divisor().running_max()];
        &STATES
    }

    fn check(&self) -> Result<(), Error> {
        check_averages(self.lr, [self.beta1, self.beta2], self.eps, self.weight_decay)
    }

    fn with_kernel<F: Float, W: WithKernel<F>>(
        &self,
        t: u64,
        _: &[f64],
        then: W,
    ) -> Result<(), Error> {
        let [correction, _] = corrections([self.beta1, 0.0], t);
        then.with(&AdaMaxKernel {
            descent: Descent::new(self.maximize, self.lr, self.weight_decay, false)?,
            m: Ema::new(self.beta1),
            u: Ema::new(self.beta2),
            eps: round_eps(self.eps)?,
            step_size: round_coefficient(self.lr / correction, "lr", self.lr)?,
        })
    }
}

#[derive(Clone, Copy)]
struct AdaMaxKernel<F> {
    descent: Descent<F>,
    m: Ema<F>,
    u: Ema<F>,
    eps: F,
    /// lr/(1−β1^t).
    step_size: F,
}

impl<F: Float> Kernel<F, 2> for AdaMaxKernel<F> {
    const HAND_WRITTEN: bool = true;

    #[inline(always)]
    fn update<L: Lanes<Float = F>>(&self, theta: L, grad: L, [m, u]: [L; 2]) -> (L, [L; 2]) {
        let g = self.descent.gradient(theta, grad);
        let m = self.m.average(m, g);
        let u = self.u.shrink(u).larger(g.abs() + self.eps);
        (self.descent.descend(theta, m * self.step_size / u), [m, u])
    }

    fn reference(&self, theta: F, grad: F, [m, u]: [F; 2]) -> (F, [F; 2]) {
        let g = reference::gradient(&self.descent, theta, grad);
        let m = reference::average(self.m, m, g);
        let (old, new) = (reference::shrink(self.u, u), g.abs() + self.eps);
        let u = if old > new { old } else { new };
        (reference::descend(&self.descent, theta, self.step_size * m / u), [m, u])
    }
}
