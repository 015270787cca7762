//! Master weights split in two: a `bf16`, which the model uses, and a correction. `kernels.md`
//! specifies the format in *Split master weights*.
//!
//! The `bf16` is the `f32` number rounded to the nearest, ties away from zero. So the correction is
//! the lower half of the bits of the `f32` number, as a signed number: the bits of the `bf16` plus
//! the correction are the bits of the `f32`. A correction of 8 bits is the upper byte of that half.

use half::bf16;

use super::convert;
use crate::error::Error;
use crate::simd::dispatch::Engine;
use crate::simd::{F32Register, U32Lanes};

/// What `bf16` parameters lack to be `f32` master weights, for [`Step::run_split`] and
/// [`Tensor::with_correction`].
///
/// If you change θ yourself, such as by pruning or loading, set its correction to 0, or
/// [split](Correction::split) new weights. To save the weights, [join](Correction::join) them to
/// `f32`: that is exact for both.
///
/// The two together take 4 or 3 bytes a parameter. `f32` master weights and a copy in `bf16` take
/// 6. A step reads and writes 8 or 6 bytes of them, instead of 10.
///
/// [`Step::run_split`]: crate::Step::run_split
/// [`Tensor::with_correction`]: crate::Tensor::with_correction
#[derive(Debug)]
pub enum Correction<'a> {
    /// All bits: `bf16` and correction are an `f32`, to the bit. Zeros are a correction of 0.
    Bits16(&'a mut [u16]),
    /// 8 bits: together they have the upper 24 bits of an `f32`, with 15 bits of mantissa. A step
    /// rounds to them stochastically. Zeros are a correction of 0.
    Bits8(&'a mut [u8]),
}

impl<'a> From<&'a mut [u16]> for Correction<'a> {
    fn from(correction: &'a mut [u16]) -> Self {
        Correction::Bits16(correction)
    }
}

impl<'a> From<&'a mut [u8]> for Correction<'a> {
    fn from(correction: &'a mut [u8]) -> Self {
        Correction::Bits8(correction)
    }
}

impl Correction<'_> {
    /// The number of elements.
    pub(crate) fn len(&self) -> usize {
        match self {
            Correction::Bits16(slice) => slice.len(),
            Correction::Bits8(slice) => slice.len(),
        }
    }

    /// The same slice, with a shorter lifetime.
    pub(crate) fn reborrow(&mut self) -> Correction<'_> {
        match self {
            Correction::Bits16(slice) => Correction::Bits16(slice),
            Correction::Bits8(slice) => Correction::Bits8(slice),
        }
    }
}

impl<'a> Correction<'a> {
    /// The first `mid` elements and the rest.
    pub(crate) fn split_at(self, mid: usize) -> (Self, Self) {
        match self {
            Correction::Bits16(slice) => {
                let (first, rest) = slice.split_at_mut(mid);
                (Correction::Bits16(first), Correction::Bits16(rest))
            }
            Correction::Bits8(slice) => {
                let (first, rest) = slice.split_at_mut(mid);
                (Correction::Bits8(first), Correction::Bits8(rest))
            }
        }
    }

    /// Splits `f32` weights in `bf16` parameters and this correction: all bits, or the nearest 24
    /// bits, ties away from zero. NaN becomes the NaN of `bf16` with a correction of 0.
    ///
    /// ```
    /// use fused_adam::{Correction, bf16};
    ///
    /// let (mut theta, mut low) = ([bf16::ZERO; 2], [0_u16; 2]);
    /// Correction::from(&mut low[..]).split(&[0.1, 1.0], &mut theta)?;
    /// assert_eq!(theta, [0.1, 1.0].map(bf16::from_f32));
    /// let mut joined = [0.0; 2];
    /// Correction::from(&mut low[..]).join(&theta, &mut joined)?;
    /// assert_eq!(joined, [0.1, 1.0]);
    /// # Ok::<(), fused_adam::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Length`] if the slices are not equally long. Then nothing is written.
    pub fn split(self, weights: &[f32], theta: &mut [bf16]) -> Result<(), Error> {
        self.check(weights.len(), theta.len())?;
        convert::split(Engine::best(), weights, bytemuck::cast_slice_mut(theta), self, None);
        Ok(())
    }

    /// Joins `bf16` parameters and this correction to `f32` weights. Exact.
    ///
    /// # Errors
    ///
    /// [`Error::Length`] if the slices are not equally long. Then nothing is written.
    pub fn join(self, theta: &[bf16], weights: &mut [f32]) -> Result<(), Error> {
        self.check(weights.len(), theta.len())?;
        convert::join(Engine::best(), bytemuck::cast_slice(theta), &self, weights);
        Ok(())
    }

    fn check(&self, weights: usize, theta: usize) -> Result<(), Error> {
        for (name, len) in [("weights", weights), ("correction", self.len())] {
            if len != theta {
                return Err(Error::Length { name, len, expected: theta, other: "`theta`" });
            }
        }
        Ok(())
    }
}

/// Loads the `f32` numbers that have these bits of `bf16` and corrections of 16 bits.
#[inline(always)]
pub(crate) fn load16<L: F32Register>(isa: L::Isa, theta: &[u16], low: &[u16]) -> L {
    joined(L::load_upper(isa, theta), L::load_lower(isa, low))
}

/// The same with corrections of 8 bits.
#[inline(always)]
pub(crate) fn load8<L: F32Register>(isa: L::Isa, theta: &[u16], low: &[u8]) -> L {
    joined(L::load_upper(isa, theta), L::load_u8(isa, low).shl(8))
}

/// Stores `f32` numbers as bits of `bf16` and corrections of 16 bits.
#[inline(always)]
pub(crate) fn store16<L: F32Register>(from: L, theta: &mut [u16], low: &mut [u16]) {
    let bits = bits(from);
    L::store_upper(upper(bits), theta);
    L::store_lower(bits.and_scalar(0xFFFF), low);
}

/// The same with corrections of 8 bits. `added` is below 2^8: random bits, or 2^7 to round to the
/// nearest 24 bits.
#[inline(always)]
pub(crate) fn store8<L: F32Register>(from: L, added: L::Bits, theta: &mut [u16], low: &mut [u8]) {
    let bits = bits(from).wrapping_add(added);
    // Only the carry of the lowest byte counts, so it need not be cleared.
    L::store_upper(upper(bits), theta);
    L::store_u8(bits.shr(8).and_scalar(0xFF), low);
}

/// The numbers whose upper halves are the bits of a `bf16`, and whose corrections are `low`: signed
/// numbers of 16 bits in the lower halves of the lanes, whose upper halves are 0.
#[inline(always)]
fn joined<L: F32Register>(upper: L::Bits, low: L::Bits) -> L {
    let extended = low.xor(low.splat(0x8000)).wrapping_add_scalar(0xFFFF_8000);
    L::from_bits(upper.wrapping_add(extended))
}

/// The bits of `lanes`. All NaNs have the bits of the NaN of `bf16`.
#[inline(always)]
fn bits<L: F32Register>(lanes: L) -> L::Bits {
    let bits = lanes.to_bits();
    let nan = lanes.unless_nan(bits.splat(0));
    bits.or(nan).xor(nan.and_scalar(!0x7FC0_0000))
}

/// Rounds to the nearest `bf16`, ties away from zero, in the upper halves. The lower halves are
/// unspecified.
#[inline(always)]
fn upper<W: U32Lanes>(bits: W) -> W {
    bits.wrapping_add_scalar(0x8000)
}
