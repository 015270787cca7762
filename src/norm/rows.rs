//! Rows of `f32` whose squares are added side by side: in registers, or in arrays.

use super::blocks::{Seen, Sizes};
use crate::simd::native::NativeSimd;

/// What is done with all elements of a row at once: as many as keep the adders busy.
pub(super) trait Arithmetic: Copy {
    type Seen: Seen<f32, Self>;
    type Row;
    /// A row as `f64`, in any order.
    type Doubles: Copy;

    /// Whole rows, and the rest.
    fn rows(block: &[f32]) -> (&[Self::Row], &[f32]);
    /// Less than a row, and zeros.
    fn row_of(self, rest: &[f32]) -> Self::Row;
    fn doubles(self, row: &Self::Row) -> Self::Doubles;
    fn splat(self, x: f64) -> Self::Doubles;
    fn plus(self, a: Self::Doubles, b: Self::Doubles) -> Self::Doubles;
    fn minus(self, a: Self::Doubles, b: Self::Doubles) -> Self::Doubles;
    /// g² + x, rounded once: the square of an `f32` is exact in an `f64`.
    fn square_plus(self, g: Self::Doubles, x: Self::Doubles) -> Self::Doubles;
    /// g² − x, likewise.
    fn square_minus(self, g: Self::Doubles, x: Self::Doubles) -> Self::Doubles;
    /// Of all lanes, if that is exact in any order.
    fn sum(self, a: Self::Doubles) -> f64;
}

/// Registers of `f32` in a row: of 128 bits on aarch64, which has twice as many of them as AVX2.
const REGISTERS: usize = if cfg!(target_arch = "aarch64") { 4 } else { 2 };

/// In the registers of an instruction set.
#[derive(Clone, Copy)]
pub(super) struct ByRegisters<P>(pub P);

impl<P: NativeSimd> ByRegisters<P> {
    #[inline(always)]
    fn zip(
        self,
        mut a: [[P::f64s; 2]; REGISTERS],
        b: [[P::f64s; 2]; REGISTERS],
        f: impl Fn(P, P::f64s, P::f64s) -> P::f64s,
    ) -> [[P::f64s; 2]; REGISTERS] {
        for (a, b) in a.as_flattened_mut().iter_mut().zip(b.as_flattened()) {
            *a = f(self.0, *a, *b);
        }
        a
    }
}

/// In each lane of a register.
#[derive(Clone, Copy)]
pub(super) struct SeenByLanes<P: NativeSimd> {
    by: ByRegisters<P>,
    /// The least of the sizes less one, of which that of a zero is the largest.
    least_less_one: P::u32s,
    most: P::u32s,
}

impl<P: NativeSimd> SeenByLanes<P> {
    #[inline(always)]
    fn and_register(self, g: P::f32s) -> Self {
        let simd = self.by.0;
        let bits = simd.transmute_u32s_f32s(g);
        let size = simd.add_u32s(bits, bits);
        let less_one = simd.sub_u32s(size, simd.splat_u32s(1));
        SeenByLanes {
            least_less_one: simd.smaller_words(self.least_less_one, less_one),
            most: simd.larger_words(self.most, size),
            ..self
        }
    }
}

impl<P: NativeSimd> Seen<f32, ByRegisters<P>> for SeenByLanes<P> {
    #[inline(always)]
    fn nothing(by: ByRegisters<P>) -> Self {
        let (least_less_one, most) = (by.0.splat_u32s(u32::MAX), by.0.splat_u32s(0));
        SeenByLanes { by, least_less_one, most }
    }

    #[inline(always)]
    fn and(mut self, more: &[f32]) -> Self {
        let (registers, rest) = P::as_simd_f32s(more);
        for &g in registers {
            self = self.and_register(g);
        }
        if !rest.is_empty() {
            self = self.and_register(self.by.0.partial_load_f32s(rest));
        }
        self
    }

    #[inline(always)]
    fn sizes(self) -> Sizes<f32> {
        let mut sizes = Sizes::<f32>::NONE;
        let [least_less_one, most]: [&[u32]; 2] = [&self.least_less_one, &self.most]
            .map(|words| bytemuck::cast_slice(core::slice::from_ref(words)));
        for (&less_one, &most) in least_less_one.iter().zip(most) {
            sizes.least = sizes.least.min(less_one.saturating_add(1));
            sizes.most = sizes.most.max(most);
        }
        sizes
    }
}

impl<P: NativeSimd> Arithmetic for ByRegisters<P> {
    type Seen = SeenByLanes<P>;
    type Row = [P::f32s; REGISTERS];
    type Doubles = [[P::f64s; 2]; REGISTERS];

