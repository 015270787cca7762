//! Every backend, serial and parallel, against the scalar reference, to the bit.
//!
//! The same properties are stamped on each entry of one table: backend × schedule × rule. A
//! backend that this CPU lacks shows up as `ignored`, by name. Each property draws its cases with
//! proptest: the rule's options, step numbers, lengths around the widths of registers and
//! chunks, misalignments, and numbers of every kind; and takes each case in every combination of
//! element types that there is. `PROPTEST_CASES` sets how many cases (default 8 for each entry),
//! `PROPTEST_RNG_SEED` repeats a run; a failure prints its seed.

mod common;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[path = "common/machine_code.rs"]
mod machine_code;

#[cfg(feature = "parallel")]
use std::{num::NonZeroUsize, sync::LazyLock};

use common::{Bits, Guarded, Numbers, Random, decoupled, difference};
use fused_adam::{
    AdaBelief, AdaBound, AdaGrad, AdaMax, Adam, AnyRule, Backend, Copied, Error, Flat, Lion, NAdam,
    Parameter, RAdam, RmsProp, Rounding, Rule, Schedule, Sgd, Single, Step, bf16, f16,
};
use libtest_mimic::{Arguments, Failed, Trial};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};

fn main() {
    let mut trials = Vec::new();
    for backend in Backend::ALL {
        for &threads in Threads::ALL {
            for rule in AnyRule::NAMES {
                table(&mut trials, backend, threads, rule);
            }
        }
    }
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    trials.push(Trial::test("no_kernel_fuses_a_multiplication_with_an_addition", nothing_is_fused));
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// In the machine code of this program, which has every kernel for every type and backend.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn nothing_is_fused() -> Result<(), Failed> {
    let kernels = machine_code::kernels();
    let clones = kernels.keys().filter(|name| name.contains("vectorize")).count();
    println!("{} functions looked at, {clones} of them dispatched", kernels.len());
    // Seventeen kernels at two levels, and more than one combination of types.
    if clones < 2 * 17 * 2 {
        return Err(format!("only {clones} dispatched kernels were found").into());
    }
    match kernels.iter().find(|(_, function)| !function.fused.is_empty()) {
        Some((name, function)) => Err(format!("{name} fuses: {:?}", function.fused).into()),
        None => Ok(()),
    }
}

/// The properties of one entry of the table.
fn table(trials: &mut Vec<Trial>, backend: Backend, threads: Threads, rule: &'static str) {
    let properties: [(&str, Which); 3] = [
        ("equals_the_reference", |types| types.equals_the_reference),
        ("splits_do_not_show", |types| types.splits_do_not_show),
        ("owner_equals_slices", |types| types.owner_equals_slices),
    ];
    for (name, property) in properties {
        let name = format!("{backend}::{threads}::{rule}::{name}");
        let run = move || check(backend, threads, rule, property);
        trials.push(Trial::test(name, run).with_ignored_flag(!backend.is_available()));
    }
}

/// Takes a case and says what is wrong with the outcome.
type Property = fn(&Case, Backend, Schedule) -> Result<(), String>;

/// One of the properties of a combination of element types.
type Which = fn(&Types) -> Property;

/// A combination of element types, and the properties for it.
struct Types {
    name: String,
    /// From so many elements on, the automatic choice is many threads.
    long: usize,
    equals_the_reference: Property,
    splits_do_not_show: Property,
    owner_equals_slices: Property,
}

impl Types {
    /// Every combination of types for θ, g, the states and (`f32` only) a copy of θ.
    fn all() -> Vec<Types> {
        let mut all = Vec::new();
        Self::of::<f64, f64, f64, NoCopy>(&mut all);
        Self::of_theta::<f32, NoCopy>(&mut all);
        Self::of_theta::<bf16, NoCopy>(&mut all);
        Self::of_theta::<f16, NoCopy>(&mut all);
        Self::of_theta::<f32, Guarded<bf16>>(&mut all);
        Self::of_theta::<f32, Guarded<f16>>(&mut all);
        all
    }

