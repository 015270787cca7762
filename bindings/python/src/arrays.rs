//! The interface for arrays: a rule, and its step in place.

use fused_adam::{AnyRule, Backend, Error, Rounding, Rule as _, State, StepOptions, step_all};
use fused_adam_float_mode::in_default_mode;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::border::{
    Kind, Overlap, OwnedView, StepTensor, View, decode, encode, held, join, shape_of_blocks, split,
    with_slices,
};
use crate::pool;
use crate::rules::{by_name, changed, refused};

/// A rule with its hyper-parameters.
#[pyclass(frozen, module = "fused_adam")]
pub struct Rule(AnyRule);

#[pymethods]
impl Rule {
    #[new]
    #[pyo3(signature = (name, /, **hyper_parameters))]
    fn new(name: &str, hyper_parameters: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        let rule = by_name(name, hyper_parameters)?;
        rule.check().map_err(refused)?;
        Ok(Rule(rule))
    }

    /// The name of the rule, such as `adamw`.
    #[getter]
    fn name(&self) -> &'static str {
        self.0.name()
    }

    /// The names of its states, in the order in which `step` takes them.
    #[getter]
    fn states(&self) -> Vec<&'static str> {
        self.0.states().iter().map(State::name).collect()
    }

    /// The initial value of each state.
    #[getter]
    fn initial(&self) -> Vec<f64> {
        (0..self.0.states().len()).map(|i| self.0.initial_state(i)).collect()
    }

    /// The names of its scalars. A scalar is a number in addition to the states, such as the
    /// product over all steps of a hyper-parameter that a schedule changes.
    #[getter]
    fn scalars(&self) -> &'static [&'static str] {
        self.0.scalars()
    }

    /// The scalars after `t` steps with these hyper-parameters.
    fn scalars_after(&self, t: u64) -> Vec<f64> {
        (0..self.0.scalars().len()).map(|i| self.0.scalar_after(i, t)).collect()
    }

    /// Its hyper-parameters.
    #[getter]
    fn hyper_parameters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let json = serde_json::to_string(&self.0);
        let json = json.map_err(|e| PyValueError::new_err(e.to_string()))?;
        let all = py.import("json")?.call_method1("loads", (json,))?;
        all.get_item(self.0.name())
    }

    /// A copy with some hyper-parameters changed.
    #[pyo3(signature = (**changes))]
    fn replace(&self, changes: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        let rule = changed(self.0, changes)?;
        rule.check().map_err(refused)?;
        Ok(Rule(rule))
    }

    /// Takes step number `t` in place. `scalars` are the scalars before the step; it updates them
    /// in place. Without `scalars` they follow from `t`. With `correction`, `theta` is the upper
    /// part of split master weights.
    #[pyo3(signature = (
        t, theta, grad, *states, scalars = None, correction = None, grad_scale = 1.0,
        clip_value = None, seed = None, offset = 0, backend = None
    ))]
    #[expect(clippy::too_many_arguments, reason = "Python's keywords")]
    fn step(
        &self,
        t: u64,
        theta: &Bound<'_, PyAny>,
        grad: &Bound<'_, PyAny>,
        states: &Bound<'_, PyTuple>,
        scalars: Option<&Bound<'_, PyAny>>,
        correction: Option<&Bound<'_, PyAny>>,
        grad_scale: f64,
        clip_value: Option<f64>,
        seed: Option<u64>,
        offset: u64,
        backend: Option<&str>,
    ) -> PyResult<()> {
        let names = self.states();
        if states.len() != names.len() {
            return Err(PyTypeError::new_err(format!(
                "{} {} given, expected {}: {names:?}",
                states.len(),
                if states.len() == 1 { "state was" } else { "states were" },
                names.len()
            )));
        }
        let (theta, grad) = (floats("theta", theta)?, floats("grad", grad)?);
        let states = names.iter().zip(states.iter()).map(|(name, state)| {
            let owned = named(name, &state)?;
            if owned.view.kind == Kind::U8 { Ok(owned) } else { of_floats(name, owned) }
        });
        let states: Vec<_> = states.collect::<PyResult<_>>()?;
        let correction = correction.map(correction_of).transpose()?;
        let mut slot = StepTensor { t, offset, ..StepTensor::of(theta.view, grad.view) };
        for (place, state) in slot.states.iter_mut().zip(&states) {
            *place = Some(state.view);
        }
        slot.correction = correction.as_ref().map(|correction| correction.view);
        let all = ["theta", "grad"].iter().chain(&names).chain(&["correction"]);
        let views = [&slot.theta, &slot.grad].into_iter().chain(slot.kept()).copied();
        for (name, view) in all.zip(views.collect::<Vec<_>>()) {
            if *name != "grad" && !view.is_writable() {
                return Err(PyValueError::new_err(format!("{name} is read-only")));
            }
            if view.kind == Kind::U8 && *name != "correction" {
                check_blocks(name, &view, slot.theta.len())?;
                if !slot.theta.is_row_major() {
                    return Err(PyValueError::new_err(format!(
                        "theta is not in row-major order, expected it for {name} in 8 bits"
                    )));
                }
                continue;
            }
            if view.len() != slot.theta.len() {
                return Err(PyValueError::new_err(format!(
                    "{name} has {} elements, expected {} as theta has",
                    view.len(),
                    slot.theta.len()
                )));
            }
            if !view.is_shaped_as(&slot.theta) {
                return Err(PyValueError::new_err(format!(
                    "{name} has another shape than theta, expected the same"
                )));
            }
            if !view.is_laid_out_as(&slot.theta) {
                return Err(PyValueError::new_err(format!(
                    "{name} does not lie in memory as one piece in the order of theta, expected a \
                     contiguous array"
                )));
            }
        }
        let scalars = scalars.map(|scalars| floats("scalars", scalars)).transpose()?;
        if let Some(scalars) = &scalars {
            slot.scalars = Some(self.next_scalars(t, &scalars.view, &slot)?);
        }
        let after = slot.scalars.clone().unwrap_or_default();
        let options = StepOptions {
            grad_scale,
            clip_value,
            backend: backend.map_or(Ok(Backend::Auto), str::parse).map_err(refused)?,
            rounding: seed.map_or(Rounding::Nearest, |seed| Rounding::Stochastic { seed }),
            ..StepOptions::default()
        };
        let bytes = slot.theta.bytes();
        let rules = [self.0];
        theta
            .py()
            .detach(|| {
                pool::run(bytes, None, |parallelism| {
                    let options = StepOptions { parallelism, ..options };
                    // SAFETY: `theta`, `grad` and `states` keep the arrays alive until this
                    // returns. The caller must not use them in another Python thread meanwhile, as
                    // with every NumPy function that releases the GIL.
                    unsafe { with_slices(vec![slot], |all| step_all(&rules, &options, all)) }
                })
            })
            .map_err(|overlap| overlaps(&overlap, &names))?
            .map_err(refused)?;
        if let Some(scalars) = scalars {
            scalars.view.set_doubles(&after);
        }
        Ok(())
    }

    /// Encodes elements of a state in 8 bits, rounded to nearest.
    fn encode_state(
        &self,
        state: &str,
        elements: &Bound<'_, PyAny>,
        blocks: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let state = self.state(state)?;
        let (elements, blocks) = (named("elements", elements)?, named("blocks", blocks)?);
        check_pair(&elements.view, &blocks.view)?;
        writable("blocks", &blocks.view)?;
        let (from, to) = (elements.view, blocks.view);
        // SAFETY: `elements` and `blocks` keep the arrays alive until this returns. The caller must
        // not use them in another Python thread meanwhile.
        let done =
            blocks.py().detach(move || in_default_mode(move || unsafe { encode(state, from, to) }));
        apart(done)
    }

    /// Decodes elements of a state from 8 bits.
    fn decode_state(
        &self,
        state: &str,
        blocks: &Bound<'_, PyAny>,
        elements: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let state = self.state(state)?;
        let (elements, blocks) = (named("elements", elements)?, named("blocks", blocks)?);
        check_pair(&elements.view, &blocks.view)?;
        writable("elements", &elements.view)?;
        let (from, to) = (blocks.view, elements.view);
        // SAFETY: as in `encode_state`.
        let done =
            blocks.py().detach(move || in_default_mode(move || unsafe { decode(state, from, to) }));
        apart(done)
    }

    /// For `pickle` and `copy`: the arguments of the constructor.
    fn __getnewargs_ex__<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<((&'static str,), Bound<'py, PyAny>)> {
        Ok(((self.name(),), self.hyper_parameters(py)?))
    }

    /// A call of the constructor.
    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let mut text = format!("Rule('{}'", self.name());
        for (name, value) in self.hyper_parameters(py)?.cast::<PyDict>()? {
            text += &format!(", {}={}", name.str()?, value.repr()?);
        }
        Ok(text + ")")
    }
}

