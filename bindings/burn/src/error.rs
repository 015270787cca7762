//! The errors of a step of one parameter.

use crate::origin::with_states;

/// The error of a step.
///
/// Every check runs before the first write. The message has the name of the tensor (`theta`,
/// `grad`, or a state such as `m`), its actual property and the expected one.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// A tensor is of a device with autodiff.
    #[error("`{tensor}` is a tensor of autodiff, expected one without: call `.inner()` on it")]
    Autodiff {
        /// The name of the tensor.
        tensor: &'static str,
    },

    /// A tensor is not in the memory of the flex backend.
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

    /// The states are of another rule, or of another optimizer, and have another meaning.
    #[error(
        "the states are of {found}, expected those of {}",
        with_states(rule, states.iter().copied())
    )]
    OtherRule {
        /// The rule or optimizer that computed the states, with their names or those of its record.
        found: String,
        /// The rule of this step.
        rule: &'static str,
        /// The names of its states, in order.
        states: Vec<&'static str>,
    },

    /// An error of fused-adam: in the hyper-parameters, states or types.
    #[error(transparent)]
    Step(#[from] fused_adam::Error),
}
