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

mod halves;
mod registers;

use pulp::{NullaryFnOnce, Simd};

use super::columns::{Buffers, Table};
use super::tiles::Conversion;
use super::{Backend, Register, Stored, Swept, whole_registers};
use crate::{Element, Kernel};
pub(crate) use halves::Instructions;
pub(crate) use registers::NativeFloat;
use registers::Registers;

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

    /// Does `work`, inlined into a function that enables the instructions.
    #[cfg_attr(
        not(any(target_arch = "x86_64", target_arch = "aarch64")),
        expect(unused_variables, reason = "no level exists on this target")
    )]
    pub(crate) fn run<W: Work>(self, work: W) -> W::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(simd) => simd.vectorize(Ready { simd, work }),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(simd) => simd.vectorize(Ready { simd, work }),
            #[cfg(target_arch = "aarch64")]
            Level::Neon(simd) => simd.vectorize(Ready { simd, work }),
        }
    }

    /// Converts whole registers, and returns the rest.
    pub(crate) fn convert<C: Conversion>(self, conversion: C) -> C {
        self.run(Convert(conversion))
    }
}

/// Work that is compiled for each instruction set.
pub(crate) trait Work {
    type Output;

    /// To be inlined always.
    fn with<S: Instructions>(self, simd: S) -> Self::Output;
}

/// Work with the instruction set that does it.
struct Ready<S, W> {
    simd: S,
    work: W,
}

impl<S: Instructions, W: Work> NullaryFnOnce for Ready<S, W> {
    type Output = W::Output;

    #[inline(always)]
    fn call(self) -> W::Output {
        self.work.with(self.simd)
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
        // them. A constant, so that only one of the two is compiled.
        if const { size_of::<G>() == size_of::<T::Float>() } {
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
    if buffers.len() < L::LEN {
        return few(simd, kernel, buffers);
    }
    let mut head = buffers.theta.as_ptr().align_offset(ALIGN_BYTES);
    if head.saturating_add(ALIGN_BLOCKS * L::LEN) > buffers.len() {
        head = 0;
    }
    let (head, rest) = buffers.split_at(head);
    let tail = whole_registers::<L, _, _, _, K, N>(simd, kernel, rest);
    for ends in [head, tail] {
        few(simd, kernel, ends);
    }
}

/// Steps buffers that are shorter than a block.
#[inline(always)]
fn few<S, T, G, E, K, const N: usize>(simd: S, kernel: K, buffers: Buffers<'_, T, G, E, N>)
where
    S: Simd,
    T: StoredIn<S>,
    G: StoredIn<S, Float = T::Float>,
    E: StoredIn<S, Float = T::Float>,
    K: Kernel<T::Float, N>,
{
    let one = whole_registers::<Registers<T::Float, S, 1>, _, _, _, K, N>(simd, kernel, buffers);
    whole_registers::<T::Float, _, _, _, K, N>((), kernel, one);
}

/// A conversion, waiting for an instruction set.
struct Convert<C>(C);

impl<C: Conversion> Work for Convert<C> {
    type Output = C;

    #[inline(always)]
    fn with<S: Instructions>(self, simd: S) -> C {
        self.0.run::<Registers<f32, S, 2>>(simd)
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
