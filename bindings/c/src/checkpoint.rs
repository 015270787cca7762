//! Saves an optimizer to a file and loads it, together with extra tensors, usually the parameters.
//! The file format is the core's: safetensors.

use std::ffi::{c_char, c_void};

use fused_adam::{CheckpointReader, CheckpointWriter, Element};

use crate::buffers::{
    AddressRange, Buffer, DType, array, check_apart, slice, slice_mut, with_element,
};
use crate::optimizer::{FusedAdamOptimizer, read, write};
use crate::status::{Failure, FusedAdamStatus, guarded};
use crate::text;

/// An extra tensor that a checkpoint stores next to the optimizer's states.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FusedAdamExtraTensor {
    /// Its name in the file.
    pub name: *const c_char,
    /// Its elements. Saving reads them, loading writes them.
    pub values: *mut c_void,
    /// The number of elements.
    pub len: usize,
    /// Their FusedAdamType. FUSED_ADAM_TYPE_BLOCK8 is only for states.
    pub element_type: i32,
}

/// An extra tensor whose structure has been checked.
struct ExtraTensor<'a> {
    name: &'a str,
    buffer: Buffer,
}

impl<'a> ExtraTensor<'a> {
    /// # Safety
    ///
    /// As for [`fused_adam_optimizer_save`].
    unsafe fn all(
        kept: *const FusedAdamExtraTensor,
        count: usize,
        written: bool,
        states: impl Iterator<Item = Buffer>,
    ) -> Result<Vec<Self>, Failure> {
        // SAFETY: the caller's promise.
        let given = unsafe { array("kept", kept, count) }?;
        let mut all = Vec::with_capacity(given.len());
        // The caller can get the addresses of the states.
        let mut spans =
            states.map(|state| state.span()).collect::<Result<Vec<AddressRange>, _>>()?;
        for (i, &FusedAdamExtraTensor { name, values: pointer, len, element_type }) in
            given.iter().enumerate()
        {
            // SAFETY: the caller's promise.
            let name = unsafe { text::borrowed("name", name) }?;
            let of = DType::element("element_type", element_type)?;
            let buffer = Buffer { pointer, len, of, name: "values", tensor: Some(i), written };
            spans.push(buffer.span()?);
            all.push(ExtraTensor { name, buffer });
        }
        check_apart(&mut spans)?;
        Ok(all)
    }

    /// Adds the tensor to a checkpoint.
    ///
    /// # Safety
    ///
    /// Its elements can be read during `'b`.
    unsafe fn save<'b>(&self, writer: CheckpointWriter<'b>) -> CheckpointWriter<'b> {
        let ExtraTensor { name, buffer } = *self;
        // SAFETY: its buffer has passed the checks, the type is the buffer's, and the caller
        // promises the rest.
        unsafe { with_element!(buffer.of, E => writer.with_tensor(name, slice::<E>(buffer))) }
    }

    /// Reads the tensor's elements from a file. The returned closure copies them into the buffer.
    ///
    /// # Safety
    ///
    /// The closure may write to the buffer, which overlaps no other buffer.
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
        let ExtraTensor { name, buffer } = *self;
        // SAFETY: the caller's promise.
        unsafe { with_element!(buffer.of, E => read::<E>(name, buffer, file)) }
    }
}

/// Saves an optimizer to a safetensors file: the states and step numbers of all parameters, the
/// rules of all groups, and the loss scale. It saves neither the options nor the learning-rate
/// schedule.
///
/// The file is first written and synced next to the old one, and then renamed over it. After a
/// crash, either the old or the new file is there.
///
/// - path: the path of the file.
/// - kept: an array of kept_count extra tensors to store in the same file, such as the parameters.
///   Their names must be unique. NULL if there are none.
///
/// Returns FUSED_ADAM_STATUS_IO if the file cannot be written, FUSED_ADAM_STATUS_CHECKPOINT if it
/// could not be loaded again: if two tensors have the same name, or if a rule was changed and does
/// not match its states any more; FUSED_ADAM_STATUS_NULL, FUSED_ADAM_STATUS_TEXT,
/// FUSED_ADAM_STATUS_TYPE, FUSED_ADAM_STATUS_LENGTH and FUSED_ADAM_STATUS_MISALIGNED.
///
/// # Safety
///
/// `opt` is NULL or an optimizer. Strings end with a NUL. Each other pointer points to what its
/// description says, and no other thread changes that during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_optimizer_save(
    opt: *const FusedAdamOptimizer,
    path: *const c_char,
    kept: *const FusedAdamExtraTensor,
    kept_count: usize,
) -> FusedAdamStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (opt, path) = unsafe { (read(opt)?, text::path("path", path)?) };
        // SAFETY: the caller's promise.
        let kept = unsafe { ExtraTensor::all(kept, kept_count, false, std::iter::empty()) }?;
        let mut writer = opt.core.checkpoint();
        for kept in &kept {
            // SAFETY: the caller's promise.
            writer = unsafe { kept.save(writer) };
        }
        Ok(writer.save(path)?)
    })
}

/// Loads a file of fused_adam_optimizer_save. Training then continues bit for bit as if it had
/// never stopped: the states and step numbers of the parameters, the rules of the groups, the
/// number of steps and the loss scale are those of the file. The optimizer must have the parameters
/// and groups that were saved, with the same types. It keeps its options and its learning-rate
/// schedule. States of float in the file become states in 8 bits, rounded to nearest, for a
/// parameter that was registered with those, and the other way round.
///
/// - path: the path of the file. The file may come from an untrusted source: every length in it is
///   checked.
/// - kept: an array of kept_count extra tensors to read from the same file, with the type and
///   length that they have there. NULL if there are none. Other extra tensors in the file are
///   ignored.
///
/// After an error nothing has changed. Returns FUSED_ADAM_STATUS_IO; FUSED_ADAM_STATUS_CHECKPOINT
/// if the file is not a checkpoint, is truncated, or belongs to another optimizer;
/// FUSED_ADAM_STATUS_OVERLAP; and the errors of fused_adam_optimizer_save.
///
/// # Safety
///
/// `opt` is NULL or an optimizer. Strings end with a NUL. Each other pointer points to what its
/// description says, and no other thread uses that during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fused_adam_optimizer_load(
    opt: *mut FusedAdamOptimizer,
    path: *const c_char,
    kept: *const FusedAdamExtraTensor,
    kept_count: usize,
) -> FusedAdamStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (mut opt, path) = unsafe { (write(opt)?, text::path("path", path)?) };
        let states = opt.params.iter().flat_map(|param| opt.states(param));
        // SAFETY: the caller's promise.
        let kept = unsafe { ExtraTensor::all(kept, kept_count, true, states) }?;
        let mut file = CheckpointReader::open(path)?;
        let mut read = Vec::with_capacity(kept.len());
        for kept in &kept {
            // SAFETY: the caller's promise; `ExtraTensor::all` checked that they do not overlap.
            read.push(unsafe { kept.load(&mut file) }?);
        }
        file.load(&mut opt.core)?;
        // Nothing can fail from here on.
        for put in read {
            put();
        }
        Ok(())
    })
}
