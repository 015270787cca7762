//! Steps of many tensors: an optimizer clips, scales, skips and schedules, and steps all of them in
//! one parallel region.
//!
//! From the caller down: [`owner`] keeps the states and [`lent`] borrows them; both make a
//! [`call`], which checks everything and takes the norm; [`pass`] is the parallel region, in pieces
//! that [`pieces`] cuts. Each piece ends in the same function as a [`Step`](crate::Step) on one
//! tensor, [`sweep`](crate::step::sweep::sweep).

mod call;
#[cfg(feature = "checkpoint")]
pub(crate) mod checkpoint;
mod lent;
mod loss_scale;
mod lr_schedule;
mod options;
mod owner;
mod param;
mod pass;
#[cfg(feature = "parallel")]
mod pieces;
mod states;
mod tensor;

pub use lent::{Lent, step_all};
pub use loss_scale::LossScale;
pub use lr_schedule::LrSchedule;
pub use options::{ClipNorm, Report, StepOptions};
pub use owner::Optimizer;
pub use param::{GroupId, ParamId};
pub use tensor::{Key, Tensor};
