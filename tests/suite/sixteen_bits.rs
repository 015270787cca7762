//! 16-bit storage: compares conversions in every backend with the crate `half`. Stochastic rounding
//! is unbiased, repeatable and useful.

use fused_adam::{
    Adam, AdamW, Backend, Element, Error, Flat, Float, Half, Kernel, KernelVisitor, Lanes, Real,
    Rounding, Rule, State, Step, bf16, f16,
};

use crate::common::{Bits, Random, difference};

/// θ becomes g: a step that only converts.
#[derive(Clone)]
struct Take;

impl Rule for Take {
    fn name(&self) -> &'static str {
        "take"
    }

    fn lr(&self) -> f64 {
        0.0
    }

    fn set_lr(&mut self, _: f64) {}

    fn states(&self) -> &'static [State] {
        &[]
    }

    fn check(&self) -> Result<(), Error> {
        Ok(())
    }

    fn visit_kernel<F: Float, W: KernelVisitor<F>>(
        &self,
        _: u64,
        _: &[f64],
        visitor: W,
    ) -> Result<(), Error> {
        visitor.visit(&Grad)
    }
}

#[derive(Clone, Copy, Debug)]
struct Grad;

impl<F: Float> Kernel<F, 0> for Grad {
    #[inline(always)]
    fn update<L: Lanes<Float = F>>(&self, _: L, grad: L, []: [L; 0]) -> (L, [L; 0]) {
        (grad, [])
    }

    fn reference(&self, _: F, grad: F, []: [F; 0]) -> (F, [F; 0]) {
        (grad, [])
    }
}

fn backends() -> impl Iterator<Item = Backend> {
    let skipped = Backend::ALL.iter().copied().filter(|backend| !backend.is_available());
    skipped.for_each(|backend| println!("skipped: {backend} is not available on this CPU"));
    Backend::ALL.iter().copied().filter(|backend| backend.is_available())
}

/// `from` in the type `T`.
fn converted<T: Element<Float = f32>, G: Element<Float = f32>>(
    from: &[G],
    backend: Backend,
    rounding: Rounding,
) -> Vec<T> {
    let mut to = vec![T::from_f64(0.0); from.len()];
    let step = Step::new(&Take, 1).with_backend(backend).with_rounding(rounding);
    step.run_mixed::<T, G, f32>(&mut to, from, &mut []).unwrap();
    to
}

/// All 65,536 of them.
fn every_half_is_widened_exactly<H: Half + Bits>() {
    let halves: Vec<H> = (0..=u64::from(u16::MAX)).map(H::any_bits).collect();
    let exact: Vec<f32> = halves.iter().map(|half| half.to_float()).collect();
    for backend in backends() {
        let wide: Vec<f32> = converted(&halves, backend, Rounding::Nearest);
        assert_eq!(difference("f32", &wide, &exact), None, "{backend}");
        // Exact values do not change with either rounding.
        for rounding in [Rounding::Nearest, Rounding::Stochastic { seed: 5 }] {
            let back: Vec<H> = converted(&exact, backend, rounding);
            assert_eq!(difference(H::NAME, &back, &halves), None, "{backend}, {rounding:?}");
        }
    }
}

/// `from` as a state of type `H`.
fn stored<H: Half>(from: &[f32], backend: Backend, rounding: Rounding) -> Vec<H> {
    let mut state = vec![H::from_f64(0.0); from.len()];
    let mut theta = vec![0.0_f32; from.len()];
    let step = Step::new(&Keep, 1).with_backend(backend).with_rounding(rounding);
    step.run_mixed::<f32, f32, H>(&mut theta, from, &mut [&mut state]).unwrap();
    state
}

/// The state becomes g.
#[derive(Clone)]
struct Keep;

impl Rule for Keep {
    fn name(&self) -> &'static str {
        "keep"
    }

    fn lr(&self) -> f64 {
        0.0
    }

    fn set_lr(&mut self, _: f64) {}

    fn states(&self) -> &'static [State] {
        const { &[State::signed("s")] }
    }

    fn check(&self) -> Result<(), Error> {
        Ok(())
    }

    fn visit_kernel<F: Float, W: KernelVisitor<F>>(
        &self,
        _: u64,
        _: &[f64],
        visitor: W,
    ) -> Result<(), Error> {
        visitor.visit(&KeepGrad)
    }
}

#[derive(Clone, Copy, Debug)]
struct KeepGrad;

impl<F: Float> Kernel<F, 1> for KeepGrad {
    #[inline(always)]
    fn update<L: Lanes<Float = F>>(&self, theta: L, grad: L, _: [L; 1]) -> (L, [L; 1]) {
        (theta, [grad])
    }

