//! What can be wrong with a variable or a gradient, told before anything is written.

use candle_core::{DType, DeviceLocation, Shape};
use fused_adam::CheckpointError;

/// Why an optimizer was not made, or a step was refused.
///
/// After an error no variable, state or step count has changed. Variables are named as the
/// optimizer names them: by their numbers, from 0, unless they were given names.
///
/// In candle's own trait it comes as a [`candle_core::Error`] with the same message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A variable or a gradient is not in the CPU's memory.
    #[error("{what} is on {device:?}, expected the CPU")]
    Device {
        /// Such as ``variable `3` ``.
        what: String,
        /// Where it is.
        device: DeviceLocation,
    },

    /// A variable or a gradient is of a type that has no loop.
    #[error("{what} is {}, expected f32, f64, bf16 or f16", dtype.as_str())]
    DType {
        /// Such as ``variable `3` ``.
        what: String,
        /// Its type.
        dtype: DType,
    },

    /// A variable does not lie in one piece.
    #[error("variable `{variable}` has strides {strides:?}, expected it to be contiguous")]
    NotContiguous {
        /// The variable.
        variable: String,
        /// From one element to the next in each dimension.
        strides: Vec<usize>,
    },

    /// Two variables are one, or parts of one.
    #[error("variables `{first}` and `{second}` share their storage, expected each only once")]
    SharedStorage {
        /// The one that came first.
        first: String,
        /// The other.
        second: String,
    },

    /// A gradient is not of its variable's shape.
    #[error("the gradient of variable `{variable}` has the shape {given:?}, expected {expected:?}")]
    Shape {
        /// The variable.
        variable: String,
        /// The gradient's shape.
        given: Shape,
        /// The variable's.
        expected: Shape,
    },

    /// A storage holds fewer elements than its tensor's shape says. Safe code can make such a tensor
    /// with [`Tensor::from_storage`](candle_core::Tensor::from_storage).
    #[error("the storage of {what} holds {len} elements, expected {expected} by its shape")]
    Storage {
        /// Such as ``variable `3` ``.
        what: String,
        /// How many elements the storage holds.
        len: usize,
        /// How many the shape says.
        expected: usize,
    },

    /// What fused-adam says of the hyper-parameters, of the names, or of a step.
    #[error(transparent)]
    Step(#[from] fused_adam::Error),

    /// What fused-adam says of a checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),

    /// What candle says.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl From<Error> for candle_core::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Candle(error) => error,
            error => candle_core::Error::wrap(error),
        }
    }
}
