//! The threads on which a step runs, with automatic parallelism and in the caller's pool.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::thread::{self, ThreadId};

use fused_adam::{
    Backend, Error, Float, Kernel, KernelVisitor, Lanes, Parallelism, Rule, State, Step, Threads,
    on_threads,
};

/// A rule that does not change θ and calls a function for each element, on its thread.
#[derive(Clone, Copy)]
struct Spy<'a>(&'a (dyn Fn() + Sync));

impl std::fmt::Debug for Spy<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Spy")
    }
}

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

    fn visit_kernel<F: Float, W: KernelVisitor<F>>(
        &self,
        _: u64,
        _: &[f64],
        visitor: W,
    ) -> Result<(), Error> {
        visitor.visit(self)
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
fn threads_of(len: usize, parallelism: Parallelism) -> HashSet<ThreadId> {
    let seen: Mutex<HashSet<ThreadId>> = Mutex::default();
    let (mut theta, grad) = (vec![0.0_f32; len], vec![0.0; len]);
    let note = || {
        seen.lock().unwrap().insert(thread::current().id());
    };
    let spy = Spy(&note);
    let step = Step::new(&spy, 1).with_backend(Backend::Scalar).with_parallelism(parallelism);
    step.run(&mut theta, &grad, &mut []).unwrap();
    seen.into_inner().unwrap()
}

const LONG: usize = (1 << 20) / size_of::<f32>();

#[test]
fn short_buffers_stay_on_the_calling_thread_and_long_ones_use_the_callers_pool() {
    let me = HashSet::from([thread::current().id()]);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let of_pool: HashSet<_> = pool.broadcast(|_| thread::current().id()).into_iter().collect();

    assert_eq!(threads_of(LONG - 1, Parallelism::Auto), me);
    assert_eq!(threads_of(LONG * 4, Parallelism::Serial), me);
    let one = NonZeroUsize::new(1 << 20).unwrap();
    assert_eq!(threads_of(LONG, Parallelism::Chunks(one)), me, "one chunk needs no other thread");

    // Outside of any pool the caller takes part, in place of one of the global pool's threads.
    let outside = (0..5).map(|_| threads_of(LONG * 8, Parallelism::Auto));
    for (i, threads) in outside.enumerate() {
        assert!(threads.len() <= rayon::current_num_threads(), "{} threads", threads.len());
        let mine = threads.contains(&thread::current().id());
        assert!(mine && threads.is_disjoint(&of_pool), "step {i} ran on others");
    }

    pool.install(|| {
        assert_eq!(threads_of(LONG - 1, Parallelism::Auto).len(), 1);
        // rayon decides which thread steals work. It is only certain in the long run that some
        // thread does.
        let many = (0..200).any(|_| threads_of(LONG, Parallelism::Auto).len() > 1);
        assert!(many, "one thread did it all, every time");
        assert!(threads_of(LONG * 8, Parallelism::Auto).is_subset(&of_pool));
        assert!(threads_of(100, Parallelism::Chunks(NonZeroUsize::MIN)).is_subset(&of_pool));
    });

    let single = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    assert_eq!(single.install(|| threads_of(LONG * 4, Parallelism::Auto).len()), 1);
}

/// Threads that report the first number as their count. Only the second number of them run, and the
/// calling thread is not one of them.
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
    let long = |parallelism| threads_of(LONG * 8, parallelism);
    on_threads(&Scoped(3, 3), || {
        assert_eq!(threads_of(LONG - 1, Parallelism::Auto), me);
        assert_eq!(long(Parallelism::Serial), me);
        let others = (0..50).map(|_| long(Parallelism::Auto));
        assert!(others.into_iter().any(|seen| seen.len() > 1 && seen.is_disjoint(&me)));
        // The innermost `on_threads` applies.
        on_threads(&Scoped(1, 0), || assert_eq!(long(Parallelism::Auto), me));
        assert!(!long(Parallelism::Auto).is_subset(&me));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let of_pool: HashSet<_> = pool.broadcast(|_| thread::current().id()).into_iter().collect();
        assert!(pool.install(|| long(Parallelism::Auto)).is_subset(&of_pool));
        let others = pool.install(|| on_threads(&Scoped(2, 2), || long(Parallelism::Auto)));
        assert!(others.is_disjoint(&of_pool));
    });
    // Threads that never run, and a thread count of zero.
    on_threads(&Scoped(2, 0), || assert_eq!(long(Parallelism::Auto), me));
    on_threads(&Scoped(0, 0), || assert_eq!(long(Parallelism::Auto), me));
    let left = std::panic::catch_unwind(|| on_threads(&Scoped(2, 0), || panic!("in a step")));
    assert!(left.is_err());
    let after = (0..50).map(|_| long(Parallelism::Auto));
    assert!(rayon::current_num_threads() == 1 || after.into_iter().any(|seen| seen.len() > 1));
}

/// A thread that continues after a panic, as those of many pools do.
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
        let step = Step::new(&spy, 1).with_backend(Backend::Scalar);
        on_threads(&Calm, || step.run(&mut theta, &grad, &mut []))
    });
    let panic = left.unwrap_err();
    let text = panic.downcast_ref::<String>().map_or("", |text| text);
    assert!(text.contains("not here"), "{text}");
}

/// Where the system starts no threads, every long step runs on the calling thread, with the same
/// bits. A child process asks for stacks that are larger than the address space.
#[test]
fn no_threads_can_be_started() {
    const CHILD: &str = "FUSED_ADAM_TEST_WITHOUT_THREADS";
    if std::env::var_os(CHILD).is_none() {
        let stack: u64 = if usize::BITS == 64 { 1 << 47 } else { (1 << 32) - (1 << 20) };
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "threads::no_threads_can_be_started", "--test-threads=1"])
            .env("RUST_MIN_STACK", stack.to_string())
            .env(CHILD, "1")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{output:?}");
        return;
    }
    std::thread::Builder::new().spawn(|| ()).unwrap_err();
    let (rule, grad) = (fused_adam::Sgd::default(), vec![1.0_f32; LONG]);
    let step = |parallelism| {
        let mut theta = vec![0.5_f32; LONG];
        let step = Step::new(&rule, 1).with_parallelism(parallelism);
        step.run(&mut theta, &grad, &mut []).unwrap();
        theta
    };
    let serial = step(Parallelism::Serial);
    for _ in 0..2 {
        assert_eq!(threads_of(LONG * 8, Parallelism::Auto).len(), 1);
        assert!(step(Parallelism::Auto) == serial);
        assert!(step(Parallelism::Chunks(NonZeroUsize::MIN.saturating_add(999))) == serial);
        assert_eq!(fused_adam::num_threads(), 1);
    }
}
