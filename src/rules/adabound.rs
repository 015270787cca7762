//! AdaBound and AMSBound: Adam whose step sizes are held between bounds that close in on SGD's.
//!
//! ```text
//! g' = g, or −g to maximize;   then g' + λ·θ for L2 decay λ > 0
//! m' = m + (1−β1)·(g' − m)                when β1 ≥ ½;   g' − β1·(g' − m)       when β1 < ½
//! v' = v + (1−β2)·(g'·g' − v)             when β2 ≥ ½;   g'·g' − β2·(g'·g' − v) when β2 < ½
//! w' = v', or for AMSBound the larger of v_max and v', kept as the new v_max
//! h  = s / (√w' + ε), then at least l, then at most u
//! q  = h·m';                              (lr·λ)·θ + q for decoupled decay λ > 0
//! θ' = θ − q
//!
//! s  = lr·√(1−β2^t)/(1−β1^t),   l = final_lr·(1 − 1/(γ·t+1)),   u = final_lr·(1 + 1/(γ·t))
//! ```

use super::{
    Ends, Kernel, Rate, Rule, WithKernel, by_hand, check_above_0, check_at_least_0, check_below_1,
    corrections, round, round_eps,
};
use crate::{Error, Float, Lanes};

/// AdaBound, and with `amsbound` AMSBound.
///
/// Luo, Xiong, Liu and Sun, "Adaptive Gradient Methods with Dynamic Bound of Learning Rate" (2019),
/// algorithms 2 and 3, with the bias corrections, the bounds and the defaults of its authors' code.
/// There a schedule of `lr` also moves `final_lr` in proportion; here `final_lr` is what it says.
/// Decoupled decay is that of [`AdamW`](crate::AdamW).
///
/// The states are `m`, the moving average of the gradient, and `v`, that of its square; with
/// `amsbound` also `v_max`, the largest `v` so far.
///
/// ```
/// use fused_adam::{AdaBound, Flat};
///
/// let mut opt = Flat::new(AdaBound::default(), 1)?;
/// let mut theta = [1.0_f32];
/// opt.step(&mut theta, &[3.0])?;
/// assert!(theta[0] < 1.0);
/// # Ok::<(), fused_adam::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdaBound {
    /// The step size at the start: finite and ≥ 0. Default 1e-3.
    pub lr: f64,
    /// β1, the decay rate of `m`: in [0, 1). Default 0.9.
    pub beta1: f64,
    /// β2, the decay rate of `v`: in [0, 1). Default 0.999.
    pub beta2: f64,
    /// The step size in the end, that of SGD: finite and ≥ 0. Default 0.1.
    pub final_lr: f64,
    /// γ, how fast the bounds close in: in [0, 1). With 0 they are 0 and ∞. Default 1e-3.
    pub gamma: f64,
    /// ε, added to the root in the denominator: finite and > 0, also once rounded to `f32`. Default
    /// 1e-8.
    pub eps: f64,
    /// λ of the decay: finite and ≥ 0. Default 0.
    pub weight_decay: f64,
    /// Decay is lr·λ·θ, not an L2 penalty `g + λ·θ`. Default false.
    pub decoupled_weight_decay: bool,
    /// Divides by the root of the largest `v` so far, not of the present one. Default false.
    pub amsbound: bool,
    /// Climbs along the gradient, not down. Default false.
    pub maximize: bool,
}

impl Default for AdaBound {
    fn default() -> Self {
        AdaBound {
            lr: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            final_lr: 0.1,
            gamma: 1e-3,
            eps: 1e-8,
            weight_decay: 0.0,
            decoupled_weight_decay: false,
            amsbound: false,
            maximize: false,
        }
    }
}

