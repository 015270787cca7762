//! No step allocates, and memory use stays constant over a long run. Measured with a counting
//! allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

// Links to the compiled kernels.
use fused_adam_test_kernels as _;

use fused_adam::{
    AdamW, Backend, Block8, ClipNorm, Flat, GroupId, LrSchedule, Optimizer, Parallelism, Rounding,
    Step, StepOptions, Tensor, bf16, f16,
};

/// The system's allocator, with the number of allocations and of bytes in use.
struct Counting;

static ASKED: AtomicUsize = AtomicUsize::new(0);
static IN_USE: AtomicUsize = AtomicUsize::new(0);

/// The counters are global, so only one test may run at a time.
static ALONE: Mutex<()> = Mutex::new(());

// SAFETY: every call is passed to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.fetch_add(1, Ordering::Relaxed);
        IN_USE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are the ones that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The number of allocations of `f` on all threads: the minimum of three runs, because the test
/// harness has its own thread.
fn allocations(mut f: impl FnMut()) -> usize {
    let count = |_| {
        let before = ASKED.load(Ordering::Relaxed);
        f();
        ASKED.load(Ordering::Relaxed) - before
    };
    (0..3).map(count).min().unwrap_or(0)
}

#[test]
fn no_step_allocates() {
    let _alone = ALONE.lock().unwrap();
    let len = 1 << 20; // large enough for many threads
    let adamw = AdamW { amsgrad: true, ..AdamW::default() };
    let (mut theta, grad) = (vec![0.5_f32; len], vec![1.0_f32; len]);
    let mut states = vec![vec![0.0_f32; len]; 3];
    assert_eq!(allocations(|| drop(vec![0_u8; 1])), 1, "the count works");

    for backend in Backend::ALL.iter().copied().filter(|backend| backend.is_available()) {
        let [m, v, v_max] = &mut states[..] else { unreachable!() };
        let count = allocations(|| {
            for t in 1..=100 {
                Step::new(&adamw, t)
                    .with_backend(backend)
                    .with_parallelism(Parallelism::Serial)
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

    // These steps use tiles: stochastic rounding, and a copy in f16.
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

    let mut opt = Flat::new(adamw, len).unwrap().with_parallelism(Parallelism::Serial);
    assert_eq!(allocations(|| (0..10).for_each(|_| opt.step(&mut theta, &grad).unwrap())), 0);

    #[cfg(feature = "parallel")]
    {
        let mut opt = opt.with_parallelism(Parallelism::Auto);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap();
        let mut steps = |n: usize| (0..n).for_each(|_| opt.step(&mut theta, &grad).unwrap());
        // In a pool: no allocations once all its threads have run.
        let count = pool.install(|| {
            steps(20);
            allocations(|| steps(200))
        });
        assert_eq!(count, 0, "in the pool");
        // On a thread that is itself one of its pool's: the same, with its own parallelism.
        let count = std::thread::scope(|scope| {
            let member = scope.spawn(|| {
                let threads = rayon::ThreadPoolBuilder::new().num_threads(4).use_current_thread();
                let _pool = threads.build().unwrap();
                steps(20);
                allocations(|| steps(200))
            });
            member.join().unwrap()
        });
        assert_eq!(count, 0, "in a thread of the pool");
        // From a thread outside of any pool, rayon allocates a block for the job, and a block of
        // its queue for every few dozen jobs. Neither grows with the buffers, and none is allocated
        // by this crate.
        steps(20);
        let count = allocations(|| steps(200));
        println!("200 steps from outside the pool: {count} allocations by rayon");
        assert!(count <= 210, "{count} allocations in 200 steps from outside the pool");
        let parallel = rayon::current_num_threads() > 1;
        assert_eq!(count >= 200, parallel, "{count} allocations: were the steps parallel?");
    }
}

/// An optimizer of many tensors with all its options, after all states are allocated.
#[test]
fn no_step_of_an_optimizer_allocates() {
    let _alone = ALONE.lock().unwrap();
    // Alternates a norm and a step, both from outside the pool.
    for (parallelism, allowed) in [(Parallelism::Serial, 0), (Parallelism::Auto, 420)] {
        let mut opt = Optimizer::new(AdamW::default()).unwrap();
        opt.options = StepOptions {
            clip_norm: Some(ClipNorm::Two(1.0)),
            clip_value: Some(1.0),
            report_largest_update: true,
            parallelism,
            ..StepOptions::default()
        };
        let schedule = LrSchedule::warmup(5).then(5, LrSchedule::Exponential { gamma: 0.9 });
        opt.set_lr_schedule(schedule).unwrap();
        let mut tensors: Vec<_> = [3, 500_000, 17, 70_000]
            .iter()
            .map(|&len| {
                let id = opt.add::<f32>(GroupId::default(), &len.to_string(), len).unwrap();
                (id, vec![0.5_f32; len], vec![1.0_f32; len])
            })
            .collect();
        let mut steps = |n: usize| {
            for _ in 0..n {
                opt.step(tensors.iter_mut().map(|(id, theta, grad)| Tensor::new(*id, theta, grad)))
                    .unwrap();
            }
        };
        steps(20);
        let count = allocations(|| steps(200));
        println!("200 steps, {parallelism:?}: {count} allocations");
        assert!(count <= allowed, "{count} allocations in 200 steps, {parallelism:?}");
    }
}

/// Steps on slices with states in 8 bits, in place and by tiles, and steps of an optimizer after
/// the first. Some blocks become NaN, and the last one is not whole.
#[test]
fn no_step_with_8_bit_states_allocates() {
    let _alone = ALONE.lock().unwrap();
    const LEN: usize = 999;
    let adamw = AdamW { amsgrad: true, ..AdamW::default() };
    let (mut theta, mut grad) = (vec![0.5_f32; LEN], vec![1.0_f32; LEN]);
    let (mut theta16, grad16) = (vec![bf16::ONE; LEN], vec![bf16::ONE; LEN]);
    grad[500] = f32::NAN;
    let mut states = [(); 3].map(|()| vec![[0; 33]; LEN.div_ceil(32)]);
    for backend in Backend::ALL.iter().copied().filter(|backend| backend.is_available()) {
        let [m, v, v_max] = &mut states;
        let count = allocations(|| {
            for t in 1..=100 {
                let step = Step::new(&adamw, t).with_parallelism(Parallelism::Serial);
                let step = step.with_backend(backend);
                step.run_mixed(&mut theta, &grad, &mut [&mut *m, v, v_max]).unwrap();
                step.run_mixed(&mut theta16, &grad16, &mut [&mut *m, v, v_max]).unwrap();
            }
        });
        assert_eq!(count, 0, "{backend}");
    }

    let mut opt = Optimizer::new(adamw).unwrap();
    opt.options.parallelism = Parallelism::Serial;
    let id = opt.add_mixed::<f32, f32, Block8>(GroupId::default(), "w", LEN).unwrap();
    let id16 = opt.add_mixed::<bf16, bf16, Block8>(GroupId::default(), "h", LEN).unwrap();
    let mut steps = |n: usize| {
        for _ in 0..n {
            let tensors =
                [Tensor::new(id, &mut theta, &grad), Tensor::new(id16, &mut theta16, &grad16)];
            opt.step(tensors).unwrap();
        }
    };
    steps(1);
    assert_eq!(allocations(|| steps(100)), 0, "an optimizer");
}

/// AdamW's two states take 33 bytes for 32 parameters each: 2.0625 bytes a parameter.
#[test]
fn the_memory_of_8_bit_states() {
    let _alone = ALONE.lock().unwrap();
    const LEN: usize = 1 << 16;
    let (mut theta, grad) = (vec![0.5_f32; LEN], vec![1.0_f32; LEN]);
    let in_use = || IN_USE.load(Ordering::Relaxed);
    let check = |owner: &str, bytes: usize| {
        let each = bytes as f64 / LEN as f64;
        println!("{owner}: {each} bytes a parameter");
        assert!((2.0..2.07).contains(&each), "{owner}: {each} bytes a parameter");
    };
    // The test harness has its own thread, so the least of three.
    let of_flat = |_| {
        let before = in_use();
        let mut opt = Flat::<_, Block8>::new(AdamW::default(), LEN).unwrap();
        opt.step_mixed(&mut theta, &grad).unwrap();
        in_use() - before
    };
    check("Flat", (0..3).map(of_flat).min().unwrap());
    let of_optimizer = |_| {
        let mut opt = Optimizer::new(AdamW::default()).unwrap();
        opt.add_mixed::<f32, f32, Block8>(GroupId::default(), "w", LEN).unwrap();
        let before = in_use();
        opt.step([Tensor::new("w", &mut theta, &grad)]).unwrap();
        in_use() - before
    };
    check("Optimizer", (0..3).map(of_optimizer).min().unwrap());
}

/// A hundred thousand steps with frozen parameters, skipped steps and checkpoints. The memory in
/// use does not grow, and the result is bit-identical to the reference.
#[test]
fn a_long_run() {
    let _alone = ALONE.lock().unwrap();
    const STEPS: u64 = 100_000;
    let lens = [1, 40, 7, 100];
    let rule = AdamW { lr: 1e-3, ..AdamW::default() };
    let mut opt = Optimizer::new(rule).unwrap();
    opt.options.skip_nonfinite = true;
    let ids = lens.map(|len| opt.add::<f32>(GroupId::default(), &len.to_string(), len).unwrap());
    let mut theta = lens.map(|len| vec![0.5_f32; len]);
    let mut twin = theta.clone();
    let mut states = lens.map(|len| [vec![0.0_f32; len], vec![0.0_f32; len]]);
    let mut counts = [0; 4];
    let mut grad = lens.map(|len| vec![0.0_f32; len]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("long.safetensors");
    let mut random = 1_u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let (mut least, mut most) = (usize::MAX, 0);
    for step in 0..STEPS {
        let active = next();
        let skipped = next() % 50 == 0;
        for g in grad.iter_mut().flatten() {
            *g = (next() >> 40) as f32 / (1 << 23) as f32 - 1.0;
        }
        let is_active = |i: usize| active >> i & 1 == 1;
        let bad = (0..4).find(|&i| skipped && is_active(i));
        if let Some(i) = bad {
            grad[i][0] = f32::NAN;
        }
        let tensors = ids.iter().zip(&mut theta).zip(&grad).enumerate();
        let tensors = tensors.filter(|(i, _)| is_active(*i));
        opt.step(tensors.map(|(_, ((id, theta), grad))| Tensor::new(*id, theta, grad))).unwrap();
        for i in (0..4).filter(|&i| bad.is_none() && is_active(i)) {
            counts[i] += 1;
            let [m, v] = &mut states[i];
            Step::new(&rule, counts[i])
                .with_backend(Backend::Scalar)
                .run(&mut twin[i], &grad[i], &mut [m, v])
                .unwrap();
        }
        if step % 2000 == 1999 {
            opt.checkpoint().save(&path).unwrap();
            fused_adam::CheckpointReader::open(&path).unwrap().load(&mut opt).unwrap();
            let in_use = IN_USE.load(Ordering::Relaxed);
            (least, most) = (least.min(in_use), most.max(in_use));
        }
    }
    for i in 0..4 {
        assert_eq!(opt.t(ids[i]), Some(counts[i]));
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&theta[i]), bits(&twin[i]));
        assert_eq!(bits(opt.state(ids[i], "m").unwrap()), bits(&states[i][0]));
        assert_eq!(bits(opt.state(ids[i], "v").unwrap()), bits(&states[i][1]));
    }
    println!("{least} to {most} bytes in use");
    assert!(most - least < 4096, "{least} to {most} bytes in use");
}
