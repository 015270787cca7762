//! Adam and AdamW, each with and without AMSGrad.
//!
//! With `1 - β` and every other coefficient rounded once from f64, one element is stepped by
//!
//! ```text
//! g' = g, or −g to maximize;   then g' + λ·θ for L2 decay λ > 0
//! m' = m + (1−β1)·(g' − m)                when β1 ≥ ½;   g' − β1·(g' − m)       when β1 < ½
//! v' = v + (1−β2)·(g'·g' − v)             when β2 ≥ ½;   g'·g' − β2·(g'·g' − v) when β2 < ½
//! w' = v', or for AMSGrad the larger of v_max and v', kept as the new v_max
//! d  = √w' · (1/√(1−β2^t)) + ε
//! q  = (lr/(1−β1^t))·m' / d;              (lr·λ)·θ + q for decoupled decay λ > 0
//! θ' = θ − q
//! ```
//!
//! one rounding an operation, in this order. It is the textbook's rule with its terms arranged so
//! that no rounded β is multiplied with: `β·m + (1−β)·g` with a β rounded to f32 decays at a
//! rate that is wrong from the eighth digit on, and the error adds up over steps.

use super::{Kernel, Rule, WithKernel, check, powers, round};
use crate::{Element, Error, Lanes};

/// Adam, with decay as an L2 penalty that is folded into the gradient.
///
/// Kingma and Ba, "Adam: A Method for Stochastic Optimization" (2015), algorithm 1; AMSGrad from
/// Reddi, Kale and Kumar, "On the Convergence of Adam and Beyond" (2018), algorithm 2. For decay
/// that the adaptive step size does not scale, see [`AdamW`].
///
/// The states are `m`, the moving average of the gradient, and `v`, that of its square; with
/// `amsgrad` also `v_max`, the largest `v` so far. They start at zero.
///
/// ```
/// use fused_adam::Adam;
///
/// // θ² at θ = 0.5, whose gradient is 2θ = 1: the first step has size lr.
/// let adam = Adam { lr: 0.1, ..Adam::default() };
/// let (mut theta, grad, mut m, mut v) = ([0.5_f32], [1.0], [0.0], [0.0]);
/// adam.step(1, &mut theta, &grad, &mut m, &mut v)?;
/// assert_eq!(theta, [0.4]);
/// # Ok::<(), fused_adam::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// The step size: finite and ≥ 0. Default 1e-3.
    pub lr: f64,
    /// β1, the decay rate of `m`: in [0, 1). Default 0.9.
    pub beta1: f64,
    /// β2, the decay rate of `v`: in [0, 1). Default 0.999.
    pub beta2: f64,
    /// ε, added to the root in the denominator: finite and > 0, also once rounded to the element
    /// type. Default 1e-8.
    pub eps: f64,
    /// λ of the L2 penalty, `g + λ·θ`: finite and ≥ 0. Default 0.
    pub weight_decay: f64,
    /// Divides by the root of the largest `v` so far, not of the present one. Default false.
    pub amsgrad: bool,
    /// Climbs along the gradient, not down. Default false.
    pub maximize: bool,
    /// Makes up for states that start at zero, by `1 − β^t`. Default true.
    pub bias_correction: bool,
}

impl Default for Adam {
    fn default() -> Self {
        Adam {
            lr: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            amsgrad: false,
            maximize: false,
            bias_correction: true,
        }
    }
}

