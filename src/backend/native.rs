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

use pulp::{Simd, WithSimd};

use super::{Backend, Buffers, Register, whole_registers};
use crate::{Element, Kernel, Lanes};

/// Registers of each buffer that are computed together.
const UNROLL: usize = 4;

/// A sweep begins its blocks where θ is aligned to this, a cache line: a 512-bit register that lies
/// across two lines costs two accesses. The other buffers are then aligned too wherever all were
/// allocated alike.
const ALIGN_BYTES: usize = 64;

/// Buffers shorter than this many blocks are stepped as they lie: getting to the boundary takes some
/// tens of nanoseconds.
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
    pub(crate) fn sweep<E: Element, K: Kernel<E, N>, const N: usize>(
        self,
        kernel: &K,
        buffers: Buffers<'_, E, N>,
    ) {
        let kernel = *kernel;
        match self {
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(simd) => Simd::vectorize(simd, Sweep { kernel, buffers }),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(simd) => Simd::vectorize(simd, Sweep { kernel, buffers }),
            #[cfg(target_arch = "aarch64")]
            Level::Neon(simd) => Simd::vectorize(simd, Sweep { kernel, buffers }),
        }
    }
}

/// A sweep, waiting for an instruction set. A type and not a closure: a closure need not be
/// inlined into the function that enables the instructions, and would then run without them.
struct Sweep<'a, E, K, const N: usize> {
    kernel: K,
    buffers: Buffers<'a, E, N>,
}

impl<E: Element, K: Kernel<E, N>, const N: usize> WithSimd for Sweep<'_, E, K, N> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Sweep { kernel, buffers } = self;
        let block = Registers::<E, S, UNROLL>::LEN;
        let mut head = buffers.theta.as_ptr().align_offset(ALIGN_BYTES);
        if head.saturating_add(ALIGN_BLOCKS * block) > buffers.len() {
            head = 0;
        }
        let (head, rest) = buffers.split_at(head);
        let tail = whole_registers::<Registers<E, S, UNROLL>, K, N>(simd, kernel, rest);
        for few in [head, tail] {
            let fewer = whole_registers::<Registers<E, S, 1>, K, N>(simd, kernel, few);
            whole_registers::<E, K, N>((), kernel, fewer);
        }
    }
}

/// An element that has registers in each instruction set.
pub trait NativeElement: Sized {
    /// What those registers can do: on a type of its own, so that generic code over [`Element`] does
    /// not meet these names.
    type Native: Arithmetic<Element = Self>;
}

impl NativeElement for f32 {
    type Native = Single;
}

impl NativeElement for f64 {
    type Native = Double;
}

/// One register of the instruction set `S`.
type Native<E, S> = <<E as NativeElement>::Native as Arithmetic>::Register<S>;

/// What a register of elements can do in each instruction set.
pub trait Arithmetic {
    type Element;
    type Register<S: Simd>: Copy;

    fn splat<S: Simd>(simd: S, x: Self::Element) -> Self::Register<S>;
    /// As many whole registers as the elements fill.
    fn of<S: Simd>(elements: &[Self::Element]) -> &[Self::Register<S>];
    fn of_mut<S: Simd>(elements: &mut [Self::Element]) -> &mut [Self::Register<S>];
    fn add<S: Simd>(simd: S, a: Self::Register<S>, b: Self::Register<S>) -> Self::Register<S>;
    fn sub<S: Simd>(simd: S, a: Self::Register<S>, b: Self::Register<S>) -> Self::Register<S>;
    fn mul<S: Simd>(simd: S, a: Self::Register<S>, b: Self::Register<S>) -> Self::Register<S>;
    fn div<S: Simd>(simd: S, a: Self::Register<S>, b: Self::Register<S>) -> Self::Register<S>;
    fn sqrt<S: Simd>(simd: S, a: Self::Register<S>) -> Self::Register<S>;
    fn larger<S: Simd>(simd: S, a: Self::Register<S>, b: Self::Register<S>) -> Self::Register<S>;
}

/// Registers of `f32`.
pub struct Single;

