//! Distributed steps: the bits do not depend on the number of processes, and all processes do the
//! same. Threads stand for processes.

use std::iter;
use std::ops::Range;
use std::sync::{Barrier, Mutex};
use std::thread;

use fused_adam::{
    AdamW, ClipNorm, Error, GradNorm, GradScaler, GroupId, Optimizer, ParamMut, Report, Rounding,
    Shard, StepOptions, Tensor, bf16, failed_step, step_all, step_all_distributed,
};
use proptest::prelude::*;

use crate::common::{Bits, Numbers, Random};
use crate::equality::chunks;

/// The argument of a distributed step.
type AllGather<'a> = &'a dyn Fn(&[u8]) -> Result<Vec<u8>, Error>;

/// The exchange between the threads of a test.
struct Processes {
    messages: Mutex<Vec<Vec<u8>>>,
    arrived: Barrier,
}

impl Processes {
    /// Runs `process` on `count` threads, each with its rank and its all-gather.
    fn run<T: Send>(count: usize, process: impl Fn(usize, AllGather<'_>) -> T + Sync) -> Vec<T> {
        let all = Processes {
            messages: Mutex::new(vec![Vec::new(); count]),
            arrived: Barrier::new(count),
        };
        let (all, process) = (&all, &process);
        thread::scope(|scope| {
            let start = |rank| {
                scope.spawn(move || {
                    process(rank, &|message: &[u8]| {
                        all.messages.lock().unwrap()[rank] = message.to_vec();
                        all.arrived.wait();
                        let messages = all.messages.lock().unwrap().concat();
                        all.arrived.wait();
                        Ok(messages)
                    })
                })
            };
            let threads: Vec<_> = (0..count).map(start).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }
}

/// All indices of a dimension.
fn whole(size: usize) -> Vec<Range<u64>> {
    iter::once(0..size as u64).collect()
}

/// The indices of each dimension that each process has: one dimension is split in uneven ranges,
/// perhaps several for a process, perhaps none.
fn split(random: &mut Random, shape: &[usize], processes: usize) -> Vec<Vec<Vec<Range<u64>>>> {
    let dimension = random.below(shape.len());
    let mut shards = vec![shape.iter().map(|&size| whole(size)).collect::<Vec<_>>(); processes];
    shards.iter_mut().for_each(|shard| shard[dimension].clear());
    let mut start = 0;
    while start < shape[dimension] {
        let end = start + 1 + random.below(shape[dimension] - start);
        shards[random.below(processes)][dimension].push(start as u64..end as u64);
        start = end;
    }
    shards
}

/// The indices of a shard's elements in the whole tensor, one by one.
fn indices(shape: &[usize], ranges: &[Vec<Range<u64>>]) -> Vec<usize> {
    let mut all = vec![0];
    for (size, ranges) in shape.iter().zip(ranges) {
        let within: Vec<usize> = ranges.iter().cloned().flatten().map(|i| i as usize).collect();
        all = all.iter().flat_map(|i| within.iter().map(move |j| i * size + j)).collect();
    }
    all
}

fn shard(shape: &[usize], ranges: &[Vec<Range<u64>>]) -> Result<Shard, Error> {
    let shape: Vec<u64> = shape.iter().map(|&size| size as u64).collect();
    let ranges: Vec<&[Range<u64>]> = ranges.iter().map(Vec::as_slice).collect();
    Shard::new(&shape, &ranges)
}

/// θ, g, m and v of a tensor, or of a shard of it.
#[derive(Clone)]
struct Buffers<E>([Vec<E>; 4]);

impl<E: Bits> Buffers<E> {
    fn random(random: &mut Random, len: usize) -> Self {
        let mut buffers = [(); 4].map(|()| Numbers::Ordinary.fill(random, len));
        buffers[3].iter_mut().for_each(|v: &mut E| *v = E::from_f64(v.to_f64().abs()));
        Buffers(buffers)
    }

    fn shard(&self, indices: &[usize]) -> Self {
        Buffers(self.0.each_ref().map(|buffer| indices.iter().map(|&i| buffer[i]).collect()))
    }

    fn borrow(&mut self) -> ParamMut<'_> {
        let [theta, grad, m, v] = &mut self.0;
        ParamMut::new(0, 3, theta, grad).with_state(m).with_state(v).with_seed(9)
    }

    fn bits(&self) -> Vec<Vec<u64>> {
        self.0.iter().map(|buffer| buffer.iter().map(|x| x.bits()).collect()).collect()
    }
}

/// Steps a whole tensor, and shards of it on several threads. Compares bits and reports. Another
/// tensor is on all processes, and counts once.
fn compare<E: Bits>(seed: u64, processes: usize) -> Result<(), TestCaseError> {
    let random = &mut Random(seed);
    let shape: Vec<usize> = (0..1 + random.below(4)).map(|_| 1 + random.below(7)).collect();
    let rules = [AdamW { lr: 0.1, ..AdamW::default() }];
    let options = StepOptions {
        clip_norm: Some(ClipNorm::Two(0.7)),
        parallelism: chunks(5),
        rounding: Rounding::Stochastic { seed: 4 },
        report_largest_update: random.below(2) == 0,
        ..StepOptions::default()
    };
    let shards = split(random, &shape, processes);
    let mut whole = Buffers::<E>::random(random, shape.iter().product());
    // Some are cut into pieces.
    let len = 3 + random.below(10);
    let mut replica = Buffers::<E>::random(random, len);
    let before = (whole.clone(), replica.clone());
    let report = step_all(&rules, &options, [whole.borrow(), replica.borrow()]).unwrap();
    let found: Vec<(Report, _, _)> = Processes::run(processes, |rank, all_gather| {
        let mut part = before.0.shard(&indices(&shape, &shards[rank]));
        let (mut replica, shard) = (before.1.clone(), shard(&shape, &shards[rank]).unwrap());
        let second = replica.borrow();
        let second = if rank == 0 { second } else { second.without_norm() };
        let tensors = [part.borrow().with_shard(&shard), second];
        let report = step_all_distributed(&rules, &options, tensors, all_gather).unwrap();
        (report, part.bits(), replica.bits())
    });
    for (ranges, (got, part, second)) in shards.iter().zip(found) {
        prop_assert_eq!(got.grad_norm, report.grad_norm);
        prop_assert_eq!(got.clip_factor.to_bits(), report.clip_factor.to_bits());
        prop_assert_eq!(part, whole.shard(&indices(&shape, ranges)).bits(), "{:?}", ranges);
        prop_assert_eq!(second, replica.bits());
    }
    Ok(())
}

/// The parameters of an optimizer, or shards of them: two steps, of which the first creates states.
fn compare_owned<E: Bits>(seed: u64, processes: usize) -> Result<(), TestCaseError> {
    let random = &mut Random(seed);
    let shape = [1 + random.below(5), 1 + random.below(9)];
    let len = shape.iter().product();
    let shards = split(random, &shape, processes);
    let rounding = Rounding::Stochastic { seed: 4 };
    let [theta, grad, zeroed, ..] = Buffers::<E>::random(random, len).0;
    let [flat, flat_grad, ..] = Buffers::<E>::random(random, len).0;
    let of = |part: &[usize], flat_part: Range<usize>| {
        let mut opt = Optimizer::new(AdamW { lr: 0.1, ..AdamW::default() }).unwrap();
        opt.options = StepOptions { clip_norm: Some(ClipNorm::Inf(0.2)), rounding, ..opt.options };
        opt.add::<E>(GroupId::default(), "w", part.len()).unwrap();
        opt.add::<E>(GroupId::default(), "flat", flat_part.len()).unwrap();
        opt.add::<E>(GroupId::default(), "replica", len).unwrap();
        opt
    };
    let run = |rank: usize, part: &[usize], flat_part: Range<usize>, step: Step<'_>| {
        let mut opt = of(part, flat_part.clone());
        let pick = |all: &[E]| part.iter().map(|&i| all[i]).collect::<Vec<E>>();
        let (mut w, w_grad) = (pick(&theta), pick(&grad));
        let (mut own, mut replica) = (flat[flat_part.clone()].to_vec(), theta.clone());
        let own_grad = &flat_grad[flat_part.clone()];
        let mut norms = Vec::new();
        for _ in 0..2 {
            let mut sums = zeroed.clone();
            let replica = Tensor::zero_grad("replica", &mut replica, &mut sums);
            let tensors = [
                Tensor::new("w", &mut w, &w_grad),
                Tensor::new("flat", &mut own, own_grad).with_offset(flat_part.start as u64),
                if rank == 0 { replica } else { replica.without_norm() },
            ];
            norms.push(step(&mut opt, tensors));
            assert!(sums.iter().all(|g| g.to_f64() == 0.0));
        }
        (norms, w, own, replica)
    };
    let all: Vec<usize> = (0..len).collect();
    let whole = run(0, &all, 0..len, &|opt, tensors| opt.step(tensors).unwrap().grad_norm);
    let bits = |all: &[E]| all.iter().map(|x| x.bits()).collect::<Vec<_>>();
    let chunk = len.div_ceil(processes);
    let range = |rank: usize| (rank * chunk).min(len)..((rank + 1) * chunk).min(len);
    let found = Processes::run(processes, |rank, all_gather| {
        let shard = shard(&shape, &shards[rank]).unwrap();
        run(rank, &indices(&shape, &shards[rank]), range(rank), &|opt, [w, flat, replica]| {
            let tensors = [w.with_shard(&shard), flat, replica];
            opt.step_distributed(tensors, all_gather).unwrap().grad_norm
        })
    });
    for (rank, (norms, w, flat, replica)) in found.into_iter().enumerate() {
        prop_assert_eq!(norms, whole.0.clone());
        let expected = indices(&shape, &shards[rank]).iter().map(|&i| whole.1[i].bits()).collect();
        prop_assert_eq!(bits(&w), Vec::<u64>::from_iter::<Vec<u64>>(expected));
        prop_assert_eq!(bits(&flat), bits(&whole.2[range(rank)]));
        prop_assert_eq!(bits(&replica), bits(&whole.3));
    }
    Ok(())
}

/// Takes a step, and returns the norm.
type Step<'a> = &'a dyn for<'t> Fn(&mut Optimizer<AdamW>, [Tensor<'t>; 3]) -> Option<f64>;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn sharded_optimizers_have_the_bits_of_the_whole(seed: u64, processes in 1..5_usize) {
        compare_owned::<bf16>(seed, processes)?;
        compare_owned::<f32>(seed, processes)?;
    }

    #[test]
    fn shards_have_the_bits_of_the_whole(seed: u64, processes in 1..5_usize) {
        compare::<bf16>(seed, processes)?;
        compare::<f32>(seed, processes)?;
    }

    #[test]
    fn a_shard_knows_its_indices(seed: u64) {
        let random = &mut Random(seed);
        let shape: Vec<usize> = (0..1 + random.below(4)).map(|_| random.below(6)).collect();
        // Ranges in every dimension.
        let ranges: Vec<_> = (0..shape.len()).map(|d| {
            if random.below(3) == 0 { whole(shape[d]) }
            else { split(random, &shape[d..=d], 2)[0][0].clone() }
        }).collect();
        let (shard, expected) = (shard(&shape, &ranges).unwrap(), indices(&shape, &ranges));
        prop_assert_eq!(shard.len(), expected.len() as u64);
        for (i, &index) in expected.iter().enumerate() {
            prop_assert_eq!(shard.index(i as u64), Some(index as u64));
        }
        prop_assert_eq!(shard.index(shard.len()), None);
    }
}

