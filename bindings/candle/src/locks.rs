//! Borrows the storages of many tensors at once: those of variables for writing, those of gradients
//! for reading.
//!
//! Candle protects each storage with a lock, and gives write access only to an in-place operation
//! while it runs. To access all variables at once, the operation on the first variable applies the
//! next operation to the second, and so on. The innermost has all storages as plain `&mut`, in safe
//! code. Locks are taken in the order of their addresses. This is also candle's order, so two
//! optimizers with common variables cannot deadlock.
//!
//! The alternative is to take each `Vec` out under its lock and to put it back after the step,
//! without nesting. But until then another thread could find a storage that is shorter than its
//! shape, and parts of candle rely on the length.

use std::cell::Cell;
use std::collections::BTreeMap;

use candle_core::{CpuStorage, InplaceOp1, Layout, Storage, StorageRef, Tensor};

use crate::Error;
use crate::elements::TensorName;

/// The least free stack for another lock, and the size of a new stack segment if there is less.
/// Rayon's part of a step, which runs in the innermost operation, must also fit into it.
const LEAST_STACK: usize = 128 << 10;
const MORE_STACK: usize = 2 << 20;

/// The address of a tensor's storage, which identifies the storage.
pub fn address(tensor: &Tensor) -> usize {
    address_of(&tensor.storage_and_layout().0)
}

fn address_of(storage: &Storage) -> usize {
    std::ptr::from_ref(storage).addr()
}

/// Locks the storages of all tensors for writing, and passes them to `then` in the same order. The
/// tensors must be on the CPU, not empty, contiguous, sorted by address, and must not share
/// storages.
pub fn write_all<T>(
    tensors: &[&Tensor],
    then: impl FnOnce(Vec<&mut CpuStorage>) -> T,
) -> candle_core::Result<T> {
    let mut result = None;
    nest(tensors, Vec::with_capacity(tensors.len()), |storages| result = Some(then(storages)))?;
    Ok(result.expect("without an error the innermost operation has run"))
}

/// Locks the first of the remaining tensors, and recurses.
fn nest<'a, F: FnOnce(Vec<&mut CpuStorage>)>(
    left: &'a [&'a Tensor],
    locked: Vec<&'a mut CpuStorage>,
    then: F,
) -> candle_core::Result<()> {
    let Some((first, left)) = left.split_first() else {
        then(locked);
        return Ok(());
    };
    let lock = PassThrough { left, locked: Cell::new(locked), then: Cell::new(Some(then)) };
    stacker::maybe_grow(LEAST_STACK, MORE_STACK, || first.inplace_op1(&lock))
}

/// An in-place operation that only passes its storage on.
struct PassThrough<'a, F> {
    left: &'a [&'a Tensor],
    locked: Cell<Vec<&'a mut CpuStorage>>,
    then: Cell<Option<F>>,
}

impl<F: FnOnce(Vec<&mut CpuStorage>)> InplaceOp1 for PassThrough<'_, F> {
    fn name(&self) -> &'static str {
        "fused-adam"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, _: &Layout) -> candle_core::Result<()> {
        // The storages that are already locked outlive this one.
        let mut locked: Vec<&mut CpuStorage> = self.locked.take();
        locked.push(storage);
        match self.then.take() {
            Some(then) => nest(self.left, locked, then),
            None => Ok(()),
        }
    }
}

/// Storages that are locked for reading. Each is locked only once: to lock it again while another
/// thread waits to write would be a deadlock.
pub struct Readers<'a>(BTreeMap<usize, StorageRef<'a>>);

impl<'a> Readers<'a> {
    /// Locks the storages of tensors, which are given with their [`address`]es.
    pub fn new(tensors: impl IntoIterator<Item = (usize, &'a Tensor)>) -> Self {
        let distinct: BTreeMap<usize, &Tensor> = tensors.into_iter().collect();
        let lock =
            |(address, tensor): (usize, &'a Tensor)| (address, tensor.storage_and_layout().0);
        Readers(distinct.into_iter().map(lock).collect())
    }

    /// The storage at an address.
    pub fn get(&self, address: usize, what: TensorName<'_>) -> Result<&CpuStorage, Error> {
        match self.0.get(&address).map(|storage| &**storage) {
            Some(Storage::Cpu(storage)) => Ok(storage),
            Some(other) => {
                let device = other.device().location();
                Err(Error::Device { what: what.to_string(), device })
            }
            None => Err(Error::Candle(candle_core::Error::UnwrapNone)),
        }
    }
}