impl Arithmetic for Single {
    type Element = f32;
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
    fn larger<S: Simd>(simd: S, a: S::f32s, b: S::f32s) -> S::f32s {
        simd.select_f32s(simd.greater_than_f32s(a, b), a, b)
    }
}

/// Registers of `f64`.
pub struct Double;

impl Arithmetic for Double {
    type Element = f64;
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
    fn larger<S: Simd>(simd: S, a: S::f64s, b: S::f64s) -> S::f64s {
        simd.select_f64s(simd.greater_than_f64s(a, b), a, b)
    }
}

/// `U` registers of the instruction set `S`, computed together.
#[derive(Clone, Copy)]
struct Registers<E: NativeElement, S: Simd, const U: usize> {
    simd: S,
    of: [Native<E, S>; U],
}

impl<E: NativeElement + Copy, S: Simd, const U: usize> Registers<E, S, U> {
    #[inline(always)]
    fn map(self, f: impl Fn(Native<E, S>) -> Native<E, S>) -> Self {
        Registers { of: self.of.map(f), ..self }
    }

    #[inline(always)]
    fn zip(
        mut self,
        other: Self,
        f: impl Fn(S, Native<E, S>, Native<E, S>) -> Native<E, S>,
    ) -> Self {
        for (a, b) in self.of.iter_mut().zip(other.of) {
            *a = f(self.simd, *a, b);
        }
        self
    }
}

impl<E: NativeElement + Copy, S: Simd, const U: usize> Add for Registers<E, S, U> {
    type Output = Self;
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, E::Native::add)
    }
}

impl<E: NativeElement + Copy, S: Simd, const U: usize> Sub for Registers<E, S, U> {
    type Output = Self;
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, E::Native::sub)
    }
}

impl<E: NativeElement + Copy, S: Simd, const U: usize> Mul for Registers<E, S, U> {
    type Output = Self;
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, E::Native::mul)
    }
}

impl<E: NativeElement + Copy, S: Simd, const U: usize> Div for Registers<E, S, U> {
    type Output = Self;
    #[inline(always)]
    fn div(self, other: Self) -> Self {
        self.zip(other, E::Native::div)
    }
}

impl<E: NativeElement + Copy, S: Simd, const U: usize> Add<E> for Registers<E, S, U> {
    type Output = Self;
    #[inline(always)]
    fn add(self, x: E) -> Self {
        self.map(|a| E::Native::add(self.simd, a, E::Native::splat(self.simd, x)))
    }
}

impl<E: NativeElement + Copy, S: Simd, const U: usize> Mul<E> for Registers<E, S, U> {
    type Output = Self;
    #[inline(always)]
    fn mul(self, x: E) -> Self {
        self.map(|a| E::Native::mul(self.simd, a, E::Native::splat(self.simd, x)))
    }
}

impl<E: Element, S: Simd, const U: usize> Lanes for Registers<E, S, U> {
    type Element = E;

    #[inline(always)]
    fn sqrt(self) -> Self {
        self.map(|a| E::Native::sqrt(self.simd, a))
    }

    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        self.zip(other, E::Native::larger)
    }
}

impl<E: Element, S: Simd, const U: usize> Register for Registers<E, S, U> {
    type Token = S;
    const LEN: usize = U * size_of::<Native<E, S>>() / size_of::<E>();

    #[inline(always)]
    fn load(simd: S, from: &[E]) -> Self {
        let from = E::Native::of::<S>(from);
        Registers { simd, of: core::array::from_fn(|i| from[i]) }
    }

    #[inline(always)]
    fn store(self, to: &mut [E]) {
        E::Native::of_mut::<S>(to)[..U].copy_from_slice(&self.of);
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn fetch(buffer: &[E], start: usize) {
        let ahead = start + FETCH_BYTES / size_of::<E>();
        if let Some(elements) = buffer.get(ahead..ahead + Self::LEN) {
            for line in elements.chunks(64 / size_of::<E>()) {
                safe_arch::prefetch_t0(&line[0]);
            }
        }
    }
}
