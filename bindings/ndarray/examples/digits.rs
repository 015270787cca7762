//! A training loop with weights and states in ndarray arrays. It runs twice: with a textbook AdamW
//! in ndarray's own arithmetic, and with a step of this crate in its place. Both end with the same
//! loss.
//!
//! ```text
//! cargo run --release -p fused-adam-ndarray --example digits
//! ```
//!
//! The model is a softmax regression on 1797 handwritten digits of 8×8 pixels: UCI "Optical
//! Recognition of Handwritten Digits" (E. Alpaydin, 1998, CC BY 4.0). Every fifth digit is held
//! out. At least 95 % of these must be classified correctly.

use std::io::Read;

use flate2::read::GzDecoder;
use fused_adam_ndarray::{fused_adam::AdamW, step};
use ndarray::{Array1, Array2, ArrayView2, Axis, s};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const PIXELS: usize = 64;
const CLASSES: usize = 10;
const EPOCHS: usize = 40;
const BATCH: usize = 32;
const ACCURACY_WANTED: f32 = 0.95;

fn main() -> Result<()> {
    let digits = Digits::load()?;
    let adamw = AdamW { lr: 3e-3, ..AdamW::default() };

    let textbook = train(&digits, |t, theta, grad, m, v| {
        textbook_adamw(&adamw, t, theta, grad, m, v);
        Ok(())
    })?;
    let ours = train(&digits, |t, theta, grad, m, v| {
        step(&adamw, t, theta, grad, &mut [m, v])?; // the only line that differs
        Ok(())
    })?;

    println!("AdamW            loss at the end  held-out digits read correctly");
    for (name, Trained { loss, accuracy, .. }) in [("textbook", &textbook), ("fused-adam", &ours)] {
        println!("{name:<15}  {loss:>15.7}  {:>28.1} %", 100.0 * accuracy);
    }
    // Each step rounds θ once, with a relative error of at most 2⁻²⁴. If all errors had the same
    // sign, and the loss changed as much as θ, this would be the difference. The loss is convex, so
    // errors do not grow chaotically.
    let tolerance = ours.steps as f32 * 0.5_f32.powi(24);
    let difference = (ours.loss - textbook.loss).abs() / textbook.loss;
    println!("relative difference of the losses: {difference:.1e}, tolerance {tolerance:.1e}");
    if difference > tolerance {
        return Err("the losses differ by more than the tolerance".into());
    }
    if ours.accuracy < ACCURACY_WANTED {
        return Err(format!("accuracy {}, expected {ACCURACY_WANTED}", ours.accuracy).into());
    }
    Ok(())
}

/// AdamW in ndarray's own arithmetic.
fn textbook_adamw(
    adamw: &AdamW,
    t: u64,
    theta: &mut Array2<f32>,
    grad: &Array2<f32>,
    m: &mut Array2<f32>,
    v: &mut Array2<f32>,
) {
    let AdamW { lr, beta1, beta2, eps, weight_decay, .. } = *adamw;
    let correction = |beta: f64| (1.0 - beta.powi(t as i32)) as f32;
    let [rate1, rate2] = [beta1, beta2].map(|beta| (1.0 - beta) as f32);
    *m = &*m * beta1 as f32 + grad * rate1;
    *v = &*v * beta2 as f32 + grad * grad * rate2;
    let m_hat = &*m / correction(beta1);
    let v_hat = &*v / correction(beta2);
    let update = m_hat / (v_hat.sqrt() + eps as f32) + &*theta * weight_decay as f32;
    *theta -= &(update * lr as f32);
}

struct Trained {
    steps: usize,
    /// The mean over all training digits, at the end.
    loss: f32,
    /// On the held-out digits.
    accuracy: f32,
}

/// Trains with `update`, which takes step `t` on θ with the gradient and the states m and v.
fn train(
    digits: &Digits,
    mut update: impl FnMut(
        u64,
        &mut Array2<f32>,
        &Array2<f32>,
        &mut Array2<f32>,
        &mut Array2<f32>,
    ) -> Result<()>,
) -> Result<Trained> {
    let mut theta = Array2::<f32>::zeros((PIXELS + 1, CLASSES));
    let (mut m, mut v) = (theta.clone(), theta.clone());
    let mut t = 0;
    for _ in 0..EPOCHS {
        let inputs = digits.train.inputs.axis_chunks_iter(Axis(0), BATCH);
        let labels = digits.train.labels.axis_chunks_iter(Axis(0), BATCH);
        for (inputs, labels) in inputs.zip(labels) {
            let wrong = softmax(inputs.dot(&theta)) - labels;
            let grad = inputs.t().dot(&wrong) / inputs.nrows() as f32;
            t += 1;
            update(t, &mut theta, &grad, &mut m, &mut v)?;
        }
    }
    let loss = digits.train.loss(&theta);
    Ok(Trained { steps: t as usize, loss, accuracy: digits.held_out.accuracy(&theta) })
}

/// Turns each row into probabilities.
fn softmax(mut logits: Array2<f32>) -> Array2<f32> {
    for mut row in logits.rows_mut() {
        let largest = row.fold(f32::NEG_INFINITY, |a, &b| a.max(b));
        row.mapv_inplace(|x| (x - largest).exp());
        row /= row.sum();
    }
    logits
}

struct Digits {
    train: Samples,
    held_out: Samples,
}

struct Samples {
    /// One row per digit: pixels from 0 for white to 1 for black, and a 1 for the bias.
    inputs: Array2<f32>,
    /// One row per digit: 1 at its class, else 0.
    labels: Array2<f32>,
}

impl Samples {
    fn loss(&self, theta: &Array2<f32>) -> f32 {
        let chances = (softmax(self.inputs.dot(theta)) * &self.labels).sum_axis(Axis(1));
        -chances.ln().mean().unwrap_or(f32::NAN)
    }

    fn accuracy(&self, theta: &Array2<f32>) -> f32 {
        let likeliest = |of: ArrayView2<f32>| -> Array1<usize> {
            of.map_axis(Axis(1), |row| {
                (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap_or(0)
            })
        };
        let (read, wanted) =
            (likeliest(self.inputs.dot(theta).view()), likeliest(self.labels.view()));
        let correct = read.iter().zip(&wanted).filter(|(read, wanted)| read == wanted).count();
        correct as f32 / read.len() as f32
    }
}

impl Digits {
    fn load() -> Result<Self> {
        let mut csv = String::new();
        GzDecoder::new(&include_bytes!("../../../data/digits.csv.gz")[..])
            .read_to_string(&mut csv)?;
        let numbers: std::result::Result<Vec<f32>, _> =
            csv.lines().flat_map(|row| row.split(',')).map(str::parse).collect();
        let rows = csv.lines().count();
        let table = Array2::from_shape_vec((rows, PIXELS + 1), numbers?)?;

        let (held_out, train): (Vec<usize>, Vec<usize>) = (0..rows).partition(|row| row % 5 == 0);
        let samples = |rows: &[usize]| {
            let table = table.select(Axis(0), rows);
            let mut inputs = table.clone() / 16.0;
            inputs.slice_mut(s![.., PIXELS]).fill(1.0);
            let digit = |(row, class)| f32::from(u8::from(table[[row, PIXELS]] == class as f32));
            Samples { inputs, labels: Array2::from_shape_fn((rows.len(), CLASSES), digit) }
        };
        Ok(Digits { train: samples(&train), held_out: samples(&held_out) })
    }
}
