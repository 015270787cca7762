//! Optimizers: each handle has an optimizer of the core beside it, which takes the same steps with
//! the scalar backend. θ and the gradients of both are separate buffers.

use std::ffi::c_void;
use std::ptr::{null, null_mut};

use fused_adam::{
    AnyRule, Block8, Element, Error, GradScaler, GroupId, Optimizer, ParamId, Rule, bf16, f16,
};
use fused_adam_c::FusedAdamStatus as Status;
use fused_adam_c::*;

use crate::beside::Beside;
use crate::elements::{BF16, BLOCK8, Elements, F16, F32, F64};
use crate::options::{OptionsHandle, scalar};
use crate::rules::{RuleHandle, field_name, get_field, set_field};
use crate::schedules::Phases;
use crate::source::{Source, Text};
use crate::status::{c, expect, expect_unless, of_result};

/// An optimizer and the handle of its twin.
pub struct OptimizerHandle {
    pub handle: *mut FusedAdamOptimizer,
    pub core: Optimizer<AnyRule>,
    pub groups: Vec<GroupId>,
    pub params: Vec<Param>,
}

/// A parameter with the buffers of the handle and of its twin.
pub struct Param {
    pub id: ParamId,
    pub group: usize,
    pub len: usize,
    /// Of θ, the gradient and the states.
    pub types: [i32; 3],
    pub theta: [Elements; 2],
    pub beside: [Beside; 2],
}

/// What the header shows of an optimizer.
pub struct Image {
    steps: u64,
    loss_scale: u64,
    params: Vec<(u64, Vec<Option<Elements>>)>,
}

impl Image {
    /// Whether a state has a NaN.
    pub fn has_nan(&self) -> bool {
        let states = self.params.iter().flat_map(|(_, states)| states);
        states.flatten().any(Elements::has_nan)
    }

    #[track_caller]
    pub fn expect_same(&self, other: &Image) {
        assert_eq!((self.steps, self.loss_scale), (other.steps, other.loss_scale));
        assert_eq!(self.params.len(), other.params.len());
        for (param, other) in self.params.iter().zip(&other.params) {
            assert_eq!(param.0, other.0, "the step number of a parameter");
            assert_eq!(param.1.len(), other.1.len());
            for (i, pair) in param.1.iter().zip(&other.1).enumerate() {
                match pair {
                    (Some(one), Some(other)) => {
                        assert!(one.same(other), "state {i}: {one:?}, expected {other:?}");
                    }
                    (one, other) => assert_eq!(one.is_some(), other.is_some()),
                }
            }
        }
    }
}

/// A function of the core that registers a parameter.
type Add = fn(&mut Optimizer<AnyRule>, GroupId, &str, usize) -> Result<ParamId, Error>;

/// The function for these types, if they can be combined.
fn add_of([theta, grad, state]: [i32; 3]) -> Option<Add> {
    fn with_state<T: Element<Float = f32>, G: Element<Float = f32>>(state: i32) -> Option<Add> {
        Some(match state {
            F32 => Optimizer::add_mixed::<T, G, f32>,
            BF16 => Optimizer::add_mixed::<T, G, bf16>,
            F16 => Optimizer::add_mixed::<T, G, f16>,
            BLOCK8 => Optimizer::add_mixed::<T, G, Block8>,
            _ => return None,
        })
    }
    fn with_grad<T: Element<Float = f32>>(grad: i32, state: i32) -> Option<Add> {
        match grad {
            F32 => with_state::<T, f32>(state),
            BF16 => with_state::<T, bf16>(state),
            F16 => with_state::<T, f16>(state),
            _ => None,
        }
    }
    match theta {
        F64 if (grad, state) == (F64, F64) => Some(Optimizer::add::<f64>),
        F32 => with_grad::<f32>(grad, state),
        BF16 => with_grad::<bf16>(grad, state),
        F16 => with_grad::<f16>(grad, state),
        _ => None,
    }
}

impl Drop for OptimizerHandle {
    fn drop(&mut self) {
        c!(fused_adam_optimizer_free(self.handle));
    }
}

