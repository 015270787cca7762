//! The loop for states in 8 bits: decodes, steps and encodes one block of 32 elements after the
//! other.
//!
//! ```text
//! for each block of θ, g and the states:
//!     decode the states
//!     load g, the states and θ; (θ, states) = kernel.update(θ, g, states)
//!     find the scale of each new state
//!     if there is none, because it is not finite or too large, step this block by the reference
//!     store θ, and encode the states with the random bits of the block
//! ```
//!
//! θ and g are in the compute type. [`tiles`](super::tiles) converts other types to it, and calls
//! this for one tile after the other. On a native backend a block is one (unrolled) register.
//! A last block that is not whole is left to the reference too.

use crate::elements::Element;
use crate::elements::block8::{BLOCK, Block8, BlocksMut, Code};
use crate::elements::codec;
use crate::elements::column::ColumnMut;
use crate::elements::rounding::{BlockBits, Noise, TOGETHER, group_of_states};
use crate::elements::rows::{Beside, Rows};
use crate::rules::{Kernel, reference};
use crate::simd::dispatch::{Engine, WithSimd};
use crate::simd::native::NativeSimd;
use crate::simd::portable::Portable;
use crate::simd::{F32Register, Float, Isa, Register};

/// The buffers of a step. θ begins with a block.
pub(super) struct Buffers<'a, F, const N: usize> {
    pub theta: &'a mut [F],
    pub grad: &'a [F],
    pub state: [&'a mut [Block8]; N],
    pub codes: [Code; N],
    /// The random bits of the first element.
    pub noise: Noise,
}

