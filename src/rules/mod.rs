//! The rule axis: what happens to one element.
//!
//! A [`Rule`] holds hyper-parameters in `f64`. For a step it checks them, computes that step's
//! coefficients in `f64`, rounds each once, and hands over a [`Kernel`]: the arithmetic of one
//! element, twice. Once fused, over [`Lanes`], for the SIMD backends; once written out by hand as
//! the reference, for the scalar backend and for the tests that compare the two.

mod adam;

pub use adam::{Adam, AdamW};

use crate::{Element, Error, Lanes};

/// A rule of optimization with its hyper-parameters, such as [`Adam`].
///
/// The trait is open: a new rule is one type that implements it, and its [`Kernel`]s.
pub trait Rule {
    /// The names of the state buffers that the rule keeps with these options, in the order in
    /// which they are handed in. Each is as long as `theta` and starts at zero.
    fn state_names(&self) -> &'static [&'static str];

    /// Checks every hyper-parameter. [`Step::run`](crate::Step::run) calls it before anything else.
    ///
    /// # Errors
    ///
    /// [`Error::HyperParameter`] for the first one outside its range.
    fn check(&self) -> Result<(), Error>;

    /// Computes the coefficients of step `t` ≥ 1 from hyper-parameters that [`check`](Self::check)
    /// has passed, and lets `then` have the kernel. Choices that depend on hyper-parameters alone are
    /// made here, outside the loop, by choosing a kernel type.
    ///
    /// To call `then` exactly once is the last thing that it does, and its result is the result:
    /// what comes after would come after the step.
    ///
    /// # Errors
    ///
    /// A hyper-parameter that is in its range, but leads to a coefficient that `E` cannot hold; and
    /// those of `then`.
    fn with_kernel<E: Element, W: WithKernel<E>>(&self, t: u64, then: W) -> Result<(), Error>;
}

/// What is done with the kernel that a rule has chosen. The crate implements it.
pub trait WithKernel<E: Element> {
    /// Goes on with a kernel of `N` states.
    ///
    /// # Errors
    ///
    /// Those of the step that is under way.
    fn with<K: Kernel<E, N>, const N: usize>(self, kernel: &K) -> Result<(), Error>;
}

/// The arithmetic of one element in one step, with its coefficients, for a rule with `N` states.
///
/// [`update`](Self::update) and [`reference`](Self::reference) must give the same bits.
pub trait Kernel<E: Element, const N: usize>: Copy + Send + Sync {
    /// Returns the new θ and the new states. To be marked `#[inline(always)]`.
    fn update<L: Lanes<Element = E>>(&self, theta: L, grad: L, state: [L; N]) -> (L, [L; N]);

    /// The same for one element, in plain arithmetic.
    fn reference(&self, theta: E, grad: E, state: [E; N]) -> (E, [E; N]);
}

/// β^t for two βs, by repeated squaring, the bits of `t` taken from the lowest up: the same bits on
/// every machine, which the platform's `pow` does not promise. Two at once take no longer than one.
#[inline]
pub(crate) fn powers(betas: [f64; 2], mut t: u64) -> [f64; 2] {
    let (mut squares, mut products) = (betas, [1.0; 2]);
    while t > 0 {
        for (square, product) in squares.iter_mut().zip(&mut products) {
            *product *= if t & 1 == 1 { *square } else { 1.0 };
            *square *= *square;
        }
        t >>= 1;
    }
    products
}

/// `value`, if it is finite and `in_range`; else the error that names it.
#[inline(always)]
pub(crate) fn check(
    name: &'static str,
    value: f64,
    in_range: bool,
    expected: &'static str,
) -> Result<(), Error> {
    #[cold]
    fn refuse(name: &'static str, value: f64, expected: &'static str) -> Error {
        Error::HyperParameter { name, value, expected }
    }
    if value.is_finite() && in_range { Ok(()) } else { Err(refuse(name, value, expected)) }
}

/// The one rounding of a coefficient. Refused if the hyper-parameter `name`, whose value is
/// `value`, makes it too large for the element type.
#[inline(always)]
pub(crate) fn round<E: Element>(
    coefficient: f64,
    name: &'static str,
    value: f64,
) -> Result<E, Error> {
    let rounded = E::from_f64(coefficient);
    let expected = "a value whose coefficient is finite in the element type";
    check(name, value, rounded.to_f64().is_finite(), expected).map(|()| rounded)
}
