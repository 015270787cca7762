//! Which elements of a whole tensor a shard has. The random bits of stochastic rounding depend on
//! the index of an element in the whole tensor, so that a shard gets the bits of the whole.

use core::iter;
use core::ops::Range;

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
    ranges: Vec<Range<u64>>,
    /// The number of indices in all ranges.
    len: u64,
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
        let mut dims = vec![Dim { stride: 1, ranges: iter::once(0..1).collect(), len: 1 }];
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
            let len = ranges.iter().map(|range| range.end - range.start).sum();
            let ranges = ranges.iter().filter(|range| !range.is_empty()).cloned();
            let Some(last) = dims.last_mut() else { continue };
            if whole {
                // All elements of the dimensions so far: a range of this one is a longer range.
                let inner = last.len;
                let scaled = |i: u64| i.saturating_mul(inner);
                last.ranges = ranges.map(|range| scaled(range.start)..scaled(range.end)).collect();
                last.len = scaled(len);
                whole = len == size;
            } else {
                let stride =
                    shape[dimension + 1..].iter().fold(1, |a: u64, b| a.saturating_mul(*b));
                dims.push(Dim { stride, ranges: ranges.collect(), len });
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
            let mut within = rest % dim.len;
            rest /= dim.len;
            let range = dim.ranges.iter().find(|range| {
                let len = range.end - range.start;
                let found = within < len;
                within -= if found { 0 } else { len };
                found
            })?;
            index = index.wrapping_add((range.start + within).wrapping_mul(dim.stride));
            run.get_or_insert(range.end - range.start - within);
        }
        Some((index, run?))
    }
}
