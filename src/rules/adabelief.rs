//! AdaBelief: Adam that divides by the distance of the gradient from its moving average.
//!
//! ```text
//! g' = g, or −g to maximize;   then g' + λ·θ for L2 decay λ > 0
//! m' = m + (1−β1)·(g' − m)                when β1 ≥ ½;   g' − β1·(g' − m)       when β1 < ½
//! y  = (g' − m')·(g' − m')
//! s' = s + (1−β2)·(y − s) + ε             when β2 ≥ ½;   y − β2·(y − s) + ε     when β2 < ½
//! d  = √s' · (1/√(1−β2^t)) + ε
//! q  = ((lr/(1−β1^t))·m') / d;            (lr·λ)·θ + q for decoupled decay λ > 0
//! θ' = θ − q
//! ```

use super::parts::{Descent, Ema, check_averages, corrections, round_coefficient, round_eps};
use super::state::M;
use super::{Kernel, KernelVisitor, Rule, State, reference};
use crate::error::Error;
use crate::simd::{Float, Lanes};

/// AdaBelief.
///
/// Zhuang, Tang, Ding, Tatikonda, Dvornek, Papademetris and Duncan, "AdaBelief Optimizer: Adapting
/// Stepsizes by the Belief in Observed Gradients" (2020), algorithm 2. The defaults are the
/// paper's. Decoupled decay works as in [`AdamW`](crate::AdamW).
///
/// The states are `m`, the moving average of the gradient, and `s`, the moving average of the
/// squared difference between the gradient and `m`. Both start at zero.
///
/// ```
/// use fused_adam::{AdaBelief, Flat};
///
/// let mut opt = Flat::new(AdaBelief::default(), 1)?;
/// let mut theta = [1.0_f32];
/// opt.step(&mut theta, &[3.0])?;
/// assert!(theta[0] < 1.0);
/// # Ok::<(), fused_adam::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct AdaBelief {
    /// The learning rate: finite and ≥ 0. Default 1e-3.
    pub lr: f64,
    /// β1, the decay rate of `m`: in [0, 1). Default 0.9.
    pub beta1: f64,
    /// β2, the decay rate of `s`: in [0, 1). Default 0.999.
    pub beta2: f64,
    /// ε, added to `s` in each step and to the square root in the denominator. It must be finite
    /// and > 0, and still > 0 once rounded to the compute type (`f64` for `f64` buffers, otherwise
    /// `f32`). Default 1e-8. The authors' later code uses 1e-16.
    pub eps: f64,
    /// λ, the weight decay: finite and ≥ 0. Default 0.
    pub weight_decay: f64,
    /// If true, the decay is decoupled: it subtracts lr·λ·θ from θ. If false, it is an L2 penalty:
    /// it adds λ·θ to the gradient. Default false.
    pub decoupled_weight_decay: bool,
    /// If true, maximizes the objective: the rule uses −g in place of g. Default false.
    pub maximize: bool,
}

impl Default for AdaBelief {
    fn default() -> Self {
        AdaBelief {
            lr: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            decoupled_weight_decay: false,
            maximize: false,
        }
    }
}

impl Rule for AdaBelief {
    fn name(&self) -> &'static str {
        "adabelief"
    }

    fn lr(&self) -> f64 {
        self.lr
    }

    fn set_lr(&mut self, lr: f64) {
        self.lr = lr;
    }

    fn states(&self) -> &'static [State] {
        static STATES: [State; 2] = [M, State::non_negative("s").divisor()];
        &STATES
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
        let [correction1, correction2] = corrections([self.beta1, self.beta2], t);
        visitor.visit(&AdaBeliefKernel {
            descent: Descent::new(
                self.maximize,
                self.lr,
                self.weight_decay,
                self.decoupled_weight_decay,
            )?,
            m: Ema::new(self.beta1),
            s: Ema::new(self.beta2),
            root_scale: round_coefficient(1.0 / correction2.sqrt(), "beta2", self.beta2)?,
            eps: round_eps(self.eps)?,
            step_size: round_coefficient(self.lr / correction1, "lr", self.lr)?,
        })
    }
}

#[derive(Clone, Copy, Debug)]
struct AdaBeliefKernel<F> {
    descent: Descent<F>,
    m: Ema<F>,
    s: Ema<F>,
    /// 1/√(1−β2^t).
    root_scale: F,
    eps: F,
    /// lr/(1−β1^t).
    step_size: F,
}

impl<F: Float> Kernel<F, 2> for AdaBeliefKernel<F> {
    const HAND_WRITTEN: bool = true;

    #[inline(always)]
    fn update<L: Lanes<Float = F>>(&self, theta: L, grad: L, [m, s]: [L; 2]) -> (L, [L; 2]) {
        let g = self.descent.gradient(theta, grad);
        let m = self.m.average(m, g);
        let off = g - m;
        let s = self.s.average(s, off * off) + self.eps;
        let d = s.sqrt() * self.root_scale + self.eps;
        (self.descent.descend(theta, m * self.step_size / d), [m, s])
    }

    fn reference(&self, theta: F, grad: F, [m, s]: [F; 2]) -> (F, [F; 2]) {
        let g = reference::gradient(&self.descent, theta, grad);
        let m = reference::average(self.m, m, g);
        let s = reference::average(self.s, s, (g - m) * (g - m)) + self.eps;
        let d = s.sqrt() * self.root_scale + self.eps;
        (reference::descend(&self.descent, theta, self.step_size * m / d), [m, s])
    }
}
