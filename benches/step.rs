//! Benchmarks of one step: AdamW with each element type, on several backends, thread counts and
//! sizes; every rule; AdamW with every combination of types; each next to the memory limit, a copy
//! loop with the same traffic. Also the cost of a call on a very small buffer.
//!
//! `cargo bench` writes its report to `target/criterion/report/index.html`. `cargo bench --
//! f32/native` runs the benchmarks whose names match.

mod support;

use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use fused_adam::{AdamW, Backend, Element, Parallelism, Rounding, Rule, Step, bf16};
use support::{Buffers, LimitLoop, RULES, Stepped, WithCopy};

/// In the L1 cache, in the L2 cache, near the size of the L3 cache, and out of cache.
const SIZES: [usize; 4] = [1 << 12, 1 << 16, 1 << 20, 1 << 24];

fn group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(20);
    group.warm_up_time(Duration::from_millis(300));
    group.measurement_time(Duration::from_secs(1));
    group
}

fn step<E: Element>(criterion: &mut Criterion) {
    let mut group = group(criterion, E::NAME);
    let adamw = AdamW::default();
    for len in SIZES {
        let bytes = Buffers::<E, E, E>::bytes_per_element(2);
        group.throughput(Throughput::Bytes((len * bytes) as u64));
        let mut buffers = Buffers::<E, E, E>::new(len, 2);
        for (threads, parallelism) in
            [("serial", Parallelism::Serial), ("parallel", Parallelism::Auto)]
        {
            let limit = Step::new(&LimitLoop(2), 100).with_parallelism(parallelism);
            let id = BenchmarkId::new(format!("limit/{threads}"), len);
            one(&mut group, &mut buffers, &limit, id);
            for &backend in Backend::ALL {
                if backend != Backend::Auto && backend.is_available() {
                    let step =
                        Step::new(&adamw, 100).with_backend(backend).with_parallelism(parallelism);
                    let id = BenchmarkId::new(format!("{backend}/{threads}"), len);
                    one(&mut group, &mut buffers, &step, id);
                }
            }
        }
    }
    group.finish();
}

fn one<R: Rule, B: Stepped>(
    group: &mut BenchmarkGroup<WallTime>,
    buffers: &mut B,
    step: &Step<'_, R>,
    id: BenchmarkId,
) {
    group.bench_function(id, |bencher| bencher.iter(|| buffers.step(step)));
}

/// Every rule on `f32`, on one thread: in the L2 cache, and out of cache.
fn rules(criterion: &mut Criterion) {
    let mut group = group(criterion, "rules");
    for len in [1 << 16, 1 << 24] {
        for (name, rule) in &*RULES {
            let states = rule.states().len();
            let bytes = Buffers::<f32, f32, f32>::bytes_per_element(states);
            group.throughput(Throughput::Bytes((len * bytes) as u64));
            let mut buffers = Buffers::<f32, f32, f32>::new(len, states);
            let step = Step::new(rule, 100).with_parallelism(Parallelism::Serial);
            one(&mut group, &mut buffers, &step, BenchmarkId::new(name, len));
            let limit = LimitLoop(states);
            let limit = Step::new(&limit, 100).with_parallelism(Parallelism::Serial);
            one(&mut group, &mut buffers, &limit, BenchmarkId::new(format!("{name}/limit"), len));
        }
    }
    group.finish();
}

/// AdamW with mixed types, on one thread: in the L2 cache, and out of cache.
fn types(criterion: &mut Criterion) {
    fn of<B: Stepped>(group: &mut BenchmarkGroup<WallTime>, name: &str, rounding: Rounding) {
        for len in [1 << 16, 1 << 24] {
            group.throughput(Throughput::Bytes((len * B::bytes_per_element(2)) as u64));
            let adamw = AdamW::default();
            let step = Step::new(&adamw, 100)
                .with_parallelism(Parallelism::Serial)
                .with_rounding(rounding);
            one(group, &mut B::new(len, 2), &step, BenchmarkId::new(name, len));
        }
    }
    let mut group = group(criterion, "types");
    let (nearest, stochastic) = (Rounding::Nearest, Rounding::Stochastic { seed: 1 });
    of::<Buffers<f32, f32, f32>>(&mut group, "f32", nearest);
    of::<Buffers<bf16, bf16, bf16>>(&mut group, "bf16", nearest);
    of::<Buffers<bf16, bf16, bf16>>(&mut group, "bf16, stochastic", stochastic);
    of::<Buffers<bf16, bf16, f32>>(&mut group, "bf16 with f32 states", nearest);
    of::<WithCopy<bf16, f32, bf16>>(&mut group, "f32 with bf16 gradient and copy", nearest);
    of::<Buffers<f32, f32, bf16>>(&mut group, "f32 with bf16 states", nearest);
    group.finish();
}

/// A step of sixteen elements, with its checks, coefficients and dispatch, next to a loop with the
/// same arithmetic and given coefficients.
fn call(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("call");
    let mut b = Buffers::<f32, f32, f32>::new(16, 2);
    let [m, v] = &mut b.state[..] else { unreachable!("two states were asked for") };
    let adamw = AdamW::default();
    group.bench_function("step/16", |bencher| {
        bencher.iter(|| adamw.step(black_box(1000), &mut b.theta, &b.grad, [m, v]));
    });
    let [m_rate, v_rate, root_scale, eps, step_size, decay] =
        black_box([0.1_f32, 0.001, 1.26, 1e-8, 1e-3, 1e-5]);
    group.bench_function("bare_loop/16", |bencher| {
        bencher.iter(|| {
            let (theta, grad) = (black_box(&mut b.theta[..16]), &b.grad[..16]);
            let (m, v) = (&mut m[..16], &mut v[..16]);
            for i in 0..16 {
                m[i] += m_rate * (grad[i] - m[i]);
                v[i] += v_rate * (grad[i] * grad[i] - v[i]);
                let d = v[i].sqrt() * root_scale + eps;
                theta[i] -= decay * theta[i] + step_size * m[i] / d;
            }
        });
    });
    group.finish();
}

criterion_group!(benches, step::<f32>, step::<f64>, step::<bf16>, rules, types, call);
criterion_main!(benches);
