//! Steps of many tensors whose states the caller stores: bit-identical to separate steps. Also
//! errors.

use fused_adam::{
    AdamW, Backend, Element, Error, Parallelism, ParamMut, Rounding, Sgd, Step, StepOptions, bf16,
    f16, step_all,
};
use proptest::prelude::*;

use crate::common::{Bits, Numbers, Random, difference};
use crate::equality::chunks;

const SEED: u64 = 5;

/// θ, g, m and v of one tensor, twice.
struct One<T, G, S> {
    rule: usize,
    t: u64,
    theta: Vec<T>,
    grad: Vec<G>,
    states: [Vec<S>; 2],
}

trait Reference {
    fn reborrow(&mut self) -> ParamMut<'_>;
    fn step_alone(&mut self, rules: &[AdamW], options: &StepOptions);
    fn compare(&self, other: &dyn Reference) -> Option<String>;
    fn bits(&self) -> Vec<Vec<u64>>;
}

impl<T, G, S> Reference for One<T, G, S>
where
    T: Bits,
    G: Bits + Element<Float = T::Float>,
    S: Bits + Element<Float = T::Float>,
{
    fn reborrow(&mut self) -> ParamMut<'_> {
        let [m, v] = &mut self.states;
        let borrowed = ParamMut::new(self.rule, self.t, &mut self.theta, &self.grad)
            .with_state(m)
            .with_state(v);
        borrowed.with_seed(self.t).with_offset(offset(self.t))
    }

    fn step_alone(&mut self, rules: &[AdamW], options: &StepOptions) {
        let rounding = match options.rounding {
            Rounding::Stochastic { seed } => Rounding::Stochastic { seed: seed ^ self.t },
            nearest => nearest,
        };
        let [m, v] = &mut self.states;
        Step::new(&rules[self.rule], self.t)
            .with_backend(Backend::Scalar)
            .with_parallelism(Parallelism::Serial)
            .with_rounding(rounding)
            .with_offset(offset(self.t))
            .with_grad_scale(options.grad_scale)
            .run_mixed(&mut self.theta, &self.grad, &mut [m, v])
            .unwrap();
    }

    fn compare(&self, other: &dyn Reference) -> Option<String> {
        let pairs = self.bits().into_iter().zip(other.bits());
        pairs.zip(["theta", "m", "v"]).find_map(|((own, other), name)| {
            let differs = own.iter().zip(&other).position(|(own, other)| own != other)?;
            Some(format!("{name}[{differs}] of {} elements", own.len()))
        })
    }

    fn bits(&self) -> Vec<Vec<u64>> {
        let bits = |buffer: &[S]| buffer.iter().map(|x| x.bits()).collect();
        let theta = self.theta.iter().map(|x| x.bits()).collect();
        [theta].into_iter().chain(self.states.iter().map(|state| bits(state))).collect()
    }
}

/// Some are the first part of a tensor, others a later one, or one whose indices wrap around.
fn offset(t: u64) -> u64 {
    [0, 1 << 33, u64::MAX - 70][t as usize % 3]
}

