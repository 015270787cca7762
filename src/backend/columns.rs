//! The buffers of one step: θ, g and the states, as columns of one table whose rows are elements.
//!
//! In [`Buffers`] the types are known to the compiler, and that is what backends sweep over. In
//! [`Mixed`] each column stores `f32`, `bf16` or `f16`, which is known at run time: `tiles` makes
//! [`Buffers`] of `f32` of them, a tile at a time.

use half::{bf16, f16};

use crate::Element;
use crate::elements::rounding::Noise;

/// The slices of one step, all equally long: θ of type `T`, g of type `G`, and the `N` states of
/// the rule, of type `S`.
pub(crate) struct Buffers<'a, T, G, S, const N: usize> {
    pub theta: &'a mut [T],
    pub grad: &'a [G],
    pub state: [&'a mut [S]; N],
    /// Where θ is stored once more, rounded to the nearest.
    pub copy: Option<&'a mut [G]>,
}

/// Columns of `f32`, `bf16` and `f16`, all computed in `f32`.
pub(crate) struct Mixed<'a, const N: usize> {
    pub theta: ColumnMut<'a>,
    pub grad: Column<'a>,
    pub state: [ColumnMut<'a>; N],
    /// Where θ is stored once more, rounded to the nearest.
    pub copy: Option<ColumnMut<'a>>,
    /// For stochastic rounding.
    pub noise: Option<Noise>,
}

/// A step's buffers, of either kind, to be cut into chunks.
pub(crate) trait Table: Sized + Send {
    fn len(&self) -> usize;

    /// The size of an element of θ.
    #[cfg(feature = "parallel")]
    fn theta_bytes(&self) -> usize;

    /// The first `mid` rows and the rest.
    fn split_at(self, mid: usize) -> (Self, Self);
}

impl<T, G, S, const N: usize> Table for Buffers<'_, T, G, S, N>
where
    T: Send,
    G: Send + Sync,
    S: Send,
{
    fn len(&self) -> usize {
        self.theta.len()
    }

    #[cfg(feature = "parallel")]
    fn theta_bytes(&self) -> usize {
        size_of::<T>()
    }

    #[inline(always)]
    fn split_at(self, mid: usize) -> (Self, Self) {
        let (theta, theta_rest) = self.theta.split_at_mut(mid);
        let (grad, grad_rest) = self.grad.split_at(mid);
        let (state, state_rest) = unzip(self.state.map(|state| state.split_at_mut(mid)));
        let (copy, copy_rest) = self.copy.map(|copy| copy.split_at_mut(mid)).unzip();
        (
            Buffers { theta, grad, state, copy },
            Buffers { theta: theta_rest, grad: grad_rest, state: state_rest, copy: copy_rest },
        )
    }
}

impl<const N: usize> Table for Mixed<'_, N> {
    fn len(&self) -> usize {
        self.theta.read().len()
    }

    #[cfg(feature = "parallel")]
    fn theta_bytes(&self) -> usize {
        self.theta.read().element_bytes()
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        let (theta, theta_rest) = self.theta.split_at(mid);
        let (grad, grad_rest) = self.grad.split_at(mid);
        let (state, state_rest) = unzip(self.state.map(|state| state.split_at(mid)));
        let (copy, copy_rest) = self.copy.map(|copy| copy.split_at(mid)).unzip();
        let noise = self.noise;
        let rest = Mixed {
            theta: theta_rest,
            grad: grad_rest,
            state: state_rest,
            copy: copy_rest,
            noise: noise.map(|noise| noise.skip(mid)),
        };
        (Mixed { theta, grad, state, copy, noise }, rest)
    }
}

/// The first of each pair, and the second of each.
#[inline(always)]
pub(crate) fn unzip<T: Default, const N: usize>(mut pairs: [(T, T); N]) -> ([T; N], [T; N]) {
    let first = pairs.each_mut().map(|(first, _)| core::mem::take(first));
    (first, pairs.map(|(_, second)| second))
}

/// A column to be read.
#[derive(Clone, Copy)]
pub enum Column<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    F16(&'a [f16]),
}

