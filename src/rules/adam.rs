//! Adam, with and without AMSGrad, and the code that [AdamW](super::adamw) shares with it.
//!
//! One step of one element, where `1 − β` and every other coefficient is computed in `f64` and
//! rounded once:
//!
//! ```text
//! g' = g, or −g to maximize;   then g' + λ·θ for L2 decay λ > 0
//! m' = m + (1−β1)·(g' − m)                when β1 ≥ ½;   g' − β1·(g' − m)       when β1 < ½
//! v' = v + (1−β2)·(g'·g' − v)             when β2 ≥ ½;   g'·g' − β2·(g'·g' − v) when β2 < ½
//! w' = v', or with AMSGrad max(v_max, v'), stored as the new v_max
//! d  = √w' · (1/√(1−β2^t)) + ε
//! q  = (lr/(1−β1^t))·m' / d;              (lr·λ)·θ + q for decoupled decay λ > 0
//! θ' = θ − q
//! ```
//!
//! Each operation rounds once, in this order. This is the textbook rule, arranged so that no
//! rounded β near 1 is a factor. With a β rounded to `f32`, `β·m + (1−β)·g` decays at a rate that
//! is wrong from the eighth digit on, and the error accumulates over steps.

use super::moments::{AmsGrad, Delta, Moments};
use super::parts::{Descent, Ema, check_averages, corrections, round_coefficient, round_eps};
use super::state::{M, V, V_MAX};
use super::{KernelVisitor, Rule, State};
use crate::error::Error;
use crate::simd::{Float, Lanes};

/// Adam, with weight decay as an L2 penalty that is added to the gradient.
///
/// Kingma and Ba, "Adam: A Method for Stochastic Optimization" (2015), algorithm 1. AMSGrad is from
/// Reddi, Kale and Kumar, "On the Convergence of Adam and Beyond" (2018), algorithm 2. For weight
/// decay that is independent of the gradient, see [`AdamW`](crate::AdamW).
///
/// The states are `m`, the moving average of the gradient, and `v`, the moving average of the
/// squared gradient. With `amsgrad` there is also `v_max`, the largest `v` so far. All start at
/// zero.
///
/// ```
/// use fused_adam::Adam;
///
/// // θ² at θ = 0.5, whose gradient is 2θ = 1: the first step has size lr.
/// let adam = Adam { lr: 0.1, ..Adam::default() };
/// let (mut theta, grad, mut m, mut v) = ([0.5_f32], [1.0], [0.0], [0.0]);
/// adam.step(1, &mut theta, &grad, [&mut m, &mut v])?;
/// assert_eq!(theta, [0.4]);
/// # Ok::<(), fused_adam::Error>(())
/// ```
///
/// The next example shows the difference between Adam and AMSGrad: one gradient of 100, then −1 in
/// every step. `m` stays positive for 23 steps, so θ keeps moving the wrong way. Then `v` decays
/// too, and Adam's steps grow back to the size of `lr`. AMSGrad's `v_max` does not decay, and its
/// steps stay below a third of that.
///
/// ```
/// use fused_adam::{Adam, Flat};
///
/// let way_back = |amsgrad| -> Result<f64, fused_adam::Error> {
///     let mut opt = Flat::new(Adam { amsgrad, ..Adam::default() }, 1)?;
///     let mut theta = [0.0];
///     opt.step(&mut theta, &[100.0])?;
///     for step in 1..=23 {
///         assert!(opt.state("m").unwrap()[0] > 0.0, "after {step} steps");
///         opt.step(&mut theta, &[-1.0])?;
///     }
///     assert!(opt.state("m").unwrap()[0] < 0.0);
///     let turned = theta[0];
///     for _ in 0..5000 {
///         opt.step(&mut theta, &[-1.0])?;
///     }
///     Ok(theta[0] - turned)
/// };
/// let (adam, amsgrad) = (way_back(false)?, way_back(true)?);
/// assert!(adam > 2.0 && amsgrad < 1.6, "{adam} {amsgrad}");
/// # Ok::<(), fused_adam::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct Adam {
    /// The learning rate: finite and ≥ 0. Default 1e-3.
    pub lr: f64,
    /// β1, the decay rate of `m`: in [0, 1). Default 0.9.
    pub beta1: f64,
    /// β2, the decay rate of `v`: in [0, 1). Default 0.999.
    pub beta2: f64,
    /// ε, added to the square root in the denominator. It must be finite and > 0, and still > 0
    /// once rounded to the compute type (`f64` for `f64` buffers, otherwise `f32`). Default 1e-8.
    pub eps: f64,
    /// λ, the weight decay, an L2 penalty: adds λ·θ to the gradient. Finite and ≥ 0. Default 0.
    pub weight_decay: f64,
    /// If true, divides by the square root of the largest `v` so far instead of the current `v`.
    /// Default false.
    pub amsgrad: bool,
    /// If true, maximizes the objective: the rule uses −g in place of g. Default false.
    pub maximize: bool,
    /// If true, corrects `m` and `v` for starting at zero: divides each by its `1 − β^t`. Default
    /// true.
    pub bias_correction: bool,
}

