//! Checks the caller's pointers and lengths, and makes slices of them. A pointer must not be NULL,
//! must be aligned, and its buffer must end within memory. A buffer that is written must not
//! overlap any other buffer.

use std::ffi::c_void;
use std::ptr::NonNull;

use fused_adam::Block8;

use crate::status::{Failure, FusedAdamStatus, guarded, guarded_or};

/// The element type of a buffer. Functions take it as an int32_t, because a caller can pass any
/// number.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FusedAdamType {
    /// float. It has the value 0, so it is the default in a structure that was set to zero.
    F32 = 0,
    /// double. It can only be combined with double. The other types can be mixed freely.
    F64 = 1,
    /// bfloat16, the upper half of a float, in a uint16_t.
    Bf16 = 2,
    /// IEEE 754 half precision, in a uint16_t.
    F16 = 3,
    /// 8 bits, only for states. A state of len elements is (len + 31) / 32 blocks of 33 bytes: the
    /// codes of 32 elements, and their scale. Blocks can have any address. Blocks of zero bytes
    /// are elements of 0. fused_adam_state_bytes returns the size,
    /// fused_adam_rule_encode_state and fused_adam_rule_decode_state convert from and to float.
    Block8 = 4,
}

/// What a buffer holds: elements or blocks of a [`FusedAdamType`], or the correction of split
/// master weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DType {
    F32,
    F64,
    Bf16,
    F16,
    Block8,
    U16,
    U8,
}

/// Evaluates `$work` with `$E` as the type of elements, which are not in 8 bits.
macro_rules! with_element {
    ($of:expr, $E:ident => $work:expr) => {{
        use fused_adam::{bf16, f16};
        use $crate::buffers::DType;
        match $of {
            DType::F32 => {
                type $E = f32;
                $work
            }
            DType::F64 => {
                type $E = f64;
                $work
            }
            DType::Bf16 => {
                type $E = bf16;
                $work
            }
            DType::F16 => {
                type $E = f16;
                $work
            }
            DType::Block8 | DType::U16 | DType::U8 => unreachable!("they are no elements"),
        }
    }};
}
pub(crate) use with_element;

/// Evaluates `$work` with `$S` as the type of a state.
macro_rules! with_state {
    ($of:expr, $S:ident => $work:expr) => {
        match $of {
            $crate::buffers::DType::Block8 => { type $S = fused_adam::Block8; $work }
            of => $crate::buffers::with_element!(of, $S => $work),
        }
    };
}
pub(crate) use with_state;

impl DType {
    /// The type of theta, gradients and extra tensors with this number.
    pub fn element(name: &str, number: i32) -> Result<Self, Failure> {
        match Self::numbered(number) {
            None => Err(unknown_type(name, number, FusedAdamType::F16)),
            Some(DType::Block8) => {
                let message = format!(
                    "`{name}` is 8 bits, expected f32, f64, bf16 or f16, since only states can \
                     have 8 bits"
                );
                Err(Failure::new(FusedAdamStatus::Type, message))
            }
            Some(of) => Ok(of),
        }
    }

    /// The type of states with this number.
    pub fn state(name: &str, number: i32) -> Result<Self, Failure> {
        Self::numbered(number).ok_or_else(|| unknown_type(name, number, FusedAdamType::Block8))
    }

    /// The type of a correction with so many bits.
    pub fn correction(bits: i32) -> Result<Self, Failure> {
        match bits {
            16 => Ok(DType::U16),
            8 => Ok(DType::U8),
            _ => {
                let message = format!("`correction_bits` is {bits}, expected 8 or 16");
                Err(Failure::new(FusedAdamStatus::Value, message))
            }
        }
    }

