//! The optimizer as candle sees it.

use std::marker::PhantomData;

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use candle_nn::{ParamsAdamW, VarMap};
use fused_adam::{AnyRule, GroupId, LossScale, LrSchedule, Report, Rule, StepOptions};

use crate::variables::Variables;
use crate::{Config, Error};

/// A candle optimizer whose step is one fused pass over each variable, in place, all variables in one
/// parallel region.
///
/// `C` is what [`new`](candle_nn::Optimizer::new) takes: any rule of fused-adam, or
/// [`AnyRule`], or candle's own parameters, as in [`AdamW`](crate::AdamW). Which rule it is does not
/// show in the type but for that.
///
/// A variable has its states from its first gradient on, in its own element type, and counts its own steps: one that has
/// no gradient in a step stays as it is, with its states and its count.
///
/// ```
/// use candle_core::{Device, Var};
/// use candle_nn::Optimizer as _;
/// use fused_adam::{ClipNorm, Lion};
/// use fused_adam_candle::Optimizer;
///
/// let w = Var::new(&[1.0_f32, -2.0], &Device::Cpu)?;
/// let lion = Lion { lr: 0.5, weight_decay: 0.0, ..Lion::default() };
/// let mut opt = Optimizer::new(vec![w.clone()], lion)?;
/// opt.options_mut().clip_norm = Some(ClipNorm::Two(1.0));
///
/// let loss = w.sqr()?.sum_all()?;
/// let report = opt.backward_step_with_report(&loss)?;
/// assert_eq!(report.grad_norm, Some(20.0_f64.sqrt()));
/// assert_eq!(w.to_vec1::<f32>()?, [0.5, -1.5]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub struct Optimizer<C = AnyRule> {
    pub(crate) variables: Variables,
    config: PhantomData<fn(C)>,
}

impl<C: Config> Optimizer<C> {
    /// With variables of these names, which errors and checkpoints call them.
    ///
    /// ```
    /// use candle_core::{DType, Device, Var};
    /// use candle_nn::ParamsAdamW;
    ///
    /// let w = Var::zeros((2, 3), DType::F32, &Device::Cpu)?;
    /// let opt = fused_adam_candle::AdamW::with_names([("w", w)], ParamsAdamW::default())?;
    /// assert_eq!(opt.names().collect::<Vec<_>>(), ["w"]);
    /// # Ok::<(), fused_adam_candle::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Step`] for hyper-parameters outside their ranges and for a name that is given twice;
    /// and a variable that is on another [device](Error::Device), of a [type](Error::DType) that is not a
    /// float of 16 bits or more, not [contiguous](Error::NotContiguous), or [given
    /// twice](Error::SharedStorage). (Candle's own optimizers leave out variables of integers without a word.)
    pub fn with_names<N: Into<String>>(
        vars: impl IntoIterator<Item = (N, Var)>,
        config: C,
    ) -> Result<Self, Error> {
        let mut variables = Variables::new(config.into_rule())?;
        for (name, var) in vars {
            variables.add(name.into(), var)?;
        }
        Ok(Optimizer { variables, config: PhantomData })
    }

    /// With all variables of a map, by their names there, in alphabetical order.
    ///
    /// It is how to have checkpoints with a map: [`VarMap::all_vars`] has them in another order each time that
    /// the program runs, so that numbers would not mean the same variables.
    ///
    /// # Errors
    ///
    /// As for [`with_names`](Self::with_names).
    pub fn from_var_map(map: &VarMap, config: C) -> Result<Self, Error> {
        // A thread that panicked while it held the lock has left a map all the same.
        let data = map.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut vars: Vec<_> = data.iter().map(|(name, var)| (name.clone(), var.clone())).collect();
        drop(data);
        vars.sort_by(|a, b| a.0.cmp(&b.0));
        Self::with_names(vars, config)
    }

    /// Has the next steps follow this rule. Its states and scalars must be those of the rule
    /// before, or the next step is refused.
    ///
    /// # Errors
    ///
    /// [`Error::Step`] for hyper-parameters outside their ranges.
    pub fn set_params(&mut self, config: C) -> Result<(), Error> {
        let rule = config.into_rule();
        rule.check()?;
        *self.rule_mut() = rule;
        Ok(())
    }
}

