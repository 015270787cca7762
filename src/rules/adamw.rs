//! AdamW: [Adam](super::adam) with decoupled weight decay.

use super::adam::{self, Adam};
use super::{Rule, State, WithKernel};
use crate::error::Error;
use crate::simd::Float;

/// Adam with decoupled weight decay: θ shrinks by `lr·λ·θ` a step, however large its gradients.
///
/// Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (2019), algorithm 2, with the
/// schedule multiplier η taken into `lr` as is usual. States and AMSGrad as for [`Adam`].
///
/// ```
/// use fused_adam::AdamW;
///
/// // Without a gradient only the decay is left: θ − lr·λ·θ.
/// let adamw = AdamW { lr: 0.5, weight_decay: 0.5, ..AdamW::default() };
/// let (mut theta, grad, mut m, mut v) = ([8.0_f32], [0.0], [0.0], [0.0]);
/// adamw.step(1, &mut theta, &grad, [&mut m, &mut v])?;
/// assert_eq!(theta, [6.0]);
/// # Ok::<(), fused_adam::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "checkpoint", serde(deny_unknown_fields))]
pub struct AdamW {
    /// The step size: finite and ≥ 0. Default 1e-3.
    pub lr: f64,
    /// β1, the decay rate of `m`: in [0, 1). Default 0.9.
    pub beta1: f64,
    /// β2, the decay rate of `v`: in [0, 1). Default 0.999.
    pub beta2: f64,
    /// ε, added to the root in the denominator: finite and > 0, also once rounded to the element
    /// type. Default 1e-8.
    pub eps: f64,
    /// λ of the decoupled decay, `θ − lr·λ·θ`: finite and ≥ 0. Default 0.01.
    pub weight_decay: f64,
    /// Divides by the root of the largest `v` so far, not of the present one. Default false.
    pub amsgrad: bool,
    /// Climbs along the gradient, not down. Decay still shrinks θ. Default false.
    pub maximize: bool,
    /// Makes up for states that start at zero, by `1 − β^t`. Default true.
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

    fn with_kernel<F: Float, W: WithKernel<F>>(
        &self,
        t: u64,
        _: &[f64],
        then: W,
    ) -> Result<(), Error> {
        adam::with_kernel(&self.as_adam(), true, t, then)
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
