//! A run that continues from a file has the same bits as one that was not interrupted, and files
//! move between this crate and the core.

use std::path::Path;

use fused_adam_ndarray::fused_adam::{
    AdaGrad, AdamW, AnyRule, Block8, CheckpointError, CheckpointReader, ClipNorm, Element,
    GradScaler, GroupId, NAdam, Optimizer, RmsProp, Rounding, Rule, Sgd, StateElement, Tensor,
    bf16,
};
use fused_adam_ndarray::{ArrayOptimizer, Pair};
use ndarray::Array2;
use tempfile::TempDir;

use crate::common::{bits, laid_out, numbers};

const NAMES: [&str; 3] = ["rows", "columns", "reversed"];
const SHAPE: (usize, usize) = (9, 7);

fn rules() -> [AnyRule; 5] {
    [
        NAdam::default().into(),
        AdamW { amsgrad: true, ..AdamW::default() }.into(),
        AdaGrad { initial_accumulator_value: 0.3, ..AdaGrad::default() }.into(),
        RmsProp { centered: true, momentum: 0.5, ..RmsProp::default() }.into(),
        Sgd::default().into(),
    ]
}

fn file() -> (TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("checkpoint");
    (dir, path)
}

/// Arrays in three memory orders.
fn arrays<T: Element>() -> [Array2<T>; 3] {
    [0, 1, 2].map(|layout| laid_out(&numbers(SHAPE, layout as u64), layout))
}

/// An optimizer for them. The second is in a group of its own.
fn optimizer<T: Element, S: StateElement<Float = T::Float>>(
    rule: AnyRule,
) -> ArrayOptimizer<AnyRule> {
    let mut opt = ArrayOptimizer::new(rule).unwrap();
    let mut other = rule;
    other.set_lr(0.1);
    let group = opt.add_group(other).unwrap();
    for (i, (name, theta)) in NAMES.iter().zip(&arrays::<T>()).enumerate() {
        let group = if i == 1 { group } else { GroupId::default() };
        opt.add_mixed::<_, T, S, _>(group, name, theta).unwrap();
    }
    opt.options_mut().rounding = Rounding::Stochastic { seed: 7 };
    opt.options_mut().clip_norm = Some(ClipNorm::Two(1.0));
    opt.set_grad_scaler(Some(GradScaler { growth_interval: 2, ..GradScaler::default() }));
    opt
}

/// Takes step `t`, with a schedule of NAdam's β1.
fn step<T: Element>(opt: &mut ArrayOptimizer<AnyRule>, arrays: &mut [Array2<T>; 3], t: u64) {
    if let AnyRule::NAdam(rule) = opt.rule_mut(GroupId::default()).unwrap() {
        rule.beta1 = 0.9 - 0.1 * t as f64;
    }
    let grads = [10, 20, 30].map(|i| numbers::<T>(SHAPE, i + t));
    let pairs = NAMES.iter().zip(arrays).zip(&grads);
    opt.step(pairs.map(|((name, theta), grad)| Pair::new(name, theta, grad))).unwrap();
}

fn views<T>(arrays: &[Array2<T>; 3]) -> impl Iterator<Item = (&str, ndarray::ArrayViewD<'_, T>)> {
    NAMES.into_iter().zip(arrays).map(|(name, array)| (name, array.view().into_dyn()))
}

fn views_mut<T>(
    arrays: &mut [Array2<T>; 3],
) -> impl Iterator<Item = (&str, ndarray::ArrayViewMutD<'_, T>)> {
    NAMES.into_iter().zip(arrays).map(|(name, array)| (name, array.view_mut().into_dyn()))
}

fn assert_same<T: Element, S: StateElement>(
    place: &str,
    (opt, arrays): (&ArrayOptimizer<AnyRule>, &[Array2<T>; 3]),
    (expected, expected_arrays): (&ArrayOptimizer<AnyRule>, &[Array2<T>; 3]),
) {
    assert_eq!(opt.steps(), expected.steps(), "{place}");
    assert_eq!(opt.grad_scaler(), expected.grad_scaler(), "{place}");
    for ((name, array), expected_array) in NAMES.iter().zip(arrays).zip(expected_arrays) {
        assert!(bits(array) == bits(expected_array), "{name}: {place}");
        assert_eq!(opt.t(name), expected.t(name), "{name}: {place}");
        assert_eq!(opt.scalars(name), expected.scalars(name), "{name}: {place}");
        for state in expected.rule(GroupId::default()).unwrap().states() {
            let [own, expected] = [opt, expected].map(|opt| opt.state::<S>(name, state.name()));
            let (own, expected) = (bits(own.unwrap()), bits(expected.unwrap()));
            assert!(own == expected, "{} of {name}: {place}", state.name());
        }
    }
}

