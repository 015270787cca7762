//! A step is bit-identical to the reference on each tensor alone, for any order, number of threads
//! and cuts.

use std::num::NonZeroUsize;

use fused_adam::{
    Adam, AdamW, Backend, ClipNorm, Element, GradNorm, GroupId, Lion, Optimizer, Parallelism,
    ParamId, Real, Rounding, Rule, Sgd, State, Step, StepOptions, Tensor, bf16, f16,
};
use proptest::prelude::*;

use crate::common::{Bits, Numbers, Random, difference};

/// One parameter of a model, with the reference's states for it.
trait Reference<R> {
    fn id(&self) -> ParamId;
    fn tensor(&mut self, random: &mut Random) -> Tensor<'_>;
    /// Adds the gradient of the next step.
    fn add_to(&self, norm: &mut GradNorm);
    /// Steps the copy with the backend `scalar` and the gradient of the last
    /// [`tensor`](Self::tensor).
    fn step_reference(&mut self, rule: &R, options: &Options);
    fn compare(&self, opt: &Optimizer<R>, rule: &R) -> Result<(), String>;
}

/// The options of a step of the references.
struct Options {
    /// The factor for the gradients: 1 divided by the loss scale, times the factor that clips the
    /// norm.
    factor: f64,
    clip_value: f64,
    seed: Option<u64>,
}

struct One<T, G, S> {
    id: ParamId,
    /// Whether to set the gradient to zero.
    zeroing: bool,
    theta: Vec<T>,
    grad: Vec<G>,
    reference: Vec<T>,
    twin_grad: Vec<G>,
    twin_states: Vec<Vec<S>>,
    t: u64,
    seed: u64,
}

impl<T, G, S> One<T, G, S>
where
    T: Bits,
    G: Bits + Element<Float = T::Float>,
    S: Bits + Element<Float = T::Float>,
{
    fn add<R: Rule + 'static>(
        opt: &mut Optimizer<R>,
        group: GroupId,
        (name, len): (&str, usize),
        random: &mut Random,
    ) -> Box<dyn Reference<R>> {
        let id = opt.add_mixed::<T, G, S>(group, name, len).unwrap();
        let theta: Vec<T> = Numbers::Ordinary.fill(random, len);
        let rule = opt.rule(group).unwrap();
        let filled = |i| vec![S::from_f64(rule.initial_state(i)); len];
        let twin_states = (0..rule.states().len()).map(filled).collect();
        Box::new(One {
            id,
            zeroing: random.below(2) == 0,
            reference: theta.clone(),
            theta,
            grad: vec![G::from_f64(0.0); len],
            twin_grad: vec![G::from_f64(0.0); len],
            twin_states,
            t: 0,
            seed: opt.seed(id, 0).unwrap(),
        })
    }
}

