//! An optimizer that owns the states of many tensors, in groups.

use core::fmt;
use std::collections::HashMap;

use super::grad_scaler::GradScaler;
use super::lr_schedule::LrSchedule;
use super::message::{self, AllGather};
use super::options::{Report, StepOptions};
use super::param::{GroupId, OptimizerId, Param, ParamId, StepBatch, Types};
use super::pass::step_of;
use super::step_plan::StepPlan;
use super::tensor::{ParamKey, Tensor, TensorBuffers};
use crate::elements::block8::Block8;
use crate::elements::{Element, StateElement};
use crate::error::Error;
use crate::rules::{AdamW, Rule};
use crate::step::Scalars;

/// An optimizer for many tensors: it owns their states, and scales, clips and schedules.
///
/// Parameters are registered by name, in groups. Each group has its own rule. A step takes θ and g
/// of any of the parameters. The others, with their states and step counts, stay as they are. All
/// tensors are stepped in one parallel region, where small tensors share a thread and large ones
/// are cut. This does not affect the bits: they are those of [`Step`](crate::Step) on each tensor
/// alone.
///
/// The states of a parameter are allocated when it gets its first gradient. After that a step does
/// not allocate, except for a small job that rayon allocates and frees when a parallel step is
/// called from outside any pool.
///
/// ```
/// use fused_adam::{AdamW, ClipNorm, GroupId, LrSchedule, Optimizer, Tensor};
///
/// let mut opt = Optimizer::new(AdamW { lr: 1e-2, ..AdamW::default() })?;
/// let biases = opt.add_group(AdamW { lr: 1e-2, weight_decay: 0.0, ..AdamW::default() })?;
/// let w = opt.add::<f32>(GroupId::default(), "w", 6)?;
/// let b = opt.add::<f32>(biases, "b", 2)?;
/// opt.options.clip_norm = Some(ClipNorm::Two(1.0));
/// opt.set_lr_schedule(LrSchedule::warmup(10))?;
///
/// let (mut weights, mut bias) = ([0.5_f32; 6], [0.0_f32; 2]);
/// let report = opt.step([
///     Tensor::new(w, &mut weights, &[3.0_f32; 6]),
///     Tensor::new(b, &mut bias, &[0.0_f32; 2]),
/// ])?;
/// assert_eq!(report.grad_norm, Some(54.0_f64.sqrt()));
/// assert_eq!((opt.steps(), opt.t(w)), (1, Some(1)));
/// # Ok::<(), fused_adam::Error>(())
/// ```
pub struct Optimizer<R = AdamW> {
    pub(super) id: OptimizerId,
    /// The rule of each group.
    pub(super) groups: Vec<R>,
    /// The rules with the learning rates of the step in progress.
    effective: Vec<R>,
    pub(super) params: Vec<Param<'static, R>>,
    pub(super) by_name: HashMap<String, usize>,
    /// One slot per parameter, empty between steps. Kept to reuse its memory.
    buffers: Vec<Option<TensorBuffers<'static>>>,
    pub(super) steps: u64,
    /// How steps change the gradients, and how they run.
    pub options: StepOptions,
    /// The loss scale. With one, every gradient is divided by it, and a step whose gradients are
    /// not all finite is skipped. Default: none.
    pub grad_scaler: Option<GradScaler>,
    lr_schedule: Option<LrSchedule>,
}

impl<R: Rule> Optimizer<R> {
    /// Creates an optimizer with one group, which has this rule, and no parameters.
    ///
    /// # Errors
    ///
    /// [`Error::HyperParameter`].
    pub fn new(rule: R) -> Result<Self, Error> {
        let mut optimizer = Optimizer {
            id: OptimizerId::new(),
            groups: Vec::new(),
            effective: Vec::new(),
            params: Vec::new(),
            by_name: HashMap::new(),
            buffers: Vec::new(),
            steps: 0,
            options: StepOptions::default(),
            grad_scaler: None,
            lr_schedule: None,
        };
        optimizer.add_group(rule)?;
        Ok(optimizer)
    }

    /// Adds a group whose parameters are stepped with this rule.
    ///
    /// # Errors
    ///
    /// [`Error::HyperParameter`].
    pub fn add_group(&mut self, rule: R) -> Result<GroupId, Error> {
        rule.check()?;
        self.groups.push(rule.clone());
        self.effective.push(rule);
        Ok(GroupId { optimizer: Some(self.id), index: self.groups.len() - 1 })
    }

