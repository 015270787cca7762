//! Shared code of the tests: random numbers, buffers that detect writes outside them, and bitwise
//! comparison.

#![allow(dead_code, reason = "each test uses its part")]

pub mod random_rule;
pub mod rules;

use fused_adam::{Adam, AdamW, Block8, Element, Real, State, StateElement, bf16, bytemuck, f16};

/// SplitMix64 (Steele, Lea and Flood, 2014): small, and the same on every machine.
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// Uniform in [−1, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    }
}

/// An element type, with access to its bits.
pub trait Bits: Element {
    /// Marks memory that must not be written: a NaN that no computation produces.
    const CANARY: Self;
    fn bits(self) -> u64;
    fn any_bits(bits: u64) -> Self;
    /// Zeros, infinities, NaN, the smallest and largest subnormal and normal numbers, and values
    /// whose square overflows or underflows.
    fn special() -> &'static [Self];
}

impl Bits for f32 {
    const CANARY: Self = f32::from_bits(0x7FA5_A5A5);
    fn bits(self) -> u64 {
        self.to_bits().into()
    }
    fn any_bits(bits: u64) -> Self {
        f32::from_bits(bits as u32)
    }
    fn special() -> &'static [f32] {
        const LEAST: f32 = f32::from_bits(1);
        const TOP_SUBNORMAL: f32 = f32::from_bits(0x007F_FFFF);
        &[
            0.0,
            -0.0,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
            LEAST,
            -LEAST,
            TOP_SUBNORMAL,
            f32::MIN_POSITIVE,
            -f32::MIN_POSITIVE,
            f32::MAX,
            f32::MIN,
            1e20,
            -1e-23,
            1.0,
            -1.0,
        ]
    }
}

impl Bits for f64 {
    const CANARY: Self = f64::from_bits(0x7FF5_A5A5_A5A5_A5A5);
    fn bits(self) -> u64 {
        self.to_bits()
    }
    fn any_bits(bits: u64) -> Self {
        f64::from_bits(bits)
    }
    fn special() -> &'static [f64] {
        const LEAST: f64 = f64::from_bits(1);
        const TOP_SUBNORMAL: f64 = f64::from_bits(0x000F_FFFF_FFFF_FFFF);
        &[
            0.0,
            -0.0,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::NAN,
            LEAST,
            -LEAST,
            TOP_SUBNORMAL,
            f64::MIN_POSITIVE,
            -f64::MIN_POSITIVE,
            f64::MAX,
            f64::MIN,
            1e160,
            -1e-170,
            1.0,
            -1.0,
        ]
    }
}

impl Bits for bf16 {
    const CANARY: Self = bf16::from_bits(0x7FA5);
    fn bits(self) -> u64 {
        self.to_bits().into()
    }
    fn any_bits(bits: u64) -> Self {
        bf16::from_bits(bits as u16)
    }
    fn special() -> &'static [bf16] {
        const SPECIAL: [bf16; 16] = halves([
            0x0000, 0x8000, 0x7F80, 0xFF80, 0x7FC0, 0x0001, 0x8001, 0x007F, 0x0080, 0x8080, 0x7F7F,
            0xFF7F, 0x60AD, 0x9A00, 0x3F80, 0xBF80,
        ]);
        &SPECIAL
    }
}

const fn halves(bits: [u16; 16]) -> [bf16; 16] {
    let mut halves = [bf16::ZERO; 16];
    let mut i = 0;
    while i < 16 {
        halves[i] = bf16::from_bits(bits[i]);
        i += 1;
    }
    halves
}

impl Bits for f16 {
    const CANARY: Self = f16::from_bits(0x7DA5);
    fn bits(self) -> u64 {
        self.to_bits().into()
    }
    fn any_bits(bits: u64) -> Self {
        f16::from_bits(bits as u16)
    }
    fn special() -> &'static [f16] {
        const SPECIAL: [f16; 14] = [
            f16::ZERO,
            f16::NEG_ZERO,
            f16::INFINITY,
            f16::NEG_INFINITY,
            f16::NAN,
            f16::MIN_POSITIVE_SUBNORMAL,
            f16::MAX_SUBNORMAL,
            f16::MIN_POSITIVE,
            f16::MAX,
            f16::MIN,
            f16::from_bits(0x5C00),
            f16::from_bits(0x9400),
            f16::ONE,
            f16::NEG_ONE,
        ];
        &SPECIAL
    }
}

