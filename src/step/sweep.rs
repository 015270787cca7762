//! Where a step meets the loop that takes it: rows of any types, on this thread.
//!
//! Five combinations of types have loops of their own, in which 16-bit elements are converted in
//! registers: `f32` for all; `f64` for all; `bf16` for all; θ and g in `bf16` with states in `f32`;
//! and `f32` master weights with g, and perhaps a copy of θ, in `bf16`. All others, and stochastic
//! rounding, go by [`tiles`](super::tiles), which convert on the way: they are slower in the
//! caches, but cost a caller next to no code.

use super::tiles;
use super::vector::{self, Buffers};
use crate::elements::Element;
use crate::elements::column::DType;
use crate::elements::rows::Rows;
use crate::rules::{Kernel, reference};
use crate::simd::dispatch::Engine;

/// Whether θ in `T`, g in `G` and states in `S` have a loop of their own.
pub(crate) const fn is_fused<T: Element, G: Element, S: Element>() -> bool {
    matches!(
        (T::DTYPE, G::DTYPE, S::DTYPE),
        (DType::F64, _, _)
            | (DType::F32, DType::F32 | DType::Bf16, DType::F32)
            | (DType::Bf16, DType::Bf16, DType::F32 | DType::Bf16)
    )
}

/// Steps all rows on this thread: by the loop of the types `T`, `G` and `S` if they have one and
/// are those of the rows, else by tiles.
///
/// Both [`Step`](crate::Step) and [`Optimizer`](crate::Optimizer) come here, with the types that
/// their caller has named, so that only the loops of these are compiled.
#[inline(always)]
pub(crate) fn sweep<T, G, S, K, const N: usize>(engine: Engine, kernel: &K, rows: Rows<'_, N>)
where
    T: Element,
    G: Element<Float = T::Float>,
    S: Element<Float = T::Float>,
    K: Kernel<T::Float, N>,
{
    if matches!(engine, Engine::Scalar) {
        return reference::step(kernel, rows);
    }
    if const { is_fused::<T, G, S>() } {
        match buffers::<T, G, S, N>(rows) {
            Ok(buffers) => vector::sweep(engine, kernel, buffers),
            // `f64` goes with nothing else, so its tiles need not be compiled.
            Err(_) if const { T::DTYPE.is_f64() } => unreachable!("{COMPARED}"),
            Err(rows) => tiles::sweep::<T::Float, _, N>(engine, kernel, rows),
        }
    } else {
        tiles::sweep::<T::Float, _, N>(engine, kernel, rows);
    }
}

/// The slices of rows that are of these types, and are rounded to nearest.
#[inline(always)]
fn buffers<'a, T: Element, G: Element, S: Element, const N: usize>(
    rows: Rows<'a, N>,
) -> Result<Buffers<'a, T, G, S, N>, Rows<'a, N>> {
    let stochastic = rows.noise.is_some() && const { size_of::<T>() == 2 || size_of::<S>() == 2 };
    let copy = rows.copy.as_ref().is_none_or(|copy| copy.dtype() == G::DTYPE);
    let mut others = rows.state.iter().map(|state| state.dtype());
    if stochastic
        || !copy
        || rows.theta.dtype() != T::DTYPE
        || rows.grad.dtype() != G::DTYPE
        || others.any(|dtype| dtype != S::DTYPE)
    {
        return Err(rows);
    }
    let Rows { theta, grad, state, copy, .. } = rows;
    Ok(Buffers {
        theta: T::of_mut(theta).expect(COMPARED),
        grad: G::of(grad).expect(COMPARED),
        state: state.map(|state| S::of_mut(state).expect(COMPARED)),
        copy: copy.and_then(G::of_mut),
    })
}

const COMPARED: &str = "the types were compared";
