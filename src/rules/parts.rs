//! What rules are made of: moving averages, decay, powers of β, and checks of hyper-parameters.
//!
//! Each of the crate's rules is written with these, and a rule from outside may be. The same lines
//! for the reference are in [`reference`](super::reference), with nothing of the code here.

use crate::error::Error;
use crate::simd::{Float, Lanes};

/// How θ decays.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Decay {
    None,
    /// As an L2 penalty that is added to the gradient.
    L2,
    /// By lr·λ·θ, whatever the gradient.
    Decoupled,
}

/// The first and the last line of every rule of the crate: which way it goes, and how θ decays.
#[derive(Clone, Copy, Debug)]
pub struct Descent<F> {
    pub(crate) maximize: bool,
    /// 1, or −1 to maximize: what the fused kernels multiply g with, exactly.
    sign: F,
    pub(crate) decay: Decay,
    /// λ for L2 decay, lr·λ for decoupled decay.
    pub(crate) coefficient: F,
}

impl<F: Float> Descent<F> {
    /// Decay by `weight_decay` (λ): none for 0, else lr·λ·θ if it is `decoupled`, else an L2
    /// penalty, `g + λ·θ`.
    ///
    /// # Errors
    ///
    /// [`Error::HyperParameter`] if the coefficient is not finite in `F`.
    #[inline(always)]
    pub fn new(maximize: bool, lr: f64, weight_decay: f64, decoupled: bool) -> Result<Self, Error> {
        let (decay, coefficient) = match (weight_decay == 0.0, decoupled) {
            (true, _) => (Decay::None, 0.0),
            (false, true) => (Decay::Decoupled, lr * weight_decay),
            (false, false) => (Decay::L2, weight_decay),
        };
        Ok(Descent {
            maximize,
            sign: F::from_f64(if maximize { -1.0 } else { 1.0 }),
            decay,
            coefficient: round_coefficient(coefficient, "weight_decay", weight_decay)?,
        })
    }

    /// The gradient of what is minimized: `grad`, or `−grad` to maximize; then `+ λ·θ` for L2
    /// decay.
    #[inline(always)]
    pub fn gradient<L: Lanes<Float = F>>(&self, theta: L, grad: L) -> L {
        let g = grad * self.sign;
        if self.decay == Decay::L2 { g + theta * self.coefficient } else { g }
    }

    /// The new θ: `θ − q`, or `θ − ((lr·λ)·θ + q)` for decoupled decay.
    #[inline(always)]
    pub fn descend<L: Lanes<Float = F>>(&self, theta: L, q: L) -> L {
        if self.decay == Decay::Decoupled {
            theta - (theta * self.coefficient + q)
        } else {
            theta - q
        }
    }
}

/// An exponential moving average with a decay rate β.
///
/// It is computed with 1 − β where β ≥ ½, and with β below: of the two numbers the one that is at
/// most ½, which is the one that rounding hurts least. No rounded β near 1 is multiplied with, so
/// the average decays at the right rate.
#[derive(Clone, Copy, Debug)]
pub struct Ema<F> {
    /// `rate` is 1 − β, not β.
    pub(crate) from_one: bool,
    pub(crate) rate: F,
}

impl<F: Float> Ema<F> {
    /// With the decay rate β, in [0, 1].
    #[inline(always)]
    pub fn new(beta: f64) -> Self {
        let from_one = beta >= 0.5;
        Ema { from_one, rate: F::from_f64(if from_one { 1.0 - beta } else { beta }) }
    }

    /// `average` moved towards `x`: β·average + (1−β)·x.
    ///
    /// β ≥ ½: `average + (1−β)·(x − average)`; β < ½: `x − β·(x − average)`.
    #[inline(always)]
    pub fn average<L: Lanes<Float = F>>(self, average: L, x: L) -> L {
        if self.from_one {
            average + (x - average) * self.rate
        } else {
            x - (x - average) * self.rate
        }
    }

    /// β·sum + x.
    ///
    /// β ≥ ½: `sum + (x − (1−β)·sum)`; β < ½: `β·sum + x`.
    #[inline(always)]
    pub fn accumulate<L: Lanes<Float = F>>(self, sum: L, x: L) -> L {
        if self.from_one { sum + (x - sum * self.rate) } else { sum * self.rate + x }
    }

    /// β·x.
    ///
    /// β ≥ ½: `x − (1−β)·x`; β < ½: `β·x`.
    #[inline(always)]
    pub fn shrink<L: Lanes<Float = F>>(self, x: L) -> L {
        if self.from_one { x - x * self.rate } else { x * self.rate }
    }
}

/// β^t for two βs, by repeated squaring, the bits of `t` taken from the lowest up: the same bits on
/// every machine, which the platform's `pow` does not promise. Two at once take no longer than one.
#[inline]
pub fn powers(betas: [f64; 2], mut t: u64) -> [f64; 2] {
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
pub fn corrections(betas: [f64; 2], t: u64) -> [f64; 2] {
    powers(betas, t).map(|power| 1.0 - power)
}

/// `value`, if it is finite and `in_range`; else the error that names it.
#[inline(always)]
pub fn check(
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

/// `value`, if it is finite and at least 0; else the error that names it.
#[inline(always)]
pub fn check_at_least_0(name: &'static str, value: f64) -> Result<(), Error> {
    check(name, value, value >= 0.0, "a finite number of at least 0")
}

/// `value`, if it is in [0, 1); else the error that names it.
#[inline(always)]
pub fn check_below_1(name: &'static str, value: f64) -> Result<(), Error> {
    check(name, value, (0.0..1.0).contains(&value), "a number in [0, 1)")
}

/// `value`, if it is finite and above 0; else the error that names it.
#[inline(always)]
pub fn check_above_0(name: &'static str, value: f64) -> Result<(), Error> {
    check(name, value, value > 0.0, "a finite number above 0")
}

/// The hyper-parameters that all rules of two moving averages have.
#[inline(always)]
pub fn check_averages(
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
pub fn round_coefficient<F: Float>(
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
pub fn round_eps<F: Float>(eps: f64) -> Result<F, Error> {
    let rounded: F = round_coefficient(eps, "eps", eps)?;
    check("eps", eps, rounded.to_f64() > 0.0, "above 0 once rounded to the element type")?;
    Ok(rounded)
}
