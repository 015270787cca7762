//! One step of AdamW: a group per element type, over backends, threads and sizes, with the limit
//! loop beside them; and what a call costs on a buffer so small that nothing else matters.
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
use fused_adam::{AdamW, Backend, Element, Rule, Schedule, Step};
use support::{Buffers, LimitLoop, bytes_per_element};

/// In the first cache, in the second, around the last, and past it.
const SIZES: [usize; 4] = [1 << 12, 1 << 16, 1 << 20, 1 << 24];

fn step<E: Element>(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group(E::NAME);
    group.sample_size(20);
    group.warm_up_time(Duration::from_millis(300));
    group.measurement_time(Duration::from_secs(1));
    for len in SIZES {
        group.throughput(Throughput::Bytes((len * bytes_per_element::<E>()) as u64));
        let mut buffers = Buffers::<E>::new(len);
        for (threads, schedule) in [("serial", Schedule::Serial), ("parallel", Schedule::Auto)] {
            let limit = ("limit", threads, Backend::Auto, schedule);
            one(&mut group, &mut buffers, &LimitLoop, limit);
            for backend in Backend::ALL {
                if backend != Backend::Auto && backend.is_available() {
                    let entry = (backend.name(), threads, backend, schedule);
                    one(&mut group, &mut buffers, &AdamW::default(), entry);
                }
            }
        }
    }
    group.finish();
}

fn one<R: Rule, E: Element>(
    group: &mut BenchmarkGroup<WallTime>,
    b: &mut Buffers<E>,
    rule: &R,
    (name, threads, backend, schedule): (&str, &str, Backend, Schedule),
) {
    let id = BenchmarkId::new(format!("{name}/{threads}"), b.theta.len());
    let step = Step::new(rule, 100).backend(backend).schedule(schedule);
    group.bench_function(id, |bencher| {
        bencher.iter(|| step.run(&mut b.theta, &b.grad, &mut [&mut b.m, &mut b.v]));
    });
}

/// Sixteen elements: the whole call, with its checks, its coefficients and its dispatch, beside a
/// loop over the same arithmetic with coefficients at hand.
fn call(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("call");
    let mut b = Buffers::<f32>::new(16);
    let adamw = AdamW::default();
    group.bench_function("step/16", |bencher| {
        bencher.iter(|| adamw.step(black_box(1000), &mut b.theta, &b.grad, &mut b.m, &mut b.v));
    });
    let [m_rate, v_rate, root_scale, eps, step_size, decay] =
        black_box([0.1_f32, 0.001, 1.26, 1e-8, 1e-3, 1e-5]);
    group.bench_function("bare_loop/16", |bencher| {
        bencher.iter(|| {
            let (theta, grad) = (black_box(&mut b.theta[..16]), &b.grad[..16]);
            let (m, v) = (&mut b.m[..16], &mut b.v[..16]);
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

criterion_group!(benches, step::<f32>, step::<f64>, call);
criterion_main!(benches);
