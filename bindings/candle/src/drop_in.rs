//! What candle's own optimizers have: the trait, and the methods of `AdamW` and `SGD`.

use candle_core::Var;
use candle_core::backprop::GradStore;
use candle_nn::ParamsAdamW;
use fused_adam::Rule;

use crate::{Config, Optimizer};

/// The names of the variables are their numbers, counted from 0.
impl<C: Config> candle_nn::Optimizer for Optimizer<C> {
    type Config = C;

    /// [`with_names`](Optimizer::with_names), with the names `0`, `1` and so on.
    fn new(vars: Vec<Var>, config: C) -> candle_core::Result<Self> {
        let numbered = vars.into_iter().enumerate();
        Ok(Self::with_names(numbered.map(|(number, var)| (number.to_string(), var)), config)?)
    }

    /// [`step_with_report`](Optimizer::step_with_report), without the report.
    fn step(&mut self, grads: &GradStore) -> candle_core::Result<()> {
        self.step_with_report(grads)?;
        Ok(())
    }

    /// The learning rate of the first group, before the factor of a schedule.
    fn learning_rate(&self) -> f64 {
        self.variables.rule(0).lr()
    }

    /// Sets the learning rate of all groups. Each step checks it. To set that of one group, use
    /// [`set_group_learning_rate`](Optimizer::set_group_learning_rate).
    fn set_learning_rate(&mut self, lr: f64) {
        for group in 0..self.params.len() {
            self.variables.rule_mut(group).set_lr(lr);
        }
        self.refresh_params();
    }
}

impl<C: Config> Optimizer<C> {
    /// The hyper-parameters of the first group, such as candle's [`ParamsAdamW`].
    pub fn params(&self) -> &C {
        &self.params[0]
    }

    /// Sets the hyper-parameters of the first group. As in candle there is no result: each step
    /// checks them. They must lead to the same states and scalars as before, otherwise steps fail
    /// until you set others.
    ///
    /// [`set_group_params`](Self::set_group_params) checks them at once.
    pub fn set_params(&mut self, params: C) {
        *self.variables.rule_mut(0) = params.clone().into_rule();
        self.params[0] = params;
    }

    /// Adds a variable to the first group. Its name is its number, counted from 0, or if another
    /// variable has this name, the next number that is free.
    ///
    /// As in candle there is no result. If the variable is refused, every later step fails with the
    /// error of [`add`](Self::add), until the variable can be added. Only
    /// [`Error::EightBitStates`](crate::Error::EightBitStates) can go away: before the first step,
    /// call [`set_8bit_states`](Self::set_8bit_states) with a larger size. `add` returns its error
    /// at once, and later steps do not fail.
    pub fn push(&mut self, var: &Var) {
        self.variables.push(var.clone());
    }

    /// The variables, in the order in which they were added.
    pub fn into_inner(self) -> Vec<Var> {
        self.variables.all.into_iter().map(|of| of.var).collect()
    }

    /// Makes the hyper-parameters of each group those of its rule.
    pub(crate) fn refresh_params(&mut self) {
        for (group, params) in self.params.iter_mut().enumerate() {
            params.set_from_rule(self.variables.rule(group));
        }
    }
}

impl Optimizer<ParamsAdamW> {
    /// AdamW with this learning rate and candle's defaults.
    ///
    /// # Errors
    ///
    /// As for [`with_names`](Self::with_names).
    pub fn new_lr(vars: Vec<Var>, lr: f64) -> candle_core::Result<Self> {
        candle_nn::Optimizer::new(vars, ParamsAdamW { lr, ..ParamsAdamW::default() })
    }
}
