//! Selects the loop that steps rows of any element types on this thread.
//!
//! These combinations of element types have their own loops, which convert 16-bit elements in
//! registers:
//!
//! - `f32` for all buffers;
//! - `f64` for all buffers;
//! - `bf16` for all buffers;
//! - `bf16` θ and gradient with `f32` states;
//! - `f32` master weights and states with a `bf16` gradient, and optionally a `bf16` copy of θ;
//! - 8-bit states with `f32` θ and gradient;
//! - 8-bit states with `bf16` θ and gradient, also with split master weights.
//!
//! All other combinations use [`tiles`](super::tiles), which convert through the stack. So do
//! stochastic rounding of 16-bit columns, except of split master weights, and a copy of θ beside
//! 8-bit states. Tiles are slower while the data fits in cache, but add almost no code to the
//! caller.

use half::bf16;

use super::blocks;
use super::tiles;
use super::vector::{self, Buffers};
use crate::elements::block8::Block8;
use crate::elements::column::DType;
use crate::elements::rows::{Beside, Rows};
use crate::elements::{Element, StateElement};
use crate::rules::{Kernel, reference};
use crate::simd::dispatch::Engine;

/// Calls the macro `$then` with the types of θ, g and the states that have their own loop. This is
/// the only list of them.
macro_rules! for_each_fused {
    ($then:ident) => {
        $then! {
            [f32 f32 f32] [f64 f64 f64] [bf16 bf16 bf16] [bf16 bf16 f32] [f32 bf16 f32]
            [f32 f32 Block8] [bf16 bf16 Block8]
        }
    };
}
pub(crate) use for_each_fused;

/// Whether θ of type `T`, g of type `G` and states of type `S` have their own loop.
pub(crate) const fn is_fused<T: Element, G: Element, S: StateElement>() -> bool {
    macro_rules! any {
        ($([$theta:ident $grad:ident $state:ident])*) => {
            matches!((T::DTYPE, G::DTYPE, S::DTYPE), $(
                (
                    <$theta as StateElement>::DTYPE,
                    <$grad as StateElement>::DTYPE,
                    <$state as StateElement>::DTYPE,
                )
            )|*)
        };
    }
    for_each_fused!(any)
}

/// Whether states of type `S` are in 8 bits.
pub(crate) const fn is_8bit<S: StateElement>() -> bool {
    matches!(S::DTYPE, DType::Block8)
}

/// Steps all rows on this thread: with the loop of the types `T`, `G` and `S` if it exists and
/// these are the types of the rows, otherwise with tiles.
///
/// Both [`Step`](crate::Step) and [`Optimizer`](crate::Optimizer) call this with the types that
/// their caller has named, so that only the loops of these types are compiled.
#[inline(always)]
pub(crate) fn step_rows<T, G, S, K, const N: usize>(engine: Engine, kernel: &K, rows: Rows<'_, N>)
where
    T: Element,
    G: Element<Float = T::Float>,
    S: StateElement<Float = T::Float>,
    K: Kernel<T::Float, N>,
{
    if matches!(engine, Engine::Scalar) {
        return reference::step(kernel, rows);
    }
    if const { is_8bit::<S>() } {
        if const { is_fused::<T, G, S>() } && blocks::takes::<T, G, N>(&rows) {
            blocks::step::<T, G, K, N>(engine, kernel, rows);
        } else {
            tiles::step::<T::Float, K, true, N>(engine, kernel, rows);
        }
    } else if const { is_fused::<T, G, S>() } {
        match buffers::<T, G, S::Unpacked, N>(rows) {
            Ok(buffers) => vector::step(engine, kernel, buffers),
            // `f64` is not combined with other types, so its tiles need not be compiled.
            Err(_) if const { T::DTYPE.is_f64() } => unreachable!("{COMPARED}"),
            Err(rows) => tiles::step::<T::Float, _, false, N>(engine, kernel, rows),
        }
    } else {
        tiles::step::<T::Float, _, false, N>(engine, kernel, rows);
    }
}

/// The rows as slices of these types, if they have these types and are rounded to nearest.
#[inline(always)]
fn buffers<'a, T: Element, G: Element, S: Element, const N: usize>(
    rows: Rows<'a, N>,
) -> Result<Buffers<'a, T, G, S, N>, Rows<'a, N>> {
    let halves = rows.noise.is_some_and(|noise| noise.halves);
    let stochastic = halves && const { size_of::<T>() == 2 || size_of::<S>() == 2 };
    let beside = match &rows.beside {
        Beside::Nothing => true,
        Beside::Copy(copy) => copy.dtype() == G::DTYPE,
        Beside::Correction(_) => false,
    };
    let mut others = rows.state.iter().map(|state| state.dtype());
    if stochastic
        || !beside
        || rows.theta.dtype() != T::DTYPE
        || rows.grad.dtype() != G::DTYPE
        || others.any(|dtype| dtype != S::DTYPE)
    {
        return Err(rows);
    }
    let Rows { theta, grad, state, beside, .. } = rows;
    Ok(Buffers {
        theta: T::of_mut(theta).expect(COMPARED),
        grad: G::of(grad).expect(COMPARED),
        state: state.map(|state| S::of_mut(state).expect(COMPARED)),
        copy: match beside {
            Beside::Copy(copy) => G::of_mut(copy),
            _ => None,
        },
    })
}

const COMPARED: &str = "the types were compared";
