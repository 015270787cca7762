//! Threads other than rayon's: those of a framework, which already has some awake, or of a program
//! that has its own thread pool.

pub(crate) mod share;

use core::cell::Cell;

/// Threads that [`on_threads`] runs long steps on.
///
/// ```
/// use fused_adam::{AdamW, Threads, on_threads};
///
/// struct Scoped;
///
/// impl Threads for Scoped {
///     fn count(&self) -> usize {
///         2
///     }
///
///     fn run(&self, count: usize, work: &(dyn Fn() + Sync)) {
///         std::thread::scope(|scope| {
///             for _ in 1..count {
///                 scope.spawn(work);
///             }
///             work();
///         });
///     }
/// }
///
/// let (mut theta, grad) = (vec![0.5_f32; 300_000], vec![1.0_f32; 300_000]);
/// let (mut m, mut v) = (vec![0.0; 300_000], vec![0.0; 300_000]);
/// on_threads(&Scoped, || AdamW::default().step(1, &mut theta, &grad, [&mut m, &mut v]))?;
/// # Ok::<(), fused_adam::Error>(())
/// ```
pub trait Threads: Sync {
    /// The number of threads, including the calling thread if it works too.
    fn count(&self) -> usize;

    /// Calls `work` on `count` threads, or on fewer, and returns when all calls have returned.
    /// `work` does not panic.
    ///
    /// Each call of `work` takes parts of the step until none is left. So it is best if all calls
    /// begin at once. A call that begins late finds less to do. After `run` has returned, the
    /// calling thread does what is left.
    ///
    /// If `run` itself takes a long step on the calling thread, that step calls `run` again.
    fn run(&self, count: usize, work: &(dyn Fn() + Sync));
}

thread_local! {
    static OF_CALLER: Cell<Option<&'static dyn Threads>> = const { Cell::new(None) };
}

/// Calls `work`, and runs the long steps that it takes on `threads` instead of a rayon pool.
///
/// This applies to steps that `work` takes on the calling thread. Short steps run on the calling
/// thread, as always. The bits are the same.
///
/// - If `work` enters another rayon pool, the steps within run on that pool.
/// - If the calling thread belongs to a rayon pool and takes another job while it waits within
///   `work`, the steps of that job run on `threads` too.
///
/// `threads` must live forever. If your threads are not in a `static`, use `Box::leak`.
pub fn on_threads<T>(threads: &'static dyn Threads, work: impl FnOnce() -> T) -> T {
    struct Restore(Option<&'static dyn Threads>);

    impl Drop for Restore {
        fn drop(&mut self) {
            OF_CALLER.set(self.0);
        }
    }

    let _restore = Restore(OF_CALLER.replace(Some(threads)));
    work()
}

/// The threads of the innermost [`on_threads`] that the calling thread is in.
pub(crate) fn of_caller() -> Option<&'static dyn Threads> {
    OF_CALLER.get()
}
