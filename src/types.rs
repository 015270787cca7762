//! Which element types go together in one step, and which loop steps them.
//!
//! Four combinations have fused loops of their own, in which numbers are converted in registers:
//! `f32` or `f64` for all; `bf16` for all; θ and g in `bf16` with states in `f32`; and `f32` master
//! weights with g, and perhaps a copy of θ, in `bf16`. All others, and stochastic rounding, take
//! the loop over tiles, which converts on the way: it is slower in the caches, but costs a caller
//! next to no code.

use half::{bf16, f16};

use crate::backend::Swept;
use crate::elements::{Half, Single};
use crate::optimizer::region::{StepBatch, fused};
use crate::step::Checked;
use crate::{Error, NamedRule, Rule};

/// A type of θ that may be stepped from a gradient of type `G` with states of type `S`.
///
/// These go together: `f64` with `f64` alone; and any of `f32`, [`bf16`] and [`struct@f16`] for
/// each of the three. What is stored in 16 bits is computed in `f32`, and rounded as
/// [`Step::rounding`](crate::Step::rounding) says. The trait is sealed.
pub trait Parameter<G, S>: Sized {
    #[doc(hidden)]
    type Loop: Loop<Self, G, S>;
}

/// A type of a copy of θ, in a step of `f32` from a gradient of type `G` with states of type `S`.
///
/// [`bf16`] and [`struct@f16`] are, for any of `f32`, `bf16` and `f16`. The trait is sealed.
pub trait Copied<G, S>: Half {
    #[doc(hidden)]
    type CopyLoop: CopyLoop<G, S, Self>;
}

impl Parameter<f64, f64> for f64 {
    type Loop = Fused;
}

impl Parameter<f32, f32> for f32 {
    type Loop = Fused;
}
impl<S: Half> Parameter<f32, S> for f32 {
    type Loop = Tiles;
}
impl Parameter<bf16, f32> for f32 {
    type Loop = Fused;
}
impl<S: Half> Parameter<bf16, S> for f32 {
    type Loop = Tiles;
}
impl<S: Single> Parameter<f16, S> for f32 {
    type Loop = Tiles;
}

impl Parameter<bf16, bf16> for bf16 {
    type Loop = FusedToNearest;
}
impl Parameter<bf16, f32> for bf16 {
    type Loop = FusedToNearest;
}
impl Parameter<bf16, f16> for bf16 {
    type Loop = Tiles;
}
impl<S: Single> Parameter<f32, S> for bf16 {
    type Loop = Tiles;
}
impl<S: Single> Parameter<f16, S> for bf16 {
    type Loop = Tiles;
}

impl<G: Single, S: Single> Parameter<G, S> for f16 {
    type Loop = Tiles;
}

impl Copied<bf16, f32> for bf16 {
    type CopyLoop = Fused;
}
impl<S: Half> Copied<bf16, S> for bf16 {
    type CopyLoop = Tiles;
}
impl<S: Single> Copied<f32, S> for bf16 {
    type CopyLoop = Tiles;
}
impl<S: Single> Copied<f16, S> for bf16 {
    type CopyLoop = Tiles;
}

impl<G: Single, S: Single> Copied<G, S> for f16 {
    type CopyLoop = Tiles;
}

/// A way to step θ in `T`, g in `G` and states in `S`.
pub trait Loop<T, G, S> {
    fn step<R: Rule, B: AsMut<[S]>>(
        checked: Checked<'_, R>,
        theta: &mut [T],
        grad: &[G],
        state: &mut [B],
    ) -> Result<(), Error>;

    /// How an optimizer of many tensors steps those of these types, if that is fused.
    fn batches<R: NamedRule>() -> Option<StepBatch<R>>;
}

/// A way to step `f32` from g in `G` with states in `S`, and to store the new θ once more in `H`.
pub trait CopyLoop<G, S, H> {
    fn step<R: Rule, B: AsMut<[S]>>(
        checked: Checked<'_, R>,
        theta: &mut [f32],
        grad: &[G],
        state: &mut [B],
        copy: &mut [H],
    ) -> Result<(), Error>;
}

/// The fused loop; nothing that it stores is rounded stochastically.
pub struct Fused;

/// The fused loop, unless it is to round stochastically.
pub struct FusedToNearest;

/// The loop over tiles.
pub struct Tiles;

impl<T, G, S> Loop<T, G, S> for Fused
where
    T: Swept,
    G: Swept<Float = T::Float>,
    S: Swept<Float = T::Float>,
{
    #[inline(always)]
    fn step<R: Rule, B: AsMut<[S]>>(
        checked: Checked<'_, R>,
        theta: &mut [T],
        grad: &[G],
        state: &mut [B],
    ) -> Result<(), Error> {
        checked.fused(theta, grad, state, None)
    }

    fn batches<R: NamedRule>() -> Option<StepBatch<R>> {
        Some(fused::<T, G, S, R>)
    }
}

impl<T, G, S> Loop<T, G, S> for FusedToNearest
where
    T: Swept + Single,
    G: Swept<Float = f32> + Single,
    S: Swept<Float = f32> + Single,
{
    fn step<R: Rule, B: AsMut<[S]>>(
        checked: Checked<'_, R>,
        theta: &mut [T],
        grad: &[G],
        state: &mut [B],
    ) -> Result<(), Error> {
        match checked.noise {
            None => checked.fused(theta, grad, state, None),
            Some(_) => checked.mixed(theta, grad, state, None),
        }
    }

    fn batches<R: NamedRule>() -> Option<StepBatch<R>> {
        Some(fused::<T, G, S, R>)
    }
}

impl<T: Single, G: Single, S: Single> Loop<T, G, S> for Tiles {
    fn step<R: Rule, B: AsMut<[S]>>(
        checked: Checked<'_, R>,
        theta: &mut [T],
        grad: &[G],
        state: &mut [B],
    ) -> Result<(), Error> {
        checked.mixed(theta, grad, state, None)
    }

    fn batches<R: NamedRule>() -> Option<StepBatch<R>> {
        None
    }
}

impl<G, S> CopyLoop<G, S, G> for Fused
where
    G: Swept<Float = f32>,
    S: Swept<Float = f32>,
{
    fn step<R: Rule, B: AsMut<[S]>>(
        checked: Checked<'_, R>,
        theta: &mut [f32],
        grad: &[G],
        state: &mut [B],
        copy: &mut [G],
    ) -> Result<(), Error> {
        checked.fused(theta, grad, state, Some(copy))
    }
}

impl<G: Single, S: Single, H: Half> CopyLoop<G, S, H> for Tiles {
    fn step<R: Rule, B: AsMut<[S]>>(
        checked: Checked<'_, R>,
        theta: &mut [f32],
        grad: &[G],
        state: &mut [B],
        copy: &mut [H],
    ) -> Result<(), Error> {
        checked.mixed(theta, grad, state, Some(H::column_mut(copy)))
    }
}
