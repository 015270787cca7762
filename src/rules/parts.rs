//! The parts that rules share: moving averages, decay, powers of β, and checks of hyper-parameters.
//!
//! All rules of the crate use them, and rules outside the crate may. The reference has its own
//! versions in [`reference`](super::reference), which share no code with these.

use crate::error::Error;
use crate::simd::{Float, Lanes};

/// How θ decays.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Decay {
    None,
    /// An L2 penalty: adds λ·θ to the gradient.
    L2,
    /// Subtracts lr·λ·θ from θ, whatever the gradient.
    Decoupled,
}

/// The first and the last operation of every rule of the crate: the sign of the gradient, and the
/// weight decay.
#[derive(Clone, Copy, Debug)]
pub struct Descent<F> {
    pub(crate) maximize: bool,
    /// 1, or −1 to maximize. The fused kernels multiply g by it, which is exact.
    sign: F,
    pub(crate) decay: Decay,
    /// λ for L2 decay, lr·λ for decoupled decay.
    pub(crate) coefficient: F,
}

impl<F: Float> Descent<F> {
    /// A descent, or an ascent if `maximize`, with the weight decay λ = `weight_decay`. If λ is 0
    /// there is no decay. Otherwise decay subtracts lr·λ·θ from θ if it is `decoupled`, or adds λ·θ
    /// to the gradient (an L2 penalty).
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
        // A learning rate that is too large by itself is not the fault of the decay.
        round_coefficient::<F>(lr, "lr", lr)?;
        Ok(Descent {
            maximize,
            sign: F::from_f64(if maximize { -1.0 } else { 1.0 }),
            decay,
            coefficient: round_coefficient(coefficient, "weight_decay", weight_decay)?,
        })
    }

    /// The gradient of the function to minimize: `grad`, or `−grad` to maximize, plus `λ·θ` for L2
    /// decay.
    #[inline(always)]
    pub fn gradient<L: Lanes<Float = F>>(&self, theta: L, grad: L) -> L {
        let g = grad * self.sign;
        let g = if self.decay == Decay::L2 { g + theta * self.coefficient } else { g };
        g.squarable()
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
/// It is computed with 1 − β where β ≥ ½, and with β otherwise. Of the two numbers, this is the one
/// that is at most ½, and so has the smaller absolute rounding error. No rounded β near 1 is a
/// factor, so the average decays at the right rate.
#[derive(Clone, Copy, Debug)]
pub struct Ema<F> {
    /// `rate` is 1 − β, not β.
    pub(crate) from_one: bool,
    pub(crate) rate: F,
}

impl<F: Float> Ema<F> {
    /// An average with the decay rate β, in [0, 1]. The range is not checked.
    #[inline(always)]
    pub fn new(beta: f64) -> Self {
        let from_one = beta >= 0.5;
        Ema { from_one, rate: F::from_f64(if from_one { 1.0 - beta } else { beta }) }
    }

    /// The new average: β·average + (1−β)·x.
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

/// β^t for two βs, by repeated squaring from the lowest bit of `t` up. The bits of the result are
/// the same on every machine, which the platform's `pow` does not guarantee. Two powers take no
/// longer than one.
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

/// The bias corrections of averages that start at zero: 1 − β^t for each β.
#[inline(always)]
pub fn corrections(betas: [f64; 2], t: u64) -> [f64; 2] {
    powers(betas, t).map(|power| 1.0 - power)
}

/// Checks that `value` is finite and `in_range`.
///
/// # Errors
///
/// [`Error::HyperParameter`] with `name`, `value` and the text `expected`.
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

/// Checks that `value` is finite and at least 0.
///
/// # Errors
///
/// [`Error::HyperParameter`].
#[inline(always)]
pub fn check_at_least_0(name: &'static str, value: f64) -> Result<(), Error> {
    check(name, value, value >= 0.0, "a finite number of at least 0")
}

/// Checks that `value` is in [0, 1).
///
/// # Errors
///
/// [`Error::HyperParameter`].
#[inline(always)]
pub fn check_below_1(name: &'static str, value: f64) -> Result<(), Error> {
    check(name, value, (0.0..1.0).contains(&value), "a number in [0, 1)")
}

/// Checks that `value` is finite and above 0.
///
/// # Errors
///
/// [`Error::HyperParameter`].
#[inline(always)]
pub fn check_above_0(name: &'static str, value: f64) -> Result<(), Error> {
    check(name, value, value > 0.0, "a finite number above 0")
}

/// Checks the hyper-parameters that all rules with two moving averages have: `lr` ≥ 0, β1 and β2 in
/// [0, 1), `eps` > 0 and `weight_decay` ≥ 0.
///
/// # Errors
///
/// [`Error::HyperParameter`] for the first one outside its range.
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

/// Rounds a coefficient to `F`: the only rounding of a coefficient.
///
/// # Errors
///
/// [`Error::HyperParameter`] for the hyper-parameter `name` with the value `value`, if the rounded
/// coefficient is not finite.
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

/// Rounds ε to `F`.
///
/// # Errors
///
/// [`Error::HyperParameter`] if the result is 0 or not finite.
#[inline(always)]
pub fn round_eps<F: Float>(eps: f64) -> Result<F, Error> {
    let rounded: F = round_coefficient(eps, "eps", eps)?;
    check("eps", eps, rounded.to_f64() > 0.0, "above 0 once rounded to the type computed with")?;
    Ok(rounded)
}