impl OptimizerHandle {
    pub fn new(rule: &RuleHandle) -> Option<Self> {
        let mut handle = null_mut();
        expect(c!(fused_adam_optimizer_new(null(), &raw mut handle)), Status::Null);
        expect(c!(fused_adam_optimizer_new(rule.handle, null_mut())), Status::Null);
        let status = c!(fused_adam_optimizer_new(rule.handle, &raw mut handle));
        let core = Optimizer::new(rule.rule);
        expect(status, of_result(&core));
        let Ok(mut core) = core else {
            assert!(handle.is_null());
            return None;
        };
        core.options = scalar();
        Some(OptimizerHandle { handle, core, groups: vec![GroupId::default()], params: Vec::new() })
    }

    pub fn add_group(&mut self, rule: &RuleHandle, source: &mut Source) {
        if self.groups.len() > 3 {
            return;
        }
        let (mut group, mut faults) = (usize::MAX, Vec::new());
        let handle = source.or_null(self.handle, &mut faults);
        let rule_at = source.or_null(rule.handle, &mut faults);
        let out = source.or_null(&raw mut group, &mut faults);
        let status = c!(fused_adam_optimizer_add_group(handle, rule_at, out));
        let valid = of_result(&rule.rule.check());
        if expect_unless(&faults, status, valid) {
            assert_eq!(group, self.groups.len());
            self.groups.push(self.core.add_group(rule.rule).expect("a valid rule"));
        } else {
            assert_eq!(group, usize::MAX);
        }
    }

    /// Registers a parameter, rarely with wrong arguments.
    pub fn add(&mut self, source: &mut Source) {
        if self.params.len() > 5 {
            return;
        }
        let name = match source.below(8) {
            0 => source.name(&["w", "w.m", "θ", "__metadata__", "0", "theta.0"]),
            _ => Text::new(&self.params.len().to_string()),
        };
        let (mut number, mut faults) = (usize::MAX, Vec::new());
        let mut group = source.below(self.groups.len());
        let mut len = source.pick(&[33, 1, 0, 5, 31, 32, 64, 67, 100, 200]);
        let usual = [F32, BF16, F16];
        let mut types = match source.below(4) {
            0 => [F64; 3],
            1 => [F32; 3],
            _ => [source.pick(&usual), source.pick(&usual), source.pick(&[F32, BF16, F16, BLOCK8])],
        };
        match source.below(64) {
            0 => group = source.pick(&[self.groups.len(), usize::MAX]),
            1 => len = source.pick(&[usize::MAX, isize::MAX as usize, 1 << 60, 1 << 40]),
            2 => types[source.below(3)] = source.pick(&[BLOCK8, F64, F32, 5, -1, i32::MIN]),
            _ => {}
        }
        let handle = source.or_null(self.handle, &mut faults);
        let out = source.or_null(&raw mut number, &mut faults);
        let text = name.checked(&mut faults).to_owned();
        let add = add_of(types);
        let sizes = [4, 8, 2, 2, 2];
        let size = types.iter().filter_map(|of| sizes.get(*of as usize)).max().unwrap_or(&0);
        if faults.is_empty() {
            if add.is_none() {
                faults.push(Status::Type);
            }
            if group >= self.groups.len() {
                faults.push(Status::Unknown);
            }
            if len.checked_mul(*size).is_none_or(|bytes| bytes > isize::MAX as usize) {
                faults.push(Status::Length);
            }
            if self.core.id(&text).is_some() {
                faults.push(Status::Duplicate);
            }
        }
        let [theta_type, grad_type, state_type] = types;
        let status = c!(fused_adam_optimizer_add(
            handle,
            group,
            name.pointer(),
            len,
            theta_type,
            grad_type,
            state_type,
            out
        ));
        if !expect_unless(&faults, status, Status::Ok) {
            assert_eq!(number, usize::MAX);
            return;
        }
        assert_eq!(number, self.params.len());
        let id = add.expect("checked")(&mut self.core, self.groups[group], &text, len);
        // θ of a parameter that is larger than memory is never passed.
        let theta = Elements::random(theta_type, if len > 1000 { 0 } else { len }, source);
        let beside = Beside::random(theta_type, if len > 1000 { 0 } else { len }, source);
        self.params.push(Param {
            id: id.expect("checked"),
            group,
            len,
            types,
            theta: [theta.clone(), theta],
            beside: [beside.clone(), beside],
        });
    }