/// The same with decoupled weight decay.
pub fn decoupled(rule: Adam) -> AdamW {
    let Adam { lr, beta1, beta2, eps, weight_decay, amsgrad, maximize, bias_correction } = rule;
    AdamW { lr, beta1, beta2, eps, weight_decay, amsgrad, maximize, bias_correction }
}

/// Bitwise equal. Two NaNs count as equal.
pub fn same<E: StateBits>(a: E, b: E) -> bool {
    a.is(b)
}

/// The first place where two buffers differ.
pub fn difference<E: StateBits>(name: &str, got: &[E], expected: &[E]) -> Option<String> {
    if got.len() != expected.len() {
        return Some(format!("{name}: {} elements for {}", got.len(), expected.len()));
    }
    let i = got.iter().zip(expected).position(|(&a, &b)| !same(a, b))?;
    Some(format!("{name}[{i}] is {}, not {}", got[i].shown(), expected[i].shown()))
}

/// A type that states are stored in: an element type, or a block of 32 elements in 8 bits.
pub trait StateBits: StateElement {
    /// Marks memory that must not be written.
    const MARK: Self;
    /// The number of elements that are stored together.
    const BLOCK: usize;
    /// Bitwise equal. Two NaNs count as equal, but not two blocks whose bytes differ.
    fn is(self, other: Self) -> bool;
    fn shown(self) -> String;
    /// A state of `len` elements. They are at least 0 if the state has no signs, and if a number
    /// below 0 would change what is tested.
    fn state(numbers: Numbers, of: &State, random: &mut Random, len: usize) -> Vec<Self>;
    /// The first `len` elements.
    fn elements(from: &[Self], of: &State, len: usize) -> Vec<f64>;
    /// Makes element `i` infinite or NaN, and those that are stored with it.
    fn spoil(state: &mut [Self], i: usize, value: f64);
}

impl<E: Bits> StateBits for E {
    const MARK: Self = E::CANARY;
    const BLOCK: usize = 1;

    fn is(self, other: Self) -> bool {
        self.bits() == other.bits() || (self.to_f64().is_nan() && other.to_f64().is_nan())
    }

    fn shown(self) -> String {
        format!("{self:?} ({:#x})", self.bits())
    }

    fn state(numbers: Numbers, of: &State, random: &mut Random, len: usize) -> Vec<Self> {
        let mut state: Vec<E> = numbers.fill(random, len);
        if matches!(numbers, Numbers::Large) && !of.is_signed() {
            state.iter_mut().for_each(|x| *x = E::from_f64(x.to_f64().abs()));
        }
        state
    }

    fn elements(from: &[Self], _: &State, len: usize) -> Vec<f64> {
        from[..len].iter().map(|x| x.to_f64()).collect()
    }

    fn spoil(state: &mut [Self], i: usize, value: f64) {
        state[i] = E::from_f64(value);
    }
}

/// The byte of the scale of a block that is not finite.
const NOT_FINITE: u8 = 255;

impl StateBits for Block8 {
    const MARK: Self = [0xA5; 33];
    const BLOCK: usize = 32;

    fn is(self, other: Self) -> bool {
        self == other
    }

    fn shown(self) -> String {
        format!("the codes {:?} with the scale {}", &self[..32], self[32])
    }

