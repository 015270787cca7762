//! The status that the header describes for each error, and checks of what a call returned.

use std::ffi::CStr;

use fused_adam::{CheckpointError, Error};
use fused_adam_c::FusedAdamStatus as Status;
use fused_adam_c::{fused_adam_last_error, fused_adam_last_status};

/// Calls functions of the header.
macro_rules! c {
    ($($call:tt)*) => {
        // SAFETY: each pointer is NULL, a live handle, or points to what the header asks for. Text
        // ends with a NUL. There is one thread.
        unsafe { $($call)* }
    };
}
pub(crate) use c;

/// The status of an error of the core.
pub fn of_error(error: &Error) -> Status {
    match error.cause() {
        Error::HyperParameter { .. } | Error::StepNumber { .. } | Error::Offset { .. } => {
            Status::Value
        }
        Error::Length { .. } | Error::TensorLength { .. } | Error::Blocks { .. } => Status::Length,
        Error::MissingState { .. } | Error::SuperfluousState { .. } | Error::Scalars { .. } => {
            Status::States
        }
        Error::RuleIndex { .. } | Error::UnknownParam { .. } | Error::UnknownGroup { .. } => {
            Status::Unknown
        }
        Error::DuplicateParam { .. } | Error::GivenTwice { .. } => Status::Duplicate,
        Error::TensorType { .. } | Error::ElementType { .. } => Status::Type,
        Error::NonfiniteNorm { .. } | Error::LossScale { .. } => Status::Nonfinite,
        error => panic!("an error that no call should return: {error}"),
    }
}

pub fn of_checkpoint(error: &CheckpointError) -> Status {
    match error {
        CheckpointError::Io { .. } => Status::Io,
        _ => Status::Checkpoint,
    }
}

pub fn of_result<T>(result: &Result<T, Error>) -> Status {
    result.as_ref().map_or_else(of_error, |_| Status::Ok)
}

fn message() -> String {
    // SAFETY: the string is valid until the next error of this thread.
    unsafe { CStr::from_ptr(fused_adam_last_error()) }.to_str().expect("UTF-8").to_owned()
}

/// Checks that a call returned one of these, and that an error has a message.
#[track_caller]
pub fn expect_any(status: Status, expected: &[Status]) {
    assert!(expected.contains(&status), "{status:?}, expected {expected:?}: {}", message());
    if status != Status::Ok {
        assert_eq!(fused_adam_last_status(), status);
        assert!(!message().is_empty());
    }
}

#[track_caller]
pub fn expect(status: Status, expected: Status) {
    expect_any(status, &[expected]);
}

/// Checks that a call returned one of `faults`, or without any, `otherwise`. Returns whether it
/// succeeded.
#[track_caller]
pub fn expect_unless(faults: &[Status], status: Status, otherwise: Status) -> bool {
    match faults {
        [] => expect(status, otherwise),
        faults => expect_any(status, faults),
    }
    status == Status::Ok
}
