//! Converts candle's storages, whose types are known at run time, to the slices of a step.

use core::fmt;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, DType, WithDType};
use fused_adam::{Element, ParamId, Tensor};

use crate::Error;

/// The name of a tensor in error messages.
#[derive(Clone, Copy)]
pub enum TensorName<'a> {
    Variable(&'a str),
    GradientOf(&'a str),
}

impl fmt::Display for TensorName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TensorName::Variable(name) => write!(f, "variable `{name}`"),
            TensorName::GradientOf(name) => write!(f, "the gradient of variable `{name}`"),
        }
    }
}

impl TensorName<'_> {
    /// The error for a storage with an unsupported element type.
    pub fn wrong_type(self, storage: &CpuStorage) -> Error {
        self.wrong_dtype(storage.dtype())
    }

    /// The error for an unsupported element type.
    pub fn wrong_dtype(self, dtype: DType) -> Error {
        Error::DType { what: self.to_string(), dtype }
    }
}

/// A contiguous tensor and its storage.
pub struct ParamMut<'a, S> {
    pub what: TensorName<'a>,
    pub tensor: &'a candle_core::Tensor,
    pub storage: S,
}

/// The tensor, for the core. The core checks that the types can be combined.
pub fn tensor<'a>(
    id: ParamId,
    theta: ParamMut<'a, &'a mut CpuStorage>,
    grad: ParamMut<'a, &'a CpuStorage>,
) -> Result<Tensor<'a>, Error> {
    let ParamMut { what, tensor, storage } = theta;
    match storage {
        CpuStorage::F32(all) => with_theta(id, part_mut(all, what, tensor)?, grad),
        CpuStorage::F64(all) => with_theta(id, part_mut(all, what, tensor)?, grad),
        CpuStorage::BF16(all) => with_theta(id, part_mut(all, what, tensor)?, grad),
        CpuStorage::F16(all) => with_theta(id, part_mut(all, what, tensor)?, grad),
        other => Err(what.wrong_type(other)),
    }
}

fn with_theta<'a, T: Element>(
    id: ParamId,
    theta: &'a mut [T],
    grad: ParamMut<'a, &'a CpuStorage>,
) -> Result<Tensor<'a>, Error> {
    let ParamMut { what, tensor, storage } = grad;
    Ok(match storage {
        CpuStorage::F32(all) => Tensor::new(id, theta, part(all, what, tensor)?),
        CpuStorage::F64(all) => Tensor::new(id, theta, part(all, what, tensor)?),
        CpuStorage::BF16(all) => Tensor::new(id, theta, part(all, what, tensor)?),
        CpuStorage::F16(all) => Tensor::new(id, theta, part(all, what, tensor)?),
        other => return Err(what.wrong_type(other)),
    })
}

/// The tensor's part of a storage, for writing.
pub fn part_mut<'a, E: WithDType>(
    all: &'a mut [E],
    what: TensorName<'_>,
    tensor: &candle_core::Tensor,
) -> Result<&'a mut [E], Error> {
    let len = all.len();
    let range = tensor.layout().contiguous_offsets();
    let part = range.and_then(|(start, end)| all.get_mut(start..end));
    part.ok_or_else(|| too_short(len, what, tensor))
}

/// The tensor's part of a storage, for reading.
pub fn part<'a, E: WithDType>(
    all: &'a [E],
    what: TensorName<'_>,
    tensor: &candle_core::Tensor,
) -> Result<&'a [E], Error> {
    let range = tensor.layout().contiguous_offsets();
    let part = range.and_then(|(start, end)| all.get(start..end));
    part.ok_or_else(|| too_short(all.len(), what, tensor))
}

#[cold]
fn too_short(len: usize, what: TensorName<'_>, tensor: &candle_core::Tensor) -> Error {
    Error::Storage { what: what.to_string(), len, expected: tensor.elem_count() }
}
