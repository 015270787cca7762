//! The configuration of an optimizer: a rule of fused-adam, or the hyper-parameters of candle's own
//! optimizer.

use candle_nn::ParamsAdamW;
use fused_adam::{Adam, AdamW, AnyRule, Sgd};

/// The `Config` of an [`Optimizer`](crate::Optimizer): a type that converts to a rule with its
/// hyper-parameters.
///
/// Every rule of fused-adam implements it, as do [`AnyRule`], [`ParamsAdam`], and the types that
/// candle's own optimizers take: [`ParamsAdamW`] for AdamW, and `f64`, the learning rate, for SGD
/// without momentum.
pub trait Config: Clone {
    /// Converts to a rule. The caller checks it.
    fn into_rule(self) -> AnyRule;

    /// Takes the hyper-parameters of a rule of the kind that [`into_rule`](Self::into_rule)
    /// returns. [`params`](crate::Optimizer::params) shows them after the learning rate has been
    /// set or a checkpoint has been loaded. Of a rule of another kind it takes nothing.
    fn set_from_rule(&mut self, rule: &AnyRule);
}

/// Implements the trait for the table of rules.
macro_rules! configs {
    ($($name:ident: $Rule:ident),* $(,)?) => {$(
        impl Config for fused_adam::$Rule {
            fn into_rule(self) -> AnyRule {
                self.into()
            }

            fn set_from_rule(&mut self, rule: &AnyRule) {
                if let AnyRule::$Rule(rule) = rule {
                    *self = *rule;
                }
            }
        }
    )*};
}

fused_adam::for_each_rule!(configs);

impl Config for AnyRule {
    fn into_rule(self) -> AnyRule {
        self
    }

    fn set_from_rule(&mut self, rule: &AnyRule) {
        *self = *rule;
    }
}

impl Config for f64 {
    fn into_rule(self) -> AnyRule {
        Sgd { lr: self, ..Sgd::default() }.into()
    }

    fn set_from_rule(&mut self, rule: &AnyRule) {
        if let AnyRule::Sgd(rule) = rule {
            *self = rule.lr;
        }
    }
}

impl Config for ParamsAdamW {
    fn into_rule(self) -> AnyRule {
        let ParamsAdamW { lr, beta1, beta2, eps, weight_decay } = self;
        AdamW { lr, beta1, beta2, eps, weight_decay, ..AdamW::default() }.into()
    }

    fn set_from_rule(&mut self, rule: &AnyRule) {
        if let AnyRule::AdamW(AdamW { lr, beta1, beta2, eps, weight_decay, .. }) = *rule {
            *self = ParamsAdamW { lr, beta1, beta2, eps, weight_decay };
        }
    }
}

impl Config for ParamsAdam {
    fn into_rule(self) -> AnyRule {
        let ParamsAdam { lr, beta1, beta2, eps, weight_decay } = self;
        Adam { lr, beta1, beta2, eps, weight_decay, ..Adam::default() }.into()
    }

    fn set_from_rule(&mut self, rule: &AnyRule) {
        if let AnyRule::Adam(Adam { lr, beta1, beta2, eps, weight_decay, .. }) = *rule {
            *self = ParamsAdam { lr, beta1, beta2, eps, weight_decay };
        }
    }
}

/// The hyper-parameters of Adam, in candle's style. They have the fields of [`ParamsAdamW`], and
/// convert from it.
///
/// ```
/// use candle_nn::ParamsAdamW;
/// use fused_adam_candle::ParamsAdam;
///
/// let params = ParamsAdam::from(ParamsAdamW { lr: 0.1, weight_decay: 0.0, ..Default::default() });
/// assert_eq!(params, ParamsAdam { lr: 0.1, ..Default::default() });
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ParamsAdam {
    /// The learning rate. Default: 1e-3.
    pub lr: f64,
    /// β₁, the decay rate of m. Default: 0.9.
    pub beta1: f64,
    /// β₂, the decay rate of v. Default: 0.999.
    pub beta2: f64,
    /// ε, added to the root of v. Default: 1e-8.
    pub eps: f64,
    /// λ, the coefficient of an L2 penalty. It is added to the gradient as λθ; AdamW instead decays
    /// θ directly. Default: 0.
    pub weight_decay: f64,
}

impl Default for ParamsAdam {
    fn default() -> Self {
        ParamsAdam { weight_decay: 0.0, ..ParamsAdamW::default().into() }
    }
}

impl From<ParamsAdamW> for ParamsAdam {
    fn from(params: ParamsAdamW) -> Self {
        let ParamsAdamW { lr, beta1, beta2, eps, weight_decay } = params;
        ParamsAdam { lr, beta1, beta2, eps, weight_decay }
    }
}
