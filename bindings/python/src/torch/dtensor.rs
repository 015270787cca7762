//! `DTensor`: the part of a tensor that this process has.

use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyType, PyTypeMethods};

use super::StepBuilder;
use super::messages::{Place, Which};

/// The class of `DTensor`, if the program has imported it.
pub(super) fn dtensor(py: Python<'_>) -> PyResult<Option<Bound<'_, PyType>>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    if let Some(class) = CLASS.get(py) {
        return Ok(Some(class.bind(py).clone()));
    }
    let modules = py.import("sys")?.getattr("modules")?.cast_into::<PyDict>()?;
    let Some(module) = modules.get_item("torch.distributed.tensor")? else { return Ok(None) };
    let class = module.getattr("DTensor")?.cast_into::<PyType>()?;
    CLASS.get_or_init(py, || class.clone().unbind());
    Ok(Some(class))
}

impl<'py> StepBuilder<'_, 'py> {
    fn is_dtensor(&self, tensor: &Bound<'py, PyAny>) -> bool {
        let class = self.dtensor.as_ref().map(|class| class.as_type_ptr());
        class == Some(tensor.get_type_ptr())
    }

    /// The part of a `DTensor` that this process has. None for other tensors.
    pub(super) fn local(
        &self,
        which: &Which,
        place: &Place<'_, 'py>,
        tensor: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        if self.dtensor.is_none() {
            return Ok(None);
        }
        let py = tensor.py();
        let (is_one, of_one) = (self.is_dtensor(tensor), self.is_dtensor(place.param));
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
        let placements = intern!(py, "placements");
        let mesh = intern!(py, "device_mesh");
        let (given, expected) = (tensor.getattr(placements)?, place.param.getattr(placements)?);
        if !given.eq(&expected)? || !tensor.getattr(mesh)?.eq(place.param.getattr(mesh)?)? {
            return Err(PyRuntimeError::new_err(format!(
                "{} has the placements {given}, expected those of its parameter, {expected}",
                which.of(place)
            )));
        }
        if self.needs_norm {
            return Err(PyRuntimeError::new_err(format!(
                "{place} is a DTensor, and clip_grad_norm_and_step has only the norm of this \
                 process, expected torch.nn.utils.clip_grad_norm_ and step"
            )));
        }
        let local = match tensor.getattr(intern!(py, "_local_tensor")) {
            Ok(local) => local,
            Err(_) => tensor.call_method0("to_local")?,
        };
        // The result of a collective that may still run.
        if local.get_type().name()? == "AsyncCollectiveTensor" {
            return local.call_method0("wait").map(Some);
        }
        Ok(Some(local))
    }

    /// The index of the first element in the whole tensor, for the random bits.
    pub(super) fn offset(&self, place: &Place<'_, 'py>) -> PyResult<u64> {
        if !self.is_dtensor(place.param) {
            return Ok(0);
        }
        let py = place.param.py();
        let offset = py.import("fused_adam.torch._dtensor")?.getattr("offset_of")?;
        let offset: Option<u64> = offset.call1((place.param,))?.extract()?;
        offset.ok_or_else(|| {
            PyRuntimeError::new_err(format!(
                "{place} is a DTensor whose shard is not one range of its elements, expected \
                 Shard(0) for stochastic rounding"
            ))
        })
    }
}
