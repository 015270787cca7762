//! The types of states: those of the variables, `f32`, or 8 bits.

use candle_core::{DType, Var};
use fused_adam::{AnyRule, Block8, GroupId, Optimizer as Core, ParamId, bf16, f16};

use crate::elements::TensorName;
use crate::variables::{Variable, Variables};
use crate::{Error, Optimizer};

impl<C> Optimizer<C> {
    /// Stores the states of variables of 16 bits in `f32`, or with `false` in the type of their
    /// variable. Default: in `f32` for `f16`, and in `bf16` for `bf16`; with
    /// [states in 8 bits](Self::set_8bit_states), in `f32` for both if the variable is too small
    /// for those.
    ///
    /// With β₂ = 0.999 a step moves v by a thousandth of its distance to g². In `bf16` this is
    /// often less than half of v's last bit, and v then stays as it is. In `f16` a v below 3e-8 is
    /// rounded to 0. States of `f32` do not have these problems. With AdamW they take 8 bytes for
    /// each element instead of 4.
    ///
    /// Call it before the first step, and before [`load`](Self::load), which needs a file with
    /// states of the same type, or in 8 bits. Variables that are [added](Self::add) later follow it
    /// too.
    ///
    /// ```
    /// use candle_core::{DType, Device, Var};
    /// use candle_nn::{Optimizer as _, ParamsAdamW};
    ///
    /// let w = Var::ones((64, 128), DType::BF16, &Device::Cpu)?;
    /// let mut opt = fused_adam_candle::AdamW::new(vec![w.clone()], ParamsAdamW::default())?;
    /// opt.set_f32_states(true)?;
    /// opt.backward_step(&w.sqr()?.sum_all()?)?;
    /// assert_eq!(opt.state("0", "m")?.map(|m| m.dtype()), Some(DType::F32));
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::StepsTaken`] after the first step.
    pub fn set_f32_states(&mut self, f32_states: bool) -> Result<(), Error> {
        let types = self.variables.state_types;
        let types = StateTypes { f32_states: Some(f32_states), ..types };
        self.variables.set_state_types("set_f32_states", types)
    }

    /// Stores the states of large variables in 8 bits: 33 bytes for 32 elements, so that AdamW has
    /// 2.06 bytes of states for each element instead of 8. A step computes in `f32`, and rounds the
    /// states stochastically. Their random bits depend on the name of the variable and on the step
    /// number.
    ///
    /// Variables with less than `min_8bit_size` elements have states of `f32`, or of `f64` if they
    /// are `f64`: they take little memory, and small variables such as biases are sensitive. A
    /// usual value is 4096. With 0 all variables have states in 8 bits.
    ///
    /// Call it before the first step, and before [`load`](Self::load). Variables that are
    /// [added](Self::add) later follow it too. A checkpoint keeps the states in 8 bits, and a
    /// resumed run continues with the same bits. `load` converts states of `f32` to 8 bits, or the
    /// other way round, if the file has the other type.
    ///
    /// ```
    /// use candle_core::{DType, Device, Var};
    /// use candle_nn::ParamsAdamW;
    ///
    /// let w = Var::zeros((64, 128), DType::F32, &Device::Cpu)?;
    /// let mut opt = fused_adam_candle::AdamW::with_names([("w", w)], ParamsAdamW::default())?;
    /// opt.set_8bit_states(4096)?;
    /// # Ok::<(), fused_adam_candle::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::EightBitStates`] if a variable of `f64` has at least `min_8bit_size` elements, and
    /// [`Error::StepsTaken`] after the first step.
    pub fn set_8bit_states(&mut self, min_8bit_size: usize) -> Result<(), Error> {
        let types = self.variables.state_types;
        let types = StateTypes { min_8bit_size: Some(min_8bit_size), ..types };
        self.variables.set_state_types("set_8bit_states", types)
    }
}

/// The settings for the types of states.
#[derive(Clone, Copy, Default)]
pub struct StateTypes {
    /// Whether 16-bit variables have states of `f32`. `None` for the default.
    f32_states: Option<bool>,
    /// The least number of elements for states in 8 bits.
    min_8bit_size: Option<usize>,
}

impl StateTypes {
    /// Registers a variable with states of its type.
    pub fn register(
        self,
        core: &mut Core<AnyRule>,
        group: GroupId,
        name: &str,
        var: &Var,
    ) -> Result<ParamId, Error> {
        let (dtype, len) = (var.dtype(), var.elem_count());
        let in_8_bits = self.min_8bit_size.is_some_and(|size| len >= size);
        let in_f32 = |default| self.f32_states.unwrap_or(default);
        let id = match dtype {
            DType::F32 if in_8_bits => core.add_mixed::<f32, f32, Block8>(group, name, len),
            DType::F32 => core.add::<f32>(group, name, len),
            DType::F64 if in_8_bits => {
                return Err(Error::EightBitStates { variable: name.to_owned() });
            }
            DType::F64 => core.add::<f64>(group, name, len),
            DType::BF16 if in_8_bits => core.add_mixed::<bf16, bf16, Block8>(group, name, len),
            DType::BF16 if in_f32(self.min_8bit_size.is_some()) => {
                core.add_mixed::<bf16, bf16, f32>(group, name, len)
            }
            DType::BF16 => core.add_mixed::<bf16, bf16, bf16>(group, name, len),
            DType::F16 if in_8_bits => core.add_mixed::<f16, f16, Block8>(group, name, len),
            DType::F16 if in_f32(true) => core.add_mixed::<f16, f16, f32>(group, name, len),
            DType::F16 => core.add_mixed::<f16, f16, f16>(group, name, len),
            dtype => return Err(TensorName::Variable(name).wrong_dtype(dtype)),
        };
        Ok(id?)
    }
}

impl Variables {
    /// Registers all variables again, with states of other types.
    fn set_state_types(&mut self, method: &'static str, types: StateTypes) -> Result<(), Error> {
        let steps = self.core.steps();
        if steps > 0 {
            return Err(Error::StepsTaken { method, steps });
        }
        let mut core = Core::new(*self.rule(0))?;
        core.set_lr_schedule(self.core.lr_schedule().cloned())?;
        let mut groups = vec![GroupId::default()];
        for group in 1..self.groups.len() {
            groups.push(core.add_group(*self.rule(group))?);
        }
        let register =
            |of: &Variable| types.register(&mut core, groups[of.group], &of.name, &of.var);
        let ids = self.all.iter().map(register).collect::<Result<Vec<_>, Error>>()?;
        for (of, id) in self.all.iter_mut().zip(ids) {
            of.id = id;
        }
        for (group, of_core) in self.groups.iter_mut().zip(groups) {
            group.of_core = of_core;
        }
        core.options = self.core.options;
        core.grad_scaler = self.core.grad_scaler.take();
        (self.core, self.state_types) = (core, types);
        Ok(())
    }
}
