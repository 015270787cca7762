//! Errors of arrays, in addition to the core's.

/// The error of a step.
///
/// Every check runs before the first write: after an error no array, step number or state has
/// changed. Messages contain the index of the array in the list, counted from 0. A single array has
/// index 0.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An array or a state has a different shape than `theta`. There is no broadcasting.
    #[error("`{buffer}` of array number {array} has shape {given:?}, expected {expected:?}")]
    Shape {
        /// The index of the array in the list.
        array: usize,
        /// `theta`, `grad` or the name of a state.
        buffer: &'static str,
        /// Its shape.
        given: Vec<usize>,
        /// The expected shape.
        expected: Vec<usize>,
    },

    /// A state in 8 bits does not have one axis with a block for each 32 elements of `theta`.
    #[error(
        "`{state}` of array number {array} has shape {given:?}, expected [{expected}], the number \
         of blocks of {len} elements"
    )]
    Blocks {
        /// The index of the array in the list.
        array: usize,
        /// The name of the state.
        state: &'static str,
        /// Its shape.
        given: Vec<usize>,
        /// The expected number of blocks.
        expected: usize,
        /// The number of elements of `theta`.
        len: usize,
    },

    /// A step got a different number of arrays than the optimizer has states for.
    #[error("{given} {} given, expected {expected} as in the steps before", were(*given))]
    Count {
        /// The number of arrays in the call.
        given: usize,
        /// The number of arrays with states.
        expected: usize,
    },

    /// The current rule of an array has other states than the optimizer stores.
    #[error(
        "array number {array} has the states {kept:?}, expected its rule's states {expected:?}"
    )]
    OtherStates {
        /// The index of the array in the list.
        array: usize,
        /// The names of the stored states.
        kept: Vec<&'static str>,
        /// The names of the rule's states.
        expected: Vec<&'static str>,
    },

    /// An error of the core: in a hyper-parameter, the step number, the number of states, the
    /// backend or the norm.
    #[error(transparent)]
    Core(#[from] fused_adam::Error),
}

fn were(arrays: usize) -> &'static str {
    if arrays == 1 { "array was" } else { "arrays were" }
}
