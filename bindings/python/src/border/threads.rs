//! torch's own threads, by its C interface (`torch/csrc/stable/c/shim.h`, from torch 2.10 on).
//!
//! They wait busily for some time after an operation of torch, such as the backward pass before a step. So they are
//! awake, and threads of anyone else would have to share the cores with them.

use std::ffi::c_void;
use std::process;
use std::sync::OnceLock;

use fused_adam::Threads;
use pyo3::prelude::*;

type Part = extern "C" fn(begin: i64, end: i64, context: *mut c_void);
type ParallelFor =
    unsafe extern "C" fn(begin: i64, end: i64, grain: i64, part: Part, context: *mut c_void) -> i32;
type GetNumThreads = unsafe extern "C" fn(count: *mut u32) -> i32;

struct OfTorch {
    parallel_for: ParallelFor,
    get_num_threads: GetNumThreads,
    /// That of the process: the threads are not there in one that is forked from it.
    process: u32,
}

static OF_TORCH: OnceLock<OfTorch> = OnceLock::new();

/// Has steps of torch's tensors run on torch's threads. The arguments are the addresses of its functions
/// `torch_parallel_for` and `torch_get_num_threads`, or 0 if it has none: for nobody to call but `fused_adam.torch`.
#[pyfunction]
pub fn use_torch_threads(parallel_for: usize, get_num_threads: usize) {
    if parallel_for != 0 && get_num_threads != 0 {
        // SAFETY: `fused_adam.torch` finds both by these names in torch's library, which is never unloaded;
        // the types are those of torch's header.
        OF_TORCH.get_or_init(|| unsafe {
            OfTorch {
                parallel_for: std::mem::transmute::<usize, ParallelFor>(parallel_for),
                get_num_threads: std::mem::transmute::<usize, GetNumThreads>(get_num_threads),
                process: process::id(),
            }
        });
    }
}

/// torch's threads, if it lends them.
pub fn of_torch() -> Option<&'static dyn Threads> {
    let threads = OF_TORCH.get().filter(|threads| threads.process == process::id())?;
    Some(threads)
}

/// What torch hands to each thread: where the work is.
type Work<'a> = &'a (dyn Fn() + Sync);

extern "C" fn part(_: i64, _: i64, context: *mut c_void) {
    // SAFETY: `run` hands a `Work` of its own to torch, which returns after all parts have. It does not panic.
    unsafe { (*context.cast::<Work<'_>>())() }
}

impl Threads for OfTorch {
    fn count(&self) -> usize {
        let mut count = 0;
        // SAFETY: it writes a number to where it is told.
        let failed = unsafe { (self.get_num_threads)(&mut count) };
        if failed == 0 { count as usize } else { 1 }
    }

    /// If torch fails, or has the calling thread do it all, the work is done all the same, by that thread.
    fn run(&self, count: usize, work: &(dyn Fn() + Sync)) {
        let context = (&raw const work).cast_mut().cast();
        // SAFETY: each part gets the context as it is here, and `work` lives until all have returned.
        unsafe { (self.parallel_for)(0, count as i64, 1, part, context) };
    }
}
