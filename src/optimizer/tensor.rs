//! What is handed to a step, and what is kept between steps: buffers whose element types are known
//! at run time.

use core::ops::Range;

use half::{bf16, f16};

use super::ParamId;
#[cfg(feature = "parallel")]
use crate::backend::columns::unzip;
use crate::backend::columns::{AnySlice, AnySliceMut, Column, ColumnMut};
use crate::elements::storage::AnyStorage;
use crate::{Element, Half, Rule};

/// Which parameter: by the handle that registering it gave, or by its name, which is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key<'a> {
    /// The handle.
    Id(ParamId),
    /// The name.
    Name(&'a str),
}

impl From<ParamId> for Key<'_> {
    fn from(id: ParamId) -> Self {
        Key::Id(id)
    }
}

impl<'a> From<&'a str> for Key<'a> {
    fn from(name: &'a str) -> Self {
        Key::Name(name)
    }
}

/// One parameter in one step: θ, its gradient, and perhaps a copy of the new θ.
pub struct Tensor<'a> {
    pub(super) key: Key<'a>,
    pub(super) job: Job<'a>,
}

/// The buffers of one parameter in one step.
pub(super) struct Job<'a> {
    pub theta: AnySliceMut<'a>,
    pub grad: Grad<'a>,
    pub copy: Option<ColumnMut<'a>>,
}

pub(super) enum Grad<'a> {
    Read(AnySlice<'a>),
    /// Read, and then set to zero.
    Zero(AnySliceMut<'a>),
}

impl<'a> Job<'a> {
    /// The first `mid` rows and the rest.
    pub fn split_at(self, mid: usize) -> (Self, Self) {
        let (theta, theta_rest) = self.theta.split_at(mid);
        let (grad, grad_rest) = match self.grad {
            Grad::Read(grad) => {
                let (grad, rest) = grad.split_at(mid);
                (Grad::Read(grad), Grad::Read(rest))
            }
            Grad::Zero(grad) => {
                let (grad, rest) = grad.split_at(mid);
                (Grad::Zero(grad), Grad::Zero(rest))
            }
        };
        let (copy, copy_rest) = self.copy.map(|copy| copy.split_at(mid)).unzip();
        let rest = Job { theta: theta_rest, grad: grad_rest, copy: copy_rest };
        (Job { theta, grad, copy }, rest)
    }
}

impl Grad<'_> {
    pub fn read(&self) -> AnySlice<'_> {
        match self {
            Grad::Read(grad) => *grad,
            Grad::Zero(grad) => grad.read(),
        }
    }
}

impl<'a> Tensor<'a> {
    /// θ and its gradient, which is read and not written.
    pub fn new<T: Element, G: Element>(
        param: impl Into<Key<'a>>,
        theta: &'a mut [T],
        grad: &'a [G],
    ) -> Self {
        let job = Job { theta: T::any_mut(theta), grad: Grad::Read(G::any(grad)), copy: None };
        Tensor { key: param.into(), job }
    }

    /// θ and its gradient, which is set to zero in the same pass, for the next one to be added up
    /// in it. In a step that is skipped too.
    pub fn zeroing<T: Element, G: Element>(
        param: impl Into<Key<'a>>,
        theta: &'a mut [T],
        grad: &'a mut [G],
    ) -> Self {
        let job = Job { theta: T::any_mut(theta), grad: Grad::Zero(G::any_mut(grad)), copy: None };
        Tensor { key: param.into(), job }
    }

    /// Has the new θ, which is `f32`, stored a second time, rounded to the nearest.
    #[must_use]
    pub fn with_copy<H: Half>(mut self, copy: &'a mut [H]) -> Self {
        self.job.copy = Some(H::column_mut(copy));
        self
    }
}

/// What a parameter was registered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Types {
    pub theta: Type,
    pub grad: Type,
    pub state: Type,
    /// Whether these have a loop of their own.
    pub fused: bool,
}

/// An element type, known at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    F32,
    F64,
    Bf16,
    F16,
}

impl Type {
    pub fn of<E: Element>() -> Self {
        Type::of_slice(E::any(&[]))
    }

    pub fn of_slice(slice: AnySlice<'_>) -> Self {
        match slice {
            AnySlice::Single(Column::F32(_)) => Type::F32,
            AnySlice::Single(Column::Bf16(_)) => Type::Bf16,
            AnySlice::Single(Column::F16(_)) => Type::F16,
            AnySlice::Double(_) => Type::F64,
        }
    }

    pub fn bytes(self) -> usize {
        match self {
            Type::F64 => 8,
            Type::F32 => 4,
            Type::Bf16 | Type::F16 => 2,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Type::F32 => f32::NAME,
            Type::F64 => f64::NAME,
            Type::Bf16 => bf16::NAME,
            Type::F16 => f16::NAME,
        }
    }
}

/// The states of one parameter: one after the other in one piece of memory, whole cache lines
/// apart, so that a small tensor's are found with one look; or lent by the caller.
pub(super) struct States<'s> {
    buffer: Buffer<'s>,
    /// What they are called.
    names: &'static [&'static str],
    len: usize,
    /// From the start of one to the start of the next.
    stride: usize,
}

