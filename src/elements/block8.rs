//! States in 8 bits: blocks of 32 elements, each with a code of 8 bits, and one scale. `kernels.md`
//! specifies the format in *States in 8 bits*.
//!
//! An element x is stored as a = |x| / scale, on a scale that is linear near zero and logarithmic
//! above: the code is the upper bits of the `f32` number a + 1. So decoding takes an addition and a
//! subtraction, and encoding a multiplication and an addition. All of them are exact, or are one
//! IEEE 754 operation.
//!
//! This file has the format and one element of it. [`codec`](super::codec) has whole blocks in
//! registers.

use super::column::{Column, ColumnMut, DType};
use super::{StateElement, codec};
use crate::simd::{Real, Sealed};

/// 32 consecutive elements of a state in 8 bits: a code for each, then the byte of their scale.
///
/// A state of `len` elements is a slice of ⌈`len` / 32⌉ blocks: 33 bytes for 32 elements. Blocks of
/// zeros are elements of 0. The unused codes of the last block are 0.
///
/// [`State::decode`](crate::State::decode) and [`State::encode`](crate::State::encode) convert from
/// and to `f32`, since the meaning of a code depends on the state. `kernels.md` specifies the
/// format in *States in 8 bits*.
///
/// ```
/// use fused_adam::{AdamW, Block8, Step};
///
/// let (mut theta, grad) = (vec![0.5_f32; 1000], vec![1.0_f32; 1000]);
/// let mut m: Vec<Block8> = vec![[0; 33]; 1000_usize.div_ceil(32)];
/// let mut v = m.clone();
/// Step::new(&AdamW::default(), 1).run_mixed(&mut theta, &grad, &mut [&mut m, &mut v])?;
/// # Ok::<(), fused_adam::Error>(())
/// ```
pub type Block8 = [u8; BLOCK + 1];

/// The number of elements in a block.
pub(crate) const BLOCK: usize = 32;

/// The version of the format, which checkpoints store.
#[cfg(feature = "checkpoint")]
pub(crate) const FORMAT: &str = "block8.1";

/// The position of the byte of the scale.
pub(crate) const SCALE: usize = BLOCK;

/// The scale of a block with an infinity or NaN. All its codes are 0. They are decoded to NaN.
pub(crate) const NOT_FINITE: u8 = 255;

/// The number of bits of an `f32` that a code cuts off: it has the upper 5 bits of the mantissa.
pub(crate) const CUT: u32 = 18;

/// How the elements of a state are encoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Code {
    /// The upper bit of a code is the sign. Otherwise it is one more bit of the exponent.
    pub signed: bool,
    /// Elements above 0 do not become 0. Only in states without signs.
    pub divisor: bool,
    /// Rounds to nearest, ties away from zero. Otherwise rounds stochastically.
    pub nearest: bool,
}

impl Code {
    /// The largest element that can be encoded, in units of the scale: 14.75 or 251.
    pub const fn top_value(self) -> f32 {
        if self.signed { 14.75 } else { 251.0 }
    }

    /// The byte of the largest scale. A larger one could make the top code infinite.
    const fn largest_scale(self) -> u32 {
        if self.signed { 127 + 124 } else { 127 + 120 }
    }

    /// The largest element that can be encoded at all.
    pub fn largest(self) -> f32 {
        self.top_value() * power_of_two(self.largest_scale())
    }

    /// The byte of the scale of a block: of the least power of two that makes its largest element
    /// at most [`top_value`](Self::top_value), from 2^−120 on. The argument has the bits of the
    /// largest |x|. `None` if no scale is large enough.
    #[inline(always)]
    pub fn scale(self, largest: u32) -> Option<u32> {
        // The bits of two numbers differ by 2^23 for each power of two between them. Round up.
        let difference = i64::from(largest) - i64::from(self.top_value().to_bits());
        let byte = (((difference + 0x7F_FFFF) >> 23).max(-120) + 127) as u32;
        (byte <= self.largest_scale()).then_some(byte)
    }
}

/// The power of two with this byte as its biased exponent.
#[inline(always)]
pub(crate) fn power_of_two(byte: u32) -> f32 {
    f32::from_bits(byte << 23)
}

