//! What can be wrong with a call, told before anything is written.

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

    /// The rule, with its options, keeps a state that was not given.
    #[error("state `{name}` is missing, expected the {expected} states {names:?}")]
    MissingState {
        /// The first state that is missing.
        name: &'static str,
        /// How many states the rule keeps.
        expected: usize,
        /// Their names, in order.
        names: Vec<&'static str>,
    },

    /// More states were given than the rule, with its options, keeps.
    #[error("{given} states were given, expected the {expected} states {names:?}")]
    SuperfluousState {
        /// How many states were given.
        given: usize,
        /// How many states the rule keeps.
        expected: usize,
        /// Their names, in order.
        names: Vec<&'static str>,
    },

    /// The scalars that were given are not as many as the rule keeps.
    #[error("{given} scalars were given, expected the {expected} scalars {names:?}")]
    Scalars {
        /// How many scalars were given.
        given: usize,
        /// How many scalars the rule keeps.
        expected: usize,
        /// Their names, in order.
        names: &'static [&'static str],
    },

    /// The rule contradicts itself: its kernel keeps another number of states than it names. No
    /// rule of this crate does.
    #[error(
        "the rule's kernel keeps {kernel} states, expected those that the rule names, {names:?}"
    )]
    KernelStates {
        /// How many states the kernel keeps.
        kernel: usize,
        /// The names of those that the rule keeps.
        names: Vec<&'static str>,
    },

    /// This CPU, or this build's target, lacks the backend that was asked for.
    #[error(
        "backend `{backend}` is not available on this CPU, expected one of {}",
        available.join(", ")
    )]
    BackendNotAvailable {
        /// The name of what was asked for.
        backend: &'static str,
        /// The names of what could have been asked for here.
        available: Vec<&'static str>,
    },

    /// No backend has this name.
    #[error("there is no backend `{name}`, expected one of {}", known.join(", "))]
    UnknownBackend {
        /// The name that was given.
        name: String,
        /// The names of all backends.
        known: Vec<&'static str>,
    },

    /// Two parameters of an optimizer would have one name.
    #[error("there is a parameter `{param}` already, expected another name")]
    DuplicateParam {
        /// The name.
        param: String,
    },

    /// An optimizer has no such parameter.
    #[error("there is no parameter `{param}`, expected one that was registered")]
    UnknownParam {
        /// Its name, or its number.
        param: String,
    },

    /// An optimizer has no such group.
    #[error("there is no group {group}, expected one of the {groups} that were added")]
    UnknownGroup {
        /// Its number.
        group: usize,
        /// How many there are.
        groups: usize,
    },

    /// A parameter was handed in twice in one step.
    #[error("parameter `{param}` was given twice, expected once a step")]
    GivenTwice {
        /// Its name.
        param: String,
    },

    /// A buffer is not as long as its parameter.
    #[error("`{buffer}` of parameter `{param}` has {len} elements, expected {expected}")]
    TensorLength {
        /// The parameter's name.
        param: String,
        /// The buffer: `theta`, `grad` or `copy`.
        buffer: &'static str,
        /// Its length in elements.
        len: usize,
        /// The parameter's.
        expected: usize,
    },

    /// A buffer is not of a type that goes with its parameter.
    #[error("`{buffer}` of parameter `{param}` is {given}, expected {expected}")]
    TensorType {
        /// The parameter's name.
        param: String,
        /// The buffer: `theta` or `grad`.
        buffer: &'static str,
        /// The type of its elements.
        given: &'static str,
        /// What it may be.
        expected: &'static str,
    },

    /// The norm of the gradients is infinite or NaN and cannot be clipped.
    #[error("the gradients' norm is {norm}, expected a finite one to clip, or `skip_nonfinite`")]
    NonfiniteNorm {
        /// The norm.
        norm: f64,
    },

    /// No rule has this name.
    #[error("there is no rule `{name}`, expected one of {}", known.join(", "))]
    UnknownRule {
        /// The name that was given.
        name: String,
        /// The names of all rules.
        known: &'static [&'static str],
    },
}

impl Error {
    /// Names the tensor by its number in a list, where it has no name.
    pub(crate) fn of_tensor(mut self, number: usize) -> Self {
        if let Error::TensorLength { param, .. } | Error::TensorType { param, .. } = &mut self {
            *param = format!("number {number}");
        }
        self
    }
}
