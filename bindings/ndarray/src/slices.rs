//! An array as a slice in a given order: its own memory if it has that order, or else a copy.

use fused_adam::StateElement;
use ndarray::{ArrayD, ArrayViewD, ArrayViewMutD};

use crate::copy::copy;
use crate::order::Order;

pub const ROW_MAJOR: &str = "what is made by `from_elem` is in row-major order";

/// An array that is read.
pub enum Slice<'a, T> {
    InPlace(&'a [T]),
    Copied(ArrayD<T>),
}

/// An array that is read and written.
pub enum SliceMut<'a, T> {
    InPlace(&'a mut [T]),
    Copied {
        copy: ArrayD<T>,
        /// With its axes arranged as in the copy.
        array: ArrayViewMutD<'a, T>,
    },
}

impl<'a, T: StateElement> Slice<'a, T> {
    pub fn of(array: ArrayViewD<'a, T>, order: &Order, parallel: bool) -> Self {
        let array = order.arrange(array);
        match array.to_slice() {
            Some(slice) => Slice::InPlace(slice),
            None => Slice::Copied(copied(array, parallel)),
        }
    }

    pub fn get(&self) -> &[T] {
        match self {
            Slice::InPlace(slice) => slice,
            Slice::Copied(copy) => copy.as_slice().expect(ROW_MAJOR),
        }
    }
}

impl<'a, T: StateElement> SliceMut<'a, T> {
    pub fn of(array: ArrayViewMutD<'a, T>, order: &Order, parallel: bool) -> Self {
        let array = order.arrange(array);
        if !array.is_standard_layout() {
            return SliceMut::Copied { copy: copied(array.view(), parallel), array };
        }
        SliceMut::InPlace(array.into_slice().expect("row-major order is a slice"))
    }

    pub fn get(&mut self) -> &mut [T] {
        match self {
            SliceMut::InPlace(slice) => slice,
            SliceMut::Copied { copy, .. } => copy.as_slice_mut().expect(ROW_MAJOR),
        }
    }

    /// Copies the changes back to the array.
    pub fn write_back(self, parallel: bool) {
        if let SliceMut::Copied { copy: from, array } = self {
            copy(from.view(), array, parallel);
        }
    }
}

/// A copy in row-major order.
pub fn copied<T: StateElement>(array: ArrayViewD<'_, T>, parallel: bool) -> ArrayD<T> {
    let mut to = ArrayD::from_elem(array.shape(), T::zeroed());
    copy(array, to.view_mut(), parallel);
    to
}

#[cfg(test)]
mod tests {
    use ndarray::{Array, Array2, Axis, ShapeBuilder};

    use super::*;

    fn is_in_place(mut array: ArrayViewMutD<'_, f32>, order: &Order) -> bool {
        let read = matches!(Slice::of(array.view(), order, false), Slice::InPlace(_));
        let written = matches!(SliceMut::of(array.view_mut(), order, false), SliceMut::InPlace(_));
        assert_eq!(read, written);
        read
    }

    /// Arrays in the memory order of θ are not copied. All others are.
    #[test]
    fn what_lies_alike_is_stepped_in_place() {
        let mut rows = Array2::<f32>::zeros((3, 4));
        let mut columns = Array::<f32, _>::zeros((3, 4).f());
        let (by_rows, by_columns) =
            (Order::of(&rows.view().into_dyn()), Order::of(&columns.view().into_dyn()));
        assert!(is_in_place(rows.view_mut().into_dyn(), &by_rows));
        assert!(is_in_place(columns.view_mut().into_dyn(), &by_columns));
        assert!(!is_in_place(columns.view_mut().into_dyn(), &by_rows));
        assert!(!is_in_place(rows.view_mut().into_dyn(), &by_columns));
        let without_first = (1..).into();
        assert!(is_in_place(rows.slice_axis_mut(Axis(0), without_first).into_dyn(), &by_rows));
        assert!(!is_in_place(rows.slice_axis_mut(Axis(1), without_first).into_dyn(), &by_rows));

        let mut backwards = rows.clone();
        backwards.invert_axis(Axis(0));
        let from_below = Order::of(&backwards.view().into_dyn());
        assert!(is_in_place(backwards.view_mut().into_dyn(), &from_below));
        assert!(!is_in_place(rows.view_mut().into_dyn(), &from_below));
    }
}
