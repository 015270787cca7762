//! On which threads a step runs: what the automatic schedule and the caller's pool promise.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::thread::{self, ThreadId};

use fused_adam::{
    Backend, Error, Float, Kernel, Lanes, Rule, Schedule, State, Step, Threads, WithKernel,
    on_threads,
};

/// A rule that does nothing to θ and calls a function, for each element, on the thread that it runs
/// on.
#[derive(Clone, Copy)]
struct Spy<'a>(&'a (dyn Fn() + Sync));

impl Rule for Spy<'_> {
    fn name(&self) -> &'static str {
        "spy"
    }

    fn lr(&self) -> f64 {
        0.0
    }

    fn set_lr(&mut self, _: f64) {}

    fn states(&self) -> &'static [State] {
        &[]
    }

    fn check(&self) -> Result<(), Error> {
        Ok(())
    }

    fn with_kernel<F: Float, W: WithKernel<F>>(
        &self,
        _: u64,
        _: &[f64],
        then: W,
    ) -> Result<(), Error> {
        then.with(self)
    }
}

impl<F: Float> Kernel<F, 0> for Spy<'_> {
    fn update<L: Lanes<Float = F>>(&self, theta: L, _: L, _: [L; 0]) -> (L, [L; 0]) {
        (theta, [])
    }

    fn reference(&self, theta: F, _: F, _: [F; 0]) -> (F, [F; 0]) {
        (self.0)();
        (theta, [])
    }
}

/// The threads that step `len` elements.
fn threads_of(len: usize, schedule: Schedule) -> HashSet<ThreadId> {
    let seen: Mutex<HashSet<ThreadId>> = Mutex::default();
    let (mut theta, grad) = (vec![0.0_f32; len], vec![0.0; len]);
    let note = || {
        seen.lock().unwrap().insert(thread::current().id());
    };
    let spy = Spy(&note);
    let step = Step::new(&spy, 1).backend(Backend::Scalar).schedule(schedule);
    step.run(&mut theta, &grad, &mut []).unwrap();
    seen.into_inner().unwrap()
}

const LONG: usize = (1 << 20) / size_of::<f32>();

#[test]
fn short_buffers_stay_on_the_calling_thread_and_long_ones_use_the_callers_pool() {
    let me = HashSet::from([thread::current().id()]);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let of_pool: HashSet<_> = pool.broadcast(|_| thread::current().id()).into_iter().collect();

    assert_eq!(threads_of(LONG - 1, Schedule::Auto), me);
    assert_eq!(threads_of(LONG * 4, Schedule::Serial), me);
    let one = NonZeroUsize::new(1 << 20).unwrap();
    assert_eq!(threads_of(LONG, Schedule::Chunks(one)), me, "one chunk needs no other thread");

    // Outside of any pool the caller takes part, in place of one of the global pool's threads.
    let outside = (0..5).map(|_| threads_of(LONG * 8, Schedule::Auto));
    for (i, threads) in outside.enumerate() {
        assert!(threads.len() <= rayon::current_num_threads(), "{} threads", threads.len());
        let mine = threads.contains(&thread::current().id());
        assert!(mine && threads.is_disjoint(&of_pool), "step {i} ran on others");
    }

    pool.install(|| {
        assert_eq!(threads_of(LONG - 1, Schedule::Auto).len(), 1);
        // Who steals what is rayon's affair; that somebody steals is certain only in the long run.
        let many = (0..200).any(|_| threads_of(LONG, Schedule::Auto).len() > 1);
        assert!(many, "one thread did it all, every time");
        assert!(threads_of(LONG * 8, Schedule::Auto).is_subset(&of_pool));
        assert!(threads_of(100, Schedule::Chunks(NonZeroUsize::MIN)).is_subset(&of_pool));
    });

    let single = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    assert_eq!(single.install(|| threads_of(LONG * 4, Schedule::Auto).len()), 1);
}

/// As many threads as the first number, of which the second are there; the calling thread is none
/// of them.
struct Scoped(usize, usize);

impl Threads for Scoped {
    fn count(&self) -> usize {
        self.0
    }

    fn run(&self, count: usize, work: &(dyn Fn() + Sync)) {
        assert!((2..=self.0).contains(&count));
        thread::scope(|scope| {
            for _ in 0..self.1.min(count) {
                scope.spawn(work);
            }
        });
    }
}

#[test]
fn steps_run_on_the_threads_of_the_caller() {
    let me = HashSet::from([thread::current().id()]);
    let long = |schedule| threads_of(LONG * 8, schedule);
    on_threads(&Scoped(3, 3), || {
        assert_eq!(threads_of(LONG - 1, Schedule::Auto), me);
        assert_eq!(long(Schedule::Serial), me);
        let others = (0..50).map(|_| long(Schedule::Auto));
        assert!(others.into_iter().any(|seen| seen.len() > 1 && seen.is_disjoint(&me)));
        // The nearest counts.
        on_threads(&Scoped(1, 0), || assert_eq!(long(Schedule::Auto), me));
        assert!(!long(Schedule::Auto).is_subset(&me));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let of_pool: HashSet<_> = pool.broadcast(|_| thread::current().id()).into_iter().collect();
        assert!(pool.install(|| long(Schedule::Auto)).is_subset(&of_pool));
        let others = pool.install(|| on_threads(&Scoped(2, 2), || long(Schedule::Auto)));
        assert!(others.is_disjoint(&of_pool));
    });
    // Threads that never come, and a number of them that is none.
    on_threads(&Scoped(2, 0), || assert_eq!(long(Schedule::Auto), me));
    on_threads(&Scoped(0, 0), || assert_eq!(long(Schedule::Auto), me));
    let left = std::panic::catch_unwind(|| on_threads(&Scoped(2, 0), || panic!("in a step")));
    assert!(left.is_err());
    let after = (0..50).map(|_| long(Schedule::Auto));
    assert!(rayon::current_num_threads() == 1 || after.into_iter().any(|seen| seen.len() > 1));
}

/// A thread that goes on after a panic, as those of many pools do.
struct Calm;

impl Threads for Calm {
    fn count(&self) -> usize {
        2
    }

    fn run(&self, _: usize, work: &(dyn Fn() + Sync)) {
        thread::scope(|scope| {
            scope.spawn(|| {
                let work = std::panic::AssertUnwindSafe(work);
                std::panic::catch_unwind(work).is_ok()
            });
        });
    }
}

#[test]
fn a_panic_comes_to_the_caller_whatever_its_threads_do() {
    let me = thread::current().id();
    let panic_elsewhere = move || assert_eq!(thread::current().id(), me, "not here");
    let left = std::panic::catch_unwind(|| {
        let spy = Spy(&panic_elsewhere);
        let (mut theta, grad) = (vec![0.0_f32; LONG], vec![0.0; LONG]);
        let step = Step::new(&spy, 1).backend(Backend::Scalar);
        on_threads(&Calm, || step.run(&mut theta, &grad, &mut []))
    });
    let panic = left.unwrap_err();
    let text = panic.downcast_ref::<String>().map_or("", |text| text);
    assert!(text.contains("not here"), "{text}");
}
