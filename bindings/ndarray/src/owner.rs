//! An optimizer that stores the states of a list of arrays.

use fused_adam::{Block8, Element, Flat, Report, Rule, State, StateElement, StepOptions};
use ndarray::{Array1, ArrayD, ArrayRef, ArrayViewD, ArrayViewMutD, Dimension};

use crate::arrays::{in_8_bits, order};
use crate::order::Order;
use crate::{Error, ParamMut, step_all};

/// θ and its gradient in a step of an [`ArrayOptimizer`].
pub struct Pair<'a, T, G = T> {
    group: usize,
    theta: ArrayViewMutD<'a, T>,
    grad: ArrayViewD<'a, G>,
}

impl<'a, T, G> Pair<'a, T, G> {
    /// Arrays or views of the same shape. They use the rule of group 0.
    pub fn new<D: Dimension>(theta: &'a mut ArrayRef<T, D>, grad: &'a ArrayRef<G, D>) -> Self {
        Pair { group: 0, theta: theta.view_mut().into_dyn(), grad: grad.view().into_dyn() }
    }

    /// Sets the group, whose rule they use: see [`ArrayOptimizer::add_group`].
    #[must_use]
    pub fn with_group(self, group: usize) -> Self {
        Pair { group, ..self }
    }
}

/// Rules, the states of a list of arrays, and the number of steps taken.
///
/// The first step allocates the states, of type `S`: one set for each array of the list, in the
/// memory order of the array. Each later step takes the same list in the same order.
///
/// If `S` is [`Block8`], the states are [in 8 bits](crate#states-in-8-bits), except those of
/// [small arrays](Self::with_min_8bit_size): use [`step_mixed`](Self::step_mixed).
///
/// ```
/// use fused_adam_ndarray::fused_adam::AdamW;
/// use fused_adam_ndarray::{ArrayOptimizer, Pair};
/// use ndarray::{Array1, Array2};
///
/// let mut opt = ArrayOptimizer::new(AdamW::default())?;
/// let biases = opt.add_group(AdamW { weight_decay: 0.0, ..AdamW::default() })?;
///
/// let (mut w, mut b) = (Array2::<f32>::ones((3, 2)), Array1::<f32>::zeros(2));
/// for _ in 0..10 {
///     let (w_grad, b_grad) = (&w * 2.0, &b - 1.0);
///     opt.step([Pair::new(&mut w, &w_grad), Pair::new(&mut b, &b_grad).with_group(biases)])?;
/// }
/// assert!(opt.t() == 10 && w[[0, 0]] < 1.0 && b[0] > 0.0);
/// # Ok::<(), fused_adam_ndarray::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ArrayOptimizer<R, S> {
    rules: Vec<R>,
    t: u64,
    /// None before the first step.
    arrays: Option<Vec<States<S>>>,
    /// With states in 8 bits: arrays with fewer elements have states of `f32`.
    min_8bit_size: usize,
    /// The options: how steps scale and clip gradients, and how they run.
    pub options: StepOptions,
}

/// The states of one array.
#[derive(Clone, Debug)]
struct States<S> {
    /// The declarations of the states. None if the caller passed the states and no step has used
    /// them yet.
    declared: Option<&'static [State]>,
    states: Vec<ArrayD<S>>,
    /// The states of a small array if `S` is [`Block8`], in place of `states`.
    f32_states: Vec<ArrayD<f32>>,
    /// The scalars after the steps taken. None if they follow from the step number.
    scalars: Option<Vec<f64>>,
}

impl<R: Rule, S: StateElement> ArrayOptimizer<R, S> {
    /// Makes an optimizer without states and with one group, which uses this rule.
    ///
    /// # Errors
    ///
    /// [`fused_adam::Error::HyperParameter`].
    pub fn new(rule: R) -> Result<Self, Error> {
        rule.check()?;
        Ok(ArrayOptimizer {
            rules: vec![rule],
            t: 0,
            arrays: None,
            min_8bit_size: 4096,
            options: StepOptions::default(),
        })
    }

    /// Resumes after step `t`, with the states of each array in the order of the list, from
    /// [`into_parts`](Self::into_parts). Add other groups again.
    ///
    /// # Errors
    ///
    /// [`fused_adam::Error::HyperParameter`]. Each step checks whether the states fit.
    pub fn resume(rule: R, t: u64, states: Vec<Vec<ArrayD<S>>>) -> Result<Self, Error> {
        let of = |states| States { declared: None, states, f32_states: Vec::new(), scalars: None };
        let arrays = states.into_iter().map(of).collect();
        Ok(ArrayOptimizer { t, arrays: Some(arrays), ..Self::new(rule)? })
    }

