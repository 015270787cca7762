//! The optimizer of many tensors as a handle: it keeps their states, in groups with rules of their
//! own. It wraps the core's `Optimizer`, and remembers what types were registered.

use std::ffi::{c_char, c_void};

use fused_adam::{
    AnyRule, Element, Error, GroupId, LossScale, Optimizer, ParamId, Rule, State, bf16, f16,
};

use crate::buffers::{self, Buffer, FusedAdamType, handle, handle_mut, place};
use crate::options::{FusedAdamOptions, or_default};
use crate::rule::{self, FusedAdamRule};
use crate::status::{Failure, FusedAdamStatus, guarded, guarded_or};
use crate::text;

/// The states of many tensors, and what is done to their gradients before a step: made by
/// fused_adam_optimizer_new, freed by fused_adam_optimizer_free.
///
/// Parameters are registered by name, in groups that each have a rule of their own. A state is made
/// when its parameter has its first gradient. One thread at a time may use an optimizer; any number
/// of them may be used at once.
pub struct FusedAdamOptimizer {
    pub(crate) core: Optimizer<AnyRule>,
    groups: Vec<GroupId>,
    pub(crate) params: Vec<Param>,
}

/// What a parameter was registered with.
pub(crate) struct Param {
    pub id: ParamId,
    pub group: usize,
    pub len: usize,
    pub theta: FusedAdamType,
    pub grad: FusedAdamType,
    pub state: FusedAdamType,
}

/// A loss scale that follows the gradients: it grows while they are finite and shrinks when one is
/// not, in which case that step is skipped.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FusedAdamLossScale {
    /// What the loss of the next step is to be multiplied with. 65536 is a usual first value.
    pub scale: f64,
    /// What it is multiplied with after growth_interval finite steps in a row: 2 as a rule, 1 for one that stays.
    pub growth_factor: f64,
    /// What it is multiplied with after a step that was not finite: 0.5 as a rule, 1 for one that stays.
    pub backoff_factor: f64,
    /// 2000 as a rule, and at least 1.
    pub growth_interval: u64,
    /// Finite steps since the scale changed last: 0 at first.
    pub finite_steps: u64,
}

impl FusedAdamOptimizer {
    pub(crate) fn param(&self, number: usize) -> Result<&Param, Failure> {
        let unknown = || Error::UnknownParam { param: format!("number {number}") };
        Ok(self.params.get(number).ok_or_else(unknown)?)
    }

    /// Where a parameter's state of this name is, if it has one by now.
    fn state_address(&self, own: &Param, name: &str) -> Option<*const c_void> {
        fn address<E: Element>(
            opt: &Optimizer<AnyRule>,
            id: ParamId,
            name: &str,
        ) -> Option<*const c_void> {
            opt.state::<E>(id, name).map(|state| state.as_ptr().cast())
        }
        let of = match own.state {
            FusedAdamType::F32 => address::<f32>,
            FusedAdamType::F64 => address::<f64>,
            FusedAdamType::Bf16 => address::<bf16>,
            FusedAdamType::F16 => address::<f16>,
        };
        of(&self.core, own.id, name)
    }

    /// The states that a step of a parameter writes, so far.
    pub(crate) fn states(&self, own: &Param) -> impl Iterator<Item = Buffer> {
        let states = self.rule(own.group).map_or(&[][..], AnyRule::states);
        states.iter().map(State::name).filter_map(|name| {
            let pointer = self.state_address(own, name)?.cast_mut();
            let (len, of) = (own.len, own.state);
            Some(Buffer { pointer, len, of, name, tensor: None, written: true })
        })
    }

    fn group(&self, number: usize) -> Result<GroupId, Failure> {
        let unknown = Error::UnknownGroup { group: number, groups: self.groups.len() };
        Ok(*self.groups.get(number).ok_or(unknown)?)
    }

    fn rule(&self, number: usize) -> Result<&AnyRule, Failure> {
        let unknown = Error::UnknownGroup { group: number, groups: self.groups.len() };
        Ok(self.core.rule(self.group(number)?).ok_or(unknown)?)
    }

    fn rule_mut(&mut self, number: usize) -> Result<&mut AnyRule, Failure> {
        let unknown = Error::UnknownGroup { group: number, groups: self.groups.len() };
        let group = self.group(number)?;
        Ok(self.core.rule_mut(group).ok_or(unknown)?)
    }

