//! NEON: widening, narrowing and comparing, for which `pulp`'s trait `Simd` has no methods.

use super::native::{NativeSimd, Unrolled};

impl NativeSimd for pulp::aarch64::Neon {
    type Halves = [u16; 4];
    type Block = Unrolled<Self, 8>;

    #[inline(always)]
    fn block(self) -> Self::Block {
        Unrolled(self)
    }

    #[inline(always)]
    fn widen(self, halves: [u16; 4]) -> pulp::u32x4 {
        bytemuck::cast(halves.map(u32::from))
    }

    #[inline(always)]
    fn has_nan_f32s(self, a: pulp::f32x4) -> bool {
        let equal = self.neon.vceqq_f32(bytemuck::cast(a), bytemuck::cast(a));
        self.neon.vminvq_u32(equal) == 0
    }

    #[inline(always)]
    fn has_nan_f64s(self, a: pulp::f64x2) -> bool {
        let [a, b]: [f64; 2] = bytemuck::cast(a);
        a.is_nan() | b.is_nan()
    }

    #[inline(always)]
    fn umin(self, a: pulp::u32x4, b: pulp::u32x4) -> pulp::u32x4 {
        bytemuck::cast(self.neon.vminq_u32(bytemuck::cast(a), bytemuck::cast(b)))
    }

    #[inline(always)]
    fn umax(self, a: pulp::u32x4, b: pulp::u32x4) -> pulp::u32x4 {
        bytemuck::cast(self.neon.vmaxq_u32(bytemuck::cast(a), bytemuck::cast(b)))
    }

    #[inline(always)]
    fn umul(self, a: pulp::u32x4, b: pulp::u32x4) -> pulp::u32x4 {
        bytemuck::cast(self.neon.vmulq_u32(bytemuck::cast(a), bytemuck::cast(b)))
    }

    #[inline(always)]
    fn reduce_umax(self, a: pulp::u32x4) -> u32 {
        self.neon.vmaxvq_u32(bytemuck::cast(a))
    }

    #[inline(always)]
    fn widen_bytes(self, bytes: &[u8]) -> pulp::u32x4 {
        let four: [u8; 4] = bytemuck::pod_read_unaligned(&bytes[..4]);
        bytemuck::cast(four.map(u32::from))
    }

    #[inline(always)]
    fn narrow_bytes(self, words: &[pulp::u32x4], bytes: &mut [u8]) {
        for (a, bytes) in words.iter().zip(bytes.chunks_exact_mut(4)) {
            let words: [u32; 4] = bytemuck::cast(*a);
            bytes.copy_from_slice(&words.map(|word| word as u8));
        }
    }

    #[inline(always)]
    fn doubles(self, a: pulp::f32x4) -> [pulp::f64x2; 2] {
        let a: [f32; 4] = bytemuck::cast(a);
        [
            bytemuck::cast([f64::from(a[0]), f64::from(a[1])]),
            bytemuck::cast([f64::from(a[2]), f64::from(a[3])]),
        ]
    }

    #[inline(always)]
    fn narrow(self, words: pulp::u32x4) -> [u16; 4] {
        let words: [u32; 4] = bytemuck::cast(words);
        words.map(|word| word as u16)
    }
}
