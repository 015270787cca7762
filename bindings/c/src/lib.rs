//! fused-adam for C and C++. `include/fused_adam.h` describes the functions. cbindgen generates it
//! from the comments of this crate. The arithmetic of the rules is in the core crate only.
//!
//! Every call works in the same way: `status::guarded` catches panics, `buffers` checks the
//! pointers and makes slices of them, the core takes the step, and an error becomes a
//! [`FusedAdamStatus`] and a message.

#![warn(missing_docs)]

mod buffers;
mod checkpoint;
mod locks;
mod lr_schedule;
mod optimizer;
mod options;
mod program_threads;
mod rule;
mod scalars;
mod settings;
mod split;
mod state;
mod status;
mod step;
mod step_one;
mod tensors;
mod text;
mod threads;
mod version;

pub use buffers::FusedAdamType;
pub use checkpoint::{FusedAdamExtraTensor, fused_adam_optimizer_load, fused_adam_optimizer_save};
pub use lr_schedule::*;
pub use optimizer::*;
pub use options::*;
pub use program_threads::{FusedAdamRun, FusedAdamWork};
pub use rule::*;
pub use scalars::*;
pub use settings::*;
pub use split::*;
pub use state::*;
pub use status::{
    FusedAdamStatus, fused_adam_last_error, fused_adam_last_status, fused_adam_status_name,
};
pub use step::*;
pub use step_one::*;
pub use tensors::*;
pub use threads::*;
pub use version::*;

// A panic must become `FUSED_ADAM_STATUS_PANIC`. With `abort` it would end the program.
#[cfg(not(panic = "unwind"))]
compile_error!("fused-adam-c needs `panic = \"unwind\"` in its profile");
