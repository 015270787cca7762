//! The division of theta into the tensors of the network, as an `Optimizer` takes them.

use fused_adam::Tensor;

use crate::digits::{CLASSES, PIXELS};
use crate::network::HIDDEN;

/// The tensors of the network in the order of theta, and whether they are biases.
pub const TENSORS: [(&str, usize, bool); 4] = [
    ("first.bias", HIDDEN, true),
    ("first.weight", PIXELS * HIDDEN, false),
    ("second.bias", CLASSES, true),
    ("second.weight", HIDDEN * CLASSES, false),
];

/// Each tensor with its part of theta and of the gradient.
pub fn tensors<'a>(
    mut theta: &'a mut [f32],
    mut grad: &'a [f32],
) -> impl Iterator<Item = Tensor<'a>> {
    TENSORS.into_iter().map(move |(name, len, _)| {
        let (tensor, rest) = std::mem::take(&mut theta).split_at_mut(len);
        let (its_grad, grad_rest) = grad.split_at(len);
        (theta, grad) = (rest, grad_rest);
        Tensor::new(name, tensor, its_grad)
    })
}