    fn of_theta<T, C>(all: &mut Vec<Types>)
    where
        T: Bits + Single,
        T: Parameter<f32, f32> + Parameter<f32, bf16> + Parameter<f32, f16>,
        T: Parameter<bf16, f32> + Parameter<bf16, bf16> + Parameter<bf16, f16>,
        T: Parameter<f16, f32> + Parameter<f16, bf16> + Parameter<f16, f16>,
        C: CopyOf<T, f32, f32> + CopyOf<T, f32, bf16> + CopyOf<T, f32, f16>,
        C: CopyOf<T, bf16, f32> + CopyOf<T, bf16, bf16> + CopyOf<T, bf16, f16>,
        C: CopyOf<T, f16, f32> + CopyOf<T, f16, bf16> + CopyOf<T, f16, f16>,
    {
        Self::of_grad::<T, f32, C>(all);
        Self::of_grad::<T, bf16, C>(all);
        Self::of_grad::<T, f16, C>(all);
    }

    fn of_grad<T, G, C>(all: &mut Vec<Types>)
    where
        T: Bits + Parameter<G, f32> + Parameter<G, bf16> + Parameter<G, f16>,
        G: Bits,
        C: CopyOf<T, G, f32> + CopyOf<T, G, bf16> + CopyOf<T, G, f16>,
    {
        Self::of::<T, G, f32, C>(all);
        Self::of::<T, G, bf16, C>(all);
        Self::of::<T, G, f16, C>(all);
    }

    fn of<T: Bits, G: Bits, S: Bits, C: CopyOf<T, G, S>>(all: &mut Vec<Types>) {
        all.push(Types {
            name: format!("theta {}, g {}, state {}{}", T::NAME, G::NAME, S::NAME, C::name()),
            long: LONG_BYTES / size_of::<T>(),
            equals_the_reference: equals_the_reference::<T, G, S, C>,
            splits_do_not_show: splits_do_not_show::<T, G, S, C>,
            owner_equals_slices: owner_equals_slices::<T, G, S, C>,
        });
    }
}

/// Where θ is stored once more, if anywhere, and the calls that do it.
trait CopyOf<T, G, S>: Sized {
    fn name() -> String;

    fn new(case: &Case) -> Self;

    fn run(
        step: &Step<'_, AnyRule>,
        theta: &mut [T],
        grad: &[G],
        state: &mut [&mut [S]],
        copy: (&mut Self, std::ops::Range<usize>),
    ) -> Result<(), Error>;

    fn step(
        owner: &mut Flat<AnyRule, S>,
        theta: &mut [T],
        grad: &[G],
        copy: &mut Self,
    ) -> Result<(), Error>;

    fn expect(&self, other: &Self) -> Result<(), String>;
}

struct NoCopy;

impl<T: Parameter<G, S>, G: Bits, S: Bits> CopyOf<T, G, S> for NoCopy {
    fn name() -> String {
        String::new()
    }

    fn new(_: &Case) -> Self {
        NoCopy
    }

    fn run(
        step: &Step<'_, AnyRule>,
        theta: &mut [T],
        grad: &[G],
        state: &mut [&mut [S]],
        _: (&mut Self, std::ops::Range<usize>),
    ) -> Result<(), Error> {
        step.run_mixed(theta, grad, state)
    }

    fn step(
        owner: &mut Flat<AnyRule, S>,
        theta: &mut [T],
        grad: &[G],
        _: &mut Self,
    ) -> Result<(), Error> {
        owner.step_mixed(theta, grad)
    }

    fn expect(&self, _: &Self) -> Result<(), String> {
        Ok(())
    }
}

impl<G: Bits, S: Bits, H: Bits + Copied<G, S>> CopyOf<f32, G, S> for Guarded<H> {
    fn name() -> String {
        format!(", copy {}", H::NAME)
    }

    fn new(case: &Case) -> Self {
        Guarded::new(&vec![H::from_f64(0.0); case.len], case.offsets[4] / 2)
    }

    fn run(
        step: &Step<'_, AnyRule>,
        theta: &mut [f32],
        grad: &[G],
        state: &mut [&mut [S]],
        (copy, range): (&mut Self, std::ops::Range<usize>),
    ) -> Result<(), Error> {
        step.run_with_copy(theta, grad, state, &mut copy.get_mut()[range])
    }

    fn step(
        owner: &mut Flat<AnyRule, S>,
        theta: &mut [f32],
        grad: &[G],
        copy: &mut Self,
    ) -> Result<(), Error> {
        owner.step_with_copy(theta, grad, copy.get_mut())
    }

    fn expect(&self, reference: &Self) -> Result<(), String> {
        expect("copy", self, reference)
    }
}

