//! The arguments of a step for one parameter: buffers whose element types are known at run time.

use super::param::ParamId;
use super::shard::{Position, Shard};
use crate::elements::column::{Column, ColumnMut};
use crate::elements::rows::Beside;
use crate::elements::split::Correction;
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
        Tensor { key: param.into(), buffers: TensorBuffers::new(theta, grad) }
    }

    /// θ and its gradient, which is set to zero in the same pass, so that the next gradient can be
    /// accumulated in it. A skipped step sets it to zero too.
    pub fn zero_grad<T: Element, G: Element>(
        param: impl Into<ParamKey<'a>>,
        theta: &'a mut [T],
        grad: &'a mut [G],
    ) -> Self {
        let grad = Grad::Zero(G::column_mut(grad));
        Tensor { key: param.into(), buffers: TensorBuffers::new(theta, grad) }
    }
}

/// The methods that [`Tensor`] and [`ParamMut`](super::ParamMut) have in common.
macro_rules! common_methods {
    ($Type:ident) => {
        impl<'a> $Type<'a> {
            /// Stores the new θ, which must be `f32`, also in `copy`, rounded to nearest.
            #[must_use]
            pub fn with_copy<H: Half>(mut self, copy: &'a mut [H]) -> Self {
                self.buffers.beside = Beside::Copy(H::column_mut(copy));
                self
            }

            /// Makes θ, which must be `bf16`, the upper part of split master weights: see
            /// [`Correction`]. It has as many elements as θ. Pass it in every step.
            #[must_use]
            pub fn with_correction(mut self, correction: impl Into<Correction<'a>>) -> Self {
                self.buffers.beside = Beside::Correction(correction.into());
                self
            }

            /// Sets the index of the first element in the whole tensor, if this is a part of it,
            /// such as one process's shard. It only affects stochastic rounding, whose random bits
            /// depend on the index in the whole. With states in 8 bits it is a multiple of 32, so
            /// that the part begins with a block of the whole. Default: 0.
            #[must_use]
            pub fn with_offset(mut self, first: u64) -> Self {
                self.buffers.position = Position { first, shard: None };
                self
            }

            /// The same as [`with_offset`](Self::with_offset), for a shard that is not one range of
            /// the whole tensor. It must have as many elements as θ. Each run of elements that
            /// follow each other in the whole tensor is stepped on its own, so runs of less than
            /// some 100 elements are slow. With states in 8 bits, all runs begin and end at
            /// multiples of 32.
            #[must_use]
            pub fn with_shard(mut self, shard: &'a Shard) -> Self {
                self.buffers.position = Position { first: 0, shard: Some(shard) };
                self
            }

            /// Leaves the gradient out of the norm, since another process of a
            /// [distributed step](crate::step_all_distributed) has the same gradient and adds it.
            /// Here it then does not count for clipping or skipping either.
            #[must_use]
            pub fn without_norm(mut self) -> Self {
                self.buffers.in_norm = false;
                self
            }
        }
    };
}
pub(super) use common_methods;

common_methods!(Tensor);

/// The buffers of one parameter in one step.
#[derive(Debug)]
pub(super) struct TensorBuffers<'a> {
    pub theta: ColumnMut<'a>,
    pub grad: Grad<'a>,
    pub beside: Beside<'a>,
    /// Where the elements are in the whole tensor.
    pub position: Position<'a>,
    /// Whether the gradient counts in the norm.
    pub in_norm: bool,
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

impl<'a> TensorBuffers<'a> {
    /// Those of a whole tensor, without a copy.
    pub fn new<T: Element>(theta: &'a mut [T], grad: Grad<'a>) -> Self {
        let (theta, position) = (T::column_mut(theta), Position::default());
        TensorBuffers { theta, grad, beside: Beside::Nothing, position, in_norm: true }
    }

    /// The first `mid` rows and the rest.
    pub fn split_at(self, mid: usize) -> (Self, Self) {
        let TensorBuffers { theta, grad, beside, position, in_norm } = self;
        let (theta, theta_rest) = theta.split_at(mid);
        let (grad, grad_rest) = match grad {
            Grad::Read(grad) => {
                let (grad, rest) = grad.split_at(mid);
                (Grad::Read(grad), Grad::Read(rest))
            }
            Grad::Zero(grad) => {
                let (grad, rest) = grad.split_at(mid);
                (Grad::Zero(grad), Grad::Zero(rest))
            }
        };
        let (beside, beside_rest) = beside.split_at(mid);
        let rest = TensorBuffers {
            theta: theta_rest,
            grad: grad_rest,
            beside: beside_rest,
            position: position.skip(mid),
            in_norm,
        };
        (TensorBuffers { theta, grad, beside, position, in_norm }, rest)
    }
}
