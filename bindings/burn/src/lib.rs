//! [fused-adam](fused_adam) as an optimizer for [burn](https://burn.dev) 0.22, on its CPU backend
//! flex. You change one line of your training loop.
//!
//! ```
//! use burn::module::Module;
//! use burn::nn::{Linear, LinearConfig};
//! use burn::optim::GradientsParams;
//! use burn::tensor::{Device, Tensor};
//! use fused_adam::AdamW;
//! use fused_adam_burn::FusedConfig;
//!
//! let device = Device::flex().autodiff();
//! let mut model: Linear = LinearConfig::new(4, 2).init(&device);
//!
//! // It was `AdamWConfig::new().init()`.
//! let mut optim = FusedConfig::new(AdamW::default()).init()?;
//!
//! for _ in 0..3 {
//!     let loss = model.forward(Tensor::<2>::ones([8, 4], &device)).square().mean();
//!     let grads = GradientsParams::from_grads(loss.backward(), &model);
//!     model = optim.step(1e-3, model, grads);
//! }
//! # Ok::<(), fused_adam::Error>(())
//! ```
//!
//! [`FusedConfig`] makes burn's `ModuleOptimizer` from any rule of fused-adam. It works with burn's
//! training loops, its `Learner` and its checkpoints. Checkpoints contain the [states](FusedState),
//! and a resumed run continues bit for bit. To use different rules for several parameter groups,
//! build a [`Fused`] for each group.
//!
//! # Copies
//!
//! A step updates a parameter and its states in place, and reads the gradient without copying it.
//! It must copy a tensor if other owners share its memory, or if it is not in row-major order:
//!
//! - θ, if another owner shares the parameter, such as a clone of the model. burn's `Learner` does
//!   so in each step, because it steps a clone of its model;
//! - the states, in the first step after the optimizer was cloned or loaded;
//! - θ (in its first step) and a gradient (in each step) that is a transposed or expanded view.
//!
//! [`Fused::copied`] counts the bytes of all these copies.
//!
//! # Types and errors
//!
//! A step takes parameters of `f32`, `f64`, `bf16` and `f16` on flex. The states have the same
//! type, but `f32` for `f16` ([`FusedConfig::f32_states`] changes this), or are in 8 bits, by
//! [`FusedConfig::with_8bit_states`]. burn's trait has no way to return an error from a step, so
//! `ModuleOptimizer::step` panics with the message of a [`StepError`], before it writes to that
//! parameter. [`FusedConfig::init`] returns an error for hyper-parameters that are outside their
//! ranges. [`Fused::try_step`] returns all errors.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod config;
mod error;
mod memory;
mod optimizer;
mod state;

pub use config::FusedConfig;
pub use error::StepError;
pub use optimizer::Fused;
pub use state::FusedState;
