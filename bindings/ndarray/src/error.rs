//! What can be wrong with arrays beside what the core refuses.

/// Why a step was refused.
///
/// Every check runs before the first write: after an error no array, step number or state has
/// changed. Arrays are named by their number in the list, from 0 on; a single one is number 0.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An array has another shape than `theta`, or `theta` another one than its states. Nothing is
    /// broadcast.
    #[error("`{buffer}` of array number {array} has shape {given:?}, expected {expected:?}")]
    Shape {
        /// The number of the array in the list.
        array: usize,
        /// `theta`, `grad` or the name of a state.
        buffer: &'static str,
        /// Its shape.
        given: Vec<usize>,
        /// What it should be.
        expected: Vec<usize>,
    },

    /// An owner was given another number of arrays than it keeps states for.
    #[error("{given} arrays were given, expected {expected} as in the steps before")]
    Count {
        /// How many there were.
        given: usize,
        /// How many have states.
        expected: usize,
    },

    /// The rule of an array, as it is now, keeps other states than those that the owner has.
    #[error(
        "array number {array} has the states {kept:?}, expected its rule's states {expected:?}"
    )]
    OtherStates {
        /// The number of the array in the list.
        array: usize,
        /// The names of what is kept.
        kept: Vec<&'static str>,
        /// The names of what the rule keeps.
        expected: Vec<&'static str>,
    },

    /// What the core found: a hyper-parameter, the step number, the number of states, the backend
    /// or the norm.
    #[error(transparent)]
    Core(#[from] fused_adam::Error),
}
