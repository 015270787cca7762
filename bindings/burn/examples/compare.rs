//! Compares the time of burn's AdamW on flex with that of fused-adam's.
//!
//! ```sh
//! cargo run --release -p fused-adam-burn --example compare      # with `-- --test`, a test run
//! ```
//!
//! Both step a whole module through burn's `ModuleOptimizer`, with the same hyper-parameters, on
//! the threads of one pool. A step consumes its gradient, so there are two ways to time it. Each
//! case has both:
//!
//! - the caller also holds the gradient. Then the gradient costs nothing, but burn cannot reuse its
//!   memory for one of the five temporary tensors of the step, as it does in training;
//! - each step has a new gradient, which another burn operation computes, as in training. This is
//!   part of the time of both, and is a large share of the faster one.

use burn::module::{Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Distribution, Tensor};
use fused_adam_burn::FusedConfig;
use fused_adam_burn::fused_adam::AdamW;
use fused_adam_compare::Comparison;

const LR: f64 = 1e-3;

/// A model of one flat parameter, or of many layers.
#[derive(Module, Debug)]
struct Model {
    flat: Vec<Param<Tensor<1>>>,
    layers: Vec<Linear>,
}

impl Model {
    fn flat(len: usize, device: &Device) -> Self {
        let theta = Tensor::random([len], Distribution::Default, device);
        Model { flat: vec![Param::from_tensor(theta)], layers: Vec::new() }
    }

    fn layers(count: usize, width: usize, device: &Device) -> Self {
        let layer = || LinearConfig::new(width, width).init(device);
        Model { flat: Vec::new(), layers: (0..count).map(|_| layer()).collect() }
    }
}

/// A gradient for each parameter.
struct Gradients {
    vectors: Vec<(burn::module::ParamId, Tensor<1>)>,
    matrices: Vec<(burn::module::ParamId, Tensor<2>)>,
    fresh: bool,
}

impl Gradients {
    fn of(model: &Model, fresh: bool) -> Self {
        fn random<const D: usize>(param: &Param<Tensor<D>>) -> (burn::module::ParamId, Tensor<D>) {
            let gradient = Tensor::random(param.dims(), Distribution::Default, &Device::flex());
            (param.id, gradient)
        }
        let biases = model.layers.iter().filter_map(|layer| layer.bias.as_ref());
        Gradients {
            vectors: model.flat.iter().chain(biases).map(random).collect(),
            matrices: model.layers.iter().map(|layer| random(&layer.weight)).collect(),
            fresh,
        }
    }

    /// The gradients that a step consumes.
    fn for_a_step(&self) -> GradientsParams {
        let mut grads = GradientsParams::new();
        for (id, grad) in &self.vectors {
            grads.register(*id, self.handed_out(grad));
        }
        for (id, grad) in &self.matrices {
            grads.register(*id, self.handed_out(grad));
        }
        grads
    }

    fn handed_out<const D: usize>(&self, grad: &Tensor<D>) -> Tensor<D> {
        // A clone shares the memory. A product has its own.
        let grad = grad.clone();
        if self.fresh { grad.mul_scalar(1.0) } else { grad }
    }
}

/// A step of a model whose memory nothing else shares.
fn step<'a>(
    model: Model,
    mut optim: ModuleOptimizer,
    grads: &'a Gradients,
) -> impl FnMut() + use<'a> {
    let mut model = Some(model);
    move || {
        let before = model.take().expect("it is put back after each step");
        model = Some(optim.step(LR, before, grads.for_a_step()));
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::flex().autodiff();
    let mut comparison = Comparison::new("burn");
    let mut copied = 0;
    let cases: [(&str, &dyn Fn() -> Model); 4] = [
        ("2^16", &|| Model::flat(1 << 16, &device)),
        ("2^20", &|| Model::flat(1 << 20, &device)),
        ("2^24", &|| Model::flat(1 << 24, &device)),
        ("64 layers of 256×256", &|| Model::layers(64, 256, &device)),
    ];
    for (case, model) in cases {
        for fresh in [false, true] {
            let burns = AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(1e-2).init();
            let fused = FusedConfig::new(AdamW::default()).build()?;
            let ours = ModuleOptimizer::from(fused.clone());
            let (theirs_model, ours_model) = (model(), model());
            let theirs_grads = Gradients::of(&theirs_model, fresh);
            let ours_grads = Gradients::of(&ours_model, fresh);
            comparison.measure(
                &format!("{case}{}", if fresh { ", with a fresh gradient" } else { "" }),
                step(theirs_model, burns, &theirs_grads),
                step(ours_model, ours, &ours_grads),
            );
            copied += fused.copied();
        }
    }
    comparison.finish()?;
    println!("bytes that fused-adam copied in all its steps: {copied}");
    Ok(())
}
