//! Which elements of a whole tensor a shard has. The random bits of stochastic rounding depend on
//! the index of an element in the whole tensor, so that a shard gets the bits of the whole.

use core::ops::Range;
use core::slice;

use crate::elements::block8::BLOCK;
use crate::error::Error;

/// Where some elements are in their whole tensor.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Position<'a> {
    /// The index of the first element: in the shard if there is one, else in the whole tensor.
    pub first: u64,
    pub shard: Option<&'a Shard>,
}

impl Position<'_> {
    /// The position of the elements after the first `rows`.
    pub fn skip(self, rows: usize) -> Self {
        Position { first: self.first.wrapping_add(rows as u64), ..self }
    }

    /// The index of the first element in the whole tensor, and how many of these `rows` follow each
    /// other there.
    pub fn run(self, rows: usize) -> (u64, usize) {
        let Some(shard) = self.shard else { return (self.first, rows) };
        let (first, run) = shard.run_at(self.first).unwrap_or((0, u64::MAX));
        (first, usize::try_from(run).map_or(rows, |run| run.min(rows)))
    }
}

impl Position<'_> {
    /// Checks that these rows can have states in 8 bits: each run of elements begins with a block
    /// of the whole tensor, and is cut between blocks.
    pub fn check_blocks(self, rows: usize) -> Result<(), Error> {
        let (mut at, mut left) = (self, rows);
        while left > 0 {
            let (first, run) = at.run(left);
            let cut = first.wrapping_add(run as u64);
            for offset in [Some(first), (run < left).then_some(cut)].into_iter().flatten() {
                if !offset.is_multiple_of(BLOCK as u64) {
                    return Err(Error::Offset { offset });
                }
            }
            (at, left) = (at.skip(run), left - run.max(1));
        }
        Ok(())
    }
}

/// The elements of a whole tensor that one process has: ranges of indices in each dimension.
///
/// It is for stochastic rounding, by [`ParamMut::with_shard`](crate::ParamMut::with_shard). The
/// elements of the shard are in row-major order, where the ranges of a dimension follow each other.
///
/// ```
/// use fused_adam::Shard;
///
/// // The last two columns of a matrix of 3 by 8.
/// let columns = Shard::new(&[3, 8], &[&[0..3], &[6..8]])?;
/// assert_eq!(columns.len(), 6);
/// assert_eq!([0, 1, 2, 5].map(|i| columns.index(i)), [6, 7, 14, 23].map(Some));
/// # Ok::<(), fused_adam::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shard {
    /// The dimensions from the last to the first. Dimensions that lie next to each other in memory
    /// are merged: a range of rows is one range of elements.
    dims: Vec<Dim>,
}

/// One dimension.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Dim {
    /// The distance between two indices in the whole tensor, in elements.
    stride: u64,
    /// Each range, with the number of indices up to its end.
    ranges: Vec<(Range<u64>, u64)>,
    /// The number of indices in all ranges.
    len: u64,
}

impl Dim {
    /// The ranges, each index of which stands for `inner` indices. Ranges that touch are merged.
    fn new(stride: u64, inner: u64, ranges: &[Range<u64>]) -> Self {
        let mut dim = Dim { stride, ranges: Vec::new(), len: 0 };
        for range in ranges {
            let (start, end) = (range.start * inner, range.end * inner);
            if start == end {
                continue;
            }
            dim.len += end - start;
            match dim.ranges.last_mut() {
                Some((last, up_to)) if last.end == start => (last.end, *up_to) = (end, dim.len),
                _ => dim.ranges.push((start..end, dim.len)),
            }
        }
        dim
    }
}

impl Shard {
    /// The shard of a tensor of this shape that has, in each dimension, the indices in these
    /// ranges.
    ///
    /// # Errors
    ///
    /// [`Error::ShardDimensions`] if there are not as many lists of ranges as dimensions.
    /// [`Error::Shard`] if ranges of a dimension are not ascending, overlap, or are not within its
    /// size.
    pub fn new(shape: &[u64], ranges: &[&[Range<u64>]]) -> Result<Self, Error> {
        if ranges.len() != shape.len() {
            return Err(Error::ShardDimensions { given: ranges.len(), expected: shape.len() });
        }
        // A scalar has one element.
        let mut dims = vec![Dim::new(1, 1, slice::from_ref(&(0..1)))];
        let mut whole = true;
        for (dimension, (&size, ranges)) in shape.iter().zip(ranges).enumerate().rev() {
            let mut end = 0;
            for range in *ranges {
                if range.start < end || range.end < range.start || range.end > size {
                    let range = range.clone();
                    return Err(Error::Shard { dimension, range, size });
                }
                end = range.end;
            }
            let len: u64 = ranges.iter().map(|range| range.end - range.start).sum();
            let Some(last) = dims.last_mut() else { continue };
            let inner = last.len;
            if whole && size.checked_mul(inner).is_some() {
                // All elements of the dimensions so far: a range of this one is a longer range.
                *last = Dim::new(1, inner, ranges);
                whole = len == size;
            } else {
                // An index past 2^64 wraps around.
                let stride = shape[dimension + 1..].iter().fold(1, |a: u64, b| a.wrapping_mul(*b));
                dims.push(Dim::new(stride, 1, ranges));
                whole = false;
            }
        }
        Ok(Shard { dims })
    }

    /// The number of elements of the shard.
    pub fn len(&self) -> u64 {
        self.dims.iter().fold(1, |len: u64, dim| len.saturating_mul(dim.len))
    }

    /// Whether the shard has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The index in the whole tensor of an element of the shard, counted in row-major order. `None`
    /// if the shard has fewer elements.
    pub fn index(&self, element: u64) -> Option<u64> {
        self.run_at(element).map(|(index, _)| index)
    }

    /// The index in the whole tensor of an element of the shard, and the number of elements from
    /// there on that follow each other in the whole tensor.
    pub(super) fn run_at(&self, element: u64) -> Option<(u64, u64)> {
        let (mut rest, mut index, mut run) = (element, 0_u64, None);
        if element >= self.len() {
            return None;
        }
        for dim in &self.dims {
            let within = rest % dim.len;
            rest /= dim.len;
            let at = dim.ranges.partition_point(|(_, up_to)| *up_to <= within);
            let (range, up_to) = dim.ranges.get(at)?;
            let left = up_to - within;
            index = index.wrapping_add((range.end - left).wrapping_mul(dim.stride));
            run.get_or_insert(left);
        }
        Some((index, run?))
    }
}
