//! Runs fused-adam in burn's own training loop: its `Learner`, and `SupervisedTraining` with
//! checkpoints. The result is bit-identical to a manual loop, also if the training was stopped and
//! resumed. Each step copies the parameters once, because the `Learner` steps a clone of its model.

#[path = "../examples/digits/training.rs"]
mod training;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use burn::lr_scheduler::linear::LinearLrSchedulerConfig;
use burn::module::Module;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::{GradientsParams, ModuleOptimizer, Optimizer};
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_train::checkpoint::KeepLastNCheckpoints;
use burn_train::{InferenceStep, Learner, SupervisedTraining, TrainOutput, TrainStep};
use fused_adam_burn::FusedConfig;
use fused_adam_burn::fused_adam::{AdamW, NAdam};
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

type Batch = (Tensor<2>, Tensor<1, Int>);

/// The batches of one epoch, in the same order in each epoch.
#[derive(Clone)]
struct Loader(Vec<Batch>);

struct Batches<'a>(std::slice::Iter<'a, Batch>, usize);

impl Iterator for Batches<'_> {
    type Item = Result<Batch, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().cloned().map(Ok)
    }
}

impl DataLoaderIterator<Batch> for Batches<'_> {
    fn progress(&self) -> Progress {
        Progress::new(self.1 - self.0.len(), self.1, None)
    }
}

impl DataLoader<Batch> for Loader {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<Batch> + 'a> {
        Box::new(Batches(self.0.iter(), self.0.len()))
    }

    fn num_items(&self) -> usize {
        self.0.len()
    }

    fn to_device(&self, device: &Device) -> Arc<dyn DataLoader<Batch>> {
        let to_device = |(pixels, labels): &Batch| {
            (pixels.clone().to_device(device), labels.clone().to_device(device))
        };
        Arc::new(Loader(self.0.iter().map(to_device).collect()))
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<Batch>> {
        Arc::new(Loader(self.0[start..end].to_vec()))
    }
}

/// The bits of all parameters.
fn bits(model: &Model) -> Vec<Vec<u32>> {
    let Network { hidden, output, .. } = &model.network;
    let weights = [hidden, output].map(|layer| layer.weight.to_data());
    let biases = [hidden, output].map(|layer| layer.bias.as_ref().unwrap().to_data());
    let bits = |data: &TensorData| data.iter::<f32>().map(f32::to_bits).collect();
    weights.iter().chain(&biases).map(bits).collect()
}

const EPOCHS: usize = 4;

/// Trains up to and including this epoch with burn's `SupervisedTraining` and its checkpoints, from
/// the start or from the checkpoint after an epoch.
fn fit(dir: &Path, start: Model, until: usize, checkpoint: Option<usize>) -> Model {
    let loader = |device: Device| Arc::new(Loader(Digits::load().unwrap().batches(0, &device)));
    let (train, valid) = (loader(Device::flex().autodiff()), loader(Device::flex()));
    let steps = EPOCHS * train.num_items();
    let scheduler = LinearLrSchedulerConfig::new(LR, LR / 10.0, steps).init().unwrap();
    // A rule with a scalar in the checkpoint.
    let optim = FusedConfig::new(NAdam::default()).init().unwrap();
    let training = SupervisedTraining::new(dir, train, valid)
        .with_application_logger(None)
        .with_checkpointing_strategy(KeepLastNCheckpoints::new(EPOCHS))
        .with_default_checkpointers()
        .num_epochs(until);
    let training = match checkpoint {
        Some(epoch) => training.checkpoint(epoch),
        None => training,
    };
    training.launch(Learner::new(start, optim, scheduler)).model
}

#[test]
fn a_training_from_a_checkpoint_goes_on_to_the_bit() {
    let device = Device::flex().autodiff();
    let new = || Model { network: Network::new(&device) };
    let (start, dirs) = (new(), [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()]);
    let [unstopped, stopped] = dirs.each_ref().map(|dir| dir.path());
    let expected = bits(&fit(unstopped, start.clone(), EPOCHS, None));

    let half = bits(&fit(stopped, start.clone(), EPOCHS / 2, None));
    assert!(half != bits(&start) && half != expected);
    // As in a new process: another model, whose weights and ids come from the checkpoint.
    let resumed = fit(stopped, new(), EPOCHS, Some(EPOCHS / 2));
    assert!(bits(&resumed) == expected);

    // Without the states of the optimizer, the bits are others.
    let optim_file = stopped.join(format!("checkpoint/optim-{}.bpk", EPOCHS / 2));
    std::fs::remove_file(&optim_file).unwrap();
    FusedConfig::new(NAdam::default()).init().unwrap().save(&optim_file).unwrap();
    let without_states = fit(stopped, new(), EPOCHS, Some(EPOCHS / 2));
    assert!(bits(&without_states) != expected);
}

/// An optimizer that counts its calls.
#[derive(Clone, Default)]
struct Calls(Arc<AtomicUsize>);

impl Optimizer for Calls {
    type State<const D: usize> = ();

    fn step<const D: usize>(
        &self,
        _: f64,
        theta: Tensor<D>,
        _: Tensor<D>,
        _: Option<()>,
    ) -> (Tensor<D>, Option<()>) {
        self.0.fetch_add(1, Ordering::Relaxed);
        (theta, None)
    }

    fn to_device<const D: usize>((): (), _: &Device) {}
}

/// Why a step cannot take several parameters: burn calls the optimizer for each of them.
#[test]
fn burn_steps_one_parameter_at_a_time() {
    let device = Device::flex().autodiff();
    let model = Model { network: Network::new(&device) };
    let batch = Digits::load().unwrap().batches(0, &device).swap_remove(0);
    let grads = GradientsParams::from_grads(model.loss(batch).backward(), &model);
    let calls = Calls::default();
    let _ = ModuleOptimizer::from(calls.clone()).step(LR, model, grads);
    assert_eq!(calls.0.load(Ordering::Relaxed), 4, "two weights and two biases");
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

    assert!(bits(&learner.model()) == bits(&model));
}
