//! Split master weights: the conversions, and steps against the same steps on `f32`.

use fused_adam::{
    AdaMax, AdamW, AnyRule, Backend, Block8, ClipNorm, Correction, Element, Error, Flat, GroupId,
    Lion, Optimizer, ParamMut, Rounding, Rule, Sgd, Step, StepOptions, Tensor, bf16, f16, step_all,
};

use crate::common::{Numbers, Random, difference, rules};

/// The bits of weights that matter: borders, ties, the largest ones, infinities, and random bits.
/// No NaN.
fn weights() -> Vec<f32> {
    let random = &mut Random(1);
    let mut bits: Vec<u32> = (0..20_000).map(|_| random.bits() as u32).collect();
    for upper in [0_u32, 1, 0x7F, 0x80, 0x3F7F, 0x3F80, 0x7F7F] {
        for low in [0, 1, 0x7F, 0x80, 0x81, 0x7FFF, 0x8000, 0x8001, 0xFF7F, 0xFF80, 0xFFFF] {
            bits.extend([upper << 16 | low, 1 << 31 | upper << 16 | low]);
        }
    }
    bits.extend([0x7F80_0000, 0xFF80_0000]);
    bits.into_iter().map(f32::from_bits).filter(|x| !x.is_nan()).collect()
}

/// The nearest `bf16` by its distance in `f64`, ties away from zero.
fn nearest(x: f32) -> bf16 {
    let below = bf16::from_bits((x.to_bits() >> 16) as u16);
    let above = bf16::from_bits((x.to_bits() >> 16) as u16 + 1);
    if below.is_infinite() {
        return below;
    }
    // Beyond the largest number, infinity counts as 2^128.
    let value = |x: bf16| if x.is_infinite() { 2.0_f64.powi(128) } else { x.to_f64().abs() };
    let x = f64::from(x).abs();
    if x - value(below) < value(above) - x { below } else { above }
}

/// 16 bits keep every bit, and the `bf16` is the nearest one.
#[test]
fn all_bits_are_kept() {
    let weights = weights();
    let (mut theta, mut low) = (vec![bf16::ZERO; weights.len()], vec![0_u16; weights.len()]);
    Correction::from(&mut low[..]).split(&weights, &mut theta).unwrap();
    let mut joined = vec![0.0; weights.len()];
    Correction::from(&mut low[..]).join(&theta, &mut joined).unwrap();
    assert_eq!(difference("weights", &joined, &weights), None);
    for (theta, x) in theta.iter().zip(&weights) {
        assert_eq!(theta.to_bits(), nearest(*x).to_bits(), "the bf16 of {x:e}");
    }
}

/// 8 bits keep the nearest 24 bits, ties away from zero, and the `bf16` is the nearest one to them.
#[test]
fn the_nearest_24_bits_are_kept() {
    let weights = weights();
    let (mut theta, mut low) = (vec![bf16::ZERO; weights.len()], vec![0_u8; weights.len()]);
    Correction::from(&mut low[..]).split(&weights, &mut theta).unwrap();
    let mut joined = vec![0.0_f32; weights.len()];
    Correction::from(&mut low[..]).join(&theta, &mut joined).unwrap();
    for ((x, joined), theta) in weights.iter().zip(&joined).zip(&theta) {
        let (kept, cut) = (x.to_bits() >> 8, x.to_bits() & 0xFF);
        let expected = f32::from_bits((kept + u32::from(cut >= 0x80)) << 8);
        assert_eq!(joined.to_bits(), expected.to_bits(), "{x:e}");
        assert_eq!(theta.to_bits(), nearest(expected).to_bits(), "the bf16 of {x:e}");
    }
}

/// Every NaN stays NaN in the `bf16`, whatever its payload.
#[test]
fn nan_stays_nan() {
    for bits in [0x7F80_0001, 0x7F80_8000, 0x7FC0_0000, 0x7FFF_FFFF, 0xFFFF_FFFF, 0xFF80_0001] {
        let (mut theta, mut low, mut byte) = ([bf16::ZERO], [7_u16], [7_u8]);
        let nan = [f32::from_bits(bits)];
        Correction::from(&mut low[..]).split(&nan, &mut theta).unwrap();
        assert!(theta[0].is_nan() && low == [0], "{bits:#x} is {:?}, {low:?}", theta[0]);
        Correction::from(&mut byte[..]).split(&nan, &mut theta).unwrap();
        assert!(theta[0].is_nan() && byte == [0], "{bits:#x} is {:?}, {byte:?}", theta[0]);
    }
}

const LEN: usize = 700;

