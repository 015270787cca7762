//! AdEMAMix: AdamW with a second, slower moving average of the gradient.
//!
//! ```text
//! g'  = g, or −g to maximize
//! m1' = m1 + (1−β1)·(g' − m1)              when β1 ≥ ½;   g' − β1·(g' − m1)      when β1 < ½
//! m2' = m2 + (1−β3_t)·(g' − m2)            when β3_t ≥ ½; g' − β3_t·(g' − m2)    when β3_t < ½
//! v'  = v + (1−β2)·(g'·g' − v)             when β2 ≥ ½;   g'·g' − β2·(g'·g' − v) when β2 < ½
//! d   = √v' · (1/√(1−β2^t)) + ε
//! q   = (a·m1' + b·m2') / d;               (lr·λ)·θ + q for decay λ > 0
//! θ'  = θ − q
//!
//! a   = lr/(1−β1^t),   b = lr·α_t,   α_t = α·min(1, t/T_α),   s = min(1, t/T_β3),
//! 1/ln β3_t = (1−s)/ln β1 + s/ln β3, and β3_t is at most β3
//! ```
//!
//! There is one division, because the two terms of the textbook's formula share a denominator.

use super::parts::{
    Descent, Ema, check_at_least_0, check_averages, check_below_1, corrections, round_coefficient,
    round_eps,
};
use super::state::V;
use super::{Kernel, KernelVisitor, Rule, State, reference};
use crate::error::Error;
use crate::simd::{Float, Lanes};

/// AdEMAMix.
///
/// Pagliardini, Ablin and Grangier, "The AdEMAMix Optimizer: Better, Faster, Older" (2024),
/// algorithm 1, with its schedules of α and β3. The decay is decoupled, as in
/// [`AdamW`](super::AdamW).
///
/// The states are `m1` and `m2`, the fast and the slow moving average of the gradient, and `v`, the
/// moving average of the squared gradient. All start at zero. `m2` has no bias correction: its
/// weight α grows from 0 during the warm-up.
///
/// ```
/// use fused_adam::{AdEMAMix, Flat};
///
/// // Warm up α and β3 over the whole run, as the paper does.
/// let rule = AdEMAMix { alpha_warmup: 1000, beta3_warmup: 1000, ..AdEMAMix::default() };
/// let mut opt = Flat::new(rule, 1)?;
/// let mut theta = [1.0_f32];
/// opt.step(&mut theta, &[3.0])?;
/// assert!(theta[0] < 1.0);
/// # Ok::<(), fused_adam::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct AdEMAMix {
    /// The learning rate: finite and ≥ 0. Default 1e-3.
    pub lr: f64,
    /// β1, the decay rate of `m1`: in [0, 1). Default 0.9.
    pub beta1: f64,
    /// β2, the decay rate of `v`: in [0, 1). Default 0.999.
    pub beta2: f64,
    /// β3, the decay rate of `m2` after its warm-up: in [0, 1). Default 0.9999.
    pub beta3: f64,
    /// α, the weight of `m2` after its warm-up: finite and ≥ 0. Default 5.
    pub alpha: f64,
    /// T_α, the number of steps in which α grows linearly from 0. Default 0: no warm-up.
    pub alpha_warmup: u64,
    /// T_β3, the number of steps in which the half-life of `m2` grows linearly from that of β1 to
    /// that of β3. Default 0: no warm-up.
    pub beta3_warmup: u64,
    /// ε, added to the square root in the denominator. It must be finite and > 0, and still > 0
    /// once rounded to the compute type (`f64` for `f64` buffers, otherwise `f32`). Default 1e-8.
    pub eps: f64,
    /// λ, the decoupled weight decay, `θ − lr·λ·θ`: finite and ≥ 0. Default 0.
    pub weight_decay: f64,
    /// If true, maximizes the objective: the rule uses −g in place of g. The decay still shrinks θ.
    /// Default false.
    pub maximize: bool,
}

impl Default for AdEMAMix {
    fn default() -> Self {
        AdEMAMix {
            lr: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            beta3: 0.9999,
            alpha: 5.0,
            alpha_warmup: 0,
            beta3_warmup: 0,
            eps: 1e-8,
            weight_decay: 0.0,
            maximize: false,
        }
    }
}

