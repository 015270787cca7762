//! Groups of variables with their own hyper-parameters, in one optimizer.

use candle_core::Var;
use fused_adam::{AnyRule, GroupId, Rule};

use crate::{Config, Error, Optimizer};

impl<C: Config> Optimizer<C> {
    /// Adds a group, whose variables have their own hyper-parameters, and returns its id. There is
    /// always a first group: `GroupId::default()`, with the hyper-parameters of the constructor.
    ///
    /// Everything else is common to all groups: a step steps them in one parallel region, clips
    /// them by one norm, and multiplies their learning rates by the same schedule.
    ///
    /// AdamW without weight decay on biases, with the gradients clipped by the norm of all of them:
    ///
    /// ```
    /// use candle_core::{DType, Device, Module};
    /// use candle_nn::{Optimizer as _, ParamsAdamW, VarBuilder, VarMap};
    /// use fused_adam_candle::fused_adam::ClipNorm;
    /// use fused_adam_candle::{AdamW, GroupId};
    ///
    /// let map = VarMap::new();
    /// let vars = VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu);
    /// let layer = candle_nn::linear(4, 2, vars)?;
    ///
    /// let params = ParamsAdamW { lr: 1e-2, ..Default::default() };
    /// let mut opt = AdamW::empty(params.clone())?;
    /// let no_decay = opt.add_group(ParamsAdamW { weight_decay: 0.0, ..params })?;
    /// for (name, var) in map.data().lock().unwrap().iter() {
    ///     let is_bias = name.ends_with("bias");
    ///     opt.add(if is_bias { no_decay } else { GroupId::default() }, name, var)?;
    /// }
    /// opt.options_mut().clip_norm = Some(ClipNorm::Two(1.0));
    /// # let inputs = candle_core::Tensor::ones((3, 4), DType::F32, &Device::Cpu)?;
    /// opt.backward_step(&layer.forward(&inputs)?.sqr()?.sum_all()?)?;
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Step`] if a hyper-parameter is outside its range.
    pub fn add_group(&mut self, config: C) -> Result<GroupId, Error> {
        let id = self.variables.add_group(config.clone().into_rule())?;
        self.params.push(config);
        Ok(id)
    }

    /// Adds a variable to a group, at any time, also between steps. Its states and its step number
    /// start at its first gradient.
    ///
    /// # Errors
    ///
    /// As for [`with_names`](Self::with_names); [`Error::Step`] also if the group is one of another
    /// optimizer; and [`Error::EightBitStates`]. Nothing has changed in that case.
    pub fn add(&mut self, group: GroupId, name: impl Into<String>, var: &Var) -> Result<(), Error> {
        let group = self.group(group)?;
        self.variables.add(group, name.into(), var.clone())
    }

    /// The hyper-parameters of a group. None for a group of another optimizer.
    pub fn group_params(&self, group: GroupId) -> Option<&C> {
        Some(&self.params[self.variables.group(group)?])
    }

    /// Sets the hyper-parameters of a group. They must lead to the same states and scalars as
    /// before, otherwise steps fail until you set others.
    ///
    /// # Errors
    ///
    /// [`Error::Step`] if a hyper-parameter is outside its range, or if the group is one of another
    /// optimizer. Nothing has changed in that case.
    pub fn set_group_params(&mut self, group: GroupId, config: C) -> Result<(), Error> {
        self.set_rule(group, config.into_rule())
    }

    /// Sets the learning rate of a group, before the factor of a schedule.
    ///
    /// # Errors
    ///
    /// As for [`set_group_params`](Self::set_group_params).
    pub fn set_group_learning_rate(&mut self, group: GroupId, lr: f64) -> Result<(), Error> {
        let mut rule = *self.variables.rule(self.group(group)?);
        rule.set_lr(lr);
        self.set_rule(group, rule)
    }

    /// The rule of a group with its hyper-parameters, also those that [`group_params`] does not
    /// have. None for a group of another optimizer.
    ///
    /// [`group_params`]: Self::group_params
    pub fn rule(&self, group: GroupId) -> Option<&AnyRule> {
        Some(self.variables.rule(self.variables.group(group)?))
    }

    fn set_rule(&mut self, group: GroupId, rule: AnyRule) -> Result<(), Error> {
        let group = self.group(group)?;
        rule.check()?;
        *self.variables.rule_mut(group) = rule;
        self.refresh_params();
        Ok(())
    }

    /// The index of a group.
    fn group(&self, id: GroupId) -> Result<usize, Error> {
        let group = self.variables.group(id);
        group.ok_or(Error::Step(fused_adam::Error::ForeignId { what: "group" }))
    }
}