/// A column to be read and written.
pub enum ColumnMut<'a> {
    F32(&'a mut [f32]),
    Bf16(&'a mut [bf16]),
    F16(&'a mut [f16]),
}

/// A slice of any element type, to be read.
#[derive(Clone, Copy)]
pub enum AnySlice<'a> {
    Single(Column<'a>),
    Double(&'a [f64]),
}

/// A slice of any element type, to be read and written.
pub enum AnySliceMut<'a> {
    Single(ColumnMut<'a>),
    Double(&'a mut [f64]),
}

impl<'a> AnySlice<'a> {
    pub fn len(&self) -> usize {
        match self {
            AnySlice::Single(column) => column.len(),
            AnySlice::Double(buffer) => buffer.len(),
        }
    }

    /// The name of the element type.
    pub fn type_name(&self) -> &'static str {
        match self {
            AnySlice::Single(Column::F32(_)) => f32::NAME,
            AnySlice::Single(Column::Bf16(_)) => bf16::NAME,
            AnySlice::Single(Column::F16(_)) => f16::NAME,
            AnySlice::Double(_) => f64::NAME,
        }
    }

    /// The size of an element.
    pub fn element_bytes(&self) -> usize {
        match self {
            AnySlice::Single(column) => column.element_bytes(),
            AnySlice::Double(_) => 8,
        }
    }

    pub fn split_at(self, mid: usize) -> (Self, Self) {
        match self {
            AnySlice::Single(column) => {
                let (first, rest) = column.split_at(mid);
                (AnySlice::Single(first), AnySlice::Single(rest))
            }
            AnySlice::Double(buffer) => {
                let (first, rest) = buffer.split_at(mid);
                (AnySlice::Double(first), AnySlice::Double(rest))
            }
        }
    }

    /// Element `i`.
    pub fn get(&self, i: usize) -> f64 {
        match self {
            AnySlice::Single(column) => column.get(i).into(),
            AnySlice::Double(buffer) => buffer[i],
        }
    }

    /// Its bytes, as they lie in memory.
    pub fn bytes(self) -> &'a [u8] {
        match self {
            AnySlice::Single(Column::F32(buffer)) => bytemuck::cast_slice(buffer),
            AnySlice::Single(Column::Bf16(buffer)) => bytemuck::cast_slice(buffer),
            AnySlice::Single(Column::F16(buffer)) => bytemuck::cast_slice(buffer),
            AnySlice::Double(buffer) => bytemuck::cast_slice(buffer),
        }
    }
}

impl<'a> AnySliceMut<'a> {
    pub fn read(&self) -> AnySlice<'_> {
        match self {
            AnySliceMut::Single(column) => AnySlice::Single(column.read()),
            AnySliceMut::Double(buffer) => AnySlice::Double(buffer),
        }
    }

    /// The same slice, for a shorter time.
    pub fn again(&mut self) -> AnySliceMut<'_> {
        match self {
            AnySliceMut::Single(column) => AnySliceMut::Single(column.again()),
            AnySliceMut::Double(buffer) => AnySliceMut::Double(buffer),
        }
    }

    pub fn split_at(self, mid: usize) -> (Self, Self) {
        match self {
            AnySliceMut::Single(column) => {
                let (first, rest) = column.split_at(mid);
                (AnySliceMut::Single(first), AnySliceMut::Single(rest))
            }
            AnySliceMut::Double(buffer) => {
                let (first, rest) = buffer.split_at_mut(mid);
                (AnySliceMut::Double(first), AnySliceMut::Double(rest))
            }
        }
    }

    pub fn fill_with_zeros(&mut self) {
        match self {
            AnySliceMut::Single(column) => column.fill_with_zeros(),
            AnySliceMut::Double(buffer) => buffer.fill(0.0),
        }
    }

    /// Its bytes, as they lie in memory.
    pub fn bytes_mut(self) -> &'a mut [u8] {
        match self {
            AnySliceMut::Single(ColumnMut::F32(buffer)) => bytemuck::cast_slice_mut(buffer),
            AnySliceMut::Single(ColumnMut::Bf16(buffer)) => bytemuck::cast_slice_mut(buffer),
            AnySliceMut::Single(ColumnMut::F16(buffer)) => bytemuck::cast_slice_mut(buffer),
            AnySliceMut::Double(buffer) => bytemuck::cast_slice_mut(buffer),
        }
    }
}

impl Default for ColumnMut<'_> {
    fn default() -> Self {
        ColumnMut::F32(&mut [])
    }
}

impl Default for AnySliceMut<'_> {
    fn default() -> Self {
        AnySliceMut::Double(&mut [])
    }
}

impl<'a> Column<'a> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Column::F32(column) => column.len(),
            Column::Bf16(column) => column.len(),
            Column::F16(column) => column.len(),
        }
    }

    pub(crate) fn element_bytes(&self) -> usize {
        match self {
            Column::F32(_) => 4,
            Column::Bf16(_) | Column::F16(_) => 2,
        }
    }

    pub(crate) fn split_at(self, mid: usize) -> (Self, Self) {
        match self {
            Column::F32(column) => {
                let (first, rest) = column.split_at(mid);
                (Column::F32(first), Column::F32(rest))
            }
            Column::Bf16(column) => {
                let (first, rest) = column.split_at(mid);
                (Column::Bf16(first), Column::Bf16(rest))
            }
            Column::F16(column) => {
                let (first, rest) = column.split_at(mid);
                (Column::F16(first), Column::F16(rest))
            }
        }
    }

    /// Element `i`, by the crate `half`'s conversion.
    pub(crate) fn get(&self, i: usize) -> f32 {
        match self {
            Column::F32(column) => column[i],
            Column::Bf16(column) => column[i].to_f32(),
            Column::F16(column) => column[i].to_f32(),
        }
    }
}