    /// Sets the scalars of each array, from [`scalars`](Self::scalars). Default: their values after
    /// the steps taken, if all steps used the hyper-parameters of the next step.
    ///
    /// ```
    /// use fused_adam_ndarray::fused_adam::NAdam;
    /// use fused_adam_ndarray::{ArrayOptimizer, Pair};
    /// use ndarray::Array1;
    ///
    /// let (mut theta, grad) = (Array1::<f32>::ones(9), Array1::<f32>::ones(9));
    /// let mut opt = ArrayOptimizer::new(NAdam::default())?;
    /// opt.step([Pair::new(&mut theta, &grad)])?;
    ///
    /// let scalars = [opt.scalars(0).to_vec()];
    /// let (rules, t, states) = opt.into_parts();
    /// let mut opt = ArrayOptimizer::resume(rules[0], t, states)?.with_scalars(scalars)?;
    /// opt.step([Pair::new(&mut theta, &grad)])?;
    /// # Ok::<(), fused_adam_ndarray::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Count`] if the number of arrays is not that of the states. Each step checks the
    /// number of scalars.
    pub fn with_scalars(
        mut self,
        scalars: impl IntoIterator<Item = Vec<f64>>,
    ) -> Result<Self, Error> {
        let scalars: Vec<_> = scalars.into_iter().collect();
        let arrays = self.arrays.as_deref_mut().unwrap_or_default();
        if scalars.len() != arrays.len() {
            return Err(Error::Count { given: scalars.len(), expected: arrays.len() });
        }
        for (array, scalars) in arrays.iter_mut().zip(scalars) {
            array.scalars = Some(scalars);
        }
        Ok(self)
    }

    /// The rules, the number of steps taken, and the states of each array. Call
    /// [`scalars`](Self::scalars) first if the rule has scalars.
    pub fn into_parts(self) -> (Vec<R>, u64, Vec<Vec<ArrayD<S>>>) {
        let arrays = self.arrays.into_iter().flatten().map(|array| array.states).collect();
        (self.rules, self.t, arrays)
    }

    /// Adds a group of arrays with this rule. Returns its number; the first group has number 0.
    ///
    /// # Errors
    ///
    /// [`fused_adam::Error::HyperParameter`].
    pub fn add_group(&mut self, rule: R) -> Result<usize, Error> {
        rule.check()?;
        self.rules.push(rule);
        Ok(self.rules.len() - 1)
    }

