//! Gradient norms, whose bits do not depend on the order of the elements.
//!
//! The squares are summed without rounding, in blocks:
//!
//! - The square of each `f32` is split into two or three parts. Each part is a multiple of so large
//!   a power of two that its sum over a block is exact in an `f64`, in any order. So the parts can
//!   be summed in the lanes of registers ([`singles`], [`rows`]).
//! - The sums of a block are added to one long integer ([`exact`]).
//! - Blocks are cut in the same way for all types ([`blocks`]).
//! - 16-bit elements are widened to `f32` first. The square of an `f64` needs six parts
//!   ([`doubles`]).

mod blocks;
mod doubles;
mod exact;
mod rows;
mod singles;

use crate::elements::Element;
use crate::elements::column::Column;
use crate::elements::convert;
use crate::simd::dispatch::Engine;
use doubles::AddDoubles;
use exact::ExactSum;
use singles::AddSingles;

/// Computes the norm of one or more gradients: √Σg² and the largest |g|.
///
/// The sum is exact, and only the result is rounded. So the same elements give the same bits in any
/// order, on any machine, for any split of the gradients, and on any number of threads.
///
/// ```
/// use fused_adam::GradNorm;
///
/// let grad: Vec<f32> = (0..10_000).map(|i| (i as f32).sin()).collect();
/// let mut whole = GradNorm::new();
/// whole.add(&grad);
///
/// let (mut left, mut right) = (GradNorm::new(), GradNorm::new());
/// left.add(&grad[..1234]);
/// right.add(&grad[1234..]);
/// right.merge(&left);
/// assert_eq!(right.two_norm().to_bits(), whole.two_norm().to_bits());
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct GradNorm {
    squares: ExactSum,
    largest: f64,
    infinite: u64,
    nan: u64,
}

impl Default for GradNorm {
    fn default() -> Self {
        Self::new()
    }
}

impl GradNorm {
    /// The norm of no elements, which is 0.
    pub fn new() -> Self {
        GradNorm { squares: ExactSum::ZERO, largest: 0.0, infinite: 0, nan: 0 }
    }

    /// Adds the elements of a gradient, on the calling thread.
    ///
    /// On a CPU with AVX2, AVX-512 or NEON, this runs at about memory bandwidth. It is slower in
    /// these cases:
    ///
    /// - A block of 4096 `f32` spans more than 38 powers of two, or a block of 2048 `f64` more than
    ///   31.
    /// - An element is infinite or NaN. Then each element of its block takes some nanoseconds.
    /// - An `f64` is outside of 2^−450 to 2^500. Then it takes some nanoseconds.
    /// - On other CPUs each `f64` takes some nanoseconds.
    pub fn add<E: Element>(&mut self, grad: &[E]) {
        self.add_column(Engine::best(), E::column(grad));
    }

    /// Adds all elements that were added to `other`.
    pub fn merge(&mut self, other: &Self) {
        self.squares.merge(&other.squares);
        self.largest = self.largest.max(other.largest);
        self.infinite = self.infinite.saturating_add(other.infinite);
        self.nan = self.nan.saturating_add(other.nan);
    }

    /// The number of bytes of [`to_bytes`](Self::to_bytes).
    pub const BYTES: usize = ExactSum::BYTES + 24;

