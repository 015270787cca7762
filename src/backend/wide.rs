//! Portable SIMD on the crate `wide`: the same code on every target, with the instructions that
//! the *build* enables. Registers are 256 bits in name; a plain build for x86-64 computes each as
//! two of 128.

use wide::{f32x8, f64x4};

use super::{Buffers, Register, whole_registers};
use crate::{Element, Kernel, Lanes};

/// An element that has a register type of `wide`.
pub trait WideElement: Sized {
    /// That type.
    type Wide: Register<Element = Self, Token = ()>;
}

impl WideElement for f32 {
    type Wide = f32x8;
}

impl WideElement for f64 {
    type Wide = f64x4;
}

#[inline(never)]
pub(crate) fn sweep<E: Element, K: Kernel<E, N>, const N: usize>(
    kernel: &K,
    buffers: Buffers<'_, E, N>,
) {
    let rest = whole_registers::<E::Wide, K, N>((), *kernel, buffers);
    whole_registers::<E, K, N>((), *kernel, rest);
}

impl Lanes for f32x8 {
    type Element = f32;

    #[inline(always)]
    fn sqrt(self) -> Self {
        f32x8::sqrt(self)
    }

    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        self.simd_gt(other).select(self, other)
    }
}

impl Register for f32x8 {
    type Token = ();
    const LEN: usize = 8;

    #[inline(always)]
    fn load(_: (), from: &[f32]) -> Self {
        bytemuck::pod_read_unaligned(bytemuck::cast_slice(&from[..Self::LEN]))
    }

    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        to[..Self::LEN].copy_from_slice(self.as_array());
    }
}

impl Lanes for f64x4 {
    type Element = f64;

    #[inline(always)]
    fn sqrt(self) -> Self {
        f64x4::sqrt(self)
    }

    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        self.simd_gt(other).select(self, other)
    }
}

impl Register for f64x4 {
    type Token = ();
    const LEN: usize = 4;

    #[inline(always)]
    fn load(_: (), from: &[f64]) -> Self {
        bytemuck::pod_read_unaligned(bytemuck::cast_slice(&from[..Self::LEN]))
    }

    #[inline(always)]
    fn store(self, to: &mut [f64]) {
        to[..Self::LEN].copy_from_slice(self.as_array());
    }
}
