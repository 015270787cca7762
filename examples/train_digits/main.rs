//! Trains a small neural network on handwritten digits, once for each backend and number of
//! threads, and checks that all runs end with bit-identical weights.
//!
//! ```text
//! cargo run --release --example train_digits -- [--optimizer NAME] [--lr LR]
//!     [--checkpoint FILE [--resume] [--stop-after EPOCHS]]
//! ```
//!
//! The default optimizer is AdamW. You can choose another rule of the crate by its name in
//! [`AnyRule::NAMES`]. For another rule, the example tries several peak learning rates for two
//! epochs each, and uses the smallest of those with about the lowest loss.
//!
//! With `--checkpoint` it trains once, and saves weights and states after each epoch. With
//! `--resume` it continues from there, and ends with bit-identical weights, as if it had not been
//! stopped.
//!
//! The data are 1797 handwritten digits of 8×8 pixels: UCI "Optical Recognition of Handwritten
//! Digits" (E. Alpaydin, 1998, CC BY 4.0). A fifth of them is held out. The network (64 pixels → 96
//! leaky ReLUs → 10 classes) must classify at least 95 % of these correctly, or 93 % with another
//! optimizer than AdamW.
//!
//! An [`Optimizer`] has the four tensors in two groups, because biases have no weight decay. The
//! learning rate warms up for one epoch and then follows half a cosine. The gradient norm is
//! clipped. The forward and backward passes are plain loops on one thread, the same in all runs.
//! Only the backend and the threads of the optimizer differ. Training amplifies rounding errors:
//! one flipped bit in an early step usually changes most weights at the end.
//!
//! It prints a table and plots the loss curve to `target/train_digits.svg`. The hash of the weights
//! can differ between machines, because `exp` comes from the system's math library.

mod digits;
mod network;
mod plot;
mod run;
mod tensors;

use std::fs;
use std::path::{Path, PathBuf};

use fused_adam::{AnyRule, Backend, Rule};
use indicatif::HumanCount;
use rayon::ThreadPoolBuilder;

use digits::Digits;
use run::{BATCH, EPOCHS, Run, USUAL, optimizer, progress_bar};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const THREADS: [usize; 3] = [1, 2, 4];

fn main() -> Result<()> {
    let options = Options::parse()?;
    let digits = Digits::load()?;
    let rule = optimizer(&options, &digits)?;
    if options.checkpoint.is_some() {
        let steps = EPOCHS * digits.train.len().div_ceil(BATCH);
        let bar = progress_bar(steps, "{msg} {wide_bar} {eta}")?;
        let run = Run::train(&digits, rule, Backend::Auto, 1, &bar, &options)?;
        bar.finish_and_clear();
        print_table(&[run]);
        return Ok(());
    }
    let named = |backend: &Backend| !matches!(backend, Backend::Auto | Backend::Native);
    let (here, elsewhere): (Vec<Backend>, Vec<Backend>) =
        Backend::ALL.iter().copied().filter(named).partition(|backend| backend.is_available());

    let steps = here.len() * THREADS.len() * EPOCHS * digits.train.len().div_ceil(BATCH);
    let bar = progress_bar(steps, "{prefix}, {msg} {wide_bar} {eta}")?;
    let mut runs = Vec::new();
    for backend in here {
        for threads in THREADS {
            bar.set_prefix(format!("{backend} on {threads}"));
            let pool = ThreadPoolBuilder::new().num_threads(threads).build()?;
            runs.push(
                pool.install(|| Run::train(&digits, rule, backend, threads, &bar, &options))?,
            );
        }
    }
    bar.finish_and_clear();

    let (train, held_out) = (digits.train.len(), digits.held_out.len());
    println!("{rule}, learning rate {}, {train} training digits, {held_out} held out", rule.lr());
    print_table(&runs);
    for backend in elsewhere {
        println!("skipped: {backend} (not available on this CPU)");
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    fs::create_dir_all(&folder)?;
    plot::plot(&runs[0], &folder.join("train_digits.svg"))?;
    check(&runs, accuracy_wanted(&rule))?;
    let weights = HumanCount(runs[0].theta.len() as u64);
    println!("all {} runs end with the same {weights} weights, bit for bit", runs.len());
    Ok(())
}

struct Options {
    optimizer: String,
    /// The peak learning rate.
    lr: Option<f64>,
    checkpoint: Option<PathBuf>,
    resume: bool,
    /// The number of epochs after which to stop.
    stop_after: usize,
}

impl Options {
    fn parse() -> Result<Self> {
        use lexopt::prelude::*;
        let mut options = Options {
            optimizer: USUAL.0.to_owned(),
            lr: None,
            checkpoint: None,
            resume: false,
            stop_after: EPOCHS,
        };
        let mut parser = lexopt::Parser::from_env();
        while let Some(argument) = parser.next()? {
            match argument {
                Long("optimizer") => options.optimizer = parser.value()?.string()?,
                Long("lr") => options.lr = Some(parser.value()?.parse()?),
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

/// The share of the held-out digits that must be classified correctly.
fn accuracy_wanted(rule: &AnyRule) -> f64 {
    if rule.name() == USUAL.0 { 0.95 } else { 0.93 }
}

fn bits(values: &[f32]) -> impl Iterator<Item = u32> {
    values.iter().map(|x| x.to_bits())
}

/// Fails unless all runs are bit-identical and reach the required accuracy.
fn check(runs: &[Run], accuracy_wanted: f64) -> Result<()> {
    let first = &runs[0];
    for Run { backend, threads, theta, losses, .. } in runs {
        if !bits(theta).eq(bits(&first.theta)) || !bits(losses).eq(bits(&first.losses)) {
            return Err(format!("{backend} on {threads} threads has other results").into());
        }
    }
    match first.held_out[EPOCHS] {
        (_, accuracy) if accuracy >= accuracy_wanted => Ok(()),
        (_, accuracy) => Err(format!("accuracy {accuracy}, expected {accuracy_wanted}").into()),
    }
}

fn print_table(runs: &[Run]) {
    println!("backend  threads  accuracy    loss  seconds  in optimizer  hash of theta");
    for Run { backend, threads, theta, held_out, total, in_optimizer, .. } in runs {
        let (loss, accuracy) = held_out[held_out.len() - 1];
        let (percent, seconds) = (100.0 * accuracy, total.as_secs_f64());
        let share = 100.0 * in_optimizer.as_secs_f64() / seconds;
        // FNV-1a, one word at a time.
        let hash = bits(theta).fold(0x811c_9dc5_u32, |h, b| (h ^ b).wrapping_mul(0x0100_0193));
        print!("{backend:<8} {threads:>7}  {percent:>6.1} %  {loss:>6.4}  {seconds:>7.3}");
        println!("  {share:>10.1} %  {hash:>13x}");
    }
}
