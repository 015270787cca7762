//! Compiles the kernels of every rule, for every combination of element types, once for all test
//! programs.
//!
//! Kernels are generic, so each program that steps compiles those that it uses. That is most of the
//! time that the tests take to compile. Up to `opt-level = 1` the compiler does not compile a
//! function again that a dependency has with the same types. So each test program links to this
//! crate with `use fused_adam_test_kernels as _;`, and has only its own rules to compile.
//!
//! In the release profile, where the compiler shares nothing, the crate is empty. It also is with
//! `--cfg one_program`, for a single program that uses some of the types.

#![forbid(unsafe_code)]
#![cfg(all(debug_assertions, not(one_program)))]

use fused_adam::{AnyRule, Block8, Element, Error, StateElement, Step, bf16, f16};

/// Has every kernel. There is no need to call it.
pub fn all() {
    of::<f64, f64, f64>();
    of_theta::<f32>();
    of_theta::<bf16>();
    of_theta::<f16>();
}

fn of_theta<T: Element<Float = f32>>() {
    of_grad::<T, f32>();
    of_grad::<T, bf16>();
    of_grad::<T, f16>();
}

fn of_grad<T: Element<Float = f32>, G: Element<Float = f32>>() {
    of::<T, G, f32>();
    of::<T, G, bf16>();
    of::<T, G, f16>();
    of::<T, G, Block8>();
}

/// A step, as a function that takes its arguments.
type Run<T, G, S> =
    fn(&Step<'static, AnyRule>, &mut [T], &[G], &mut [&mut [S]]) -> Result<(), Error>;

fn of<T, G, S>()
where
    T: Element,
    G: Element<Float = T::Float>,
    S: StateElement<Float = T::Float>,
{
    let run: Run<T, G, S> = Step::run_mixed;
    std::hint::black_box(run);
}
