//! What several tests need: every rule with its options, random numbers, and a tensor's bits.

#![allow(dead_code, reason = "no test needs all of it")]

#[path = "../../../../tests/common/rules.rs"]
mod core_rules;

use burn::backend::{Element as BurnElement, Flex};
use burn::tensor::{Device, Tensor, TensorData};
use fused_adam::{AnyRule, Element};

/// How far burn's Adam and AdamW may be from ours after one step from the same state with the same gradient, as a
/// share of the step size.
///
/// burn has β2 and its powers in `f32`, so that 1 − β2^t, which is 0.002 in step 2, is wrong by 6e-5 of
/// itself at worst (two roundings of numbers near 1), and later by less; the root halves it. That
/// 1 − β2 is wrong by 1.3e-5 of itself is the other error in v. The rest is a dozen roundings of `f32`, 1e-6
/// together. So the change of θ is wrong by no more than 5e-5 of itself; and it is at most
/// (1 − β1) / √(1 − β2) = 3.2 times the step size.
pub const APART: f64 = 5e-5 * 3.2;

/// Every rule of the crate, with weight decay: with each set of options that changes its states, or
/// what its states begin with.
pub fn rules() -> Vec<AnyRule> {
    let rules = core_rules::variants_with_other_starts().into_iter();
    rules.map(|(_, rule)| core_rules::with_if_any(rule, "weight_decay", 0.02)).collect()
}

/// SplitMix64: the same numbers in every run.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Of either sign and of many sizes, and one in eight of them zero.
    pub fn number(&mut self) -> f64 {
        let bits = self.next();
        let size = 2.0_f64.powi((bits % 17) as i32 - 12);
        let uniform = (bits >> 11) as f64 / (1_u64 << 52) as f64 - 1.0;
        if bits.is_multiple_of(8) { 0.0 } else { size * uniform }
    }

    pub fn numbers<E: Element>(&mut self, len: usize) -> Vec<E> {
        (0..len).map(|_| E::from_f64(self.number())).collect()
    }
}

/// A tensor of this type, whatever the device's default.
pub fn tensor<E: BurnElement, const D: usize>(
    values: Vec<E>,
    shape: [usize; D],
    device: &Device,
) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), (device, E::dtype()))
}

/// Its bytes in row order, which are compared as the bits of its numbers.
pub fn bytes<const D: usize>(tensor: &Tensor<D>) -> Vec<u8> {
    tensor.to_data().as_bytes().to_vec()
}

/// Where its numbers lie.
pub fn address<const D: usize>(tensor: &Tensor<D>) -> usize {
    let inner = tensor.clone().inner().try_into_primitive::<Flex>().unwrap();
    inner.bytes().as_ptr() as usize
}
