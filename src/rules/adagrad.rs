//! AdaGrad: the gradient divided by the square root of the sum of all its squares so far.
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
use super::{Kernel, KernelVisitor, Rule, State, reference};
use crate::error::Error;
use crate::simd::{Float, Lanes};

/// AdaGrad.
///
/// Duchi, Hazan and Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic
/// Optimization" (2011). The conventions and defaults are those of `torch.optim.Adagrad`.
///
/// The state is `v`, the sum of the squared gradients. It starts at `initial_accumulator_value`.
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
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct AdaGrad {
    /// The learning rate: finite and ≥ 0. Default 1e-2.
    pub lr: f64,
    /// The decay of the learning rate, which is `lr/(1 + (t − 1)·lr_decay)` in step `t`: finite and
    /// ≥ 0. Default 0.
    pub lr_decay: f64,
    /// The initial value of `v`: finite and ≥ 0. [`Flat`](crate::Flat) and
    /// [`Optimizer`](crate::Optimizer) fill `v` with it; with plain slices, you do. Default 0.
    pub initial_accumulator_value: f64,
    /// ε, added to the square root in the denominator. It must be finite and > 0, and still > 0
    /// once rounded to the compute type (`f64` for `f64` buffers, otherwise `f32`). Default 1e-10.
    pub eps: f64,
    /// λ, the weight decay, an L2 penalty: adds λ·θ to the gradient. Finite and ≥ 0. Default 0.
    pub weight_decay: f64,
    /// If true, maximizes the objective: the rule uses −g in place of g. Default false.
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

    fn visit_kernel<F: Float, W: KernelVisitor<F>>(
        &self,
        t: u64,
        _: &[f64],
        visitor: W,
    ) -> Result<(), Error> {
        let lr = self.lr / (1.0 + (t - 1) as f64 * self.lr_decay);
        visitor.visit(&AdaGradKernel {
            descent: Descent::new(self.maximize, self.lr, self.weight_decay, false)?,
            eps: round_eps(self.eps)?,
            lr: round_coefficient(lr, "lr", self.lr)?,
        })
    }
}

#[derive(Clone, Copy, Debug)]
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