    #[inline(always)]
    fn rows(block: &[f32]) -> (&[Self::Row], &[f32]) {
        let (rows, _) = P::as_simd_f32s(block).0.as_chunks();
        (rows, &block[rows.len() * REGISTERS * P::F32_LANES..])
    }

    #[inline(always)]
    fn row_of(self, rest: &[f32]) -> Self::Row {
        let mut row = [self.0.splat_f32s(0.0); REGISTERS];
        for (register, rest) in row.iter_mut().zip(rest.chunks(P::F32_LANES)) {
            *register = self.0.partial_load_f32s(rest);
        }
        row
    }

    #[inline(always)]
    fn doubles(self, row: &Self::Row) -> Self::Doubles {
        let mut doubles = self.splat(0.0);
        for (doubles, register) in doubles.iter_mut().zip(row) {
            *doubles = self.0.doubles(*register);
        }
        doubles
    }

    #[inline(always)]
    fn splat(self, x: f64) -> Self::Doubles {
        [[self.0.splat_f64s(x); 2]; REGISTERS]
    }

    #[inline(always)]
    fn plus(self, a: Self::Doubles, b: Self::Doubles) -> Self::Doubles {
        self.zip(a, b, P::add_f64s)
    }

    #[inline(always)]
    fn minus(self, a: Self::Doubles, b: Self::Doubles) -> Self::Doubles {
        self.zip(a, b, P::sub_f64s)
    }

    #[inline(always)]
    fn square_plus(self, g: Self::Doubles, x: Self::Doubles) -> Self::Doubles {
        self.zip(g, x, |simd, g, x| simd.mul_add_f64s(g, g, x))
    }

    #[inline(always)]
    fn square_minus(self, g: Self::Doubles, x: Self::Doubles) -> Self::Doubles {
        self.zip(g, x, |simd, g, x| simd.mul_add_f64s(g, g, simd.neg_f64s(x)))
    }

    #[inline(always)]
    fn sum(self, a: Self::Doubles) -> f64 {
        let mut sum = self.0.splat_f64s(0.0);
        for &a in a.as_flattened() {
            sum = self.0.add_f64s(sum, a);
        }
        self.0.reduce_sum_f64s(sum)
    }
}

/// Elements of a row where there are no registers.
const ROW: usize = 16;

/// In arrays, of which the compiler makes what it can.
#[derive(Clone, Copy)]
pub(super) struct ByArrays;

impl ByArrays {
    #[inline(always)]
    fn zip(self, mut a: [f64; ROW], b: [f64; ROW], f: impl Fn(f64, f64) -> f64) -> [f64; ROW] {
        for (a, b) in a.iter_mut().zip(b) {
            *a = f(*a, b);
        }
        a
    }
}

impl Arithmetic for ByArrays {
    type Seen = Sizes<f32>;
    type Row = [f32; ROW];
    type Doubles = [f64; ROW];

    #[inline(always)]
    fn rows(block: &[f32]) -> (&[[f32; ROW]], &[f32]) {
        block.as_chunks()
    }

    #[inline(always)]
    fn row_of(self, rest: &[f32]) -> [f32; ROW] {
        let mut row = [0.0; ROW];
        row[..rest.len()].copy_from_slice(rest);
        row
    }

    #[inline(always)]
    fn doubles(self, row: &[f32; ROW]) -> [f64; ROW] {
        let mut doubles = [0.0; ROW];
        for (double, g) in doubles.iter_mut().zip(row) {
            *double = f64::from(*g);
        }
        doubles
    }

    #[inline(always)]
    fn splat(self, x: f64) -> [f64; ROW] {
        [x; ROW]
    }

    #[inline(always)]
    fn plus(self, a: [f64; ROW], b: [f64; ROW]) -> [f64; ROW] {
        self.zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn minus(self, a: [f64; ROW], b: [f64; ROW]) -> [f64; ROW] {
        self.zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn square_plus(self, g: [f64; ROW], x: [f64; ROW]) -> [f64; ROW] {
        self.zip(g, x, |g, x| g * g + x)
    }

    #[inline(always)]
    fn square_minus(self, g: [f64; ROW], x: [f64; ROW]) -> [f64; ROW] {
        self.zip(g, x, |g, x| g * g - x)
    }

    #[inline(always)]
    fn sum(self, a: [f64; ROW]) -> f64 {
        let mut sum = 0.0;
        for a in a {
            sum += a;
        }
        sum
    }
}
