//! Copies between arrays that lie in different orders: halved along the longest axis until a tile is
//! small. A tile's elements lie in few cache lines on both sides, so each line is moved once, where a copy row by row of a
//! transposed array would move it once for each of its elements.

use ndarray::{ArrayViewD, ArrayViewMutD, Axis};
#[cfg(feature = "parallel")]
use rayon::join;

/// Elements of a tile.
const TILE: usize = 1024;

/// Elements that are worth a second thread.
const TASK: usize = 1 << 15;

/// Copies all elements to an array of the same shape: on the threads of the caller's rayon pool if
/// it is to be `parallel` and there are many.
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
    // Powers of two keep most tiles on whole cache lines.
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

/// There are no other threads.
#[cfg(not(feature = "parallel"))]
fn join(first: impl FnOnce(), rest: impl FnOnce()) {
    first();
    rest();
}
