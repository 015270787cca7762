//! The step itself, once it is prepared: the last checks, the call of the core with the exchange
//! between processes, and what is written back afterwards.

use fused_adam::{AnyRule, ParamMut, Report, StepOptions, step_all, step_all_distributed};
use pyo3::prelude::*;
use pyo3::types::PyList;

use super::{StepBuilder, is_written};
use crate::border::{Overlap, View, of_torch, with_slices};
use crate::pool;
use crate::rules::error_for_torch;

impl<'py> StepBuilder<'_, 'py> {
    /// Checks that no element of a tensor that is not contiguous is also an element of another
    /// tensor. The copies themselves do not overlap, so this is for the copies back.
    fn check_strided(&self, py: Python<'py>) -> PyResult<Result<(), Overlap>> {
        for (i, (tensor, view, own)) in self.strided.iter().enumerate() {
            let written = is_written(own.1);
            for (number, slot) in self.slots.iter().enumerate() {
                let all = [&slot.theta, &slot.grad].into_iter().chain(slot.kept());
                for (other, buffer) in all.zip(0..) {
                    if (written || is_written(buffer)) && view.meets(other) {
                        return Ok(Err(Overlap([*own, (number, buffer)])));
                    }
                }
            }
            let meet = |(_, other, (_, buffer)): &&(_, View, (usize, usize))| {
                (written || is_written(*buffer)) && view.meets(other)
            };
            let others: Vec<_> = self.strided[..i].iter().filter(meet).collect();
            if written || !others.is_empty() {
                let with = others.first().map_or(*own, |(_, _, other)| *other);
                let others = others.into_iter().map(|(tensor, _, _)| tensor);
                let tensors: Vec<_> = [tensor].into_iter().chain(others).collect();
                let check = py.import("fused_adam.torch._overlap")?.getattr("are_apart")?;
                if !check.call1((tensors,))?.is_truthy()? {
                    return Ok(Err(Overlap([*own, with])));
                }
            }
        }
        Ok(Ok(()))
    }

    /// Takes the step, and then updates the counters.
    pub(super) fn run(
        self,
        py: Python<'py>,
        groups: &Bound<'py, PyList>,
        rules: &[AnyRule],
        options: StepOptions,
        all_gather: Option<Py<PyAny>>,
    ) -> PyResult<Report> {
        let strided = self.check_strided(py)?;
        let StepBuilder { slots, params, places, counters, copies, keep, .. } = self;
        let overlap = |overlap| Self::overlap(groups, (&params, &places), &overlap);
        strided.map_err(overlap)?;
        let bytes = slots.iter().map(|slot| slot.theta.bytes()).sum();
        let (mut raised, mut ranks) = (None, Vec::new());
        let mut gather = |message: &[u8]| {
            let messages = Python::attach(|py| match &all_gather {
                Some(all_gather) => all_gather.call1(py, (message,))?.extract(py),
                None => Ok((message.to_vec(), Vec::new())),
            });
            let messages = messages.map(|(messages, of): (Vec<u8>, Vec<usize>)| {
                ranks = of;
                messages
            });
            messages.map_err(|error| {
                let reason = error.to_string();
                raised = Some(error);
                fused_adam::Error::AllGather { reason }
            })
        };
        let report = py.detach(|| {
            pool::run(bytes, of_torch(), |parallelism| {
                let options = StepOptions { parallelism, ..options };
                let step = |all: &mut dyn ExactSizeIterator<Item = ParamMut<'_>>| {
                    if all_gather.is_some() {
                        step_all_distributed(rules, &options, all, &mut gather)
                    } else {
                        step_all(rules, &options, all)
                    }
                };
                // SAFETY: `params`, `keep` and `copies` keep all tensors alive. The caller of
                // `step` must not use their memory in another thread meanwhile, as with torch's own
                // optimizers.
                unsafe { with_slices(slots, step) }
            })
        });
        let report = report.map_err(overlap)?;
        if let Some(error) = raised {
            return Err(error);
        }
        let report = report.map_err(|error| error_for_torch(error.cause(), &ranks))?;
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
