//! The kernel that Adam, NAdam, RAdam and AdaBound share: moving averages of g and of its square.
//! Each rule adds its own [`Delta`].

use super::parts::{Descent, Ema};
use super::{Kernel, reference};
use crate::simd::{Float, Lanes};

/// The amount subtracted from θ, as a function of g, its average m and a second moment w, which is
/// v or the largest v so far. Like a kernel it is written twice: for SIMD and as the reference.
pub(crate) trait Delta<F: Float>: Copy + core::fmt::Debug + Send + Sync {
    fn delta<L: Lanes<Float = F>>(&self, g: L, m: L, w: L) -> L;

    fn reference(&self, g: F, m: F, w: F) -> F;
}

/// The kernel with the states m and v. w is v.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moments<F, Q> {
    pub descent: Descent<F>,
    pub m: Ema<F>,
    pub v: Ema<F>,
    pub delta: Q,
}

/// The kernel with the states m, v and v_max. w is v_max.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AmsGrad<F, Q>(pub Moments<F, Q>);

impl<F: Float, Q: Delta<F>> Kernel<F, 2> for Moments<F, Q> {
    const HAND_WRITTEN: bool = true;

    #[inline(always)]
    fn update<L: Lanes<Float = F>>(&self, theta: L, grad: L, [m, v]: [L; 2]) -> (L, [L; 2]) {
        let g = self.descent.gradient(theta, grad);
        let m = self.m.average(m, g);
        let v = self.v.average(v, g * g);
        (self.descent.descend(theta, self.delta.delta(g, m, v)), [m, v])
    }

    fn reference(&self, theta: F, grad: F, [m, v]: [F; 2]) -> (F, [F; 2]) {
        let g = reference::gradient(&self.descent, theta, grad);
        let m = reference::average(self.m, m, g);
        let v = reference::average(self.v, v, g * g);
        (reference::descend(&self.descent, theta, self.delta.reference(g, m, v)), [m, v])
    }
}

impl<F: Float, Q: Delta<F>> Kernel<F, 3> for AmsGrad<F, Q> {
    const HAND_WRITTEN: bool = true;

    #[inline(always)]
    fn update<L: Lanes<Float = F>>(&self, theta: L, grad: L, [m, v, v_max]: [L; 3]) -> (L, [L; 3]) {
        let Moments { descent, m: m_rate, v: v_rate, delta } = self.0;
        let g = descent.gradient(theta, grad);
        let m = m_rate.average(m, g);
        let v = v_rate.average(v, g * g);
        let v_max = v_max.fast_max(v).if_finite(v_max);
        (descent.descend(theta, delta.delta(g, m, v_max)), [m, v, v_max])
    }

    fn reference(&self, theta: F, grad: F, [m, v, v_max]: [F; 3]) -> (F, [F; 3]) {
        let Moments { descent, m: m_rate, v: v_rate, delta } = self.0;
        let g = reference::gradient(&descent, theta, grad);
        let m = reference::average(m_rate, m, g);
        let v = reference::average(v_rate, v, g * g);
        let v_max = reference::if_finite(v_max, reference::larger(v_max, v));
        (reference::descend(&descent, theta, delta.reference(g, m, v_max)), [m, v, v_max])
    }
}
