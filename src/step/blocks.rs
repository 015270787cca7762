//! The loop for states in 8 bits: decodes, steps and encodes one block of 32 elements after the
//! other.
//!
//! ```text
//! for each block of θ, g and the states:
//!     decode the states
//!     load g and θ; (θ, states) = kernel.update(θ, g, states)
//!     find the scale of each new state
//!     if there is none, because it is not finite or too large, step this block by the reference
//!     store θ, and encode the states with the random bits of the block
//! ```
//!
//! θ and g are of the types `T` and `G`, and are converted in registers. θ may be split master
//! weights. [`tiles`](super::tiles) converts other types to `f32`, and calls this for one tile
//! after the other. On a native backend a block is one (unrolled) register. A last block that is
//! not whole is left to the reference too.

use crate::elements::block8::{BLOCK, Block8, BlocksMut, Code};
use crate::elements::column::ColumnMut;
use crate::elements::rounding::{BlockBits, GROUP_OF_CORRECTION, Noise, TOGETHER, group_of_states};
use crate::elements::rows::{Beside, Rows};
use crate::elements::split::{self, Correction};
use crate::elements::{Element, RegisterOf, codec};
use crate::rules::{Kernel, reference};
use crate::simd::dispatch::{Engine, WithSimd};
use crate::simd::native::NativeSimd;
use crate::simd::portable::Portable;
use crate::simd::{F32Register, Float, Isa, Register, U32Lanes};

/// Whether this loop can step the rows: they have the types `T` and `G`, θ is not rounded
/// stochastically, and no copy of it is written.
pub(super) fn takes<T: Element, G: Element, const N: usize>(rows: &Rows<'_, N>) -> bool {
    let same_types = rows.theta.dtype() == T::DTYPE && rows.grad.dtype() == G::DTYPE;
    let is_stochastic = rows.noise.is_some_and(|noise| noise.halves);
    same_types
        && match &rows.beside {
            Beside::Nothing => size_of::<T>() != 2 || !is_stochastic,
            Beside::Copy(_) => false,
            Beside::Correction(_) => true,
        }
}

