//! Optimizer steps of the Adam family on the arrays and views of [`ndarray`], with any dimension
//! and memory order, in one fused pass. This crate is a thin layer over [`fused_adam`], with
//! bit-identical results.
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
//! [`ArrayOptimizer`] stores the states of named arrays, and saves them. [`step_all`] steps a list
//! of arrays whose states you store. Both update all arrays in one parallel region.
//!
//! # Memory order
//!
//! A step is elementwise, so only the order of the elements in memory matters. A step uses the
//! memory order of θ: row-major (C) order, column-major (Fortran) order, or with axes permuted or
//! reversed. Arrays that have this order without gaps are used in place, without allocating memory
//! for their elements. Other arrays (a gradient in another order than θ, a slice with gaps, a
//! broadcast gradient) are first copied to a buffer in this order, and changes are copied back. The
//! result is bit-identical; the only cost is the copy. Elements between those of a view are never
//! touched. All shapes must be equal: there is no implicit broadcasting.
//!
//! The random bits of [`Rounding::Stochastic`](fused_adam::Rounding::Stochastic) depend on the
//! index of an element in *logical*, row-major order. So they depend on the shape, but not on the
//! memory order. For this, a step with stochastic rounding copies 16-bit arrays that are in another
//! order.
//!
//! [`ArrayOptimizer`] stores states in the memory order of θ. If θ comes in another order than
//! before, its states are rearranged once.
//!
//! # States in 8 bits
//!
//! States of the type [`Block8`](fused_adam::Block8) have 33 bytes for 32 elements, so AdamW has
//! 2.06 bytes of states for each element instead of 8. Such a state is an array with one axis, and
//! ⌈n / 32⌉ blocks for the n elements of θ in row-major order. θ and a gradient in another order
//! are copied in each step. A step computes in `f32`, and rounds the states stochastically, so give
//! each array a [seed](ParamMut::with_seed).
//!
//! ```
//! use fused_adam_ndarray::fused_adam::{AdamW, Block8};
//! use fused_adam_ndarray::step;
//! use ndarray::{Array1, Array2};
//!
//! let (mut theta, grad) = (Array2::<f32>::ones((100, 80)), Array2::<f32>::ones((100, 80)));
//! let mut m = Array1::<Block8>::from_elem(250, [0; 33]);
//! let mut v = m.clone();
//! step(&AdamW::default(), 1, &mut theta, &grad, &mut [&mut m, &mut v])?;
//! # assert!((theta[[3, 4]] - 0.99899).abs() < 1e-6);
//! # Ok::<(), fused_adam_ndarray::Error>(())
//! ```
//!
//! [`ArrayOptimizer::add_8bit`] chooses such states for large arrays. The name of an array is its
//! seed.
//!
//! # Features
//!
//! - `parallel` (default): steps large arrays, and copies arrays where a copy is needed, on the
//!   threads of the caller's rayon pool.
//! - `checkpoint`: `save` and `load` of [`ArrayOptimizer`], with or without the arrays. The file
//!   format is that of the core, candle and C.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod arrays;
mod copy;
mod error;
mod order;
mod owner;
mod slices;

pub use arrays::{ParamMut, step_all};
pub use error::Error;
pub use fused_adam;
pub use owner::{ArrayOptimizer, Pair};

use fused_adam::{Element, Report, Rule, StateElement, StepOptions};
use ndarray::{ArrayRef, Dimension};

/// Takes step number `t`, counted from 1, of a rule on one array: updates `theta` and each state in
/// place, from `grad`. All of them can be arrays or views.
///
/// `states` are the states of [`Rule::states`], in that order: `m` and `v` for AdamW. They have the
/// shape of `theta`, or are [in 8 bits](crate#states-in-8-bits). If the rule
/// has scalars, they have the values after `t` steps with the current hyper-parameters; use
/// [`ParamMut::with_scalars`] to pass others. [`Step::run_mixed`](fused_adam::Step::run_mixed)
/// lists the element types that can be combined.
///
/// # Errors
///
/// Those of [`step_all`]. Nothing has changed after an error.
pub fn step<R, T, G, S, D, E>(
    rule: &R,
    t: u64,
    theta: &mut ArrayRef<T, D>,
    grad: &ArrayRef<G, D>,
    states: &mut [&mut ArrayRef<S, E>],
) -> Result<(), Error>
where
    R: Rule,
    T: Element,
    G: Element<Float = T::Float>,
    S: StateElement<Float = T::Float>,
    D: Dimension,
    E: Dimension,
{
    step_with(rule, t, &StepOptions::default(), theta, grad, states).map(|_| ())
}

/// As [`step`], with options: clipping, scaling, rounding, backend and threads.
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
/// Those of [`step_all`]. Nothing has changed after an error.
pub fn step_with<R, T, G, S, D, E>(
    rule: &R,
    t: u64,
    options: &StepOptions,
    theta: &mut ArrayRef<T, D>,
    grad: &ArrayRef<G, D>,
    states: &mut [&mut ArrayRef<S, E>],
) -> Result<Report, Error>
where
    R: Rule,
    T: Element,
    G: Element<Float = T::Float>,
    S: StateElement<Float = T::Float>,
    D: Dimension,
    E: Dimension,
{
    let borrowed = ParamMut::new(0, t, theta, grad);
    let borrowed = states.iter_mut().fold(borrowed, |borrowed, state| borrowed.with_state(state));
    step_all(core::slice::from_ref(rule), options, [borrowed])
}

/// The README's examples, run as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
