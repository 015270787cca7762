//! The functions of the header, called as from C, are bit-identical to the core's scalar reference:
//! every rule with any hyper-parameters, every combination of element types, every backend.
//!
//! A failure prints the seed of its case. `SEED=… cargo test -p fused-adam-c --test bits` repeats
//! the case, and `CASES=…` sets the number of cases.

#[path = "../../../../tests/common/mod.rs"]
mod common;
mod rules;
mod split;
mod table;

use std::ffi::{CStr, CString, c_void};
use std::ptr::{null, null_mut};

use common::random_rule::random_rule_from;
use common::{Bits, Guarded, Numbers, Random, StateBits, difference, rules as core_rules};
use fused_adam::{
    AnyRule, Backend, Block8, Element, Flat, Half, NAdam, Parallelism, Rounding, Rule, State,
    StateElement, Step, bf16, f16,
};
use fused_adam_c::*;
use rules::Handle;

/// A type of elements or states, and its number in the header.
trait Numbered: StateBits {
    const NUMBER: FusedAdamType;
}

impl Numbered for f32 {
    const NUMBER: FusedAdamType = FusedAdamType::F32;
}
impl Numbered for f64 {
    const NUMBER: FusedAdamType = FusedAdamType::F64;
}
impl Numbered for bf16 {
    const NUMBER: FusedAdamType = FusedAdamType::Bf16;
}
impl Numbered for f16 {
    const NUMBER: FusedAdamType = FusedAdamType::F16;
}
impl Numbered for Block8 {
    const NUMBER: FusedAdamType = FusedAdamType::Block8;
}

/// The options of a step.
#[derive(Clone, Copy, Debug)]
struct Options {
    t: u64,
    grad_scale: f64,
    clip_value: f64,
    rounding: Rounding,
    seed: u64,
    offset: u64,
    backend: Backend,
    chunk: usize,
}

impl Options {
    /// With an offset that states of `S` allow.
    fn random<S: StateBits>(random: &mut Random) -> Self {
        let available: Vec<Backend> =
            Backend::ALL.iter().copied().filter(|backend| backend.is_available()).collect();
        let (plain, block) = (random.below(2) == 0, S::BLOCK as u64);
        Options {
            t: [1, 2, 10, 1000, 1_000_000_000][random.below(5)],
            grad_scale: if plain { 1.0 } else { random.uniform().abs() },
            clip_value: if plain { f64::INFINITY } else { random.uniform().abs() + 1e-3 },
            rounding: match random.below(2) {
                0 => Rounding::Nearest,
                _ => Rounding::Stochastic { seed: random.bits() },
            },
            seed: if random.below(2) == 0 { 0 } else { random.bits() },
            offset: if random.below(2) == 0 { 0 } else { random.bits() / block * block },
            backend: available[random.below(available.len())],
            chunk: [0, usize::MAX, 1 + random.below(200)][random.below(3)],
        }
    }

    /// The same options for the reference.
    fn reference<'r>(&self, rule: &'r AnyRule) -> Step<'r, AnyRule> {
        Step::new(rule, self.t)
            .with_backend(Backend::Scalar)
            .with_parallelism(Parallelism::Serial)
            .with_rounding(self.rounding)
            .with_seed(self.seed)
            .with_offset(self.offset)
            .with_grad_scale(self.grad_scale)
            .with_clip_value(self.clip_value)
    }

    /// Makes options through the header, for `with`.
    fn options<T>(&self, with: impl FnOnce(*const FusedAdamOptions) -> T) -> T {
        let mut options = null_mut();
        let backend = CString::new(self.backend.name()).unwrap();
        // SAFETY: each pointer is valid for the call.
        unsafe {
            expect_ok(fused_adam_options_new(&raw mut options));
            expect_ok(fused_adam_options_set(options, c"grad_scale".as_ptr(), self.grad_scale));
            expect_ok(fused_adam_options_set(options, c"clip_value".as_ptr(), self.clip_value));
            expect_ok(fused_adam_options_set_backend(options, backend.as_ptr()));
            expect_ok(fused_adam_options_set_chunk(options, self.chunk));
            if let Rounding::Stochastic { seed } = self.rounding {
                expect_ok(fused_adam_options_round_stochastically(options, seed));
            }
            let result = with(options);
            fused_adam_options_free(options);
            result
        }
    }
}