impl ColumnMut<'_> {
    pub(crate) fn read(&self) -> Column<'_> {
        match self {
            ColumnMut::F32(column) => Column::F32(column),
            ColumnMut::Bf16(column) => Column::Bf16(column),
            ColumnMut::F16(column) => Column::F16(column),
        }
    }

    /// The same column, for a shorter time.
    pub(crate) fn again(&mut self) -> ColumnMut<'_> {
        match self {
            ColumnMut::F32(column) => ColumnMut::F32(column),
            ColumnMut::Bf16(column) => ColumnMut::Bf16(column),
            ColumnMut::F16(column) => ColumnMut::F16(column),
        }
    }

    pub(crate) fn fill_with_zeros(&mut self) {
        match self {
            ColumnMut::F32(column) => column.fill(0.0),
            ColumnMut::Bf16(column) => column.fill(bf16::ZERO),
            ColumnMut::F16(column) => column.fill(f16::ZERO),
        }
    }

    pub(crate) fn split_at(self, mid: usize) -> (Self, Self) {
        match self {
            ColumnMut::F32(column) => {
                let (first, rest) = column.split_at_mut(mid);
                (ColumnMut::F32(first), ColumnMut::F32(rest))
            }
            ColumnMut::Bf16(column) => {
                let (first, rest) = column.split_at_mut(mid);
                (ColumnMut::Bf16(first), ColumnMut::Bf16(rest))
            }
            ColumnMut::F16(column) => {
                let (first, rest) = column.split_at_mut(mid);
                (ColumnMut::F16(first), ColumnMut::F16(rest))
            }
        }
    }

    /// Stores `x`, with the crate `half`'s rounding, or stochastically by way of `noise`.
    fn set(&mut self, i: usize, x: f32, noise: Option<u16>) {
        match (self, noise) {
            (ColumnMut::F32(column), _) => column[i] = x,
            (ColumnMut::Bf16(column), None) => column[i] = bf16::from_f32(x),
            (ColumnMut::F16(column), None) => column[i] = f16::from_f32(x),
            (ColumnMut::Bf16(column), Some(noise)) => {
                column[i] = reference::bf16_up_or_down(x, noise);
            }
            (ColumnMut::F16(column), Some(noise)) => {
                column[i] = reference::f16_up_or_down(x, noise);
            }
        }
    }
}

/// Rows, one by one: for the reference.
impl<const N: usize> Mixed<'_, N> {
    /// θ, g and the states of row `i`.
    pub fn row(&self, i: usize) -> (f32, f32, [f32; N]) {
        let state = self.state.each_ref().map(|state| state.read().get(i));
        (self.theta.read().get(i), self.grad.get(i), state)
    }

    /// Stores θ and the states in row `i`.
    pub fn set_row(&mut self, i: usize, theta: f32, state: [f32; N]) {
        let noise = |buffer| self.noise.map(|noise| noise.one(i, buffer));
        self.theta.set(i, theta, noise(0));
        for (buffer, (column, new)) in self.state.iter_mut().zip(state).enumerate() {
            column.set(i, new, noise(buffer + 1));
        }
        if let Some(copy) = &mut self.copy {
            copy.set(i, theta, None);
        }
    }
}

/// Stochastic rounding written out for one number, with nothing of the code for lanes.
mod reference {
    use half::{bf16, f16};

    /// The neighbour of `x` away from zero, if the part that is cut off exceeds what `noise` leaves
    /// to the next unit; else the one towards zero.
    pub fn bf16_up_or_down(x: f32, noise: u16) -> bf16 {
        if x.is_nan() || x.is_infinite() {
            return bf16::from_f32(x);
        }
        let (kept, cut) = (x.to_bits() >> 16, x.to_bits() & 0xFFFF);
        let up = cut + u32::from(noise) >= 1 << 16;
        bf16::from_bits((kept + u32::from(up)) as u16)
    }

    /// The same for `f16`, with thirteen of the bits.
    pub fn f16_up_or_down(x: f32, noise: u16) -> f16 {
        if x.is_nan() || x.is_infinite() {
            return f16::from_f32(x);
        }
        let noise = u32::from(noise >> 3);
        let sign = if x.is_sign_negative() { 0x8000 } else { 0 };
        let size = x.abs();
        let bits = if size >= 65536.0 {
            0x7C00
        } else if size >= 2.0_f32.powi(-14) {
            let (kept, cut) = (size.to_bits() >> 13, size.to_bits() & 0x1FFF);
            kept - (112 << 10) + u32::from(cut + noise >= 1 << 13)
        } else {
            // In units of 2^-24: moved by the middle of one of 2^13 parts of −½ to ½, then rounded.
            let units = size * 2.0_f32.powi(24);
            let moved = units + ((noise as f32 + 0.5) / 8192.0 - 0.5);
            moved.round_ties_even() as u32
        };
        f16::from_bits(sign | bits as u16)
    }
}
