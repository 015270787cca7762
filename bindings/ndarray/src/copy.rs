//! Copies between arrays with different memory orders. The copy recursively splits the longest axis
//! until a tile is small. The elements of a tile are in few cache lines on both sides, so each line
//! is loaded once. A row-by-row copy of a transposed array would load a line once for each of its
//! elements.

use ndarray::{ArrayViewD, ArrayViewMutD, Axis};
#[cfg(feature = "parallel")]
use rayon::join;

/// The number of elements in a tile.
const TILE: usize = 1024;

/// The number of elements from which a second thread is worth its cost.
const TASK: usize = 1 << 15;

/// Copies all elements to an array of the same shape. If `parallel` is set and there are many, it
/// uses the threads of the caller's rayon pool.
pub fn copy<T: Copy + Send + Sync>(
    from: ArrayViewD<'_, T>,
    mut to: ArrayViewMutD<'_, T>,
    parallel: bool,
) {
    let len = to.len();
    if len <= TILE {
        to.assign(&from);
        return;
    }
    let longest = to.shape().iter().enumerate().max_by_key(|(_, len)| **len);
    let (axis, len_of) = longest.map_or((0, 1), |(axis, &len)| (axis, len));
    // With powers of two, most tiles start and end at cache lines.
    let middle = (len_of / 2).next_power_of_two();
    let (from, from_rest) = from.split_at(Axis(axis), middle);
    let (to, to_rest) = to.split_at(Axis(axis), middle);
    let first = || copy(from, to, parallel);
    let rest = || copy(from_rest, to_rest, parallel);
    if parallel && len > TASK {
        join(first, rest);
    } else {
        first();
        rest();
    }
}

/// Without other threads.
#[cfg(not(feature = "parallel"))]
fn join(first: impl FnOnce(), rest: impl FnOnce()) {
    first();
    rest();
}