fn expect_ok(status: FusedAdamStatus) {
    // SAFETY: the string is valid until this thread's next error.
    let message = || unsafe { CStr::from_ptr(fused_adam_last_error()) };
    assert_eq!(status, FusedAdamStatus::Ok, "{:?}", message());
}

/// The buffers of one step. They are generated twice, with the same numbers.
struct Buffers<T, G, S> {
    theta: Vec<T>,
    grad: Vec<G>,
    states: Vec<Vec<S>>,
}

impl<T: Bits, G: Bits, S: StateBits> Buffers<T, G, S> {
    fn random(random: &mut Random, states: &[State]) -> Self {
        let numbers = [Numbers::Ordinary, Numbers::Wild][random.below(2)];
        let len = [random.below(4), random.below(70), random.below(2000)][random.below(3)];
        let theta = numbers.fill(random, len);
        let grad = numbers.fill(random, len);
        let states = states.iter().map(|state| S::state(numbers, state, random, len)).collect();
        Buffers { theta, grad, states }
    }
}

/// The difference in a step with these types, with or without a copy of theta, if any.
fn differs<T, G, S>(random: &mut Random, name: &str) -> Option<String>
where
    T: Numbered + Bits,
    G: Numbered + Bits + Element<Float = T::Float>,
    S: Numbered + StateElement<Float = T::Float>,
{
    let rule = random_rule_from(name, random, 1);
    let declared = rule.states();
    let asked = Options::random::<S>(random);
    let Buffers { mut theta, grad, mut states } = Buffers::<T, G, S>::random(random, declared);
    let mut offset = || random.below(16);
    let mut own_theta = Guarded::new(&theta, offset());
    let mut own_states: Vec<_> = states.iter().map(|state| Guarded::new(state, offset())).collect();

    let mut borrowed: Vec<&mut [S]> = states.iter_mut().map(Vec::as_mut_slice).collect();
    let expected = asked.reference(&rule).run_mixed(&mut theta, &grad, &mut borrowed);
    let status =
        by_header(&rule, &asked, own_theta.get_mut(), &grad, &mut own_states, None::<&mut [bf16]>);
    compare(expected, status, || {
        let names = declared.iter().map(State::name);
        let state = names.zip(own_states.iter().zip(&states));
        let mut states = state.filter_map(|(name, (own, s))| difference(name, own.get(), s));
        let theta = difference("theta", own_theta.get(), &theta);
        let beside = !own_theta.intact() || own_states.iter().any(|state| !state.intact());
        theta.or_else(|| states.next()).or_else(|| beside.then(|| "wrote beside".to_owned()))
    })
    .map(|what| format!("{rule:?}, {asked:?}, {} elements: {what}", theta.len()))
}

/// The same with a copy of theta in `H`.
fn copy_differs<G, S, H>(random: &mut Random, name: &str) -> Option<String>
where
    G: Numbered + Bits + Element<Float = f32>,
    S: Numbered + StateElement<Float = f32>,
    H: Numbered + Bits + Half,
{
    let rule = random_rule_from(name, random, 1);
    let asked = Options::random::<S>(random);
    let Buffers { mut theta, grad, mut states } =
        Buffers::<f32, G, S>::random(random, rule.states());
    let mut own_theta = theta.clone();
    let mut own_states: Vec<_> = states.iter().map(|state| Guarded::new(state, 3)).collect();
    let mut copy = vec![H::CANARY; theta.len()];
    let mut own_copy = Guarded::new(&copy, 5);

    let mut borrowed: Vec<&mut [S]> = states.iter_mut().map(Vec::as_mut_slice).collect();
    let expected =
        asked.reference(&rule).run_with_copy(&mut theta, &grad, &mut borrowed, &mut copy);
    let own = Some(own_copy.get_mut());
    let status = by_header(&rule, &asked, &mut own_theta, &grad, &mut own_states, own);
    compare(expected, status, || {
        let beside = (!own_copy.intact()).then(|| "wrote beside".to_owned());
        difference("theta", &own_theta, &theta)
            .or_else(|| difference("copy", own_copy.get(), &copy))
            .or(beside)
    })
    .map(|what| format!("{rule:?}, {asked:?}, copied, {} elements: {what}", theta.len()))
}