/// The types of floats, in messages.
const FLOATS: &str = "float32, float64, bfloat16 or float16";

/// The memory of an array. An error begins with the array's name.
fn named<'py>(name: &str, array: &Bound<'py, PyAny>) -> PyResult<OwnedView<'py>> {
    held(array).map_err(|error| {
        let py = array.py();
        let text = error.value(py).to_string();
        let text = text.strip_prefix("an array").map_or(format!(": {text}"), str::to_owned);
        PyErr::from_type(error.get_type(py), format!("{name}{text}"))
    })
}

/// The memory of an array of floats. An error begins with the array's name.
fn floats<'py>(name: &str, array: &Bound<'py, PyAny>) -> PyResult<OwnedView<'py>> {
    of_floats(name, named(name, array)?)
}

fn of_floats<'py>(name: &str, owned: OwnedView<'py>) -> PyResult<OwnedView<'py>> {
    if matches!(owned.view.kind, Kind::U8 | Kind::U16) {
        return Err(PyTypeError::new_err(format!(
            "{name} is of type {}, expected {FLOATS}",
            owned.view.kind.name()
        )));
    }
    Ok(owned)
}

/// The memory of a correction.
fn correction_of<'py>(array: &Bound<'py, PyAny>) -> PyResult<OwnedView<'py>> {
    let owned = named("correction", array).map_err(|error| {
        let text = error.value(array.py()).to_string();
        let text = text.replace(FLOATS, "uint8 or uint16");
        // DLPack's names.
        let text = text.replace("f32, f64, bf16 or f16", "uint8 or uint16");
        PyErr::from_type(error.get_type(array.py()), text)
    })?;
    if !matches!(owned.view.kind, Kind::U8 | Kind::U16) {
        return Err(PyTypeError::new_err(format!(
            "correction is of type {}, expected uint8 or uint16",
            owned.view.kind.name()
        )));
    }
    Ok(owned)
}

