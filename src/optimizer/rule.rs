//! What an [`Optimizer`](super::Optimizer) asks of a rule beside its arithmetic: a name to write
//! into a checkpoint, and a step size that a schedule can move.

use crate::{
    AdaBelief, AdaBound, AdaGrad, AdaMax, Adam, AdamW, AnyRule, Lion, NAdam, RAdam, RmsProp, Rule,
    Sgd,
};

/// A rule with a name and a step size. Every rule of this crate is one.
pub trait NamedRule: Rule + Clone + Send + Sync {
    /// Such as `adamw`.
    fn name(&self) -> &'static str;

    /// The step size.
    fn lr(&self) -> f64;

    /// Changes the step size; it is checked on the next step.
    fn set_lr(&mut self, lr: f64);
}

/// For a rule whose step size is its field `lr`.
macro_rules! named {
    ($($rule:ty: $name:literal),* $(,)?) => {$(
        impl NamedRule for $rule {
            fn name(&self) -> &'static str {
                $name
            }
            fn lr(&self) -> f64 {
                self.lr
            }
            fn set_lr(&mut self, lr: f64) {
                self.lr = lr;
            }
        }
    )*};
}

named! {
    Sgd: "sgd",
    RmsProp: "rmsprop",
    AdaGrad: "adagrad",
    Adam: "adam",
    AdamW: "adamw",
    AdaMax: "adamax",
    NAdam: "nadam",
    RAdam: "radam",
    AdaBound: "adabound",
    AdaBelief: "adabelief",
    Lion: "lion",
}

impl NamedRule for AnyRule {
    fn name(&self) -> &'static str {
        AnyRule::name(self)
    }
    fn lr(&self) -> f64 {
        AnyRule::lr(self)
    }
    fn set_lr(&mut self, lr: f64) {
        *self.lr_mut() = lr;
    }
}
