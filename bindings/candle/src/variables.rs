//! The variables of an optimizer with their states, and the step on all of them.
//!
//! Nothing here is generic, so the kernels of the rules are compiled once, with this crate, and not
//! with each program that uses it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var, WithDType};
use fused_adam::{AnyRule, Block8, Element, GroupId, Optimizer, ParamId, Report, bf16, f16};

use crate::Error;
use crate::elements::{self, ParamMut, TensorName};
use crate::locks::{self, Readers};

/// Variables by name, and fused-adam's own optimizer, which stores their states.
pub struct Variables {
    pub all: Vec<Variable>,
    /// The index of a variable, by the address of its storage.
    addresses: HashMap<usize, usize>,
    /// Its parameters have the names of the variables.
    pub core: Optimizer<AnyRule>,
}

/// A variable that passed the checks: on the CPU, contiguous, of a supported type, and with its own
/// storage.
pub struct Variable {
    pub name: String,
    pub var: Var,
    /// The address of its storage, which never changes.
    pub address: usize,
    id: ParamId,
}

/// A gradient that passed the checks: contiguous, on the CPU, and not sharing a storage with a
/// variable.
struct CheckedGrad<'a> {
    of: &'a Variable,
    grad: Tensor,
    /// The address of its storage.
    address: usize,
}

impl Variables {
    /// No variables.
    pub fn new(rule: AnyRule) -> Result<Self, Error> {
        let core = Optimizer::new(rule)?;
        Ok(Variables { all: Vec::new(), addresses: HashMap::new(), core })
    }

    /// Checks and adds a variable.
    pub fn add(&mut self, name: String, var: Var) -> Result<(), Error> {
        let what = TensorName::Variable(&name);
        check_place(&var, what)?;
        if !var.is_contiguous() {
            return Err(Error::NotContiguous { variable: name, strides: var.stride().to_vec() });
        }
        let address = locks::address(&var);
        match self.addresses.entry(address) {
            Entry::Occupied(other) => {
                let first = self.all[*other.get()].name.clone();
                return Err(Error::SharedStorage { first, second: name });
            }
            Entry::Vacant(place) => place.insert(self.all.len()),
        };
        let id = register(&mut self.core, &name, &var, None)?;
        self.all.push(Variable { name, var, address, id });
        Ok(())
    }

    /// Stores the states of the variables with at least this many elements in 8 bits.
    pub fn set_8bit_states(&mut self, min_8bit_size: usize) -> Result<(), Error> {
        let steps = self.core.steps();
        if steps > 0 {
            return Err(Error::StepsTaken { steps });
        }
        let rule = self.core.rule(GroupId::default()).expect("the first group is always there");
        let mut core = Optimizer::new(*rule)?;
        core.set_lr_schedule(self.core.lr_schedule().cloned())?;
        let register = |of: &Variable| register(&mut core, &of.name, &of.var, Some(min_8bit_size));
        let ids = self.all.iter().map(register).collect::<Result<Vec<_>, Error>>()?;
        for (of, id) in self.all.iter_mut().zip(ids) {
            of.id = id;
        }
        core.options = self.core.options;
        core.grad_scaler = self.core.grad_scaler.take();
        self.core = core;
        Ok(())
    }

    /// Takes a step on the variables that have gradients.
    pub fn step(&mut self, grads: &GradStore) -> Result<Report, Error> {
        let mut given = Vec::with_capacity(self.all.len());
        // Variables without elements need no step, and candle does not give access to them.
        for of in self.all.iter().filter(|of| of.var.elem_count() > 0) {
            if let Some(grad) = grads.get(&of.var) {
                given.push(self.check(of, grad)?);
            }
        }
        given.sort_unstable_by_key(|given| given.of.address);
        let vars: Vec<&Tensor> = given.iter().map(|given| given.of.var.as_tensor()).collect();
        let readers = Readers::new(given.iter().map(|given| (given.address, &given.grad)));
        let core = &mut self.core;
        locks::write_all(&vars, |storages| {
            let mut tensors = Vec::with_capacity(storages.len());
            for (CheckedGrad { of, grad, address }, storage) in given.iter().zip(storages) {
                let what = TensorName::Variable(&of.name);
                let theta = ParamMut { what, tensor: &of.var, storage };
                let what = TensorName::GradientOf(&of.name);
                let grad = ParamMut { what, tensor: grad, storage: readers.get(*address, what)? };
                tensors.push(elements::tensor(of.id, theta, grad)?);
            }
            Ok(core.step(tensors)?)
        })?
    }

