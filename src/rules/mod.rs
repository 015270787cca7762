//! Update rules: the arithmetic of one element.
//!
//! A [`Rule`] holds hyper-parameters as `f64`, `bool` or unsigned integers. For each step it checks
//! them, computes the coefficients of that step in `f64`, rounds each once, and passes a [`Kernel`]
//! to a [`KernelVisitor`]. The kernel is the arithmetic of one element. It is written twice: over
//! [`Lanes`] for the SIMD backends, and in plain arithmetic as the reference. Each rule of the
//! crate is one file and one line in `table.rs`. The parts that rules share (averages, decay,
//! checks) are in `parts.rs`.
//!
//! # Writing your own rule
//!
//! To add a rule outside the crate, implement [`Rule`] and its [`Kernel`]s for your type. It then
//! works everywhere the crate's rules do: in [`Step`](crate::Step), [`Flat`](crate::Flat),
//! [`Optimizer`](crate::Optimizer) and checkpoints, on every backend, with every element type and
//! number of threads. The example is Yogi (Zaheer, Reddi, Sachan, Kale and Kumar, "Adaptive Methods
//! for Nonconvex Optimization", 2018):
//!
//! ```
//! use fused_adam::rules::{
//!     Descent, Ema, check_averages, corrections, round_coefficient, round_eps,
//! };
//! use fused_adam::{Error, Flat, Float, Kernel, Lanes, Rule, State, KernelVisitor};
//!
//! #[derive(Clone, Copy, Debug)]
//! struct Yogi {
//!     lr: f64,
//!     beta1: f64,
//!     beta2: f64,
//!     eps: f64,
//! }
//!
//! impl Rule for Yogi {
//!     fn name(&self) -> &'static str {
//!         "yogi"
//!     }
//!
//!     fn lr(&self) -> f64 {
//!         self.lr
//!     }
//!
//!     fn set_lr(&mut self, lr: f64) {
//!         self.lr = lr;
//!     }
//!
//!     fn states(&self) -> &'static [State] {
//!         static STATES: [State; 2] = [State::signed("m"), State::non_negative("v").divisor()];
//!         &STATES
//!     }
//!
//!     fn check(&self) -> Result<(), Error> {
//!         check_averages(self.lr, [self.beta1, self.beta2], self.eps, 0.0)
//!     }
//!
//!     fn visit_kernel<F: Float, W: KernelVisitor<F>>(
//!         &self,
//!         t: u64,
//!         _: &[f64],
//!         visitor: W,
//!     ) -> Result<(), Error> {
//!         let [correction1, correction2] = corrections([self.beta1, self.beta2], t);
//!         visitor.visit(&YogiKernel {
//!             descent: Descent::new(false, self.lr, 0.0, false)?,
//!             m: Ema::new(self.beta1),
//!             v_rate: F::from_f64(1.0 - self.beta2),
//!             root_scale: round_coefficient(1.0 / correction2.sqrt(), "beta2", self.beta2)?,
//!             eps: round_eps(self.eps)?,
//!             step_size: round_coefficient(self.lr / correction1, "lr", self.lr)?,
//!         })
//!     }
//! }
//!
//! /// The coefficients of one step.
//! #[derive(Clone, Copy, Debug)]
//! struct YogiKernel<F> {
//!     descent: Descent<F>,
//!     m: Ema<F>,
//!     v_rate: F,
//!     root_scale: F,
//!     eps: F,
//!     step_size: F,
//! }
//!
//! impl<F: Float> Kernel<F, 2> for YogiKernel<F> {
//!     #[inline(always)]
//!     fn update<L: Lanes<Float = F>>(&self, theta: L, grad: L, [m, v]: [L; 2]) -> (L, [L; 2]) {
//!         let g = self.descent.gradient(theta, grad);
//!         let m = self.m.average(m, g);
//!         // v moves towards g² by (1−β2)·g², whatever the difference between them.
//!         let square = g * g;
//!         let v = v - (v - square).sign() * square * self.v_rate;
//!         let d = v.sqrt() * self.root_scale + self.eps;
//!         (self.descent.descend(theta, m * self.step_size / d), [m, v])
//!     }
//! }
//!
//! let yogi = Yogi { lr: 1e-2, beta1: 0.9, beta2: 0.999, eps: 1e-3 };
//! let mut opt = Flat::new(yogi, 1000)?;
//! let mut theta = vec![0.5_f32; 1000];
//! opt.step(&mut theta, &vec![1.0; 1000])?;
//! assert!(theta[0] < 0.5);
//! # Ok::<(), fused_adam::Error>(())
//! ```
//!
//! `examples/own_rule.rs` extends this to an optimizer of many tensors and a checkpoint.
//!
//! # NaN and infinities
//!
//! A rule does not handle them specially. They propagate through its operations as IEEE 754 says.
//!
//! - Finite θ, gradients and states give finite states. If a new state of an element is infinite or
//!   NaN, the crate calls `update` again for this element, with numbers that are at most ±MAX after
//!   each operation. `kernels.md` defines this arithmetic in *Overflow*. [`Descent::gradient`] then
//!   clamps the gradient so that its square is finite.
//! - An infinite or NaN gradient or state must stay visible: it must make a new state infinite or
//!   NaN. An average does so by itself. [`Lanes::fast_max`] and the clamps can drop it: there, use
//!   [`Lanes::if_finite`].
//! - Every backend gives the same bits, where all NaNs count as equal. Therefore `update` may use
//!   only [`Lanes`], whose methods define what they do with NaN. It may not depend on the sign or
//!   the payload of a NaN.
//!
//! # Hyper-parameters by name
//!
//! The fields of a rule are `f64`, `bool` or unsigned integers: C and Python set these by name.
//! With the feature `serde`, the crate's rules implement `serde::Serialize` and
//! `serde::Deserialize`. With the feature `checkpoint`, an optimizer whose rule implements both
//! saves its hyper-parameters with its states.

