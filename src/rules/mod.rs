//! The rule axis: what happens to one element.
//!
//! A [`Rule`] holds hyper-parameters in `f64`. For a step it checks them, computes that step's
//! coefficients in `f64`, rounds each once, and hands over a [`Kernel`]: the arithmetic of one
//! element, twice. Once fused, over [`Lanes`], for the SIMD backends; once written out by hand as
//! the reference, for the scalar backend and for the tests that compare the two. Each rule is one
//! file. What they share is here: checks, the averages ([`Rate`]), and the first and last lines of
//! all of them ([`Ends`]); [`by_hand`] has the same for the references.

mod adabelief;
mod adabound;
mod adagrad;
mod adam;
mod adamax;
mod any;
mod lion;
mod moments;
mod nadam;
mod radam;
mod rmsprop;
mod sgd;

pub use adabelief::AdaBelief;
pub use adabound::AdaBound;
pub use adagrad::AdaGrad;
pub use adam::{Adam, AdamW};
pub use adamax::AdaMax;
pub use any::AnyRule;
pub use lion::Lion;
pub use nadam::NAdam;
pub use radam::RAdam;
pub use rmsprop::RmsProp;
pub use sgd::Sgd;

use crate::{Error, Float, Lanes};

/// A rule of optimization with its hyper-parameters, such as [`Adam`].
///
/// The trait is open: a new rule is one type that implements it, and its [`Kernel`]s.
pub trait Rule {
    /// The names of the state buffers that the rule keeps with these options, in the order in
    /// which they are handed in. Each is as long as `theta`.
    fn state_names(&self) -> &'static [&'static str];

    /// What the elements of state number `state` are before the first step. Zero, unless the rule
    /// says otherwise.
    fn initial_state(&self, state: usize) -> f64 {
        let _ = state;
        0.0
    }

    /// Checks every hyper-parameter. [`Step::run`](crate::Step::run) calls it before anything else.
    ///
    /// # Errors
    ///
    /// [`Error::HyperParameter`] for the first one outside its range.
    fn check(&self) -> Result<(), Error>;

    /// Computes the coefficients of step `t` ≥ 1 from hyper-parameters that [`check`](Self::check)
    /// has passed, and lets `then` have the kernel.
    ///
    /// To call `then` exactly once is the last thing that it does, and its result is the result:
    /// what comes after would come after the step.
    ///
    /// # Errors
    ///
    /// A hyper-parameter that is in its range, but leads to a coefficient that `F` cannot hold; and
    /// those of `then`.
    fn with_kernel<F: Float, W: WithKernel<F>>(&self, t: u64, then: W) -> Result<(), Error>;
}

/// What is done with the kernel that a rule has chosen. The crate implements it.
pub trait WithKernel<F: Float> {
    /// Goes on with a kernel of `N` states.
    ///
    /// # Errors
    ///
    /// Those of the step that is under way.
    fn with<K: Kernel<F, N>, const N: usize>(self, kernel: &K) -> Result<(), Error>;
}

/// The arithmetic of one element in one step, with its coefficients, for a rule with `N` states.
///
/// [`update`](Self::update) and [`reference`](Self::reference) must give the same bits.
pub trait Kernel<F: Float, const N: usize>: Copy + Send + Sync {
    /// Returns the new θ and the new states. To be marked `#[inline(always)]`.
    ///
    /// A branch on a coefficient is fine: it goes the same way for the whole step, and is taken
    /// once for some dozens of elements. There are none on elements.
    fn update<L: Lanes<Float = F>>(&self, theta: L, grad: L, state: [L; N]) -> (L, [L; N]);

    /// The same for one element, in plain arithmetic.
    fn reference(&self, theta: F, grad: F, state: [F; N]) -> (F, [F; N]);
}

/// How θ decays.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Decay {
    None,
    /// As an L2 penalty that is folded into the gradient.
    L2,
    /// By lr·λ·θ, whatever the gradient.
    Decoupled,
}

