//! Stochastic gradient descent, with and without momentum.
//!
//! ```text
//! g' = g, or −g to maximize;   then g' + λ·θ for L2 decay λ > 0
//! x  = g' when t = 1;   (1−τ)·g' when t > 1
//! m' = m + (x − (1−μ)·m)         when μ ≥ ½;   μ·m + x                 when μ < ½
//! d  = m', or with Nesterov g' + (m' − (1−μ)·m') when μ ≥ ½;   g' + μ·m' when μ < ½
//! q  = lr·d;                     (lr·λ)·θ + q for decoupled decay λ > 0
//! θ' = θ − q
//! ```
//!
//! With `average`, m is the moving average of g', as in Adam, and the Nesterov d is a second update
//! of that average with g'. Without momentum, d is g' and there is no state.

use super::parts::{Descent, Ema, check, check_at_least_0, round_coefficient};
use super::state::M;
use super::{Kernel, KernelVisitor, Rule, State, reference};
use crate::error::Error;
use crate::simd::{Float, Lanes};

/// Stochastic gradient descent.
///
/// Momentum is from Polyak, "Some methods of speeding up the convergence of iteration methods"
/// (1964). Nesterov momentum has the form of Sutskever, Martens, Dahl and Hinton, "On the
/// importance of initialization and momentum in deep learning" (2013). The conventions and defaults
/// are those of `torch.optim.SGD`. With decoupled decay this is SGDW of Loshchilov and Hutter,
/// "Decoupled Weight Decay Regularization" (2019), algorithm 1.
///
/// The state is `m`, the momentum buffer, which starts at zero. There is no state if `momentum` is
/// 0.
///
/// ```
/// use fused_adam::{Flat, Sgd};
///
/// let mut opt = Flat::new(Sgd { lr: 0.5, momentum: 0.5, ..Sgd::default() }, 1)?;
/// let mut theta = [8.0_f32];
/// opt.step(&mut theta, &[4.0])?; // m = 4
/// opt.step(&mut theta, &[4.0])?; // m = 0.5·4 + 4 = 6
/// assert_eq!(theta, [8.0 - 0.5 * 4.0 - 0.5 * 6.0]);
/// # Ok::<(), fused_adam::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct Sgd {
    /// The learning rate: finite and ≥ 0. Default 1e-3.
    pub lr: f64,
    /// μ, the momentum, the share of the buffer `m` that each step keeps: in [0, 1]. Default 0.
    pub momentum: f64,
    /// τ, the dampening: the gradient is multiplied by 1 − τ before it is added to the buffer,
    /// except in step 1. In [0, 1]. It must be 0 with `nesterov` or `average`. Default 0.
    pub dampening: f64,
    /// λ, the weight decay: finite and ≥ 0. Default 0.
    pub weight_decay: f64,
    /// If true, the decay is decoupled: it subtracts lr·λ·θ from θ. If false, it is an L2 penalty:
    /// it adds λ·θ to the gradient. Without momentum both are the same but for rounding. Default
    /// false.
    pub decoupled_weight_decay: bool,
    /// If true, uses Nesterov momentum. Requires `momentum` > 0. Default false.
    pub nesterov: bool,
    /// If true, the buffer is the moving average μ·m + (1−μ)·g, so that the step size does not
    /// depend on μ. If false, it is μ·m + g, as in torch. Default false.
    pub average: bool,
    /// If true, maximizes the objective: the rule uses −g in place of g. Default false.
    pub maximize: bool,
}

impl Default for Sgd {
    fn default() -> Self {
        Sgd {
            lr: 1e-3,
            momentum: 0.0,
            dampening: 0.0,
            weight_decay: 0.0,
            decoupled_weight_decay: false,
            nesterov: false,
            average: false,
            maximize: false,
        }
    }
}

impl Rule for Sgd {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn lr(&self) -> f64 {
        self.lr
    }

    fn set_lr(&mut self, lr: f64) {
        self.lr = lr;
    }

