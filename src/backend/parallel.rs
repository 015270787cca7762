//! Any backend on many threads: the buffers are cut into chunks, and rayon's threads take them.
//!
//! Where the cuts fall never shows in the bits, since no element looks at another. Work is halved
//! until a piece is one chunk long, and an idle thread steals half of what is left. This runs in
//! the pool that the caller is in: the global one, or that of a `ThreadPool::install`.

use super::{Buffers, Engine};
use crate::{Element, Kernel};

/// Steps `buffers` in chunks of `chunk` elements (the last one shorter).
pub(crate) fn sweep<E: Element, K: Kernel<E, N>, const N: usize>(
    engine: Engine,
    chunk: usize,
    kernel: &K,
    buffers: Buffers<'_, E, N>,
) {
    let chunks = buffers.len().div_ceil(chunk);
    if chunks <= 1 {
        return engine.sweep(kernel, buffers);
    }
    let (left, right) = buffers.split_at(chunks / 2 * chunk);
    rayon::join(|| sweep(engine, chunk, kernel, left), || sweep(engine, chunk, kernel, right));
}

/// Below this many bytes of θ, waking another thread costs more than it saves.
const SERIAL_BYTES: usize = 512 << 10;

/// The most bytes of θ in a chunk, so that a thread that is held up leaves work to steal.
const CHUNK_BYTES: usize = 1 << 20;

/// The fewest, so that a chunk is worth a fork on a machine with many threads.
const LEAST_CHUNK_BYTES: usize = 64 << 10;

/// Steps `buffers` on one thread if they are short, else in chunks: one for each thread or more,
/// within the bounds above, cut on whole cache lines.
pub(crate) fn auto<E: Element, K: Kernel<E, N>, const N: usize>(
    engine: Engine,
    kernel: &K,
    buffers: Buffers<'_, E, N>,
) {
    if size_of_val(buffers.theta) < SERIAL_BYTES {
        return engine.sweep(kernel, buffers);
    }
    let threads = rayon::current_num_threads();
    if threads == 1 {
        return engine.sweep(kernel, buffers);
    }
    let line = 64 / size_of::<E>();
    let (least, most) = (LEAST_CHUNK_BYTES / size_of::<E>(), CHUNK_BYTES / size_of::<E>());
    let chunk = buffers.len().div_ceil(threads).clamp(least, most);
    sweep(engine, chunk.next_multiple_of(line), kernel, buffers);
}
