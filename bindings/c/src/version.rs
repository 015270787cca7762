//! The version of the header, and of the library at run time.

use std::ffi::c_char;

use crate::text;

/// The major version of this header.
pub const FUSED_ADAM_VERSION_MAJOR: u32 = 0;
/// The minor version of this header.
pub const FUSED_ADAM_VERSION_MINOR: u32 = 1;
/// The patch version of this header.
pub const FUSED_ADAM_VERSION_PATCH: u32 = 0;

/// The version of the library at run time, such as "0.1.0".
///
/// Returns a string that stays valid forever. Any thread may call it.
#[unsafe(no_mangle)]
pub extern "C" fn fused_adam_version() -> *const c_char {
    text::lasting(env!("CARGO_PKG_VERSION"))
}

/// The version of the library at run time, as the number 1000000 * major + 1000 * minor + patch.
/// Compare it with FUSED_ADAM_VERSION_MAJOR and so on, the version of the header.
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
