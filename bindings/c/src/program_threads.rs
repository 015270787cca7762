//! The thread pool of a program, for the core's `on_threads`. The core needs a `'static` reference.
//! So one object stands for all pools, and the pool of a step is stored for the thread of the step.

use std::cell::Cell;
use std::ffi::c_void;

use fused_adam::Threads;
use fused_adam_float_mode::in_default_mode;

/// The function that fused_adam_set_thread_pool passes to `run`.
pub type FusedAdamWork = unsafe extern "C" fn(argument: *mut c_void);

/// The function that calls work(argument) on `count` threads of a program: see
/// fused_adam_set_thread_pool.
pub type FusedAdamRun = Option<
    unsafe extern "C" fn(
        context: *mut c_void,
        count: usize,
        work: FusedAdamWork,
        argument: *mut c_void,
    ),
>;

/// The thread pool of a program.
#[derive(Clone, Copy)]
pub(crate) struct ProgramThreads {
    pub count: usize,
    pub run: unsafe extern "C" fn(*mut c_void, usize, FusedAdamWork, *mut c_void),
    pub context: *mut c_void,
}

// SAFETY: the caller of fused_adam_set_thread_pool promises that any thread can use `run` and
// `context`.
unsafe impl Send for ProgramThreads {}
// SAFETY: as above.
unsafe impl Sync for ProgramThreads {}

thread_local! {
    /// The pool for the step that this thread takes.
    static OF_STEP: Cell<Option<ProgramThreads>> = const { Cell::new(None) };
}

/// The pool of the step that the calling thread takes.
pub(crate) struct OfStep;

/// The core's reference to all pools.
pub(crate) static PROGRAM: OfStep = OfStep;

impl ProgramThreads {
    /// Calls `step`, in which this is the pool of [`PROGRAM`] on the calling thread.
    pub fn scope<T>(self, step: impl FnOnce() -> T) -> T {
        struct Restore(Option<ProgramThreads>);

        impl Drop for Restore {
            fn drop(&mut self) {
                OF_STEP.set(self.0);
            }
        }

        let _restore = Restore(OF_STEP.replace(Some(self)));
        step()
    }
}

impl Threads for OfStep {
    fn count(&self) -> usize {
        OF_STEP.get().map_or(1, |threads| threads.count)
    }

    fn run(&self, count: usize, work: &(dyn Fn() + Sync)) {
        /// # Safety
        ///
        /// `argument` is a `&&(dyn Fn() + Sync)`.
        unsafe extern "C" fn call(argument: *mut c_void) {
            // SAFETY: the caller's promise.
            let work = unsafe { *argument.cast::<&(dyn Fn() + Sync)>() };
            // A thread in another floating-point mode would take no work.
            in_default_mode(work);
        }
        let Some(ProgramThreads { run, context, .. }) = OF_STEP.get() else { return };
        let argument = (&raw const work).cast_mut().cast();
        // SAFETY: the caller of fused_adam_set_thread_pool promised that `run` calls `call` with
        // this argument, on any threads, and returns after these calls. `work` lives longer.
        unsafe { run(context, count, call, argument) };
    }
}
