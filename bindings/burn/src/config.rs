//! The optimizer in burn's training configs. A config can be saved, loaded, and made into an
//! optimizer.

use burn_core::config::Config;
use burn_optim::ModuleOptimizer;
use burn_optim::grad_clipping::GradientClippingConfig;
use fused_adam::{AnyRule, Error, Rule};
use serde::{Deserialize, Serialize};

use crate::Fused;

/// The configuration of an optimizer, as a field of a training config.
///
/// ```
/// use burn::config::Config;
/// use fused_adam_burn::FusedConfig;
/// use fused_adam_burn::fused_adam::RAdam;
///
/// #[derive(Config, Debug)]
/// struct TrainingConfig {
///     optimizer: FusedConfig,
///     #[config(default = 10)]
///     num_epochs: usize,
/// }
///
/// let rule = RAdam { beta1: 0.95, ..RAdam::default() };
/// let config = TrainingConfig::new(FusedConfig::new(rule));
/// let again = TrainingConfig::load_binary(config.to_string().as_bytes())?;
/// assert_eq!(again.optimizer.rule, rule.into());
/// # Ok::<(), burn::config::ConfigError>(())
/// ```
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FusedConfig {
    /// The rule. Its `lr` is not used, because burn's training loops pass the learning rate to each
    /// step.
    pub rule: AnyRule,
    /// How burn clips each parameter's gradient before the step. Default: no clipping.
    #[serde(default)]
    pub grad_clipping: Option<GradientClippingConfig>,
    /// Whether to store the states of 16-bit parameters in `f32`, or in the type of the parameter.
    /// Default: in `f32` for `f16`, and in `bf16` for `bf16`; with `min_8bit_size`, in `f32` for
    /// both.
    ///
    /// States of 16 bits in a record become `f32` in the next step if this asks for `f32`. States
    /// of `f32` stay `f32` if this asks for 16 bits.
    #[serde(default)]
    pub f32_states: Option<bool>,
    /// Stores the states of parameters with at least so many elements in 8 bits. Default: none in 8
    /// bits.
    #[serde(default)]
    pub min_8bit_size: Option<usize>,
}

impl Config for FusedConfig {}

impl FusedConfig {
    /// A config with any rule of fused-adam. The defaults of the rules are those of fused-adam and
    /// torch. burn's defaults are different: `AdamConfig` and `AdamWConfig` have an ε of 1e-5, and
    /// `AdamWConfig` has a weight decay of 1e-4.
    pub fn new(rule: impl Into<AnyRule>) -> Self {
        FusedConfig {
            rule: rule.into(),
            grad_clipping: None,
            f32_states: None,
            min_8bit_size: None,
        }
    }

    /// Sets how burn clips each parameter's gradient before the step.
    #[must_use]
    pub fn with_grad_clipping(self, grad_clipping: Option<GradientClippingConfig>) -> Self {
        FusedConfig { grad_clipping, ..self }
    }

    /// Sets whether to store the states of 16-bit parameters in `f32`, or in the type of the
    /// parameter.
    #[must_use]
    pub fn with_f32_states(self, f32_states: bool) -> Self {
        FusedConfig { f32_states: Some(f32_states), ..self }
    }

    /// Stores the states of large parameters in 8 bits: 33 bytes for 32 elements, so that AdamW has
    /// 2.06 bytes of states for each element instead of 8. A step computes in `f32`, and rounds the
    /// states stochastically. Parameters of `f64` of this size are refused.
    ///
    /// Parameters with less than `min_8bit_size` elements have the other types of states: they take
    /// little memory, and small parameters such as biases are sensitive. A usual value is 4096.
    /// With 0 all parameters have states in 8 bits.
    ///
    /// ```
    /// use fused_adam_burn::FusedConfig;
    /// use fused_adam_burn::fused_adam::AdamW;
    ///
    /// let optim = FusedConfig::new(AdamW::default()).with_8bit_states(4096).init()?;
    /// # Ok::<(), fused_adam_burn::fused_adam::Error>(())
    /// ```
    #[must_use]
    pub fn with_8bit_states(self, min_8bit_size: usize) -> Self {
        FusedConfig { min_8bit_size: Some(min_8bit_size), ..self }
    }

    /// Builds the bare optimizer, without clipping, for one group of parameters.
    /// `ModuleOptimizer::with_group` takes it, and takes the clipping as a separate argument.
    ///
    /// # Errors
    ///
    /// [`Error::HyperParameter`] if a hyper-parameter is outside its range. `lr` is not checked.
    pub fn build(&self) -> Result<Fused, Error> {
        // The learning rate of the steps is not known yet.
        let mut rule = self.rule;
        rule.set_lr(0.0);
        rule.check()?;
        Ok(Fused::of(rule, self.f32_states, self.min_8bit_size))
    }

    /// Builds the optimizer of a whole module, with clipping.
    ///
    /// # Errors
    ///
    /// Those of [`build`](Self::build).
    pub fn init(&self) -> Result<ModuleOptimizer, Error> {
        let optim = ModuleOptimizer::from(self.build()?);
        Ok(match &self.grad_clipping {
            Some(clipping) => optim.with_grad_clipping(clipping.init()),
            None => optim,
        })
    }
}
