//! Steps on 16-bit columns: a tile at a time, each column is widened to `f32` on the stack, the
//! tile is stepped like any buffers, and what has changed is narrowed back.
//!
//! A tile stays in the first cache, so this is still one pass over memory. Columns of `f32` are
//! stepped where they lie. The conversions do not depend on the rule: they are compiled once for
//! each instruction set, in this crate, and a rule costs its caller no more code for all the
//! combinations of types than for `f32` alone.

use core::ops::Range;

use super::columns::{Buffers, Column, ColumnMut, Mixed, Table};
use super::{Engine, MixedRegister};
use crate::Kernel;
use crate::elements::rounding::Noise;
use crate::elements::words::Words;
use crate::elements::{bf16, f16};

/// Elements in a tile.
pub(crate) const TILE: usize = 512;

/// A column of a tile, as `f32`.
#[repr(align(64))]
pub(crate) struct Scratch([f32; TILE]);

impl Scratch {
    pub(crate) const ZERO: Self = Scratch([0.0; TILE]);
}

/// Steps all of `mixed` on this thread.
pub(crate) fn sweep<K: Kernel<f32, N>, const N: usize>(
    engine: Engine,
    kernel: &K,
    mixed: Mixed<'_, N>,
) {
    let len = mixed.len();
    let Mixed { mut theta, grad, mut state, mut copy, noise } = mixed;
    let (mut for_theta, mut for_grad) = (Scratch::ZERO, Scratch::ZERO);
    let mut for_state = [Scratch::ZERO; N];
    let mut random = [[0; TILE]; 2];
    for start in (0..len).step_by(TILE) {
        let rows = start..len.min(start + TILE);
        let next = rows.end..len.min(rows.end + TILE);
        fetch(theta.read(), next.clone());
        fetch(grad, next.clone());
        for column in &state {
            fetch(column.read(), next.clone());
        }

        let mut staged: [&mut [f32]; N] = [(); N].map(|()| Default::default());
        for ((staged, column), scratch) in staged.iter_mut().zip(&mut state).zip(&mut for_state) {
            *staged = stage_mut(engine, column, rows.clone(), scratch);
        }
        let buffers = Buffers {
            theta: stage_mut(engine, &mut theta, rows.clone(), &mut for_theta),
            grad: stage(engine, grad, rows.clone(), &mut for_grad),
            state: staged,
            copy: None,
        };
        engine.sweep(kernel, buffers);

        if let Some(noise) = noise {
            let [first, second] = random.each_mut().map(|words| &mut words[..rows.len()]);
            engine.convert(Randomize { noise, start, group: 0, first, second });
        }
        if let Some(copy) = &mut copy {
            let new = match &theta {
                ColumnMut::F32(column) => &column[rows.clone()],
                ColumnMut::Bf16(_) | ColumnMut::F16(_) => &for_theta.0[..rows.len()],
            };
            narrow(engine, new, copy, rows.clone(), None);
        }
        let columns = core::iter::once(&mut theta).chain(&mut state);
        let scratches = core::iter::once(&for_theta).chain(&for_state);
        for (buffer, (column, scratch)) in columns.zip(scratches).enumerate() {
            if let (Some(noise), 4.., 0) = (noise, buffer, buffer % 4) {
                let [first, second] = random.each_mut().map(|words| &mut words[..rows.len()]);
                engine.convert(Randomize { noise, start, group: buffer / 4, first, second });
            }
            let bits = RandomBits {
                words: &random[buffer % 4 / 2][..rows.len()],
                upper: !buffer.is_multiple_of(2),
            };
            let bits = noise.map(|_| bits);
            narrow(engine, &scratch.0[..rows.len()], column, rows.clone(), bits);
        }
    }
}

/// The rows of a column as `f32`: where they lie, or widened to `scratch`.
pub(crate) fn stage<'a>(
    engine: Engine,
    column: Column<'a>,
    rows: Range<usize>,
    scratch: &'a mut Scratch,
) -> &'a [f32] {
    let to = &mut scratch.0[..rows.len()];
    match column {
        Column::F32(column) => return &column[rows],
        Column::Bf16(column) => {
            let from = bytemuck::cast_slice(&column[rows]);
            engine.convert(Widen { format: Format::Bf16, from, to });
        }
        Column::F16(column) => {
            let from = bytemuck::cast_slice(&column[rows]);
            engine.convert(Widen { format: Format::F16, from, to });
        }
    }
    to
}

/// The same, to be written.
fn stage_mut<'a>(
    engine: Engine,
    column: &'a mut ColumnMut<'_>,
    rows: Range<usize>,
    scratch: &'a mut Scratch,
) -> &'a mut [f32] {
    match column {
        ColumnMut::F32(column) => &mut column[rows],
        ColumnMut::Bf16(_) | ColumnMut::F16(_) => {
            let len = rows.len();
            stage(engine, column.read(), rows, scratch);
            &mut scratch.0[..len]
        }
    }
}

/// Stores `from` in the rows of a column, unless that is `f32`, which was stepped where it lies.
fn narrow(
    engine: Engine,
    from: &[f32],
    column: &mut ColumnMut<'_>,
    rows: Range<usize>,
    random: Option<RandomBits<'_>>,
) {
    match column {
        ColumnMut::F32(_) => {}
        ColumnMut::Bf16(column) => {
            let to = bytemuck::cast_slice_mut(&mut column[rows]);
            engine.convert(Narrow { format: Format::Bf16, from, to, random });
        }
        ColumnMut::F16(column) => {
            let to = bytemuck::cast_slice_mut(&mut column[rows]);
            engine.convert(Narrow { format: Format::F16, from, to, random });
        }
    }
}