impl Rule for AdaBound {
    fn state_names(&self) -> &'static [&'static str] {
        if self.amsbound { &["m", "v", "v_max"] } else { &["m", "v"] }
    }

    fn check(&self) -> Result<(), Error> {
        check_at_least_0("lr", self.lr)?;
        check_below_1("beta1", self.beta1)?;
        check_below_1("beta2", self.beta2)?;
        check_at_least_0("final_lr", self.final_lr)?;
        check_below_1("gamma", self.gamma)?;
        check_above_0("eps", self.eps)?;
        check_at_least_0("weight_decay", self.weight_decay)
    }

    fn with_kernel<F: Float, W: WithKernel<F>>(&self, t: u64, then: W) -> Result<(), Error> {
        let [correction1, correction2] = corrections([self.beta1, self.beta2], t);
        let run = self.gamma * t as f64;
        let upper = if run == 0.0 { f64::INFINITY } else { self.final_lr * (1.0 + 1.0 / run) };
        let fused = Fused {
            ends: Ends::new(
                self.maximize,
                self.lr,
                self.weight_decay,
                self.decoupled_weight_decay,
            )?,
            m: Rate::new(self.beta1),
            v: Rate::new(self.beta2),
            eps: round_eps(self.eps)?,
            step_size: round(self.lr * correction2.sqrt() / correction1, "lr", self.lr)?,
            lower: round(self.final_lr * (1.0 - 1.0 / (run + 1.0)), "final_lr", self.final_lr)?,
            upper: F::from_f64(upper),
        };
        if self.amsbound { then.with(&AmsBound(fused)) } else { then.with(&fused) }
    }
}

/// The kernel with states m and v.
#[derive(Clone, Copy)]
struct Fused<F> {
    ends: Ends<F>,
    m: Rate<F>,
    v: Rate<F>,
    eps: F,
    step_size: F,
    lower: F,
    /// May be infinite.
    upper: F,
}

/// The kernel with states m, v and v_max.
#[derive(Clone, Copy)]
struct AmsBound<F>(Fused<F>);

impl<F: Float> Fused<F> {
    /// The new m and v.
    #[inline(always)]
    fn moments<L: Lanes<Float = F>>(&self, theta: L, grad: L, m: L, v: L) -> (L, L) {
        let g = self.ends.gradient(theta, grad);
        (self.m.average(m, g), self.v.average(v, g * g))
    }

    /// The new θ, from the new m and the second moment to divide by.
    #[inline(always)]
    fn descend<L: Lanes<Float = F>>(&self, theta: L, m: L, v: L) -> L {
        let d = v.sqrt() + self.eps;
        let h = d.under(self.step_size).at_least(self.lower).at_most(self.upper);
        self.ends.descend(theta, h * m)
    }
}

impl<F: Float> Kernel<F, 2> for Fused<F> {
    #[inline(always)]
    fn update<L: Lanes<Float = F>>(&self, theta: L, grad: L, [m, v]: [L; 2]) -> (L, [L; 2]) {
        let (m, v) = self.moments(theta, grad, m, v);
        (self.descend(theta, m, v), [m, v])
    }

    fn reference(&self, theta: F, grad: F, [m, v]: [F; 2]) -> (F, [F; 2]) {
        let (theta, [m, v, _]) = reference(self, theta, grad, m, v, None);
        (theta, [m, v])
    }
}

impl<F: Float> Kernel<F, 3> for AmsBound<F> {
    #[inline(always)]
    fn update<L: Lanes<Float = F>>(&self, theta: L, grad: L, [m, v, v_max]: [L; 3]) -> (L, [L; 3]) {
        let (m, v) = self.0.moments(theta, grad, m, v);
        let v_max = v_max.larger(v);
        (self.0.descend(theta, m, v_max), [m, v, v_max])
    }

    fn reference(&self, theta: F, grad: F, [m, v, v_max]: [F; 3]) -> (F, [F; 3]) {
        reference(&self.0, theta, grad, m, v, Some(v_max))
    }
}

/// The rule written out for one element: from the old θ, m, v and (for AMSBound) v_max to the new
/// ones, the last being the new v without AMSBound.
#[inline(always)]
fn reference<F: Float>(
    of: &Fused<F>,
    theta: F,
    grad: F,
    m: F,
    v: F,
    v_max: Option<F>,
) -> (F, [F; 3]) {
    let g = by_hand::gradient(&of.ends, theta, grad);
    let m = by_hand::average(of.m, m, g);
    let v = by_hand::average(of.v, v, g * g);
    let second_moment = match v_max {
        Some(v_max) if v_max > v => v_max,
        _ => v,
    };
    let mut h = of.step_size / (second_moment.sqrt() + of.eps);
    if h < of.lower {
        h = of.lower;
    }
    if h > of.upper {
        h = of.upper;
    }
    (by_hand::descend(&of.ends, theta, h * m), [m, v, second_moment])
}