/// One run without a file, one that saves and goes on, and one that loads and goes on.
fn continues<T: Element, S: StateElement<Float = T::Float>>(rule: AnyRule) {
    let place = format!("{rule:?}, {} with states of {}", T::NAME, S::NAME);
    let (_dir, path) = file();
    let [(mut whole, mut expected), (mut saved, mut own)] =
        [0; 2].map(|_| (optimizer::<T, S>(rule), arrays::<T>()));
    for t in 1..7 {
        step(&mut whole, &mut expected, t);
        step(&mut saved, &mut own, t);
        if t == 3 {
            saved.save_with_arrays(&path, views(&own)).unwrap();
        }
    }
    assert_same::<T, S>(&place, (&saved, &own), (&whole, &expected));

    // Into a new optimizer, and into one with other states.
    for before in 0..2 {
        let (mut opt, mut loaded) = (optimizer::<T, S>(rule), arrays::<T>());
        (0..before).for_each(|t| step(&mut opt, &mut loaded, 5 + t));
        opt.rule_mut(GroupId::default()).unwrap().set_lr(0.7);
        opt.load_with_arrays(&path, views_mut(&mut loaded)).unwrap();
        (4..7).for_each(|t| step(&mut opt, &mut loaded, t));
        assert_same::<T, S>(&place, (&opt, &loaded), (&whole, &expected));
        for (own, start) in loaded.iter().zip(arrays::<T>()) {
            assert_eq!(own.strides(), start.strides());
        }
    }
}

#[test]
fn a_run_continues_from_a_file() {
    for rule in rules() {
        continues::<f32, f32>(rule);
        continues::<bf16, bf16>(rule);
        continues::<f32, Block8>(rule);
    }
    continues::<f64, f64>(rules()[0]);
}

/// The core with the same parameters, on row-major slices, reads a file of an `ArrayOptimizer`,
/// takes steps, and writes a file that an `ArrayOptimizer` reads.
fn moves<S: StateElement<Float = f32>>(rule: AnyRule) {
    let place = format!("{rule:?}, states of {}", S::NAME);
    let (_dir, path) = file();
    let (mut whole, mut expected) = (optimizer::<f32, S>(rule), arrays::<f32>());
    let (mut opt, mut own) = (optimizer::<f32, S>(rule), arrays::<f32>());
    (1..3).for_each(|t| step(&mut opt, &mut own, t));
    opt.save_with_arrays(&path, views(&own)).unwrap();
    (1..7).for_each(|t| step(&mut whole, &mut expected, t));

    let mut core = Optimizer::new(rule).unwrap();
    let group = core.add_group(rule).unwrap();
    for (name, group) in [("columns", group), ("reversed", GroupId::default())] {
        core.add_mixed::<f32, f32, S>(group, name, 63).unwrap();
    }
    core.add_mixed::<f32, f32, S>(GroupId::default(), "rows", 63).unwrap();
    core.options = *opt.options();
    let mut reader = CheckpointReader::open(&path).unwrap();
    reader.load(&mut core).unwrap();
    let mut flat = NAMES.map(|name| {
        assert_eq!(reader.shape(name), Some(&[9, 7][..]));
        let mut theta = [0.0_f32; 63];
        reader.read(name, &mut theta).unwrap();
        theta
    });
    for t in 3..5 {
        if let AnyRule::NAdam(rule) = core.rule_mut(GroupId::default()).unwrap() {
            rule.beta1 = 0.9 - 0.1 * t as f64;
        }
        let grads = [10, 20, 30].map(|i| numbers::<f32>(SHAPE, i + t));
        let tensors = NAMES.iter().zip(&mut flat).zip(&grads);
        let tensors = tensors
            .map(|((name, theta), grad)| Tensor::new(*name, theta, grad.as_slice().unwrap()));
        core.step(tensors).unwrap();
    }
    let flat_tensors = NAMES.iter().zip(&flat);
    let writer = flat_tensors.fold(core.checkpoint(), |to, (name, of)| to.with_tensor(name, of));
    writer.save(&path).unwrap();

    let (mut opt, mut own) = (optimizer::<f32, S>(rule), arrays::<f32>());
    opt.load_with_arrays(&path, views_mut(&mut own)).unwrap();
    (5..7).for_each(|t| step(&mut opt, &mut own, t));
    assert_same::<f32, S>(&place, (&opt, &own), (&whole, &expected));
}

#[test]
fn files_move_between_the_core_and_arrays() {
    for rule in rules() {
        moves::<f32>(rule);
        moves::<Block8>(rule);
    }
}

