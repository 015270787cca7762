//! States that something else has kept: the run continues with the same bits, and what does not fit
//! is refused by name. And tensors of a checkpoint with their shapes.

use fused_adam::{
    AdamW, AnyRule, Block8, CheckpointReader, Element, Error, GroupId, Lion, NAdam, Optimizer,
    Rule, StateElement, Tensor, bf16,
};

use crate::common::{Bits, Numbers, Random, difference};

const LEN: usize = 70;

/// An optimizer that has taken three steps, and one that takes over its states, take the same
/// fourth step.
fn taken_over<T: Bits, S: StateElement<Float = T::Float>>(rule: impl Into<AnyRule>) {
    let rule = rule.into();
    let build = || {
        let mut opt = Optimizer::new(rule).unwrap();
        let w = opt.add_mixed::<T, T, S>(GroupId::default(), "w", LEN).unwrap();
        (opt, w)
    };
    let random = &mut Random(17);
    let mut theta: Vec<T> = Numbers::Ordinary.fill(random, LEN);
    let grads: [Vec<T>; 4] = std::array::from_fn(|_| Numbers::Ordinary.fill(random, LEN));
    let (mut first, w) = build();
    for grad in &grads[..3] {
        first.step([Tensor::new(w, &mut theta, grad)]).unwrap();
    }
    let (mut second, of_second) = build();
    let names = rule.states().iter().map(|state| state.name());
    let states: Vec<(&str, &[S])> =
        names.rev().map(|name| (name, first.state(w, name).unwrap())).collect();
    second.set_states(of_second, 3, first.scalars(w).unwrap(), &states).unwrap();
    assert_eq!((second.t(of_second), second.steps()), (Some(3), 3), "{rule}");
    let mut expected = theta.clone();
    first.step([Tensor::new(w, &mut expected, &grads[3])]).unwrap();
    second.step([Tensor::new(of_second, &mut theta, &grads[3])]).unwrap();
    assert_eq!(difference("theta", &theta, &expected), None, "{rule}");
}

#[test]
fn another_optimizer_takes_over() {
    taken_over::<f32, f32>(AdamW::default());
    taken_over::<f64, f64>(NAdam::default());
    taken_over::<bf16, f32>(Lion::default());
    taken_over::<f32, Block8>(AdamW::default());
}

/// Without scalars, those of a rule are computed for the number of steps.
#[test]
fn scalars_are_computed_if_none_are_given() {
    let mut opt = Optimizer::new(NAdam::default()).unwrap();
    let w = opt.add::<f32>(GroupId::default(), "w", 1).unwrap();
    opt.set_states(w, 5, &[], &[("m", &[0.5_f32]), ("v", &[0.5])]).unwrap();
    assert_eq!(opt.scalars(w), Some(&[NAdam::default().scalar_after(0, 5)][..]));
    opt.set_states(w, 2, &[0.25], &[("m", &[0.5_f32]), ("v", &[0.5])]).unwrap();
    assert_eq!((opt.scalars(w), opt.t(w)), (Some(&[0.25][..]), Some(2)));
    assert_eq!(opt.steps(), 5, "the number of steps does not go back");
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut opt = Optimizer::new(AdamW::default()).unwrap();
    let w = opt.add::<f32>(GroupId::default(), "w", 3).unwrap();
    let e = opt.add_8bit::<f32, f32>(GroupId::default(), "e", 33, 0).unwrap();
    let (good, short) = ([1.0_f32; 3], [1.0_f32; 2]);
    opt.set_states(w, 1, &[], &[("m", &good), ("v", &good)]).unwrap();
    let blocks: [Block8; 1] = [[0; 33]];
    let other = Optimizer::new(AdamW::default()).unwrap().add::<f32>(GroupId::default(), "w", 3);
    let (m, v): ((_, &[f32]), (_, &[f32])) = (("m", &good), ("v", &good));
    let refused = [
        (opt.set_states(w, 2, &[], &[m]), "parameter `w`: state `v` is missing"),
        (opt.set_states(w, 2, &[], &[m, ("w", &good)]), "parameter `w`: state `v` is missing"),
        (opt.set_states(w, 2, &[], &[v, v]), "parameter `w`: state `m` is missing"),
        (opt.set_states(w, 2, &[], &[m, v, v]), "parameter `w`: 3 states were given"),
        (opt.set_states(w, 2, &[], &[m, ("v", &short)]), "`v` of parameter `w` has 2 elements"),
        (
            opt.set_states(w, 2, &[], &[("m", &[1.0_f64; 3]), ("v", &[1.0; 3])]),
            "`m` of parameter `w` is f64",
        ),
        (opt.set_states(w, 2, &[0.5], &[m, v]), "parameter `w`: 1 scalar was given"),
        (
            opt.set_states(e, 2, &[], &[("m", &blocks), ("v", &blocks)]),
            "parameter `e`: `m` has 1 block, expected 2",
        ),
        (opt.set_states(other.unwrap(), 2, &[], &[m, v]), "the parameter is an id"),
    ];
    for (result, message) in refused {
        let error: Error = result.unwrap_err();
        assert!(error.to_string().starts_with(message), "{error}, expected {message}");
    }
    assert_eq!((opt.t(w), opt.t(e), opt.steps()), (Some(1), Some(0), 1));
    assert_eq!((opt.state(w, "v"), opt.state::<Block8>(e, "m")), (Some(&good[..]), None));
}

/// A tensor has its shape in the file, as other programs expect it.
#[test]
fn tensors_have_their_shapes() {
    fn write<E: Element>(shape: &[usize], len: usize) -> Result<Vec<usize>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("states");
        let opt = Optimizer::new(AdamW::default()).unwrap();
        let tensor = vec![E::from_f64(0.5); len];
        let writer = opt.checkpoint().with_shaped_tensor("w", shape, &tensor);
        writer.save(&path).map_err(|error| error.to_string())?;
        let mut reader = CheckpointReader::open(&path).unwrap();
        let mut read = vec![E::from_f64(0.0); len];
        reader.read("w", &mut read).unwrap();
        assert!(read == tensor);
        let bytes = std::fs::read(&path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(reader.shape("w"), Some(file.tensor("w").unwrap().shape()));
        assert_eq!(reader.shape("b"), None);
        Ok(reader.shape("w").unwrap().to_vec())
    }
    for shape in [&[][..], &[1], &[3, 0, 2], &[2, 3, 5]] {
        let len = shape.iter().product();
        assert_eq!(write::<f32>(shape, len).as_deref(), Ok(shape));
        assert_eq!(write::<bf16>(shape, len).as_deref(), Ok(shape));
    }
    for (shape, len) in [(&[2, 3][..], 5), (&[usize::MAX, 2], 0), (&[0], 1)] {
        let error = write::<f32>(shape, len).unwrap_err();
        assert!(error.contains("the tensor `w` has"), "{error}");
        assert!(error.contains(&format!("expected those of {shape:?}")), "{error}");
    }
}
