//! The optimizer of many tensors as a handle. It stores their states, in groups with separate
//! rules. It wraps the core's `Optimizer` and stores the element types of each parameter.

use std::ffi::{c_char, c_void};
use std::sync::{RwLockReadGuard, RwLockWriteGuard};

use fused_adam::{
    AnyRule, Block8, Element, Error, GroupId, Optimizer, ParamId, Rule, State, bf16, f16,
};

use crate::buffers::{self, Buffer, DType, handle, place, with_state};
use crate::locks::InUse;
use crate::options::FusedAdamOptions;
use crate::rule::{FusedAdamRule, copied};
use crate::status::{Failure, FusedAdamStatus, guarded, guarded_or};
use crate::text;

/// An optimizer of many parameters. It stores their states, and scales and clips their gradients.
/// Made by fused_adam_optimizer_new, freed by fused_adam_optimizer_free.
///
/// Parameters are registered by name, in groups that each have their own rule. The states of a
/// parameter are allocated in its first step.
///
/// Different optimizers can be used at the same time. The same optimizer can only be changed by one
/// call at a time, or read by any number: functions that take it as const read it. Another call
/// does not wait. It returns FUSED_ADAM_STATUS_BUSY, and has no effect.
pub struct FusedAdamOptimizer(InUse<Contents>);

/// What an optimizer holds.
pub(crate) struct Contents {
    pub core: Optimizer<AnyRule>,
    groups: Vec<GroupId>,
    pub params: Vec<Param>,
}

/// The contents of an optimizer, to read.
///
/// # Safety
///
/// `opt` is NULL or an optimizer.
pub(crate) unsafe fn read<'a>(
    opt: *const FusedAdamOptimizer,
) -> Result<RwLockReadGuard<'a, Contents>, Failure> {
    // SAFETY: the caller's promise.
    unsafe { handle("opt", opt) }?.0.read("opt")
}

/// The contents of an optimizer, to change.
///
/// # Safety
///
/// As for [`read`].
pub(crate) unsafe fn write<'a>(
    opt: *mut FusedAdamOptimizer,
) -> Result<RwLockWriteGuard<'a, Contents>, Failure> {
    // SAFETY: the caller's promise.
    unsafe { handle("opt", opt) }?.0.write("opt")
}

// Threads share handles.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<FusedAdamOptimizer>();
    shared::<FusedAdamRule>();
    shared::<FusedAdamOptions>();
};

/// How a parameter was registered.
pub(crate) struct Param {
    pub id: ParamId,
    pub group: usize,
    pub len: usize,
    pub theta: DType,
    pub grad: DType,
    pub state: DType,
}

impl Contents {
    pub fn param(&self, number: usize) -> Result<&Param, Failure> {
        let message =
            || format!("there is no parameter {number}, expected one that was registered");
        let unknown = || Failure::new(FusedAdamStatus::Unknown, message());
        self.params.get(number).ok_or_else(unknown)
    }

    /// The address of a parameter's state, if the state has been allocated.
    fn state_address(&self, own: &Param, name: &str) -> Option<*const c_void> {
        with_state!(own.state, S => {
            self.core.state::<S>(own.id, name).map(|state| state.as_ptr().cast())
        })
    }

