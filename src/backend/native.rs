//! Run-time dispatch: one clone of the sweep for each instruction set, chosen by what the CPU
//! has, from a plain `cargo build`. The crate `pulp` detects and dispatches, in safe code.
//!
//! Square root and division are what the arithmetic waits for: the units that do them take a
//! fixed number of cycles per register, and a step needs one of each. To keep them busy, a sweep
//! holds [`UNROLL`] registers of each buffer at a time, so that as many square roots and divisions
//! are under way without depending on each other, also on a core whose out-of-order window is
//! shared with another thread. `kernels.md` has the measurements.

#![cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    allow(dead_code, reason = "no level exists on this target")
)]

use core::ops::{Add, Div, Mul, Sub};

use pulp::{NullaryFnOnce, Simd};

use super::columns::{Buffers, Table};
use super::tiles::Conversion;
use super::{Backend, MixedRegister, Register, Stored, Swept, whole_registers};
use crate::elements::words::{Representation, Words};
use crate::{Element, Float, Kernel, Lanes};

/// Registers of each buffer that are computed together.
const UNROLL: usize = 4;

/// The same where 16-bit elements are converted.
const UNROLL_CONVERTED: usize = 2;

/// A sweep begins its blocks where θ is aligned to this, a cache line: a 512-bit register that lies
/// across two lines costs two accesses. The other buffers are then aligned too wherever all were
/// allocated alike.
const ALIGN_BYTES: usize = 64;

/// Buffers shorter than this many blocks are stepped as they lie: getting to the boundary takes
/// some tens of nanoseconds.
const ALIGN_BLOCKS: usize = 64;

/// How far ahead of the computation a buffer is asked for. The CPU's own prefetchers stop at each
/// page, and its out-of-order window is full of pending divisions and does not see that far.
#[cfg(target_arch = "x86_64")]
const FETCH_BYTES: usize = 1 << 10;

/// An instruction set that this CPU has.
#[derive(Clone, Copy)]
pub(crate) enum Level {
    #[cfg(target_arch = "x86_64")]
    Avx2(pulp::x86::V3),
    #[cfg(target_arch = "x86_64")]
    Avx512(pulp::x86::V4),
    #[cfg(target_arch = "aarch64")]
    Neon(pulp::aarch64::Neon),
}

impl Level {
    pub(crate) fn best() -> Option<Self> {
        [Backend::Avx512, Backend::Avx2, Backend::Neon].into_iter().find_map(Self::named)
    }

    /// The detection behind it is done once per process.
    pub(crate) fn named(backend: Backend) -> Option<Self> {
        match backend {
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2 => pulp::x86::V3::try_new().map(Level::Avx2),
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512 => pulp::x86::V4::try_new().map(Level::Avx512),
            #[cfg(target_arch = "aarch64")]
            Backend::Neon => pulp::aarch64::Neon::try_new().map(Level::Neon),
            _ => None,
        }
    }

    pub(crate) fn backend(self) -> Backend {
        match self {
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(_) => Backend::Avx2,
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(_) => Backend::Avx512,
            #[cfg(target_arch = "aarch64")]
            Level::Neon(_) => Backend::Neon,
        }
    }

    #[cfg_attr(
        not(any(target_arch = "x86_64", target_arch = "aarch64")),
        expect(unused_variables, reason = "no level exists on this target")
    )]
    pub(crate) fn sweep<T, G, E, K, const N: usize>(
        self,
        kernel: &K,
        buffers: Buffers<'_, T, G, E, N>,
    ) where
        T: Swept,
        G: Swept<Float = T::Float>,
        E: Swept<Float = T::Float>,
        K: Kernel<T::Float, N>,
    {
        let kernel = *kernel;
        match self {
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(simd) => simd.vectorize(Sweep { simd, kernel, buffers }),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(simd) => simd.vectorize(Sweep { simd, kernel, buffers }),
            #[cfg(target_arch = "aarch64")]
            Level::Neon(simd) => simd.vectorize(Sweep { simd, kernel, buffers }),
        }
    }

    /// Converts whole registers, and returns the rest.
    #[cfg_attr(
        not(any(target_arch = "x86_64", target_arch = "aarch64")),
        expect(unused_variables, reason = "no level exists on this target")
    )]
    pub(crate) fn convert<C: Conversion>(self, conversion: C) -> C {
        match self {
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(simd) => simd.vectorize(Convert { simd, conversion }),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(simd) => simd.vectorize(Convert { simd, conversion }),
            #[cfg(target_arch = "aarch64")]
            Level::Neon(simd) => simd.vectorize(Convert { simd, conversion }),
        }
    }
}

