//! Every backend, serial and parallel, against the scalar reference, to the bit.
//!
//! The same properties are stamped on each entry of one table: backend × schedule × element. A
//! backend that this CPU lacks shows up as `ignored`, by name. Each property draws its cases with
//! proptest: rules with all their options, step numbers, lengths around the widths of registers and
//! chunks, misalignments, and numbers of every kind. `PROPTEST_CASES` sets how many
//! (default 256 for each entry), `PROPTEST_RNG_SEED` repeats a run; a failure prints its seed.

mod common;

#[cfg(feature = "parallel")]
use std::{num::NonZeroUsize, sync::LazyLock};

use common::{Bits, Guarded, Numbers, Random, difference};
use fused_adam::{Adam, AdamW, Backend, Element, Error, Flat, Rule, Schedule, Step, WithKernel};
use libtest_mimic::{Arguments, Failed, Trial};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};

fn main() {
    let mut trials = Vec::new();
    for backend in Backend::ALL {
        for &threads in Threads::ALL {
            table::<f32>(&mut trials, backend, threads);
            table::<f64>(&mut trials, backend, threads);
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// The properties of one entry of the table.
fn table<E: Bits>(trials: &mut Vec<Trial>, backend: Backend, threads: Threads) {
    type Property = fn(&Case, Backend, Schedule) -> Result<(), String>;
    let properties: [(&str, Property); 3] = [
        ("equals_the_reference", equals_the_reference::<E>),
        ("splits_do_not_show", splits_do_not_show::<E>),
        ("owner_equals_slices", owner_equals_slices::<E>),
    ];
    for (name, property) in properties {
        let name = format!("{backend}::{threads}::{}::{name}", E::NAME);
        let long = LONG_BYTES / size_of::<E>();
        let run = move || check(backend, threads, long, property);
        trials.push(Trial::test(name, run).with_ignored_flag(!backend.is_available()));
    }
}

/// Runs a property on many cases.
fn check(
    backend: Backend,
    threads: Threads,
    long: usize,
    property: fn(&Case, Backend, Schedule) -> Result<(), String>,
) -> Result<(), Failed> {
    let mut config = Config { failure_persistence: None, ..Config::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 256;
    }
    if config.rng_seed == RngSeed::Random {
        let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        config.rng_seed = RngSeed::Fixed(clock.as_nanos() as u64);
    }
    let seed = config.rng_seed;
    let outcome = TestRunner::new(config).run(&case(), |mut case| {
        let result = match threads {
            Threads::Serial => property(&case, backend, Schedule::Serial),
            Threads::Auto => {
                if case.seed % 8 == 0 {
                    case.len += long - 2;
                }
                on_pool(&case, || property(&case, backend, Schedule::Auto))
            }
            #[cfg(feature = "parallel")]
            Threads::Chunks => {
                let chunks = Schedule::Chunks(NonZeroUsize::new(case.chunk).unwrap());
                on_pool(&case, || property(&case, backend, chunks))
            }
        };
        result.map_err(TestCaseError::fail)
    });
    outcome.map_err(|error| format!("with seed {seed:?}: {error}").into())
}

/// The threads of an entry of the table.
#[derive(Clone, Copy)]
enum Threads {
    Serial,
    /// As the crate chooses, one case in eight with buffers that are long enough for many threads.
    Auto,
    /// Chunks of any length.
    #[cfg(feature = "parallel")]
    Chunks,
}

impl Threads {
    const ALL: &[Threads] = &[
        Threads::Serial,
        Threads::Auto,
        #[cfg(feature = "parallel")]
        Threads::Chunks,
    ];
}

impl std::fmt::Display for Threads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Threads::Serial => "serial",
            Threads::Auto => "auto",
            #[cfg(feature = "parallel")]
            Threads::Chunks => "chunks",
        })
    }
}

/// From so many bytes of θ on, the automatic choice is many threads (`suite::threads` holds it to that).
const LONG_BYTES: usize = 512 << 10;

/// Runs `f` in one of the pools, which the case chooses.
#[cfg(feature = "parallel")]
fn on_pool<T: Send>(case: &Case, f: impl FnOnce() -> T + Send) -> T {
    POOLS[case.pool].install(f)
}

#[cfg(not(feature = "parallel"))]
fn on_pool<T>(_: &Case, f: impl FnOnce() -> T) -> T {
    f()
}

/// Pools of 1 to 8 threads.
#[cfg(feature = "parallel")]
static POOLS: LazyLock<Vec<rayon::ThreadPool>> = LazyLock::new(|| {
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    (1..=8).map(pool).collect()
});

