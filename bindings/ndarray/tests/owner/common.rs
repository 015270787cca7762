//! Arrays with given elements and memory orders, and their bits.

use fused_adam_ndarray::fused_adam::{Element, bytemuck};
use ndarray::{Array2, Axis, ShapeBuilder};

/// A number for each element that differs from those around it.
fn number<T: Element>(i: usize, j: usize, t: u64) -> T {
    T::from_f64(((i * 31 + j * 7 + t as usize * 13) % 47) as f64 / 23.0 - 1.0)
}

pub fn numbers<T: Element>((rows, columns): (usize, usize), t: u64) -> Array2<T> {
    Array2::from_shape_fn((rows, columns), |(i, j)| number(i, j, t))
}

/// The same elements by rows (0), by columns (1), or by columns with the rows reversed (2).
pub fn laid_out<T: Element>(of: &Array2<T>, layout: usize) -> Array2<T> {
    let zero = T::from_f64(0.0);
    let mut array = match layout {
        0 => Array2::from_elem(of.raw_dim(), zero),
        1 => Array2::from_elem(of.raw_dim().f(), zero),
        _ => {
            let mut array = Array2::from_elem(of.raw_dim().f(), zero);
            array.invert_axis(Axis(0));
            array
        }
    };
    array.assign(of);
    array
}

/// The bits in row-major order.
pub fn bits<'a, T: bytemuck::Pod>(elements: impl IntoIterator<Item = &'a T>) -> Vec<u8> {
    let elements: Vec<T> = elements.into_iter().copied().collect();
    bytemuck::cast_slice(&elements).to_vec()
}
