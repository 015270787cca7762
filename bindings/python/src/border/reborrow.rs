//! Makes slices of views for the duration of a step, after a check that nothing that is written
//! overlaps anything else.

use std::cell::RefCell;

use fused_adam::{Block8, Correction, Element, Error, ParamMut, Shard, State, bf16, bytemuck, f16};

use super::view::{Kind, View};

/// One tensor of a step.
pub struct StepTensor {
    pub rule: usize,
    pub t: u64,
    pub theta: View,
    pub grad: View,
    pub states: [Option<View>; 3],
    /// The correction of θ, which is then the upper part of split master weights.
    pub correction: Option<View>,
    /// The rule's scalars after the step. None if they follow from `t`.
    pub scalars: Option<Vec<f64>>,
    /// The index of its first element in the whole tensor.
    pub offset: u64,
    /// Which elements of the whole tensor it has, if they are not those from `offset` on.
    pub shard: Option<Shard>,
    /// Whether its gradient counts in the norm.
    pub in_norm: bool,
    /// Combined with the seed of the step, if that rounds stochastically.
    pub seed: u64,
}

/// Two views that overlap in memory, of which at least one would be written. Each is the number of
/// its tensor, and of its buffer: 0 for θ, 1 for the gradient, and the states from 2 on. The
/// correction comes after the last state.
pub struct Overlap(pub [(usize, usize); 2]);

