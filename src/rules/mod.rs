//! The rule axis: what happens to one element.
//!
//! A [`Rule`] holds hyper-parameters in `f64`. For a step it checks them, computes that step's
//! coefficients in `f64`, rounds each once, and passes on a [`Kernel`]: the arithmetic of one
//! element, over [`Lanes`] for the SIMD backends, and once more written out by hand as the
//! reference. Each rule of the crate is one file and one line in `table.rs`. What rules are made of
//! is in `parts.rs`: averages, decay, checks.
//!
//! # A rule of your own
//!
//! A rule from outside the crate is a type that implements [`Rule`], with its [`Kernel`]s. It then
//! runs wherever the crate's own do: in [`Step`](crate::Step), [`Flat`](crate::Flat),
//! [`Optimizer`](crate::Optimizer) and checkpoints, on every backend, type and number of threads.
//! This is Yogi (Zaheer, Reddi, Sachan, Kale and Kumar, "Adaptive Methods for Nonconvex
//! Optimization", 2018):
//!
//! ```
//! use fused_adam::rules::{
//!     Descent, Ema, check_averages, corrections, round_coefficient, round_eps,
//! };
//! use fused_adam::{Error, Flat, Float, Kernel, Lanes, Rule, State, WithKernel};
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
//!     fn with_kernel<F: Float, W: WithKernel<F>>(
//!         &self,
//!         t: u64,
//!         _: &[f64],
//!         then: W,
//!     ) -> Result<(), Error> {
//!         let [correction1, correction2] = corrections([self.beta1, self.beta2], t);
//!         then.with(&YogiKernel {
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
//! #[derive(Clone, Copy)]
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
//!         // v moves towards g² by (1−β2)·g², whatever the distance.
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
//! `examples/own_rule.rs` takes it on through an optimizer of many tensors and a checkpoint.
//!
//! # NaN and infinities
//!
//! A rule does nothing about them: they follow IEEE 754 through its operations. What the crate
//! promises is that every backend gives the same bits, where two NaNs count as the same. So
//! `update` may use nothing but [`Lanes`], whose methods say what they do with NaN, and may not
//! look at the sign or the payload of one.
//!
//! # Hyper-parameters by name
//!
//! With the feature `checkpoint` a rule that derives `serde::Serialize` and `serde::Deserialize` is
//! saved with its hyper-parameters. Fields are `f64`, `bool` or an unsigned integer: these are what
//! C and Python set by name.

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

/// A rule of optimization with its hyper-parameters, such as [`Adam`].
///
/// The trait is open: see [`rules`](self) for a rule from outside the crate.
pub trait Rule: Clone + Send + Sync {
    /// Its name, such as `adamw`. A checkpoint holds it.
    fn name(&self) -> &'static str;

    /// The step size.
    fn lr(&self) -> f64;

    /// Changes the step size, which is checked on the next step. Learning-rate schedules call it.
    fn set_lr(&mut self, lr: f64);

    /// The states that the rule keeps with these options, in the order in which a step takes them.
    fn states(&self) -> &'static [State];

    /// What the elements of state number `i` are before the first step. Default: 0.
    fn initial_state(&self, i: usize) -> f64 {
        let _ = i;
        0.0
    }

    /// The names of the scalars that the rule keeps for each parameter beside its states: numbers
    /// that are no function of t, such as a product over past steps of a hyper-parameter that a
    /// schedule changes. Checkpoints hold them. Default: none.
    fn scalars(&self) -> &'static [&'static str] {
        &[]
    }

    /// What scalar number `i` is after `t` steps, if the hyper-parameters have been the present
    /// ones in all of them. `t` may be 0. Default: 0.
    fn scalar_after(&self, i: usize, t: u64) -> f64 {
        let _ = (i, t);
        0.0
    }

    /// Turns the scalars as they were after step `t` − 1 into those after step `t` ≥ 1. Default:
    /// they stay.
    fn advance_scalars(&self, t: u64, scalars: &mut [f64]) {
        let _ = (t, scalars);
    }

    /// Checks every hyper-parameter. [`Step::run`](crate::Step::run) calls it before anything else.
    ///
    /// # Errors
    ///
    /// [`Error::HyperParameter`] for the first one outside its range.
    fn check(&self) -> Result<(), Error>;

    /// Computes the coefficients of step `t` ≥ 1 from hyper-parameters that [`check`](Self::check)
    /// has passed, and lets `then` have the kernel. `scalars` are as they are after the step: as
    /// many as [`scalars`](Self::scalars) names.
    ///
    /// To call `then` exactly once is the last thing that it does, and its result is the result:
    /// what comes after would come after the step.
    ///
    /// # Errors
    ///
    /// A hyper-parameter that is in its range, but leads to a coefficient that `F` cannot hold; and
    /// those of `then`.
    fn with_kernel<F: Float, W: WithKernel<F>>(
        &self,
        t: u64,
        scalars: &[f64],
        then: W,
    ) -> Result<(), Error>;
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
/// [`update`](Self::update) and [`reference`](Self::reference) give the same bits.
pub trait Kernel<F: Float, const N: usize>: Copy + Send + Sync {
    /// Whether [`reference`](Self::reference) is written out by hand. The kernels of the crate's
    /// own rules must say so. Default: false.
    const HAND_WRITTEN: bool = false;

    /// Returns the new θ and the new states. To be marked `#[inline(always)]`.
    ///
    /// A branch on a coefficient is fine: it goes the same way for the whole step, and is taken
    /// once for some dozens of elements. There are none on elements.
    fn update<L: Lanes<Float = F>>(&self, theta: L, grad: L, state: [L; N]) -> (L, [L; N]);

    /// The same for one element, in plain arithmetic, for
    /// [`Backend::Scalar`](crate::Backend::Scalar). Default: `update` on single numbers, which
    /// checks the loops but not the arithmetic.
    fn reference(&self, theta: F, grad: F, state: [F; N]) -> (F, [F; N]) {
        const { assert!(!Self::HAND_WRITTEN, "the kernel has no reference of its own") };
        self.update(theta, grad, state)
    }
}
