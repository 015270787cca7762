//! The threads that long steps run on: torch's own for its tensors, else rayon's global pool, where the caller takes part; or,
//! once a number was asked for, and in a process that was forked, a pool of our own.
//!
//! The threads of a pool do not exist in a process that was forked after the pool was made.

use std::process;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use fused_adam::{Schedule, Threads, on_threads};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

/// The process in which a step was first taken.
static GLOBAL: OnceLock<u32> = OnceLock::new();

/// A pool of our own.
static OWN: Mutex<Own> = Mutex::new(Own { wanted: 0, pool: None });

struct Own {
    /// 0 for as many threads as rayon takes by itself: `RAYON_NUM_THREADS`, or one for each core.
    wanted: usize,
    pool: Option<(u32, Arc<ThreadPool>)>,
}

/// Below this many bytes of θ, to go to another pool costs more than it saves.
const SERIAL_BYTES: usize = 1 << 20;

/// Runs a step on `bytes` of θ: on `theirs`, if there are any, and no others were asked for.
pub fn run<T: Send>(
    bytes: usize,
    theirs: Option<&'static dyn Threads>,
    work: impl FnOnce(Schedule) -> T + Send,
) -> PyResult<T> {
    match own()? {
        None => Ok(match theirs {
            Some(threads) => on_threads(threads, || work(Schedule::Auto)),
            None => work(Schedule::Auto),
        }),
        Some(_) if bytes < SERIAL_BYTES => Ok(work(Schedule::Serial)),
        Some(pool) => Ok(pool.install(|| work(Schedule::Auto))),
    }
}

/// The pool of our own, if one is to be used.
fn own() -> PyResult<Option<Arc<ThreadPool>>> {
    let mut own = OWN.lock().unwrap_or_else(PoisonError::into_inner);
    let process = process::id();
    if own.wanted == 0 && *GLOBAL.get_or_init(|| process) == process {
        return Ok(None);
    }
    if let Some((of, pool)) = &own.pool
        && *of == process
    {
        return Ok(Some(Arc::clone(pool)));
    }
    let pool = ThreadPoolBuilder::new().num_threads(own.wanted).build();
    let pool = Arc::new(pool.map_err(|e| PyRuntimeError::new_err(e.to_string()))?);
    // The threads of a pool from before a fork are not there to be joined.
    if let Some(old) = own.pool.replace((process, Arc::clone(&pool)))
        && old.0 != process
    {
        std::mem::forget(old);
    }
    Ok(Some(pool))
}

/// How many threads long steps run on; those of torch's tensors only if a number was set, else on torch's own.
#[pyfunction]
pub fn get_num_threads() -> PyResult<usize> {
    Ok(own()?.map_or_else(rayon::current_num_threads, |pool| pool.current_num_threads()))
}

/// Has long steps run on `n` threads; with 0, as at first, on one for each core, or on `RAYON_NUM_THREADS`, and those of
/// torch's tensors on torch's threads. The results are the same.
#[pyfunction]
pub fn set_num_threads(n: i64) -> PyResult<()> {
    let wanted = usize::try_from(n).map_err(|_| {
        PyValueError::new_err(format!("the number of threads is {n}, expected 0 or more"))
    })?;
    let mut own = OWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(old) = own.pool.take()
        && old.0 != process::id()
    {
        std::mem::forget(old);
    }
    own.wanted = wanted;
    Ok(())
}
