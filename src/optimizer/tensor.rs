//! What is handed to a step, and what is kept between steps: buffers whose element types are known
//! at run time.

use half::{bf16, f16};

use super::ParamId;
use crate::backend::columns::{AnySlice, AnySliceMut, Column, ColumnMut};
use crate::{Element, Half};

/// Which parameter: by the handle that registering it gave, or by its name, which is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key<'a> {
    /// The handle.
    Id(ParamId),
    /// The name.
    Name(&'a str),
}

impl From<ParamId> for Key<'_> {
    fn from(id: ParamId) -> Self {
        Key::Id(id)
    }
}

impl<'a> From<&'a str> for Key<'a> {
    fn from(name: &'a str) -> Self {
        Key::Name(name)
    }
}

/// One parameter in one step: θ, its gradient, and perhaps a copy of the new θ.
pub struct Tensor<'a> {
    pub(super) key: Key<'a>,
    pub(super) job: Job<'a>,
}

/// The buffers of one parameter in one step.
pub(super) struct Job<'a> {
    pub theta: AnySliceMut<'a>,
    pub grad: Grad<'a>,
    pub copy: Option<ColumnMut<'a>>,
}

pub(super) enum Grad<'a> {
    Read(AnySlice<'a>),
    /// Read, and then set to zero.
    Zero(AnySliceMut<'a>),
}

impl Grad<'_> {
    pub fn read(&self) -> AnySlice<'_> {
        match self {
            Grad::Read(grad) => *grad,
            Grad::Zero(grad) => grad.read(),
        }
    }
}

impl<'a> Tensor<'a> {
    /// θ and its gradient, which is read and not written.
    pub fn new<T: Element, G: Element>(
        param: impl Into<Key<'a>>,
        theta: &'a mut [T],
        grad: &'a [G],
    ) -> Self {
        let job = Job { theta: T::any_mut(theta), grad: Grad::Read(G::any(grad)), copy: None };
        Tensor { key: param.into(), job }
    }

    /// θ and its gradient, which is set to zero in the same pass, for the next one to be added up
    /// in it. In a step that is skipped too.
    pub fn zeroing<T: Element, G: Element>(
        param: impl Into<Key<'a>>,
        theta: &'a mut [T],
        grad: &'a mut [G],
    ) -> Self {
        let job = Job { theta: T::any_mut(theta), grad: Grad::Zero(G::any_mut(grad)), copy: None };
        Tensor { key: param.into(), job }
    }

    /// Has the new θ, which is `f32`, stored a second time, rounded to the nearest.
    #[must_use]
    pub fn with_copy<H: Half>(mut self, copy: &'a mut [H]) -> Self {
        self.job.copy = Some(H::column_mut(copy));
        self
    }
}

/// An element type, known at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    F32,
    F64,
    Bf16,
    F16,
}

impl Type {
    pub fn of<E: Element>() -> Self {
        Type::of_slice(E::any(&[]))
    }

    pub fn of_slice(slice: AnySlice<'_>) -> Self {
        match slice {
            AnySlice::Single(Column::F32(_)) => Type::F32,
            AnySlice::Single(Column::Bf16(_)) => Type::Bf16,
            AnySlice::Single(Column::F16(_)) => Type::F16,
            AnySlice::Double(_) => Type::F64,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Type::F32 => f32::NAME,
            Type::F64 => f64::NAME,
            Type::Bf16 => bf16::NAME,
            Type::F16 => f16::NAME,
        }
    }
}

/// A state buffer that is kept between steps.
#[derive(Clone, Debug)]
pub(super) enum Buffer {
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bf16(Vec<bf16>),
    F16(Vec<f16>),
}

impl Buffer {
    pub fn new(of: Type, len: usize, value: f64) -> Self {
        fn filled<E: Element>(len: usize, value: f64) -> Vec<E> {
            vec![E::from_f64(value); len]
        }
        match of {
            Type::F32 => Buffer::F32(filled(len, value)),
            Type::F64 => Buffer::F64(filled(len, value)),
            Type::Bf16 => Buffer::Bf16(filled(len, value)),
            Type::F16 => Buffer::F16(filled(len, value)),
        }
    }

    pub fn read(&self) -> AnySlice<'_> {
        match self {
            Buffer::F32(buffer) => AnySlice::Single(Column::F32(buffer)),
            Buffer::F64(buffer) => AnySlice::Double(buffer),
            Buffer::Bf16(buffer) => AnySlice::Single(Column::Bf16(buffer)),
            Buffer::F16(buffer) => AnySlice::Single(Column::F16(buffer)),
        }
    }

    pub fn write(&mut self) -> AnySliceMut<'_> {
        match self {
            Buffer::F32(buffer) => AnySliceMut::Single(ColumnMut::F32(buffer)),
            Buffer::F64(buffer) => AnySliceMut::Double(buffer),
            Buffer::Bf16(buffer) => AnySliceMut::Single(ColumnMut::Bf16(buffer)),
            Buffer::F16(buffer) => AnySliceMut::Single(ColumnMut::F16(buffer)),
        }
    }
}
