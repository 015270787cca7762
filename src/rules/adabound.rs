//! AdaBound and AMSBound: Adam whose step sizes are held between bounds that close in on SGD's.
//!
//! ```text
//! g' = g, or −g to maximize;   then g' + λ·θ for L2 decay λ > 0
//! m' = m + (1−β1)·(g' − m)                when β1 ≥ ½;   g' − β1·(g' − m)       when β1 < ½
//! v' = v + (1−β2)·(g'·g' − v)             when β2 ≥ ½;   g'·g' − β2·(g'·g' − v) when β2 < ½
//! w' = v', or for AMSBound the larger of v_max and v', kept as the new v_max
//! h  = s / (√w' + ε), then at least l, then at most u
//! q  = h·m';                              (lr·λ)·θ + q for decoupled decay λ > 0
//! θ' = θ − q
//!
//! s  = lr·√(1−β2^t)/(1−β1^t),   l = final_lr·(1 − 1/(γ·t+1)),   u = final_lr·(1 + 1/(γ·t))
//! ```

use super::moments::{AmsGrad, Moments, Update};
use super::parts::{
    Descent, Ema, check_at_least_0, check_averages, check_below_1, corrections, round_coefficient,
    round_eps,
};
use super::state::{M, V, V_MAX};
use super::{Rule, State, WithKernel};
use crate::error::Error;
use crate::simd::{Float, Lanes};

/// AdaBound, and with `amsbound` AMSBound.
///
/// Luo, Xiong, Liu and Sun, "AdamUpdate Gradient Methods with Dynamic Bound of Learning Ema"
/// (2019), algorithms 2 and 3, with the bias corrections, the bounds and the defaults of its
/// authors' code. There a schedule of `lr` also moves `final_lr` in proportion; here `final_lr` is
/// what it says. Decoupled decay is that of [`AdamW`](crate::AdamW).
///
/// The states are `m`, the moving average of the gradient, and `v`, that of its square; with
/// `amsbound` also `v_max`, the largest `v` so far.
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
#[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "checkpoint", serde(deny_unknown_fields))]
pub struct AdaBound {
    /// The step size at the start: finite and ≥ 0. Default 1e-3.
    pub lr: f64,
    /// β1, the decay rate of `m`: in [0, 1). Default 0.9.
    pub beta1: f64,
    /// β2, the decay rate of `v`: in [0, 1). Default 0.999.
    pub beta2: f64,
    /// The step size in the end, that of SGD: finite and ≥ 0. Default 0.1.
    pub final_lr: f64,
    /// γ, how fast the bounds close in: in [0, 1). With 0 they are 0 and ∞. Default 1e-3.
    pub gamma: f64,
    /// ε, added to the root in the denominator: finite and > 0, also once rounded to `f32`. Default
    /// 1e-8.
    pub eps: f64,
    /// λ of the decay: finite and ≥ 0. Default 0.
    pub weight_decay: f64,
    /// Decay is lr·λ·θ, not an L2 penalty `g + λ·θ`. Default false.
    pub decoupled_weight_decay: bool,
    /// Divides by the root of the largest `v` so far, not of the present one. Default false.
    pub amsbound: bool,
    /// Climbs along the gradient, not down. Default false.
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

    fn with_kernel<F: Float, W: WithKernel<F>>(
        &self,
        t: u64,
        _: &[f64],
        then: W,
    ) -> Result<(), Error> {
        let [correction1, correction2] = corrections([self.beta1, self.beta2], t);
        let run = self.gamma * t as f64;
        let upper = if run == 0.0 { f64::INFINITY } else { self.final_lr * (1.0 + 1.0 / run) };
        let moments = Moments {
            descent: Descent::new(
                self.maximize,
                self.lr,
                self.weight_decay,
                self.decoupled_weight_decay,
            )?,
            m: Ema::new(self.beta1),
            v: Ema::new(self.beta2),
            update: BoundedUpdate {
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
        if self.amsbound { then.with(&AmsGrad(moments)) } else { then.with(&moments) }
    }
}

/// The coefficients of one step, computed in f64 and rounded once.
#[derive(Clone, Copy)]
struct BoundedUpdate<F> {
    eps: F,
    step_size: F,
    lower: F,
    /// May be infinite.
    upper: F,
}

impl<F: Float> Update<F> for BoundedUpdate<F> {
    #[inline(always)]
    fn update<L: Lanes<Float = F>>(&self, _: L, m: L, w: L) -> L {
        let d = w.sqrt() + self.eps;
        d.under(self.step_size).at_least(self.lower).at_most(self.upper) * m
    }

    #[inline(always)]
    fn by_hand(&self, _: F, m: F, w: F) -> F {
        let mut h = self.step_size / (w.sqrt() + self.eps);
        if h < self.lower {
            h = self.lower;
        }
        if h > self.upper {
            h = self.upper;
        }
        h * m
    }
}
