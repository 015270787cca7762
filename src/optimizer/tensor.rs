//! The arguments of a step for one parameter: buffers whose element types are known at run time.

use super::param::ParamId;
use crate::elements::column::{Column, ColumnMut};
use crate::elements::{Element, Half};

/// Identifies a parameter: by the id that was returned when it was registered, or by its name,
/// which is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamKey<'a> {
    /// The id.
    Id(ParamId),
    /// The name.
    Name(&'a str),
}

impl From<ParamId> for ParamKey<'_> {
    fn from(id: ParamId) -> Self {
        ParamKey::Id(id)
    }
}

impl<'a> From<&'a str> for ParamKey<'a> {
    fn from(name: &'a str) -> Self {
        ParamKey::Name(name)
    }
}

/// One parameter in one step: θ, its gradient, and optionally a copy of the new θ.
#[derive(Debug)]
pub struct Tensor<'a> {
    pub(super) key: ParamKey<'a>,
    pub(super) buffers: TensorBuffers<'a>,
}

impl<'a> Tensor<'a> {
    /// θ and its gradient, which is only read. Both have the length of the parameter.
    pub fn new<T: Element, G: Element>(
        param: impl Into<ParamKey<'a>>,
        theta: &'a mut [T],
        grad: &'a [G],
    ) -> Self {
        let grad = Grad::Read(G::column(grad));
        let buffers = TensorBuffers { theta: T::column_mut(theta), grad, copy: None };
        Tensor { key: param.into(), buffers }
    }

    /// θ and its gradient, which is set to zero in the same pass, so that the next gradient can be
    /// accumulated in it. A skipped step sets it to zero too.
    pub fn zero_grad<T: Element, G: Element>(
        param: impl Into<ParamKey<'a>>,
        theta: &'a mut [T],
        grad: &'a mut [G],
    ) -> Self {
        let grad = Grad::Zero(G::column_mut(grad));
        let buffers = TensorBuffers { theta: T::column_mut(theta), grad, copy: None };
        Tensor { key: param.into(), buffers }
    }

    /// Stores the new θ, which must be `f32`, also in `copy`, rounded to nearest.
    #[must_use]
    pub fn with_copy<H: Half>(mut self, copy: &'a mut [H]) -> Self {
        self.buffers.copy = Some(H::column_mut(copy));
        self
    }
}

/// The buffers of one parameter in one step.
#[derive(Debug)]
pub(super) struct TensorBuffers<'a> {
    pub theta: ColumnMut<'a>,
    pub grad: Grad<'a>,
    pub copy: Option<ColumnMut<'a>>,
}

#[derive(Debug)]
pub(super) enum Grad<'a> {
    Read(Column<'a>),
    /// The gradient is read, then set to zero.
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
