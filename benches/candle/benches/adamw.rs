//! Compares one step of candle's `AdamW` with one of fused-adam, on the same number of parameters.
//!
//! ```text
//! cargo bench -p fused-adam-bench-candle
//! ```
//!
//! Candle's step is a chain of tensor operations. Each of them reads and writes whole buffers.

use std::time::Duration;

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{AdamW as CandleAdamW, Optimizer, ParamsAdamW};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fused_adam::{AdamW, Flat};

fn adamw(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("candle");
    group.sample_size(10);
    group.warm_up_time(Duration::from_millis(500));
    group.measurement_time(Duration::from_secs(2));
    for len in [1 << 16, 1 << 20, 1 << 24] {
        // The memory traffic of fused-adam's step, for both, so that the rates have the same ratio
        // as the times.
        group.throughput(Throughput::Bytes(28 * len as u64));

        let params = ParamsAdamW::default();
        let theta = Var::rand(0.1_f32, 1.0, len, &Device::Cpu).unwrap();
        let weights = Tensor::rand(0.1_f32, 1.0, len, &Device::Cpu).unwrap();
        // The gradient of a weighted sum is the vector of weights.
        let loss = (theta.as_tensor() * &weights).unwrap().sum_all().unwrap();
        let grads = loss.backward().unwrap();
        let mut opt = CandleAdamW::new(vec![theta], params.clone()).unwrap();
        group.bench_function(BenchmarkId::new("candle", len), |bencher| {
            bencher.iter(|| opt.step(&grads).unwrap());
        });

        let ParamsAdamW { lr, beta1, beta2, eps, weight_decay } = params;
        let rule = AdamW { lr, beta1, beta2, eps, weight_decay, ..AdamW::default() };
        let mut opt = Flat::new(rule, len).unwrap();
        let mut theta = vec![0.5_f32; len];
        let grad: Vec<f32> = weights.to_dtype(DType::F32).unwrap().to_vec1().unwrap();
        group.bench_function(BenchmarkId::new("fused-adam", len), |bencher| {
            bencher.iter(|| opt.step(&mut theta, &grad).unwrap());
        });
    }
    group.finish();
}

criterion_group!(benches, adamw);
criterion_main!(benches);
