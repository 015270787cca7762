//! An optimizer that stores the states of a list of arrays.

use fused_adam::{Element, Report, Rule, State, StepOptions};
use ndarray::{ArrayD, ArrayRef, ArrayViewD, ArrayViewMutD, Dimension};

use crate::arrays::order;
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
    /// The scalars after the steps taken. None if they follow from the step number.
    scalars: Option<Vec<f64>>,
}

impl<R: Rule, S: Element> ArrayOptimizer<R, S> {
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
        let of = |states| States { declared: None, states, scalars: None };
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
    /// With stochastic rounding, the random bits of an array depend on the seed and its index in
    /// the list.
    ///
    /// # Errors
    ///
    /// Those of [`step_all`], [`Error::Count`] and [`Error::OtherStates`]. After an error neither
    /// the states nor the number of steps has changed.
    pub fn step<'a>(
        &mut self,
        arrays: impl IntoIterator<Item = Pair<'a, S, S>>,
    ) -> Result<Report, Error> {
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
                    new.push(States::new(pair, &self.rules, &self.options)?);
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
            borrowed
                .push(kept.states.iter_mut().fold(array, |array, state| array.with_state(state)));
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

    /// The state with this name, such as `m`, of an array of the list. None before its first step.
    pub fn state(&self, array: usize, name: &str) -> Option<ArrayViewD<'_, S>> {
        let States { declared, states, .. } = self.arrays.as_ref()?.get(array)?;
        let i = (*declared)?.iter().position(|state| state.name() == name)?;
        states.get(i).map(|state| state.view())
    }

    /// The scalars of an array of the list after the steps taken, in the order of
    /// [`Rule::scalars`]. Empty before the first step.
    pub fn scalars(&self, array: usize) -> &[f64] {
        let array = self.arrays.as_deref().and_then(|arrays| arrays.get(array));
        array.and_then(|array| array.scalars.as_deref()).unwrap_or_default()
    }
}

impl<S: Element> States<S> {
    /// The states before the first step, in the memory order of θ.
    fn new<R: Rule, T: Element, G>(
        pair: &Pair<'_, T, G>,
        rules: &[R],
        options: &StepOptions,
    ) -> Result<Self, Error> {
        let rule = find(rules, pair.group)?;
        let (declared, order) = (rule.states(), order::<T, S>(&pair.theta, options.rounding));
        let state =
            |i| order.filled(pair.theta.shape(), S::saturating_from_f64(rule.initial_state(i)));
        let states = (0..declared.len()).map(state).collect();
        Ok(States { declared: Some(declared), states, scalars: None })
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
        match self.states.first() {
            Some(state) if state.shape() != pair.theta.shape() => Err(Error::Shape {
                array,
                buffer: "theta",
                given: pair.theta.shape().to_vec(),
                expected: state.shape().to_vec(),
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

fn find<R>(rules: &[R], group: usize) -> Result<&R, fused_adam::Error> {
    rules.get(group).ok_or(fused_adam::Error::UnknownGroup { group, groups: rules.len() })
}
