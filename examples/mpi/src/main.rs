//! Trains the network of the example `train_digits` on several processes, with the states of the
//! optimizer sharded over them (ZeRO stage 1). Any number of processes ends with the same bits.
//!
//! ```text
//! cargo build --release
//! mpirun -n 4 target/release/train-digits-mpi [--bf16] [--lr LR] [--progress]
//!     [--checkpoint DIR [--resume] [--stop-after EPOCHS]]
//! ```
//!
//! Each process has all parameters, in one flat buffer, and one shard of the states m and v. A
//! training step has four parts:
//!
//! 1. Each process computes the gradients of some of the 8 micro batches of a batch.
//! 2. A reduce-scatter in a fixed order gives each process the sum for its shard: see [`group`].
//! 3. Each process steps its shard. [`step_all_distributed`] clips by the norm of all shards.
//! 4. An all-gather gives the new parameters to all processes.
//!
//! With `--bf16` the parameters are `bf16`, with stochastic rounding. The random bits of an element
//! depend on its index in the whole buffer, so the shard has [`ParamMut::with_offset`].
//!
//! With `--checkpoint` each process saves its shard after each epoch. `--resume` continues on any
//! number of processes, to the bit: see [`checkpoint`].
//!
//! No process fails alone, since the others would wait for it forever: after loading and saving,
//! all processes exchange whether they succeeded, and [`step_all_distributed`] does so in a step.
//! All processes need the same options.
//!
//! With `--progress` rank 0 shows a progress bar on its standard output, which Open MPI makes a
//! terminal. Its standard error is a pipe, where a bar would not be visible.

#![forbid(unsafe_code)]

mod checkpoint;
#[path = "../../train_digits/digits.rs"]
mod digits;
mod group;
#[path = "../../train_digits/network.rs"]
mod network;

use std::path::PathBuf;
use std::process::ExitCode;

