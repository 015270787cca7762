//! Stochastic gradient descent, with and without momentum.
//!
//! ```text
//! g' = g, or −g to maximize;   then g' + λ·θ for L2 decay λ > 0
//! x  = (1−τ)·g', and just g' when t = 1
//! m' = m + (x − (1−μ)·m)         when μ ≥ ½;   μ·m + x                 when μ < ½
//! d  = m', or for Nesterov g' + (m' − (1−μ)·m') or g' + μ·m'
//! q  = lr·d;                     (lr·λ)·θ + q for decoupled decay λ > 0
//! θ' = θ − q
//! ```
//!
//! With the averaged convention m is the moving average of g' instead, as Adam's m is, and
//! Nesterov's d is that average moved towards g' once more. Without momentum d is g', and there is
//! no state.

use super::parts::{Descent, Ema, check, check_at_least_0, round_coefficient};
use super::state::M;
use super::{Kernel, Rule, State, WithKernel, reference};
use crate::error::Error;
use crate::simd::{Float, Lanes};

/// Stochastic gradient descent.
///
/// Momentum from Polyak, "Some methods of speeding up the convergence of iteration methods"
/// (1964); Nesterov's in the form of Sutskever, Martens, Dahl and Hinton, "On the importance of
/// initialization and momentum in deep learning" (2013). Conventions and defaults are torch's.
/// Decoupled decay is SGDW of Loshchilov and Hutter, "Decoupled Weight Decay Regularization"
/// (2019), algorithm 1.
///
/// The state is `m`, the momentum buffer; there is none if `momentum` is 0.
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
#[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "checkpoint", serde(deny_unknown_fields))]
pub struct Sgd {
    /// The step size: finite and ≥ 0. Default 1e-3.
    pub lr: f64,
    /// μ, how much of the buffer is left after a step: in [0, 1]. Default 0.
    pub momentum: f64,
    /// τ, how much of each gradient but the first is left out of the buffer: in [0, 1]. Must be 0
    /// with `nesterov` or `average`. Default 0.
    pub dampening: f64,
    /// λ of the decay: finite and ≥ 0. Default 0.
    pub weight_decay: f64,
    /// Decay is lr·λ·θ, not an L2 penalty `g + λ·θ`. The same but for momentum. Default false.
    pub decoupled_weight_decay: bool,
    /// Looks ahead by one more step of the buffer. Needs `momentum`. Default false.
    pub nesterov: bool,
    /// The buffer is μ·m + (1−μ)·g, not torch's μ·m + g: steps keep their size when μ changes.
    /// Default false.
    pub average: bool,
    /// Climbs along the gradient, not down. Default false.
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

    fn with_kernel<F: Float, W: WithKernel<F>>(
        &self,
        t: u64,
        _: &[f64],
        then: W,
    ) -> Result<(), Error> {
        let descent =
            Descent::new(self.maximize, self.lr, self.weight_decay, self.decoupled_weight_decay)?;
        let plain = SgdKernel { descent, lr: round_coefficient(self.lr, "lr", self.lr)? };
        if self.momentum == 0.0 {
            return then.with(&plain);
        }
        let kept = if t == 1 { 1.0 } else { 1.0 - self.dampening };
        then.with(&MomentumKernel {
            plain,
            m: Ema::new(self.momentum),
            kept: F::from_f64(kept),
            nesterov: self.nesterov,
            average: self.average,
        })
    }
}

/// The kernel without state.
#[derive(Clone, Copy)]
struct SgdKernel<F> {
    descent: Descent<F>,
    lr: F,
}

/// The kernel with the buffer m.
#[derive(Clone, Copy)]
struct MomentumKernel<F> {
    plain: SgdKernel<F>,
    m: Ema<F>,
    /// 1 − τ.
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
