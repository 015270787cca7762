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
    pub beside: Beside<'a>,
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
            beside: self.beside.reborrow(),
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
        let (beside, beside_rest) = self.beside.split_at(mid);
        let noise = self.noise;
        let rest = Rows {
            theta: theta_rest,
            grad: grad_rest,
            state: state_rest,
            beside: beside_rest,
            noise: noise.map(|noise| noise.skip(mid)),
        };
        (Rows { theta, grad, state, beside, noise }, rest)
    }
}

/// What a step writes beside θ.
#[derive(Debug, Default)]
pub(crate) enum Beside<'a> {
    #[default]
    Nothing,
    /// A copy of the new θ, rounded to nearest.
    Copy(ColumnMut<'a>),
    /// The correction of θ, which is the upper part of split master weights.
    Correction(Correction<'a>),
}

impl<'a> Beside<'a> {
    /// Its name, and its number of elements.
    #[inline]
    pub fn length(&self) -> Option<(&'static str, usize)> {
        match self {
            Beside::Nothing => None,
            Beside::Copy(copy) => Some(("copy", copy.len())),
            Beside::Correction(correction) => Some(("correction", correction.len())),
        }
    }

    /// Whether it is rounded stochastically whatever the rounding of the step.
    #[inline]
    pub fn is_stochastic(&self) -> bool {
        matches!(self, Beside::Correction(Correction::Bits8(_)))
    }

    /// The same buffer, with a shorter lifetime.
    #[inline]
    pub fn reborrow(&mut self) -> Beside<'_> {
        match self {
            Beside::Nothing => Beside::Nothing,
            Beside::Copy(copy) => Beside::Copy(copy.reborrow()),
            Beside::Correction(correction) => Beside::Correction(correction.reborrow()),
        }
    }

    /// The first `mid` elements and the rest.
    #[inline]
    pub fn split_at(self, mid: usize) -> (Self, Self) {
        match self {
            Beside::Nothing => (Beside::Nothing, Beside::Nothing),
            Beside::Copy(copy) => {
                let (first, rest) = copy.split_at(mid);
                (Beside::Copy(first), Beside::Copy(rest))
            }
            Beside::Correction(correction) => {
                let (first, rest) = correction.split_at(mid);
                (Beside::Correction(first), Beside::Correction(rest))
            }
        }
    }
}

/// The first elements of all pairs, and the second elements.
#[inline(always)]
pub(crate) fn unzip<T: Default, const N: usize>(mut pairs: [(T, T); N]) -> ([T; N], [T; N]) {
    let first = pairs.each_mut().map(|(first, _)| core::mem::take(first));
    (first, pairs.map(|(_, second)| second))
}