    /// Registers a parameter of `len` elements of type `E`, with states of the type
    /// [`DefaultState`](Element::DefaultState): `f32` for `f16`, else `E`.
    ///
    /// # Errors
    ///
    /// [`Error::DuplicateParam`], and [`Error::ForeignId`] for a group of another optimizer.
    pub fn add<E: Element>(
        &mut self,
        group: GroupId,
        name: &str,
        len: usize,
    ) -> Result<ParamId, Error> {
        self.add_mixed::<E, E, E::DefaultState>(group, name, len)
    }

    /// Registers a parameter of `len` elements of type `T`, with states of type `S` and gradients
    /// of type `G`. A step also accepts gradients of another type that can be combined with `T`,
    /// perhaps with a slower loop.
    ///
    /// # Errors
    ///
    /// As for [`add`](Self::add).
    pub fn add_mixed<
        T: Element,
        G: Element<Float = T::Float>,
        S: StateElement<Float = T::Float>,
    >(
        &mut self,
        group: GroupId,
        name: &str,
        len: usize,
    ) -> Result<ParamId, Error> {
        self.register(group, name, len, Types::of::<T, G, S>(), step_of::<T, G, S, R>())
    }

    /// Registers a parameter of `len` elements of type `T`, with gradients of type `G` and states
    /// in 8 bits; or, if it has less than `least` elements, with states of `f32`: they take little
    /// memory, and small tensors such as biases are sensitive. A usual value is 4096, as in
    /// bitsandbytes. With 0 all parameters have states in 8 bits.
    ///
    /// ```
    /// use fused_adam::{AdamW, Block8, GroupId, Optimizer, Tensor};
    ///
    /// let (mut weights, mut bias) = (vec![0.5_f32; 4096], [0.0_f32; 10]);
    /// let mut opt = Optimizer::new(AdamW::default())?;
    /// let w = opt.add_8bit::<f32, f32>(GroupId::default(), "w", weights.len(), 4096)?;
    /// let b = opt.add_8bit::<f32, f32>(GroupId::default(), "b", bias.len(), 4096)?;
    /// opt.step([
    ///     Tensor::new(w, &mut weights, &vec![1.0_f32; 4096]),
    ///     Tensor::new(b, &mut bias, &[1.0_f32; 10]),
    /// ])?;
    /// assert!(opt.state::<Block8>(w, "m").is_some() && opt.state::<f32>(b, "m").is_some());
    /// # Ok::<(), fused_adam::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`add`](Self::add).
    pub fn add_8bit<T: Element<Float = f32>, G: Element<Float = f32>>(
        &mut self,
        group: GroupId,
        name: &str,
        len: usize,
        least: usize,
    ) -> Result<ParamId, Error> {
        if len < least {
            return self.add_mixed::<T, G, f32>(group, name, len);
        }
        self.add_mixed::<T, G, Block8>(group, name, len)
    }

    fn register(
        &mut self,
        group: GroupId,
        name: &str,
        len: usize,
        types: Types,
        step: StepBatch<R>,
    ) -> Result<ParamId, Error> {
        let group = self.group(group).ok_or(Error::ForeignId { what: "group" })?;
        if self.by_name.contains_key(name) {
            return Err(Error::DuplicateParam { param: name.to_owned() });
        }
        let index = self.params.len();
        self.by_name.insert(name.to_owned(), index);
        let (name, seed) = (name.to_owned(), hash(name.as_bytes()));
        let (scalars, next_scalars) = (Scalars::new(), Scalars::new());
        self.params.push(Param {
            name,
            group,
            len,
            types,
            step,
            t: 0,
            states: None,
            scalars,
            next_scalars,
            seed,
        });
        Ok(ParamId { optimizer: self.id, index })
    }

