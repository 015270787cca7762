//! Strings: names from the caller, and names for the caller that stay valid.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::status::{Failure, FusedAdamStatus};

/// A string that the caller owns.
///
/// # Safety
///
/// `text` is NULL, or ends with a NUL and does not change during `'a`.
pub(crate) unsafe fn borrowed<'a>(name: &str, text: *const c_char) -> Result<&'a str, Failure> {
    // SAFETY: the caller's promise.
    unsafe { bytes(name, text) }?.to_str().map_err(|_| {
        Failure::new(FusedAdamStatus::Text, format!("`{name}` is not UTF-8, expected that it is"))
    })
}

/// The path of a file. On Unix it can have any bytes.
///
/// # Safety
///
/// As for [`borrowed`].
pub(crate) unsafe fn path(name: &str, text: *const c_char) -> Result<PathBuf, Failure> {
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        // SAFETY: the caller's promise.
        let bytes = unsafe { bytes(name, text) }?.to_bytes();
        Ok(std::ffi::OsStr::from_bytes(bytes).into())
    }
    #[cfg(not(unix))]
    {
        // SAFETY: the caller's promise.
        unsafe { borrowed(name, text) }.map(PathBuf::from)
    }
}

/// # Safety
///
/// As for [`borrowed`].
unsafe fn bytes<'a>(name: &str, text: *const c_char) -> Result<&'a CStr, Failure> {
    if text.is_null() {
        return Err(Failure::null(name, "a text"));
    }
    // SAFETY: it is not NULL, so the caller promises that it ends with a NUL.
    Ok(unsafe { CStr::from_ptr(text) })
}

/// A string that stays valid until the program ends. Each one is allocated once.
pub(crate) fn lasting(text: &str) -> *const c_char {
    static MADE: Mutex<BTreeMap<String, CString>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = made.get(text) {
        return known.as_ptr();
    }
    // Names of rules, states and so on. None of them contains a NUL.
    let new = CString::new(text).unwrap_or_default();
    // The map may move the `CString`, but not the bytes that it points to.
    made.entry(text.to_owned()).or_insert(new).as_ptr()
}
