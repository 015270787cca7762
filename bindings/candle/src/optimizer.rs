//! The optimizer for candle.

use std::fmt;

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use candle_nn::VarMap;
use fused_adam::{AnyRule, GradScaler, LrSchedule, Report, StepOptions};

use crate::variables::Variables;
use crate::{Config, Error};

/// A candle optimizer. Its step updates each variable in place in one fused pass, with all
/// variables in one parallel region.
///
/// `C` is the argument type of [`new`](candle_nn::Optimizer::new): any rule of fused-adam,
/// [`AnyRule`], or candle's own hyper-parameters, as in [`AdamW`](crate::AdamW). Internally the
/// rule is always an [`AnyRule`].
///
/// All variables have the same hyper-parameters, unless some are in a group of their own, by
/// [`add_group`](Self::add_group).
///
/// The states of a variable are allocated at its first gradient, in its element type, but in `f32`
/// for `f16`; or in another type, by [`set_f32_states`](Self::set_f32_states) or
/// [`set_8bit_states`](Self::set_8bit_states). Each variable has its own step number. If a variable
/// has no gradient in a step, it does not change, nor do its states and its step number.
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
    /// The hyper-parameters of each group, the same as those of its rule.
    pub(crate) params: Vec<C>,
}

/// Prints the hyper-parameters, the names of the variables, and the settings.
impl<C> fmt::Debug for Optimizer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.variables.core.fmt(f)
    }
}

impl<C: Config> Optimizer<C> {
    /// Makes an optimizer with named variables. Errors and checkpoints use the names.
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
    /// [`Error::Step`] if a hyper-parameter is outside its range or a name is given twice. Also an
    /// error if a variable is on another [device](Error::Device), has a [type](Error::DType) other
    /// than `f32`, `f64`, `bf16` or `f16`, is not [contiguous](Error::NotContiguous), or is [given
    /// twice](Error::SharedStorage). (Candle's own optimizers silently ignore integer variables.)
    pub fn with_names<N: Into<String>>(
        vars: impl IntoIterator<Item = (N, Var)>,
        config: C,
    ) -> Result<Self, Error> {
        let mut variables = Variables::new(config.clone().into_rule())?;
        for (name, var) in vars {
            variables.add(0, name.into(), var)?;
        }
        Ok(Optimizer { variables, params: vec![config] })
    }

    /// Makes an optimizer of all variables of a map, with their names, in alphabetical order.
    ///
    /// Use it for checkpoints with a map. [`VarMap::all_vars`] returns the variables in a different
    /// order in each run of a program, so numbers would not identify the same variables.
    ///
    /// # Errors
    ///
    /// As for [`with_names`](Self::with_names).
    pub fn from_var_map(map: &VarMap, config: C) -> Result<Self, Error> {
        // The map is valid even if a thread panicked while it held the lock.
        let data = map.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut vars: Vec<_> = data.iter().map(|(name, var)| (name.clone(), var.clone())).collect();
        drop(data);
        vars.sort_by(|a, b| a.0.cmp(&b.0));
        Self::with_names(vars, config)
    }
}

impl<C> Optimizer<C> {
    /// Takes a step, as [`candle_nn::Optimizer::step`] does, and returns a report. It does not
    /// write to the gradients. A gradient that is not contiguous, or that shares its storage with a
    /// variable, is copied first.
    ///
    /// All variables are locked while it runs.
    ///
    /// # Errors
    ///
    /// All checks run before the first write. An error if a gradient is on another
    /// [device](Error::Device), or has another [type](Error::DType) or [shape](Error::Shape) than
    /// its variable; [`Error::Storage`]; as [`Error::Step`], the errors of fused-adam's
    /// [`Optimizer::step`](fused_adam::Optimizer::step); and those of a variable that
    /// [`push`](Self::push) could not add.
    pub fn step_with_report(&mut self, grads: &GradStore) -> Result<Report, Error> {
        self.variables.step(grads)
    }

    /// Computes the gradients of a loss and takes a step.
    ///
    /// # Errors
    ///
    /// As for [`step_with_report`](Self::step_with_report), and candle's errors for the loss.
    pub fn backward_step_with_report(&mut self, loss: &Tensor) -> Result<Report, Error> {
        self.step_with_report(&loss.backward()?)
    }

    /// The options: how steps scale and clip gradients, and how they run.
    pub fn options(&self) -> &StepOptions {
        &self.variables.core.options
    }

    /// The options, for changes: clipping, backend, threads, rounding. The next step checks them.
    ///
    /// Clipping by norm uses one norm, that of all gradients of the step, also with several
    /// [groups](Self::add_group). A step that clips reports the norm. To log it without clipping,
    /// set `report_norm`:
    ///
    /// ```
    /// use candle_core::{Device, Var};
    /// use candle_nn::{Optimizer as _, ParamsAdamW};
    /// use fused_adam_candle::AdamW;
    ///
    /// let w = Var::new(&[1.5_f32, -2.0], &Device::Cpu)?;
    /// let mut opt = AdamW::new(vec![w.clone()], ParamsAdamW::default())?;
    /// opt.options_mut().report_norm = true;
    /// let report = opt.backward_step_with_report(&w.sqr()?.sum_all()?)?;
    /// assert_eq!(report.grad_norm, Some(5.0));
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    pub fn options_mut(&mut self) -> &mut StepOptions {
        &mut self.variables.core.options
    }

    /// Sets a schedule: a function of the number of steps that multiplies the learning rates of all
    /// groups. Default: none.
    ///
    /// # Errors
    ///
    /// Those of [`LrSchedule::check`](fused_adam::LrSchedule::check).
    pub fn set_lr_schedule(
        &mut self,
        schedule: impl Into<Option<LrSchedule>>,
    ) -> Result<(), fused_adam::Error> {
        self.variables.core.set_lr_schedule(schedule)
    }

    /// The loss scale: the factor for the loss before you compute its gradients.
    pub fn grad_scaler(&self) -> Option<&GradScaler> {
        self.variables.core.grad_scaler.as_ref()
    }

    /// Sets a loss scale. Steps whose gradients are not all finite are then skipped. Default: none.
    pub fn set_grad_scaler(&mut self, scale: Option<GradScaler>) {
        self.variables.core.grad_scaler = scale;
    }

    /// The number of steps taken. Skipped steps do not count.
    pub fn steps(&self) -> u64 {
        self.variables.core.steps()
    }

    /// The names of the variables, in the order in which they were added.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.all.iter().map(|of| of.name.as_str())
    }

    /// The step number of a variable: how many steps it had a gradient in. None for an unknown
    /// name.
    pub fn t(&self, name: &str) -> Option<u64> {
        self.variables.core.id(name).and_then(|id| self.variables.core.t(id))
    }

    /// A copy of a variable's state, such as `m`. None before its first step.
    ///
    /// It has the shape of the variable. A [state in 8 bits](Self::set_8bit_states) has its bytes:
    /// it is a tensor of `u8` with a row of 33 for each block of 32 elements.
    /// [`State::decode`](fused_adam::State::decode) decodes them.
    ///
    /// # Errors
    ///
    /// Those of candle's copy.
    pub fn state(&self, name: &str, state: &str) -> candle_core::Result<Option<Tensor>> {
        self.variables.state(name, state)
    }
}
