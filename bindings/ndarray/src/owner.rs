//! The owner of the states of a list of arrays, for those who do not want to keep them themselves.

use fused_adam::{Element, NamedRule, Parameter, Report, StepOptions};
use ndarray::{ArrayD, ArrayRef, ArrayViewD, ArrayViewMutD, Dimension};

use crate::lent::order;
use crate::{Error, Lent, step_all};

/// θ and its gradient, in a step of an [`ArrayOptimizer`].
pub struct Pair<'a, T, G = T> {
    group: usize,
    theta: ArrayViewMutD<'a, T>,
    grad: ArrayViewD<'a, G>,
}

impl<'a, T, G> Pair<'a, T, G> {
    /// Arrays, or views, of one shape. Their rule is that of group 0.
    pub fn new<D: Dimension>(theta: &'a mut ArrayRef<T, D>, grad: &'a ArrayRef<G, D>) -> Self {
        Pair { group: 0, theta: theta.view_mut().into_dyn(), grad: grad.view().into_dyn() }
    }

    /// With the rule of this group: see [`ArrayOptimizer::add_group`].
    #[must_use]
    pub fn group(self, group: usize) -> Self {
        Pair { group, ..self }
    }
}

/// Rules, the states of a list of arrays, and the number of steps taken.
///
/// The states, of type `S`, are made in the first step, one set for each array of the list, and lie in memory as their arrays do; from
/// then on each step takes the same list, in the same order.
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
///     opt.step([Pair::new(&mut w, &w_grad), Pair::new(&mut b, &b_grad).group(biases)])?;
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
    /// What is done to gradients, and how a step runs.
    pub options: StepOptions,
}

/// Those of one array.
#[derive(Clone, Debug)]
struct States<S> {
    /// None if they were handed in and have not been used.
    names: Option<&'static [&'static str]>,
    states: Vec<ArrayD<S>>,
}

impl<R: NamedRule, S: Element> ArrayOptimizer<R, S> {
    /// No states yet, and one group, of this rule.
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

    /// Goes on after step `t` with the states of each array, in the order of the list: what
    /// [`into_parts`](Self::into_parts) gave. Other groups are to be added again.
    ///
    /// # Errors
    ///
    /// [`fused_adam::Error::HyperParameter`]. Whether the states fit is checked on each step.
    pub fn resume(rule: R, t: u64, states: Vec<Vec<ArrayD<S>>>) -> Result<Self, Error> {
        let arrays = states.into_iter().map(|states| States { names: None, states }).collect();
        Ok(ArrayOptimizer { t, arrays: Some(arrays), ..Self::new(rule)? })
    }

    /// The rules, the number of steps taken, and the states of each array.
    pub fn into_parts(self) -> (Vec<R>, u64, Vec<Vec<ArrayD<S>>>) {
        let arrays = self.arrays.into_iter().flatten().map(|array| array.states).collect();
        (self.rules, self.t, arrays)
    }

    /// Another group, whose arrays have this rule. Returns its number; the first is 0.
    ///
    /// # Errors
    ///
    /// [`fused_adam::Error::HyperParameter`].
    pub fn add_group(&mut self, rule: R) -> Result<usize, Error> {
        rule.check()?;
        self.rules.push(rule);
        Ok(self.rules.len() - 1)
    }

    /// Takes the next step on all arrays, in one parallel region: θ and gradients are of the type of
    /// the states.
    ///
    /// With stochastic rounding each array's random bits are drawn from the seed and its number in
    /// the list.
    ///
    /// # Errors
    ///
    /// Those of [`step_all`], [`Error::Count`] and [`Error::OtherStates`]; then neither the states
    /// nor the number of steps has changed.
    pub fn step<'a>(
        &mut self,
        arrays: impl IntoIterator<Item = Pair<'a, S, S>>,
    ) -> Result<Report, Error> {
        self.step_mixed(arrays)
    }

    /// Takes the next step on types that go with that of the states: see [`Parameter`].
    ///
    /// # Errors
    ///
    /// Those of [`step`](Self::step).
    pub fn step_mixed<'a, T: Element + Parameter<G, S>, G: Element>(
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
        let mut lent = Vec::with_capacity(pairs.len());
        for (number, (pair, kept)) in pairs.into_iter().zip(&mut *kept).enumerate() {
            kept.check(number, &pair, &self.rules)?;
            let array = Lent::of(pair.group, t, pair.theta, pair.grad).seed(number as u64);
            lent.push(kept.states.iter_mut().fold(array, |array, state| array.state(state)));
        }
        let report = step_all(&self.rules, &self.options, lent)?;
        for (kept, group) in kept.iter_mut().zip(groups) {
            kept.names = self.rules.get(group).map(R::state_names);
        }
        self.arrays.get_or_insert(new);
        if !report.skipped {
            self.t = t;
        }
        Ok(report)
    }

    /// The number of steps taken; those that were skipped do not count.
    pub fn t(&self) -> u64 {
        self.t
    }

    /// A group's rule.
    pub fn rule(&self, group: usize) -> Option<&R> {
        self.rules.get(group)
    }

    /// A group's rule, to be changed between steps: its `lr`, say. It is checked on the next step, and
    /// if it then keeps other states than before, that step is refused.
    pub fn rule_mut(&mut self, group: usize) -> Option<&mut R> {
        self.rules.get_mut(group)
    }

    /// The state of this name, such as `m`, of an array of the list, if it has one by now.
    pub fn state(&self, array: usize, name: &str) -> Option<ArrayViewD<'_, S>> {
        let States { names, states } = self.arrays.as_ref()?.get(array)?;
        let i = (*names)?.iter().position(|&state| state == name)?;
        states.get(i).map(|state| state.view())
    }
}

impl<S: Element> States<S> {
    /// Those before the first step, which lie as θ does.
    fn new<R: NamedRule, T: Element, G>(
        pair: &Pair<'_, T, G>,
        rules: &[R],
        options: &StepOptions,
    ) -> Result<Self, Error> {
        let rule = find(rules, pair.group)?;
        let (names, order) = (rule.state_names(), order::<T, S>(&pair.theta, options.rounding));
        let state = |i| order.filled(pair.theta.shape(), S::from_f64(rule.initial_state(i)));
        Ok(States { names: Some(names), states: (0..names.len()).map(state).collect() })
    }

    /// That these are the states of this array and its rule.
    fn check<R: NamedRule, T, G>(
        &self,
        array: usize,
        pair: &Pair<'_, T, G>,
        rules: &[R],
    ) -> Result<(), Error> {
        let expected = find(rules, pair.group)?.state_names();
        if let Some(kept) = self.names.filter(|&kept| kept != expected) {
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
}

fn find<R>(rules: &[R], group: usize) -> Result<&R, fused_adam::Error> {
    rules.get(group).ok_or(fused_adam::Error::UnknownGroup { group, groups: rules.len() })
}
