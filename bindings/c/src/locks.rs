//! The locks of handles. A rule and options are copied by each call, so their lock is held briefly,
//! and a call waits for it. An optimizer is used for as long as a step runs. A call does not wait
//! for that: it fails.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};

use crate::status::{Failure, FusedAdamStatus};

/// Contents that each call copies, or changes at once. After a panic they can still be used.
pub(crate) struct Copied<T>(RwLock<T>);

impl<T: Copy> Copied<T> {
    pub fn new(contents: T) -> Self {
        Copied(RwLock::new(contents))
    }

    pub fn get(&self) -> T {
        *self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Contents that one call changes at a time, or any number of calls read. A panic ends in the
/// status that tells the caller to free the handle, so later calls need not report it again.
pub(crate) struct InUse<T>(RwLock<T>);

impl<T> InUse<T> {
    pub fn new(contents: T) -> Self {
        InUse(RwLock::new(contents))
    }

    /// To read it. `name` is the argument.
    pub fn read(&self, name: &str) -> Result<RwLockReadGuard<'_, T>, Failure> {
        match self.0.try_read() {
            Ok(contents) => Ok(contents),
            Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => Err(busy(name, "is being changed by another call")),
        }
    }

    /// To change it. `name` is the argument.
    pub fn write(&self, name: &str) -> Result<RwLockWriteGuard<'_, T>, Failure> {
        match self.0.try_write() {
            Ok(contents) => Ok(contents),
            Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => Err(busy(name, "is in use by another call")),
        }
    }
}

#[cold]
fn busy(name: &str, is: &str) -> Failure {
    let message = format!("`{name}` {is}, expected one call at a time, or several that only read");
    Failure::new(FusedAdamStatus::Busy, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_call_changes_it_or_several_read_it() {
        let contents = InUse::new(5);
        let status = |failed: Option<Failure>| failed.map(|failure| failure.status);
        let (one, other) = (contents.read("opt").unwrap(), contents.read("opt").unwrap());
        assert_eq!(status(contents.write("opt").err()), Some(FusedAdamStatus::Busy));
        drop((one, other));
        let mut change = contents.write("opt").unwrap();
        *change = 6;
        let failure = contents.read("opt").err().unwrap();
        assert_eq!(
            failure.message,
            "`opt` is being changed by another call, expected one call at a time, or several that \
             only read"
        );
        assert_eq!(status(contents.write("opt").err()), Some(FusedAdamStatus::Busy));
        drop(change);
        assert_eq!(*contents.read("opt").unwrap(), 6);
    }

    #[test]
    fn a_panic_leaves_it_usable() {
        let (contents, copied) = (InUse::new(5), Copied::new(5));
        let panics = std::panic::AssertUnwindSafe(|| {
            let _change = contents.write("opt");
            copied.change(|_| panic!("it broke"));
        });
        assert!(std::panic::catch_unwind(panics).is_err());
        assert_eq!(*contents.read("opt").unwrap(), 5);
        *contents.write("opt").unwrap() = 6;
        copied.change(|value| *value = 6);
        assert_eq!((*contents.read("opt").unwrap(), copied.get()), (6, 6));
    }
}
