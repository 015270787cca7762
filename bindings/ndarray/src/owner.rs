//! An optimizer that stores the states of named arrays: the core's optimizer, which steps slices,
//! and for each array its shape and the memory order of its states.

#[cfg(feature = "checkpoint")]
mod checkpoint;
mod kept;

use core::fmt;
use std::collections::HashMap;

use fused_adam::{
    AdamW, Block8, Element, GradScaler, GroupId, LrSchedule, Optimizer, Parallelism, Report, Rule,
    State, StateElement, StepOptions, Tensor,
};
use ndarray::{ArrayRef, ArrayView1, ArrayViewD, ArrayViewMutD, Dimension};

use self::kept::Kept;
use crate::Error;
use crate::arrays::{check_shape, check_state, in_8_bits};
use crate::order::Order;
use crate::slices::{Slice, SliceMut};

/// θ and its gradient in a step of an [`ArrayOptimizer`].
pub struct Pair<'a, T, G = T> {
    name: &'a str,
    theta: ArrayViewMutD<'a, T>,
    grad: ArrayViewD<'a, G>,
}

impl<'a, T, G> Pair<'a, T, G> {
    /// The array with this name, and its gradient: arrays or views of the same shape.
    pub fn new<D: Dimension>(
        name: &'a str,
        theta: &'a mut ArrayRef<T, D>,
        grad: &'a ArrayRef<G, D>,
    ) -> Self {
        Pair { name, theta: theta.view_mut().into_dyn(), grad: grad.view().into_dyn() }
    }
}

/// An optimizer that stores the states of many arrays: the core's [`Optimizer`] for arrays in any
/// memory order.
///
/// Arrays are added by name, in groups. Each group has its own rule. A step takes any of the
/// arrays, in any order. The others, with their states and step numbers, stay as they are. The bits
/// are those of the core's optimizer with the same names, on slices in row-major order.
///
/// The states of an array are allocated in its first step, in its memory order.
///
/// ```
/// use fused_adam_ndarray::fused_adam::{AdamW, GroupId};
/// use fused_adam_ndarray::{ArrayOptimizer, Pair};
/// use ndarray::{Array1, Array2};
///
/// let (mut w, mut b) = (Array2::<f32>::ones((3, 2)), Array1::<f32>::zeros(2));
/// let mut opt = ArrayOptimizer::new(AdamW::default())?;
/// let biases = opt.add_group(AdamW { weight_decay: 0.0, ..AdamW::default() })?;
/// opt.add(GroupId::default(), "w", &w)?;
/// opt.add(biases, "b", &b)?;
/// for _ in 0..10 {
///     let (w_grad, b_grad) = (&w * 2.0, &b - 1.0);
///     opt.step([Pair::new("w", &mut w, &w_grad), Pair::new("b", &mut b, &b_grad)])?;
/// }
/// assert!(opt.steps() == 10 && w[[0, 0]] < 1.0 && b[0] > 0.0);
/// # Ok::<(), fused_adam_ndarray::Error>(())
/// ```
pub struct ArrayOptimizer<R = AdamW> {
    core: Optimizer<R>,
    arrays: HashMap<String, Kept<R>>,
}

impl<R: Rule> ArrayOptimizer<R> {
    /// Creates an optimizer without arrays and with one group, which has this rule.
    ///
    /// # Errors
    ///
    /// [`fused_adam::Error::HyperParameter`].
    pub fn new(rule: R) -> Result<Self, Error> {
        Ok(ArrayOptimizer { core: Optimizer::new(rule)?, arrays: HashMap::new() })
    }

    /// Adds a group, whose arrays are stepped with this rule.
    ///
    /// # Errors
    ///
    /// [`fused_adam::Error::HyperParameter`].
    pub fn add_group(&mut self, rule: R) -> Result<GroupId, Error> {
        Ok(self.core.add_group(rule)?)
    }

    /// Adds an array, at any time, under a name of its own. Its steps take arrays of this element
    /// type and shape, in any memory order. The elements are not read. The states have the type
    /// [`DefaultState`](Element::DefaultState): `f32` for `f16`, else that of the array.
    ///
    /// # Errors
    ///
    /// [`fused_adam::Error::DuplicateParam`], and [`fused_adam::Error::ForeignId`] for a group of
    /// another optimizer.
    pub fn add<T: Element, D: Dimension>(
        &mut self,
        group: GroupId,
        name: &str,
        theta: &ArrayRef<T, D>,
    ) -> Result<(), Error> {
        self.add_mixed::<T, T, T::DefaultState, D>(group, name, theta)
    }

