//! One run of the training: from the same start, with one rule, backend and number of threads.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use fused_adam::{
    AdamW, AnyRule, Backend, CheckpointReader, ClipNorm, GroupId, Lion, LrSchedule, Optimizer,
    Schedule,
};
use indicatif::ProgressBar;

use crate::digits::{Digit, Digits, Rng};
use crate::network::{TENSORS, backpropagate, evaluate, initial_theta, tensors};
use crate::{Options, Result};

pub const EPOCHS: usize = 30;
pub const BATCH: usize = 32;
/// The gradients' norm is clipped to this, which it exceeds in the first steps only.
const CLIP: f64 = 5.0;
/// The largest learning rate with each optimizer. AdaGrad's is large, as its steps shrink of themselves; SGD's is that of steps
/// which grow with the gradient, and Lion's that of steps which all have one size.
const PEAK_LR: [(&str, f64); 11] = [
    ("sgd", 1e-1),
    ("rmsprop", 3e-3),
    ("adagrad", 5e-2),
    ("adam", 5e-3),
    ("adamw", 5e-3),
    ("adamax", 1e-2),
    ("nadam", 5e-3),
    ("radam", 5e-3),
    ("adabound", 5e-3),
    ("adabelief", 5e-3),
    ("lion", 1e-3),
];
/// What SGD keeps of its last step; the other options of all rules are their defaults.
const SGD_MOMENTUM: f64 = 0.9;
/// How finely a step is cut if it is to run on several threads: into eight chunks.
const CHUNK: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// The rule of this name, as it is before the first step.
pub fn optimizer(name: &str) -> Result<AnyRule> {
    let mut rule: AnyRule = name.parse().map_err(|error| format!("--optimizer: {error}"))?;
    let peak = PEAK_LR.into_iter().find(|(of, _)| *of == rule.name());
    *rule.lr_mut() = peak.ok_or_else(|| format!("no learning rate is known for {rule}"))?.1;
    if let AnyRule::Sgd(sgd) = &mut rule {
        sgd.momentum = SGD_MOMENTUM;
    }
    Ok(rule)
}

/// The same without decay, for biases.
fn without_decay(rule: AnyRule) -> AnyRule {
    match rule {
        AnyRule::AdamW(rule) => AdamW { weight_decay: 0.0, ..rule }.into(),
        AnyRule::Lion(rule) => Lion { weight_decay: 0.0, ..rule }.into(),
        // The others have none unless it is asked for.
        other => other,
    }
}

pub struct Run {
    pub backend: Backend,
    pub threads: usize,
    pub theta: Vec<f32>,
    /// Of each step's batch.
    pub losses: Vec<f32>,
    /// Loss and accuracy on the held-out digits: at the start, then after each epoch.
    pub held_out: Vec<(f32, f64)>,
    pub total: Duration,
    pub in_optimizer: Duration,
}

impl Run {
    /// To be called on a pool of so many threads: steps run on the pool that they are called on.
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

        let mut opt = Optimizer::new(rule)?;
        let biases = opt.add_group(without_decay(rule))?;
        for (name, len, is_bias) in TENSORS {
            opt.add::<f32>(if is_bias { biases } else { GroupId::default() }, name, len)?;
        }
        opt.options.backend = backend;
        opt.options.schedule =
            if threads == 1 { Schedule::Serial } else { Schedule::Chunks(CHUNK) };
        opt.options.clip_norm = Some(ClipNorm::Two(CLIP));
        let (warmup, rest) = (batches as u64, ((EPOCHS - 1) * batches) as u64);
        let falls = LrSchedule::Cosine { steps: rest, floor: 0.0 };
        opt.lr_schedule = Some(LrSchedule::warmup(warmup).then(warmup, falls));
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
                continue; // The order of the digits is all that is needed of it.
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
                opt.checkpoint().with("theta", &theta).save(file)?;
            }
        }
        Ok(Run { backend, threads, theta, losses, held_out, total: start.elapsed(), in_optimizer })
    }
}
