//! The reference: one element after the other, by each rule's hand-written
//! [`Kernel::reference`]. It shares no arithmetic with the other backends, so that they can be
//! checked against it.

use super::columns::{Buffers, Mixed, Table};
use crate::{Element, Kernel};

#[inline(never)]
pub(crate) fn sweep<T, G, S, K, const N: usize>(kernel: &K, buffers: Buffers<'_, T, G, S, N>)
where
    T: Element,
    G: Element<Float = T::Float>,
    S: Element<Float = T::Float>,
    K: Kernel<T::Float, N>,
{
    let Buffers { theta, grad, mut state, mut copy } = buffers;
    for (i, (theta, grad)) in theta.iter_mut().zip(grad).enumerate() {
        let old = state.each_ref().map(|state| state[i].to_float());
        let (new_theta, new) = kernel.reference(theta.to_float(), grad.to_float(), old);
        *theta = T::from_float(new_theta);
        for (state, new) in state.iter_mut().zip(new) {
            state[i] = S::from_float(new);
        }
        if let Some(copy) = &mut copy {
            copy[i] = G::from_float(new_theta);
        }
    }
}

#[inline(never)]
pub(crate) fn sweep_mixed<K: Kernel<f32, N>, const N: usize>(kernel: &K, mut mixed: Mixed<'_, N>) {
    for i in 0..mixed.len() {
        let (theta, grad, state) = mixed.row(i);
        let (theta, state) = kernel.reference(theta, grad, state);
        mixed.set_row(i, theta, state);
    }
}
