//! Errors of arrays, in addition to the core's.

/// The error of a step.
///
/// Every check runs before the first write: after an error no array, step number or state has
/// changed. Messages contain the name of the array, or without a name its index in the list,
/// counted from 0. A single array has index 0.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An array or a state has a different shape than `theta`. There is no broadcasting.
    #[error("`{buffer}` of array `{array}` has shape {given:?}, expected {expected:?}")]
    Shape {
        /// The name of the array, or its index in the list.
        array: String,
        /// `theta`, `grad` or the name of a state.
        buffer: &'static str,
        /// Its shape.
        given: Vec<usize>,
        /// The expected shape.
        expected: Vec<usize>,
    },

    /// A state in 8 bits does not have one axis with a block for each 32 elements of `theta`.
    #[error(
        "`{state}` of array `{array}` has shape {given:?}, expected [{expected}], the number of \
         blocks of {len} elements"
    )]
    Blocks {
        /// The name of the array, or its index in the list.
        array: String,
        /// The name of the state.
        state: &'static str,
        /// Its shape.
        given: Vec<usize>,
        /// The expected number of blocks.
        expected: usize,
        /// The number of elements of `theta`.
        len: usize,
    },

    /// The optimizer has no array with this name.
    #[error("there is no array `{array}`, expected {}", one_of(known))]
    UnknownArray {
        /// The name.
        array: String,
        /// The names of the arrays that were added.
        known: Vec<String>,
    },

    /// An error of the core: in a hyper-parameter, the step number, the number of states, the
    /// backend or the norm.
    #[error(transparent)]
    Core(#[from] fused_adam::Error),
}

/// "one of `w`, `b`".
fn one_of(known: &[String]) -> String {
    match known {
        [] => "one that was added".to_owned(),
        known => format!("one of `{}`", known.join("`, `")),
    }
}
