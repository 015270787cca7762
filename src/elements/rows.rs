//! The buffers of one step: θ, g and the states, as columns of one table whose rows are elements.

use super::column::{Column, ColumnMut};
use super::rounding::Noise;

/// Columns that are all equally long: θ, g, and the `N` states of the rule.
///
/// All are computed with in one [`Float`](crate::Float). The caller has checked that, and the
/// lengths.
pub(crate) struct Rows<'a, const N: usize> {
    pub theta: ColumnMut<'a>,
    pub grad: Column<'a>,
    pub state: [ColumnMut<'a>; N],
    /// Where θ is stored once more, rounded to nearest.
    pub copy: Option<ColumnMut<'a>>,
    /// For stochastic rounding of what is 16 bits wide, but for the copy.
    pub noise: Option<Noise>,
}

impl<const N: usize> Rows<'_, N> {
    #[inline]
    pub fn len(&self) -> usize {
        self.theta.len()
    }

    /// The same rows, for a shorter time.
    #[inline]
    pub fn reborrow(&mut self) -> Rows<'_, N> {
        Rows {
            theta: self.theta.reborrow(),
            grad: self.grad,
            state: self.state.each_mut().map(ColumnMut::reborrow),
            copy: self.copy.as_mut().map(ColumnMut::reborrow),
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
        let noise = self.noise;
        let rest = Rows {
            theta: theta_rest,
            grad: grad_rest,
            state: state_rest,
            copy: copy_rest,
            noise: noise.map(|noise| noise.skip(mid)),
        };
        (Rows { theta, grad, state, copy, noise }, rest)
    }
}

/// The first of each pair, and the second of each.
#[inline(always)]
pub(crate) fn unzip<T: Default, const N: usize>(mut pairs: [(T, T); N]) -> ([T; N], [T; N]) {
    let first = pairs.each_mut().map(|(first, _)| core::mem::take(first));
    (first, pairs.map(|(_, second)| second))
}