impl<R, T, G, S> Reference<R> for One<T, G, S>
where
    R: Rule,
    T: Bits,
    G: Bits + Element<Float = T::Float>,
    S: Bits + Element<Float = T::Float>,
{
    fn id(&self) -> ParamId {
        self.id
    }

    fn tensor(&mut self, random: &mut Random) -> Tensor<'_> {
        self.grad = Numbers::Ordinary.fill(random, self.theta.len());
        self.twin_grad.clone_from(&self.grad);
        if self.zeroing {
            Tensor::zero_grad(self.id, &mut self.theta, &mut self.grad)
        } else {
            Tensor::new(self.id, &mut self.theta, &self.grad)
        }
    }

    fn add_to(&self, norm: &mut GradNorm) {
        norm.add(&self.twin_grad);
    }

    /// Widens, scales and clips the gradient in separate passes.
    fn step_reference(&mut self, rule: &R, options: &Options) {
        self.t += 1;
        let [factor, bound] = [options.factor, options.clip_value].map(G::Float::from_f64);
        let mut grad: Vec<G::Float> = self.twin_grad.iter().map(|g| g.to_float()).collect();
        for g in &mut grad {
            *g = *g * factor;
        }
        for g in &mut grad {
            if *g > bound {
                *g = bound;
            }
            if *g < -bound {
                *g = -bound;
            }
        }
        let rounding = match options.seed {
            Some(seed) => Rounding::Stochastic { seed: seed ^ self.seed },
            None => Rounding::Nearest,
        };
        let mut states: Vec<&mut [S]> =
            self.twin_states.iter_mut().map(Vec::as_mut_slice).collect();
        Step::new(rule, self.t)
            .with_backend(Backend::Scalar)
            .with_parallelism(Parallelism::Serial)
            .with_rounding(rounding)
            .run_mixed(&mut self.reference, &grad, &mut states)
            .unwrap();
    }

    fn compare(&self, opt: &Optimizer<R>, rule: &R) -> Result<(), String> {
        let err = |difference: Option<String>| difference.map_or(Ok(()), Err);
        err(difference("theta", &self.theta, &self.reference))?;
        if opt.t(self.id) != Some(self.t) {
            return Err(format!("counted {:?} steps, not {}", opt.t(self.id), self.t));
        }
        for (name, reference) in rule.states().iter().map(State::name).zip(&self.twin_states) {
            match opt.state::<S>(self.id, name) {
                Some(state) => err(difference(name, state, reference))?,
                None if self.t == 0 => {}
                None => return Err(format!("no state {name}")),
            }
        }
        if self.zeroing && self.t > 0 && self.grad.iter().any(|g| g.to_f64() != 0.0) {
            return Err("a gradient was not set to zero".into());
        }
        Ok(())
    }
}

/// Adds a parameter with a random combination of types.
fn add<R: Rule + 'static>(
    opt: &mut Optimizer<R>,
    group: GroupId,
    of: (&str, usize),
    random: &mut Random,
) -> Box<dyn Reference<R>> {
    match random.below(7) {
        0 => One::<f64, f64, f64>::add(opt, group, of, random),
        1 => One::<bf16, bf16, bf16>::add(opt, group, of, random),
        2 => One::<bf16, bf16, f32>::add(opt, group, of, random),
        3 => One::<f32, bf16, f32>::add(opt, group, of, random),
        4 => One::<f16, f32, bf16>::add(opt, group, of, random),
        _ => One::<f32, f32, f32>::add(opt, group, of, random),
    }
}

