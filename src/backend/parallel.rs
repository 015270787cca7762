//! Any backend on many threads: chunks of the buffers wait in a line, and every free thread of the
//! pool takes the next one until none is left.
//!
//! Where the cuts fall never shows in the bits, since no element looks at another. This runs in
//! the pool that the caller is in: the global one, or that of a `ThreadPool::install`. A caller
//! that is in no pool works too, in place of one of the global pool's threads. It could hand all
//! to the pool and sleep, but to wake a thread takes tens of microseconds, and then it would be
//! woken after the others, and they one after the other. A caller may also bring threads of its own ([`threads`]).

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, PoisonError};

use super::columns::Table;
use crate::threads::{self, Threads};

/// Steps `table` in chunks of `chunk` rows (the last one shorter), each by `step`.
pub(crate) fn sweep<T: Table>(chunk: usize, step: &(impl Fn(T) + Sync), table: T) {
    if table.len() <= chunk {
        return step(table);
    }
    let chunks = table.len().div_ceil(chunk);
    let line = Line::new(table, |rest: &mut Option<T>| {
        let table = rest.take()?;
        if table.len() <= chunk {
            return Some(table);
        }
        let (next, after) = table.split_at(chunk);
        *rest = Some(after);
        Some(next)
    });
    share(chunks, &|| line.each(step));
}

/// Work that any thread may take the next piece of.
pub(crate) struct Line<T, F> {
    rest: Mutex<Option<T>>,
    next: F,
}

impl<T, P, F: Fn(&mut Option<T>) -> Option<P>> Line<T, F> {
    /// `next` takes a piece off what is left.
    pub fn new(all: T, next: F) -> Self {
        Line { rest: Mutex::new(Some(all)), next }
    }

    /// Does pieces for as long as there are any.
    pub fn each(&self, mut work: impl FnMut(P)) {
        let next = || (self.next)(&mut self.rest.lock().unwrap_or_else(PoisonError::into_inner));
        while let Some(piece) = next() {
            work(piece);
        }
    }
}

/// Has `work` done on as many threads as the pool has, but no more than there are pieces, or fewer if
/// others are busy: each call of it is to take its share of what is to be done, down to nothing.
pub(crate) fn share(pieces: usize, work: &(impl Fn() + Sync)) {
    let threads = num_threads().min(pieces);
    if let Some(own) = threads::of_caller() {
        if threads > 1 {
            on_own(own, threads, work);
        }
        // What they may have left.
        return work();
    }
    if rayon::current_thread_index().is_some() || threads <= 1 {
        return crew(threads, work);
    }
    rayon::in_place_scope(|scope| {
        scope.spawn(|_| crew(threads - 1, work));
        work();
    });
}

/// A panic is handed on to the caller, whatever its threads do with panics.
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

fn num_threads() -> usize {
    threads::of_caller().map_or_else(rayon::current_num_threads, |own| own.count())
}

fn crew(threads: usize, work: &(impl Fn() + Sync)) {
    if threads <= 1 {
        return work();
    }
    rayon::join(|| crew(threads / 2, work), || crew(threads - threads / 2, work));
}

/// Below this many bytes of θ, waking another thread costs more than it saves.
pub(crate) const SERIAL_BYTES: usize = 1 << 20;

/// The most bytes of θ in a chunk, so that a thread that is held up leaves work to others.
const CHUNK_BYTES: usize = 1 << 20;

/// The fewest, so that a chunk is worth its turn in the line.
const LEAST_CHUNK_BYTES: usize = 64 << 10;

/// Chunks for each thread: one that is woken late, or is slower, takes fewer.
const CHUNKS_PER_THREAD: usize = 4;

/// Steps `table` on one thread if it is short, else in chunks.
pub(crate) fn auto<T: Table>(step: &(impl Fn(T) + Sync), table: T) {
    let bytes = table.theta_bytes();
    match auto_chunk_bytes(table.len() * bytes) {
        Some(chunk) => sweep(chunk / bytes, step, table),
        None => step(table),
    }
}

/// Bytes of θ in a chunk, of `bytes` in all: whole cache lines; none for a single thread.
pub(crate) fn auto_chunk_bytes(bytes: usize) -> Option<usize> {
    let threads = if bytes < SERIAL_BYTES { 1 } else { num_threads() };
    (threads > 1).then(|| {
        let chunk = bytes.div_ceil(CHUNKS_PER_THREAD.saturating_mul(threads));
        chunk.clamp(LEAST_CHUNK_BYTES, CHUNK_BYTES).next_multiple_of(64)
    })
}