    fn reference(&self, theta: F, grad: F, _: [F; 1]) -> (F, [F; 1]) {
        (theta, [grad])
    }
}

#[test]
fn every_bf16_is_widened_exactly() {
    every_half_is_widened_exactly::<bf16>();
}

#[test]
fn every_f16_is_widened_exactly() {
    every_half_is_widened_exactly::<f16>();
}

/// Every half, the midpoint to the next one (a tie), and the `f32`s next to the midpoint; and
/// random bits.
fn f32s_to_round<H: Half + Bits>() -> Vec<f32> {
    let mut all = Vec::new();
    for bits in 0..=u64::from(u16::MAX) {
        let half: f32 = H::any_bits(bits).to_float();
        let next: f32 = H::any_bits((bits + 1) & 0xFFFF).to_float();
        let middle = ((f64::from(half) + f64::from(next)) / 2.0) as f32;
        all.extend([half, middle, middle.next_up(), middle.next_down()]);
    }
    let mut random = Random(3);
    all.extend((0..1 << 18).map(|_| f32::from_bits(random.bits() as u32)));
    // In the exponent range of f16.
    all.extend((0..1 << 18).map(|_| (random.uniform() * 2.0_f64.powi(-20)) as f32));
    all
}

fn narrowing_is_to_nearest_even<H: Half + Bits>() {
    let all = f32s_to_round::<H>();
    let exact: Vec<H> = all.iter().map(|&x| H::from_float(x)).collect();
    // States are at most ±MAX, and what is infinite becomes NaN.
    let most = H::MAX.to_float();
    let hold = |x: f32| if x.is_finite() { x.clamp(-most, most) } else { f32::NAN };
    let held: Vec<H> = all.iter().map(|&x| H::from_float(hold(x))).collect();
    for backend in backends() {
        let narrow: Vec<H> = converted(&all, backend, Rounding::Nearest);
        assert_eq!(difference(H::NAME, &narrow, &exact), None, "{backend}");
        let states = stored::<H>(&all, backend, Rounding::Nearest);
        assert_eq!(difference(H::NAME, &states, &held), None, "{backend}");
    }
}

#[test]
fn narrowing_to_bf16_is_to_nearest_even() {
    narrowing_is_to_nearest_even::<bf16>();
}

#[test]
fn narrowing_to_f16_is_to_nearest_even() {
    narrowing_is_to_nearest_even::<f16>();
}

/// The reference rounds with the crate `half`. It also rounds an `f64` correctly where rounding to
/// `f32` first would be a double rounding.
#[test]
fn an_f64_is_rounded_once() {
    // Slightly above the midpoint between 1 and the next bf16. As an f32 it is the midpoint, a tie
    // that rounds to 1.
    let above_tie = 1.0 + 2.0_f64.powi(-8) + 2.0_f64.powi(-40);
    assert_eq!(<bf16 as Real>::from_f64(above_tie).to_bits(), 0x3F81);
    assert_eq!(<bf16 as Real>::from_f64(1.0 + 2.0_f64.powi(-8)).to_bits(), 0x3F80);
    let below_tie = 1.0 + 3.0 * 2.0_f64.powi(-11) - 2.0_f64.powi(-40);
    assert_eq!(<f16 as Real>::from_f64(below_tie).to_bits(), 0x3C01);
    assert_eq!(<f16 as Real>::from_f64(-1e300), f16::NEG_INFINITY);
    assert!(<bf16 as Real>::from_f64(f64::NAN).is_nan());
}

/// Over many seeds, the mean of the rounded numbers is the number, within four standard errors.
fn stochastic_rounding_is_fair<H: Half + Bits>(numbers: &[f32]) {
    const SEEDS: u64 = 4096;
    for &x in numbers {
        let all = vec![x; 64];
        let mut sum = 0.0;
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for seed in 0..SEEDS {
            for half in stored::<H>(&all, Backend::Auto, Rounding::Stochastic { seed }) {
                let half = half.to_f64();
                sum += half - f64::from(x);
                (low, high) = (low.min(half), high.max(half));
            }
        }
        let (count, unit) = ((SEEDS * 64) as f64, high - low);
        let bias = sum / count / unit;
        let share = (f64::from(x) - low) / unit;
        let standard_error = (share * (1.0 - share) / count).sqrt();
        println!("{} of {x:e}: between {low:e} and {high:e}, bias {bias:.1e} units", H::NAME);
        assert!(low < f64::from(x) && f64::from(x) < high, "both neighbours of {x:e}");
        assert!(bias.abs() < 4.0 * standard_error, "{x:e}: {bias:e} units, {standard_error:e}");
    }
}

