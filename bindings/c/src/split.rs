//! Master weights split in bfloat16 and a correction.

use std::ffi::c_void;

use fused_adam::{Correction, bf16};

use crate::buffers::{Buffer, DType, check_apart, slice, slice_mut};
use crate::status::{Failure, FusedAdamStatus, guarded};

/// The correction of a buffer.
///
/// # Safety
///
/// As for [`slice_mut`]. The buffer is of [`DType::U16`] or [`DType::U8`].
pub(crate) unsafe fn correction<'a>(buffer: Buffer) -> Correction<'a> {
    // SAFETY: the caller's promise.
    unsafe {
        match buffer.of {
            DType::U16 => Correction::Bits16(slice_mut(buffer)),
            _ => Correction::Bits8(slice_mut(buffer)),
        }
    }
}

/// The buffers of `len` weights, of their bfloat16 parts and of their corrections, checked.
fn checked(
    len: usize,
    weights: (*mut c_void, bool),
    theta: (*mut c_void, bool),
    correction: (*mut c_void, bool),
    correction_bits: i32,
) -> Result<[Buffer; 3], Failure> {
    let buffer =
        |name, (pointer, written), of| Buffer { pointer, len, of, name, tensor: None, written };
    let buffers = [
        buffer("weights", weights, DType::F32),
        buffer("theta", theta, DType::Bf16),
        buffer("correction", correction, DType::correction(correction_bits)?),
    ];
    let [weights, theta, correction] = buffers.map(Buffer::span);
    check_apart(&mut [weights?, theta?, correction?])?;
    Ok(buffers)
}

/// Splits float master weights in two: theta, which the model uses, in bfloat16, and a correction.
/// theta is the weight rounded to the nearest, ties away from zero. A step that gets both computes
/// with the master weights. Together they take 4 or 3 bytes for each weight.
///
/// - correction_bits: 16 for a correction in uint16_t, with all bits of a float, or 8 for one in
///   uint8_t, with the nearest 24 bits of it. NaN becomes the NaN of bfloat16.
///
/// If you change theta yourself, set its correction to 0. To save the weights, join them.
///
/// After an error nothing has changed. Returns FUSED_ADAM_STATUS_VALUE for another correction_bits,
/// FUSED_ADAM_STATUS_NULL, FUSED_ADAM_STATUS_LENGTH, FUSED_ADAM_STATUS_MISALIGNED and
/// FUSED_ADAM_STATUS_OVERLAP.
///
/// # Safety
///
/// Each pointer is NULL or points to `len` elements. During the call, no other thread writes to
/// them, or reads what the call writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_split_weights(
    len: usize,
    weights: *const f32,
    theta: *mut u16,
    correction: *mut c_void,
    correction_bits: i32,
) -> FusedAdamStatus {
    guarded(|| {
        let weights = (weights.cast_mut().cast(), false);
        let (theta, to) = ((theta.cast(), true), (correction, true));
        let [weights, theta, to] = checked(len, weights, theta, to, correction_bits)?;
        // SAFETY: they have passed the checks, and the caller promises the rest.
        unsafe { self::correction(to).split(slice(weights), slice_mut(theta))? };
        Ok(())
    })
}

/// Joins the theta and the correction of fused_adam_split_weights to float weights. This is exact.
///
/// Errors: as for fused_adam_split_weights.
///
/// # Safety
///
/// As for fused_adam_split_weights.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_join_weights(
    len: usize,
    theta: *const u16,
    correction: *const c_void,
    correction_bits: i32,
    weights: *mut f32,
) -> FusedAdamStatus {
    guarded(|| {
        let theta = (theta.cast_mut().cast(), false);
        let (weights, from) = ((weights.cast(), true), (correction.cast_mut(), false));
        let [weights, theta, from] = checked(len, weights, theta, from, correction_bits)?;
        // SAFETY: they have passed the checks, and the caller promises the rest.
        unsafe {
            let (theta, weights) = (slice(theta), slice_mut(weights));
            match from.of {
                DType::U16 => join::<u16>(theta, slice(from), weights),
                _ => join::<u8>(theta, slice(from), weights),
            }
        }
    })
}

/// Joins weights. The core takes a mutable correction, so this passes a copy of each part.
fn join<L: Copy + Default>(
    theta: &[bf16],
    correction: &[L],
    weights: &mut [f32],
) -> Result<(), Failure>
where
    for<'a> Correction<'a>: From<&'a mut [L]>,
{
    const PART: usize = 1024;
    let parts = theta.chunks(PART).zip(correction.chunks(PART)).zip(weights.chunks_mut(PART));
    for ((theta, correction), weights) in parts {
        let mut copy = [L::default(); PART];
        let copy = &mut copy[..correction.len()];
        copy.copy_from_slice(correction);
        Correction::from(copy).join(theta, weights)?;
    }
    Ok(())
}
