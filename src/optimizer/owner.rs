//! The owner of the states of many tensors, in groups.

use std::collections::HashMap;

use super::call::Call;
use super::loss_scale::LossScale;
use super::lr_schedule::LrSchedule;
use super::options::{Report, StepOptions};
use super::param::{GroupId, Param, ParamId, StepBatch, Types};
use super::pass::step_of;
use super::tensor::{Key, Tensor, TensorBuffers};
use crate::elements::Element;
use crate::error::Error;
use crate::rules::{AdamW, Rule};
use crate::step::Scalars;

/// The states of many tensors, and what is done to their gradients before a step.
///
/// Parameters are registered by name, in groups that each have a rule of their own. A step takes
/// (θ, g) of any of them; the others stay as they are, with their states and step counts. Small
/// tensors share a thread and large ones are cut, in one
/// parallel region, and nothing of that shows in the bits: they are those of [`Step`](crate::Step)
/// on each tensor alone. A state is made when its parameter has its first gradient; from then on a
/// step allocates nothing (but for a small block that rayon takes, and gives back, when a parallel
/// step is called from outside of any pool).
///
/// ```
/// use fused_adam::{AdamW, ClipNorm, GroupId, LrSchedule, Optimizer, Tensor};
///
/// let mut opt = Optimizer::new(AdamW { lr: 1e-2, ..AdamW::default() })?;
/// let biases = opt.add_group(AdamW { lr: 1e-2, weight_decay: 0.0, ..AdamW::default() })?;
/// let w = opt.add::<f32>(GroupId::default(), "w", 6)?;
/// let b = opt.add::<f32>(biases, "b", 2)?;
/// opt.options.clip_norm = Some(ClipNorm::Two(1.0));
/// opt.lr_schedule = Some(LrSchedule::warmup(10));
///
/// let (mut weights, mut bias) = ([0.5_f32; 6], [0.0_f32; 2]);
/// let report = opt.step([
///     Tensor::new(w, &mut weights, &[3.0_f32; 6]),
///     Tensor::new(b, &mut bias, &[0.0_f32; 2]),
/// ])?;
/// assert_eq!(report.grad_norm, Some(54.0_f64.sqrt()));
/// assert_eq!((opt.steps(), opt.t(w)), (1, 1));
/// # Ok::<(), fused_adam::Error>(())
/// ```
pub struct Optimizer<R = AdamW> {
    /// Their rules.
    pub(super) groups: Vec<R>,
    /// What the rules are in the step under way.
    effective: Vec<R>,
    pub(super) params: Vec<Param<'static, R>>,
    pub(super) by_name: HashMap<String, usize>,
    /// One place for each parameter, empty between steps: kept for its memory.
    buffers: Vec<Option<TensorBuffers<'static>>>,
    pub(super) steps: u64,
    /// What is done to gradients, and how a step runs.
    pub options: StepOptions,
    /// What the losses are multiplied with. With one, a step whose gradients are not all finite is
    /// skipped. Default: none.
    pub loss_scale: Option<LossScale>,
    /// What the step sizes of all groups are multiplied with, as a function of
    /// [`steps`](Self::steps). Default: none.
    pub lr_schedule: Option<LrSchedule>,
}

impl<R: Rule> Optimizer<R> {
    /// No parameters yet, and one group, of this rule.
    ///
    /// # Errors
    ///
    /// [`Error::HyperParameter`].
    pub fn new(rule: R) -> Result<Self, Error> {
        let mut optimizer = Optimizer {
            groups: Vec::new(),
            effective: Vec::new(),
            params: Vec::new(),
            by_name: HashMap::new(),
            buffers: Vec::new(),
            steps: 0,
            options: StepOptions::default(),
            loss_scale: None,
            lr_schedule: None,
        };
        optimizer.add_group(rule)?;
        Ok(optimizer)
    }

    /// Another group, whose parameters have this rule.
    ///
    /// # Errors
    ///
    /// [`Error::HyperParameter`].
    pub fn add_group(&mut self, rule: R) -> Result<GroupId, Error> {
        rule.check()?;
        self.groups.push(rule.clone());
        self.effective.push(rule);
        Ok(GroupId(self.groups.len() - 1))
    }

    /// Registers a parameter of `len` elements of type `E`, with states of the same type.
    ///
    /// # Errors
    ///
    /// [`Error::DuplicateParam`] and [`Error::UnknownGroup`].
    pub fn add<E: Element>(
        &mut self,
        group: GroupId,
        name: &str,
        len: usize,
    ) -> Result<ParamId, Error> {
        self.add_mixed::<E, E, E>(group, name, len)
    }

    /// Registers a parameter of `len` elements of type `T`, with states of type `S`, whose gradient
    /// will be of type `G`. A gradient of another type that goes with `T` is taken too, perhaps by
    /// a slower loop.
    ///
    /// # Errors
    ///
    /// As for [`add`](Self::add).
    pub fn add_mixed<T: Element, G: Element<Float = T::Float>, S: Element<Float = T::Float>>(
        &mut self,
        group: GroupId,
        name: &str,
        len: usize,
    ) -> Result<ParamId, Error> {
        self.register(group, name, len, Types::of::<T, G, S>(), step_of::<T, G, S, R>())
    }

