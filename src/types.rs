//! Which element types go together in one step, and which loop steps them.
//!
//! Four combinations have fused loops of their own, in which numbers are converted in registers:
//! `f32` or `f64` for all; `bf16` for all; θ and g in `bf16` with states in `f32`; and `f32` master
//! weights with g, and perhaps a copy of θ, in `bf16`. All others, and stochastic rounding, take
//! the loop over tiles, which converts on the way: it is up to twice as slow in the caches, but
//! costs a caller next to no code.

use half::{bf16, f16};

use crate::elements::storage::Storage;
use crate::elements::{Half, Single};
use crate::step::Checked;
use crate::{Error, Rule};

/// A type of θ that may be stepped from a gradient of type `G` with states of type `S`.
///
/// These go together: `f64` with `f64` alone; and any of `f32`, [`bf16`] and [`struct@f16`] for
/// each of the three. What is stored in 16 bits is computed in `f32`, and rounded as
/// [`Step::rounding`](crate::Step::rounding) says. The trait is sealed.
pub trait Parameter<G, S>: Sized {
    #[doc(hidden)]
    fn step<R: Rule, B: AsMut<[S]>>(
        checked: Checked<'_, R>,
        theta: &mut [Self],
        grad: &[G],
        state: &mut [B],
    ) -> Result<(), Error>;
}

impl Parameter<f32, f32> for f32 {
    #[inline(always)]
    fn step<R: Rule, B: AsMut<[f32]>>(
        checked: Checked<'_, R>,
        theta: &mut [f32],
        grad: &[f32],
        state: &mut [B],
    ) -> Result<(), Error> {
        checked.fused(theta, grad, state, None)
    }
}

impl Parameter<f64, f64> for f64 {
    #[inline(always)]
    fn step<R: Rule, B: AsMut<[f64]>>(
        checked: Checked<'_, R>,
        theta: &mut [f64],
        grad: &[f64],
        state: &mut [B],
    ) -> Result<(), Error> {
        checked.fused(theta, grad, state, None)
    }
}

impl<S: Half> Parameter<f32, S> for f32 {
    fn step<R: Rule, B: AsMut<[S]>>(
        checked: Checked<'_, R>,
        theta: &mut [f32],
        grad: &[f32],
        state: &mut [B],
    ) -> Result<(), Error> {
        checked.mixed(theta, grad, state, None)
    }
}

impl Parameter<bf16, f32> for f32 {
    fn step<R: Rule, B: AsMut<[f32]>>(
        checked: Checked<'_, R>,
        theta: &mut [f32],
        grad: &[bf16],
        state: &mut [B],
    ) -> Result<(), Error> {
        checked.fused(theta, grad, state, None)
    }
}

impl<S: Half> Parameter<bf16, S> for f32 {
    fn step<R: Rule, B: AsMut<[S]>>(
        checked: Checked<'_, R>,
        theta: &mut [f32],
        grad: &[bf16],
        state: &mut [B],
    ) -> Result<(), Error> {
        checked.mixed(theta, grad, state, None)
    }
}

impl<S: Single> Parameter<f16, S> for f32 {
    fn step<R: Rule, B: AsMut<[S]>>(
        checked: Checked<'_, R>,
        theta: &mut [f32],
        grad: &[f16],
        state: &mut [B],
    ) -> Result<(), Error> {
        checked.mixed(theta, grad, state, None)
    }
}

impl Parameter<bf16, bf16> for bf16 {
    fn step<R: Rule, B: AsMut<[bf16]>>(
        checked: Checked<'_, R>,
        theta: &mut [bf16],
        grad: &[bf16],
        state: &mut [B],
    ) -> Result<(), Error> {
        match checked.noise {
            None => checked.fused(theta, grad, state, None),
            Some(_) => checked.mixed(theta, grad, state, None),
        }
    }
}

impl Parameter<bf16, f32> for bf16 {
    fn step<R: Rule, B: AsMut<[f32]>>(
        checked: Checked<'_, R>,
        theta: &mut [bf16],
        grad: &[bf16],
        state: &mut [B],
    ) -> Result<(), Error> {
        match checked.noise {
            None => checked.fused(theta, grad, state, None),
            Some(_) => checked.mixed(theta, grad, state, None),
        }
    }
}

