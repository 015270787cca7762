//! No step allocates: counted by an allocator that counts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use fused_adam::{AdamW, Backend, Flat, Rounding, Schedule, Step, bf16, f16};

/// The system's allocator, and how often it was asked.
struct Counting;

static ASKED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are the ones that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How many allocations `f` makes, on any thread: the fewest of three times, since the test harness
/// has a thread too.
fn allocations(mut f: impl FnMut()) -> usize {
    let count = |_| {
        let before = ASKED.load(Ordering::Relaxed);
        f();
        ASKED.load(Ordering::Relaxed) - before
    };
    (0..3).map(count).min().unwrap_or(0)
}

/// One test, since the count is the process's.
#[test]
fn no_step_allocates() {
    let len = 1 << 18; // long enough for many threads
    let adamw = AdamW { amsgrad: true, ..AdamW::default() };
    let (mut theta, grad) = (vec![0.5_f32; len], vec![1.0_f32; len]);
    let mut states = vec![vec![0.0_f32; len]; 3];
    assert_eq!(allocations(|| drop(vec![0_u8; 1])), 1, "the count works");

    for backend in Backend::ALL.into_iter().filter(|backend| backend.is_available()) {
        let [m, v, v_max] = &mut states[..] else { unreachable!() };
        let count = allocations(|| {
            for t in 1..=100 {
                Step::new(&adamw, t)
                    .backend(backend)
                    .schedule(Schedule::Serial)
                    .run(
                        &mut theta[..999],
                        &grad[..999],
                        &mut [&mut m[..999], &mut v[..999], &mut v_max[..999]],
                    )
                    .unwrap();
            }
        });
        assert_eq!(count, 0, "{backend}");
    }

    // By tiles: stochastic rounding, and a copy in f16.
    let stochastic = Rounding::Stochastic { seed: 1 };
    let mut small = Flat::<_, bf16>::new(adamw, 999).unwrap().with_rounding(stochastic);
    let mut master = Flat::<_, f32>::new(adamw, 999).unwrap();
    let (mut theta16, grad16, mut copy) = ([bf16::ONE; 999], [bf16::ONE; 999], [f16::ONE; 999]);
    let count = allocations(|| {
        for _ in 0..100 {
            small.step(&mut theta16, &grad16).unwrap();
            master.step_with_copy(&mut theta[..999], &grad16, &mut copy).unwrap();
        }
    });
    assert_eq!(count, 0, "by tiles");

    let mut opt = Flat::new(adamw, len).unwrap().with_schedule(Schedule::Serial);
    assert_eq!(allocations(|| (0..10).for_each(|_| opt.step(&mut theta, &grad).unwrap())), 0);

    #[cfg(feature = "parallel")]
    {
        let mut opt = opt.with_schedule(Schedule::Auto);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap();
        let mut steps = |n: usize| (0..n).for_each(|_| opt.step(&mut theta, &grad).unwrap());
        // In the pool: nothing at all, once its threads have all been awake.
        let count = pool.install(|| {
            steps(20);
            allocations(|| steps(200))
        });
        assert_eq!(count, 0, "in the pool");
        // From a thread outside it, rayon's queue of waiting jobs takes a block of memory for
        // every few dozen steps. Nothing of it grows with the buffers or is ours.
        steps(20);
        let count = allocations(|| steps(200));
        println!("200 steps from outside the pool: {count} allocations by rayon's queue");
        assert!(count <= 10, "{count} allocations in 200 steps from outside the pool");
    }
}