#[macro_use]
mod table;
mod moments;
mod parts;
pub(crate) mod reference;
pub(crate) mod state;

for_each_rule!(files_of_rules);

pub use all::*;
pub use parts::{
    Descent, Ema, check, check_above_0, check_at_least_0, check_averages, check_below_1,
    corrections, powers, round_coefficient, round_eps,
};
pub use state::State;
pub use table::AnyRule;

use crate::error::Error;
use crate::simd::{Float, Lanes};

/// An update rule with its hyper-parameters, such as [`Adam`].
///
/// You can implement it for your own type: see [`rules`](self). The hyper-parameters are fields of
/// type `f64`, `bool` or an unsigned integer.
pub trait Rule: Clone + Send + Sync {
    /// The name of the rule, such as `adamw`. Checkpoints store it.
    fn name(&self) -> &'static str;

    /// The learning rate.
    fn lr(&self) -> f64;

    /// Sets the learning rate. It is checked on the next step. Learning-rate schedules call this.
    fn set_lr(&mut self, lr: f64);

    /// The states that the rule keeps with its current hyper-parameters, in the order in which a
    /// step takes them.
    fn states(&self) -> &'static [State];

    /// The value of every element of state number `i` before the first step. Default: 0.
    fn initial_state(&self, i: usize) -> f64 {
        let _ = i;
        0.0
    }

    /// The names of the scalars that the rule keeps for each parameter beside its states. A scalar
    /// is a number that is not a function of `t` alone, such as the product over past steps of a
    /// hyper-parameter that a schedule changes. Checkpoints store scalars. Default: none.
    fn scalars(&self) -> &'static [&'static str] {
        &[]
    }

    /// The value of scalar number `i` after `t` ≥ 0 steps, all of them with the current
    /// hyper-parameters. Default: 0.
    fn scalar_after(&self, i: usize, t: u64) -> f64 {
        let _ = (i, t);
        0.0
    }

    /// Updates the scalars from their values after step `t` − 1 to those after step `t` ≥ 1.
    /// Default: leaves them unchanged.
    fn advance_scalars(&self, t: u64, scalars: &mut [f64]) {
        let _ = (t, scalars);
    }

    /// Checks every hyper-parameter. A step calls it before it computes coefficients or scalars,
    /// and before it writes anything. [`Step::run`](crate::Step::run) checks only the step number
    /// earlier. [`states`](Self::states) and [`scalars`](Self::scalars) may be called with
    /// hyper-parameters that have not been checked.
    ///
    /// # Errors
    ///
    /// [`Error::HyperParameter`] for the first hyper-parameter outside its range.
    fn check(&self) -> Result<(), Error>;

    /// Computes the coefficients of step `t` ≥ 1 and calls `visitor` with the kernel. The
    /// hyper-parameters have passed [`check`](Self::check). `scalars` holds the values after this
    /// step, one for each name in [`scalars`](Self::scalars).
    ///
    /// An implementation calls `visitor` exactly once, as its last action, and returns the result:
    /// the call takes the step.
    ///
    /// # Errors
    ///
    /// [`Error::HyperParameter`] if a hyper-parameter is in its range but leads to a coefficient
    /// that `F` cannot hold, and the errors of `visitor`.
    fn visit_kernel<F: Float, W: KernelVisitor<F>>(
        &self,
        t: u64,
        scalars: &[f64],
        visitor: W,
    ) -> Result<(), Error>;
}

/// A function of the kernel that a rule passes to it. It is a trait because only the rule knows the
/// type of its kernel. The crate implements it. A rule that wraps another rule may implement it
/// too.
pub trait KernelVisitor<F: Float> {
    /// Uses a kernel of `N` states.
    ///
    /// # Errors
    ///
    /// The errors of the step in progress.
    fn visit<K: Kernel<F, N>, const N: usize>(self, kernel: &K) -> Result<(), Error>;
}

/// The arithmetic of one element in one step, with the coefficients of that step, for a rule with
/// `N` states.
///
/// [`update`](Self::update) and [`reference`](Self::reference) must give the same bits.
///
/// `Debug` shows the coefficients. The test vectors publish them.
pub trait Kernel<F: Float, const N: usize>: Copy + core::fmt::Debug + Send + Sync {
    /// Whether [`reference`](Self::reference) is written by hand. It must be true for the kernels
    /// of the crate's own rules. Default: false.
    const HAND_WRITTEN: bool = false;

    /// Returns the new θ and the new states. Mark the implementation `#[inline(always)]`.
    ///
    /// Branches on coefficients are allowed: they are the same for the whole step, and are taken
    /// once for some dozens of elements. There are no branches on elements.
    fn update<L: Lanes<Float = F>>(&self, theta: L, grad: L, state: [L; N]) -> (L, [L; N]);

    /// The same as [`update`](Self::update) for one element, in plain arithmetic, for
    /// [`Backend::Scalar`](crate::Backend::Scalar). Default: `update` on single numbers, which
    /// tests the loops but not the arithmetic.
    fn reference(&self, theta: F, grad: F, state: [F; N]) -> (F, [F; N]) {
        const { assert!(!Self::HAND_WRITTEN, "the kernel has no reference of its own") };
        self.update(theta, grad, state)
    }
}
