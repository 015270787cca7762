//! Compares every backend, serial and parallel, with the scalar reference, bit for bit.
//!
//! The same properties are tested for each entry of one table: backend × parallelism × rule. A
//! backend that this CPU does not support is listed as `ignored`, by name. proptest generates the
//! cases of each property: the rule's options, step numbers, lengths around the widths of registers
//! and chunks, misalignments, and numbers of every kind. Each case runs with every combination of
//! element types. `PROPTEST_CASES` sets the number of cases (default 6 for each entry), and
//! `PROPTEST_RNG_SEED` repeats a run. A failure prints its seed.

mod cases;
#[path = "../common/mod.rs"]
mod common;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[path = "../common/machine_code.rs"]
mod machine_code;
mod properties;
mod types;

// Links to the compiled kernels.
use fused_adam_test_kernels as _;

#[cfg(feature = "parallel")]
use std::{num::NonZeroUsize, sync::LazyLock};

use cases::{Case, case};
use common::rules;
use fused_adam::{Backend, Parallelism};
use libtest_mimic::{Arguments, Failed, Trial};
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestRunner};
use types::{Types, Which};

fn main() {
    let mut trials = Vec::new();
    for &backend in Backend::ALL {
        for &threads in Threads::ALL {
            for rule in rules::names() {
                table(&mut trials, backend, threads, rule);
            }
        }
    }
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    trials.push(Trial::test("no_kernel_fuses_a_multiplication_with_an_addition", nothing_is_fused));
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// Checks the machine code of this program, which has every kernel for every type and backend.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn nothing_is_fused() -> Result<(), Failed> {
    let kernels = machine_code::kernels();
    let clones = kernels.keys().filter(|name| name.contains("vectorize")).count();
    println!("{} functions looked at, {clones} of them dispatched", kernels.len());
    // There must be clones of each rule with each set of states, for two instruction sets, for more
    // than one combination of types. Rules can share a kernel, and there are more combinations than
    // this.
    if clones < 2 * rules::variants().len() * 2 {
        return Err(format!("only {clones} dispatched kernels were found").into());
    }
    match kernels.iter().find(|(_, function)| !function.fused.is_empty()) {
        Some((name, function)) => Err(format!("{name} fuses: {:?}", function.fused).into()),
        None => Ok(()),
    }
}

/// Adds the properties of one entry of the table.
fn table(trials: &mut Vec<Trial>, backend: Backend, threads: Threads, rule: &'static str) {
    let properties: [(&str, Which); 5] = [
        ("equals_the_reference", |types| types.equals_the_reference),
        ("splits_do_not_show", |types| types.splits_do_not_show),
        ("owner_equals_slices", |types| types.owner_equals_slices),
        ("finite_states_stay_finite", |types| types.finite_states_stay_finite),
        ("bad_elements_stay_visible", |types| types.bad_elements_stay_visible),
    ];
    // The last two do not depend on threads.
    let count = if matches!(threads, Threads::Serial) { 5 } else { 3 };
    for (name, property) in properties.into_iter().take(count) {
        let name = format!("{backend}::{threads}::{rule}::{name}");
        let run = move || check(backend, threads, rule, property);
        trials.push(Trial::test(name, run).with_ignored_flag(!backend.is_available()));
    }
}

/// Tests a property on many cases of a rule.
fn check(backend: Backend, threads: Threads, rule: &str, property: Which) -> Result<(), Failed> {
    let mut config = Config { failure_persistence: None, ..Config::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 6;
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
                Threads::Serial => property(&case, backend, Parallelism::Serial),
                Threads::Auto => {
                    if case.seed as usize % (2 * types.len()) == i {
                        case.len += of.long - 2;
                    }
                    on_pool(&case, || property(&case, backend, Parallelism::Auto))
                }
                #[cfg(feature = "parallel")]
                Threads::Chunks => {
                    let chunks = Parallelism::Chunks(NonZeroUsize::new(case.chunk).unwrap());
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
    /// The default. In every other case, the buffers of one combination of types are large enough
    /// for many threads.
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

/// Runs `f` in the pool of the case, or on threads that are in no pool.
#[cfg(feature = "parallel")]
fn on_pool<T: Send>(case: &Case, f: impl FnOnce() -> T + Send) -> T {
    match POOLS.get(case.pool) {
        Some(pool) => pool.install(f),
        None => fused_adam::on_threads(&Scoped, f),
    }
}

/// Three new threads for each pass.
#[cfg(feature = "parallel")]
struct Scoped;

#[cfg(feature = "parallel")]
impl fused_adam::Threads for Scoped {
    fn count(&self) -> usize {
        3
    }

    fn run(&self, count: usize, work: &(dyn Fn() + Sync)) {
        std::thread::scope(|scope| {
            for _ in 0..count {
                scope.spawn(work);
            }
        });
    }
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