    /// Reads what can be read.
    pub fn describe(&mut self, source: &mut Source) {
        let handle = self.handle;
        let (name, mut faults) = (source.name(&["0", "1", "w", "θ"]), Vec::new());
        let mut number = usize::MAX;
        let text = name.checked(&mut faults).to_owned();
        let out = source.or_null(&raw mut number, &mut faults);
        let found = self.core.names().position(|own| own == text);
        let otherwise = if found.is_some() { Status::Ok } else { Status::Unknown };
        let status = c!(fused_adam_optimizer_find(handle, name.pointer(), out));
        let ok = expect_unless(&faults, status, otherwise);
        assert_eq!(number, found.filter(|_| ok).unwrap_or(usize::MAX));

        let param = source.below(self.params.len() + 1);
        let (name, mut faults) = (source.name(&["m", "v", "v_max", "b"]), Vec::new());
        let mut state = null::<c_void>().wrapping_byte_add(1);
        let text = name.checked(&mut faults);
        match self.params.get(param) {
            None => {
                faults.push(Status::Unknown);
                assert_eq!(c!(fused_adam_optimizer_t(handle, param)), 0);
                expect(fused_adam_last_status(), Status::Unknown);
            }
            Some(own) => {
                let rule = self.core.rule(self.groups[own.group]).expect("a group");
                if !rule.states().iter().any(|state| state.name() == text) {
                    faults.push(Status::Unknown);
                }
            }
        }
        let out = source.or_null(&raw mut state, &mut faults);
        let status = c!(fused_adam_optimizer_state(handle, param, name.pointer(), out));
        let ok = expect_unless(&faults, status, Status::Ok);
        assert_eq!(state.addr() == 1, !ok);
        assert_eq!(c!(fused_adam_optimizer_steps(null())), 0);
        assert_eq!(c!(fused_adam_optimizer_loss_scale(null())), 1.0);
    }

    /// Sets and gets a hyper-parameter of a group.
    pub fn set(&mut self, source: &mut Source) {
        let group = match source.rarely() {
            true => source.pick(&[self.groups.len(), usize::MAX]),
            false => source.below(self.groups.len()),
        };
        let (mut faults, value) = (Vec::new(), source.number());
        let handle = source.or_null(self.handle, &mut faults);
        let mut rule = match self.groups.get(group) {
            Some(id) => *self.core.rule(*id).expect("a group"),
            None => AnyRule::AdamW(Default::default()),
        };
        let name = field_name(&mut rule, source);
        let text = name.checked(&mut faults);
        if group >= self.groups.len() {
            faults.push(Status::Unknown);
        }
        let mut changed = rule;
        let otherwise = set_field(&mut changed, text, value);
        let status = c!(fused_adam_optimizer_set(handle, group, name.pointer(), value));
        if expect_unless(&faults, status, otherwise) {
            *self.core.rule_mut(self.groups[group]).expect("a group") = changed;
        }
        self.expect_rules();
    }

    /// Checks that the groups have the hyper-parameters of their twins.
    #[track_caller]
    pub fn expect_rules(&self) {
        for (group, id) in self.groups.iter().enumerate() {
            let mut rule = *self.core.rule(*id).expect("a group");
            for name in ["lr", "beta1", "weight_decay", "maximize", "amsgrad", "alpha_warmup"] {
                let (text, mut value) = (Text::new(name), 0.0);
                let get = fused_adam_optimizer_get;
                let status = c!(get(self.handle, group, text.pointer(), &raw mut value));
                match get_field(&mut rule, name) {
                    Some(expected) => assert_eq!(value.to_bits(), expected.to_bits(), "{name}"),
                    None => expect(status, Status::Unknown),
                }
            }
        }
    }

