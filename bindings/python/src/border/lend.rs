//! How views become slices, for the time of a step: when nothing that is written overlaps with
//! anything else.

use std::cell::RefCell;

use fused_adam::{Element, Lent, bf16, bytemuck, f16};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::view::{Kind, View};

/// One tensor of a step.
pub struct Slot {
    pub rule: usize,
    pub t: u64,
    pub theta: View,
    pub grad: View,
    pub states: [Option<View>; 3],
    /// The rule's scalars after the step, unless they follow from `t`.
    pub scalars: Option<Vec<f64>>,
    /// Which element of a whole its first one is.
    pub offset: u64,
}

thread_local! {
    /// What the last call on this thread was found to be free of overlaps with: most are given the
    /// same memory again and again.
    static CLEAR: RefCell<Vec<Range>> = const { RefCell::new(Vec::new()) };
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Range {
    start: usize,
    end: usize,
    written: bool,
}

/// Checks that nothing which is written overlaps with anything else.
fn check_overlap(slots: &[Slot]) -> PyResult<()> {
    let range = |view: &View, written| {
        let start = view.data as usize;
        Range { start, end: start + view.bytes(), written }
    };
    let ranges = || {
        slots.iter().flat_map(move |slot| {
            let states = slot.states.iter().flatten().map(move |state| range(state, true));
            [range(&slot.theta, true), range(&slot.grad, false)].into_iter().chain(states)
        })
    };
    CLEAR.with_borrow_mut(|clear| {
        if ranges().eq(clear.iter().copied()) {
            return Ok(());
        }
        clear.clear();
        let mut sorted: Vec<Range> = ranges().filter(|range| range.start < range.end).collect();
        sorted.sort_unstable();
        // The furthest end so far, of all and of what is written.
        let (mut end, mut written_end) = (0, 0);
        for range in &sorted {
            if range.start < if range.written { end } else { written_end } {
                return Err(PyValueError::new_err(format!(
                    "arrays overlap in memory at {:#x}, expected what is written to be apart",
                    range.start
                )));
            }
            end = end.max(range.end);
            if range.written {
                written_end = written_end.max(range.end);
            }
        }
        clear.extend(ranges());
        Ok(())
    })
}

/// Hands the slots to `work` as tensors of a step, after having found that nothing overlaps.
///
/// # Safety
///
/// The objects that the views were read from are kept until this returns, and nobody else changes
/// or reads their memory meanwhile.
pub unsafe fn with_slices<T>(
    slots: Vec<Slot>,
    work: impl FnOnce(&mut dyn ExactSizeIterator<Item = Lent<'_>>) -> T,
) -> PyResult<T> {
    check_overlap(&slots)?;
    // SAFETY: by the contract of this function, and no two of them overlap unless both are read.
    Ok(work(&mut slots.iter().map(|slot| unsafe { slot.lend() })))
}

impl Slot {
    /// The first step of the first rule, without states.
    pub fn of(theta: View, grad: View) -> Self {
        Slot { rule: 0, t: 1, theta, grad, states: [None; 3], scalars: None, offset: 0 }
    }

    /// # Safety
    ///
    /// The memory is valid for `'a`, and that which is written is nobody else's.
    unsafe fn lend<'a>(&self) -> Lent<'a> {
        // SAFETY: passed on.
        unsafe {
            match self.theta.kind {
                Kind::F32 => self.lend_theta::<f32>(),
                Kind::F64 => self.lend_theta::<f64>(),
                Kind::Bf16 => self.lend_theta::<bf16>(),
                Kind::F16 => self.lend_theta::<f16>(),
            }
        }
    }

    /// # Safety
    ///
    /// As for [`lend`](Self::lend); θ is of type `T`.
    unsafe fn lend_theta<'a, T: Element>(&self) -> Lent<'a> {
        let (rule, t) = (self.rule, self.t);
        // SAFETY: passed on; each is of the type that its kind says.
        unsafe {
            let theta = self.theta.slice_mut::<T>();
            let mut lent = match self.grad.kind {
                Kind::F32 => Lent::new(rule, t, theta, self.grad.slice::<f32>()),
                Kind::F64 => Lent::new(rule, t, theta, self.grad.slice::<f64>()),
                Kind::Bf16 => Lent::new(rule, t, theta, self.grad.slice::<bf16>()),
                Kind::F16 => Lent::new(rule, t, theta, self.grad.slice::<f16>()),
            };
            for state in self.states.iter().flatten() {
                lent = match state.kind {
                    Kind::F32 => lent.state(state.slice_mut::<f32>()),
                    Kind::F64 => lent.state(state.slice_mut::<f64>()),
                    Kind::Bf16 => lent.state(state.slice_mut::<bf16>()),
                    Kind::F16 => lent.state(state.slice_mut::<f16>()),
                };
            }
            if let Some(scalars) = &self.scalars {
                lent = lent.scalars(scalars);
            }
            lent.offset(self.offset)
        }
    }
}

impl View {
    /// # Safety
    ///
    /// The memory is valid for `'a`, is of type `E`, and is nobody else's.
    unsafe fn slice_mut<'a, E: bytemuck::Pod>(&self) -> &'a mut [E] {
        if self.len == 0 {
            return &mut [];
        }
        // SAFETY: by the contract; the alignment and the size were checked when it was looked at.
        unsafe { std::slice::from_raw_parts_mut(self.data.cast(), self.len) }
    }

    /// # Safety
    ///
    /// The memory is valid for `'a`, is of type `E`, and is not written meanwhile.
    unsafe fn slice<'a, E: bytemuck::Pod>(&self) -> &'a [E] {
        if self.len == 0 {
            return &[];
        }
        // SAFETY: by the contract; the alignment and the size were checked when it was looked at.
        unsafe { std::slice::from_raw_parts(self.data.cast(), self.len) }
    }
}