/// Asks for rows that will be needed next.
fn fetch(column: Column<'_>, rows: Range<usize>) {
    match column {
        Column::F32(column) => fetch_lines(&column[rows]),
        Column::Bf16(column) => fetch_lines(&column[rows]),
        Column::F16(column) => fetch_lines(&column[rows]),
    }
}

pub(crate) fn fetch_lines<E>(elements: &[E]) {
    #[cfg(target_arch = "x86_64")]
    for line in elements.chunks(64 / size_of::<E>()) {
        safe_arch::prefetch_t0(&line[0]);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = elements;
}

/// What sixteen bits mean.
#[derive(Clone, Copy)]
pub(crate) enum Format {
    Bf16,
    F16,
}

/// Sixteen random bits for each of some elements.
#[derive(Clone, Copy)]
pub(crate) struct RandomBits<'a> {
    words: &'a [u32],
    /// They are the upper halves of the words, not the lower ones.
    upper: bool,
}

/// Work on many elements that any register can do.
pub(crate) trait Conversion {
    /// Does as many whole registers of it as there are, and returns the rest.
    fn run<L: MixedRegister>(self, token: L::Token) -> Self;
}

/// From 16 bits to `f32`. Both slices are equally long.
pub(crate) struct Widen<'a> {
    format: Format,
    from: &'a [u16],
    to: &'a mut [f32],
}

impl Conversion for Widen<'_> {
    #[inline(always)]
    fn run<L: MixedRegister>(self, token: L::Token) -> Self {
        let Widen { format, from, to } = self;
        let whole = to.len() - to.len() % L::LEN;
        let ((from, from_rest), (to, to_rest)) = (from.split_at(whole), to.split_at_mut(whole));
        let both = from.chunks_exact(L::LEN).zip(to.chunks_exact_mut(L::LEN));
        match format {
            Format::Bf16 => {
                for (from, to) in both {
                    bf16::decode::<L>(L::load_upper(token, from)).store(to);
                }
            }
            Format::F16 => {
                for (from, to) in both {
                    f16::decode::<L>(L::load_halves(token, from)).store(to);
                }
            }
        }
        Widen { format, from: from_rest, to: to_rest }
    }
}

/// From `f32` to 16 bits, to the nearest or at random. All slices are equally long.
pub(crate) struct Narrow<'a> {
    format: Format,
    from: &'a [f32],
    to: &'a mut [u16],
    random: Option<RandomBits<'a>>,
}

impl Conversion for Narrow<'_> {
    #[inline(always)]
    fn run<L: MixedRegister>(self, token: L::Token) -> Self {
        let Narrow { format, from, to, random } = self;
        let whole = to.len() - to.len() % L::LEN;
        let ((from, from_rest), (to, to_rest)) = (from.split_at(whole), to.split_at_mut(whole));
        let both = from.chunks_exact(L::LEN).zip(to.chunks_exact_mut(L::LEN));
        match (format, random) {
            (Format::Bf16, None) => {
                for (from, to) in both {
                    L::store_upper(bf16::nearest(L::load(token, from)), to);
                }
            }
            (Format::F16, None) => {
                for (from, to) in both {
                    L::store_halves(f16::nearest(L::load(token, from)), to);
                }
            }
            (Format::Bf16, Some(random)) => {
                for ((from, to), words) in both.zip(random.words.chunks_exact(L::LEN)) {
                    let noise = random.lanes::<L>(token, words);
                    L::store_upper(bf16::stochastic(L::load(token, from), noise), to);
                }
            }
            (Format::F16, Some(random)) => {
                for ((from, to), words) in both.zip(random.words.chunks_exact(L::LEN)) {
                    let noise = random.lanes::<L>(token, words);
                    L::store_halves(f16::stochastic(L::load(token, from), noise), to);
                }
            }
        }
        let random = random.map(|bits| RandomBits { words: &bits.words[whole..], ..bits });
        Narrow { format, from: from_rest, to: to_rest, random }
    }
}

impl RandomBits<'_> {
    /// Those in `words`, in the lower halves; above them is anything.
    #[inline(always)]
    fn lanes<L: MixedRegister>(self, token: L::Token, words: &[u32]) -> L::Words {
        let words = L::load(token, bytemuck::cast_slice(words)).to_words();
        if self.upper { words.right(16) } else { words }
    }
}

/// Draws the two random words of each element from `start` on. Both slices are equally long.
pub(crate) struct Randomize<'a> {
    noise: Noise,
    start: usize,
    group: usize,
    first: &'a mut [u32],
    second: &'a mut [u32],
}

impl Conversion for Randomize<'_> {
    #[inline(always)]
    fn run<L: MixedRegister>(self, token: L::Token) -> Self {
        let Randomize { noise, start, group, first, second } = self;
        let whole = first.len() - first.len() % L::LEN;
        let (first, first_rest) = first.split_at_mut(whole);
        let (second, second_rest) = second.split_at_mut(whole);
        let both = first.chunks_exact_mut(L::LEN).zip(second.chunks_exact_mut(L::LEN));
        for (at, (first, second)) in (start..).step_by(L::LEN).zip(both) {
            let [a, b] = noise.words(L::iota(token), at, group);
            L::from_words(a).store(bytemuck::cast_slice_mut(first));
            L::from_words(b).store(bytemuck::cast_slice_mut(second));
        }
        Randomize { noise, start: start + whole, group, first: first_rest, second: second_rest }
    }
}
