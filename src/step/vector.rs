//! The vector loop: the loop that takes a step in registers.
//!
//! ```text
//! for each block of LANES elements of θ, g and the states:
//!     prefetch 1 or 2 KiB ahead in each buffer
//!     load g, the states and θ, each into U registers
//!     (θ, states) = kernel.update(θ, g, states)
//!     if a new state is not finite, step this block by the reference instead
//!     store θ and the states, and the copy of θ if there is one
//! ```
//!
//! Everything is inlined into this loop: the rule's arithmetic, the conversions of 16-bit elements,
//! the scaling of the gradient. Branches on coefficients go the same way for all blocks and cost
//! nothing compared with a square root. The reasons for this shape:
//!
//! 1. **A block is U registers of each buffer, not one.** A step of Adam is limited by the unit for
//!    square roots and divisions. An operation takes a fixed number of cycles per register, and the
//!    unit can start the next one early only if the two are independent. U = 4 keeps the unit busy.
//!    U = 2 is used where 16-bit elements are converted, which adds enough other work. (U is part
//!    of the [`Isa`]: see [`Unrolled`].)
//! 2. **Blocks begin where θ is aligned to a cache line.** A 512-bit access that crosses two lines
//!    costs two accesses. The other buffers are aligned too if all were allocated with the same
//!    alignment. Short buffers are not aligned: reaching the boundary takes some tens of
//!    nanoseconds.
//! 3. **Memory is prefetched.** The CPU's own prefetchers stop at each page, and its out-of-order
//!    window is full of pending divisions and does not reach that far. With fewer states a block
//!    takes less time, so the same time corresponds to a longer distance.
//! 4. **The elements outside whole blocks go register by register, then element by element,**
//!    through this same loop with other [`Isa`]s. Head and tail therefore round like the body, and
//!    splitting the buffers does not change the bits.
//! 5. **Elements may be loaded in any order if all buffers have one type.** Each element is
//!    computed independently, so the order of lanes does not matter as long as it is the same in
//!    all buffers. For `bf16`, splitting the even from the odd elements is cheaper than widening in
//!    order.
//! 6. **Overflow is looked for once a block, and is left to the reference.** To clamp each line
//!    that could overflow takes five more operations for each register in AdamW, and up to a
//!    quarter more time. The sum of all new states tells whether one is infinite or NaN.
//! 7. **There are no closures and no array methods.** The compiler may leave either as a call,
//!    which is then compiled without the instruction set.

use crate::elements::rows::{Beside, Rows};
use crate::elements::{Element, RegisterOf};
use crate::rules::{Kernel, reference};
use crate::simd::dispatch::{Engine, WithSimd};
use crate::simd::native::{NativeSimd, UNROLL, UNROLL_CONVERTED, Unrolled};
use crate::simd::one::OneLane;
use crate::simd::portable::Portable;
use crate::simd::{Isa, Real, Register};

/// The slices of one step, all of the same length: θ of type `T`, g of type `G`, and the `N` states
/// of the rule, of type `S`.
pub(super) struct Buffers<'a, T, G, S, const N: usize> {
    pub theta: &'a mut [T],
    pub grad: &'a [G],
    pub state: [&'a mut [S]; N],
    /// The copy of θ, rounded to nearest.
    pub copy: Option<&'a mut [G]>,
}

/// Steps all of `buffers` on this thread, with any engine but the scalar one.
pub(super) fn step<T, G, S, K, const N: usize>(
    engine: Engine,
    kernel: &K,
    buffers: Buffers<'_, T, G, S, N>,
) where
    T: Element,
    G: Element<Float = T::Float>,
    S: Element<Float = T::Float>,
    K: Kernel<T::Float, N>,
{
    if let Err(step) = engine.vectorize(VectorStep { kernel: *kernel, buffers }) {
        step.portable();
    }
}

struct VectorStep<'a, T, G, S, K, const N: usize> {
    kernel: K,
    buffers: Buffers<'a, T, G, S, N>,
}

impl<T, G, S, K, const N: usize> WithSimd for VectorStep<'_, T, G, S, K, N>
where
    T: Element,
    G: Element<Float = T::Float>,
    S: Element<Float = T::Float>,
    K: Kernel<T::Float, N>,
{
    type Output = ();

    #[inline(always)]
    fn with<P: NativeSimd>(self, simd: P) {
        // A constant condition, so that only one of the two is compiled.
        if const { size_of::<G>() == size_of::<T::Float>() } {
            self.aligned(Unrolled::<P, UNROLL>(simd), simd);
        } else {
            self.aligned(Unrolled::<P, UNROLL_CONVERTED>(simd), simd);
        }
    }
}

/// The alignment of θ where blocks begin: a cache line.
const ALIGN_BYTES: usize = 64;