/// Splits `weights` of `float32` in `theta` of `bfloat16` and its `correction`, which are written.
#[pyfunction]
pub fn split_weights(
    weights: &Bound<'_, PyAny>,
    theta: &Bound<'_, PyAny>,
    correction: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let [weights, theta, correction] = of_split(weights, theta, correction)?;
    writable("theta", &theta.view)?;
    writable("correction", &correction.view)?;
    let (from, to, low) = (weights.view, theta.view, correction.view);
    // SAFETY: the arrays are kept alive until this returns, and their types were checked. The
    // caller must not use them in another Python thread meanwhile.
    let done = theta.py().detach(move || in_default_mode(move || unsafe { split(from, to, low) }));
    converted(done)
}

/// Joins `theta` of `bfloat16` and its `correction` to `weights` of `float32`, which are written.
#[pyfunction]
pub fn join_weights(
    theta: &Bound<'_, PyAny>,
    correction: &Bound<'_, PyAny>,
    weights: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let [weights, theta, correction] = of_split(weights, theta, correction)?;
    writable("weights", &weights.view)?;
    let (from, low, to) = (theta.view, correction.view, weights.view);
    // SAFETY: as in `split_weights`.
    let done = theta.py().detach(move || in_default_mode(move || unsafe { join(from, low, to) }));
    converted(done)
}

/// The checked arrays of a conversion of master weights.
fn of_split<'py>(
    weights: &Bound<'py, PyAny>,
    theta: &Bound<'py, PyAny>,
    correction: &Bound<'py, PyAny>,
) -> PyResult<[OwnedView<'py>; 3]> {
    let of_kind = |name: &'static str, array, kind: Kind, expected| {
        let owned = named(name, array)?;
        if owned.view.kind != kind {
            let given = owned.view.kind.name();
            let text = format!("{name} is an array of {given}, expected {expected}");
            return Err(PyTypeError::new_err(text));
        }
        Ok(owned)
    };
    let weights = of_kind("weights", weights, Kind::F32, "f32")?;
    let theta = of_kind("theta", theta, Kind::Bf16, "bf16")?;
    let correction = correction_of(correction)?;
    if !theta.view.is_dense() {
        return Err(PyValueError::new_err("theta is not contiguous, expected a contiguous array"));
    }
    for (name, owned) in [("weights", &weights), ("correction", &correction)] {
        if !owned.view.is_shaped_as(&theta.view) || !owned.view.is_laid_out_as(&theta.view) {
            return Err(PyValueError::new_err(format!(
                "{name} has another shape or memory order than theta, expected the same"
            )));
        }
    }
    Ok([weights, theta, correction])
}