/// The number of blocks of so many elements.
pub(crate) fn blocks(len: usize) -> usize {
    len.div_ceil(BLOCK)
}

/// The elements of a state in blocks. It has `unused` and not a length, so that a [`Column`] keeps
/// the size of a slice and a word.
#[derive(Clone, Copy, Debug)]
pub struct Blocks<'a> {
    pub blocks: &'a [Block8],
    pub code: Code,
    /// The number of elements of the last block that do not exist.
    unused: u8,
}

/// The same, mutable.
#[derive(Debug)]
pub struct BlocksMut<'a> {
    pub blocks: &'a mut [Block8],
    pub code: Code,
    unused: u8,
}

/// The number of elements of the last block that do not exist, if `len` of them do.
fn unused(blocks: usize, len: usize) -> u8 {
    (blocks.wrapping_mul(BLOCK).wrapping_sub(len) % BLOCK) as u8
}

impl<'a> Blocks<'a> {
    /// The blocks of `len` elements.
    pub fn new(blocks: &'a [Block8], len: usize, code: Code) -> Self {
        Blocks { blocks, code, unused: unused(blocks.len(), len) }
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.blocks.len().saturating_mul(BLOCK) - usize::from(self.unused)
    }

    /// The first `mid` elements and the rest. Cuts between blocks.
    pub fn split_at(self, mid: usize) -> (Self, Self) {
        let (first, rest) = self.blocks.split_at(blocks(mid));
        let len = self.len() - mid;
        (Blocks::new(first, mid, self.code), Blocks::new(rest, len, self.code))
    }
}

impl<'a> BlocksMut<'a> {
    /// The blocks of `len` elements.
    pub fn new(blocks: &'a mut [Block8], len: usize, code: Code) -> Self {
        let unused = unused(blocks.len(), len);
        BlocksMut { blocks, code, unused }
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.as_ref().len()
    }

    /// The same blocks, shared.
    #[inline]
    pub fn as_ref(&self) -> Blocks<'_> {
        Blocks { blocks: self.blocks, code: self.code, unused: self.unused }
    }

    /// The same blocks, with a shorter lifetime.
    #[inline]
    pub fn reborrow(&mut self) -> BlocksMut<'_> {
        BlocksMut { blocks: self.blocks, code: self.code, unused: self.unused }
    }

    /// The first `mid` elements and the rest. Cuts between blocks.
    pub fn split_at(self, mid: usize) -> (Self, Self) {
        let len = self.len() - mid;
        let (first, rest) = self.blocks.split_at_mut(blocks(mid));
        (BlocksMut::new(first, mid, self.code), BlocksMut::new(rest, len, self.code))
    }
}

impl Sealed for Block8 {}

impl StateElement for Block8 {
    type Float = f32;
    type Unpacked = f32;
    const NAME: &'static str = "8 bits";
    const DTYPE: DType = DType::Block8;

    fn slots(len: usize) -> usize {
        blocks(len)
    }

    fn fill(state: &mut [Self], len: usize, value: f64, code: Code) {
        let elements = [f32::saturating_from_f64(value); BLOCK];
        for (number, block) in state[..blocks(len)].iter_mut().enumerate() {
            let elements = &elements[..BLOCK.min(len - number * BLOCK)];
            codec::encode_nearest(elements, core::slice::from_mut(block), code);
        }
    }

    fn column(slice: &[Self]) -> Column<'_> {
        Column::Block8(Blocks { blocks: slice, code: Code::default(), unused: 0 })
    }

    fn column_mut(slice: &mut [Self]) -> ColumnMut<'_> {
        ColumnMut::Block8(BlocksMut { blocks: slice, code: Code::default(), unused: 0 })
    }

    fn of(column: Column<'_>) -> Option<&[Self]> {
        match column {
            Column::Block8(Blocks { blocks, .. }) => Some(blocks),
            _ => None,
        }
    }

    fn of_mut(column: ColumnMut<'_>) -> Option<&mut [Self]> {
        match column {
            ColumnMut::Block8(BlocksMut { blocks, .. }) => Some(blocks),
            _ => None,
        }
    }
}