    /// Checks that a gradient fits this variable.
    fn check<'a>(&self, of: &'a Variable, grad: &Tensor) -> Result<CheckedGrad<'a>, Error> {
        check_place(grad, TensorName::GradientOf(&of.name))?;
        if grad.shape() != of.var.shape() {
            let (given, expected) = (grad.shape().clone(), of.var.shape().clone());
            return Err(Error::Shape { variable: of.name.clone(), given, expected });
        }
        let mut grad = grad.contiguous()?;
        let mut address = locks::address(&grad);
        if self.addresses.contains_key(&address) {
            grad = grad.force_contiguous()?;
            address = locks::address(&grad);
        }
        Ok(CheckedGrad { of, grad, address })
    }

    /// A copy of a variable's state.
    pub fn state(&self, name: &str, state: &str) -> candle_core::Result<Option<Tensor>> {
        fn copy<E: Element + WithDType>(
            state: Option<&[E]>,
            var: &Var,
        ) -> Option<candle_core::Result<Tensor>> {
            Some(Tensor::from_slice(state?, var.shape(), &Device::Cpu))
        }
        let Some(Variable { var, id, .. }) = self.all.iter().find(|of| of.name == name) else {
            return Ok(None);
        };
        if let Some(blocks) = self.core.state::<Block8>(*id, state) {
            let shape = (blocks.len(), size_of::<Block8>());
            return Tensor::from_slice(blocks.as_flattened(), shape, &Device::Cpu).map(Some);
        }
        // States of another type are None.
        let copied = copy::<f32>(self.core.state(*id, state), var)
            .or_else(|| copy::<f64>(self.core.state(*id, state), var))
            .or_else(|| copy::<bf16>(self.core.state(*id, state), var));
        copied.transpose()
    }
}

/// Registers a variable. With a size its states are in 8 bits, if it has at least so many elements.
fn register(
    core: &mut Optimizer<AnyRule>,
    name: &str,
    var: &Var,
    min_8bit_size: Option<usize>,
) -> Result<ParamId, Error> {
    let (group, len) = (GroupId::default(), var.elem_count());
    let id = match (var.dtype(), min_8bit_size) {
        (DType::F32, None) => core.add::<f32>(group, name, len),
        (DType::BF16, None) => core.add::<bf16>(group, name, len),
        (DType::F16, None) => core.add::<f16>(group, name, len),
        (DType::F32, Some(size)) => core.add_8bit::<f32, f32>(group, name, len, size),
        (DType::BF16, Some(size)) => core.add_8bit::<bf16, bf16>(group, name, len, size),
        (DType::F16, Some(size)) => core.add_8bit::<f16, f16>(group, name, len, size),
        (DType::F64, size) if size.is_none_or(|size| len < size) => {
            core.add::<f64>(group, name, len)
        }
        (DType::F64, _) => return Err(Error::EightBitStates { variable: name.to_owned() }),
        (dtype, _) => return Err(TensorName::Variable(name).wrong_dtype(dtype)),
    };
    Ok(id?)
}

/// Checks that a tensor is on the CPU and has a supported type.
fn check_place(tensor: &Tensor, what: TensorName<'_>) -> Result<(), Error> {
    if !matches!(tensor.device(), Device::Cpu) {
        return Err(Error::Device { what: what.to_string(), device: tensor.device().location() });
    }
    match tensor.dtype() {
        DType::F32 | DType::F64 | DType::BF16 | DType::F16 => Ok(()),
        dtype => Err(what.wrong_dtype(dtype)),
    }
}
