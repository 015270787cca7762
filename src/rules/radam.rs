//! RAdam: Adam that uses plain momentum until the variance of its adaptive learning rate is
//! tractable.
//!
//! ```text
//! g' = g, or −g to maximize;   then g' + λ·θ for L2 decay λ > 0
//! m' = m + (1−β1)·(g' − m)                when β1 ≥ ½;   g' − β1·(g' − m)       when β1 < ½
//! v' = v + (1−β2)·(g'·g' − v)             when β2 ≥ ½;   g'·g' − β2·(g'·g' − v) when β2 < ½
//! q  = (s·m') / (√v' + ε)                when ρ_t > 5;   s·m'                  otherwise
//! q  = (lr·λ)·θ + q                       for decoupled decay λ > 0
//! θ' = θ − q
//!
//! s  = lr/(1−β1^t),   times √(1−β2^t)·√((ρ_t−4)(ρ_t−2)ρ∞ / ((ρ∞−4)(ρ∞−2)ρ_t)) when ρ_t > 5
//! ρ∞ = 2/(1−β2) − 1,   ρ_t = ρ∞ − 2·t·β2^t/(1−β2^t)
//! ```

use super::moments::{Delta, Moments};
use super::parts::{Descent, Ema, check_averages, powers, round_coefficient, round_eps};
use super::state::{M, V};
use super::{KernelVisitor, Rule, State};
use crate::error::Error;
use crate::simd::{Float, Lanes};

/// RAdam.
///
/// Liu, Jiang, He, Chen, Liu, Gao and Han, "On the Variance of the Adaptive Learning Rate and
/// Beyond" (2020), algorithm 2. The position of ε, the threshold of 5 and the defaults are those of
/// `torch.optim.RAdam`. Decoupled decay works as in [`AdamW`](crate::AdamW).
///
/// The states are `m`, the moving average of the gradient, and `v`, the moving average of the
/// squared gradient. Both start at zero.
///
/// ```
/// use fused_adam::{Flat, RAdam};
///
/// // The first steps use momentum with bias correction: here lr·g.
/// let mut opt = Flat::new(RAdam { lr: 0.5, ..RAdam::default() }, 1)?;
/// let mut theta = [1.0_f64];
/// opt.step(&mut theta, &[3.0])?;
/// assert!((theta[0] - (1.0 - 0.5 * 3.0)).abs() < 1e-12);
/// # Ok::<(), fused_adam::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct RAdam {
    /// The learning rate: finite and ≥ 0. Default 1e-3.
    pub lr: f64,
    /// β1, the decay rate of `m`: in [0, 1). Default 0.9.
    pub beta1: f64,
    /// β2, the decay rate of `v`: in [0, 1). Default 0.999.
    pub beta2: f64,
    /// ε, added to the square root in the denominator. It must be finite and > 0, and still > 0
    /// once rounded to the compute type (`f64` for `f64` buffers, otherwise `f32`). Default 1e-8.
    pub eps: f64,
    /// λ, the weight decay: finite and ≥ 0. Default 0.
    pub weight_decay: f64,
    /// If true, the decay is decoupled: it subtracts lr·λ·θ from θ. If false, it is an L2 penalty:
    /// it adds λ·θ to the gradient. Default false.
    pub decoupled_weight_decay: bool,
    /// If true, maximizes the objective: the rule uses −g in place of g. Default false.
    pub maximize: bool,
}

impl Default for RAdam {
    fn default() -> Self {
        RAdam {
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

impl RAdam {
    /// The factor s of m in step `t`, and whether the step divides by √v + ε.
    fn step_size(&self, t: u64) -> (f64, bool) {
        let [power1, power2] = powers([self.beta1, self.beta2], t);
        let size = self.lr / (1.0 - power1);
        let longest = 2.0 / (1.0 - self.beta2) - 1.0;
        let length = longest - 2.0 * t as f64 * power2 / (1.0 - power2);
        if length > 5.0 {
            let rectification = (length - 4.0) * (length - 2.0) * longest
                / ((longest - 4.0) * (longest - 2.0) * length);
            (size * (1.0 - power2).sqrt() * rectification.sqrt(), true)
        } else {
            (size, false)
        }
    }
}

impl Rule for RAdam {
    fn name(&self) -> &'static str {
        "radam"
    }

    fn lr(&self) -> f64 {
        self.lr
    }

    fn set_lr(&mut self, lr: f64) {
        self.lr = lr;
    }

    fn states(&self) -> &'static [State] {
        static STATES: [State; 2] = [M.torch("exp_avg"), V.torch("exp_avg_sq")];
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
        let (step_size, adaptive) = self.step_size(t);
        visitor.visit(&Moments {
            descent: Descent::new(
                self.maximize,
                self.lr,
                self.weight_decay,
                self.decoupled_weight_decay,
            )?,
            m: Ema::new(self.beta1),
            v: Ema::new(self.beta2),
            delta: RectifiedDelta {
                eps: round_eps(self.eps)?,
                step_size: round_coefficient(step_size, "lr", self.lr)?,
                adaptive,
            },
        })
    }
}

/// The coefficients of one step: computed in `f64`, then rounded once to `F`.
#[derive(Clone, Copy, Debug)]
struct RectifiedDelta<F> {
    eps: F,
    step_size: F,
    adaptive: bool,
}

impl<F: Float> Delta<F> for RectifiedDelta<F> {
    #[inline(always)]
    fn delta<L: Lanes<Float = F>>(&self, _: L, m: L, w: L) -> L {
        let q = m * self.step_size;
        if self.adaptive { q / (w.sqrt() + self.eps) } else { q }
    }

    #[inline(always)]
    fn reference(&self, _: F, m: F, w: F) -> F {
        match self.adaptive {
            true => self.step_size * m / (w.sqrt() + self.eps),
            false => self.step_size * m,
        }
    }
}