/// Runs a property on many cases of a rule.
fn check(backend: Backend, threads: Threads, rule: &str, property: Which) -> Result<(), Failed> {
    let mut config = Config { failure_persistence: None, ..Config::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 8;
    }
    if config.rng_seed == RngSeed::Random {
        let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        config.rng_seed = RngSeed::Fixed(clock.as_nanos() as u64);
    }
    let seed = config.rng_seed;
    let types = Types::all();
    let outcome = TestRunner::new(config).run(&case(rule), |case| {
        for (i, of) in types.iter().enumerate() {
            let (mut case, property) = (case.clone(), property(of));
            let result = match threads {
                Threads::Serial => property(&case, backend, Schedule::Serial),
                Threads::Auto => {
                    if case.seed as usize % (2 * types.len()) == i {
                        case.len += of.long - 2;
                    }
                    on_pool(&case, || property(&case, backend, Schedule::Auto))
                }
                #[cfg(feature = "parallel")]
                Threads::Chunks => {
                    let chunks = Schedule::Chunks(NonZeroUsize::new(case.chunk).unwrap());
                    on_pool(&case, || property(&case, backend, chunks))
                }
            };
            result.map_err(|e| TestCaseError::fail(format!("{}: {e}", of.name)))?;
        }
        Ok(())
    });
    outcome.map_err(|error| format!("with seed {seed:?}: {error}").into())
}

/// The threads of an entry of the table.
#[derive(Clone, Copy)]
enum Threads {
    Serial,
    /// As the crate chooses, every other case with buffers in one combination of types that are
    /// long enough for many threads.
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

/// From so many bytes of θ on, the automatic choice is many threads (`suite::threads` holds it to
/// that).
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
    rounding: Rounding,
    /// The index of the first element, for the rounding.
    first: u64,
    /// Misalignment of θ, g and the states, in elements.
    offsets: [usize; 5],
    /// Elements in a chunk, and which of the pools takes them.
    #[cfg_attr(not(feature = "parallel"), expect(dead_code, reason = "there are no chunks"))]
    chunk: usize,
    #[cfg_attr(not(feature = "parallel"), expect(dead_code, reason = "there are no pools"))]
    pool: usize,
}

fn case(rule: &str) -> impl Strategy<Value = Case> + use<> {
    let numbers = prop_oneof![Just(Numbers::Ordinary), Just(Numbers::Wild)];
    let chunk = prop_oneof![1..=9_usize, Just(64), Just(100), Just(1 << 10), 1..=5000_usize];
    let rest = (step_number(), numbers, any::<u64>(), any::<[u8; 5]>(), chunk, 0..8_usize);
    (rules(rule), len(), rounding(), rest).prop_map(
        |(rule, len, (rounding, first), (t, numbers, seed, offsets, chunk, pool))| {
            // A chunk of one element is a task of its own: enough of them, but not thousands.
            let len = len.min(chunk * 500);
            let offsets = offsets.map(|offset| usize::from(offset % 16));
            Case { rule, t, len, numbers, seed, rounding, first, offsets, chunk, pool }
        },
    )
}

/// 0, 1, everything up to the widest block and its tail, around its multiples, and sums of powers
/// of two.
fn len() -> impl Strategy<Value = usize> {
    let around = (1..=40_usize, prop_oneof![Just(4), Just(8), Just(16), Just(64)], 0..3_usize)
        .prop_map(|(times, width, more)| (times * width + more).saturating_sub(1));
    let powers = proptest::collection::vec(0..11_u32, 1..4)
        .prop_map(|powers| powers.into_iter().map(|power| 1 << power).sum());
    prop_oneof![2 => 0..=150_usize, 2 => around, 2 => powers]
}

/// From 1 to 10^9, each order of magnitude alike.
fn step_number() -> impl Strategy<Value = u64> {
    prop_oneof![1..=10_u64, (0.0..9.0_f64).prop_map(|x| 10_f64.powf(x) as u64), Just(1_000_000_000)]
}

/// Either rounding; and the first index, also just before it outgrows 32 bits, or 64.
fn rounding() -> impl Strategy<Value = (Rounding, u64)> {
    let stochastic = any::<u64>().prop_map(|seed| Rounding::Stochastic { seed });
    let border = (prop_oneof![Just(1_u64 << 32), Just(0)], 0..1000_u64);
    let first = prop_oneof![
        Just(0),
        any::<u64>(),
        border.prop_map(|(border, before)| border.wrapping_sub(before))
    ];
    (prop_oneof![Just(Rounding::Nearest), stochastic], first)
}

