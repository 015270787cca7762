//! Registers of the crate `pulp`, which offers AVX2, AVX-512 and NEON in safe code. Several
//! registers are computed together.
//!
//! The arithmetic waits for square roots and divisions. The unit that computes them takes a fixed
//! number of cycles for each register, and a step of Adam needs one of each. With [`UNROLL`]
//! registers of each buffer at a time, as many independent roots or divisions are in flight, even
//! on a core that shares its out-of-order window with another thread. `docs/benchmarks.md` has the
//! measurements.
//!
//! The code loops over arrays of registers, and does not use the methods of arrays. These are
//! functions. Where there are many, the compiler leaves them as calls, and they run without the
//! instruction set.

mod bits;

use core::ops::{Add, Div, Mul, Sub};

use bytemuck::NoUninit;
use pulp::Simd;

use super::{Isa, Lanes, Register, Sealed};

/// The number of registers of each buffer that are computed together.
pub(crate) const UNROLL: usize = 4;

/// The same for loops that convert 16-bit elements.
pub(crate) const UNROLL_CONVERTED: usize = 2;

/// `U` registers of `pulp`'s instruction set `P`, computed together.
#[derive(Clone, Copy)]
pub struct Unrolled<P, const U: usize>(pub P);

impl<P: NativeSimd, const U: usize> Isa for Unrolled<P, U> {
    type F32 = F32s<P, U>;
    type F64 = F64s<P, U>;

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn prefetch<E: NoUninit>(buffer: &[E], start: usize, len: usize) {
        if U == 1 {
            // Single registers compute only the few elements at the ends of a buffer.
            return;
        }
        if let Some(elements) = buffer.get(start..start + len) {
            prefetch_lines(elements);
        }
    }
}

