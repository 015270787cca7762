//! The messages of a step for torch: which tensor of which parameter, and what is wrong with it.

use std::fmt;

use pyo3::PyTypeInfo;
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple, PyTypeMethods};

use super::StepBuilder;
use crate::border::Overlap;

/// A parameter, for messages.
pub(super) struct Place<'a, 'py> {
    pub group: &'a Bound<'py, PyDict>,
    pub in_group: usize,
    /// The position in all groups, as in a `state_dict`.
    pub index: usize,
    pub param: &'a Bound<'py, PyAny>,
}

/// Such as "parameter 3 (`fc.weight`, shape (5, 6))".
impl fmt::Display for Place<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.group.get_item("param_names").ok().flatten();
        let name = names.and_then(|names| names.get_item(self.in_group).ok());
        write!(f, "parameter {} (", self.index)?;
        if let Some(name) = name {
            write!(f, "`{name}`, ")?;
        }
        write!(f, "shape {})", shape(self.param))
    }
}

/// The shape of a tensor, such as "(5, 6)".
pub(super) fn shape(tensor: &Bound<'_, PyAny>) -> String {
    let shape =
        tensor.getattr("shape").and_then(|shape| PyTuple::type_object(shape.py()).call1((shape,)));
    shape.map_or_else(|_| "?".to_owned(), |shape| shape.to_string())
}

/// Which tensor of a parameter a message is about.
pub(super) enum Which {
    Param,
    Grad,
    State(&'static str),
}

impl Which {
    pub(super) fn of(&self, place: &Place<'_, '_>) -> String {
        match self {
            Which::Param => place.to_string(),
            Which::Grad => format!("the gradient of {place}"),
            Which::State(name) => format!("{name} of {place}"),
        }
    }

    /// The types that it can have.
    pub(super) fn known(&self) -> &'static [&'static str] {
        match self {
            Which::State("correction") => &["torch.uint8", "torch.int16"],
            _ => &["torch.float32", "torch.float64", "torch.bfloat16", "torch.float16"],
        }
    }
}

impl<'py> StepBuilder<'_, 'py> {
    /// Why a tensor cannot be stepped: for one of its torch properties, or for `error`.
    #[cold]
    pub(super) fn unfit(
        &self,
        which: &Which,
        place: &Place<'_, 'py>,
        tensor: &Bound<'py, PyAny>,
        error: PyErr,
    ) -> PyErr {
        let (py, what) = (tensor.py(), which.of(place));
        let text = |name: &str| {
            let text = tensor.getattr(name).and_then(|it| it.str()?.extract::<String>());
            text.unwrap_or_default()
        };
        let class = tensor.get_type().name().map(|name| name.to_string()).unwrap_or_default();
        let (layout, device, dtype) = (text("layout"), text("device"), text("dtype"));
        if layout.is_empty() {
            return PyTypeError::new_err(format!("{what} is a {class}, expected a torch.Tensor"));
        }
        if layout != "torch.strided" {
            let text = match (which, self.kind) {
                (Which::Grad, "sgd" | "adagrad") => {
                    let name = if self.kind == "sgd" { "SGD" } else { "Adagrad" };
                    format!(
                        "{what} is sparse ({layout}), which torch.optim.{name} supports and this \
                         class does not"
                    )
                }
                (Which::Grad, kind) => {
                    let name = sparse_name(kind);
                    format!(
                        "{name} does not support sparse gradients, please consider SparseAdam \
                         instead ({what} is {layout})"
                    )
                }
                _ => format!("{what} is {layout}, expected torch.strided"),
            };
            return PyRuntimeError::new_err(text);
        }
        if !device.starts_with("cpu") {
            let text = format!("{what} is on the device {device}, expected cpu");
            return PyRuntimeError::new_err(text);
        }
        let known = which.known();
        if !known.contains(&dtype.as_str()) {
            let text = format!("{what} is {dtype}, expected one of {}", known.join(", "));
            return PyTypeError::new_err(text);
        }
        if !["Tensor", "Parameter", "Buffer"].contains(&class.as_str()) {
            let text = format!(
                "{what} is a {class}, whose elements are not in its own memory, expected a \
                 torch.Tensor"
            );
            return PyRuntimeError::new_err(text);
        }
        let text = error.value(py).to_string();
        let text = text.strip_prefix("an array").unwrap_or(&text);
        PyErr::from_type(error.get_type(py), format!("{what}{text}"))
    }

    /// The error for two tensors that share memory.
    #[cold]
    pub(super) fn overlap(
        groups: &Bound<'py, PyList>,
        (params, places): (&[Bound<'py, PyAny>], &[usize]),
        Overlap([first, second]): &Overlap,
    ) -> PyErr {
        let name = |&(slot, buffer): &(usize, usize)| {
            let (found, mut left) = (&params[slot], places[slot]);
            for group in groups {
                let Ok(group) = group.cast_into::<PyDict>() else { continue };
                let count = group.get_item("params").ok().flatten();
                let count = count.and_then(|params| params.len().ok()).unwrap_or(0);
                if left < count {
                    let index = places[slot];
                    let place = Place { group: &group, in_group: left, index, param: found };
                    return match buffer {
                        0 => Which::Param.of(&place),
                        1 => Which::Grad.of(&place),
                        _ => format!("a state of {place}"),
                    };
                }
                left -= count;
            }
            "a tensor".to_owned()
        };
        PyValueError::new_err(format!(
            "{} and {} overlap in memory, expected what is written to be apart",
            name(first),
            name(second)
        ))
    }
}

/// The name in torch's message about sparse gradients. That of AdamW says Adam.
fn sparse_name(kind: &str) -> &str {
    match kind {
        "adam" => "Adam",
        "nadam" => "NAdam",
        "radam" => "RAdam",
        "adamax" => "Adamax",
        "rmsprop" => "RMSprop",
        "adabound" => "AdaBound",
        "lion" => "Lion",
        other => other,
    }
}
