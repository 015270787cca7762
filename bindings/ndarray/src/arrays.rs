//! A step of arrays whose states the caller stores. The arrays become slices with a common element
//! order, and one step of the core updates all of them.

use core::fmt::Display;

use fused_adam::{
    Block8, Element, Parallelism, Report, Rounding, Rule, State, StateElement, StepOptions,
};
use ndarray::{ArrayRef, ArrayViewD, ArrayViewMutD, Dimension, IxDyn};

use crate::Error;
use crate::order::Order;
use crate::slices::{Slice, SliceMut};

/// One array in a step of [`step_all`]: θ, its gradient, its states, its rule and its step number.
///
/// θ is of type `T`, the gradient of type `G`, and the states of type `S`, which is an element type
/// or [`Block8`] for [8 bits](crate#states-in-8-bits).
pub struct ParamMut<'a, T, G, S> {
    rule: usize,
    t: u64,
    seed: u64,
    offset: u64,
    theta: ArrayViewMutD<'a, T>,
    grad: ArrayViewD<'a, G>,
    states: Vec<ArrayViewMutD<'a, S>>,
    f32_states: Vec<ArrayViewMutD<'a, f32>>,
    scalars: Option<Vec<f64>>,
}

impl<'a, T, G, S> ParamMut<'a, T, G, S> {
    /// An array or a view. It takes step number `t`, counted from 1, with the rule at index `rule`.
    pub fn new<D: Dimension>(
        rule: usize,
        t: u64,
        theta: &'a mut ArrayRef<T, D>,
        grad: &'a ArrayRef<G, D>,
    ) -> Self {
        Self::of(rule, t, theta.view_mut().into_dyn(), grad.view().into_dyn())
    }

    pub(crate) fn of(
        rule: usize,
        t: u64,
        theta: ArrayViewMutD<'a, T>,
        grad: ArrayViewD<'a, G>,
    ) -> Self {
        let (states, f32_states) = (Vec::new(), Vec::new());
        ParamMut { rule, t, seed: 0, offset: 0, theta, grad, states, f32_states, scalars: None }
    }

    /// Adds the next state, in the order of [`Rule::states`]. It must have the shape of θ. In 8
    /// bits, it must have one axis, with a block for each 32 elements of θ in row-major order.
    #[must_use]
    pub fn with_state<D: Dimension>(mut self, state: &'a mut ArrayRef<S, D>) -> Self {
        self.states.push(state.view_mut().into_dyn());
        self
    }

    /// Adds the next state in `f32`, in place of [`with_state`](Self::with_state): for small arrays
    /// in a step whose other arrays have states in 8 bits. It must have the shape of θ.
    #[must_use]
    pub fn with_f32_state<D: Dimension>(mut self, state: &'a mut ArrayRef<f32, D>) -> Self {
        self.f32_states.push(state.view_mut().into_dyn());
        self
    }

    /// Sets the scalars of the rule, with their values after this step. [`Rule::advance_scalars`]
    /// computes them from the values before it. Default: their values after `t` steps with the
    /// current hyper-parameters.
    #[must_use]
    pub fn with_scalars(mut self, scalars: &[f64]) -> Self {
        self.scalars = Some(scalars.to_vec());
        self
    }

    /// Sets the seed of this array's random bits. It is combined with the seed of
    /// [`Rounding::Stochastic`]. Give each array another one, also for states in 8 bits. Default:
    /// 0.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// For a part of a larger array, such as some of its rows: sets the index of its first element
    /// in the whole array, in row-major order. It only affects stochastic rounding, whose random
    /// bits depend on the index in the whole array. With states in 8 bits it must be a multiple of
    /// 32. Default: 0.
    #[must_use]
    pub fn with_offset(mut self, first: u64) -> Self {
        self.offset = first;
        self
    }

    /// Checks that all shapes are that of θ, and the numbers of blocks.
    fn check(&self, array: usize, declared: &[State]) -> Result<(), Error>
    where
        S: StateElement,
    {
        let theta = self.theta.shape();
        check_shape(&array, "grad", self.grad.shape(), theta)?;
        // The core checks the number of states, and that the rule exists.
        let name = |number| declared.get(number).map_or("state", State::name);
        for (number, state) in self.states.iter().enumerate() {
            check_state::<S>(&array, name(number), state.shape(), theta)?;
        }
        let mut singles = self.f32_states.iter().enumerate();
        singles.try_for_each(|(number, of)| check_shape(&array, name(number), of.shape(), theta))
    }
}

/// Checks that a buffer of this array has the expected shape.
pub(crate) fn check_shape(
    array: &dyn Display,
    buffer: &'static str,
    given: &[usize],
    expected: &[usize],
) -> Result<(), Error> {
    if given == expected {
        return Ok(());
    }
    let (array, given, expected) = (array.to_string(), given.to_vec(), expected.to_vec());
    Err(Error::Shape { array, buffer, given, expected })
}

/// Checks that a state has the shape of θ, or in 8 bits one axis with all blocks.
pub(crate) fn check_state<S: StateElement>(
    array: &dyn Display,
    state: &'static str,
    given: &[usize],
    theta: &[usize],
) -> Result<(), Error> {
    if !in_8_bits::<S>() {
        return check_shape(array, state, given, theta);
    }
    let len: usize = theta.iter().product();
    let expected = S::slots(len);
    if given == [expected] {
        return Ok(());
    }
    Err(Error::Blocks { array: array.to_string(), state, given: given.to_vec(), expected, len })
}

/// Whether states of this type are in 8 bits.
pub(crate) fn in_8_bits<S: StateElement>() -> bool {
    S::NAME == Block8::NAME
}

