//! One training run, from a fixed initial state, with a given rule, backend and number of threads.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use fused_adam::{
    AnyRule, Backend, CheckpointReader, ClipNorm, GroupId, LrSchedule, Optimizer, Parallelism, Rule,
};
use indicatif::{ProgressBar, ProgressStyle};

use crate::digits::{Digit, Digits, Rng};
use crate::network::{backpropagate, evaluate, initial_theta};
use crate::tensors::{TENSORS, tensors};
use crate::{Options, Result};

pub const EPOCHS: usize = 30;
pub const BATCH: usize = 32;
/// The limit for the gradient norm. Only the first steps exceed it.
const CLIP: f64 = 5.0;
/// The default optimizer and its peak learning rate.
pub const USUAL: (&str, f64) = ("adamw", 5e-3);
/// The learning rates to try with any other optimizer, each in a short training.
const STEP_SIZES: [f64; 13] =
    [1e-4, 3e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1, 2e-1, 5e-1, 1.0, 2.0];
const TRIAL_EPOCHS: usize = 2;
/// Losses within this factor of the lowest count as equal. Of their learning rates the smallest is
/// used, which is the safest for a long training.
const ALIKE: f32 = 1.25;
/// The chunk length, for steps on several threads: theta has eight chunks.
const CHUNK: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// The chosen rule with its peak learning rate: the one on the command line, the default one, or
/// the smallest of those with about the lowest loss after a short training.
pub fn optimizer(options: &Options, digits: &Digits) -> Result<AnyRule> {
    let name = &options.optimizer;
    let mut rule: AnyRule = name.parse().map_err(|error| format!("--optimizer: {error}"))?;
    match options.lr {
        Some(lr) => rule.set_lr(lr),
        None if *name == USUAL.0 => rule.set_lr(USUAL.1),
        None => {
            let bar = progress_bar(STEP_SIZES.len(), "finding a learning rate {wide_bar} {eta}")?;
            let mut losses = Vec::new();
            for lr in STEP_SIZES {
                rule.set_lr(lr);
                losses.push(trial(rule, digits)?);
                bar.inc(1);
            }
            let lowest = losses.iter().copied().fold(f32::INFINITY, f32::min);
            let best = losses.iter().position(|loss| *loss <= ALIKE * lowest);
            bar.finish_and_clear();
            rule.set_lr(STEP_SIZES[best.ok_or("no learning rate lowers the loss")?]);
        }
    }
    Ok(rule)
}

/// The loss on all training digits after a short training with the same schedule.
fn trial(rule: AnyRule, digits: &Digits) -> Result<f32> {
    let mut rng = Rng(1);
    let mut theta = initial_theta(&mut rng);
    let mut grad = vec![0.0; theta.len()];
    let mut order: Vec<&Digit> = digits.train.iter().collect();
    let batches = order.len().div_ceil(BATCH);
    let mut opt = new_optimizer(rule, TRIAL_EPOCHS * batches, batches / 2)?;
    opt.options.parallelism = Parallelism::Serial;
    for _ in 0..TRIAL_EPOCHS {
        rng.shuffle(&mut order);
        for batch in order.chunks(BATCH) {
            if !backpropagate(&theta, batch, &mut grad).is_finite() {
                return Ok(f32::INFINITY);
            }
            opt.step(tensors(&mut theta, &grad))?;
        }
    }
    Ok(evaluate(&theta, &digits.train).0)
}

/// An optimizer for this many steps, with this many steps of warm-up.
fn new_optimizer(rule: AnyRule, steps: usize, warmup: usize) -> Result<Optimizer<AnyRule>> {
    let mut opt = Optimizer::new(rule)?;
    let biases = opt.add_group(without_decay(rule)?)?;
    for (name, len, is_bias) in TENSORS {
        opt.add::<f32>(if is_bias { biases } else { GroupId::default() }, name, len)?;
    }
    opt.options.clip_norm = Some(ClipNorm::Two(CLIP));
    let (warmup, rest) = (warmup as u64, (steps - warmup) as u64);
    let falls = LrSchedule::Cosine { steps: rest, floor: 0.0 };
    opt.set_lr_schedule(LrSchedule::warmup(warmup).then(warmup, falls))?;
    Ok(opt)
}

/// The same rule without weight decay, for biases.
fn without_decay(rule: AnyRule) -> Result<AnyRule> {
    let mut fields = serde_json::to_value(rule)?;
    if let Some(decay) = fields[rule.name()].get_mut("weight_decay") {
        *decay = 0.0.into();
    }
    Ok(serde_json::from_value(fields)?)
}

pub fn progress_bar(len: usize, template: &str) -> Result<ProgressBar> {
    let bar = ProgressBar::new(len as u64);
    bar.set_style(ProgressStyle::with_template(template)?);
    Ok(bar)
}

pub struct Run {
    pub backend: Backend,
    pub threads: usize,
    pub theta: Vec<f32>,
    /// The loss of each step's batch.
    pub losses: Vec<f32>,
    /// Loss and accuracy on the held-out digits, initially and after each epoch.
    pub held_out: Vec<(f32, f64)>,
    pub total: Duration,
    pub in_optimizer: Duration,
}

impl Run {
    /// Trains. Call it on a pool with as many threads as you want: steps run on the current pool.
    pub fn train(
        digits: &Digits,
        rule: AnyRule,
        backend: Backend,
        threads: usize,
        bar: &ProgressBar,
        options: &Options,
    ) -> Result<Self> {
        let start = Instant::now();
        let mut in_optimizer = Duration::ZERO;
        let mut rng = Rng(1);
        let mut theta = initial_theta(&mut rng);
        let mut grad = vec![0.0; theta.len()];
        let mut losses = Vec::new();
        let mut held_out = vec![evaluate(&theta, &digits.held_out)];
        let mut order: Vec<&Digit> = digits.train.iter().collect();
        let batches = order.len().div_ceil(BATCH);

        let mut opt = new_optimizer(rule, EPOCHS * batches, batches)?;
        opt.options.backend = backend;
        opt.options.parallelism =
            if threads == 1 { Parallelism::Serial } else { Parallelism::Chunks(CHUNK) };
        if let (Some(file), true) = (&options.checkpoint, options.resume) {
            let mut file = CheckpointReader::open(file)?;
            file.load(&mut opt)?;
            file.read("theta", &mut theta)?;
        }

        let done = opt.steps() as usize / batches;
        bar.inc((done * batches) as u64);
        for epoch in 0..options.stop_after {
            rng.shuffle(&mut order);
            if epoch < done {
                continue; // A resumed run only needs the order of the digits.
            }
            for batch in order.chunks(BATCH) {
                let loss = backpropagate(&theta, batch, &mut grad);
                losses.push(loss);
                let before = Instant::now();
                let report = opt.step(tensors(&mut theta, &grad))?;
                in_optimizer += before.elapsed();
                let lr = rule.lr() * report.lr_factor;
                let norm = report.grad_norm.unwrap_or(0.0);
                let per_s = losses.len() as f64 / start.elapsed().as_secs_f64();
                bar.set_message(format!(
                    "loss {loss:.4}, lr {lr:.1e}, norm {norm:.2}, {per_s:.0} steps/s"
                ));
                bar.inc(1);
            }
            held_out.push(evaluate(&theta, &digits.held_out));
            if let Some(file) = &options.checkpoint {
                opt.checkpoint().with_tensor("theta", &theta).save(file)?;
            }
        }
        Ok(Run { backend, threads, theta, losses, held_out, total: start.elapsed(), in_optimizer })
    }
}
