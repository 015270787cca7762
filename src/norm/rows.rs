//! Rows of `f32`, whose squares are added at once: in registers, or in arrays.

use super::blocks::{MinMax, Sizes};
use crate::simd::native::NativeSimd;

/// The arithmetic on all elements of a row at once. A row has enough elements to keep the adders
/// busy.
pub(super) trait Arithmetic: Copy {
    type MinMax: MinMax<f32, Self>;
    type Row;
    /// A row as `f64`, in any order.
    type Doubles: Copy;

    /// The whole rows of a block, and the rest.
    fn rows(block: &[f32]) -> (&[Self::Row], &[f32]);
    /// A row of a rest, which is shorter, and zeros.
    fn row_of(self, rest: &[f32]) -> Self::Row;
    /// Converts a row to `f64`.
    fn doubles(self, row: &Self::Row) -> Self::Doubles;
    /// `x` in every lane.
    fn splat(self, x: f64) -> Self::Doubles;
    /// a + b.
    fn plus(self, a: Self::Doubles, b: Self::Doubles) -> Self::Doubles;
    /// a − b.
    fn minus(self, a: Self::Doubles, b: Self::Doubles) -> Self::Doubles;
    /// g² + x, rounded once, since the square of an `f32` is exact in an `f64`.
    fn square_plus(self, g: Self::Doubles, x: Self::Doubles) -> Self::Doubles;
    /// g² − x, rounded once.
    fn square_minus(self, g: Self::Doubles, x: Self::Doubles) -> Self::Doubles;
    /// The sum of all lanes. It must be exact in any order.
    fn sum(self, a: Self::Doubles) -> f64;
}

/// The number of `f32` registers in a row. AArch64 has registers of 128 bits, but twice as many as
/// AVX2.
const REGISTERS: usize = if cfg!(target_arch = "aarch64") { 4 } else { 2 };

/// Arithmetic in the registers of an instruction set.
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

/// The smallest and the largest size in each lane of a register.
#[derive(Clone, Copy)]
pub(super) struct MinMaxByLanes<P: NativeSimd> {
    by: ByRegisters<P>,
    /// The smallest size, minus 1. The subtraction wraps, so zero has the largest value.
    least_less_one: P::u32s,
    most: P::u32s,
}

impl<P: NativeSimd> MinMaxByLanes<P> {
    #[inline(always)]
    fn and_register(self, g: P::f32s) -> Self {
        let simd = self.by.0;
        let bits = simd.transmute_u32s_f32s(g);
        let size = simd.add_u32s(bits, bits);
        let less_one = simd.sub_u32s(size, simd.splat_u32s(1));
        MinMaxByLanes {
            least_less_one: simd.umin(self.least_less_one, less_one),
            most: simd.umax(self.most, size),
            ..self
        }
    }
}

impl<P: NativeSimd> MinMax<f32, ByRegisters<P>> for MinMaxByLanes<P> {
    #[inline(always)]
    fn nothing(by: ByRegisters<P>) -> Self {
        let (least_less_one, most) = (by.0.splat_u32s(u32::MAX), by.0.splat_u32s(0));
        MinMaxByLanes { by, least_less_one, most }
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
    type MinMax = MinMaxByLanes<P>;
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

/// The number of elements in a row of an array.
const ROW: usize = 16;

/// Arithmetic in arrays, with loops that the compiler may vectorize.
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
    type MinMax = Sizes<f32>;
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
