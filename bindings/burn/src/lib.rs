//! [fused-adam](fused_adam) as an optimizer for [burn](https://burn.dev) 0.22, on its CPU backend
//! flex. You change one line of your training loop.
//!
//! ```
//! use burn::module::Module;
//! use burn::nn::{Linear, LinearConfig};
//! use burn::optim::GradientsParams;
//! use burn::tensor::{Device, Tensor};
//! use fused_adam_burn::FusedConfig;
//! use fused_adam_burn::fused_adam::AdamW;
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
//! # Ok::<(), fused_adam_burn::fused_adam::Error>(())
//! ```
//!
//! [`FusedConfig`] makes burn's `ModuleOptimizer` from any rule of fused-adam. It works with burn's
//! training loops, its `Learner` and its checkpoints. Checkpoints contain the [states](FusedState),
//! and a resumed run continues bit for bit. To use different rules for several parameter groups,
//! build a [`Fused`] for each group. The rules are those of the crate [`fused_adam`], which this
//! crate re-exports.
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
//!
//! # Limits
//!
//! **One parameter at a time.** burn calls the optimizer once for each parameter:
//!
//! - `ModuleOptimizer::step` maps the module with a private `ModuleMapper`. Its `map_float` calls
//!   `DynOptimizer::step_dyn`, and that calls `Optimizer::step` with one θ, its gradient and its
//!   state, but without its id.
//! - `map_float` needs the new θ before burn visits the next parameter. So no call can wait for
//!   others, and a step cannot take several parameters in one parallel region, as
//!   [`step_all`](fused_adam::step_all) does, nor clip by the norm of all gradients.
//! - A type beside `ModuleOptimizer` would have to copy private code of burn: the fields of
//!   `OptimizerRecord`, the choice of the parameter group, and `ParameterContext`, which puts the
//!   autodiff settings of a parameter back. burn's `Learner` steps and saves a `ModuleOptimizer`,
//!   not a type of another crate.
//!
//! **Records that burn ignores.** burn finds the states of a parameter by its id, which is in the
//! record of the model. States of other ids are ignored, and such a parameter begins anew. burn's
//! own optimizers begin anew with a record of this crate. This crate cannot see either case.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod config;
mod error;
mod memory;
mod optimizer;
mod origin;
mod state;

pub use config::FusedConfig;
pub use error::StepError;
pub use fused_adam;
pub use optimizer::Fused;
pub use state::FusedState;

/// The README's example, run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
