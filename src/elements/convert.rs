//! Conversions of slices between `f32` and 16-bit types, and the random bits for them.
//!
//! They do not depend on the rule, so they are compiled once for each instruction set.

use super::block8::BLOCK;
use super::column::{Column, ColumnMut};
use super::rounding::{BlockBits, GROUP_OF_CORRECTION, Noise, TOGETHER};
use super::split::{self, Correction};
use super::{bf16, f16};
use crate::simd::dispatch::{Engine, WithSimd};
use crate::simd::native::{NativeSimd, Unrolled};
use crate::simd::one::OneLane;
use crate::simd::portable::Portable;
use crate::simd::{F32Register, Isa, Lanes, Register, U32Lanes};

/// Widens `from`, whose type has 16 bits, to `to`. Both have the same length.
pub(crate) fn widen(engine: Engine, from: Column<'_>, to: &mut [f32]) {
    let (format, from) = match from {
        Column::Bf16(from) => (Format::Bf16, bytemuck::cast_slice(from)),
        Column::F16(from) => (Format::F16, bytemuck::cast_slice(from)),
        Column::F32(_) | Column::F64(_) | Column::Block8(_) => {
            unreachable!("it does not have 16 bits")
        }
    };
    convert(engine, Conversion::Widen { format, from, to });
}

/// Narrows `from` to `to`, whose type has 16 bits. Rounds stochastically if there are random bits,
/// else to nearest. Too large numbers become infinite, or ±MAX of the type if `saturate`. All
/// slices have the same length.
pub(crate) fn narrow(
    engine: Engine,
    from: &[f32],
    to: ColumnMut<'_>,
    random: Option<RandomBits<'_>>,
    saturate: bool,
) {
    let (format, most, to) = match to {
        ColumnMut::Bf16(to) => {
            (Format::Bf16, half::bf16::MAX.to_f32(), bytemuck::cast_slice_mut(to))
        }
        ColumnMut::F16(to) => (Format::F16, half::f16::MAX.to_f32(), bytemuck::cast_slice_mut(to)),
        ColumnMut::F32(_) | ColumnMut::F64(_) | ColumnMut::Block8(_) => {
            unreachable!("it does not have 16 bits")
        }
    };
    let most = if saturate { most } else { f32::INFINITY };
    convert(engine, Conversion::Narrow { format, most, from, to, random });
}

/// Computes the two random words of each element for group number `group` of four buffers, from
/// element `start` of the range on. Both slices have the same length.
pub(crate) fn draw(
    engine: Engine,
    noise: Noise,
    start: usize,
    group: usize,
    [first, second]: [&mut [u32]; 2],
) {
    convert(engine, Conversion::Draw { noise, start, group, first, second });
}

/// Joins `bf16` numbers and their correction to `f32` numbers. All slices have the same length.
pub(crate) fn join(engine: Engine, theta: &[u16], correction: &Correction<'_>, to: &mut [f32]) {
    let conversion = match correction {
        Correction::Bits16(low) => Conversion::Join { theta, low, to },
        Correction::Bits8(low) => Conversion::Join8 { theta, low, to },
    };
    convert(engine, conversion);
}

/// Splits `from` in `bf16` numbers and a correction. One of 8 bits is rounded stochastically if
/// there are random words, by their upper 8 bits, else to nearest. All slices have the same length.
pub(crate) fn split(
    engine: Engine,
    from: &[f32],
    theta: &mut [u16],
    correction: Correction<'_>,
    words: Option<&[u32]>,
) {
    let conversion = match correction {
        Correction::Bits16(low) => Conversion::Split { from, theta, low },
        Correction::Bits8(low) => Conversion::Split8 { from, theta, low, words },
    };
    convert(engine, conversion);
}

/// Computes the random word of each element of a correction of 8 bits, from element `start` of the
/// range on.
pub(crate) fn draw_by_blocks(engine: Engine, noise: Noise, start: usize, to: &mut [u32]) {
    convert(engine, Conversion::DrawByBlocks { noise, start, to });
}

/// Sixteen random bits for each element: one half of each word.
#[derive(Clone, Copy)]
pub(crate) struct RandomBits<'a> {
    pub words: &'a [u32],
    /// Use the upper halves of the words, not the lower halves.
    pub upper: bool,
}

impl RandomBits<'_> {
    /// Loads the random bits in `words` to the lower halves of the lanes. The upper halves are
    /// unspecified.
    #[inline(always)]
    fn lanes<I: Isa>(self, isa: I, words: &[u32]) -> <I::F32 as F32Register>::Bits {
        let words = I::F32::load(isa, bytemuck::cast_slice(words)).to_bits();
        if self.upper { words.shr(16) } else { words }
    }
}

/// A 16-bit format.
#[derive(Clone, Copy)]
enum Format {
    Bf16,
    F16,
}

