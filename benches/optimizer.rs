//! Compares an optimizer of many tensors with one flat buffer of the same number of elements: the
//! cost of its pieces, and of clipping, scaling and measuring. On one thread and on all.
//!
//! The two sides of a comparison run alternately, and the benchmark prints the median ratio over
//! all rounds. criterion would run them one after the other, and a drift of the machine's speed
//! would bias the ratio. `cargo bench --bench optimizer -- gpt2` runs the benchmarks whose names
//! match.

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::time::Instant;

use fused_adam::{
    AdamW, CheckpointReader, ClipNorm, Flat, GradScaler, GroupId, Optimizer, Parallelism, ParamId,
    StepOptions, Tensor,
};
use support::{median, time};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The tensors of a model with their gradients, and an optimizer for them.
struct Model {
    opt: Optimizer,
    tensors: Vec<(ParamId, Vec<f32>, Vec<f32>)>,
}

impl Model {
    fn new(lens: &[usize], options: StepOptions) -> Result<Self> {
        let mut opt = Optimizer::new(AdamW::default())?;
        opt.options = options;
        let mut tensors = Vec::new();
        for (i, &len) in lens.iter().enumerate() {
            let id = opt.add::<f32>(GroupId::default(), &format!("tensor {i}"), len)?;
            tensors.push((id, vec![1.0; len], gradient(len)));
        }
        Ok(Model { opt, tensors })
    }

    fn step(&mut self) {
        let tensors = self.tensors.iter_mut();
        let tensors = tensors.map(|(id, theta, grad)| Tensor::new(*id, theta, grad));
        self.opt.step(tensors).expect("a valid step");
    }
}

fn gradient(len: usize) -> Vec<f32> {
    (0..len).map(|i| 0.1 + (i as f32 * 0.618_034).fract()).collect()
}

/// Elements of 30 binades. Most blocks of a real model's gradients span as many.
fn of_all_sizes(len: usize) -> Vec<f32> {
    let powers: Vec<f32> = (0..30).map(|e| 2_f32.powi(-e)).collect();
    gradient(len).iter().enumerate().map(|(i, g)| g * powers[i % 30]).collect()
}

/// FlatBuffer flat buffer.
struct FlatBuffer {
    opt: Flat<AdamW, f32>,
    theta: Vec<f32>,
    grad: Vec<f32>,
}

impl FlatBuffer {
    fn new(len: usize, parallelism: Parallelism) -> Result<Self> {
        let opt = Flat::new(AdamW::default(), len)?.with_parallelism(parallelism);
        Ok(FlatBuffer { opt, theta: vec![1.0; len], grad: gradient(len) })
    }

    fn step(&mut self) {
        self.opt.step(&mut self.theta, &self.grad).expect("a valid step");
    }
}

/// The 148 tensors of GPT-2 small (Radford and others, 2019): 12 layers of width 768.
fn gpt2() -> Vec<usize> {
    let d = 768;
    let layer = [d, d, d * 3 * d, 3 * d, d * d, d, d, d, d * 4 * d, 4 * d, 4 * d * d, d];
    let layers = (0..12).flat_map(|_| layer);
    [50257 * d, 1024 * d].into_iter().chain(layers).chain([d, d]).collect()
}

/// The 161 tensors of ResNet-50 (He and others, 2015).
fn resnet50() -> Vec<usize> {
    let mut lens = vec![64 * 3 * 49, 64, 64];
    let mut input = 64;
    for (width, blocks) in [(64, 3), (128, 4), (256, 6), (512, 3)] {
        for block in 0..blocks {
            let out = 4 * width;
            lens.extend([input * width, width, width]);
            lens.extend([width * width * 9, width, width]);
            lens.extend([width * out, out, out]);
            if block == 0 {
                lens.extend([input * out, out, out]);
            }
            input = out;
        }
    }
    lens.extend([2048 * 1000, 1000]);
    lens
}

/// Which benchmarks to run, and whether to run all rounds or, as a test, only one.
struct Run {
    rounds: usize,
    filter: Option<String>,
}

impl Run {
    /// Prints the time of `what`, per element and per tensor, and its ratio to `other`.
    fn compare(
        &self,
        name: &str,
        elements: usize,
        tensors: usize,
        mut what: impl FnMut(),
        mut other: impl FnMut(),
    ) {
        let mut rounds = Vec::new();
        for _ in 0..self.rounds {
            rounds.push((time(elements, &mut what), time(elements, &mut other)));
        }
        let element = median(rounds.iter().map(|(what, _)| *what).collect());
        let ratio = median(rounds.iter().map(|(what, other)| what / other).collect());
        let tensor = element * elements as f64 / tensors as f64;
        println!("{name:<44} {element:>8.3} ns/element {tensor:>12.1} ns/tensor {ratio:>7.3}");
    }

    fn wants(&self, name: &str) -> bool {
        self.filter.as_ref().is_none_or(|filter| name.contains(filter.as_str()))
    }
}

