//! torch's own threads, by its C interface (`torch/csrc/stable/c/shim.h`, from torch 2.10 on).
//!
//! They wait busily for some time after an operation of torch, such as the backward pass before a step. So they are
//! awake, and threads of anyone else would have to share the cores with them.

use std::any::Any;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, OnceLock, PoisonError};

use fused_adam::Threads;
use pyo3::prelude::*;

type Part = extern "C" fn(begin: i64, end: i64, context: *mut c_void);
type ParallelFor =
    unsafe extern "C" fn(begin: i64, end: i64, grain: i64, part: Part, context: *mut c_void) -> i32;
type GetNumThreads = unsafe extern "C" fn(count: *mut u32) -> i32;

/// `torch_parallel_for` and `torch_get_num_threads`.
struct OfTorch(ParallelFor, GetNumThreads);

static OF_TORCH: OnceLock<OfTorch> = OnceLock::new();

/// Has steps of torch's tensors run on torch's threads. The arguments are the addresses of its functions
/// `torch_parallel_for` and `torch_get_num_threads`, or 0 if it has none.
#[pyfunction]
pub fn use_torch_threads(parallel_for: usize, get_num_threads: usize) {
    if parallel_for != 0 && get_num_threads != 0 {
        // SAFETY: `fused_adam.torch` finds both by these names in torch's library, which is never unloaded;
        // the types are those of torch's header.
        OF_TORCH.get_or_init(|| unsafe {
            OfTorch(
                std::mem::transmute::<usize, ParallelFor>(parallel_for),
                std::mem::transmute::<usize, GetNumThreads>(get_num_threads),
            )
        });
    }
}

/// torch's threads, if it lends them.
pub fn of_torch() -> Option<&'static dyn Threads> {
    OF_TORCH.get().map(|threads| threads as &dyn Threads)
}

/// What each thread is handed: the work, and where a panic goes, which must not reach torch.
struct Shared<'a> {
    work: &'a (dyn Fn() + Sync),
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

extern "C" fn part(_: i64, _: i64, context: *mut c_void) {
    // SAFETY: `run` hands its `Shared` to torch, which returns after all parts have.
    let shared = unsafe { &*context.cast::<Shared<'_>>() };
    if let Err(panic) = catch_unwind(AssertUnwindSafe(shared.work)) {
        *shared.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
    }
}

impl Threads for OfTorch {
    fn count(&self) -> usize {
        let mut count = 0;
        // SAFETY: it writes a number to where it is told.
        let failed = unsafe { self.1(&mut count) };
        if failed == 0 { count as usize } else { 1 }
    }

    /// If torch fails, or has the calling thread do it all, the work is done all the same, by that thread.
    fn run(&self, count: usize, work: &(dyn Fn() + Sync)) {
        let shared = Shared { work, panic: Mutex::new(None) };
        let context = (&raw const shared).cast_mut().cast();
        // SAFETY: each part gets the context as it is here, and `shared` lives until all have returned.
        unsafe { self.0(0, count as i64, 1, part, context) };
        if let Some(panic) = shared.panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
            resume_unwind(panic);
        }
    }
}
