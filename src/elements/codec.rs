//! Blocks of 8-bit states to and from `f32`, in registers of any instruction set.
//!
//! A block is `P` registers, which have 32 lanes together. It is written once over
//! [`simd`](crate::simd). The loop of a step inlines it. Conversions of whole states are at the
//! end.

use super::block8::{BLOCK, Block8, CUT, Code, NOT_FINITE, SCALE, power_of_two};
use crate::simd::dispatch::{Engine, WithSimd};
use crate::simd::native::NativeSimd;
use crate::simd::one::OneLane;
use crate::simd::portable::Portable;
use crate::simd::{F32Register, Isa, Register, U32Lanes};

/// The elements of a block.
pub(crate) type Elements = [f32; BLOCK];

/// The sign bit of an `f32`.
const SIGN: u32 = 1 << 31;

/// The base of the logarithmic scale. A code is cut from the bits of 2·a + 2, not of a + 1. The
/// upper bits of 2 are a multiple of 256, so the lowest byte of what is cut is the code.
const BASE: f32 = 2.0;

/// Decodes a block.
#[inline(always)]
pub(crate) fn decode<I: Isa, const P: usize>(isa: I, block: &Block8, code: Code) -> [I::F32; P] {
    if code.signed {
        decode_as::<I, P, true>(isa, block)
    } else {
        decode_as::<I, P, false>(isa, block)
    }
}

#[inline(always)]
fn decode_as<I: Isa, const P: usize, const SIGNED: bool>(isa: I, block: &Block8) -> [I::F32; P] {
    let scale = power_of_two(block[SCALE].into());
    let mut all = [I::F32::from_bits(I::F32::iota(isa)); P];
    for (part, x) in all.iter_mut().enumerate() {
        let codes = I::F32::load_u8(isa, &block[part * BLOCK / P..][..BLOCK / P]);
        // scale·(a + 1). If the scale is infinite, all codes are 0.
        let magnitudes = if SIGNED { codes.and_scalar(0x7F) } else { codes };
        let sum = magnitudes.shl(CUT).wrapping_add_scalar(scale.to_bits());
        *x = I::F32::from_bits(sum) + -scale;
        if SIGNED {
            *x = I::F32::from_bits(x.to_bits().or(codes.shl(24).and_scalar(SIGN)));
        }
    }
    all
}

/// The byte of the scale of a block: see [`Code::scale`].
#[inline(always)]
pub(crate) fn scale<L: F32Register, const P: usize>(block: &[L; P], code: Code) -> Option<u32> {
    // Of a state without signs, the numbers below 0 are the largest as bits.
    let mask = if code.signed { !SIGN } else { !0 };
    let mut largest = block[0].to_bits().and_scalar(mask);
    for x in &block[1..] {
        largest = largest.max(x.to_bits().and_scalar(mask));
    }
    code.scale(largest.reduce_max())
}

/// Encodes a block whose [`scale`] this is. Elements that do not exist are 0. `random` has a random
/// number below 2^18 for each element.
#[inline(always)]
pub(crate) fn encode<L: F32Register, const P: usize>(
    from: &[L; P],
    code: Code,
    scale: u32,
    random: &[L::Bits; P],
    block: &mut Block8,
) {
    if code.signed {
        encode_as::<L, P, true>(from, code, scale, random, block);
    } else {
        encode_as::<L, P, false>(from, code, scale, random, block);
    }
}

#[inline(always)]
fn encode_as<L: F32Register, const P: usize, const SIGNED: bool>(
    from: &[L; P],
    code: Code,
    scale: u32,
    random: &[L::Bits; P],
    block: &mut Block8,
) {
    let twice_inverse = power_of_two(255 - scale);
    for part in 0..P {
        let (x, to) = (from[part], &mut block[part * BLOCK / P..][..BLOCK / P]);
        let magnitude = if SIGNED { x.abs() } else { x };
        let sum = (magnitude * twice_inverse + BASE).to_bits();
        let codes = sum.wrapping_add(random[part]).shr(CUT);
        if SIGNED {
            L::store_signed_u8(codes, x, to);
        } else {
            L::store_u8(codes, to);
        }
    }
    block[SCALE] = scale as u8;
    if !SIGNED && code.divisor {
        // Not `contains`, which is a call.
        let any_0 = block[..BLOCK].iter().fold(false, |any, code| any | (*code == 0));
        if any_0 {
            keep_above_0(from, block);
        }
    }
}

/// Gives elements above 0 the least code.
#[cold]
#[inline(never)]
fn keep_above_0<L: F32Register, const P: usize>(from: &[L; P], block: &mut Block8) {
    let mut elements = [0.0; BLOCK];
    store_parts(from, &mut elements);
    for (code, x) in block.iter_mut().zip(&elements) {
        *code = (*code).max(u8::from(*x > 0.0));
    }
}

