//! Owners of many tensors, and parts of tensors, get the bits of one step.

#![expect(clippy::single_range_in_vec_init, reason = "a dimension of a shard has a list of ranges")]

use fused_adam::{
    AdaGrad, AdamW, Backend, Block8, Element, Error, Flat, GroupId, Optimizer, Parallelism,
    ParamMut, Report, Rounding, Rule, Shard, State, Step, StepOptions, Tensor, bf16, f16, step_all,
};

use super::{Format, Place};
use crate::common::{Bits, Numbers, Random, difference};

/// The states before the first step.
fn initial<R: Rule>(rule: &R, len: usize) -> Vec<Vec<Block8>> {
    let fresh = |(i, of): (usize, &State)| match rule.initial_state(i) {
        0.0 => vec![[0; 33]; len.div_ceil(32)],
        value => Format::new(*of).encode(&vec![value as f32; len]),
    };
    rule.states().iter().enumerate().map(fresh).collect()
}

/// An initial value is encoded, also in a last block that is not whole.
#[test]
fn initial_values_are_encoded() {
    for initial_accumulator_value in [0.1, 1e-30, 1e30] {
        let rule = AdaGrad { initial_accumulator_value, ..AdaGrad::default() };
        for len in [0, 1, 31, 32, 33, 1000] {
            let opt = Flat::<_, Block8>::new(rule, len).unwrap();
            let (_, _, states, _) = opt.into_parts();
            assert_eq!(states, initial(&rule, len), "{len}");
        }
    }
}

/// Where and how an owner steps.
fn options() -> Vec<StepOptions> {
    #[cfg(feature = "parallel")]
    let chunks = [1, 40, 1000].map(|n| Parallelism::Chunks(n.try_into().unwrap()));
    #[cfg(not(feature = "parallel"))]
    let chunks = [Parallelism::Auto];
    let parallelisms = chunks.into_iter().chain([Parallelism::Serial]);
    let all = parallelisms.flat_map(|parallelism| {
        let rounding = [Rounding::Nearest, Rounding::Stochastic { seed: 77 }];
        let of = move |rounding| {
            [false, true].map(|report_largest_update| StepOptions {
                parallelism,
                rounding,
                report_largest_update,
                ..StepOptions::default()
            })
        };
        rounding.into_iter().flat_map(of)
    });
    all.collect()
}

/// Takes a step in a pool of three threads.
fn on_threads(step: impl FnOnce() -> Result<Report, Error> + Send) {
    #[cfg(feature = "parallel")]
    let report = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap().install(step);
    #[cfg(not(feature = "parallel"))]
    let report = step();
    report.unwrap();
}

fn slices(states: &mut [Vec<Block8>]) -> Vec<&mut [Block8]> {
    states.iter_mut().map(Vec::as_mut_slice).collect()
}

const LENS: [usize; 9] = [0, 1, 31, 32, 33, 64, 100, 2000, 5000];

/// Three steps of an optimizer, and of `step_all`, have the bits of steps on slices with the seed
/// of the tensor: in pieces, while the gradient is set to zero, and while the change of θ is
/// measured.
fn owners_give_the_bits_of_steps<T, G, R>(rule: R)
where
    T: Bits + Element<Float = f32>,
    G: Bits + Element<Float = f32>,
    R: Rule,
{
    for options in options() {
        let mut opt = Optimizer::new(rule.clone()).unwrap();
        opt.options = options;
        let mut random = Random(12);
        let mut tensors = LENS.map(|len| {
            let name = format!("of {len}");
            let id = opt.add_mixed::<T, G, Block8>(GroupId::default(), &name, len).unwrap();
            let theta: Vec<T> = Numbers::Ordinary.fill(&mut random, len);
            (id, theta, Vec::<G>::new())
        });
        let mut others = LENS.map(|len| (Vec::<T>::new(), initial(&rule, len)));
        let mut alone = LENS.map(|len| (Vec::<T>::new(), initial(&rule, len)));
        for (((_, theta, _), (other, _)), (alone, _)) in
            tensors.iter().zip(&mut others).zip(&mut alone)
        {
            other.clone_from(theta);
            alone.clone_from(theta);
        }
        for t in 1..=3 {
            for ((_, theta, grad), (alone, states)) in tensors.iter_mut().zip(&mut alone) {
                *grad = Numbers::Ordinary.fill(&mut random, theta.len());
                let own = opt.seed(opt.id(&format!("of {}", theta.len())).unwrap(), 0).unwrap();
                Step::new(&rule, t)
                    .with_backend(Backend::Scalar)
                    .with_rounding(options.rounding)
                    .with_seed(own)
                    .run_mixed(alone, grad, &mut slices(states))
                    .unwrap();
            }
            let borrowed =
                tensors.iter().zip(&mut others).map(|((id, _, grad), (theta, states))| {
                    let param =
                        ParamMut::new(0, t, theta, grad).with_seed(opt.seed(*id, 0).unwrap());
                    states.iter_mut().fold(param, |param, state| param.with_state(state))
                });
            let borrowed: Vec<ParamMut<'_>> = borrowed.collect();
            let rules = [rule.clone()];
            on_threads(|| step_all(&rules, &options, borrowed));
            let owned: Vec<Tensor<'_>> = (tensors.iter_mut().enumerate())
                .map(|(i, (id, theta, grad))| match i % 2 {
                    0 => Tensor::new(*id, theta, grad),
                    _ => Tensor::zero_grad(*id, theta, grad),
                })
                .collect();
            on_threads(|| opt.step(owned));
        }
        for (((id, theta, _), (other, other_states)), (alone, states)) in
            tensors.iter().zip(&others).zip(&alone)
        {
            let place = format!("{} elements, {options:?}", theta.len());
            assert_eq!(difference("theta", theta, alone), None, "optimizer, {place}");
            assert_eq!(difference("theta", other, alone), None, "step_all, {place}");
            for ((declared, other), state) in rule.states().iter().zip(other_states).zip(states) {
                let name = declared.name();
                let own = opt.state::<Block8>(*id, name).unwrap();
                assert_eq!(difference(name, own, state), None, "optimizer, {place}");
                assert_eq!(difference(name, other, state), None, "step_all, {place}");
            }
        }
    }
}

