//! On which threads steps run: those of rayon's global pool, or of a pool of as many as were asked
//! for, or the calling one alone. The bits are the same on all of them.

use std::sync::{Arc, PoisonError, RwLock};

use fused_adam::{Schedule, StepOptions};
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::status::{Failure, FusedAdamStatus, guarded, guarded_or};

/// What fused_adam_set_threads has chosen.
#[derive(Clone)]
enum Threads {
    Global,
    Calling,
    Pool(Arc<ThreadPool>),
}

static THREADS: RwLock<Threads> = RwLock::new(Threads::Global);

/// More are a mistake.
const MOST: usize = 1024;

/// A step on fewer bytes of theta than this stays on the calling thread: to go to a pool of our own
/// and back costs tens of microseconds. It is where the core begins to use many threads.
const POOL_BYTES: usize = 1 << 20;

impl Threads {
    fn chosen() -> Threads {
        THREADS.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Takes a step of so many bytes of theta on the threads that were chosen.
pub(crate) fn run<T: Send>(
    options: StepOptions,
    theta_bytes: usize,
    step: impl FnOnce(&StepOptions) -> T + Send,
) -> T {
    let serial = StepOptions { schedule: Schedule::Serial, ..options };
    let short = options.schedule == Schedule::Auto && theta_bytes < POOL_BYTES;
    if short || options.schedule == Schedule::Serial {
        return step(&serial);
    }
    match Threads::chosen() {
        Threads::Global => step(&options),
        Threads::Calling => step(&serial),
        Threads::Pool(pool) => pool.install(|| step(&options)),
    }
}

/// Chooses the threads that later steps run on, for the whole program. The results are the same
/// to the bit whatever is chosen.
///
/// - 0: one for each processor, or as many as the environment variable RAYON_NUM_THREADS says. They
///   start with the first long step, and stay. This is how it is at first.
/// - 1: the calling thread alone.
/// - up to 1024: a pool of so many threads, which start at once. The pool before it ends when no step
///   runs on it any more.
///
/// Steps on less than 1 MiB of theta run on the calling thread in any case, unless
/// fused_adam_options_set_chunk says otherwise.
///
/// In a process that has been forked the threads of the parent are missing, and a long step would
/// wait for them for ever: there, call this with another number than 0 before the first step.
///
/// Returns FUSED_ADAM_STATUS_THREADS if there are to be more than 1024, or if the system does not let them start; then
/// all is as before. Any thread may call it, while steps run too.
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
        let mut place = THREADS.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *place, chosen);
        // The old pool ends after the lock.
        drop(place);
        drop(before);
        Ok(())
    })
}

/// How many threads a long step runs on. Where that is one for each processor, this starts them.
///
/// Any thread may call it.
#[unsafe(no_mangle)]
pub extern "C" fn fused_adam_threads() -> usize {
    guarded_or(1, || {
        Ok(match Threads::chosen() {
            Threads::Global => rayon::current_num_threads(),
            Threads::Calling => 1,
            Threads::Pool(pool) => pool.current_num_threads(),
        })
    })
}
