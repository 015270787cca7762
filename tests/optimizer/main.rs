//! The optimizer of many tensors: against stepping each tensor alone with the reference, and what
//! it refuses, clips, skips and schedules.

mod checkpoints;
#[path = "../common/mod.rs"]
mod common;
mod equality;
mod errors;
mod gradients;
mod lent;
mod outside;
mod schedules;
mod torchs_layout;
