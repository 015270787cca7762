//! The sum of a gradient, block by block. A *size* stands for an absolute value, and a *window* is
//! a range of sizes whose squares can be summed exactly.
//!
//! - If all elements of a block are in one window, the block is summed in one go.
//! - Else it is summed window by window, each time only the elements in that window.
//! - Elements for which there is no window are added to the long integer one by one.

use core::ops::Range;

use super::GradNorm;
use super::exact::ExactSum;
use crate::simd::native::prefetch_lines;

/// `f32` or `f64`, with the windows of the type.
pub(super) trait Number: bytemuck::NoUninit + Copy + Default + Into<f64> {
    /// The bits of an absolute value, times two. Sizes have the order of the absolute values.
    type Size: Copy + Ord;

    /// The number of elements in a block, at most [`MOST`].
    const BLOCK: usize;
    /// The size of zero.
    const ZERO: Self::Size;
    /// The size of infinity. Those of NaNs are larger.
    const INFINITE: Self::Size;
    /// A value that is larger than every size.
    const NO_SIZE: Self::Size;

    /// The size of this number.
    fn size(self) -> Self::Size;
    /// The positive number of this size.
    fn of_size(size: Self::Size) -> Self;

    /// The window whose highest binade is that of `most`. None if there is no such window.
    fn window(most: Self::Size) -> Option<Range<Self::Size>>;
}

/// The largest number of elements in a block.
const MOST: usize = 4096;

/// How far ahead of the next block to prefetch, in blocks: far enough that the elements arrive in
/// time, and near enough that they are still in L2 cache when they are needed.
const AHEAD: usize = 4;

/// The smallest and the largest size of the elements seen so far, computed with `By`.
pub(super) trait MinMax<T: Number, By>: Copy {
    /// The sizes of no elements.
    fn nothing(by: By) -> Self;
    /// Includes more elements.
    fn and(self, more: &[T]) -> Self;
    /// The result.
    fn sizes(self) -> Sizes<T>;
}

/// The summation of a block whose elements are in one window.
pub(super) trait Sum<T: Number>: Copy {
    type MinMax: MinMax<T, Self>;

    /// Adds the squares of `block` to `squares`. Its elements are zero, or have sizes in `sizes`.
    /// Meanwhile finds the sizes of the next block, by `ahead`.
    fn add(
        self,
        block: &[T],
        sizes: Sizes<T>,
        ahead: &mut Lookahead<'_, T, Self>,
        squares: &mut ExactSum,
    );
}

/// Sums to which elements are added row by row.
pub(super) trait AddRows<T> {
    /// The elements that are added at once.
    type Row;

    /// The whole rows of a block, and the rest.
    fn rows(block: &[T]) -> (&[Self::Row], &[T]);
    /// Adds the squares of a row.
    fn add(&mut self, row: &Self::Row);
    /// Adds the squares of a rest, which is shorter than a row.
    fn add_rest(&mut self, rest: &[T]);
}

/// The sizes of some elements: the smallest size that is not that of zero, and the largest size.
#[derive(Clone, Copy)]
pub(super) struct Sizes<T: Number> {
    pub least: T::Size,
    pub most: T::Size,
}

impl<T: Number> Sizes<T> {
    /// The sizes of no elements.
    pub const NONE: Self = Sizes { least: T::NO_SIZE, most: T::ZERO };
}

/// A plain loop, which the compiler may vectorize. `By` does not matter.
impl<T: Number, By> MinMax<T, By> for Sizes<T> {
    #[inline(always)]
    fn nothing(_: By) -> Self {
        Self::NONE
    }

    #[inline(always)]
    fn and(self, more: &[T]) -> Self {
        let none = T::ZERO;
        let Sizes { mut least, mut most } = self;
        for g in more {
            let size = g.size();
            least = least.min(if size == none { T::NO_SIZE } else { size });
            most = most.max(size);
        }
        Sizes { least, most }
    }

    #[inline(always)]
    fn sizes(self) -> Self {
        self
    }
}

/// The elements after the block that is being summed. The sizes of a block must be known before it
/// is summed. Finding those of the next block while a block is being summed keeps memory busy.
pub(super) struct Lookahead<'a, T: Number, M: Sum<T>> {
    /// The part of the next block whose sizes are not yet in `seen`.
    next: &'a [T],
    /// The sizes of the other part.
    seen: M::MinMax,
    /// The block to prefetch, [`AHEAD`] blocks after the next one.
    later: &'a [T],
}

impl<'a, T: Number, M: Sum<T>> Lookahead<'a, T, M> {
    #[inline(always)]
    fn of(by: M, next: &'a [T], after: &'a [T]) -> Self {
        let later = after.get((AHEAD - 1) * T::BLOCK..).unwrap_or_default();
        let later = &later[..T::BLOCK.min(later.len())];
        Lookahead { next, seen: M::MinMax::nothing(by), later }
    }