impl<C> Optimizer<C> {
    /// Takes a step, as [`candle_nn::Optimizer::step`] does, and says what it did. Gradients are not written;
    /// one that is not contiguous is copied first, and so is one that shares its storage with a variable.
    ///
    /// All variables are locked at once while it runs.
    ///
    /// # Errors
    ///
    /// All are found before anything is written: a gradient that is on another [device](Error::Device), of
    /// another [type](Error::DType) or of another [shape](Error::Shape) than its variable; [`Error::Storage`]; and those of fused-adam's
    /// [`Optimizer::step`](fused_adam::Optimizer::step), as [`Error::Step`].
    pub fn step_with_report(&mut self, grads: &GradStore) -> Result<Report, Error> {
        self.variables.step(grads)
    }

    /// Computes the gradients of a loss, and takes a step.
    ///
    /// # Errors
    ///
    /// As for [`step_with_report`](Self::step_with_report), and what candle says of the loss.
    pub fn backward_step_with_report(&mut self, loss: &Tensor) -> Result<Report, Error> {
        self.step_with_report(&loss.backward()?)
    }

    /// What is done to gradients, and how a step runs.
    pub fn options(&self) -> &StepOptions {
        &self.variables.core.options
    }

    /// The same, to be changed: clipping, backend, threads, rounding. It is checked on the next step.
    pub fn options_mut(&mut self) -> &mut StepOptions {
        &mut self.variables.core.options
    }

    /// Has the learning rate multiplied by a function of the number of steps. Default: none.
    pub fn set_lr_schedule(&mut self, schedule: Option<LrSchedule>) {
        self.variables.core.lr_schedule = schedule;
    }

    /// What the losses are to be multiplied with before their gradients are computed.
    pub fn loss_scale(&self) -> Option<&LossScale> {
        self.variables.core.loss_scale.as_ref()
    }

    /// Says what the losses are multiplied with. Steps whose gradients are not all finite are then
    /// skipped. Default: nothing.
    pub fn set_loss_scale(&mut self, scale: Option<LossScale>) {
        self.variables.core.loss_scale = scale;
    }

    /// The rule with its hyper-parameters.
    pub fn rule(&self) -> &AnyRule {
        self.variables.core.rule(GroupId::default()).expect("the first group is always there")
    }

    fn rule_mut(&mut self) -> &mut AnyRule {
        self.variables.core.rule_mut(GroupId::default()).expect("the first group is always there")
    }

    /// Steps taken; those that were skipped do not count.
    pub fn steps(&self) -> u64 {
        self.variables.core.steps()
    }

    /// The names of the variables, in the order in which they were given.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.all.iter().map(|of| of.name.as_str())
    }

    /// The steps that a variable has taken: with a gradient, that is. None if there is none such.
    pub fn t(&self, name: &str) -> Option<u64> {
        self.variables.core.id(name).map(|id| self.variables.core.t(id))
    }

    /// A copy of a variable's state of this name, such as `m`, if it has one by now.
    ///
    /// # Errors
    ///
    /// What candle says of the copy.
    pub fn state(&self, name: &str, state: &str) -> candle_core::Result<Option<Tensor>> {
        self.variables.state(name, state)
    }

    /// The variables, in the order in which they were given.
    pub fn into_inner(self) -> Vec<Var> {
        self.variables.all.into_iter().map(|of| of.var).collect()
    }
}

/// The variables' names are their numbers, from 0.
impl<C: Config> candle_nn::Optimizer for Optimizer<C> {
    type Config = C;

    /// [`with_names`](Optimizer::with_names), the names being `0`, `1` and so on.
    fn new(vars: Vec<Var>, config: C) -> candle_core::Result<Self> {
        let numbered = vars.into_iter().enumerate();
        Ok(Self::with_names(numbered.map(|(number, var)| (number.to_string(), var)), config)?)
    }

    /// [`step_with_report`](Optimizer::step_with_report), without the report.
    fn step(&mut self, grads: &GradStore) -> candle_core::Result<()> {
        self.step_with_report(grads)?;
        Ok(())
    }

    /// The rule's own, which a schedule multiplies.
    fn learning_rate(&self) -> f64 {
        self.rule().lr()
    }

    /// It is checked on the next step.
    fn set_learning_rate(&mut self, lr: f64) {
        self.rule_mut().set_lr(lr);
    }
}

impl Optimizer<ParamsAdamW> {
    /// AdamW with this learning rate, and candle's defaults.
    ///
    /// # Errors
    ///
    /// As for [`with_names`](Self::with_names).
    pub fn new_lr(vars: Vec<Var>, lr: f64) -> candle_core::Result<Self> {
        candle_nn::Optimizer::new(vars, ParamsAdamW { lr, ..ParamsAdamW::default() })
    }
}
