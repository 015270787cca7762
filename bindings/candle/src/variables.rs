//! The variables of an optimizer in groups, with their states, and the step on all of them.
//!
//! Nothing here is generic, so the kernels of the rules are compiled once, with this crate, and not
//! with each program that uses it.

use std::collections::HashMap;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var, WithDType};
use fused_adam::{AnyRule, Block8, Element, GroupId, Optimizer, ParamId, Report, bf16, f16};

use crate::Error;
use crate::elements::{self, ParamMut, TensorName};
use crate::locks::{self, Readers};
use crate::state_types::StateTypes;

/// Variables by name, and fused-adam's own optimizer, which stores their states.
pub struct Variables {
    pub all: Vec<Variable>,
    /// The index of a variable, by the address of its storage.
    addresses: HashMap<usize, usize>,
    /// Variables that could not be added, in a call that returns no error.
    refused: Vec<(String, Var)>,
    pub groups: Vec<Group>,
    pub state_types: StateTypes,
    /// Its parameters have the names of the variables.
    pub core: Optimizer<AnyRule>,
}

/// The ids of a group. They differ once [`core`](Variables::core) has been replaced.
pub struct Group {
    /// The id that the caller has.
    id: GroupId,
    pub of_core: GroupId,
}

/// A variable that passed the checks: on the CPU, contiguous, of a supported type, and with its own
/// storage.
pub struct Variable {
    pub name: String,
    pub var: Var,
    /// The index of its group.
    pub group: usize,
    /// The address of its storage, which never changes.
    pub address: usize,
    pub id: ParamId,
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
    /// No variables, and one group.
    pub fn new(rule: AnyRule) -> Result<Self, Error> {
        let core = Optimizer::new(rule)?;
        let first = Group { id: GroupId::default(), of_core: GroupId::default() };
        Ok(Variables {
            all: Vec::new(),
            addresses: HashMap::new(),
            refused: Vec::new(),
            groups: vec![first],
            state_types: StateTypes::default(),
            core,
        })
    }

    /// Checks the rule and adds a group.
    pub fn add_group(&mut self, rule: AnyRule) -> Result<GroupId, Error> {
        let id = self.core.add_group(rule)?;
        self.groups.push(Group { id, of_core: id });
        Ok(id)
    }

    /// The index of a group.
    pub fn group(&self, id: GroupId) -> Option<usize> {
        self.groups.iter().position(|group| group.id == id)
    }

    /// The rule of the group with this index.
    pub fn rule(&self, group: usize) -> &AnyRule {
        self.core.rule(self.groups[group].of_core).expect("a group is never removed")
    }

    pub fn rule_mut(&mut self, group: usize) -> &mut AnyRule {
        self.core.rule_mut(self.groups[group].of_core).expect("a group is never removed")
    }

    /// Checks and adds a variable to the group with this index.
    pub fn add(&mut self, group: usize, name: String, var: Var) -> Result<(), Error> {
        let what = TensorName::Variable(&name);
        check_place(&var, what)?;
        if !var.is_contiguous() {
            return Err(Error::NotContiguous { variable: name, strides: var.stride().to_vec() });
        }
        let address = locks::address(&var);
        if let Some(first) = self.addresses.get(&address) {
            let first = self.all[*first].name.clone();
            return Err(Error::SharedStorage { first, second: name });
        }
        let of_core = self.groups[group].of_core;
        let id = self.state_types.register(&mut self.core, of_core, &name, &var)?;
        self.addresses.insert(address, self.all.len());
        self.all.push(Variable { name, var, group, address, id });
        Ok(())
    }

    /// Adds a variable to the first group. Its name is the number of variables, or if that name is
    /// taken, the next number that is not. If that fails, steps fail until it can be added.
    pub fn push(&mut self, var: Var) {
        let mut number = self.all.len() + self.refused.len();
        let is_taken = |name: &str| {
            self.core.id(name).is_some() || self.refused.iter().any(|(of, _)| of == name)
        };
        while is_taken(&number.to_string()) {
            number += 1;
        }
        let name = number.to_string();
        if self.add(0, name.clone(), var.clone()).is_err() {
            self.refused.push((name, var));
        }
    }

    /// Takes a step on the variables that have gradients.
    pub fn step(&mut self, grads: &GradStore) -> Result<Report, Error> {
        while let Some((name, var)) = self.refused.first().cloned() {
            self.add(0, name, var)?;
            self.refused.remove(0);
        }
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
            .or_else(|| copy::<bf16>(self.core.state(*id, state), var))
            .or_else(|| copy::<f16>(self.core.state(*id, state), var));
        copied.transpose()
    }
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