/// A process without tensors joins, and so does one with an error. All get the same norm, or an
/// error.
#[test]
fn all_processes_do_the_same() {
    /// What a process does, and what it finds.
    type Process = (fn() -> StepOptions, usize, f32);
    let clip = || StepOptions { clip_norm: Some(ClipNorm::Two(1.0)), ..StepOptions::default() };
    let skip = || StepOptions { skip_nonfinite: true, ..StepOptions::default() };
    let wrong = || StepOptions { clip_value: Some(-1.0), ..StepOptions::default() };
    let run = |processes: [Process; 3]| {
        Processes::run(3, |rank, all_gather| {
            let (options, tensors, grad) = processes[rank];
            let [mut theta, mut m, mut v] = [[0.0_f32; 4]; 3];
            let grad = [grad; 4];
            let tensor = ParamMut::new(0, 1, &mut theta, &grad).with_state(&mut m);
            let tensors = [tensor.with_state(&mut v)].into_iter().take(tensors);
            let rules = [AdamW::default()];
            let result = step_all_distributed(&rules, &options(), tensors, all_gather);
            (result, theta != [0.0; 4])
        })
    };
    let found: [_; 3] = run([(clip, 1, 3.0), (clip, 0, 0.0), (clip, 1, 4.0)]).try_into().unwrap();
    assert!(found.iter().all(|(result, _)| result.clone().unwrap().grad_norm == Some(10.0)));
    assert_eq!(found.map(|(_, moved)| moved), [true, false, true]);
    for (result, moved) in run([(skip, 1, 3.0), (skip, 0, 0.0), (skip, 1, f32::NAN)]) {
        assert!(result.unwrap().skipped && !moved);
    }
    let is_nonfinite = |error: &Error| matches!(error, Error::NonfiniteNorm { .. });
    for (result, moved) in run([(clip, 1, 3.0), (clip, 0, 0.0), (clip, 1, f32::INFINITY)]) {
        assert!(is_nonfinite(&result.unwrap_err()) && !moved);
    }
    for (result, moved) in run([(clip, 1, 3.0), (skip, 0, 0.0), (clip, 1, 4.0)]) {
        let text = result.unwrap_err().to_string();
        assert_eq!(text, "`clip_norm` is None on rank 1, expected Two(1.0) as on rank 0");
        assert!(!moved);
    }
    let own = "`clip_value` is -1.0, expected a finite number above 0";
    for (rank, (result, moved)) in
        run([(clip, 1, 3.0), (wrong, 1, 0.0), (clip, 0, 4.0)]).into_iter().enumerate()
    {
        let text = result.unwrap_err().to_string();
        let told = format!("rank 1 cannot take the step: {own}");
        assert_eq!(text, if rank == 1 { own.to_owned() } else { told });
        assert!(!moved);
    }
}

