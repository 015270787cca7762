//! The sum of the squares of `f64`, block by block. The method is that of
//! [`singles`](super::singles), but with six parts, since a square has up to 106 bits.

use core::ops::Range;

use super::GradNorm;
use super::blocks::{AddRows, Lookahead, Number, Sizes, Sum, add_all};
use super::exact::ExactSum;
use super::rows::ByRegisters;
use crate::simd::dispatch::WithSimd;
use crate::simd::native::NativeSimd;

/// Adds `grad` to `norm`, on an engine that has fused multiply-adds.
pub(super) struct AddDoubles<'a> {
    pub norm: &'a mut GradNorm,
    pub grad: &'a [f64],
}

impl WithSimd for AddDoubles<'_> {
    type Output = ();

    #[inline(always)]
    fn with<P: NativeSimd>(self, simd: P) {
        add_all(ByRegisters(simd), self.norm, self.grad);
    }
}

impl Number for f64 {
    type Size = u64;
    const BLOCK: usize = 2048;
    const ZERO: u64 = 0;
    const INFINITE: u64 = f64::INFINITY.to_bits() << 1;
    const NO_SIZE: u64 = u64::MAX;

    #[inline(always)]
    fn size(self) -> u64 {
        self.to_bits() << 1
    }

    fn of_size(size: u64) -> Self {
        f64::from_bits(size >> 1)
    }

    #[inline(always)]
    fn window(most: u64) -> Option<Range<u64>> {
        // Squares of larger numbers overflow. The rounding errors of smaller ones are subnormal.
        let top = Window::below(most).top;
        (1023 - 450..1023 + 500)
            .contains(&top)
            .then(|| u64::from(top - (BINADES - 1)) << 53..u64::from(top + 1) << 53)
    }
}

impl<P: NativeSimd> Sum<f64> for ByRegisters<P> {
    type MinMax = Sizes<f64>;

    #[inline(always)]
    fn add(
        self,
        block: &[f64],
        sizes: Sizes<f64>,
        ahead: &mut Lookahead<'_, f64, Self>,
        squares: &mut ExactSum,
    ) {
        Sums::of(self.0, block, Window::below(sizes.most), ahead).add_to(squares);
    }
}

/// The number of binades in a window. A binade is the range from a power of two to the next.
const BINADES: u32 = 31;

/// A window: 31 binades, from that of the largest element down. 2048 squares of its elements can be
/// summed exactly in six `f64`.
///
/// Let |g| < 2^(E+1), and let g² = p + e, where p is the rounded square and e its rounding error.
/// Then p ≤ 2^(2E+2) and |e| ≤ 2^(2E−52).
/// - h is p, rounded to a multiple of 2^(2E−39). The sum of the h is at most 2^(2E+13): 52 bits.
/// - i is p − h, which is at most 2^(2E−40), rounded to a multiple of 2^(2E−81). The sum of the i
///   is at most 2^(2E−29): 52 bits.
/// - j is e, rounded to a multiple of 2^(2E−81). The sum of the j is smaller than that.
/// - k is p − h − i, which is at most 2^(2E−82). With |g| ≥ 2^(E−30), p is a multiple of
///   2^(2E−112), so k is not rounded. The sum of the k is at most 2^(2E−71): 51 bits.
/// - l is e − j, which is at most 2^(2E−82), rounded to a multiple of 2^(2E−122). The sum of the l
///   is at most 2^(2E−71): 51 bits.
/// - The rest, e − j − l, is at most 2^(2E−123), and a multiple of 2^(2E−164). The sum of the rests
///   is at most 2^(2E−112): 52 bits.
#[derive(Clone, Copy)]
struct Window {
    /// E, with the bias of the format.
    top: u32,
}

impl Window {
    /// The window whose highest binade is that of `most`.
    #[inline(always)]
    fn below(most: u64) -> Self {
        Window { top: (most >> 53) as u32 }
    }

    /// 1.5·2^52 times the units of h, of i and j, and of k and l. Adding a number to one of these
    /// rounds the number to that unit.
    #[inline(always)]
    fn rounds(self) -> [f64; 3] {
        let top = self.top as i32 - 1023;
        [2 * top - 39, 2 * top - 81, 2 * top - 122]
            .map(|unit| f64::from_bits(((unit + 52 + 1023) as u64) << 52 | 1 << 51))
    }
}

/// The sums of the parts, in the lanes of registers. A sum of rounded parts starts at its number of
/// [`Window::rounds`], so that adding to the sum rounds the next part.
struct Sums<P: NativeSimd> {
    simd: P,
    /// Σh.
    h: P::f64s,
    /// Σi and Σj.
    ij: [P::f64s; 2],
    /// Σk and Σl.
    kl: [P::f64s; 2],
    rest: P::f64s,
    window: Window,
}

impl<P: NativeSimd> Sums<P> {
    #[inline(always)]
    fn of(
        simd: P,
        block: &[f64],
        window: Window,
        ahead: &mut Lookahead<'_, f64, ByRegisters<P>>,
    ) -> Self {
        let [h, ij, kl] = window.rounds().map(|round| simd.splat_f64s(round));
        let rest = simd.splat_f64s(0.0);
        let mut sums = Sums { simd, h, ij: [ij; 2], kl: [kl; 2], rest, window };
        ahead.while_adding(block, &mut sums);
        sums
    }

    #[inline(always)]
    fn add_to(self, squares: &mut ExactSum) {
        let Sums { simd, h, ij: [i, j], kl: [k, l], rest, window } = self;
        let [of_h, of_ij, of_kl] = window.rounds();
        for (sums, round) in
            [(h, of_h), (i, of_ij), (j, of_ij), (k, of_kl), (l, of_kl), (rest, 0.0)]
        {
            let lanes = simd.sub_f64s(sums, simd.splat_f64s(round));
            squares.add(simd.reduce_sum_f64s(lanes));
        }
    }
}

impl<P: NativeSimd> AddRows<f64> for Sums<P> {
    type Row = P::f64s;

    #[inline(always)]
    fn rows(block: &[f64]) -> (&[P::f64s], &[f64]) {
        P::as_simd_f64s(block)
    }

    #[inline(always)]
    fn add_rest(&mut self, rest: &[f64]) {
        // The other lanes are 0, which changes nothing.
        self.add(&self.simd.partial_load_f64s(rest));
    }

    #[inline(always)]
    fn add(&mut self, &g: &P::f64s) {
        let simd = self.simd;
        // Rounds `x` to the unit of `sum`, adds it to `sum`, and returns the rest of `x`.
        let take = |sum: &mut P::f64s, x| {
            let new = simd.add_f64s(*sum, x);
            let taken = simd.sub_f64s(new, *sum);
            *sum = new;
            simd.sub_f64s(x, taken)
        };
        let p = simd.mul_f64s(g, g);
        let e = simd.mul_add_f64s(g, g, simd.neg_f64s(p));
        let p = take(&mut self.h, p);
        let p = take(&mut self.ij[0], p);
        let e = take(&mut self.ij[1], e);
        self.kl[0] = simd.add_f64s(self.kl[0], p);
        let e = take(&mut self.kl[1], e);
        self.rest = simd.add_f64s(self.rest, e);
    }
}