/// Adam with decoupled weight decay: θ shrinks by `lr·λ·θ` a step, however large its gradients.
///
/// Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (2019), algorithm 2, with the
/// schedule multiplier η taken into `lr` as is usual. States and AMSGrad as for [`Adam`].
///
/// ```
/// use fused_adam::AdamW;
///
/// // Without a gradient only the decay is left: θ − lr·λ·θ.
/// let adamw = AdamW { lr: 0.5, weight_decay: 0.5, ..AdamW::default() };
/// let (mut theta, grad, mut m, mut v) = ([8.0_f32], [0.0], [0.0], [0.0]);
/// adamw.step(1, &mut theta, &grad, &mut m, &mut v)?;
/// assert_eq!(theta, [6.0]);
/// # Ok::<(), fused_adam::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// The step size: finite and ≥ 0. Default 1e-3.
    pub lr: f64,
    /// β1, the decay rate of `m`: in [0, 1). Default 0.9.
    pub beta1: f64,
    /// β2, the decay rate of `v`: in [0, 1). Default 0.999.
    pub beta2: f64,
    /// ε, added to the root in the denominator: finite and > 0, also once rounded to the element
    /// type. Default 1e-8.
    pub eps: f64,
    /// λ of the decoupled decay, `θ − lr·λ·θ`: finite and ≥ 0. Default 0.01.
    pub weight_decay: f64,
    /// Divides by the root of the largest `v` so far, not of the present one. Default false.
    pub amsgrad: bool,
    /// Climbs along the gradient, not down. Decay still shrinks θ. Default false.
    pub maximize: bool,
    /// Makes up for states that start at zero, by `1 − β^t`. Default true.
    pub bias_correction: bool,
}

impl Default for AdamW {
    fn default() -> Self {
        AdamW {
            lr: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.01,
            amsgrad: false,
            maximize: false,
            bias_correction: true,
        }
    }
}

impl Rule for Adam {
    fn state_names(&self) -> &'static [&'static str] {
        state_names(self.amsgrad)
    }

    fn check(&self) -> Result<(), Error> {
        self.recipe().check()
    }

    fn with_kernel<E: Element, W: WithKernel<E>>(&self, t: u64, then: W) -> Result<(), Error> {
        self.recipe().with_kernel(t, then)
    }
}

impl Rule for AdamW {
    fn state_names(&self) -> &'static [&'static str] {
        state_names(self.amsgrad)
    }

    fn check(&self) -> Result<(), Error> {
        self.recipe().check()
    }

    fn with_kernel<E: Element, W: WithKernel<E>>(&self, t: u64, then: W) -> Result<(), Error> {
        self.recipe().with_kernel(t, then)
    }
}

fn state_names(amsgrad: bool) -> &'static [&'static str] {
    if amsgrad { &["m", "v", "v_max"] } else { &["m", "v"] }
}

impl Adam {
    #[inline(always)]
    fn recipe(&self) -> Recipe {
        let Adam { lr, beta1, beta2, eps, weight_decay, amsgrad, maximize, bias_correction } =
            *self;
        let decay = Decay::L2;
        Recipe { lr, beta1, beta2, eps, weight_decay, decay, amsgrad, maximize, bias_correction }
    }
}

impl AdamW {
    #[inline(always)]
    fn recipe(&self) -> Recipe {
        let AdamW { lr, beta1, beta2, eps, weight_decay, amsgrad, maximize, bias_correction } =
            *self;
        let decay = Decay::Decoupled;
        Recipe { lr, beta1, beta2, eps, weight_decay, decay, amsgrad, maximize, bias_correction }
    }
}

/// How θ decays.
#[derive(Clone, Copy, PartialEq)]
enum Decay {
    None,
    L2,
    Decoupled,
}

/// What Adam and AdamW have in common: all but the kind of decay.
struct Recipe {
    lr: f64,
    beta1: f64,
    beta2: f64,
    eps: f64,
    weight_decay: f64,
    decay: Decay,
    amsgrad: bool,
    maximize: bool,
    bias_correction: bool,
}

impl Recipe {
    #[inline(always)]
    fn check(&self) -> Result<(), Error> {
        let Recipe { lr, beta1, beta2, eps, weight_decay, .. } = *self;
        check("lr", lr, lr >= 0.0, "a finite number of at least 0")?;
        check("beta1", beta1, (0.0..1.0).contains(&beta1), "a number in [0, 1)")?;
        check("beta2", beta2, (0.0..1.0).contains(&beta2), "a number in [0, 1)")?;
        check("eps", eps, eps > 0.0, "a finite number above 0")?;
        check("weight_decay", weight_decay, weight_decay >= 0.0, "a finite number of at least 0")
    }

