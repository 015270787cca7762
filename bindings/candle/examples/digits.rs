//! Trains a small network on handwritten digits twice with the same loop: with candle's AdamW and
//! with this crate's. Only the type changes.
//!
//! ```text
//! cargo run --release -p fused-adam-candle --example digits
//! ```
//!
//! Both start from the same weights and use the same batches. Their losses must agree to three
//! digits, and both must classify 95 % of the held-out digits correctly. The times are those of the
//! whole loop, of which the step is a small part here. `--example compare` times only the steps.

#[path = "support/digits.rs"]
mod digits;

use std::time::Instant;

use candle_core::{DType, Result, bail};
use candle_nn::{Optimizer, ParamsAdamW};
use digits::{Digits, Network};

const EPOCHS: usize = 30;

fn main() -> Result<()> {
    let digits = Digits::load(DType::F32)?;
    println!("optimizer      loss  accuracy  seconds");
    let theirs = train::<candle_nn::AdamW>("candle", &digits)?;
    let ours = train::<fused_adam_candle::AdamW>("fused-adam", &digits)?;
    let apart = (theirs.loss - ours.loss).abs() / theirs.loss;
    if apart > 1e-3 {
        bail!("the losses are {apart:.1e} of themselves apart, expected 1e-3 at most");
    }
    for Trained { accuracy, .. } in [theirs, ours] {
        if accuracy < 0.95 {
            bail!("the accuracy is {accuracy}, expected 0.95 at least");
        }
    }
    println!("relative difference of the losses: {apart:.1e}");
    Ok(())
}

struct Trained {
    loss: f64,
    accuracy: f64,
}

/// A typical candle training loop.
fn train<AdamW>(name: &str, digits: &Digits) -> Result<Trained>
where
    AdamW: Optimizer<Config = ParamsAdamW>,
{
    let start = Instant::now();
    let network = Network::new(1, DType::F32)?;
    let params = ParamsAdamW { lr: 3e-3, ..ParamsAdamW::default() };
    let mut opt = AdamW::new(network.vars.clone(), params)?;
    for _ in 0..EPOCHS {
        for batch in digits.batches() {
            opt.backward_step(&network.loss(&batch?)?)?;
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let loss = f64::from(network.loss(&digits.held_out)?.to_scalar::<f32>()?);
    let accuracy = network.accuracy(&digits.held_out)?;
    println!("{name:<10}  {loss:>7.4}  {:>6.1} %  {seconds:>7.2}", 100.0 * accuracy);
    Ok(Trained { loss, accuracy })
}
