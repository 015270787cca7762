//! Access to the memory of Python's arrays. All `unsafe` code of this crate is here.
//!
//! A [`View`] describes an array's elements in memory (`view`). It is read from an object by the
//! cheapest available interface: torch's table of C functions for DLPack, NumPy's array structure,
//! or a DLPack capsule (`read`). Only [`with_slices`], [`encode`], [`decode`], [`split`] and
//! [`join`] make slices of views, after a check that no views of a call overlap (`reborrow`). The
//! interface to torch's threads is in `threads`.

mod read;
mod reborrow;
mod threads;
mod view;

pub use read::{Exchange, OwnedView, held, refuse_negated};
pub use reborrow::{Overlap, StepTensor, decode, encode, join, split, with_slices};
pub use threads::{of_torch, use_torch_threads};
pub use view::{Kind, View, shape_of_blocks};