/// Takes random steps on a model of random tensors, some of them frozen in each step, and compares
/// with references that the reference steps separately.
fn run<R: Rule + 'static>(
    rules: [R; 2],
    seed: u64,
    order: u64,
    options: StepOptions,
    grad_scale: f64,
) -> Result<Vec<u64>, String> {
    let random = &mut Random(seed);
    let mut opt = Optimizer::new(rules[0].clone()).unwrap();
    let second = opt.add_group(rules[1].clone()).unwrap();
    opt.options = options;
    opt.grad_scaler =
        (grad_scale != 1.0).then(|| fused_adam::GradScaler::constant(1.0 / grad_scale));
    let lens: Vec<usize> = (0..1 + random.below(20))
        .map(|_| match random.below(4) {
            0 => random.below(40),
            1 => 1 << random.below(10),
            2 => 1000 + random.below(2000),
            _ => random.below(20_000),
        })
        .collect();
    // Registered in an order that must have no effect.
    let mut parts: Vec<usize> = (0..lens.len()).collect();
    let shuffle = &mut Random(order);
    for i in (1..parts.len()).rev() {
        parts.swap(i, shuffle.below(i + 1));
    }
    let mut references: Vec<_> = parts
        .iter()
        .map(|&i| {
            let random = &mut Random(seed ^ i as u64);
            let group = i % 2;
            let id = if group == 0 { GroupId::default() } else { second };
            (i, group, add(&mut opt, id, (&format!("p{i}"), lens[i]), random))
        })
        .collect();
    let mut twin_options = Options {
        factor: grad_scale,
        clip_value: options.clip_value.unwrap_or(f64::INFINITY),
        seed: match options.rounding {
            Rounding::Stochastic { seed } => Some(seed),
            _ => None,
        },
    };
    for step in 0..4_u64 {
        let active = |i: usize| !(i as u64 * 7 + step + seed).is_multiple_of(3);
        let of = |i: usize| Random(seed ^ (i as u64) << 8 ^ step << 32);
        let mut tensors: Vec<_> = references
            .iter_mut()
            .filter(|(i, ..)| active(*i))
            .map(|(i, _, reference)| reference.tensor(&mut of(*i)))
            .collect();
        let turn = shuffle.below(tensors.len().max(1));
        tensors.rotate_left(turn);
        opt.step(tensors).map_err(|error| error.to_string())?;
        let mut norm = GradNorm::new();
        for (.., reference) in references.iter().filter(|(i, ..)| active(*i)) {
            reference.add_to(&mut norm);
        }
        let (norm, bound) = match options.clip_norm {
            Some(ClipNorm::Two(bound)) => (norm.two_norm() * grad_scale, bound),
            Some(ClipNorm::Inf(bound)) => (norm.inf_norm() * grad_scale, bound),
            None => (0.0, 0.0),
        };
        twin_options.factor = grad_scale * if norm > bound { bound / norm } else { 1.0 };
        for (i, group, reference) in &mut references {
            if active(*i) {
                reference.step_reference(&rules[*group], &twin_options);
            }
        }
    }
    for (_, group, reference) in &references {
        reference.compare(&opt, &rules[*group])?;
    }
    Ok(references.iter().map(|(.., reference)| opt.t(reference.id()).unwrap()).collect())
}

fn options() -> impl Strategy<Value = StepOptions> {
    let parallelism = prop_oneof![
        Just(Parallelism::Serial),
        Just(Parallelism::Auto),
        (1..3000_usize).prop_map(chunks),
    ];
    let clip_value = prop_oneof![Just(None), Just(Some(0.25))];
    // Far below the norm of most models, far above it, and of the magnitude of the norm of 2 × 10⁴
    // elements.
    let clip_norm = prop_oneof![
        Just(None),
        (-2..5_i32).prop_map(|power| Some(ClipNorm::Two(10_f64.powi(power)))),
        Just(Some(ClipNorm::Inf(0.3))),
    ];
    let backend = prop_oneof![Just(Backend::Auto), Just(Backend::Wide), Just(Backend::Scalar)];
    let rounding = prop_oneof![
        Just(Rounding::Nearest),
        any::<u64>().prop_map(|seed| Rounding::Stochastic { seed })
    ];
    (parallelism, clip_value, clip_norm, backend, rounding, any::<bool>()).prop_map(
        |(parallelism, clip_value, clip_norm, backend, rounding, report_largest_update)| {
            StepOptions {
                parallelism,
                clip_value,
                clip_norm,
                backend,
                rounding,
                report_largest_update,
                ..StepOptions::default()
            }
        },
    )
}

#[cfg(feature = "parallel")]
pub fn chunks(chunk: usize) -> Parallelism {
    Parallelism::Chunks(NonZeroUsize::new(chunk).unwrap())
}

#[cfg(not(feature = "parallel"))]
pub fn chunks(chunk: usize) -> Parallelism {
    let _ = NonZeroUsize::new(chunk);
    Parallelism::Serial
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 32,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn equals_each_tensor_alone(
        seed: u64,
        order: u64,
        options in options(),
        scale in prop_oneof![Just(1.0), Just(0.125), Just(1.0 / 3.0)],
    ) {
        let decay = AdamW { lr: 0.01, ..AdamW::default() };
        let plain = AdamW { lr: 0.1, weight_decay: 0.0, amsgrad: true, ..AdamW::default() };
        let results = [
            run([decay, plain], seed, order, options, scale),
            run(
                [Lion::default(), Lion { lr: 1e-3, ..Lion::default() }],
                seed, order, options, scale,
            ),
            run(
                [Sgd::default(), Sgd { momentum: 0.9, ..Sgd::default() }],
                seed, order, options, scale,
            ),
        ];
        for result in results {
            prop_assert!(result.is_ok(), "{result:?}");
        }
    }
}

