//! What a step is measured against, and the buffers it is measured on. Shared by the benchmarks and
//! the throughput report.
//!
//! Both yardsticks are rules like any other, so they run through the same backends, in the same
//! chunks, on the same threads as the step that they are compared with.

#![allow(dead_code, reason = "each benchmark uses its part")]

use fused_adam::{Element, Error, Kernel, Lanes, Rule, WithKernel};

/// The limit loop: reads θ, g, m, v and writes θ, m, v like a step of Adam, with one addition for each
/// write and no other arithmetic. What memory and caches allow. (A loop that writes back what was
/// there is faster by a hundredth or two; no step does that.)
#[derive(Clone, Copy, Debug)]
pub struct LimitLoop;

impl Rule for LimitLoop {
    fn state_names(&self) -> &'static [&'static str] {
        &["m", "v"]
    }

    fn check(&self) -> Result<(), Error> {
        Ok(())
    }

    fn with_kernel<E: Element, W: WithKernel<E>>(&self, _: u64, then: W) -> Result<(), Error> {
        then.with(self)
    }
}

impl<E: Element> Kernel<E, 2> for LimitLoop {
    #[inline(always)]
    fn update<L: Lanes<Element = E>>(&self, theta: L, grad: L, [m, v]: [L; 2]) -> (L, [L; 2]) {
        (theta + grad, [m + grad, v + grad])
    }

    fn reference(&self, theta: E, grad: E, [m, v]: [E; 2]) -> (E, [E; 2]) {
        (theta + grad, [m + grad, v + grad])
    }
}

/// One square root and one division per element, and next to nothing else: what the units that
/// compute them allow. Its buffers are to fit the first cache.
#[derive(Clone, Copy, Debug)]
pub struct Units;

impl Rule for Units {
    fn state_names(&self) -> &'static [&'static str] {
        &["v"]
    }

    fn check(&self) -> Result<(), Error> {
        Ok(())
    }

    fn with_kernel<E: Element, W: WithKernel<E>>(&self, _: u64, then: W) -> Result<(), Error> {
        then.with(self)
    }
}

impl<E: Element> Kernel<E, 1> for Units {
    #[inline(always)]
    fn update<L: Lanes<Element = E>>(&self, _: L, grad: L, [v]: [L; 1]) -> (L, [L; 1]) {
        (grad / v.sqrt(), [v])
    }

    fn reference(&self, _: E, grad: E, [v]: [E; 1]) -> (E, [E; 1]) {
        (grad / v.sqrt(), [v])
    }
}

/// Bytes that a step of Adam moves per element: four reads and three writes.
pub const fn bytes_per_element<E>() -> usize {
    7 * size_of::<E>()
}

/// θ, g, m and v as in training: no zeros, so that nothing decays into the subnormals while the
/// same step is repeated.
pub struct Buffers<E> {
    pub theta: Vec<E>,
    pub grad: Vec<E>,
    pub m: Vec<E>,
    pub v: Vec<E>,
}

impl<E: Element> Buffers<E> {
    pub fn new(len: usize) -> Self {
        // A sequence without short period, in [0.1, 1.1).
        let number = |i: usize| (i as f64 * 0.618_033_988_749_895).fract() + 0.1;
        let filled = |scale: f64| (0..len).map(|i| E::from_f64(scale * number(i))).collect();
        Buffers { theta: filled(1.0), grad: filled(0.1), m: filled(0.01), v: filled(0.01) }
    }
}
