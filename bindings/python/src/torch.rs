//! The interface for torch: one call takes the step of all tensors of an optimizer.
//!
//! torch's state of a parameter, with its step number in a tensor of one element, is read and
//! written in place. If a parameter, its gradient and its states have different memory orders,
//! those that are not in row-major order are copied to row-major order for the step.

mod dtensor;
mod master_weights;
mod messages;
mod run;
mod tensors;

use std::collections::HashSet;

use fused_adam::{AnyRule, ClipNorm, Rounding, Rule as _, StepOptions};
use fused_adam_float_mode::in_default_mode;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyList, PyString, PyType};

use self::dtensor::DTensors;
use self::master_weights::MasterWeights;
use self::messages::{Place, Which};
use crate::border::{Exchange, Kind, StepTensor, View, refuse_negated};
use crate::rules::{of_group, text_for_torch};

/// The names of the entries of a state.
type Keys<'py> = Vec<(&'static str, Bound<'py, PyString>)>;

/// Parameters with their groups.
type Params<'py> = Vec<(Bound<'py, PyAny>, Bound<'py, PyDict>)>;

/// Takes the step of every parameter that has a gradient.
///
/// Returns the parameters that have no complete state yet. If there are any, it has done nothing
/// else. Also returns the gradient norm, if it was needed, and whether the step was skipped.
///
/// With `all_gather`, the norm is that of all processes: it gets the message of this process, and
/// returns those of all, and their ranks. `counts` says whether this process adds a parameter's
/// gradient to it.
#[pyfunction]
#[pyo3(signature = (
    kind, groups, state, fresh, *, loss_scale = 1.0, clip_norm = None, inf_norm = false,
    skip_nonfinite = false, seed = None, all_gather = None, counts = None,
))]
#[expect(clippy::too_many_arguments, reason = "Python's keywords")]
pub fn torch_step<'py>(
    kind: &str,
    groups: &Bound<'py, PyList>,
    state: &Bound<'py, PyDict>,
    fresh: &Bound<'py, PyList>,
    loss_scale: f64,
    clip_norm: Option<f64>,
    inf_norm: bool,
    skip_nonfinite: bool,
    seed: Option<u64>,
    all_gather: Option<Py<PyAny>>,
    counts: Option<Bound<'py, PyAny>>,
) -> PyResult<(Params<'py>, Option<f64>, bool)> {
    let py = groups.py();
    let mut call = StepBuilder {
        kind,
        exchange: exchange(py)?,
        dtensor: DTensors::of(py)?,
        counts,
        seeded: seed.is_some(),
        advanced: None,
        fresh: fresh.iter().map(|param| param.as_ptr() as usize).collect(),
        slots: Vec::new(),
        params: Vec::new(),
        places: Vec::new(),
        strided: Vec::new(),
        counters: Vec::new(),
        copies: Vec::new(),
        keep: Vec::new(),
    };
    let (mut rules, mut missing, mut first) = (Vec::new(), Vec::new(), 0);
    call.reserve(state.len());
    let mut states = States::new(state);
    for (number, group) in groups.iter().enumerate() {
        let group = group.cast_into::<PyDict>()?;
        let params = group.get_item(intern!(py, "params"))?;
        let params = params.ok_or_else(|| PyValueError::new_err("a group has no \"params\""))?;
        let params = match params.cast_into::<PyList>() {
            Ok(params) => params,
            // Groups that were built by hand can have a tuple.
            Err(other) => PyList::new(py, other.into_inner().extract::<Vec<Bound<'py, PyAny>>>()?)?,
        };
        // A group without gradients takes no step, so its hyper-parameters may be anything.
        let mut made = None;
        let count = params.len();
        for (in_group, param) in params.iter().enumerate() {
            let found = states.next_if_of(&param);
            let grad = param.getattr(intern!(py, "grad"))?;
            if grad.is_none() {
                continue;
            }
            let found = if found.is_some() { found } else { state.get_item(&param)? };
            let found = match found {
                Some(found) => found.cast_into::<PyDict>()?,
                None => PyDict::new(py),
            };
            if made.is_none() {
                made = Some(rule_of(kind, &group, number, groups.len())?);
            }
            let Some((rule, keys, master)) = &made else { continue };
            let place = Place { group: &group, in_group, index: first + in_group, param: &param };
            if !call.add((rule, *master), rules.len(), &place, grad, &found, keys)? {
                missing.push((param, group.clone()));
            }
        }
        rules.extend(made.map(|(rule, ..)| rule));
        first += count;
    }
    if !missing.is_empty() {
        return Ok((missing, None, false));
    }
    let bound = |bound| if inf_norm { ClipNorm::Inf(bound) } else { ClipNorm::Two(bound) };
    let options = StepOptions {
        grad_scale: 1.0 / loss_scale,
        clip_norm: clip_norm.map(bound),
        skip_nonfinite,
        rounding: seed.map_or(Rounding::Nearest, |seed| Rounding::Stochastic { seed }),
        ..StepOptions::default()
    };
    let report = call.run(py, groups, &rules, options, all_gather)?;
    Ok((missing, report.grad_norm, report.skipped))
}

/// The message that tells other processes that this one cannot take the step.
#[pyfunction]
pub fn failed_step<'py>(py: Python<'py>, reason: &str) -> Bound<'py, PyBytes> {
    PyBytes::new(py, &fused_adam::failed_step(reason))
}

