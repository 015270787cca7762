//! The errors of a step of one parameter.

/// The error of a step.
///
/// Every check runs before the first write. The message has the name of the tensor (`theta`,
/// `grad`, or a state such as `m`), its actual property and the expected one.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// A tensor is not in the memory of the flex backend, or autodiff tracks it.
    #[error("`{tensor}` is not in flex's memory: {found}")]
    Backend {
        /// The name of the tensor.
        tensor: &'static str,
        /// burn's description of the tensor.
        found: String,
    },

    /// A tensor has an element type that fused-adam does not support.
    #[error("`{tensor}` is {found}, expected f32, f64, bf16 or f16")]
    DType {
        /// The name of the tensor.
        tensor: &'static str,
        /// The type of its elements.
        found: &'static str,
    },

    /// A tensor has a different shape than the parameter.
    #[error("`{tensor}` has the shape {found:?}, expected {expected:?} as of `theta`")]
    Shape {
        /// The name of the tensor.
        tensor: &'static str,
        /// Its shape.
        found: Vec<usize>,
        /// The shape of the parameter.
        expected: Vec<usize>,
    },

    /// 8-bit states were requested for a parameter of `f64`, which does not support them.
    #[error("`theta` is f64, expected f32, bf16 or f16 for states in 8 bits")]
    EightBitStates,

    /// An error of fused-adam: in the hyper-parameters, states or types.
    #[error(transparent)]
    Step(#[from] fused_adam::Error),
}
