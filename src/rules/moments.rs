//! What Adam, NAdam, RAdam and AdaBound share: moving averages of g and of its square. What a rule
//! makes of them is its [`Update`].

use super::parts::{Descent, Ema};
use super::{Kernel, reference};
use crate::simd::{Float, Lanes};

/// What is taken off θ, as a function of g, its average m, and a second moment w: v or the largest
/// v so far. Written twice, like a kernel.
pub(crate) trait Update<F: Float>: Copy + Send + Sync {
    fn update<L: Lanes<Float = F>>(&self, g: L, m: L, w: L) -> L;

    fn by_hand(&self, g: F, m: F, w: F) -> F;
}

/// The kernel with states m and v.
#[derive(Clone, Copy)]
pub(crate) struct Moments<F, Q> {
    pub descent: Descent<F>,
    pub m: Ema<F>,
    pub v: Ema<F>,
    pub update: Q,
}

/// The kernel with states m, v and v_max, which w is.
#[derive(Clone, Copy)]
pub(crate) struct AmsGrad<F, Q>(pub Moments<F, Q>);

impl<F: Float, Q: Update<F>> Kernel<F, 2> for Moments<F, Q> {
    const HAND_WRITTEN: bool = true;

    #[inline(always)]
    fn update<L: Lanes<Float = F>>(&self, theta: L, grad: L, [m, v]: [L; 2]) -> (L, [L; 2]) {
        let g = self.descent.gradient(theta, grad);
        let m = self.m.average(m, g);
        let v = self.v.average(v, g * g);
        (self.descent.descend(theta, self.update.update(g, m, v)), [m, v])
    }

    fn reference(&self, theta: F, grad: F, [m, v]: [F; 2]) -> (F, [F; 2]) {
        let g = reference::gradient(&self.descent, theta, grad);
        let m = reference::average(self.m, m, g);
        let v = reference::average(self.v, v, g * g);
        (reference::descend(&self.descent, theta, self.update.by_hand(g, m, v)), [m, v])
    }
}

impl<F: Float, Q: Update<F>> Kernel<F, 3> for AmsGrad<F, Q> {
    const HAND_WRITTEN: bool = true;

    #[inline(always)]
    fn update<L: Lanes<Float = F>>(&self, theta: L, grad: L, [m, v, v_max]: [L; 3]) -> (L, [L; 3]) {
        let Moments { descent, m: m_rate, v: v_rate, update } = self.0;
        let g = descent.gradient(theta, grad);
        let m = m_rate.average(m, g);
        let v = v_rate.average(v, g * g);
        let v_max = v_max.larger(v);
        (descent.descend(theta, update.update(g, m, v_max)), [m, v, v_max])
    }

    fn reference(&self, theta: F, grad: F, [m, v, v_max]: [F; 3]) -> (F, [F; 3]) {
        let Moments { descent, m: m_rate, v: v_rate, update } = self.0;
        let g = reference::gradient(&descent, theta, grad);
        let m = reference::average(m_rate, m, g);
        let v = reference::average(v_rate, v, g * g);
        let v_max = if v_max > v { v_max } else { v };
        (reference::descend(&descent, theta, update.by_hand(g, m, v_max)), [m, v, v_max])
    }
}
