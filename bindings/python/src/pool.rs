//! The threads that run large steps: torch's own for its tensors, and otherwise rayon's global
//! pool, together with the calling thread. If a number of threads was set, or in a forked process,
//! it is a separate pool.
//!
//! A pool that was made before a fork has no threads in the forked process.

use std::process;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use fused_adam::{Parallelism, Threads, on_threads};
use fused_adam_float_mode::in_default_mode;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

/// The process that took the first step.
static GLOBAL: OnceLock<u32> = OnceLock::new();

/// The separate pool.
static OWN: Mutex<Own> = Mutex::new(Own { wanted: 0, pool: None });

struct Own {
    /// 0 for rayon's default: `RAYON_NUM_THREADS`, or one thread per core.
    wanted: usize,
    pool: Option<(u32, Arc<ThreadPool>)>,
}

/// Below this many bytes of θ, switching to another pool takes longer than it saves.
const SERIAL_BYTES: usize = 1 << 20;

/// Runs a step on `bytes` of θ. Uses `theirs`, if given, unless a number of threads was set. The
/// calling thread has the default floating-point mode meanwhile, and so do threads that it starts.
pub fn run<T: Send>(
    bytes: usize,
    theirs: Option<&'static dyn Threads>,
    work: impl FnOnce(Parallelism) -> T + Send,
) -> T {
    in_default_mode(|| run_on(chosen(), bytes, theirs, work))
}

fn run_on<T: Send>(
    threads: Chosen,
    bytes: usize,
    theirs: Option<&'static dyn Threads>,
    work: impl FnOnce(Parallelism) -> T + Send,
) -> T {
    match threads {
        Chosen::Global => match theirs {
            Some(threads) => on_threads(threads, || work(Parallelism::Auto)),
            None => work(Parallelism::Auto),
        },
        Chosen::Own(pool) if bytes >= SERIAL_BYTES => pool.install(|| work(Parallelism::Auto)),
        Chosen::Own(_) | Chosen::Calling => work(Parallelism::Serial),
    }
}

/// The threads of a step.
enum Chosen {
    Global,
    Own(Arc<ThreadPool>),
    Calling,
}

fn chosen() -> Chosen {
    let mut own = OWN.lock().unwrap_or_else(PoisonError::into_inner);
    let process = process::id();
    if own.wanted == 0 && *GLOBAL.get_or_init(|| process) == process {
        return Chosen::Global;
    }
    if own.wanted == 1 {
        return Chosen::Calling;
    }
    if let Some((of, pool)) = &own.pool
        && *of == process
    {
        return Chosen::Own(Arc::clone(pool));
    }
    // Where the system starts no threads, the calling thread takes the step.
    let Ok(pool) = ThreadPoolBuilder::new().num_threads(own.wanted).build() else {
        return Chosen::Calling;
    };
    let pool = Arc::new(pool);
    // The threads of a pool from before a fork do not exist, so they cannot be joined.
    if let Some(old) = own.pool.replace((process, Arc::clone(&pool)))
        && old.0 != process
    {
        std::mem::forget(old);
    }
    Chosen::Own(pool)
}

/// The number of threads for large steps. Steps of torch's tensors use torch's own threads instead,
/// unless a number was set.
#[pyfunction]
pub fn get_num_threads() -> usize {
    match chosen() {
        Chosen::Global => fused_adam::num_threads(),
        Chosen::Own(pool) => pool.current_num_threads(),
        Chosen::Calling => 1,
    }
}

/// Sets the number of threads for large steps. With 0, the default, it is `RAYON_NUM_THREADS` or
/// one per core, and steps of torch's tensors use torch's threads. The results are the same.
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
