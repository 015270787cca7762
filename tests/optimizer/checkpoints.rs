//! Checkpoints: a resumed run is bit-identical to one that was not stopped, and no file causes
//! harm.

use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};

use fused_adam::{
    Adam, AdamW, AnyRule, CheckpointReader, GradScaler, GroupId, Lion, Optimizer, Parallelism,
    Rounding, Rule, Sgd, Tensor, bf16,
};
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::common::{Bits, Numbers, Random, difference, rules};

/// A small model with three types, in two groups.
struct Model<R> {
    opt: Optimizer<R>,
    a: Vec<f32>,
    b: Vec<bf16>,
    c: Vec<f64>,
}

const LENS: [usize; 3] = [1000, 37, 5];

impl<R: Rule + Serialize + DeserializeOwned + PartialEq + Debug> Model<R> {
    fn new(rules: &[R; 2], parallelism: Parallelism, seed: u64) -> Self {
        let mut opt = Optimizer::new(rules[0].clone()).unwrap();
        let second = opt.add_group(rules[1].clone()).unwrap();
        opt.add::<f32>(GroupId::default(), "layer.a", LENS[0]).unwrap();
        opt.add_mixed::<bf16, bf16, f32>(second, "layer.b", LENS[1]).unwrap();
        opt.add::<f64>(second, "c", LENS[2]).unwrap();
        opt.options.parallelism = parallelism;
        opt.options.rounding = Rounding::Stochastic { seed };
        opt.grad_scaler = Some(GradScaler { growth_interval: 2, ..GradScaler::default() });
        let random = &mut Random(seed);
        let a = Numbers::Ordinary.fill(random, LENS[0]);
        let b = Numbers::Ordinary.fill(random, LENS[1]);
        Model { opt, a, b, c: Numbers::Ordinary.fill(random, LENS[2]) }
    }

    /// Step number `step` of the run. Some parameters have no gradient, and some gradients are not
    /// finite.
    fn step(&mut self, seed: u64, step: u64) {
        let random = &mut Random(seed ^ step << 20);
        let mut grad_a: Vec<f32> = Numbers::Ordinary.fill(random, LENS[0]);
        let grad_b: Vec<bf16> = Numbers::Ordinary.fill(random, LENS[1]);
        let grad_c: Vec<f64> = Numbers::Ordinary.fill(random, LENS[2]);
        if random.below(4) == 0 {
            grad_a[3] = f32::INFINITY;
        }
        let mut tensors = vec![Tensor::new("layer.a", &mut self.a, &grad_a)];
        if random.below(2) == 0 {
            tensors.push(Tensor::new("layer.b", &mut self.b, &grad_b));
        }
        if step > 2 {
            tensors.push(Tensor::new("c", &mut self.c, &grad_c));
        }
        self.opt.step(tensors).unwrap();
    }

    fn save(&self, path: &Path) {
        let checkpoint = self.opt.checkpoint();
        checkpoint
            .with_tensor("a", &self.a)
            .with_tensor("b", &self.b)
            .with_tensor("c", &self.c)
            .save(path)
            .unwrap();
    }

    fn load(&mut self, path: &Path) -> Result<(), fused_adam::CheckpointError> {
        let mut file = CheckpointReader::open(path)?;
        file.load(&mut self.opt)?;
        file.read("a", &mut self.a)?;
        file.read("b", &mut self.b)?;
        file.read("c", &mut self.c)
    }

    fn expect(&self, other: &Self) {
        fn same<E: Bits>(name: &str, a: &[E], b: &[E]) {
            assert_eq!(difference(name, a, b), None);
        }
        same("a", &self.a, &other.a);
        same("b", &self.b, &other.b);
        same("c", &self.c, &other.c);
        assert_eq!(
            (self.opt.steps(), self.opt.grad_scaler),
            (other.opt.steps(), other.opt.grad_scaler)
        );
        for name in ["layer.a", "layer.b", "c"] {
            let (a, b) = (self.opt.id(name).unwrap(), other.opt.id(name).unwrap());
            assert_eq!(self.opt.t(a), other.opt.t(b));
            for state in ["m", "v", "v_max"] {
                let states = (self.opt.state::<f32>(a, state), other.opt.state::<f32>(b, state));
                assert_eq!(states.0.is_some(), states.1.is_some());
                same(state, states.0.unwrap_or(&[]), states.1.unwrap_or(&[]));
            }
        }
    }
}