    /// The type with this [`FusedAdamType`].
    fn numbered(number: i32) -> Option<Self> {
        let all = [DType::F32, DType::F64, DType::Bf16, DType::F16, DType::Block8];
        all.get(usize::try_from(number).ok()?).copied()
    }

    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F64 => "f64",
            DType::Bf16 => "bf16",
            DType::F16 => "f16",
            DType::Block8 | DType::U8 => "8 bits",
            DType::U16 => "16 bits",
        }
    }

    /// The size of an element, or of a block of elements.
    pub fn bytes(self) -> usize {
        match self {
            DType::F64 => 8,
            DType::F32 => 4,
            DType::Bf16 | DType::F16 | DType::U16 => 2,
            DType::U8 => 1,
            DType::Block8 => size_of::<Block8>(),
        }
    }

    /// The number of which the address is a multiple.
    fn align(self) -> usize {
        if self == DType::Block8 { 1 } else { self.bytes() }
    }

    /// The number of elements that are stored together.
    fn block(self) -> usize {
        if self == DType::Block8 { 32 } else { 1 }
    }

    /// The bytes of `len` elements of this type. Checks that they fit into memory.
    pub fn check_len(self, name: &str, len: usize) -> Result<usize, Failure> {
        let bytes = len.div_ceil(self.block()).checked_mul(self.bytes());
        bytes.filter(|&bytes| bytes <= isize::MAX as usize).ok_or_else(|| {
            let most = isize::MAX as usize / self.bytes() * self.block();
            let of = self.name();
            let message = format!("`{name}` has {len} elements of {of}, expected at most {most}");
            Failure::new(FusedAdamStatus::Length, message)
        })
    }
}

#[cold]
fn unknown_type(name: &str, number: i32, last: FusedAdamType) -> Failure {
    let last = last as i32;
    let message = format!("`{name}` is {number}, expected a FusedAdamType, 0 to {last}");
    Failure::new(FusedAdamStatus::Type, message)
}

/// A buffer, as the caller passed it.
#[derive(Clone, Copy)]
pub(crate) struct Buffer {
    pub pointer: *mut c_void,
    pub len: usize,
    pub of: DType,
    /// Its name in error messages.
    pub name: &'static str,
    /// The index of its tensor, in calls that take several.
    pub tensor: Option<usize>,
    pub written: bool,
}

impl Buffer {
    /// Checks that the buffer can become a slice, and returns its address range.
    pub fn span(self) -> Result<AddressRange, Failure> {
        let Buffer { pointer, len, of, .. } = self;
        let bytes = of.check_len(self.name, len)?;
        let start = pointer.addr();
        if len > 0 && pointer.is_null() {
            let expected = format!("{len} elements of {}", of.name());
            return Err(Failure::null(&self.called(), &expected));
        }
        if len > 0 && !start.is_multiple_of(of.align()) {
            let (name, align) = (self.called(), of.align());
            let message = format!(
                "`{name}` is at address {start:#x}, expected a multiple of {align} for {}",
                of.name()
            );
            return Err(Failure::new(FusedAdamStatus::Misaligned, message));
        }
        let Some(end) = start.checked_add(bytes) else {
            let name = self.called();
            let message = format!(
                "`{name}` has {len} elements from address {start:#x} on, expected that they end \
                 within memory"
            );
            return Err(Failure::new(FusedAdamStatus::Length, message));
        };
        Ok(AddressRange { start, end, buffer: self })
    }

    /// The number of elements or blocks in memory.
    fn slots(self) -> usize {
        self.len.div_ceil(self.of.block())
    }

    fn called(self) -> String {
        match self.tensor {
            Some(tensor) => format!("{}` of tensor `{tensor}", self.name),
            None => self.name.to_owned(),
        }
    }
}

/// The address range of a buffer.
#[derive(Clone, Copy)]
pub(crate) struct AddressRange {
    start: usize,
    end: usize,
    buffer: Buffer,
}

/// Checks that no buffer that is written overlaps another buffer. Sorts the spans.
pub(crate) fn check_apart(spans: &mut [AddressRange]) -> Result<(), Failure> {
    spans.sort_unstable_by_key(|span| span.start);
    // The spans with the largest end so far: of all, and of those that are written.
    let (mut furthest, mut written): (Option<AddressRange>, Option<AddressRange>) = (None, None);
    for &span in spans.iter().filter(|span| span.start < span.end) {
        let before = if span.buffer.written { furthest } else { written };
        if let Some(before) = before.filter(|before| before.end > span.start) {
            let (one, other) = (before.buffer.called(), span.buffer.called());
            let (at, bytes) = (span.start, before.end.min(span.end) - span.start);
            let message = format!(
                "`{one}` and `{other}` share {bytes} bytes at address {at:#x}, expected none, \
                 since one of them is written"
            );
            return Err(Failure::new(FusedAdamStatus::Overlap, message));
        }
        let further = |than: Option<AddressRange>| than.is_none_or(|than| than.end < span.end);
        if further(furthest) {
            furthest = Some(span);
        }
        if span.buffer.written && further(written) {
            written = Some(span);
        }
    }
    Ok(())
}