use fused_adam::{
    AdamW, ClipNorm, Element, LrSchedule, ParamMut, Rounding, StepOptions, bf16,
    step_all_distributed,
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use digits::{Digit, Digits, Rng};
use group::{Group, part};
use network::{backpropagate, evaluate, initial_theta};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const EPOCHS: usize = 30;
/// The number of micro batches of a batch. Processes after the eighth compute no gradients.
const MICRO_BATCHES: usize = 8;
/// The number of digits of a micro batch.
const MICRO_BATCH: usize = 4;
const BATCH: usize = MICRO_BATCHES * MICRO_BATCH;
/// The limit for the gradient norm.
const CLIP: f64 = 1.0;
/// The share of the held-out digits that must be classified correctly after all epochs.
const ACCURACY_WANTED: f64 = 0.95;

fn main() -> ExitCode {
    let Some(universe) = mpi::initialize() else {
        eprintln!("MPI has been initialized before");
        return ExitCode::FAILURE;
    };
    let group = Group::new(universe.world());
    let result = group.agree(Options::parse()).and_then(|options| match options.bf16 {
        true => train::<bf16>(&group, &options),
        false => train::<f32>(&group, &options),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // In one write, so that the lines of several processes are not mixed.
            let line = format!("rank {}: {error}\n", group.rank);
            eprint!("{line}");
            ExitCode::FAILURE
        }
    }
}

struct Options {
    progress: bool,
    bf16: bool,
    /// The peak learning rate.
    lr: f64,
    checkpoint: Option<PathBuf>,
    resume: bool,
    /// The number of epochs after which to stop.
    stop_after: usize,
}

impl Options {
    fn parse() -> Result<Self> {
        use lexopt::prelude::*;
        let mut options = Options {
            progress: false,
            bf16: false,
            lr: 5e-3,
            checkpoint: None,
            resume: false,
            stop_after: EPOCHS,
        };
        let mut parser = lexopt::Parser::from_env();
        while let Some(argument) = parser.next()? {
            match argument {
                Long("progress") => options.progress = true,
                Long("bf16") => options.bf16 = true,
                Long("lr") => options.lr = parser.value()?.parse()?,
                Long("checkpoint") => options.checkpoint = Some(parser.value()?.into()),
                Long("resume") => options.resume = true,
                Long("stop-after") => options.stop_after = parser.value()?.parse()?,
                _ => return Err(argument.unexpected().into()),
            }
        }
        if options.checkpoint.is_none() && (options.resume || options.stop_after != EPOCHS) {
            return Err("--resume and --stop-after need a --checkpoint".into());
        }
        Ok(options)
    }
}

/// The state of a training run on one process.
struct State<T> {
    /// The number of steps taken.
    t: u64,
    /// All parameters.
    theta: Vec<T>,
    /// The first moments of this process's shard.
    m: Vec<f32>,
    /// The second moments of this process's shard.
    v: Vec<f32>,
}

fn train<T: Element<Float = f32>>(group: &Group, options: &Options) -> Result<()> {
    let digits = group.agree(Digits::load())?;
    let mut rng = Rng(1);
    let theta: Vec<T> = initial_theta(&mut rng).into_iter().map(T::from_float).collect();
    let shard = group.shard(theta.len());
    let zeros = || vec![0.0_f32; shard.len()];
    let mut state = State { t: 0, theta, m: zeros(), v: zeros() };
    if let (Some(folder), true) = (&options.checkpoint, options.resume) {
        group.agree(checkpoint::load(folder, group, &mut state))?;
        group.all_gather(&mut state.theta);
    }

    let micro_batches = part(group.rank, group.ranks, MICRO_BATCHES, 1);
    let mut micro_grads = vec![vec![0.0; state.theta.len()]; micro_batches.len()];
    let mut grad = zeros();
    let steps = digits.train.len() / BATCH;
    let total = (EPOCHS * steps) as u64;
    let schedule = LrSchedule::warmup_cosine(steps as u64, total, 0.0);
    // The gradient of the batch is the mean of those of its micro batches.
    let step_options = StepOptions {
        grad_scale: 1.0 / MICRO_BATCHES as f64,
        clip_norm: Some(ClipNorm::Two(CLIP)),
        rounding: Rounding::Stochastic { seed: 1 }, // of `bf16`; it does not affect `f32`
        ..Default::default()
    };
    let shown = options.progress && group.rank == 0;
    let target = if shown { ProgressDrawTarget::stdout() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(total), target);
    let bar = bar.with_style(ProgressStyle::with_template("step {pos}, {msg} {wide_bar} {eta}")?);
    bar.inc(state.t);
    let mut order: Vec<&Digit> = digits.train.iter().collect();
    for epoch in 0..options.stop_after.min(EPOCHS) {
        rng.shuffle(&mut order);
        if ((epoch * steps) as u64) < state.t {
            continue; // A resumed run only needs the order of the digits.
        }
        // The digits of a last, smaller batch have their turn in other epochs.
        for batch in order.chunks_exact(BATCH) {
            let weights = to_f32(&state.theta);
            for (number, grad) in micro_batches.clone().zip(&mut micro_grads) {
                backpropagate(&weights, &batch[number * MICRO_BATCH..][..MICRO_BATCH], grad);
            }
            group.reduce_scatter(&micro_grads, &mut grad);

            let rule = AdamW { lr: options.lr * schedule.factor(state.t), ..Default::default() };
            state.t += 1;
            let param = ParamMut::new(0, state.t, &mut state.theta[shard.clone()], &grad)
                .with_state(&mut state.m)
                .with_state(&mut state.v)
                .with_offset(shard.start as u64);
            let report = step_all_distributed(&[rule], &step_options, [param], |message| {
                Ok(group.all_gather_message(message))
            })?;
            group.all_gather(&mut state.theta);

            bar.set_message(format!("norm {:.2}", report.grad_norm.unwrap_or(0.0)));
            bar.inc(1);
        }
        if let Some(folder) = &options.checkpoint {
            group.agree(checkpoint::save_shard(folder, group, &state))?;
            group.agree(checkpoint::save_index(folder, group, &state))?;
        }
    }
    bar.finish_and_clear();

    let (loss, accuracy) = evaluate(&to_f32(&state.theta), &digits.held_out);
    let hash = hash(&state.theta);
    let hashes = group.all_gather_message(&hash.to_le_bytes());
    if hashes.chunks(8).any(|other| other != hash.to_le_bytes()) {
        return Err("the processes have different parameters".into());
    }
    if group.rank == 0 {
        let (name, t, percent) = (T::NAME, state.t, 100.0 * accuracy);
        print!("{name}, {t} steps: accuracy {percent:.1} %, loss {loss:.4}, ");
        println!("hash of theta {hash:016x}");
    }
    if options.stop_after >= EPOCHS && accuracy < ACCURACY_WANTED {
        return Err(format!("accuracy {accuracy}, expected {ACCURACY_WANTED}").into());
    }
    Ok(())
}

fn to_f32<T: Element<Float = f32>>(theta: &[T]) -> Vec<f32> {
    theta.iter().map(|x| x.to_float()).collect()
}

/// FNV-1a of the bytes.
fn hash<T: Element>(theta: &[T]) -> u64 {
    let bytes: &[u8] = fused_adam::bytemuck::cast_slice(theta);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