    /// Registers a parameter of these types.
    fn add(
        &mut self,
        group: usize,
        name: &str,
        len: usize,
        [theta, grad, state]: [FusedAdamType; 3],
    ) -> Result<usize, Failure> {
        use FusedAdamType::{Bf16, F16, F32, F64};
        let add: Add = match (theta, grad, state) {
            (F64, F64, F64) => Optimizer::add::<f64>,
            (F64, ..) | (_, F64, _) | (.., F64) => {
                let [theta, grad, state] = [theta, grad, state].map(FusedAdamType::name);
                let message = format!(
                    "parameter `{name}` is {theta} with a gradient of {grad} and states of \
                     {state}, expected f64 for all or for none"
                );
                return Err(Failure::new(FusedAdamStatus::Type, message));
            }
            (F32, ..) => with_grad::<f32>(grad, state),
            (Bf16, ..) => with_grad::<bf16>(grad, state),
            (F16, ..) => with_grad::<f16>(grad, state),
        };
        let of_group = self.group(group)?;
        let id = add(&mut self.core, of_group, name, len)?;
        self.params.push(Param { id, group, len, theta, grad, state });
        Ok(self.params.len() - 1)
    }
}

/// Registers a parameter.
type Add = fn(&mut Optimizer<AnyRule>, GroupId, &str, usize) -> Result<ParamId, Error>;

fn with_grad<T: Element<Float = f32>>(grad: FusedAdamType, state: FusedAdamType) -> Add {
    match grad {
        FusedAdamType::Bf16 => with_state::<T, bf16>(state),
        FusedAdamType::F16 => with_state::<T, f16>(state),
        _ => with_state::<T, f32>(state),
    }
}

fn with_state<T, G>(state: FusedAdamType) -> Add
where
    T: Element<Float = f32>,
    G: Element<Float = f32>,
{
    match state {
        FusedAdamType::Bf16 => Optimizer::add_mixed::<T, G, bf16>,
        FusedAdamType::F16 => Optimizer::add_mixed::<T, G, f16>,
        _ => Optimizer::add_mixed::<T, G, f32>,
    }
}

/// Makes an optimizer with no parameters yet and one group, number 0, of a copy of this rule.
///
/// - out: where the new handle is put, for fused_adam_optimizer_free to free; NULL after an error.
///
/// Returns FUSED_ADAM_STATUS_VALUE for a hyper-parameter outside its range, and
/// FUSED_ADAM_STATUS_NULL. Any thread may call it.
///
/// # Safety
///
/// `rule` is NULL or a rule that no other thread changes; `out` is NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_optimizer_new(
    rule: *const FusedAdamRule,
    out: *mut *mut FusedAdamOptimizer,
) -> FusedAdamStatus {
    let new = || {
        // SAFETY: the caller's promise.
        let core = Optimizer::new(unsafe { handle("rule", rule) }?.0)?;
        Ok(FusedAdamOptimizer { core, groups: vec![GroupId::default()], params: Vec::new() })
    };
    // SAFETY: the caller's promise.
    unsafe { buffers::make(out, new) }
}

/// Frees an optimizer and its states. NULL is fine.
///
/// # Safety
///
/// `opt` is NULL or an optimizer that is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_optimizer_free(opt: *mut FusedAdamOptimizer) {
    // SAFETY: the caller's promise.
    unsafe { buffers::free(opt) }
}

/// Adds a group, whose parameters have a copy of this rule. Its number is put at `group`.
///
/// Returns FUSED_ADAM_STATUS_VALUE for a hyper-parameter outside its range, and
/// FUSED_ADAM_STATUS_NULL.
///
/// # Safety
///
/// `opt` is NULL or an optimizer that no other thread uses; `rule` is NULL or a rule that no other
/// thread changes; `group` is NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_optimizer_add_group(
    opt: *mut FusedAdamOptimizer,
    rule: *const FusedAdamRule,
    group: *mut usize,
) -> FusedAdamStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (opt, rule) = unsafe { (handle_mut("opt", opt)?, handle("rule", rule)?) };
        let place = place("group", group)?;
        let id = opt.core.add_group(rule.0)?;
        opt.groups.push(id);
        // SAFETY: it is not NULL, so the caller promises that it may be written.
        unsafe { place.write(opt.groups.len() - 1) };
        Ok(())
    })
}

