//! The optimizer as burn's training configs hold it: to be saved, loaded, and made into an optimizer.

use burn_core::config::Config;
use burn_optim::ModuleOptimizer;
use burn_optim::grad_clipping::GradientClippingConfig;
use fused_adam::{AnyRule, Error, Rule};
use serde::{Deserialize, Serialize};

use crate::Fused;

/// Which rule an optimizer follows, as a field of a training config.
///
/// ```
/// use burn::config::Config;
/// use fused_adam::RAdam;
/// use fused_adam_burn::FusedConfig;
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
    /// The rule. Its `lr` is not used: burn's loops name the step size in each step.
    pub rule: AnyRule,
    /// What burn does to each parameter's gradient before the step. Default: nothing.
    #[serde(default)]
    pub grad_clipping: Option<GradientClippingConfig>,
    /// Keeps the states of 16-bit parameters in `f32`. Default: no, they are of the parameter's type.
    #[serde(default)]
    pub f32_states: bool,
}

impl Config for FusedConfig {}

impl FusedConfig {
    /// Of any rule of fused-adam. A rule's defaults are fused-adam's (those of torch), not burn's, whose
    /// `AdamConfig` and `AdamWConfig` have an ε of 1e-5, and `AdamWConfig` a weight decay of 1e-4.
    pub fn new(rule: impl Into<AnyRule>) -> Self {
        FusedConfig { rule: rule.into(), grad_clipping: None, f32_states: false }
    }

    /// Has burn clip each parameter's gradient before the step.
    #[must_use]
    pub fn with_grad_clipping(self, grad_clipping: Option<GradientClippingConfig>) -> Self {
        FusedConfig { grad_clipping, ..self }
    }

    /// Keeps the states of 16-bit parameters in `f32`, or not.
    #[must_use]
    pub fn with_f32_states(self, f32_states: bool) -> Self {
        FusedConfig { f32_states, ..self }
    }

    /// The bare optimizer, which `ModuleOptimizer::with_group` takes for one group of parameters, without
    /// the clipping, which `with_group` takes beside it.
    ///
    /// # Errors
    ///
    /// [`Error::HyperParameter`], but for `lr`.
    pub fn build(&self) -> Result<Fused, Error> {
        // The step size that the steps will have is not known yet.
        let mut rule = self.rule;
        rule.set_lr(0.0);
        rule.check()?;
        Ok(Fused::of(rule, self.f32_states))
    }

    /// The optimizer of a whole module, with the clipping.
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