impl Default for Adam {
    fn default() -> Self {
        Adam {
            lr: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            amsgrad: false,
            maximize: false,
            bias_correction: true,
        }
    }
}

impl Rule for Adam {
    fn name(&self) -> &'static str {
        "adam"
    }

    fn lr(&self) -> f64 {
        self.lr
    }

    fn set_lr(&mut self, lr: f64) {
        self.lr = lr;
    }

    fn states(&self) -> &'static [State] {
        states(self.amsgrad)
    }

    fn check(&self) -> Result<(), Error> {
        check_averages(self.lr, [self.beta1, self.beta2], self.eps, self.weight_decay)
    }

    fn visit_kernel<F: Float, W: KernelVisitor<F>>(
        &self,
        t: u64,
        _: &[f64],
        visitor: W,
    ) -> Result<(), Error> {
        visit_kernel(self, false, t, visitor)
    }
}

/// The states of Adam and of AdamW.
pub(super) fn states(amsgrad: bool) -> &'static [State] {
    static STATES: [State; 3] =
        [M.torch("exp_avg"), V.torch("exp_avg_sq"), V_MAX.torch("max_exp_avg_sq")];
    if amsgrad { &STATES } else { &STATES[..2] }
}

/// Visits the kernel of Adam, or with `decoupled` decay that of AdamW.
#[inline(always)]
pub(super) fn visit_kernel<F: Float, W: KernelVisitor<F>>(
    rule: &Adam,
    decoupled: bool,
    t: u64,
    visitor: W,
) -> Result<(), Error> {
    let &Adam { lr, beta1, beta2, eps, weight_decay, amsgrad, maximize, bias_correction } = rule;
    let [correction1, correction2] =
        if bias_correction { corrections([beta1, beta2], t) } else { [1.0; 2] };
    let moments = Moments {
        descent: Descent::new(maximize, lr, weight_decay, decoupled)?,
        m: Ema::new(beta1),
        v: Ema::new(beta2),
        delta: AdamDelta {
            root_scale: round_coefficient(1.0 / correction2.sqrt(), "beta2", beta2)?,
            eps: round_eps(eps)?,
            step_size: round_coefficient(lr / correction1, "lr", lr)?,
        },
    };
    if amsgrad { visitor.visit(&AmsGrad(moments)) } else { visitor.visit(&moments) }
}

/// The coefficients of one step: computed in `f64`, then rounded once to `F`.
#[derive(Clone, Copy, Debug)]
struct AdamDelta<F> {
    /// 1/√(1−β2^t).
    root_scale: F,
    eps: F,
    /// lr/(1−β1^t).
    step_size: F,
}

impl<F: Float> Delta<F> for AdamDelta<F> {
    #[inline(always)]
    fn delta<L: Lanes<Float = F>>(&self, _: L, m: L, w: L) -> L {
        let d = w.sqrt() * self.root_scale + self.eps;
        m * self.step_size / d
    }

    #[inline(always)]
    fn reference(&self, _: F, m: F, w: F) -> F {
        let d = w.sqrt() * self.root_scale + self.eps;
        self.step_size * m / d
    }
}
