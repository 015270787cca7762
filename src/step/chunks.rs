//! A step on one thread or on many. The rows are stepped as a whole, or are cut into chunks that
//! any thread takes.
//!
//! The position of the cuts does not affect the bits, because each element is computed
//! independently.

#[cfg(feature = "parallel")]
use core::num::NonZeroUsize;

use crate::elements::rows::Rows;
#[cfg(feature = "parallel")]
use crate::threads::share::{self, Queue};

/// The threads that a step runs on, and how it is cut. The results have the same bits for all
/// variants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Parallelism {
    /// The default. Cuts long buffers into chunks and runs them on the threads of the caller's
    /// rayon pool, or on those given to `on_threads`. Buffers of less than 1 MiB of θ run on the
    /// calling thread. Without the feature `parallel`, everything runs on the calling thread.
    ///
    /// If the caller is not in a rayon pool, it works together with the global pool, and the step
    /// ends only after the global pool has run its share. If that pool is busy with long jobs, use
    /// a separate pool for steps, or [`Serial`](Self::Serial).
    #[default]
    Auto,
    /// Runs on the calling thread.
    Serial,
    /// Cuts the buffers into chunks of this many elements of θ, however short they are, and runs
    /// them on the same threads as [`Auto`](Self::Auto).
    #[cfg(feature = "parallel")]
    Chunks(NonZeroUsize),
}

impl Parallelism {
    /// Calls `step` on all rows, as a whole or in chunks.
    #[inline(always)]
    pub(super) fn each<'a, const N: usize>(
        self,
        rows: Rows<'a, N>,
        step: impl Fn(Rows<'a, N>) + Sync,
    ) {
        #[cfg(feature = "parallel")]
        if let Some(chunk) = self.chunk(&rows)
            && chunk < rows.len()
        {
            return in_chunks(chunk, rows, &step);
        }
        step(rows);
    }

    /// The number of rows in a chunk, or `None` for the calling thread alone.
    #[cfg(feature = "parallel")]
    fn chunk<const N: usize>(self, rows: &Rows<'_, N>) -> Option<usize> {
        match self {
            Parallelism::Serial => None,
            // Blocks of states in 8 bits are not cut.
            Parallelism::Chunks(chunk) => chunk.get().checked_next_multiple_of(rows.block()),
            Parallelism::Auto => {
                let bytes = rows.theta.dtype().bytes();
                let chunk = share::chunk_bytes(rows.len() * bytes)?;
                Some((chunk / bytes).next_multiple_of(rows.block()))
            }
        }
    }
}

/// Steps chunks of `chunk` rows each. The last one may be shorter.
#[cfg(feature = "parallel")]
fn in_chunks<'a, const N: usize>(
    chunk: usize,
    rows: Rows<'a, N>,
    step: &(impl Fn(Rows<'a, N>) + Sync),
) {
    let chunks = rows.len().div_ceil(chunk);
    let queue = Queue::new(rows, |rest: &mut Option<Rows<'a, N>>| {
        let rows = rest.take()?;
        if rows.len() <= chunk {
            return Some(rows);
        }
        let (next, after) = rows.split_at(chunk);
        *rest = Some(after);
        Some(next)
    });
    share::share(chunks, &|| queue.each(step));
}