/// A step with a clipped norm is bit-identical to a step whose gradient is scaled by the reported
/// factor.
#[test]
fn clipping_is_a_scaled_step() {
    let mut opt = Optimizer::new(Adam::default()).unwrap();
    let ids = [5_000, 300_000, 7]
        .map(|len| (opt.add::<f32>(GroupId::default(), &len.to_string(), len).unwrap(), len));
    opt.options.clip_norm = Some(ClipNorm::Two(0.7));
    let random = &mut Random(3);
    let mut theta = ids.map(|(_, len)| Numbers::Ordinary.fill::<f32>(random, len));
    let grad = ids.map(|(_, len)| Numbers::Ordinary.fill::<f32>(random, len));
    let mut reference = theta.clone();
    let tensors = ids.iter().zip(&mut theta).zip(&grad);
    let report = opt.step(tensors.map(|(((id, _), t), g)| Tensor::new(*id, t, g))).unwrap();
    let sum: f64 = grad.iter().flatten().map(|&g| f64::from(g) * f64::from(g)).sum();
    assert!((report.grad_norm.unwrap() / sum.sqrt() - 1.0).abs() < 1e-12);
    assert_eq!(report.clip_factor, 0.7 / report.grad_norm.unwrap());
    for ((theta, reference), grad) in theta.iter().zip(&mut reference).zip(&grad) {
        let (mut m, mut v) = (vec![0.0; reference.len()], vec![0.0; reference.len()]);
        Step::new(&Adam::default(), 1)
            .with_backend(Backend::Scalar)
            .with_grad_scale(report.clip_factor)
            .run(reference, grad, &mut [&mut m, &mut v])
            .unwrap();
        assert_eq!(difference("theta", theta, reference), None);
    }
}

/// A name and an id identify the same parameter, and parameters can be added later.
#[test]
fn by_name_and_later() {
    let mut opt = Optimizer::new(AdamW::default()).unwrap();
    opt.add::<f32>(GroupId::default(), "a", 3).unwrap();
    let (mut a, mut b) = ([1.0_f32; 3], [1.0_f32; 3]);
    opt.step([Tensor::new("a", &mut a, &[1.0_f32; 3])]).unwrap();
    let id = opt.add::<f32>(GroupId::default(), "b", 3).unwrap();
    opt.step([Tensor::new("a", &mut a, &[1.0_f32; 3]), Tensor::new("b", &mut b, &[1.0_f32; 3])])
        .unwrap();
    assert_eq!((opt.id("b"), opt.t(id), opt.steps()), (Some(id), Some(1), 2));
    assert_eq!(opt.names().collect::<Vec<_>>(), ["a", "b"]);
}

/// Master weights: the copy is the new θ, rounded.
#[test]
fn copies_of_the_new_theta() {
    fn check<H: fused_adam::Half>() {
        let mut opt = Optimizer::new(AdamW::default()).unwrap();
        opt.options.parallelism = chunks(1000);
        let id = opt.add::<f32>(GroupId::default(), "w", 70_000).unwrap();
        let mut theta: Vec<f32> = Numbers::Ordinary.fill(&mut Random(1), 70_000);
        let grad: Vec<bf16> = Numbers::Ordinary.fill(&mut Random(2), 70_000);
        let mut copy = vec![H::from_f64(0.0); 70_000];
        opt.step([Tensor::new(id, &mut theta, &grad).with_copy(&mut copy)]).unwrap();
        assert!(theta.iter().zip(&copy).all(|(&theta, &copy)| H::from_float(theta) == copy));
    }
    check::<bf16>();
    check::<f16>();
}