    pub fn set_options(&mut self, options: &OptionsHandle, source: &mut Source) {
        let (handle, own) = match source.below(4) {
            3 => (null(), scalar()),
            _ => (options.handle.cast_const(), options.options),
        };
        expect(c!(fused_adam_optimizer_set_options(null_mut(), handle)), Status::Null);
        expect(c!(fused_adam_optimizer_set_options(self.handle, handle)), Status::Ok);
        self.core.options = own;
    }

    pub fn set_grad_scaler(&mut self, source: &mut Source) {
        let usual = source.below(4) > 0;
        let scaler = FusedAdamGradScaler {
            scale: if usual { source.pick(&[65536.0, 1.0, 1e-38]) } else { source.number() },
            growth_factor: if usual { 2.0 } else { source.number() },
            backoff_factor: if usual { 0.5 } else { source.number() },
            growth_interval: if usual { 2 } else { source.count() },
            finite_steps: if usual { 0 } else { source.count() },
        };
        let pointer = if source.below(4) == 3 { null() } else { &raw const scaler };
        expect(c!(fused_adam_optimizer_set_grad_scaler(null_mut(), pointer)), Status::Null);
        expect(c!(fused_adam_optimizer_set_grad_scaler(self.handle, pointer)), Status::Ok);
        self.core.grad_scaler = (!pointer.is_null()).then_some(GradScaler {
            scale: scaler.scale,
            growth_factor: scaler.growth_factor,
            backoff_factor: scaler.backoff_factor,
            growth_interval: scaler.growth_interval,
            finite_steps: scaler.finite_steps,
        });
    }

    pub fn set_schedule(&mut self, source: &mut Source) {
        let phases = Phases::random(source);
        let (pointer, count, faults) = phases.array(source);
        let set = fused_adam_optimizer_set_lr_schedule;
        let status = c!(set(self.handle, pointer, count));
        if expect_unless(&faults, status, Status::Ok) {
            self.core.set_lr_schedule(phases.schedule).expect("a valid schedule");
        }
    }

    /// What the header shows.
    pub fn image(&self) -> Image {
        let param = |(i, own): (usize, &Param)| {
            let rule = self.core.rule(self.groups[own.group]).expect("a group");
            let state = |name: &str| {
                let (text, mut pointer) = (Text::new(name), null());
                let get = fused_adam_optimizer_state;
                let status = c!(get(self.handle, i, text.pointer(), &raw mut pointer));
                expect(status, Status::Ok);
                // SAFETY: it is the address of this state.
                (!pointer.is_null())
                    .then(|| unsafe { Elements::copy_of(own.types[2], pointer, own.len) })
            };
            let states = rule.states().iter().map(|own| state(own.name())).collect();
            (c!(fused_adam_optimizer_t(self.handle, i)), states)
        };
        Image {
            steps: c!(fused_adam_optimizer_steps(self.handle)),
            loss_scale: c!(fused_adam_optimizer_loss_scale(self.handle)).to_bits(),
            params: self.params.iter().enumerate().map(param).collect(),
        }
    }

    /// The same of the twin.
    pub fn core_image(&self) -> Image {
        let param = |own: &Param| {
            let rule = self.core.rule(self.groups[own.group]).expect("a group");
            let state = |name: &str| match own.types[2] {
                F64 => self.core.state::<f64>(own.id, name).map(|all| Elements::F64(all.into())),
                BF16 => self.core.state::<bf16>(own.id, name).map(|all| Elements::Bf16(all.into())),
                F16 => self.core.state::<f16>(own.id, name).map(|all| Elements::F16(all.into())),
                BLOCK8 => {
                    self.core.state::<Block8>(own.id, name).map(|all| Elements::Block8(all.into()))
                }
                _ => self.core.state::<f32>(own.id, name).map(|all| Elements::F32(all.into())),
            };
            let states = rule.states().iter().map(|own| state(own.name())).collect();
            (self.core.t(own.id).expect("a parameter"), states)
        };
        Image {
            steps: self.core.steps(),
            loss_scale: self.core.grad_scaler.map_or(1.0, |scaler| scaler.scale).to_bits(),
            params: self.params.iter().map(param).collect(),
        }
    }
}