    #[inline(always)]
    fn coefficients<E: Element>(&self, t: u64) -> Result<Coefficients<E>, Error> {
        let [correction1, correction2] = if self.bias_correction {
            powers([self.beta1, self.beta2], t).map(|power| 1.0 - power)
        } else {
            [1.0; 2]
        };
        let (decay, decay_coefficient) = match self.decay {
            _ if self.weight_decay == 0.0 => (Decay::None, 0.0),
            Decay::Decoupled => (Decay::Decoupled, self.lr * self.weight_decay),
            decay => (decay, self.weight_decay),
        };
        let eps: E = round(self.eps, "eps", self.eps)?;
        check("eps", self.eps, eps > E::ZERO, "above 0 once rounded to the element type")?;
        Ok(Coefficients {
            maximize: self.maximize,
            sign: E::from_f64(if self.maximize { -1.0 } else { 1.0 }),
            decay,
            decay_coefficient: round(decay_coefficient, "weight_decay", self.weight_decay)?,
            m: Rate::new(self.beta1),
            v: Rate::new(self.beta2),
            root_scale: round(1.0 / correction2.sqrt(), "beta2", self.beta2)?,
            eps,
            step_size: round(self.lr / correction1, "lr", self.lr)?,
        })
    }

    /// Chooses the kernel type by decay, by AMSGrad, and by whether both averages take the form
    /// for β ≥ ½: twelve types, of which every common setting uses six.
    fn with_kernel<E: Element, W: WithKernel<E>>(&self, t: u64, then: W) -> Result<(), Error> {
        const NONE: u8 = Decay::None as u8;
        const L2: u8 = Decay::L2 as u8;
        const DECOUPLED: u8 = Decay::Decoupled as u8;
        let of = self.coefficients(t)?;
        let heavy = of.m.heavy && of.v.heavy;
        match (of.decay, self.amsgrad, heavy) {
            (Decay::None, false, true) => then.with(&Fused::<E, NONE, true> { of }),
            (Decay::None, false, false) => then.with(&Fused::<E, NONE, false> { of }),
            (Decay::None, true, true) => then.with(&Amsgrad(Fused::<E, NONE, true> { of })),
            (Decay::None, true, false) => then.with(&Amsgrad(Fused::<E, NONE, false> { of })),
            (Decay::L2, false, true) => then.with(&Fused::<E, L2, true> { of }),
            (Decay::L2, false, false) => then.with(&Fused::<E, L2, false> { of }),
            (Decay::L2, true, true) => then.with(&Amsgrad(Fused::<E, L2, true> { of })),
            (Decay::L2, true, false) => then.with(&Amsgrad(Fused::<E, L2, false> { of })),
            (Decay::Decoupled, false, true) => then.with(&Fused::<E, DECOUPLED, true> { of }),
            (Decay::Decoupled, false, false) => then.with(&Fused::<E, DECOUPLED, false> { of }),
            (Decay::Decoupled, true, true) => {
                then.with(&Amsgrad(Fused::<E, DECOUPLED, true> { of }))
            }
            (Decay::Decoupled, true, false) => {
                then.with(&Amsgrad(Fused::<E, DECOUPLED, false> { of }))
            }
        }
    }
}

/// How fast a moving average follows. `heavy` is β ≥ ½, and `rate` then 1 − β, else β: of the two
/// numbers the one at most ½, which is the one that rounding hurts least.
#[derive(Clone, Copy)]
struct Rate<E> {
    heavy: bool,
    rate: E,
}

impl<E: Element> Rate<E> {
    fn new(beta: f64) -> Self {
        let heavy = beta >= 0.5;
        Rate { heavy, rate: E::from_f64(if heavy { 1.0 - beta } else { beta }) }
    }
}

/// The coefficients of one step, computed in f64 and rounded once.
#[derive(Clone, Copy)]
struct Coefficients<E> {
    maximize: bool,
    /// 1, or −1 to maximize: what the fused kernel multiplies g with, exactly.
    sign: E,
    decay: Decay,
    /// λ for L2 decay, lr·λ for decoupled decay.
    decay_coefficient: E,
    m: Rate<E>,
    v: Rate<E>,
    /// 1/√(1−β2^t).
    root_scale: E,
    eps: E,
    /// lr/(1−β1^t).
    step_size: E,
}

/// The kernel with states m and v. `DECAY` is a [`Decay`]; `HEAVY` says that β1 and β2 are both at
/// least ½, as they nearly always are, and saves the loop the other form.
#[derive(Clone, Copy)]
struct Fused<E, const DECAY: u8, const HEAVY: bool> {
    of: Coefficients<E>,
}

