//! Errors in variables, gradients, steps and checkpoints.

use candle_core::{DType, DeviceLocation, Shape};
use fused_adam::CheckpointError;

/// The error of a step, or of making an optimizer.
///
/// After an error no variable, state or step number has changed. Messages use the names of the
/// variables. Without names, these are their numbers, counted from 0.
///
/// candle's own trait returns it as a [`candle_core::Error`] with the same message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A variable or a gradient is not in CPU memory.
    #[error("{what} is on {device:?}, expected the CPU")]
    Device {
        /// Such as ``variable `3` ``.
        what: String,
        /// Its device.
        device: DeviceLocation,
    },

    /// A variable or a gradient has an element type that fused-adam does not support.
    #[error("{what} is {}, expected f32, f64, bf16 or f16", dtype.as_str())]
    DType {
        /// Such as ``variable `3` ``.
        what: String,
        /// Its type.
        dtype: DType,
    },

    /// A variable is not contiguous.
    #[error("variable `{variable}` has strides {strides:?}, expected it to be contiguous")]
    NotContiguous {
        /// The variable.
        variable: String,
        /// The distance from one element to the next in each dimension.
        strides: Vec<usize>,
    },

    /// Two variables are the same, or share a storage.
    #[error("variables `{first}` and `{second}` share their storage, expected each only once")]
    SharedStorage {
        /// The first of them.
        first: String,
        /// The second.
        second: String,
    },

    /// A gradient has another shape than its variable.
    #[error("the gradient of variable `{variable}` has the shape {given:?}, expected {expected:?}")]
    Shape {
        /// The variable.
        variable: String,
        /// The gradient's shape.
        given: Shape,
        /// The shape of the variable.
        expected: Shape,
    },

    /// A storage has fewer elements than the shape of its tensor. Safe code can make such a tensor
    /// with [`Tensor::from_storage`](candle_core::Tensor::from_storage).
    #[error("the storage of {what} holds {len} elements, expected {expected} by its shape")]
    Storage {
        /// Such as ``variable `3` ``.
        what: String,
        /// The number of elements in the storage.
        len: usize,
        /// The number of elements of the shape.
        expected: usize,
    },

    /// 8-bit states were requested for a variable of `f64`, which does not support them.
    #[error("variable `{variable}` is f64, expected f32, bf16 or f16 for states in 8 bits")]
    EightBitStates {
        /// The variable.
        variable: String,
    },

    /// The type of the states is set after the first step. There are already states of another
    /// type, and they are not converted.
    #[error("`{method}` was called after step {steps}, expected it before the first")]
    StepsTaken {
        /// The method that was called.
        method: &'static str,
        /// The number of steps taken.
        steps: u64,
    },

    /// An error of fused-adam: in the hyper-parameters, the names, or a step.
    #[error(transparent)]
    Step(#[from] fused_adam::Error),

    /// An error of fused-adam in a checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),

    /// A file has variables and nothing of an optimizer. It may be one of
    /// [`VarMap::save`](candle_nn::VarMap::save).
    #[error("{source}; it has only variables, which `VarMap::load` reads")]
    NoStates {
        /// The error of fused-adam.
        source: CheckpointError,
    },

    /// An error of candle.
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