/// A sweep, waiting for an instruction set. A type and not a closure: a closure need not be
/// inlined into the function that enables the instructions, and would then run without them.
struct Sweep<'a, S, T, G, E, K, const N: usize> {
    simd: S,
    kernel: K,
    buffers: Buffers<'a, T, G, E, N>,
}

impl<S, T, G, E, K, const N: usize> NullaryFnOnce for Sweep<'_, S, T, G, E, K, N>
where
    S: Simd,
    T: StoredIn<S>,
    G: StoredIn<S, Float = T::Float>,
    E: StoredIn<S, Float = T::Float>,
    K: Kernel<T::Float, N>,
{
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Sweep { simd, kernel, buffers } = self;
        // Registers that are converted are work enough beside the roots and divisions: fewer of
        // them.
        if size_of::<G>() == size_of::<T::Float>() {
            aligned::<Registers<T::Float, S, UNROLL>, _, _, _, _, _, N>(simd, kernel, buffers);
        } else {
            aligned::<Registers<T::Float, S, UNROLL_CONVERTED>, _, _, _, _, _, N>(
                simd, kernel, buffers,
            );
        }
    }
}

/// Steps blocks of `L` from a boundary of θ on, and what lies before and after them by single
/// registers and single elements.
#[inline(always)]
fn aligned<L, S, T, G, E, K, const N: usize>(simd: S, kernel: K, buffers: Buffers<'_, T, G, E, N>)
where
    L: Register<Token = S, Float = T::Float>,
    S: Simd,
    T: StoredIn<S> + Stored<L>,
    G: StoredIn<S, Float = T::Float> + Stored<L>,
    E: StoredIn<S, Float = T::Float> + Stored<L>,
    K: Kernel<T::Float, N>,
{
    let mut head = buffers.theta.as_ptr().align_offset(ALIGN_BYTES);
    if head.saturating_add(ALIGN_BLOCKS * L::LEN) > buffers.len() {
        head = 0;
    }
    let (head, rest) = buffers.split_at(head);
    let tail = whole_registers::<L, _, _, _, K, N>(simd, kernel, rest);
    for few in [head, tail] {
        let one = whole_registers::<Registers<T::Float, S, 1>, _, _, _, K, N>(simd, kernel, few);
        whole_registers::<T::Float, _, _, _, K, N>((), kernel, one);
    }
}

/// A conversion, waiting for an instruction set.
struct Convert<S, C> {
    simd: S,
    conversion: C,
}

impl<S: Instructions, C: Conversion> NullaryFnOnce for Convert<S, C> {
    type Output = C;

    #[inline(always)]
    fn call(self) -> C {
        self.conversion.run::<Registers<f32, S, 2>>(self.simd)
    }
}

/// An element that registers of one instruction set can be filled from and written to.
pub trait StoredIn<S: Simd>:
    Element
    + Stored<Self::Float>
    + Stored<Registers<Self::Float, S, 1>>
    + Stored<Registers<Self::Float, S, UNROLL_CONVERTED>>
    + Stored<Registers<Self::Float, S, UNROLL>>
{
}

impl<S: Simd, E> StoredIn<S> for E where
    E: Element
        + Stored<E::Float>
        + Stored<Registers<E::Float, S, 1>>
        + Stored<Registers<E::Float, S, UNROLL_CONVERTED>>
        + Stored<Registers<E::Float, S, UNROLL>>
{
}

/// An element that registers of every instruction set of this target can be filled from and written
/// to.
#[cfg(target_arch = "x86_64")]
pub trait StoredNatively: StoredIn<pulp::x86::V3> + StoredIn<pulp::x86::V4> {}
#[cfg(target_arch = "x86_64")]
impl<E: StoredIn<pulp::x86::V3> + StoredIn<pulp::x86::V4>> StoredNatively for E {}

/// An element that registers of every instruction set of this target can be filled from and written
/// to.
#[cfg(target_arch = "aarch64")]
pub trait StoredNatively: StoredIn<pulp::aarch64::Neon> {}
#[cfg(target_arch = "aarch64")]
impl<E: StoredIn<pulp::aarch64::Neon>> StoredNatively for E {}

/// This target has no instruction set that is chosen at run time.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub trait StoredNatively {}
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
impl<E> StoredNatively for E {}

/// What `pulp` can do with an instruction set, and between 16 and 32 bits.
pub trait Instructions: Simd {
    /// As many 16-bit numbers as a register has 32-bit lanes.
    type Halves: bytemuck::Pod;

    /// Each with zeros above it.
    fn widen(self, halves: Self::Halves) -> Self::u32s;

    /// The lower halves; the upper ones are zero.
    fn narrow(self, words: Self::u32s) -> Self::Halves;

    /// Each with zeros below it.
    #[inline(always)]
    fn widen_upper(self, halves: Self::Halves) -> Self::u32s {
        self.wrapping_dyn_shl_u32s(self.widen(halves), self.splat_u32s(16))
    }

    /// The upper halves.
    #[inline(always)]
    fn narrow_upper(self, words: Self::u32s) -> Self::Halves {
        self.narrow(self.wrapping_dyn_shr_u32s(words, self.splat_u32s(16)))
    }

    /// `words` where a lane of `a` is a number, and all bits set where it is NaN.
    #[inline(always)]
    fn unless_nan(self, a: Self::f32s, words: Self::u32s) -> Self::u32s {
        self.select_u32s(self.equal_f32s(a, a), words, self.splat_u32s(!0))
    }
}

#[cfg(target_arch = "x86_64")]
impl Instructions for pulp::x86::V3 {
    type Halves = pulp::u16x8;

    #[inline(always)]
    fn widen(self, halves: pulp::u16x8) -> pulp::u32x8 {
        self.convert_u16x8_to_u32x8(halves)
    }

    #[inline(always)]
    fn narrow(self, words: pulp::u32x8) -> pulp::u16x8 {
        let words = bytemuck::cast(words);
        // Within each half of the register, then the two halves to the bottom.
        let packed = self.avx2._mm256_packus_epi32(words, words);
        let packed: [pulp::u16x8; 2] =
            bytemuck::cast(self.avx2._mm256_permute4x64_epi64::<0b1000>(packed));
        packed[0]
    }

    /// Two instructions; a selection is three more.
    #[inline(always)]
    fn unless_nan(self, a: pulp::f32x8, words: pulp::u32x8) -> pulp::u32x8 {
        const UNORDERED: i32 = 3;
        let a = bytemuck::cast(a);
        let nan = self.avx._mm256_cmp_ps::<UNORDERED>(a, a);
        bytemuck::cast(self.avx._mm256_or_ps(nan, bytemuck::cast(words)))
    }
}

#[cfg(target_arch = "x86_64")]
impl Instructions for pulp::x86::V4 {
    type Halves = pulp::u16x16;

    #[inline(always)]
    fn widen(self, halves: pulp::u16x16) -> pulp::u32x16 {
        self.convert_u16x16_to_u32x16(halves)
    }

    #[inline(always)]
    fn narrow(self, words: pulp::u32x16) -> pulp::u16x16 {
        self.convert_u32x16_to_u16x16(words)
    }

    /// One permutation, where widening and shifting are two.
    #[inline(always)]
    fn widen_upper(self, halves: pulp::u16x16) -> pulp::u32x16 {
        let spread = bytemuck::cast(
            [0_u32, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15].map(|i| i << 16),
        );
        let halves = bytemuck::cast([halves, halves]);
        bytemuck::cast(self.avx512bw._mm512_maskz_permutexvar_epi16(0xAAAA_AAAA, spread, halves))
    }

    /// One permutation, where shifting and narrowing are three.
    #[inline(always)]
    fn narrow_upper(self, words: pulp::u32x16) -> pulp::u16x16 {
        let mut odd = [0_u16; 32];
        for (i, odd) in odd.iter_mut().enumerate() {
            *odd = (2 * i + 1) as u16 % 32;
        }
        let upper =
            self.avx512bw._mm512_permutexvar_epi16(bytemuck::cast(odd), bytemuck::cast(words));
        bytemuck::cast::<_, [pulp::u16x16; 2]>(upper)[0]
    }
}

#[cfg(target_arch = "aarch64")]
impl Instructions for pulp::aarch64::Neon {
    type Halves = [u16; 4];

    #[inline(always)]
    fn widen(self, halves: [u16; 4]) -> pulp::u32x4 {
        bytemuck::cast(halves.map(u32::from))
    }

    #[inline(always)]
    fn narrow(self, words: pulp::u32x4) -> [u16; 4] {
        let words: [u32; 4] = bytemuck::cast(words);
        words.map(|word| word as u16)
    }
}

/// A number that has registers in each instruction set.
pub trait NativeFloat: Sized {
    /// What those registers can do: on a type of its own, so that generic code over [`Float`] does
    /// not meet these names.
    type Native: Arithmetic<Number = Self>;
}

impl NativeFloat for f32 {
    type Native = Single;
}

impl NativeFloat for f64 {
    type Native = Double;
}

/// One register of the instruction set `S`.
type Native<E, S> = <<E as NativeFloat>::Native as Arithmetic>::Register<S>;

/// What a register can do in each instruction set.
pub trait Arithmetic {
    type Number;
    type Register<S: Simd>: Copy;

    fn splat<S: Simd>(simd: S, x: Self::Number) -> Self::Register<S>;
    /// As many whole registers as the elements fill.
    fn of<S: Simd>(elements: &[Self::Number]) -> &[Self::Register<S>];
    fn of_mut<S: Simd>(elements: &mut [Self::Number]) -> &mut [Self::Register<S>];
    fn add<S: Simd>(simd: S, a: Self::Register<S>, b: Self::Register<S>) -> Self::Register<S>;
    fn sub<S: Simd>(simd: S, a: Self::Register<S>, b: Self::Register<S>) -> Self::Register<S>;
    fn mul<S: Simd>(simd: S, a: Self::Register<S>, b: Self::Register<S>) -> Self::Register<S>;
    fn div<S: Simd>(simd: S, a: Self::Register<S>, b: Self::Register<S>) -> Self::Register<S>;
    fn sqrt<S: Simd>(simd: S, a: Self::Register<S>) -> Self::Register<S>;
    fn abs<S: Simd>(simd: S, a: Self::Register<S>) -> Self::Register<S>;
    /// `then` where a > b, else `otherwise`.
    fn if_greater<S: Simd>(
        simd: S,
        a: Self::Register<S>,
        b: Self::Register<S>,
        then: Self::Register<S>,
        otherwise: Self::Register<S>,
    ) -> Self::Register<S>;
}

/// Registers of `f32`.
pub struct Single;

impl Arithmetic for Single {
    type Number = f32;
    type Register<S: Simd> = S::f32s;

    #[inline(always)]
    fn splat<S: Simd>(simd: S, x: f32) -> S::f32s {
        simd.splat_f32s(x)
    }
    #[inline(always)]
    fn of<S: Simd>(elements: &[f32]) -> &[S::f32s] {
        S::as_simd_f32s(elements).0
    }
    #[inline(always)]
    fn of_mut<S: Simd>(elements: &mut [f32]) -> &mut [S::f32s] {
        S::as_mut_simd_f32s(elements).0
    }
    #[inline(always)]
    fn add<S: Simd>(simd: S, a: S::f32s, b: S::f32s) -> S::f32s {
        simd.add_f32s(a, b)
    }
    #[inline(always)]
    fn sub<S: Simd>(simd: S, a: S::f32s, b: S::f32s) -> S::f32s {
        simd.sub_f32s(a, b)
    }
    #[inline(always)]
    fn mul<S: Simd>(simd: S, a: S::f32s, b: S::f32s) -> S::f32s {
        simd.mul_f32s(a, b)
    }
    #[inline(always)]
    fn div<S: Simd>(simd: S, a: S::f32s, b: S::f32s) -> S::f32s {
        simd.div_f32s(a, b)
    }
    #[inline(always)]
    fn sqrt<S: Simd>(simd: S, a: S::f32s) -> S::f32s {
        simd.sqrt_f32s(a)
    }
    #[inline(always)]
    fn abs<S: Simd>(simd: S, a: S::f32s) -> S::f32s {
        simd.abs_f32s(a)
    }
    #[inline(always)]
    fn if_greater<S: Simd>(
        simd: S,
        a: S::f32s,
        b: S::f32s,
        then: S::f32s,
        otherwise: S::f32s,
    ) -> S::f32s {
        simd.select_f32s(simd.greater_than_f32s(a, b), then, otherwise)
    }
}

/// Registers of `f64`.
pub struct Double;

impl Arithmetic for Double {
    type Number = f64;
    type Register<S: Simd> = S::f64s;

    #[inline(always)]
    fn splat<S: Simd>(simd: S, x: f64) -> S::f64s {
        simd.splat_f64s(x)
    }
    #[inline(always)]
    fn of<S: Simd>(elements: &[f64]) -> &[S::f64s] {
        S::as_simd_f64s(elements).0
    }
    #[inline(always)]
    fn of_mut<S: Simd>(elements: &mut [f64]) -> &mut [S::f64s] {
        S::as_mut_simd_f64s(elements).0
    }
    #[inline(always)]
    fn add<S: Simd>(simd: S, a: S::f64s, b: S::f64s) -> S::f64s {
        simd.add_f64s(a, b)
    }
    #[inline(always)]
    fn sub<S: Simd>(simd: S, a: S::f64s, b: S::f64s) -> S::f64s {
        simd.sub_f64s(a, b)
    }
    #[inline(always)]
    fn mul<S: Simd>(simd: S, a: S::f64s, b: S::f64s) -> S::f64s {
        simd.mul_f64s(a, b)
    }
    #[inline(always)]
    fn div<S: Simd>(simd: S, a: S::f64s, b: S::f64s) -> S::f64s {
        simd.div_f64s(a, b)
    }
    #[inline(always)]
    fn sqrt<S: Simd>(simd: S, a: S::f64s) -> S::f64s {
        simd.sqrt_f64s(a)
    }
    #[inline(always)]
    fn abs<S: Simd>(simd: S, a: S::f64s) -> S::f64s {
        simd.abs_f64s(a)
    }
    #[inline(always)]
    fn if_greater<S: Simd>(
        simd: S,
        a: S::f64s,
        b: S::f64s,
        then: S::f64s,
        otherwise: S::f64s,
    ) -> S::f64s {
        simd.select_f64s(simd.greater_than_f64s(a, b), then, otherwise)
    }
}

/// `U` registers of the instruction set `S`, computed together.
#[derive(Clone, Copy)]
pub struct Registers<F: NativeFloat, S: Simd, const U: usize> {
    simd: S,
    of: [Native<F, S>; U],
}

impl<F: NativeFloat + Copy, S: Simd, const U: usize> Registers<F, S, U> {
    /// Loops, here and below, and not the methods of arrays: those are functions of their own,
    /// which the compiler leaves as calls, without the instruction set, where there are many.
    #[inline(always)]
    fn map(mut self, f: impl Fn(Native<F, S>) -> Native<F, S>) -> Self {
        for a in &mut self.of {
            *a = f(*a);
        }
        self
    }

    #[inline(always)]
    fn zip(
        mut self,
        other: Self,
        f: impl Fn(S, Native<F, S>, Native<F, S>) -> Native<F, S>,
    ) -> Self {
        for (a, b) in self.of.iter_mut().zip(other.of) {
            *a = f(self.simd, *a, b);
        }
        self
    }

    #[inline(always)]
    fn splat(self, x: F) -> Native<F, S> {
        F::Native::splat(self.simd, x)
    }
}

impl<F: NativeFloat + Copy, S: Simd, const U: usize> Add for Registers<F, S, U> {
    type Output = Self;
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, F::Native::add)
    }
}

