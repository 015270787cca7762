//! Optimizer steps of the Adam family on flat buffers, in **one fused pass**.
//!
//! A step reads each of θ, g, m and v once, and writes θ, m and v once. It makes no other pass and
//! no copy. A step on slices allocates nothing that grows with the buffers. Out of cache, a step
//! takes little longer than moving its bytes; the README has the measurements.
//!
//! A step gives **the same bits** on every backend, instruction set, number of threads, chunk size,
//! alignment, and split of the buffers. Any two NaNs count as the same bits.
//!
//! θ is the buffer of parameters, and g is the gradient. m and v are the states of Adam: moving
//! averages of the gradient and of its square.
//!
//! # Steps on slices
//!
//! You keep the states, and pass the step number, from 1 on. See [`Step`] for options such as the
//! backend.
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
//! # Steps with the states kept for you
//!
//! [`Flat`] keeps the states of one flat buffer, and counts the steps.
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
//! # Steps on bytes
//!
//! For buffers of bytes, such as a file or a mapped region, use [`bytemuck`]. It casts bytes to a
//! slice of elements, checks length and alignment, and copies nothing:
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
//! # Steps of many tensors
//!
//! [`Optimizer`] keeps the states of named parameters in groups, and steps all of them in one
//! parallel region. It clips gradients, supports a loss scale, skips steps whose gradients are not
//! finite, and has learning-rate schedules. A gradient norm takes one more pass over the gradients.
//! With the feature `checkpoint` it saves to safetensors files and resumes from them to the bit. If
//! you keep the states yourself, use [`step_all`].
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
//! # Several processes
//!
//! Each process steps its shard of the parameters, with states for the shard only. The result has
//! the bits of one process:
//!
//! - [`step_all_distributed`] and [`Optimizer::step_distributed`] clip by the norm of all
//!   processes. They need one exchange, which you provide: an all-gather, such as MPI's. All
//!   processes take the step, all skip it, or all fail.
//! - [`ParamMut::with_offset`] and [`ParamMut::with_shard`] give a shard the random bits of the
//!   whole tensor. [`Shard`] also describes columns and interleaved rows.
//! - [`GradNorm::to_bytes`] and [`GradNorm::merge`] are for programs that compute the norm
//!   themselves.
//!
//! `examples/mpi` in the repository trains over MPI, with a checkpoint for any number of processes.
//!
//! # Element types
//!
//! θ, the gradient and the states are each `f32`, [`bf16`] or [`struct@f16`], in any mixture, or
//! all are `f64`. A step computes in `f64` for `f64`, else in `f32`.
//!
//! - [`Step::run_mixed`] takes buffers of different types.
//! - [`Step::run_with_copy`] updates `f32` master weights, and writes the new θ a second time in 16
//!   bits, in the same pass.
//! - [`Step::run_split`] updates master weights that are split in `bf16` parameters and a
//!   [`Correction`] of 8 or 16 bits: 3 or 4 bytes, instead of 6 for `f32` and a copy.
//! - [`Rounding`] to 16 bits is to nearest or stochastic. The random bits depend only on the seed,
//!   the step number, the element and the buffer.
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
//! # States in 8 bits
//!
//! The states of `f32`, [`bf16`] and [`struct@f16`] parameters can also be [`Block8`]: 33 bytes for
//! 32 elements, so 2.06 bytes a parameter for m and v instead of 8. A step decodes, computes in
//! `f32`, and encodes in the same pass. The rounding is stochastic, so the averages follow those
//! in `f32`: rounded to nearest, they would stall.
//!
//! ```
//! use fused_adam::{AdamW, Block8, GroupId, Optimizer, Tensor};
//! # let (mut w, grad) = (vec![0.5_f32; 6000], vec![1.0_f32; 6000]);
//!
//! let mut opt = Optimizer::new(AdamW::default())?;
//! opt.add_mixed::<f32, f32, Block8>(GroupId::default(), "w", w.len())?;
//! opt.step([Tensor::new("w", &mut w, &grad)])?;
//! # Ok::<(), fused_adam::Error>(())
//! ```
//!
//! - [`Optimizer::add_8bit`] leaves small parameters in `f32`, as other libraries do.
//! - Parts of a tensor begin with a block: at a multiple of 32. Other offsets are an error.
//! - Checkpoints store the blocks, and resume to the bit. `f32` states can be loaded as 8-bit
//!   states, and the other way round.
//! - An infinite or NaN gradient makes a whole block NaN. Use `skip_nonfinite` or a loss scale.
//! - The bindings have them too: `state="8bit"` in PyTorch, `set_8bit_states` in candle,
//!   `with_8bit_states` in burn, `Block8` in ndarray, and `FUSED_ADAM_TYPE_BLOCK8` in C.
//! - `docs/states-in-8-bits.md` compares memory, speed and training with `f32` and other libraries.
//!
//! # Defaults for 16-bit parameters
//!
//! `f16` has too narrow a range for a mean square, so states are `f32` wherever you have not chosen
//! a type. `bf16` has the range of `f32`. Nothing scales the loss unless you say so: gradients of
//! `f16` below 6e-8 are 0, and those above 65504 are infinite.
//!
//! | | states of `f16` parameters | loss scale |
//! |---|---|---|
//! | [`Step`], [`step_all`] | the type of the slices | the caller's, by `grad_scale` |
//! | [`Flat<R, S>`](Flat) | `S` | the caller's, by `grad_scale` |
//! | [`Optimizer::add`] | `f32` | none, or [`Optimizer::grad_scaler`] |
//! | [`Optimizer::add_mixed`] | the type named | none, or [`Optimizer::grad_scaler`] |
//! | PyTorch | `float32` (torch has `float16`) | none, or `torch.amp.GradScaler` |
//! | candle | `f32` | none, or `grad_scaler` |
//! | burn | `f32`, or `f16` by `with_f32_states(false)` | none |
//! | ndarray | the type of `States` | the caller's, by `grad_scale` |
//! | C | `state_type` | none, or `fused_adam_optimizer_set_grad_scaler` |
//!
//! Parameters stay in their type and are rounded to nearest, unless [`Rounding`] says otherwise. A
//! step smaller than half a unit of the last place changes nothing then: for `bf16`, a relative
//! change below 1/512. Use [`Rounding::Stochastic`], master weights that are split in `bf16` and a
//! [`Correction`] ([`Step::run_split`]), or `f32` master weights ([`Step::run_with_copy`]).
//!
//! # How the parts fit together
//!
//! - A [`Rule`] is an optimizer's update rule with its hyper-parameters: one of the crate's, an
//!   [`AnyRule`], or [one of your own](rules).
//! - An [`Element`] is the type that a buffer stores, and a [`StateElement`] the type of a state.
//! - A [`Backend`] selects the instructions, and so how many elements are computed at once.
//! - A [`Parallelism`] selects the threads.
//! - A [`Kernel`] is the arithmetic of a rule on one element, with the coefficients of one step.
//!
//! A call of [`Step::run`] combines them:
//!
//! ```text
//! rule (hyper-parameters in f64): checked
//!   → kernel of step t: coefficients, computed in f64, each rounded once
//!     → chunks of the buffers: on a thread pool, or all on the calling thread
//!       → backend: one fused pass over each chunk (scalar | wide | native)
//!         → kernel: the arithmetic of one element
//! ```
//!
//! # Public fields
//!
//! Rules and [`StepOptions`] are plain data with public fields. Setting a field checks nothing. The
//! values are checked when they are used, before the first write.
//!
//! A minor version may add fields. So construct these types with `..Default::default()`, and end
//! patterns that match them with `..`:
//!
//! ```
//! use fused_adam::{AdamW, StepOptions};
//!
//! let adamw = AdamW { lr: 1e-2, weight_decay: 0.1, ..Default::default() };
//! let options = StepOptions { clip_value: Some(1.0), ..Default::default() };
//! # assert_eq!((adamw.beta1, options.grad_scale), (0.9, 1.0));
//! ```
//!
//! The default of a new field keeps the bits, since a change of bits is a breaking change.
//!
//! # Features
//!
//! - `parallel` (default): steps long buffers on the caller's rayon pool, or on the threads that
//!   you pass to `on_threads`. Without it, every step runs on the calling thread, and
//!   `Parallelism::Chunks`, `Threads` and `on_threads` do not exist.
//! - `serde`: implements serde's `Serialize` and `Deserialize` for rules and options: every rule,
//!   [`AnyRule`], [`StepOptions`], [`ClipNorm`], [`GradScaler`], [`LrSchedule`], [`Backend`],
//!   [`Parallelism`] and [`Rounding`].
//! - `checkpoint`: saves an [`Optimizer`] to safetensors files, and loads them. Implies `serde`.

