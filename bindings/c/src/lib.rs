//! fused-adam for C and C++. The functions are described in `include/fused_adam.h`, which cbindgen
//! makes from the comments here; nothing of a rule's arithmetic is in this package.
//!
//! A call goes the same way everywhere: `status::guarded` keeps panics on this side, `buffers`
//! makes slices of pointers that have passed its checks, the core takes the step, and what went
//! wrong becomes a [`FusedAdamStatus`] and a message.

#![warn(missing_docs)]

mod buffers;
mod checkpoint;
mod optimizer;
mod options;
mod rule;
mod status;
mod step;
mod tensors;
mod text;
mod threads;
mod version;

pub use buffers::FusedAdamType;
pub use checkpoint::{FusedAdamKept, fused_adam_optimizer_load, fused_adam_optimizer_save};
pub use optimizer::*;
pub use options::*;
pub use rule::*;
pub use status::{
    FusedAdamStatus, fused_adam_last_error, fused_adam_last_status, fused_adam_status_name,
};
pub use step::*;
pub use tensors::*;
pub use threads::{fused_adam_set_threads, fused_adam_threads};
pub use version::*;

// A panic is to become `FUSED_ADAM_STATUS_PANIC`, and with `abort` it would end the program.
#[cfg(not(panic = "unwind"))]
compile_error!("fused-adam-c needs `panic = \"unwind\"` in its profile");