    /// Takes a step on the given parameters, in any order. Other parameters do not change.
    ///
    /// Each gradient is multiplied by `grad_scale`, by 1 / the loss scale and by the clip factor,
    /// all in one factor that is rounded once. It is then clamped to the bound for values, and then
    /// the rule uses it. If the step computes the norm, it reads the gradients twice, otherwise
    /// once.
    ///
    /// # Errors
    ///
    /// Nothing is written if the step fails:
    ///
    /// - [`Error::UnknownParam`] and [`Error::GivenTwice`];
    /// - [`Error::TensorLength`] and [`Error::TensorType`] for a buffer that does not fit its
    ///   parameter, and [`Error::Offset`] for a part that states in 8 bits do not allow;
    /// - the errors of [`Step::run`](crate::Step::run) for each group;
    /// - [`Error::LossScale`] if the loss scale cannot shrink and a gradient is not finite;
    /// - [`Error::NonfiniteNorm`] if the norm is to be clipped, is infinite or NaN, and the step is
    ///   not to be skipped.
    pub fn step<'a>(
        &mut self,
        tensors: impl IntoIterator<Item = Tensor<'a>>,
    ) -> Result<Report, Error> {
        let mut buffers = emptied(core::mem::take(&mut self.buffers));
        let report = self.step_buffers(&mut buffers, tensors, None);
        self.buffers = emptied(buffers);
        report
    }

    /// Takes a step in which each process has a shard of the parameters, or some of them. The norm,
    /// and whether gradients are finite, is that of the gradients of all processes.
    ///
    /// It is [`step`](Self::step), with one exchange between the processes:
    /// [`step_all_distributed`](super::step_all_distributed) explains it. All processes must have
    /// the same options and loss scale. A gradient that several processes have is counted on one of
    /// them, and [left out](Tensor::without_norm) on the others.
    ///
    /// # Errors
    ///
    /// As for [`step`](Self::step) and [`step_all_distributed`](super::step_all_distributed).
    pub fn step_distributed<'a>(
        &mut self,
        tensors: impl IntoIterator<Item = Tensor<'a>>,
        all_gather: impl FnOnce(&[u8]) -> Result<Vec<u8>, Error>,
    ) -> Result<Report, Error> {
        message::once(all_gather, |all_gather| {
            let mut buffers = emptied(core::mem::take(&mut self.buffers));
            let report = self.step_buffers(&mut buffers, tensors, Some(all_gather));
            self.buffers = emptied(buffers);
            report
        })
    }

    fn step_buffers<'a>(
        &mut self,
        all: &mut Vec<Option<TensorBuffers<'a>>>,
        tensors: impl IntoIterator<Item = Tensor<'a>>,
        all_gather: Option<AllGather<'_>>,
    ) -> Result<Report, Error> {
        all.resize_with(self.params.len(), || None);
        for Tensor { key, buffers } in tensors {
            let id = self.find(key)?;
            self.params[id].check(&buffers)?;
            if all[id].replace(buffers).is_some() {
                return Err(Error::GivenTwice { param: self.params[id].name.clone() });
            }
        }
        let lr_factor = self.schedule_rules();
        let plan = StepPlan {
            rules: &self.effective,
            options: &self.options,
            grad_scale: self.options.grad_scale / self.checked_loss_scale()?,
            skip: self.options.skip_nonfinite || self.grad_scaler.is_some(),
            exhausted_scale: self.grad_scaler.filter(GradScaler::is_exhausted).map(|s| s.scale),
            lr_factor,
            scalars_are_next: false,
        };
        let report = plan.run(&mut self.params, all, all_gather)?;
        if let Some(scale) = &mut self.grad_scaler {
            scale.update(!report.skipped);
        }
        if !report.skipped {
            self.steps = self.steps.saturating_add(1);
        }
        Ok(report)
    }

    /// The loss scale, checked; 1 without one.
    fn checked_loss_scale(&self) -> Result<f64, Error> {
        let Some(scale) = &self.grad_scaler else { return Ok(1.0) };
        scale.check()?;
        Ok(scale.scale)
    }

    /// A parameter of this optimizer.
    fn param(&self, id: ParamId) -> Option<&Param<'static, R>> {
        self.params.get(id.index).filter(|_| id.optimizer == self.id)
    }

    /// The index of a group of this optimizer.
    fn group(&self, group: GroupId) -> Option<usize> {
        group.optimizer.is_none_or(|optimizer| optimizer == self.id).then_some(group.index)
    }

    /// The index of a parameter.
    fn find(&self, key: ParamKey<'_>) -> Result<usize, Error> {
        match key {
            ParamKey::Id(id) if id.optimizer == self.id => Ok(id.index),
            ParamKey::Id(_) => Err(Error::ForeignId { what: "parameter" }),
            ParamKey::Name(name) => {
                let unknown = || Error::UnknownParam { param: name.to_owned() };
                self.by_name.get(name).copied().ok_or_else(unknown)
            }
        }
    }

    /// Sets the learning rates of this step from the schedule, and returns its factor.
    fn schedule_rules(&mut self) -> f64 {
        let steps = self.steps;
        let factor = self.lr_schedule.as_ref().map_or(1.0, |schedule| schedule.factor(steps));
        for (rule, effective) in self.groups.iter().zip(&mut self.effective) {
            effective.clone_from(rule);
            effective.set_lr(rule.lr() * factor);
        }
        factor
    }

    /// The schedule of the learning rates, if there is one.
    pub fn lr_schedule(&self) -> Option<&LrSchedule> {
        self.lr_schedule.as_ref()
    }

    /// Sets the schedule whose factor multiplies the learning rates of all groups, as a function of
    /// [`steps`](Self::steps); `None` removes it. Default: none.
    ///
    /// # Errors
    ///
    /// Those of [`LrSchedule::check`]. Then the schedule has not changed.
    pub fn set_lr_schedule(
        &mut self,
        schedule: impl Into<Option<LrSchedule>>,
    ) -> Result<(), Error> {
        let schedule = schedule.into();
        schedule.as_ref().map_or(Ok(()), LrSchedule::check)?;
        self.lr_schedule = schedule;
        Ok(())
    }

    /// The number of steps taken, not counting skipped ones. The schedule is a function of it.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The parameter with this name, or `None` if there is none.
    pub fn id(&self, name: &str) -> Option<ParamId> {
        let index = self.by_name.get(name).copied()?;
        Some(ParamId { optimizer: self.id, index })
    }

    /// The names of the parameters, in the order in which they were registered.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.params.iter().map(|param| param.name.as_str())
    }

    /// The number of steps that a parameter has taken, or `None` for an unknown id.
    pub fn t(&self, id: ParamId) -> Option<u64> {
        self.param(id).map(|param| param.t)
    }

    /// The rule of a group, with its `lr` before the schedule's factor, or `None` for an unknown
    /// group.
    pub fn rule(&self, group: GroupId) -> Option<&R> {
        self.groups.get(self.group(group)?)
    }

    /// The rule of a group, to change between steps, or `None` for an unknown group. It is checked
    /// on the next step of one of its parameters. If it then keeps other states than before, that
    /// step fails.
    pub fn rule_mut(&mut self, group: GroupId) -> Option<&mut R> {
        let group = self.group(group)?;
        self.groups.get_mut(group)
    }

    /// The state of a parameter with this name, such as `m`. `None` for an unknown id or name,
    /// before the first gradient of the parameter, and if the state is not of type `S`.
    pub fn state<S: StateElement>(&self, id: ParamId, name: &str) -> Option<&[S]> {
        let states = self.param(id)?.states.as_ref()?;
        let i = states.declared().iter().position(|state| state.name() == name)?;
        S::of(states.get(i)?)
    }

    /// The scalars of a parameter after its steps, in the order of [`Rule::scalars`], or `None` for
    /// an unknown id. Empty before the first step.
    pub fn scalars(&self, id: ParamId) -> Option<&[f64]> {
        self.param(id).map(|param| &*param.scalars)
    }

    /// The seed of the random bits of a parameter if the seed of the options is `seed`, or `None`
    /// for an unknown id. It depends on the name of the parameter, not on the order of
    /// registration. [`Step`](crate::Step) gives the same bits with the rounding of the options and
    /// with `seed(id, 0)` in [`Step::with_seed`](crate::Step::with_seed).
    pub fn seed(&self, id: ParamId, seed: u64) -> Option<u64> {
        self.param(id).map(|param| param.seed ^ seed)
    }
}

/// Does not print the elements of the states.
impl<R: fmt::Debug> fmt::Debug for Optimizer<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.params.iter().map(|param| param.name.as_str()).collect();
        f.debug_struct("Optimizer")
            .field("groups", &self.groups)
            .field("params", &names)
            .field("steps", &self.steps)
            .field("options", &self.options)
            .field("grad_scaler", &self.grad_scaler)
            .field("lr_schedule", &self.lr_schedule)
            .finish_non_exhaustive()
    }
}

/// Empties the list and changes its lifetime, keeping its memory: collecting in place does not
/// allocate.
fn emptied<'b>(mut list: Vec<Option<TensorBuffers<'_>>>) -> Vec<Option<TensorBuffers<'b>>> {
    list.clear();
    list.into_iter().map(|_| None).collect()
}

/// The 64-bit FNV-1a hash (Fowler, Noll and Vo), the same on every machine.
pub(super) fn hash(name: &[u8]) -> u64 {
    name.iter().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3)
    })
}
