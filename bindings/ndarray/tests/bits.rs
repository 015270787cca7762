//! A step on arrays with any layout is bit-identical to the core's scalar reference on contiguous
//! copies of them, and writes nothing besides their elements.

use std::fmt::Debug;

use fused_adam_ndarray::fused_adam::{
    AdamW, Backend, Element, Parallelism, Rounding, Rule, Sgd, Step, StepOptions, bf16, bytemuck,
    f16,
};
use fused_adam_ndarray::step_with;
use ndarray::{ArrayD, ArrayViewD, ArrayViewMutD, Axis, Slice};
use proptest::prelude::*;

/// The layout of an array inside a larger array.
#[derive(Clone, Debug)]
struct Layout {
    /// The axes from the slowest to the fastest.
    order: Vec<usize>,
    /// The step of each axis, in that order. 0 broadcasts its one element.
    steps: Vec<isize>,
    /// The number of elements around it, on both sides of each axis.
    margin: usize,
}

/// An array with a layout, in a larger array whose other elements are canaries.
#[derive(Clone)]
struct LaidOut<T> {
    around: ArrayD<T>,
    shape: Vec<usize>,
    layout: Layout,
}

impl<T: Element> LaidOut<T> {
    /// Random values, uniform in ±1 or non-negative.
    fn new(shape: &[usize], layout: &Layout, seed: u64, positive: bool) -> Self {
        let margin = layout.margin;
        let extents: Vec<usize> = (layout.order.iter().zip(&layout.steps))
            .map(|(&axis, step)| 2 * margin + extent(shape[axis], *step))
            .collect();
        let mut random = seed;
        let canary = T::from_f64(-12345.0);
        let around = ArrayD::from_elem(extents, canary);
        let mut laid = LaidOut { around, shape: shape.to_vec(), layout: layout.clone() };
        laid.elements().iter_mut().for_each(|x| {
            let uniform = uniform(&mut random);
            *x = T::from_f64(if positive { uniform.abs() } else { uniform });
        });
        laid
    }

    /// Its own elements. A broadcast axis has one.
    fn elements(&mut self) -> ArrayViewMutD<'_, T> {
        let LaidOut { around, shape, layout: Layout { order, steps, margin } } = self;
        let mut view = around.view_mut();
        let mut places = vec![0; order.len()];
        for (place, (&axis, &step)) in order.iter().zip(&*steps).enumerate() {
            let end = *margin + extent(shape[axis], step);
            let step = if step == 0 { 1 } else { step };
            let slice = Slice::new(*margin as isize, Some(end as isize), step);
            view.slice_axis_inplace(Axis(place), slice);
            places[axis] = place;
        }
        view.permuted_axes(places)
    }

    fn logical(&mut self) -> Vec<T> {
        let shape = self.shape.clone();
        self.elements().broadcast(shape).unwrap().iter().copied().collect()
    }

    /// Sets the elements, in logical order.
    fn set(&mut self, elements: &[T]) {
        self.elements().iter_mut().zip(elements).for_each(|(x, new)| *x = *new);
    }
}

/// The length of an axis in the larger array.
fn extent(len: usize, step: isize) -> usize {
    match (len, step) {
        (0, _) => 0,
        (_, 0) => 1,
        (len, step) => (len - 1) * step.unsigned_abs() + 1,
    }
}

/// SplitMix64, within ±1.
fn uniform(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
}

/// A step that is taken twice.
#[derive(Clone, Debug)]
struct Case {
    shape: Vec<usize>,
    theta: Layout,
    grad: Layout,
    /// The layouts of three states. A rule with fewer states uses the first ones.
    states: Vec<Layout>,
    t: u64,
    seed: u64,
    rounding: Rounding,
    parallelism: Parallelism,
}

fn raw<T: Element>(array: &ArrayD<T>) -> &[u8] {
    bytemuck::cast_slice(array.as_slice().unwrap())
}

impl Case {
    fn run<R: Rule + Debug, T, G, S>(&self, rule: &R)
    where
        T: Element,
        G: Element<Float = T::Float>,
        S: Element<Float = T::Float>,
    {
        let mut theta = LaidOut::<T>::new(&self.shape, &self.theta, self.seed, false);
        let mut grad = LaidOut::<G>::new(&self.shape, &self.grad, self.seed ^ 1, false);
        let count = rule.states().len();
        let mut states: Vec<LaidOut<S>> = (self.states[..count].iter().zip(2..))
            .map(|(layout, n)| LaidOut::new(&self.shape, layout, self.seed ^ n, true))
            .collect();

        let (mut theta_wanted, mut states_wanted) = (theta.clone(), states.clone());
        let mut flat = theta.logical();
        let mut flat_states: Vec<Vec<S>> = states.iter_mut().map(LaidOut::logical).collect();
        let mut slices: Vec<&mut [S]> = flat_states.iter_mut().map(Vec::as_mut_slice).collect();
        Step::new(rule, self.t)
            .with_backend(Backend::Scalar)
            .with_parallelism(Parallelism::Serial)
            .with_rounding(self.rounding)
            .run_mixed(&mut flat, &grad.logical(), &mut slices)
            .unwrap();
        theta_wanted.set(&flat);
        states_wanted.iter_mut().zip(&flat_states).for_each(|(state, flat)| state.set(flat));

        let grad_before = grad.around.clone();
        let options = StepOptions {
            rounding: self.rounding,
            parallelism: self.parallelism,
            ..StepOptions::default()
        };
        {
            let mut views: Vec<_> = states.iter_mut().map(LaidOut::elements).collect();
            let mut views: Vec<_> = views.iter_mut().map(|view| &mut **view).collect();
            let elements = grad.elements();
            let grad: ArrayViewD<'_, G> = elements.broadcast(self.shape.as_slice()).unwrap();
            step_with(rule, self.t, &options, &mut theta.elements(), &grad, &mut views).unwrap();
        }
        // Compares the whole larger arrays, including canaries.
        assert_eq!(raw(&theta.around), raw(&theta_wanted.around), "theta, {rule:?}");
        assert_eq!(raw(&grad.around), raw(&grad_before), "grad, {rule:?}");
        for (state, wanted) in states.iter().zip(&states_wanted) {
            assert_eq!(raw(&state.around), raw(&wanted.around), "states, {rule:?}");
        }
    }

