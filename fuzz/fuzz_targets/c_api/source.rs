//! Choices that are made from the bytes of an input. At the end of the input each choice is the
//! first one.

use std::ffi::{CString, c_char};
use std::ptr::null;

use fused_adam_c::FusedAdamStatus;
use libfuzzer_sys::arbitrary::Unstructured;

pub struct Source<'a>(Unstructured<'a>);

impl<'a> Source<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Source(Unstructured::new(bytes))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A number below `n`, which is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        self.0.int_in_range(0..=n - 1).unwrap_or(0)
    }

    /// Whether to choose what is rare, such as a wrong argument.
    pub fn rarely(&mut self) -> bool {
        self.below(16) == 15
    }

    pub fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    pub fn word(&mut self) -> u64 {
        self.0.arbitrary().unwrap_or(0)
    }

    /// A number of steps, a seed or an offset.
    pub fn count(&mut self) -> u64 {
        match self.below(10) {
            n @ 0..=3 => n as u64 + 1,
            4 => 0,
            5 => 32,
            6 => 1000,
            7 => 1 << 53,
            8 => u64::MAX,
            _ => self.word(),
        }
    }

    /// A hyper-parameter, an option or an element.
    pub fn number(&mut self) -> f64 {
        const USUAL: [f64; 18] = [
            1e-3,
            0.9,
            0.999,
            0.0,
            1.0,
            1e-8,
            0.5,
            2.0,
            -1.0,
            -0.0,
            f64::INFINITY,
            f64::NAN,
            1e300,
            1e38,
            7e-46,
            1e-38,
            100.0,
            9_007_199_254_740_992.0,
        ];
        match self.below(USUAL.len() + 2) {
            18 => self.below(1 << 16) as f64 / 256.0,
            19 => f64::from_bits(self.word()),
            n => USUAL[n],
        }
    }

    /// One of these names, or one that is not a name.
    pub fn name(&mut self, names: &[&str]) -> Text {
        Text(
            match self.below(names.len() + 8) {
                0 => Some("no such name".into()),
                1 => Some(vec![b'm', 0xFF]),
                2 => Some(Vec::new()),
                3 => None,
                n => Some(names[n % names.len()].into()),
            }
            .and_then(|bytes| CString::new(bytes).ok()),
        )
    }

    /// A pointer that is rarely NULL.
    pub fn or_null<T>(&mut self, pointer: *mut T, faults: &mut Vec<FusedAdamStatus>) -> *mut T {
        if self.rarely() {
            faults.push(FusedAdamStatus::Null);
            return std::ptr::null_mut();
        }
        pointer
    }
}

/// A string that is passed to a function; `None` for NULL.
pub struct Text(pub Option<CString>);

impl Text {
    pub fn new(text: &str) -> Self {
        Text(CString::new(text).ok())
    }

    pub fn pointer(&self) -> *const c_char {
        self.0.as_ref().map_or(null(), |text| text.as_ptr())
    }

    /// The string, or an empty one. Adds the status if a function must refuse it.
    pub fn checked(&self, faults: &mut Vec<FusedAdamStatus>) -> &str {
        match self.0.as_ref().map(|text| text.to_str()) {
            Some(Ok(text)) => return text,
            Some(Err(_)) => faults.push(FusedAdamStatus::Text),
            None => faults.push(FusedAdamStatus::Null),
        }
        ""
    }
}
