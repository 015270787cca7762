//! Status codes and error messages, which are stored per thread; and the guard around every call,
//! which turns panics into status codes.

use std::cell::{Cell, RefCell};
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use fused_adam::{CheckpointError, Error};
use fused_adam_float_mode::in_default_mode;

use crate::rule::shown;
use crate::text;

/// The result of a function. After any other value than FUSED_ADAM_STATUS_OK nothing has changed,
/// unless the function says otherwise. fused_adam_last_error() describes the error.
///
/// Later versions may return codes that are not listed here.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FusedAdamStatus {
    /// Success.
    Ok = 0,
    /// A pointer is NULL that must not be.
    Null = 1,
    /// A buffer does not fit into memory, or its length differs from that of another buffer or of
    /// its parameter.
    Length = 2,
    /// The address of a buffer is not a multiple of the size of its elements.
    Misaligned = 3,
    /// A buffer that is written overlaps another buffer.
    Overlap = 4,
    /// The name or number does not exist. The message lists those that do.
    Unknown = 5,
    /// A hyper-parameter, an option, a step number or another number is outside its range.
    Value = 6,
    /// An element type is not one of FusedAdamType, or cannot be combined with the others.
    Type = 7,
    /// The number of states or scalars differs from that of the rule.
    States = 8,
    /// The parameter name is in use, or a step got a parameter twice.
    Duplicate = 9,
    /// This CPU does not support the backend.
    Backend = 10,
    /// The gradient norm is infinite or NaN, so it cannot be clipped. Or a gradient is infinite or
    /// NaN, and the loss scale cannot shrink further.
    Nonfinite = 11,
    /// A name is not UTF-8.
    Text = 12,
    /// A file cannot be read or written.
    Io = 13,
    /// A file is not a checkpoint, or belongs to another optimizer.
    Checkpoint = 14,
    /// The threads did not start.
    Threads = 15,
    /// A bug in this library. The buffers of this call may be partially written. Free the handle
    /// that was used in the call.
    Panic = 16,
    /// An error that has no other code in this version.
    Other = 17,
    /// Another call uses the optimizer. Nothing has changed.
    Busy = 18,
}

impl FusedAdamStatus {
    const ALL: [FusedAdamStatus; 19] = {
        use FusedAdamStatus::*;
        [
            Ok, Null, Length, Misaligned, Overlap, Unknown, Value, Type, States, Duplicate,
            Backend, Nonfinite, Text, Io, Checkpoint, Threads, Panic, Other, Busy,
        ]
    };

    fn name(self) -> &'static str {
        match self {
            FusedAdamStatus::Ok => "ok",
            FusedAdamStatus::Null => "null",
            FusedAdamStatus::Length => "length",
            FusedAdamStatus::Misaligned => "misaligned",
            FusedAdamStatus::Overlap => "overlap",
            FusedAdamStatus::Unknown => "unknown",
            FusedAdamStatus::Value => "value",
            FusedAdamStatus::Type => "type",
            FusedAdamStatus::States => "states",
            FusedAdamStatus::Duplicate => "duplicate",
            FusedAdamStatus::Backend => "backend",
            FusedAdamStatus::Nonfinite => "nonfinite",
            FusedAdamStatus::Text => "text",
            FusedAdamStatus::Io => "io",
            FusedAdamStatus::Checkpoint => "checkpoint",
            FusedAdamStatus::Threads => "threads",
            FusedAdamStatus::Panic => "panic",
            FusedAdamStatus::Other => "other",
            FusedAdamStatus::Busy => "busy",
        }
    }
}

/// An error of a call.
#[derive(Debug)]
pub(crate) struct Failure {
    pub status: FusedAdamStatus,
    pub message: String,
}

impl Failure {
    pub fn new(status: FusedAdamStatus, message: impl Into<String>) -> Self {
        Failure { status, message: message.into() }
    }

    /// The error for a pointer that must not be NULL.
    #[cold]
    pub fn null(name: &str, expected: &str) -> Self {
        Failure::new(FusedAdamStatus::Null, format!("`{name}` is NULL, expected {expected}"))
    }

