//! fused-adam for Python: steps on NumPy arrays, and the step behind the optimizers of
//! `fused_adam.torch`.
//!
//! `border` makes slices of Python's arrays, and contains all `unsafe` code. `rules` makes rules of
//! keyword arguments and of torch's parameter groups. `arrays` and `torch` are the two interfaces.
//! `pool` has the threads.

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
    use super::arrays::{Rule, join_weights, split_weights};
    #[pymodule_export]
    use super::border::use_torch_threads;
    #[pymodule_export]
    use super::pool::{get_num_threads, set_num_threads};
    #[pymodule_export]
    use super::torch::{failed_step, torch_step};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("RULES", PyTuple::new(module.py(), AnyRule::NAMES)?)?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