fn theta_and_grads() -> (Vec<f32>, Vec<Vec<bf16>>) {
    let random = &mut Random(3);
    let theta = Numbers::Ordinary.fill(random, LEN);
    (theta, (0..4).map(|_| Numbers::Ordinary.fill(random, LEN)).collect())
}

/// With a correction of 16 bits, every rule has the bits of `f32` master weights, on every backend
/// and in chunks.
#[test]
fn sixteen_bits_equal_f32() {
    let (start, grads) = theta_and_grads();
    for (name, rule) in rules::variants() {
        for backend in Backend::ALL.iter().copied().filter(|backend| backend.is_available()) {
            let mut expected = start.clone();
            let mut whole = Flat::<AnyRule, f32>::new(rule, LEN).unwrap();
            let (mut theta, mut low) = (vec![bf16::ZERO; LEN], vec![0_u16; LEN]);
            Correction::from(&mut low[..]).split(&start, &mut theta).unwrap();
            let mut split = Flat::<AnyRule, f32>::new(rule, LEN).unwrap().with_backend(backend);
            #[cfg(feature = "parallel")]
            {
                let chunk = std::num::NonZeroUsize::new(77).unwrap();
                split = split.with_parallelism(fused_adam::Parallelism::Chunks(chunk));
            }
            for grad in &grads {
                whole.step_mixed(&mut expected, grad).unwrap();
                split.step_split(&mut theta, &mut low[..], grad).unwrap();
            }
            let mut joined = vec![0.0; LEN];
            Correction::from(&mut low[..]).join(&theta, &mut joined).unwrap();
            let what = format!("{name} on {backend}");
            assert_eq!(difference(&what, &joined, &expected), None);
        }
    }
}

/// A step with a correction of 8 bits, on a part of the weights.
fn step8(
    part: std::ops::Range<usize>,
    backend: Backend,
    seed: Option<u64>,
) -> (Vec<bf16>, Vec<u8>) {
    let (start, grads) = theta_and_grads();
    let (mut theta, mut low) = (vec![bf16::ZERO; part.len()], vec![0_u8; part.len()]);
    Correction::from(&mut low[..]).split(&start[part.clone()], &mut theta).unwrap();
    let (mut m, mut v) = (vec![0.0_f32; part.len()], vec![0.0_f32; part.len()]);
    let rounding = seed.map_or(Rounding::Nearest, |seed| Rounding::Stochastic { seed });
    let rule = AdamW::default();
    for (t, grad) in (1..).zip(&grads) {
        let step = Step::new(&rule, t).with_backend(backend).with_rounding(rounding);
        // The index of the first element crosses 2^64.
        let step = step.with_offset((part.start as u64).wrapping_sub(100));
        let grad = &grad[part.clone()];
        step.run_split(&mut theta, &mut low[..], grad, &mut [&mut m, &mut v]).unwrap();
    }
    (theta, low)
}

/// With a correction of 8 bits, all backends and all parts of the weights have the same bits.
#[test]
fn eight_bits_are_the_same_everywhere() {
    for seed in [None, Some(5)] {
        let (theta, low) = step8(0..LEN, Backend::Scalar, seed);
        for backend in Backend::ALL.iter().copied().filter(|backend| backend.is_available()) {
            for part in [0..LEN, 0..1, 1..33, 5..LEN, 99..131, 600..LEN] {
                let got = step8(part.clone(), backend, seed);
                let expected = (theta[part.clone()].to_vec(), low[part.clone()].to_vec());
                assert!(got == expected, "{part:?} on {backend} with seed {seed:?}");
            }
        }
    }
    assert!(step8(0..LEN, Backend::Auto, Some(5)) != step8(0..LEN, Backend::Auto, Some(6)));
}

/// Steps of split weights whose states are in 8 bits. Returns the weights and the states.
fn step_in_8_bits<R, G, C>(
    rule: R,
    backend: Backend,
    chunk: Option<usize>,
    rounding: Rounding,
    grads: &[Vec<G>],
) -> (Vec<u32>, Vec<Vec<Block8>>)
where
    R: Rule,
    G: Element<Float = f32>,
    C: Copy + Default,
    for<'a> Correction<'a>: From<&'a mut [C]>,
{
    let (start, _) = theta_and_grads();
    let (mut theta, mut low) = (vec![bf16::ZERO; LEN], vec![C::default(); LEN]);
    Correction::from(&mut low[..]).split(&start, &mut theta).unwrap();
    let opt = Flat::<R, Block8>::new(rule, LEN).unwrap();
    let mut opt = opt.with_seed(9).with_rounding(rounding).with_backend(backend);
    #[cfg(feature = "parallel")]
    if let Some(chunk) = chunk.and_then(std::num::NonZeroUsize::new) {
        opt = opt.with_parallelism(fused_adam::Parallelism::Chunks(chunk));
    }
    let _ = chunk;
    for grad in grads {
        opt.step_split(&mut theta, &mut low[..], grad).unwrap();
    }
    let mut weights = vec![0.0; LEN];
    Correction::from(&mut low[..]).join(&theta, &mut weights).unwrap();
    (weights.into_iter().map(f32::to_bits).collect(), opt.into_parts().2)
}

