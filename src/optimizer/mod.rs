//! Steps of many tensors. An optimizer scales and clips the gradients, skips steps with gradients
//! that are not finite, schedules the learning rate, and steps all tensors in one parallel region.
//!
//! From the caller down: [`owner`] owns the states, and [`mod@step_all`] borrows them. Both build a
//! [`step_plan`], which checks all arguments and computes the norm. [`pass`] is the parallel
//! region. It works in pieces that [`pieces`] cuts. Each piece is stepped by the same function as
//! the single tensor of a [`Step`](crate::Step): [`step_rows`](crate::step::select::step_rows).

#[cfg(feature = "checkpoint")]
pub(crate) mod checkpoint;
mod grad_scaler;
mod lr_schedule;
mod message;
mod options;
mod owner;
mod param;
mod pass;
#[cfg(feature = "parallel")]
mod pieces;
mod set_states;
mod shard;
mod states;
mod step_all;
mod step_plan;
mod tensor;

pub use grad_scaler::GradScaler;
pub use lr_schedule::LrSchedule;
pub use message::failed_step;
pub use options::{ClipNorm, Report, StepOptions};
pub use owner::Optimizer;
pub use param::{GroupId, ParamId};
pub use shard::Shard;
pub use step_all::{ParamMut, step_all, step_all_distributed};
pub use tensor::{ParamKey, Tensor};