/// One step to be taken, in all that the bits may not depend on and all that they may.
#[derive(Clone, Debug)]
struct Case {
    rule: AnyRule,
    t: u64,
    len: usize,
    numbers: Numbers,
    seed: u64,
    /// Misalignment of θ, g and the states, in elements.
    offsets: [usize; 5],
    /// Elements in a chunk, and which of the pools takes them.
    #[cfg_attr(not(feature = "parallel"), expect(dead_code, reason = "there are no chunks"))]
    chunk: usize,
    #[cfg_attr(not(feature = "parallel"), expect(dead_code, reason = "there are no pools"))]
    pool: usize,
}

fn case() -> impl Strategy<Value = Case> {
    let numbers = prop_oneof![Just(Numbers::Ordinary), Just(Numbers::Wild)];
    let chunk = prop_oneof![1..=9_usize, Just(64), Just(100), Just(1 << 10), 1..=5000_usize];
    let rest = (step_number(), numbers, any::<u64>(), any::<[u8; 5]>(), chunk, 0..8_usize);
    (rule(), len(), rest).prop_map(|(rule, len, (t, numbers, seed, offsets, chunk, pool))| {
        // A chunk of one element is a task of its own: enough of them, but not thousands.
        let len = len.min(chunk * 500);
        let offsets = offsets.map(|offset| usize::from(offset % 16));
        Case { rule, t, len, numbers, seed, offsets, chunk, pool }
    })
}

/// 0, 1, everything up to the widest block and its tail, around its multiples, and sums of powers
/// of two.
fn len() -> impl Strategy<Value = usize> {
    let around = (1..=40_usize, prop_oneof![Just(4), Just(8), Just(16), Just(64)], 0..3_usize)
        .prop_map(|(times, width, more)| (times * width + more).saturating_sub(1));
    let powers = proptest::collection::vec(0..13_u32, 1..4)
        .prop_map(|powers| powers.into_iter().map(|power| 1 << power).sum());
    prop_oneof![2 => 0..=150_usize, 2 => around, 2 => powers]
}

/// From 1 to 10^9, each order of magnitude alike.
fn step_number() -> impl Strategy<Value = u64> {
    prop_oneof![1..=10_u64, (0.0..9.0_f64).prop_map(|x| 10_f64.powf(x) as u64), Just(1_000_000_000)]
}

/// Adam and AdamW with any hyper-parameters and options.
fn rule() -> impl Strategy<Value = AnyRule> {
    let lr = prop_oneof![Just(1e-3), Just(0.0), 1e-6..10.0_f64];
    let usual = proptest::sample::select(vec![0.9, 0.999]);
    let beta =
        || prop_oneof![2 => usual.clone(), 1 => Just(0.0), 1 => Just(0.5), 1 => 0.0..1.0_f64];
    let eps = prop_oneof![Just(1e-8), 1e-30..1.0_f64];
    let decay = prop_oneof![Just(0.0), Just(0.01), 0.0..2.0_f64];
    (any::<[bool; 4]>(), lr, beta(), beta(), eps, decay).prop_map(
        |([adamw, amsgrad, maximize, bias_correction], lr, beta1, beta2, eps, weight_decay)| {
            if adamw {
                AnyRule::AdamW(AdamW {
                    lr,
                    beta1,
                    beta2,
                    eps,
                    weight_decay,
                    amsgrad,
                    maximize,
                    bias_correction,
                })
            } else {
                AnyRule::Adam(Adam {
                    lr,
                    beta1,
                    beta2,
                    eps,
                    weight_decay,
                    amsgrad,
                    maximize,
                    bias_correction,
                })
            }
        },
    )
}

/// Any rule of the crate.
#[derive(Clone, Debug)]
enum AnyRule {
    Adam(Adam),
    AdamW(AdamW),
}

impl Rule for AnyRule {
    fn state_names(&self) -> &'static [&'static str] {
        match self {
            AnyRule::Adam(rule) => rule.state_names(),
            AnyRule::AdamW(rule) => rule.state_names(),
        }
    }

    fn check(&self) -> Result<(), Error> {
        match self {
            AnyRule::Adam(rule) => rule.check(),
            AnyRule::AdamW(rule) => rule.check(),
        }
    }

    fn with_kernel<E: Element, W: WithKernel<E>>(&self, t: u64, then: W) -> Result<(), Error> {
        match self {
            AnyRule::Adam(rule) => rule.with_kernel(t, then),
            AnyRule::AdamW(rule) => rule.with_kernel(t, then),
        }
    }
}

/// The buffers of a step: θ, then g, then the states.
struct Buffers<E> {
    names: Vec<&'static str>,
    all: Vec<Guarded<E>>,
}