enum Buffer<'s> {
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bf16(Vec<bf16>),
    F16(Vec<f16>),
    Lent([AnySliceMut<'s>; MOST_LENT]),
}

/// The most states that can be lent.
pub(super) const MOST_LENT: usize = 4;

impl<'s> States<'s> {
    /// What is lent, of a rule that keeps `names`, as many as are lent.
    pub fn lent(states: [AnySliceMut<'s>; MOST_LENT], names: &'static [&'static str]) -> Self {
        States { buffer: Buffer::Lent(states), names, len: 0, stride: 0 }
    }

    /// As they are before the first step of a rule, each filled with its initial value.
    pub fn new(of: Type, len: usize, rule: &impl Rule) -> Self {
        fn filled<E: Element>(stride: usize, initial: &[f64]) -> Vec<E> {
            // Fresh pages are zeros already.
            let mut buffer = vec![E::from_f64(0.0); stride * initial.len()];
            for (i, &value) in initial.iter().enumerate().filter(|(_, value)| **value != 0.0) {
                buffer[i * stride..][..stride].fill(E::from_f64(value));
            }
            buffer
        }
        let names = rule.state_names();
        let initial: Vec<f64> = (0..names.len()).map(|i| rule.initial_state(i)).collect();
        let initial = &initial[..];
        let stride = if names.is_empty() { 0 } else { len.next_multiple_of(64 / of.bytes()) };
        let buffer = match of {
            Type::F32 => Buffer::F32(filled(stride, initial)),
            Type::F64 => Buffer::F64(filled(stride, initial)),
            Type::Bf16 => Buffer::Bf16(filled(stride, initial)),
            Type::F16 => Buffer::F16(filled(stride, initial)),
        };
        States { buffer, names, len, stride }
    }

    pub fn names(&self) -> &'static [&'static str] {
        self.names
    }

    /// State number `i`, if there is one.
    pub fn get(&self, i: usize) -> Option<AnySlice<'_>> {
        fn any<E: Element>(buffer: &[E], range: Range<usize>) -> AnySlice<'_> {
            E::any(&buffer[range])
        }
        let range = i * self.stride..i * self.stride + self.len;
        (i < self.names.len()).then(|| match &self.buffer {
            Buffer::F32(buffer) => any(buffer, range),
            Buffer::F64(buffer) => any(buffer, range),
            Buffer::Bf16(buffer) => any(buffer, range),
            Buffer::F16(buffer) => any(buffer, range),
            Buffer::Lent(states) => states[i].read(),
        })
    }

    /// State number `i`, if there is one.
    #[cfg(feature = "checkpoint")]
    pub fn get_mut(&mut self, i: usize) -> Option<AnySliceMut<'_>> {
        let &mut States { names, len, stride, .. } = self;
        let all = self.buffer.any_mut();
        (i < names.len()).then(|| all.split_at(i * stride).1.split_at(len).0)
    }

    /// All of them, if there are `N` and they are of type `S`.
    #[inline]
    pub fn all_mut<S: Element, const N: usize>(&mut self) -> Option<[&mut [S]; N]> {
        let &mut States { names, len, stride, .. } = self;
        let mut all: [&mut [S]; N] = [(); N].map(|()| Default::default());
        if names.len() != N {
            return None;
        }
        let mut rest = match &mut self.buffer {
            Buffer::Lent(states) => {
                for (state, lent) in all.iter_mut().zip(states) {
                    *state = S::of_mut(lent.again())?;
                }
                return Some(all);
            }
            own => S::of_mut(own.any_mut())?,
        };
        for state in &mut all {
            let (part, after) = rest.split_at_mut_checked(stride)?;
            *state = &mut part[..len];
            rest = after;
        }
        Some(all)
    }

    /// All of them, which are not more than can be lent.
    #[cfg(feature = "parallel")]
    pub fn lend(&mut self) -> States<'_> {
        let names = self.names;
        let mut all = [(); MOST_LENT].map(|()| AnySliceMut::default());
        self.lend_to(&mut all[..names.len()]);
        States::lent(all, names)
    }

    /// The first `mid` rows of each and the rest, of states that are lent.
    #[cfg(feature = "parallel")]
    pub fn split_at(self, mid: usize) -> (Self, Self) {
        let Buffer::Lent(states) = self.buffer else {
            unreachable!("only states that are lent are cut")
        };
        let (first, rest) = unzip(states.map(|state| {
            // A place that no state has is empty.
            let mid = mid.min(state.read().len());
            state.split_at(mid)
        }));
        (States::lent(first, self.names), States::lent(rest, self.names))
    }

    /// All of them, if there are `N`.
    pub fn all_any_mut<const N: usize>(&mut self) -> Option<[AnySliceMut<'_>; N]> {
        if self.names.len() != N {
            return None;
        }
        let mut all = [(); N].map(|()| AnySliceMut::default());
        self.lend_to(&mut all);
        Some(all)
    }

    /// As many as there are places, of as many as there are.
    #[inline]
    fn lend_to<'a>(&'a mut self, places: &mut [AnySliceMut<'a>]) {
        let &mut States { len, stride, .. } = self;
        match &mut self.buffer {
            Buffer::Lent(states) => {
                for (place, lent) in places.iter_mut().zip(states) {
                    *place = lent.again();
                }
            }
            own => {
                let mut rest = own.any_mut();
                for place in places {
                    let (part, after) = rest.split_at(stride);
                    (*place, rest) = (part.split_at(len).0, after);
                }
            }
        }
    }
}

impl Buffer<'_> {
    fn any_mut(&mut self) -> AnySliceMut<'_> {
        match self {
            Buffer::F32(buffer) => f32::any_mut(buffer),
            Buffer::F64(buffer) => f64::any_mut(buffer),
            Buffer::Bf16(buffer) => bf16::any_mut(buffer),
            Buffer::F16(buffer) => f16::any_mut(buffer),
            Buffer::Lent(_) => AnySliceMut::default(),
        }
    }
}