/// What all rules begin and end with: which way they go, and how θ decays.
#[derive(Clone, Copy)]
pub(crate) struct Ends<F> {
    pub maximize: bool,
    /// 1, or −1 to maximize: what the fused kernels multiply g with, exactly.
    sign: F,
    pub decay: Decay,
    /// λ for L2 decay, lr·λ for decoupled decay.
    pub decay_coefficient: F,
}

impl<F: Float> Ends<F> {
    #[inline(always)]
    pub fn new(maximize: bool, lr: f64, weight_decay: f64, decoupled: bool) -> Result<Self, Error> {
        let (decay, coefficient) = match (weight_decay == 0.0, decoupled) {
            (true, _) => (Decay::None, 0.0),
            (false, true) => (Decay::Decoupled, lr * weight_decay),
            (false, false) => (Decay::L2, weight_decay),
        };
        Ok(Ends {
            maximize,
            sign: F::from_f64(if maximize { -1.0 } else { 1.0 }),
            decay,
            decay_coefficient: round(coefficient, "weight_decay", weight_decay)?,
        })
    }

    /// The gradient of what is minimized.
    #[inline(always)]
    pub fn gradient<L: Lanes<Float = F>>(&self, theta: L, grad: L) -> L {
        let g = grad * self.sign;
        if self.decay == Decay::L2 { g + theta * self.decay_coefficient } else { g }
    }

    /// The new θ: the old one less `q` and what decays.
    #[inline(always)]
    pub fn descend<L: Lanes<Float = F>>(&self, theta: L, q: L) -> L {
        if self.decay == Decay::Decoupled {
            theta - (theta * self.decay_coefficient + q)
        } else {
            theta - q
        }
    }
}

/// How fast a moving average follows. `heavy` is β ≥ ½, and `rate` then 1 − β, else β: of the two
/// numbers the one at most ½, which is the one that rounding hurts least.
#[derive(Clone, Copy)]
pub(crate) struct Rate<F> {
    pub heavy: bool,
    pub rate: F,
}

impl<F: Float> Rate<F> {
    #[inline(always)]
    pub fn new(beta: f64) -> Self {
        let heavy = beta >= 0.5;
        Rate { heavy, rate: F::from_f64(if heavy { 1.0 - beta } else { beta }) }
    }

    /// `average` moved towards `x`: β·average + (1−β)·x.
    #[inline(always)]
    pub fn average<L: Lanes<Float = F>>(self, average: L, x: L) -> L {
        if self.heavy { average + (x - average) * self.rate } else { x - (x - average) * self.rate }
    }

    /// What is left of `sum`, and `x`: β·sum + x.
    #[inline(always)]
    pub fn accumulate<L: Lanes<Float = F>>(self, sum: L, x: L) -> L {
        if self.heavy { sum + (x - sum * self.rate) } else { sum * self.rate + x }
    }

    /// What is left of `x`: β·x.
    #[inline(always)]
    pub fn shrink<L: Lanes<Float = F>>(self, x: L) -> L {
        if self.heavy { x - x * self.rate } else { x * self.rate }
    }
}

/// The same lines for the references, in plain arithmetic on one element, with nothing of the code
/// above.
pub(crate) mod by_hand {
    use super::{Decay, Ends, Float, Rate};

    #[inline(always)]
    pub fn gradient<F: Float>(of: &Ends<F>, theta: F, grad: F) -> F {
        let g = if of.maximize { -grad } else { grad };
        match of.decay {
            Decay::L2 => g + of.decay_coefficient * theta,
            Decay::None | Decay::Decoupled => g,
        }
    }

    #[inline(always)]
    pub fn descend<F: Float>(of: &Ends<F>, theta: F, q: F) -> F {
        match of.decay {
            Decay::Decoupled => theta - (of.decay_coefficient * theta + q),
            Decay::None | Decay::L2 => theta - q,
        }
    }

