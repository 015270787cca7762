//! The location, type and order of an array's elements.

use fused_adam::{Block8, StateElement, bf16, f16};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

/// An element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    F32,
    F64,
    Bf16,
    F16,
    /// The bytes of a state in 8 bits, or a correction of 8 bits. Nothing else is of this type.
    U8,
    /// A correction of 16 bits, signed or not. Nothing else is of this type.
    U16,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::F32 => f32::NAME,
            Kind::F64 => f64::NAME,
            Kind::Bf16 => bf16::NAME,
            Kind::F16 => f16::NAME,
            Kind::U8 => "uint8",
            Kind::U16 => "uint16",
        }
    }

    /// The name in torch.
    pub fn torch_name(self) -> &'static str {
        match self {
            Kind::F32 => "torch.float32",
            Kind::F64 => "torch.float64",
            Kind::Bf16 => "torch.bfloat16",
            Kind::F16 => "torch.float16",
            Kind::U8 => "torch.uint8",
            Kind::U16 => "torch.int16",
        }
    }

    pub fn is_f64(self) -> bool {
        self == Kind::F64
    }

    pub fn bytes(self) -> usize {
        match self {
            Kind::F64 => 8,
            Kind::F32 => 4,
            Kind::Bf16 | Kind::F16 | Kind::U16 => 2,
            Kind::U8 => 1,
        }
    }
}

/// The maximum number of dimensions, the same as in NumPy and torch.
pub const MOST_DIMENSIONS: usize = 64;

/// The memory of an array. It is valid as long as the object that it was read from is alive.
#[derive(Clone, Copy)]
pub struct View {
    pub(super) data: *mut u8,
    pub(super) len: usize,
    pub kind: Kind,
    /// A hash of the shape.
    shape: u64,
    /// The address range of the elements.
    pub(super) extent: (usize, usize),
    layout: Layout,
    writable: bool,
}

// SAFETY: a view is an address. Only `with_slices` accesses its memory, and its caller guarantees
// that it may.
unsafe impl Send for View {}

/// The memory layout of the elements.
#[derive(Clone, Copy, PartialEq)]
enum Layout {
    /// Contiguous, the last dimension fastest.
    RowMajor,
    /// Contiguous in another order, with a hash of that order.
    Dense(u64),
    /// With gaps.
    Strided,
    /// Several elements have the same address.
    Repeated,
}

impl View {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn bytes(&self) -> usize {
        self.len * self.kind.bytes()
    }

    /// Whether its elements are contiguous, in any order.
    pub fn is_dense(&self) -> bool {
        matches!(self.layout, Layout::RowMajor | Layout::Dense(_))
    }

    /// Whether its elements are contiguous, the last dimension fastest.
    pub fn is_row_major(&self) -> bool {
        self.layout == Layout::RowMajor
    }

    /// Whether several elements are known to have the same address.
    pub fn is_repeated(&self) -> bool {
        self.layout == Layout::Repeated
    }

    /// Whether it has the same shape as another view.
    pub fn is_shaped_as(&self, other: &View) -> bool {
        self.len == other.len && self.shape == other.shape
    }

    /// The view, if its elements are floats, and not those of a state in 8 bits or a correction.
    pub fn of_floats(self) -> PyResult<Self> {
        if matches!(self.kind, Kind::U8 | Kind::U16) {
            return Err(PyTypeError::new_err(format!(
                "an array is of type {}, expected float32, float64, bfloat16 or float16",
                self.kind.name()
            )));
        }
        Ok(self)
    }

    /// The view, if its elements are floats, or bytes as in a state in 8 bits.
    pub fn of_state(self) -> PyResult<Self> {
        if self.kind == Kind::U8 { Ok(self) } else { self.of_floats() }
    }

    /// Whether it has the shape of a state in 8 bits of this many elements.
    pub fn is_shaped_as_blocks(&self, elements: usize) -> bool {
        let shape = shape_of_blocks(elements);
        self.len == shape.iter().product::<usize>()
            && self.shape == hash_of(&shape.map(|n| n as i64))
    }

    /// Whether the address ranges of two views overlap.
    pub fn meets(&self, other: &View) -> bool {
        self.len > 0
            && other.len > 0
            && self.extent.0 < other.extent.1
            && other.extent.0 < self.extent.1
    }

    /// Whether elements with the same index have the same position in both.
    pub fn is_laid_out_as(&self, other: &View) -> bool {
        self.len == other.len && self.is_dense() && self.layout == other.layout
    }

    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// The number in a view of one element of `f32` or `f64`.
    pub fn number(&self) -> Option<f64> {
        if self.len != 1 {
            return None;
        }
        match self.kind {
            // SAFETY: it is one element of this type, aligned as all views are, and its owner is
            // alive.
            Kind::F32 => Some(f64::from(unsafe { *self.data.cast::<f32>() })),
            // SAFETY: as above.
            Kind::F64 => Some(unsafe { *self.data.cast::<f64>() }),
            Kind::Bf16 | Kind::F16 | Kind::U8 | Kind::U16 => None,
        }
    }

