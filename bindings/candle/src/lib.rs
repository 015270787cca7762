//! [fused-adam](fused_adam) as a [candle](candle_core) optimizer: [`Optimizer`] implements
//! [`candle_nn::Optimizer`] with one fused pass over each variable, in place, where candle's own has a
//! chain of tensor operations.
//!
//! Where a program says [`candle_nn::AdamW`] it says [`AdamW`] instead, and nothing else changes:
//!
//! ```
//! use candle_core::{DType, Device, Tensor, Var};
//! use candle_nn::{Optimizer, ParamsAdamW};
//! use fused_adam_candle::AdamW; // was: use candle_nn::AdamW;
//!
//! let w = Var::zeros(3, DType::F32, &Device::Cpu)?;
//! let wanted = Tensor::new(&[1.0_f32, -2.0, 0.5], &Device::Cpu)?;
//! let mut opt = AdamW::new(vec![w.clone()], ParamsAdamW { lr: 0.1, ..Default::default() })?;
//! for _ in 0..200 {
//!     opt.backward_step(&w.sub(&wanted)?.sqr()?.sum_all()?)?;
//! }
//! # assert!(w.sub(&wanted)?.abs()?.max_all()?.to_scalar::<f32>()? < 0.1);
//! # Ok::<(), candle_core::Error>(())
//! ```
//!
//! Every rule of fused-adam is an optimizer in the same way: see [`Config`]. A step's bits are those of
//! [`fused_adam::Step`] on each variable alone, on any number of threads.
//!
//! # How a step reaches the variables
//!
//! Candle keeps each storage behind a lock, and lends it for writing only to an in-place operation
//! while that runs. For one parallel region over all variables a step needs all of them at once. So the
//! operation on the first variable applies another one to the second, and so on, and the innermost takes
//! the step, on plain slices in the variables' own memory. That is safe code; it costs a lock and some stack
//! for each variable, and more stack is made where there is too little.
//! Gradients are read where they are. Only one that is not contiguous, or is a part of a variable, is copied
//! first.
//!
//! # Limits
//!
//! - Only the CPU, and variables of `f32`, `f64`, `bf16` and `f16`. What else there is in a list of
//!   variables is refused, where candle's optimizers leave out integers without a word.
//! - While a step runs all its variables are locked. Another thread that reads one waits, as it does for
//!   candle's optimizers. But an operation that reads two of them at once, say a layer norm of both its
//!   weights, may hold the one and wait for the other while the step does the reverse: then both wait for
//!   ever. So do not compute with the variables on one thread while another takes a step, nor in tasks of
//!   the rayon pool that the step is called on. Two optimizers of the same variables are fine: they
//!   take turns.
//! - Who holds a lock of a variable, from
//!   [`storage_and_layout`](candle_core::Tensor::storage_and_layout), must let go of it before a step.
//!   This is so with candle's optimizers too.
//! - A variable counts its own steps, those in which it has a gradient. Candle's AdamW counts the steps of all, so the two
//!   differ where a variable had no gradient in some step before.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod checkpoint;
mod config;
mod elements;
mod error;
mod locks;
mod optimizer;
mod variables;

pub use config::{Config, ParamsAdam};
pub use error::Error;
pub use fused_adam;
pub use optimizer::Optimizer;

/// AdamW from candle's own parameters: what takes the place of [`candle_nn::AdamW`].
pub type AdamW = Optimizer<candle_nn::ParamsAdamW>;

/// Adam, from parameters in candle's style.
pub type Adam = Optimizer<ParamsAdam>;

/// The README's examples, run as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