/// Random numbers that round to nearest, ties away from zero.
#[inline(always)]
pub(crate) fn nearest<L: F32Register, const P: usize>(isa: L::Isa) -> [L::Bits; P] {
    [L::iota(isa).splat(1 << (CUT - 1)); P]
}

/// Encodes a block, also one without a [`scale`]: a block with an infinity or NaN becomes NaN, and
/// elements above the top value of the largest scale get the top code. In a state without signs,
/// numbers below 0 become 0. Rounds to nearest.
#[cold]
#[inline(never)]
fn encode_any(from: &Elements, code: Code, block: &mut Block8) {
    if from.iter().any(|x| !x.is_finite()) {
        *block = [0; BLOCK + 1];
        block[SCALE] = NOT_FINITE;
        return;
    }
    let (top, least) = (code.largest(), if code.signed { -code.largest() } else { 0.0 });
    let clamped = from.map(|x| if x > least { x.min(top) } else { least });
    if let Some(scale) = scale(&clamped, code) {
        encode(&clamped, code, scale, &nearest::<f32, BLOCK>(OneLane), block);
    }
}

/// Encodes the elements of a state, rounded to nearest. Blocks without elements become 0.
pub(crate) fn encode_nearest(from: &[f32], to: &mut [Block8], code: Code) {
    let whole = to.len().min(from.len() / BLOCK);
    let (to, rest) = to.split_at_mut(whole);
    let (from, last) = from.split_at(whole * BLOCK);
    if let Err(Encode { from, to, .. }) = Engine::best().vectorize(Encode { from, to, code }) {
        for (from, block) in from.chunks_exact(BLOCK).zip(to) {
            encode_or_any::<_, { BLOCK / 8 }>(Portable, from, code, block);
        }
    }
    let mut lasts = last.chunks(BLOCK);
    for block in rest {
        let mut elements = [0.0; BLOCK];
        let last = lasts.next().unwrap_or_default();
        elements[..last.len()].copy_from_slice(last);
        encode_any(&elements, code, block);
    }
}

/// Decodes the elements of a state, as many as `to` has.
pub(crate) fn decode_all(from: &[Block8], code: Code, to: &mut [f32]) {
    let whole = from.len().min(to.len() / BLOCK);
    let (from, rest) = from.split_at(whole);
    let (to, last) = to.split_at_mut(whole * BLOCK);
    if let Err(Decode { from, to, .. }) = Engine::best().vectorize(Decode { from, to, code }) {
        for (block, to) in from.iter().zip(to.chunks_exact_mut(BLOCK)) {
            let parts: [_; BLOCK / 8] = decode(Portable, block, code);
            store_parts(&parts, to);
        }
    }
    for (block, to) in rest.iter().zip(last.chunks_mut(BLOCK)) {
        let elements: Elements = decode(OneLane, block, code);
        to.copy_from_slice(&elements[..to.len()]);
    }
}

/// The encoding of whole blocks.
struct Encode<'a> {
    from: &'a [f32],
    to: &'a mut [Block8],
    code: Code,
}

impl WithSimd for Encode<'_> {
    type Output = ();

    #[inline(always)]
    fn with<P: NativeSimd>(self, simd: P) {
        for (from, block) in self.from.chunks_exact(BLOCK).zip(self.to) {
            encode_or_any::<_, 1>(simd.block(), from, self.code, block);
        }
    }
}

/// The decoding of whole blocks.
struct Decode<'a> {
    from: &'a [Block8],
    to: &'a mut [f32],
    code: Code,
}

impl WithSimd for Decode<'_> {
    type Output = ();

    #[inline(always)]
    fn with<P: NativeSimd>(self, simd: P) {
        for (block, to) in self.from.iter().zip(self.to.chunks_exact_mut(BLOCK)) {
            let parts: [_; 1] = decode(simd.block(), block, self.code);
            store_parts(&parts, to);
        }
    }
}

/// Encodes a whole block, rounded to nearest.
#[inline(always)]
fn encode_or_any<I: Isa, const P: usize>(isa: I, from: &[f32], code: Code, block: &mut Block8) {
    let mut parts = [I::F32::load(isa, from); P];
    for (part, from) in parts.iter_mut().zip(from.chunks_exact(BLOCK / P)) {
        *part = I::F32::load(isa, from);
    }
    match scale(&parts, code) {
        Some(scale) => encode(&parts, code, scale, &nearest::<I::F32, P>(isa), block),
        None => {
            let mut elements = [0.0; BLOCK];
            elements.copy_from_slice(from);
            encode_any(&elements, code, block);
        }
    }
}

#[inline(always)]
fn store_parts<L: F32Register, const P: usize>(parts: &[L; P], to: &mut [f32]) {
    for (part, to) in parts.iter().zip(to.chunks_exact_mut(BLOCK / P)) {
        part.store(to);
    }
}
