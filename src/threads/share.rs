//! Work that is shared by many threads: pieces wait in a queue, and every free thread of the pool
//! takes the next one until none is left.
//!
//! This runs in the pool that the caller is in: the global one, or that of a `ThreadPool::install`.
//! A caller that is in no pool works too, in place of one of the global pool's threads. It could
//! pass all to the pool and sleep, but to wake a thread takes tens of microseconds, and then it
//! would be woken after the others, and they one after the other. A caller may also bring threads
//! of its own ([`on_threads`](super::on_threads)).

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, PoisonError};

use super::Threads;

/// Work that any thread may take the next piece of.
pub(crate) struct Queue<T, F> {
    rest: Mutex<Option<T>>,
    next: F,
}

impl<T, P, F: Fn(&mut Option<T>) -> Option<P>> Queue<T, F> {
    /// `next` takes a piece off what is left.
    pub fn new(all: T, next: F) -> Self {
        Queue { rest: Mutex::new(Some(all)), next }
    }

    /// Does pieces for as long as there are any.
    pub fn each(&self, mut work: impl FnMut(P)) {
        let next = || (self.next)(&mut self.rest.lock().unwrap_or_else(PoisonError::into_inner));
        while let Some(piece) = next() {
            work(piece);
        }
    }
}

/// Calls `work` on as many threads as the pool has, but no more than there are pieces, or on fewer
/// if others are busy. Each call takes its share of what there is to do, until nothing is left.
pub(crate) fn share(pieces: usize, work: &(impl Fn() + Sync)) {
    let threads = num_threads().min(pieces);
    if let Some(own) = super::of_caller() {
        if threads > 1 {
            on_own(own, threads, work);
        }
        // What they may have left.
        return work();
    }
    if rayon::current_thread_index().is_some() || threads <= 1 {
        return fork(threads, work);
    }
    rayon::in_place_scope(|scope| {
        scope.spawn(|_| fork(threads - 1, work));
        work();
    });
}

/// A panic is passed on to the caller, whatever its threads do with panics.
fn on_own(own: &dyn Threads, threads: usize, work: &(impl Fn() + Sync)) {
    let panic = Mutex::new(None);
    own.run(threads, &|| {
        if let Err(of_work) = catch_unwind(AssertUnwindSafe(work)) {
            panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(of_work);
        }
    });
    if let Some(panic) = panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
        resume_unwind(panic);
    }
}

pub(crate) fn num_threads() -> usize {
    super::of_caller().map_or_else(rayon::current_num_threads, |own| own.count())
}

fn fork(threads: usize, work: &(impl Fn() + Sync)) {
    if threads <= 1 {
        return work();
    }
    rayon::join(|| fork(threads / 2, work), || fork(threads - threads / 2, work));
}

/// Below this many bytes of θ, waking another thread costs more than it saves.
const SERIAL_BYTES: usize = 1 << 20;

/// The most bytes of θ in a chunk, so that a thread that is held up leaves work to others.
const CHUNK_BYTES: usize = 1 << 20;

/// The fewest, so that a chunk is worth its turn in the queue.
const LEAST_CHUNK_BYTES: usize = 64 << 10;

/// Chunks for each thread: one that is woken late, or is slower, takes fewer.
const CHUNKS_PER_THREAD: usize = 4;

/// Bytes of θ in a chunk, of `bytes` in all: whole cache lines; none for a single thread.
pub(crate) fn chunk_bytes(bytes: usize) -> Option<usize> {
    let threads = if bytes < SERIAL_BYTES { 1 } else { num_threads() };
    (threads > 1).then(|| {
        let chunk = bytes.div_ceil(CHUNKS_PER_THREAD.saturating_mul(threads));
        chunk.clamp(LEAST_CHUNK_BYTES, CHUNK_BYTES).next_multiple_of(64)
    })
}
