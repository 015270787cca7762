//! The digits of `data/`, and a small network that classifies them, for the example and the tests.

use std::io::Read;

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::{Linear, Module, loss};
use flate2::read::GzDecoder;

const PIXELS: usize = 64;
const HIDDEN: usize = 64;
const CLASSES: usize = 10;
const BATCH: usize = 64;

/// Pixels from 0 to 1, one row per digit, and labels.
pub struct Digits {
    pub train: (Tensor, Tensor),
    pub held_out: (Tensor, Tensor),
}

impl Digits {
    /// Loads the digits in a fixed random order. A fifth of them is held out. The pixels have this
    /// type.
    pub fn load(dtype: DType) -> Result<Self> {
        let mut csv = String::new();
        let file = include_bytes!("../../../../data/digits.csv.gz");
        GzDecoder::new(&file[..]).read_to_string(&mut csv)?;
        let mut rows: Vec<&str> = csv.lines().collect();
        Random(1998).shuffle(&mut rows);
        let held_out = rows.split_off(rows.len() - rows.len() / 5);
        Ok(Digits { train: parse(&rows, dtype)?, held_out: parse(&held_out, dtype)? })
    }

    /// The batches of an epoch. Every epoch has the same ones.
    pub fn batches(&self) -> impl Iterator<Item = Result<(Tensor, Tensor)>> {
        let (pixels, labels) = &self.train;
        let rows = pixels.dims()[0];
        (0..rows).step_by(BATCH).map(move |first| {
            let len = BATCH.min(rows - first);
            Ok((pixels.narrow(0, first, len)?, labels.narrow(0, first, len)?))
        })
    }
}

/// Parses rows of 64 pixels from 0 to 16 and a label.
fn parse(rows: &[&str], dtype: DType) -> Result<(Tensor, Tensor)> {
    let numbers = rows.iter().flat_map(|row| row.split(',')).map(str::parse::<f32>);
    let numbers = numbers.collect::<std::result::Result<Vec<f32>, _>>();
    let numbers = numbers.map_err(candle_core::Error::wrap)?;
    let table = Tensor::from_vec(numbers, (rows.len(), PIXELS + 1), &Device::Cpu)?;
    let pixels = (table.narrow(1, 0, PIXELS)? / 16.0)?.to_dtype(dtype)?.contiguous()?;
    let labels = table.narrow(1, PIXELS, 1)?.squeeze(1)?.to_dtype(DType::U32)?;
    Ok((pixels, labels))
}

/// 64 pixels → 64 tanh units → 10 classes.
pub struct Network {
    hidden: Linear,
    classes: Linear,
    pub vars: Vec<Var>,
}

impl Network {
    /// Initial weights from a seed: zero biases, and weights within ±√(3 / inputs).
    pub fn new(seed: u64, dtype: DType) -> Result<Self> {
        let mut random = Random(seed);
        let mut vars = Vec::new();
        let mut layer = |inputs: usize, outputs: usize| {
            let bound = (3.0 / inputs as f64).sqrt();
            let weights = (0..inputs * outputs).map(|_| (bound * random.uniform()) as f32);
            let weights = Tensor::from_iter(weights, &Device::Cpu)?.reshape((outputs, inputs))?;
            let weights = Var::from_tensor(&weights.to_dtype(dtype)?)?;
            let biases = Var::zeros(outputs, dtype, &Device::Cpu)?;
            let linear = Linear::new(weights.as_tensor().clone(), Some(biases.as_tensor().clone()));
            vars.extend([weights, biases]);
            Result::Ok(linear)
        };
        let (hidden, classes) = (layer(PIXELS, HIDDEN)?, layer(HIDDEN, CLASSES)?);
        Ok(Network { hidden, classes, vars })
    }

    /// The mean loss of some digits.
    pub fn loss(&self, (pixels, labels): &(Tensor, Tensor)) -> Result<Tensor> {
        loss::cross_entropy(&self.logits(pixels)?, labels)
    }

    /// The share of digits that are classified correctly.
    pub fn accuracy(&self, (pixels, labels): &(Tensor, Tensor)) -> Result<f64> {
        let right = self.logits(pixels)?.argmax(1)?.eq(labels)?.to_dtype(DType::F64)?;
        right.mean_all()?.to_scalar()
    }

    fn logits(&self, pixels: &Tensor) -> Result<Tensor> {
        self.classes.forward(&self.hidden.forward(pixels)?.tanh()?)
    }
}

/// SplitMix64: the same numbers in every run.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [−1, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, (self.next() % (i as u64 + 1)) as usize);
        }
    }
}