    /// Adds an array with gradients of type `G` and states of type `S`: see
    /// [`Step::run_mixed`](fused_adam::Step::run_mixed). A step also accepts gradients of another
    /// type that can be combined with `T`, perhaps with a slower loop.
    ///
    /// ```
    /// use fused_adam_ndarray::ArrayOptimizer;
    /// use fused_adam_ndarray::fused_adam::{AdamW, GroupId, bf16};
    /// use ndarray::Array2;
    ///
    /// let w = Array2::from_elem((3, 2), bf16::ZERO);
    /// let mut opt = ArrayOptimizer::new(AdamW::default())?;
    /// opt.add_mixed::<_, bf16, f32, _>(GroupId::default(), "w", &w)?;
    /// # Ok::<(), fused_adam_ndarray::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`add`](Self::add).
    pub fn add_mixed<T, G, S, D>(
        &mut self,
        group: GroupId,
        name: &str,
        theta: &ArrayRef<T, D>,
    ) -> Result<(), Error>
    where
        T: Element,
        G: Element<Float = T::Float>,
        S: StateElement<Float = T::Float>,
        D: Dimension,
    {
        let id = self.core.add_mixed::<T, G, S>(group, name, theta.len())?;
        self.arrays.insert(name.to_owned(), Kept::new::<S>(id, group, theta.shape()));
        Ok(())
    }

    /// Adds an array with states [in 8 bits](crate#states-in-8-bits); or, if it has less than
    /// `least` elements, with states of `f32`: they take little memory, and small arrays such as
    /// biases are sensitive. A usual value is 4096. With 0 all arrays have states in 8 bits.
    ///
    /// ```
    /// use fused_adam_ndarray::fused_adam::{AdamW, Block8, GroupId};
    /// use fused_adam_ndarray::{ArrayOptimizer, Pair};
    /// use ndarray::{Array1, Array2};
    ///
    /// let (mut w, mut b) = (Array2::<f32>::ones((100, 80)), Array1::<f32>::zeros(80));
    /// let mut opt = ArrayOptimizer::new(AdamW::default())?;
    /// opt.add_8bit(GroupId::default(), "w", &w, 4096)?;
    /// opt.add_8bit(GroupId::default(), "b", &b, 4096)?;
    /// let (w_grad, b_grad) = (&w * 2.0, &b - 1.0);
    /// opt.step([Pair::new("w", &mut w, &w_grad), Pair::new("b", &mut b, &b_grad)])?;
    /// assert!(opt.state::<Block8>("w", "m").is_some_and(|m| m.shape() == [250]));
    /// assert!(opt.state::<f32>("b", "m").is_some_and(|m| m.shape() == [80]));
    /// # Ok::<(), fused_adam_ndarray::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`add`](Self::add).
    pub fn add_8bit<T: Element<Float = f32>, D: Dimension>(
        &mut self,
        group: GroupId,
        name: &str,
        theta: &ArrayRef<T, D>,
        least: usize,
    ) -> Result<(), Error> {
        if theta.len() < least {
            return self.add_mixed::<T, T, f32, D>(group, name, theta);
        }
        self.add_mixed::<T, T, Block8, D>(group, name, theta)
    }

