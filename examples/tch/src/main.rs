//! Trains a network of [tch](https://docs.rs/tch), which is PyTorch's own library in Rust, on
//! handwritten digits: once with tch's AdamW and once with fused-adam's optimizer, from the same
//! weights.
//!
//! PyTorch's library comes from the wheel of Python's package `torch`. README.md has the commands.

use std::io::Read;

use flate2::read::GzDecoder;
use fused_adam::{AdamW, ClipNorm, GroupId, Optimizer, ParamId};
use tch::nn::{self, Module, OptimizerConfig, VarStore};
use tch::{Device, Kind, Tensor};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const EPOCHS: usize = 30;
const BATCH: i64 = 64;
const LR: f64 = 3e-3;

fn main() -> Result<()> {
    let (pixels, labels) = digits()?;
    println!("optimizer     loss  accuracy");
    let report = |name: &str, (loss, accuracy): (f64, f64)| {
        println!("{name:<10}  {loss:.4}  {:>6.1} %", 100.0 * accuracy);
        loss
    };

    let (store, network) = network();
    let mut theirs = nn::AdamW { wd: 1e-2, ..nn::AdamW::default() }.build(&store, LR)?;
    let trained = train(&network, &pixels, &labels, |loss| {
        theirs.zero_grad();
        loss.backward();
        theirs.clip_grad_norm(1.0);
        theirs.step();
        Ok(())
    })?;
    let theirs = report("tch", trained);

    let (store, network) = self::network();
    let mut ours = Fused::new(&store, AdamW { lr: LR, ..AdamW::default() })?;
    ours.optimizer.options.clip_norm = Some(ClipNorm::Two(1.0));
    let trained = train(&network, &pixels, &labels, |loss| {
        loss.backward();
        ours.step()
    })?;
    let ours = report("fused-adam", trained);

    let apart = (theirs - ours).abs() / theirs;
    println!("relative difference of the losses: {apart:.1e}");
    if apart > 1e-2 {
        return Err("the losses are too far apart, expected at most 1e-2".into());
    }
    Ok(())
}

/// fused-adam's optimizer, with the trainable variables of a store.
struct Fused {
    optimizer: Optimizer,
    variables: Vec<(ParamId, Tensor)>,
}

impl Fused {
    /// Registers the variables under their names, in alphabetical order.
    fn new(store: &VarStore, rule: AdamW) -> Result<Self> {
        let mut optimizer = Optimizer::new(rule)?;
        let mut variables: Vec<_> = store.variables().into_iter().collect();
        variables.retain(|(_, variable)| variable.requires_grad());
        variables.sort_by(|a, b| a.0.cmp(&b.0));
        let add = |(name, variable): (String, Tensor)| {
            let id = optimizer.add::<f32>(GroupId::default(), &name, variable.numel())?;
            Ok((id, variable))
        };
        let variables = variables.into_iter().map(add).collect::<Result<_>>()?;
        Ok(Fused { optimizer, variables })
    }

    /// Takes a step on all variables that have a gradient, in place, and sets the gradients to zero
    /// in the same pass.
    fn step(&mut self) -> Result<()> {
        let grads: Vec<Tensor> = self.variables.iter().map(|(_, v)| v.grad()).collect();
        let mut tensors = Vec::with_capacity(grads.len());
        for ((id, variable), grad) in self.variables.iter().zip(&grads) {
            if !grad.defined() {
                continue;
            }
            // SAFETY: a variable of a store and its gradient have memory of their own, and nothing
            // else uses them until the step returns.
            let (theta, grad) = unsafe { (elements(variable)?, elements(grad)?) };
            tensors.push(fused_adam::Tensor::zero_grad(*id, theta, grad));
        }
        self.optimizer.step(tensors)?;
        Ok(())
    }
}

/// The elements of a tensor, in its own memory.
///
/// # Safety
///
/// Nothing else may read or write this memory while the slice is in use. That includes other
/// tensors with the same storage, such as views.
#[expect(clippy::mut_from_ref, reason = "a tensor is a handle of its memory")]
unsafe fn elements(tensor: &Tensor) -> Result<&mut [f32]> {
    let (kind, device) = (tensor.kind(), tensor.device());
    if (kind, device) != (Kind::Float, Device::Cpu) || !tensor.is_contiguous() {
        return Err(format!(
            "a tensor is {kind:?} on {device:?}{}, expected a contiguous one of Float on Cpu",
            if tensor.is_contiguous() { "" } else { ", with gaps or in another order" },
        )
        .into());
    }
    let len = tensor.numel();
    if len == 0 {
        // Its pointer may be null.
        return Ok(&mut []);
    }
    // SAFETY: the tensor is contiguous, of `len` numbers of 4 bytes in CPU memory, which live as
    // long as the tensor. The caller promises that nothing else uses them.
    Ok(unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<f32>(), len) })
}

/// Two layers, the same initial weights in each call.
fn network() -> (VarStore, nn::Sequential) {
    tch::manual_seed(1);
    let store = VarStore::new(Device::Cpu);
    let root = store.root();
    let network = nn::seq()
        .add(nn::linear(&root / "hidden", 64, 64, nn::LinearConfig::default()))
        .add_fn(Tensor::tanh)
        .add(nn::linear(&root / "classes", 64, 10, nn::LinearConfig::default()));
    (store, network)
}

/// Trains on four fifths of the digits. Returns the loss and the accuracy on the others.
fn train(
    network: &nn::Sequential,
    pixels: &Tensor,
    labels: &Tensor,
    mut step: impl FnMut(&Tensor) -> Result<()>,
) -> Result<(f64, f64)> {
    let rows = pixels.size()[0];
    let train = rows - rows / 5;
    for _ in 0..EPOCHS {
        for first in (0..train).step_by(BATCH as usize) {
            let len = BATCH.min(train - first);
            let (pixels, labels) = (pixels.narrow(0, first, len), labels.narrow(0, first, len));
            step(&network.forward(&pixels).cross_entropy_for_logits(&labels))?;
        }
    }
    let pixels = pixels.narrow(0, train, rows - train);
    let labels = labels.narrow(0, train, rows - train);
    let logits = tch::no_grad(|| network.forward(&pixels));
    let loss = logits.cross_entropy_for_logits(&labels).double_value(&[]);
    Ok((loss, logits.accuracy_for_logits(&labels).double_value(&[])))
}

/// Pixels from 0 to 1, a row for each digit, and the labels.
fn digits() -> Result<(Tensor, Tensor)> {
    let mut csv = String::new();
    let file = include_bytes!("../../../data/digits.csv.gz");
    GzDecoder::new(&file[..]).read_to_string(&mut csv)?;
    let numbers = csv.lines().flat_map(|row| row.split(',')).map(str::parse::<f32>);
    let table = Tensor::from_slice(&numbers.collect::<std::result::Result<Vec<_>, _>>()?);
    let table = table.view([-1, 65]);
    let pixels = table.narrow(1, 0, 64) / 16.0;
    Ok((pixels.contiguous(), table.narrow(1, 64, 1).squeeze_dim(1).to_kind(Kind::Int64)))
}
