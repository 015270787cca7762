//! What an optimizer is made from: a rule of fused-adam, or the hyper-parameters that candle's own
//! optimizer takes.

use candle_nn::ParamsAdamW;
use fused_adam::{Adam, AdamW, AnyRule};

/// The `Config` of an [`Optimizer`](crate::Optimizer): something that says a rule with its
/// hyper-parameters.
///
/// Every rule of fused-adam is one, and [`AnyRule`], and candle's [`ParamsAdamW`], which says
/// AdamW.
pub trait Config: Sized {
    /// The rule that it says. It is checked by whoever takes it.
    fn into_rule(self) -> AnyRule;
}

/// For what has a conversion. (A blanket implementation would overlap with that for
/// [`ParamsAdamW`], as far as the compiler may assume.)
macro_rules! config {
    ($type:ty) => {
        impl Config for $type {
            fn into_rule(self) -> AnyRule {
                self.into()
            }
        }
    };
}

/// For the table of rules.
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

/// The hyper-parameters of Adam, in candle's style: the fields of [`ParamsAdamW`], from which it
/// converts.
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
    /// The step size. Default: 1e-3.
    pub lr: f64,
    /// How much of m stays in a step. Default: 0.9.
    pub beta1: f64,
    /// How much of v stays in a step. Default: 0.999.
    pub beta2: f64,
    /// What is added to the root of v. Default: 1e-8.
    pub eps: f64,
    /// λ of an L2 penalty, which is folded into the gradient: where AdamW would have θ itself decay.
    /// Default: 0.
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
