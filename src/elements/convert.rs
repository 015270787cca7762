//! Conversions of slices between `f32` and 16 bits, and random bits for them.
//!
//! They do not depend on the rule: they are compiled once for each instruction set.

use half::{bf16, f16};

use super::column::{Column, ColumnMut};
use super::rounding::Noise;
use super::{bf16 as bf16_bits, f16 as f16_bits};
use crate::simd::dispatch::{Engine, WithSimd};
use crate::simd::native::{NativeSimd, Unrolled};
use crate::simd::one::OneLane;
use crate::simd::portable::Portable;
use crate::simd::{F32Register, Isa, Register, U32Lanes};

/// Stores `from`, which is 16 bits wide, in `to`. Both are equally long.
pub(crate) fn widen(engine: Engine, from: Column<'_>, to: &mut [f32]) {
    match from {
        Column::Bf16(from) => convert(engine, Conversion::FromBf16 { from, to }),
        Column::F16(from) => convert(engine, Conversion::FromF16 { from, to }),
        Column::F32(_) | Column::F64(_) => debug_assert!(false, "it is computed with as it is"),
    }
}

/// Stores `from` in `to`, which is 16 bits wide: to nearest, or by random bits. Both are equally
/// long.
pub(crate) fn narrow(
    engine: Engine,
    from: &[f32],
    to: ColumnMut<'_>,
    random: Option<RandomBits<'_>>,
) {
    match to {
        ColumnMut::Bf16(to) => convert(engine, Conversion::ToBf16 { from, to, random }),
        ColumnMut::F16(to) => convert(engine, Conversion::ToF16 { from, to, random }),
        ColumnMut::F32(_) | ColumnMut::F64(_) => debug_assert!(false, "it is stored as it is"),
    }
}

/// Draws the two random words of each element of a group of four buffers, from element `start` of
/// the range on. Both slices are equally long.
pub(crate) fn draw(
    engine: Engine,
    noise: Noise,
    start: usize,
    group: usize,
    [first, second]: [&mut [u32]; 2],
) {
    convert(engine, Conversion::Draw { noise, start, group, first, second });
}

/// Sixteen random bits for each of some elements.
#[derive(Clone, Copy)]
pub(crate) struct RandomBits<'a> {
    pub words: &'a [u32],
    /// They are the upper halves of the words, not the lower ones.
    pub upper: bool,
}

impl RandomBits<'_> {
    /// Those in `words`, in the lower halves; above them is anything.
    #[inline(always)]
    fn lanes<I: Isa>(self, isa: I, words: &[u32]) -> <I::F32 as F32Register>::Bits {
        let words = I::F32::load(isa, bytemuck::cast_slice(words)).to_bits();
        if self.upper { words.right(16) } else { words }
    }
}

