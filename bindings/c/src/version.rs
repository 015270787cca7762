//! Which version this is, when a program is compiled and when it runs.

use std::ffi::c_char;

use crate::text;

/// The first number of the version of this header.
pub const FUSED_ADAM_VERSION_MAJOR: u32 = 0;
/// The second number of the version of this header.
pub const FUSED_ADAM_VERSION_MINOR: u32 = 1;
/// The third number of the version of this header.
pub const FUSED_ADAM_VERSION_PATCH: u32 = 0;

/// The version of the library that the program runs with, such as "0.1.0".
///
/// Returns a text that is valid for ever. Any thread may call it.
#[unsafe(no_mangle)]
pub extern "C" fn fused_adam_version() -> *const c_char {
    text::lasting(env!("CARGO_PKG_VERSION"))
}

/// The version of the library that the program runs with, in one number: a million times the first
/// one, a thousand times the second, and the third. It is to be compared with
/// FUSED_ADAM_VERSION_MAJOR and so on, which are those of the header.
///
/// Any thread may call it.
#[unsafe(no_mangle)]
pub extern "C" fn fused_adam_version_number() -> u32 {
    1_000_000 * FUSED_ADAM_VERSION_MAJOR
        + 1000 * FUSED_ADAM_VERSION_MINOR
        + FUSED_ADAM_VERSION_PATCH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_the_packages() {
        let numbers =
            [FUSED_ADAM_VERSION_MAJOR, FUSED_ADAM_VERSION_MINOR, FUSED_ADAM_VERSION_PATCH];
        assert_eq!(numbers.map(|number| number.to_string()).join("."), env!("CARGO_PKG_VERSION"));
    }
}