    /// Stores the error for this thread and returns its code.
    #[cold]
    fn tell(self) -> FusedAdamStatus {
        // A NUL would end the message.
        let message = self.message.replace('\0', "\u{FFFD}");
        let message = CString::new(message).unwrap_or_default();
        // A thread that is ending may have dropped its storage.
        let _ = LAST.try_with(|last| {
            last.status.set(self.status);
            if let Ok(mut place) = last.message.try_borrow_mut() {
                *place = Some(message);
            }
        });
        self.status
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = match error.cause() {
            Error::HyperParameter { .. } | Error::StepNumber { .. } | Error::Offset { .. } => {
                FusedAdamStatus::Value
            }
            Error::Length { .. }
            | Error::TensorLength { .. }
            | Error::Blocks { .. }
            | Error::OutOfMemory { .. } => FusedAdamStatus::Length,
            Error::MissingState { .. }
            | Error::SuperfluousState { .. }
            | Error::Scalars { .. }
            | Error::KernelStates { .. } => FusedAdamStatus::States,
            Error::BackendNotAvailable { .. } => FusedAdamStatus::Backend,
            Error::UnknownBackend { .. }
            | Error::UnknownRule { .. }
            | Error::UnknownParam { .. }
            | Error::UnknownGroup { .. }
            | Error::RuleIndex { .. }
            | Error::ForeignId { .. } => FusedAdamStatus::Unknown,
            Error::DuplicateParam { .. } | Error::GivenTwice { .. } => FusedAdamStatus::Duplicate,
            Error::TensorType { .. } | Error::ElementType { .. } => FusedAdamStatus::Type,
            Error::NonfiniteNorm { .. } | Error::LossScale { .. } => FusedAdamStatus::Nonfinite,
            _ => FusedAdamStatus::Other,
        };
        let mut message = error.to_string();
        if let Error::HyperParameter { name, value, .. } = error.cause() {
            // The core has one type for all numbers.
            let as_float = format!("`{name}` is {value:?},");
            message = message.replace(&as_float, &format!("`{name}` is {},", shown(*value)));
        }
        Failure::new(status, message)
    }
}

impl From<CheckpointError> for Failure {
    fn from(error: CheckpointError) -> Self {
        let status = match error {
            CheckpointError::Io { .. } => FusedAdamStatus::Io,
            _ => FusedAdamStatus::Checkpoint,
        };
        Failure::new(status, error.to_string())
    }
}

/// The last error of a thread.
struct Last {
    status: Cell<FusedAdamStatus>,
    /// None before the first error.
    message: RefCell<Option<CString>>,
}

thread_local! {
    static LAST: Last = const {
        Last { status: Cell::new(FusedAdamStatus::Ok), message: RefCell::new(None) }
    };
}

/// Runs the body of a call. Turns an error or a panic into a status code.
pub(crate) fn guarded(work: impl FnOnce() -> Result<(), Failure>) -> FusedAdamStatus {
    // After a panic the caller is told to stop using the handle. The program may have changed the
    // floating-point mode.
    match in_default_mode(|| catch_unwind(AssertUnwindSafe(work))) {
        Ok(Ok(())) => FusedAdamStatus::Ok,
        Ok(Err(failure)) => failure.tell(),
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().copied();
            let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
            let message = format!("panicked: {}", text.unwrap_or("without a message"));
            Failure::new(FusedAdamStatus::Panic, message).tell()
        }
    }
}

/// The same for a call that returns a value instead of a status. Returns `otherwise` after an
/// error.
pub(crate) fn guarded_or<T>(otherwise: T, work: impl FnOnce() -> Result<T, Failure>) -> T {
    let mut result = otherwise;
    guarded(|| {
        result = work()?;
        Ok(())
    });
    result
}