/// A conversion of slices, for registers of any instruction set.
enum Conversion<'a> {
    Widen {
        format: Format,
        from: &'a [u16],
        to: &'a mut [f32],
    },
    /// The numbers are clamped to ±`most`, which may be infinite, before they are rounded.
    Narrow {
        format: Format,
        most: f32,
        from: &'a [f32],
        to: &'a mut [u16],
        random: Option<RandomBits<'a>>,
    },
    Draw {
        noise: Noise,
        start: usize,
        group: usize,
        first: &'a mut [u32],
        second: &'a mut [u32],
    },
    DrawByBlocks {
        noise: Noise,
        start: usize,
        to: &'a mut [u32],
    },
    Join {
        theta: &'a [u16],
        low: &'a [u16],
        to: &'a mut [f32],
    },
    Join8 {
        theta: &'a [u16],
        low: &'a [u8],
        to: &'a mut [f32],
    },
    Split {
        from: &'a [f32],
        theta: &'a mut [u16],
        low: &'a mut [u16],
    },
    Split8 {
        from: &'a [f32],
        theta: &'a mut [u16],
        low: &'a mut [u8],
        words: Option<&'a [u32]>,
    },
}

/// Converts whole registers, then the remaining elements one by one.
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
            Conversion::Widen { format, from, to } => {
                let (from, from_rest) = whole(from, lanes);
                let (to, to_rest) = whole_mut(to, lanes);
                let both = from.chunks_exact(lanes).zip(to.chunks_exact_mut(lanes));
                match format {
                    Format::Bf16 => {
                        for (from, to) in both {
                            bf16::decode::<I::F32>(I::F32::load_upper(isa, from)).store(to);
                        }
                    }
                    Format::F16 => {
                        for (from, to) in both {
                            f16::decode::<I::F32>(I::F32::load_lower(isa, from)).store(to);
                        }
                    }
                }
                Conversion::Widen { format, from: from_rest, to: to_rest }
            }
            Conversion::Narrow { format, most, from, to, random } => {
                let (from, from_rest) = whole(from, lanes);
                let (to, to_rest) = whole_mut(to, lanes);
                let both = from.chunks_exact(lanes).zip(to.chunks_exact_mut(lanes));
                match (format, random) {
                    (Format::Bf16, None) => {
                        for (from, to) in both {
                            I::F32::store_upper(bf16::nearest(load(isa, from, most)), to);
                        }
                    }
                    (Format::F16, None) => {
                        for (from, to) in both {
                            I::F32::store_lower(f16::nearest(load(isa, from, most)), to);
                        }
                    }
                    (Format::Bf16, Some(random)) => {
                        for ((from, to), words) in both.zip(random.words.chunks_exact(lanes)) {
                            let noise = random.lanes(isa, words);
                            let rounded = bf16::stochastic(load(isa, from, most), noise);
                            I::F32::store_upper(rounded, to);
                        }
                    }
                    (Format::F16, Some(random)) => {
                        for ((from, to), words) in both.zip(random.words.chunks_exact(lanes)) {
                            let noise = random.lanes(isa, words);
                            let rounded = f16::stochastic(load(isa, from, most), noise);
                            I::F32::store_lower(rounded, to);
                        }
                    }
                }
                let random = random.map(|bits| bits.skip(from.len()));
                Conversion::Narrow { format, most, from: from_rest, to: to_rest, random }
            }
            Conversion::Draw { noise, start, group, first, second } => {
                let (first, first_rest) = whole_mut(first, lanes);
                let (second, second_rest) = whole_mut(second, lanes);
                let count = first.len();
                let both = first.chunks_exact_mut(lanes).zip(second.chunks_exact_mut(lanes));
                for (at, (first, second)) in (start..).step_by(lanes).zip(both) {
                    let [a, b] = noise.words(I::F32::iota(isa), at, group);
                    I::F32::from_bits(a).store(bytemuck::cast_slice_mut(first));
                    I::F32::from_bits(b).store(bytemuck::cast_slice_mut(second));
                }
                let start = start + count;
                Conversion::Draw { noise, start, group, first: first_rest, second: second_rest }
            }
            Conversion::DrawByBlocks { noise, start, to } => {
                const { assert!(TOGETHER.is_multiple_of(<I::F32 as Register>::LANES)) };
                // The first block may begin before the range.
                let before = (noise.first.wrapping_add(start as u64) % BLOCK as u64) as usize;
                let (mut at, mut to) = (start, to);
                let mut words = [[0; TOGETHER]; 2];
                let mut block = TOGETHER;
                let mut within = before;
                while !to.is_empty() {
                    if block == TOGETHER {
                        let noise = noise.starting_at(noise.first.wrapping_sub(within as u64));
                        let [mut first, mut second] = [[0; TOGETHER]; 2];
                        for from in (0..TOGETHER).step_by(lanes) {
                            let at = at + from * BLOCK;
                            let [a, b] =
                                BlockBits::draw::<I::F32>(isa, noise, at, GROUP_OF_CORRECTION);
                            store_words::<I>(a, &mut first[from..]);
                            store_words::<I>(b, &mut second[from..]);
                        }
                        (words, block) = ([first, second], 0);
                    }
                    let bits = BlockBits([words[0][block], words[1][block]]);
                    let len = to.len().min(BLOCK - within);
                    let (now, rest) = to.split_at_mut(len);
                    if len == BLOCK {
                        for (part, to) in now.chunks_exact_mut(lanes).enumerate() {
                            let words = bits.words::<I::F32>(isa, part * lanes);
                            store_words::<I>(words, to);
                        }
                    } else {
                        for (i, to) in now.iter_mut().enumerate() {
                            *to = bits.words::<f32>(OneLane, within + i);
                        }
                    }
                    (at, to, block, within) = (at + len, rest, block + 1, 0);
                }
                Conversion::DrawByBlocks { noise, start: at, to }
            }
            Conversion::Join { theta, low, to } => {
                let (theta, theta_rest) = whole(theta, lanes);
                let (low, low_rest) = whole(low, lanes);
                let (to, to_rest) = whole_mut(to, lanes);
                let both = theta.chunks_exact(lanes).zip(low.chunks_exact(lanes));
                for ((theta, low), to) in both.zip(to.chunks_exact_mut(lanes)) {
                    split::load16::<I::F32>(isa, theta, low).store(to);
                }
                Conversion::Join { theta: theta_rest, low: low_rest, to: to_rest }
            }
            Conversion::Join8 { theta, low, to } => {
                let (theta, theta_rest) = whole(theta, lanes);
                let (low, low_rest) = whole(low, lanes);
                let (to, to_rest) = whole_mut(to, lanes);
                let both = theta.chunks_exact(lanes).zip(low.chunks_exact(lanes));
                for ((theta, low), to) in both.zip(to.chunks_exact_mut(lanes)) {
                    split::load8::<I::F32>(isa, theta, low).store(to);
                }
                Conversion::Join8 { theta: theta_rest, low: low_rest, to: to_rest }
            }
            Conversion::Split { from, theta, low } => {
                let (from, from_rest) = whole(from, lanes);
                let (theta, theta_rest) = whole_mut(theta, lanes);
                let (low, low_rest) = whole_mut(low, lanes);
                let both = theta.chunks_exact_mut(lanes).zip(low.chunks_exact_mut(lanes));
                for (from, (theta, low)) in from.chunks_exact(lanes).zip(both) {
                    split::store16(I::F32::load(isa, from), theta, low);
                }
                Conversion::Split { from: from_rest, theta: theta_rest, low: low_rest }
            }
            Conversion::Split8 { from, theta, low, words } => {
                let (from, from_rest) = whole(from, lanes);
                let (theta, theta_rest) = whole_mut(theta, lanes);
                let (low, low_rest) = whole_mut(low, lanes);
                let both = theta.chunks_exact_mut(lanes).zip(low.chunks_exact_mut(lanes));
                for (at, (from, (theta, low))) in from.chunks_exact(lanes).zip(both).enumerate() {
                    let added = match words {
                        Some(words) => load_words(isa, &words[at * lanes..]).shr(24),
                        None => I::F32::iota(isa).splat(0x80),
                    };
                    split::store8(I::F32::load(isa, from), added, theta, low);
                }
                let words = words.map(|words| &words[from.len()..]);
                Conversion::Split8 { from: from_rest, theta: theta_rest, low: low_rest, words }
            }
        }
    }
}

