//! The errors of a call. All are found before the first write.

/// The reason why a call was refused.
///
/// Every check runs before the first write. After an error no buffer, state or step count has
/// changed. The message names the argument, its value, and the expected value.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A hyper-parameter or an option is outside of its range, or leads to a coefficient that the
    /// type of the computation cannot hold.
    #[error("`{name}` is {value:?}, expected {expected}")]
    HyperParameter {
        /// The name of the field.
        name: &'static str,
        /// Its value.
        value: f64,
        /// The values that are allowed.
        expected: &'static str,
    },

    /// The step number is outside of `1..=u64::MAX`. Either 0 was given, or an owner of states,
    /// such as [`Flat`](crate::Flat), has already taken `u64::MAX` steps.
    #[error("step number `t` is {t}, expected {expected}")]
    StepNumber {
        /// The step number.
        t: u64,
        /// The values that are allowed.
        expected: &'static str,
    },

    /// The length of a buffer differs from that of another one.
    #[error("`{name}` has {}, expected {expected} as in {other}", count(*len, "element"))]
    Length {
        /// The buffer: `theta`, `grad`, `copy`, or the name of a state.
        name: &'static str,
        /// Its length in elements.
        len: usize,
        /// The length of the other buffer in elements.
        expected: usize,
        /// The other buffer: `` `theta` ``, or the states of an owner.
        other: &'static str,
    },

    /// The number of blocks of an 8-bit state is not that of the elements of `theta`.
    #[error(
        "`{name}` has {}, expected {expected} for {}",
        count(*blocks, "block"),
        count(*len, "element")
    )]
    Blocks {
        /// The name of the state.
        name: &'static str,
        /// Its number of blocks.
        blocks: usize,
        /// The expected number of blocks.
        expected: usize,
        /// The length of `theta` in elements.
        len: usize,
    },

    /// A part of a tensor with 8-bit states does not begin with one of the blocks of the tensor.
    #[error("`offset` is {offset}, expected a multiple of 32 for states in 8 bits")]
    Offset {
        /// The index of the part's first element.
        offset: u64,
    },

    /// The elements of a buffer have a type that does not go with the other buffers.
    #[error("`{name}` is {given}, expected {expected}")]
    ElementType {
        /// The buffer: `theta`, `grad`, `copy`, or the name of a state.
        name: &'static str,
        /// The type of its elements.
        given: &'static str,
        /// The expected types.
        expected: &'static str,
    },

    /// A state is missing that the rule keeps with its present options.
    #[error("state `{name}` is missing, expected {}", list("state", names))]
    MissingState {
        /// The first state that is missing.
        name: &'static str,
        /// The number of states that the rule keeps.
        expected: usize,
        /// Their names, in order.
        names: Vec<&'static str>,
    },

    /// More states were given than the rule keeps with its present options.
    #[error("{} given, expected {}", were(*given, "state"), list("state", names))]
    SuperfluousState {
        /// The number of states that were given.
        given: usize,
        /// The number of states that the rule keeps.
        expected: usize,
        /// Their names, in order.
        names: Vec<&'static str>,
    },

    /// The number of scalars differs from the number that the rule keeps.
    #[error("{} given, expected {}", were(*given, "scalar"), list("scalar", names))]
    Scalars {
        /// The number of scalars that were given.
        given: usize,
        /// The number of scalars that the rule keeps.
        expected: usize,
        /// Their names, in order.
        names: &'static [&'static str],
    },

    /// The rule's kernel keeps another number of states than [`Rule::states`](crate::Rule::states)
    /// names. This is an error in the rule. No rule of this crate has it.
    #[error(
        "the rule's kernel keeps {}, expected {} as the rule names",
        count(*kernel, "state"),
        list("state", names)
    )]
    KernelStates {
        /// The number of states that the kernel keeps.
        kernel: usize,
        /// The names of the states that the rule keeps, in order.
        names: Vec<&'static str>,
    },

    /// The CPU, or the target of this build, does not support the backend.
    #[error(
        "backend `{backend}` is not available on this CPU, expected one of {}",
        available.join(", ")
    )]
    BackendNotAvailable {
        /// The name of the backend.
        backend: &'static str,
        /// The names of the backends that are available here.
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

    /// The optimizer already has a parameter of this name.
    #[error("there is a parameter `{param}` already, expected another name")]
    DuplicateParam {
        /// The name.
        param: String,
    },

    /// The optimizer has no such parameter.
    #[error("there is no parameter `{param}`, expected one that was registered")]
    UnknownParam {
        /// Its name, or its number.
        param: String,
    },

    /// The optimizer has no such group.
    #[error("there is no group {group}, expected {}", up_to(*groups))]
    UnknownGroup {
        /// The number of the group.
        group: usize,
        /// The number of groups that the optimizer has.
        groups: usize,
    },

    /// The index of a rule is past the end of the list of rules.
    #[error("`rule` is {rule}, expected {}, an index of `rules`", up_to(*rules))]
    RuleIndex {
        /// The index.
        rule: usize,
        /// The number of rules.
        rules: usize,
    },

    /// An id was returned by another optimizer.
    #[error("the {what} is an id of another optimizer, expected one that this optimizer returned")]
    ForeignId {
        /// `parameter` or `group`.
        what: &'static str,
    },

    /// A parameter was passed twice to one step.
    #[error("parameter `{param}` was given twice, expected once a step")]
    GivenTwice {
        /// Its name.
        param: String,
    },

    /// The length of a buffer differs from that of its parameter.
    #[error(
        "`{buffer}` of parameter `{param}` has {}, expected {expected}",
        count(*len, "element")
    )]
    TensorLength {
        /// The parameter's name.
        param: String,
        /// The buffer: `theta`, `grad`, `copy`, or the name of a state.
        buffer: &'static str,
        /// Its length in elements.
        len: usize,
        /// The length of the parameter in elements.
        expected: usize,
    },

    /// The element type of a buffer does not go with its parameter.
    #[error("`{buffer}` of parameter `{param}` is {given}, expected {expected}")]
    TensorType {
        /// The parameter's name.
        param: String,
        /// The buffer: `theta`, `grad`, `copy`, or the name of a state.
        buffer: &'static str,
        /// The type of its elements.
        given: &'static str,
        /// The types that are allowed.
        expected: &'static str,
    },

    /// The gradient norm is to be clipped, but is infinite or NaN.
    #[error("the gradients' norm is {norm}, expected a finite one to clip, or `skip_nonfinite`")]
    NonfiniteNorm {
        /// The norm.
        norm: f64,
    },

    /// An error in one of many tensors or groups.
    #[error("{place}: {error}")]
    At {
        /// The name of the parameter, or the number of the tensor or group, from 0.
        place: String,
        /// The error.
        error: Box<Error>,
    },

    /// The loss scale is at its least value, and the gradients are still infinite or NaN. So the
    /// scale is not their cause, and every further step would be skipped.
    #[error(
        "the loss scale is {scale:e}, which cannot shrink further, and the gradients are still not \
         finite"
    )]
    LossScale {
        /// The loss scale.
        scale: f64,
    },

    /// The all-gather of a distributed step failed, or did not return the messages of all
    /// processes.
    #[error("the all-gather failed: {reason}")]
    AllGather {
        /// Why.
        reason: String,
    },

    /// Another process cannot take this distributed step, so no process takes it.
    #[error("rank {rank} cannot take the step: {reason}")]
    OtherProcess {
        /// The rank of the first such process.
        rank: usize,
        /// The beginning of its error, up to 256 bytes.
        reason: String,
    },

    /// The processes of a distributed step have different options.
    #[error("`{option}` is {value} on rank {rank}, expected {expected} as on rank 0")]
    OptionDiffers {
        /// The name of the option.
        option: &'static str,
        /// The rank of the first process that differs from process 0.
        rank: usize,
        /// The value there.
        value: String,
        /// The value on rank 0.
        expected: String,
    },

    /// A shard has a range of indices that its whole tensor does not have.
    #[error(
        "the shard has the indices {}..{} in dimension {dimension}, expected ascending ranges \
         within 0..{size}",
        range.start,
        range.end
    )]
    Shard {
        /// The number of the dimension, from 0.
        dimension: usize,
        /// The first range that is wrong.
        range: core::ops::Range<u64>,
        /// The size of the whole tensor in this dimension.
        size: u64,
    },

    /// A shard has ranges for another number of dimensions than its whole tensor.
    #[error("the shard has ranges for {}, expected {expected}", count(*given, "dimension"))]
    ShardDimensions {
        /// The number of dimensions with ranges.
        given: usize,
        /// The number of dimensions of the whole tensor.
        expected: usize,
    },

    /// Another library has changed the floating-point mode of the calling thread: subnormal numbers
    /// are flushed to zero (FTZ or DAZ), or numbers are not rounded to the nearest. The results
    /// would have other bits.
    #[error(
        "this thread flushes subnormal numbers to zero, or does not round to nearest, expected the \
         default floating-point mode"
    )]
    FloatMode,

    /// The memory for states could not be allocated.
    #[error("the states need {bytes} bytes, which could not be allocated")]
    OutOfMemory {
        /// The number of bytes that were asked for at once.
        bytes: usize,
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

/// "1 state", "2 states".
fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// "1 state was", "2 states were".
fn were(n: usize, noun: &str) -> String {
    count(n, noun) + if n == 1 { " was" } else { " were" }
}

/// "the states `m`, `v`", or "none".
fn list(noun: &str, names: &[&str]) -> String {
    let all: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match names.len() {
        0 => "none".to_owned(),
        n => format!("the {noun}{} {}", if n == 1 { "" } else { "s" }, all.join(", ")),
    }
}

/// The numbers below `n`.
fn up_to(n: usize) -> String {
    match n {
        0 => "none".to_owned(),
        1 => "0".to_owned(),
        n => format!("0 to {}", n - 1),
    }
}

impl Error {
    /// The error without its place: what is in [`At`](Self::At), or the error itself.
    ///
    /// ```
    /// use fused_adam::{AdamW, Error, GroupId, Optimizer, Tensor};
    ///
    /// let mut opt = Optimizer::new(AdamW::default())?;
    /// let w = opt.add::<f32>(GroupId::default(), "w", 1)?;
    /// let mut theta = [1.0_f32];
    /// opt.step([Tensor::new(w, &mut theta, &[1.0_f32])])?;
    /// opt.rule_mut(GroupId::default()).unwrap().amsgrad = true;
    /// let error = opt.step([Tensor::new(w, &mut theta, &[1.0_f32])]).unwrap_err();
    /// assert!(error.to_string().starts_with("parameter `w`: state `v_max` is missing"));
    /// assert!(matches!(error.cause(), Error::MissingState { name: "v_max", .. }));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn cause(&self) -> &Error {
        match self {
            Error::At { error, .. } => error.cause(),
            error => error,
        }
    }

    /// Adds the name of the parameter, or if it is empty, the index of its tensor.
    pub(crate) fn of_param(self, name: &str, number: usize, alone: bool) -> Self {
        match name {
            "" => self.of_tensor(number, alone),
            name => self.at(format!("parameter `{name}`")),
        }
    }

    /// For a tensor without a name: adds its index in the list, unless it is `alone`.
    pub(crate) fn of_tensor(self, number: usize, alone: bool) -> Self {
        let error = match self {
            Error::TensorLength { buffer, len, expected, .. } => {
                Error::Length { name: buffer, len, expected, other: "`theta`" }
            }
            Error::TensorType { buffer, given, expected, .. } => {
                Error::ElementType { name: buffer, given, expected }
            }
            error => error,
        };
        if alone { error } else { error.at(format!("tensor number {number}")) }
    }

    /// Adds the number of the group, if there are several.
    pub(crate) fn at_group(self, group: usize, groups: usize) -> Self {
        if groups == 1 { self } else { self.at(format!("group {group}")) }
    }

    /// Adds the place where the error is.
    pub(crate) fn at(self, place: String) -> Self {
        Error::At { place, error: Box::new(self) }
    }
}