/// A rule with any hyper-parameters and options.
fn rules(name: &str) -> BoxedStrategy<AnyRule> {
    let usual = proptest::sample::select(vec![0.9, 0.999]);
    let beta =
        move || prop_oneof![2 => usual.clone(), 1 => Just(0.0), 1 => Just(0.5), 1 => 0.0..1.0_f64];
    let lr = prop_oneof![Just(1e-3), Just(0.0), 1e-6..10.0_f64];
    let eps = prop_oneof![Just(1e-8), 1e-30..1.0_f64];
    let decay = prop_oneof![Just(0.0), Just(0.01), 0.0..2.0_f64];
    let momentum = prop_oneof![Just(0.0), Just(0.9), Just(1.0), 0.0..1.0_f64];
    let all = (lr, [beta(), beta()], eps, decay, momentum, any::<[bool; 4]>(), 0.0..1.0_f64);
    let name = name.to_owned();
    all.prop_map(move |(lr, [beta1, beta2], eps, weight_decay, momentum, flags, more)| {
        let [maximize, decoupled_weight_decay, flag, other] = flags;
        match name.as_str() {
            "sgd" => {
                let nesterov = flag && momentum > 0.0;
                let dampening = if nesterov || other { 0.0 } else { more };
                let average = other;
                Sgd {
                    lr,
                    momentum,
                    dampening,
                    weight_decay,
                    decoupled_weight_decay,
                    nesterov,
                    average,
                    maximize,
                }
                .into()
            }
            "rmsprop" => RmsProp {
                lr,
                alpha: beta1,
                eps,
                eps_inside: flag,
                weight_decay,
                momentum,
                centered: other,
                maximize,
            }
            .into(),
            "adagrad" => {
                let initial_accumulator_value = more;
                AdaGrad {
                    lr,
                    lr_decay: beta1,
                    initial_accumulator_value,
                    eps,
                    weight_decay,
                    maximize,
                }
                .into()
            }
            "adam" | "adamw" => {
                let (amsgrad, bias_correction) = (flag, other);
                let adam = Adam {
                    lr,
                    beta1,
                    beta2,
                    eps,
                    weight_decay,
                    amsgrad,
                    maximize,
                    bias_correction,
                };
                if name == "adam" { adam.into() } else { decoupled(adam).into() }
            }
            "adamax" => AdaMax { lr, beta1, beta2, eps, weight_decay, maximize }.into(),
            "nadam" => NAdam {
                lr,
                beta1,
                beta2,
                eps,
                weight_decay,
                decoupled_weight_decay,
                momentum_decay: if flag { 4e-3 } else { more },
                maximize,
            }
            .into(),
            "radam" => {
                RAdam { lr, beta1, beta2, eps, weight_decay, decoupled_weight_decay, maximize }
                    .into()
            }
            "adabound" => AdaBound {
                lr,
                beta1,
                beta2,
                final_lr: momentum,
                gamma: if other { more } else { 1e-3 },
                eps,
                weight_decay,
                decoupled_weight_decay,
                amsbound: flag,
                maximize,
            }
            .into(),
            "adabelief" => {
                AdaBelief { lr, beta1, beta2, eps, weight_decay, decoupled_weight_decay, maximize }
                    .into()
            }
            "lion" => Lion { lr, beta1, beta2, weight_decay, maximize }.into(),
            name => unreachable!("no strategy for {name}"),
        }
    })
    .boxed()
}

/// The buffers of a step.
struct Buffers<T, G, S, C> {
    theta: Guarded<T>,
    grad: Guarded<G>,
    state: Vec<Guarded<S>>,
    copy: C,
}

impl<T: Bits, G: Bits, S: Bits, C: CopyOf<T, G, S>> Buffers<T, G, S, C> {
    /// Those of `case`, at the misalignments given.
    fn of(case: &Case, offsets: [usize; 5]) -> Self {
        let mut random = Random(case.seed);
        let theta = Guarded::new(&case.numbers.fill(&mut random, case.len), offsets[0]);
        let grad = Guarded::new(&case.numbers.fill(&mut random, case.len), offsets[1]);
        let state = (0..case.rule.state_names().len())
            .map(|i| Guarded::new(&case.numbers.fill(&mut random, case.len), offsets[2 + i]))
            .collect();
        Buffers { theta, grad, state, copy: C::new(case) }
    }