/// Takes a step on many arrays in one parallel region, with states that the caller stores. It is
/// bit-identical to [`fused_adam::Step`] on contiguous copies of each array. [`StepOptions`] sets
/// how it clips, scales and skips.
///
/// See [memory order](crate#memory-order) for when arrays are copied.
///
/// ```
/// use fused_adam_ndarray::fused_adam::{AdamW, StepOptions};
/// use fused_adam_ndarray::{ParamMut, step_all};
/// use ndarray::{Array1, Array2};
///
/// let rules = [AdamW::default(), AdamW { weight_decay: 0.0, ..AdamW::default() }];
/// let (mut w, mut b) = (Array2::<f32>::ones((3, 2)), Array1::<f32>::zeros(2));
/// let (w_grad, b_grad) = (Array2::<f32>::ones((3, 2)), Array1::<f32>::ones(2));
/// let (mut w_m, mut w_v) = (Array2::<f32>::zeros((3, 2)), Array2::<f32>::zeros((3, 2)));
/// let (mut b_m, mut b_v) = (Array1::<f32>::zeros(2), Array1::<f32>::zeros(2));
/// step_all(&rules, &StepOptions::default(), [
///     ParamMut::new(0, 1, &mut w, &w_grad).with_state(&mut w_m).with_state(&mut w_v),
///     ParamMut::new(1, 1, &mut b, &b_grad).with_state(&mut b_m).with_state(&mut b_v),
/// ])?;
/// assert!((b[0] + 1e-3).abs() < 1e-6);
/// # Ok::<(), fused_adam_ndarray::Error>(())
/// ```
///
/// # Errors
///
/// All checks run before the first write: [`Error::Shape`], [`Error::Blocks`], and as
/// [`Error::Core`] the errors of [`fused_adam::step_all`].
pub fn step_all<'a, R, T, G, S>(
    rules: &[R],
    options: &StepOptions,
    arrays: impl IntoIterator<Item = ParamMut<'a, T, G, S>>,
) -> Result<Report, Error>
where
    R: Rule,
    T: Element,
    G: Element<Float = T::Float>,
    S: StateElement<Float = T::Float>,
{
    let arrays: Vec<_> = arrays.into_iter().collect();
    for (number, array) in arrays.iter().enumerate() {
        // The core reports a rule that does not exist.
        array.check(number, rules.get(array.rule).map_or(&[], R::states))?;
    }
    let parallel = options.parallelism != Parallelism::Serial;
    let mut slices: Vec<_> =
        arrays.into_iter().map(|array| Slices::of(array, options.rounding, parallel)).collect();
    let borrowed = slices.iter_mut().map(Slices::reborrow);
    let report = fused_adam::step_all(rules, options, borrowed)?;
    if !report.skipped {
        for slices in slices {
            slices.write_back(parallel);
        }
    }
    Ok(report)
}

/// The element order in which an array is stepped, with states of this size per element or block.
/// It is the memory order of θ. If the step uses random bits, it is row-major, because random bits
/// depend on an element's index in row-major order. So it is with states in 8 bits, whose blocks
/// have the elements in this order.
pub(crate) fn order<T: Element>(
    theta: &ArrayRef<T, IxDyn>,
    rounding: Rounding,
    state_bytes: usize,
) -> Order {
    let in_16_bits = size_of::<T>() == 2 || state_bytes == 2;
    let random = rounding != Rounding::Nearest && in_16_bits;
    if random || state_bytes == size_of::<Block8>() { Order::default() } else { Order::of(theta) }
}

/// The buffers of one array, as slices with a common element order.
struct Slices<'a, T, G, S> {
    rule: usize,
    t: u64,
    seed: u64,
    offset: u64,
    theta: SliceMut<'a, T>,
    grad: Slice<'a, G>,
    states: Vec<SliceMut<'a, S>>,
    f32_states: Vec<SliceMut<'a, f32>>,
    scalars: Option<Vec<f64>>,
}

impl<'a, T: Element, G: Element, S: StateElement> Slices<'a, T, G, S> {
    fn of(borrowed: ParamMut<'a, T, G, S>, rounding: Rounding, parallel: bool) -> Self {
        let ParamMut { rule, t, seed, offset, theta, grad, states, f32_states, scalars } = borrowed;
        // Blocks have the row-major order also beside states of `f32`, which the core refuses.
        let order = if f32_states.is_empty() || !states.is_empty() {
            order(&theta, rounding, size_of::<S>())
        } else {
            order(&theta, rounding, size_of::<f32>())
        };
        let states = states.into_iter().map(|state| SliceMut::of(state, &order, parallel));
        let singles = f32_states.into_iter().map(|state| SliceMut::of(state, &order, parallel));
        Slices {
            rule,
            t,
            seed,
            offset,
            states: states.collect(),
            f32_states: singles.collect(),
            scalars,
            grad: Slice::of(grad, &order, parallel),
            theta: SliceMut::of(theta, &order, parallel),
        }
    }

    fn reborrow(&mut self) -> fused_adam::ParamMut<'_> {
        let Slices { rule, t, seed, offset, theta, grad, states, f32_states, scalars } = self;
        let borrowed = fused_adam::ParamMut::new(*rule, *t, theta.get(), grad.get());
        let mut borrowed = borrowed.with_seed(*seed).with_offset(*offset);
        if let Some(scalars) = scalars {
            borrowed = borrowed.with_scalars(scalars);
        }
        for state in states {
            borrowed = borrowed.with_state(state.get());
        }
        f32_states.iter_mut().fold(borrowed, |borrowed, state| borrowed.with_state(state.get()))
    }

    fn write_back(self, parallel: bool) {
        self.theta.write_back(parallel);
        self.states.into_iter().for_each(|state| state.write_back(parallel));
        self.f32_states.into_iter().for_each(|state| state.write_back(parallel));
    }
}
