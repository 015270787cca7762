//! `DTensor`: the part of a tensor that this process has.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{LazyLock, Mutex, PoisonError};

use fused_adam::Shard;
use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyType, PyTypeMethods};

use super::StepBuilder;
use super::messages::{Place, Which};
use crate::border::Kind;

/// Python's classes, once the program has imported `DTensor`.
pub(super) struct DTensors<'py> {
    tensor: Bound<'py, PyType>,
    /// The result of a collective that may still run.
    unfinished: Bound<'py, PyType>,
}

/// Pairs of specifications by their addresses. torch does not change the mesh or the placements of
/// a specification; as long as one is kept here, its address is not that of another one.
type Equal = HashMap<[usize; 2], [Py<PyAny>; 2]>;

/// The pairs of recent steps. A comparison takes as long as reading a tensor.
static EQUAL: LazyLock<Mutex<Equal>> = LazyLock::new(Mutex::default);

/// Ranges of indices in each dimension, each with its start and its end.
type Ranges = Vec<Vec<(u64, u64)>>;

/// The number of pairs at which all are forgotten.
const MOST_PAIRS: usize = 1 << 16;

impl<'py> DTensors<'py> {
    /// The classes, if the program has imported `DTensor`.
    pub fn of(py: Python<'py>) -> PyResult<Option<Self>> {
        static CLASSES: PyOnceLock<[Py<PyType>; 2]> = PyOnceLock::new();
        if CLASSES.get(py).is_none() {
            let modules = py.import("sys")?.getattr("modules")?.cast_into::<PyDict>()?;
            let Some(module) = modules.get_item("torch.distributed.tensor")? else {
                return Ok(None);
            };
            let tensor = module.getattr("DTensor")?.cast_into::<PyType>()?.unbind();
            let functions = py.import("torch.distributed._functional_collectives")?;
            let unfinished = functions.getattr("AsyncCollectiveTensor")?;
            let unfinished = unfinished.cast_into::<PyType>()?.unbind();
            let _ = CLASSES.set(py, [tensor, unfinished]);
        }
        Ok(CLASSES.get(py).map(|[tensor, unfinished]| DTensors {
            tensor: tensor.bind(py).clone(),
            unfinished: unfinished.bind(py).clone(),
        }))
    }

    fn is_one(&self, tensor: &Bound<'py, PyAny>) -> bool {
        tensor.get_type_ptr() == self.tensor.as_type_ptr()
    }

    /// Whether a tensor has the mesh and the placements of another one.
    fn is_placed_as(
        &self,
        tensor: &Bound<'py, PyAny>,
        other: &Bound<'py, PyAny>,
    ) -> PyResult<bool> {
        let py = tensor.py();
        let spec = intern!(py, "_spec");
        let (own, other) = (tensor.getattr(spec)?, other.getattr(spec)?);
        let both = [own.as_ptr() as usize, other.as_ptr() as usize];
        let known = || EQUAL.lock().unwrap_or_else(PoisonError::into_inner);
        if own.is(&other) || known().contains_key(&both) {
            return Ok(true);
        }
        let equal = |name| -> PyResult<bool> {
            let (own, other) = (own.getattr(name)?, other.getattr(name)?);
            Ok(own.is(&other) || own.eq(other)?)
        };
        let equal = equal(intern!(py, "placements"))? && equal(intern!(py, "mesh"))?;
        if equal {
            let full = known().len() >= MOST_PAIRS;
            // Objects are freed without the lock.
            let forgotten = if full { std::mem::take(&mut *known()) } else { Equal::new() };
            let replaced = known().insert(both, [own.unbind(), other.unbind()]);
            drop((forgotten, replaced));
        }
        Ok(equal)
    }
}

