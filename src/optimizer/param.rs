//! A parameter: what is kept of it between steps, and how a batch of parameters is stepped.

use core::sync::atomic::AtomicU64;

use super::states::States;
use super::tensor::TensorBuffers;
use crate::elements::Element;
use crate::elements::column::DType;
use crate::error::Error;
use crate::rules::Rule;
use crate::simd::dispatch::Engine;
use crate::step::Scalars;
use crate::step::grad_scale::GradScale;

/// A parameter of an [`Optimizer`](super::Optimizer): what registering it gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParamId(pub(super) usize);

/// A group of an [`Optimizer`](super::Optimizer). The default is the first one, which always is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(pub(super) usize);

/// A parameter and its states.
pub(super) struct Param<'s, R> {
    /// Empty where the caller keeps the states: a number in a list then stands for it, in errors
    /// alone.
    pub name: String,
    pub group: usize,
    pub len: usize,
    pub types: Types,
    /// How a batch of parameters like this one is stepped: by code for these types.
    pub step: StepBatch<R>,
    /// Steps taken.
    pub t: u64,
    /// None before the first gradient.
    pub states: Option<States<'s>>,
    /// The rule's scalars after `t` steps.
    pub scalars: Scalars,
    /// What they will be after the step under way.
    pub next_scalars: Scalars,
    /// Of its random bits: a hash of the name.
    pub seed: u64,
    /// The number of its first element: not 0 for a part of a tensor.
    pub offset: u64,
}

/// The element types that a parameter was registered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Types {
    pub theta: DType,
    pub grad: DType,
    pub state: DType,
}

impl Types {
    pub fn of<T: Element, G: Element, S: Element>() -> Self {
        Types { theta: T::DTYPE, grad: G::DTYPE, state: S::DTYPE }
    }
}

/// Parameters of one group, step number, mixture of types and scalars, with their buffers.
pub(super) struct Batch<'b, 'p, 's, 'a, R> {
    pub plan: &'b Plan<'p, R>,
    pub params: &'b mut [Param<'s, R>],
    pub buffers: &'b mut [Option<TensorBuffers<'a>>],
}

/// Takes a step of a batch.
pub(super) type StepBatch<R> = fn(Batch<'_, '_, '_, '_, R>) -> Result<(), Error>;

/// Everything that a step needs beside the tensors.
pub(super) struct Plan<'p, R> {
    /// The rule of each group.
    pub rules: &'p [R],
    pub engine: Engine,
    pub scale: GradScale,
    /// The seed of stochastic rounding.
    pub seed: Option<u64>,
    /// Where the largest change of θ is kept, as its bits: numbers from 0 up are in the order of
    /// their bits.
    pub largest_update: Option<AtomicU64>,
}

impl<R: Rule> Param<'_, R> {
    /// That buffers are those of this parameter.
    #[inline]
    pub fn check(&self, buffers: &TensorBuffers<'_>) -> Result<(), Error> {
        let (theta, grad) = (buffers.theta.dtype(), buffers.grad.column());
        if theta != self.types.theta {
            return Err(self.wrong_type("theta", theta.name(), self.types.theta.name()));
        }
        self.check_length("theta", buffers.theta.len())?;
        if theta.is_f64() != grad.dtype().is_f64() {
            let expected = if theta.is_f64() { "f64" } else { "f32, bf16 or f16" };
            return Err(self.wrong_type("grad", grad.dtype().name(), expected));
        }
        self.check_length("grad", grad.len())?;
        if let Some(copy) = &buffers.copy {
            if theta != DType::F32 {
                return Err(self.wrong_type("theta", theta.name(), "f32 to be copied"));
            }
            self.check_length("copy", copy.len())?;
        }
        Ok(())
    }

    #[cold]
    pub fn wrong_type(
        &self,
        buffer: &'static str,
        given: &'static str,
        expected: &'static str,
    ) -> Error {
        Error::TensorType { param: self.name.clone(), buffer, given, expected }
    }

    pub fn check_length(&self, buffer: &'static str, len: usize) -> Result<(), Error> {
        if len == self.len {
            return Ok(());
        }
        Err(Error::TensorLength { param: self.name.clone(), buffer, len, expected: self.len })
    }

    /// Makes the states before the first step.
    pub fn create_states(&mut self, rule: &R) {
        self.states = Some(States::new(self.types.state, self.len, rule));
    }
}
