//! NAdam: Adam with Nesterov's look ahead.
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
//! One division, where the textbook's two terms take one each. With a `mu_product` the product of the momenta before
//! μ_t is that one.

use super::moments::{Moments, Quotient};
use super::{
    Ends, Rate, Rule, WithKernel, check, check_at_least_0, check_averages, powers, round, round_eps,
};
use crate::{Error, Float, Lanes};

/// NAdam.
///
/// Dozat, "Incorporating Nesterov Momentum into Adam" (2016), with the schedule of momentum that
/// torch has. Defaults are torch's. Decoupled decay is that of [`AdamW`](crate::AdamW).
///
/// The states are `m`, the moving average of the gradient, and `v`, that of its square.
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
#[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "checkpoint", serde(deny_unknown_fields))]
pub struct NAdam {
    /// The step size: finite and ≥ 0. Default 2e-3.
    pub lr: f64,
    /// β1, the decay rate of `m`: in [0, 1). Default 0.9.
    pub beta1: f64,
    /// β2, the decay rate of `v`: in [0, 1). Default 0.999.
    pub beta2: f64,
    /// ε, added to the root in the denominator: finite and > 0, also once rounded to `f32`. Default
    /// 1e-8.
    pub eps: f64,
    /// λ of the decay: finite and ≥ 0. Default 0.
    pub weight_decay: f64,
    /// Decay is lr·λ·θ, not an L2 penalty `g + λ·θ`. Default false.
    pub decoupled_weight_decay: bool,
    /// ψ, how fast the momentum grows from half of β1 to β1: finite and ≥ 0. Default 4e-3.
    pub momentum_decay: f64,
    /// μ_1⋯μ_{t−1}, the product of the momenta of the steps before this one, where they were not those of the present β1
    /// and ψ: for a step after one of the two was changed, if it is to follow the momenta that there were, as torch's does.
    /// In [0, 1], and to be set anew for each step. Default: none, the product is what the present β1 and ψ make of it.
    #[cfg_attr(feature = "checkpoint", serde(default, skip_serializing_if = "Option::is_none"))]
    pub mu_product: Option<f64>,
    /// Climbs along the gradient, not down. Default false.
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
            mu_product: None,
            maximize: false,
        }
    }
}

impl NAdam {
    /// μ_1⋯μ_t of the present β1 and ψ.
    pub fn mu_product_after(&self, t: u64) -> f64 {
        self.momenta(t).2
    }

    /// μ_t, μ_{t+1}, and the product of μ_1 to μ_t.
    ///
    /// The product takes a loop, of at most a few thousand turns whatever t is: it ends where the
    /// product is too small for 1 − product to notice, or where the factors are all the same.
    fn momenta(&self, t: u64) -> (f64, f64, f64) {
        let base = libm::pow(0.96, self.momentum_decay);
        let mu = |power: f64| self.beta1 * (1.0 - 0.5 * power);
        let [power, _] = powers([base, 0.0], t);
        let (mut product, mut rising) = (1.0, base);
        for i in 1..=t {
            // Half a unit in the last place of 1, and a margin.
            const NOTHING: f64 = 1.0 / (1_u64 << 60) as f64;
            if product < NOTHING {
                break;
            }
            if rising < NOTHING {
                product *= powers([self.beta1, 0.0], t - i + 1)[0];
                break;
            }
            product *= mu(rising);
            rising *= base;
        }
        (mu(power), mu(power * base), product)
    }
}

impl Rule for NAdam {
    fn state_names(&self) -> &'static [&'static str] {
        &["m", "v"]
    }

    fn check(&self) -> Result<(), Error> {
        check_averages(self.lr, [self.beta1, self.beta2], self.eps, self.weight_decay)?;
        check_at_least_0("momentum_decay", self.momentum_decay)?;
        self.mu_product.map_or(Ok(()), |product| {
            check("mu_product", product, (0.0..=1.0).contains(&product), "a number in [0, 1]")
        })
    }

    fn with_kernel<F: Float, W: WithKernel<F>>(&self, t: u64, then: W) -> Result<(), Error> {
        let (mu, mu_next, product) = self.momenta(t);
        let product = self.mu_product.map_or(product, |before| before * mu);
        let [power, _] = powers([self.beta2, 0.0], t);
        let of_grad = self.lr * (1.0 - mu) / (1.0 - product);
        let of_m = self.lr * mu_next / (1.0 - product * mu_next);
        then.with(&Moments {
            ends: Ends::new(
                self.maximize,
                self.lr,
                self.weight_decay,
                self.decoupled_weight_decay,
            )?,
            m: Rate::new(self.beta1),
            v: Rate::new(self.beta2),
            quotient: LookingAhead {
                root_scale: round(1.0 / (1.0 - power).sqrt(), "beta2", self.beta2)?,
                eps: round_eps(self.eps)?,
                of_grad: round(of_grad, "lr", self.lr)?,
                of_m: round(of_m, "lr", self.lr)?,
            },
        })
    }
}

/// The coefficients of one step, computed in f64 and rounded once.
#[derive(Clone, Copy)]
struct LookingAhead<F> {
    /// 1/√(1−β2^t).
    root_scale: F,
    eps: F,
    /// a and b.
    of_grad: F,
    of_m: F,
}

impl<F: Float> Quotient<F> for LookingAhead<F> {
    #[inline(always)]
    fn quotient<L: Lanes<Float = F>>(&self, g: L, m: L, w: L) -> L {
        let d = w.sqrt() * self.root_scale + self.eps;
        (g * self.of_grad + m * self.of_m) / d
    }

    #[inline(always)]
    fn by_hand(&self, g: F, m: F, w: F) -> F {
        let d = w.sqrt() * self.root_scale + self.eps;
        (self.of_grad * g + self.of_m * m) / d
    }
}