impl<'a> RandomBits<'a> {
    /// The random bits of all elements after the first `len`.
    #[inline(always)]
    fn skip(self, len: usize) -> Self {
        RandomBits { words: &self.words[len..], ..self }
    }
}

#[inline(always)]
fn load_words<I: Isa>(isa: I, from: &[u32]) -> <I::F32 as F32Register>::Bits {
    I::F32::load(isa, bytemuck::cast_slice(from)).to_bits()
}

#[inline(always)]
fn store_words<I: Isa>(words: <I::F32 as F32Register>::Bits, to: &mut [u32]) {
    I::F32::from_bits(words).store(bytemuck::cast_slice_mut(to));
}

/// Loads a register of numbers, clamped to ±`most`.
#[inline(always)]
fn load<I: Isa>(isa: I, from: &[f32], most: f32) -> I::F32 {
    I::F32::load(isa, from).clamp_max(most).clamp_min(-most)
}

/// The elements that fill whole registers of `lanes` lanes, and the rest.
#[inline(always)]
fn whole<T>(slice: &[T], lanes: usize) -> (&[T], &[T]) {
    slice.split_at(slice.len() - slice.len() % lanes)
}

#[inline(always)]
fn whole_mut<T>(slice: &mut [T], lanes: usize) -> (&mut [T], &mut [T]) {
    slice.split_at_mut(slice.len() - slice.len() % lanes)
}