fn main() -> Result<()> {
    let threads = std::thread::available_parallelism()?.get();
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let test = arguments.iter().any(|argument| argument == "--test");
    let filter = arguments.into_iter().find(|argument| !argument.starts_with("--"));
    let run = Run { rounds: if test { 1 } else { 15 }, filter };
    let parallelisms = [("1 thread".to_owned(), Parallelism::Serial)];
    let all = [(format!("{threads} threads"), Parallelism::Auto)];

    let models = [
        ("gpt2", gpt2()),
        ("resnet50", resnet50()),
        ("1000x1000", vec![1000; 1000]),
        ("10000x16", vec![16; 10_000]),
    ];
    println!("compared with one flat buffer of the same length:");
    for (name, lens) in &models {
        for (threads, parallelism) in parallelisms.iter().chain(&all) {
            let name = format!("{name}, {threads}");
            if !run.wants(&name) {
                continue;
            }
            let elements = lens.iter().sum();
            let options = StepOptions { parallelism: *parallelism, ..StepOptions::default() };
            let (mut model, mut flat) =
                (Model::new(lens, options)?, FlatBuffer::new(elements, *parallelism)?);
            run.compare(&name, elements, lens.len(), || model.step(), || flat.step());
        }
    }

    println!("compared with one thread:");
    for (name, lens) in &models[2..] {
        let name = format!("{name}, threads");
        if run.wants(&name) {
            let elements = lens.iter().sum();
            let serial = StepOptions { parallelism: Parallelism::Serial, ..StepOptions::default() };
            let mut model = Model::new(lens, StepOptions::default())?;
            let mut serial = Model::new(lens, serial)?;
            run.compare(&name, elements, lens.len(), || model.step(), || serial.step());
        }
    }

    println!("compared with the step alone, on one tensor of 2^26 elements:");
    let len = if test { 1 << 20 } else { 1 << 26 };
    for (threads, parallelism) in parallelisms.iter().chain(&all) {
        let plain = StepOptions { parallelism: *parallelism, ..StepOptions::default() };
        let clip = StepOptions { clip_norm: Some(ClipNorm::Two(1.0)), ..plain };
        let largest = StepOptions { report_largest_update: true, ..plain };
        type Gradient = fn(usize) -> Vec<f32>;
        let (alike, wide): (Gradient, Gradient) = (gradient, of_all_sizes);
        for (what, gradient, options, scale) in [
            ("clip the norm", alike, clip, None),
            ("clip the norm, 30 binades", wide, clip, None),
            ("clip the norm, loss scale", alike, clip, Some(GradScaler::constant(2.0))),
            ("clip values", alike, StepOptions { clip_value: Some(0.1), ..plain }, None),
            ("largest update", alike, largest, None),
        ] {
            let name = format!("{what}, {threads}");
            if run.wants(&name) {
                let mut model = Model::new(&[len], options)?;
                model.opt.grad_scaler = scale;
                let mut alone = Model::new(&[len], plain)?;
                for model in [&mut model, &mut alone] {
                    model.tensors[0].2 = gradient(len);
                }
                run.compare(&name, len, 1, || model.step(), || alone.step());
            }
        }
        let name = format!("zero the gradient, {threads}");
        if run.wants(&name) {
            let mut model = Model::new(&[len], plain)?;
            let mut alone = Model::new(&[len], plain)?;
            let (id, theta, grad) = &mut model.tensors[0];
            let opt = &mut model.opt;
            let zeroing = || {
                opt.step([Tensor::zero_grad(*id, theta, grad)]).expect("a valid step");
            };
            run.compare(&name, len, 1, zeroing, || alone.step());
        }
    }
    if run.wants("checkpoint") {
        checkpoints(&run, if test { 1 << 16 } else { 1 << 26 })?;
    }
    Ok(())
}

/// Times saving and loading the states of one tensor. Compares saving with copying a file of that
/// size in pieces of a mebibyte and syncing the copy, and loading with reading the file.
fn checkpoints(run: &Run, len: usize) -> Result<()> {
    let mut model = Model::new(&[len], StepOptions::default())?;
    model.step();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let [saved, copy] = ["saved", "copy"].map(|name| dir.path().join(name));
    model.opt.checkpoint().save(&saved)?;
    let mut buffer = vec![0; 1 << 20];
    let mut rounds: [Vec<f64>; 4] = Default::default();
    for _ in 0..run.rounds.min(7) {
        let start = Instant::now();
        model.opt.checkpoint().save(&saved)?;
        rounds[0].push(start.elapsed().as_secs_f64());

        let start = Instant::now();
        let (mut from, mut to) = (File::open(&saved)?, File::create(&copy)?);
        loop {
            let read = from.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            to.write_all(&buffer[..read])?;
        }
        to.sync_all()?;
        rounds[1].push(start.elapsed().as_secs_f64());

        let mut fresh = Model::new(&[len], StepOptions::default())?;
        let start = Instant::now();
        CheckpointReader::open(&saved)?.load(&mut fresh.opt)?;
        rounds[2].push(start.elapsed().as_secs_f64());

        // Reads into newly allocated memory, as loading does.
        let start = Instant::now();
        let mut bytes = vec![0_u8; 8 * len];
        File::open(&saved)?.read_exact(&mut bytes)?;
        std::hint::black_box(&bytes);
        rounds[3].push(start.elapsed().as_secs_f64());
    }
    let [save, write, load, read] = rounds.map(median);
    println!("a checkpoint of {} MB, in seconds:", 8 * len / 1_000_000);
    println!("save {save:.3}, copy {write:.3}: {:.2} of the copy's speed", write / save);
    println!("load {load:.3}, read {read:.3}: {:.2} of the read's speed", read / load);
    Ok(())
}
