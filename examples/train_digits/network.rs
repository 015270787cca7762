//! The network: 64 pixels → 96 leaky ReLUs → 10 classes, in one flat theta, with its backward pass.

use crate::digits::{CLASSES, Digit, PIXELS, Rng};

/// The number of hidden units.
pub const HIDDEN: usize = 96;

/// The number of elements of each of the two layers in theta: a row of biases, and one row of
/// weights per input.
const FIRST: usize = (1 + PIXELS) * HIDDEN;
const SECOND: usize = (1 + HIDDEN) * CLASSES;

/// The slope of a hidden unit for negative sums. With a slope of 0, units die: they never get a
/// gradient again, and their m decays to subnormal numbers, which slow every step down.
const LEAK: f32 = 0.1;

/// The two layers in theta. Row 0 has the biases, row i + 1 the weights of input i.
fn layers(theta: &[f32]) -> (&[[f32; HIDDEN]], &[[f32; CLASSES]]) {
    let (first, second) = theta.split_at(FIRST);
    (first.as_chunks().0, second.as_chunks().0)
}

fn layers_mut(theta: &mut [f32]) -> (&mut [[f32; HIDDEN]], &mut [[f32; CLASSES]]) {
    let (first, second) = theta.split_at_mut(FIRST);
    (first.as_chunks_mut().0, second.as_chunks_mut().0)
}

/// Zero biases, and uniform weights: within ±√(6 / inputs) before ReLUs (He et al., 2015) and
/// within ±√(3 / inputs) before the classes.
pub fn initial_theta(rng: &mut Rng) -> Vec<f32> {
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

/// A layer's weighted sums of its inputs, including biases.
fn forward<const N: usize>(layer: &[[f32; N]], inputs: &[f32]) -> [f32; N] {
    let mut sums = layer[0];
    for (input, row) in inputs.iter().zip(&layer[1..]) {
        axpy(*input, row, &mut sums);
    }
    sums
}

/// Adds the gradient of a layer's weights to `grad`, given its inputs and the gradient of its sums.
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

/// Computes the gradient of the batch's mean loss, and returns the loss.
pub fn backpropagate(theta: &[f32], batch: &[&Digit], grad: &mut [f32]) -> f32 {
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

/// The mean loss, and the share of digits that are classified correctly.
pub fn evaluate(theta: &[f32], digits: &[Digit]) -> (f32, f64) {
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
