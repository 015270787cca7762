//! A rule that is chosen when the program runs, by its name say.

use core::fmt;
use core::str::FromStr;

use super::{
    AdaBelief, AdaBound, AdaGrad, AdaMax, Adam, AdamW, Lion, NAdam, RAdam, RmsProp, Rule, Sgd,
    WithKernel,
};
use crate::{Error, Float};

/// Any rule of the crate.
///
/// Who names a rule's own type has only its kernels compiled; who names this one has all of them.
///
/// ```
/// use fused_adam::{AnyRule, Flat};
///
/// let mut rule: AnyRule = "radam".parse()?; // with its defaults
/// *rule.lr_mut() = 1e-2;
/// let mut opt = Flat::new(rule, 1000)?;
/// opt.step(&mut vec![0.5_f32; 1000], &vec![1.0; 1000])?;
/// # Ok::<(), fused_adam::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "checkpoint", serde(rename_all = "lowercase"))]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant holds the rule of its name")]
pub enum AnyRule {
    Sgd(Sgd),
    RmsProp(RmsProp),
    AdaGrad(AdaGrad),
    Adam(Adam),
    AdamW(AdamW),
    AdaMax(AdaMax),
    NAdam(NAdam),
    RAdam(RAdam),
    AdaBound(AdaBound),
    AdaBelief(AdaBelief),
    Lion(Lion),
}

/// The same for whichever rule it is.
macro_rules! whichever {
    ($any:expr, $rule:ident => $then:expr) => {
        match $any {
            AnyRule::Sgd($rule) => $then,
            AnyRule::RmsProp($rule) => $then,
            AnyRule::AdaGrad($rule) => $then,
            AnyRule::Adam($rule) => $then,
            AnyRule::AdamW($rule) => $then,
            AnyRule::AdaMax($rule) => $then,
            AnyRule::NAdam($rule) => $then,
            AnyRule::RAdam($rule) => $then,
            AnyRule::AdaBound($rule) => $then,
            AnyRule::AdaBelief($rule) => $then,
            AnyRule::Lion($rule) => $then,
        }
    };
}

impl AnyRule {
    /// The names of all rules, as [`name`](Self::name) gives them and `parse` takes them.
    pub const NAMES: [&'static str; 11] = [
        "sgd",
        "rmsprop",
        "adagrad",
        "adam",
        "adamw",
        "adamax",
        "nadam",
        "radam",
        "adabound",
        "adabelief",
        "lion",
    ];

    /// The rule's name, such as `adamw`.
    pub const fn name(&self) -> &'static str {
        match self {
            AnyRule::Sgd(_) => "sgd",
            AnyRule::RmsProp(_) => "rmsprop",
            AnyRule::AdaGrad(_) => "adagrad",
            AnyRule::Adam(_) => "adam",
            AnyRule::AdamW(_) => "adamw",
            AnyRule::AdaMax(_) => "adamax",
            AnyRule::NAdam(_) => "nadam",
            AnyRule::RAdam(_) => "radam",
            AnyRule::AdaBound(_) => "adabound",
            AnyRule::AdaBelief(_) => "adabelief",
            AnyRule::Lion(_) => "lion",
        }
    }

    /// The step size, which every rule has.
    pub fn lr(&self) -> f64 {
        whichever!(self, rule => rule.lr)
    }

    /// The step size, to be changed: it is checked on the next step.
    pub fn lr_mut(&mut self) -> &mut f64 {
        whichever!(self, rule => &mut rule.lr)
    }
}

impl FromStr for AnyRule {
    type Err = Error;

    /// The rule of this name, with its defaults.
    fn from_str(name: &str) -> Result<Self, Error> {
        Ok(match name {
            "sgd" => Sgd::default().into(),
            "rmsprop" => RmsProp::default().into(),
            "adagrad" => AdaGrad::default().into(),
            "adam" => Adam::default().into(),
            "adamw" => AdamW::default().into(),
            "adamax" => AdaMax::default().into(),
            "nadam" => NAdam::default().into(),
            "radam" => RAdam::default().into(),
            "adabound" => AdaBound::default().into(),
            "adabelief" => AdaBelief::default().into(),
            "lion" => Lion::default().into(),
            _ => return Err(Error::UnknownRule { name: name.to_owned() }),
        })
    }
}

impl fmt::Display for AnyRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Rule for AnyRule {
    fn state_names(&self) -> &'static [&'static str] {
        whichever!(self, rule => rule.state_names())
    }

    fn initial_state(&self, state: usize) -> f64 {
        whichever!(self, rule => rule.initial_state(state))
    }

    fn check(&self) -> Result<(), Error> {
        whichever!(self, rule => rule.check())
    }

    fn with_kernel<F: Float, W: WithKernel<F>>(&self, t: u64, then: W) -> Result<(), Error> {
        whichever!(self, rule => rule.with_kernel(t, then))
    }
}

impl From<Sgd> for AnyRule {
    fn from(rule: Sgd) -> Self {
        AnyRule::Sgd(rule)
    }
}

impl From<RmsProp> for AnyRule {
    fn from(rule: RmsProp) -> Self {
        AnyRule::RmsProp(rule)
    }
}

impl From<AdaGrad> for AnyRule {
    fn from(rule: AdaGrad) -> Self {
        AnyRule::AdaGrad(rule)
    }
}

impl From<Adam> for AnyRule {
    fn from(rule: Adam) -> Self {
        AnyRule::Adam(rule)
    }
}

impl From<AdamW> for AnyRule {
    fn from(rule: AdamW) -> Self {
        AnyRule::AdamW(rule)
    }
}

impl From<AdaMax> for AnyRule {
    fn from(rule: AdaMax) -> Self {
        AnyRule::AdaMax(rule)
    }
}

impl From<NAdam> for AnyRule {
    fn from(rule: NAdam) -> Self {
        AnyRule::NAdam(rule)
    }
}

impl From<RAdam> for AnyRule {
    fn from(rule: RAdam) -> Self {
        AnyRule::RAdam(rule)
    }
}

impl From<AdaBound> for AnyRule {
    fn from(rule: AdaBound) -> Self {
        AnyRule::AdaBound(rule)
    }
}

impl From<AdaBelief> for AnyRule {
    fn from(rule: AdaBelief) -> Self {
        AnyRule::AdaBelief(rule)
    }
}

impl From<Lion> for AnyRule {
    fn from(rule: Lion) -> Self {
        AnyRule::Lion(rule)
    }
}