/// The kernel with states m, v and v_max.
#[derive(Clone, Copy)]
struct Amsgrad<K>(K);

impl<E: Element, const DECAY: u8, const HEAVY: bool> Fused<E, DECAY, HEAVY> {
    /// `average` moved towards `x`.
    #[inline(always)]
    fn follow<L: Lanes<Element = E>>(average: L, x: L, by: Rate<E>) -> L {
        if HEAVY || by.heavy {
            average + (x - average) * by.rate
        } else {
            x - (x - average) * by.rate
        }
    }

    /// The new m and v.
    #[inline(always)]
    fn moments<L: Lanes<Element = E>>(&self, theta: L, grad: L, m: L, v: L) -> (L, L) {
        let mut g = grad * self.of.sign;
        if DECAY == Decay::L2 as u8 {
            g = g + theta * self.of.decay_coefficient;
        }
        (Self::follow(m, g, self.of.m), Self::follow(v, g * g, self.of.v))
    }

    /// The new θ, from the new m and the second moment to divide by.
    #[inline(always)]
    fn descend<L: Lanes<Element = E>>(&self, theta: L, m: L, v: L) -> L {
        let d = v.sqrt() * self.of.root_scale + self.of.eps;
        let mut q = m * self.of.step_size / d;
        if DECAY == Decay::Decoupled as u8 {
            q = theta * self.of.decay_coefficient + q;
        }
        theta - q
    }
}

impl<E: Element, const DECAY: u8, const HEAVY: bool> Kernel<E, 2> for Fused<E, DECAY, HEAVY> {
    #[inline(always)]
    fn update<L: Lanes<Element = E>>(&self, theta: L, grad: L, [m, v]: [L; 2]) -> (L, [L; 2]) {
        let (m, v) = self.moments(theta, grad, m, v);
        (self.descend(theta, m, v), [m, v])
    }

    fn reference(&self, theta: E, grad: E, [m, v]: [E; 2]) -> (E, [E; 2]) {
        let (theta, m, v, _) = reference(&self.of, theta, grad, m, v, None);
        (theta, [m, v])
    }
}

impl<E: Element, const DECAY: u8, const HEAVY: bool> Kernel<E, 3>
    for Amsgrad<Fused<E, DECAY, HEAVY>>
{
    #[inline(always)]
    fn update<L: Lanes<Element = E>>(
        &self,
        theta: L,
        grad: L,
        [m, v, v_max]: [L; 3],
    ) -> (L, [L; 3]) {
        let (m, v) = self.0.moments(theta, grad, m, v);
        let v_max = v_max.larger(v);
        (self.0.descend(theta, m, v_max), [m, v, v_max])
    }

    fn reference(&self, theta: E, grad: E, [m, v, v_max]: [E; 3]) -> (E, [E; 3]) {
        let (theta, m, v, v_max) = reference(&self.0.of, theta, grad, m, v, Some(v_max));
        (theta, [m, v, v_max])
    }
}

/// The rule written out for one element, with nothing of the code above but the coefficients: from
/// the old θ, m, v and (for AMSGrad) v_max to the new ones, the last being the new v without AMSGrad.
#[inline(always)]
fn reference<E: Element>(
    of: &Coefficients<E>,
    theta: E,
    grad: E,
    m: E,
    v: E,
    v_max: Option<E>,
) -> (E, E, E, E) {
    let mut g = if of.maximize { -grad } else { grad };
    if of.decay == Decay::L2 {
        g = g + of.decay_coefficient * theta;
    }

    let m = if of.m.heavy { m + of.m.rate * (g - m) } else { g - of.m.rate * (g - m) };

    let square = g * g;
    let v =
        if of.v.heavy { v + of.v.rate * (square - v) } else { square - of.v.rate * (square - v) };

    let second_moment = match v_max {
        Some(v_max) if v_max > v => v_max,
        _ => v,
    };

    let d = second_moment.sqrt() * of.root_scale + of.eps;
    let adaptive = of.step_size * m / d;
    let theta = match of.decay {
        Decay::Decoupled => theta - (of.decay_coefficient * theta + adaptive),
        Decay::None | Decay::L2 => theta - adaptive,
    };
    (theta, m, v, second_moment)
}