impl AdEMAMix {
    /// α_t.
    fn alpha_at(&self, t: u64) -> f64 {
        if t < self.alpha_warmup { self.alpha * share(t, self.alpha_warmup) } else { self.alpha }
    }

    /// β3_t.
    fn beta3_at(&self, t: u64) -> f64 {
        if t >= self.beta3_warmup {
            return self.beta3;
        }
        let share = share(t, self.beta3_warmup);
        // 1/ln 0 is −0.
        let [from, to] = [self.beta1, self.beta3].map(|beta| 1.0 / libm::log(beta));
        libm::exp(1.0 / ((1.0 - share) * from + share * to)).min(self.beta3)
    }
}

fn share(t: u64, of: u64) -> f64 {
    t as f64 / of as f64
}

impl Rule for AdEMAMix {
    fn name(&self) -> &'static str {
        "ademamix"
    }

    fn lr(&self) -> f64 {
        self.lr
    }

    fn set_lr(&mut self, lr: f64) {
        self.lr = lr;
    }

    fn states(&self) -> &'static [State] {
        static STATES: [State; 3] = [State::signed("m1"), State::signed("m2"), V];
        &STATES
    }

    fn check(&self) -> Result<(), Error> {
        check_averages(self.lr, [self.beta1, self.beta2], self.eps, self.weight_decay)?;
        check_below_1("beta3", self.beta3)?;
        check_at_least_0("alpha", self.alpha)
    }

    fn visit_kernel<F: Float, W: KernelVisitor<F>>(
        &self,
        t: u64,
        _: &[f64],
        visitor: W,
    ) -> Result<(), Error> {
        let [correction1, correction2] = corrections([self.beta1, self.beta2], t);
        visitor.visit(&AdEMAMixKernel {
            descent: Descent::new(self.maximize, self.lr, self.weight_decay, true)?,
            m1: Ema::new(self.beta1),
            m2: Ema::new(self.beta3_at(t)),
            v: Ema::new(self.beta2),
            root_scale: round_coefficient(1.0 / correction2.sqrt(), "beta2", self.beta2)?,
            eps: round_eps(self.eps)?,
            of_m1: round_coefficient(self.lr / correction1, "lr", self.lr)?,
            of_m2: round_coefficient(self.lr * self.alpha_at(t), "alpha", self.alpha)?,
        })
    }
}

#[derive(Clone, Copy, Debug)]
struct AdEMAMixKernel<F> {
    descent: Descent<F>,
    m1: Ema<F>,
    m2: Ema<F>,
    v: Ema<F>,
    /// 1/√(1−β2^t).
    root_scale: F,
    eps: F,
    /// a and b of the formulas above.
    of_m1: F,
    of_m2: F,
}

impl<F: Float> Kernel<F, 3> for AdEMAMixKernel<F> {
    const HAND_WRITTEN: bool = true;

    #[inline(always)]
    fn update<L: Lanes<Float = F>>(&self, theta: L, grad: L, [m1, m2, v]: [L; 3]) -> (L, [L; 3]) {
        let g = self.descent.gradient(theta, grad);
        let m1 = self.m1.average(m1, g);
        let m2 = self.m2.average(m2, g);
        let v = self.v.average(v, g * g);
        let d = v.sqrt() * self.root_scale + self.eps;
        let q = (m1 * self.of_m1 + m2 * self.of_m2) / d;
        (self.descent.descend(theta, q), [m1, m2, v])
    }

    fn reference(&self, theta: F, grad: F, [m1, m2, v]: [F; 3]) -> (F, [F; 3]) {
        let g = reference::gradient(&self.descent, theta, grad);
        let m1 = reference::average(self.m1, m1, g);
        let m2 = reference::average(self.m2, m2, g);
        let v = reference::average(self.v, v, g * g);
        let d = v.sqrt() * self.root_scale + self.eps;
        let q = (self.of_m1 * m1 + self.of_m2 * m2) / d;
        (reference::descend(&self.descent, theta, q), [m1, m2, v])
    }
}
