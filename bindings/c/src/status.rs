//! What a call returns: a code, and the message that goes with it, kept for each thread. And the
//! guard around every call, which makes a code of a panic.

use std::cell::{Cell, RefCell};
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use fused_adam::{CheckpointError, Error};

use crate::text;

/// What a function returns. Everything but FUSED_ADAM_STATUS_OK means that nothing has been
/// changed, unless the function says otherwise; fused_adam_last_error() has the details.
///
/// Later versions may return codes that are not listed here.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FusedAdamStatus {
    /// It was done.
    Ok = 0,
    /// A pointer is NULL that may not be.
    Null = 1,
    /// A buffer is too long for memory, or not as long as another one, or as its parameter.
    Length = 2,
    /// A buffer's address is not a multiple of its elements' size.
    Misaligned = 3,
    /// A buffer that is written shares memory with another buffer.
    Overlap = 4,
    /// There is nothing of this name or number: the message lists what there is.
    Unknown = 5,
    /// A hyper-parameter, an option or a step number is outside its range.
    Value = 6,
    /// An element type is not one of FusedAdamType, or does not go with the others.
    Type = 7,
    /// There are more states or scalars than the rule keeps, or fewer.
    States = 8,
    /// There is a parameter of this name already, or one was given twice in a step.
    Duplicate = 9,
    /// This CPU cannot run the backend.
    Backend = 10,
    /// The norm of the gradients is infinite or NaN and was to be clipped.
    Nonfinite = 11,
    /// A name is not UTF-8.
    Text = 12,
    /// A file could not be read or written.
    Io = 13,
    /// A file is not a checkpoint, or not one of this optimizer.
    Checkpoint = 14,
    /// The threads could not be started.
    Threads = 15,
    /// A fault in this library. The buffers of this call may have been written in part, and the
    /// handle that it was called on is to be freed.
    Panic = 16,
    /// What this version has no other code for.
    Other = 17,
}

impl FusedAdamStatus {
    const ALL: [FusedAdamStatus; 18] = {
        use FusedAdamStatus::*;
        [
            Ok, Null, Length, Misaligned, Overlap, Unknown, Value, Type, States, Duplicate,
            Backend, Nonfinite, Text, Io, Checkpoint, Threads, Panic, Other,
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
        }
    }
}

/// Why a call was refused.
#[derive(Debug)]
pub(crate) struct Failure {
    pub status: FusedAdamStatus,
    pub message: String,
}

impl Failure {
    pub fn new(status: FusedAdamStatus, message: impl Into<String>) -> Self {
        Failure { status, message: message.into() }
    }

    /// A pointer that may not be NULL.
    #[cold]
    pub fn null(name: &str, expected: &str) -> Self {
        Failure::new(FusedAdamStatus::Null, format!("`{name}` is NULL, expected {expected}"))
    }

    /// Keeps it for this thread to ask for, and returns its code.
    #[cold]
    fn tell(self) -> FusedAdamStatus {
        // A NUL would end the message.
        let message = self.message.replace('\0', "\u{FFFD}");
        let message = CString::new(message).unwrap_or_default();
        // A thread that is ending may have no place for it any more.
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
        let status = match error {
            Error::HyperParameter { .. } | Error::StepNumber { .. } => FusedAdamStatus::Value,
            Error::Length { .. } | Error::TensorLength { .. } => FusedAdamStatus::Length,
            Error::MissingState { .. }
            | Error::SuperfluousState { .. }
            | Error::Scalars { .. }
            | Error::KernelStates { .. } => FusedAdamStatus::States,
            Error::BackendNotAvailable { .. } => FusedAdamStatus::Backend,
            Error::UnknownBackend { .. }
            | Error::UnknownRule { .. }
            | Error::UnknownParam { .. }
            | Error::UnknownGroup { .. } => FusedAdamStatus::Unknown,
            Error::DuplicateParam { .. } | Error::GivenTwice { .. } => FusedAdamStatus::Duplicate,
            Error::TensorType { .. } => FusedAdamStatus::Type,
            Error::NonfiniteNorm { .. } => FusedAdamStatus::Nonfinite,
            _ => FusedAdamStatus::Other,
        };
        Failure::new(status, error.to_string())
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

/// What went wrong last on a thread.
struct Last {
    status: Cell<FusedAdamStatus>,
    /// None before the first.
    message: RefCell<Option<CString>>,
}

thread_local! {
    static LAST: Last = const {
        Last { status: Cell::new(FusedAdamStatus::Ok), message: RefCell::new(None) }
    };
}

/// Does the work of a call: what goes wrong in it becomes a code, and a panic too.
pub(crate) fn guarded(work: impl FnOnce() -> Result<(), Failure>) -> FusedAdamStatus {
    // After a panic the caller is told to use the handle no more.
    match catch_unwind(AssertUnwindSafe(work)) {
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

/// The same for a call that returns something else: then that is what it returns.
pub(crate) fn guarded_or<T>(otherwise: T, work: impl FnOnce() -> Result<T, Failure>) -> T {
    let mut result = otherwise;
    guarded(|| {
        result = work()?;
        Ok(())
    });
    result
}

/// What went wrong in the last call of this thread that failed: it names the argument, its value,
/// and what was expected.
///
/// Returns a text that is valid until the next call of this thread that fails, or until the
/// thread ends; an empty one if none has failed. A call that succeeds does not change it. Each
/// thread has its own.
#[unsafe(no_mangle)]
pub extern "C" fn fused_adam_last_error() -> *const c_char {
    let none = c"".as_ptr();
    let of = |last: &Last| last.message.try_borrow().ok()?.as_ref().map(|message| message.as_ptr());
    LAST.try_with(of).ok().flatten().unwrap_or(none)
}

/// The code of the last call of this thread that failed: FUSED_ADAM_STATUS_OK if none has. For
/// functions that return something else than a code.
///
/// Each thread has its own.
#[unsafe(no_mangle)]
pub extern "C" fn fused_adam_last_status() -> FusedAdamStatus {
    LAST.try_with(|last| last.status.get()).unwrap_or(FusedAdamStatus::Ok)
}

/// The name of a code, such as "overlap"; "unknown code" for a number that is none.
///
/// Returns a text that is valid for ever. Any thread may call it.
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
        // SAFETY: it is a text that is valid until the next failure of this thread.
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
            // SAFETY: it is a text that is valid for ever.
            let name = unsafe { CStr::from_ptr(fused_adam_status_name(i as i32)) };
            assert_eq!(name.to_str().unwrap(), status.name());
        }
        // SAFETY: as above.
        let none = unsafe { CStr::from_ptr(fused_adam_status_name(-1)) };
        assert_eq!(none, c"unknown code");
    }
}