    /// Takes the step of `case` on a range of the buffers.
    fn step(&mut self, case: &Case, range: std::ops::Range<usize>, on: (Backend, Schedule)) {
        let mut state: Vec<_> =
            self.state.iter_mut().map(|state| &mut state.get_mut()[range.clone()]).collect();
        let step = Step::new(&case.rule, case.t)
            .backend(on.0)
            .schedule(on.1)
            .rounding(case.rounding)
            .offset(case.first.wrapping_add(range.start as u64));
        C::run(
            &step,
            &mut self.theta.get_mut()[range.clone()],
            &self.grad.get()[range.clone()],
            &mut state,
            (&mut self.copy, range),
        )
        .unwrap();
    }

    /// The step by the reference, at no misalignment.
    fn reference(case: &Case) -> Self {
        let mut buffers = Self::of(case, [0; 5]);
        buffers.step(case, 0..case.len, (Backend::Scalar, Schedule::Serial));
        buffers
    }

    fn expect(&self, reference: &Self, case: &Case) -> Result<(), String> {
        expect("theta", &self.theta, &reference.theta)?;
        let names = case.rule.state_names().iter();
        for ((name, got), expected) in names.zip(&self.state).zip(&reference.state) {
            expect(name, got, expected)?;
        }
        self.copy.expect(&reference.copy)
    }
}

/// The bits of the reference, and nothing beside them.
fn expect<E: Bits>(name: &str, got: &Guarded<E>, reference: &Guarded<E>) -> Result<(), String> {
    if !got.intact() {
        return Err(format!("something was written beside {name}"));
    }
    difference(name, got.get(), reference.get()).map_or(Ok(()), Err)
}

/// The whole step gives the bits of the reference, leaves g as it was, and writes nothing beside
/// its buffers.
fn equals_the_reference<T: Bits, G: Bits, S: Bits, C: CopyOf<T, G, S>>(
    case: &Case,
    backend: Backend,
    schedule: Schedule,
) -> Result<(), String> {
    let mut buffers = Buffers::<T, G, S, C>::of(case, case.offsets);
    buffers.step(case, 0..case.len, (backend, schedule));
    buffers.expect(&Buffers::reference(case), case)?;
    let untouched = Buffers::<T, G, S, C>::of(case, [0; 5]);
    expect("grad", &buffers.grad, &untouched.grad)
}

/// Stepping the parts between random cuts, in any order, gives the bits of stepping the whole.
fn splits_do_not_show<T: Bits, G: Bits, S: Bits, C: CopyOf<T, G, S>>(
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

    let mut buffers = Buffers::<T, G, S, C>::of(case, case.offsets);
    for part in parts {
        buffers.step(case, part, (backend, schedule));
    }
    buffers.expect(&Buffers::reference(case), case)
}

/// Three steps by the owner of the state give the bits of three steps on slices.
fn owner_equals_slices<T: Bits, G: Bits, S: Bits, C: CopyOf<T, G, S>>(
    case: &Case,
    backend: Backend,
    schedule: Schedule,
) -> Result<(), String> {
    let mut slices = Buffers::<T, G, S, C>::of(case, case.offsets);
    let states = slices.state.iter().map(|state| state.get().to_vec()).collect();
    let mut theta = slices.theta.get().to_vec();
    let mut copy = C::new(case);
    let mut owner = Flat::resume(case.rule, case.t - 1, states)
        .unwrap()
        .with_backend(backend)
        .with_schedule(schedule)
        .with_rounding(case.rounding)
        .with_offset(case.first);
    for t in case.t..case.t + 3 {
        let case = Case { t, ..case.clone() };
        slices.step(&case, 0..case.len, (Backend::Scalar, Schedule::Serial));
        C::step(&mut owner, &mut theta, slices.grad.get(), &mut copy).unwrap();
    }
    let (_, t, states) = owner.into_parts();
    if t != case.t + 2 {
        return Err(format!("counted to {t} from {} in three steps", case.t - 1));
    }
    difference("theta", &theta, slices.theta.get()).map_or(Ok(()), Err)?;
    let names = case.rule.state_names().iter();
    for ((name, got), expected) in names.zip(&states).zip(&slices.state) {
        difference(name, got, expected.get()).map_or(Ok(()), Err)?;
    }
    copy.expect(&slices.copy)
}