/// The rule of a group, the keys of its states and of its scalars, and its master weights.
fn rule_of<'py>(
    kind: &str,
    group: &Bound<'py, PyDict>,
    number: usize,
    groups: usize,
) -> PyResult<(AnyRule, [Keys<'py>; 2], Option<MasterWeights>)> {
    let py = group.py();
    let (rule, names) = of_group(kind, group)?;
    let wrong = |text: String| {
        let place = if groups == 1 { String::new() } else { format!("parameter group {number}: ") };
        PyValueError::new_err(format!("{place}{text}"))
    };
    rule.check().map_err(|error| wrong(text_for_torch(&error)))?;
    let master = MasterWeights::of_group(group)?.map_err(wrong)?;
    let keys = |names: &'static [&'static str]| -> Keys<'py> {
        names.iter().map(|name| (*name, PyString::intern(py, name))).collect()
    };
    Ok((rule, [keys(names), keys(rule.scalars())], master))
}

/// The entries of a `state`, in order. Going through them avoids a lookup, in which Python computes
/// the hash of each tensor by a call of a Python function. Their order is that in which parameters
/// had their first gradients, which is mostly the order of the parameters. Where it is not, the
/// lookup is used. The entries are those at the beginning of the step: if user code that runs
/// within the step, such as a `grad` property, replaces an entry, only the next step sees that.
struct States<'py> {
    entries: std::vec::IntoIter<(Bound<'py, PyAny>, Bound<'py, PyAny>)>,
}

impl<'py> States<'py> {
    fn new(state: &Bound<'py, PyDict>) -> Self {
        let mut entries = Vec::with_capacity(state.len());
        entries.extend(state);
        States { entries: entries.into_iter() }
    }

    /// The state of a parameter, if it comes next.
    fn next_if_of(&mut self, param: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
        let (of, _) = self.entries.as_slice().first()?;
        if of.is(param) { self.entries.next().map(|(_, found)| found) } else { None }
    }
}