pub fn temporary() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.safetensors");
    (dir, path)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 16,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// A run that is stopped, saved, loaded and resumed is bit-identical to one that is not, also
    /// with another number of threads.
    #[test]
    fn resumed_is_not_stopped(seed: u64, before in 0..6_u64, after in 1..5_u64, maximize: bool) {
        let adamw = AdamW { lr: 1.0 / 3.0, maximize, ..AdamW::default() };
        resume(&[adamw, AdamW { amsgrad: true, ..adamw }], seed, before, after);
        resume(&[Lion::default(), Lion { lr: 0.1, ..Lion::default() }], seed, before, after);
        let sgd = Sgd { maximize, ..Sgd::default() };
        resume(&[sgd, Sgd { momentum: 0.9, ..sgd }], seed, before, after);
    }
}

fn resume<R>(rules: &[R; 2], seed: u64, before: u64, after: u64)
where
    R: Rule + Serialize + DeserializeOwned + PartialEq + Debug,
{
    let (_dir, path) = temporary();
    let mut whole = Model::new(rules, Parallelism::Auto, seed);
    (0..before).for_each(|step| whole.step(seed, step));
    whole.save(&path);
    // Different hyper-parameters, which the file replaces.
    let mut other = rules.clone();
    other.iter_mut().for_each(|rule| rule.set_lr(9.0));
    let mut resumed = Model::new(&other, Parallelism::Serial, seed);
    resumed.load(&path).unwrap();
    resumed.expect(&whole);
    assert_eq!(resumed.opt.rule(GroupId::default()), Some(&rules[0]));
    for step in before..before + after {
        whole.step(seed, step);
        resumed.step(seed, step);
    }
    resumed.expect(&whole);
}

/// All bits of the hyper-parameters of every rule.
#[test]
fn every_rule_is_written_and_read() {
    let (_dir, path) = temporary();
    let mut rules: Vec<AnyRule> = rules::names().map(rules::default).collect();
    let mut defaults = Optimizer::new(rules[0]).unwrap();
    let third = |rule: &mut AnyRule| rule.set_lr(1.0 / 3.0);
    rules.iter_mut().for_each(third);
    let mut opt = Optimizer::new(rules[0]).unwrap();
    let mut groups = vec![GroupId::default()];
    for rule in &rules[1..] {
        opt.add_group(*rule).unwrap();
        groups.push(defaults.add_group(rule.name().parse().unwrap()).unwrap());
    }
    opt.checkpoint().save(&path).unwrap();
    CheckpointReader::open(&path).unwrap().load(&mut defaults).unwrap();
    for (group, rule) in groups.into_iter().zip(&rules) {
        assert_eq!(defaults.rule(group), Some(rule));
    }
}

pub fn adamw(len: usize) -> Optimizer {
    let mut opt = Optimizer::new(AdamW::default()).unwrap();
    opt.add::<f32>(GroupId::default(), "w", len).unwrap();
    opt
}

pub fn stepped(len: usize) -> Optimizer {
    let mut opt = adamw(len);
    opt.step([Tensor::new("w", &mut vec![1.0_f32; len], &vec![0.5_f32; len])]).unwrap();
    opt
}

pub fn load(path: &Path, opt: &mut Optimizer) -> Result<(), String> {
    let mut file = CheckpointReader::open(path).map_err(|error| error.to_string())?;
    file.load(opt).map_err(|error| error.to_string())
}