    fn run_types<R: Rule + Debug>(&self, rule: &R, types: usize) {
        match types {
            0 => self.run::<R, f32, f32, f32>(rule),
            1 => self.run::<R, f64, f64, f64>(rule),
            2 => self.run::<R, bf16, bf16, bf16>(rule),
            3 => self.run::<R, bf16, bf16, f32>(rule),
            4 => self.run::<R, f32, bf16, f32>(rule),
            5 => self.run::<R, f16, f16, f16>(rule),
            _ => self.run::<R, f32, f16, bf16>(rule),
        }
    }

    /// Rules with zero, one, two and three states.
    fn run_rules(&self, types: usize) {
        let decay = 0.01;
        self.run_types(&Sgd { weight_decay: decay, ..Sgd::default() }, types);
        self.run_types(&Sgd { momentum: 0.9, ..Sgd::default() }, types);
        self.run_types(&AdamW { lr: 1e-2, ..AdamW::default() }, types);
        self.run_types(&AdamW { amsgrad: true, ..AdamW::default() }, types);
    }
}

const TYPES: usize = 7;

const SCHEDULES: &[Parallelism] = &[
    Parallelism::Auto,
    Parallelism::Serial,
    #[cfg(feature = "parallel")]
    Parallelism::Chunks(std::num::NonZeroUsize::new(5).unwrap()),
];

fn layout(dims: usize, may_broadcast: bool) -> impl Strategy<Value = Layout> {
    let order = Just((0..dims).collect::<Vec<usize>>()).prop_shuffle();
    let order = prop_oneof![Just((0..dims).collect::<Vec<usize>>()), order];
    let zero = if may_broadcast { 0 } else { 1 };
    let step =
        prop_oneof![6 => Just(1), 3 => Just(-1), 1 => Just(2), 1 => Just(-3), 1 => Just(zero)];
    let steps = prop_oneof![
        2 => Just(vec![1; dims]),
        3 => prop::collection::vec(step, dims),
    ];
    (order, steps, prop_oneof![3 => Just(0_usize), 1 => 1..3_usize])
        .prop_map(|(order, steps, margin)| Layout { order, steps, margin })
}

/// The layouts of θ, the gradient and three states, which are often the same.
fn layouts(dims: usize) -> impl Strategy<Value = (Layout, Layout, Vec<Layout>)> {
    let other = (layout(dims, true), prop::collection::vec(layout(dims, false), 3));
    (layout(dims, false), other, 0..4_u8).prop_map(|(theta, (grad, states), alike)| match alike {
        0 => (theta.clone(), theta.clone(), vec![theta; 3]),
        1 => (theta.clone(), grad, vec![theta; 3]),
        _ => (theta, grad, states),
    })
}

fn case() -> impl Strategy<Value = Case> {
    let len = prop_oneof![1 => Just(0_usize), 2 => Just(1), 12 => 2..8_usize];
    let shape = prop::collection::vec(len, 0..=4);
    let rounding = prop_oneof![
        Just(Rounding::Nearest),
        any::<u64>().prop_map(|seed| Rounding::Stochastic { seed })
    ];
    let parallelism = prop::sample::select(SCHEDULES);
    let rest = (1..1000_u64, any::<u64>(), rounding, parallelism);
    (shape, rest)
        .prop_flat_map(|(shape, rest)| (layouts(shape.len()), Just(shape), Just(rest)))
        .prop_map(|((theta, grad, states), shape, (t, seed, rounding, parallelism))| Case {
            shape,
            theta,
            grad,
            states,
            t,
            seed,
            rounding,
            parallelism,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn any_layout_gives_the_bits_of_contiguous_copies(case in case(), types in 0..TYPES) {
        case.run_rules(types);
    }
}

/// Arrays of many tiles, which several threads copy.
#[test]
fn large_arrays_are_copied_tile_by_tile() {
    for (shape, order) in [
        (vec![517, 259], vec![1, 0]),
        (vec![7, 3, 5001], vec![2, 0, 1]),
        (vec![33, 1, 40, 65], vec![1, 3, 2, 0]),
        (vec![100_003], vec![0]),
    ] {
        let dims = shape.len();
        let rows = Layout { order: (0..dims).collect(), steps: vec![1; dims], margin: 0 };
        let other = Layout { order, ..rows.clone() };
        let backwards = Layout { steps: vec![-1; dims], ..other.clone() };
        let gaps = Layout { steps: vec![-2; dims], margin: 1, ..rows.clone() };
        for (theta, grad) in [(&rows, &other), (&other, &rows), (&gaps, &backwards)] {
            for (types, rounding) in [
                (0, Rounding::Nearest),
                (2, Rounding::Stochastic { seed: 3 }),
                (3, Rounding::Nearest),
            ] {
                Case {
                    shape: shape.clone(),
                    theta: theta.clone(),
                    grad: grad.clone(),
                    states: vec![theta.clone(), other.clone(), gaps.clone()],
                    t: 7,
                    seed: 11,
                    rounding,
                    parallelism: Parallelism::Auto,
                }
                .run_rules(types);
            }
        }
    }
}