/// A process that fails before its step tells the others. An all-gather that fails, or returns
/// something else, is an error, and nothing has changed.
#[test]
fn failures_outside_of_the_step() {
    assert_eq!(failed_step("").len(), 872);
    let step = |all_gather: AllGather<'_>| {
        let mut theta = [1.0_f32];
        let [mut m, mut v] = [[0.0_f32]; 2];
        let tensor = ParamMut::new(0, 1, &mut theta, &[1.0_f32]).with_state(&mut m);
        let tensors = [tensor.with_state(&mut v)];
        let options = StepOptions::default();
        let result = step_all_distributed(&[AdamW::default()], &options, tensors, all_gather);
        assert_eq!((theta, m, v), ([1.0], [0.0], [0.0]));
        result.unwrap_err()
    };
    let told = step(&|message| Ok([message, &failed_step("the disk is full")].concat()));
    assert_eq!(told.to_string(), "rank 1 cannot take the step: the disk is full");
    let died = Error::AllGather { reason: "rank 3 is gone".to_owned() };
    assert_eq!(step(&|_| Err(died.clone())), died);
    assert!(matches!(step(&|message| Ok(message[1..].to_vec())), Error::AllGather { .. }));
    assert!(matches!(step(&|_| Ok(Vec::new())), Error::AllGather { .. }));
}

