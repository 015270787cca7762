//! Borrowing what lies behind many tensors at once: the storages of variables for writing, those of
//! gradients for reading.
//!
//! Candle keeps each storage behind a lock of its own, and lends it for writing to an in-place operation,
//! for as long as that runs. So to have those of all variables at once, the operation on the first
//! variable applies the next operation to the second, and so on: the innermost has all of them, as
//! plain `&mut`, in safe code. Locks are taken in the order of their addresses, which is also candle's
//! order, so that two optimizers with variables in common wait for each other instead of for ever.
//!
//! The other way, to take each `Vec` out under its lock and to put it back after the step, would
//! need no nesting. But until then another thread would find a storage shorter than its shape, and
//! parts of candle trust that it is not.

use std::cell::Cell;
use std::collections::BTreeMap;

use candle_core::{CpuStorage, InplaceOp1, Layout, Storage, StorageRef, Tensor};

use crate::Error;
use crate::elements::What;

/// The least stack that must be left for another lock, and how much more there is made of it if
/// there is less. Rayon's part of a step, which runs in the innermost, must fit into the first too.
const LEAST_STACK: usize = 128 << 10;
const MORE_STACK: usize = 2 << 20;

/// Where a tensor's storage is: what tells one storage from another.
pub fn address(tensor: &Tensor) -> usize {
    address_of(&tensor.storage_and_layout().0)
}

fn address_of(storage: &Storage) -> usize {
    std::ptr::from_ref(storage).addr()
}

/// Hands `then` the storages of all tensors, in their order, each locked for writing. They are on
/// the CPU, not empty, contiguous, in the order of their addresses, and no two share one.
pub fn write_all<T>(
    tensors: &[&Tensor],
    then: impl FnOnce(Vec<&mut CpuStorage>) -> T,
) -> candle_core::Result<T> {
    let mut result = None;
    nest(tensors, Vec::with_capacity(tensors.len()), |storages| result = Some(then(storages)))?;
    Ok(result.expect("without an error the innermost operation has run"))
}

/// Goes on with the first of the tensors that are left.
fn nest<'a, F: FnOnce(Vec<&mut CpuStorage>)>(
    left: &'a [&'a Tensor],
    locked: Vec<&'a mut CpuStorage>,
    then: F,
) -> candle_core::Result<()> {
    let Some((first, left)) = left.split_first() else {
        then(locked);
        return Ok(());
    };
    let lock = Lock { left, locked: Cell::new(locked), then: Cell::new(Some(then)) };
    stacker::maybe_grow(LEAST_STACK, MORE_STACK, || first.inplace_op1(&lock))
}

/// The in-place operation that does nothing to its storage but hand it on.
struct Lock<'a, F> {
    left: &'a [&'a Tensor],
    locked: Cell<Vec<&'a mut CpuStorage>>,
    then: Cell<Option<F>>,
}

impl<F: FnOnce(Vec<&mut CpuStorage>)> InplaceOp1 for Lock<'_, F> {
    fn name(&self) -> &'static str {
        "fused-adam"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, _: &Layout) -> candle_core::Result<()> {
        // Those that were locked before live as long as this one, and longer.
        let mut locked: Vec<&mut CpuStorage> = self.locked.take();
        locked.push(storage);
        match self.then.take() {
            Some(then) => nest(self.left, locked, then),
            None => Ok(()),
        }
    }
}

/// The storages of some tensors, locked for reading: each once, as to lock it again while another
/// thread waits to write it would be to wait for that thread.
pub struct Readers<'a>(BTreeMap<usize, StorageRef<'a>>);

impl<'a> Readers<'a> {
    /// Locks the storages of tensors, given with their [`address`]es.
    pub fn new(tensors: impl IntoIterator<Item = (usize, &'a Tensor)>) -> Self {
        let distinct: BTreeMap<usize, &Tensor> = tensors.into_iter().collect();
        let lock =
            |(address, tensor): (usize, &'a Tensor)| (address, tensor.storage_and_layout().0);
        Readers(distinct.into_iter().map(lock).collect())
    }

    /// The storage at one of the addresses.
    pub fn get(&self, address: usize, what: What<'_>) -> Result<&CpuStorage, Error> {
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
