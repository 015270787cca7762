//! Trains a small neural network on handwritten digits, once for each backend and number of
//! threads, and shows that all runs end in the same weights, to the bit.
//!
//! ```text
//! cargo run --release --example train_digits -- [--optimizer NAME]
//!     [--checkpoint FILE [--resume] [--stop-after EPOCHS]]
//! ```
//!
//! The optimizer is AdamW unless it is named: sgd, rmsprop, adagrad, adam, adamw, adamax, nadam,
//! radam, adabound, adabelief or lion.
//!
//! With `--checkpoint` it trains once, saves weights and states after each epoch, and with `--resume`
//! goes on from there: to the same weights, to the bit, as if it had not been stopped.
//!
//! The digits are 1797 real ones of 8×8 pixels: UCI "Optical Recognition of Handwritten Digits"
//! (E. Alpaydin, 1998, CC BY 4.0). A fifth of them is held out, and the network has to read at
//! least 95 % of that fifth correctly, 93 % with another optimizer than AdamW: 64 pixels → 96 leaky rectified units → 10 classes.
//!
//! An [`Optimizer`] holds the four tensors in two groups, since biases are not to decay. It warms up
//! for an epoch, lets the step size fall along half a cosine, and clips the gradients' norm.
//! Forward and backward pass are plain loops on one thread, the same in all runs; only the optimizer's
//! backend and its threads differ. Training magnifies rounding errors: one flipped bit in an early
//! step will as a rule change most weights at the end.
//!
//! It prints a table and draws the loss curve to `target/train_digits.svg`. Another machine may
//! show another hash of the weights, since `exp` is its mathematical library's.

use std::fs;
use std::io::Read;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;
use fused_adam::{
    AdamW, AnyRule, Backend, CheckpointReader, ClipNorm, GroupId, Lion, LrSchedule, Optimizer,
    Schedule, Tensor,
};
use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use plotters::prelude::*;
use plotters::style::full_palette::{DEEPORANGE, INDIGO};
use rayon::ThreadPoolBuilder;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const PIXELS: usize = 64;
const HIDDEN: usize = 96;
const CLASSES: usize = 10;

/// Elements of theta in each of the two layers: a row of biases, and one of weights per input.
const FIRST: usize = (1 + PIXELS) * HIDDEN;
const SECOND: usize = (1 + HIDDEN) * CLASSES;

/// What a hidden unit lets through of a negative sum. With none, units die: they never get a
/// gradient again, and their m decays into subnormal numbers, which slow every step down.
const LEAK: f32 = 0.1;

const EPOCHS: usize = 30;
const BATCH: usize = 32;
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
const THREADS: [usize; 3] = [1, 2, 4];
/// How finely a step is cut if it is to run on several threads: into eight chunks.
const CHUNK: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