    /// Takes the next step on all arrays, in one parallel region. θ and gradients have the type of
    /// the states.
    ///
    /// With stochastic rounding, and with states in 8 bits, the random bits of an array depend on
    /// the seed and its index in the list.
    ///
    /// # Errors
    ///
    /// Those of [`step_all`], [`Error::Count`] and [`Error::OtherStates`]. After an error neither
    /// the states nor the number of steps has changed.
    pub fn step<'a>(
        &mut self,
        arrays: impl IntoIterator<Item = Pair<'a, S, S>>,
    ) -> Result<Report, Error>
    where
        S: Element,
    {
        self.step_mixed(arrays)
    }

    /// Takes the next step, with types that can be combined with that of the states: see
    /// [`Step::run_mixed`](fused_adam::Step::run_mixed).
    ///
    /// # Errors
    ///
    /// Those of [`step`](Self::step).
    pub fn step_mixed<'a, T: Element<Float = S::Float>, G: Element<Float = S::Float>>(
        &mut self,
        arrays: impl IntoIterator<Item = Pair<'a, T, G>>,
    ) -> Result<Report, Error> {
        let t = self.t.checked_add(1).ok_or(fused_adam::Error::StepNumber {
            t: self.t,
            expected: "less than u64::MAX for another step to follow",
        })?;
        let pairs: Vec<_> = arrays.into_iter().collect();
        let mut new = Vec::new();
        let kept = match &mut self.arrays {
            Some(kept) => kept,
            None => {
                for pair in &pairs {
                    new.push(States::new(pair, &self.rules, &self.options, self.min_8bit_size)?);
                }
                &mut new
            }
        };
        if kept.len() != pairs.len() {
            return Err(Error::Count { given: pairs.len(), expected: kept.len() });
        }
        let groups: Vec<usize> = pairs.iter().map(|pair| pair.group).collect();
        let mut borrowed = Vec::with_capacity(pairs.len());
        let mut all_scalars = Vec::with_capacity(pairs.len());
        for (number, (pair, kept)) in pairs.into_iter().zip(&mut *kept).enumerate() {
            let rule = find(&self.rules, pair.group)?;
            kept.check(number, &pair, rule)?;
            let scalars = kept.scalars_after(t, rule);
            let array = ParamMut::of(pair.group, t, pair.theta, pair.grad);
            let array = array.with_seed(number as u64).with_scalars(&scalars);
            all_scalars.push(scalars);
            let array = kept.states.iter_mut().fold(array, |array, state| array.with_state(state));
            let singles = kept.f32_states.iter_mut();
            borrowed.push(singles.fold(array, |array, state| array.with_f32_state(state)));
        }
        let report = step_all(&self.rules, &self.options, borrowed)?;
        for ((kept, group), scalars) in kept.iter_mut().zip(groups).zip(all_scalars) {
            kept.declared = self.rules.get(group).map(R::states);
            if !report.skipped {
                kept.scalars = Some(scalars);
            }
        }
        self.arrays.get_or_insert(new);
        if !report.skipped {
            self.t = t;
        }
        Ok(report)
    }

    /// The number of steps taken. Skipped steps do not count.
    pub fn t(&self) -> u64 {
        self.t
    }

    /// A group's rule.
    pub fn rule(&self, group: usize) -> Option<&R> {
        self.rules.get(group)
    }

    /// A group's rule, for changes between steps, for example of its `lr`. The next step checks it.
    /// If the rule then has other states than before, that step fails.
    pub fn rule_mut(&mut self, group: usize) -> Option<&mut R> {
        self.rules.get_mut(group)
    }

    /// The state with this name, such as `m`, of an array of the list. None before its first step,
    /// and if it is not of type `S`.
    pub fn state(&self, array: usize, name: &str) -> Option<ArrayViewD<'_, S>> {
        let (states, i) = self.find(array, name)?;
        states.states.get(i).map(|state| state.view())
    }

    /// The states of an array, and the index of the one with this name.
    fn find(&self, array: usize, name: &str) -> Option<(&States<S>, usize)> {
        let states = self.arrays.as_ref()?.get(array)?;
        let i = states.declared?.iter().position(|state| state.name() == name)?;
        Some((states, i))
    }

    /// The scalars of an array of the list after the steps taken, in the order of
    /// [`Rule::scalars`]. Empty before the first step.
    pub fn scalars(&self, array: usize) -> &[f64] {
        let array = self.arrays.as_deref().and_then(|arrays| arrays.get(array));
        array.and_then(|array| array.scalars.as_deref()).unwrap_or_default()
    }
}

/// States in 8 bits.
impl<R: Rule> ArrayOptimizer<R, Block8> {
    /// Sets the number of elements from which an array has states in 8 bits. Smaller arrays have
    /// states of `f32`: they take little memory, and small arrays such as biases are sensitive. It
    /// counts in the first step. Default: 4096. With 0 all arrays have states in 8 bits.
    ///
    /// ```
    /// use fused_adam_ndarray::fused_adam::{AdamW, Block8};
    /// use fused_adam_ndarray::{ArrayOptimizer, Pair};
    /// use ndarray::{Array1, Array2};
    ///
    /// let (mut w, mut b) = (Array2::<f32>::ones((100, 80)), Array1::<f32>::zeros(80));
    /// let mut opt = ArrayOptimizer::<_, Block8>::new(AdamW::default())?.with_min_8bit_size(1000);
    /// let (w_grad, b_grad) = (&w * 2.0, &b - 1.0);
    /// opt.step_mixed([Pair::new(&mut w, &w_grad), Pair::new(&mut b, &b_grad)])?;
    /// assert!(opt.state(0, "m").is_some_and(|m| m.shape() == [250]));
    /// assert!(opt.f32_state(1, "m").is_some_and(|m| m.shape() == [80]));
    /// # Ok::<(), fused_adam_ndarray::Error>(())
    /// ```
    #[must_use]
    pub fn with_min_8bit_size(self, min_8bit_size: usize) -> Self {
        ArrayOptimizer { min_8bit_size, ..self }
    }