/// Loss scales stay equal: an infinite gradient on one process halves the scale on all. The first
/// step, which creates states, is skipped without them.
#[test]
fn optimizers_skip_together() {
    let found = Processes::run(2, |rank, all_gather| {
        let mut opt = Optimizer::new(AdamW { lr: 0.5, ..AdamW::default() }).unwrap();
        let w = opt.add::<f32>(GroupId::default(), "w", 2).unwrap();
        opt.grad_scaler = Some(GradScaler { scale: 4.0, ..GradScaler::default() });
        let mut theta = [1.0_f32; 2];
        let bad = if rank == 1 { f32::INFINITY } else { 8.0 };
        let grad = [8.0, bad];
        let tensor = Tensor::new(w, &mut theta, &grad);
        let first = opt.step_distributed([tensor], all_gather).unwrap();
        assert!(first.skipped && theta == [1.0; 2]);
        assert_eq!(opt.state::<f32>(w, "m"), None);
        let tensor = Tensor::new(w, &mut theta, &[6.0_f32, 8.0]).with_offset(2 * rank as u64);
        let second = opt.step_distributed([tensor], all_gather).unwrap();
        assert_eq!(second.grad_norm, Some(50_f64.sqrt()));
        // Only the all-gather was missing, so nothing has changed.
        let before = theta;
        let mut called = 0;
        let unknown = Tensor::new("x", &mut theta, &[0.0_f32; 2]);
        let error = opt.step_distributed([unknown], |message| {
            called += 1;
            Ok(message.to_vec())
        });
        assert!(matches!(error, Err(Error::UnknownParam { .. })) && called == 1);
        assert_eq!((opt.steps(), theta), (1, before));
        opt.grad_scaler.unwrap().scale
    });
    assert_eq!(found, [2.0, 2.0]);
}

