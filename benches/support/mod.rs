//! What a step is measured against, and the buffers it is measured on. Shared by the benchmarks and
//! the examples.
//!
//! Both yardsticks are rules like any other, so they run through the same backends, in the same
//! chunks, on the same threads as the step that they are compared with.

#![allow(dead_code, reason = "each benchmark uses its part")]

use std::time::{Duration, Instant};

use fused_adam::{
    AdaBound, AdamW, AnyRule, Copied, Element, Error, Float, Kernel, Lanes, Parameter, RmsProp,
    Rule, Sgd, Step, WithKernel,
};

/// The limit loop of a rule with this many states: reads θ, g and the states and writes θ and the
/// states as the rule does, with one addition for each write and no other arithmetic. What memory
/// and caches allow. (A loop that writes back what was there is faster by a hundredth or two; no
/// step does that.)
#[derive(Clone, Copy, Debug)]
pub struct LimitLoop(pub usize);

impl Rule for LimitLoop {
    fn state_names(&self) -> &'static [&'static str] {
        &["first", "second", "third"][..self.0]
    }

    fn check(&self) -> Result<(), Error> {
        Ok(())
    }

    fn with_kernel<F: Float, W: WithKernel<F>>(&self, _: u64, then: W) -> Result<(), Error> {
        match self.0 {
            0 => then.with::<_, 0>(&AddAll),
            1 => then.with::<_, 1>(&AddAll),
            2 => then.with::<_, 2>(&AddAll),
            _ => then.with::<_, 3>(&AddAll),
        }
    }
}

#[derive(Clone, Copy)]
struct AddAll;

impl<F: Float, const N: usize> Kernel<F, N> for AddAll {
    #[inline(always)]
    fn update<L: Lanes<Float = F>>(&self, theta: L, grad: L, mut state: [L; N]) -> (L, [L; N]) {
        // Not `map`, which the compiler may leave as a call that lacks the instruction set.
        for x in &mut state {
            *x = *x + grad;
        }
        (theta + grad, state)
    }

    fn reference(&self, theta: F, grad: F, state: [F; N]) -> (F, [F; N]) {
        (theta + grad, state.map(|x| x + grad))
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

    fn with_kernel<F: Float, W: WithKernel<F>>(&self, _: u64, then: W) -> Result<(), Error> {
        then.with(self)
    }
}

impl<F: Float> Kernel<F, 1> for Units {
    #[inline(always)]
    fn update<L: Lanes<Float = F>>(&self, _: L, grad: L, [v]: [L; 1]) -> (L, [L; 1]) {
        (grad / v.sqrt(), [v])
    }

    fn reference(&self, _: F, grad: F, [v]: [F; 1]) -> (F, [F; 1]) {
        (grad / v.sqrt(), [v])
    }
}

/// The rules to be measured, by name: each of the crate's, and the options that change its states.
pub const RULES: [&str; 17] = [
    "sgd",
    "sgd-momentum",
    "rmsprop",
    "rmsprop-momentum",
    "rmsprop-centered",
    "rmsprop-centered-momentum",
    "adagrad",
    "adam",
    "adamw",
    "amsgrad",
    "adamax",
    "nadam",
    "radam",
    "adabound",
    "amsbound",
    "adabelief",
    "lion",
];

/// The rule of one of those names.
pub fn rule(name: &str) -> Result<AnyRule, Error> {
    let momentum = if name.ends_with("momentum") { 0.9 } else { 0.0 };
    let centered = name.starts_with("rmsprop-centered");
    match name {
        "sgd-momentum" => Ok(Sgd { momentum, ..Sgd::default() }.into()),
        "rmsprop-momentum" | "rmsprop-centered" | "rmsprop-centered-momentum" => {
            Ok(RmsProp { momentum, centered, ..RmsProp::default() }.into())
        }
        "amsgrad" => Ok(AdamW { amsgrad: true, ..AdamW::default() }.into()),
        "amsbound" => Ok(AdaBound { amsbound: true, ..AdaBound::default() }.into()),
        _ => name.parse(),
    }
}

/// Buffers on which steps are taken.
pub trait Stepped {
    /// What a step of a rule with `states` states moves per element, in bytes.
    fn bytes_per_element(states: usize) -> usize;

