//! The sum of the squares of `f32`, block by block, in two or three parts.

use core::ops::Range;

use super::GradNorm;
use super::blocks::{AddRows, Lookahead, Number, Sizes, Sum, add_all};
use super::exact::ExactSum;
use super::rows::{Arithmetic, ByArrays, ByRegisters};
use crate::simd::dispatch::WithSimd;
use crate::simd::native::NativeSimd;

/// Adds `grad` to `norm`, on an engine that has registers of `pulp`.
pub(super) struct AddSingles<'a> {
    pub norm: &'a mut GradNorm,
    pub grad: &'a [f32],
}

impl WithSimd for AddSingles<'_> {
    type Output = ();

    #[inline(always)]
    fn with<P: NativeSimd>(self, simd: P) {
        add_all(ByRegisters(simd), self.norm, self.grad);
    }
}

/// Adds `grad` to `norm`, on an engine without such registers, with loops over arrays that the
/// compiler may vectorize.
pub(super) fn add_by_arrays(norm: &mut GradNorm, grad: &[f32]) {
    add_all(ByArrays, norm, grad);
}

impl Number for f32 {
    type Size = u32;
    const BLOCK: usize = 4096;
    const ZERO: u32 = 0;
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

impl<A: Arithmetic> Sum<f32> for A {
    type MinMax = A::MinMax;

    #[inline(always)]
    fn add(
        self,
        block: &[f32],
        sizes: Sizes<f32>,
        ahead: &mut Lookahead<'_, f32, Self>,
        squares: &mut ExactSum,
    ) {
        let window = Window::below(sizes.most);
        if sizes.least >= window.from(false) {
            Sums::<A, false>::of(self, block, window, ahead).add_to(squares);
        } else {
            Sums::<A, true>::of(self, block, window, ahead).add_to(squares);
        }
    }
}

/// A window: some binades of `f32`, from that of the largest element down. A binade is the range
/// from a power of two to the next. 4096 squares can be summed exactly in a few `f64`: of 18
/// binades in two, of 38 in three.
///
/// Let |g| < 2^(E+1), so that g² < 2^(2E+2). Let g² = h + r, where h is g² rounded to a multiple of
/// 2^(2E−38). The sum of 4096 such h is at most 2^(2E+14): 52 bits. |r| ≤ 2^(2E−39), so the sum of
/// the r is at most 2^(2E−27).
/// - In two parts: if |g| ≥ 2^(E−17), its last bit is at least 2^(E−40). So the r are multiples of
///   2^(2E−80), and their sum has 53 bits.
/// - In three parts: let r = i + s, where i is r rounded to a multiple of 2^(2E−79). The sum of the
///   i has 52 bits. |s| ≤ 2^(2E−80), so the sum of the s is at most 2^(2E−68). If |g| ≥ 2^(E−37),
///   the s are multiples of 2^(2E−120), and their sum has 52 bits.
///
/// A square has 48 bits, so each h, r, i and s is exact.
#[derive(Clone, Copy)]
struct Window {
    /// E, with the bias of the format. Subnormals count as having the smallest normal exponent.
    top: u32,
}

impl Window {
    /// The window whose highest binade is that of `most`.
    #[inline(always)]
    fn below(most: u32) -> Self {
        Window { top: (most >> 24).max(1) }
    }

    /// The size where the window begins: that of two parts, or with `wide` that of three.
    #[inline(always)]
    fn from(self, wide: bool) -> u32 {
        let binades = if wide { 38 } else { 18 };
        if self.top > binades { (self.top - (binades - 1)) << 24 } else { 1 }
    }

    /// The size where the window ends. It is not in the window.
    #[inline(always)]
    fn until(self) -> u32 {
        (self.top + 1) << 24
    }

    /// 1.5·2^52 times the units of h and of i. Adding a number to one of these rounds the number to
    /// that unit.
    #[inline(always)]
    fn rounds(self) -> [f64; 2] {
        let top = self.top as i32 - 127;
        [2 * top - 38, 2 * top - 79]
            .map(|unit| f64::from_bits(((unit + 52 + 1023) as u64) << 52 | 1 << 51))
    }
}

/// The sums of h and r, or with `WIDE` of h, i and s, in as many lanes as a row has elements.
struct Sums<A: Arithmetic, const WIDE: bool> {
    by: A,
    /// Σh. It starts at its number of [`Window::rounds`], so that adding to it rounds the next
    /// square.
    high: A::Doubles,
    /// Σi, in the same way. Used only with `WIDE`.
    middle: A::Doubles,
    /// Σr, or with `WIDE` Σs.
    low: A::Doubles,
    window: Window,
}

impl<A: Arithmetic, const WIDE: bool> Sums<A, WIDE> {
    #[inline(always)]
    fn of(by: A, block: &[f32], window: Window, ahead: &mut Lookahead<'_, f32, A>) -> Self {
        let [high, middle] = window.rounds();
        let (high, middle, low) = (by.splat(high), by.splat(middle), by.splat(0.0));
        let mut sums = Sums { by, high, middle, low, window };
        ahead.while_adding(block, &mut sums);
        sums
    }

    #[inline(always)]
    fn add_to(self, squares: &mut ExactSum) {
        let Sums { by, high, middle, low, window } = self;
        let [of_high, of_middle] = window.rounds();
        for (sums, round) in [(high, of_high), (middle, of_middle), (low, 0.0)] {
            squares.add(by.sum(by.minus(sums, by.splat(round))));
        }
    }
}

impl<A: Arithmetic, const WIDE: bool> AddRows<f32> for Sums<A, WIDE> {
    type Row = A::Row;

    #[inline(always)]
    fn rows(block: &[f32]) -> (&[A::Row], &[f32]) {
        A::rows(block)
    }

    #[inline(always)]
    fn add(&mut self, row: &A::Row) {
        let by = self.by;
        let g = by.doubles(row);
        let high = by.square_plus(g, self.high);
        let mut rest = by.square_minus(g, by.minus(high, self.high));
        self.high = high;
        if WIDE {
            let middle = by.plus(self.middle, rest);
            rest = by.minus(rest, by.minus(middle, self.middle));
            self.middle = middle;
        }
        self.low = by.plus(self.low, rest);
    }

    #[inline(always)]
    fn add_rest(&mut self, rest: &[f32]) {
        // Zeros change nothing.
        self.add(&self.by.row_of(rest));
    }
}
