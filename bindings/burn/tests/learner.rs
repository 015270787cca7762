//! Runs fused-adam in burn's own training loop, its `Learner`. The result is bit-identical to a
//! manual loop. Each step copies the parameters once, because the `Learner` steps a clone of its
//! model.

#[path = "../examples/digits/training.rs"]
mod training;

use burn::module::Module;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Int, Tensor};
use burn_train::{InferenceStep, Learner, TrainOutput, TrainStep};
use fused_adam::AdamW;
use fused_adam_burn::FusedConfig;
use training::{Digits, Network};

const LR: f64 = 3e-3;

#[derive(Module, Debug)]
struct Model {
    network: Network,
}

impl Model {
    fn loss(&self, (pixels, labels): (Tensor<2>, Tensor<1, Int>)) -> Tensor<1> {
        let cross_entropy = CrossEntropyLossConfig::new().init(&pixels.device());
        cross_entropy.forward(self.network.forward(pixels), labels)
    }
}

impl TrainStep for Model {
    type Input = (Tensor<2>, Tensor<1, Int>);
    type Output = ();

    fn step(&self, batch: Self::Input) -> TrainOutput<()> {
        TrainOutput::new(self, self.loss(batch).backward(), ())
    }
}

impl InferenceStep for Model {
    type Input = (Tensor<2>, Tensor<1, Int>);
    type Output = ();

    fn step(&self, batch: Self::Input) {
        let _ = self.loss(batch);
    }
}

#[test]
fn a_learner_goes_the_way_of_a_loop_by_hand() {
    let device = Device::flex().autodiff();
    let batches = Digits::load().unwrap().batches(0, &device);
    let steps = batches.len() as u64;
    let start = Model { network: Network::new(&device) };
    let size = 4 * start.num_params() as u64;

    let by_hand = FusedConfig::new(AdamW::default()).build().unwrap();
    let mut optim = ModuleOptimizer::from(by_hand.clone());
    let mut model = start.clone();
    for batch in batches.clone() {
        let grads = GradientsParams::from_grads(model.loss(batch).backward(), &model);
        model = optim.step(LR, model, grads);
    }
    // `start` still has the initial weights.
    assert_eq!(by_hand.copied(), size);

    let in_learner = FusedConfig::new(AdamW::default()).build().unwrap();
    let mut learner = Learner::new(start, ModuleOptimizer::from(in_learner.clone()), LR);
    for batch in batches {
        learner.lr_step();
        let output = learner.train_step(batch);
        learner.optimizer_step(output.grads);
    }
    assert_eq!(in_learner.copied(), steps * size);

    let bits = |model: &Model| {
        let weight = model.network.hidden.weight.to_data();
        weight.iter::<f32>().map(f32::to_bits).collect::<Vec<_>>()
    };
    assert!(bits(&learner.model()) == bits(&model));
}