    fn states(&self) -> &'static [State] {
        if self.momentum == 0.0 { &[] } else { &[M] }
    }

    fn check(&self) -> Result<(), Error> {
        let Sgd { momentum, dampening, nesterov, average, .. } = *self;
        check_at_least_0("lr", self.lr)?;
        check("momentum", momentum, (0.0..=1.0).contains(&momentum), "a number in [0, 1]")?;
        check("momentum", momentum, momentum > 0.0 || !nesterov, "above 0 with `nesterov`")?;
        check("dampening", dampening, (0.0..=1.0).contains(&dampening), "a number in [0, 1]")?;
        check("dampening", dampening, dampening == 0.0 || !nesterov, "0 with `nesterov`")?;
        check("dampening", dampening, dampening == 0.0 || !average, "0 with `average`")?;
        check_at_least_0("weight_decay", self.weight_decay)
    }

    fn visit_kernel<F: Float, W: KernelVisitor<F>>(
        &self,
        t: u64,
        _: &[f64],
        visitor: W,
    ) -> Result<(), Error> {
        let descent =
            Descent::new(self.maximize, self.lr, self.weight_decay, self.decoupled_weight_decay)?;
        let plain = SgdKernel { descent, lr: round_coefficient(self.lr, "lr", self.lr)? };
        if self.momentum == 0.0 {
            return visitor.visit(&plain);
        }
        let kept = if t == 1 { 1.0 } else { 1.0 - self.dampening };
        visitor.visit(&MomentumKernel {
            plain,
            m: Ema::new(self.momentum),
            kept: F::from_f64(kept),
            nesterov: self.nesterov,
            average: self.average,
        })
    }
}

/// The kernel without state.
#[derive(Clone, Copy, Debug)]
struct SgdKernel<F> {
    descent: Descent<F>,
    lr: F,
}

/// The kernel with the buffer m.
#[derive(Clone, Copy, Debug)]
struct MomentumKernel<F> {
    plain: SgdKernel<F>,
    m: Ema<F>,
    /// 1 − τ, or 1 in step 1.
    kept: F,
    nesterov: bool,
    average: bool,
}

impl<F: Float> Kernel<F, 0> for SgdKernel<F> {
    const HAND_WRITTEN: bool = true;

    #[inline(always)]
    fn update<L: Lanes<Float = F>>(&self, theta: L, grad: L, []: [L; 0]) -> (L, [L; 0]) {
        let g = self.descent.gradient(theta, grad);
        (self.descent.descend(theta, g * self.lr), [])
    }

    fn reference(&self, theta: F, grad: F, []: [F; 0]) -> (F, [F; 0]) {
        let g = reference::gradient(&self.descent, theta, grad);
        (reference::descend(&self.descent, theta, self.lr * g), [])
    }
}

impl<F: Float> Kernel<F, 1> for MomentumKernel<F> {
    const HAND_WRITTEN: bool = true;

    #[inline(always)]
    fn update<L: Lanes<Float = F>>(&self, theta: L, grad: L, [m]: [L; 1]) -> (L, [L; 1]) {
        let SgdKernel { descent, lr } = self.plain;
        let g = descent.gradient(theta, grad);
        let (m, ahead) = if self.average {
            let m = self.m.average(m, g);
            (m, self.m.average(m, g))
        } else {
            let m = self.m.accumulate(m, g * self.kept);
            (m, g + self.m.shrink(m))
        };
        let d = if self.nesterov { ahead } else { m };
        (descent.descend(theta, d * lr), [m])
    }

    fn reference(&self, theta: F, grad: F, [m]: [F; 1]) -> (F, [F; 1]) {
        let SgdKernel { descent, lr } = &self.plain;
        let g = reference::gradient(descent, theta, grad);
        let m = match self.average {
            true => reference::average(self.m, m, g),
            false => reference::accumulate(self.m, m, self.kept * g),
        };
        let d = match (self.nesterov, self.average) {
            (false, _) => m,
            (true, true) => reference::average(self.m, m, g),
            (true, false) => g + reference::shrink(self.m, m),
        };
        (reference::descend(descent, theta, *lr * d), [m])
    }
}