    /// As in training: no zeros, so that nothing decays into the subnormals while the same step is
    /// repeated.
    fn new(len: usize, states: usize) -> Self;

    fn step<R: Rule>(&mut self, step: &Step<'_, R>) -> Result<(), Error>;
}

/// θ, g and the states.
pub struct Buffers<T, G, S> {
    pub theta: Vec<T>,
    pub grad: Vec<G>,
    pub state: Vec<Vec<S>>,
}

/// Numbers in [`scale`/10, 1.1·`scale`), in a sequence without short period.
fn filled<E: Element>(len: usize, scale: f64) -> Vec<E> {
    let number = |i: usize| (i as f64 * 0.618_033_988_749_895).fract() + 0.1;
    (0..len).map(|i| E::from_f64(scale * number(i))).collect()
}

impl<T: Element, G: Element, S: Element> Buffers<T, G, S> {
    pub fn filled(len: usize, states: usize) -> Self {
        let state = (0..states).map(|_| filled(len, 0.01)).collect();
        Buffers { theta: filled(len, 1.0), grad: filled(len, 0.1), state }
    }
}

impl<T: Element + Parameter<G, S>, G: Element, S: Element> Stepped for Buffers<T, G, S> {
    fn bytes_per_element(states: usize) -> usize {
        2 * size_of::<T>() + size_of::<G>() + 2 * states * size_of::<S>()
    }

    fn new(len: usize, states: usize) -> Self {
        Self::filled(len, states)
    }

    fn step<R: Rule>(&mut self, step: &Step<'_, R>) -> Result<(), Error> {
        match &mut self.state[..] {
            [] => step.run_mixed::<T, G, S>(&mut self.theta, &self.grad, &mut []),
            [a] => step.run_mixed(&mut self.theta, &self.grad, &mut [a]),
            [a, b] => step.run_mixed(&mut self.theta, &self.grad, &mut [a, b]),
            [a, b, c, ..] => step.run_mixed(&mut self.theta, &self.grad, &mut [a, b, c]),
        }
    }
}

/// The same in `f32`, with a copy of θ in `H`.
pub struct WithCopy<G, S, H> {
    pub buffers: Buffers<f32, G, S>,
    pub copy: Vec<H>,
}

impl<G: Element, S: Element, H: Copied<G, S>> Stepped for WithCopy<G, S, H> {
    fn bytes_per_element(states: usize) -> usize {
        let moved = 2 * size_of::<f32>() + size_of::<G>() + size_of::<H>();
        moved + 2 * states * size_of::<S>()
    }

    fn new(len: usize, states: usize) -> Self {
        WithCopy { buffers: Buffers::filled(len, states), copy: filled(len, 1.0) }
    }

    fn step<R: Rule>(&mut self, step: &Step<'_, R>) -> Result<(), Error> {
        let Buffers { theta, grad, state } = &mut self.buffers;
        let mut state: Vec<&mut [S]> = state.iter_mut().map(Vec::as_mut_slice).collect();
        step.run_with_copy(theta, grad, &mut state, &mut self.copy)
    }
}

/// How long a measurement runs in one round, unless one step takes longer.
const SLICE: Duration = Duration::from_millis(3);

/// Nanoseconds per element, over as many runs as fit into a time slice. The first run is not
/// counted: it brings back pages and cache lines that others have pushed out.
pub fn time(elements: usize, mut run: impl FnMut()) -> f64 {
    run();
    let mut runs = 0_u32;
    let mut batch = 1;
    let start = Instant::now();
    loop {
        for _ in 0..batch {
            run();
        }
        runs += batch;
        let elapsed = start.elapsed();
        if elapsed >= SLICE {
            return elapsed.as_nanos() as f64 / f64::from(runs) / elements as f64;
        }
        batch *= 2;
    }
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
