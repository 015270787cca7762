//! Compares a step of AdamW on `f32` with a plain loop of the same arithmetic, which the compiler
//! vectorizes. Both have the same bits. Everything is on one thread, so it also runs on wasm: see
//! `CONTRIBUTING.md`.
//!
//! ```text
//! cargo run --release --example plain_loop
//! ```
//!
//! All measurements of one size alternate in many rounds, on buffers of the same numbers. Each time
//! is the median over the rounds, and each ratio is the median of the ratios of each round.

use std::time::{Duration, Instant};

use fused_adam::{AdamW, Backend, Parallelism, Step};

const ROUNDS: usize = 15;

/// The minimum duration of a measurement in one round.
const SLICE: Duration = Duration::from_millis(3);

/// θ, g, m and v. The numbers stay ordinary while the step is repeated.
#[derive(Clone)]
struct Buffers {
    theta: Vec<f32>,
    grad: Vec<f32>,
    m: Vec<f32>,
    v: Vec<f32>,
}

impl Buffers {
    fn new(len: usize) -> Self {
        let numbers = |scale: f32| (0..len).map(|i| scale * (1 + i % 97) as f32).collect();
        Buffers { theta: numbers(1e-2), grad: numbers(1e-3), m: numbers(1e-3), v: numbers(1e-6) }
    }

    fn bits(&self) -> Vec<u32> {
        let all = [&self.theta, &self.m, &self.v];
        all.into_iter().flatten().map(|x| x.to_bits()).collect()
    }
}

/// The arithmetic of `kernels.md` without its treatment of overflow, as one would write it.
#[inline(never)]
fn plain(rule: &AdamW, t: i32, buffers: &mut Buffers) {
    let (c1, c2) = (1.0 - rule.beta1.powi(t), 1.0 - rule.beta2.powi(t));
    let (rate1, rate2) = ((1.0 - rule.beta1) as f32, (1.0 - rule.beta2) as f32);
    let (root, lr, eps) = ((1.0 / c2.sqrt()) as f32, (rule.lr / c1) as f32, rule.eps as f32);
    let decay = (rule.lr * rule.weight_decay) as f32;
    let Buffers { theta, grad, m, v } = buffers;
    for (((theta, g), m), v) in theta.iter_mut().zip(&*grad).zip(m).zip(v) {
        *m += rate1 * (g - *m);
        *v += rate2 * (g * g - *v);
        let q = lr * *m / (v.sqrt() * root + eps);
        *theta -= decay * *theta + q;
    }
}

/// Nanoseconds per element. The first run does not count.
fn time(elements: usize, mut run: impl FnMut()) -> f64 {
    run();
    let (mut runs, mut batch) = (0, 1);
    let start = Instant::now();
    loop {
        for _ in 0..batch {
            run();
        }
        runs += batch;
        let elapsed = start.elapsed();
        if elapsed >= SLICE {
            return elapsed.as_nanos() as f64 / f64::from(runs) / elements as f64;
        }
        batch *= 2;
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> Result<(), fused_adam::Error> {
    const T: i32 = 10;
    let rule = AdamW::default();
    let backends: Vec<_> = [Backend::Scalar, Backend::Wide, Backend::Native]
        .into_iter()
        .filter(|backend| backend.is_available())
        .collect();
    println!("AdamW on f32, ns for each element; ratio: time of the plain loop / time of the step");
    println!("| elements | plain loop | backend | step | ratio |\n|---|---|---|---|---|");
    for len in [1 << 10, 1 << 14, 1 << 18, 1 << 22] {
        for &backend in &backends {
            let step = Step::new(&rule, T as u64)
                .with_backend(backend)
                .with_parallelism(Parallelism::Serial);
            let fused = |b: &mut Buffers| {
                step.run(&mut b.theta, &b.grad, &mut [&mut b.m, &mut b.v]).expect("lengths agree");
            };
            let mut ours = Buffers::new(len);
            let mut plains = ours.clone();
            fused(&mut ours);
            plain(&rule, T, &mut plains);
            assert!(ours.bits() == plains.bits(), "the bits differ");

            let (mut steps, mut loops, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                let plain = time(len, || plain(&rule, T, &mut plains));
                let step = time(len, || fused(&mut ours));
                loops.push(plain);
                steps.push(step);
                ratios.push(plain / step);
            }
            let (plain, step, ratio) = (median(loops), median(steps), median(ratios));
            println!("| {len} | {plain:.3} | {backend} | {step:.3} | {ratio:.2} |");
        }
    }
    Ok(())
}
