//! A step of arrays whose states the caller keeps: each becomes slices in one order, and all of them
//! go through one step of the core.

use fused_adam::{Element, Report, Rounding, Rule, Schedule, State, StepOptions};
use ndarray::{ArrayRef, ArrayViewD, ArrayViewMutD, Dimension, IxDyn};

use crate::Error;
use crate::order::Order;
use crate::slices::{Slice, SliceMut};

/// One array in a step of [`step_all`]: θ, its gradient, its states, its rule and its step number.
///
/// θ is of type `T`, the gradient of type `G`, and the states of type `S`.
pub struct Lent<'a, T, G, S> {
    rule: usize,
    t: u64,
    seed: u64,
    offset: u64,
    theta: ArrayViewMutD<'a, T>,
    grad: ArrayViewD<'a, G>,
    states: Vec<ArrayViewMutD<'a, S>>,
    scalars: Option<Vec<f64>>,
}

impl<'a, T, G, S> Lent<'a, T, G, S> {
    /// An array, or a view, that takes step number `t`, from 1 on, of rule number `rule`.
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
        Lent { rule, t, seed: 0, offset: 0, theta, grad, states: Vec::new(), scalars: None }
    }

    /// The next of the states that [`Rule::states`] names, of the shape of θ.
    #[must_use]
    pub fn state<D: Dimension>(mut self, state: &'a mut ArrayRef<S, D>) -> Self {
        self.states.push(state.view_mut().into_dyn());
        self
    }

    /// The scalars that the rule keeps, as they are after this step: [`Rule::advance_scalars`]
    /// makes them of those before it. Default: what they are after `t` steps with these
    /// hyper-parameters.
    #[must_use]
    pub fn scalars(mut self, scalars: &[f64]) -> Self {
        self.scalars = Some(scalars.to_vec());
        self
    }

    /// What this array's random bits are drawn from, together with the seed of
    /// [`Rounding::Stochastic`]. Default: 0.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Says that this is a part of an array, some of its rows, say, whose first element is number `first` of the
    /// whole in row-major order. It concerns stochastic rounding alone, whose random bits belong to the whole. Default: 0.
    #[must_use]
    pub fn offset(mut self, first: u64) -> Self {
        self.offset = first;
        self
    }

    /// That all shapes are those of θ.
    fn check(&self, array: usize, declared: &[State]) -> Result<(), Error> {
        let expected = self.theta.shape();
        let check = |buffer, given: &[usize]| {
            if given == expected {
                return Ok(());
            }
            let (given, expected) = (given.to_vec(), expected.to_vec());
            Err(Error::Shape { array, buffer, given, expected })
        };
        check("grad", self.grad.shape())?;
        // Whether there are as many as there should be is seen by the core.
        declared
            .iter()
            .zip(&self.states)
            .try_for_each(|(of, state)| check(of.name(), state.shape()))
    }
}