/// The error for a conversion of master weights that was not done.
fn converted(done: Option<Result<(), Error>>) -> PyResult<()> {
    let overlap = || {
        PyValueError::new_err(
            "weights, theta and correction overlap in memory, expected them to be apart",
        )
    };
    done.ok_or_else(overlap)?.map_err(refused)
}

/// Checks that a state of bytes has the blocks of this many elements.
fn check_blocks(name: &str, view: &View, elements: usize) -> PyResult<()> {
    let [blocks, bytes] = shape_of_blocks(elements);
    if view.kind != Kind::U8 || !view.is_shaped_as_blocks(elements) || !view.is_row_major() {
        return Err(PyValueError::new_err(format!(
            "{name} is an array of {} elements of {}, expected a contiguous one of uint8 and shape \
             ({blocks}, {bytes}) for {elements} elements in 8 bits",
            view.len(),
            view.kind.name()
        )));
    }
    Ok(())
}

/// Checks the arrays of a conversion.
fn check_pair(elements: &View, blocks: &View) -> PyResult<()> {
    if elements.kind != Kind::F32 || !elements.is_row_major() {
        return Err(PyTypeError::new_err(format!(
            "elements is an array of {}, expected a contiguous one of f32",
            elements.kind.name()
        )));
    }
    check_blocks("blocks", blocks, elements.len())
}

fn writable(name: &str, view: &View) -> PyResult<()> {
    if view.is_writable() {
        return Ok(());
    }
    Err(PyValueError::new_err(format!("{name} is read-only")))
}

/// The error for a conversion that was not done.
fn apart(done: bool) -> PyResult<()> {
    if done {
        return Ok(());
    }
    Err(PyValueError::new_err("elements and blocks overlap in memory, expected them to be apart"))
}

/// The error for arrays that overlap. `names` are those of the states.
fn overlaps(Overlap([first, second]): &Overlap, names: &[&str]) -> PyErr {
    let name = |&(_, buffer): &(usize, usize)| match buffer {
        0 => "theta",
        1 => "grad",
        state => names.get(state - 2).unwrap_or(&"correction"),
    };
    PyValueError::new_err(format!(
        "{} and {} overlap in memory, expected what is written to be apart",
        name(first),
        name(second)
    ))
}

impl Rule {
    /// A state by its name.
    fn state(&self, name: &str) -> PyResult<&State> {
        let found = self.0.states().iter().find(|state| state.name() == name);
        found.ok_or_else(|| {
            PyValueError::new_err(format!(
                "{} has no state {name:?}, expected one of {:?}",
                self.0.name(),
                self.states()
            ))
        })
    }

    /// The scalars after a step, from those before it in an array.
    fn next_scalars(&self, t: u64, array: &View, slot: &StepTensor) -> PyResult<Vec<f64>> {
        let Some(mut scalars) = array.doubles() else {
            return Err(PyTypeError::new_err(format!(
                "scalars is an array of {}, expected a contiguous one of f64",
                array.kind.name()
            )));
        };
        let (given, names) = (scalars.len(), self.0.scalars());
        if given != names.len() {
            return Err(refused(Error::Scalars { given, expected: names.len(), names }));
        }
        if !array.is_writable() {
            return Err(PyValueError::new_err("scalars is read-only"));
        }
        let mut others = [&slot.theta, &slot.grad].into_iter().chain(slot.kept());
        if others.any(|other| array.meets(other)) {
            return Err(PyValueError::new_err(
                "scalars overlaps in memory with another array, expected it to be apart",
            ));
        }
        in_default_mode(|| self.0.advance_scalars(t, &mut scalars));
        Ok(scalars)
    }
}
