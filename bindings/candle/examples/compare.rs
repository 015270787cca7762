//! Compares the time of a step of candle's AdamW with that of this crate, on the same variables and
//! gradients.
//!
//! ```text
//! cargo run --release -p fused-adam-candle --example compare    # [-- --test]
//! ```
//!
//! It prints a table and plots `target/compare-candle.svg`. With `--test` each step runs once.

use candle_core::backprop::GradStore;
use candle_core::{Device, Result, Tensor, Var};
use candle_nn::{Optimizer, ParamsAdamW};
use fused_adam_compare::Comparison;

/// The name of each case, the number of variables, and the elements of each variable.
const CASES: [(&str, usize, usize); 4] = [
    ("2^16 elements", 1, 1 << 16),
    ("2^20 elements", 1, 1 << 20),
    ("2^24 elements", 1, 1 << 24),
    ("100 tensors of 10,000", 100, 10_000),
];

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let mut comparison = Comparison::new("candle");
    for (case, tensors, len) in CASES {
        let (mut theirs, their_grads) = made::<candle_nn::AdamW>(tensors, len)?;
        let (mut ours, our_grads) = made::<fused_adam_candle::AdamW>(tensors, len)?;
        // Checks the results of the steps before it times them.
        theirs.step(&their_grads)?;
        ours.step(&our_grads)?;
        comparison.measure(
            case,
            || theirs.step(&their_grads).expect("it has been taken once"),
            || ours.step(&our_grads).expect("it has been taken once"),
        );
    }
    comparison.finish()?;
    Ok(())
}

/// An optimizer of new variables, and gradients for it.
fn made<O>(tensors: usize, len: usize) -> Result<(O, GradStore)>
where
    O: Optimizer<Config = ParamsAdamW>,
{
    let mut vars = Vec::new();
    let mut loss = Tensor::new(0.0_f32, &Device::Cpu)?;
    for _ in 0..tensors {
        let theta = Var::rand(0.1_f32, 1.0, len, &Device::Cpu)?;
        let weights = Tensor::rand(0.1_f32, 1.0, len, &Device::Cpu)?;
        // The gradient of a weighted sum is the vector of weights.
        loss = (loss + (theta.as_tensor() * &weights)?.sum_all()?)?;
        vars.push(theta);
    }
    Ok((O::new(vars, ParamsAdamW::default())?, loss.backward()?))
}
