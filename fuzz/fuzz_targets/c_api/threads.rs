//! The threads of later steps. None of them changes a result.

use std::ffi::c_void;
use std::ptr::null_mut;

use fused_adam_c::FusedAdamStatus as Status;
use fused_adam_c::*;

use crate::source::Source;
use crate::status::{c, expect};

/// A pool of the program that calls `work` as often as `context` says, on one thread.
///
/// # Safety
///
/// `work` can be called with `argument`.
unsafe extern "C" fn run(
    context: *mut c_void,
    count: usize,
    work: FusedAdamWork,
    argument: *mut c_void,
) {
    let calls = [0, 1, count, count + 3][context.addr() % 4];
    for _ in 0..calls {
        // SAFETY: the caller's promise.
        unsafe { work(argument) };
    }
}

pub fn choose(source: &mut Source) {
    match source.below(4) {
        0 => {
            let threads = source.pick(&[1, 0, 2, 1025, usize::MAX]);
            let expected = if threads <= 1024 { Status::Ok } else { Status::Threads };
            expect(fused_adam_set_threads(threads), expected);
        }
        1 => expect(c!(fused_adam_set_thread_pool(2, None, null_mut())), Status::Null),
        _ => {
            let (threads, calls) = (source.pick(&[2, 1, 3, 1024, 0, 1025]), source.below(4));
            let context = null_mut::<c_void>().wrapping_byte_add(calls);
            let valid = (1..=1024).contains(&threads);
            let expected = if valid { Status::Ok } else { Status::Threads };
            let before = fused_adam_threads();
            expect(c!(fused_adam_set_thread_pool(threads, Some(run), context)), expected);
            assert_eq!(fused_adam_threads(), if valid { threads } else { before });
        }
    }
}

/// The default.
pub fn reset() {
    expect(fused_adam_set_threads(1), Status::Ok);
}
