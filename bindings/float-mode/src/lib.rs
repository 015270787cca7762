//! Runs code in the default floating-point mode of the CPU, and restores the mode after it.
//!
//! A program into which a binding is loaded may flush subnormal numbers to zero, as after
//! `torch.set_flush_denormal(True)`, or round in another direction. Rust code must not run in such
//! a mode, and the bits of a step would differ. The mode belongs to a thread. A new thread starts
//! with that of the thread that starts it.
//!
//! Supports x86-64 and AArch64. On other CPUs nothing is changed.

/// Calls `work` in the default mode: subnormal numbers are kept, and numbers are rounded to
/// nearest. Restores the mode of this thread afterwards, also after a panic.
///
/// ```
/// let sum = fused_adam_float_mode::in_default_mode(|| 1.0 + 2.0);
/// assert_eq!(sum, 3.0);
/// ```
#[inline]
pub fn in_default_mode<T>(work: impl FnOnce() -> T) -> T {
    struct Restore(u64);

    impl Drop for Restore {
        fn drop(&mut self) {
            set_changed_bits(self.0);
        }
    }

    let bits = changed_bits();
    if bits == 0 {
        return work();
    }
    let _restore = Restore(bits);
    set_changed_bits(0);
    work()
}

/// The bits of the control register that are not as by default, of those that change results.
#[inline]
pub fn changed_bits() -> u64 {
    control::read() & control::MASK
}

/// Sets the bits that [`changed_bits`] returns: 0 for the default mode.
///
/// Only [`in_default_mode`] and tests of it should need this: Rust code may compute other results
/// while a bit is set.
#[inline(never)]
pub fn set_changed_bits(bits: u64) {
    control::write(control::read() & !control::MASK | bits & control::MASK);
}

/// A bit that flushes subnormal results to zero, for tests. 0 on other CPUs than those supported.
pub const FLUSH: u64 = control::FLUSH;

/// MXCSR.
#[cfg(target_arch = "x86_64")]
mod control {
    use core::arch::asm;

    pub const FLUSH: u64 = 1 << 15;
    /// FTZ, the two bits of the rounding direction, and DAZ.
    pub const MASK: u64 = FLUSH | 3 << 13 | 1 << 6;

    #[inline]
    pub fn read() -> u64 {
        let mut bits = 0_u32;
        // SAFETY: it writes the register to `bits`.
        unsafe {
            asm!("stmxcsr [{}]", in(reg) &raw mut bits, options(nostack, preserves_flags));
        }
        bits.into()
    }

    #[inline]
    pub fn write(bits: u64) {
        let bits = bits as u32;
        // SAFETY: `bits` are those that were read, with valid values of the bits in `MASK`. Rust
        // assumes the default mode: `in_default_mode` restores it for all Rust code of the step.
        unsafe {
            asm!("ldmxcsr [{}]", in(reg) &raw const bits, options(nostack, preserves_flags));
        }
    }
}

/// FPCR.
#[cfg(target_arch = "aarch64")]
mod control {
    use core::arch::asm;

    pub const FLUSH: u64 = 1 << 24;
    /// FZ, the two bits of the rounding direction, FZ16, and FIZ.
    pub const MASK: u64 = FLUSH | 3 << 22 | 1 << 19 | 1;

    #[inline]
    pub fn read() -> u64 {
        let bits: u64;
        // SAFETY: it reads the register.
        unsafe { asm!("mrs {}, fpcr", out(reg) bits, options(nomem, nostack, preserves_flags)) };
        bits
    }

    #[inline]
    pub fn write(bits: u64) {
        // SAFETY: `bits` are those that were read, with valid values of the bits in `MASK`. Rust
        // assumes the default mode: `in_default_mode` restores it for all Rust code of the step.
        unsafe { asm!("msr fpcr, {}", in(reg) bits, options(nostack, preserves_flags)) };
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod control {
    pub const FLUSH: u64 = 0;
    pub const MASK: u64 = 0;

    pub fn read() -> u64 {
        0
    }

    pub fn write(_: u64) {}
}

/// The README's example, run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