/// A parameter without elements has states without blocks, and takes its step.
#[test]
fn an_empty_parameter_takes_its_step() {
    let mut opt = Optimizer::new(AdamW::default()).unwrap();
    let id = opt.add_mixed::<f32, f32, Block8>(GroupId::default(), "w", 0).unwrap();
    opt.step([Tensor::new(id, &mut [0.0_f32; 0], &[0.0_f32; 0])]).unwrap();
    assert!(opt.t(id) == Some(1) && opt.state::<Block8>(id, "v").is_some_and(|v| v.is_empty()));
}

#[test]
fn owners_of_f32_parameters() {
    let amsgrad = AdamW { amsgrad: true, ..AdamW::default() };
    owners_give_the_bits_of_steps::<f32, f32, _>(amsgrad);
    owners_give_the_bits_of_steps::<f32, bf16, _>(amsgrad);
}

#[test]
fn owners_of_16_bit_parameters() {
    owners_give_the_bits_of_steps::<bf16, bf16, _>(AdamW::default());
    owners_give_the_bits_of_steps::<f16, f32, _>(AdamW::default());
}

#[test]
fn owners_of_states_with_an_initial_value() {
    let rule = AdaGrad { initial_accumulator_value: 0.1, ..AdaGrad::default() };
    owners_give_the_bits_of_steps::<f32, f32, _>(rule);
}

/// A part whose runs are whole blocks gets the bits of the whole tensor, from an optimizer and from
/// `step_all`: some columns of a matrix, some ranges with the end of the tensor, and one range.
#[test]
fn parts_get_the_bits_of_the_whole() {
    let matrix = |columns: &[std::ops::Range<u64>]| {
        Place::Shard(Shard::new(&[6, 128], &[&[0..2, 3..6], columns]).unwrap())
    };
    let ends = Shard::new(&[5 * 32 + 17], &[&[32..64, 128..177]]).unwrap();
    let every_place: [(Place, usize, Vec<usize>); 5] = [
        (
            matrix(&[32..96]),
            6 * 128,
            [0, 1, 3, 4, 5].iter().flat_map(|row| [4 * row + 1, 4 * row + 2]).collect(),
        ),
        (
            matrix(&[0..32, 96..128]),
            6 * 128,
            [0, 1, 3, 4, 5].iter().flat_map(|row| [4 * row, 4 * row + 3]).collect(),
        ),
        (matrix(&[0..128]), 6 * 128, (0..8).chain(12..24).collect()),
        (Place::Shard(ends), 177, vec![1, 4, 5]),
        (Place::Offset(96), 177, vec![3, 4, 5]),
    ];
    let rule = AdamW::default();
    for (place, len, blocks) in &every_place {
        for options in options() {
            let part = |whole: &[f32]| -> Vec<f32> {
                blocks
                    .iter()
                    .flat_map(|i| &whole[32 * i..(*len).min(32 * (i + 1))])
                    .copied()
                    .collect()
            };
            let mut random = Random(13);
            let mut whole: Vec<f32> = Numbers::Ordinary.fill(&mut random, *len);
            let mut whole_states = initial(&rule, *len);
            let mut theta = part(&whole);
            let (mut other, mut other_states) = (theta.clone(), initial(&rule, theta.len()));
            let mut opt = Optimizer::new(rule).unwrap();
            opt.options = options;
            let id =
                opt.add_mixed::<f32, f32, Block8>(GroupId::default(), "w", theta.len()).unwrap();
            let seed = opt.seed(id, 0).unwrap();
            for t in 1..=3 {
                let grad: Vec<f32> = Numbers::Ordinary.fill(&mut random, *len);
                Step::new(&rule, t)
                    .with_rounding(options.rounding)
                    .with_seed(seed)
                    .run_mixed(&mut whole, &grad, &mut slices(&mut whole_states))
                    .unwrap();
                let grad = part(&grad);
                let tensor = place.tensor(Tensor::new(id, &mut theta, &grad));
                on_threads(|| opt.step([tensor]));
                let param = ParamMut::new(0, t, &mut other, &grad).with_seed(seed);
                let param =
                    other_states.iter_mut().fold(param, |param, state| param.with_state(state));
                let param = place.param(param);
                on_threads(|| step_all(&[rule], &options, [param]));
            }
            assert_eq!(difference("theta", &theta, &part(&whole)), None, "{options:?}");
            assert_eq!(difference("theta", &other, &part(&whole)), None, "{options:?}");
            for (i, name) in ["m", "v"].into_iter().enumerate() {
                let of_part: Vec<Block8> =
                    blocks.iter().map(|block| whole_states[i][*block]).collect();
                let own = opt.state::<Block8>(id, name).unwrap();
                assert_eq!(difference(name, own, &of_part), None, "{options:?}");
                assert_eq!(difference(name, &other_states[i], &of_part), None, "{options:?}");
            }
        }
    }
}
