//! The floating-point mode of a thread: whether it keeps subnormal numbers and rounds to nearest.
//!
//! Another library can change it: `torch.set_flush_denormal` and `-ffast-math` switch the x86 modes
//! FTZ and DAZ on, and `fesetround` changes the rounding. Then the bits of a step would differ. A
//! new thread starts with the mode of the thread that starts it.

use core::hint::black_box;

/// Whether this thread has the default mode. Found by arithmetic, which needs no access to the
/// control register. It takes some twenty instructions.
#[inline]
pub(crate) fn is_default() -> bool {
    let (least, zero, one) = (f32::from_bits(1), 0.0_f32, 1.0_f32);
    let [least, zero, one] = black_box([least, zero, one]);
    // The operand is flushed, or the result.
    let keeps_subnormals = (least + zero).to_bits() == 1;
    let rounds_to_nearest = one + least == one && one - least == one;
    keeps_subnormals && rounds_to_nearest
}
