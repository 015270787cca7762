//! What steps do in another floating-point mode than the default.

use fused_adam::{AdamW, Error, Optimizer, Parallelism, Step, Threads, on_threads};
use fused_adam_float_mode::{FLUSH, changed_bits, in_default_mode, set_changed_bits};

/// The bits of each mode that changes results. Empty where the CPU is not supported.
fn modes() -> Vec<u64> {
    let all: Vec<u64> = (0..64).map(|bit| 1 << bit).collect();
    let mut modes = Vec::new();
    for bit in all {
        set_changed_bits(bit);
        if changed_bits() == bit {
            modes.push(bit);
        }
    }
    set_changed_bits(0);
    // FZ16 and FIZ of AArch64 are about other types, or may be missing.
    modes.retain(|bit| !cfg!(target_arch = "aarch64") || *bit > 1 << 19);
    assert!(FLUSH == 0 || modes.contains(&FLUSH));
    modes
}

/// Runs `work` in a mode, and then goes back to the default.
fn in_mode<T>(bits: u64, work: impl FnOnce() -> T) -> T {
    set_changed_bits(bits);
    let result = work();
    let after = changed_bits();
    set_changed_bits(0);
    assert_eq!(after, bits, "the mode was not restored");
    result
}

/// A step in which subnormal numbers matter, as bits.
fn step(len: usize, parallelism: Parallelism) -> Result<Vec<u32>, Error> {
    let (mut theta, grad) = (vec![1e-38_f32; len], vec![2e-38_f32; len]);
    let (mut m, mut v) = (vec![1e-40_f32; len], vec![3e-45_f32; len]);
    let rule = AdamW::default();
    let step = Step::new(&rule, 1).with_parallelism(parallelism);
    step.run(&mut theta, &grad, &mut [&mut m[..], &mut v])?;
    Ok(theta.iter().chain(&m).chain(&v).map(|x| x.to_bits()).collect())
}

#[test]
fn a_step_is_refused() {
    for bits in modes() {
        let refused = in_mode(bits, || step(100, Parallelism::Serial));
        assert_eq!(refused, Err(Error::FloatMode), "{bits:#x}");
        let refused =
            in_mode(bits, || Optimizer::new(AdamW::default()).and_then(|mut opt| opt.step([])));
        assert_eq!(refused.err(), Some(Error::FloatMode), "{bits:#x}");
    }
}

#[test]
fn the_default_mode_is_restored_around_a_step() {
    let expected = step(100, Parallelism::Serial);
    for bits in modes() {
        let got = in_mode(bits, || in_default_mode(|| step(100, Parallelism::Serial)));
        assert_eq!(got, expected, "{bits:#x}");
    }
}

#[test]
fn the_mode_is_restored_after_a_panic() {
    in_mode(FLUSH, || {
        let caught = std::panic::catch_unwind(|| in_default_mode(|| panic!("on purpose")));
        assert!(caught.is_err());
    });
}

/// Threads in another mode take no part of a step. The others do their work.
#[test]
fn threads_in_another_mode_do_nothing() {
    let len = 1 << 20;
    let expected = step(len, Parallelism::Serial);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(3)
        // The first thread stays in the default mode: it is the one that calls.
        .start_handler(|thread| set_changed_bits(if thread == 0 { 0 } else { FLUSH }))
        .build()
        .unwrap();
    for _ in 0..20 {
        let (mode, got) = pool.install(|| (changed_bits(), step(len, Parallelism::Auto)));
        match mode {
            0 => assert_eq!(got, expected),
            _ => assert_eq!(got, Err(Error::FloatMode)),
        }
    }

    struct Flushing;

    impl Threads for Flushing {
        fn count(&self) -> usize {
            3
        }

        fn run(&self, count: usize, work: &(dyn Fn() + Sync)) {
            std::thread::scope(|scope| {
                for _ in 0..count {
                    scope.spawn(|| in_mode(FLUSH, work));
                }
            });
        }
    }

    assert_eq!(on_threads(&Flushing, || step(len, Parallelism::Auto)), expected);
}
