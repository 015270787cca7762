//! The gradients and states of a parameter: whether their shapes and types go with it.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use super::messages::{Place, Which, shape};
use super::{Keys, StepBuilder};
use crate::border::{Kind, View, shape_of_blocks};

impl<'py> StepBuilder<'_, 'py> {
    /// A gradient, with the shape and a type that go with θ.
    pub(super) fn tensor(
        &self,
        which: &Which,
        place: &Place<'_, 'py>,
        tensor: &Bound<'py, PyAny>,
        theta: &View,
    ) -> PyResult<View> {
        let view = self.view(which, place, tensor)?;
        self.check(which, place, tensor, &view, theta)?;
        Ok(view)
    }

    /// A state: as a gradient, or the blocks of a state in 8 bits.
    pub(super) fn state(
        &self,
        which: &Which,
        place: &Place<'_, 'py>,
        tensor: &Bound<'py, PyAny>,
        theta: &View,
    ) -> PyResult<View> {
        let view = self.exchange.view_of_state(tensor);
        let view = view.map_err(|error| self.unfit(which, place, tensor, error))?;
        if view.kind != Kind::U8 {
            self.check(which, place, tensor, &view, theta)?;
            return Ok(view);
        }
        let what = || which.of(place);
        if theta.kind.is_f64() {
            return Err(PyTypeError::new_err(format!(
                "{} is torch.uint8, and the parameter torch.float64, expected a parameter of \
                 torch.float32, torch.bfloat16 or torch.float16 for a state in 8 bits",
                what()
            )));
        }
        if !view.is_shaped_as_blocks(theta.len()) {
            let [blocks, bytes] = shape_of_blocks(theta.len());
            return Err(PyValueError::new_err(format!(
                "{} has shape {}, expected ({blocks}, {bytes}) for a state in 8 bits",
                what(),
                shape(tensor)
            )));
        }
        if !view.is_row_major() {
            return Err(PyValueError::new_err(format!(
                "{} is not contiguous, expected a contiguous tensor for a state in 8 bits",
                what()
            )));
        }
        Ok(view)
    }

    /// Whether the states are in 8 bits: all of them, or none.
    pub(super) fn are_in_blocks(
        &self,
        place: &Place<'_, 'py>,
        states: &[Option<(Bound<'py, PyAny>, View)>],
        names: &Keys<'py>,
    ) -> PyResult<bool> {
        let mut all = states.iter().flatten().zip(names).map(|((_, view), (name, _))| (view, name));
        let Some((view, first)) = all.next() else { return Ok(false) };
        let in_blocks = view.kind == Kind::U8;
        if let Some((other, name)) = all.find(|(other, _)| (other.kind == Kind::U8) != in_blocks) {
            return Err(PyTypeError::new_err(format!(
                "{} is {}, and {first} {}, expected torch.uint8 for both or for neither",
                Which::State(name).of(place),
                other.kind.torch_name(),
                view.kind.torch_name()
            )));
        }
        Ok(in_blocks)
    }

    /// Checks that a tensor has the shape and a type that go with θ.
    pub(super) fn check(
        &self,
        which: &Which,
        place: &Place<'_, 'py>,
        tensor: &Bound<'py, PyAny>,
        view: &View,
        theta: &View,
    ) -> PyResult<()> {
        if !view.is_shaped_as(theta) {
            return Err(PyValueError::new_err(format!(
                "{} has shape {}, expected that of its parameter",
                which.of(place),
                shape(tensor)
            )));
        }
        if view.kind.is_f64() != theta.kind.is_f64() {
            return Err(PyTypeError::new_err(format!(
                "{} is {}, and the parameter {}, expected torch.float64 for both or for neither",
                which.of(place),
                view.kind.torch_name(),
                theta.kind.torch_name()
            )));
        }
        Ok(())
    }

    pub(super) fn view(
        &self,
        which: &Which,
        place: &Place<'_, 'py>,
        tensor: &Bound<'py, PyAny>,
    ) -> PyResult<View> {
        self.exchange.view(tensor).map_err(|error| self.unfit(which, place, tensor, error))
    }
}
