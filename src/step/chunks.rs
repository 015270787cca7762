//! A step on one thread or on many: rows are stepped whole, or cut into chunks that any thread
//! takes.
//!
//! Where the cuts fall never shows in the bits, since no element looks at another.

#[cfg(feature = "parallel")]
use core::num::NonZeroUsize;

use crate::elements::rows::Rows;
#[cfg(feature = "parallel")]
use crate::threads::share::{self, Queue};

/// On which threads a step runs, and how it is cut. The bits are the same for all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Schedule {
    /// Long buffers in chunks on the threads of the caller's rayon pool (or on others, by
    /// `on_threads`), short ones on the calling thread; without the feature `parallel` always on
    /// the calling thread. The default.
    ///
    /// A caller that is in no pool works too, beside the global one, and the step ends when that
    /// has had its turn: where the pool is busy with long jobs, a pool for steps or
    /// [`Serial`](Self::Serial) serves better.
    #[default]
    Auto,
    /// On the calling thread.
    Serial,
    /// In chunks of this many elements on the same threads, however short the buffers.
    #[cfg(feature = "parallel")]
    Chunks(NonZeroUsize),
}

impl Schedule {
    /// Steps all rows by `step`, whole or in chunks.
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

    /// Rows in a chunk; none for the calling thread alone.
    #[cfg(feature = "parallel")]
    fn chunk<const N: usize>(self, rows: &Rows<'_, N>) -> Option<usize> {
        match self {
            Schedule::Serial => None,
            Schedule::Chunks(chunk) => Some(chunk.get()),
            Schedule::Auto => {
                let bytes = rows.theta.dtype().bytes();
                share::chunk_bytes(rows.len() * bytes).map(|chunk| chunk / bytes)
            }
        }
    }
}

/// Steps chunks of `chunk` rows, the last one shorter.
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
