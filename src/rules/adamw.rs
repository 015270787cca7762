//! AdamW: [Adam](super::adam) with decoupled weight decay.

use super::adam::{self, Adam};
use super::{KernelVisitor, Rule, State};
use crate::error::Error;
use crate::simd::Float;

/// Adam with decoupled weight decay: each step subtracts `lr·λ·θ` from θ, whatever the gradient.
///
/// Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (2019), algorithm 2, with the
/// schedule multiplier η folded into `lr`, as is usual. The states and AMSGrad are those of
/// [`Adam`].
///
/// ```
/// use fused_adam::AdamW;
///
/// // With a gradient of 0 only the decay acts: θ − lr·λ·θ.
/// let adamw = AdamW { lr: 0.5, weight_decay: 0.5, ..AdamW::default() };
/// let (mut theta, grad, mut m, mut v) = ([8.0_f32], [0.0], [0.0], [0.0]);
/// adamw.step(1, &mut theta, &grad, [&mut m, &mut v])?;
/// assert_eq!(theta, [6.0]);
/// # Ok::<(), fused_adam::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct AdamW {
    /// The learning rate: finite and ≥ 0. Default 1e-3.
    pub lr: f64,
    /// β1, the decay rate of `m`: in [0, 1). Default 0.9.
    pub beta1: f64,
    /// β2, the decay rate of `v`: in [0, 1). Default 0.999.
    pub beta2: f64,
    /// ε, added to the square root in the denominator. It must be finite and > 0, and still > 0
    /// once rounded to the compute type (`f64` for `f64` buffers, otherwise `f32`). Default 1e-8.
    pub eps: f64,
    /// λ, the decoupled weight decay, `θ − lr·λ·θ`: finite and ≥ 0. Default 0.01.
    pub weight_decay: f64,
    /// If true, divides by the square root of the largest `v` so far instead of the current `v`.
    /// Default false.
    pub amsgrad: bool,
    /// If true, maximizes the objective: the rule uses −g in place of g. The decay still shrinks θ.
    /// Default false.
    pub maximize: bool,
    /// If true, corrects `m` and `v` for starting at zero: divides each by its `1 − β^t`. Default
    /// true.
    pub bias_correction: bool,
}

impl Default for AdamW {
    fn default() -> Self {
        AdamW {
            lr: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.01,
            amsgrad: false,
            maximize: false,
            bias_correction: true,
        }
    }
}

impl Rule for AdamW {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn lr(&self) -> f64 {
        self.lr
    }

    fn set_lr(&mut self, lr: f64) {
        self.lr = lr;
    }

    fn states(&self) -> &'static [State] {
        adam::states(self.amsgrad)
    }

    fn check(&self) -> Result<(), Error> {
        self.as_adam().check()
    }

    fn visit_kernel<F: Float, W: KernelVisitor<F>>(
        &self,
        t: u64,
        _: &[f64],
        visitor: W,
    ) -> Result<(), Error> {
        adam::visit_kernel(&self.as_adam(), true, t, visitor)
    }
}

impl AdamW {
    /// Adam with the same hyper-parameters.
    #[inline(always)]
    fn as_adam(&self) -> Adam {
        let AdamW { lr, beta1, beta2, eps, weight_decay, amsgrad, maximize, bias_correction } =
            *self;
        Adam { lr, beta1, beta2, eps, weight_decay, amsgrad, maximize, bias_correction }
    }
}
