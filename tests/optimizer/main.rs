//! The optimizer of many tensors: comparison with the reference on each tensor, errors, clipping,
//! skipping and schedules.

mod checkpoints;
#[path = "../common/mod.rs"]
mod common;
mod distributed;
mod eight_bits;
mod equality;
mod errors;
mod gradients;
mod outside;
mod saving;
mod schedules;
mod set_states;
mod step_all;
mod torchs_layout;

// Links to the compiled kernels.
use fused_adam_test_kernels as _;
