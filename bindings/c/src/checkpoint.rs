//! An optimizer saved to a file and loaded from it, with the tensors that are kept beside its
//! states: the weights, as a rule. The file is the core's: safetensors.

use std::ffi::{c_char, c_void};

use fused_adam::{CheckpointReader, CheckpointWriter, Element, bf16, f16};

use crate::buffers::{
    Buffer, FusedAdamType, Span, array, check_apart, handle, handle_mut, slice, slice_mut,
};
use crate::optimizer::FusedAdamOptimizer;
use crate::status::{Failure, FusedAdamStatus, guarded};
use crate::text;

/// A tensor that is kept in a checkpoint beside the optimizer's states.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FusedAdamKept {
    /// What it is called in the file.
    pub name: *const c_char,
    /// Its elements: they are read when it is saved, and written when it is loaded.
    pub values: *mut c_void,
    /// How many there are.
    pub len: usize,
    /// Their FusedAdamType.
    pub element_type: i32,
}

/// A kept tensor whose structure has been checked.
struct Kept<'a> {
    name: &'a str,
    buffer: Buffer,
}

impl<'a> Kept<'a> {
    /// # Safety
    ///
    /// As for [`fused_adam_optimizer_save`].
    unsafe fn all(
        kept: *const FusedAdamKept,
        count: usize,
        written: bool,
    ) -> Result<Vec<Self>, Failure> {
        // SAFETY: the caller's promise.
        let given = unsafe { array("kept", kept, count) }?;
        let mut all = Vec::with_capacity(given.len());
        let mut spans: Vec<Span> = Vec::with_capacity(given.len());
        for (i, &FusedAdamKept { name, values: pointer, len, element_type }) in
            given.iter().enumerate()
        {
            // SAFETY: the caller's promise.
            let name = unsafe { text::borrowed("name", name) }?;
            let of = FusedAdamType::of("element_type", element_type)?;
            let buffer = Buffer { pointer, len, of, name: "values", tensor: Some(i), written };
            spans.push(buffer.span()?);
            all.push(Kept { name, buffer });
        }
        check_apart(&mut spans)?;
        Ok(all)
    }

    /// Adds it to what will be written.
    ///
    /// # Safety
    ///
    /// Its elements may be read for `'b`.
    unsafe fn save<'b>(&self, writer: CheckpointWriter<'b>) -> CheckpointWriter<'b> {
        let Kept { name, buffer } = *self;
        // SAFETY: its buffer has passed the checks, the type is its own, and the caller promises the rest.
        unsafe {
            match buffer.of {
                FusedAdamType::F32 => writer.with(name, slice::<f32>(buffer)),
                FusedAdamType::F64 => writer.with(name, slice::<f64>(buffer)),
                FusedAdamType::Bf16 => writer.with(name, slice::<bf16>(buffer)),
                FusedAdamType::F16 => writer.with(name, slice::<f16>(buffer)),
            }
        }
    }

    /// Reads its elements from a file, and returns what will put them in their place.
    ///
    /// # Safety
    ///
    /// Its elements may be written by what is returned, and are apart from those of others.
    unsafe fn load(&self, file: &mut CheckpointReader) -> Result<Box<dyn FnOnce()>, Failure> {
        /// # Safety
        ///
        /// As above, with elements of type `E`.
        unsafe fn read<E: Element>(
            name: &str,
            buffer: Buffer,
            file: &mut CheckpointReader,
        ) -> Result<Box<dyn FnOnce()>, Failure> {
            let mut values = Vec::new();
            values.try_reserve_exact(buffer.len).map_err(|_| {
                let message = format!("`{name}` has {} elements, more than memory", buffer.len);
                Failure::new(FusedAdamStatus::Length, message)
            })?;
            values.resize(buffer.len, E::from_f64(0.0));
            file.read(name, &mut values)?;
            // SAFETY: its buffer has passed the checks, and the caller promises the rest.
            Ok(Box::new(move || unsafe { slice_mut::<E>(buffer) }.copy_from_slice(&values)))
        }
        let Kept { name, buffer } = *self;
        // SAFETY: the caller's promise.
        unsafe {
            match buffer.of {
                FusedAdamType::F32 => read::<f32>(name, buffer, file),
                FusedAdamType::F64 => read::<f64>(name, buffer, file),
                FusedAdamType::Bf16 => read::<bf16>(name, buffer, file),
                FusedAdamType::F16 => read::<f16>(name, buffer, file),
            }
        }
    }
}