/// A coefficient can be too large for a type. Both must return an error then.
fn compare(
    expected: Result<(), fused_adam::Error>,
    status: FusedAdamStatus,
    difference: impl FnOnce() -> Option<String>,
) -> Option<String> {
    match expected {
        Ok(()) if status == FusedAdamStatus::Ok => difference(),
        Err(fused_adam::Error::HyperParameter { .. }) if status == FusedAdamStatus::Value => None,
        expected => Some(format!("{status:?} for {expected:?}")),
    }
}

/// A step through the header, with the function for the type if there is one.
fn by_header<T: Numbered, G: Numbered, S: Numbered, H: Numbered>(
    rule: &AnyRule,
    asked: &Options,
    theta: &mut [T],
    grad: &[G],
    states: &mut [Guarded<S>],
    copy: Option<&mut [H]>,
) -> FusedAdamStatus {
    let handle = Handle::of(rule);
    let len = theta.len();
    let state_pointers: Vec<*mut c_void> =
        states.iter_mut().map(|state| state.get_mut().as_mut_ptr().cast()).collect();
    let of = [T::NUMBER, G::NUMBER, S::NUMBER];
    let is_8bit = S::NUMBER == FusedAdamType::Block8;
    let is_random = is_8bit || matches!(asked.rounding, Rounding::Stochastic { .. });
    let own_noise = is_random && (asked.seed, asked.offset) != (0, 0);
    // SAFETY: every pointer is to a slice of `len` elements of the given type.
    asked.options(|options| unsafe {
        let (theta, grad) = (theta.as_mut_ptr(), grad.as_ptr());
        let (states, count) = (state_pointers.as_ptr(), state_pointers.len());
        use FusedAdamType::{Bf16, Block8, F16, F32, F64};
        if copy.is_none() && !own_noise {
            macro_rules! call {
                ($function:ident) => {
                    return $function(
                        handle.get(),
                        asked.t,
                        len,
                        theta.cast(),
                        grad.cast(),
                        states.cast(),
                        count,
                        options,
                        null_mut(),
                    )
                };
            }
            match of {
                [F32, F32, F32] => call!(fused_adam_step_f32),
                [F64, F64, F64] => call!(fused_adam_step_f64),
                [Bf16, Bf16, Bf16] => call!(fused_adam_step_bf16),
                [F16, F16, F16] => call!(fused_adam_step_f16),
                [F32, F32, Block8] => call!(fused_adam_step_8bit),
                _ => {}
            }
        }
        let copy_type = if copy.is_some() { H::NUMBER as i32 } else { -7 };
        let borrowed = FusedAdamParam {
            rule: 0,
            t: asked.t,
            len,
            theta: theta.cast(),
            grad: grad.cast(),
            states,
            state_count: count,
            scalars: null(),
            scalar_count: 0,
            copy: copy.map_or(null_mut(), |copy| copy.as_mut_ptr().cast()),
            seed: asked.seed,
            offset: asked.offset,
            theta_type: T::NUMBER as i32,
            grad_type: G::NUMBER as i32,
            state_type: S::NUMBER as i32,
            copy_type,
            correction: null_mut(),
            correction_bits: 0,
        };
        fused_adam_step_all([handle.get()].as_ptr(), 1, &raw const borrowed, 1, options, null_mut())
    })
}

/// Some cases of every rule, each with its own seed.
fn every_rule(what: &str, differs: fn(&mut Random, &str) -> Option<String>) {
    let number = |name: &str| std::env::var(name).ok().map(|n| n.parse::<u64>().unwrap());
    let (seed, cases) = match number("SEED") {
        Some(seed) => (seed, 1),
        None => (0, number("CASES").unwrap_or(12)),
    };
    for name in core_rules::names() {
        for seed in seed..seed + cases {
            if let Some(difference) = differs(&mut Random(seed), name) {
                panic!("{what}, SEED={seed}: {difference}");
            }
        }
    }
}