/// Loss scales that differ, or that react differently, are an error on both processes.
#[test]
fn optimizers_with_other_scales_do_not_step() {
    let least = 2_f64.powi(-126);
    let scaler = |scale| Some(GradScaler { scale, ..GradScaler::default() });
    let stuck = Some(GradScaler { scale: least, ..GradScaler::default() });
    let moving = Some(GradScaler { scale: least, backoff_factor: 1.0, ..GradScaler::default() });
    let skip = "`skip_nonfinite` is";
    for (scalers, skips, text) in [
        ([scaler(4.0), scaler(8.0)], false, "`grad_scale / loss_scale` is 0.125 on rank 1"),
        ([scaler(1.0), None], false, skip),
        ([stuck, moving], false, skip),
        ([scaler(1.0), None], true, ""),
    ] {
        let errors = Processes::run(2, |rank, all_gather| {
            let mut opt = Optimizer::new(AdamW::default()).unwrap();
            opt.add::<f32>(GroupId::default(), "w", 1).unwrap();
            opt.grad_scaler = scalers[rank];
            opt.options.skip_nonfinite = skips;
            let mut theta = [1.0_f32];
            let tensor = Tensor::new("w", &mut theta, &[f32::INFINITY]);
            let result = opt.step_distributed([tensor], all_gather);
            assert_eq!(theta, [1.0]);
            result.err().map(|error| error.to_string()).unwrap_or_default()
        });
        assert_eq!(errors[0], errors[1]);
        assert!(errors[0].starts_with(text) && errors[0].is_empty() == text.is_empty());
    }
}

/// Ranges that the whole tensor does not have, and shards of another length than θ.
#[test]
fn wrong_shards_are_refused() {
    let text = |ranges: &[&[Range<u64>]]| Shard::new(&[4, 6], ranges).unwrap_err().to_string();
    let (all, past) = (0..4, 2..7);
    assert_eq!(
        text(&[std::slice::from_ref(&all), std::slice::from_ref(&past)]),
        "the shard has the indices 2..7 in dimension 1, expected ascending ranges within 0..6"
    );
    assert_eq!(
        text(&[&[0..2, 1..3], &[]]),
        "the shard has the indices 1..3 in dimension 0, expected ascending ranges within 0..4"
    );
    assert_eq!(text(&[&[]]), "the shard has ranges for 1 dimension, expected 2");
    let shard = Shard::new(&[4, 6], &[&[0..1, 2..3], &[1..2, 3..4]]).unwrap();
    assert_eq!([0, 1, 2, 3].map(|i| shard.index(i)), [1, 3, 13, 15].map(Some));
    let (mut theta, mut m, mut v) = ([0.0_f32; 5], [0.0_f32; 5], [0.0_f32; 5]);
    let tensor = ParamMut::new(0, 1, &mut theta, &[1.0_f32; 5])
        .with_state(&mut m)
        .with_state(&mut v)
        .with_shard(&shard);
    let error = step_all(&[AdamW::default()], &StepOptions::default(), [tensor]).unwrap_err();
    assert_eq!(error.to_string(), "`shard` has 4 elements, expected 5 as in `theta`");
}

/// Every norm survives the way through bytes: one that overflowed, and counts of infinite and NaN.
#[test]
fn norms_survive_as_bytes() {
    for grad in [&[][..], &[1.5, -2.5], &[f64::INFINITY, 1.0], &[f64::NAN; 3], &[f64::MAX; 9]] {
        let mut norm = GradNorm::new();
        norm.add(grad);
        for _ in 0..90 {
            norm.merge(&norm.clone());
        }
        assert_eq!(GradNorm::from_bytes(&norm.to_bytes()), Some(norm));
    }
    // As `kernels.md` says: 9 in units of 2^-2148, the largest |g|, one infinite and two NaN.
    let mut norm = GradNorm::new();
    norm.add(&[-3.0, f64::INFINITY, f64::NAN, f64::NAN]);
    let bytes = norm.to_bytes();
    let words: Vec<u64> =
        bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
    let mut expected = vec![0; 67];
    expected[2148 / 64] = 9 << (2148 % 64);
    expected.extend([3_f64.to_bits(), 1, 2]);
    assert_eq!(words, expected);
    let mut bytes = GradNorm::new().to_bytes();
    let at = bytes.len() - 24;
    bytes[at..at + 8].copy_from_slice(&f64::NAN.to_le_bytes());
    assert_eq!(GradNorm::from_bytes(&bytes), None);
}
