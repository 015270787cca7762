//! The configuration of an optimizer: a rule of fused-adam, or the hyper-parameters of candle's own
//! optimizer.

use candle_nn::ParamsAdamW;
use fused_adam::{Adam, AdamW, AnyRule};

/// The `Config` of an [`Optimizer`](crate::Optimizer): a type that converts to a rule with its
/// hyper-parameters.
///
/// Every rule of fused-adam implements it, as do [`AnyRule`] and candle's [`ParamsAdamW`], which
/// converts to AdamW.
pub trait Config: Sized {
    /// Converts to a rule. The caller checks it.
    fn into_rule(self) -> AnyRule;
}

/// Implements the trait for types with a conversion. (A blanket implementation would conflict with
/// that for [`ParamsAdamW`].)
macro_rules! config {
    ($type:ty) => {
        impl Config for $type {
            fn into_rule(self) -> AnyRule {
                self.into()
            }
        }
    };
}

/// Implements the trait for the table of rules.
macro_rules! configs {
    ($($name:ident: $Rule:ident),* $(,)?) => {
        $(config!(fused_adam::$Rule);)*
    };
}

fused_adam::for_each_rule!(configs);
config!(AnyRule);
config!(ParamsAdam);

impl Config for ParamsAdamW {
    fn into_rule(self) -> AnyRule {
        let ParamsAdamW { lr, beta1, beta2, eps, weight_decay } = self;
        AdamW { lr, beta1, beta2, eps, weight_decay, ..AdamW::default() }.into()
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

impl From<ParamsAdam> for AnyRule {
    fn from(params: ParamsAdam) -> Self {
        let ParamsAdam { lr, beta1, beta2, eps, weight_decay } = params;
        Adam { lr, beta1, beta2, eps, weight_decay, ..Adam::default() }.into()
    }
}