    /// The state with this name of a small array of the list. None before its first step, and if it
    /// is in 8 bits.
    pub fn f32_state(&self, array: usize, name: &str) -> Option<ArrayViewD<'_, f32>> {
        let (states, i) = self.find(array, name)?;
        states.f32_states.get(i).map(|state| state.view())
    }

    /// The states of each small array, in the order of the list; none for the other arrays. To
    /// save the optimizer, call it before [`into_parts`](Self::into_parts), which returns the
    /// states in 8 bits.
    pub fn f32_states(&self) -> Vec<Vec<ArrayD<f32>>> {
        self.arrays.iter().flatten().map(|array| array.f32_states.clone()).collect()
    }

    /// Sets the states of each small array, from [`f32_states`](Self::f32_states), after
    /// [`resume`](Self::resume).
    ///
    /// # Errors
    ///
    /// [`Error::Count`] if the number of arrays is not that of `resume`. Each step checks whether
    /// the states fit.
    pub fn with_f32_states(
        mut self,
        states: impl IntoIterator<Item = Vec<ArrayD<f32>>>,
    ) -> Result<Self, Error> {
        let states: Vec<_> = states.into_iter().collect();
        let arrays = self.arrays.as_deref_mut().unwrap_or_default();
        if states.len() != arrays.len() {
            return Err(Error::Count { given: states.len(), expected: arrays.len() });
        }
        for (array, states) in arrays.iter_mut().zip(states) {
            array.f32_states = states;
        }
        Ok(self)
    }
}

impl<S: StateElement> States<S> {
    /// The states before the first step, in the memory order of θ.
    fn new<R: Rule, T: Element, G>(
        pair: &Pair<'_, T, G>,
        rules: &[R],
        options: &StepOptions,
        min_8bit_size: usize,
    ) -> Result<Self, Error> {
        let (rule, theta) = (find(rules, pair.group)?, &pair.theta);
        rule.check().map_err(|error| match rules.len() {
            1 => error,
            _ => fused_adam::Error::At {
                place: format!("group {}", pair.group),
                error: Box::new(error),
            },
        })?;
        let (mut states, mut f32_states) = (Vec::new(), Vec::new());
        if in_8_bits::<S>() && theta.len() < min_8bit_size {
            let order = order::<T, f32>(theta, options.rounding);
            f32_states = filled(rule, &order, theta.shape())?;
        } else if in_8_bits::<S>() {
            let (_, _, blocks, _) = Flat::<_, S>::new(rule.clone(), theta.len())?.into_parts();
            states = blocks.into_iter().map(|blocks| Array1::from(blocks).into_dyn()).collect();
        } else {
            states = filled(rule, &order::<T, S>(theta, options.rounding), theta.shape())?;
        }
        Ok(States { declared: Some(rule.states()), states, f32_states, scalars: None })
    }

    /// Checks that these are the states of this array and its rule.
    fn check<R: Rule, T, G>(
        &self,
        array: usize,
        pair: &Pair<'_, T, G>,
        rule: &R,
    ) -> Result<(), Error> {
        let names = |states: &[State]| states.iter().map(State::name).collect::<Vec<_>>();
        let (kept, expected) = (self.declared.map(names), names(rule.states()));
        if let Some(kept) = kept.filter(|kept| *kept != expected) {
            return Err(Error::OtherStates { array, kept, expected });
        }
        // A step checks the number of blocks.
        let states = self.states.first().filter(|_| !in_8_bits::<S>()).map(|state| state.shape());
        let kept = states.or_else(|| self.f32_states.first().map(|state| state.shape()));
        match kept {
            Some(kept) if kept != pair.theta.shape() => Err(Error::Shape {
                array,
                buffer: "theta",
                given: pair.theta.shape().to_vec(),
                expected: kept.to_vec(),
            }),
            _ => Ok(()),
        }
    }

    /// The scalars after step `t` of this rule.
    fn scalars_after(&self, t: u64, rule: &impl Rule) -> Vec<f64> {
        let computed = || {
            let each = 0..rule.scalars().len();
            each.map(|i| rule.scalar_after(i, t - 1)).collect()
        };
        // Another rule may have been used before. States that the caller passed are checked in
        // their first step.
        let others =
            |scalars: &Vec<f64>| self.declared.is_some() && scalars.len() != rule.scalars().len();
        let kept = self.scalars.clone().filter(|scalars| !others(scalars));
        let mut scalars = kept.unwrap_or_else(computed);
        rule.advance_scalars(t, &mut scalars);
        scalars
    }
}

/// The states of a rule before the first step, as arrays in this memory order.
fn filled<S: StateElement>(
    rule: &impl Rule,
    order: &Order,
    shape: &[usize],
) -> Result<Vec<ArrayD<S>>, Error> {
    let (_, _, one, _) = Flat::<_, S>::new(rule.clone(), 1)?.into_parts();
    Ok(one.into_iter().map(|value| order.filled(shape, value[0])).collect())
}

fn find<R>(rules: &[R], group: usize) -> Result<&R, fused_adam::Error> {
    rules.get(group).ok_or(fused_adam::Error::UnknownGroup { group, groups: rules.len() })
}