fn main() -> Result<()> {
    let options = Options::parse()?;
    let rule = optimizer(&options.optimizer)?;
    let digits = Digits::load()?;
    if options.checkpoint.is_some() {
        let steps = (EPOCHS * digits.train.len().div_ceil(BATCH)) as u64;
        let bar = ProgressBar::new(steps);
        bar.set_style(ProgressStyle::with_template("{msg} {wide_bar} {eta}")?);
        let run = Run::train(&digits, rule, Backend::Auto, 1, &bar, &options)?;
        bar.finish_and_clear();
        print_table(&[run]);
        return Ok(());
    }
    let named = |backend: &Backend| !matches!(backend, Backend::Auto | Backend::Native);
    let (here, elsewhere): (Vec<Backend>, Vec<Backend>) =
        Backend::ALL.into_iter().filter(named).partition(|backend| backend.is_available());

    let steps = here.len() * THREADS.len() * EPOCHS * digits.train.len().div_ceil(BATCH);
    let bar = ProgressBar::new(steps as u64);
    bar.set_style(ProgressStyle::with_template("{prefix}, {msg} {wide_bar} {eta}")?);
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
    println!("{rule}, {train} digits to train on, {held_out} held out");
    print_table(&runs);
    for backend in elsewhere {
        println!("skipped: {backend} (not available on this CPU)");
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    fs::create_dir_all(&folder)?;
    plot(&runs[0], &folder.join("train_digits.svg"))?;
    check(&runs, accuracy_wanted(&rule))?;
    let weights = HumanCount(runs[0].theta.len() as u64);
    println!("all {} runs end in the same {weights} weights, to the bit", runs.len());
    Ok(())
}

struct Options {
    optimizer: String,
    checkpoint: Option<PathBuf>,
    resume: bool,
    /// Epochs.
    stop_after: usize,
}

impl Options {
    fn parse() -> Result<Self> {
        use lexopt::prelude::*;
        let mut options = Options {
            optimizer: "adamw".to_owned(),
            checkpoint: None,
            resume: false,
            stop_after: EPOCHS,
        };
        let mut parser = lexopt::Parser::from_env();
        while let Some(argument) = parser.next()? {
            match argument {
                Long("optimizer") => options.optimizer = parser.value()?.string()?,
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

/// The rule of this name, as it is before the first step.
fn optimizer(name: &str) -> Result<AnyRule> {
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

/// The network's tensors as they follow each other in theta, with whether they are biases.
const TENSORS: [(&str, usize, bool); 4] = [
    ("first.bias", HIDDEN, true),
    ("first.weight", PIXELS * HIDDEN, false),
    ("second.bias", CLASSES, true),
    ("second.weight", HIDDEN * CLASSES, false),
];

/// Each of them with its part of theta and of the gradient.
fn tensors<'a>(mut theta: &'a mut [f32], mut grad: &'a [f32]) -> impl Iterator<Item = Tensor<'a>> {
    TENSORS.into_iter().map(move |(name, len, _)| {
        let (tensor, rest) = std::mem::take(&mut theta).split_at_mut(len);
        let (its_grad, grad_rest) = grad.split_at(len);
        (theta, grad) = (rest, grad_rest);
        Tensor::new(name, tensor, its_grad)
    })
}

/// The share of the held-out digits that has to be read correctly.
fn accuracy_wanted(rule: &AnyRule) -> f64 {
    if matches!(rule, AnyRule::AdamW(_)) { 0.95 } else { 0.93 }
}

struct Digit {
    /// From 0 for white to 1 for black.
    pixels: [f32; PIXELS],
    label: usize,
}

struct Digits {
    train: Vec<Digit>,
    held_out: Vec<Digit>,
}

impl Digits {
    fn load() -> Result<Self> {
        let mut csv = String::new();
        GzDecoder::new(&include_bytes!("../data/digits.csv.gz")[..]).read_to_string(&mut csv)?;
        let mut train = csv.lines().map(Self::parse).collect::<Result<Vec<Digit>>>()?;
        Rng(1998).shuffle(&mut train);
        let held_out = train.split_off(train.len() - train.len() / 5);
        Ok(Digits { train, held_out })
    }

    /// Reads a row: 64 pixels of 0 to 16, then the label.
    fn parse(row: &str) -> Result<Digit> {
        let mut numbers = row.split(',');
        let mut pixels = [0.0; PIXELS];
        for pixel in &mut pixels {
            *pixel = numbers.next().ok_or("a row is too short")?.parse::<f32>()? / 16.0;
        }
        Ok(Digit { pixels, label: numbers.next().ok_or("a row has no label")?.parse()? })
    }
}

/// SplitMix64: the same numbers in every run.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [−1, 1).
    fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, (self.next() % (i as u64 + 1)) as usize);
        }
    }
}

/// The two layers in theta: row 0 holds the biases, row i + 1 the weights of input i.
fn layers(theta: &[f32]) -> (&[[f32; HIDDEN]], &[[f32; CLASSES]]) {
    let (first, second) = theta.split_at(FIRST);
    (first.as_chunks().0, second.as_chunks().0)
}

fn layers_mut(theta: &mut [f32]) -> (&mut [[f32; HIDDEN]], &mut [[f32; CLASSES]]) {
    let (first, second) = theta.split_at_mut(FIRST);
    (first.as_chunks_mut().0, second.as_chunks_mut().0)
}

/// Biases of zero, and weights that are uniform within ±√(6 / inputs) in front of rectified units
/// (He et al., 2015) and within ±√(3 / inputs) in front of the classes.
fn initial_theta(rng: &mut Rng) -> Vec<f32> {
    let mut theta = vec![0.0; FIRST + SECOND];
    let (first, second) = layers_mut(&mut theta);
    first[1..].as_flattened_mut().fill_with(|| (6.0 / PIXELS as f32).sqrt() * rng.uniform());
    second[1..].as_flattened_mut().fill_with(|| (3.0 / HIDDEN as f32).sqrt() * rng.uniform());
    theta
}

/// y += a·x
fn axpy<const N: usize>(a: f32, x: &[f32; N], y: &mut [f32; N]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += a * x);
}

/// A layer's weighted sums of its inputs, biases included.
fn forward<const N: usize>(layer: &[[f32; N]], inputs: &[f32]) -> [f32; N] {
    let mut sums = layer[0];
    for (input, row) in inputs.iter().zip(&layer[1..]) {
        axpy(*input, row, &mut sums);
    }
    sums
}

/// Adds to a layer's gradient what these inputs contribute, given the gradient of its sums.
fn backward<const N: usize>(grad: &mut [[f32; N]], inputs: &[f32], sums_grad: &[f32; N]) {
    axpy(1.0, sums_grad, &mut grad[0]);
    for (input, row) in inputs.iter().zip(&mut grad[1..]) {
        axpy(*input, sums_grad, row);
    }
}

fn leaky(x: f32) -> f32 {
    if x > 0.0 { x } else { LEAK * x }
}

/// Cross-entropy of the logits' softmax, and its gradient with respect to the logits.
fn cross_entropy(logits: &[f32; CLASSES], label: usize) -> (f32, [f32; CLASSES]) {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exps = logits.map(|logit| (logit - largest).exp());
    let sum: f32 = exps.iter().sum();
    let mut grad = exps.map(|exp| exp / sum);
    grad[label] -= 1.0;
    (sum.ln() - (logits[label] - largest), grad)
}

/// Writes the gradient of the batch's mean loss, and returns that loss.
fn backpropagate(theta: &[f32], batch: &[&Digit], grad: &mut [f32]) -> f32 {
    let (first, second) = layers(theta);
    grad.fill(0.0);
    let (first_grad, second_grad) = layers_mut(grad);
    let (share, mut mean) = (1.0 / batch.len() as f32, 0.0);
    for digit in batch {
        let hidden = forward(first, &digit.pixels).map(leaky);
        let (loss, logits_grad) = cross_entropy(&forward(second, &hidden), digit.label);
        mean += share * loss;
        let logits_grad = logits_grad.map(|g| share * g);
        backward(second_grad, &hidden, &logits_grad);
        let hidden_grad = std::array::from_fn(|i| {
            let dot: f32 = second[i + 1].iter().zip(&logits_grad).map(|(w, g)| w * g).sum();
            if hidden[i] > 0.0 { dot } else { LEAK * dot }
        });
        backward(first_grad, &digit.pixels, &hidden_grad);
    }
    mean
}

/// Mean loss, and the share of digits that are read correctly.
fn evaluate(theta: &[f32], digits: &[Digit]) -> (f32, f64) {
    let (first, second) = layers(theta);
    let (mut loss, mut correct) = (0.0, 0);
    for digit in digits {
        let logits = forward(second, &forward(first, &digit.pixels).map(leaky));
        loss += cross_entropy(&logits, digit.label).0;
        let likeliest = (0..CLASSES).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
        correct += usize::from(likeliest == Some(digit.label));
    }
    (loss / digits.len() as f32, correct as f64 / digits.len() as f64)
}

struct Run {
    backend: Backend,
    threads: usize,
    theta: Vec<f32>,
    /// Of each step's batch.
    losses: Vec<f32>,
    /// Loss and accuracy on the held-out digits: at the start, then after each epoch.
    held_out: Vec<(f32, f64)>,
    total: Duration,
    in_optimizer: Duration,
}

impl Run {
    /// To be called on a pool of so many threads: steps run on the pool that they are called on.
    fn train(
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

fn bits(values: &[f32]) -> impl Iterator<Item = u32> {
    values.iter().map(|x| x.to_bits())
}

/// Fails unless all runs went the same way, to the bit, and arrived at a good reader.
fn check(runs: &[Run], accuracy_wanted: f64) -> Result<()> {
    let first = &runs[0];
    for Run { backend, threads, theta, losses, .. } in runs {
        if !bits(theta).eq(bits(&first.theta)) || !bits(losses).eq(bits(&first.losses)) {
            return Err(format!("{backend} on {threads} threads went another way").into());
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
        // FNV-1a, a word at a time.
        let hash = bits(theta).fold(0x811c_9dc5_u32, |h, b| (h ^ b).wrapping_mul(0x0100_0193));
        print!("{backend:<8} {threads:>7}  {percent:>6.1} %  {loss:>6.4}  {seconds:>7.3}");
        println!("  {share:>10.1} %  {hash:>13x}");
    }
}

/// Draws the loss over epochs.
fn plot(run: &Run, file: &Path) -> Result<()> {
    let batches = run.losses.len() / EPOCHS;
    let mean = |losses: &[f32]| losses.iter().sum::<f32>() / losses.len() as f32;
    let each_batch = run.losses.iter().enumerate();
    let each_batch: Vec<_> = each_batch.map(|(i, y)| (i as f32 / batches as f32, *y)).collect();
    let each_epoch = run.losses.chunks(batches).enumerate();
    let each_epoch: Vec<_> = each_epoch.map(|(i, ys)| (i as f32 + 0.5, mean(ys))).collect();
    let held_out = run.held_out.iter().enumerate();
    let held_out: Vec<_> = held_out.map(|(i, (y, _))| (i as f32, *y)).collect();
    let lowest = run.losses.iter().copied().fold(1.0, f32::min);
    let root = SVGBackend::new(file, (900, 500)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .margin(14)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..EPOCHS as f32, (lowest / 1.5..4.0).log_scale())?;
    let font = ("sans-serif", 14);
    let mut mesh = chart.configure_mesh();
    mesh.x_desc("epoch").x_label_formatter(&|x| x.to_string());
    mesh.y_desc("cross-entropy").y_label_formatter(&|y| y.to_string()).label_style(font);
    mesh.bold_line_style(BLACK.mix(0.12)).light_line_style(TRANSPARENT).draw()?;
    for (label, style, point_size, points) in [
        ("each batch of digits", INDIGO.mix(0.3).stroke_width(1), 0, each_batch),
        ("mean of each epoch's batches", INDIGO.stroke_width(2).filled(), 2, each_epoch),
        ("held-out digits", DEEPORANGE.stroke_width(2).filled(), 2, held_out),
    ] {
        let series = LineSeries::new(points, style).point_size(point_size);
        let swatch = move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style);
        chart.draw_series(series)?.label(label).legend(swatch);
    }
    let mut legend = chart.configure_series_labels();
    legend.position(SeriesLabelPosition::UpperRight).label_font(font);
    legend.background_style(WHITE).border_style(BLACK.mix(0.3)).draw()?;
    root.present()?;
    println!("loss curve: {}", file.display());
    Ok(())
}