/// Makes a slice of a buffer that is read.
///
/// # Safety
///
/// The buffer has passed [`Buffer::span`], `E` is the type that it holds, and nothing writes to it
/// during `'a`.
pub(crate) unsafe fn slice<'a, E>(buffer: Buffer) -> &'a [E] {
    if buffer.len == 0 {
        return &[];
    }
    // SAFETY: `Buffer::span` checked that it is not NULL, aligned and within memory; the rest is
    // the caller's promise.
    unsafe { std::slice::from_raw_parts(buffer.pointer.cast::<E>(), buffer.slots()) }
}

/// Makes a slice of a buffer that is written.
///
/// # Safety
///
/// The buffer has passed [`Buffer::span`], `E` is the type that it holds, and nothing else reads or
/// writes it during `'a`: all buffers of the call have passed [`check_apart`].
pub(crate) unsafe fn slice_mut<'a, E>(buffer: Buffer) -> &'a mut [E] {
    if buffer.len == 0 {
        return &mut [];
    }
    // SAFETY: as for `slice`.
    unsafe { std::slice::from_raw_parts_mut(buffer.pointer.cast::<E>(), buffer.slots()) }
}

/// Makes a slice of an array of pointers or structures.
///
/// # Safety
///
/// `array` is NULL, or points to `len` entries that do not change during `'a`.
pub(crate) unsafe fn array<'a, T>(
    name: &str,
    array: *const T,
    len: usize,
) -> Result<&'a [T], Failure> {
    if len == 0 {
        return Ok(&[]);
    }
    if array.is_null() {
        return Err(Failure::null(name, &format!("an array of {len}")));
    }
    if !array.is_aligned() {
        let (at, align) = (array.addr(), align_of::<T>());
        let message = format!("`{name}` is at address {at:#x}, expected a multiple of {align}");
        return Err(Failure::new(FusedAdamStatus::Misaligned, message));
    }
    if len.checked_mul(size_of::<T>()).is_none_or(|bytes| bytes > isize::MAX as usize) {
        let message = format!("`{name}` has {len} entries, expected as many as memory can hold");
        return Err(Failure::new(FusedAdamStatus::Length, message));
    }
    // SAFETY: it is not NULL, aligned and no longer than memory; the rest is the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(array, len) })
}

/// Borrows the object of a handle. What calls change is behind a lock, so any number of calls can
/// borrow it.
///
/// # Safety
///
/// `handle` is NULL, or was made by this library and is not freed during `'a`.
pub(crate) unsafe fn handle<'a, T>(name: &str, handle: *const T) -> Result<&'a T, Failure> {
    // SAFETY: the caller's promise.
    unsafe { handle.as_ref() }.ok_or_else(|| Failure::null(name, "a handle"))
}

/// Checks a pointer to a result. The memory there may be uninitialized.
pub(crate) fn place<T>(name: &str, place: *mut T) -> Result<NonNull<T>, Failure> {
    NonNull::new(place).ok_or_else(|| Failure::null(name, "where to write to"))
}

/// Makes a handle and stores it at `out`. Stores NULL if that fails.
///
/// # Safety
///
/// `out` is NULL, or valid for writes.
pub(crate) unsafe fn make<T>(
    out: *mut *mut T,
    new: impl FnOnce() -> Result<T, Failure>,
) -> FusedAdamStatus {
    guarded(|| {
        let out = place("out", out)?;
        // SAFETY: it is not NULL, so the caller promises that it may be written.
        unsafe { out.write(std::ptr::null_mut()) };
        let made = Box::new(new()?);
        // SAFETY: as above.
        unsafe { out.write(Box::into_raw(made)) };
        Ok(())
    })
}

/// Frees a handle that [`make`] made.
///
/// # Safety
///
/// `handle` is NULL or came from [`make`], and is not used again.
pub(crate) unsafe fn free<T>(handle: *mut T) {
    guarded_or((), || {
        if !handle.is_null() {
            // SAFETY: it came from a `Box`, and nobody uses it again.
            drop(unsafe { Box::from_raw(handle) });
        }
        Ok(())
    });
}