/// The same tensor twice.
fn references<T, G, S>(random: &mut Random, len: usize) -> [Box<dyn Reference>; 2]
where
    T: Bits,
    G: Bits + Element<Float = T::Float>,
    S: Bits + Element<Float = T::Float>,
{
    let (rule, t) = (random.below(2), 1 + random.below(3) as u64);
    let theta: Vec<T> = Numbers::Ordinary.fill(random, len);
    let grad: Vec<G> = Numbers::Ordinary.fill(random, len);
    let m: Vec<S> = Numbers::Ordinary.fill(random, len);
    let v: Vec<S> = m.iter().map(|x| S::from_f64(x.to_f64().abs())).collect();
    [(); 2].map(|()| {
        let (theta, grad, states) = (theta.clone(), grad.clone(), [m.clone(), v.clone()]);
        Box::new(One { rule, t, theta, grad, states }) as Box<dyn Reference>
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn gives_the_bits_of_each_tensor_alone(seed: u64, stochastic: bool, serial: bool) {
        let random = &mut Random(seed);
        let rules = [
            AdamW { lr: 0.1, ..AdamW::default() },
            AdamW { weight_decay: 0.0, ..AdamW::default() },
        ];
        let options = StepOptions {
            grad_scale: 0.37,
            parallelism: if serial { Parallelism::Serial } else { chunks(64) },
            rounding: match stochastic {
                true => Rounding::Stochastic { seed: SEED },
                false => Rounding::Nearest,
            },
            ..StepOptions::default()
        };
        let (mut borrowed, mut alone) = (Vec::new(), Vec::new());
        for _ in 0..1 + random.below(12) {
            let len = random.below(400);
            let [one, reference] = match random.below(8) {
                0 => references::<f32, f32, f32>(random, len),
                1 => references::<f64, f64, f64>(random, len),
                2 => references::<bf16, bf16, bf16>(random, len),
                3 => references::<bf16, bf16, f32>(random, len),
                4 => references::<f32, bf16, f32>(random, len),
                5 => references::<f16, f16, f16>(random, len),
                6 => references::<f16, f32, bf16>(random, len),
                _ => references::<f32, f32, f32>(random, len),
            };
            borrowed.push(one);
            alone.push(reference);
        }
        step_all(&rules, &options, borrowed.iter_mut().map(|one| one.reborrow())).unwrap();
        for (one, reference) in borrowed.iter().zip(&mut alone) {
            reference.step_alone(&rules, &options);
            let differs = one.compare(&**reference);
            prop_assert!(differs.is_none(), "{:?}", differs);
        }
    }
}

/// Every wrong call and its message. Nothing has changed after any of them.
#[test]
fn refuses_what_does_not_fit() {
    fn step(borrowed: ParamMut<'_>) -> Error {
        step_all(&[AdamW::default()], &StepOptions::default(), [borrowed]).unwrap_err()
    }
    type Call<'a> = &'a dyn Fn(&mut [f32], &mut [f32], &mut [f32]) -> Error;
    let check = |expected: &str, call: Call<'_>| {
        let (mut theta, mut m, mut v) = ([1.0; 4], [2.0; 4], [3.0; 4]);
        let error = call(&mut theta, &mut m, &mut v);
        assert_eq!(error.to_string(), expected);
        assert_eq!((theta, m, v), ([1.0; 4], [2.0; 4], [3.0; 4]), "{expected}");
    };
    let grad = [1.0_f32; 4];
    check("`rule` is 1, expected 0, an index of `rules`", &|theta, m, v| {
        step(ParamMut::new(1, 1, theta, &grad).with_state(m).with_state(v))
    });
    check("step number `t` is 0, expected 1 for the first step", &|theta, m, v| {
        step(ParamMut::new(0, 0, theta, &grad).with_state(m).with_state(v))
    });
    check("`grad` has 3 elements, expected 4 as in `theta`", &|theta, m, v| {
        step(ParamMut::new(0, 1, theta, &grad[..3]).with_state(m).with_state(v))
    });
    check("`v` has 2 elements, expected 4 as in `theta`", &|theta, m, v| {
        step(ParamMut::new(0, 1, theta, &grad).with_state(m).with_state(&mut v[..2]))
    });
    check("`v` is bf16, expected f32", &|theta, m, _| {
        step(ParamMut::new(0, 1, theta, &grad).with_state(m).with_state(&mut [bf16::ZERO; 4]))
    });
    check("`m` is f64, expected f32, bf16, f16 or 8 bits", &|theta, _, _| {
        step(
            ParamMut::new(0, 1, theta, &grad)
                .with_state(&mut [0.0_f64; 4])
                .with_state(&mut [0.0_f64; 4]),
        )
    });
    check("`grad` is f64, expected f32, bf16 or f16", &|theta, m, v| {
        step(ParamMut::new(0, 1, theta, &[1.0_f64; 4]).with_state(m).with_state(v))
    });
    let [mut theta, mut m, mut v, mut more] = [[1.0_f32; 4]; 4];
    let missing = step(ParamMut::new(0, 1, &mut theta, &grad));
    assert!(matches!(missing.cause(), Error::MissingState { name: "m", .. }), "{missing}");
    let all = ParamMut::new(0, 1, &mut theta, &grad)
        .with_state(&mut m)
        .with_state(&mut v)
        .with_state(&mut more);
    let superfluous = step(all);
    assert!(
        matches!(superfluous.cause(), Error::SuperfluousState { given: 3, .. }),
        "{superfluous}"
    );
}

/// Gradients that are not finite are skipped if the options say so. A rule without states needs
/// none.
#[test]
fn skips_and_clips_as_an_optimizer_does() {
    let sgd = [Sgd { lr: 1.0, ..Sgd::default() }];
    let (mut theta, grad) = ([1.0_f32; 2], [f32::NAN, 3.0]);
    let options = StepOptions { skip_nonfinite: true, ..StepOptions::default() };
    let report = step_all(&sgd, &options, [ParamMut::new(0, 1, &mut theta, &grad)]).unwrap();
    assert!(report.skipped && report.nonfinite == Some(1));
    assert!(difference("theta", &theta, &[1.0; 2]).is_none());

    let clip_norm = Some(fused_adam::ClipNorm::Two(2.5));
    let options = StepOptions { clip_norm, ..StepOptions::default() };
    let report =
        step_all(&sgd, &options, [ParamMut::new(0, 1, &mut theta, &[3.0_f32, 4.0])]).unwrap();
    assert_eq!((report.grad_norm, report.clip_factor), (Some(5.0), 0.5));
    assert!(difference("theta", &theta, &[-0.5, -1.0]).is_none());
}
