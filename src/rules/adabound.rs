//! AdaBound and AMSBound: Adam with per-element step sizes clipped to bounds that converge to the
//! step size of SGD.
//!
//! ```text
//! g' = g, or −g to maximize;   then g' + λ·θ for L2 decay λ > 0
//! m' = m + (1−β1)·(g' − m)                when β1 ≥ ½;   g' − β1·(g' − m)       when β1 < ½
//! v' = v + (1−β2)·(g'·g' − v)             when β2 ≥ ½;   g'·g' − β2·(g'·g' − v) when β2 < ½
//! w' = v', or with AMSBound max(v_max, v'), stored as the new v_max
//! h  = min(max(s / (√w' + ε), l), u)
//! q  = h·m';                              (lr·λ)·θ + q for decoupled decay λ > 0
//! θ' = θ − q
//!
//! s  = lr·√(1−β2^t)/(1−β1^t),   l = final_lr·(1 − 1/(γ·t+1)),   u = final_lr·(1 + 1/(γ·t))
//! ```

use super::moments::{AmsGrad, Delta, Moments};
use super::parts::{
    Descent, Ema, check_at_least_0, check_averages, check_below_1, corrections, round_coefficient,
    round_eps,
};
use super::state::{M, V, V_MAX};
use super::{KernelVisitor, Rule, State, reference};
use crate::error::Error;
use crate::simd::{Float, Lanes};

/// AdaBound; with `amsbound`, AMSBound.
///
/// Luo, Xiong, Liu and Sun, "Adaptive Gradient Methods with Dynamic Bound of Learning Rate" (2019),
/// algorithms 2 and 3. The bias corrections, the bounds and the defaults are those of the authors'
/// code, with one difference: there a schedule of `lr` scales `final_lr` in proportion, and here
/// `final_lr` stays as set. Decoupled decay works as in [`AdamW`](crate::AdamW).
///
/// The states are `m`, the moving average of the gradient, and `v`, the moving average of the
/// squared gradient. With `amsbound` there is also `v_max`, the largest `v` so far. They start at
/// zero.
///
/// ```
/// use fused_adam::{AdaBound, Flat};
///
/// let mut opt = Flat::new(AdaBound::default(), 1)?;
/// let mut theta = [1.0_f32];
/// opt.step(&mut theta, &[3.0])?;
/// assert!(theta[0] < 1.0);
/// # Ok::<(), fused_adam::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct AdaBound {
    /// The learning rate at the start of training: finite and ≥ 0. Default 1e-3.
    pub lr: f64,
    /// β1, the decay rate of `m`: in [0, 1). Default 0.9.
    pub beta1: f64,
    /// β2, the decay rate of `v`: in [0, 1). Default 0.999.
    pub beta2: f64,
    /// The learning rate that both bounds converge to, that of SGD: finite and ≥ 0. Default 0.1.
    pub final_lr: f64,
    /// γ, how fast the bounds converge: in [0, 1). With 0 the bounds are 0 and ∞. Default 1e-3.
    pub gamma: f64,
    /// ε, added to the square root in the denominator. It must be finite and > 0, and still > 0
    /// once rounded to the compute type (`f64` for `f64` buffers, otherwise `f32`). Default 1e-8.
    pub eps: f64,
    /// λ, the weight decay: finite and ≥ 0. Default 0.
    pub weight_decay: f64,
    /// If true, the decay is decoupled: it subtracts lr·λ·θ from θ. If false, it is an L2 penalty:
    /// it adds λ·θ to the gradient. Default false.
    pub decoupled_weight_decay: bool,
    /// If true, divides by the square root of the largest `v` so far instead of the current `v`.
    /// Default false.
    pub amsbound: bool,
    /// If true, maximizes the objective: the rule uses −g in place of g. Default false.
    pub maximize: bool,
}

impl Default for AdaBound {
    fn default() -> Self {
        AdaBound {
            lr: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            final_lr: 0.1,
            gamma: 1e-3,
            eps: 1e-8,
            weight_decay: 0.0,
            decoupled_weight_decay: false,
            amsbound: false,
            maximize: false,
        }
    }
}

impl Rule for AdaBound {
    fn name(&self) -> &'static str {
        "adabound"
    }

    fn lr(&self) -> f64 {
        self.lr
    }

    fn set_lr(&mut self, lr: f64) {
        self.lr = lr;
    }

    fn states(&self) -> &'static [State] {
        static STATES: [State; 3] = [M, V, V_MAX];
        if self.amsbound { &STATES } else { &STATES[..2] }
    }

    fn check(&self) -> Result<(), Error> {
        check_averages(self.lr, [self.beta1, self.beta2], self.eps, self.weight_decay)?;
        check_at_least_0("final_lr", self.final_lr)?;
        check_below_1("gamma", self.gamma)
    }

    fn visit_kernel<F: Float, W: KernelVisitor<F>>(
        &self,
        t: u64,
        _: &[f64],
        visitor: W,
    ) -> Result<(), Error> {
        let [correction1, correction2] = corrections([self.beta1, self.beta2], t);
        let run = self.gamma * t as f64;
        // 0·∞ would be NaN, which clips nothing.
        let upper = match self.final_lr {
            _ if run == 0.0 => f64::INFINITY,
            0.0 => 0.0,
            final_lr => final_lr * (1.0 + 1.0 / run),
        };
        let moments = Moments {
            descent: Descent::new(
                self.maximize,
                self.lr,
                self.weight_decay,
                self.decoupled_weight_decay,
            )?,
            m: Ema::new(self.beta1),
            v: Ema::new(self.beta2),
            delta: BoundedDelta {
                eps: round_eps(self.eps)?,
                step_size: round_coefficient(
                    self.lr * correction2.sqrt() / correction1,
                    "lr",
                    self.lr,
                )?,
                lower: round_coefficient(
                    self.final_lr * (1.0 - 1.0 / (run + 1.0)),
                    "final_lr",
                    self.final_lr,
                )?,
                upper: F::from_f64(upper),
            },
        };
        if self.amsbound { visitor.visit(&AmsGrad(moments)) } else { visitor.visit(&moments) }
    }
}

/// The coefficients of one step: computed in `f64`, then rounded once to `F`.
#[derive(Clone, Copy, Debug)]
struct BoundedDelta<F> {
    eps: F,
    step_size: F,
    lower: F,
    /// May be infinite.
    upper: F,
}

impl<F: Float> Delta<F> for BoundedDelta<F> {
    #[inline(always)]
    fn delta<L: Lanes<Float = F>>(&self, _: L, m: L, w: L) -> L {
        let d = w.sqrt() + self.eps;
        d.rdiv(self.step_size).clamp_min(self.lower).clamp_max(self.upper) * m
    }

    #[inline(always)]
    fn reference(&self, _: F, m: F, w: F) -> F {
        let h = self.step_size / (w.sqrt() + self.eps);
        let h = reference::smaller(self.upper, reference::larger(self.lower, h));
        h * m
    }
}
