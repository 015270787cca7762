//! Work that is shared by many threads. Pieces wait in a queue. Every free thread of the pool takes
//! the next piece until none is left.
//!
//! The work runs in the rayon pool that the caller is in: the global pool, or that of a
//! `ThreadPool::install`. A caller that is in no pool works too, in place of one of the global
//! pool's threads. It could pass all work to the pool and sleep instead. But waking a thread takes
//! tens of microseconds. The pool's threads are woken one after the other, and the caller would be
//! woken last. A caller may also pass threads of its own to [`on_threads`](super::on_threads).

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, OnceLock, PoisonError};

use rayon::ThreadPoolBuilder;

use super::Threads;
use crate::float_mode;

/// A queue of work. Any thread may take the next piece.
pub(crate) struct Queue<T, F> {
    rest: Mutex<Option<T>>,
    next: F,
}

impl<T, P, F: Fn(&mut Option<T>) -> Option<P>> Queue<T, F> {
    /// A queue of the pieces of `all`. `next` takes a piece from the work that is left.
    pub fn new(all: T, next: F) -> Self {
        Queue { rest: Mutex::new(Some(all)), next }
    }

    /// Calls `work` with one piece after the other until the queue is empty.
    pub fn each(&self, mut work: impl FnMut(P)) {
        let next = || (self.next)(&mut self.rest.lock().unwrap_or_else(PoisonError::into_inner));
        while let Some(piece) = next() {
            work(piece);
        }
    }
}

/// Calls `work` on all threads of the pool, but on no more threads than there are pieces, and on
/// fewer if some are busy. Each call of `work` takes pieces until none is left.
///
/// A thread whose floating-point mode is not the default takes no piece. The caller has the default
/// mode, and takes what is left.
pub(crate) fn share(pieces: usize, work: &(impl Fn() + Sync)) {
    let threads = num_threads().min(pieces);
    let checked = || {
        if float_mode::is_default() {
            work();
        }
    };
    if threads > 1 {
        if let Some(own) = super::of_caller() {
            on_own(own, threads, &checked);
        } else if rayon::current_thread_index().is_some() {
            fork(threads, &checked);
        } else {
            rayon::in_place_scope(|scope| {
                scope.spawn(|_| fork(threads - 1, &checked));
                work();
            });
        }
    }
    work();
}

/// Calls `work` on the caller's own threads. Passes a panic of `work` on to the caller, whatever
/// the threads do with panics.
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

/// The number of threads that long steps of the caller run on: that of [`on_threads`], or of the
/// rayon pool that the caller is in, or of the global one. It is 1 if the system could not start
/// the global pool. Then all steps run on the calling thread.
///
/// [`on_threads`]: super::on_threads
pub fn num_threads() -> usize {
    match super::of_caller() {
        Some(own) => own.count(),
        None if has_pool() => rayon::current_num_threads(),
        None => 1,
    }
}

/// Whether the caller is in a pool, or there is a global one.
///
/// Rayon panics on every use of a global pool that could not be started, for instance where a
/// container limits the number of threads. So this starts it, once, and remembers the result.
fn has_pool() -> bool {
    static GLOBAL: OnceLock<bool> = OnceLock::new();
    let start = || match ThreadPoolBuilder::new().build_global() {
        Ok(()) => true,
        Err(error) if error.source().is_some() => false,
        // It was started before, or could not be: rayon does not say which.
        Err(_) => catch_unwind(rayon::current_num_threads).is_ok(),
    };
    rayon::current_thread_index().is_some() || *GLOBAL.get_or_init(start)
}

/// Calls `work` on this many threads of the rayon pool that the caller is in.
fn fork(threads: usize, work: &(impl Fn() + Sync)) {
    if threads <= 1 {
        return work();
    }
    rayon::join(|| fork(threads / 2, work), || fork(threads - threads / 2, work));
}

/// Below this many bytes of θ, a step runs on one thread: waking another costs more than it saves.
const SERIAL_BYTES: usize = 1 << 20;

/// The largest size of a chunk, in bytes of θ. If a thread is held up, others take its work.
const CHUNK_BYTES: usize = 1 << 20;

/// The smallest size of a chunk, in bytes of θ. A smaller one would not be worth its turn in the
/// queue.
const LEAST_CHUNK_BYTES: usize = 64 << 10;

/// The number of chunks for each thread. A thread that is woken late, or is slower, takes fewer.
const CHUNKS_PER_THREAD: usize = 4;

/// The size of a chunk in bytes of θ, a multiple of the cache line of 64 bytes, if θ has `bytes`
/// bytes. None if the step is to run on one thread.
pub(crate) fn chunk_bytes(bytes: usize) -> Option<usize> {
    let threads = if bytes < SERIAL_BYTES { 1 } else { num_threads() };
    (threads > 1).then(|| {
        let chunk = bytes.div_ceil(CHUNKS_PER_THREAD.saturating_mul(threads));
        chunk.clamp(LEAST_CHUNK_BYTES, CHUNK_BYTES).next_multiple_of(64)
    })
}