    /// Encoded numbers, zeros as before the first step, and from `Wild` also any codes.
    fn state(numbers: Numbers, of: &State, random: &mut Random, len: usize) -> Vec<Self> {
        let mut state = vec![[0; 33]; len.div_ceil(32)];
        for (number, block) in state.iter_mut().enumerate() {
            let len = 32.min(len - 32 * number);
            match (numbers, random.below(8)) {
                (_, 0) => {}
                (Numbers::Wild, 1..4) => {
                    block[..len].fill_with(|| random.bits() as u8);
                    block[32] = (7 + random.below(if of.is_signed() { 245 } else { 241 })) as u8;
                }
                (Numbers::Wild, 4) => block[32] = NOT_FINITE,
                _ => {
                    let mut elements: Vec<f32> = numbers.fill(random, len);
                    for x in &mut elements {
                        *x = if x.is_finite() { *x } else { 1.0 };
                        *x = if of.is_signed() { *x } else { x.abs() };
                    }
                    of.encode(&elements, core::slice::from_mut(block));
                }
            }
        }
        state
    }

    fn elements(from: &[Self], of: &State, len: usize) -> Vec<f64> {
        let mut elements = vec![0.0; len];
        of.decode(from, &mut elements);
        elements.into_iter().map(f64::from).collect()
    }

    fn spoil(state: &mut [Self], i: usize, _: f64) {
        state[i / 32] = [0; 33];
        state[i / 32][32] = NOT_FINITE;
    }
}

/// The distribution of the numbers in a buffer.
#[derive(Clone, Copy, Debug)]
pub enum Numbers {
    /// As in training: within [−1, 1), some of them zero.
    Ordinary,
    /// Every magnitude of the type, infinities and NaN.
    Wild,
    /// Finite numbers, most of them large.
    Large,
}

impl Numbers {
    pub fn draw<E: Bits>(self, random: &mut Random) -> E {
        match (self, random.below(8)) {
            (Numbers::Ordinary, 0) => E::from_f64(0.0),
            (Numbers::Ordinary, _) => E::from_f64(random.uniform()),
            (Numbers::Wild, 0..2) => E::any_bits(random.bits()),
            (Numbers::Wild, 2..5) => E::special()[random.below(E::special().len())],
            (Numbers::Wild, _) => E::from_f64(random.uniform()),
            (Numbers::Large, 0..2) => E::from_f64(E::MAX.to_f64().copysign(random.uniform())),
            (Numbers::Large, 2..4) => E::from_f64(E::MAX.to_f64() * random.uniform()),
            (Numbers::Large, 4..6) => {
                // The square is about the largest number.
                let root = E::Float::MAX.to_f64().sqrt().min(E::MAX.to_f64() / 2.0);
                E::from_f64(root * 2.0 * random.uniform())
            }
            (Numbers::Large, _) => E::from_f64(random.uniform()),
        }
    }

    pub fn fill<E: Bits>(self, random: &mut Random, len: usize) -> Vec<E> {
        (0..len).map(|_| self.draw(random)).collect()
    }
}

/// A buffer with a given misalignment, between canaries.
pub struct Guarded<E> {
    memory: Vec<E>,
    start: usize,
    len: usize,
}

const GUARD: usize = 80;

impl<E: StateBits> Guarded<E> {
    /// Stores `values`, `offset` elements after a 64-byte boundary.
    pub fn new(values: &[E], offset: usize) -> Self {
        // Of blocks, each 64th one begins at a boundary.
        let line = if E::BLOCK > 1 { 64 } else { 64 / size_of::<E>() };
        let mut memory = vec![E::MARK; values.len() + 2 * GUARD + 2 * line];
        let start = GUARD + memory[GUARD..].as_ptr().align_offset(64) + offset % line;
        memory[start..start + values.len()].copy_from_slice(values);
        Guarded { memory, start, len: values.len() }
    }

    pub fn get(&self) -> &[E] {
        &self.memory[self.start..self.start + self.len]
    }

    pub fn get_mut(&mut self) -> &mut [E] {
        &mut self.memory[self.start..self.start + self.len]
    }

    /// Whether nothing outside the buffer was written.
    pub fn intact(&self) -> bool {
        let (before, rest) = self.memory.split_at(self.start);
        let canary = |e: &E| bytemuck::bytes_of(e) == bytemuck::bytes_of(&E::MARK);
        before.iter().chain(&rest[self.len..]).all(canary)
    }
}