#[test]
fn stochastic_rounding_to_bf16_is_fair() {
    stochastic_rounding_is_fair::<bf16>(&[1.003, -0.3, 1.000_1, 3e-40, -7e-41]);
}

#[test]
fn stochastic_rounding_to_f16_is_fair() {
    // The last three are between subnormals.
    stochastic_rounding_is_fair::<f16>(&[1.0003, -0.3, 3.1e-6, -1e-8, 5.5e-8]);
}

/// Buffers, elements, steps and seeds have separate random bits. The same step has the same ones.
#[test]
fn random_bits_belong_to_seed_step_element_and_buffer() {
    let adam = Adam::default();
    let run = |seed: u64, t: u64, first: u64| {
        // All states are equal, and are rounded between the same neighbours.
        let (mut theta, grad) = (vec![bf16::ONE; 1000], vec![bf16::from_f32(0.3); 1000]);
        let (mut m, mut v) = (vec![bf16::from_f32(0.1); 1000], vec![bf16::from_f32(0.1); 1000]);
        let step =
            Step::new(&adam, t).with_rounding(Rounding::Stochastic { seed }).with_offset(first);
        step.run(&mut theta, &grad, &mut [&mut m, &mut v]).unwrap();
        let up = |x: &[bf16]| -> Vec<bool> {
            let least = x.iter().copied().fold(bf16::INFINITY, bf16::min);
            x.iter().map(|&x| x > least).collect()
        };
        [up(&m), up(&v)]
    };
    let [m, v] = run(1, 10, 0);
    assert_eq!([m.clone(), v.clone()], run(1, 10, 0));
    let differ = |a: &[bool], b: &[bool]| a.iter().zip(b).filter(|(a, b)| a != b).count() > 100;
    assert!(differ(&m, &v), "buffers");
    assert!(differ(&m, &run(2, 10, 0)[0]), "seeds");
    assert!(differ(&m, &run(1, 11, 0)[0]), "steps");
    assert!(differ(&m[1..], &m[..999]), "elements");
    assert_eq!(m[500..], run(1, 10, 500)[0][..500], "an offset is a shift");
}

/// A second moment in bf16 stalls with rounding to nearest: its changes, a thousandth of the
/// distance to g², are less than half a unit in its last place. With stochastic rounding, it
/// follows its twin in f32.
#[test]
fn a_bf16_second_moment_follows_its_f32_twin_when_rounded_stochastically() {
    const LEN: usize = 1000;
    fn second_moment<S: Element<Float = f32>>(rounding: Rounding) -> f64 {
        let rule = AdamW { beta2: 0.999, ..AdamW::default() };
        // From 1, gradients of one half pull it towards one quarter.
        let states = vec![vec![S::from_f64(0.0); LEN], vec![S::from_f64(1.0); LEN]];
        let mut opt = Flat::resume(rule, 0, states).unwrap().with_rounding(rounding);
        let mut theta = vec![0.0_f32; LEN];
        for _ in 0..3000 {
            opt.step_mixed(&mut theta, &vec![0.5_f32; LEN]).unwrap();
        }
        opt.state("v").unwrap().iter().map(|v| v.to_f64()).sum::<f64>() / LEN as f64
    }
    let exact = second_moment::<f32>(Rounding::Nearest);
    let stalled = second_moment::<bf16>(Rounding::Nearest);
    let followed = second_moment::<bf16>(Rounding::Stochastic { seed: 11 });
    println!("after 3000 steps: f32 {exact:.4}, nearest {stalled:.4}, stochastic {followed:.4}");
    assert!(exact < 0.3);
    assert!(stalled > 0.9, "it was to stall");
    assert!((followed - exact).abs() < 0.005, "{followed} is not {exact}");
}

/// A copy that is too short or too long is an error, and nothing is written.
#[test]
fn copies_have_the_length_of_theta() {
    let (mut theta, grad) = ([1.0_f32; 4], [bf16::ONE; 4]);
    let (mut m, mut v, mut copy) = ([0.0_f32; 4], [0.0_f32; 4], [bf16::ZERO; 5]);
    let error = Step::new(&AdamW::default(), 1)
        .run_with_copy(&mut theta, &grad, &mut [&mut m, &mut v], &mut copy)
        .unwrap_err();
    assert_eq!(error.to_string(), "`copy` has 5 elements, expected 4 as in `theta`");
    assert_eq!((theta, m, v, copy), ([1.0; 4], [0.0; 4], [0.0; 4], [bf16::ZERO; 5]));
}