/// Buffers of fewer blocks than this are not aligned.
const ALIGN_BLOCKS: usize = 64;

impl<T, G, S, K, const N: usize> VectorStep<'_, T, G, S, K, N>
where
    T: Element,
    G: Element<Float = T::Float>,
    S: Element<Float = T::Float>,
    K: Kernel<T::Float, N>,
{
    /// Steps blocks from the first aligned element of θ on, and the elements before and after them
    /// in single registers.
    #[inline(always)]
    fn aligned<I: Isa, P: NativeSimd>(self, isa: I, simd: P) {
        let VectorStep { kernel, buffers } = self;
        let block = const { lanes::<T, I>() };
        // A copy in memory, which the compiler must treat as a different kernel. If both used the
        // same coefficients, it would keep the scalar ones, which only the ends use, in registers
        // through the loop. There are not enough registers for that: the loop is 5 % slower on
        // AVX2.
        let in_memory = core::hint::black_box(kernel);
        if buffers.theta.len() < block {
            return single_registers(simd, &in_memory, buffers);
        }
        let mut head = buffers.theta.as_ptr().align_offset(ALIGN_BYTES);
        if head.saturating_add(ALIGN_BLOCKS * block) > buffers.theta.len() {
            head = 0;
        }
        let (head, rest) = buffers.split_at(head);
        let tail = whole_blocks(isa, kernel, &in_memory, rest);
        for end in [head, tail] {
            single_registers(simd, &in_memory, end);
        }
    }

    #[inline(never)]
    fn portable(self) {
        let VectorStep { kernel, buffers } = self;
        let in_memory = core::hint::black_box(kernel);
        if const { ONE_LANE } {
            whole_blocks(OneLane, kernel, &in_memory, buffers);
        } else {
            let rest = whole_blocks(Portable, kernel, &in_memory, buffers);
            whole_blocks(OneLane, in_memory, &in_memory, rest);
        }
    }
}

/// Whether one number at a time is faster than `wide`. On wasm without `simd128` it is: there
/// `wide` computes with arrays.
const ONE_LANE: bool = cfg!(all(target_family = "wasm", not(target_feature = "simd128")));

/// Steps buffers that are shorter than a block.
#[inline(always)]
fn single_registers<P, T, G, S, K, const N: usize>(
    simd: P,
    kernel: &K,
    buffers: Buffers<'_, T, G, S, N>,
) where
    P: NativeSimd,
    T: Element,
    G: Element<Float = T::Float>,
    S: Element<Float = T::Float>,
    K: Kernel<T::Float, N>,
{
    let rest = whole_blocks(Unrolled::<P, 1>(simd), *kernel, kernel, buffers);
    whole_blocks(OneLane, *kernel, kernel, rest);
}

/// The loop: steps all whole blocks in `buffers`, and returns the rest, which is shorter than one
/// block. `in_memory` is the same kernel, for calls that take a reference to it: the compiler does
/// not keep the coefficients of a kernel in registers whose address is taken.
#[inline(always)]
fn whole_blocks<'a, I, T, G, S, K, const N: usize>(
    isa: I,
    kernel: K,
    in_memory: &K,
    buffers: Buffers<'a, T, G, S, N>,
) -> Buffers<'a, T, G, S, N>
where
    I: Isa,
    T: Element,
    G: Element<Float = T::Float>,
    S: Element<Float = T::Float>,
    K: Kernel<T::Float, N>,
{
    let block = const { lanes::<T, I>() };
    let whole = buffers.theta.len() - buffers.theta.len() % block;
    let (body, rest) = buffers.split_at(whole);
    let Buffers { theta, grad, state: mut states, mut copy } = body;
    let ahead = const { prefetch_bytes(N) };
    let to_range = to_range_of::<S>();
    for start in (0..whole).step_by(block) {
        let range = start..start + block;
        prefetch::<I, _>(theta, start, block, ahead);
        prefetch::<I, _>(grad, start, block, ahead);
        for state in &states {
            prefetch::<I, _>(state, start, block, ahead);
        }
        let old_grad = load::<I, T, G, S, _>(isa, &grad[range.clone()]);
        let mut old = [old_grad; N];
        for (old, state) in old.iter_mut().zip(&states) {
            *old = load::<I, T, G, S, _>(isa, &state[range.clone()]);
        }
        let old_theta = load::<I, T, G, S, _>(isa, &theta[range.clone()]);
        let (new_theta, new) = kernel.update(old_theta, old_grad, old);
        if const { N > 0 } && !are_surely_finite::<S, _, N>(&new, to_range) {
            let mut state = [(); N].map(|()| Default::default());
            for (block, state) in state.iter_mut().zip(&mut states) {
                *block = &mut state[range.clone()];
            }
            by_reference(
                in_memory,
                Buffers {
                    theta: &mut theta[range.clone()],
                    grad: &grad[range.clone()],
                    state,
                    copy: copy.as_mut().map(|copy| &mut copy[range]),
                },
            );
            continue;
        }
        store::<I, T, G, S, _>(new_theta, &mut theta[range.clone()]);
        for (new, state) in new.into_iter().zip(&mut states) {
            store::<I, T, G, S, _>(new, &mut state[range.clone()]);
        }
        if let Some(copy) = &mut copy {
            // Not prefetched, because it is not read.
            store::<I, T, G, S, _>(new_theta, &mut copy[range]);
        }
    }
    rest
}