    #[inline(always)]
    pub fn average<F: Float>(of: Rate<F>, average: F, x: F) -> F {
        if of.heavy { average + of.rate * (x - average) } else { x - of.rate * (x - average) }
    }

    #[inline(always)]
    pub fn accumulate<F: Float>(of: Rate<F>, sum: F, x: F) -> F {
        if of.heavy { sum + (x - of.rate * sum) } else { of.rate * sum + x }
    }

    #[inline(always)]
    pub fn shrink<F: Float>(of: Rate<F>, x: F) -> F {
        if of.heavy { x - of.rate * x } else { of.rate * x }
    }
}

/// β^t for two βs, by repeated squaring, the bits of `t` taken from the lowest up: the same bits on
/// every machine, which the platform's `pow` does not promise. Two at once take no longer than one.
#[inline]
pub(crate) fn powers(betas: [f64; 2], mut t: u64) -> [f64; 2] {
    let (mut squares, mut products) = (betas, [1.0; 2]);
    while t > 0 {
        for (square, product) in squares.iter_mut().zip(&mut products) {
            *product *= if t & 1 == 1 { *square } else { 1.0 };
            *square *= *square;
        }
        t >>= 1;
    }
    products
}

/// What makes up for averages that start at zero: 1 − β^t for each β.
#[inline(always)]
pub(crate) fn corrections(betas: [f64; 2], t: u64) -> [f64; 2] {
    powers(betas, t).map(|power| 1.0 - power)
}

/// `value`, if it is finite and `in_range`; else the error that names it.
#[inline(always)]
pub(crate) fn check(
    name: &'static str,
    value: f64,
    in_range: bool,
    expected: &'static str,
) -> Result<(), Error> {
    #[cold]
    fn refuse(name: &'static str, value: f64, expected: &'static str) -> Error {
        Error::HyperParameter { name, value, expected }
    }
    if value.is_finite() && in_range { Ok(()) } else { Err(refuse(name, value, expected)) }
}

#[inline(always)]
pub(crate) fn check_at_least_0(name: &'static str, value: f64) -> Result<(), Error> {
    check(name, value, value >= 0.0, "a finite number of at least 0")
}

#[inline(always)]
pub(crate) fn check_below_1(name: &'static str, value: f64) -> Result<(), Error> {
    check(name, value, (0.0..1.0).contains(&value), "a number in [0, 1)")
}

#[inline(always)]
pub(crate) fn check_above_0(name: &'static str, value: f64) -> Result<(), Error> {
    check(name, value, value > 0.0, "a finite number above 0")
}

/// The hyper-parameters that all rules of two moving averages have.
#[inline(always)]
pub(crate) fn check_averages(
    lr: f64,
    [beta1, beta2]: [f64; 2],
    eps: f64,
    weight_decay: f64,
) -> Result<(), Error> {
    check_at_least_0("lr", lr)?;
    check_below_1("beta1", beta1)?;
    check_below_1("beta2", beta2)?;
    check_above_0("eps", eps)?;
    check_at_least_0("weight_decay", weight_decay)
}

/// The one rounding of a coefficient. Refused if the hyper-parameter `name`, whose value is
/// `value`, makes it too large for the element type.
#[inline(always)]
pub(crate) fn round<F: Float>(
    coefficient: f64,
    name: &'static str,
    value: f64,
) -> Result<F, Error> {
    let rounded = F::from_f64(coefficient);
    let expected = "a value whose coefficient is finite in the element type";
    check(name, value, rounded.to_f64().is_finite(), expected).map(|()| rounded)
}

/// ε in the element type, where it must not vanish.
#[inline(always)]
pub(crate) fn round_eps<F: Float>(eps: f64) -> Result<F, Error> {
    let rounded: F = round(eps, "eps", eps)?;
    check("eps", eps, rounded.to_f64() > 0.0, "above 0 once rounded to the element type")?;
    Ok(rounded)
}