impl<E: Bits> Buffers<E> {
    /// Those of `case`, at the misalignments given.
    fn of(case: &Case, offsets: [usize; 5]) -> Self {
        let mut random = Random(case.seed);
        let mut names = vec!["theta", "grad"];
        names.extend(case.rule.state_names());
        let all = (0..names.len())
            .map(|i| Guarded::new(&case.numbers.fill(&mut random, case.len), offsets[i]))
            .collect();
        Buffers { names, all }
    }

    /// Takes the step of `case` on a range of the buffers.
    fn step(&mut self, case: &Case, range: std::ops::Range<usize>, on: (Backend, Schedule)) {
        let [theta, grad, state @ ..] = &mut self.all[..] else { unreachable!() };
        let mut state: Vec<_> =
            state.iter_mut().map(|state| &mut state.get_mut()[range.clone()]).collect();
        Step::new(&case.rule, case.t)
            .backend(on.0)
            .schedule(on.1)
            .run(&mut theta.get_mut()[range.clone()], &grad.get()[range], &mut state)
            .unwrap();
    }

    /// The step by the reference, at no misalignment.
    fn reference(case: &Case) -> Self {
        let mut buffers = Self::of(case, [0; 5]);
        buffers.step(case, 0..case.len, (Backend::Scalar, Schedule::Serial));
        buffers
    }

    fn expect(&self, reference: &Self) -> Result<(), String> {
        for ((name, got), expected) in self.names.iter().zip(&self.all).zip(&reference.all) {
            if let Some(difference) = difference(name, got.get(), expected.get()) {
                return Err(difference);
            }
            if !got.intact() {
                return Err(format!("something was written beside {name}"));
            }
        }
        Ok(())
    }
}

/// The whole step gives the bits of the reference, leaves g as it was, and writes nothing beside
/// its buffers.
fn equals_the_reference<E: Bits>(
    case: &Case,
    backend: Backend,
    schedule: Schedule,
) -> Result<(), String> {
    let mut buffers = Buffers::<E>::of(case, case.offsets);
    buffers.step(case, 0..case.len, (backend, schedule));
    buffers.expect(&Buffers::reference(case))?;
    let untouched = Buffers::<E>::of(case, [0; 5]);
    difference("grad", buffers.all[1].get(), untouched.all[1].get()).map_or(Ok(()), Err)
}

/// Stepping the parts between random cuts, in any order, gives the bits of stepping the whole.
fn splits_do_not_show<E: Bits>(
    case: &Case,
    backend: Backend,
    schedule: Schedule,
) -> Result<(), String> {
    let mut random = Random(case.seed ^ 0x51);
    let mut cuts = vec![0, case.len];
    cuts.extend((0..random.below(6)).map(|_| random.below(case.len + 1)));
    cuts.sort_unstable();
    let mut parts: Vec<_> = cuts.windows(2).map(|cut| cut[0]..cut[1]).collect();
    let turn = random.below(parts.len());
    parts.rotate_left(turn);

    let mut buffers = Buffers::<E>::of(case, case.offsets);
    for part in parts {
        buffers.step(case, part, (backend, schedule));
    }
    buffers.expect(&Buffers::reference(case))
}

/// Three steps by the owner of the state give the bits of three steps on slices.
fn owner_equals_slices<E: Bits>(
    case: &Case,
    backend: Backend,
    schedule: Schedule,
) -> Result<(), String> {
    let mut slices = Buffers::<E>::of(case, case.offsets);
    let states = slices.all[2..].iter().map(|state| state.get().to_vec()).collect();
    let mut theta = slices.all[0].get().to_vec();
    let mut owner = Flat::resume(case.rule.clone(), case.t - 1, states)
        .unwrap()
        .with_backend(backend)
        .with_schedule(schedule);
    for t in case.t..case.t + 3 {
        let case = Case { t, ..case.clone() };
        slices.step(&case, 0..case.len, (Backend::Scalar, Schedule::Serial));
        owner.step(&mut theta, slices.all[1].get()).unwrap();
    }
    let (_, t, states) = owner.into_parts();
    if t != case.t + 2 {
        return Err(format!("counted to {t} from {} in three steps", case.t - 1));
    }
    let got =
        [("theta", &theta)].into_iter().chain(case.rule.state_names().iter().copied().zip(&states));
    let expected = [&slices.all[0]].into_iter().chain(&slices.all[2..]);
    for ((name, got), expected) in got.zip(expected) {
        difference(name, got, expected.get()).map_or(Ok(()), Err)?;
    }
    Ok(())
}
