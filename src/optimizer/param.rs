//! A parameter: the data stored between steps, and the step of a batch of parameters.

use core::sync::atomic::{AtomicU64, Ordering};

use super::states::States;
use super::tensor::TensorBuffers;
use crate::elements::column::DType;
use crate::elements::rows::Beside;
use crate::elements::{Element, StateElement};
use crate::error::Error;
use crate::rules::Rule;
use crate::simd::dispatch::Engine;
use crate::step::Scalars;
use crate::step::grad_scale::GradScale;

/// The id of a parameter of an [`Optimizer`](super::Optimizer), returned when it is registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParamId {
    pub(super) optimizer: OptimizerId,
    pub(super) index: usize,
}

/// The id of a group of an [`Optimizer`](super::Optimizer). The default is the first group, which
/// always exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId {
    /// `None` for the first group of any optimizer.
    pub(super) optimizer: Option<OptimizerId>,
    pub(super) index: usize,
}

/// Tells the ids of one optimizer from those of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct OptimizerId(u64);

impl OptimizerId {
    /// A new one.
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        OptimizerId(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// A parameter and its states.
pub(super) struct Param<'s, R> {
    /// Empty if the caller owns the states. Errors then give the tensor's number in the list.
    pub name: String,
    pub group: usize,
    pub len: usize,
    pub types: Types,
    /// The function that steps a batch of parameters of these types.
    pub step: StepBatch<R>,
    /// The number of steps taken.
    pub t: u64,
    /// `None` before the first gradient.
    pub states: Option<States<'s>>,
    /// The rule's scalars after `t` steps.
    pub scalars: Scalars,
    /// The scalars after the step in progress.
    pub next_scalars: Scalars,
    /// The seed of the random bits: a hash of the name, or the caller's seed.
    pub seed: u64,
}

/// The element types that a parameter was registered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Types {
    pub theta: DType,
    pub grad: DType,
    pub state: DType,
}

impl Types {
    pub fn of<T: Element, G: Element, S: StateElement>() -> Self {
        Types { theta: T::DTYPE, grad: G::DTYPE, state: S::DTYPE }
    }
}

/// Parameters with the same group, step number, element types and scalars, with their buffers.
pub(super) struct Batch<'b, 'p, 's, 'a, R> {
    pub context: &'b PassContext<'p, R>,
    pub params: &'b mut [Param<'s, R>],
    pub buffers: &'b mut [Option<TensorBuffers<'a>>],
}

/// A function that steps a batch.
pub(super) type StepBatch<R> = fn(Batch<'_, '_, '_, '_, R>) -> Result<(), Error>;

/// The arguments of a step other than the tensors.
pub(super) struct PassContext<'p, R> {
    /// The rule of each group.
    pub rules: &'p [R],
    pub engine: Engine,
    pub scale: GradScale,
    /// The seed of stochastic rounding.
    pub seed: Option<u64>,
    /// The largest |Δθ| so far, as its bits. Non-negative floats compare like their bits.
    pub largest_update: Option<AtomicU64>,
}

impl<R: Rule> Param<'_, R> {
    /// Checks that the buffers fit this parameter.
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
        if let Some(shard) = buffers.position.shard {
            self.check_length("shard", usize::try_from(shard.len()).unwrap_or(usize::MAX))?;
        }
        if self.types.state == DType::Block8 {
            let checked = buffers.position.check_blocks(self.len);
            checked.map_err(|error| match &*self.name {
                "" => error,
                name => error.at(format!("parameter `{name}`")),
            })?;
        }
        let expected = match buffers.beside {
            Beside::Copy(_) if theta != DType::F32 => Some("f32 to be copied"),
            Beside::Correction(_) if theta != DType::Bf16 => Some("bf16 to have a correction"),
            _ => None,
        };
        if let Some(expected) = expected {
            return Err(self.wrong_type("theta", theta.name(), expected));
        }
        if let Some((name, len)) = buffers.beside.length() {
            self.check_length(name, len)?;
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
}
