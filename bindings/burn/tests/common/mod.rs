//! Shared code of the tests: every rule with its options, random numbers, and the bits of a tensor.

#![allow(dead_code, reason = "no test needs all of it")]

#[path = "../../../../tests/common/rules.rs"]
mod core_rules;

use burn::backend::{Element as BurnElement, Flex};
use burn::tensor::{Device, Tensor, TensorData};
use fused_adam::{AnyRule, Element};

/// The largest difference between burn's Adam or AdamW and fused-adam's, after one step from the
/// same state with the same gradient, as a multiple of the learning rate.
///
/// burn stores β2 and its powers in `f32`. So 1 − β2^t, which is 0.002 in step 2, has a relative
/// error of up to 6e-5 (two roundings of numbers near 1), and later less; the root halves it. 1 −
/// β2 has a relative error of 1.3e-5, which is the other error in v. The rest is a dozen roundings
/// of `f32`, together 1e-6. So the relative error of the change of θ is at most 5e-5, and the
/// change is at most (1 − β1) / √(1 − β2) = 3.2 times the learning rate.
pub const APART: f64 = 5e-5 * 3.2;

/// Every rule of the crate with weight decay, and with each set of options that changes its states
/// or their initial values.
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

    /// A number of either sign and of many magnitudes; one in eight is zero.
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

/// A tensor with this element type, independent of the device's default.
pub fn tensor<E: BurnElement, const D: usize>(
    values: Vec<E>,
    shape: [usize; D],
    device: &Device,
) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), (device, E::dtype()))
}

/// The bytes of a tensor in row-major order, to compare the bits of its numbers.
pub fn bytes<const D: usize>(tensor: &Tensor<D>) -> Vec<u8> {
    tensor.to_data().as_bytes().to_vec()
}

/// The address of its elements.
pub fn address<const D: usize>(tensor: &Tensor<D>) -> usize {
    let inner = tensor.clone().inner().try_into_primitive::<Flex>().unwrap();
    inner.bytes().as_ptr() as usize
}
