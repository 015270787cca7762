//! fused-adam for Python: steps on NumPy arrays, and the step behind the optimizers of
//! `fused_adam.torch`.
//!
//! `border` turns Python's arrays into slices, and alone holds `unsafe` code; `rules` turns keywords
//! and torch's parameter groups into rules; `arrays` and `torch` are the two doors; `pool` has the
//! threads.

mod arrays;
mod border;
mod pool;
mod rules;
mod torch;

use pyo3::prelude::*;

#[pymodule]
mod _native {
    use fused_adam::AnyRule;
    use pyo3::prelude::*;
    use pyo3::types::PyTuple;

    #[pymodule_export]
    use super::arrays::Rule;
    #[pymodule_export]
    use super::border::use_torch_threads;
    #[pymodule_export]
    use super::pool::{get_num_threads, set_num_threads};
    #[pymodule_export]
    use super::torch::torch_step;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("RULES", PyTuple::new(module.py(), AnyRule::NAMES)?)?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
