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

use core::ops::{Add, Div, Mul, Sub};

use pulp::Simd;

use super::{F32Register, Isa, Lanes, Register, Sealed, U32Lanes};

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
    fn prefetch<E>(buffer: &[E], start: usize, len: usize) {
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
pub(crate) fn prefetch_lines<E>(elements: &[E]) {
    #[cfg(target_arch = "x86_64")]
    for line in elements.chunks(64 / size_of::<E>()) {
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

/// An instruction set of `pulp`, with conversions between 16, 32 and 64 bits.
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

/// The bits of `U` registers of `f32`.
#[derive(Clone, Copy)]
pub struct U32s<P: Simd, const U: usize> {
    simd: P,
    of: [P::u32s; U],
}

impl<P: Simd, const U: usize> U32s<P, U> {
    #[inline(always)]
    fn map(mut self, f: impl Fn(P::u32s) -> P::u32s) -> Self {
        for a in &mut self.of {
            *a = f(*a);
        }
        self
    }

    #[inline(always)]
    fn zero(simd: P) -> Self {
        U32s { simd, of: [simd.splat_u32s(0); U] }
    }

    #[inline(always)]
    fn zip(mut self, other: Self, f: impl Fn(P, P::u32s, P::u32s) -> P::u32s) -> Self {
        for (a, b) in self.of.iter_mut().zip(other.of) {
            *a = f(self.simd, *a, b);
        }
        self
    }
}

impl<P: NativeSimd, const U: usize> U32Lanes for U32s<P, U> {
    #[inline(always)]
    fn splat(self, x: u32) -> Self {
        U32s { of: [self.simd.splat_u32s(x); U], ..self }
    }
    #[inline(always)]
    fn wrapping_add(self, other: Self) -> Self {
        self.zip(other, P::add_u32s)
    }
    #[inline(always)]
    fn and(self, other: Self) -> Self {
        self.zip(other, P::and_u32s)
    }
    #[inline(always)]
    fn or(self, other: Self) -> Self {
        self.zip(other, P::or_u32s)
    }
    #[inline(always)]
    fn xor(self, other: Self) -> Self {
        self.zip(other, P::xor_u32s)
    }
    #[inline(always)]
    fn shl(self, by: u32) -> Self {
        let by = self.simd.splat_u32s(by);
        self.map(|a| self.simd.wrapping_dyn_shl_u32s(a, by))
    }
    #[inline(always)]
    fn shr(self, by: u32) -> Self {
        let by = self.simd.splat_u32s(by);
        self.map(|a| self.simd.wrapping_dyn_shr_u32s(a, by))
    }
    #[inline(always)]
    fn wrapping_mul(self, other: Self) -> Self {
        self.zip(other, P::umul)
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.zip(other, P::umax)
    }
    #[inline(always)]
    fn reduce_max(self) -> u32 {
        let mut max = self.of[0];
        for a in &self.of[1..] {
            max = self.simd.umax(max, *a);
        }
        self.simd.reduce_umax(max)
    }
    #[inline(always)]
    fn select_below(mut self, limit: u32, then: Self, otherwise: Self) -> Self {
        let limit = self.simd.splat_u32s(limit);
        for i in 0..U {
            let below = self.simd.less_than_u32s(self.of[i], limit);
            self.of[i] = self.simd.select_u32s(below, then.of[i], otherwise.of[i]);
        }
        self
    }
}

/// The mask of the upper half of a lane.
const UPPER: u32 = 0xFFFF_0000;

impl<P: NativeSimd, const U: usize> F32Register for F32s<P, U> {
    type Bits = U32s<P, U>;

    #[inline(always)]
    fn to_bits(self) -> U32s<P, U> {
        let mut bits = U32s::zero(self.simd);
        for (register, a) in bits.of.iter_mut().zip(self.of) {
            *register = self.simd.transmute_u32s_f32s(a);
        }
        bits
    }

    #[inline(always)]
    fn from_bits(bits: U32s<P, U>) -> Self {
        let simd = bits.simd;
        let mut lanes = F32s { simd, of: [simd.splat_f32s(0.0); U] };
        for (lane, register) in lanes.of.iter_mut().zip(bits.of) {
            *lane = simd.transmute_f32s_u32s(register);
        }
        lanes
    }

    #[inline(always)]
    fn unless_nan(self, mut bits: U32s<P, U>) -> U32s<P, U> {
        for (register, a) in bits.of.iter_mut().zip(self.of) {
            *register = self.simd.unless_nan(a, *register);
        }
        bits
    }

    #[inline(always)]
    fn iota(Unrolled(simd): Unrolled<P, U>) -> U32s<P, U> {
        const NUMBERS: [u32; 64] = {
            let mut numbers = [0; 64];
            let mut i = 0;
            while i < 64 {
                numbers[i] = i as u32;
                i += 1;
            }
            numbers
        };
        let mut bits = U32s::zero(simd);
        bits.of.copy_from_slice(&P::as_simd_u32s(&NUMBERS).0[..U]);
        bits
    }

    #[inline(always)]
    fn load_lower(Unrolled(simd): Unrolled<P, U>, from: &[u16]) -> U32s<P, U> {
        let mut bits = U32s::zero(simd);
        for (register, halves) in bits.of.iter_mut().zip(from.chunks_exact(Self::LANES / U)) {
            *register = simd.widen(bytemuck::pod_read_unaligned(bytemuck::cast_slice(halves)));
        }
        bits
    }

    #[inline(always)]
    fn load_upper(Unrolled(simd): Unrolled<P, U>, from: &[u16]) -> U32s<P, U> {
        let mut bits = U32s::zero(simd);
        for (register, halves) in bits.of.iter_mut().zip(from.chunks_exact(Self::LANES / U)) {
            *register =
                simd.widen_upper(bytemuck::pod_read_unaligned(bytemuck::cast_slice(halves)));
        }
        bits
    }

    #[inline(always)]
    fn store_upper(bits: U32s<P, U>, to: &mut [u16]) {
        for (register, to) in bits.of.into_iter().zip(to.chunks_exact_mut(Self::LANES / U)) {
            let halves = bits.simd.narrow_upper(register);
            bytemuck::cast_slice_mut(to).copy_from_slice(bytemuck::bytes_of(&halves));
        }
    }

    /// A pair of registers holds the even and the odd elements. Separating them takes one
    /// instruction for each register. Widening them in order takes two, or a permutation.
    #[inline(always)]
    fn load_upper_unordered(Unrolled(simd): Unrolled<P, U>, from: &[u16]) -> U32s<P, U> {
        if U % 2 == 1 {
            return Self::load_upper(Unrolled(simd), from);
        }
        let (sixteen, upper) = (simd.splat_u32s(16), simd.splat_u32s(UPPER));
        let mut bits = U32s::zero(simd);
        let elements = from.chunks_exact(2 * Self::LANES / U);
        for (pair, elements) in bits.of.chunks_exact_mut(2).zip(elements) {
            let both: P::u32s = bytemuck::pod_read_unaligned(bytemuck::cast_slice(elements));
            pair[0] = simd.wrapping_dyn_shl_u32s(both, sixteen);
            pair[1] = simd.and_u32s(both, upper);
        }
        bits
    }

    #[inline(always)]
    fn store_round_unordered(bits: U32s<P, U>, to: &mut [u16]) {
        if U % 2 == 1 {
            return Self::store_upper(bits.round_upper(), to);
        }
        let elements = to.chunks_exact_mut(2 * Self::LANES / U);
        for (pair, elements) in bits.of.chunks_exact(2).zip(elements) {
            let both = bits.simd.nearest_pair(pair[0], pair[1]);
            bytemuck::cast_slice_mut(elements).copy_from_slice(bytemuck::bytes_of(&both));
        }
    }

    #[inline(always)]
    fn load_u8(Unrolled(simd): Unrolled<P, U>, from: &[u8]) -> U32s<P, U> {
        let mut bits = U32s::zero(simd);
        for (register, bytes) in bits.of.iter_mut().zip(from.chunks_exact(Self::LANES / U)) {
            *register = simd.widen_bytes(bytes);
        }
        bits
    }

    #[inline(always)]
    fn store_u8(bits: U32s<P, U>, to: &mut [u8]) {
        bits.simd.narrow_bytes(&bits.of, &mut to[..Self::LANES]);
    }

    #[inline(always)]
    fn store_signed_u8(bits: U32s<P, U>, signs: Self, to: &mut [u8]) {
        let signs = signs.to_bits();
        bits.simd.narrow_signed_bytes(&bits.of, &signs.of, &mut to[..Self::LANES]);
    }

    #[inline(always)]
    fn store_lower(bits: U32s<P, U>, to: &mut [u16]) {
        for (register, to) in bits.of.into_iter().zip(to.chunks_exact_mut(Self::LANES / U)) {
            let halves = bits.simd.narrow(register);
            bytemuck::cast_slice_mut(to).copy_from_slice(bytemuck::bytes_of(&halves));
        }
    }
}