/// What does not fit is an error, and changes nothing.
#[test]
fn what_does_not_fit() {
    let (_dir, path) = temporary();
    stepped(4).checkpoint().save(&path).unwrap();
    let refused = |opt: &mut Optimizer, why: &str| {
        let steps = opt.steps();
        let message = load(&path, opt).unwrap_err();
        assert_eq!(message, format!("{}: {why}", path.display()));
        assert_eq!(opt.steps(), steps);
    };
    refused(&mut stepped(5), "the length of `w.m` is 4, expected 5");
    let mut more = stepped(4);
    more.add::<f32>(GroupId::default(), "x", 4).unwrap();
    refused(&mut more, "the number of parameters is 1, expected 2");
    let mut other = Optimizer::new(AdamW::default()).unwrap();
    other.add::<f32>(GroupId::default(), "x", 4).unwrap();
    refused(&mut other, "a parameter is `w`, expected one that is registered");
    let mut wider = Optimizer::new(AdamW::default()).unwrap();
    wider.add::<f64>(GroupId::default(), "w", 4).unwrap();
    refused(&mut wider, "the type of `w` is f32, expected f64");
    let mut narrower = Optimizer::new(AdamW::default()).unwrap();
    narrower.add_mixed::<f32, f32, bf16>(GroupId::default(), "w", 4).unwrap();
    refused(&mut narrower, "the type of `w.m` is f32, expected bf16");
    let mut groups = stepped(4);
    groups.add_group(AdamW::default()).unwrap();
    refused(&mut groups, "the number of groups is 1, expected 2");

    let mut adam = Optimizer::new(Adam::default()).unwrap();
    adam.add::<f32>(GroupId::default(), "w", 4).unwrap();
    let error = CheckpointReader::open(&path).unwrap().load(&mut adam).unwrap_err();
    assert!(error.to_string().contains("the rule of group 0 is adamw, expected adam"), "{error}");
    let mut lion = Optimizer::new(Lion::default()).unwrap();
    lion.add::<f32>(GroupId::default(), "w", 4).unwrap();
    let error = CheckpointReader::open(&path).unwrap().load(&mut lion).unwrap_err();
    assert!(error.to_string().contains("are not valid: "), "{error}");

    let mut file = CheckpointReader::open(&path).unwrap();
    assert!(
        file.read("nothing", &mut [0.0_f32])
            .unwrap_err()
            .to_string()
            .ends_with("lacks the tensor `nothing`")
    );
    assert_eq!(file.names(), ["w.m", "w.v"]);
}

/// A tensor that is saved under the name of a state that its parameter does not have yet would be
/// mistaken for the state.
#[test]
fn kept_tensors_are_no_states() {
    let (_dir, path) = temporary();
    let kept = [7.0_f32; 4];
    for name in ["w.m", "w.v"] {
        let opt = adamw(4);
        let error = opt.checkpoint().with_tensor(name, &kept).save(&path).unwrap_err().to_string();
        let why = format!("a tensor has the name of a parameter's state, `{name}`");
        assert_eq!(error, format!("{}: {why}", path.display()));
        assert!(!path.exists());
    }
    for name in ["w.exp_avg", "w.exp_avg_sq", "w.step"] {
        let error = adamw(4).torch_checkpoint().with_tensor(name, &kept).save(&path).unwrap_err();
        assert!(error.to_string().contains("the name of a parameter's state"), "{error}");
    }
    adamw(4).checkpoint().with_tensor("w", &kept).with_tensor("w.step", &kept).save(&path).unwrap();
    let mut loaded = stepped(4);
    load(&path, &mut loaded).unwrap();
    let w = loaded.id("w").unwrap();
    assert_eq!((loaded.t(w), loaded.state::<f32>(w, "m")), (Some(0), None));
}

