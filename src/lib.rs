//! The Adam family on flat buffers, in **one fused pass**: each of θ, g, m and v is read once, and
//! θ, m and v are written once. Nothing is allocated that grows with them.
//!
//! Past the caches a step takes little longer than moving its bytes. And it gives **the same bits**
//! with every backend, instruction set, number of threads, chunk size, alignment, and split of the
//! buffers.
//!
//! # On plain slices
//!
//! ```
//! let adamw = fused_adam::AdamW { lr: 1e-2, ..Default::default() };
//! let (mut theta, grad) = (vec![0.5_f32; 1000], vec![1.0_f32; 1000]);
//! let (mut m, mut v) = (vec![0.0; 1000], vec![0.0; 1000]);
//!
//! adamw.step(1, &mut theta, &grad, [&mut m, &mut v])?;
//! # assert!((theta[0] - 0.48995).abs() < 1e-6);
//! # Ok::<(), fused_adam::Error>(())
//! ```
//!
//! # With the state kept for you
//!
//! ```
//! let (mut theta, grad) = (vec![0.5_f32; 1000], vec![1.0_f32; 1000]);
//! let mut opt = fused_adam::Flat::new(fused_adam::AdamW::default(), theta.len())?;
//!
//! opt.step(&mut theta, &grad)?;
//! # assert_eq!(opt.t(), 1);
//! # Ok::<(), fused_adam::Error>(())
//! ```
//!
//! # On bytes
//!
//! Buffers that hold bytes, such as a file or a mapped region, come in through [`bytemuck`], which
//! checks their length and alignment and copies nothing:
//!
//! ```
//! use fused_adam::{AdamW, bytemuck};
//! # let (mut words, grad, mut m, mut v) = ([0_u32; 4], [1.0; 4], [0.0; 4], [0.0; 4]);
//! # let region: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
//!
//! let theta: &mut [f32] = bytemuck::try_cast_slice_mut(region)?; // region: &mut [u8]
//! AdamW::default().step(1, theta, &grad, [&mut m, &mut v])?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # For many tensors
//!
//! [`Optimizer`] holds named parameters in groups and steps them all in one parallel region; it
//! clips, scales, skips and schedules. With the feature `checkpoint` it is saved to safetensors
//! files and goes on from them to the bit.
//!
//! ```
//! use fused_adam::{AdamW, ClipNorm, GroupId, Optimizer, Tensor};
//! # let (mut w, grad) = ([0.5_f32; 6], [1.0_f32; 6]);
//!
//! let mut opt = Optimizer::new(AdamW::default())?;
//! opt.options.clip_norm = Some(ClipNorm::Two(1.0));
//! opt.add::<f32>(GroupId::default(), "w", w.len())?;
//! let report = opt.step([Tensor::new("w", &mut w, &grad)])?;
//! # assert!(report.clip_factor < 0.5);
//! # Ok::<(), fused_adam::Error>(())
//! ```
//!
//! # In 16 bits
//!
//! Any of `f32`, [`bf16`] and [`struct@f16`] may hold θ, the gradient and the states; all are
//! computed in `f32`. [`Step::run_mixed`] takes types that differ, [`Step::run_with_copy`] writes
//! the new θ of master weights a second time in 16 bits, and [`Rounding`] is to the nearest or
//! stochastic, with random bits that depend on nothing but seed, step and element.
//!
//! ```
//! use fused_adam::{AdamW, Flat, Rounding, bf16};
//! # let (mut theta, grad) = (vec![bf16::ONE; 1000], vec![bf16::ONE; 1000]);
//!
//! let mut opt = Flat::<_, bf16>::new(AdamW::default(), theta.len())?
//!     .with_rounding(Rounding::Stochastic { seed: 1 });
//! opt.step(&mut theta, &grad)?;
//! # Ok::<(), fused_adam::Error>(())
//! ```
//!
//! # Three axes
//!
//! A [`Rule`] says what happens to one element: one of the crate's, [`AnyRule`] of them, or
//! [one of your own](rules). An [`Element`] is what a buffer stores. A [`Backend`] is how many
//! elements are computed at once, and a [`Schedule`] on which threads. [`Step`] puts them together
//! for a call:
//!
//! ```text
//! hyper-parameters (f64, checked)
//!   → coefficients of step t (in f64, each rounded once)
//!     → kernel (one fused pass over the slices)
//!       → backend (scalar | wide | native), in chunks on rayon's threads or not
//!         → rule (the arithmetic of one element)
//! ```
//!
//! # Features
//!
//! - `parallel` (default): long buffers are stepped on the threads of the caller's rayon pool, or
//!   on others by `on_threads`.
//! - `checkpoint`: an [`Optimizer`]'s states in safetensors files.

#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![cfg_attr(docsrs, feature(doc_cfg))]

// Each module imports from those below it: `tests/suite/layers.rs` has their order.
mod elements;
mod error;
mod norm;
mod simd;
#[cfg(feature = "parallel")]
mod threads;
#[macro_use]
pub mod rules;
mod optimizer;
mod step;

pub use bytemuck;
pub use elements::rounding::Rounding;
pub use elements::{Element, Half};
pub use error::Error;
pub use half::{bf16, f16};
pub use norm::GradNorm;
#[cfg(feature = "checkpoint")]
pub use optimizer::checkpoint::{CheckpointError, CheckpointReader, CheckpointWriter};
pub use optimizer::{
    ClipNorm, GroupId, Key, Lent, LossScale, LrSchedule, Optimizer, ParamId, Report, StepOptions,
    Tensor, step_all,
};
pub use rules::all::*;
pub use rules::{AnyRule, Kernel, Rule, State, WithKernel};
pub use simd::dispatch::Backend;
pub use simd::{Float, Lanes, Real};
pub use step::{Flat, Schedule, Step};
#[cfg(feature = "parallel")]
pub use threads::{Threads, on_threads};

/// The README's examples, run as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
