//! What a caller passes to a step for one parameter: buffers whose element types are known when the
//! program runs.

use super::param::ParamId;
use crate::elements::column::{Column, ColumnMut};
use crate::elements::{Element, Half};

/// Which parameter: by the id that registering it gave, or by its name, which is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key<'a> {
    /// The id.
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
    pub(super) buffers: TensorBuffers<'a>,
}

impl<'a> Tensor<'a> {
    /// θ and its gradient, which is read and not written.
    pub fn new<T: Element, G: Element>(
        param: impl Into<Key<'a>>,
        theta: &'a mut [T],
        grad: &'a [G],
    ) -> Self {
        let grad = Grad::Read(G::column(grad));
        let buffers = TensorBuffers { theta: T::column_mut(theta), grad, copy: None };
        Tensor { key: param.into(), buffers }
    }

    /// θ and its gradient, which is set to zero in the same pass, for the next one to be added up
    /// in it. In a step that is skipped too.
    pub fn zeroing<T: Element, G: Element>(
        param: impl Into<Key<'a>>,
        theta: &'a mut [T],
        grad: &'a mut [G],
    ) -> Self {
        let grad = Grad::Zero(G::column_mut(grad));
        let buffers = TensorBuffers { theta: T::column_mut(theta), grad, copy: None };
        Tensor { key: param.into(), buffers }
    }

    /// Has the new θ, which is `f32`, stored a second time, rounded to nearest.
    #[must_use]
    pub fn with_copy<H: Half>(mut self, copy: &'a mut [H]) -> Self {
        self.buffers.copy = Some(H::column_mut(copy));
        self
    }
}

/// The buffers of one parameter in one step.
pub(super) struct TensorBuffers<'a> {
    pub theta: ColumnMut<'a>,
    pub grad: Grad<'a>,
    pub copy: Option<ColumnMut<'a>>,
}

pub(super) enum Grad<'a> {
    Read(Column<'a>),
    /// Read, and then set to zero.
    Zero(ColumnMut<'a>),
}

impl Grad<'_> {
    pub fn column(&self) -> Column<'_> {
        match self {
            Grad::Read(grad) => *grad,
            Grad::Zero(grad) => grad.as_ref(),
        }
    }
}

impl TensorBuffers<'_> {
    /// The first `mid` rows and the rest.
    pub fn split_at(self, mid: usize) -> (Self, Self) {
        let (theta, theta_rest) = self.theta.split_at(mid);
        let (grad, grad_rest) = match self.grad {
            Grad::Read(grad) => {
                let (grad, rest) = grad.split_at(mid);
                (Grad::Read(grad), Grad::Read(rest))
            }
            Grad::Zero(grad) => {
                let (grad, rest) = grad.split_at(mid);
                (Grad::Zero(grad), Grad::Zero(rest))
            }
        };
        let (copy, copy_rest) = self.copy.map(|copy| copy.split_at(mid)).unzip();
        let rest = TensorBuffers { theta: theta_rest, grad: grad_rest, copy: copy_rest };
        (TensorBuffers { theta, grad, copy }, rest)
    }
}
