//! Optimizer steps of the Adam family on [`ndarray`]'s arrays and views, of any dimension and in any
//! memory order, in one fused pass: a thin layer over [`fused_adam`], with the same bits.
//!
//! ```
//! use fused_adam_ndarray::{fused_adam::AdamW, step};
//! use ndarray::Array2;
//!
//! let adamw = AdamW { lr: 1e-2, ..AdamW::default() };
//! let (mut theta, grad) = (Array2::<f32>::ones((10, 20)), Array2::<f32>::ones((10, 20)));
//! let (mut m, mut v) = (Array2::<f32>::zeros((10, 20)), Array2::<f32>::zeros((10, 20)));
//!
//! step(&adamw, 1, &mut theta, &grad, &mut [&mut m, &mut v])?;
//! # assert!((theta[[3, 4]] - 0.9899).abs() < 1e-6);
//! # Ok::<(), fused_adam_ndarray::Error>(())
//! ```
//!
//! [`ArrayOptimizer`] keeps the states of a list of arrays; [`step_all`] steps a list whose states the
//! caller keeps. Either takes all arrays in one parallel region.
//!
//! # Memory order
//!
//! A step is elementwise, so only the order in which memory is walked is a question, and it is walked as θ
//! lies: in row-major (C) order, in column-major (Fortran) order, with axes permuted or reversed.
//! Whatever lies in that order without gaps is stepped in place, with nothing allocated for its elements. Anything else
//! (a gradient in another order than θ, a slice with gaps, a broadcast gradient) is first copied
//! to memory that lies so, and what has changed is written back: the result is the same, to the bit, and costs
//! that copy. Elements between those of a view are never touched. Shapes must be equal; nothing is
//! broadcast unasked.
//!
//! The random bits of [`Rounding::Stochastic`](fused_adam::Rounding::Stochastic) belong to an element's number, which is its place in *logical*, that is row-major,
//! order. They depend on the shape and not on the memory order; for that, 16-bit arrays which lie in another order are copied in such a step.
//!
//! # Features
//!
//! - `parallel` (default): long arrays are stepped, and copied where they must be, on the threads of
//!   the caller's rayon pool.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod copy;
mod error;
mod lent;
mod order;
mod owner;
mod slices;

pub use error::Error;
pub use fused_adam;
pub use lent::{Lent, step_all};
pub use owner::{ArrayOptimizer, Pair};

use fused_adam::{Element, Report, Rule, StepOptions};
use ndarray::{ArrayRef, Dimension};

/// Takes step number `t`, from 1 on, of a rule on one array: updates `theta` and each state in
/// place, from `grad`. All may be arrays or views.
///
/// `states` are those that [`Rule::states`] names, in that order: `m` and `v` for AdamW. The
/// scalars that a rule keeps beside them are what they are after `t` steps with these
/// hyper-parameters; [`Lent::scalars`] takes others.
/// [`Step::run_mixed`](fused_adam::Step::run_mixed) says which element types go together.
///
/// # Errors
///
/// Those of [`step_all`]; then nothing has changed.
pub fn step<R, T, G, S, D>(
    rule: &R,
    t: u64,
    theta: &mut ArrayRef<T, D>,
    grad: &ArrayRef<G, D>,
    states: &mut [&mut ArrayRef<S, D>],
) -> Result<(), Error>
where
    R: Rule,
    T: Element,
    G: Element<Float = T::Float>,
    S: Element<Float = T::Float>,
    D: Dimension,
{
    step_with(rule, t, &StepOptions::default(), theta, grad, states).map(|_| ())
}

/// As [`step`], with options: clipping, scaling, rounding, the backend and the threads.
///
/// ```
/// use fused_adam_ndarray::fused_adam::{ClipNorm, Lion, StepOptions};
/// use fused_adam_ndarray::step_with;
/// use ndarray::{Array1, s};
///
/// let options = StepOptions { clip_norm: Some(ClipNorm::Two(1.0)), ..StepOptions::default() };
/// let (mut theta, grad) = (Array1::<f64>::ones(9), Array1::<f64>::ones(9));
/// let mut m = Array1::<f64>::zeros(9);
///
/// let (theta, grad) = (&mut theta.slice_mut(s![..;-2]), &grad.slice(s![..5]));
/// let m = &mut m.slice_mut(s![4..]);
/// let report = step_with(&Lion::default(), 1, &options, theta, grad, &mut [m])?;
/// assert_eq!(report.grad_norm, Some(5.0_f64.sqrt()));
/// # Ok::<(), fused_adam_ndarray::Error>(())
/// ```
///
/// # Errors
///
/// Those of [`step_all`]; then nothing has changed.
pub fn step_with<R, T, G, S, D>(
    rule: &R,
    t: u64,
    options: &StepOptions,
    theta: &mut ArrayRef<T, D>,
    grad: &ArrayRef<G, D>,
    states: &mut [&mut ArrayRef<S, D>],
) -> Result<Report, Error>
where
    R: Rule,
    T: Element,
    G: Element<Float = T::Float>,
    S: Element<Float = T::Float>,
    D: Dimension,
{
    let lent = Lent::new(0, t, theta, grad);
    let lent = states.iter_mut().fold(lent, |lent, state| lent.state(state));
    step_all(core::slice::from_ref(rule), options, [lent])
}

/// The README's examples, run as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