/// Takes a step on many arrays, in one parallel region, with states that the caller keeps: the bits
/// are those of [`fused_adam::Step`] on contiguous copies of each array. It clips, scales and skips
/// as [`StepOptions`] says.
///
/// How arrays lie and what is copied is said [at the top](crate#memory-order).
///
/// ```
/// use fused_adam_ndarray::fused_adam::{AdamW, StepOptions};
/// use fused_adam_ndarray::{Lent, step_all};
/// use ndarray::{Array1, Array2};
///
/// let rules = [AdamW::default(), AdamW { weight_decay: 0.0, ..AdamW::default() }];
/// let (mut w, mut b) = (Array2::<f32>::ones((3, 2)), Array1::<f32>::zeros(2));
/// let (w_grad, b_grad) = (Array2::<f32>::ones((3, 2)), Array1::<f32>::ones(2));
/// let (mut w_m, mut w_v) = (Array2::<f32>::zeros((3, 2)), Array2::<f32>::zeros((3, 2)));
/// let (mut b_m, mut b_v) = (Array1::<f32>::zeros(2), Array1::<f32>::zeros(2));
/// step_all(&rules, &StepOptions::default(), [
///     Lent::new(0, 1, &mut w, &w_grad).state(&mut w_m).state(&mut w_v),
///     Lent::new(1, 1, &mut b, &b_grad).state(&mut b_m).state(&mut b_v),
/// ])?;
/// assert!((b[0] + 1e-3).abs() < 1e-6);
/// # Ok::<(), fused_adam_ndarray::Error>(())
/// ```
///
/// # Errors
///
/// All are found before anything is written: [`Error::Shape`], and as [`Error::Core`] those of
/// [`fused_adam::step_all`].
pub fn step_all<'a, R, T, G, S>(
    rules: &[R],
    options: &StepOptions,
    arrays: impl IntoIterator<Item = Lent<'a, T, G, S>>,
) -> Result<Report, Error>
where
    R: Rule,
    T: Element,
    G: Element<Float = T::Float>,
    S: Element<Float = T::Float>,
{
    let arrays: Vec<_> = arrays.into_iter().collect();
    for (number, array) in arrays.iter().enumerate() {
        // A rule that there is not is refused by the core.
        array.check(number, rules.get(array.rule).map_or(&[], R::states))?;
    }
    let parallel = options.schedule != Schedule::Serial;
    let mut slices: Vec<_> =
        arrays.into_iter().map(|array| Slices::of(array, options.rounding, parallel)).collect();
    let lent = slices.iter_mut().map(Slices::lend);
    let report = fused_adam::step_all(rules, options, lent)?;
    if !report.skipped {
        for slices in slices {
            slices.write_back(parallel);
        }
    }
    Ok(report)
}

/// In which order an array is stepped: the one in which θ lies. Random bits belong to the numbers of
/// the elements, which are those of the row-major order; so where there are any, it is that one.
pub(crate) fn order<T: Element, S: Element>(
    theta: &ArrayRef<T, IxDyn>,
    rounding: Rounding,
) -> Order {
    let in_16_bits = size_of::<T>() == 2 || size_of::<S>() == 2;
    if rounding != Rounding::Nearest && in_16_bits { Order::default() } else { Order::of(theta) }
}

/// The buffers of one array as slices in one order.
struct Slices<'a, T, G, S> {
    rule: usize,
    t: u64,
    seed: u64,
    offset: u64,
    theta: SliceMut<'a, T>,
    grad: Slice<'a, G>,
    states: Vec<SliceMut<'a, S>>,
    scalars: Option<Vec<f64>>,
}

impl<'a, T: Element, G: Element, S: Element> Slices<'a, T, G, S> {
    fn of(lent: Lent<'a, T, G, S>, rounding: Rounding, parallel: bool) -> Self {
        let Lent { rule, t, seed, offset, theta, grad, states, scalars } = lent;
        let order = order::<T, S>(&theta, rounding);
        let states = states.into_iter().map(|state| SliceMut::of(state, &order, parallel));
        Slices {
            rule,
            t,
            seed,
            offset,
            states: states.collect(),
            scalars,
            grad: Slice::of(grad, &order, parallel),
            theta: SliceMut::of(theta, &order, parallel),
        }
    }

    fn lend(&mut self) -> fused_adam::Lent<'_> {
        let Slices { rule, t, seed, offset, theta, grad, states, scalars } = self;
        let lent = fused_adam::Lent::new(*rule, *t, theta.get(), grad.get());
        let mut lent = lent.seed(*seed).offset(*offset);
        if let Some(scalars) = scalars {
            lent = lent.scalars(scalars);
        }
        states.iter_mut().fold(lent, |lent, state| lent.state(state.get()))
    }

    fn write_back(self, parallel: bool) {
        self.theta.write_back(parallel);
        self.states.into_iter().for_each(|state| state.write_back(parallel));
    }
}
