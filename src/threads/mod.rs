//! Threads that are not rayon's: those of a framework, which already has some awake, or of a
//! program that keeps its own.

pub(crate) mod share;

use core::cell::Cell;

/// Threads for long steps to run on, within [`on_threads`].
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
    /// How many there are, with the calling one if it works too.
    fn count(&self) -> usize;

    /// Calls `work` on `count` threads, or on fewer, and returns when all of them have. `work` does
    /// not panic.
    ///
    /// Every call takes what there is to do piece by piece until nothing is left. So it is best to
    /// have all begin at once, and a thread that comes late finds less to do; the calling thread
    /// does at last what nobody has. A long step that is taken in here on the calling thread comes
    /// here again.
    fn run(&self, count: usize, work: &(dyn Fn() + Sync));
}

thread_local! {
    static OF_CALLER: Cell<Option<&'static dyn Threads>> = const { Cell::new(None) };
}

/// Calls `work`, in which the steps that this thread takes run on `threads` and not on rayon's:
/// short ones on the calling thread, as ever. The bits are the same. Another rayon pool that is
/// entered within `work` comes before them; and what a thread of rayon's takes up while it waits
/// within `work` counts as within too.
///
/// Threads that are not in a `static` are to be kept for good, by `Box::leak`.
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

/// Those of the [`on_threads`] that the calling thread is in.
pub(crate) fn of_caller() -> Option<&'static dyn Threads> {
    OF_CALLER.get()
}
