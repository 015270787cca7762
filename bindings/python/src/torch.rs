//! The interface for torch: one call takes the step of all tensors of an optimizer.
//!
//! torch's state of a parameter, with its step number in a tensor of one element, is read and
//! written in place. If a parameter, its gradient and its states have different memory orders,
//! those that are not in row-major order are copied to row-major order for the step.

use std::collections::HashSet;

use fused_adam::{AnyRule, ClipNorm, Report, Rule as _, StepOptions, step_all};
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyList, PyString, PyType};

use crate::border::{Exchange, StepTensor, View, of_torch, refuse_negated, with_slices};
use crate::pool;
use crate::rules::{of_group, refused};

/// The names of the entries of a state.
type Keys<'py> = Vec<(&'static str, Bound<'py, PyString>)>;

/// Parameters with their groups.
type Params<'py> = Vec<(Bound<'py, PyAny>, Bound<'py, PyDict>)>;

/// Takes the step of every parameter that has a gradient.
///
/// Returns the parameters that have no state yet. If there are any, it has done nothing else. Also
/// returns the gradient norm, if it was needed, and whether the step was skipped.
#[pyfunction]
#[pyo3(signature = (
    kind, groups, state, fresh, *, loss_scale = 1.0, clip_norm = None, inf_norm = false,
    skip_nonfinite = false,
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
) -> PyResult<(Params<'py>, Option<f64>, bool)> {
    let py = groups.py();
    let mut call = StepBuilder {
        exchange: exchange(py)?,
        advanced: None,
        fresh: fresh.iter().map(|param| param.as_ptr() as usize).collect(),
        slots: Vec::new(),
        params: Vec::new(),
        strided: Vec::new(),
        counters: Vec::new(),
        copies: Vec::new(),
        keep: Vec::new(),
    };
    let (mut rules, mut missing) = (Vec::new(), Vec::new());
    call.reserve(state.len());
    let mut states = States::new(state);
    for group in groups {
        let group = group.cast_into::<PyDict>()?;
        let (rule, names) = of_group(kind, &group)?;
        rule.check().map_err(refused)?;
        let keys = |names: &'static [&'static str]| -> Keys<'py> {
            names.iter().map(|name| (*name, PyString::intern(py, name))).collect()
        };
        let keys = [keys(names), keys(rule.scalars())];
        let params = group.get_item(intern!(py, "params"))?;
        let params = params.ok_or_else(|| PyValueError::new_err("a group has no \"params\""))?;
        let params = match params.cast_into::<PyList>() {
            Ok(params) => params,
            // Groups that were built by hand can have a tuple.
            Err(other) => PyList::new(py, other.into_inner().extract::<Vec<Bound<'py, PyAny>>>()?)?,
        };
        for param in params {
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
            if !call.add(&rule, rules.len(), &param, grad, &found, &keys)? {
                missing.push((param, group.clone()));
            }
        }
        rules.push(rule);
    }
    if !missing.is_empty() {
        return Ok((missing, None, false));
    }
    let bound = |bound| if inf_norm { ClipNorm::Inf(bound) } else { ClipNorm::Two(bound) };
    let options = StepOptions {
        grad_scale: 1.0 / loss_scale,
        clip_norm: clip_norm.map(bound),
        skip_nonfinite,
        ..StepOptions::default()
    };
    let report = call.run(py, &rules, options)?;
    Ok((missing, report.grad_norm, report.skipped))
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
struct StepBuilder<'py> {
    exchange: &'static Exchange,
    /// The last scalars that were advanced. Most parameters have the same step number and scalars.
    advanced: Option<Advanced>,
    /// The parameters whose state was made for this step.
    fresh: HashSet<usize>,
    slots: Vec<StepTensor>,
    /// Step numbers and similar counters, with their values after the step.
    counters: Vec<(View, f64)>,
    params: Vec<Bound<'py, PyAny>>,
    /// Tensors that are not contiguous, and whether they are written.
    strided: Vec<(Bound<'py, PyAny>, View, bool)>,
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

impl<'py> StepBuilder<'py> {
    /// Reserves space for this many parameters.
    fn reserve(&mut self, params: usize) {
        self.slots.reserve(params);
        self.params.reserve(params);
        self.counters.reserve(params);
        self.keep.reserve(5 * params);
    }

    /// Adds a parameter. Returns false if its state is incomplete.
    fn add(
        &mut self,
        rule: &AnyRule,
        number: usize,
        param: &Bound<'py, PyAny>,
        grad: Bound<'py, PyAny>,
        state: &Bound<'py, PyDict>,
        [names, scalars]: &[Keys<'py>; 2],
    ) -> PyResult<bool> {
        let theta = self.view("a parameter", param)?;
        let grad_view = self.view("a gradient", &grad)?;
        if theta.is_repeated() {
            return Err(PyRuntimeError::new_err(
                "a parameter has several elements in one place of memory, expected each in its own",
            ));
        }
        check_shape("a gradient", &grad_view, &theta)?;
        // torch's views with the negative bit are parts of complex numbers. They have gaps, and
        // their copy has the sign applied, unless they have one element (or were made by
        // `as_strided`).
        if theta.len() == 1 {
            refuse_negated("a parameter", param)?;
            refuse_negated("a gradient", &grad)?;
        }
        let mut states = [const { None }; 3];
        for (place, (name, key)) in states.iter_mut().zip(names) {
            let Some(state) = state.get_item(key)?.filter(|state| !state.is_none()) else {
                return Ok(false);
            };
            let view = self.view(name, &state)?;
            check_shape(name, &view, &theta)?;
            if view.len() == 1 {
                refuse_negated(name, &state)?;
            }
            if view.is_repeated() {
                return Err(PyRuntimeError::new_err(format!(
                    "{name} has several elements in one place of memory, expected each in its own"
                )));
            }
            *place = Some((state, view));
        }
        let Some(t) = self.step_number(rule, param, state)? else { return Ok(false) };
        let scalars = self.scalars(rule, number, t, state, scalars)?;

        let mut others = states.iter().flatten().map(|(_, view)| view).chain(Some(&grad_view));
        let alike = theta.is_dense() && others.all(|view| view.is_laid_out_as(&theta));
        let mut slot = StepTensor { rule: number, t, scalars, ..StepTensor::of(theta, grad_view) };
        for (place, state) in slot.states.iter_mut().zip(&states) {
            *place = state.as_ref().map(|(_, view)| *view);
        }
        if !alike {
            slot.theta = self.in_rows(param, theta, true)?;
            slot.grad = self.in_rows(&grad, grad_view, false)?;
            for (place, state) in slot.states.iter_mut().zip(&states) {
                if let Some((state, view)) = state {
                    *place = Some(self.in_rows(state, *view, true)?);
                }
            }
        }
        self.slots.push(slot);
        self.params.push(param.clone());
        self.keep.push(grad);
        self.keep.extend(states.into_iter().flatten().map(|(state, _)| state));
        Ok(true)
    }

    /// The step number. None if the state does not contain it.
    fn step_number(
        &mut self,
        rule: &AnyRule,
        param: &Bound<'py, PyAny>,
        state: &Bound<'py, PyDict>,
    ) -> PyResult<Option<u64>> {
        let py = param.py();
        if matches!(rule, AnyRule::Sgd(_)) {
            // torch stores no step number here. It only matters whether it is the first step.
            return Ok(Some(if self.fresh.contains(&(param.as_ptr() as usize)) { 1 } else { 2 }));
        }
        let Some(counter) = state.get_item(intern!(py, "step"))? else { return Ok(None) };
        let view = self.view("step", &counter)?;
        let whole = |steps: &f64| (0.0..9e15).contains(steps) && steps.fract() == 0.0;
        let steps = view.number().filter(whole);
        let steps = steps.ok_or_else(|| {
            PyValueError::new_err(format!(
                "step is {counter}, expected a whole number from 0 on, of float32 or float64"
            ))
        })?;
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
        for (name, key) in names {
            let Some(scalar) = state.get_item(key)? else { return Ok(None) };
            let view = self.view(name, &scalar)?;
            let Some(number) = view.number() else { return Ok(None) };
            found.push((scalar, view));
            before.push(number);
        }
        let is_same = |last: &Advanced| (last.rule, last.t, &last.before) == (number, t, &before);
        let after = match &self.advanced {
            Some(last) if is_same(last) => last.after.clone(),
            _ => {
                let mut after = before.clone();
                rule.advance_scalars(t, &mut after);
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
    /// written.
    fn in_rows(&mut self, tensor: &Bound<'py, PyAny>, view: View, written: bool) -> PyResult<View> {
        if view.is_row_major() {
            return Ok(view);
        }
        self.strided.push((tensor.clone(), view, written));
        let copy = tensor.call_method0("detach")?.call_method0("contiguous")?;
        let view = self.exchange.view(&copy)?;
        if written {
            self.copies.push((tensor.clone(), copy));
        } else {
            self.keep.push(copy);
        }
        Ok(view)
    }

    fn view(&self, what: &str, tensor: &Bound<'py, PyAny>) -> PyResult<View> {
        self.exchange.view(tensor).map_err(|error| unfit(what, tensor).unwrap_or(error))
    }

    /// Checks that no element of a tensor that is not contiguous is also an element of another
    /// tensor. The copies themselves do not overlap, so this is for the copies back.
    fn check_strided(&self, py: Python<'py>) -> PyResult<()> {
        let overlap = || {
            PyValueError::new_err("arrays overlap in memory, expected what is written to be apart")
        };
        for (i, (_, view, written)) in self.strided.iter().enumerate() {
            for slot in &self.slots {
                let states = slot.states.iter().flatten().map(|state| (state, true));
                let all = [(&slot.theta, true), (&slot.grad, false)].into_iter().chain(states);
                if all.into_iter().any(|(other, too)| (*written || too) && view.meets(other)) {
                    return Err(overlap());
                }
            }
            let meet = |(_, other, too): &&(_, View, bool)| (*written || *too) && view.meets(other);
            let others: Vec<_> = self.strided[..i].iter().filter(meet).collect();
            if *written || !others.is_empty() {
                let tensors = [&self.strided[i]].into_iter().chain(others);
                let tensors: Vec<_> = tensors.map(|(tensor, _, _)| tensor).collect();
                let check = py.import("fused_adam.torch")?.getattr("_are_apart")?;
                if !check.call1((tensors,))?.is_truthy()? {
                    return Err(overlap());
                }
            }
        }
        Ok(())
    }

    /// Takes the step, and then updates the counters.
    fn run(self, py: Python<'py>, rules: &[AnyRule], options: StepOptions) -> PyResult<Report> {
        self.check_strided(py)?;
        let StepBuilder { slots, params, counters, copies, keep, .. } = self;
        let bytes = slots.iter().map(|slot| slot.theta.bytes()).sum();
        let report = py.detach(|| {
            pool::run(bytes, of_torch(), |parallelism| {
                let options = StepOptions { parallelism, ..options };
                // SAFETY: `params`, `keep` and `copies` keep all tensors alive. The caller of
                // `step` must not use their memory in another thread meanwhile, as with torch's own
                // optimizers.
                unsafe { with_slices(slots, |all| step_all(rules, &options, all)) }
            })
        })?;
        let report = report.map_err(refused)?;
        if !report.skipped {
            for (tensor, copy) in copies {
                tensor.call_method0("detach")?.call_method1("copy_", (copy,))?;
            }
            for (view, then) in counters {
                view.set_number(then);
            }
            // Tells autograd that tensors that it saved for a backward pass have changed.
            let graph = py.import("torch.autograd.graph")?;
            graph.call_method1("increment_version", (PyList::new(py, params)?,))?;
        }
        drop(keep);
        Ok(report)
    }
}

fn check_shape(what: &str, view: &View, theta: &View) -> PyResult<()> {
    if view.is_shaped_as(theta) {
        return Ok(());
    }
    Err(PyValueError::new_err(format!(
        "{what} has {} elements, expected {} in the shape of its parameter",
        view.len(),
        theta.len()
    )))
}

/// Why a tensor cannot be stepped, if the reason is one of its torch properties.
fn unfit(what: &str, tensor: &Bound<'_, PyAny>) -> Option<PyErr> {
    let text = |name: &str| tensor.getattr(name).and_then(|it| it.str()?.extract::<String>()).ok();
    let (layout, device, dtype) = (text("layout")?, text("device")?, text("dtype")?);
    if layout != "torch.strided" {
        let error =
            format!("{what} is of layout {layout}, expected torch.strided (not a sparse one)");
        return Some(PyRuntimeError::new_err(error));
    }
    if !device.starts_with("cpu") {
        let error = format!("{what} is on the device {device}, expected cpu");
        return Some(PyRuntimeError::new_err(error));
    }
    let known = ["torch.float32", "torch.float64", "torch.bfloat16", "torch.float16"];
    (!known.contains(&dtype.as_str())).then(|| {
        PyTypeError::new_err(format!("{what} is of {dtype}, expected one of {}", known.join(", ")))
    })
}
