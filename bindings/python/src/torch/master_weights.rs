//! Split master weights: the correction of a parameter of `bfloat16`.

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::StepBuilder;
use super::messages::{Place, Which};
use crate::border::{Kind, View};

/// The option `master_weights` of a parameter group.
#[derive(Clone, Copy)]
pub(super) enum MasterWeights {
    /// A correction of 8 bits.
    Split24,
    /// A correction of 16 bits.
    Split32,
}

impl MasterWeights {
    /// Those of a group, or what is wrong with its option.
    pub fn of_group(group: &Bound<'_, PyDict>) -> PyResult<Result<Option<Self>, String>> {
        let option = group.get_item(intern!(group.py(), "master_weights"))?;
        let Some(option) = option.filter(|option| !option.is_none()) else { return Ok(Ok(None)) };
        Ok(match option.extract::<&str>() {
            Ok("split24") => Ok(Some(MasterWeights::Split24)),
            Ok("split32") => Ok(Some(MasterWeights::Split32)),
            _ => Err(format!(
                "master_weights is {}, expected None, 'split24' or 'split32'",
                option.repr()?
            )),
        })
    }

    /// The element type of the correction.
    fn kind(self) -> Kind {
        match self {
            MasterWeights::Split24 => Kind::U8,
            MasterWeights::Split32 => Kind::U16,
        }
    }

    fn name(self) -> &'static str {
        match self {
            MasterWeights::Split24 => "split24",
            MasterWeights::Split32 => "split32",
        }
    }
}

impl<'py> StepBuilder<'_, 'py> {
    /// The correction of a parameter of 16 bits. None if the state has none of this type.
    pub(super) fn correction(
        &self,
        master: MasterWeights,
        place: &Place<'_, 'py>,
        state: &Bound<'py, PyDict>,
        theta: &View,
    ) -> PyResult<Option<(Bound<'py, PyAny>, View)>> {
        let py = place.param.py();
        if theta.kind != Kind::Bf16 {
            return Err(PyValueError::new_err(format!(
                "{place} is {}, expected torch.bfloat16, torch.float32 or torch.float64 with \
                 master_weights='{}'",
                theta.kind.torch_name(),
                master.name()
            )));
        }
        let found = state.get_item(intern!(py, "correction"))?;
        let Some(found) = found.filter(|found| !found.is_none()) else { return Ok(None) };
        let which = Which::State("correction");
        let found = self.local(&which, place, &found)?.unwrap_or(found);
        let view = match self.exchange.view_of_any(&found) {
            Ok(view) if view.kind == master.kind() => view,
            // The caller converts it.
            Ok(_) => return Ok(None),
            Err(error) => {
                let dtype = found.getattr(intern!(py, "dtype")).and_then(|dtype| dtype.str());
                let is_known = dtype.is_ok_and(|dtype| which.known().iter().any(|it| dtype == *it));
                return if is_known {
                    Err(self.unfit(&which, place, &found, error))
                } else {
                    Ok(None)
                };
            }
        };
        self.check(&which, place, &found, &view, theta)?;
        if view.is_repeated() {
            return Err(PyRuntimeError::new_err(format!(
                "{} has several elements in one place of memory, expected each in its own",
                which.of(place)
            )));
        }
        Ok(Some((found, view)))
    }
}