impl<F: NativeFloat + Copy, S: Simd, const U: usize> Sub for Registers<F, S, U> {
    type Output = Self;
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, F::Native::sub)
    }
}

impl<F: NativeFloat + Copy, S: Simd, const U: usize> Mul for Registers<F, S, U> {
    type Output = Self;
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, F::Native::mul)
    }
}

impl<F: NativeFloat + Copy, S: Simd, const U: usize> Div for Registers<F, S, U> {
    type Output = Self;
    #[inline(always)]
    fn div(self, other: Self) -> Self {
        self.zip(other, F::Native::div)
    }
}

impl<F: NativeFloat + Copy, S: Simd, const U: usize> Add<F> for Registers<F, S, U> {
    type Output = Self;
    #[inline(always)]
    fn add(self, x: F) -> Self {
        self.map(|a| F::Native::add(self.simd, a, self.splat(x)))
    }
}

impl<F: NativeFloat + Copy, S: Simd, const U: usize> Mul<F> for Registers<F, S, U> {
    type Output = Self;
    #[inline(always)]
    fn mul(self, x: F) -> Self {
        self.map(|a| F::Native::mul(self.simd, a, self.splat(x)))
    }
}

impl<F: Float, S: Simd, const U: usize> Lanes for Registers<F, S, U> {
    type Float = F;