/// Metadata with one manipulated value at a time.
#[test]
fn metadata_are_checked() {
    let (_dir, path) = temporary();
    stepped(4).checkpoint().save(&path).unwrap();
    let good = fs::read(&path).unwrap();
    for (from, to, why) in [
        (r#"\"version\":1"#, r#"\"version\":2"#, "the version is 2, expected 1"),
        (r#"\"beta1\":0.9"#, r#"\"beta1\":1.9"#, "`beta1` is 1.9, expected a number in [0, 1)"),
        (r#"\"group\":0"#, r#"\"group\":7"#, "the group of `w` is 7, expected 0"),
        (r#"\"t\":1"#, r#"\"t\":-"#, "are not valid: "),
        (r#"\"maximize\""#, r#"\"maximise\""#, "are not valid: "),
        ("fused_adam", "fused_eden", "its metadata lack `fused_adam`"),
        (r#""w.v""#, r#""w.u""#, "lacks the tensor `w.v`"),
        (r#"[16,32]"#, r#"[15,31]"#, "has no valid safetensors header: "),
    ] {
        let at = good.windows(from.len()).position(|bytes| bytes == from.as_bytes());
        let mut bad = good.clone();
        bad[at.unwrap_or_else(|| panic!("no {from}"))..][..to.len()].copy_from_slice(to.as_bytes());
        fs::write(&path, &bad).unwrap();
        let message = load(&path, &mut adamw(4)).unwrap_err();
        assert!(message.contains(why), "{message}");
    }
}

/// Every prefix of a file is an error, and so is a longer file.
#[test]
fn files_that_are_not_whole() {
    let (_dir, path) = temporary();
    stepped(4).checkpoint().save(&path).unwrap();
    let good = fs::read(&path).unwrap();
    for len in 0..good.len() {
        fs::write(&path, &good[..len]).unwrap();
        assert!(load(&path, &mut adamw(4)).is_err(), "the first {len} bytes were loaded");
    }
    fs::write(&path, [&good[..], &[0]].concat()).unwrap();
    assert!(load(&path, &mut adamw(4)).is_err());
    fs::write(&path, &good).unwrap();
    load(&path, &mut adamw(4)).unwrap();
    // Headers that would allocate all memory.
    for len in [u64::MAX, 1 << 40, good.len() as u64 - 7] {
        let mut bad = good.clone();
        bad[..8].copy_from_slice(&len.to_le_bytes());
        fs::write(&path, &bad).unwrap();
        let message = load(&path, &mut adamw(4)).unwrap_err();
        let expected =
            if len < 1 << 30 { "is truncated: it has" } else { "is not a safetensors file" };
        assert!(message.contains(expected), "{message}");
    }
    fs::write(&path, "# A text, for example the README").unwrap();
    let message = load(&path, &mut adamw(4)).unwrap_err();
    let expected = format!("{}: is not a safetensors file", path.display());
    assert!(message.ends_with(&expected), "{message}");
    assert!(load(&path.join("nowhere"), &mut adamw(4)).is_err());
}

/// An optimizer of one rule and one of any rule read each other's files.
#[test]
fn a_rule_and_any_rule_are_interchangeable() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("states");
    let rule = AdamW { lr: 0.25, ..AdamW::default() };
    let mut one = Optimizer::new(rule).unwrap();
    one.add::<f32>(GroupId::default(), "w", 4).unwrap();
    let mut theta = [1.0_f32; 4];
    one.step([Tensor::new("w", &mut theta, &[1.0_f32; 4])]).unwrap();
    one.checkpoint().save(&path).unwrap();

    let mut any = Optimizer::new(AnyRule::from(AdamW::default())).unwrap();
    any.add::<f32>(GroupId::default(), "w", 4).unwrap();
    CheckpointReader::open(&path).unwrap().load(&mut any).unwrap();
    assert_eq!(any.rule(GroupId::default()), Some(&rule.into()));
    let m = |opt: Option<&[f32]>| opt.unwrap().to_vec();
    let [w, own] = [any.id("w").unwrap(), one.id("w").unwrap()];
    assert_eq!(m(any.state(w, "m")), m(one.state(own, "m")));

    any.checkpoint().save(&path).unwrap();
    let mut back = adamw(4);
    CheckpointReader::open(&path).unwrap().load(&mut back).unwrap();
    assert_eq!(back.rule(GroupId::default()), Some(&rule));
}