/// A saved optimizer without arrays, and arrays that the optimizer does not have.
#[test]
fn states_alone_and_other_arrays() {
    let (_dir, path) = file();
    let rule = rules()[0];
    let (mut opt, mut own) = (optimizer::<f32, f32>(rule), arrays::<f32>());
    step(&mut opt, &mut own, 1);
    opt.save(&path).unwrap();
    let mut loaded = optimizer::<f32, f32>(rule);
    loaded.load(&path).unwrap();
    assert_same::<f32, f32>("states alone", (&loaded, &own), (&opt, &own));

    let mean = laid_out(&numbers::<bf16>((2, 3), 5), 1);
    opt.save_with_arrays(&path, [("mean", mean.view().into_dyn())]).unwrap();
    let mut read = Array2::from_elem((2, 3), bf16::ZERO);
    loaded.load_with_arrays(&path, [("mean", read.view_mut().into_dyn())]).unwrap();
    assert_eq!(read, mean);
}

/// After each of these errors the optimizer and the arrays have not changed.
#[test]
fn files_that_do_not_fit_are_refused() {
    let (dir, path) = file();
    let rule = rules()[1];
    let (mut opt, mut own) = (optimizer::<f32, f32>(rule), arrays::<f32>());
    (1..3).for_each(|t| step(&mut opt, &mut own, t));
    opt.save_with_arrays(&path, views(&own)).unwrap();
    (3..5).for_each(|t| step(&mut opt, &mut own, t));
    let (mut expected, mut expected_own) = (optimizer::<f32, f32>(rule), arrays::<f32>());
    (1..5).for_each(|t| step(&mut expected, &mut expected_own, t));

    // The last array is not in the file, and the first has another shape.
    let mut other = Array2::<f32>::zeros((2, 2));
    let mut turned = numbers::<f32>((7, 9), 0);
    let [rows, ..] = &mut own;
    let wanted = [("rows", rows.view_mut().into_dyn()), ("other", other.view_mut().into_dyn())];
    refused(&path, opt.load_with_arrays(&path, wanted), "lacks the tensor `other`");
    let wanted = [("rows", turned.view_mut().into_dyn())];
    let message = "the shape of `rows` is [9, 7], expected [7, 9]";
    refused(&path, opt.load_with_arrays(&path, wanted), message);
    let missing = opt.load(dir.path().join("missing"));
    assert!(matches!(missing, Err(CheckpointError::Io { .. })), "{missing:?}");
    // A state and an array would have one name.
    let array = [("rows.m", turned.view().into_dyn())];
    refused(&path, opt.save_with_arrays(&path, array), "there are two tensors `rows.m`");
    // The states are not those of the rule.
    *opt.rule_mut(GroupId::default()).unwrap() = AdamW::default().into();
    let message = "3 states were given, expected the states `m`, `v`";
    refused(&path, opt.save(&path), message);
    *opt.rule_mut(GroupId::default()).unwrap() = rule;
    for t in 5..7 {
        step(&mut opt, &mut own, t);
        step(&mut expected, &mut expected_own, t);
    }
    assert_same::<f32, f32>("refused", (&opt, &own), (&expected, &expected_own));
    assert!(turned == numbers::<f32>((7, 9), 0) && other.iter().all(|x| *x == 0.0));

    // Other optimizers: an array of another shape, another name, another rule.
    let mut opt = ArrayOptimizer::new(rule).unwrap();
    opt.add_group(rule).unwrap();
    opt.add(GroupId::default(), "rows", &turned).unwrap();
    refused(&path, opt.load(&path), "the shape of `rows` is [9, 7], expected [7, 9]");
    let mut opt = ArrayOptimizer::new(rule).unwrap();
    opt.add_group(rule).unwrap();
    for name in ["rows", "column", "reversed"] {
        opt.add(GroupId::default(), name, &own[0]).unwrap();
    }
    let message = "a parameter is `columns`, expected one that is registered";
    refused(&path, opt.load(&path), message);
    let mut opt = optimizer::<f32, f32>(rules()[0]);
    let mut rows = numbers::<f32>(SHAPE, 9);
    let wanted = [("rows", rows.view_mut().into_dyn())];
    let message = "the rule of group 0 is adamw, expected nadam";
    refused(&path, opt.load_with_arrays(&path, wanted), message);
    assert_eq!((opt.steps(), opt.t("rows")), (0, Some(0)));
    assert_eq!(rows, numbers::<f32>(SHAPE, 9));
}

fn refused(path: &Path, result: Result<(), CheckpointError>, message: &str) {
    let error = result.unwrap_err().to_string();
    assert_eq!(error.trim_start_matches(&format!("{}: ", path.display())), message);
}
