//! What can be wrong with a call, told before anything is written.

use crate::{AnyRule, Backend};

/// Why a step was refused.
///
/// Every check runs before the first write: after an error no buffer, step count or state has
/// changed. The message names the argument, its value, and what was expected of it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A hyper-parameter lies outside its range.
    #[error("`{name}` is {value:?}, expected {expected}")]
    HyperParameter {
        /// The field of the rule.
        name: &'static str,
        /// What it holds.
        value: f64,
        /// What it may hold.
        expected: &'static str,
    },

    /// The step number is outside `1..=u64::MAX`: 0 was given, or an owner of state has counted
    /// to the end.
    #[error("step number `t` is {t}, expected {expected}")]
    StepNumber {
        /// The step number.
        t: u64,
        /// What it may be.
        expected: &'static str,
    },

    /// A buffer is not as long as `theta`.
    #[error("`{name}` has {len} elements, expected {expected} as in `theta`")]
    Length {
        /// The buffer: `grad`, `copy`, or the name of a state.
        name: &'static str,
        /// Its length in elements.
        len: usize,
        /// The length of `theta` in elements.
        expected: usize,
    },

    /// The rule, with its options, keeps a state that was not handed in.
    #[error("state `{name}` is missing, expected the {expected} states {names:?}")]
    MissingState {
        /// The first state that is missing.
        name: &'static str,
        /// How many states the rule keeps.
        expected: usize,
        /// Their names, in order.
        names: &'static [&'static str],
    },

    /// More states were handed in than the rule, with its options, keeps.
    #[error("{given} states were given, expected the {expected} states {names:?}")]
    SuperfluousState {
        /// How many states were given.
        given: usize,
        /// How many states the rule keeps.
        expected: usize,
        /// Their names, in order.
        names: &'static [&'static str],
    },

    /// The rule is at odds with itself: its kernel keeps another number of states than it names.
    /// No rule of this crate is.
    #[error(
        "the rule's kernel keeps {kernel} states, expected those that the rule names, {names:?}"
    )]
    KernelStates {
        /// How many states the kernel keeps.
        kernel: usize,
        /// The names of those that the rule keeps.
        names: &'static [&'static str],
    },

    /// This CPU, or this build's target, lacks the backend that was asked for.
    #[error(
        "backend `{backend}` is not available on this CPU, expected one of {}",
        list(available)
    )]
    BackendNotAvailable {
        /// What was asked for.
        backend: Backend,
        /// What could have been asked for here.
        available: Vec<Backend>,
    },

    /// No backend has this name.
    #[error("there is no backend `{name}`, expected one of {}", list(&Backend::ALL))]
    UnknownBackend {
        /// The name that was given.
        name: String,
    },

    /// No rule has this name.
    #[error("there is no rule `{name}`, expected one of {}", AnyRule::NAMES.join(", "))]
    UnknownRule {
        /// The name that was given.
        name: String,
    },
}

fn list(backends: &[Backend]) -> String {
    let names: Vec<String> = backends.iter().map(Backend::to_string).collect();
    names.join(", ")
}