    /// The norm as bytes, to send it to other processes and [`merge`](Self::merge) it there. They
    /// are the same on every machine; `kernels.md` has their layout.
    ///
    /// ```
    /// use fused_adam::GradNorm;
    ///
    /// let (mut mine, mut of_another) = (GradNorm::new(), GradNorm::new());
    /// mine.add(&[3.0_f32]);
    /// of_another.add(&[4.0_f32]);
    /// let received = of_another.to_bytes();
    /// mine.merge(&GradNorm::from_bytes(&received).unwrap());
    /// assert_eq!(mine.two_norm(), 5.0);
    /// ```
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let (squares, rest) = bytes.split_at_mut(ExactSum::BYTES);
        self.squares.write_to(squares);
        let words = [self.largest.to_bits(), self.infinite, self.nan];
        for (to, word) in rest.as_chunks_mut().0.iter_mut().zip(words) {
            *to = word.to_le_bytes();
        }
        bytes
    }

    /// The norm whose [`to_bytes`](Self::to_bytes) these are. `None` if the bytes are of no norm.
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let (squares, rest) = bytes.split_at(ExactSum::BYTES);
        let squares = ExactSum::read_from(squares);
        let word = |i: usize| u64::from_le_bytes(rest.as_chunks().0[i]);
        let (largest, infinite, nan) = (f64::from_bits(word(0)), word(1), word(2));
        let is_size = largest.is_finite() && largest.is_sign_positive();
        is_size.then_some(GradNorm { squares, largest, infinite, nan })
    }

    /// The 2-norm √Σg², correctly rounded: the `f64` nearest to the root of the exact sum.
    ///
    /// NaN if an element is NaN, else infinite if an element is infinite. Also infinite if the root
    /// is larger than the largest `f64`.
    pub fn two_norm(&self) -> f64 {
        self.unless_not_finite(|| self.squares.sqrt())
    }

    /// The infinity norm: the largest |g|, exact. 0 if there are no elements.
    ///
    /// NaN if an element is NaN, else infinite if an element is infinite.
    pub fn inf_norm(&self) -> f64 {
        self.unless_not_finite(|| self.largest)
    }

    /// The number of elements that are infinite or NaN.
    pub fn nonfinite(&self) -> u64 {
        self.infinite.saturating_add(self.nan)
    }

    fn unless_not_finite(&self, norm: impl FnOnce() -> f64) -> f64 {
        match (self.nan, self.infinite) {
            (0, 0) => norm(),
            (0, _) => f64::INFINITY,
            _ => f64::NAN,
        }
    }

    pub(crate) fn add_column(&mut self, engine: Engine, grad: Column<'_>) {
        /// The number of 16-bit elements that are widened at a time.
        const TILE: usize = 512;
        match grad {
            Column::F32(grad) => self.add_singles(engine, grad),
            Column::F64(grad) => self.add_doubles(engine, grad),
            Column::Block8(_) => unreachable!("gradients are not stored in 8 bits"),
            Column::Bf16(_) | Column::F16(_) => {
                let (mut wide, mut rest) = ([0.0; TILE], grad);
                while rest.len() > 0 {
                    let (tile, after) = rest.split_at(TILE.min(rest.len()));
                    let wide = &mut wide[..tile.len()];
                    convert::widen(engine, tile, wide);
                    self.add_singles(engine, wide);
                    rest = after;
                }
            }
        }
    }

    fn add_singles(&mut self, engine: Engine, grad: &[f32]) {
        if let Err(AddSingles { norm, grad }) = engine.vectorize(AddSingles { norm: self, grad }) {
            singles::add_by_arrays(norm, grad);
        }
    }

    fn add_doubles(&mut self, engine: Engine, grad: &[f64]) {
        if let Err(AddDoubles { norm, grad }) = engine.vectorize(AddDoubles { norm: self, grad }) {
            // The rounding error of a square can only be found with a fused multiply-add.
            grad.iter().for_each(|&g| norm.add_number(g));
        }
    }

    fn add_number(&mut self, g: f64) {
        if g.is_finite() {
            self.squares.add_square(g);
            self.largest = self.largest.max(g.abs());
        } else {
            self.count(g.is_nan());
        }
    }

    fn count(&mut self, nan: bool) {
        if nan {
            self.nan = self.nan.saturating_add(1);
        } else {
            self.infinite = self.infinite.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::dispatch::Backend;

    /// On each engine that this CPU has, the sum is exact to its last bit. The gradients have
    /// neighbours of all sizes, blocks of one and of several windows, and a rest at the end. The
    /// test compares the sums, since a norm has too few bits to show an error.
    #[test]
    fn every_engine_is_exact() {
        let mut state = 1_u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
            (state >> 33) % below
        };
        let (mut singles, mut doubles) = (Vec::new(), Vec::new());
        for _ in 0..60 {
            let (top, span) = (random(60), 1 + random(60));
            for _ in 0..random(9000) {
                let size = 2_f64.powi(top as i32 - random(span) as i32);
                let digits = 1.0 + random(1 << 31) as f64 / 2_f64.powi(31);
                singles.push((digits * size) as f32);
                doubles.push((digits + 2_f64.powi(-52)) * size);
            }
        }
        let mut expected = [GradNorm::new(), GradNorm::new()];
        singles.iter().for_each(|&g| expected[0].add_number(g.into()));
        doubles.iter().for_each(|&g| expected[1].add_number(g));
        for &backend in Backend::ALL {
            let Some(engine) = Engine::of(backend) else {
                println!("skipped: {backend}");
                continue;
            };
            let mut got = [GradNorm::new(), GradNorm::new()];
            got[0].add_column(engine, Column::F32(&singles));
            got[1].add_column(engine, Column::F64(&doubles));
            assert!(got == expected, "{backend}");
        }
    }
}
