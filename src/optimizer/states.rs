//! The states of one parameter, in memory of their own or of the caller's.

use core::ops::Range;

use half::{bf16, f16};
use smallvec::SmallVec;

use crate::elements::Element;
use crate::elements::column::{Column, ColumnMut, DType};
use crate::rules::{Rule, State};

/// The states of one parameter: one after the other in one piece of memory, whole cache lines
/// apart, so that a small tensor's are found with one look; or lent by the caller.
pub(super) struct States<'s> {
    buffer: Buffer<'s>,
    declared: &'static [State],
    len: usize,
    /// From the start of one to the start of the next.
    stride: usize,
}

/// States that are lent. A rule of more states than have room here costs an allocation.
pub(super) type Columns<'s> = SmallVec<[ColumnMut<'s>; 4]>;

enum Buffer<'s> {
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bf16(Vec<bf16>),
    F16(Vec<f16>),
    Lent(Columns<'s>),
}

impl<'s> States<'s> {
    /// What is lent: the states of a rule, all of them.
    pub fn lent(states: Columns<'s>, declared: &'static [State]) -> Self {
        States { buffer: Buffer::Lent(states), declared, len: 0, stride: 0 }
    }

    /// As they are before the first step of a rule, each filled with its initial value.
    pub fn new(of: DType, len: usize, rule: &impl Rule) -> Self {
        fn filled<E: Element>(stride: usize, initial: &[f64]) -> Vec<E> {
            // Fresh pages are zeros already.
            let mut buffer = vec![E::from_f64(0.0); stride * initial.len()];
            for (i, &value) in initial.iter().enumerate().filter(|(_, value)| **value != 0.0) {
                buffer[i * stride..][..stride].fill(E::from_f64(value));
            }
            buffer
        }
        let declared = rule.states();
        let initial: Vec<f64> = (0..declared.len()).map(|i| rule.initial_state(i)).collect();
        let initial = &initial[..];
        let stride = if declared.is_empty() { 0 } else { len.next_multiple_of(64 / of.bytes()) };
        let buffer = match of {
            DType::F32 => Buffer::F32(filled(stride, initial)),
            DType::F64 => Buffer::F64(filled(stride, initial)),
            DType::Bf16 => Buffer::Bf16(filled(stride, initial)),
            DType::F16 => Buffer::F16(filled(stride, initial)),
        };
        States { buffer, declared, len, stride }
    }

    /// What the rule that they were made for says of them.
    pub fn declared(&self) -> &'static [State] {
        self.declared
    }

    /// State number `i`, if there is one.
    pub fn get(&self, i: usize) -> Option<Column<'_>> {
        fn column<E: Element>(buffer: &[E], range: Range<usize>) -> Column<'_> {
            E::column(&buffer[range])
        }
        let range = i * self.stride..i * self.stride + self.len;
        (i < self.declared.len()).then(|| match &self.buffer {
            Buffer::F32(buffer) => column(buffer, range),
            Buffer::F64(buffer) => column(buffer, range),
            Buffer::Bf16(buffer) => column(buffer, range),
            Buffer::F16(buffer) => column(buffer, range),
            Buffer::Lent(states) => states[i].as_ref(),
        })
    }

    /// State number `i`, if there is one.
    #[cfg(feature = "checkpoint")]
    pub fn get_mut(&mut self, i: usize) -> Option<ColumnMut<'_>> {
        let mut all: Columns<'_> = self.declared.iter().map(|_| ColumnMut::default()).collect();
        self.lend_to(&mut all);
        (i < all.len()).then(|| all.swap_remove(i))
    }

    /// All of them, if there are `N`.
    #[inline(always)]
    pub fn columns_mut<const N: usize>(&mut self) -> Option<[ColumnMut<'_>; N]> {
        if self.declared.len() != N {
            return None;
        }
        let mut all = [(); N].map(|()| ColumnMut::default());
        self.lend_to(&mut all);
        Some(all)
    }

    /// The same states, lent.
    #[cfg(feature = "parallel")]
    pub fn lend(&mut self) -> States<'_> {
        let declared = self.declared;
        let mut all: Columns<'_> = declared.iter().map(|_| ColumnMut::default()).collect();
        self.lend_to(&mut all);
        States::lent(all, declared)
    }

    /// The first `mid` rows of each and the rest, of states that are lent.
    #[cfg(feature = "parallel")]
    pub fn split_at(self, mid: usize) -> (Self, Self) {
        let Buffer::Lent(states) = self.buffer else {
            unreachable!("only states that are lent are cut")
        };
        let (first, rest): (Columns<'_>, Columns<'_>) =
            states.into_iter().map(|state| state.split_at(mid)).unzip();
        (States::lent(first, self.declared), States::lent(rest, self.declared))
    }

    /// As many as there are places, of as many as there are.
    #[inline(always)]
    fn lend_to<'a>(&'a mut self, places: &mut [ColumnMut<'a>]) {
        #[inline(always)]
        fn lend<'a, E: Element>(
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
            Buffer::F32(buffer) => lend(buffer, sizes, places),
            Buffer::F64(buffer) => lend(buffer, sizes, places),
            Buffer::Bf16(buffer) => lend(buffer, sizes, places),
            Buffer::F16(buffer) => lend(buffer, sizes, places),
            Buffer::Lent(states) => {
                for (place, state) in places.iter_mut().zip(states) {
                    *place = state.reborrow();
                }
            }
        }
    }
}