    /// Sets the number in a view for which `number` returned one. The GIL is held, as for reading
    /// it.
    pub fn set_number(&self, x: f64) {
        match self.kind {
            // SAFETY: `number` found one element of this type.
            Kind::F32 => unsafe { *self.data.cast::<f32>() = x as f32 },
            // SAFETY: as above.
            Kind::F64 => unsafe { *self.data.cast::<f64>() = x },
            _ => {}
        }
    }

    /// The numbers in a contiguous view of `f64`.
    pub fn doubles(&self) -> Option<Vec<f64>> {
        if self.kind != Kind::F64 || !self.is_row_major() {
            return None;
        }
        let all = (0..self.len).map(|i| {
            // SAFETY: there are `len` elements of this type, aligned as all views are, and their
            // owner is alive.
            unsafe { *self.data.cast::<f64>().add(i) }
        });
        Some(all.collect())
    }

    /// Sets the numbers in a view for which `doubles` returned as many. The GIL is held, as for
    /// reading them.
    pub fn set_doubles(&self, numbers: &[f64]) {
        for (i, &x) in numbers.iter().enumerate().take(self.len) {
            // SAFETY: `doubles` found `len` elements of this type.
            unsafe { *self.data.cast::<f64>().add(i) = x };
        }
    }

    pub(super) fn new(
        data: *mut u8,
        kind: Kind,
        shape: &[i64],
        strides: Option<&[i64]>,
        writable: bool,
    ) -> PyResult<Self> {
        let len = shape.iter().try_fold(1_usize, |len, &n| {
            len.checked_mul(usize::try_from(n).ok()?).filter(|&len| len <= isize::MAX as usize / 8)
        });
        let len = len.ok_or_else(|| PyValueError::new_err("an array is too large"))?;
        if len > 0 && data.is_null() {
            return Err(PyValueError::new_err(
                "an array has no memory: it is fake, or its storage was freed",
            ));
        }
        if len > 0 && !(data as usize).is_multiple_of(kind.bytes()) {
            return Err(PyValueError::new_err(format!(
                "an array of {} lies at {data:p}, expected a multiple of {}",
                kind.name(),
                kind.bytes()
            )));
        }
        let layout = strides.map_or(Layout::RowMajor, |strides| layout(shape, strides));
        let (start, bytes) = (data as usize, kind.bytes());
        let extent = match (layout, strides) {
            (Layout::Strided | Layout::Repeated, Some(strides)) => {
                let (mut before, mut after) = (0, 0);
                for (&n, &stride) in shape.iter().zip(strides) {
                    let reach = (n - 1).saturating_mul(stride);
                    before += reach.min(0);
                    after += reach.max(0);
                }
                let place =
                    |i: i64| start.wrapping_add_signed((i as isize).wrapping_mul(bytes as isize));
                (place(before), place(after + 1))
            }
            _ => (start, start + len * bytes),
        };
        Ok(View { data, len, kind, shape: hash_of(shape), extent, layout, writable })
    }
}

/// The shape of a state in 8 bits of this many elements: the number of blocks, and their bytes.
pub fn shape_of_blocks(elements: usize) -> [usize; 2] {
    [Block8::slots(elements), size_of::<Block8>()]
}

/// The FNV-1a hash (Fowler, Noll and Vo) of some numbers.
fn hash_of(numbers: &[i64]) -> u64 {
    numbers.iter().fold(0xCBF2_9CE4_8422_2325, |hash, &n| {
        (hash ^ n as u64).wrapping_mul(0x0000_0100_0000_01B3)
    })
}

/// The layout of an array, from its strides, which are in elements.
fn layout(shape: &[i64], strides: &[i64]) -> Layout {
    let mut next = 1;
    if shape.iter().zip(strides).rev().all(|(&n, &stride)| {
        let fits = n == 1 || stride == next;
        next *= n.max(1);
        fits
    }) || shape.contains(&0)
    {
        return Layout::RowMajor;
    }
    if shape.iter().zip(strides).any(|(&n, &stride)| n > 1 && stride == 0) {
        return Layout::Repeated;
    }
    let mut order = [0; MOST_DIMENSIONS];
    let order = &mut order[..shape.len()];
    let mut dimensions = 0;
    for (i, &n) in shape.iter().enumerate() {
        if n != 1 {
            order[dimensions] = i;
            dimensions += 1;
        }
    }
    let order = &mut order[..dimensions];
    order.sort_unstable_by_key(|&i| strides[i]);
    let (mut next, mut hash) = (1, 0xCBF2_9CE4_8422_2325_u64);
    for &mut i in order {
        if strides[i] != next {
            return Layout::Strided;
        }
        next *= shape[i];
        for x in [i as u64, shape[i] as u64] {
            hash = (hash ^ x).wrapping_mul(0x0000_0100_0000_01B3);
        }
    }
    Layout::Dense(hash)
}
