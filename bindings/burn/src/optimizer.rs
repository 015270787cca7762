//! An implementation of burn's optimizer trait: one step of one parameter.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use burn_core::backend::TensorMetadata;
use burn_core::tensor::{DType, Device, Tensor};
use burn_optim::{LearningRate, Optimizer};
use fused_adam::{
    AnyRule, Backend, Block8, Error, Parallelism, Rule, State, StateElement, StepOptions, step_all,
};

use crate::memory::{
    FlexTensor, StateMemory, decoded, encoded, filled, filled_blocks, put_back, reborrow, seed_of,
    take_out, widened,
};
use crate::state::Stored;
use crate::{FusedState, StepError};

/// A rule of fused-adam as an optimizer for burn. [`FusedConfig::build`](crate::FusedConfig::build)
/// makes it.
///
/// `ModuleOptimizer::from` makes an optimizer of it for a whole module, and
/// `ModuleOptimizer::with_group` uses it for a group of parameters.
#[derive(Clone, Debug)]
pub struct Fused {
    rule: AnyRule,
    f32_states: Option<bool>,
    min_8bit_size: Option<usize>,
    options: StepOptions,
    copied: Arc<AtomicU64>,
    /// The warnings given, so that a module gets each of them once.
    warnings: Arc<Mutex<HashSet<String>>>,
}

impl Fused {
    pub(crate) fn of(
        rule: AnyRule,
        f32_states: Option<bool>,
        min_8bit_size: Option<usize>,
    ) -> Self {
        Fused {
            rule,
            f32_states,
            min_8bit_size,
            options: StepOptions::default(),
            copied: Arc::default(),
            warnings: Arc::default(),
        }
    }

    /// Sets the backend of fused-adam. Default: [`Backend::Auto`].
    #[must_use]
    pub fn with_backend(mut self, backend: Backend) -> Self {
        self.options.backend = backend;
        self
    }

    /// Sets the use of threads. Default: [`Parallelism::Auto`], which steps large parameters on the
    /// threads of the caller's rayon pool.
    #[must_use]
    pub fn with_parallelism(mut self, parallelism: Parallelism) -> Self {
        self.options.parallelism = parallelism;
        self
    }

    /// The number of bytes that this optimizer and its clones have copied in all their steps. It is
    /// `0` if all steps were in place.
    pub fn copied(&self) -> u64 {
        self.copied.load(Ordering::Relaxed)
    }

    /// Takes a step of one parameter, and returns the new θ and the new state. The tensors must be
    /// without autodiff: call `inner` on a parameter of a model. Pass no state in the first step.
    ///
    /// The step updates θ and the states in place if nothing else shares their memory. Otherwise it
    /// copies them, so other owners see no change.
    ///
    /// With [`with_8bit_states`](crate::FusedConfig::with_8bit_states), states of another type are
    /// converted to 8 bits, rounded to nearest. Without it, states in 8 bits become `f32`.
    ///
    /// States of 16 bits become `f32` if this optimizer would begin with `f32` states for this
    /// parameter. Otherwise, states keep their type: states of `f32` stay `f32`.
    ///
    /// States of another rule are continued if they mean the same, with a warning of the `log`
    /// crate; each warning is given once. [`FusedState`] lists the rules.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use fused_adam_burn::FusedConfig;
    /// use fused_adam_burn::fused_adam::Adam;
    ///
    /// let device = Device::flex();
    /// let optim = FusedConfig::new(Adam::default()).build()?;
    /// let (theta, grad) = (Tensor::<1>::ones([3], &device), Tensor::ones([3], &device));
    /// let (theta, state) = optim.try_step(0.25, theta, grad, None)?;
    /// assert_eq!((state.t(), optim.copied()), (1, 0));
    /// assert!(theta.try_into_vec_as::<f32>().unwrap().iter().all(|x| (x - 0.75).abs() < 1e-6));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`StepError`]. All checks run before the first write.
    pub fn try_step<const D: usize>(
        &self,
        lr: LearningRate,
        theta: Tensor<D>,
        grad: Tensor<D>,
        state: Option<FusedState<D>>,
    ) -> Result<(Tensor<D>, FusedState<D>), StepError> {
        let mut rule = self.rule;
        rule.set_lr(lr);
        rule.check()?;
        let mut copied = 0;
        let mut theta = take_out("theta", theta, &mut copied)?;
        let grad = take_out("grad", grad, &mut copied)?;
        check_shape("grad", &grad, &theta)?;
        let in_8_bits = self.in_8_bits(&theta)?;
        let warning = state.as_ref().and_then(|state| self.warning(state));
        let (t, seed, mut states, mut scalars) = match state {
            Some(state) => {
                let t = state.t().checked_add(1).ok_or(Error::StepNumber {
                    t: state.t(),
                    expected: "less than u64::MAX for another step to follow",
                })?;
                let (seed, scalars) = (state.seed(), state.scalars_of(&rule));
                let mut states = Vec::new();
                for (declared, state) in rule.states().iter().zip(state.into_states_of(&rule)?) {
                    states.push(self.converted(declared, state, in_8_bits, &theta, &mut copied)?);
                }
                (t, seed, states, scalars)
            }
            None => {
                let scalars = (0..rule.scalars().len()).map(|i| rule.scalar_after(i, 0)).collect();
                (1, None, self.first_states(&rule, &theta, in_8_bits), scalars)
            }
        };
        let seed = (in_8_bits && !states.is_empty())
            .then(|| seed.unwrap_or_else(|| seed_of(&theta, &grad)));
        rule.advance_scalars(t, &mut scalars);
        let borrowed = reborrow(t, &scalars, &mut theta, &grad, &mut states, &mut copied);
        step_all(&[rule], &self.options, [borrowed.with_seed(seed.unwrap_or(0))])?;
        self.copied.fetch_add(copied, Ordering::Relaxed);
        warning.into_iter().for_each(|warning| self.warn_once(warning));
        let states = states.into_iter().map(|state| match state {
            StateMemory::Tensor(state) => Stored::Tensor(put_back(state)),
            StateMemory::Blocks(blocks) => Stored::Blocks(blocks),
        });
        let states = rule.states().iter().map(State::name).zip(states);
        let scalars = rule.scalars().iter().copied().zip(scalars);
        Ok((put_back(theta), FusedState::new(&rule, t, seed, states, scalars)))
    }