    /// Adds a block to `sums`. Meanwhile it finds the sizes of the next block, some rows at a time,
    /// and prefetches `later`, row by row: the CPU's own prefetchers stop at the end of each page.
    #[inline(always)]
    pub(super) fn while_adding<R: AddRows<T>>(&mut self, block: &[T], sums: &mut R) {
        let (rows, rest) = R::rows(block);
        let row_len = const { size_of::<R::Row>() / size_of::<T>() };
        let rows_per_look = const { LOOK_BYTES / size_of::<R::Row>() };
        let mut later = self.later.chunks_exact(rows_per_look * row_len);
        for rows in rows.chunks(rows_per_look) {
            self.look(rows_per_look * row_len);
            if let Some(later) = later.next() {
                for (row, later) in rows.iter().zip(later.chunks_exact(row_len)) {
                    prefetch_lines(later);
                    sums.add(row);
                }
            } else {
                for row in rows {
                    sums.add(row);
                }
            }
        }
        if !rest.is_empty() {
            sums.add_rest(rest);
        }
    }

    /// Includes up to `count` elements of the next block in `seen`.
    #[inline(always)]
    fn look(&mut self, count: usize) {
        let (now, next) = self.next.split_at(count.min(self.next.len()));
        self.seen = self.seen.and(now);
        self.next = next;
    }

    /// The sizes of the next block.
    #[inline(always)]
    fn sizes(mut self) -> Sizes<T> {
        self.look(self.next.len());
        self.seen.sizes()
    }
}

/// The bytes of the next block whose sizes are found at a time.
const LOOK_BYTES: usize = 1024;

/// Adds the elements of a gradient to a norm.
#[inline(always)]
pub(super) fn add_all<T: Number, M: Sum<T>>(by: M, norm: &mut GradNorm, grad: &[T]) {
    let (mut block, mut rest) = cut(grad);
    let mut sizes = M::MinMax::nothing(by).and(block).sizes();
    while !block.is_empty() {
        let (next, after) = cut(rest);
        let mut ahead = Lookahead::of(by, next, after);
        add_block(by, norm, block, sizes, &mut ahead);
        sizes = ahead.sizes();
        (block, rest) = (next, after);
    }
}

/// The first block of a gradient, and the rest.
#[inline(always)]
fn cut<T: Number>(grad: &[T]) -> (&[T], &[T]) {
    grad.split_at(T::BLOCK.min(grad.len()))
}

/// Adds a block, all of whose sizes are in `sizes`, to a norm.
#[inline(always)]
fn add_block<T: Number, M: Sum<T>>(
    by: M,
    norm: &mut GradNorm,
    block: &[T],
    sizes: Sizes<T>,
    ahead: &mut Lookahead<'_, T, M>,
) {
    let none = T::ZERO;
    let mut most = sizes.most;
    if most >= T::INFINITE {
        return one_by_one(norm, block);
    }
    norm.largest = norm.largest.max(T::of_size(most).into());
    if let Some(window) = T::window(most)
        && sizes.least >= window.start
    {
        return by.add(block, sizes, ahead, &mut norm.squares);
    }
    let mut inside = [T::default(); MOST];
    let inside = &mut inside[..block.len()];
    while most > none
        && let Some(window) = T::window(most)
    {
        keep(inside, block, &window);
        by.add(inside, Sizes { least: window.start, most }, ahead, &mut norm.squares);
        most = largest_below(block, window.start);
    }
    for &g in block.iter().filter(|g| g.size() <= most) {
        norm.add_number(g.into());
    }
}

/// Adds a block that has an infinite or NaN element.
#[inline(never)]
fn one_by_one<T: Number>(norm: &mut GradNorm, block: &[T]) {
    for &g in block {
        norm.add_number(g.into());
    }
}

/// The largest size in `block` that is less than `limit`. The size of zero if there is none.
#[inline(always)]
fn largest_below<T: Number>(block: &[T], limit: T::Size) -> T::Size {
    let mut most = T::ZERO;
    for g in block {
        let size = g.size();
        most = most.max(if size < limit { size } else { T::ZERO });
    }
    most
}

/// Copies `block` to `inside`, with zeros in place of the elements whose sizes are not in `window`.
#[inline(always)]
fn keep<T: Number>(inside: &mut [T], block: &[T], window: &Range<T::Size>) {
    for (inside, &g) in inside.iter_mut().zip(block) {
        let kept = (g.size() >= window.start) & (g.size() < window.end);
        *inside = if kept { g } else { T::default() };
    }
}