/// Registers a parameter. Its number, from 0 on, is put at `param`.
///
/// - group: 0, or what fused_adam_optimizer_add_group gave.
/// - name: another one than those before; it is what checkpoints know it by.
/// - len: how many elements it has.
/// - theta_type, grad_type, state_type: the FusedAdamType of the parameter, of its gradients, and of
///   the states that are kept for it. FUSED_ADAM_TYPE_F64 is for all three or for none.
///
/// Returns FUSED_ADAM_STATUS_UNKNOWN for a group that is not there, FUSED_ADAM_STATUS_DUPLICATE for a
/// name that is, FUSED_ADAM_STATUS_TYPE, FUSED_ADAM_STATUS_LENGTH for more than memory can hold,
/// FUSED_ADAM_STATUS_NULL and FUSED_ADAM_STATUS_TEXT.
///
/// # Safety
///
/// `opt` is NULL or an optimizer that no other thread uses; `name` is NULL or ends with a NUL; `param`
/// is NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_optimizer_add(
    opt: *mut FusedAdamOptimizer,
    group: usize,
    name: *const c_char,
    len: usize,
    theta_type: i32,
    grad_type: i32,
    state_type: i32,
    param: *mut usize,
) -> FusedAdamStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (opt, name) = unsafe { (handle_mut("opt", opt)?, text::borrowed("name", name)?) };
        let place = place("param", param)?;
        let types = [
            FusedAdamType::of("theta_type", theta_type)?,
            FusedAdamType::of("grad_type", grad_type)?,
            FusedAdamType::of("state_type", state_type)?,
        ];
        for of in types {
            of.check_len(name, len)?;
        }
        let number = opt.add(group, name, len, types)?;
        // SAFETY: it is not NULL, so the caller promises that it may be written.
        unsafe { place.write(number) };
        Ok(())
    })
}

/// Puts the number of the parameter of this name at `param`.
///
/// Returns FUSED_ADAM_STATUS_UNKNOWN if there is none, FUSED_ADAM_STATUS_NULL and
/// FUSED_ADAM_STATUS_TEXT.
///
/// # Safety
///
/// As for fused_adam_optimizer_add.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_optimizer_find(
    opt: *const FusedAdamOptimizer,
    name: *const c_char,
    param: *mut usize,
) -> FusedAdamStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (opt, name) = unsafe { (handle("opt", opt)?, text::borrowed("name", name)?) };
        let place = place("param", param)?;
        let id = opt.core.id(name);
        let found = opt.params.iter().position(|param| Some(param.id) == id);
        let number = found.ok_or_else(|| Error::UnknownParam { param: name.to_owned() })?;
        // SAFETY: it is not NULL, so the caller promises that it may be written.
        unsafe { place.write(number) };
        Ok(())
    })
}

/// Changes a hyper-parameter of a group's rule, as fused_adam_rule_set does: the "lr" of a schedule,
/// say. It holds from the next step on, which is refused if the rule then keeps other states than before.
///
/// Returns FUSED_ADAM_STATUS_UNKNOWN for a group or a hyper-parameter that is not there, and else what
/// fused_adam_rule_set does.
///
/// # Safety
///
/// `opt` is NULL or an optimizer that no other thread uses; `name` is NULL or ends with a NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_optimizer_set(
    opt: *mut FusedAdamOptimizer,
    group: usize,
    name: *const c_char,
    value: f64,
) -> FusedAdamStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (opt, name) = unsafe { (handle_mut("opt", opt)?, text::borrowed("name", name)?) };
        rule::set(opt.rule_mut(group)?, name, value)
    })
}

/// Puts a hyper-parameter of a group's rule at `value`, as fused_adam_rule_get does.
///
/// Returns FUSED_ADAM_STATUS_UNKNOWN for a group or a hyper-parameter that is not there, and else what
/// fused_adam_rule_get does.
///
/// # Safety
///
/// `opt` is NULL or an optimizer that no other thread uses; `name` is NULL or ends with a NUL; `value`
/// is NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_optimizer_get(
    opt: *const FusedAdamOptimizer,
    group: usize,
    name: *const c_char,
    value: *mut f64,
) -> FusedAdamStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (opt, name) = unsafe { (handle("opt", opt)?, text::borrowed("name", name)?) };
        let place = place("value", value)?;
        let got = rule::get(opt.rule(group)?, name)?;
        // SAFETY: it is not NULL, so the caller promises that it may be written.
        unsafe { place.write(got) };
        Ok(())
    })
}

