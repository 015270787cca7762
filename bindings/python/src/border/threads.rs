//! torch's own threads, through its C interface (`torch/csrc/stable/c/shim.h`, from torch 2.10 on).
//!
//! After an operation of torch, such as the backward pass before a step, its threads spin for some
//! time. They are awake, so other threads would have to share the cores with them.

use std::ffi::c_void;
use std::process;
use std::sync::OnceLock;

use fused_adam::Threads;
use fused_adam_float_mode::in_default_mode;
use pyo3::prelude::*;

type Part = extern "C" fn(begin: i64, end: i64, context: *mut c_void);
type ParallelFor =
    unsafe extern "C" fn(begin: i64, end: i64, grain: i64, part: Part, context: *mut c_void) -> i32;
type GetNumThreads = unsafe extern "C" fn(count: *mut u32) -> i32;

struct OfTorch {
    parallel_for: ParallelFor,
    get_num_threads: GetNumThreads,
    /// The id of the process. A forked process does not have the threads.
    process: u32,
}

static OF_TORCH: OnceLock<OfTorch> = OnceLock::new();

/// Runs steps of torch's tensors on torch's threads. The arguments are the addresses of torch's
/// functions `torch_parallel_for` and `torch_get_num_threads`, or 0 if it does not have them. Only
/// `fused_adam.torch` may call this.
#[pyfunction]
pub fn use_torch_threads(parallel_for: usize, get_num_threads: usize) {
    if parallel_for != 0 && get_num_threads != 0 {
        // SAFETY: `fused_adam.torch` finds both functions by name in torch's library, which is
        // never unloaded. The types are those of torch's header.
        OF_TORCH.get_or_init(|| unsafe {
            OfTorch {
                parallel_for: std::mem::transmute::<usize, ParallelFor>(parallel_for),
                get_num_threads: std::mem::transmute::<usize, GetNumThreads>(get_num_threads),
                process: process::id(),
            }
        });
    }
}

/// torch's threads, if they are available.
pub fn of_torch() -> Option<&'static dyn Threads> {
    let threads = OF_TORCH.get().filter(|threads| threads.process == process::id())?;
    Some(threads)
}

/// The work that torch runs on each thread.
type Work<'a> = &'a (dyn Fn() + Sync);

extern "C" fn part(_: i64, _: i64, context: *mut c_void) {
    // SAFETY: `run` passes its own `Work` to torch, which returns after all parts have finished. It
    // does not panic.
    let work = unsafe { *context.cast::<Work<'_>>() };
    in_default_mode(work);
}

impl Threads for OfTorch {
    fn count(&self) -> usize {
        let mut count = 0;
        // SAFETY: it writes a number to the given address.
        let failed = unsafe { (self.get_num_threads)(&mut count) };
        if failed == 0 { count as usize } else { 1 }
    }

    /// If torch fails, or runs everything on the calling thread, that thread does all the work.
    fn run(&self, count: usize, work: &(dyn Fn() + Sync)) {
        let context = (&raw const work).cast_mut().cast();
        // SAFETY: each part gets this context, and `work` lives until all have returned.
        unsafe { (self.parallel_for)(0, count as i64, 1, part, context) };
    }
}
