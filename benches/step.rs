//! One step: of AdamW, a group per element type, over backends, threads and sizes; of every rule;
//! of AdamW in every combination of types; with the limit loop beside each. And what a call costs
//! on a buffer so small that nothing else matters.
//!
//! `cargo bench` leaves its report in `target/criterion/report/index.html`.
//! `cargo bench -- f32/native` runs what matches.

mod support;

use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use fused_adam::{AdamW, Backend, Element, Rounding, Rule, Schedule, Step, bf16};
use support::{Buffers, LimitLoop, RULES, Stepped, WithCopy};

/// In the first cache, in the second, around the last, and past it.
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
        for (threads, schedule) in [("serial", Schedule::Serial), ("parallel", Schedule::Auto)] {
            let limit = Step::new(&LimitLoop(2), 100).schedule(schedule);
            let id = BenchmarkId::new(format!("limit/{threads}"), len);
            one(&mut group, &mut buffers, &limit, id);
            for backend in Backend::ALL {
                if backend != Backend::Auto && backend.is_available() {
                    let step = Step::new(&adamw, 100).backend(backend).schedule(schedule);
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

/// Every rule on `f32`, on one thread: in the second cache, and past all of them.
fn rules(criterion: &mut Criterion) {
    let mut group = group(criterion, "rules");
    for len in [1 << 16, 1 << 24] {
        for (name, rule) in &*RULES {
            let states = rule.states().len();
            let bytes = Buffers::<f32, f32, f32>::bytes_per_element(states);
            group.throughput(Throughput::Bytes((len * bytes) as u64));
            let mut buffers = Buffers::<f32, f32, f32>::new(len, states);
            let step = Step::new(rule, 100).schedule(Schedule::Serial);
            one(&mut group, &mut buffers, &step, BenchmarkId::new(name, len));
            let limit = LimitLoop(states);
            let limit = Step::new(&limit, 100).schedule(Schedule::Serial);
            one(&mut group, &mut buffers, &limit, BenchmarkId::new(format!("{name}/limit"), len));
        }
    }
    group.finish();
}

/// AdamW on types that are mixed, on one thread: in the second cache, and past all of them.
fn types(criterion: &mut Criterion) {
    fn of<B: Stepped>(group: &mut BenchmarkGroup<WallTime>, name: &str, rounding: Rounding) {
        for len in [1 << 16, 1 << 24] {
            group.throughput(Throughput::Bytes((len * B::bytes_per_element(2)) as u64));
            let adamw = AdamW::default();
            let step = Step::new(&adamw, 100).schedule(Schedule::Serial).rounding(rounding);
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

/// Sixteen elements: the whole call, with its checks, its coefficients and its dispatch, beside a
/// loop over the same arithmetic with coefficients at hand.
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
