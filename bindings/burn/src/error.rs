//! What can be wrong with a step of one parameter.

/// Why a step was refused.
///
/// Every check runs before the first write. The message names the tensor (`theta`, `grad`, or a state
/// such as `m`), what it is, and what was expected of it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// A tensor lies elsewhere than in the memory of the backend flex, or takes part in autodiff.
    #[error("`{tensor}` is not in flex's memory: {found}")]
    Backend {
        /// Which tensor.
        tensor: &'static str,
        /// What burn says that it is.
        found: String,
    },

    /// A tensor's elements are of a type that no step is computed with.
    #[error("`{tensor}` is {found}, expected f32, f64, bf16 or f16")]
    DType {
        /// Which tensor.
        tensor: &'static str,
        /// The type of its elements.
        found: &'static str,
    },

    /// A tensor has another shape than the parameter.
    #[error("`{tensor}` has the shape {found:?}, expected {expected:?} as of `theta`")]
    Shape {
        /// Which tensor.
        tensor: &'static str,
        /// Its shape.
        found: Vec<usize>,
        /// The parameter's.
        expected: Vec<usize>,
    },

    /// What fused-adam says of the step: of its hyper-parameters, states or types.
    #[error(transparent)]
    Step(#[from] fused_adam::Error),
}
