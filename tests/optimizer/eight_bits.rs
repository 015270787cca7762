//! Checkpoints of 8-bit states: resumed to the bit, converted from and to `f32` states and torch's
//! layout, and refused by name if the format is another one.

use std::fs;

use fused_adam::{
    AdamW, Block8, CheckpointReader, Element, GroupId, Optimizer, Parallelism, Rule, StateElement,
    Tensor, bf16,
};

use crate::checkpoints::temporary;
use crate::common::{Numbers, Random, difference};

const LEN: usize = 10_001;

/// An optimizer of one parameter with AMSGrad, whose states are of type `S`.
fn optimizer<T: Element<Float = f32>, S: StateElement<Float = f32>>() -> Optimizer {
    let mut opt = Optimizer::new(AdamW { amsgrad: true, ..AdamW::default() }).unwrap();
    opt.add_mixed::<T, T, S>(GroupId::default(), "w", LEN).unwrap();
    opt
}

/// Takes the steps with these numbers. The gradients depend only on the number.
fn steps(opt: &mut Optimizer, theta: &mut [f32], numbers: std::ops::Range<u64>) {
    for number in numbers {
        let grad: Vec<f32> = Numbers::Ordinary.fill(&mut Random(number), LEN);
        opt.step([Tensor::new("w", theta, &grad)]).unwrap();
    }
}

fn theta() -> Vec<f32> {
    Numbers::Ordinary.fill(&mut Random(100), LEN)
}

fn state<S: StateElement>(opt: &Optimizer, name: &str) -> Vec<S> {
    opt.state::<S>(opt.id("w").unwrap(), name).expect("it has this state").to_vec()
}

/// The states with their declarations.
fn declared() -> &'static [fused_adam::State] {
    AdamW { amsgrad: true, ..AdamW::default() }.states()
}

fn decoded(declared: &fused_adam::State, blocks: &[Block8]) -> Vec<f32> {
    let mut elements = vec![0.0; LEN];
    declared.decode(blocks, &mut elements);
    elements
}

/// A run that is resumed on another number of threads has the bits of the whole run.
#[test]
fn resumed_to_the_bit() {
    let (_dir, path) = temporary();
    let (mut whole, mut expected) = (optimizer::<f32, Block8>(), theta());
    steps(&mut whole, &mut expected, 0..7);

    let (mut first, mut theta) = (optimizer::<f32, Block8>(), theta());
    steps(&mut first, &mut theta, 0..3);
    first.checkpoint().save(&path).unwrap();
    let mut resumed = optimizer::<f32, Block8>();
    resumed.options.parallelism = Parallelism::Serial;
    #[cfg(feature = "parallel")]
    {
        resumed.options.parallelism = Parallelism::Chunks(std::num::NonZeroUsize::new(77).unwrap());
    }
    CheckpointReader::open(&path).unwrap().load(&mut resumed).unwrap();
    steps(&mut resumed, &mut theta, 3..7);

    assert_eq!(difference("theta", &theta, &expected), None);
    for name in ["m", "v", "v_max"] {
        assert!(state::<Block8>(&resumed, name) == state::<Block8>(&whole, name), "{name}");
    }
}

/// `f32` states become 8-bit states, and the other way round.
#[test]
fn converted_from_and_to_f32() {
    let (_dir, path) = temporary();
    let (mut singles, mut in_f32) = (optimizer::<f32, f32>(), theta());
    steps(&mut singles, &mut in_f32, 0..3);
    let (mut blocks, mut in_8_bits) = (optimizer::<f32, Block8>(), theta());
    steps(&mut blocks, &mut in_8_bits, 0..3);

    singles.checkpoint().save(&path).unwrap();
    let mut encoded = optimizer::<f32, Block8>();
    CheckpointReader::open(&path).unwrap().load(&mut encoded).unwrap();
    blocks.checkpoint().save(&path).unwrap();
    let mut back = optimizer::<f32, f32>();
    CheckpointReader::open(&path).unwrap().load(&mut back).unwrap();
    for declared in declared() {
        let name = declared.name();
        let mut expected = vec![[0; 33]; LEN.div_ceil(32)];
        declared.encode(&state::<f32>(&singles, name), &mut expected);
        assert!(state::<Block8>(&encoded, name) == expected, "{name} is not what was encoded");
        let expected = decoded(declared, &state::<Block8>(&blocks, name));
        assert_eq!(difference(name, &state::<f32>(&back, name), &expected), None);
    }
    assert_eq!((encoded.steps(), back.steps()), (3, 3));
    steps(&mut encoded, &mut in_f32, 3..4);
    steps(&mut back, &mut in_8_bits, 3..4);
}

