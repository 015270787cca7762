//! On which threads a step runs: what the automatic schedule and the caller's pool promise.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::thread::{self, ThreadId};

use fused_adam::{Backend, Error, Float, Kernel, Lanes, Rule, Schedule, Step, WithKernel};

/// A rule that does nothing to θ and notes which threads it runs on.
#[derive(Clone, Copy)]
struct Spy<'a>(&'a Mutex<HashSet<ThreadId>>);

impl Rule for Spy<'_> {
    fn state_names(&self) -> &'static [&'static str] {
        &[]
    }

    fn check(&self) -> Result<(), Error> {
        Ok(())
    }

    fn with_kernel<F: Float, W: WithKernel<F>>(&self, _: u64, then: W) -> Result<(), Error> {
        then.with(self)
    }
}

impl<F: Float> Kernel<F, 0> for Spy<'_> {
    fn update<L: Lanes<Float = F>>(&self, theta: L, _: L, _: [L; 0]) -> (L, [L; 0]) {
        (theta, [])
    }

    fn reference(&self, theta: F, _: F, _: [F; 0]) -> (F, [F; 0]) {
        self.0.lock().unwrap().insert(thread::current().id());
        (theta, [])
    }
}

/// The threads that step `len` elements.
fn threads_of(len: usize, schedule: Schedule) -> HashSet<ThreadId> {
    let seen = Mutex::default();
    let (mut theta, grad) = (vec![0.0_f32; len], vec![0.0; len]);
    let spy = Spy(&seen);
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
