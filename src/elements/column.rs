//! Slices whose element type is known at run time, and states in 8 bits.
//!
//! The buffers of a step are the columns of a table. A row is one element of θ with its gradient
//! and its states. A loop for fixed types gets the slices with [`Element::of`](super::Element::of).

use core::fmt;

use half::{bf16, f16};

use super::block8::{BLOCK, Blocks, BlocksMut, Code};

/// An element type, or 8 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DType {
    F32,
    F64,
    Bf16,
    F16,
    Block8,
}

impl DType {
    /// The size of an element in bytes. For 8-bit states, without the scale.
    #[inline]
    pub const fn bytes(self) -> usize {
        match self {
            DType::F64 => 8,
            DType::F32 => 4,
            DType::Bf16 | DType::F16 => 2,
            DType::Block8 => 1,
        }
    }

    /// The number of elements that are stored together.
    pub const fn block(self) -> usize {
        if matches!(self, DType::Block8) { BLOCK } else { 1 }
    }

    /// The name of the type, such as `bf16`.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F64 => "f64",
            DType::Bf16 => "bf16",
            DType::F16 => "f16",
            DType::Block8 => "8 bits",
        }
    }

    /// Whether kernels compute this type in `f64`.
    #[inline]
    pub const fn is_f64(self) -> bool {
        matches!(self, DType::F64)
    }
}

/// A shared slice of any element type, or a state in 8 bits.
#[derive(Clone, Copy)]
pub enum Column<'a> {
    F32(&'a [f32]),
    F64(&'a [f64]),
    Bf16(&'a [bf16]),
    F16(&'a [f16]),
    Block8(Blocks<'a>),
}

/// A mutable slice of any element type, or a state in 8 bits.
pub enum ColumnMut<'a> {
    F32(&'a mut [f32]),
    F64(&'a mut [f64]),
    Bf16(&'a mut [bf16]),
    F16(&'a mut [f16]),
    Block8(BlocksMut<'a>),
}

/// Prints the type and the length. The slice may be long.
impl fmt::Debug for Column<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}; {}]", self.dtype().name(), self.len())
    }
}

/// Prints the type and the length.
impl fmt::Debug for ColumnMut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_ref().fmt(f)
    }
}

/// Evaluates an expression for a slice of any type: elements or blocks.
macro_rules! each {
    ($column:expr, $slice:ident => $then:expr) => {
        match $column {
            Column::F32($slice) => $then,
            Column::F64($slice) => $then,
            Column::Bf16($slice) => $then,
            Column::F16($slice) => $then,
            Column::Block8(Blocks { blocks: $slice, .. }) => $then,
        }
    };
}

/// Evaluates an expression for a mutable slice of any type: elements or blocks.
macro_rules! each_mut {
    ($column:expr, $slice:ident => $then:expr) => {
        match $column {
            ColumnMut::F32($slice) => $then,
            ColumnMut::F64($slice) => $then,
            ColumnMut::Bf16($slice) => $then,
            ColumnMut::F16($slice) => $then,
            ColumnMut::Block8(BlocksMut { blocks: $slice, .. }) => $then,
        }
    };
}

/// Splits a column into two columns of the same element type.
macro_rules! halves_of_each {
    ($type:ident, $column:expr, $split:ident, $mid:expr) => {
        match $column {
            $type::F32(slice) => {
                let (first, rest) = slice.$split($mid);
                ($type::F32(first), $type::F32(rest))
            }
            $type::F64(slice) => {
                let (first, rest) = slice.$split($mid);
                ($type::F64(first), $type::F64(rest))
            }
            $type::Bf16(slice) => {
                let (first, rest) = slice.$split($mid);
                ($type::Bf16(first), $type::Bf16(rest))
            }
            $type::F16(slice) => {
                let (first, rest) = slice.$split($mid);
                ($type::F16(first), $type::F16(rest))
            }
            $type::Block8(blocks) => {
                let (first, rest) = blocks.split_at($mid);
                ($type::Block8(first), $type::Block8(rest))
            }
        }
    };
}

impl<'a> Column<'a> {
    #[inline]
    pub fn len(&self) -> usize {
        match self {
            Column::F32(slice) => slice.len(),
            Column::F64(slice) => slice.len(),
            Column::Bf16(slice) => slice.len(),
            Column::F16(slice) => slice.len(),
            Column::Block8(blocks) => blocks.len(),
        }
    }

    /// The number of slots of the slice: of elements, or of blocks.
    #[inline]
    pub fn slots(&self) -> usize {
        each!(self, slice => slice.len())
    }

    #[inline]
    pub fn dtype(&self) -> DType {
        match self {
            Column::F32(_) => DType::F32,
            Column::F64(_) => DType::F64,
            Column::Bf16(_) => DType::Bf16,
            Column::F16(_) => DType::F16,
            Column::Block8(_) => DType::Block8,
        }
    }

    /// The first `mid` elements and the rest.
    #[inline]
    pub fn split_at(self, mid: usize) -> (Self, Self) {
        halves_of_each!(Column, self, split_at, mid)
    }

    /// Its bytes, as they lie in memory.
    #[cfg(feature = "checkpoint")]
    pub fn bytes(self) -> &'a [u8] {
        each!(self, slice => bytemuck::cast_slice(slice))
    }
}

impl<'a> ColumnMut<'a> {
    #[inline]
    pub fn len(&self) -> usize {
        self.as_ref().len()
    }

    #[inline]
    pub fn dtype(&self) -> DType {
        self.as_ref().dtype()
    }

    /// The same slice, shared.
    #[inline]
    pub fn as_ref(&self) -> Column<'_> {
        match self {
            ColumnMut::F32(slice) => Column::F32(slice),
            ColumnMut::F64(slice) => Column::F64(slice),
            ColumnMut::Bf16(slice) => Column::Bf16(slice),
            ColumnMut::F16(slice) => Column::F16(slice),
            ColumnMut::Block8(blocks) => Column::Block8(blocks.as_ref()),
        }
    }

    /// The same slice, with a shorter lifetime.
    #[inline]
    pub fn reborrow(&mut self) -> ColumnMut<'_> {
        match self {
            ColumnMut::F32(slice) => ColumnMut::F32(slice),
            ColumnMut::F64(slice) => ColumnMut::F64(slice),
            ColumnMut::Bf16(slice) => ColumnMut::Bf16(slice),
            ColumnMut::F16(slice) => ColumnMut::F16(slice),
            ColumnMut::Block8(blocks) => ColumnMut::Block8(blocks.reborrow()),
        }
    }

    /// Sets the number of elements and the code of blocks. Columns of elements have neither.
    #[inline]
    pub fn describe(&mut self, len: usize, code: Code) {
        if let ColumnMut::Block8(blocks) = self {
            *blocks = BlocksMut::new(core::mem::take(&mut blocks.blocks), len, code);
        }
    }

    /// The first `mid` elements and the rest.
    #[inline]
    pub fn split_at(self, mid: usize) -> (Self, Self) {
        halves_of_each!(ColumnMut, self, split_at_mut, mid)
    }

    pub fn fill_with_zeros(&mut self) {
        each_mut!(self, slice => slice.fill(bytemuck::Zeroable::zeroed()));
    }

    /// Its bytes, as they lie in memory.
    #[cfg(feature = "checkpoint")]
    pub fn bytes_mut(self) -> &'a mut [u8] {
        each_mut!(self, slice => bytemuck::cast_slice_mut(slice))
    }
}

impl Default for ColumnMut<'_> {
    fn default() -> Self {
        ColumnMut::F32(&mut [])
    }
}