/// torch's C function to read its tensors.
fn exchange(py: Python<'_>) -> PyResult<&'static Exchange> {
    static OF_TORCH: PyOnceLock<Exchange> = PyOnceLock::new();
    OF_TORCH.get_or_try_init(py, || {
        let tensor = py.import("torch")?.getattr("Tensor")?.cast_into::<PyType>()?;
        Exchange::of(&tensor)?.ok_or_else(|| {
            PyRuntimeError::new_err(
                "torch's tensors have no DLPack exchange table, expected torch 2.10 or newer",
            )
        })
    })
}

/// A step that is being prepared.
struct StepBuilder<'a, 'py> {
    kind: &'a str,
    exchange: &'static Exchange,
    dtensor: Option<DTensors<'py>>,
    /// Whether this process adds a parameter's gradient to the norm of all processes.
    counts: Option<Bound<'py, PyAny>>,
    /// Whether states need a seed, because the step rounds stochastically.
    seeded: bool,
    /// The last scalars that were advanced. Most parameters have the same step number and scalars.
    advanced: Option<Advanced>,
    /// The parameters whose state was made for this step.
    fresh: HashSet<usize>,
    slots: Vec<StepTensor>,
    /// Step numbers and similar counters, with their values after the step.
    counters: Vec<(View, f64)>,
    params: Vec<Bound<'py, PyAny>>,
    /// The position of each parameter in all groups.
    places: Vec<usize>,
    /// Tensors that are not contiguous: their slots and buffers, as for
    /// [`Overlap`](crate::border::Overlap).
    strided: Vec<(Bound<'py, PyAny>, View, (usize, usize))>,
    /// Tensors that are stepped through a copy, with the copies.
    copies: Vec<(Bound<'py, PyAny>, Bound<'py, PyAny>)>,
    /// Other objects that must stay alive during the step.
    keep: Vec<Bound<'py, PyAny>>,
}

/// The scalars of a parameter before and after step `t` of the rule at index `rule`.
struct Advanced {
    rule: usize,
    t: u64,
    before: Vec<f64>,
    after: Vec<f64>,
}

impl<'py> StepBuilder<'_, 'py> {
    /// Reserves space for this many parameters.
    fn reserve(&mut self, params: usize) {
        self.slots.reserve(params);
        self.params.reserve(params);
        self.places.reserve(params);
        self.counters.reserve(params);
        self.keep.reserve(6 * params);
    }

    /// Adds a parameter. Returns false if its state is incomplete.
    fn add(
        &mut self,
        (rule, master): (&AnyRule, Option<MasterWeights>),
        number: usize,
        place: &Place<'_, 'py>,
        grad: Bound<'py, PyAny>,
        state: &Bound<'py, PyDict>,
        [names, scalars]: &[Keys<'py>; 2],
    ) -> PyResult<bool> {
        let local = self.local(&Which::Param, place, place.param)?;
        let param = local.as_ref().unwrap_or(place.param);
        let theta = self.view(&Which::Param, place, param)?;
        let grad = self.local(&Which::Grad, place, &grad)?.unwrap_or(grad);
        let grad_view = self.tensor(&Which::Grad, place, &grad, &theta)?;
        if theta.is_repeated() {
            return Err(PyRuntimeError::new_err(format!(
                "{place} has several elements in one place of memory, expected each in its own"
            )));
        }
        // torch's views with the negative bit are parts of complex numbers. They have gaps, and
        // their copy has the sign applied, unless they have one element (or were made by
        // `as_strided`).
        if theta.len() == 1 {
            refuse_negated(|| Which::Param.of(place), param)?;
            refuse_negated(|| Which::Grad.of(place), &grad)?;
        }
        let mut states = [const { None }; 3];
        for (to, (name, key)) in states.iter_mut().zip(names) {
            let Some(state) = state.get_item(key)?.filter(|state| !state.is_none()) else {
                return Ok(false);
            };
            let which = Which::State(name);
            let local = if self.is_local(place, &state) {
                None
            } else {
                self.local(&which, place, &state)?
            };
            let state = local.unwrap_or(state);
            let view = self.state(&which, place, &state, &theta)?;
            if view.len() == 1 {
                refuse_negated(|| which.of(place), &state)?;
            }
            if view.is_repeated() {
                return Err(PyRuntimeError::new_err(format!(
                    "{} has several elements in one place of memory, expected each in its own",
                    which.of(place)
                )));
            }
            *to = Some((state, view));
        }
        let in_blocks = self.are_in_blocks(place, &states, names)?;
        let correction = match master.filter(|_| !matches!(theta.kind, Kind::F32 | Kind::F64)) {
            Some(master) => match self.correction(master, place, state, &theta)? {
                Some(found) => Some(found),
                None => return Ok(false),
            },
            None => None,
        };
        // States in 8 bits and corrections of 8 bits are always rounded stochastically.
        let in_bytes = matches!(correction, Some((_, View { kind: Kind::U8, .. })));
        let draws = self.seeded || in_blocks || in_bytes;
        let (mut seed, mut shard, mut first) = (0, None, 0);
        if draws {
            if in_blocks {
                first = self.first_of_shard(place)?;
            } else {
                shard = self.shard(place)?;
            }
            let own = state.get_item(intern!(param.py(), "seed"))?;
            let Some(own) = own.and_then(|own| own.extract::<u64>().ok()) else { return Ok(false) };
            // Blocks begin with the shard, so the random bits are not those of the whole tensor.
            seed = own ^ first.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        }
        let counts = draws || correction.is_some();
        let Some(t) = self.step_number(rule, counts, place, state)? else { return Ok(false) };
        let scalars = self.scalars(rule, number, t, state, scalars)?;

        let others = states.iter().flatten().map(|(_, view)| view).chain(Some(&grad_view));
        let others = others.filter(|view| view.kind != Kind::U8);
        let mut others = others.chain(correction.as_ref().map(|(_, view)| view));
        // The elements of a shard, and those of blocks, are counted in row-major order.
        let alike = theta.is_dense()
            && others.all(|view| view.is_laid_out_as(&theta))
            && (shard.is_none() && !in_blocks || theta.is_row_major());
        let in_norm = match &self.counts {
            Some(counts) => counts.call1((place.param,))?.is_truthy()?,
            None => true,
        };
        let mut slot = StepTensor {
            rule: number,
            t,
            scalars,
            seed,
            shard,
            in_norm,
            ..StepTensor::of(theta, grad_view)
        };
        for (to, state) in slot.states.iter_mut().zip(&states) {
            *to = state.as_ref().map(|(_, view)| *view);
        }
        slot.correction = correction.as_ref().map(|(_, view)| *view);
        if !alike {
            slot.theta = self.in_rows(param, theta, 0)?;
            slot.grad = self.in_rows(&grad, grad_view, 1)?;
            for ((to, state), buffer) in slot.states.iter_mut().zip(&states).zip(2..) {
                if let Some((state, view)) = state {
                    *to = Some(self.in_rows(state, *view, buffer)?);
                }
            }
            if let Some((correction, view)) = &correction {
                let buffer = 2 + states.iter().flatten().count();
                slot.correction = Some(self.in_rows(correction, *view, buffer)?);
            }
        }
        self.slots.push(slot);
        self.params.push(place.param.clone());
        self.places.push(place.index);
        self.keep.extend(local);
        self.keep.push(grad);
        self.keep.extend(states.into_iter().chain([correction]).flatten().map(|(kept, _)| kept));
        Ok(true)
    }

    /// The step number. None if the state does not contain it as a tensor that can be counted in.
    fn step_number(
        &mut self,
        rule: &AnyRule,
        counts: bool,
        place: &Place<'_, 'py>,
        state: &Bound<'py, PyDict>,
    ) -> PyResult<Option<u64>> {
        let py = place.param.py();
        if matches!(rule, AnyRule::Sgd(_)) && !counts {
            // torch stores no step number here. It only matters whether it is the first step.
            let fresh = self.fresh.contains(&(place.param.as_ptr() as usize));
            return Ok(Some(if fresh { 1 } else { 2 }));
        }
        let Some(counter) = state.get_item(intern!(py, "step"))? else { return Ok(None) };
        let view = match self.exchange.view(&counter) {
            Ok(view) => view,
            Err(error) => {
                let text = |name| Ok::<_, PyErr>(counter.getattr(name)?.str()?.to_string());
                let is_float = |dtype| dtype == "torch.float32" || dtype == "torch.float64";
                // Another number, or one that was freed.
                let other = !text("dtype").is_ok_and(is_float)
                    || !text("device").is_ok_and(|device| device == "cpu")
                    || !text("layout").is_ok_and(|layout| layout == "torch.strided");
                let which = Which::State("step");
                return if other {
                    Ok(None)
                } else {
                    Err(self.unfit(&which, place, &counter, error))
                };
            }
        };
        let Some(steps) = view.number() else { return Ok(None) };
        if !((0.0..9e15).contains(&steps) && steps.fract() == 0.0) {
            return Err(PyValueError::new_err(format!(
                "step of {place} is {steps}, expected a whole number from 0 on"
            )));
        }
        self.counters.push((view, steps + 1.0));
        self.keep.push(counter);
        Ok(Some(steps as u64 + 1))
    }

    /// The rule's scalars after the step, from those in the state. None if the rule has none, or if
    /// the state has none; they then follow from the step number.
    fn scalars(
        &mut self,
        rule: &AnyRule,
        number: usize,
        t: u64,
        state: &Bound<'py, PyDict>,
        names: &Keys<'py>,
    ) -> PyResult<Option<Vec<f64>>> {
        if names.is_empty() {
            return Ok(None);
        }
        let (mut found, mut before) = (Vec::with_capacity(1), Vec::with_capacity(1));
        for (_, key) in names {
            let Some(scalar) = state.get_item(key)? else { return Ok(None) };
            let Ok(view) = self.exchange.view(&scalar) else { return Ok(None) };
            let Some(number) = view.number() else { return Ok(None) };
            found.push((scalar, view));
            before.push(number);
        }
        let is_same = |last: &Advanced| (last.rule, last.t, &last.before) == (number, t, &before);
        let after = match &self.advanced {
            Some(last) if is_same(last) => last.after.clone(),
            _ => {
                let mut after = before.clone();
                in_default_mode(|| rule.advance_scalars(t, &mut after));
                self.advanced = Some(Advanced { rule: number, t, before, after: after.clone() });
                after
            }
        };
        for ((scalar, view), &after) in found.into_iter().zip(&after) {
            self.counters.push((view, after));
            self.keep.push(scalar);
        }
        Ok(Some(after))
    }

    /// A tensor in row-major order: itself, or a copy, which is copied back if the tensor is
    /// written. `buffer` is as for
    /// [`Overlap`](crate::border::Overlap).
    fn in_rows(&mut self, tensor: &Bound<'py, PyAny>, view: View, buffer: usize) -> PyResult<View> {
        if view.is_row_major() {
            return Ok(view);
        }
        self.strided.push((tensor.clone(), view, (self.slots.len(), buffer)));
        let copy = tensor.call_method0("detach")?.call_method0("contiguous")?;
        let view = self.exchange.view_of_any(&copy)?;
        if is_written(buffer) {
            self.copies.push((tensor.clone(), copy));
        } else {
            self.keep.push(copy);
        }
        Ok(view)
    }
}

/// Whether a step writes this buffer of a tensor: all but the gradient.
fn is_written(buffer: usize) -> bool {
    buffer != 1
}
