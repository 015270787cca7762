//! A gradient by blocks. A block whose elements are of like sizes is summed at once; another one
//! window by window, each with the elements whose sizes lie in it; and what no window holds goes to
//! the sum one by one.

use core::ops::Range;

use super::GradNorm;
use super::exact::ExactSum;
use crate::simd::native::prefetch_lines;

/// `f32` or `f64`, and of which of its elements squares can be summed exactly.
pub(super) trait Number: Copy + Default + Into<f64> {
    /// The bits of an absolute value, times two: numbers in the order of the absolute values.
    type Size: Copy + Ord;

    /// Elements of a block, [`MOST`] at the most.
    const BLOCK: usize;
    /// The size of zero.
    const ZERO: Self::Size;
    const INFINITE: Self::Size;
    const NO_SIZE: Self::Size;

    fn size(self) -> Self::Size;
    fn of_size(size: Self::Size) -> Self;

    /// The sizes that may be in one sum with `most`, which is the largest. None if there is no such
    /// sum.
    fn window(most: Self::Size) -> Option<Range<Self::Size>>;
}

/// The most elements of a block.
const MOST: usize = 4096;

/// How many blocks past the next one memory is asked for: far enough for it to answer, near enough
/// for the second cache.
const AHEAD: usize = 4;

/// What is known of the sizes of some elements, found by `By`.
pub(super) trait Seen<T: Number, By>: Copy {
    fn nothing(by: By) -> Self;
    fn and(self, more: &[T]) -> Self;
    fn sizes(self) -> Sizes<T>;
}

/// How a block of one window is summed.
pub(super) trait Sum<T: Number>: Copy {
    type Seen: Seen<T, Self>;

    /// Adds the squares of elements that are zero or of sizes in `sizes`, and looks `ahead`
    /// meanwhile.
    fn add(
        self,
        block: &[T],
        sizes: Sizes<T>,
        ahead: &mut Ahead<'_, T, Self>,
        squares: &mut ExactSum,
    );
}

/// Sums to which elements are added by rows.
pub(super) trait AddRows<T> {
    /// Elements that are added side by side.
    type Row;

    /// Whole rows, and the rest.
    fn rows(block: &[T]) -> (&[Self::Row], &[T]);
    fn add(&mut self, row: &Self::Row);
    /// Adds less than a row.
    fn add_rest(&mut self, rest: &[T]);
}

/// Of some elements, the least size of those that are not zero, and the largest.
#[derive(Clone, Copy)]
pub(super) struct Sizes<T: Number> {
    pub least: T::Size,
    pub most: T::Size,
}

impl<T: Number> Sizes<T> {
    /// Of no elements.
    pub const NONE: Self = Sizes { least: T::NO_SIZE, most: T::ZERO };
}

/// By anything, with what the compiler makes of a plain loop.
impl<T: Number, By> Seen<T, By> for Sizes<T> {
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

/// What comes after the block that is being summed. A block's sizes must be known before it is
/// summed; to find those of the next one meanwhile keeps memory busy.
pub(super) struct Ahead<'a, T: Number, M: Sum<T>> {
    /// What has not been looked at of the next block.
    next: &'a [T],
    /// Of the rest.
    seen: M::Seen,
    /// As much as a block, [`AHEAD`] blocks later.
    later: &'a [T],
}

impl<'a, T: Number, M: Sum<T>> Ahead<'a, T, M> {
    #[inline(always)]
    fn of(by: M, next: &'a [T], after: &'a [T]) -> Self {
        let later = after.get((AHEAD - 1) * T::BLOCK..).unwrap_or_default();
        let later = &later[..T::BLOCK.min(later.len())];
        Ahead { next, seen: M::Seen::nothing(by), later }
    }

    /// Has a block added, and meanwhile looks at the next one, some rows at a time, and asks for
    /// what is `later`, row by row: the CPU's own prefetchers stop at each page.
    #[inline(always)]
    pub(super) fn while_adding<R: AddRows<T>>(&mut self, block: &[T], sums: &mut R) {
        let (rows, rest) = R::rows(block);
        let row_len = const { size_of::<R::Row>() / size_of::<T>() };
        let few = const { LOOK_BYTES / size_of::<R::Row>() };
        let mut later = self.later.chunks_exact(few * row_len);
        for rows in rows.chunks(few) {
            self.look(few * row_len);
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

    #[inline(always)]
    fn look(&mut self, count: usize) {
        let (now, next) = self.next.split_at(count.min(self.next.len()));
        self.seen = self.seen.and(now);
        self.next = next;
    }

    #[inline(always)]
    fn sizes(mut self) -> Sizes<T> {
        self.look(self.next.len());
        self.seen.sizes()
    }
}

/// How much of the next block is looked at together.
const LOOK_BYTES: usize = 1024;

#[inline(always)]
pub(super) fn add_all<T: Number, M: Sum<T>>(by: M, norm: &mut GradNorm, grad: &[T]) {
    let (mut block, mut rest) = cut(grad);
    let mut sizes = M::Seen::nothing(by).and(block).sizes();
    while !block.is_empty() {
        let (next, after) = cut(rest);
        let mut ahead = Ahead::of(by, next, after);
        add_block(by, norm, block, sizes, &mut ahead);
        sizes = ahead.sizes();
        (block, rest) = (next, after);
    }
}

#[inline(always)]
fn cut<T: Number>(grad: &[T]) -> (&[T], &[T]) {
    grad.split_at(T::BLOCK.min(grad.len()))
}

#[inline(always)]
fn add_block<T: Number, M: Sum<T>>(
    by: M,
    norm: &mut GradNorm,
    block: &[T],
    sizes: Sizes<T>,
    ahead: &mut Ahead<'_, T, M>,
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

#[inline(never)]
fn one_by_one<T: Number>(norm: &mut GradNorm, block: &[T]) {
    for &g in block {
        norm.add_number(g.into());
    }
}

/// The largest size that is less than `limit`.
#[inline(always)]
fn largest_below<T: Number>(block: &[T], limit: T::Size) -> T::Size {
    let mut most = T::ZERO;
    for g in block {
        let size = g.size();
        most = most.max(if size < limit { size } else { T::ZERO });
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