    #[inline(always)]
    fn sqrt(self) -> Self {
        self.map(|a| F::Native::sqrt(self.simd, a))
    }

    #[inline(always)]
    fn abs(self) -> Self {
        self.map(|a| F::Native::abs(self.simd, a))
    }

    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        self.zip(other, |simd, a, b| F::Native::if_greater(simd, a, b, a, b))
    }

    #[inline(always)]
    fn under(self, x: F) -> Self {
        let x = self.splat(x);
        self.map(|a| F::Native::div(self.simd, x, a))
    }

    #[inline(always)]
    fn at_most(self, x: F) -> Self {
        let x = self.splat(x);
        self.map(|a| F::Native::if_greater(self.simd, a, x, x, a))
    }

    #[inline(always)]
    fn at_least(self, x: F) -> Self {
        let x = self.splat(x);
        self.map(|a| F::Native::if_greater(self.simd, x, a, x, a))
    }

    #[inline(always)]
    fn sign(self) -> Self {
        let (zero, one) = (self.splat(F::from_f64(0.0)), self.splat(F::from_f64(1.0)));
        let less = self.splat(F::from_f64(-1.0));
        self.map(|a| {
            let below = F::Native::if_greater(self.simd, zero, a, less, a);
            F::Native::if_greater(self.simd, a, zero, one, below)
        })
    }
}