impl<'a, F, const N: usize> Buffers<'a, F, N> {
    /// The buffers of rows whose states are blocks.
    pub fn new(
        theta: &'a mut [F],
        grad: &'a [F],
        state: [ColumnMut<'a>; N],
        noise: Option<Noise>,
    ) -> Self {
        let noise = noise.expect("8-bit states have random bits");
        let mut codes = [Code::default(); N];
        let mut codes_of = codes.iter_mut();
        let state = state.map(|state| match (state, codes_of.next()) {
            (ColumnMut::Block8(state), Some(code)) => {
                *code = state.code;
                state.blocks
            }
            _ => unreachable!("all states of a parameter have one type"),
        });
        Buffers { theta, grad, state, codes, noise }
    }
}

/// Steps all of `buffers` on this thread, with any engine but the scalar one.
pub(super) fn step<F, K, const N: usize>(engine: Engine, kernel: &K, buffers: Buffers<'_, F, N>)
where
    F: Float + Element<Float = F>,
    K: Kernel<F, N>,
{
    if let Err(step) = engine.vectorize(BlockStep { kernel, buffers }) {
        step.portable();
    }
}

struct BlockStep<'a, F, K, const N: usize> {
    kernel: &'a K,
    buffers: Buffers<'a, F, N>,
}

impl<F, K, const N: usize> WithSimd for BlockStep<'_, F, K, N>
where
    F: Float + Element<Float = F>,
    K: Kernel<F, N>,
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

impl<F, K, const N: usize> BlockStep<'_, F, K, N>
where
    F: Float + Element<Float = F>,
    K: Kernel<F, N>,
{
    #[inline(never)]
    fn portable(self) {
        self.blocks::<_, { BLOCK / 8 }>(Portable);
    }

    /// Steps all blocks. `P` registers have the lanes of a block.
    #[inline(always)]
    fn blocks<I: Isa, const P: usize>(self, isa: I) {
        const { assert!(<I::F32 as Register>::LANES * P == BLOCK) };
        let BlockStep { kernel, buffers } = self;
        let Buffers { theta, grad, mut state, codes, noise } = buffers;
        let (len, ahead) = (theta.len(), const { PREFETCHED / size_of::<F>() });
        let mut words = [[[0; TOGETHER]; 2]; N];
        for number in 0..len.div_ceil(BLOCK) {
            if number.is_multiple_of(TOGETHER) {
                draw::<I, P, N>(isa, noise, number, &mut words);
            }
            let start = number * BLOCK;
            I::prefetch(theta, start + ahead, BLOCK);
            I::prefetch(grad, start + ahead, BLOCK);
            let mut block = [(); N].map(|()| Default::default());
            for (block, state) in block.iter_mut().zip(&mut state) {
                I::prefetch(state, number + ahead / BLOCK, 1);
                *block = &mut state[number..=number];
            }
            let mut random = [BlockBits([0; 2]); N];
            for (random, [first, second]) in random.iter_mut().zip(&words) {
                *random = BlockBits([first[number % TOGETHER], second[number % TOGETHER]]);
            }
            let range = start..len.min(start + BLOCK);
            let (theta, grad) = (&mut theta[range.clone()], &grad[range.clone()]);
            let done = range.len() == BLOCK
                && one_block::<I, F, K, P, N>(isa, kernel, theta, grad, &mut block, codes, random);
            if !done {
                by_reference(kernel, theta, grad, block, codes, noise.skip(start));
            }
        }
    }
}

/// The prefetch distance, in bytes of θ.
const PREFETCHED: usize = 1 << 10;

/// Draws the random words of the blocks from number `first` on, for each pair of states.
#[inline(always)]
fn draw<I: Isa, const P: usize, const N: usize>(
    isa: I,
    noise: Noise,
    first: usize,
    words: &mut [[[u32; TOGETHER]; 2]; N],
) {
    let lanes = const { BLOCK / P };
    for (pair, words) in words.iter_mut().enumerate().take(N.div_ceil(2)) {
        for at in (0..TOGETHER).step_by(lanes) {
            let start = (first + at) * BLOCK;
            let both = BlockBits::draw::<I::F32>(isa, noise, start, group_of_states(pair));
            for (word, to) in both.into_iter().zip(&mut *words) {
                I::F32::from_bits(word).store(bytemuck::cast_slice_mut(&mut to[at..at + lanes]));
            }
        }
    }
}

/// Steps a whole block. Returns false if it needs the reference, and then changes nothing.
#[inline(always)]
fn one_block<I, F, K, const P: usize, const N: usize>(
    isa: I,
    kernel: &K,
    theta: &mut [F],
    grad: &[F],
    block: &mut [&mut [Block8]; N],
    codes: [Code; N],
    random: [BlockBits; N],
) -> bool
where
    I: Isa,
    F: Float + Element<Float = F>,
    K: Kernel<F, N>,
{
    let lanes = const { BLOCK / P };
    let zero = I::F32::load(isa, &[0.0; BLOCK]);
    let mut states = [[zero; P]; N];
    each_state!(N, i => {
        states[i] = codec::decode(isa, &block[i][0], codes[i]);
    });
    let mut new_theta = [F::load(isa, &grad[..lanes]); P];
    for part in 0..P {
        let at = part * lanes..(part + 1) * lanes;
        let old_grad = F::load(isa, &grad[at.clone()]);
        let mut old = [old_grad; N];
        for i in 0..N {
            old[i] = F::from_singles::<I>(states[i][part]);
        }
        let (theta, new) = kernel.update(F::load(isa, &theta[at]), old_grad, old);
        new_theta[part] = theta;
        for i in 0..N {
            states[i][part] = F::to_singles::<I>(new[i]);
        }
    }
    let mut scales = [0; N];
    for i in 0..N {
        match codec::scale(&states[i], codes[i]) {
            Some(scale) => scales[i] = scale,
            None => return false,
        }
    }
    for part in 0..P {
        F::store::<I>(new_theta[part], &mut theta[part * lanes..(part + 1) * lanes]);
    }
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
        codec::encode(&states[i], codes[i], scales[i], &bits, &mut block[i][0]);
    });
    true
}

/// Steps a block by the reference.
#[cold]
#[inline(never)]
fn by_reference<F, K, const N: usize>(
    kernel: &K,
    theta: &mut [F],
    grad: &[F],
    block: [&mut [Block8]; N],
    codes: [Code; N],
    noise: Noise,
) where
    F: Float + Element<Float = F>,
    K: Kernel<F, N>,
{
    let len = theta.len();
    let mut codes = codes.into_iter();
    let state = block.map(|block| {
        let code = codes.next().unwrap_or_default();
        ColumnMut::Block8(BlocksMut::new(block, len, code))
    });
    let (theta, grad) = (F::column_mut(theta), F::column(grad));
    let (beside, noise) = (Beside::Nothing, Some(noise));
    reference::step(kernel, Rows { theta, grad, state, beside, noise });
}
