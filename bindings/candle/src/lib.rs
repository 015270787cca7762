//! [fused-adam](fused_adam) as a [candle](candle_core) optimizer. [`Optimizer`] implements
//! [`candle_nn::Optimizer`]. Its step updates each variable in place in one fused pass, where
//! candle's own optimizers run a chain of tensor operations.
//!
//! Replace [`candle_nn::AdamW`] with [`AdamW`], or [`candle_nn::SGD`] with [`SGD`]. They have the
//! same methods, so the program needs no other change. What a step does differently is listed
//! [below](#differences-from-candle).
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
//! Every rule of fused-adam works as an optimizer in the same way: see [`Config`]. A step is
//! bit-identical to [`fused_adam::Step`] on each variable, on any number of threads.
//!
//! # How a step accesses the variables
//!
//! Candle protects each storage with a lock, and gives write access only to an in-place operation
//! while it runs. A step needs all variables at the same time, to update them in one parallel
//! region. So the operation on the first variable applies another operation to the second, and so
//! on, and the innermost one takes the step, on slices of the variables' own memory. This is safe
//! code. It costs a lock and some stack for each variable. If there is too little stack, more is
//! allocated. Gradients are read in place. Only a gradient that is not contiguous, or that shares
//! its storage with a variable, is copied first.
//!
//! # Differences from candle
//!
//! - **Device and types.** Variables are on the CPU and of `f32`, `f64`, `bf16` or `f16`. Any other
//!   variable is an error. Candle's optimizers silently ignore integer variables.
//! - **Checks.** A hyper-parameter outside its range, such as an ε of 0, is an error, and so is a
//!   variable that is passed twice. Candle accepts both. [`set_params`](Optimizer::set_params),
//!   `set_learning_rate` and [`push`](Optimizer::push) have no result, as in candle, so every later
//!   step returns their errors: until you set valid values, or until the variable of `push` can be
//!   added. A step finds every error before it writes anything. In candle, the variables before the
//!   wrong one have been stepped.
//! - **Step numbers.** Each variable has its own step number, which counts the steps in which it
//!   has a gradient. Candle's AdamW has one step number for all variables. The results differ if a
//!   variable has no gradient in some step.
//! - **Rounding.** A step of AdamW rounds in other places. 16-bit variables are computed in `f32`
//!   and rounded once at the end, and `f16` has states of `f32`. Candle rounds each operation to 16
//!   bits; in `f16` its ε of 1e-8 is 0.
//! - **Infinity and NaN.** Finite gradients give finite states. In candle, a gradient whose square
//!   overflows makes v infinite, and the variable then only decays. An infinite or NaN gradient
//!   makes θ infinite or NaN, as in candle, unless `skip_nonfinite` of the
//!   [options](Optimizer::options_mut) is set.
//! - **Locks.** A step locks all its variables while it runs, and not one after the other. Another
//!   thread that reads one waits, as with candle's optimizers. But an operation that reads two
//!   variables at once, such as a layer norm that reads both its weights, can deadlock with a step,
//!   if each holds a lock that the other needs. So do not compute with the variables on one thread
//!   while another takes a step, or in tasks of the rayon pool from which you call the step. Two
//!   optimizers can share variables: they take turns.
//! - **`Debug`** prints the hyper-parameters, names and settings, but no elements.
//!
//! As with candle's optimizers, drop any lock of a variable, from
//! [`storage_and_layout`](candle_core::Tensor::storage_and_layout), before you take a step.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod checkpoint;
mod config;
mod drop_in;
mod elements;
mod error;
mod groups;
mod locks;
mod optimizer;
mod state_types;
mod variables;

pub use config::{Config, ParamsAdam};
pub use error::Error;
pub use fused_adam;
pub use fused_adam::GroupId;
pub use optimizer::Optimizer;

/// AdamW with candle's own hyper-parameters: a replacement for [`candle_nn::AdamW`].
pub type AdamW = Optimizer<candle_nn::ParamsAdamW>;

/// SGD without momentum, whose configuration is the learning rate: a replacement for
/// [`candle_nn::SGD`]. For momentum, use [`fused_adam::Sgd`] as the configuration of an
/// [`Optimizer`].
pub type SGD = Optimizer<f64>;

/// Adam with hyper-parameters in candle's style.
pub type Adam = Optimizer<ParamsAdam>;

/// The README's examples, run as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
