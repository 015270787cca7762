//! Adam, with and without AMSGrad; and what [AdamW](super::adamw) shares with it.
//!
//! With `1 - β` and every other coefficient rounded once from f64, one element is stepped by
//!
//! ```text
//! g' = g, or −g to maximize;   then g' + λ·θ for L2 decay λ > 0
//! m' = m + (1−β1)·(g' − m)                when β1 ≥ ½;   g' − β1·(g' − m)       when β1 < ½
//! v' = v + (1−β2)·(g'·g' − v)             when β2 ≥ ½;   g'·g' − β2·(g'·g' − v) when β2 < ½
//! w' = v', or for AMSGrad the larger of v_max and v', kept as the new v_max
//! d  = √w' · (1/√(1−β2^t)) + ε
//! q  = (lr/(1−β1^t))·m' / d;              (lr·λ)·θ + q for decoupled decay λ > 0
//! θ' = θ − q
//! ```
//!
//! one rounding an operation, in this order. It is the textbook's rule with its terms arranged so
//! that no rounded β is multiplied with: `β·m + (1−β)·g` with a β rounded to f32 decays at a
//! rate that is wrong from the eighth digit on, and the error adds up over steps.

use super::moments::{AmsGrad, Moments, Update};
use super::parts::{Descent, Ema, check_averages, corrections, round_coefficient, round_eps};
use super::state::{M, V, V_MAX};
use super::{Rule, State, WithKernel};
use crate::error::Error;
use crate::simd::{Float, Lanes};

/// Adam, with decay as an L2 penalty that is folded into the gradient.
///
/// Kingma and Ba, "Adam: A Method for Stochastic Optimization" (2015), algorithm 1; AMSGrad from
/// Reddi, Kale and Kumar, "On the Convergence of Adam and Beyond" (2018), algorithm 2. For decay
/// that the adaptive step size does not scale, see [`AdamW`](crate::AdamW).
///
/// The states are `m`, the moving average of the gradient, and `v`, that of its square; with
/// `amsgrad` also `v_max`, the largest `v` so far. They start at zero.
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
/// The way that Adam goes wrong in every textbook: one gradient of 100, then −1 ever after. The
/// average forgets it late: m stays positive for 23 steps, in which θ walks against the gradient.
/// Then v forgets it too, and Adam's steps grow back to the size of lr. AMSGrad's `v_max` does not
/// forget: its steps stay below a third of that.
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
#[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "checkpoint", serde(deny_unknown_fields))]
pub struct Adam {
    /// The step size: finite and ≥ 0. Default 1e-3.
    pub lr: f64,
    /// β1, the decay rate of `m`: in [0, 1). Default 0.9.
    pub beta1: f64,
    /// β2, the decay rate of `v`: in [0, 1). Default 0.999.
    pub beta2: f64,
    /// ε, added to the root in the denominator: finite and > 0, also once rounded to the element
    /// type. Default 1e-8.
    pub eps: f64,
    /// λ of the L2 penalty, `g + λ·θ`: finite and ≥ 0. Default 0.
    pub weight_decay: f64,
    /// Divides by the root of the largest `v` so far, not of the present one. Default false.
    pub amsgrad: bool,
    /// Climbs along the gradient, not down. Default false.
    pub maximize: bool,
    /// Makes up for states that start at zero, by `1 − β^t`. Default true.
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

    fn with_kernel<F: Float, W: WithKernel<F>>(
        &self,
        t: u64,
        _: &[f64],
        then: W,
    ) -> Result<(), Error> {
        with_kernel(self, false, t, then)
    }
}

/// The states of Adam and of AdamW.
pub(super) fn states(amsgrad: bool) -> &'static [State] {
    static STATES: [State; 3] =
        [M.torch("exp_avg"), V.torch("exp_avg_sq"), V_MAX.torch("max_exp_avg_sq")];
    if amsgrad { &STATES } else { &STATES[..2] }
}

/// The kernel of Adam, or with `decoupled` decay that of AdamW.
#[inline(always)]
pub(super) fn with_kernel<F: Float, W: WithKernel<F>>(
    rule: &Adam,
    decoupled: bool,
    t: u64,
    then: W,
) -> Result<(), Error> {
    let &Adam { lr, beta1, beta2, eps, weight_decay, amsgrad, maximize, bias_correction } = rule;
    let [correction1, correction2] =
        if bias_correction { corrections([beta1, beta2], t) } else { [1.0; 2] };
    let moments = Moments {
        descent: Descent::new(maximize, lr, weight_decay, decoupled)?,
        m: Ema::new(beta1),
        v: Ema::new(beta2),
        update: AdamUpdate {
            root_scale: round_coefficient(1.0 / correction2.sqrt(), "beta2", beta2)?,
            eps: round_eps(eps)?,
            step_size: round_coefficient(lr / correction1, "lr", lr)?,
        },
    };
    if amsgrad { then.with(&AmsGrad(moments)) } else { then.with(&moments) }
}

/// The coefficients of one step, computed in f64 and rounded once.
#[derive(Clone, Copy)]
struct AdamUpdate<F> {
    /// 1/√(1−β2^t).
    root_scale: F,
    eps: F,
    /// lr/(1−β1^t).
    step_size: F,
}

impl<F: Float> Update<F> for AdamUpdate<F> {
    #[inline(always)]
    fn update<L: Lanes<Float = F>>(&self, _: L, m: L, w: L) -> L {
        let d = w.sqrt() * self.root_scale + self.eps;
        m * self.step_size / d
    }

    #[inline(always)]
    fn by_hand(&self, _: F, m: F, w: F) -> F {
        let d = w.sqrt() * self.root_scale + self.eps;
        self.step_size * m / d
    }
}