fn every_state<T, G>()
where
    T: Numbered + Bits + Element<Float = f32>,
    G: Numbered + Bits + Element<Float = f32>,
{
    every_rule("f32 states", differs::<T, G, f32>);
    every_rule("bf16 states", differs::<T, G, bf16>);
    every_rule("f16 states", differs::<T, G, f16>);
    every_rule("states in 8 bits", differs::<T, G, Block8>);
}

fn every_grad<T: Numbered + Bits + Element<Float = f32>>() {
    every_state::<T, f32>();
    every_state::<T, bf16>();
    every_state::<T, f16>();
}

#[test]
fn theta_in_f64() {
    every_rule("f64", differs::<f64, f64, f64>);
}

#[test]
fn theta_in_f32() {
    every_grad::<f32>();
}

#[test]
fn theta_in_bf16() {
    every_grad::<bf16>();
}

#[test]
fn theta_in_f16() {
    every_grad::<f16>();
}

#[test]
fn theta_in_f32_and_a_copy() {
    every_rule("bf16 copy", copy_differs::<f32, f32, bf16>);
    every_rule("bf16 copy", copy_differs::<bf16, f32, bf16>);
    every_rule("bf16 copy", copy_differs::<f16, bf16, bf16>);
    every_rule("f16 copy", copy_differs::<f32, f32, f16>);
    every_rule("f16 copy", copy_differs::<bf16, f32, f16>);
    every_rule("f16 copy", copy_differs::<f16, f16, f16>);
    every_rule("f16 copy, states in 8 bits", copy_differs::<f32, Block8, f16>);
}

/// A step of many tensors is bit-identical to separate steps, on any number of threads.
#[test]
fn many_tensors_on_many_threads() {
    let random = &mut Random(3);
    let rule = core_rules::default("adamw");
    let handle = Handle::of(&rule);
    let lens = [0, 1, 17, 400_000, 5, 100_000, 3000];
    let theta: Vec<Vec<f32>> =
        lens.iter().map(|&len| Numbers::Ordinary.fill(random, len)).collect();
    let mut expected = theta.clone();
    for theta in &mut expected {
        let grad = vec![0.25_f32; theta.len()];
        let mut states = vec![vec![0.0_f32; theta.len()]; rule.states().len()];
        let mut states: Vec<&mut [f32]> = states.iter_mut().map(Vec::as_mut_slice).collect();
        let step =
            Step::new(&rule, 1).with_backend(Backend::Scalar).with_parallelism(Parallelism::Serial);
        step.run(theta, &grad, &mut states).unwrap();
    }
    for threads in [1, 0, 2, 3, 8] {
        expect_ok(fused_adam_set_threads(threads));
        assert!(threads == 0 || fused_adam_threads() == threads);
        let mut theta = theta.clone();
        let longest = vec![0.25_f32; 400_000];
        let mut states: Vec<Vec<Vec<f32>>> =
            lens.iter().map(|&len| vec![vec![0.0; len]; rule.states().len()]).collect();
        let pointers: Vec<Vec<*mut c_void>> = states
            .iter_mut()
            .map(|states| states.iter_mut().map(|state| state.as_mut_ptr().cast()).collect())
            .collect();
        let borrowed: Vec<FusedAdamParam> = theta
            .iter_mut()
            .zip(&pointers)
            .map(|(theta, states)| FusedAdamParam {
                rule: 0,
                t: 1,
                len: theta.len(),
                theta: theta.as_mut_ptr().cast(),
                // Gradients may overlap.
                grad: longest.as_ptr().cast(),
                states: states.as_ptr(),
                state_count: states.len(),
                scalars: null(),
                scalar_count: 0,
                copy: null_mut(),
                seed: 0,
                offset: 0,
                theta_type: 0,
                grad_type: 0,
                state_type: 0,
                copy_type: 0,
                correction: null_mut(),
                correction_bits: 0,
            })
            .collect();
        let (rules, count) = ([handle.get()], borrowed.len());
        // SAFETY: every pointer is to a slice of the given number of elements.
        expect_ok(unsafe {
            fused_adam_step_all(rules.as_ptr(), 1, borrowed.as_ptr(), count, null(), null_mut())
        });
        for (i, (own, expected)) in theta.iter().zip(&expected).enumerate() {
            let name = format!("theta of tensor {i} on {threads} threads");
            assert_eq!(difference(&name, own, expected), None);
        }
    }
}

