//! The threads on which steps run: rayon's global pool, a pool of a given size, the calling thread
//! alone, or a pool of the program. The results are bit-identical with all of them.

use std::ffi::c_void;
use std::sync::{Arc, PoisonError, RwLock};

use fused_adam::{Parallelism, StepOptions, on_threads};
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::program_threads::{FusedAdamRun, PROGRAM, ProgramThreads};
use crate::status::{Failure, FusedAdamStatus, guarded, guarded_or};

/// The choice of fused_adam_set_threads or fused_adam_set_thread_pool.
#[derive(Clone)]
enum Threads {
    Global,
    Calling,
    Pool(Arc<ThreadPool>),
    Program(ProgramThreads),
}

static THREADS: RwLock<Threads> = RwLock::new(Threads::Global);

/// A larger number is a mistake.
const MOST: usize = 1024;

/// A step with fewer bytes of theta than this runs on the calling thread, because switching to a
/// separate pool and back takes tens of microseconds. The core uses the same limit for threads.
const POOL_BYTES: usize = 1 << 20;

impl Threads {
    fn chosen() -> Threads {
        THREADS.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes this the choice.
    fn choose(self) {
        let mut place = THREADS.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *place, self);
        // The old pool ends after the lock is released.
        drop(place);
        drop(before);
    }
}

/// Takes a step on `theta_bytes` bytes of theta, on the chosen threads.
pub(crate) fn run<T: Send>(
    options: StepOptions,
    theta_bytes: usize,
    step: impl FnOnce(&StepOptions) -> T + Send,
) -> T {
    let serial = StepOptions { parallelism: Parallelism::Serial, ..options };
    let short = options.parallelism == Parallelism::Auto && theta_bytes < POOL_BYTES;
    if short || options.parallelism == Parallelism::Serial {
        return step(&serial);
    }
    match Threads::chosen() {
        Threads::Global => step(&options),
        Threads::Calling => step(&serial),
        Threads::Pool(pool) => pool.install(|| step(&options)),
        Threads::Program(threads) => threads.scope(|| on_threads(&PROGRAM, || step(&options))),
    }
}

/// Sets the threads for later steps, for the whole program. The results are bit-identical with any
/// number.
///
/// - 0, the default: one thread per processor, or the number in the environment variable
///   RAYON_NUM_THREADS. The threads start with the first large step and stay.
/// - 1: the calling thread only.
/// - 2 to 1024: a pool of this many threads, which start at once. The previous pool ends when no
///   step uses it any more.
///
/// Steps on less than 1 MiB of theta always run on the calling thread, unless you set
/// fused_adam_options_set_chunk.
///
/// A forked process does not have the threads of its parent, and a large step would wait for them
/// forever. In such a process, call this function with another number than 0 before the first step.
///
/// Returns FUSED_ADAM_STATUS_THREADS if the number is larger than 1024, or if the system cannot
/// start the threads. Nothing changes in that case. Any thread may call it, even while steps run.
#[unsafe(no_mangle)]
pub extern "C" fn fused_adam_set_threads(threads: usize) -> FusedAdamStatus {
    guarded(|| {
        let refused = |message: String| Failure::new(FusedAdamStatus::Threads, message);
        let chosen = match threads {
            0 => Threads::Global,
            1 => Threads::Calling,
            2..=MOST => {
                let pool = ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .thread_name(|number| format!("fused_adam_{number}"))
                    .build()
                    .map_err(|error| {
                        refused(format!("{threads} threads did not start: {error}"))
                    })?;
                Threads::Pool(Arc::new(pool))
            }
            _ => return Err(refused(format!("`threads` is {threads}, expected 0 to {MOST}"))),
        };
        chosen.choose();
        Ok(())
    })
}

/// Sets a thread pool of your program for later steps, for the whole program, instead of threads of
/// this library. The results are bit-identical.
///
/// - threads: the number of threads, from 1 to 1024. Each long step calls `run` once, and once more
///   if it computes the norm, with this number, or with a smaller one if it has less work. With 1
///   it does not call `run`.
/// - run: calls work(argument) on `count` threads at the same time, and returns when all calls have
///   returned. The calling thread can be one of them. Fewer or more calls are correct too: a call
///   takes parts of the step until none is left, and the calling thread then does the rest.
///   `run` must not throw an exception or jump out.
/// - context: the first argument of `run`. It can be NULL.
///
/// For example with OpenMP:
///
/// ```c
/// static void run(void *context, size_t count, FusedAdamWork work, void *argument) {
///   (void)context;
///   #pragma omp parallel num_threads((int)count)
///   work(argument);
/// }
/// ```
///
/// Several threads can call `run` at the same time, if they take steps at the same time. `run` can
/// use this library, but not the handle of an optimizer whose step has called it. `context` must
/// stay valid until all steps that began before the next call of this function or of
/// fused_adam_set_threads have returned. The latter also ends the use of the pool.
///
/// Returns FUSED_ADAM_STATUS_THREADS if the number is 0 or larger than 1024, and
/// FUSED_ADAM_STATUS_NULL if `run` is NULL. Nothing changes in that case. Any thread may call it,
/// even while steps run.
///
/// # Safety
///
/// `run` does what is described above. It and `context` can be used from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_set_thread_pool(
    threads: usize,
    run: FusedAdamRun,
    context: *mut c_void,
) -> FusedAdamStatus {
    guarded(|| {
        let run = run.ok_or_else(|| Failure::null("run", "a function"))?;
        if !(1..=MOST).contains(&threads) {
            let message = format!("`threads` is {threads}, expected 1 to {MOST}");
            return Err(Failure::new(FusedAdamStatus::Threads, message));
        }
        Threads::Program(ProgramThreads { count: threads, run, context }).choose();
        Ok(())
    })
}

/// The number of threads that a large step uses. If that is one per processor, this call starts
/// them.
///
/// Any thread may call it.
#[unsafe(no_mangle)]
pub extern "C" fn fused_adam_threads() -> usize {
    guarded_or(1, || {
        Ok(match Threads::chosen() {
            Threads::Global => fused_adam::num_threads(),
            Threads::Calling => 1,
            Threads::Pool(pool) => pool.current_num_threads(),
            Threads::Program(threads) => threads.count,
        })
    })
}
