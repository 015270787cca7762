//! The states of one parameter, owned or borrowed from the caller.

use core::ops::Range;

use half::{bf16, f16};
use smallvec::SmallVec;

use crate::elements::block8::{Block8, Blocks, BlocksMut};
use crate::elements::column::{Column, ColumnMut, DType};
use crate::elements::{self, Element, StateElement};
use crate::error::Error;
use crate::rules::{Rule, State};

/// The states of one parameter. Owned states lie one after the other in one allocation, each on its
/// own cache lines, so that the states of a small tensor are found with one lookup. Borrowed states
/// belong to the caller.
pub(super) struct States<'s> {
    buffer: Buffer<'s>,
    declared: &'static [State],
    len: usize,
    /// The distance from the start of one state to the start of the next, in elements or blocks.
    stride: usize,
}

/// Borrowed states. A rule with more than four states needs an allocation.
pub(super) type Columns<'s> = SmallVec<[ColumnMut<'s>; 4]>;

enum Buffer<'s> {
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bf16(Vec<bf16>),
    F16(Vec<f16>),
    Block8(Vec<Block8>),
    Borrowed(Columns<'s>),
}

impl<'s> States<'s> {
    /// All states of a rule, borrowed.
    pub fn borrowed(states: Columns<'s>, declared: &'static [State]) -> Self {
        States { buffer: Buffer::Borrowed(states), declared, len: 0, stride: 0 }
    }

    /// The states before the first step of a rule, each filled with its initial value.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`].
    pub fn new(of: DType, len: usize, rule: &impl Rule) -> Result<Self, Error> {
        fn filled<S: StateElement>(
            (len, stride): (usize, usize),
            declared: &[State],
            initial: &[f64],
        ) -> Result<Vec<S>, Error> {
            let mut buffer = elements::zeros(stride.saturating_mul(initial.len()))?;
            for (i, &value) in initial.iter().enumerate().filter(|(_, value)| **value != 0.0) {
                S::fill(&mut buffer[i * stride..][..stride], len, value, declared[i].code());
            }
            Ok(buffer)
        }
        let declared = rule.states();
        let initial: Vec<f64> = (0..declared.len()).map(|i| rule.initial_state(i)).collect();
        let initial = &initial[..];
        let stride = match of {
            _ if declared.is_empty() => 0,
            DType::Block8 => Block8::slots(len),
            _ => len.checked_next_multiple_of(64 / of.bytes()).unwrap_or(usize::MAX),
        };
        let sizes = (len, stride);
        let buffer = match of {
            DType::F32 => Buffer::F32(filled(sizes, declared, initial)?),
            DType::F64 => Buffer::F64(filled(sizes, declared, initial)?),
            DType::Bf16 => Buffer::Bf16(filled(sizes, declared, initial)?),
            DType::F16 => Buffer::F16(filled(sizes, declared, initial)?),
            DType::Block8 => Buffer::Block8(filled(sizes, declared, initial)?),
        };
        Ok(States { buffer, declared, len, stride })
    }

    /// The declarations of the states by the rule they were made for.
    pub fn declared(&self) -> &'static [State] {
        self.declared
    }

    /// State number `i`, if there is one.
    pub fn get(&self, i: usize) -> Option<Column<'_>> {
        fn column<E: Element>(buffer: &[E], range: Range<usize>) -> Column<'_> {
            E::column(&buffer[range])
        }
        let code = self.declared.get(i)?.code();
        let range = i * self.stride..i * self.stride + self.len;
        Some(match &self.buffer {
            Buffer::F32(buffer) => column(buffer, range),
            Buffer::F64(buffer) => column(buffer, range),
            Buffer::Bf16(buffer) => column(buffer, range),
            Buffer::F16(buffer) => column(buffer, range),
            Buffer::Block8(buffer) => {
                let blocks = &buffer[i * self.stride..(i + 1) * self.stride];
                Column::Block8(Blocks::new(blocks, self.len, code))
            }
            Buffer::Borrowed(states) => states[i].as_ref(),
        })
    }

    /// State number `i`, if there is one.
    pub fn get_mut(&mut self, i: usize) -> Option<ColumnMut<'_>> {
        let mut all: Columns<'_> = self.declared.iter().map(|_| ColumnMut::default()).collect();
        self.reborrow_to(&mut all);
        (i < all.len()).then(|| all.swap_remove(i))
    }

    /// All states, if there are `N`.
    #[inline(always)]
    pub fn columns_mut<const N: usize>(&mut self) -> Option<[ColumnMut<'_>; N]> {
        if self.declared.len() != N {
            return None;
        }
        let mut all = [(); N].map(|()| ColumnMut::default());
        self.reborrow_to(&mut all);
        Some(all)
    }

    /// The same states, borrowed.
    #[cfg(feature = "parallel")]
    pub fn reborrow(&mut self) -> States<'_> {
        let declared = self.declared;
        let mut all: Columns<'_> = declared.iter().map(|_| ColumnMut::default()).collect();
        self.reborrow_to(&mut all);
        States::borrowed(all, declared)
    }

    /// The first `mid` rows of each borrowed state, and the rest.
    #[cfg(feature = "parallel")]
    pub fn split_at(self, mid: usize) -> (Self, Self) {
        let Buffer::Borrowed(states) = self.buffer else {
            unreachable!("only borrowed states are cut")
        };
        let (first, rest): (Columns<'_>, Columns<'_>) =
            states.into_iter().map(|state| state.split_at(mid)).unzip();
        (States::borrowed(first, self.declared), States::borrowed(rest, self.declared))
    }

    /// Borrows the first `places.len()` states. There must be at least as many.
    #[inline(always)]
    fn reborrow_to<'a>(&'a mut self, places: &mut [ColumnMut<'a>]) {
        #[inline(always)]
        fn reborrow<'a, E: Element>(
            buffer: &'a mut [E],
            [len, stride]: [usize; 2],
            places: &mut [ColumnMut<'a>],
        ) {
            let mut rest = buffer;
            for place in places {
                let (part, after) = rest.split_at_mut(stride);
                (*place, rest) = (E::column_mut(&mut part[..len]), after);
            }
        }
        let sizes = [self.len, self.stride];
        match &mut self.buffer {
            Buffer::F32(buffer) => reborrow(buffer, sizes, places),
            Buffer::F64(buffer) => reborrow(buffer, sizes, places),
            Buffer::Bf16(buffer) => reborrow(buffer, sizes, places),
            Buffer::F16(buffer) => reborrow(buffer, sizes, places),
            Buffer::Block8(buffer) => {
                let mut rest = &mut buffer[..];
                for (place, state) in places.iter_mut().zip(self.declared) {
                    let (blocks, after) = rest.split_at_mut(self.stride);
                    *place = ColumnMut::Block8(BlocksMut::new(blocks, self.len, state.code()));
                    rest = after;
                }
            }
            Buffer::Borrowed(states) => {
                for (place, state) in places.iter_mut().zip(states) {
                    *place = state.reborrow();
                }
            }
        }
    }
}