impl Parameter<bf16, f16> for bf16 {
    fn step<R: Rule, B: AsMut<[f16]>>(
        checked: Checked<'_, R>,
        theta: &mut [bf16],
        grad: &[bf16],
        state: &mut [B],
    ) -> Result<(), Error> {
        checked.mixed(theta, grad, state, None)
    }
}

impl<S: Single> Parameter<f32, S> for bf16 {
    fn step<R: Rule, B: AsMut<[S]>>(
        checked: Checked<'_, R>,
        theta: &mut [bf16],
        grad: &[f32],
        state: &mut [B],
    ) -> Result<(), Error> {
        checked.mixed(theta, grad, state, None)
    }
}

impl<S: Single> Parameter<f16, S> for bf16 {
    fn step<R: Rule, B: AsMut<[S]>>(
        checked: Checked<'_, R>,
        theta: &mut [bf16],
        grad: &[f16],
        state: &mut [B],
    ) -> Result<(), Error> {
        checked.mixed(theta, grad, state, None)
    }
}

impl<G: Single, S: Single> Parameter<G, S> for f16 {
    fn step<R: Rule, B: AsMut<[S]>>(
        checked: Checked<'_, R>,
        theta: &mut [f16],
        grad: &[G],
        state: &mut [B],
    ) -> Result<(), Error> {
        checked.mixed(theta, grad, state, None)
    }
}

/// A type of a copy of θ, in a step of `f32` from a gradient of type `G` with states of type `S`.
///
/// [`bf16`] and [`struct@f16`] are, for any of `f32`, `bf16` and `f16`. The trait is sealed.
pub trait Copied<G, S>: Half {
    #[doc(hidden)]
    fn step_with_copy<R: Rule, B: AsMut<[S]>>(
        checked: Checked<'_, R>,
        theta: &mut [f32],
        grad: &[G],
        state: &mut [B],
        copy: &mut [Self],
    ) -> Result<(), Error>;
}

impl Copied<bf16, f32> for bf16 {
    fn step_with_copy<R: Rule, B: AsMut<[f32]>>(
        checked: Checked<'_, R>,
        theta: &mut [f32],
        grad: &[bf16],
        state: &mut [B],
        copy: &mut [bf16],
    ) -> Result<(), Error> {
        checked.fused(theta, grad, state, Some(copy))
    }
}

impl<S: Half> Copied<bf16, S> for bf16 {
    fn step_with_copy<R: Rule, B: AsMut<[S]>>(
        checked: Checked<'_, R>,
        theta: &mut [f32],
        grad: &[bf16],
        state: &mut [B],
        copy: &mut [bf16],
    ) -> Result<(), Error> {
        checked.mixed(theta, grad, state, Some(bf16::column_mut(copy)))
    }
}

impl<S: Single> Copied<f32, S> for bf16 {
    fn step_with_copy<R: Rule, B: AsMut<[S]>>(
        checked: Checked<'_, R>,
        theta: &mut [f32],
        grad: &[f32],
        state: &mut [B],
        copy: &mut [bf16],
    ) -> Result<(), Error> {
        checked.mixed(theta, grad, state, Some(bf16::column_mut(copy)))
    }
}

impl<S: Single> Copied<f16, S> for bf16 {
    fn step_with_copy<R: Rule, B: AsMut<[S]>>(
        checked: Checked<'_, R>,
        theta: &mut [f32],
        grad: &[f16],
        state: &mut [B],
        copy: &mut [bf16],
    ) -> Result<(), Error> {
        checked.mixed(theta, grad, state, Some(bf16::column_mut(copy)))
    }
}

impl<G: Single, S: Single> Copied<G, S> for f16 {
    fn step_with_copy<R: Rule, B: AsMut<[S]>>(
        checked: Checked<'_, R>,
        theta: &mut [f32],
        grad: &[G],
        state: &mut [B],
        copy: &mut [f16],
    ) -> Result<(), Error> {
        checked.mixed(theta, grad, state, Some(f16::column_mut(copy)))
    }
}