/// With states in 8 bits and gradients of any type, a correction of 16 bits gives the bits of `f32`
/// master weights, and one of 8 bits the same on every backend and in chunks. So it does where a
/// gradient of a block is infinite. The rounding of the step matters only by its seed.
#[test]
fn with_states_in_8_bits() {
    fn check<R: Rule, G: Element<Float = f32>>(rule: R, grads: &[Vec<bf16>]) {
        let rounding = match G::NAME {
            "bf16" => Rounding::Stochastic { seed: 4 },
            _ => Rounding::Nearest,
        };
        let grads: Vec<Vec<G>> = grads
            .iter()
            .map(|grad| grad.iter().map(|x| G::from_float(x.to_f32())).collect())
            .collect();
        let (mut whole, _) = theta_and_grads();
        let opt = Flat::<R, Block8>::new(rule.clone(), LEN).unwrap();
        let mut opt = opt.with_seed(9).with_rounding(rounding);
        for grad in &grads {
            opt.step_mixed(&mut whole, grad).unwrap();
        }
        let whole: Vec<u32> = whole
            .into_iter()
            .map(|x| if x.is_nan() { bf16::NAN.to_f32() } else { x }.to_bits())
            .collect();
        let states = opt.into_parts().2;
        let by_scalar =
            step_in_8_bits::<R, G, u8>(rule.clone(), Backend::Scalar, None, rounding, &grads);
        for backend in Backend::ALL.iter().copied().filter(|backend| backend.is_available()) {
            for chunk in [None, Some(96)] {
                let what = format!("{} on {backend}, {chunk:?}, g of {}", rule.name(), G::NAME);
                let bits16 =
                    step_in_8_bits::<R, G, u16>(rule.clone(), backend, chunk, rounding, &grads);
                assert!(bits16.0 == whole, "weights of {what}");
                assert!(bits16.1 == states, "states of {what}");
                let bits8 =
                    step_in_8_bits::<R, G, u8>(rule.clone(), backend, chunk, rounding, &grads);
                assert!(bits8 == by_scalar, "8 bits of {what}");
            }
        }
    }
    let (_, mut grads) = theta_and_grads();
    grads[1][70] = bf16::INFINITY;
    let adamw = AdamW { amsgrad: true, ..AdamW::default() };
    check::<_, bf16>(adamw, &grads);
    check::<_, f32>(adamw, &grads);
    check::<_, f16>(adamw, &grads);
    check::<_, bf16>(Sgd::default(), &grads);
    check::<_, bf16>(Lion::default(), &grads);
    check::<_, bf16>(AdaMax::default(), &grads);
}

/// Changes far below the precision of 24 bits add up to what they are in `f32`.
#[test]
fn small_changes_add_up() {
    const STEPS: u64 = 400;
    // A step is a 32nd of the distance between two numbers of 24 bits below 1.
    let rule = AdamW { lr: 2.0_f64.powi(-21), weight_decay: 0.0, ..AdamW::default() };
    let len = 4096;
    let (mut theta, mut low) = (vec![bf16::ONE; len], vec![0_u8; len]);
    let grad = vec![bf16::ONE; len];
    let mut opt = Flat::<_, f32>::new(rule, len).unwrap();
    for _ in 0..STEPS {
        opt.step_split(&mut theta, &mut low[..], &grad).unwrap();
    }
    let mut joined = vec![0.0_f32; len];
    Correction::from(&mut low[..]).join(&theta, &mut joined).unwrap();
    let moved = joined.iter().map(|x| 1.0 - f64::from(*x)).sum::<f64>() / len as f64;
    let expected = STEPS as f64 * rule.lr;
    assert!((moved / expected - 1.0).abs() < 0.05, "moved by {moved:e}, expected {expected:e}");
    assert!(theta.iter().all(|x| *x == bf16::ONE), "no bf16 should move by so little");
}

