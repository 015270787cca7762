//! Buffers of every type of the header. Each has its own allocation of its exact size, so that the
//! address sanitizer sees an access next to it.

use std::ffi::c_void;

use fused_adam::bytemuck::cast_slice;
use fused_adam::{Block8, StateElement, bf16, f16};
use fused_adam_c::FusedAdamType;

use crate::source::Source;

pub const F32: i32 = FusedAdamType::F32 as i32;
pub const F64: i32 = FusedAdamType::F64 as i32;
pub const BF16: i32 = FusedAdamType::Bf16 as i32;
pub const F16: i32 = FusedAdamType::F16 as i32;
pub const BLOCK8: i32 = FusedAdamType::Block8 as i32;
/// Corrections, by their number of bits.
pub const U16: i32 = 16;
pub const U8: i32 = 8;

#[derive(Clone, Debug)]
pub enum Elements {
    F32(Box<[f32]>),
    F64(Box<[f64]>),
    Bf16(Box<[bf16]>),
    F16(Box<[f16]>),
    Block8(Box<[Block8]>),
    U16(Box<[u16]>),
    U8(Box<[u8]>),
}

/// Evaluates `$work` with `$all` as the slice.
macro_rules! with_slice {
    ($elements:expr, $all:ident => $work:expr) => {
        match $elements {
            Elements::F32($all) => $work,
            Elements::F64($all) => $work,
            Elements::Bf16($all) => $work,
            Elements::F16($all) => $work,
            Elements::Block8($all) => $work,
            Elements::U16($all) => $work,
            Elements::U8($all) => $work,
        }
    };
}

/// Evaluates `$work` with `$all` as the slice of a type that θ and gradients can have.
macro_rules! with_elements {
    ($elements:expr, $all:ident => $work:expr) => {
        match $elements {
            Elements::F32($all) => $work,
            Elements::F64($all) => $work,
            Elements::Bf16($all) => $work,
            Elements::F16($all) => $work,
            _ => unreachable!("not a type of θ"),
        }
    };
}
pub(crate) use with_elements;

impl Elements {
    /// `len` elements that `next` returns, of this type.
    fn new(of: i32, len: usize, mut next: impl FnMut() -> u64) -> Self {
        // A number of any size whose `f32` is this.
        let number = |bits: u64| f64::from(f32::from_bits(bits as u32));
        match of {
            F32 => Elements::F32((0..len).map(|_| number(next()) as f32).collect()),
            F64 => Elements::F64((0..len).map(|_| number(next())).collect()),
            BF16 => Elements::Bf16((0..len).map(|_| bf16::from_f64(number(next()))).collect()),
            F16 => Elements::F16((0..len).map(|_| f16::from_f64(number(next()))).collect()),
            BLOCK8 => {
                let mut block = || [(); 33].map(|()| (next() >> 8) as u8);
                Elements::Block8((0..Block8::slots(len)).map(|_| block()).collect())
            }
            U16 => Elements::U16((0..len).map(|_| next() as u16).collect()),
            U8 => Elements::U8((0..len).map(|_| next() as u8).collect()),
            _ => unreachable!("there is no type {of}"),
        }
    }

    pub fn zeros(of: i32, len: usize) -> Self {
        Elements::new(of, len, || 0)
    }

    pub fn random(of: i32, len: usize, source: &mut Source) -> Self {
        let style = source.below(6);
        let constant = if style == 5 { source.number() as f32 } else { 0.0 };
        let mut state = source.below(1 << 16) as u64;
        let special =
            [f32::NAN, f32::INFINITY, -f32::INFINITY, f32::MAX, 1e-40][state as usize % 5];
        let mut index = 0;
        Elements::new(of, len, || {
            // SplitMix64.
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut bits = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            index += 1;
            let usual = (bits >> 40) as f32 / (1 << 23) as f32 - 1.0;
            let element = match style {
                0 => 0.0,
                1 => usual,
                2 if index == 1 + len / 2 => special,
                2 => usual,
                3 => f32::from_bits((bits >> 32) as u32),
                4 => usual * 1e30,
                _ => constant,
            };
            u64::from(element.to_bits())
        })
    }

    /// A copy of a buffer of the library.
    ///
    /// # Safety
    ///
    /// `pointer` is the address of a state of `len` elements of this type.
    pub unsafe fn copy_of(of: i32, pointer: *const c_void, len: usize) -> Self {
        /// # Safety
        ///
        /// As above.
        unsafe fn copy<S: StateElement>(pointer: *const c_void, len: usize) -> Box<[S]> {
            // SAFETY: the caller's promise.
            unsafe { std::slice::from_raw_parts(pointer.cast::<S>(), S::slots(len)) }.into()
        }
        // SAFETY: the caller's promise.
        unsafe {
            match of {
                F64 => Elements::F64(copy(pointer, len)),
                BF16 => Elements::Bf16(copy(pointer, len)),
                F16 => Elements::F16(copy(pointer, len)),
                BLOCK8 => Elements::Block8(copy(pointer, len)),
                _ => Elements::F32(copy(pointer, len)),
            }
        }
    }

    pub fn pointer(&mut self) -> *mut c_void {
        with_slice!(self, all => all.as_mut_ptr().cast())
    }

    pub fn bytes(&self) -> &[u8] {
        with_slice!(self, all => cast_slice(all))
    }

    pub fn has_nan(&self) -> bool {
        match self {
            Elements::F32(all) => all.iter().any(|x| x.is_nan()),
            Elements::F64(all) => all.iter().any(|x| x.is_nan()),
            Elements::Bf16(all) => all.iter().any(|x| x.is_nan()),
            Elements::F16(all) => all.iter().any(|x| x.is_nan()),
            _ => false,
        }
    }

    /// Whether all bits are the same, except that one NaN is as good as another.
    pub fn same(&self, other: &Self) -> bool {
        macro_rules! same {
            ($one:ident, $other:ident) => {{
                let mut pairs = $one.iter().zip($other.iter());
                let same =
                    pairs.all(|(a, b)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()));
                $one.len() == $other.len() && same
            }};
        }
        match (self, other) {
            (Elements::F32(one), Elements::F32(other)) => same!(one, other),
            (Elements::F64(one), Elements::F64(other)) => same!(one, other),
            (Elements::Bf16(one), Elements::Bf16(other)) => same!(one, other),
            (Elements::F16(one), Elements::F16(other)) => same!(one, other),
            (one, other) => one.bytes() == other.bytes(),
        }
    }
}