/// True only if all states are finite once they are stored as `S`.
#[inline(always)]
fn are_surely_finite<S, R, const N: usize>(new: &[R; N], to_range: R::Float) -> bool
where
    S: Element,
    R: Register,
{
    let mut sum = new[0];
    if const { size_of::<S>() == 2 } {
        sum = sum * to_range;
    }
    for state in &new[1..] {
        let mut state = *state;
        if const { size_of::<S>() == 2 } {
            state = state * to_range;
        }
        sum = sum + state;
    }
    sum.surely_finite()
}

/// A factor that makes a number infinite if `S` cannot hold it. Numbers just above MAX of `S`, by
/// less than half a unit of the last place, are rounded to MAX and do not count.
#[inline(always)]
fn to_range_of<S: Element>() -> S::Float {
    let factor = S::Float::MAX.to_f64() / S::MAX.to_f64() * (1.0 - 1.0 / 8192.0);
    S::Float::from_f64(factor)
}

/// Steps a block by the reference.
#[cold]
#[inline(never)]
fn by_reference<T, G, S, K, const N: usize>(kernel: &K, block: Buffers<'_, T, G, S, N>)
where
    T: Element,
    G: Element<Float = T::Float>,
    S: Element<Float = T::Float>,
    K: Kernel<T::Float, N>,
{
    let rows = Rows {
        theta: T::column_mut(block.theta),
        grad: G::column(block.grad),
        state: block.state.map(S::column_mut),
        beside: block.copy.map_or(Beside::Nothing, |copy| Beside::Copy(G::column_mut(copy))),
        noise: None,
    };
    reference::step(kernel, rows);
}

/// The number of elements in a block.
const fn lanes<T: Element, I: Isa>() -> usize {
    <RegisterOf<T, I> as Register>::LANES
}

/// The prefetch distance in bytes for a step with this many states.
const fn prefetch_bytes(states: usize) -> usize {
    if states < 2 { 2 << 10 } else { 1 << 10 }
}

/// Prefetches the block that lies `ahead` bytes after the one at `start`.
#[inline(always)]
fn prefetch<I: Isa, E: Element>(buffer: &[E], start: usize, block: usize, ahead: usize) {
    I::prefetch(buffer, start + ahead / size_of::<E>(), block);
}

/// Whether all buffers have one type, so that their elements may be loaded in any order.
const fn is_one_type<T: Element, G: Element, S: Element>() -> bool {
    T::DTYPE as u8 == G::DTYPE as u8 && G::DTYPE as u8 == S::DTYPE as u8
}

#[inline(always)]
fn load<I, T, G, S, E>(isa: I, from: &[E]) -> RegisterOf<E, I>
where
    I: Isa,
    T: Element,
    G: Element,
    S: Element,
    E: Element,
{
    if const { is_one_type::<T, G, S>() } {
        E::load_unordered(isa, from)
    } else {
        E::load(isa, from)
    }
}

#[inline(always)]
fn store<I, T, G, S, E>(register: RegisterOf<E, I>, to: &mut [E])
where
    I: Isa,
    T: Element,
    G: Element,
    S: Element,
    E: Element,
{
    if const { is_one_type::<T, G, S>() } {
        E::store_unordered::<I>(register, to);
    } else {
        E::store::<I>(register, to);
    }
}

impl<T, G, S, const N: usize> Buffers<'_, T, G, S, N> {
    /// The first `mid` elements and the rest.
    #[inline(always)]
    fn split_at(self, mid: usize) -> (Self, Self) {
        let (theta, theta_rest) = self.theta.split_at_mut(mid);
        let (grad, grad_rest) = self.grad.split_at(mid);
        let mut state_rest = [(); N].map(|()| Default::default());
        let mut state = self.state;
        for (state, rest) in state.iter_mut().zip(&mut state_rest) {
            (*state, *rest) = core::mem::take(state).split_at_mut(mid);
        }
        let (copy, copy_rest) = self.copy.map(|copy| copy.split_at_mut(mid)).unzip();
        (
            Buffers { theta, grad, state, copy },
            Buffers { theta: theta_rest, grad: grad_rest, state: state_rest, copy: copy_rest },
        )
    }
}