/// `Optimizer` and `step_all` have the bits of `Step`. The largest update is that of the master
/// weights.
#[test]
fn many_tensors() {
    let (start, grads) = theta_and_grads();
    let rule = AdamW::default();
    let split = || {
        let (mut theta, mut low) = (vec![bf16::ZERO; LEN], vec![0_u8; LEN]);
        Correction::from(&mut low[..]).split(&start, &mut theta).unwrap();
        (theta, low)
    };
    let mut opt = Optimizer::new(rule).unwrap();
    let id = opt.add_mixed::<bf16, bf16, f32>(GroupId::default(), "w", LEN).unwrap();
    let seed = opt.seed(id, 0).unwrap();
    opt.options.report_largest_update = true;
    #[cfg(feature = "parallel")]
    {
        let chunk = std::num::NonZeroUsize::new(100).unwrap();
        opt.options.parallelism = fused_adam::Parallelism::Chunks(chunk);
    }
    let (mut by_opt, mut by_step, mut by_all) = (split(), split(), split());
    let mut states = [(); 4].map(|()| vec![0.0_f32; LEN]);
    let [m, v, m_all, v_all] = &mut states;
    for (t, grad) in (1..).zip(&grads) {
        let mut before = vec![0.0_f32; LEN];
        Correction::from(&mut by_opt.1[..]).join(&by_opt.0, &mut before).unwrap();
        let tensor = Tensor::new("w", &mut by_opt.0, grad).with_correction(&mut by_opt.1[..]);
        let report = opt.step([tensor]).unwrap();
        let mut after = vec![0.0_f32; LEN];
        Correction::from(&mut by_opt.1[..]).join(&by_opt.0, &mut after).unwrap();
        let change = |(a, b): (&f32, &f32)| f64::from((a - b).abs());
        let largest = before.iter().zip(&after).map(change).fold(0.0, f64::max);
        assert_eq!(report.largest_update, Some(largest));

        Step::new(&rule, t)
            .with_rounding(Rounding::Stochastic { seed })
            .run_split(&mut by_step.0, &mut by_step.1[..], grad, &mut [&mut *m, &mut *v])
            .unwrap();
        let tensor = ParamMut::new(0, t, &mut by_all.0, grad).with_state(m_all).with_state(v_all);
        let tensor = tensor.with_seed(seed).with_correction(&mut by_all.1[..]);
        step_all(&[rule], &StepOptions::default(), [tensor]).unwrap();
    }
    // A seed also rounds θ of bf16 without a correction, but here there is none.
    assert!(by_opt == by_step, "the optimizer differs");
    assert!(by_all == by_step, "step_all differs");
}

/// Wrong lengths and types are refused by name, and nothing is written.
#[test]
fn errors() {
    let (mut theta, grad, mut low) = ([bf16::ONE; 4], [bf16::ONE; 4], [0_u8; 3]);
    let (mut m, mut v) = ([0.0_f32; 4], [0.0_f32; 4]);
    let rule = AdamW::default();
    let error = Step::new(&rule, 1)
        .run_split(&mut theta, &mut low[..], &grad, &mut [&mut m, &mut v])
        .unwrap_err();
    assert_eq!(error.to_string(), "`correction` has 3 elements, expected 4 as in `theta`");
    assert_eq!((theta, m), ([bf16::ONE; 4], [0.0; 4]));
    let error = Correction::from(&mut low[..]).split(&[1.0; 4], &mut theta).unwrap_err();
    assert_eq!(error.to_string(), "`correction` has 3 elements, expected 4 as in `theta`");
    let error = Correction::from(&mut low[..]).join(&theta[..3], &mut [0.0; 4]).unwrap_err();
    assert_eq!(error.to_string(), "`weights` has 4 elements, expected 3 as in `theta`");

    let mut opt = Optimizer::new(rule).unwrap();
    opt.options.clip_norm = Some(ClipNorm::Two(1.0));
    opt.add::<f32>(GroupId::default(), "w", 4).unwrap();
    opt.add::<bf16>(GroupId::default(), "h", 4).unwrap();
    let mut single = [1.0_f32; 4];
    let tensor = Tensor::new("w", &mut single, &grad).with_correction(&mut low[..]);
    let error = opt.step([tensor]).unwrap_err();
    let expected = "`theta` of parameter `w` is f32, expected bf16 to have a correction";
    assert_eq!(error.to_string(), expected);
    let tensor = Tensor::new("h", &mut theta, &grad).with_correction(&mut low[..]);
    let error = opt.step([tensor]).unwrap_err();
    assert!(matches!(error, Error::TensorLength { buffer: "correction", len: 3, .. }), "{error}");
    assert_eq!(theta, [bf16::ONE; 4]);
    assert_eq!(rule.name(), "adamw");
}
