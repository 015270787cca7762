//! AdaMax: Adam with a decaying maximum of |g| in place of the root mean square.
//!
//! ```text
//! g' = g, or −g to maximize;   then g' + λ·θ for L2 decay λ > 0
//! m' = m + (1−β1)·(g' − m)                when β1 ≥ ½;   g' − β1·(g' − m)       when β1 < ½
//! u' = max(|g'| + ε, u − (1−β2)·u)       when β2 ≥ ½;   max(|g'| + ε, β2·u)   when β2 < ½
//! q  = ((lr/(1−β1^t))·m') / u'
//! θ' = θ − q
//! ```

use super::parts::{Descent, Ema, check_averages, corrections, round_coefficient, round_eps};
use super::state::M;
use super::{Kernel, KernelVisitor, Rule, State, reference};
use crate::error::Error;
use crate::simd::{Float, Lanes};

/// AdaMax.
///
/// Kingma and Ba, "Adam: A Method for Stochastic Optimization" (2015), algorithm 2. The position of
/// ε and the defaults are those of `torch.optim.Adamax`.
///
/// The states are `m`, the moving average of the gradient, and `u`, the maximum of |g| + ε and the
/// decayed previous `u`. Both start at zero.
///
/// ```
/// use fused_adam::{AdaMax, Flat};
///
/// let mut opt = Flat::new(AdaMax { lr: 0.5, ..AdaMax::default() }, 2)?;
/// let mut theta = [1.0_f64, 1.0];
/// opt.step(&mut theta, &[1e3, -1e-3])?; // the first step has size lr
/// assert!((theta[0] - 0.5).abs() < 1e-4 && (theta[1] - 1.5).abs() < 1e-4);
/// # Ok::<(), fused_adam::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct AdaMax {
    /// The learning rate: finite and ≥ 0. Default 2e-3.
    pub lr: f64,
    /// β1, the decay rate of `m`: in [0, 1). Default 0.9.
    pub beta1: f64,
    /// β2, the decay rate of `u`: in [0, 1). Default 0.999.
    pub beta2: f64,
    /// ε, added to |g|. It must be finite and > 0, and still > 0 once rounded to the compute type
    /// (`f64` for `f64` buffers, otherwise `f32`). Default 1e-8.
    pub eps: f64,
    /// λ, the weight decay, an L2 penalty: adds λ·θ to the gradient. Finite and ≥ 0. Default 0.
    pub weight_decay: f64,
    /// If true, maximizes the objective: the rule uses −g in place of g. Default false.
    pub maximize: bool,
}

impl Default for AdaMax {
    fn default() -> Self {
        AdaMax { lr: 2e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, maximize: false }
    }
}

impl Rule for AdaMax {
    fn name(&self) -> &'static str {
        "adamax"
    }

    fn lr(&self) -> f64 {
        self.lr
    }

    fn set_lr(&mut self, lr: f64) {
        self.lr = lr;
    }

    fn states(&self) -> &'static [State] {
        static STATES: [State; 2] = [M, State::non_negative("u").divisor().running_max()];
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
        let [correction, _] = corrections([self.beta1, 0.0], t);
        visitor.visit(&AdaMaxKernel {
            descent: Descent::new(self.maximize, self.lr, self.weight_decay, false)?,
            m: Ema::new(self.beta1),
            u: Ema::new(self.beta2),
            eps: round_eps(self.eps)?,
            step_size: round_coefficient(self.lr / correction, "lr", self.lr)?,
        })
    }
}

#[derive(Clone, Copy, Debug)]
struct AdaMaxKernel<F> {
    descent: Descent<F>,
    m: Ema<F>,
    u: Ema<F>,
    eps: F,
    /// lr/(1−β1^t).
    step_size: F,
}

impl<F: Float> Kernel<F, 2> for AdaMaxKernel<F> {
    const HAND_WRITTEN: bool = true;

    #[inline(always)]
    fn update<L: Lanes<Float = F>>(&self, theta: L, grad: L, [m, u]: [L; 2]) -> (L, [L; 2]) {
        let g = self.descent.gradient(theta, grad);
        let m = self.m.average(m, g);
        let u = self.u.shrink(u).fast_max(g.abs() + self.eps).if_finite(u);
        (self.descent.descend(theta, m * self.step_size / u), [m, u])
    }

    fn reference(&self, theta: F, grad: F, [m, u]: [F; 2]) -> (F, [F; 2]) {
        let g = reference::gradient(&self.descent, theta, grad);
        let m = reference::average(self.m, m, g);
        let larger = reference::larger(reference::shrink(self.u, u), g.abs() + self.eps);
        let u = reference::if_finite(u, larger);
        (reference::descend(&self.descent, theta, self.step_size * m / u), [m, u])
    }
}
