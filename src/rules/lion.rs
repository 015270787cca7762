//! Lion: steps of equal size in every element, in the direction of the sign of a moving average.
//!
//! ```text
//! g' = g, or −g to maximize
//! c  = m + (1−β1)·(g' − m)                when β1 ≥ ½;   g' − β1·(g' − m)       when β1 < ½
//! m' = m + (1−β2)·(g' − m)                when β2 ≥ ½;   g' − β2·(g' − m)       when β2 < ½
//! q  = lr·sign(c);                        (lr·λ)·θ + q for decay λ > 0
//! θ' = θ − q
//! ```
//!
//! The sign of ±0 is ±0, and the sign of NaN is NaN.

use super::parts::{Descent, Ema, check_at_least_0, check_below_1, round_coefficient};
use super::state::M;
use super::{Kernel, KernelVisitor, Rule, State, reference};
use crate::error::Error;
use crate::simd::{Float, Lanes};

/// Lion, with decoupled weight decay.
///
/// Chen et al., "Symbolic Discovery of Optimization Algorithms" (2023), algorithm 2. The defaults
/// are those of the paper's code.
///
/// The state is `m`, a moving average of the gradient. It starts at zero.
///
/// ```
/// use fused_adam::{Flat, Lion};
///
/// let mut opt = Flat::new(Lion { lr: 0.25, ..Lion::default() }, 3)?;
/// let mut theta = [1.0_f32; 3];
/// opt.step(&mut theta, &[1e3, -1e-3, 0.0])?;
/// assert_eq!(theta, [0.75, 1.25, 1.0]);
/// # Ok::<(), fused_adam::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct Lion {
    /// The learning rate: finite and ≥ 0. Default 1e-4.
    pub lr: f64,
    /// β1, the weight of `m` in the direction; the gradient has weight 1 − β1. In [0, 1). Default
    /// 0.9.
    pub beta1: f64,
    /// β2, the decay rate of `m`: in [0, 1). Default 0.99.
    pub beta2: f64,
    /// λ, the decoupled weight decay, `θ − lr·λ·θ`: finite and ≥ 0. Default 0.
    pub weight_decay: f64,
    /// If true, maximizes the objective: the rule uses −g in place of g. Default false.
    pub maximize: bool,
}

impl Default for Lion {
    fn default() -> Self {
        Lion { lr: 1e-4, beta1: 0.9, beta2: 0.99, weight_decay: 0.0, maximize: false }
    }
}

impl Rule for Lion {
    fn name(&self) -> &'static str {
        "lion"
    }

    fn lr(&self) -> f64 {
        self.lr
    }

    fn set_lr(&mut self, lr: f64) {
        self.lr = lr;
    }

    fn states(&self) -> &'static [State] {
        static STATES: [State; 1] = [M];
        &STATES
    }

    fn check(&self) -> Result<(), Error> {
        check_at_least_0("lr", self.lr)?;
        check_below_1("beta1", self.beta1)?;
        check_below_1("beta2", self.beta2)?;
        check_at_least_0("weight_decay", self.weight_decay)
    }

    fn visit_kernel<F: Float, W: KernelVisitor<F>>(
        &self,
        _: u64,
        _: &[f64],
        visitor: W,
    ) -> Result<(), Error> {
        visitor.visit(&LionKernel {
            descent: Descent::new(self.maximize, self.lr, self.weight_decay, true)?,
            direction: Ema::new(self.beta1),
            m: Ema::new(self.beta2),
            lr: round_coefficient(self.lr, "lr", self.lr)?,
        })
    }
}

#[derive(Clone, Copy, Debug)]
struct LionKernel<F> {
    descent: Descent<F>,
    direction: Ema<F>,
    m: Ema<F>,
    lr: F,
}

impl<F: Float> Kernel<F, 1> for LionKernel<F> {
    const HAND_WRITTEN: bool = true;

    #[inline(always)]
    fn update<L: Lanes<Float = F>>(&self, theta: L, grad: L, [m]: [L; 1]) -> (L, [L; 1]) {
        let g = self.descent.gradient(theta, grad);
        let q = self.direction.average(m, g).sign() * self.lr;
        (self.descent.descend(theta, q), [self.m.average(m, g)])
    }

    fn reference(&self, theta: F, grad: F, [m]: [F; 1]) -> (F, [F; 1]) {
        let g = reference::gradient(&self.descent, theta, grad);
        let sign = reference::sign(reference::average(self.direction, m, g));
        let theta = reference::descend(&self.descent, theta, self.lr * sign);
        (theta, [reference::average(self.m, m, g)])
    }
}