/// Has later steps do what these options say; NULL for the defaults. The optimizer keeps a copy.
///
/// Returns FUSED_ADAM_STATUS_NULL if `opt` is NULL.
///
/// # Safety
///
/// `opt` is NULL or an optimizer that no other thread uses; `options` is NULL or options that no
/// other thread changes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_optimizer_set_options(
    opt: *mut FusedAdamOptimizer,
    options: *const FusedAdamOptions,
) -> FusedAdamStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        unsafe { handle_mut("opt", opt)?.core.options = or_default(options) };
        Ok(())
    })
}

/// Has gradients be those of a loss that is multiplied with a scale, by which later steps divide
/// them; NULL for none, as at first. A step whose gradients are not all finite is then skipped.
///
/// The fields are checked in each step. Returns FUSED_ADAM_STATUS_NULL if `opt` is NULL.
///
/// # Safety
///
/// `opt` is NULL or an optimizer that no other thread uses; `loss_scale` is NULL or may be read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_optimizer_set_loss_scale(
    opt: *mut FusedAdamOptimizer,
    loss_scale: *const FusedAdamLossScale,
) -> FusedAdamStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (opt, given) = unsafe { (handle_mut("opt", opt)?, loss_scale.as_ref()) };
        opt.core.loss_scale = given.map(|given| LossScale {
            scale: given.scale,
            growth_factor: given.growth_factor,
            backoff_factor: given.backoff_factor,
            growth_interval: given.growth_interval,
            finite_steps: given.finite_steps,
        });
        Ok(())
    })
}

/// What the loss of the next step is to be multiplied with: 1 without a loss scale, and for NULL.
///
/// # Safety
///
/// `opt` is NULL or an optimizer that no other thread changes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_optimizer_loss_scale(opt: *const FusedAdamOptimizer) -> f64 {
    guarded_or(1.0, || {
        // SAFETY: the caller's promise.
        Ok(unsafe { handle("opt", opt) }?.core.loss_scale.map_or(1.0, |scale| scale.scale))
    })
}

/// The steps that an optimizer has taken; those that were skipped do not count. 0 for NULL.
///
/// # Safety
///
/// `opt` is NULL or an optimizer that no other thread changes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_optimizer_steps(opt: *const FusedAdamOptimizer) -> u64 {
    guarded_or(0, || {
        // SAFETY: the caller's promise.
        Ok(unsafe { handle("opt", opt) }?.core.steps())
    })
}

/// The steps that a parameter has taken. 0 if there is none of this number, with
/// FUSED_ADAM_STATUS_UNKNOWN as fused_adam_last_status, and for NULL.
///
/// # Safety
///
/// `opt` is NULL or an optimizer that no other thread changes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_optimizer_t(
    opt: *const FusedAdamOptimizer,
    param: usize,
) -> u64 {
    guarded_or(0, || {
        // SAFETY: the caller's promise.
        let opt = unsafe { handle("opt", opt) }?;
        Ok(opt.core.t(opt.param(param)?.id))
    })
}

/// Puts the address of a parameter's state of this name, such as "m", at `state`: as many elements as
/// the parameter has, of the type that was registered for its states, to be read until the optimizer's
/// next call that is not const. NULL, which is not an error, before the parameter's first step.
///
/// Returns FUSED_ADAM_STATUS_UNKNOWN if there is no such parameter, or its rule keeps no such state,
/// with a message that lists them; FUSED_ADAM_STATUS_NULL and FUSED_ADAM_STATUS_TEXT.
///
/// # Safety
///
/// `opt` is NULL or an optimizer that no other thread changes; `name` is NULL or ends with a NUL;
/// `state` is NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_optimizer_state(
    opt: *const FusedAdamOptimizer,
    param: usize,
    name: *const c_char,
    state: *mut *const c_void,
) -> FusedAdamStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (opt, name) = unsafe { (handle("opt", opt)?, text::borrowed("name", name)?) };
        let place = place("state", state)?;
        let own = opt.param(param)?;
        let states = opt.rule(own.group)?.states();
        if !states.iter().any(|state| state.name() == name) {
            let known: Vec<&str> = states.iter().map(State::name).collect();
            let message = format!("there is no state `{name}`, expected one of {known:?}");
            return Err(Failure::new(FusedAdamStatus::Unknown, message));
        }
        let found = opt.state_address(own, name).unwrap_or(std::ptr::null());
        // SAFETY: it is not NULL, so the caller promises that it may be written.
        unsafe { place.write(found) };
        Ok(())
    })
}