/// What is done to many elements by any register.
enum Conversion<'a> {
    FromBf16 { from: &'a [bf16], to: &'a mut [f32] },
    FromF16 { from: &'a [f16], to: &'a mut [f32] },
    ToBf16 { from: &'a [f32], to: &'a mut [bf16], random: Option<RandomBits<'a>> },
    ToF16 { from: &'a [f32], to: &'a mut [f16], random: Option<RandomBits<'a>> },
    Draw { noise: Noise, start: usize, group: usize, first: &'a mut [u32], second: &'a mut [u32] },
}

/// Whole registers, then the rest one by one.
fn convert(engine: Engine, conversion: Conversion<'_>) {
    let rest = match engine.vectorize(conversion) {
        Ok(rest) => rest,
        Err(conversion) => match engine {
            Engine::Scalar => conversion,
            _ => conversion.whole_registers(Portable),
        },
    };
    rest.whole_registers(OneLane);
}

impl<'a> WithSimd for Conversion<'a> {
    type Output = Conversion<'a>;

    #[inline(always)]
    fn with<P: NativeSimd>(self, simd: P) -> Self {
        self.whole_registers(Unrolled::<P, 2>(simd))
    }
}

impl Conversion<'_> {
    /// Converts as many whole registers as there are, and returns the rest.
    #[inline(always)]
    fn whole_registers<I: Isa>(self, isa: I) -> Self {
        let lanes = const { <I::F32 as Register>::LANES };
        match self {
            Conversion::FromBf16 { from, to } => {
                let (from, from_rest) = split(from, lanes);
                let (to, to_rest) = split_mut(to, lanes);
                for (from, to) in from.chunks_exact(lanes).zip(to.chunks_exact_mut(lanes)) {
                    let bits = I::F32::load_upper(isa, bytemuck::cast_slice(from));
                    bf16_bits::decode::<I::F32>(bits).store(to);
                }
                Conversion::FromBf16 { from: from_rest, to: to_rest }
            }
            Conversion::FromF16 { from, to } => {
                let (from, from_rest) = split(from, lanes);
                let (to, to_rest) = split_mut(to, lanes);
                for (from, to) in from.chunks_exact(lanes).zip(to.chunks_exact_mut(lanes)) {
                    let bits = I::F32::load_lower(isa, bytemuck::cast_slice(from));
                    f16_bits::decode::<I::F32>(bits).store(to);
                }
                Conversion::FromF16 { from: from_rest, to: to_rest }
            }
            Conversion::ToBf16 { from, to, random } => {
                let (from, from_rest) = split(from, lanes);
                let (to, to_rest) = split_mut(to, lanes);
                let all = bytemuck::cast_slice_mut(to).chunks_exact_mut(lanes);
                let both = from.chunks_exact(lanes).zip(all);
                if let Some(bits) = random {
                    for ((from, to), words) in both.zip(bits.words.chunks_exact(lanes)) {
                        let noise = bits.lanes(isa, words);
                        let rounded = bf16_bits::stochastic(I::F32::load(isa, from), noise);
                        I::F32::store_upper(rounded, to);
                    }
                } else {
                    for (from, to) in both {
                        I::F32::store_upper(bf16_bits::nearest(I::F32::load(isa, from)), to);
                    }
                }
                let random = random.map(|bits| bits.skip(from.len()));
                Conversion::ToBf16 { from: from_rest, to: to_rest, random }
            }
            Conversion::ToF16 { from, to, random } => {
                let (from, from_rest) = split(from, lanes);
                let (to, to_rest) = split_mut(to, lanes);
                let all = bytemuck::cast_slice_mut(to).chunks_exact_mut(lanes);
                let both = from.chunks_exact(lanes).zip(all);
                if let Some(bits) = random {
                    for ((from, to), words) in both.zip(bits.words.chunks_exact(lanes)) {
                        let noise = bits.lanes(isa, words);
                        let rounded = f16_bits::stochastic(I::F32::load(isa, from), noise);
                        I::F32::store_lower(rounded, to);
                    }
                } else {
                    for (from, to) in both {
                        I::F32::store_lower(f16_bits::nearest(I::F32::load(isa, from)), to);
                    }
                }
                let random = random.map(|bits| bits.skip(from.len()));
                Conversion::ToF16 { from: from_rest, to: to_rest, random }
            }
            Conversion::Draw { noise, start, group, first, second } => {
                let (first, first_rest) = split_mut(first, lanes);
                let (second, second_rest) = split_mut(second, lanes);
                let whole = first.len();
                let both = first.chunks_exact_mut(lanes).zip(second.chunks_exact_mut(lanes));
                for (at, (first, second)) in (start..).step_by(lanes).zip(both) {
                    let [a, b] = noise.words(I::F32::iota(isa), at, group);
                    I::F32::from_bits(a).store(bytemuck::cast_slice_mut(first));
                    I::F32::from_bits(b).store(bytemuck::cast_slice_mut(second));
                }
                let start = start + whole;
                Conversion::Draw { noise, start, group, first: first_rest, second: second_rest }
            }
        }
    }
}

impl<'a> RandomBits<'a> {
    /// Those of all elements but the first `len`.
    #[inline(always)]
    fn skip(self, len: usize) -> Self {
        RandomBits { words: &self.words[len..], ..self }
    }
}

/// As many elements as whole registers of `lanes` lanes take, and the rest.
#[inline(always)]
fn split<T>(slice: &[T], lanes: usize) -> (&[T], &[T]) {
    slice.split_at(slice.len() - slice.len() % lanes)
}

#[inline(always)]
fn split_mut<T>(slice: &mut [T], lanes: usize) -> (&mut [T], &mut [T]) {
    slice.split_at_mut(slice.len() - slice.len() % lanes)
}