    /// Takes a step on the given arrays, in any order and in one parallel region. Other arrays do
    /// not change. The arrays of a step have one element type, and so have the gradients.
    ///
    /// The random bits of an array depend on its name, not on its place in the list.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownArray`]; [`Error::Shape`] for a shape other than that of the array that was
    /// added; and as [`Error::Core`] the errors of [`Optimizer::step`]. After an error no array,
    /// state or step number has changed.
    pub fn step<'a, T: Element, G: Element<Float = T::Float>>(
        &mut self,
        arrays: impl IntoIterator<Item = Pair<'a, T, G>>,
    ) -> Result<Report, Error> {
        let (parallel, rounding) = (self.is_parallel(), self.core.options.rounding);
        let mut slices = Vec::new();
        for Pair { name, theta, grad } in arrays {
            let (kept, core) = self.find(name)?;
            check_shape(&name, "theta", theta.shape(), &kept.shape)?;
            check_shape(&name, "grad", grad.shape(), &kept.shape)?;
            kept.arrange(core, kept.order_of(&theta, rounding), parallel)?;
            let theta = SliceMut::of(theta, &kept.order, parallel);
            slices.push((kept.id, theta, Slice::of(grad, &kept.order, parallel)));
        }
        let tensors = slices.iter_mut();
        let tensors = tensors.map(|(id, theta, grad)| Tensor::new(*id, theta.get(), grad.get()));
        let report = self.core.step(tensors)?;
        if !report.skipped {
            slices.into_iter().for_each(|(_, theta, _)| theta.write_back(parallel));
        }
        Ok(report)
    }

    /// The array with this name.
    fn find(&mut self, name: &str) -> Result<(&mut Kept<R>, &mut Optimizer<R>), Error> {
        let ArrayOptimizer { core, arrays } = self;
        match arrays.get_mut(name) {
            Some(kept) => Ok((kept, core)),
            None => {
                let known = core.names().map(str::to_owned).collect();
                Err(Error::UnknownArray { array: name.to_owned(), known })
            }
        }
    }

    fn is_parallel(&self) -> bool {
        self.core.options.parallelism != Parallelism::Serial
    }

    /// The options: how steps scale and clip gradients, and how they run.
    pub fn options(&self) -> &StepOptions {
        &self.core.options
    }

    /// The options, for changes between steps. The next step checks them.
    pub fn options_mut(&mut self) -> &mut StepOptions {
        &mut self.core.options
    }

    /// The schedule of the learning rates, if there is one.
    pub fn lr_schedule(&self) -> Option<&LrSchedule> {
        self.core.lr_schedule()
    }

    /// Sets the schedule whose factor multiplies the learning rates of all groups, as a function of
    /// [`steps`](Self::steps); `None` removes it. Default: none.
    ///
    /// # Errors
    ///
    /// Those of [`LrSchedule::check`].
    pub fn set_lr_schedule(
        &mut self,
        schedule: impl Into<Option<LrSchedule>>,
    ) -> Result<(), Error> {
        Ok(self.core.set_lr_schedule(schedule)?)
    }

    /// The loss scale: the factor for the loss before you compute its gradients.
    pub fn grad_scaler(&self) -> Option<&GradScaler> {
        self.core.grad_scaler.as_ref()
    }

    /// Sets a loss scale. Steps whose gradients are not all finite are then skipped. Default: none.
    pub fn set_grad_scaler(&mut self, scale: Option<GradScaler>) {
        self.core.grad_scaler = scale;
    }

    /// A group's rule, or `None` for an unknown group.
    pub fn rule(&self, group: GroupId) -> Option<&R> {
        self.core.rule(group)
    }

    /// A group's rule, for changes between steps, for example of its `lr`. The next step checks it.
    /// If the rule then has other states than before, that step fails.
    pub fn rule_mut(&mut self, group: GroupId) -> Option<&mut R> {
        self.core.rule_mut(group)
    }

    /// The names of the arrays, in the order in which they were added.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.core.names()
    }

    /// The number of steps taken. Skipped steps do not count.
    pub fn steps(&self) -> u64 {
        self.core.steps()
    }

    /// The number of steps that an array has taken, or `None` for an unknown name.
    pub fn t(&self, name: &str) -> Option<u64> {
        self.core.t(self.arrays.get(name)?.id)
    }

    /// The state of an array with this name, such as `m`. It has the shape of the array; in 8 bits,
    /// one axis with all blocks. None for unknown names, before the first step of the array, and if
    /// the state is not of type `S`.
    pub fn state<S: StateElement>(&self, name: &str, state: &str) -> Option<ArrayViewD<'_, S>> {
        let kept = self.arrays.get(name)?;
        let elements = self.core.state::<S>(kept.id, state)?;
        if in_8_bits::<S>() {
            return Some(ArrayView1::from(elements).into_dyn());
        }
        kept.order.view(&kept.shape, elements)
    }

    /// The scalars of an array after its steps, in the order of [`Rule::scalars`], or `None` for an
    /// unknown name. Empty before the first step.
    pub fn scalars(&self, name: &str) -> Option<&[f64]> {
        self.core.scalars(self.arrays.get(name)?.id)
    }

    /// Sets the step number, the scalars and all states of an array. Use it to continue a run whose
    /// states something else has stored.
    ///
    /// `t` is the number of steps taken. [`steps`](Self::steps) becomes at least `t`. The scalars
    /// are in the order of [`Rule::scalars`]. Without any, they get their values after `t` steps
    /// with the present hyper-parameters. The states have their names, and any order.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownArray`], [`Error::Shape`] and [`Error::Blocks`], and as [`Error::Core`]
    /// those of [`Optimizer::set_states`]. Nothing has changed after an error.
    pub fn set_states<S: StateElement, D: Dimension>(
        &mut self,
        name: &str,
        t: u64,
        scalars: &[f64],
        states: &[(&str, &ArrayRef<S, D>)],
    ) -> Result<(), Error> {
        let parallel = self.is_parallel();
        let (kept, core) = self.find(name)?;
        let mut slices = Vec::with_capacity(states.len());
        for &(called, state) in states {
            // The core checks the number and the names.
            let mut names = kept.declared(core).iter().map(State::name);
            let declared = names.find(|name| *name == called).unwrap_or("state");
            check_state::<S>(&name, declared, state.shape(), &kept.shape)?;
            slices.push((called, Slice::of(state.view().into_dyn(), &Order::default(), parallel)));
        }
        let slices: Vec<(&str, &[S])> =
            slices.iter().map(|(called, slice)| (*called, slice.get())).collect();
        core.set_states(kept.id, t, scalars, &slices)?;
        kept.replaced(core);
        Ok(())
    }
}

/// Does not print the elements of the states.
impl<R: fmt::Debug> fmt::Debug for ArrayOptimizer<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ArrayOptimizer").field(&self.core).finish()
    }
}