    /// The allocated states of a parameter, which a step writes.
    pub fn states(&self, own: &Param) -> impl Iterator<Item = Buffer> {
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

    pub fn rule(&self, number: usize) -> Result<&AnyRule, Failure> {
        let unknown = Error::UnknownGroup { group: number, groups: self.groups.len() };
        Ok(self.core.rule(self.group(number)?).ok_or(unknown)?)
    }

    pub fn rule_mut(&mut self, number: usize) -> Result<&mut AnyRule, Failure> {
        let unknown = Error::UnknownGroup { group: number, groups: self.groups.len() };
        let group = self.group(number)?;
        Ok(self.core.rule_mut(group).ok_or(unknown)?)
    }

    /// Registers a parameter with these types.
    fn add(
        &mut self,
        group: usize,
        name: &str,
        len: usize,
        [theta, grad, state]: [DType; 3],
    ) -> Result<usize, Failure> {
        use DType::{Bf16, F16, F64};
        let add: Add = match (theta, grad, state) {
            (F64, F64, F64) => Optimizer::add::<f64>,
            (F64, ..) | (_, F64, _) | (.., F64) => {
                let [theta, grad, state] = [theta, grad, state].map(DType::name);
                let message = format!(
                    "parameter `{name}` is {theta} with a gradient of {grad} and states of \
                     {state}, expected f64 for all or for none"
                );
                return Err(Failure::new(FusedAdamStatus::Type, message));
            }
            (Bf16, ..) => with_grad::<bf16>(grad, state),
            (F16, ..) => with_grad::<f16>(grad, state),
            _ => with_grad::<f32>(grad, state),
        };
        let of_group = self.group(group)?;
        let id = add(&mut self.core, of_group, name, len)?;
        self.params.push(Param { id, group, len, theta, grad, state });
        Ok(self.params.len() - 1)
    }
}

/// A function that registers a parameter.
type Add = fn(&mut Optimizer<AnyRule>, GroupId, &str, usize) -> Result<ParamId, Error>;

fn with_grad<T: Element<Float = f32>>(grad: DType, state: DType) -> Add {
    match grad {
        DType::Bf16 => with_states::<T, bf16>(state),
        DType::F16 => with_states::<T, f16>(state),
        _ => with_states::<T, f32>(state),
    }
}

fn with_states<T, G>(state: DType) -> Add
where
    T: Element<Float = f32>,
    G: Element<Float = f32>,
{
    match state {
        DType::Bf16 => Optimizer::add_mixed::<T, G, bf16>,
        DType::F16 => Optimizer::add_mixed::<T, G, f16>,
        DType::Block8 => Optimizer::add_mixed::<T, G, Block8>,
        _ => Optimizer::add_mixed::<T, G, f32>,
    }
}

/// Makes an optimizer without parameters. It has one group, number 0, which uses a copy of `rule`.
///
/// - out: where to store the new handle, or NULL after an error. Free it with
///   fused_adam_optimizer_free.
///
/// Returns FUSED_ADAM_STATUS_VALUE for a hyper-parameter outside its range, and
/// FUSED_ADAM_STATUS_NULL. Any thread may call it.
///
/// # Safety
///
/// `rule` is NULL or a rule; `out` is NULL or valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_optimizer_new(
    rule: *const FusedAdamRule,
    out: *mut *mut FusedAdamOptimizer,
) -> FusedAdamStatus {
    let new = || {
        // SAFETY: the caller's promise.
        let core = Optimizer::new(unsafe { copied(rule) }?)?;
        let (groups, params) = (vec![GroupId::default()], Vec::new());
        Ok(FusedAdamOptimizer(InUse::new(Contents { core, groups, params })))
    };
    // SAFETY: the caller's promise.
    unsafe { buffers::make(out, new) }
}

/// Frees an optimizer and its states. Does nothing for NULL. Call it when no other call uses the
/// optimizer any more: it does not wait for one, and cannot report it.
///
/// # Safety
///
/// `opt` is NULL or an optimizer that no call uses, now or later.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_optimizer_free(opt: *mut FusedAdamOptimizer) {
    // SAFETY: the caller's promise.
    unsafe { buffers::free(opt) }
}

/// Adds a group of parameters that uses a copy of `rule`. Stores the number of the group at
/// `group`.
///
/// Returns FUSED_ADAM_STATUS_VALUE for a hyper-parameter outside its range, and
/// FUSED_ADAM_STATUS_NULL.
///
/// # Safety
///
/// `opt` is NULL or an optimizer; `rule` is NULL or a rule; `group` is NULL or valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_optimizer_add_group(
    opt: *mut FusedAdamOptimizer,
    rule: *const FusedAdamRule,
    group: *mut usize,
) -> FusedAdamStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (mut opt, rule) = unsafe { (write(opt)?, copied(rule)?) };
        let place = place("group", group)?;
        let id = opt.core.add_group(rule)?;
        opt.groups.push(id);
        // SAFETY: it is not NULL, so the caller promises that it may be written.
        unsafe { place.write(opt.groups.len() - 1) };
        Ok(())
    })
}

