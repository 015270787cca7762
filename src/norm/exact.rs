//! An exact sum of squares: one long integer that has every bit that the square of an `f64` can
//! have.
//!
//! Integer addition gives the same sum in any order. So the sum does not depend on how the elements
//! were split, or on the threads that added them. It is rounded once, at the end.

/// The number of 64-bit digits. They reach from 2^−2148, the square of the smallest `f64`, to
/// 2^2140. The sum of 2^92 of the largest squares is below that.
const LIMBS: usize = 67;

/// The exponent of the lowest bit's weight.
const LOWEST: i32 = -2148;

/// An exact sum, which is never negative.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExactSum {
    limbs: [u64; LIMBS],
}

impl ExactSum {
    pub const ZERO: Self = ExactSum { limbs: [0; LIMBS] };
    /// The sum that stands for all sums that are too large.
    const PAST_ALL: Self = ExactSum { limbs: [u64::MAX; LIMBS] };

    /// The number of bytes of all digits.
    pub const BYTES: usize = 8 * LIMBS;

    /// Writes the digits from the lowest on, each in little-endian order, to [`BYTES`](Self::BYTES)
    /// bytes.
    pub fn write_to(&self, bytes: &mut [u8]) {
        for (to, limb) in bytes.as_chunks_mut().0.iter_mut().zip(self.limbs) {
            *to = limb.to_le_bytes();
        }
    }

    /// Reads what [`write_to`](Self::write_to) has written.
    pub fn read_from(bytes: &[u8]) -> Self {
        let mut sum = Self::ZERO;
        for (limb, from) in sum.limbs.iter_mut().zip(bytes.as_chunks().0) {
            *limb = u64::from_le_bytes(*from);
        }
        sum
    }

    /// Adds a finite number. It may be negative if the sum does not become negative.
    pub fn add(&mut self, x: f64) {
        let (mantissa, exponent) = parts(x);
        if mantissa != 0 {
            self.add_shifted(u128::from(mantissa), exponent, x < 0.0);
        }
    }

    /// Adds the square of a finite number.
    pub fn add_square(&mut self, x: f64) {
        let (mantissa, exponent) = parts(x);
        if mantissa != 0 {
            self.add_shifted(u128::from(mantissa).pow(2), 2 * exponent, false);
        }
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: &Self) {
        let mut carry = false;
        for (limb, other) in self.limbs.iter_mut().zip(other.limbs) {
            (*limb, carry) = limb.carrying_add(other, carry);
        }
        if carry || self.is_past_all() || other.is_past_all() {
            *self = Self::PAST_ALL;
        }
    }

    /// Whether the sum has been too large once, and so stays [`PAST_ALL`](Self::PAST_ALL). Its root
    /// is infinite as an `f64`.
    fn is_past_all(&self) -> bool {
        self.limbs[LIMBS - 1] == u64::MAX
    }

    /// Adds or subtracts `mantissa`·2^`exponent`.
    fn add_shifted(&mut self, mantissa: u128, exponent: i32, negative: bool) {
        if self.is_past_all() {
            return;
        }
        let at = (exponent - LOWEST) as usize;
        let (limb, shift) = (at / 64, at % 64);
        let low = u128::from(mantissa as u64) << shift;
        let high = (mantissa >> 64) << shift;
        let middle = (low >> 64) + u128::from(high as u64);
        let digits = [low as u64, middle as u64, ((high >> 64) + (middle >> 64)) as u64];
        let mut carry = false;
        for (i, limb) in self.limbs[limb..].iter_mut().enumerate() {
            let digit = digits.get(i).copied().unwrap_or(0);
            if i >= digits.len() && !carry {
                break;
            }
            (*limb, carry) = if negative {
                limb.borrowing_sub(digit, carry)
            } else {
                limb.carrying_add(digit, carry)
            };
        }
    }

    /// The square root of the sum, rounded once to `f64`. The sum itself may be larger than any
    /// `f64`.
    pub fn sqrt(&self) -> f64 {
        let (top, more, exponent) = self.top();
        let root = top.isqrt();
        // Rounded to odd: the last of the 64 bits is set if the root is not exact. So the bits
        // below it are not needed for the rounding that follows.
        let inexact = more || root.pow(2) != top;
        let root = root as u64 | u64::from(inexact);
        let half = exponent / 2;
        let lost = -1074 - half;
        if root > 0 && lost > 11 {
            // A subnormal: it is rounded to a multiple of 2^-1074.
            let (kept, cut, tie) = (root >> lost, root << (64 - lost), 1 << 63);
            let up = cut > tie || (cut == tie && kept & 1 == 1);
            return f64::from_bits(kept + u64::from(up));
        }
        // The power of two has two factors, neither of which overflows or becomes 0.
        root as f64 * 2_f64.powi(half / 2) * 2_f64.powi(half - half / 2)
    }

    /// The highest 127 or 128 bits, whether any bit below them is set, and the exponent of the last
    /// one's weight, which is even.
    fn top(&self) -> (u128, bool, i32) {
        let Some(first) = self.limbs.iter().rposition(|&limb| limb != 0) else {
            return (0, false, 0);
        };
        let limb = |back: usize| first.checked_sub(back).map_or(0, |i| self.limbs[i]);
        let zeros = limb(0).leading_zeros() & !1;
        let [high, middle, low] = [0, 1, 2].map(|back| u128::from(limb(back)));
        let both = (high << 64 | middle) << zeros;
        let top = both | (low << zeros) >> 64;
        let rest = self.limbs[..first.saturating_sub(2)].iter().any(|&limb| limb != 0);
        let more = rest || (low << zeros) as u64 != 0;
        (top, more, LOWEST + 64 * (first as i32 - 1) - zeros as i32)
    }
}

/// Splits `x` into ± mantissa · 2^exponent. Returns the mantissa and the exponent.
fn parts(x: f64) -> (u64, i32) {
    let bits = x.to_bits();
    let (exponent, fraction) = ((bits >> 52 & 0x7FF) as i32, bits & ((1 << 52) - 1));
    if exponent == 0 { (fraction, -1074) } else { (fraction | 1 << 52, exponent - 1075) }
}