/// The message of the last call of this thread that failed. It names the argument, its value, and
/// the expected value.
///
/// Returns a string that stays valid until the next call of this thread that fails, or until the
/// thread ends. It is empty if no call has failed. Successful calls do not change it. Each thread
/// has its own message.
#[unsafe(no_mangle)]
pub extern "C" fn fused_adam_last_error() -> *const c_char {
    let none = c"".as_ptr();
    let of = |last: &Last| last.message.try_borrow().ok()?.as_ref().map(|message| message.as_ptr());
    LAST.try_with(of).ok().flatten().unwrap_or(none)
}

/// The status of the last call of this thread that failed. FUSED_ADAM_STATUS_OK if none has failed.
/// Use it after functions that do not return a status.
///
/// Each thread has its own status.
#[unsafe(no_mangle)]
pub extern "C" fn fused_adam_last_status() -> FusedAdamStatus {
    LAST.try_with(|last| last.status.get()).unwrap_or(FusedAdamStatus::Ok)
}

/// The name of a status, such as "overlap"; "unknown code" for an unknown number.
///
/// Returns a string that stays valid forever. Any thread may call it.
#[unsafe(no_mangle)]
pub extern "C" fn fused_adam_status_name(status: i32) -> *const c_char {
    let found = FusedAdamStatus::ALL.into_iter().find(|known| *known as i32 == status);
    text::lasting(found.map_or("unknown code", FusedAdamStatus::name))
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;

    fn last_error() -> String {
        // SAFETY: the string is valid until the next error of this thread.
        unsafe { CStr::from_ptr(fused_adam_last_error()) }.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_panic_becomes_a_code_and_a_message() {
        assert_eq!(guarded(|| panic!("it broke")), FusedAdamStatus::Panic);
        assert_eq!(last_error(), "panicked: it broke");
        let number = 7;
        assert_eq!(guarded(|| panic!("it broke {number} times")), FusedAdamStatus::Panic);
        assert_eq!(last_error(), "panicked: it broke 7 times");
        assert_eq!(guarded(|| std::panic::panic_any(7)), FusedAdamStatus::Panic);
        assert_eq!(last_error(), "panicked: without a message");
        let overrun = || {
            let indices: &[usize] = &[];
            Ok(indices[std::hint::black_box(3)])
        };
        assert_eq!(guarded_or(5, overrun), 5);
        assert_eq!(fused_adam_last_status(), FusedAdamStatus::Panic);
        assert!(last_error().contains("index out of bounds"), "{}", last_error());
    }

    #[test]
    fn a_panic_on_a_thread_of_the_pool_becomes_one_too() {
        let broken = || {
            rayon::join(|| (), || panic!("elsewhere"));
            Ok(())
        };
        assert_eq!(guarded(broken), FusedAdamStatus::Panic);
        assert_eq!(last_error(), "panicked: elsewhere");
    }

    #[test]
    fn messages_belong_to_their_thread_and_outlive_successes() {
        let refuse = |message: &str| guarded(|| Err(Failure::null(message, "something")));
        assert_eq!(refuse("here"), FusedAdamStatus::Null);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                assert_eq!(
                    (last_error(), fused_adam_last_status()),
                    ("".into(), FusedAdamStatus::Ok)
                );
                assert_eq!(refuse("there"), FusedAdamStatus::Null);
            });
        });
        assert_eq!(guarded(|| Ok(())), FusedAdamStatus::Ok);
        assert_eq!(last_error(), "`here` is NULL, expected something");
        assert_eq!(refuse("a\0b"), FusedAdamStatus::Null);
        assert!(last_error().starts_with("`a\u{FFFD}b`"));
    }

    #[test]
    fn codes_have_their_names() {
        for (i, status) in FusedAdamStatus::ALL.into_iter().enumerate() {
            assert_eq!(status as usize, i);
            // SAFETY: the string is valid forever.
            let name = unsafe { CStr::from_ptr(fused_adam_status_name(i as i32)) };
            assert_eq!(name.to_str().unwrap(), status.name());
        }
        // SAFETY: as above.
        let none = unsafe { CStr::from_ptr(fused_adam_status_name(-1)) };
        assert_eq!(none, c"unknown code");
    }
}