impl<F: Float, S: Simd, const U: usize> Register for Registers<F, S, U> {
    type Token = S;
    const LEN: usize = U * size_of::<Native<F, S>>() / size_of::<F>();

    #[inline(always)]
    fn load(simd: S, from: &[F]) -> Self {
        let from = F::Native::of::<S>(from);
        let mut of = [from[0]; U];
        of.copy_from_slice(&from[..U]);
        Registers { simd, of }
    }

    #[inline(always)]
    fn store(self, to: &mut [F]) {
        F::Native::of_mut::<S>(to)[..U].copy_from_slice(&self.of);
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn fetch<E>(buffer: &[E], start: usize) {
        let ahead = start + FETCH_BYTES / size_of::<E>();
        if let Some(elements) = buffer.get(ahead..ahead + Self::LEN) {
            for line in elements.chunks(64 / size_of::<E>()) {
                safe_arch::prefetch_t0(&line[0]);
            }
        }
    }
}

/// The bits of `U` registers of `f32`.
#[derive(Clone, Copy)]
pub struct WordRegisters<S: Simd, const U: usize> {
    simd: S,
    of: [S::u32s; U],
}

impl<S: Simd, const U: usize> WordRegisters<S, U> {
    #[inline(always)]
    fn map(mut self, f: impl Fn(S::u32s) -> S::u32s) -> Self {
        for a in &mut self.of {
            *a = f(*a);
        }
        self
    }