/// Registers a parameter. Stores its number, counted from 0, at `param`.
///
/// - group: 0, or a number from fused_adam_optimizer_add_group.
/// - name: a unique name, which identifies the parameter in checkpoints.
/// - len: the number of elements.
/// - theta_type, grad_type, state_type: the FusedAdamType of the parameter, its gradients and its
///   states. Use FUSED_ADAM_TYPE_F64 for all three or for none. FUSED_ADAM_TYPE_BLOCK8 is only for
///   states. It is not meant for small parameters, such as biases: they are sensitive, and save
///   little. A usual limit is 4096 elements.
///
/// Returns FUSED_ADAM_STATUS_UNKNOWN if the group does not exist, FUSED_ADAM_STATUS_DUPLICATE if
/// the name is in use, FUSED_ADAM_STATUS_TYPE, FUSED_ADAM_STATUS_LENGTH if the parameter does not
/// fit into memory, FUSED_ADAM_STATUS_NULL and FUSED_ADAM_STATUS_TEXT.
///
/// # Safety
///
/// `opt` is NULL or an optimizer; `name` is NULL or ends with a NUL; `param` is NULL or valid for
/// writes.
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
        let (mut opt, name) = unsafe { (write(opt)?, text::borrowed("name", name)?) };
        let place = place("param", param)?;
        let types = [
            DType::element("theta_type", theta_type)?,
            DType::element("grad_type", grad_type)?,
            DType::state("state_type", state_type)?,
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

/// Finds a parameter by name. Stores its number at `param`.
///
/// Returns FUSED_ADAM_STATUS_UNKNOWN if there is no such parameter, FUSED_ADAM_STATUS_NULL and
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
        let (opt, name) = unsafe { (read(opt)?, text::borrowed("name", name)?) };
        let place = place("param", param)?;
        let id = opt.core.id(name);
        let found = opt.params.iter().position(|param| Some(param.id) == id);
        let number = found.ok_or_else(|| Error::UnknownParam { param: name.to_owned() })?;
        // SAFETY: it is not NULL, so the caller promises that it may be written.
        unsafe { place.write(number) };
        Ok(())
    })
}

/// The number of steps that an optimizer has taken. Skipped steps do not count. 0 for NULL. Also 0
/// while another call changes the optimizer; fused_adam_last_status is then FUSED_ADAM_STATUS_BUSY.
///
/// # Safety
///
/// `opt` is NULL or an optimizer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_optimizer_steps(opt: *const FusedAdamOptimizer) -> u64 {
    guarded_or(0, || {
        // SAFETY: the caller's promise.
        Ok(unsafe { read(opt) }?.core.steps())
    })
}

/// The number of steps that a parameter has taken. 0 for NULL. Also 0 if there is no such
/// parameter, and while another call changes the optimizer; fused_adam_last_status is then
/// FUSED_ADAM_STATUS_UNKNOWN or FUSED_ADAM_STATUS_BUSY.
///
/// # Safety
///
/// `opt` is NULL or an optimizer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_optimizer_t(
    opt: *const FusedAdamOptimizer,
    param: usize,
) -> u64 {
    guarded_or(0, || {
        // SAFETY: the caller's promise.
        let opt = unsafe { read(opt) }?;
        Ok(opt.core.t(opt.param(param)?.id).unwrap_or(0))
    })
}

/// Stores the address of a parameter's state, such as "m", at `state`. The state has as many
/// elements as the parameter, of the parameter's state type. fused_adam_rule_decode_state decodes
/// a state in 8 bits. You can read the state until the next call on this optimizer that is not
/// const. Stores NULL before the first step of the parameter; that is not an error.
///
/// Returns FUSED_ADAM_STATUS_UNKNOWN if there is no such parameter, or if its rule has no such
/// state, with a message that lists the states; FUSED_ADAM_STATUS_NULL and FUSED_ADAM_STATUS_TEXT.
///
/// # Safety
///
/// `opt` is NULL or an optimizer; `name` is NULL or ends with a NUL; `state` is NULL or valid for
/// writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_optimizer_state(
    opt: *const FusedAdamOptimizer,
    param: usize,
    name: *const c_char,
    state: *mut *const c_void,
) -> FusedAdamStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (opt, name) = unsafe { (read(opt)?, text::borrowed("name", name)?) };
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
