//! The border: what Python's arrays are in memory, and slices of it. All `unsafe` code is in here.
//!
//! A [`View`] says where an array's elements are (`view`). It is read from an object by the cheapest door that it has:
//! torch's table of C functions for DLPack, NumPy's array structure, or a DLPack capsule (`read`).
//! Views become slices only in [`with_slices`], after all of a call have been found not to overlap
//! (`lend`). And torch's threads are a border too (`threads`).

mod lend;
mod read;
mod threads;
mod view;

pub use lend::{Slot, with_slices};
pub use read::{Exchange, held, refuse_negated};
pub use threads::{of_torch, use_torch_threads};
pub use view::View;
