//! A sum of squares with nothing rounded: one long binary number that holds every bit that the
//! square of an `f64` can have.
//!
//! Integers add up to the same number in any order. So the sum does not depend on how the elements
//! were cut into parts, or on which thread added what; it is rounded once, at the end.

/// 64-bit digits: from 2^−2148, the square of the least `f64`, to 2^2140, which 2^92 of the largest
/// squares do not reach.
const LIMBS: usize = 67;

/// The weight of the lowest bit.
const LOWEST: i32 = -2148;

/// A sum of numbers that are zero or more, exact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExactSum {
    limbs: [u64; LIMBS],
}

impl ExactSum {
    pub const ZERO: Self = ExactSum { limbs: [0; LIMBS] };
    const PAST_ALL: Self = ExactSum { limbs: [u64::MAX; LIMBS] };

    /// Adds a finite number, which may be negative as long as the sum does not become so.
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

    /// Whether it has been past 2^2140, which is infinite to any `f64`, and stays so.
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

    /// The square root of the sum, rounded once, also where the sum itself would overflow.
    pub fn sqrt(&self) -> f64 {
        let (top, more, exponent) = self.top();
        let root = top.isqrt();
        // With the last of its 64 bits set if it is not exact, it is rounded as the whole would be.
        let inexact = more || root.pow(2) != top;
        let root = root as u64 | u64::from(inexact);
        let half = exponent / 2;
        let lost = -1074 - half;
        if root > 0 && lost > 11 {
            // A subnormal, whose bits are counted from 2^-1074: rounded to those.
            let (kept, cut, tie) = (root >> lost, root << (64 - lost), 1 << 63);
            let up = cut > tie || (cut == tie && kept & 1 == 1);
            return f64::from_bits(kept + u64::from(up));
        }
        // In two factors, neither of which overflows or vanishes.
        root as f64 * 2_f64.powi(half / 2) * 2_f64.powi(half - half / 2)
    }

    /// The highest 127 or 128 bits, whether any is set below them, and the weight of the last of
    /// them, an even power of two.
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

/// `x` = ± mantissa · 2^exponent.
fn parts(x: f64) -> (u64, i32) {
    let bits = x.to_bits();
    let (exponent, fraction) = ((bits >> 52 & 0x7FF) as i32, bits & ((1 << 52) - 1));
    if exponent == 0 { (fraction, -1074) } else { (fraction | 1 << 52, exponent - 1075) }
}