/// Saves an optimizer, and other tensors with it, to a safetensors file: the states of all parameters,
/// their step numbers, the rules of all groups, and the loss scale. The options are not in it.
///
/// The file is written beside the old one, brought to the disk, and takes its place: a crash leaves
/// the old file or the new one.
///
/// - path: the file.
/// - kept: an array of kept_count tensors to be kept in the same file, such as the parameters
///   themselves, by names of their own. NULL if there are none.
///
/// Returns FUSED_ADAM_STATUS_IO if it cannot be written, FUSED_ADAM_STATUS_CHECKPOINT if it could
/// not be loaded again: two tensors of one name, or rules that were changed and do not fit;
/// FUSED_ADAM_STATUS_NULL, FUSED_ADAM_STATUS_TEXT, FUSED_ADAM_STATUS_TYPE, FUSED_ADAM_STATUS_LENGTH and
/// FUSED_ADAM_STATUS_MISALIGNED.
///
/// # Safety
///
/// `opt` is NULL or an optimizer that no other thread changes. Texts end with a NUL, and each other
/// pointer points to what is said of it, which no other thread changes during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_optimizer_save(
    opt: *const FusedAdamOptimizer,
    path: *const c_char,
    kept: *const FusedAdamKept,
    kept_count: usize,
) -> FusedAdamStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (opt, path) = unsafe { (handle("opt", opt)?, text::path("path", path)?) };
        // SAFETY: the caller's promise.
        let kept = unsafe { Kept::all(kept, kept_count, false) }?;
        let mut writer = opt.core.checkpoint();
        for kept in &kept {
            // SAFETY: the caller's promise.
            writer = unsafe { kept.save(writer) };
        }
        Ok(writer.save(path)?)
    })
}

/// Loads what fused_adam_optimizer_save has saved. The optimizer goes on from there to the bit: the
/// states and step numbers of its parameters, the rules of its groups, the number of its steps and its loss scale become
/// those of the file. Its parameters and groups must be those that were saved, of the same types;
/// its options stay.
///
/// - path: the file. It is not trusted: every length in it is checked.
/// - kept: an array of kept_count tensors to be read from the same file, of the type and length that they have
///   in it. NULL if there are none. The file may have more of them.
///
/// Nothing has changed after an error. Returns FUSED_ADAM_STATUS_IO, FUSED_ADAM_STATUS_CHECKPOINT if the
/// file is not a checkpoint, not whole, or one of something else, FUSED_ADAM_STATUS_OVERLAP, and what
/// fused_adam_optimizer_save does.
///
/// # Safety
///
/// `opt` is NULL or an optimizer that no other thread uses. Texts end with a NUL, and each other
/// pointer points to what is said of it, which no other thread uses during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_optimizer_load(
    opt: *mut FusedAdamOptimizer,
    path: *const c_char,
    kept: *const FusedAdamKept,
    kept_count: usize,
) -> FusedAdamStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (opt, path) = unsafe { (handle_mut("opt", opt)?, text::path("path", path)?) };
        // SAFETY: the caller's promise.
        let kept = unsafe { Kept::all(kept, kept_count, true) }?;
        let mut file = CheckpointReader::open(path)?;
        let mut read = Vec::with_capacity(kept.len());
        for kept in &kept {
            // SAFETY: the caller's promise; that they are apart has been checked.
            read.push(unsafe { kept.load(&mut file) }?);
        }
        file.load(&mut opt.core)?;
        // From here on nothing can go wrong.
        for put in read {
            put();
        }
        Ok(())
    })
}
