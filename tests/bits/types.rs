//! The combinations of element types, and the functions that take them.

use fused_adam::{
    AnyRule, Backend, Block8, Element, Error, Flat, Half, Parallelism, Step, bf16, f16,
};

use crate::cases::Case;
use crate::common::{Bits, Guarded, StateBits};
use crate::properties::{
    bad_elements_stay_visible, equals_the_reference, expect, finite_states_stay_finite,
    owner_equals_slices, splits_do_not_show,
};

/// From this many bytes of θ on, the automatic parallelism uses many threads (`suite::threads`
/// tests that).
const LONG_BYTES: usize = 1 << 20;

/// Takes a case and returns an error if the result is wrong.
pub type Property = fn(&Case, Backend, Parallelism) -> Result<(), String>;

/// One of the properties of a combination of element types.
pub type Which = fn(&Types) -> Property;

/// A combination of element types, and its properties.
pub struct Types {
    pub name: String,
    /// From this many elements on, the automatic parallelism uses many threads.
    pub long: usize,
    pub equals_the_reference: Property,
    pub splits_do_not_show: Property,
    pub owner_equals_slices: Property,
    pub finite_states_stay_finite: Property,
    pub bad_elements_stay_visible: Property,
}

impl Types {
    /// Every combination of types for θ, g, the states and (`f32` only) a copy of θ.
    pub fn all() -> Vec<Types> {
        let mut all = Vec::new();
        Self::of::<f64, f64, f64, NoCopy>(&mut all);
        Self::of_theta::<f32, NoCopy>(&mut all);
        Self::of_theta::<bf16, NoCopy>(&mut all);
        Self::of_theta::<f16, NoCopy>(&mut all);
        Self::of_theta::<f32, Guarded<bf16>>(&mut all);
        Self::of_theta::<f32, Guarded<f16>>(&mut all);
        all
    }

    fn of_theta<T, C>(all: &mut Vec<Types>)
    where
        T: Bits + Element<Float = f32>,
        C: CopyOf<T, f32, f32> + CopyOf<T, f32, bf16> + CopyOf<T, f32, f16>,
        C: CopyOf<T, bf16, f32> + CopyOf<T, bf16, bf16> + CopyOf<T, bf16, f16>,
        C: CopyOf<T, f16, f32> + CopyOf<T, f16, bf16> + CopyOf<T, f16, f16>,
        C: CopyOf<T, f32, Block8> + CopyOf<T, bf16, Block8> + CopyOf<T, f16, Block8>,
    {
        Self::of_grad::<T, f32, C>(all);
        Self::of_grad::<T, bf16, C>(all);
        Self::of_grad::<T, f16, C>(all);
    }

    fn of_grad<T, G, C>(all: &mut Vec<Types>)
    where
        T: Bits + Element<Float = f32>,
        G: Bits + Element<Float = f32>,
        C: CopyOf<T, G, f32> + CopyOf<T, G, bf16> + CopyOf<T, G, f16> + CopyOf<T, G, Block8>,
    {
        Self::of::<T, G, f32, C>(all);
        Self::of::<T, G, bf16, C>(all);
        Self::of::<T, G, f16, C>(all);
        Self::of::<T, G, Block8, C>(all);
    }

    fn of<T, G, S, C>(all: &mut Vec<Types>)
    where
        T: Bits,
        G: Bits + Element<Float = T::Float>,
        S: StateBits<Float = T::Float>,
        C: CopyOf<T, G, S>,
    {
        all.push(Types {
            name: format!("theta {}, g {}, state {}{}", T::NAME, G::NAME, S::NAME, C::name()),
            long: LONG_BYTES / size_of::<T>(),
            equals_the_reference: equals_the_reference::<T, G, S, C>,
            splits_do_not_show: splits_do_not_show::<T, G, S, C>,
            owner_equals_slices: owner_equals_slices::<T, G, S, C>,
            finite_states_stay_finite: finite_states_stay_finite::<T, G, S, C>,
            bad_elements_stay_visible: bad_elements_stay_visible::<T, G, S, C>,
        });
    }
}

/// The copy of θ, if there is one, and the functions that write it.
pub trait CopyOf<T, G, S>: Sized {
    fn name() -> String;

    fn new(case: &Case) -> Self;

    fn run(
        step: &Step<'_, AnyRule>,
        theta: &mut [T],
        grad: &[G],
        state: &mut [&mut [S]],
        copy: (&mut Self, std::ops::Range<usize>),
    ) -> Result<(), Error>;

    fn step(
        owner: &mut Flat<AnyRule, S>,
        theta: &mut [T],
        grad: &[G],
        copy: &mut Self,
    ) -> Result<(), Error>;

    fn expect(&self, other: &Self) -> Result<(), String>;
}

pub struct NoCopy;

impl<T, G, S> CopyOf<T, G, S> for NoCopy
where
    T: Bits,
    G: Bits + Element<Float = T::Float>,
    S: StateBits<Float = T::Float>,
{
    fn name() -> String {
        String::new()
    }

    fn new(_: &Case) -> Self {
        NoCopy
    }

    fn run(
        step: &Step<'_, AnyRule>,
        theta: &mut [T],
        grad: &[G],
        state: &mut [&mut [S]],
        _: (&mut Self, std::ops::Range<usize>),
    ) -> Result<(), Error> {
        step.run_mixed(theta, grad, state)
    }

    fn step(
        owner: &mut Flat<AnyRule, S>,
        theta: &mut [T],
        grad: &[G],
        _: &mut Self,
    ) -> Result<(), Error> {
        owner.step_mixed(theta, grad)
    }

    fn expect(&self, _: &Self) -> Result<(), String> {
        Ok(())
    }
}

impl<G, S, H> CopyOf<f32, G, S> for Guarded<H>
where
    G: Bits + Element<Float = f32>,
    S: StateBits<Float = f32>,
    H: Bits + Half,
{
    fn name() -> String {
        format!(", copy {}", H::NAME)
    }

    fn new(case: &Case) -> Self {
        Guarded::new(&vec![H::from_f64(0.0); case.len], case.offsets[4] / 2)
    }

    fn run(
        step: &Step<'_, AnyRule>,
        theta: &mut [f32],
        grad: &[G],
        state: &mut [&mut [S]],
        (copy, range): (&mut Self, std::ops::Range<usize>),
    ) -> Result<(), Error> {
        step.run_with_copy(theta, grad, state, &mut copy.get_mut()[range])
    }

    fn step(
        owner: &mut Flat<AnyRule, S>,
        theta: &mut [f32],
        grad: &[G],
        copy: &mut Self,
    ) -> Result<(), Error> {
        owner.step_with_copy(theta, grad, copy.get_mut())
    }

    fn expect(&self, reference: &Self) -> Result<(), String> {
        expect("copy", self, reference)
    }
}