    /// What to tell if these states are of another rule.
    fn warning<const D: usize>(&self, state: &FusedState<D>) -> Option<String> {
        let (origin, rule, t) = (state.origin(), self.rule.name(), state.t());
        (origin.name() != rule).then(|| {
            let found = origin.describe(state.names());
            format!(
                "the states of {found} at step {t} are continued with `{rule}`; the \
                 hyper-parameters are those of `{rule}`, since a record has none"
            )
        })
    }

    fn warn_once(&self, warning: String) {
        let mut given = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        if !given.contains(&warning) {
            log::warn!("{warning}");
            given.insert(warning);
        }
    }

    /// Whether the states of this parameter are in 8 bits.
    fn in_8_bits(&self, theta: &FlexTensor) -> Result<bool, StepError> {
        let in_8_bits = self.min_8bit_size.is_some_and(|size| theta.shape().num_elements() >= size);
        if in_8_bits && theta.dtype() == DType::F64 {
            return Err(StepError::EightBitStates);
        }
        Ok(in_8_bits)
    }

    /// The type of the states of this parameter, if they are not in 8 bits.
    fn state_dtype(&self, theta: &FlexTensor) -> DType {
        match theta.dtype() {
            DType::F16 if self.f32_states.unwrap_or(true) => DType::F32,
            DType::BF16 if self.f32_states.unwrap_or(self.min_8bit_size.is_some()) => DType::F32,
            dtype => dtype,
        }
    }

    /// The states before the first step.
    fn first_states(
        &self,
        rule: &AnyRule,
        theta: &FlexTensor,
        in_8_bits: bool,
    ) -> Vec<StateMemory> {
        let dtype = self.state_dtype(theta);
        let first = |(i, state)| {
            let (shape, value) = (theta.shape(), rule.initial_state(i));
            if in_8_bits {
                StateMemory::Blocks(filled_blocks(state, shape.num_elements(), value).into())
            } else {
                StateMemory::Tensor(filled(shape, dtype, value))
            }
        };
        rule.states().iter().enumerate().map(first).collect()
    }

    /// Takes out the memory of a state of `theta`, in 8 bits or not.
    fn converted<const D: usize>(
        &self,
        declared: &State,
        state: Stored<D>,
        in_8_bits: bool,
        theta: &FlexTensor,
        copied: &mut u64,
    ) -> Result<StateMemory, StepError> {
        match state {
            Stored::Tensor(state) => {
                let state = take_out(declared.name(), state, copied)?;
                check_shape(declared.name(), &state, theta)?;
                // The core refuses states of `f64`.
                let blocks = if in_8_bits { encoded(declared, &state) } else { None };
                Ok(match blocks {
                    Some(blocks) => StateMemory::Blocks(blocks.into()),
                    None if self.state_dtype(theta) == DType::F32 => {
                        StateMemory::Tensor(widened(state))
                    }
                    None => StateMemory::Tensor(state),
                })
            }
            Stored::Blocks(blocks) => {
                let (name, len) = (declared.name(), theta.shape().num_elements());
                let expected = Block8::slots(len);
                if blocks.len() != expected {
                    return Err(Error::Blocks { name, blocks: blocks.len(), expected, len }.into());
                }
                Ok(if in_8_bits {
                    StateMemory::Blocks(blocks)
                } else {
                    StateMemory::Tensor(decoded(declared, &blocks, theta.shape()))
                })
            }
        }
    }
}

fn check_shape(
    tensor: &'static str,
    found: &FlexTensor,
    theta: &FlexTensor,
) -> Result<(), StepError> {
    let (found, expected) = (found.shape(), theta.shape());
    if found == expected {
        return Ok(());
    }
    Err(StepError::Shape { tensor, found: found.to_vec(), expected: expected.to_vec() })
}

impl Optimizer for Fused {
    type State<const D: usize> = FusedState<D>;

    /// [`try_step`](Fused::try_step), for burn.
    ///
    /// # Panics
    ///
    /// With the message of a [`StepError`].
    fn step<const D: usize>(
        &self,
        lr: LearningRate,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<FusedState<D>>,
    ) -> (Tensor<D>, Option<FusedState<D>>) {
        match self.try_step(lr, tensor, grad, state) {
            Ok((theta, state)) => (theta, Some(state)),
            Err(error) => panic!("{error}"),
        }
    }

    fn to_device<const D: usize>(state: FusedState<D>, device: &Device) -> FusedState<D> {
        state.map(|tensor| tensor.to_device(device))
    }
}