/// Prefetches `elements` to the L1 cache, on x86-64.
#[inline(always)]
pub(crate) fn prefetch_lines<E: NoUninit>(elements: &[E]) {
    #[cfg(target_arch = "x86_64")]
    for line in bytemuck::cast_slice::<_, u8>(elements).chunks(64) {
        safe_arch::prefetch_t0(&line[0]);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = elements;
}

/// Declares the registers of one type. The arguments are `pulp`'s names of its methods.
macro_rules! registers {
    (
        $(#[$doc:meta])* $name:ident: $float:ident, $register:ident, $splat:ident, $load:ident,
        $store:ident, $add:ident, $sub:ident, $mul:ident, $div:ident, $sqrt:ident, $abs:ident,
        $greater:ident, $select:ident, $fast_min:ident, $fast_max:ident, $has_nan:ident
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub struct $name<P: Simd, const U: usize> {
            simd: P,
            of: [P::$register; U],
        }

        impl<P: Simd, const U: usize> $name<P, U> {
            #[inline(always)]
            fn map(mut self, f: impl Fn(P::$register) -> P::$register) -> Self {
                for a in &mut self.of {
                    *a = f(*a);
                }
                self
            }

            #[inline(always)]
            fn zip(
                mut self,
                other: Self,
                f: impl Fn(P, P::$register, P::$register) -> P::$register,
            ) -> Self {
                for (a, b) in self.of.iter_mut().zip(other.of) {
                    *a = f(self.simd, *a, b);
                }
                self
            }

            /// `then` where a > b, else `otherwise`.
            #[inline(always)]
            fn if_greater(
                simd: P,
                [a, b]: [P::$register; 2],
                then: P::$register,
                otherwise: P::$register,
            ) -> P::$register {
                simd.$select(simd.$greater(a, b), then, otherwise)
            }
        }

        impl<P: Simd, const U: usize> Add for $name<P, U> {
            type Output = Self;
            #[inline(always)]
            fn add(self, other: Self) -> Self {
                self.zip(other, P::$add)
            }
        }

        impl<P: Simd, const U: usize> Sub for $name<P, U> {
            type Output = Self;
            #[inline(always)]
            fn sub(self, other: Self) -> Self {
                self.zip(other, P::$sub)
            }
        }

        impl<P: Simd, const U: usize> Mul for $name<P, U> {
            type Output = Self;
            #[inline(always)]
            fn mul(self, other: Self) -> Self {
                self.zip(other, P::$mul)
            }
        }

        impl<P: Simd, const U: usize> Div for $name<P, U> {
            type Output = Self;
            #[inline(always)]
            fn div(self, other: Self) -> Self {
                self.zip(other, P::$div)
            }
        }

        impl<P: Simd, const U: usize> Add<$float> for $name<P, U> {
            type Output = Self;
            #[inline(always)]
            fn add(self, x: $float) -> Self {
                self.map(|a| self.simd.$add(a, self.simd.$splat(x)))
            }
        }

        impl<P: Simd, const U: usize> Mul<$float> for $name<P, U> {
            type Output = Self;
            #[inline(always)]
            fn mul(self, x: $float) -> Self {
                self.map(|a| self.simd.$mul(a, self.simd.$splat(x)))
            }
        }

        impl<P: Simd, const U: usize> Sealed for $name<P, U> {}

        impl<P: NativeSimd, const U: usize> Lanes for $name<P, U> {
            type Float = $float;

            #[inline(always)]
            fn sqrt(self) -> Self {
                self.map(|a| self.simd.$sqrt(a))
            }

            #[inline(always)]
            fn abs(self) -> Self {
                self.map(|a| self.simd.$abs(a))
            }

            #[inline(always)]
            fn fast_max(self, other: Self) -> Self {
                self.zip(other, P::$fast_max)
            }

            #[inline(always)]
            fn rdiv(self, x: $float) -> Self {
                let x = self.simd.$splat(x);
                self.map(|a| self.simd.$div(x, a))
            }

            #[inline(always)]
            fn clamp_max(self, x: $float) -> Self {
                let x = self.simd.$splat(x);
                self.map(|a| self.simd.$fast_min(x, a))
            }

            #[inline(always)]
            fn clamp_min(self, x: $float) -> Self {
                let x = self.simd.$splat(x);
                self.map(|a| self.simd.$fast_max(x, a))
            }

            #[inline(always)]
            fn sign(self) -> Self {
                let (zero, one) = (self.simd.$splat(0.0), self.simd.$splat(1.0));
                let less = self.simd.$splat(-1.0);
                self.map(|a| {
                    let below = Self::if_greater(self.simd, [zero, a], less, a);
                    Self::if_greater(self.simd, [a, zero], one, below)
                })
            }
        }

        impl<P: NativeSimd, const U: usize> Register for $name<P, U> {
            type Isa = Unrolled<P, U>;
            const LANES: usize = U * size_of::<P::$register>() / size_of::<$float>();

            #[inline(always)]
            fn load(Unrolled(simd): Unrolled<P, U>, from: &[$float]) -> Self {
                let from = P::$load(from).0;
                let mut of = [from[0]; U];
                of.copy_from_slice(&from[..U]);
                $name { simd, of }
            }

            #[inline(always)]
            fn store(self, to: &mut [$float]) {
                P::$store(to).0[..U].copy_from_slice(&self.of);
            }

            #[inline(always)]
            fn surely_finite(self) -> bool {
                let mut sum = self.of[0];
                for a in &self.of[1..] {
                    sum = self.simd.$add(sum, *a);
                }
                // 0 in each lane, or NaN.
                !self.simd.$has_nan(self.simd.$sub(sum, sum))
            }
        }
    };
}

registers!(
    /// Registers of `f32`.
    F32s: f32, f32s, splat_f32s, as_simd_f32s, as_mut_simd_f32s, add_f32s, sub_f32s, mul_f32s,
    div_f32s, sqrt_f32s, abs_f32s, greater_than_f32s, select_f32s, fast_min_f32s, fast_max_f32s,
    has_nan_f32s
);

registers!(
    /// Registers of `f64`.
    F64s: f64, f64s, splat_f64s, as_simd_f64s, as_mut_simd_f64s, add_f64s, sub_f64s, mul_f64s,
    div_f64s, sqrt_f64s, abs_f64s, greater_than_f64s, select_f64s, fast_min_f64s, fast_max_f64s,
    has_nan_f64s
);

/// The mask of the upper half of a lane.
const UPPER: u32 = 0xFFFF_0000;

/// An instruction set of `pulp`, with conversions between 8, 16, 32 and 64 bits.
pub trait NativeSimd: Simd {
    /// As many 16-bit numbers as a register has 32-bit lanes.
    type Halves: bytemuck::Pod;

    /// As many registers as have 32 lanes of `f32` together.
    type Block: Isa;

    /// The token of [`Block`](Self::Block).
    fn block(self) -> Self::Block;

    /// Widens each number to the lower half of a 32-bit lane. The upper halves are 0.
    fn widen(self, halves: Self::Halves) -> Self::u32s;

    /// Narrows each word to its lower half. The upper halves must be 0.
    fn narrow(self, words: Self::u32s) -> Self::Halves;

    /// The smaller word in each lane.
    fn umin(self, a: Self::u32s, b: Self::u32s) -> Self::u32s;

    /// The larger word in each lane.
    fn umax(self, a: Self::u32s, b: Self::u32s) -> Self::u32s;

    /// The product in each lane, modulo 2^32.
    fn umul(self, a: Self::u32s, b: Self::u32s) -> Self::u32s;

    /// The largest word of all lanes.
    fn reduce_umax(self, a: Self::u32s) -> u32;

    /// Widens the first bytes, as many as there are 32-bit lanes.
    fn widen_bytes(self, bytes: &[u8]) -> Self::u32s;

    /// Stores the lowest byte of each word of all registers. No word may be above 65535.
    fn narrow_bytes(self, words: &[Self::u32s], bytes: &mut [u8]);

    /// The same, with the upper bits of `signs` as the upper bits of the bytes, which must be 0.
    #[inline(always)]
    fn narrow_signed_bytes(self, words: &[Self::u32s], signs: &[Self::u32s], bytes: &mut [u8]) {
        let lanes = size_of::<Self::u32s>() / 4;
        let registers = words.iter().zip(signs);
        for ((word, sign), bytes) in registers.zip(bytes.chunks_exact_mut(lanes)) {
            let sign = self.wrapping_dyn_shr_u32s(*sign, self.splat_u32s(24));
            let sign = self.and_u32s(sign, self.splat_u32s(0x80));
            self.narrow_bytes(&[self.or_u32s(*word, sign)], bytes);
        }
    }

    /// `a` where a < b, else `b`.
    #[inline(always)]
    fn fast_min_f32s(self, a: Self::f32s, b: Self::f32s) -> Self::f32s {
        self.select_f32s(self.less_than_f32s(a, b), a, b)
    }

    /// `a` where a > b, else `b`.
    #[inline(always)]
    fn fast_max_f32s(self, a: Self::f32s, b: Self::f32s) -> Self::f32s {
        self.select_f32s(self.greater_than_f32s(a, b), a, b)
    }

    /// `a` where a < b, else `b`.
    #[inline(always)]
    fn fast_min_f64s(self, a: Self::f64s, b: Self::f64s) -> Self::f64s {
        self.select_f64s(self.less_than_f64s(a, b), a, b)
    }

    /// `a` where a > b, else `b`.
    #[inline(always)]
    fn fast_max_f64s(self, a: Self::f64s, b: Self::f64s) -> Self::f64s {
        self.select_f64s(self.greater_than_f64s(a, b), a, b)
    }

    /// Whether any lane is NaN.
    fn has_nan_f32s(self, a: Self::f32s) -> bool;

    /// Whether any lane is NaN.
    fn has_nan_f64s(self, a: Self::f64s) -> bool;

    /// The lanes of a register as `f64`, in two registers, in any order.
    fn doubles(self, a: Self::f32s) -> [Self::f64s; 2];

    /// Widens each number to the upper half of a 32-bit lane. The lower halves are 0.
    #[inline(always)]
    fn widen_upper(self, halves: Self::Halves) -> Self::u32s {
        self.wrapping_dyn_shl_u32s(self.widen(halves), self.splat_u32s(16))
    }

    /// Narrows each word to its upper half.
    #[inline(always)]
    fn narrow_upper(self, words: Self::u32s) -> Self::Halves {
        self.narrow(self.wrapping_dyn_shr_u32s(words, self.splat_u32s(16)))
    }

    /// Rounds each word of two registers to its upper half, to nearest, ties to even. Returns one
    /// register: `even` in the lower halves, `odd` in the upper halves.
    #[inline(always)]
    fn nearest_pair(self, even: Self::u32s, odd: Self::u32s) -> Self::u32s {
        let sixteen = self.splat_u32s(16);
        let round = |words| {
            let last = self.wrapping_dyn_shr_u32s(words, sixteen);
            let last = self.and_u32s(last, self.splat_u32s(1));
            self.add_u32s(self.add_u32s(words, self.splat_u32s(0x7FFF)), last)
        };
        let (even, odd) = (self.wrapping_dyn_shr_u32s(round(even), sixteen), round(odd));
        self.or_u32s(even, self.and_u32s(odd, self.splat_u32s(UPPER)))
    }

    /// `words` where a lane of `a` is a number, and all bits set where it is NaN.
    #[inline(always)]
    fn unless_nan(self, a: Self::f32s, words: Self::u32s) -> Self::u32s {
        self.select_u32s(self.equal_f32s(a, a), words, self.splat_u32s(!0))
    }
}
