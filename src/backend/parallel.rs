//! Any backend on many threads: the buffers are cut into chunks, and rayon's threads take them.
//!
//! Where the cuts fall never shows in the bits, since no element looks at another. Work is halved
//! until a piece is one chunk long, and an idle thread steals half of what is left. This runs in
//! the pool that the caller is in: the global one, or that of a `ThreadPool::install`.

use super::columns::Table;

/// Steps `table` in chunks of `chunk` rows (the last one shorter), each by `step`.
pub(crate) fn sweep<T: Table>(chunk: usize, step: &(impl Fn(T) + Sync), table: T) {
    let chunks = table.len().div_ceil(chunk);
    if chunks <= 1 {
        return step(table);
    }
    let (left, right) = table.split_at(chunks / 2 * chunk);
    rayon::join(|| sweep(chunk, step, left), || sweep(chunk, step, right));
}

/// Below this many bytes of θ, waking another thread costs more than it saves.
pub(crate) const SERIAL_BYTES: usize = 512 << 10;

/// The most bytes of θ in a chunk, so that a thread that is held up leaves work to steal.
const CHUNK_BYTES: usize = 1 << 20;

/// The fewest, so that a chunk is worth a fork on a machine with many threads.
const LEAST_CHUNK_BYTES: usize = 64 << 10;

/// Steps `table` on one thread if it is short, else in chunks: one for each thread or more,
/// within the bounds above, cut on whole cache lines.
pub(crate) fn auto<T: Table>(step: &(impl Fn(T) + Sync), table: T) {
    let bytes = table.theta_bytes();
    if table.len() * bytes < SERIAL_BYTES {
        return step(table);
    }
    let threads = rayon::current_num_threads();
    if threads == 1 {
        return step(table);
    }
    let chunk = chunk_bytes(table.len() * bytes, threads) / bytes;
    sweep(chunk, step, table);
}

/// Bytes of θ in a chunk, of `bytes` in all: whole cache lines.
pub(crate) fn chunk_bytes(bytes: usize, threads: usize) -> usize {
    bytes.div_ceil(threads).clamp(LEAST_CHUNK_BYTES, CHUNK_BYTES).next_multiple_of(64)
}
