//! [fused-adam](fused_adam) as an optimizer of [burn](https://burn.dev) 0.22, on its CPU backend
//! flex: one line of a training loop changes.
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
//! [`FusedConfig`] takes every rule of fused-adam and makes burn's `ModuleOptimizer` of it, which is
//! what burn's loops, its `Learner` and its checkpoints work with: they save and load its
//! [states](FusedState), and a run that was resumed goes on to the bit. [`Fused`] is what it is made
//! of, for one parameter group of several.
//!
//! # What is copied
//!
//! A parameter and its states are stepped where they lie, and a gradient is read where it lies. A copy is
//! made where burn has handed out memory that may not be written, or that is not in row order:
//!
//! - of θ, if something else still holds the parameter: a clone of the model, say. So does burn's
//!   `Learner`, in each step, since it steps a clone of its model;
//! - of the states, if the optimizer was cloned or has just been loaded, in the first step thereafter;
//! - of θ (in its first step) and of a gradient (in each) that is a transposed or an expanded view.
//!
//! [`Fused::copied`] counts the bytes of all these.
//!
//! # What a step may be called with
//!
//! Parameters of `f32`, `f64`, `bf16` and `f16` on flex; the states are of the same type, or `f32`
//! for those of 16 bits ([`FusedConfig::f32_states`]). burn's trait leaves no way to return an error
//! from a step: `ModuleOptimizer::step` panics with the message of a [`StepError`], before anything of
//! that parameter is written. What can be known before, the hyper-parameters, [`FusedConfig::init`]
//! checks, and returns an error. [`Fused::try_step`] returns all of them.

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
