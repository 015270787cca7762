//! Reference loops for the measurements, and the buffers on which steps are measured. The
//! benchmarks and the examples share this module.
//!
//! Both reference loops are rules, so they use the same backends, chunks and threads as the step
//! that they are compared with.

#![allow(dead_code, reason = "each benchmark uses its part")]

#[path = "../../tests/common/rules.rs"]
mod rules;

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use fused_adam::{
    AnyRule, Block8, Element, Error, Float, Half, Kernel, KernelVisitor, Lanes, Rule, State, Step,
    bf16,
};

/// The memory limit of a rule with this many states, measured with a copy loop with the same
/// traffic. It reads θ, g and the states and writes θ and the states, as the rule does. Its only
/// arithmetic is one addition for each write. (A loop that writes back the values that it read is 1
/// % to 2 % faster, but no step does that.)
#[derive(Clone, Copy, Debug)]
pub struct LimitLoop(pub usize);

impl Rule for LimitLoop {
    fn name(&self) -> &'static str {
        "limit"
    }

    fn lr(&self) -> f64 {
        0.0
    }

    fn set_lr(&mut self, _: f64) {}

    fn states(&self) -> &'static [State] {
        const STATES: [State; 4] = [
            State::signed("first"),
            State::signed("second"),
            State::signed("third"),
            State::signed("fourth"),
        ];
        &STATES[..self.0]
    }

    fn check(&self) -> Result<(), Error> {
        Ok(())
    }

    fn visit_kernel<F: Float, W: KernelVisitor<F>>(
        &self,
        _: u64,
        _: &[f64],
        visitor: W,
    ) -> Result<(), Error> {
        match self.0 {
            0 => visitor.visit::<_, 0>(&AddAll),
            1 => visitor.visit::<_, 1>(&AddAll),
            2 => visitor.visit::<_, 2>(&AddAll),
            3 => visitor.visit::<_, 3>(&AddAll),
            _ => visitor.visit::<_, 4>(&AddAll),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct AddAll;

impl<F: Float, const N: usize> Kernel<F, N> for AddAll {
    #[inline(always)]
    fn update<L: Lanes<Float = F>>(&self, theta: L, grad: L, mut state: [L; N]) -> (L, [L; N]) {
        // A loop and not `map`, which the compiler may not inline; the call would not use the
        // instruction set.
        for x in &mut state {
            *x = *x + grad;
        }
        (theta + grad, state)
    }

    fn reference(&self, theta: F, grad: F, state: [F; N]) -> (F, [F; N]) {
        (theta + grad, state.map(|x| x + grad))
    }
}

/// One square root and one division per element and almost nothing else: the limit of the units
/// that compute them. Its buffers must fit into the L1 cache.
#[derive(Clone, Copy, Debug)]
pub struct Units;

impl Rule for Units {
    fn name(&self) -> &'static str {
        "units"
    }

    fn lr(&self) -> f64 {
        0.0
    }

    fn set_lr(&mut self, _: f64) {}

    fn states(&self) -> &'static [State] {
        const { &[State::non_negative("v")] }
    }

    fn check(&self) -> Result<(), Error> {
        Ok(())
    }

    fn visit_kernel<F: Float, W: KernelVisitor<F>>(
        &self,
        _: u64,
        _: &[f64],
        visitor: W,
    ) -> Result<(), Error> {
        visitor.visit(self)
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

/// The rules to measure, by name: every rule of the crate, and the options that change its states.
pub static RULES: LazyLock<Vec<(String, AnyRule)>> = LazyLock::new(rules::variants);

/// The rule with this name.
pub fn rule(name: &str) -> Result<AnyRule, Error> {
    match RULES.iter().find(|(known, _)| known == name) {
        Some((_, rule)) => Ok(*rule),
        None => name.parse(),
    }
}

/// Buffers for steps.
pub trait Stepped {
    /// The memory traffic of a step of a rule with `states` states, in bytes per element.
    fn bytes_per_element(states: usize) -> usize;

    /// Fills the buffers as in training. No zeros, so that nothing decays to subnormal numbers
    /// while the same step is repeated.
    fn new(len: usize, states: usize) -> Self;

    fn step<R: Rule>(&mut self, step: &Step<'_, R>) -> Result<(), Error>;

    /// A step of [`LimitLoop`] with this many states has the traffic of a rule with `states`.
    fn limit_states(states: usize) -> usize {
        states
    }

    /// Takes a step of [`LimitLoop`].
    fn limit(&mut self, step: &Step<'_, LimitLoop>) -> Result<(), Error> {
        self.step(step)
    }

    /// Takes the step with `f32` states instead, for types that are compared with those.
    fn with_f32_states<R: Rule>(&mut self, _: &Step<'_, R>) -> Option<Result<(), Error>> {
        None
    }
}

/// θ, g and the states.
pub struct Buffers<T, G, S> {
    pub theta: Vec<T>,
    pub grad: Vec<G>,
    pub state: Vec<Vec<S>>,
}

/// Numbers in [`scale`/10, 1.1·`scale`), from a sequence with a long period.
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

impl<T, G, S> Stepped for Buffers<T, G, S>
where
    T: Element,
    G: Element<Float = T::Float>,
    S: Element<Float = T::Float>,
{
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
            [a, b, c] => step.run_mixed(&mut self.theta, &self.grad, &mut [a, b, c]),
            [a, b, c, d, ..] => step.run_mixed(&mut self.theta, &self.grad, &mut [a, b, c, d]),
        }
    }
}

/// θ and g with states in 8 bits. Also the same states in `f32`, to compare with, and in `bf16` for
/// the memory limit: one of them has the traffic of two states in 8 bits.
pub struct In8Bits<T, G> {
    buffers: Buffers<T, G, f32>,
    limit: Vec<bf16>,
    blocks: Vec<Vec<Block8>>,
}

impl<T, G> Stepped for In8Bits<T, G>
where
    T: Element<Float = f32>,
    G: Element<Float = f32>,
{
    fn bytes_per_element(states: usize) -> usize {
        2 * size_of::<T>() + size_of::<G>() + 2 * states
    }

    fn new(len: usize, states: usize) -> Self {
        let buffers = Buffers::filled(len, states);
        let v = State::non_negative("v");
        let blocks = |state: &Vec<f32>| {
            let mut blocks = vec![[0; 33]; len.div_ceil(32)];
            v.encode(state, &mut blocks);
            blocks
        };
        let blocks = buffers.state.iter().map(blocks).collect();
        In8Bits { buffers, limit: filled(len, 0.01), blocks }
    }

    fn step<R: Rule>(&mut self, step: &Step<'_, R>) -> Result<(), Error> {
        let mut state: Vec<&mut [Block8]> = self.blocks.iter_mut().map(|s| &mut s[..]).collect();
        step.run_mixed(&mut self.buffers.theta, &self.buffers.grad, &mut state)
    }

    fn limit_states(states: usize) -> usize {
        states.div_ceil(2).min(1)
    }

    fn limit(&mut self, step: &Step<'_, LimitLoop>) -> Result<(), Error> {
        step.run_mixed(&mut self.buffers.theta, &self.buffers.grad, &mut [&mut self.limit])
    }

    fn with_f32_states<R: Rule>(&mut self, step: &Step<'_, R>) -> Option<Result<(), Error>> {
        Some(self.buffers.step(step))
    }
}

/// The same in `f32`, with a copy of θ in `H`.
pub struct WithCopy<G, S, H> {
    pub buffers: Buffers<f32, G, S>,
    pub copy: Vec<H>,
}

impl<G, S, H> Stepped for WithCopy<G, S, H>
where
    G: Element<Float = f32>,
    S: Element<Float = f32>,
    H: Half,
{
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

/// The minimum duration of a measurement in one round.
const SLICE: Duration = Duration::from_millis(3);

/// Nanoseconds per element, over as many runs as fit into a time slice. The first run does not
/// count: it loads pages and cache lines that other code has evicted.
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
