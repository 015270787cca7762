//! RMSProp: the gradient over the root of the mean of its squares.
//!
//! ```text
//! g' = g, or −g to maximize;   then g' + λ·θ for L2 decay λ > 0
//! v' = v + (1−α)·(y − v)                  when α ≥ ½;   y − α·(y − v)           when α < ½
//!      with y = g'·g', or centred y = α·((g'−m)·(g'−m)), and then m' like v' with y = g'
//! d  = √v' + ε, or √(v' + ε)
//! q  = (lr·g') / d
//! θ' = θ − q
//! ```
//!
//! With momentum μ, b' = b + (x − (1−μ)·b) when μ ≥ ½, μ·b + x when μ < ½, with x = g'/d, and q =
//! lr·b'.
//!
//! The centred v is the variance itself, by the recurrence that a mean and a variance have
//! together, α·(v + (1−α)·(g'−m)²). The textbook's form keeps the mean square and takes the
//! difference with the squared mean, which loses its digits where the gradient hardly varies, and
//! can come out negative.

use super::parts::{
    Descent, Ema, check, check_above_0, check_at_least_0, round_coefficient, round_eps,
};
use super::state::{M, V};
use super::{Kernel, Rule, State, WithKernel, reference};
use crate::error::Error;
use crate::simd::{Float, Lanes};

/// RMSProp.
///
/// Tieleman and Hinton, "Lecture 6.5: rmsprop" (2012); centred, and with momentum, as in Graves,
/// "Generating Sequences With Recurrent Neural Networks" (2013). Defaults are torch's.
///
/// The states are `v`, the moving average of the squared gradient (centred: its moving variance);
/// then `m`, the moving average of the gradient, if `centered`; then `b`, the momentum buffer, if
/// `momentum` is above 0.
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
#[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "checkpoint", serde(deny_unknown_fields))]
pub struct RmsProp {
    /// The step size: finite and ≥ 0. Default 1e-2.
    pub lr: f64,
    /// α, the decay rate of the averages: in [0, 1). Default 0.99.
    pub alpha: f64,
    /// ε in the denominator: finite and > 0, also once rounded to `f32`. Default 1e-8.
    pub eps: f64,
    /// Adds ε to the mean square, under the root, not to the root. Default false.
    pub eps_inside: bool,
    /// λ of the L2 penalty, `g + λ·θ`: finite and ≥ 0. Default 0.
    pub weight_decay: f64,
    /// μ, how much of the momentum buffer is left after a step: in [0, 1]. Default 0: no buffer.
    pub momentum: f64,
    /// Divides by the gradient's standard deviation, not by its root mean square. Default false.
    pub centered: bool,
    /// Climbs along the gradient, not down. Default false.
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

    fn with_kernel<F: Float, W: WithKernel<F>>(
        &self,
        _: u64,
        _: &[f64],
        then: W,
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
            (false, true) => then.with(&Raw(of)),
            (false, false) => then.with(&RawMomentum(of)),
            (true, true) => then.with(&Centered(of)),
            (true, false) => then.with(&CenteredMomentum(of)),
        }
    }
}

#[derive(Clone, Copy)]
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

    /// All of it written out for one element.
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
#[derive(Clone, Copy)]
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
#[derive(Clone, Copy)]
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
#[derive(Clone, Copy)]
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
#[derive(Clone, Copy)]
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
