//! Steps of an optimizer, repeated by its twin.

use std::ptr::{null, null_mut};

use fused_adam::{ParamId, Rule, Tensor};
use fused_adam_c::FusedAdamStatus as Status;
use fused_adam_c::*;

use crate::beside::{Beside, with_beside};
use crate::elements::{Elements, with_elements};
use crate::optimizer::OptimizerHandle;
use crate::options::{NO_REPORT, expect_report};
use crate::source::{Source, Text};
use crate::status::{c, expect_unless, of_result};

/// The tensor of the core with these buffers.
fn tensor<'a>(
    id: ParamId,
    theta: &'a mut Elements,
    grad: &'a mut Elements,
    beside: &'a mut Beside,
    zero_grad: bool,
) -> Tensor<'a> {
    let tensor = with_elements!(theta, theta => with_elements!(grad, grad => {
        match zero_grad {
            true => Tensor::zero_grad(id, theta, grad),
            false => Tensor::new(id, theta, grad),
        }
    }));
    with_beside!(tensor, beside)
}

impl OptimizerHandle {
    /// A structure with the buffers of a parameter, rarely with wrong ones.
    fn structure(
        &mut self,
        i: usize,
        grad: &mut Elements,
        zero_grad: bool,
        source: &mut Source,
        faults: &mut Vec<Status>,
    ) -> FusedAdamTensor {
        let own = &mut self.params[i];
        let members = own.beside[0].members(source, faults);
        let mut tensor = FusedAdamTensor {
            param: i,
            len: own.len,
            theta: own.theta[0].pointer(),
            grad: grad.pointer(),
            copy: members.copy,
            copy_type: members.copy_type,
            zero_grad: zero_grad.into(),
            correction: members.correction,
            correction_bits: members.correction_bits,
        };
        if own.len > 1000 {
            // No buffer is so long.
            (tensor.theta, tensor.grad) = (null_mut(), null());
            faults.extend([Status::Null, Status::Length]);
        }
        if !source.rarely() {
            return tensor;
        }
        let (len, types) = (own.len, own.types);
        match source.below(9) {
            0 if len > 0 => {
                faults.push(Status::Null);
                tensor.theta = null_mut();
            }
            1 if len > 0 => {
                faults.push(Status::Null);
                tensor.grad = null();
            }
            2 if (1..1000).contains(&len) => {
                faults.push(Status::Length);
                tensor.len -= 1;
            }
            3 if (2..1000).contains(&len) => {
                faults.extend([Status::Misaligned, Status::Length]);
                tensor.len -= 1;
                tensor.theta = tensor.theta.wrapping_byte_add(1);
            }
            4 if (1..1000).contains(&len) && types[0] == types[1] => {
                faults.push(Status::Overlap);
                tensor.grad = tensor.theta;
            }
            5 => {
                faults.push(Status::Value);
                tensor.zero_grad = source.pick(&[2, -1, i32::MAX]);
            }
            6 => {
                faults.push(Status::Unknown);
                tensor.param = source.pick(&[self.params.len(), usize::MAX]);
            }
            7 if (1..1000).contains(&len) && types[0] == types[2] => {
                let rule = self.core.rule(self.groups[self.params[i].group]).expect("a group");
                let (mut state, name) = (null(), rule.states().first().map_or("", |m| m.name()));
                let (text, get) = (Text::new(name), fused_adam_optimizer_state);
                let status = c!(get(self.handle, i, text.pointer(), &raw mut state));
                if status == Status::Ok && !state.is_null() {
                    faults.push(Status::Overlap);
                    tensor.theta = state.cast_mut();
                }
            }
            8 => {
                faults.extend([Status::Null, Status::Length]);
                tensor.len = usize::MAX;
                (tensor.theta, tensor.grad) = (null_mut(), null());
                (tensor.copy, tensor.correction) = (null_mut(), null_mut());
            }
            // Empty buffers can be NULL.
            _ if len == 0 => (tensor.theta, tensor.grad) = (null_mut(), null()),
            _ => {}
        }
        tensor
    }

    /// Takes a step on some parameters in any order.
    pub fn step(&mut self, source: &mut Source) {
        let mut order: Vec<usize> = (0..self.params.len()).collect();
        let first = source.below(order.len() + 1);
        order.rotate_left(first);
        order.truncate(order.len() - source.below(order.len() + 1));
        let (mut faults, mut report) = (Vec::new(), NO_REPORT);
        if !order.is_empty() && source.rarely() {
            // A parameter that is given twice also overlaps itself, if it is not empty.
            order.push(order[0]);
            faults.extend([Status::Duplicate, Status::Overlap]);
        }
        let zero: Vec<bool> = order.iter().map(|_| source.below(4) == 3).collect();
        let new = |i: &usize| {
            let own = &self.params[*i];
            Elements::random(own.types[1], if own.len > 1000 { 0 } else { own.len }, source)
        };
        let mut grads: Vec<Elements> = order.iter().map(new).collect();
        let (before, mut twins) = (grads.clone(), grads.clone());
        let image = self.image();
        let params_before: Vec<_> =
            self.params.iter().map(|own| (own.theta[0].clone(), own.beside[0].clone())).collect();
        let mut tensors = Vec::new();
        for ((i, grad), zero) in order.iter().zip(&mut grads).zip(&zero) {
            tensors.push(self.structure(*i, grad, *zero, source, &mut faults));
        }
        let handle = source.or_null(self.handle, &mut faults);
        let mut pointer = tensors.as_mut_ptr();
        if !tensors.is_empty() {
            pointer = source.or_null(pointer, &mut faults);
        }
        let report_at = if source.rarely() { null_mut() } else { &raw mut report };
        let status = c!(fused_adam_optimizer_step(handle, pointer, tensors.len(), report_at));

        // The twin takes the step if no argument is wrong that it does not have.
        let expected = faults.is_empty().then(|| {
            let mut places: Vec<_> = self.params.iter_mut().map(Some).collect();
            let tensors = order.iter().zip(&mut twins).zip(&zero).map(|((i, grad), zero)| {
                let own = places[*i].take().expect("given once");
                tensor(own.id, &mut own.theta[1], grad, &mut own.beside[1], *zero)
            });
            let tensors: Vec<_> = tensors.collect();
            self.core.step(tensors)
        });
        let otherwise = expected.as_ref().map_or(Status::Ok, of_result);
        if !faults.is_empty() {
            // What the twin would have found. The order of the checks is not described.
            faults.extend([Status::Type, Status::Value, Status::States, Status::Length]);
        }
        let ok = expect_unless(&faults, status, otherwise);
        let now = self.image();
        if !ok {
            now.expect_same(&image);
            for ((grad, before), own) in grads.iter().zip(&before).zip(&order) {
                assert!(grad.same(before), "the gradient of parameter {own}");
            }
            for (own, before) in self.params.iter().zip(&params_before) {
                assert!(own.theta[0].same(&before.0) && own.beside[0].same(&before.1));
            }
        }
        now.expect_same(&self.core_image());
        for own in &self.params {
            let [one, other] = &own.theta;
            assert!(one.same(other), "θ is {one:?}, expected {other:?}");
            let [one, other] = &own.beside;
            assert!(one.same(other), "what is beside θ");
        }
        for (grad, twin) in grads.iter().zip(&twins) {
            assert!(grad.same(twin), "the gradient is {grad:?}, expected {twin:?}");
        }
        match expected {
            Some(Ok(expected)) if !report_at.is_null() => expect_report(&report, &expected),
            _ => assert_eq!(report, NO_REPORT),
        }
    }
}
