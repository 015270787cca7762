//! The checks of the arguments of a step. All run before the first write.

use crate::elements::block8::{self, BLOCK};
use crate::elements::column::{ColumnMut, DType};
use crate::error::Error;
use crate::float_mode;
use crate::rules::state::{State, names};

/// Checks the number of states.
#[inline]
pub(crate) fn check_states(states: &'static [State], given: usize) -> Result<(), Error> {
    if given == states.len() { Ok(()) } else { Err(other_states(states, given)) }
}

#[cold]
fn other_states(states: &'static [State], given: usize) -> Error {
    let (expected, names) = (states.len(), names(states));
    match states.get(given) {
        Some(state) => Error::MissingState { name: state.name(), expected, names },
        None => Error::SuperfluousState { given, expected, names },
    }
}

/// Checks that a rule still keeps the states that were made for it.
#[inline]
pub(crate) fn check_same_states(
    states: &'static [State],
    made: &'static [State],
) -> Result<(), Error> {
    if core::ptr::eq(states, made) { Ok(()) } else { check_same_names(states, made) }
}

#[cold]
fn check_same_names(states: &'static [State], made: &'static [State]) -> Result<(), Error> {
    match states.iter().zip(made).position(|(state, made)| state.name() != made.name()) {
        None => check_states(states, made.len()),
        Some(other) => Err(other_states(states, other)),
    }
}

/// Checks the floating-point mode of this thread.
#[inline]
pub(crate) fn check_float_mode() -> Result<(), Error> {
    if float_mode::is_default() { Ok(()) } else { Err(Error::FloatMode) }
}

/// Checks that a step number is at least 1.
#[inline]
pub(crate) fn check_step_number(t: u64) -> Result<(), Error> {
    if t == 0 { Err(Error::StepNumber { t, expected: "1 for the first step" }) } else { Ok(()) }
}

/// The number of the step that follows step `t`.
#[inline]
pub(crate) fn next_step_number(t: u64) -> Result<u64, Error> {
    let expected = "less than u64::MAX for another step to follow";
    t.checked_add(1).ok_or(Error::StepNumber { t, expected })
}

/// Checks the number of scalars.
pub(crate) fn check_scalars(expected: &'static [&'static str], given: usize) -> Result<(), Error> {
    if given == expected.len() {
        return Ok(());
    }
    Err(Error::Scalars { given, expected: expected.len(), names: expected })
}

/// Checks that a state has as many elements as θ, or as many blocks as they need, and sets what a
/// column of blocks has to know.
#[inline]
pub(crate) fn check_state(
    declared: &State,
    state: &mut ColumnMut<'_>,
    len: usize,
) -> Result<(), Error> {
    if state.dtype() == DType::Block8 {
        check_blocks(declared.name(), state.as_ref().slots(), len)?;
        state.describe(len, declared.code());
        return Ok(());
    }
    check_length(declared.name(), state.len(), len)
}

/// Checks that so many blocks are those of so many elements.
pub(crate) fn check_blocks(name: &'static str, blocks: usize, len: usize) -> Result<(), Error> {
    let expected = block8::blocks(len);
    if blocks == expected { Ok(()) } else { Err(Error::Blocks { name, blocks, expected, len }) }
}

/// Checks that a state in blocks begins with a block of the whole tensor.
#[inline]
pub(crate) fn check_offset(offset: u64, state: &ColumnMut<'_>) -> Result<(), Error> {
    if state.dtype() == DType::Block8 && !offset.is_multiple_of(BLOCK as u64) {
        return Err(Error::Offset { offset });
    }
    Ok(())
}

pub(super) fn check_length(name: &'static str, len: usize, expected: usize) -> Result<(), Error> {
    check_length_as(name, len, expected, "`theta`")
}

/// Checks that a buffer is as long as the `other` one.
pub(crate) fn check_length_as(
    name: &'static str,
    len: usize,
    expected: usize,
    other: &'static str,
) -> Result<(), Error> {
    if len == expected { Ok(()) } else { Err(Error::Length { name, len, expected, other }) }
}