thread_local! {
    /// The ranges of the last call on this thread that had no overlaps. Most calls get the same
    /// memory again and again.
    static CLEAR: RefCell<Vec<Range>> = const { RefCell::new(Vec::new()) };
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Range {
    start: usize,
    end: usize,
    written: bool,
}

/// Checks that nothing that is written overlaps anything else.
fn check_overlap(slots: &[StepTensor]) -> Result<(), Overlap> {
    let range = |view: &View, written| {
        let start = view.data as usize;
        Range { start, end: start + view.bytes(), written }
    };
    let ranges = || {
        slots.iter().flat_map(move |slot| {
            let states = slot.kept().map(move |state| range(state, true));
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
        // The largest end so far: of all, and of those that are written.
        let (mut end, mut written_end) = (0, 0);
        for range in &sorted {
            if range.start < if range.written { end } else { written_end } {
                return Err(overlap_at(range.start, slots));
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

/// The buffers that overlap at an address.
#[cold]
fn overlap_at(address: usize, slots: &[StepTensor]) -> Overlap {
    let mut found = Vec::new();
    for (number, slot) in slots.iter().enumerate() {
        let all = [&slot.theta, &slot.grad].into_iter().chain(slot.kept());
        for (buffer, view) in all.enumerate() {
            let start = view.data as usize;
            if (start..start + view.bytes()).contains(&address) {
                found.push((number, buffer));
            }
        }
    }
    // What is written comes first.
    found.sort_by_key(|&(_, buffer)| buffer == 1);
    Overlap([found[0], found[1]])
}

/// Checks for overlaps, and passes the slots to `work` as the tensors of a step.
///
/// # Safety
///
/// The objects of the views stay alive until this returns, and nothing else changes or reads their
/// memory meanwhile.
pub unsafe fn with_slices<T>(
    slots: Vec<StepTensor>,
    work: impl FnOnce(&mut dyn ExactSizeIterator<Item = ParamMut<'_>>) -> T,
) -> Result<T, Overlap> {
    check_overlap(&slots)?;
    // SAFETY: the contract of this function, and no two of them overlap unless both are only read.
    Ok(work(&mut slots.iter().map(|slot| unsafe { slot.reborrow() })))
}

/// Encodes contiguous elements of a state of `f32` in 8 bits. `blocks` is contiguous and has their
/// blocks. Returns false, and does nothing, if they overlap.
///
/// # Safety
///
/// The objects of the views stay alive until this returns, and nothing else changes `elements` or
/// uses `blocks` meanwhile.
pub unsafe fn encode(state: &State, elements: View, blocks: View) -> bool {
    if elements.meets(&blocks) {
        return false;
    }
    // SAFETY: the contract of this function, and they do not overlap.
    unsafe { state.encode(elements.slice::<f32>(), blocks.blocks_mut()) };
    true
}

/// Decodes a state in 8 bits to contiguous elements of `f32`, as [`encode`].
///
/// # Safety
///
/// The objects of the views stay alive until this returns, and nothing else changes `blocks` or
/// uses `elements` meanwhile.
pub unsafe fn decode(state: &State, blocks: View, elements: View) -> bool {
    if elements.meets(&blocks) {
        return false;
    }
    // SAFETY: the contract of this function, and they do not overlap.
    unsafe { state.decode(blocks.blocks(), elements.slice_mut::<f32>()) };
    true
}

/// Splits contiguous `f32` weights in `bf16` parameters and their correction. All are laid out
/// alike. Returns `None`, and does nothing, if they overlap.
///
/// # Safety
///
/// The objects of the views stay alive until this returns, and nothing else changes `weights` or
/// uses `theta` or `correction` meanwhile. `theta` is of type `Bf16`, `weights` of type `F32`.
pub unsafe fn split(weights: View, theta: View, correction: View) -> Option<Result<(), Error>> {
    if meet([&weights, &theta, &correction]) {
        return None;
    }
    // SAFETY: the contract of this function, and they do not overlap.
    unsafe {
        Some(correction.correction_mut().split(weights.slice::<f32>(), theta.slice_mut::<bf16>()))
    }
}

/// Joins `bf16` parameters and their correction to contiguous `f32` weights, as [`split`].
///
/// # Safety
///
/// The objects of the views stay alive until this returns, and nothing else changes `theta` or
/// `correction`, or uses `weights` meanwhile. The types are as for [`split`].
pub unsafe fn join(theta: View, correction: View, weights: View) -> Option<Result<(), Error>> {
    if meet([&weights, &theta, &correction]) {
        return None;
    }
    // SAFETY: the contract of this function, and they do not overlap.
    unsafe {
        let (theta, to) = (theta.slice::<bf16>(), weights.slice_mut::<f32>());
        Some(match correction.kind {
            Kind::U8 => join_parts::<u8>(theta, correction.slice(), to),
            _ => join_parts::<u16>(theta, correction.slice(), to),
        })
    }
}

/// Joins weights. The core takes a mutable correction, so this passes a copy of each part.
fn join_parts<L: Copy + Default>(theta: &[bf16], low: &[L], to: &mut [f32]) -> Result<(), Error>
where
    for<'a> Correction<'a>: From<&'a mut [L]>,
{
    const PART: usize = 1024;
    for ((theta, low), to) in theta.chunks(PART).zip(low.chunks(PART)).zip(to.chunks_mut(PART)) {
        let mut copy = [L::default(); PART];
        let copy = &mut copy[..low.len()];
        copy.copy_from_slice(low);
        Correction::from(copy).join(theta, to)?;
    }
    Ok(())
}

/// Whether any two of three views overlap.
fn meet([a, b, c]: [&View; 3]) -> bool {
    a.meets(b) || a.meets(c) || b.meets(c)
}

impl StepTensor {
    /// What is kept from step to step beside θ: the states, and the correction.
    pub fn kept(&self) -> impl Iterator<Item = &View> {
        self.states.iter().chain([&self.correction]).flatten()
    }

    /// The first step of the first rule, without states.
    pub fn of(theta: View, grad: View) -> Self {
        StepTensor {
            rule: 0,
            t: 1,
            theta,
            grad,
            states: [None; 3],
            correction: None,
            scalars: None,
            offset: 0,
            shard: None,
            in_norm: true,
            seed: 0,
        }
    }

    /// # Safety
    ///
    /// The memory is valid for `'a`, and nothing else uses the memory that is written.
    unsafe fn reborrow<'a>(&'a self) -> ParamMut<'a> {
        // SAFETY: as for this function.
        unsafe {
            match self.theta.kind {
                Kind::F32 => self.lend_theta::<f32>(),
                Kind::F64 => self.lend_theta::<f64>(),
                Kind::Bf16 => self.lend_theta::<bf16>(),
                Kind::F16 => self.lend_theta::<f16>(),
                Kind::U8 | Kind::U16 => unreachable!("a parameter is of floats"),
            }
        }
    }

    /// # Safety
    ///
    /// As for [`reborrow`](Self::reborrow); θ is of type `T`.
    unsafe fn lend_theta<'a, T: Element>(&'a self) -> ParamMut<'a> {
        let (rule, t) = (self.rule, self.t);
        // SAFETY: as for this function; the type is that of the kind.
        unsafe {
            let theta = self.theta.slice_mut::<T>();
            let mut borrowed = match self.grad.kind {
                Kind::F32 => ParamMut::new(rule, t, theta, self.grad.slice::<f32>()),
                Kind::F64 => ParamMut::new(rule, t, theta, self.grad.slice::<f64>()),
                Kind::Bf16 => ParamMut::new(rule, t, theta, self.grad.slice::<bf16>()),
                Kind::F16 => ParamMut::new(rule, t, theta, self.grad.slice::<f16>()),
                Kind::U8 | Kind::U16 => unreachable!("a gradient is of floats"),
            };
            for state in self.states.iter().flatten() {
                borrowed = match state.kind {
                    Kind::F32 => borrowed.with_state(state.slice_mut::<f32>()),
                    Kind::F64 => borrowed.with_state(state.slice_mut::<f64>()),
                    Kind::Bf16 => borrowed.with_state(state.slice_mut::<bf16>()),
                    Kind::F16 => borrowed.with_state(state.slice_mut::<f16>()),
                    Kind::U8 => borrowed.with_state(state.blocks_mut()),
                    Kind::U16 => unreachable!("a state is of floats or in 8 bits"),
                };
            }
            if let Some(correction) = &self.correction {
                borrowed = borrowed.with_correction(correction.correction_mut());
            }
            if let Some(scalars) = &self.scalars {
                borrowed = borrowed.with_scalars(scalars);
            }
            borrowed = match &self.shard {
                Some(shard) => borrowed.with_shard(shard),
                None => borrowed.with_offset(self.offset),
            };
            if !self.in_norm {
                borrowed = borrowed.without_norm();
            }
            borrowed.with_seed(self.seed)
        }
    }
}

impl View {
    /// # Safety
    ///
    /// The memory is valid for `'a`, has type `E`, and nothing else uses it.
    unsafe fn slice_mut<'a, E: bytemuck::Pod>(&self) -> &'a mut [E] {
        if self.len == 0 {
            return &mut [];
        }
        // SAFETY: the contract; the alignment and the size were checked when the view was read.
        unsafe { std::slice::from_raw_parts_mut(self.data.cast(), self.len) }
    }

    /// # Safety
    ///
    /// The memory is valid for `'a`, has type `E`, and nothing writes to it meanwhile.
    unsafe fn slice<'a, E: bytemuck::Pod>(&self) -> &'a [E] {
        if self.len == 0 {
            return &[];
        }
        // SAFETY: the contract; the alignment and the size were checked when the view was read.
        unsafe { std::slice::from_raw_parts(self.data.cast(), self.len) }
    }

    /// # Safety
    ///
    /// The memory is valid for `'a`, and nothing else uses it.
    unsafe fn correction_mut<'a>(&self) -> Correction<'a> {
        // SAFETY: the contract; the type is that of the kind.
        unsafe {
            match self.kind {
                Kind::U8 => self.slice_mut::<u8>().into(),
                Kind::U16 => self.slice_mut::<u16>().into(),
                _ => unreachable!("a correction is of integers"),
            }
        }
    }

    /// # Safety
    ///
    /// The memory is valid for `'a`, has type `U8`, and nothing else uses it.
    unsafe fn blocks_mut<'a>(&self) -> &'a mut [Block8] {
        let blocks = self.len / size_of::<Block8>();
        if blocks == 0 {
            return &mut [];
        }
        // SAFETY: the contract; the size was checked when the view was read, and bytes have no
        // alignment.
        unsafe { std::slice::from_raw_parts_mut(self.data.cast(), blocks) }
    }

    /// # Safety
    ///
    /// The memory is valid for `'a`, has type `U8`, and nothing writes to it meanwhile.
    unsafe fn blocks<'a>(&self) -> &'a [Block8] {
        let blocks = self.len / size_of::<Block8>();
        if blocks == 0 {
            return &[];
        }
        // SAFETY: as for `blocks_mut`.
        unsafe { std::slice::from_raw_parts(self.data.cast(), blocks) }
    }
}