/// The scalars of a rule whose hyper-parameters change in each step are those of the core.
#[test]
fn scalars_under_a_schedule() {
    let nadam = NAdam { lr: 0.1, ..NAdam::default() };
    let handle = Handle::of(&nadam.into());
    let mut flat = Flat::<_, f64>::new(nadam, 4).unwrap();
    let theta = [0.5, -0.25, 1.0, -2.0];
    let (mut own, mut expected) = (theta, theta);
    let mut states = [[0.0_f64; 4]; 2];
    // SAFETY: each pointer is valid for the call, for the given number of elements.
    unsafe {
        assert_eq!(fused_adam_rule_scalar_count(handle.get()), 1);
        assert_eq!(CStr::from_ptr(fused_adam_rule_scalar_name(handle.get(), 0)), c"mu_product");
        assert!(fused_adam_rule_scalar_name(handle.get(), 1).is_null());
        let mut scalars = [fused_adam_rule_scalar_after(handle.get(), 0, 0)];
        assert_eq!(scalars, [1.0]);
        for t in 1..=20 {
            let grad = expected.map(|x| x * t as f64);
            let beta1 = 0.5 + 0.02 * t as f64;
            flat.rule_mut().beta1 = beta1;
            flat.step(&mut expected, &grad).unwrap();

            expect_ok(fused_adam_rule_set(handle.get().cast_mut(), c"beta1".as_ptr(), beta1));
            let to_scalars = scalars.as_mut_ptr();
            expect_ok(fused_adam_rule_advance_scalars(handle.get(), t, to_scalars, 1));
            let states = states.each_mut().map(|state| state.as_mut_ptr().cast());
            let of = FusedAdamType::F64 as i32;
            let borrowed = FusedAdamParam {
                rule: 0,
                t,
                len: 4,
                theta: own.as_mut_ptr().cast(),
                grad: grad.as_ptr().cast(),
                states: states.as_ptr(),
                state_count: 2,
                scalars: scalars.as_ptr(),
                scalar_count: 1,
                copy: null_mut(),
                seed: 0,
                offset: 0,
                theta_type: of,
                grad_type: of,
                state_type: of,
                copy_type: 0,
                correction: null_mut(),
                correction_bits: 0,
            };
            let rules = [handle.get()];
            let (borrowed, no_report) = (&raw const borrowed, null_mut());
            expect_ok(fused_adam_step_all(rules.as_ptr(), 1, borrowed, 1, null(), no_report));
            assert_eq!(own.map(f64::to_bits), expected.map(f64::to_bits), "step {t}");
            assert_eq!(scalars, flat.scalars(), "step {t}");
        }
        // With the last momentum in all steps, the scalar would be different.
        assert_ne!(scalars[0], fused_adam_rule_scalar_after(handle.get(), 0, 20));
    }
    let constant = NAdam::default().scalar_after(0, 7);
    let handle = Handle::of(&NAdam::default().into());
    // SAFETY: the handle is that of a rule.
    unsafe {
        assert_eq!(fused_adam_rule_scalar_after(handle.get(), 0, 7), constant);
        assert_eq!(fused_adam_rule_scalar_after(handle.get(), 1, 7), 0.0);
    }
}

/// The names that a program can list are those of all rules.
#[test]
fn rules_are_listed() {
    let listed: Vec<&str> = (0_usize..)
        .map(|i| fused_adam_rule_name_at(i))
        .take_while(|name| !name.is_null())
        // SAFETY: the string is valid forever.
        .map(|name| unsafe { CStr::from_ptr(name) }.to_str().unwrap())
        .collect();
    assert_eq!(listed, AnyRule::NAMES);
    assert!(fused_adam_rule_name_at(usize::MAX).is_null());
}
