//! A typical burn training loop: handwritten digits, a small network, and any `ModuleOptimizer`.

#![allow(dead_code, reason = "the tests that share it need parts of it")]

use std::error::Error;
use std::io::Read;

use burn::module::Module;
use burn::nn::loss::{CrossEntropyLoss, CrossEntropyLossConfig};
use burn::nn::{LeakyRelu, LeakyReluConfig, Linear, LinearConfig};
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Int, Tensor, TensorData};
use flate2::read::GzDecoder;

pub const BATCH: usize = 32;
const PIXELS: usize = 64;
const HIDDEN: usize = 32;
const CLASSES: usize = 10;

#[derive(Module, Debug)]
pub struct Network {
    pub hidden: Linear,
    activation: LeakyRelu,
    pub output: Linear,
}

impl Network {
    pub fn new(device: &Device) -> Self {
        Network {
            hidden: LinearConfig::new(PIXELS, HIDDEN).init(device),
            activation: LeakyReluConfig::new().init(),
            output: LinearConfig::new(HIDDEN, CLASSES).init(device),
        }
    }

    pub fn forward(&self, pixels: Tensor<2>) -> Tensor<2> {
        self.output.forward(self.activation.forward(self.hidden.forward(pixels)))
    }
}

/// A row of the file: 64 pixels from 0 for white to 1 for black, and the label.
struct Digit {
    pixels: [f32; PIXELS],
    label: i32,
}

pub struct Digits {
    train: Vec<Digit>,
    held_out: Vec<Digit>,
}

impl Digits {
    /// Loads the digits. Every fifth digit is held out.
    pub fn load() -> Result<Self, Box<dyn Error>> {
        let mut csv = String::new();
        let file = &include_bytes!("../../../../data/digits.csv.gz")[..];
        GzDecoder::new(file).read_to_string(&mut csv)?;
        let mut digits = Digits { train: Vec::new(), held_out: Vec::new() };
        for (i, row) in csv.lines().enumerate() {
            let numbers: Vec<f32> = row.split(',').map(str::parse).collect::<Result<_, _>>()?;
            let (pixels, label) = numbers.split_at_checked(PIXELS).ok_or("a row is too short")?;
            let digit = Digit {
                pixels: std::array::from_fn(|i| pixels[i] / 16.0),
                label: *label.first().ok_or("a row has no label")? as i32,
            };
            if i % 5 == 4 { digits.held_out.push(digit) } else { digits.train.push(digit) }
        }
        Ok(digits)
    }

    /// The digits of one epoch in batches. Each epoch starts at another digit.
    pub fn batches(&self, epoch: usize, device: &Device) -> Vec<(Tensor<2>, Tensor<1, Int>)> {
        let (before, after) = self.train.split_at(epoch * 101 % self.train.len());
        let order: Vec<&Digit> = after.iter().chain(before).collect();
        order.chunks(BATCH).map(|digits| tensors(digits, device)).collect()
    }
}

fn tensors(digits: &[&Digit], device: &Device) -> (Tensor<2>, Tensor<1, Int>) {
    let pixels: Vec<f32> = digits.iter().flat_map(|digit| digit.pixels).collect();
    let labels: Vec<i32> = digits.iter().map(|digit| digit.label).collect();
    let n = digits.len();
    let pixels = Tensor::from_data(TensorData::new(pixels, [n, PIXELS]), device);
    (pixels, Tensor::from_data(TensorData::new(labels, [n]), device))
}

/// Trains for some epochs, with any optimizer.
pub fn train(
    mut model: Network,
    optim: &mut ModuleOptimizer,
    lr: f64,
    digits: &Digits,
    epochs: std::ops::Range<usize>,
    device: &Device,
) -> Network {
    let cross_entropy = CrossEntropyLossConfig::new().init(device);
    for epoch in epochs {
        for (pixels, labels) in digits.batches(epoch, device) {
            let loss = cross_entropy.forward(model.forward(pixels), labels);
            let grads = GradientsParams::from_grads(loss.backward(), &model);
            model = optim.step(lr, model, grads);
        }
    }
    model
}

/// The mean loss on the held-out digits, and the percentage that is classified correctly.
pub fn evaluate(model: &Network, digits: &Digits, device: &Device) -> (f32, f64) {
    let held_out: Vec<&Digit> = digits.held_out.iter().collect();
    let (pixels, labels) = tensors(&held_out, device);
    let logits = model.forward(pixels);
    let guesses = logits.clone().argmax(1).squeeze_dim::<1>(1);
    let correct = guesses.equal(labels.clone()).int().sum().into_scalar::<i64>();
    let loss = CrossEntropyLoss::new(None, device).forward(logits, labels);
    (loss.into_scalar::<f32>(), 100.0 * correct as f64 / held_out.len() as f64)
}
