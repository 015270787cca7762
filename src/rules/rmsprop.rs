//! RMSProp: the gradient divided by the square root of a moving average of its squares.
//!
//! ```text
//! g' = g, or −g to maximize;   then g' + λ·θ for L2 decay λ > 0
//! v' = v + (1−α)·(y − v)                  when α ≥ ½;   y − α·(y − v)           when α < ½
//!      where y = g'·g', or if centered y = α·((g'−m)·(g'−m))
//! m' = m + (1−α)·(g' − m)                 when α ≥ ½;   g' − α·(g' − m)         when α < ½
//!      only if centered
//! d  = √v' + ε, or if eps_inside √(v' + ε)
//! q  = (lr·g') / d
//! θ' = θ − q
//! ```
//!
//! With momentum μ, q = lr·b' instead, where x = g'/d, and b' = b + (x − (1−μ)·b) when μ ≥ ½ or b'
//! = μ·b + x when μ < ½.
//!
//! The centered v is the variance itself. It follows the joint recurrence of a mean and a variance,
//! v' = α·(v + (1−α)·(g'−m)²). The textbook's form stores the mean square and subtracts the squared
//! mean. That loses digits where the gradient hardly varies, and can give a negative number.

use super::parts::{
    Descent, Ema, check, check_above_0, check_at_least_0, round_coefficient, round_eps,
};
use super::state::{M, V};
use super::{Kernel, KernelVisitor, Rule, State, reference};
use crate::error::Error;
use crate::simd::{Float, Lanes};

/// RMSProp.
///
/// Tieleman and Hinton, "Lecture 6.5-rmsprop: Divide the gradient by a running average of its
/// recent magnitude" (2012). The centered form and the form with momentum are those of Graves,
/// "Generating Sequences With Recurrent Neural Networks" (2013). The defaults are those of
/// `torch.optim.RMSprop`.
///
/// The states, all of which start at zero, are, in this order:
///
/// - `v`, the moving average of the squared gradient; if `centered`, the moving variance;
/// - `m`, the moving average of the gradient, if `centered`;
/// - `b`, the momentum buffer, if `momentum` is above 0.
///
/// ```
/// use fused_adam::{Flat, RmsProp};
///
/// let mut opt = Flat::new(RmsProp { lr: 0.5, alpha: 0.75, ..RmsProp::default() }, 1)?;
/// let mut theta = [1.0_f32];
/// opt.step(&mut theta, &[4.0])?; // v = 0.25·16, d = 2
/// assert_eq!(theta, [1.0 - 0.5 * 4.0 / 2.0]);
/// # Ok::<(), fused_adam::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct RmsProp {
    /// The learning rate: finite and ≥ 0. Default 1e-2.
    pub lr: f64,
    /// α, the decay rate of `v` and `m`: in [0, 1). Default 0.99.
    pub alpha: f64,
    /// ε, added in the denominator. It must be finite and > 0, and still > 0 once rounded to the
    /// compute type (`f64` for `f64` buffers, otherwise `f32`). Default 1e-8.
    pub eps: f64,
    /// If true, adds ε to `v`, under the square root. If false, adds ε to the square root. Default
    /// false.
    pub eps_inside: bool,
    /// λ, the weight decay, an L2 penalty: adds λ·θ to the gradient. Finite and ≥ 0. Default 0.
    pub weight_decay: f64,
    /// μ, the momentum, the share of the buffer `b` that each step keeps: in [0, 1]. Default 0: no
    /// momentum buffer.
    pub momentum: f64,
    /// If true, divides by the standard deviation of the gradient instead of its root mean square.
    /// Default false.
    pub centered: bool,
    /// If true, maximizes the objective: the rule uses −g in place of g. Default false.
    pub maximize: bool,
}

impl Default for RmsProp {
    fn default() -> Self {
        RmsProp {
            lr: 1e-2,
            alpha: 0.99,
            eps: 1e-8,
            eps_inside: false,
            weight_decay: 0.0,
            momentum: 0.0,
            centered: false,
            maximize: false,
        }
    }
}

