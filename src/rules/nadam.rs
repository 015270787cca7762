//! NAdam: Adam with Nesterov momentum.
//!
//! ```text
//! g' = g, or −g to maximize;   then g' + λ·θ for L2 decay λ > 0
//! m' = m + (1−β1)·(g' − m)                when β1 ≥ ½;   g' − β1·(g' − m)       when β1 < ½
//! v' = v + (1−β2)·(g'·g' − v)             when β2 ≥ ½;   g'·g' − β2·(g'·g' − v) when β2 < ½
//! d  = √v' · (1/√(1−β2^t)) + ε
//! q  = (a·g' + b·m') / d;                 (lr·λ)·θ + q for decoupled decay λ > 0
//! θ' = θ − q
//!
//! a  = lr·(1−μ_t)/(1−μ_1⋯μ_t),   b = lr·μ_{t+1}/(1−μ_1⋯μ_{t+1}),   μ_t = β1·(1 − ½·0.96^(t·ψ))
//! ```
//!
//! There is one division, where the textbook's two terms take one each. The product μ_1⋯μ_t is a
//! scalar that is stored for each parameter. It is the product over the steps that were actually
//! taken, even if β1 or ψ has changed in between.

use super::moments::{Delta, Moments};
use super::parts::{
    Descent, Ema, check, check_at_least_0, check_averages, powers, round_coefficient, round_eps,
};
use super::state::{M, V};
use super::{KernelVisitor, Rule, State};
use crate::error::Error;
use crate::simd::{Float, Lanes};

/// NAdam.
///
/// Dozat, "Incorporating Nesterov Momentum into Adam" (2016), with the momentum schedule and the
/// defaults of `torch.optim.NAdam`. Decoupled decay works as in [`AdamW`](crate::AdamW).
///
/// The states are `m`, the moving average of the gradient, and `v`, the moving average of the
/// squared gradient. Both start at zero. The scalar is `mu_product`, the product μ_1⋯μ_t of the
/// momenta of all steps so far.
///
/// ```
/// use fused_adam::{Flat, NAdam};
///
/// let mut opt = Flat::new(NAdam::default(), 1)?;
/// let mut theta = [1.0_f32];
/// opt.step(&mut theta, &[3.0])?;
/// assert!(theta[0] < 1.0);
/// # Ok::<(), fused_adam::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct NAdam {
    /// The learning rate: finite and ≥ 0. Default 2e-3.
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
    /// ψ, how fast the momentum grows from β1/2 to β1: finite and ≥ 0. Default 4e-3.
    pub momentum_decay: f64,
    /// If true, maximizes the objective: the rule uses −g in place of g. Default false.
    pub maximize: bool,
}

impl Default for NAdam {
    fn default() -> Self {
        NAdam {
            lr: 2e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            decoupled_weight_decay: false,
            momentum_decay: 4e-3,
            maximize: false,
        }
    }
}

impl NAdam {
    /// μ_t and μ_{t+1}.
    fn momenta(&self, t: u64) -> [f64; 2] {
        let base = self.base();
        let [power, _] = powers([base, 0.0], t);
        [self.momentum(power), self.momentum(power * base)]
    }

    /// μ_t, where `power` is 0.96^(t·ψ).
    fn momentum(&self, power: f64) -> f64 {
        self.beta1 * (1.0 - 0.5 * power)
    }

    /// 0.96^ψ.
    fn base(&self) -> f64 {
        libm::pow(0.96, self.momentum_decay)
    }

    /// μ_1⋯μ_t for the current β1 and ψ.
    ///
    /// The loop runs at most a few thousand times, whatever `t` is. It ends when the product is too
    /// small to change 1 − product, or when all further factors are equal.
    fn product_after(&self, t: u64) -> f64 {
        // Below half a unit in the last place of 1, with a margin.
        const NOTHING: f64 = 1.0 / (1_u64 << 60) as f64;
        let base = self.base();
        let (mut product, mut power) = (1.0, base);
        for i in 1..=t {
            if product < NOTHING {
                break;
            }
            if power < NOTHING {
                return product * powers([self.beta1, 0.0], t - i + 1)[0];
            }
            product *= self.momentum(power);
            power *= base;
        }
        product
    }
}

impl Rule for NAdam {
    fn name(&self) -> &'static str {
        "nadam"
    }

    fn lr(&self) -> f64 {
        self.lr
    }

    fn set_lr(&mut self, lr: f64) {
        self.lr = lr;
    }

    fn states(&self) -> &'static [State] {
        static STATES: [State; 2] = [M, V];
        &STATES
    }

    fn scalars(&self) -> &'static [&'static str] {
        &["mu_product"]
    }

    fn scalar_after(&self, _: usize, t: u64) -> f64 {
        self.product_after(t)
    }

    fn advance_scalars(&self, t: u64, scalars: &mut [f64]) {
        for product in scalars {
            *product *= self.momenta(t)[0];
        }
    }

    fn check(&self) -> Result<(), Error> {
        check_averages(self.lr, [self.beta1, self.beta2], self.eps, self.weight_decay)?;
        check_at_least_0("momentum_decay", self.momentum_decay)
    }

    fn visit_kernel<F: Float, W: KernelVisitor<F>>(
        &self,
        t: u64,
        scalars: &[f64],
        visitor: W,
    ) -> Result<(), Error> {
        let [mu, mu_next] = self.momenta(t);
        let product = scalars.first().copied().unwrap_or(1.0);
        check("mu_product", product, (0.0..1.0).contains(&product), "a number in [0, 1)")?;
        let [power, _] = powers([self.beta2, 0.0], t);
        let of_grad = self.lr * (1.0 - mu) / (1.0 - product);
        let of_m = self.lr * mu_next / (1.0 - product * mu_next);
        visitor.visit(&Moments {
            descent: Descent::new(
                self.maximize,
                self.lr,
                self.weight_decay,
                self.decoupled_weight_decay,
            )?,
            m: Ema::new(self.beta1),
            v: Ema::new(self.beta2),
            delta: NesterovDelta {
                root_scale: round_coefficient(1.0 / (1.0 - power).sqrt(), "beta2", self.beta2)?,
                eps: round_eps(self.eps)?,
                of_grad: round_coefficient(of_grad, "lr", self.lr)?,
                of_m: round_coefficient(of_m, "lr", self.lr)?,
            },
        })
    }
}

/// The coefficients of one step: computed in `f64`, then rounded once to `F`.
#[derive(Clone, Copy, Debug)]
struct NesterovDelta<F> {
    /// 1/√(1−β2^t).
    root_scale: F,
    eps: F,
    /// a and b of the formulas above.
    of_grad: F,
    of_m: F,
}

impl<F: Float> Delta<F> for NesterovDelta<F> {
    #[inline(always)]
    fn delta<L: Lanes<Float = F>>(&self, g: L, m: L, w: L) -> L {
        let d = w.sqrt() * self.root_scale + self.eps;
        (g * self.of_grad + m * self.of_m) / d
    }

    #[inline(always)]
    fn reference(&self, g: F, m: F, w: F) -> F {
        let d = w.sqrt() * self.root_scale + self.eps;
        (self.of_grad * g + self.of_m * m) / d
    }
}