/// Steps all rows on this thread, with any engine but the scalar one. The loop [`takes`] them.
pub(super) fn step<T, G, K, const N: usize>(engine: Engine, kernel: &K, rows: Rows<'_, N>)
where
    T: Element,
    G: Element<Float = T::Float>,
    K: Kernel<T::Float, N>,
{
    let Rows { theta, grad, state, beside, noise } = rows;
    let mut codes = [Code::default(); N];
    let mut codes_of = codes.iter_mut();
    let state = state.map(|state| match (state, codes_of.next()) {
        (ColumnMut::Block8(state), Some(code)) => {
            *code = state.code;
            state.blocks
        }
        _ => unreachable!("all states of a parameter have one type"),
    });
    let step = BlockStep {
        kernel,
        theta: T::of_mut(theta).expect(COMPARED),
        grad: G::of(grad).expect(COMPARED),
        beside,
        state,
        codes,
        noise: noise.expect("8-bit states have random bits"),
    };
    if let Err(step) = engine.vectorize(step) {
        step.portable();
    }
}

const COMPARED: &str = "the types were compared";

/// A step: the kernel and its buffers. θ begins with a block.
struct BlockStep<'a, T, G, K, const N: usize> {
    kernel: &'a K,
    theta: &'a mut [T],
    grad: &'a [G],
    beside: Beside<'a>,
    state: [&'a mut [Block8]; N],
    codes: [Code; N],
    /// The random bits of the first element.
    noise: Noise,
}

impl<T, G, K, const N: usize> WithSimd for BlockStep<'_, T, G, K, N>
where
    T: Element,
    G: Element<Float = T::Float>,
    K: Kernel<T::Float, N>,
{
    type Output = ();

    #[inline(always)]
    fn with<P: NativeSimd>(self, simd: P) {
        self.blocks::<_, 1>(simd.block());
    }
}

/// Evaluates a statement for each state. The compiler does not unroll a loop with such a large
/// body, and would then keep the states in memory.
macro_rules! each_state {
    ($N:ident, $i:ident => $body:block) => {
        each_state!($N, $i => $body, 0 1 2 3);
        for $i in 4..$N $body
    };
    ($N:ident, $i:ident => $body:block, $($number:literal)*) => {$(
        if const { $number < $N } {
            let $i = $number;
            $body
        }
    )*};
}

impl<T, G, K, const N: usize> BlockStep<'_, T, G, K, N>
where
    T: Element,
    G: Element<Float = T::Float>,
    K: Kernel<T::Float, N>,
{
    #[inline(never)]
    fn portable(self) {
        self.blocks::<_, { BLOCK / 8 }>(Portable);
    }

    /// Steps all blocks. `P` registers have the lanes of a block.
    #[inline(always)]
    fn blocks<I: Isa, const P: usize>(self, isa: I) {
        const { assert!(<I::F32 as Register>::LANES * P == BLOCK) };
        let BlockStep { kernel, theta, grad, beside, mut state, codes, noise } = self;
        let whole = theta.len() / BLOCK;
        let (theta, last_theta) = theta.as_chunks_mut::<BLOCK>();
        let (grad, last_grad) = grad.as_chunks::<BLOCK>();
        let mut last_state = [(); N].map(|()| Default::default());
        for (state, last) in state.iter_mut().zip(&mut last_state) {
            (*state, *last) = core::mem::take(state).split_at_mut(whole);
        }
        // All slices have the length `whole`, so that the compiler checks each index once.
        let (theta, grad) = (&mut theta[..whole], &grad[..whole]);
        let mut blocks = Blocks { theta, grad, beside, state };
        let mut words = [[[0; TOGETHER]; 2]; N];
        let mut of_correction = [[0; TOGETHER]; 2];
        for first in (0..whole).step_by(TOGETHER) {
            for (pair, words) in words.iter_mut().enumerate().take(N.div_ceil(2)) {
                draw::<I, P>(isa, noise, first, group_of_states(pair), words);
            }
            if blocks.beside.is_stochastic() {
                draw::<I, P>(isa, noise, first, GROUP_OF_CORRECTION, &mut of_correction);
            }
            for number in first..whole.min(first + TOGETHER) {
                let at = number % TOGETHER;
                let of_correction = BlockBits([of_correction[0][at], of_correction[1][at]]);
                let mut random = [BlockBits([0; 2]); N];
                for (random, words) in random.iter_mut().zip(&words) {
                    *random = BlockBits([words[0][at], words[1][at]]);
                }
                if !blocks.step::<I, K, P>(isa, kernel, number, codes, random, of_correction) {
                    let mut block = [(); N].map(|()| Default::default());
                    for (block, state) in block.iter_mut().zip(&mut blocks.state) {
                        *block = &mut state[number..=number];
                    }
                    let (theta, grad) = (&mut blocks.theta[number][..], &blocks.grad[number][..]);
                    let (beside, noise) = (&mut blocks.beside, noise.skip(number * BLOCK));
                    by_reference(kernel, theta, grad, beside, number, block, codes, noise);
                }
            }
        }
        if !last_theta.is_empty() {
            let (beside, noise) = (&mut blocks.beside, noise.skip(whole * BLOCK));
            let (theta, grad) = (last_theta, last_grad);
            by_reference(kernel, theta, grad, beside, whole, last_state, codes, noise);
        }
    }
}

/// The whole blocks of a step.
struct Blocks<'a, T, G, const N: usize> {
    theta: &'a mut [[T; BLOCK]],
    grad: &'a [[G; BLOCK]],
    beside: Beside<'a>,
    state: [&'a mut [Block8]; N],
}

impl<T, G, const N: usize> Blocks<'_, T, G, N>
where
    T: Element,
    G: Element<Float = T::Float>,
{
    /// Steps block `number`. Returns false if it needs the reference, and then changes nothing.
    /// `codes` is not a field, so that the compiler computes what depends on it before the loop.
    #[inline(always)]
    fn step<I, K, const P: usize>(
        &mut self,
        isa: I,
        kernel: &K,
        number: usize,
        codes: [Code; N],
        random: [BlockBits; N],
        of_correction: BlockBits,
    ) -> bool
    where
        I: Isa,
        K: Kernel<T::Float, N>,
    {
        let Blocks { theta, grad, beside, state } = self;
        I::prefetch(theta, number + AHEAD, 1);
        I::prefetch(grad, number + AHEAD, 1);
        for state in &*state {
            I::prefetch(state, number + AHEAD, 1);
        }
        let lanes = const { BLOCK / P };
        let zero = I::F32::load(isa, &[0.0; BLOCK]);
        let mut states = [[zero; P]; N];
        each_state!(N, i => {
            states[i] = codec::decode(isa, &state[i][number], codes[i]);
        });
        let grad = load::<I, G, P>(isa, &grad[number]);
        let mut theta_now = load_theta::<I, T, P>(isa, &theta[number], beside, number);
        for part in 0..P {
            let mut old = [grad[part]; N];
            for i in 0..N {
                old[i] = T::Float::from_singles::<I>(states[i][part]);
            }
            let (new_theta, new) = kernel.update(theta_now[part], grad[part], old);
            theta_now[part] = new_theta;
            for i in 0..N {
                states[i][part] = T::Float::to_singles::<I>(new[i]);
            }
        }
        let mut scales = [0; N];
        for i in 0..N {
            match codec::scale(&states[i], codes[i]) {
                Some(scale) => scales[i] = scale,
                None => return false,
            }
        }
        let theta = &mut theta[number];
        store_theta::<I, T, P>(isa, &theta_now, theta, beside, number, of_correction);
        let mut words = codec::nearest::<I::F32, P>(isa);
        each_state!(N, i => {
            if i % 2 == 0 {
                for (part, words) in words.iter_mut().enumerate() {
                    *words = random[i / 2].words::<I::F32>(isa, part * lanes);
                }
            }
            let mut bits = codec::nearest::<I::F32, P>(isa);
            if !codes[i].nearest {
                for part in 0..P {
                    bits[part] = BlockBits::of_state(words[part], i);
                }
            }
            codec::encode(&states[i], codes[i], scales[i], &bits, &mut state[i][number]);
        });
        true
    }
}

/// The prefetch distance, in blocks.
const AHEAD: usize = 8;

/// Draws the two random words of the blocks from number `first` on.
#[inline(always)]
fn draw<I: Isa, const P: usize>(
    isa: I,
    noise: Noise,
    first: usize,
    group: usize,
    to: &mut [[u32; TOGETHER]; 2],
) {
    let lanes = const { BLOCK / P };
    for at in (0..TOGETHER).step_by(lanes) {
        let both = BlockBits::draw::<I::F32>(isa, noise, (first + at) * BLOCK, group);
        for (word, to) in both.into_iter().zip(&mut *to) {
            I::F32::from_bits(word).store(bytemuck::cast_slice_mut(&mut to[at..at + lanes]));
        }
    }
}

/// Loads a block.
#[inline(always)]
fn load<I, E, const P: usize>(isa: I, block: &[E; BLOCK]) -> [RegisterOf<E, I>; P]
where
    I: Isa,
    E: Element,
{
    let mut all = [E::load(isa, block); P];
    for part in 1..P {
        all[part] = E::load(isa, &block[part * BLOCK / P..]);
    }
    all
}

/// Stores a block.
#[inline(always)]
fn store<I, E, const P: usize>(from: &[RegisterOf<E, I>; P], block: &mut [E; BLOCK])
where
    I: Isa,
    E: Element,
{
    for part in 0..P {
        E::store::<I>(from[part], &mut block[part * BLOCK / P..]);
    }
}

/// Loads block `number` of θ, with its correction.
#[inline(always)]
fn load_theta<I, T, const P: usize>(
    isa: I,
    theta: &[T; BLOCK],
    beside: &Beside<'_>,
    number: usize,
) -> [RegisterOf<T, I>; P]
where
    I: Isa,
    T: Element,
{
    let mut all = load(isa, theta);
    if const { size_of::<T>() == 2 }
        && let Beside::Correction(low) = beside
    {
        let theta = bytemuck::cast_slice(theta);
        let at = number * BLOCK;
        match low {
            Correction::Bits16(low) => {
                I::prefetch(low, at + AHEAD * BLOCK, BLOCK);
                let low = &low[at..at + BLOCK];
                for (part, to) in all.iter_mut().enumerate() {
                    let at = part * BLOCK / P;
                    let both = split::load16::<I::F32>(isa, &theta[at..], &low[at..]);
                    *to = T::Float::from_singles::<I>(both);
                }
            }
            Correction::Bits8(low) => {
                I::prefetch(low, at + AHEAD * BLOCK, BLOCK);
                let low = &low[at..at + BLOCK];
                for (part, to) in all.iter_mut().enumerate() {
                    let at = part * BLOCK / P;
                    let both = split::load8::<I::F32>(isa, &theta[at..], &low[at..]);
                    *to = T::Float::from_singles::<I>(both);
                }
            }
        }
    }
    all
}

/// Stores block `number` of θ, and its correction. `random` has the bits of one of 8 bits.
#[inline(always)]
fn store_theta<I, T, const P: usize>(
    isa: I,
    new: &[RegisterOf<T, I>; P],
    theta: &mut [T; BLOCK],
    beside: &mut Beside<'_>,
    number: usize,
    random: BlockBits,
) where
    I: Isa,
    T: Element,
{
    let at = number * BLOCK;
    if const { size_of::<T>() == 2 }
        && let Beside::Correction(low) = beside
    {
        let theta = bytemuck::cast_slice_mut(theta);
        match low {
            Correction::Bits16(low) => {
                let low = &mut low[at..at + BLOCK];
                for part in 0..P {
                    let at = part * BLOCK / P;
                    let new = T::Float::to_singles::<I>(new[part]);
                    split::store16(new, &mut theta[at..], &mut low[at..]);
                }
            }
            Correction::Bits8(low) => {
                let low = &mut low[at..at + BLOCK];
                for part in 0..P {
                    let at = part * BLOCK / P;
                    let new = T::Float::to_singles::<I>(new[part]);
                    let random = random.words::<I::F32>(isa, at).shr(24);
                    split::store8(new, random, &mut theta[at..], &mut low[at..]);
                }
            }
        }
    } else {
        store::<I, T, P>(new, theta);
    }
}

/// Steps block `number` by the reference.
#[cold]
#[inline(never)]
#[expect(clippy::too_many_arguments, reason = "a block of each buffer")]
fn by_reference<T, G, K, const N: usize>(
    kernel: &K,
    theta: &mut [T],
    grad: &[G],
    beside: &mut Beside<'_>,
    number: usize,
    block: [&mut [Block8]; N],
    codes: [Code; N],
    noise: Noise,
) where
    T: Element,
    G: Element<Float = T::Float>,
    K: Kernel<T::Float, N>,
{
    let (start, len) = (number * BLOCK, theta.len());
    let mut codes = codes.into_iter();
    let state = block.map(|block| {
        let code = codes.next().unwrap_or_default();
        ColumnMut::Block8(BlocksMut::new(block, len, code))
    });
    let (theta, grad) = (T::column_mut(theta), G::column(grad));
    let beside = beside.reborrow().split_at(start + len).0.split_at(start).1;
    let noise = Some(noise);
    reference::step(kernel, Rows { theta, grad, state, beside, noise });
}