    fn register(
        &mut self,
        GroupId(group): GroupId,
        name: &str,
        len: usize,
        types: Types,
        step: StepBatch<R>,
    ) -> Result<ParamId, Error> {
        if group >= self.groups.len() {
            return Err(Error::UnknownGroup { group, groups: self.groups.len() });
        }
        if self.by_name.contains_key(name) {
            return Err(Error::DuplicateParam { param: name.to_owned() });
        }
        let id = self.params.len();
        self.by_name.insert(name.to_owned(), id);
        let (name, seed) = (name.to_owned(), hash(name));
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
            offset: 0,
        });
        Ok(ParamId(id))
    }

    /// Takes a step on the parameters that are handed in, in any order. Only they change.
    ///
    /// Each gradient is multiplied by one over the loss scale and by the clip factor, both in one
    /// number that is rounded once; then held within the bound for values; and then the rule sees
    /// it. With a norm to be taken the gradients are read twice, else once.
    ///
    /// # Errors
    ///
    /// All are found before anything is written: a parameter that is not known or is given twice, a
    /// buffer whose length or type is not the parameter's, those of [`Step::run`](crate::Step::run)
    /// for each group; and [`Error::NonfiniteNorm`] if the norm is to be clipped, is infinite or
    /// NaN, and the step is not to be skipped.
    pub fn step<'a>(
        &mut self,
        tensors: impl IntoIterator<Item = Tensor<'a>>,
    ) -> Result<Report, Error> {
        let mut buffers = emptied(core::mem::take(&mut self.buffers));
        let report = self.step_buffers(&mut buffers, tensors);
        self.buffers = emptied(buffers);
        report
    }

    fn step_buffers<'a>(
        &mut self,
        all: &mut Vec<Option<TensorBuffers<'a>>>,
        tensors: impl IntoIterator<Item = Tensor<'a>>,
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
        let call = Call {
            rules: &self.effective,
            options: &self.options,
            grad_scale: self.options.grad_scale / self.checked_loss_scale()?,
            skip: self.options.skip_nonfinite || self.loss_scale.is_some(),
            lr_factor,
            scalars_are_next: false,
        };
        let report = call.run(&mut self.params, all)?;
        if let Some(scale) = &mut self.loss_scale {
            scale.update(!report.skipped);
        }
        if !report.skipped {
            self.steps = self.steps.saturating_add(1);
        }
        Ok(report)
    }

    /// What the losses were multiplied with.
    fn checked_loss_scale(&self) -> Result<f64, Error> {
        let Some(scale) = &self.loss_scale else { return Ok(1.0) };
        scale.check()?;
        Ok(scale.scale)
    }

    /// The index of a parameter.
    fn find(&self, key: Key<'_>) -> Result<usize, Error> {
        let unknown = |param| Error::UnknownParam { param };
        match key {
            Key::Id(ParamId(id)) if id < self.params.len() => Ok(id),
            Key::Id(ParamId(id)) => Err(unknown(format!("number {id}"))),
            Key::Name(name) => {
                self.by_name.get(name).copied().ok_or_else(|| unknown(name.to_owned()))
            }
        }
    }

    /// Has each group's rule be what the schedule makes of it, and returns the factor.
    fn schedule_rules(&mut self) -> f64 {
        let steps = self.steps;
        let factor = self.lr_schedule.as_ref().map_or(1.0, |schedule| schedule.factor(steps));
        for (rule, effective) in self.groups.iter().zip(&mut self.effective) {
            effective.clone_from(rule);
            effective.set_lr(rule.lr() * factor);
        }
        factor
    }

    /// Steps taken; those that were skipped do not count. It is what a schedule is a function of.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The parameter of this name.
    pub fn id(&self, name: &str) -> Option<ParamId> {
        self.by_name.get(name).copied().map(ParamId)
    }

    /// The names of the parameters, in the order in which they were registered.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.params.iter().map(|param| param.name.as_str())
    }

    /// The steps that a parameter has taken; 0 if there is none such.
    pub fn t(&self, id: ParamId) -> u64 {
        self.params.get(id.0).map_or(0, |param| param.t)
    }

    /// A group's rule; its `lr` is what the schedule's factor multiplies.
    pub fn rule(&self, group: GroupId) -> Option<&R> {
        self.groups.get(group.0)
    }

    /// A group's rule, to be changed between steps. It is checked on the next one of one of its
    /// parameters, and if it then keeps other states than before, that step is refused.
    pub fn rule_mut(&mut self, group: GroupId) -> Option<&mut R> {
        self.groups.get_mut(group.0)
    }

    /// A parameter's state of this name, such as `m`, if it has one by now and it is of type `S`.
    pub fn state<S: Element>(&self, id: ParamId, name: &str) -> Option<&[S]> {
        let states = self.params.get(id.0)?.states.as_ref()?;
        let i = states.declared().iter().position(|state| state.name() == name)?;
        S::of(states.get(i)?)
    }

    /// A parameter's scalars after its steps, in the order of [`Rule::scalars`]; empty before the
    /// first one.
    pub fn scalars(&self, id: ParamId) -> &[f64] {
        self.params.get(id.0).map_or(&[], |param| &param.scalars)
    }

    /// What a parameter's random bits are drawn from when it is rounded stochastically with `seed`:
    /// [`Step`](crate::Step) gives the same bits with this one. It depends on the parameter's name,
    /// and not on when it was registered.
    pub fn seed(&self, id: ParamId, seed: u64) -> Option<u64> {
        self.params.get(id.0).map(|param| param.seed ^ seed)
    }
}

/// The memory of an empty list, for another lifetime: collecting in place allocates nothing.
fn emptied<'b>(mut list: Vec<Option<TensorBuffers<'_>>>) -> Vec<Option<TensorBuffers<'b>>> {
    list.clear();
    list.into_iter().map(|_| None).collect()
}

/// FNV-1a (Fowler, Noll and Vo): the same on every machine.
fn hash(name: &str) -> u64 {
    name.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    })
}