#![forbid(unsafe_code)]
#![warn(missing_docs, missing_debug_implementations)]
#![cfg_attr(docsrs, feature(doc_cfg))]
// Other targets have no native registers. The loops over them, which are in several
// modules, are not used there.
#![cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(dead_code))]

// A module imports only from modules below it. `tests/suite/layers.rs` has the order and checks it.
mod elements;
mod error;
mod float_mode;
mod norm;
mod simd;
#[cfg(feature = "parallel")]
mod threads;
#[macro_use]
pub mod rules;
mod optimizer;
mod step;

pub use bytemuck;
pub use elements::block8::Block8;
pub use elements::rounding::Rounding;
pub use elements::split::Correction;
pub use elements::{Element, Half, StateElement};
pub use error::Error;
pub use half::{bf16, f16};
pub use norm::GradNorm;
#[cfg(feature = "checkpoint")]
pub use optimizer::checkpoint::{CheckpointError, CheckpointReader, CheckpointWriter};
pub use optimizer::{
    ClipNorm, GradScaler, GroupId, LrSchedule, Optimizer, ParamId, ParamKey, ParamMut, Report,
    Shard, StepOptions, Tensor, failed_step, step_all, step_all_distributed,
};
pub use rules::all::*;
pub use rules::{AnyRule, Kernel, KernelVisitor, Rule, State};
pub use simd::dispatch::Backend;
pub use simd::{Float, Lanes, Real};
pub use step::{Flat, Parallelism, Step};
#[cfg(feature = "parallel")]
pub use threads::share::num_threads;
#[cfg(feature = "parallel")]
pub use threads::{Threads, on_threads};

/// Runs the README's examples as doc tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
