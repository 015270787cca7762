//! What Adam, NAdam, RAdam and AdaBound share: moving averages of g and of its square. What a rule makes of
//! them is its [`Quotient`].

use super::{Ends, Kernel, Rate, by_hand};
use crate::{Float, Lanes};

/// What is taken off θ, as a function of g, its average m, and a second moment w: v or the largest v
/// so far. Written twice, like a kernel.
pub(crate) trait Quotient<F: Float>: Copy + Send + Sync {
    fn quotient<L: Lanes<Float = F>>(&self, g: L, m: L, w: L) -> L;

    fn by_hand(&self, g: F, m: F, w: F) -> F;
}

/// The kernel with states m and v.
#[derive(Clone, Copy)]
pub(crate) struct Moments<F, Q> {
    pub ends: Ends<F>,
    pub m: Rate<F>,
    pub v: Rate<F>,
    pub quotient: Q,
}

/// The kernel with states m, v and v_max, which w is.
#[derive(Clone, Copy)]
pub(crate) struct Largest<F, Q>(pub Moments<F, Q>);

impl<F: Float, Q: Quotient<F>> Kernel<F, 2> for Moments<F, Q> {
    #[inline(always)]
    fn update<L: Lanes<Float = F>>(&self, theta: L, grad: L, [m, v]: [L; 2]) -> (L, [L; 2]) {
        let g = self.ends.gradient(theta, grad);
        let m = self.m.average(m, g);
        let v = self.v.average(v, g * g);
        (self.ends.descend(theta, self.quotient.quotient(g, m, v)), [m, v])
    }

    fn reference(&self, theta: F, grad: F, [m, v]: [F; 2]) -> (F, [F; 2]) {
        let g = by_hand::gradient(&self.ends, theta, grad);
        let m = by_hand::average(self.m, m, g);
        let v = by_hand::average(self.v, v, g * g);
        (by_hand::descend(&self.ends, theta, self.quotient.by_hand(g, m, v)), [m, v])
    }
}

impl<F: Float, Q: Quotient<F>> Kernel<F, 3> for Largest<F, Q> {
    #[inline(always)]
    fn update<L: Lanes<Float = F>>(&self, theta: L, grad: L, [m, v, v_max]: [L; 3]) -> (L, [L; 3]) {
        let Moments { ends, m: m_rate, v: v_rate, quotient } = self.0;
        let g = ends.gradient(theta, grad);
        let m = m_rate.average(m, g);
        let v = v_rate.average(v, g * g);
        let v_max = v_max.larger(v);
        (ends.descend(theta, quotient.quotient(g, m, v_max)), [m, v, v_max])
    }

    fn reference(&self, theta: F, grad: F, [m, v, v_max]: [F; 3]) -> (F, [F; 3]) {
        let Moments { ends, m: m_rate, v: v_rate, quotient } = self.0;
        let g = by_hand::gradient(&ends, theta, grad);
        let m = by_hand::average(m_rate, m, g);
        let v = by_hand::average(v_rate, v, g * g);
        let v_max = if v_max > v { v_max } else { v };
        (by_hand::descend(&ends, theta, quotient.by_hand(g, m, v_max)), [m, v, v_max])
    }
}
