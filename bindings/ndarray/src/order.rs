//! The memory order of an array: its axes from the slowest to the fastest, and those that are
//! reversed. With its axes arranged in this way, an array without gaps is in row-major order, so it
//! is a slice.

use core::cmp::Reverse;

use ndarray::{ArrayBase, ArrayRef, ArrayViewD, Axis, IxDyn, RawData};

/// An order of axes. The default is row-major order, which allocates nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Order {
    /// From the slowest axis to the fastest. Empty if they are in order.
    axes: Vec<usize>,
    /// The axes with negative strides.
    backwards: Vec<usize>,
}

impl Order {
    /// The memory order of an array.
    pub fn of<T>(array: &ArrayRef<T, IxDyn>) -> Self {
        if array.is_standard_layout() {
            return Order::default();
        }
        // An axis of length 1 can have any stride, and any position among the others.
        let stride = |axis: &usize| array.stride_of(Axis(*axis));
        let mut axes: Vec<usize> = (0..array.ndim()).collect();
        let backwards = axes.iter().copied().filter(|axis| stride(axis) < 0).collect();
        axes.sort_by_key(|axis| Reverse(stride(axis).unsigned_abs()));
        Order { axes, backwards }
    }

    /// Arranges the axes of an array or view in this order, and reverses those that run backwards.
    pub fn arrange<V: RawData>(&self, mut array: ArrayBase<V, IxDyn>) -> ArrayBase<V, IxDyn> {
        for &axis in &self.backwards {
            array.invert_axis(Axis(axis));
        }
        if self.axes.is_empty() { array } else { array.permuted_axes(self.axes.as_slice()) }
    }

    /// A view of this shape on elements in this order: the inverse of [`arrange`](Self::arrange).
    /// None for another number of elements.
    pub fn view<'a, T>(&self, shape: &[usize], elements: &'a [T]) -> Option<ArrayViewD<'a, T>> {
        if self.axes.is_empty() {
            return ArrayViewD::from_shape(shape, elements).ok();
        }
        let arranged: Vec<usize> = self.axes.iter().map(|&axis| shape[axis]).collect();
        let mut back = vec![0; shape.len()];
        for (place, &axis) in self.axes.iter().enumerate() {
            back[axis] = place;
        }
        let mut view = ArrayViewD::from_shape(arranged, elements).ok()?.permuted_axes(back);
        for &axis in &self.backwards {
            view.invert_axis(Axis(axis));
        }
        Some(view)
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array, ShapeBuilder};

    use super::*;

    /// Arrays without gaps are slices once their axes are arranged. A view of the slice has the
    /// order and the elements of the array.
    #[test]
    fn an_array_without_gaps_is_a_slice_in_its_order() {
        let numbers = (0..24_u8).map(f32::from).collect();
        let rows = Array::from_shape_vec((2, 3, 4), numbers).unwrap().into_dyn();
        let mut backwards = rows.clone();
        backwards.invert_axis(Axis(2));
        backwards.invert_axis(Axis(0));
        let thin = Array::<f32, _>::zeros((3, 1, 2).f()).into_dyn();
        for array in [
            rows.clone(),
            rows.clone().reversed_axes(),
            rows.clone().permuted_axes(&[1, 2, 0][..]),
            backwards.clone(),
            backwards.permuted_axes(&[2, 0, 1][..]),
            thin,
            Array::<f32, _>::zeros((0, 3).f()).into_dyn(),
            Array::<f32, _>::zeros(()).into_dyn(),
        ] {
            let order = Order::of(&array);
            let slice = order.arrange(array.view()).to_slice();
            assert_eq!(slice.map(<[f32]>::len), Some(array.len()), "{array:?}");
            let view = order.view(array.shape(), slice.unwrap()).unwrap();
            assert_eq!(view, array.view());
            assert_eq!((Order::of(&view), view.as_ptr()), (order, array.as_ptr()), "{array:?}");
        }
    }
}