/// torch's layout has `f32` states, which are encoded again when they are loaded.
#[test]
fn torchs_layout() {
    let (_dir, path) = temporary();
    let (mut blocks, mut theta) = (optimizer::<f32, Block8>(), theta());
    steps(&mut blocks, &mut theta, 0..3);
    blocks.torch_checkpoint().save(&path).unwrap();
    let mut file = CheckpointReader::open(&path).unwrap();
    let mut back = optimizer::<f32, Block8>();
    file.load_torch(&mut back).unwrap();
    for declared in declared() {
        let expected = decoded(declared, &state::<Block8>(&blocks, declared.name()));
        let mut stored = vec![0.0_f32; LEN];
        file.read(&format!("w.{}", declared.torch_name().unwrap()), &mut stored).unwrap();
        assert_eq!(difference(declared.name(), &stored, &expected), None);
        let mut expected = vec![[0; 33]; LEN.div_ceil(32)];
        declared.encode(&stored, &mut expected);
        assert!(state::<Block8>(&back, declared.name()) == expected, "{}", declared.name());
    }
    assert_eq!(back.t(back.id("w").unwrap()), Some(3));
}

/// Files whose 8-bit states do not fit are refused, and the optimizer does not change.
#[test]
fn other_formats_are_refused() {
    let (_dir, path) = temporary();
    let (mut blocks, mut theta) = (optimizer::<f32, Block8>(), theta());
    steps(&mut blocks, &mut theta, 0..1);
    blocks.checkpoint().save(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    let replaced = |from: &str, to: &str| {
        let (from, to) = (from.as_bytes(), to.as_bytes());
        assert_eq!(from.len(), to.len());
        let at = bytes.windows(from.len()).position(|window| window == from);
        let mut bytes = bytes.clone();
        bytes[at.unwrap()..][..to.len()].copy_from_slice(to);
        fs::write(&path, bytes).unwrap();
    };
    let refused = |mut opt: Optimizer, why: &str| {
        let error = CheckpointReader::open(&path).unwrap().load(&mut opt).unwrap_err();
        assert_eq!(error.to_string(), format!("{}: {why}", path.display()));
        assert_eq!((opt.steps(), opt.t(opt.id("w").unwrap())), (0, Some(0)));
    };

    replaced("block8.1", "block8.2");
    refused(
        optimizer::<f32, Block8>(),
        "the format of the states of `w` is block8.2, expected block8.1",
    );
    replaced("\"shape\":[313,33]", "\"shape\":[33,313]");
    CheckpointReader::open(&path).unwrap().load(&mut optimizer::<f32, Block8>()).unwrap();
    let mut shorter = Optimizer::new(AdamW { amsgrad: true, ..AdamW::default() }).unwrap();
    shorter.add_mixed::<f32, f32, Block8>(GroupId::default(), "w", LEN - 32).unwrap();
    refused(shorter, "the length of `w.m` is 10329, expected 10296");
    // States of bf16 are not converted.
    let mut halves = optimizer::<bf16, bf16>();
    replaced("\\\"theta\\\":\\\"f32\\\"", "\\\"theta\\\":\\\"f32\\\"");
    let error = CheckpointReader::open(&path).unwrap().load(&mut halves).unwrap_err().to_string();
    assert!(error.ends_with("the type of `w` is f32, expected bf16"), "{error}");
    let mut mixed = Optimizer::new(AdamW { amsgrad: true, ..AdamW::default() }).unwrap();
    mixed.add_mixed::<f32, f32, bf16>(GroupId::default(), "w", LEN).unwrap();
    refused(mixed, "the type of the states of `w` is 8 bits, expected bf16");
}
