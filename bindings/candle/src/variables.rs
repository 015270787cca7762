//! The variables of an optimizer with their states, and the step on all of them.
//!
//! Nothing here is generic, so the kernels of the rules are compiled once, with this crate, and not
//! with each program that uses it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var, WithDType};
use fused_adam::{AnyRule, Element, GroupId, Optimizer, ParamId, Report, bf16, f16};

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
        let (core, len) = (&mut self.core, var.elem_count());
        let id = match var.dtype() {
            DType::F32 => register::<f32>(core, &name, len),
            DType::F64 => register::<f64>(core, &name, len),
            DType::BF16 => register::<bf16>(core, &name, len),
            DType::F16 => register::<f16>(core, &name, len),
            dtype => return Err(Error::DType { what: what.to_string(), dtype }),
        }?;
        self.all.push(Variable { name, var, address, id });
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
        let copied = match var.dtype() {
            DType::F32 => copy::<f32>(self.core.state(*id, state), var),
            DType::F64 => copy::<f64>(self.core.state(*id, state), var),
            DType::BF16 => copy::<bf16>(self.core.state(*id, state), var),
            DType::F16 => copy::<f32>(self.core.state(*id, state), var),
            _ => None,
        };
        copied.transpose()
    }
}

fn register<E: Element>(
    core: &mut Optimizer<AnyRule>,
    name: &str,
    len: usize,
) -> Result<ParamId, fused_adam::Error> {
    core.add::<E>(GroupId::default(), name, len)
}

/// Checks that a tensor is on the CPU and has a supported type.
fn check_place(tensor: &Tensor, what: TensorName<'_>) -> Result<(), Error> {
    if !matches!(tensor.device(), Device::Cpu) {
        return Err(Error::Device { what: what.to_string(), device: tensor.device().location() });
    }
    match tensor.dtype() {
        DType::F32 | DType::F64 | DType::BF16 | DType::F16 => Ok(()),
        dtype => Err(Error::DType { what: what.to_string(), dtype }),
    }
}
