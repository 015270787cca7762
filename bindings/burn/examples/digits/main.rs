//! Trains a network on handwritten digits twice from the same weights: with burn's AdamW, and with
//! fused-adam's. The difference is one line.
//!
//! ```sh
//! cargo run --release -p fused-adam-burn --example digits
//! ```

mod training;

use std::error::Error;

use burn::module::Module;
use burn::optim::{AdamWConfig, ModuleOptimizer};
use burn::tensor::Device;
use fused_adam_burn::FusedConfig;
use fused_adam_burn::fused_adam::AdamW;
use training::{Digits, Network, evaluate, train};

const EPOCHS: usize = 12;
const LR: f64 = 3e-3;

fn main() -> Result<(), Box<dyn Error>> {
    let device = Device::flex().autodiff();
    device.seed(1998);
    let digits = Digits::load()?;
    let start = Network::new(&device);
    let parameters = start.num_params();

    // burn's optimizer.
    let mut optim = AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(1e-2).init();
    let burns = train(start.clone(), &mut optim, LR, &digits, 0..EPOCHS, &device);

    // fused-adam's optimizer. The short form is `FusedConfig::new(AdamW::default()).init()?`; this
    // form keeps a handle that counts copies. Its defaults are the ε and the weight decay above.
    let fused = FusedConfig::new(AdamW::default()).build()?;
    let mut optim = ModuleOptimizer::from(fused.clone());
    let ours = train(start, &mut optim, LR, &digits, 0..EPOCHS, &device);

    println!("{parameters} parameters, {EPOCHS} epochs; on the held-out digits:\n");
    println!("| AdamW of | loss | read correctly |");
    println!("|---|---|---|");
    let mut losses = Vec::new();
    for (whose, model) in [("burn", burns), ("fused-adam", ours)] {
        let (loss, percent) = evaluate(&model, &digits, &device);
        println!("| {whose} | {loss:.6} | {percent:.2} % |");
        losses.push(loss);
    }
    println!("\nbytes that fused-adam had to copy in all its steps: {}", fused.copied());
    if (losses[0] - losses[1]).abs() > 1e-3 * losses[0] {
        return Err("the two went different ways".into());
    }
    Ok(())
}
