//! The reference: one element after the other, by each rule's hand-written
//! [`Kernel::reference`]. It shares no arithmetic with the other backends, so that they can be
//! checked against it.

use super::Buffers;
use crate::{Element, Kernel};

#[inline(never)]
pub(crate) fn sweep<E: Element, K: Kernel<E, N>, const N: usize>(
    kernel: &K,
    buffers: Buffers<'_, E, N>,
) {
    let Buffers { theta, grad, mut state } = buffers;
    for (i, (theta, &grad)) in theta.iter_mut().zip(grad).enumerate() {
        let old = state.each_ref().map(|state| state[i]);
        let (new_theta, new) = kernel.reference(*theta, grad, old);
        *theta = new_theta;
        for (state, new) in state.iter_mut().zip(new) {
            state[i] = new;
        }
    }
}