impl<'py> StepBuilder<'_, 'py> {
    /// Whether a state of a `DTensor` is that of its shard: states in 8 bits are plain tensors.
    pub(super) fn is_local(&self, place: &Place<'_, 'py>, state: &Bound<'py, PyAny>) -> bool {
        self.is_dtensor(place.param)
            && !self.is_dtensor(state)
            && self.exchange.view_of_state(state).is_ok_and(|view| view.kind == Kind::U8)
    }

    fn is_dtensor(&self, tensor: &Bound<'py, PyAny>) -> bool {
        self.dtensor.as_ref().is_some_and(|dtensor| dtensor.is_one(tensor))
    }

    /// The part of a `DTensor` that this process has. None for other tensors.
    pub(super) fn local(
        &self,
        which: &Which,
        place: &Place<'_, 'py>,
        tensor: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let Some(dtensor) = &self.dtensor else { return Ok(None) };
        let (is_one, of_one) = (dtensor.is_one(tensor), dtensor.is_one(place.param));
        if !is_one && !of_one {
            return Ok(None);
        }
        if is_one != of_one {
            let [given, expected] =
                if is_one { ["DTensor", "Tensor"] } else { ["Tensor", "DTensor"] };
            return Err(PyRuntimeError::new_err(format!(
                "{} is a {given}, expected a {expected} as its parameter",
                which.of(place)
            )));
        }
        let py = tensor.py();
        let mut local = None;
        if !matches!(which, Which::Param) && !dtensor.is_placed_as(tensor, place.param)? {
            local = Some(self.redistributed(which, place, tensor)?);
        }
        let tensor = local.as_ref().unwrap_or(tensor);
        let local = match tensor.getattr(intern!(py, "_local_tensor")) {
            Ok(local) => local,
            Err(_) => tensor.call_method0("to_local")?,
        };
        let unfinished = self.dtensor.as_ref().map(|dtensor| dtensor.unfinished.as_type_ptr());
        if unfinished == Some(local.get_type_ptr()) {
            return local.call_method0("wait").map(Some);
        }
        Ok(Some(local))
    }

    /// A gradient of other placements, with those of its parameter. This is a collective.
    #[cold]
    fn redistributed(
        &self,
        which: &Which,
        place: &Place<'_, 'py>,
        tensor: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = tensor.py();
        let (placements, mesh) = (intern!(py, "placements"), intern!(py, "device_mesh"));
        let (given, expected) = (tensor.getattr(placements)?, place.param.getattr(placements)?);
        let own = place.param.getattr(mesh)?;
        let same_mesh = tensor.getattr(mesh)?.eq(&own)?;
        if matches!(which, Which::Grad) && same_mesh {
            let grad = tensor.call_method1("redistribute", (own, expected))?;
            // So that another call for the same step does not communicate again.
            place.param.setattr(intern!(py, "grad"), &grad)?;
            return Ok(grad);
        }
        let (given, expected) = if same_mesh {
            (format!("the placements {given}"), expected.to_string())
        } else {
            (format!("the mesh {}", tensor.getattr(mesh)?), own.to_string())
        };
        Err(PyRuntimeError::new_err(format!(
            "{} has {given}, expected those of its parameter, {expected}",
            which.of(place)
        )))
    }

    /// The shape of the whole tensor, and the indices that this process has in each dimension. None
    /// if the tensor is not a `DTensor`.
    fn ranges(&self, place: &Place<'_, 'py>) -> PyResult<Option<(Vec<u64>, Ranges)>> {
        if !self.is_dtensor(place.param) {
            return Ok(None);
        }
        let module = place.param.py().import("fused_adam.torch._dtensor")?;
        module.getattr("ranges_of")?.call1((place.param,))?.extract().map(Some)
    }

    /// The index in the whole tensor of the first element that this process has. 0 if it has none.
    pub(super) fn first_of_shard(&self, place: &Place<'_, 'py>) -> PyResult<u64> {
        let Some((shape, ranges)) = self.ranges(place)? else { return Ok(0) };
        let of_dimension = ranges.iter().map(|ranges| Some(ranges.first()?.0));
        let Some(first) = of_dimension.collect::<Option<Vec<u64>>>() else { return Ok(0) };
        Ok(first.iter().zip(&shape).fold(0, |index, (first, size)| index * size + first))
    }

    /// The elements of the whole tensor that this process has, for the random bits. None if all.
    pub(super) fn shard(&self, place: &Place<'_, 'py>) -> PyResult<Option<Shard>> {
        let Some((shape, ranges)) = self.ranges(place)? else { return Ok(None) };
        let of_dimension = |ranges: Vec<(u64, u64)>| ranges.into_iter().map(|(a, b)| a..b);
        let ranges: Vec<Vec<Range<u64>>> =
            ranges.into_iter().map(|ranges| of_dimension(ranges).collect()).collect();
        let ranges: Vec<&[Range<u64>]> = ranges.iter().map(Vec::as_slice).collect();
        let refused = |error| PyRuntimeError::new_err(format!("{place}: {error}"));
        Shard::new(&shape, &ranges).map(Some).map_err(refused)
    }
}
