//! The sum of the squares of `f32`, by blocks.

use core::ops::Range;

use pulp::NullaryFnOnce;

use super::GradNorm;
use super::blocks::{Number, Sum, add_all};
use super::exact::ExactSum;
use crate::backend::tiles::fetch_lines;

/// Elements that are added side by side.
const ROW: usize = 16;

/// With `FUSED` by fused multiply-adds, for an engine whose instructions have them. The results are
/// the same: what is added to a square is exact in either way, and so is what is taken off it.
pub(super) struct AddSingles<'a, const FUSED: bool> {
    pub norm: &'a mut GradNorm,
    pub grad: &'a [f32],
}

impl<const FUSED: bool> NullaryFnOnce for AddSingles<'_, FUSED> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        add_all(ByArrays::<FUSED>, self.norm, self.grad);
    }
}

impl Number for f32 {
    type Size = u32;
    const BLOCK: usize = 4096;
    const INFINITE: u32 = f32::INFINITY.to_bits() << 1;
    const NO_SIZE: u32 = u32::MAX;

    #[inline(always)]
    fn size(self) -> u32 {
        self.to_bits() << 1
    }

    fn of_size(size: u32) -> Self {
        f32::from_bits(size >> 1)
    }

    #[inline(always)]
    fn window(most: u32) -> Option<Range<u32>> {
        let window = Window::below(most);
        Some(window.from(true)..window.until())
    }
}

#[derive(Clone, Copy)]
struct ByArrays<const FUSED: bool>;

impl<const FUSED: bool> Sum<f32> for ByArrays<FUSED> {
    #[inline(always)]
    fn add(self, block: &[f32], least: u32, most: u32, later: &[f32], squares: &mut ExactSum) {
        let window = Window::below(most);
        if least >= window.from(false) {
            Sums::<false>::of::<FUSED>(block, window, later).add_to(squares);
        } else {
            Sums::<true>::of::<FUSED>(block, window, later).add_to(squares);
        }
    }
}

/// Some binades of `f32` from the topmost of a block down, of which 4096 squares can be summed exactly in a few
/// `f64`: 18 binades in two, 38 in three.
///
/// Let |g| < 2^(E+1), so that g² < 2^(2E+2), and let g² = h + r where h is g² rounded to a multiple
/// of 2^(2E−38). A sum of 4096 such h is at most 2^(2E+14): 52 bits. And |r| ≤ 2^(2E−39), so the r
/// sum up to 2^(2E−27) at most. In two parts: with |g| ≥ 2^(E−17), whose last bit is no less than 2^(E−40), they
/// are multiples of 2^(2E−80): 53 bits. In three parts: let r = i + s where i is r rounded to a multiple of 2^(2E−79). Then
/// the i sum up to 52 bits, and |s| ≤ 2^(2E−80), so the s sum up to 2^(2E−68) at most; with |g| ≥ 2^(E−37) they are multiples of
/// 2^(2E−120): 52 bits. Each h, r, i and s is exact: a square has 48 bits.
#[derive(Clone, Copy)]
struct Window {
    /// E, biased as in the format. Subnormals count as of the least exponent.
    top: u32,
}

impl Window {
    /// The window whose topmost binade is that of `most`.
    #[inline(always)]
    fn below(most: u32) -> Self {
        Window { top: (most >> 24).max(1) }
    }

    /// The least size that the bits of two parts are enough for; with `wide` those of three.
    #[inline(always)]
    fn from(self, wide: bool) -> u32 {
        let binades = if wide { 38 } else { 18 };
        if self.top > binades { (self.top - (binades - 1)) << 24 } else { 1 }
    }

    /// The size where it ends.
    #[inline(always)]
    fn until(self) -> u32 {
        (self.top + 1) << 24
    }

    /// 1.5·2^52 times the units of h and of i: what is added to it is rounded to that unit.
    #[inline(always)]
    fn rounds(self) -> [f64; 2] {
        let top = self.top as i32 - 127;
        [2 * top - 38, 2 * top - 79]
            .map(|unit| f64::from_bits(((unit + 52 + 1023) as u64) << 52 | 1 << 51))
    }
}

/// The sums of h and of r, or with `WIDE` of h, i and s, in as many lanes as keep the adders busy.
struct Sums<const WIDE: bool> {
    /// Σh on top of its `round`: a sum so far is what rounds the next square.
    high: [f64; ROW],
    /// Σi, likewise.
    middle: [f64; ROW],
    low: [f64; ROW],
    window: Window,
}

impl<const WIDE: bool> Sums<WIDE> {
    #[inline(always)]
    fn of<const FUSED: bool>(block: &[f32], window: Window, later: &[f32]) -> Self {
        let [high, middle] = window.rounds().map(|round| [round; ROW]);
        let mut sums = Sums { high, middle, low: [0.0; ROW], window };
        let (rows, rest) = block.as_chunks::<ROW>();
        let (later, _) = later.as_chunks::<ROW>();
        let (with, without) = rows.split_at(rows.len().min(later.len()));
        for (row, later) in with.iter().zip(later) {
            fetch_lines(later);
            sums.add::<FUSED>(row);
        }
        for row in without {
            sums.add::<FUSED>(row);
        }
        if !rest.is_empty() {
            // Zeros change nothing.
            let mut last = [0.0; ROW];
            for (last, g) in last.iter_mut().zip(rest) {
                *last = *g;
            }
            sums.add::<FUSED>(&last);
        }
        sums
    }

    #[inline(always)]
    fn add<const FUSED: bool>(&mut self, row: &[f32; ROW]) {
        // In stages of one operation each, which the compiler turns into registers.
        let mut g = [0.0; ROW];
        for i in 0..ROW {
            g[i] = f64::from(row[i]);
        }
        let mut high = [0.0; ROW];
        for i in 0..ROW {
            high[i] = square_plus::<FUSED>(g[i], self.high[i]);
        }
        let mut rest = [0.0; ROW];
        for i in 0..ROW {
            let h = high[i] - self.high[i];
            rest[i] = square_plus::<FUSED>(g[i], -h);
        }
        self.high = high;
        if WIDE {
            let mut middle = [0.0; ROW];
            for i in 0..ROW {
                middle[i] = self.middle[i] + rest[i];
            }
            for i in 0..ROW {
                rest[i] -= middle[i] - self.middle[i];
            }
            self.middle = middle;
        }
        for (low, rest) in self.low.iter_mut().zip(rest) {
            *low += rest;
        }
    }

    #[inline(always)]
    fn add_to(self, squares: &mut ExactSum) {
        let [high, middle] = self.window.rounds();
        for (mut part, round) in [(self.high, high), (self.middle, middle), (self.low, 0.0)] {
            for sum in &mut part {
                *sum -= round;
            }
            squares.add(halved(part));
        }
    }
}

/// g² + x. The square of an `f32` is exact in an `f64`, so this is rounded once in either way.
#[inline(always)]
fn square_plus<const FUSED: bool>(g: f64, x: f64) -> f64 {
    if FUSED { g.mul_add(g, x) } else { g * g + x }
}

/// The sum of the lanes, which is exact in any order, in four steps of latency.
#[inline(always)]
fn halved(mut lanes: [f64; ROW]) -> f64 {
    let mut width = ROW / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}
