//! Wrong calls: their messages, and that they change nothing.

use fused_adam_ndarray::fused_adam::{
    AdamW, ClipNorm, Rounding, StepOptions, bf16, step_all as core_step_all,
};
use fused_adam_ndarray::{Error, ParamMut, step, step_all, step_with};
use ndarray::{Array2, ArrayD, Axis, IxDyn, ShapeBuilder, s};

type Dyn = ArrayD<f32>;

/// The arrays of a call.
#[derive(Clone, Debug, PartialEq)]
struct Arrays {
    theta: Dyn,
    grad: Dyn,
    m: Dyn,
    v: Dyn,
}

impl Arrays {
    /// The gradient has a different memory order, so it would be copied.
    fn new() -> Self {
        let grad = ArrayD::from_elem(IxDyn(&[2, 3]).f(), 1.0);
        let zeros = Dyn::zeros(IxDyn(&[2, 3]));
        Arrays { theta: &zeros + 0.5, grad, m: zeros.clone(), v: zeros }
    }
}

/// A change to the arguments, and the resulting message.
type Bad = (fn(&mut Arguments), &'static str);

struct Arguments {
    rule: AdamW,
    t: u64,
    options: StepOptions,
    arrays: Arrays,
    states: usize,
}

const TABLE: [Bad; 11] = [
    (
        |call| call.arrays.grad = Dyn::zeros(IxDyn(&[3, 2])),
        "`grad` of array `0` has shape [3, 2], expected [2, 3]",
    ),
    (
        |call| call.arrays.grad = Dyn::zeros(IxDyn(&[6])),
        "`grad` of array `0` has shape [6], expected [2, 3]",
    ),
    (
        // ndarray's own arithmetic would broadcast it.
        |call| call.arrays.grad = Dyn::zeros(IxDyn(&[3])),
        "`grad` of array `0` has shape [3], expected [2, 3]",
    ),
    (
        |call| call.arrays.m = Dyn::zeros(IxDyn(&[2, 2])),
        "`m` of array `0` has shape [2, 2], expected [2, 3]",
    ),
    (
        |call| call.arrays.v = Dyn::zeros(IxDyn(&[])),
        "`v` of array `0` has shape [], expected [2, 3]",
    ),
    (|call| call.states = 1, r#"state `v` is missing, expected the states `m`, `v`"#),
    (|call| call.states = 3, r#"3 states were given, expected the states `m`, `v`"#),
    (|call| call.t = 0, "step number `t` is 0, expected 1 for the first step"),
    (|call| call.rule.lr = -1.0, "`lr` is -1.0, expected a finite number of at least 0"),
    (
        |call| call.options.clip_value = Some(0.0),
        "`clip_value` is 0.0, expected a finite number above 0",
    ),
    (
        |call| {
            call.options.clip_norm = Some(ClipNorm::Two(1.0));
            call.arrays.grad.fill(f32::INFINITY);
        },
        "the gradients' norm is inf, expected a finite one to clip, or `skip_nonfinite`",
    ),
];

#[test]
fn bad_input_is_named_and_changes_nothing() {
    for (change, message) in TABLE {
        // With states that are used in place, and with states that are copied.
        for flip in [false, true] {
            let mut call = Arguments {
                rule: AdamW::default(),
                t: 1,
                options: StepOptions::default(),
                arrays: Arrays::new(),
                states: 2,
            };
            change(&mut call);
            let Arguments { rule, t, options, mut arrays, states } = call;
            if flip {
                arrays.m = arrays.m.as_standard_layout().reversed_axes().to_owned().reversed_axes();
            }
            let before = arrays.clone();
            let Arrays { theta, grad, m, v } = &mut arrays;
            let mut third = theta.clone();
            let mut all = [&mut **m, &mut **v, &mut *third];
            let error = step_with(&rule, t, &options, theta, grad, &mut all[..states]).unwrap_err();
            assert_eq!(error.to_string(), message);
            assert_eq!(arrays, before, "{message}");
        }
    }
}

/// The second array of a list has an error. The first has not changed.
#[test]
fn a_list_is_checked_before_the_first_of_it_is_written() {
    let rules = [AdamW::default()];
    let options = StepOptions::default();
    let (mut a, mut b) = (Arrays::new(), Arrays::new());
    b.grad = Dyn::zeros(IxDyn(&[1, 2, 3]));
    let before = (a.clone(), b.clone());
    let borrowed = |arrays: &mut Arrays, rule| {
        let Arrays { theta, grad, m, v } = arrays;
        let borrowed = ParamMut::new(rule, 1, theta, grad).with_state(m).with_state(v);
        step_all::<_, f32, f32, f32>(&rules, &options, [borrowed])
    };
    let no_group = borrowed(&mut a, 1).unwrap_err();
    assert_eq!(no_group.to_string(), "`rule` is 1, expected 0, an index of `rules`");
    {
        let [a, b] = [&mut a, &mut b].map(|Arrays { theta, grad, m, v }| {
            ParamMut::new(0, 1, theta, grad).with_state(m).with_state(v)
        });
        let error = step_all(&rules, &options, [a, b]).unwrap_err();
        let message = "`grad` of array `1` has shape [1, 2, 3], expected [2, 3]";
        assert_eq!(error.to_string(), message);
        let (given, expected) = (vec![1, 2, 3], vec![2, 3]);
        assert_eq!(error, Error::Shape { array: "1".into(), buffer: "grad", given, expected });
    }
    assert_eq!((a, b), before);
}

/// A step that is skipped because of its gradients changes nothing.
#[test]
fn a_skipped_step_writes_nothing() {
    let mut arrays = Arrays::new();
    arrays.grad[[1, 1]] = f32::NAN;
    let options = StepOptions { skip_nonfinite: true, ..StepOptions::default() };
    let before = arrays.clone();
    let Arrays { theta, grad, m, v } = &mut arrays;
    let states = &mut [&mut **m, &mut **v];
    let report = step_with(&AdamW::default(), 1, &options, theta, grad, states).unwrap();
    assert!(report.skipped);
    assert_eq!((arrays.theta, arrays.m, arrays.v), (before.theta, before.m, before.v));
}

/// Empty arrays and zero-dimensional arrays are valid.
#[test]
fn nothing_and_one_number_are_arrays_too() {
    let adamw = AdamW::default();
    for shape in [&[][..], &[0], &[3, 0, 2], &[1, 1, 1, 1, 1, 1]] {
        let mut theta = Dyn::ones(shape);
        let grad = Dyn::ones(shape);
        let (mut m, mut v) = (Dyn::zeros(shape), Dyn::zeros(shape));
        step(&adamw, 1, &mut theta, &grad, &mut [&mut m, &mut v]).unwrap();
        assert!(theta.iter().all(|x| *x < 1.0));
    }
    let none: [ParamMut<'_, f32, f32, f32>; 0] = [];
    step_all(&[adamw], &StepOptions::default(), none).unwrap();
}

/// The random bits of an element depend on its index in row-major order, whatever the memory order,
/// and on the seeds, as in the core.
#[test]
fn random_bits_belong_to_logical_places() {
    let options =
        StepOptions { rounding: Rounding::Stochastic { seed: 5 }, ..StepOptions::default() };
    let rules = [AdamW::default()];
    let values = |i: usize| bf16::from_f32(1.0 + i as f32 / 64.0);
    let rows = Array2::from_shape_fn((5, 7), |(i, j)| values(i * 7 + j));
    let mut flat: Vec<bf16> = rows.iter().copied().collect();
    let grad = flat.clone();
    let (mut m, mut v) = (vec![bf16::ZERO; 35], vec![bf16::ZERO; 35]);
    let borrowed =
        fused_adam_ndarray::fused_adam::ParamMut::new(0, 1, &mut flat, &grad).with_seed(9);
    core_step_all(&rules, &options, [borrowed.with_state(&mut m).with_state(&mut v)]).unwrap();

    let mut columns = Array2::from_elem((5, 7).f(), bf16::ZERO);
    columns.assign(&rows);
    columns.invert_axis(Axis(1));
    columns.invert_axis(Axis(0));
    let mut theta = columns.clone();
    theta.assign(&rows);
    let (mut m, mut v) = (theta.clone(), theta.clone());
    m.fill(bf16::ZERO);
    v.fill(bf16::ZERO);
    let borrowed =
        ParamMut::new(0, 1, &mut theta, &rows).with_seed(9).with_state(&mut m).with_state(&mut v);
    step_all(&rules, &options, [borrowed]).unwrap();
    assert_ne!(theta, rows);
    assert!(theta.iter().zip(&flat).all(|(x, wanted)| x.to_bits() == wanted.to_bits()));

    // Two shards of rows, each in its own step.
    let mut theta = rows.clone();
    let (mut m, mut v) = (rows.mapv(|_| bf16::ZERO), rows.mapv(|_| bf16::ZERO));
    for shard in [0..2_usize, 2..5] {
        let first = (shard.start * 7) as u64;
        let shard = s![shard, ..];
        let grad = rows.slice(shard);
        let (mut theta, mut m) = (theta.slice_mut(shard), m.slice_mut(shard));
        let mut v = v.slice_mut(shard);
        let borrowed = ParamMut::new(0, 1, &mut theta, &grad).with_seed(9).with_offset(first);
        step_all(&rules, &options, [borrowed.with_state(&mut m).with_state(&mut v)]).unwrap();
    }
    assert!(theta.iter().zip(&flat).all(|(x, wanted)| x.to_bits() == wanted.to_bits()));
}
