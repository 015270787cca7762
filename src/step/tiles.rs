//! Steps on rows of any element types, one tile at a time. Each 16-bit column of the tile is
//! widened to `f32` on the stack, the tile is stepped like any buffers, and the columns that
//! changed are narrowed back.
//!
//! A tile stays in the L1 cache, so this is still one pass over memory. Columns that are stored in
//! the compute type are stepped in place. The conversions do not depend on the rule. They are
//! compiled once for each instruction set, in this crate, so all combinations of types add no more
//! code to the caller than `f32` alone. States in 8 bits are not widened to the stack: the loop of
//! [`blocks`](super::blocks) steps the tile.

use core::ops::Range;

use super::blocks;
use super::vector::{self, Buffers};
use crate::elements::block8::{BLOCK, Blocks};
use crate::elements::column::{Column, ColumnMut};
use crate::elements::convert::{self, RandomBits};
use crate::elements::rows::{Beside, Rows};
use crate::elements::{Element, StateElement};
use crate::rules::Kernel;
use crate::simd::Float;
use crate::simd::dispatch::Engine;
use crate::simd::native::prefetch_lines;

/// The number of elements in a tile. It is whole blocks of 8-bit states.
const TILE: usize = 512;

/// A column of a tile in the compute type.
#[repr(align(64))]
struct Scratch<F>([F; TILE]);

impl<F: Float> Scratch<F> {
    fn new() -> Self {
        Scratch([F::zeroed(); TILE])
    }

    /// The first `len` elements as `f32`, the compute type of 16-bit columns.
    fn singles(&mut self, len: usize) -> &mut [f32] {
        &mut bytemuck::cast_slice_mut(&mut self.0)[..len]
    }
}

/// Steps all rows on this thread. `F` is the compute type of all columns. `BLOCKS` says that the
/// states are in 8 bits, so that the loop for them is only compiled where it is used.
#[inline(never)]
pub(super) fn step<F, K, const BLOCKS: bool, const N: usize>(
    engine: Engine,
    kernel: &K,
    rows: Rows<'_, N>,
) where
    F: Float + Element<Float = F>,
    K: Kernel<F, N>,
{
    let len = rows.len();
    let Rows { mut theta, grad, mut state, mut beside, noise } = rows;
    let (mut for_theta, mut for_grad) = (Scratch::<F>::new(), Scratch::<F>::new());
    let mut for_state = [(); N].map(|()| Scratch::<F>::new());
    let mut random = [[0; TILE]; 2];
    // The random bits of each element take longer than a step. Draw them only if they are used.
    let is_half = |column: &ColumnMut<'_>| column.dtype().bytes() == 2;
    let of_theta = is_half(&theta) && !matches!(beside, Beside::Correction(_));
    let are_used = of_theta || state.iter().any(is_half);
    let halves = noise.filter(|noise| noise.halves && are_used);
    let of_correction = noise.filter(|_| beside.is_stochastic());
    let mut of_elements = [0; TILE];
    for start in (0..len).step_by(TILE) {
        let rows = start..len.min(start + TILE);
        let next = rows.end..len.min(rows.end + TILE);
        prefetch(theta.as_ref(), next.clone());
        prefetch(grad, next.clone());
        for column in &state {
            prefetch(column.as_ref(), next.clone());
        }

        let mut beside = beside.reborrow().split_at(rows.end).0.split_at(rows.start).1;
        let thetas = match (&beside, &theta) {
            (Beside::Correction(low), ColumnMut::Bf16(theta)) => {
                let theta = bytemuck::cast_slice(&theta[rows.clone()]);
                convert::join(engine, theta, low, for_theta.singles(rows.len()));
                &mut for_theta.0[..rows.len()]
            }
            _ => stage_mut(engine, &mut theta, rows.clone(), &mut for_theta),
        };
        let grads = stage(engine, grad, rows.clone(), &mut for_grad);
        if BLOCKS {
            let state = state
                .each_mut()
                .map(|column| column.reborrow().split_at(rows.end).0.split_at(rows.start).1);
            let noise = noise.map(|noise| noise.skip(start));
            let (theta, grad) = (F::column_mut(thetas), F::column(grads));
            let beside = Beside::Nothing;
            let rows = Rows { theta, grad, state, beside, noise };
            blocks::step::<F, F, K, N>(engine, kernel, rows);
        } else {
            let mut staged: [&mut [F]; N] = [(); N].map(|()| Default::default());
            let columns = state.iter_mut().zip(&mut for_state);
            for (staged, (column, scratch)) in staged.iter_mut().zip(columns) {
                *staged = stage_mut(engine, column, rows.clone(), scratch);
            }
            let buffers = Buffers { theta: thetas, grad: grads, state: staged, copy: None };
            vector::step(engine, kernel, buffers);
        }

        if let Some(noise) = halves {
            let words = random.each_mut().map(|words| &mut words[..rows.len()]);
            convert::draw(engine, noise, start, 0, words);
        }
        if let Beside::Copy(copy) = &mut beside {
            let new = match f32::of(theta.as_ref()) {
                Some(theta) => &theta[rows.clone()],
                None => for_theta.singles(rows.len()),
            };
            convert::narrow(engine, new, copy.reborrow(), None, false);
        }
        let columns = core::iter::once(&mut theta).chain(&mut state);
        let scratches = core::iter::once(&mut for_theta).chain(&mut for_state);
        for (buffer, (column, scratch)) in columns.zip(scratches).enumerate() {
            if let (Some(noise), 4.., 0) = (halves, buffer, buffer % 4) {
                let words = random.each_mut().map(|words| &mut words[..rows.len()]);
                convert::draw(engine, noise, start, buffer / 4, words);
            }
            let words = &random[buffer % 4 / 2][..rows.len()];
            let bits = RandomBits { words, upper: !buffer.is_multiple_of(2) };
            if let (0, Beside::Correction(low), ColumnMut::Bf16(theta)) =
                (buffer, &mut beside, &mut *column)
            {
                let theta = bytemuck::cast_slice_mut(&mut theta[rows.clone()]);
                let new = scratch.singles(rows.len());
                let words = of_correction.map(|noise| {
                    convert::draw_by_blocks(engine, noise, start, &mut of_elements[..rows.len()]);
                    &of_elements[..rows.len()]
                });
                convert::split(engine, new, theta, low.reborrow(), words);
                continue;
            }
            let bits = halves.map(|_| bits);
            if column.dtype().bytes() == 2 {
                // θ is buffer 0, and the states follow.
                let new = scratch.singles(rows.len());
                narrow(engine, new, column, rows.clone(), bits, buffer > 0);
            }
        }
    }
}

