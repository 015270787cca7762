//! A gradient by blocks. A block whose elements are of like sizes is summed at once; another one window by window,
//! each with the elements whose sizes lie in it; and what no window holds goes to the sum one by one.

use core::ops::Range;

use super::GradNorm;
use super::exact::ExactSum;

/// `f32` or `f64`, and of which of its elements squares can be summed exactly.
pub(super) trait Number: Copy + Default + Into<f64> {
    /// The bits of an absolute value, times two: numbers in the order of the absolute values.
    type Size: Copy + Ord + Default;

    /// Elements of a block, [`MOST`] at the most.
    const BLOCK: usize;
    const INFINITE: Self::Size;
    const NO_SIZE: Self::Size;

    fn size(self) -> Self::Size;
    fn of_size(size: Self::Size) -> Self;

    /// The sizes that may be in one sum with `most`, which is the largest. None if there is no such sum.
    fn window(most: Self::Size) -> Option<Range<Self::Size>>;
}

/// The most elements of a block.
const MOST: usize = 4096;

/// How many blocks ahead memory is asked for.
const AHEAD: usize = 4;

/// How a block of one window is summed.
pub(super) trait Sum<T: Number>: Copy {
    /// Adds the squares of elements that are zero or of sizes from `least` to `most`, and asks for as many `later`
    /// ones meanwhile: the CPU's prefetchers stop at each page.
    fn add(self, block: &[T], least: T::Size, most: T::Size, later: &[T], squares: &mut ExactSum);
}

#[inline(always)]
pub(super) fn add_all<T: Number>(sum: impl Sum<T>, norm: &mut GradNorm, grad: &[T]) {
    let mut rest = grad;
    while !rest.is_empty() {
        let (block, after) = rest.split_at(T::BLOCK.min(rest.len()));
        let later = after.get((AHEAD - 1) * T::BLOCK..).unwrap_or_default();
        add_block(sum, norm, block, &later[..T::BLOCK.min(later.len())]);
        rest = after;
    }
}

#[inline(always)]
fn add_block<T: Number>(sum: impl Sum<T>, norm: &mut GradNorm, block: &[T], later: &[T]) {
    let none = T::Size::default();
    let (least, mut most) = sizes(block);
    if most >= T::INFINITE {
        return one_by_one(norm, block);
    }
    norm.largest = norm.largest.max(T::of_size(most).into());
    if let Some(window) = T::window(most)
        && least >= window.start
    {
        return sum.add(block, least, most, later, &mut norm.squares);
    }
    let mut inside = [T::default(); MOST];
    let inside = &mut inside[..block.len()];
    while most > none
        && let Some(window) = T::window(most)
    {
        keep(inside, block, &window);
        sum.add(inside, window.start, most, &[], &mut norm.squares);
        most = largest_below(block, window.start);
    }
    for &g in block.iter().filter(|g| g.size() <= most) {
        norm.add_number(g.into());
    }
}

#[inline(never)]
fn one_by_one<T: Number>(norm: &mut GradNorm, block: &[T]) {
    for &g in block {
        norm.add_number(g.into());
    }
}

/// The least size of elements that are not zero, and the largest of all.
#[inline(always)]
fn sizes<T: Number>(block: &[T]) -> (T::Size, T::Size) {
    let (none, mut least, mut most) = (T::Size::default(), T::NO_SIZE, T::Size::default());
    for g in block {
        let size = g.size();
        least = least.min(if size == none { T::NO_SIZE } else { size });
        most = most.max(size);
    }
    (least, most)
}

/// The largest size that is less than `limit`.
#[inline(always)]
fn largest_below<T: Number>(block: &[T], limit: T::Size) -> T::Size {
    let mut most = T::Size::default();
    for g in block {
        let size = g.size();
        most = most.max(if size < limit { size } else { T::Size::default() });
    }
    most
}

/// The elements whose sizes are in `window`, and zeros in place of the others.
#[inline(always)]
fn keep<T: Number>(inside: &mut [T], block: &[T], window: &Range<T::Size>) {
    for (inside, &g) in inside.iter_mut().zip(block) {
        let kept = (g.size() >= window.start) & (g.size() < window.end);
        *inside = if kept { g } else { T::default() };
    }
}