    #[inline(always)]
    fn zero(simd: S) -> Self {
        WordRegisters { simd, of: [simd.splat_u32s(0); U] }
    }

    #[inline(always)]
    fn zip(mut self, other: Self, f: impl Fn(S, S::u32s, S::u32s) -> S::u32s) -> Self {
        for (a, b) in self.of.iter_mut().zip(other.of) {
            *a = f(self.simd, *a, b);
        }
        self
    }
}

impl<S: Simd, const U: usize> Words for WordRegisters<S, U> {
    #[inline(always)]
    fn splat(self, x: u32) -> Self {
        WordRegisters { of: [self.simd.splat_u32s(x); U], ..self }
    }
    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        self.zip(other, S::add_u32s)
    }
    #[inline(always)]
    fn and(self, other: Self) -> Self {
        self.zip(other, S::and_u32s)
    }
    #[inline(always)]
    fn or(self, other: Self) -> Self {
        self.zip(other, S::or_u32s)
    }
    #[inline(always)]
    fn xor(self, other: Self) -> Self {
        self.zip(other, S::xor_u32s)
    }
    #[inline(always)]
    fn left(self, by: u32) -> Self {
        let by = self.simd.splat_u32s(by);
        self.map(|a| self.simd.wrapping_dyn_shl_u32s(a, by))
    }
    #[inline(always)]
    fn right(self, by: u32) -> Self {
        let by = self.simd.splat_u32s(by);
        self.map(|a| self.simd.wrapping_dyn_shr_u32s(a, by))
    }
    #[inline(always)]
    fn if_below(mut self, limit: u32, then: Self, otherwise: Self) -> Self {
        let limit = self.simd.splat_u32s(limit);
        for i in 0..U {
            let below = self.simd.less_than_u32s(self.of[i], limit);
            self.of[i] = self.simd.select_u32s(below, then.of[i], otherwise.of[i]);
        }
        self
    }
}

