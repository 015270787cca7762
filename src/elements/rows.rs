//! The buffers of one step, as the columns of a table: θ, g and the states. A row is one element.

use super::column::{Column, ColumnMut};
use super::rounding::Noise;
use super::split::Correction;

/// Columns of the same length: θ, g, and the `N` states of the rule.
///
/// All are computed in the same [`Float`](crate::Float). The caller has checked this, and the
/// lengths.
pub(crate) struct Rows<'a, const N: usize> {
    pub theta: ColumnMut<'a>,
    pub grad: Column<'a>,
    pub state: [ColumnMut<'a>; N],
    /// A copy of the new θ, rounded to nearest.
    pub copy: Option<ColumnMut<'a>>,
    /// The correction of θ, if θ is the upper part of split master weights.
    pub correction: Option<Correction<'a>>,
    /// The random bits, if the states are in 8 bits or the 16-bit columns are rounded
    /// stochastically. The copy is not.
    pub noise: Option<Noise>,
}

impl<const N: usize> Rows<'_, N> {
    #[inline]
    pub fn len(&self) -> usize {
        self.theta.len()
    }

    /// The rows may be cut at multiples of this number.
    #[cfg(feature = "parallel")]
    pub fn block(&self) -> usize {
        self.state.first().map_or(1, |state| state.dtype().block())
    }

    /// The same rows, with a shorter lifetime.
    #[inline]
    pub fn reborrow(&mut self) -> Rows<'_, N> {
        Rows {
            theta: self.theta.reborrow(),
            grad: self.grad,
            state: self.state.each_mut().map(ColumnMut::reborrow),
            copy: self.copy.as_mut().map(ColumnMut::reborrow),
            correction: self.correction.as_mut().map(Correction::reborrow),
            noise: self.noise,
        }
    }

    /// The first `mid` rows and the rest.
    #[cfg(feature = "parallel")]
    #[inline]
    pub fn split_at(self, mid: usize) -> (Self, Self) {
        let (theta, theta_rest) = self.theta.split_at(mid);
        let (grad, grad_rest) = self.grad.split_at(mid);
        let (state, state_rest) = unzip(self.state.map(|state| state.split_at(mid)));
        let (copy, copy_rest) = self.copy.map(|copy| copy.split_at(mid)).unzip();
        let (correction, correction_rest) = self.correction.map(|low| low.split_at(mid)).unzip();
        let noise = self.noise;
        let rest = Rows {
            theta: theta_rest,
            grad: grad_rest,
            state: state_rest,
            copy: copy_rest,
            correction: correction_rest,
            noise: noise.map(|noise| noise.skip(mid)),
        };
        (Rows { theta, grad, state, copy, correction, noise }, rest)
    }
}

/// The first elements of all pairs, and the second elements.
#[inline(always)]
pub(crate) fn unzip<T: Default, const N: usize>(mut pairs: [(T, T); N]) -> ([T; N], [T; N]) {
    let first = pairs.each_mut().map(|(first, _)| core::mem::take(first));
    (first, pairs.map(|(_, second)| second))
}