impl Rule for RmsProp {
    fn name(&self) -> &'static str {
        "rmsprop"
    }

    fn lr(&self) -> f64 {
        self.lr
    }

    fn set_lr(&mut self, lr: f64) {
        self.lr = lr;
    }

    fn states(&self) -> &'static [State] {
        const B: State = State::signed("b");
        match (self.centered, self.momentum == 0.0) {
            (false, true) => &[V],
            (false, false) => &[V, B],
            (true, true) => &[V, M],
            (true, false) => &[V, M, B],
        }
    }

    fn check(&self) -> Result<(), Error> {
        check_at_least_0("lr", self.lr)?;
        check("alpha", self.alpha, (0.0..1.0).contains(&self.alpha), "a number in [0, 1)")?;
        check_above_0("eps", self.eps)?;
        check_at_least_0("weight_decay", self.weight_decay)?;
        let momentum = self.momentum;
        check("momentum", momentum, (0.0..=1.0).contains(&momentum), "a number in [0, 1]")
    }

    fn visit_kernel<F: Float, W: KernelVisitor<F>>(
        &self,
        _: u64,
        _: &[f64],
        visitor: W,
    ) -> Result<(), Error> {
        let of = Coefficients {
            descent: Descent::new(self.maximize, self.lr, self.weight_decay, false)?,
            rate: Ema::new(self.alpha),
            alpha: F::from_f64(self.alpha),
            eps: round_eps(self.eps)?,
            eps_inside: self.eps_inside,
            lr: round_coefficient(self.lr, "lr", self.lr)?,
            momentum: Ema::new(self.momentum),
        };
        match (self.centered, self.momentum == 0.0) {
            (false, true) => visitor.visit(&Raw(of)),
            (false, false) => visitor.visit(&RawMomentum(of)),
            (true, true) => visitor.visit(&Centered(of)),
            (true, false) => visitor.visit(&CenteredMomentum(of)),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Coefficients<F> {
    descent: Descent<F>,
    rate: Ema<F>,
    alpha: F,
    eps: F,
    eps_inside: bool,
    lr: F,
    momentum: Ema<F>,
}

impl<F: Float> Coefficients<F> {
    /// The new mean square.
    #[inline(always)]
    fn mean_square<L: Lanes<Float = F>>(&self, v: L, g: L) -> L {
        self.rate.average(v, g * g)
    }

    /// The new variance and mean.
    #[inline(always)]
    fn variance<L: Lanes<Float = F>>(&self, v: L, m: L, g: L) -> (L, L) {
        let off = g - m;
        (self.rate.average(v, off * off * self.alpha), self.rate.average(m, g))
    }

    #[inline(always)]
    fn denominator<L: Lanes<Float = F>>(&self, v: L) -> L {
        if self.eps_inside { (v + self.eps).sqrt() } else { v.sqrt() + self.eps }
    }

    /// The new θ.
    #[inline(always)]
    fn descend<L: Lanes<Float = F>>(&self, theta: L, g: L, v: L) -> L {
        self.descent.descend(theta, g * self.lr / self.denominator(v))
    }

    /// The new θ and the new buffer.
    #[inline(always)]
    fn descend_by<L: Lanes<Float = F>>(&self, theta: L, g: L, v: L, b: L) -> (L, L) {
        let b = self.momentum.accumulate(b, g / self.denominator(v));
        (self.descent.descend(theta, b * self.lr), b)
    }

    /// The whole rule, written out for one element.
    #[inline(always)]
    fn reference(&self, theta: F, grad: F, v: F, m: Option<F>, b: Option<F>) -> (F, F, F, F) {
        let zero = F::from_f64(0.0);
        let g = reference::gradient(&self.descent, theta, grad);
        let (v, m) = match m {
            None => (reference::average(self.rate, v, g * g), zero),
            Some(m) => {
                let square = self.alpha * ((g - m) * (g - m));
                (reference::average(self.rate, v, square), reference::average(self.rate, m, g))
            }
        };
        let d = if self.eps_inside { (v + self.eps).sqrt() } else { v.sqrt() + self.eps };
        let (q, b) = match b {
            None => (self.lr * g / d, zero),
            Some(b) => {
                let b = reference::accumulate(self.momentum, b, g / d);
                (self.lr * b, b)
            }
        };
        (reference::descend(&self.descent, theta, q), v, m, b)
    }
}

/// The kernel with state v.
#[derive(Clone, Copy, Debug)]
struct Raw<F>(Coefficients<F>);

impl<F: Float> Kernel<F, 1> for Raw<F> {
    const HAND_WRITTEN: bool = true;

    #[inline(always)]
    fn update<L: Lanes<Float = F>>(&self, theta: L, grad: L, [v]: [L; 1]) -> (L, [L; 1]) {
        let g = self.0.descent.gradient(theta, grad);
        let v = self.0.mean_square(v, g);
        (self.0.descend(theta, g, v), [v])
    }

    fn reference(&self, theta: F, grad: F, [v]: [F; 1]) -> (F, [F; 1]) {
        let (theta, v, _, _) = self.0.reference(theta, grad, v, None, None);
        (theta, [v])
    }
}

/// The kernel with states v and b.
#[derive(Clone, Copy, Debug)]
struct RawMomentum<F>(Coefficients<F>);

impl<F: Float> Kernel<F, 2> for RawMomentum<F> {
    const HAND_WRITTEN: bool = true;

    #[inline(always)]
    fn update<L: Lanes<Float = F>>(&self, theta: L, grad: L, [v, b]: [L; 2]) -> (L, [L; 2]) {
        let g = self.0.descent.gradient(theta, grad);
        let v = self.0.mean_square(v, g);
        let (theta, b) = self.0.descend_by(theta, g, v, b);
        (theta, [v, b])
    }

    fn reference(&self, theta: F, grad: F, [v, b]: [F; 2]) -> (F, [F; 2]) {
        let (theta, v, _, b) = self.0.reference(theta, grad, v, None, Some(b));
        (theta, [v, b])
    }
}

/// The kernel with states v and m.
#[derive(Clone, Copy, Debug)]
struct Centered<F>(Coefficients<F>);

impl<F: Float> Kernel<F, 2> for Centered<F> {
    const HAND_WRITTEN: bool = true;

    #[inline(always)]
    fn update<L: Lanes<Float = F>>(&self, theta: L, grad: L, [v, m]: [L; 2]) -> (L, [L; 2]) {
        let g = self.0.descent.gradient(theta, grad);
        let (v, m) = self.0.variance(v, m, g);
        (self.0.descend(theta, g, v), [v, m])
    }

    fn reference(&self, theta: F, grad: F, [v, m]: [F; 2]) -> (F, [F; 2]) {
        let (theta, v, m, _) = self.0.reference(theta, grad, v, Some(m), None);
        (theta, [v, m])
    }
}

/// The kernel with states v, m and b.
#[derive(Clone, Copy, Debug)]
struct CenteredMomentum<F>(Coefficients<F>);

impl<F: Float> Kernel<F, 3> for CenteredMomentum<F> {
    const HAND_WRITTEN: bool = true;

    #[inline(always)]
    fn update<L: Lanes<Float = F>>(&self, theta: L, grad: L, [v, m, b]: [L; 3]) -> (L, [L; 3]) {
        let g = self.0.descent.gradient(theta, grad);
        let (v, m) = self.0.variance(v, m, g);
        let (theta, b) = self.0.descend_by(theta, g, v, b);
        (theta, [v, m, b])
    }

    fn reference(&self, theta: F, grad: F, [v, m, b]: [F; 3]) -> (F, [F; 3]) {
        let (theta, v, m, b) = self.0.reference(theta, grad, v, Some(m), Some(b));
        (theta, [v, m, b])
    }
}