/// The rows of a column: in place, or widened to `scratch`.
fn stage<'a, F: Float + Element<Float = F>>(
    engine: Engine,
    column: Column<'a>,
    rows: Range<usize>,
    scratch: &'a mut Scratch<F>,
) -> &'a [F] {
    if let Some(column) = F::of(column) {
        return &column[rows];
    }
    let len = rows.len();
    let column = column.split_at(rows.end).0.split_at(rows.start).1;
    convert::widen(engine, column, scratch.singles(len));
    &scratch.0[..len]
}

/// The same, mutable.
fn stage_mut<'a, F: Float + Element<Float = F>>(
    engine: Engine,
    column: &'a mut ColumnMut<'_>,
    rows: Range<usize>,
    scratch: &'a mut Scratch<F>,
) -> &'a mut [F] {
    if column.dtype() == F::DTYPE {
        return &mut F::of_mut(column.reborrow()).expect("the type was compared")[rows];
    }
    let len = rows.len();
    stage(engine, column.as_ref(), rows, scratch);
    &mut scratch.0[..len]
}

/// Stores `from` in the rows of a 16-bit column: see [`convert::narrow`].
fn narrow(
    engine: Engine,
    from: &[f32],
    column: &mut ColumnMut<'_>,
    rows: Range<usize>,
    random: Option<RandomBits<'_>>,
    saturate: bool,
) {
    let column = column.reborrow().split_at(rows.end).0.split_at(rows.start).1;
    convert::narrow(engine, from, column, random, saturate);
}

/// Prefetches the rows of the next tile.
fn prefetch(column: Column<'_>, rows: Range<usize>) {
    match column {
        Column::F32(slice) => prefetch_lines(&slice[rows]),
        Column::F64(slice) => prefetch_lines(&slice[rows]),
        Column::Bf16(slice) => prefetch_lines(&slice[rows]),
        Column::F16(slice) => prefetch_lines(&slice[rows]),
        Column::Block8(Blocks { blocks, .. }) => {
            let blocks = &blocks[rows.start / BLOCK..rows.end.div_ceil(BLOCK)];
            prefetch_lines(bytemuck::cast_slice::<_, u8>(blocks));
        }
    }
}