impl<S: Instructions, const U: usize> Representation for Registers<f32, S, U> {
    type Words = WordRegisters<S, U>;

    #[inline(always)]
    fn to_words(self) -> WordRegisters<S, U> {
        let mut words = WordRegisters::zero(self.simd);
        for (word, a) in words.of.iter_mut().zip(self.of) {
            *word = self.simd.transmute_u32s_f32s(a);
        }
        words
    }

    #[inline(always)]
    fn from_words(words: WordRegisters<S, U>) -> Self {
        let simd = words.simd;
        let mut lanes = Registers { simd, of: [simd.splat_f32s(0.0); U] };
        for (lane, word) in lanes.of.iter_mut().zip(words.of) {
            *lane = simd.transmute_f32s_u32s(word);
        }
        lanes
    }

    #[inline(always)]
    fn unless_nan(self, mut words: WordRegisters<S, U>) -> WordRegisters<S, U> {
        for (word, a) in words.of.iter_mut().zip(self.of) {
            *word = self.simd.unless_nan(a, *word);
        }
        words
    }
}

impl<S: Instructions, const U: usize> MixedRegister for Registers<f32, S, U> {
    #[inline(always)]
    fn iota(simd: S) -> WordRegisters<S, U> {
        const NUMBERS: [u32; 64] = {
            let mut numbers = [0; 64];
            let mut i = 0;
            while i < 64 {
                numbers[i] = i as u32;
                i += 1;
            }
            numbers
        };
        let mut words = WordRegisters::zero(simd);
        words.of.copy_from_slice(&S::as_simd_u32s(&NUMBERS).0[..U]);
        words
    }

    #[inline(always)]
    fn load_halves(simd: S, from: &[u16]) -> WordRegisters<S, U> {
        let mut words = WordRegisters::zero(simd);
        for (word, halves) in words.of.iter_mut().zip(from.chunks_exact(Self::LEN / U)) {
            *word = simd.widen(bytemuck::pod_read_unaligned(bytemuck::cast_slice(halves)));
        }
        words
    }

    #[inline(always)]
    fn load_upper(simd: S, from: &[u16]) -> WordRegisters<S, U> {
        let mut words = WordRegisters::zero(simd);
        for (word, halves) in words.of.iter_mut().zip(from.chunks_exact(Self::LEN / U)) {
            *word = simd.widen_upper(bytemuck::pod_read_unaligned(bytemuck::cast_slice(halves)));
        }
        words
    }

    #[inline(always)]
    fn store_upper(words: WordRegisters<S, U>, to: &mut [u16]) {
        for (word, to) in words.of.into_iter().zip(to.chunks_exact_mut(Self::LEN / U)) {
            let halves = words.simd.narrow_upper(word);
            bytemuck::cast_slice_mut(to).copy_from_slice(bytemuck::bytes_of(&halves));
        }
    }

    #[inline(always)]
    fn store_halves(words: WordRegisters<S, U>, to: &mut [u16]) {
        for (word, to) in words.of.into_iter().zip(to.chunks_exact_mut(Self::LEN / U)) {
            let halves = words.simd.narrow(word);
            bytemuck::cast_slice_mut(to).copy_from_slice(bytemuck::bytes_of(&halves));
        }
    }
}
