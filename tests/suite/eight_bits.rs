//! States in 8 bits: the format, against a codec that is written out here; stochastic rounding; and
//! owners and parts of tensors, which get the bits of one step.

#![expect(clippy::single_range_in_vec_init, reason = "a dimension of a shard has a list of ranges")]

use std::collections::BTreeSet;

use fused_adam::{
    AdaGrad, AdamW, Backend, Block8, Element, Error, Flat, Float, GroupId, Kernel, KernelVisitor,
    Lanes, Optimizer, Parallelism, ParamMut, Report, Rounding, Rule, Shard, State, Step,
    StepOptions, Tensor, bf16, f16, step_all,
};

use crate::common::{Bits, Numbers, Random, difference};

const SIGNED: State = State::signed("s");
const POSITIVE: State = State::non_negative("p");
const DIVISOR: State = State::non_negative("d").divisor();

/// The byte of the scale of a block that is not finite.
const NOT_FINITE: u8 = 255;

/// The format, as its description says. Nothing here is the crate's.
struct Format {
    of: State,
    /// What each code without its sign stands for, in units of the scale.
    values: Vec<f64>,
    /// The exponents of the scale.
    exponents: std::ops::RangeInclusive<i32>,
}

impl Format {
    fn new(of: State) -> Self {
        let (codes, most) = if of.is_signed() { (128, 124) } else { (256, 120) };
        let value = |code: i32| (1.0 + f64::from(code % 32) / 32.0) * power(code / 32) - 1.0;
        Format { of, values: (0..codes).map(value).collect(), exponents: -120..=most }
    }

    /// The largest number of a block, in units of the scale.
    fn top(&self) -> f64 {
        self.values[self.values.len() - 1]
    }

    fn value(&self, code: u8) -> f64 {
        let code = usize::from(code);
        if code < self.values.len() { self.values[code] } else { -self.values[code - 128] }
    }

    /// The code that is nearest to `a`, the one with the larger number if there are two.
    fn nearest(&self, a: f64) -> u8 {
        let distance = |code: &usize| (self.values[*code] - a).abs();
        let codes = (0..self.values.len()).rev();
        codes.min_by(|x, y| distance(x).total_cmp(&distance(y))).unwrap() as u8
    }

    /// The code below `a`.
    fn below(&self, a: f64) -> u8 {
        (self.values.partition_point(|value| *value <= a) - 1) as u8
    }

    fn encode_block(&self, numbers: &[f32]) -> Block8 {
        let mut block = [0; 33];
        if numbers.iter().any(|x| !x.is_finite()) {
            block[32] = NOT_FINITE;
            return block;
        }
        let size = |x: f32| f64::from(if self.of.is_signed() { x.abs() } else { x.max(0.0) });
        let largest = numbers.iter().map(|x| size(*x)).fold(0.0, f64::max);
        let fits = |exponent: &i32| largest <= self.top() * power(*exponent);
        let exponent = self.exponents.clone().find(fits).unwrap_or(*self.exponents.end());
        block[32] = (127 + exponent) as u8;
        for (code, x) in block.iter_mut().zip(numbers) {
            let a = (size(*x) / power(exponent)).min(self.top());
            // The format has the sum a + 1 as an `f32`.
            *code = self.nearest(f64::from(a as f32 + 1.0) - 1.0);
            if self.of.is_divisor() && *x > 0.0 {
                *code = (*code).max(1);
            }
            if self.of.is_signed() && x.is_sign_negative() {
                *code |= 0x80;
            }
        }
        block
    }

    fn encode(&self, numbers: &[f32]) -> Vec<Block8> {
        numbers.chunks(32).map(|numbers| self.encode_block(numbers)).collect()
    }

    /// Blocks of all codes with this scale. Each block ends with the top code.
    fn all_codes(&self, exponent: i32) -> Vec<Block8> {
        let codes: Vec<u8> = (0..=u8::MAX).collect();
        let block = |codes: &[u8]| {
            let mut block = [0; 33];
            block[..codes.len()].copy_from_slice(codes);
            block[31] = (self.values.len() - 1) as u8;
            block[32] = (127 + exponent) as u8;
            block
        };
        codes.chunks(31).map(block).collect()
    }
}

fn power(exponent: i32) -> f64 {
    2.0_f64.powi(exponent)
}

fn encode(of: State, numbers: &[f32]) -> Vec<Block8> {
    let mut blocks = vec![[0xA5; 33]; numbers.len().div_ceil(32)];
    of.encode(numbers, &mut blocks);
    blocks
}

fn decode(of: State, blocks: &[Block8]) -> Vec<f32> {
    let mut elements = vec![0.5; 32 * blocks.len()];
    of.decode(blocks, &mut elements);
    elements
}

/// Every code stands for the number of the format, exactly, with every scale.
#[test]
fn every_code_stands_for_its_number() {
    for of in [SIGNED, POSITIVE, DIVISOR] {
        let format = Format::new(of);
        for exponent in format.exponents.clone() {
            let blocks = format.all_codes(exponent);
            let expected = blocks.iter().flat_map(|block| &block[..32]);
            let expected = expected.map(|code| format.value(*code) * power(exponent));
            for (got, expected) in decode(of, &blocks).into_iter().zip(expected) {
                let same = f64::from(got).to_bits() == expected.to_bits();
                assert!(same, "{got:e}, not {expected:e} with the exponent {exponent}");
            }
        }
        assert_eq!(decode(of, &[[0; 33]]), [0.0; 32], "before the first step");
        let mut bad = [0; 33];
        bad[32] = NOT_FINITE;
        assert!(decode(of, &[bad]).iter().all(|x| x.is_nan()));
    }
}

/// Encoding what was decoded gives the same block, if it holds the top code.
#[test]
fn decoded_blocks_are_encoded_to_themselves() {
    for of in [SIGNED, POSITIVE, DIVISOR] {
        let format = Format::new(of);
        for exponent in format.exponents.clone() {
            let blocks = format.all_codes(exponent);
            assert_eq!(difference(of.name(), &encode(of, &decode(of, &blocks)), &blocks), None);
        }
    }
}

/// Every code, the midpoint to the next one (a tie), and the `f32`s next to them, in blocks with
/// some scales; random bits; numbers of each order of magnitude; and special numbers.
fn numbers_to_encode(format: &Format, seed: u64) -> Vec<f32> {
    let mut all = Vec::new();
    let (first, last) = (*format.exponents.start(), *format.exponents.end());
    for exponent in [first, first + 1, -60, -1, 0, 1, 77, last - 1, last] {
        let (scale, top) = (power(exponent), (format.top() * power(exponent)) as f32);
        let pairs = format.values.windows(2).map(|pair| (pair[0], f64::midpoint(pair[0], pair[1])));
        let near = pairs.flat_map(|(code, middle)| {
            let [code, middle] = [code, middle].map(|x| (x * scale) as f32);
            [code, code.next_up(), code.next_down(), middle, middle.next_up(), middle.next_down()]
        });
        for (i, part) in near.collect::<Vec<f32>>().chunks(31).enumerate() {
            // The largest number of a block is the top, or its neighbours.
            all.push([top, top.next_up().min(f32::MAX), top.next_down()][i % 3]);
            all.extend(
                part.iter().map(|x| if i % 2 == 0 || !format.of.is_signed() { *x } else { -x }),
            );
            all.resize(all.len().next_multiple_of(32), 0.0);
        }
    }
    let mut random = Random(seed);
    for number in 0..2000 {
        let size = 10_f64.powf(random.uniform() * 45.0);
        let draw = |_| match number % 4 {
            0 => f32::from_bits(random.bits() as u32 & 0xBF7F_FFFF),
            1 => (size * random.uniform()) as f32,
            2 => (size * 10_f64.powf(random.uniform() * 4.0) * random.uniform()) as f32,
            _ => f32::special()[random.below(f32::special().len())],
        };
        all.extend((0..32).map(draw));
    }
    all
}

/// Numbers are encoded as the format says: the scale, segments, ties, subnormal numbers, and what
/// is too large or not finite.
#[test]
fn numbers_are_encoded_as_described() {
    for (of, seed) in [(SIGNED, 1), (POSITIVE, 2), (DIVISOR, 3)] {
        let format = Format::new(of);
        let numbers = numbers_to_encode(&format, seed);
        let (got, expected) = (encode(of, &numbers), format.encode(&numbers));
        for ((got, expected), numbers) in got.iter().zip(&expected).zip(numbers.chunks(32)) {
            assert_eq!(got, expected, "{} of seed {seed}: {numbers:?}", of.name());
        }
        let finite = got.iter().filter(|block| block[32] != NOT_FINITE).count();
        let scales: BTreeSet<u8> = got.iter().map(|block| block[32]).collect();
        println!("{}: {finite} of {} blocks, {} scales", of.name(), got.len(), scales.len());
        assert!(finite > 1000 && finite < got.len() && scales.len() > 200);
    }
}

/// Each backend encodes in a step as [`State::encode`] does.
#[test]
fn every_backend_encodes_as_described() {
    for (of, state, seed) in
        [(SIGNED, S_NEAREST, 1), (POSITIVE, P_NEAREST, 2), (DIVISOR, D_NEAREST, 3)]
    {
        let format = Format::new(of);
        let numbers = numbers_to_encode(&format, seed);
        let expected = format.encode(&numbers);
        for backend in Backend::ALL.iter().copied().filter(|backend| backend.is_available()) {
            let rule = Keep { below_0: !of.is_signed() };
            let stored = keep(Step::new(&rule, 1).with_backend(backend), &numbers);
            assert_eq!(difference(of.name(), &stored[state], &expected), None, "{backend}");
        }
    }
}

/// Short states have one block, whose unused codes are 0. Blocks without elements become zeros, and
/// elements without a block stay as they are.
#[test]
fn the_last_block_may_be_short() {
    let mut random = Random(4);
    for (of, len) in
        [SIGNED, POSITIVE, DIVISOR].into_iter().flat_map(|of| (0..=65).map(move |len| (of, len)))
    {
        let numbers: Vec<f32> = (0..len).map(|_| random.uniform() as f32).collect();
        let blocks = encode(of, &numbers);
        assert_eq!(difference(of.name(), &blocks, &Format::new(of).encode(&numbers)), None);
        let all = decode(of, &blocks);
        assert!(all[len..].iter().all(|x| x.to_bits() == 0), "{len}");

        let mut more = [[0xA5; 33]; 4];
        of.encode(&numbers, &mut more);
        assert_eq!(more[..blocks.len()], blocks, "{len}");
        assert!(decode(of, &more[blocks.len()..]).iter().all(|x| x.to_bits() == 0), "{len}");
        let mut elements = vec![0.5; 100];
        of.decode(&blocks, &mut elements);
        assert_eq!(elements[..all.len()], all, "{len}");
        assert!(elements[all.len()..].iter().all(|x| *x == 0.5), "{len}");
        of.decode(&blocks, &mut elements[..len]);
        assert_eq!(elements[..len], all[..len], "{len}");
    }
}

/// The code and the scale of the first number of a block.
fn first_of(of: State, numbers: &[f32]) -> (u8, u8) {
    let block = encode(of, numbers)[0];
    (block[0], block[32])
}

/// The ends of the format, in numbers.
#[test]
fn ends_of_the_format() {
    for (of, top, top_code, last) in [(SIGNED, 14.75, 0x7F, 251), (POSITIVE, 251.0, 0xFF, 247)] {
        // A number at the top has the scale. The next `f32` has the next scale.
        assert_eq!(first_of(of, &[top]), (top_code, 127));
        assert_eq!(first_of(of, &[top.next_up()]).1, 128);
        assert_eq!(first_of(of, &[top.next_down()]), (top_code, 127));
        assert_eq!(first_of(of, &[f32::MAX]), (top_code, last));
        let most = decode(of, &encode(of, &[f32::MAX]))[0];
        assert_eq!(f64::from(most), f64::from(top) * power(i32::from(last) - 127));
        assert_eq!(first_of(of, &[0.0]), (0, 7));
        assert_eq!(first_of(of, &[f32::from_bits(1)]), (0, 7));
        assert_eq!(decode(of, &encode(of, &[0.0; 32])), [0.0; 32]);
        for bad in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            let mut block = [0; 33];
            block[32] = NOT_FINITE;
            assert_eq!(encode(of, &[1.0, bad, 2.0]), [block]);
        }
    }
    assert_eq!(first_of(SIGNED, &[f32::MIN]), (0xFF, 251));
    // −0 has its sign in a state with signs. Without signs, numbers below 0 are 0.
    assert_eq!(first_of(SIGNED, &[-0.0, 1.0]).0, 0x80);
    assert_eq!(decode(SIGNED, &encode(SIGNED, &[-0.0]))[0].to_bits(), (-0.0_f32).to_bits());
    for of in [POSITIVE, DIVISOR] {
        for x in [-0.0, -1.0, f32::MIN, -f32::from_bits(1)] {
            assert_eq!(encode(of, &[x, 1.0]), encode(of, &[0.0, 1.0]), "{x:e}");
        }
    }
}

/// A divisor is 0 only if it was, however small it is beside the others of its block.
#[test]
fn divisors_stay_above_0() {
    for x in [1.0, 1e-3, 1e-20, f32::MIN_POSITIVE, f32::from_bits(1)] {
        let numbers = [f32::MAX, x, 0.0, -x];
        let block = &decode(DIVISOR, &encode(DIVISOR, &numbers))[..4];
        assert!(block[1] > 0.0 && block[2..] == [0.0, 0.0], "{x:e}: {block:?}");
        assert_eq!(decode(POSITIVE, &encode(POSITIVE, &numbers))[1], 0.0);
        for seed in 0..64 {
            let rounding = Rounding::Stochastic { seed };
            let rule = Keep { below_0: true };
            let stored = keep(Step::new(&rule, 1).with_rounding(rounding), &numbers.repeat(20));
            for state in [D, D_NEAREST] {
                let got = decode(DIVISOR, &stored[state]);
                for four in got[..80].chunks(4) {
                    assert!(four[1] > 0.0 && four[2..] == [0.0, 0.0], "{x:e}: {four:?}");
                }
            }
        }
    }
}

/// Each state becomes g: a step that only encodes. A backend leaves a block with a number below 0
/// in a state without signs to the reference, so such a state becomes |g| unless `below_0`.
#[derive(Clone, Copy)]
struct Keep {
    below_0: bool,
}

const KEEP: Keep = Keep { below_0: false };

/// The states of [`Keep`]: two that share random words, those that are rounded to nearest, and a
/// divisor beyond the fourth state.
const S: usize = 0;
const P: usize = 1;
const S_NEAREST: usize = 2;
const P_NEAREST: usize = 3;
const D: usize = 4;
const D_NEAREST: usize = 5;

impl Rule for Keep {
    fn name(&self) -> &'static str {
        "keep"
    }

    fn lr(&self) -> f64 {
        0.0
    }

    fn set_lr(&mut self, _: f64) {}

    fn states(&self) -> &'static [State] {
        const {
            &[
                SIGNED,
                POSITIVE,
                State::signed("s_nearest").running_max(),
                State::non_negative("p_nearest").running_max(),
                DIVISOR,
                State::non_negative("d_nearest").divisor().running_max(),
            ]
        }
    }

    fn check(&self) -> Result<(), Error> {
        Ok(())
    }

    fn visit_kernel<F: Float, W: KernelVisitor<F>>(
        &self,
        _: u64,
        _: &[f64],
        visitor: W,
    ) -> Result<(), Error> {
        visitor.visit(self)
    }
}

impl<F: Float> Kernel<F, 6> for Keep {
    #[inline(always)]
    fn update<L: Lanes<Float = F>>(&self, theta: L, grad: L, _: [L; 6]) -> (L, [L; 6]) {
        let size = if self.below_0 { grad } else { grad.abs() };
        (theta, [grad, size, grad, size, size, size])
    }
}

/// The states of [`Keep`] after a step.
fn keep(step: Step<'_, Keep>, numbers: &[f32]) -> [Vec<Block8>; 6] {
    let mut states = [(); 6].map(|()| vec![[0; 33]; numbers.len().div_ceil(32)]);
    let mut theta = vec![0.0_f32; numbers.len()];
    let mut slices: Vec<&mut [Block8]> = states.iter_mut().map(Vec::as_mut_slice).collect();
    step.run_mixed(&mut theta, numbers, &mut slices).unwrap();
    states
}

/// A step with these random bits.
fn random_step(seed: u64, t: u64) -> Step<'static, Keep> {
    Step::new(&KEEP, t).with_rounding(Rounding::Stochastic { seed })
}

/// Blocks that begin with the top number of `of`, so that the scale is 2^−9, followed by 31 times
/// `a` in units of the scale.
fn blocks_of(of: State, a: f64, count: usize) -> Vec<f32> {
    let mut block = [(a * power(-9)) as f32; 32];
    block[0] = (Format::new(of).top() * power(-9)) as f32;
    block.repeat(count)
}

const BLOCKS: usize = 1 << 12;

/// Over many blocks and steps, the mean of the rounded numbers is the number, within five standard
/// errors, and only the two neighbours occur.
#[test]
fn stochastic_rounding_is_fair() {
    const STEPS: u64 = 8;
    for (of, state, numbers) in [
        (SIGNED, S, &[0.0101, 0.03, 0.517, 1.04, 2.97, 7.1, 14.6, -0.3, -11.37][..]),
        (POSITIVE, P, &[0.0101, 0.03, 0.517, 1.04, 2.97, 7.1, 14.6, 31.3, 100.3, 249.0]),
        (DIVISOR, D, &[0.04, 0.517, 14.6, 99.999]),
    ] {
        let format = Format::new(of);
        for &a in numbers {
            let numbers = blocks_of(of, a, BLOCKS);
            let (sign, a) = (if a < 0.0 { 0x80 } else { 0 }, a.abs());
            let low = format.below(a);
            let [below, above] = [low, low + 1].map(|code| format.value(code));
            let (mut low_count, mut high_count) = (0_u32, 0_u32);
            for t in 1..=STEPS {
                for block in &keep(random_step(9, t), &numbers)[state] {
                    assert_eq!((block[0], block[32]), ((format.values.len() - 1) as u8, 118));
                    for code in &block[1..32] {
                        match code.wrapping_sub(sign).wrapping_sub(low) {
                            0 => low_count += 1,
                            1 => high_count += 1,
                            _ => panic!("{code:#x} is not next to {low:#x}, for {a}"),
                        }
                    }
                }
            }
            let count = f64::from(low_count + high_count);
            let (share, expected) = (f64::from(high_count) / count, (a - below) / (above - below));
            let standard_error = (expected * (1.0 - expected) / count).sqrt();
            let sigmas = (share - expected) / standard_error;
            println!("{} {a}: {share:.5} of {expected:.5}, {sigmas:+.1} sigma", of.name());
            // 18 random bits and the sum a + 1 have a resolution.
            let allowed = 5.0 * standard_error + power(-17);
            assert!((share - expected).abs() < allowed, "{} {a}: {sigmas} sigma", of.name());
        }
    }
}

/// Which numbers were rounded up, 31 for each block of [`blocks_of`]. `steps` is a range of step
/// numbers.
fn rounded_up(
    of: State,
    state: usize,
    a: f64,
    seed: u64,
    steps: std::ops::Range<u64>,
) -> Vec<bool> {
    let (numbers, low) = (blocks_of(of, a, BLOCKS), Format::new(of).below(a));
    let mut up = Vec::new();
    for t in steps {
        let states = keep(random_step(seed, t), &numbers);
        up.extend(states[state].iter().flat_map(|block| &block[1..32]).map(|code| *code > low));
    }
    up
}

/// The number that are rounded up in a block varies as if each had its own random bits: no two of
/// them go together.
#[test]
fn elements_of_a_block_are_rounded_independently() {
    for (of, state) in [(SIGNED, S), (POSITIVE, P), (DIVISOR, D)] {
        // Above 7 a code is one quarter.
        for share in [0.5, 0.25, 0.9] {
            let up = rounded_up(of, state, 7.0 + share / 4.0, 3, 1..17);
            let counts = up.chunks(31).map(|block| block.iter().filter(|up| **up).count() as f64);
            let mean = 31.0 * share;
            let squares: Vec<f64> = counts.map(|count| (count - mean).powi(2)).collect();
            let variance = squares.iter().sum::<f64>() / squares.len() as f64;
            let ratio = variance / (31.0 * share * (1.0 - share));
            println!("{} {share}: {ratio:.3} of the variance", of.name());
            assert!((ratio - 1.0).abs() < 0.15, "{} {share}: {ratio} of the variance", of.name());
        }
    }
}

/// States, elements, blocks, steps and seeds have separate random bits: half of the results agree,
/// within five standard errors.
#[test]
fn random_bits_belong_to_seed_step_element_and_state() {
    let half = 7.125;
    let check = |what: &str, a: &[bool], b: &[bool]| {
        let count = a.len().min(b.len());
        let same = a.iter().zip(b).filter(|(a, b)| a == b).count();
        let sigmas = (same as f64 / count as f64 - 0.5) * 2.0 * (count as f64).sqrt();
        println!("{what}: {same} of {count}, {sigmas:+.1} sigma");
        assert!(sigmas.abs() < 5.0, "{what}: {same} of {count} agree, {sigmas} sigma");
    };
    let s = rounded_up(SIGNED, S, half, 1, 10..14);
    let p = rounded_up(POSITIVE, P, half, 1, 10..14);
    let d = rounded_up(DIVISOR, D, half, 1, 10..14);
    check("the states of a pair", &s, &p);
    check("states of two pairs", &s, &d);
    check("other states of two pairs", &p, &d);
    for (name, state, of, up) in
        [("s", S, SIGNED, &s), ("p", P, POSITIVE, &p), ("d", D, DIVISOR, &d)]
    {
        check(&format!("{name}: steps"), up, &rounded_up(of, state, half, 1, 11..15));
        check(&format!("{name}: seeds"), up, &rounded_up(of, state, half, 2, 10..14));
        check(&format!("{name}: blocks"), up, &up[31..]);
        check(&format!("{name}: blocks further on"), up, &up[32 * 31..]);
        for apart in [1, 2, 16, 30] {
            // One pair of each block.
            let [first, second]: [Vec<bool>; 2] =
                [0, apart].map(|i| up.chunks(31).map(|block| block[i]).collect());
            check(&format!("{name}: elements {apart} apart"), &first, &second);
        }
    }
}

/// The same step has the same random bits, also on a part of the tensor, and rounding to nearest
/// has those of the seed 0.
#[test]
fn random_bits_are_those_of_the_place_in_the_tensor() {
    let numbers: Vec<f32> = Numbers::Ordinary.fill(&mut Random(5), 200 * 32);
    let whole = keep(random_step(6, 7), &numbers);
    assert_eq!(whole, keep(random_step(6, 7), &numbers));
    assert_ne!(whole[S], keep(random_step(7, 7), &numbers)[S]);
    for (block, backend) in [1, 31, 32, 33, 150].into_iter().zip(Backend::ALL.iter().cycle()) {
        let step = random_step(6, 7).with_offset(32 * block as u64);
        let step = if backend.is_available() { step.with_backend(*backend) } else { step };
        let part = keep(step, &numbers[32 * block..]);
        for (state, part) in whole.iter().zip(&part) {
            assert_eq!(difference("state", part, &state[block..]), None, "from block {block}");
        }
    }
    assert_eq!(keep(Step::new(&KEEP, 7), &numbers), keep(random_step(0, 7), &numbers));
}

/// Numbers that have a code keep it, whatever the random bits.
#[test]
fn exact_numbers_do_not_change() {
    for (of, state) in [(SIGNED, S), (POSITIVE, P), (DIVISOR, D)] {
        let format = Format::new(of);
        let blocks: Vec<Block8> = [-120, -1, 0, 120].map(|e| format.all_codes(e)).concat();
        let numbers = decode(of, &blocks);
        for seed in 0..200 {
            let stored = keep(random_step(seed, 1 + seed / 2), &numbers);
            assert_eq!(difference(of.name(), &stored[state], &blocks), None, "seed {seed}");
        }
    }
}

/// A running maximum is rounded to nearest, whatever the random bits.
#[test]
fn a_running_maximum_is_rounded_to_nearest() {
    let numbers: Vec<f32> = Numbers::Ordinary.fill(&mut Random(8), 5000);
    let sizes: Vec<f32> = numbers.iter().map(|x| x.abs()).collect();
    let [s, p, d] = [(SIGNED, &numbers), (POSITIVE, &sizes), (DIVISOR, &sizes)]
        .map(|(of, numbers)| encode(of, numbers));
    for seed in 0..20 {
        let stored = keep(random_step(seed, 1 + seed), &numbers);
        for (state, expected) in [(S_NEAREST, &s), (P_NEAREST, &p), (D_NEAREST, &d)] {
            let name = KEEP.states()[state].name();
            assert_eq!(difference(name, &stored[state], expected), None, "seed {seed}");
        }
        assert_ne!(stored[S], s);
    }
}

/// A second moment that is rounded to nearest stalls: its changes, a thousandth of the distance to
/// g², are less than half the distance of two codes. In 8-bit states, it follows its twin in `f32`.
#[test]
fn a_second_moment_follows_its_f32_twin() {
    const LEN: usize = 4096;
    const STEPS: u64 = 2000;
    let rule = AdamW { beta2: 0.999, ..AdamW::default() };
    let v = rule.states()[1];
    // Of different sizes. They shrink to a half, and their squares to a quarter.
    let grad: Vec<f32> = (0..LEN).map(|i| 1.0 + (i % 37) as f32 / 10.0).collect();
    let before: Vec<f32> = grad.iter().map(|g| g * g).collect();
    let grad: Vec<f32> = grad.iter().map(|g| 0.5 * g).collect();
    let mean_ratio = |v: &[f32]| -> f64 {
        let ratios = v.iter().zip(&before).map(|(v, before)| f64::from(v / before));
        ratios.sum::<f64>() / LEN as f64
    };

    let mut twin = Flat::resume(rule, 0, vec![vec![0.0; LEN], before.clone()]).unwrap();
    let states = vec![vec![[0; 33]; LEN / 32], encode(v, &before)];
    let mut opt = Flat::resume(rule, 0, states).unwrap();
    let mut nearest = encode(v, &before);
    let (mut theta, mut twin_theta) = (vec![0.0_f32; LEN], vec![0.0_f32; LEN]);
    for _ in 0..STEPS {
        twin.step(&mut twin_theta, &grad).unwrap();
        opt.step_mixed(&mut theta, &grad).unwrap();
        let mut elements = decode(v, &nearest);
        for (v, g) in elements.iter_mut().zip(&grad) {
            *v += (g * g - *v) * 1e-3;
        }
        nearest = encode(v, &elements);
    }
    let exact = mean_ratio(twin.state("v").unwrap());
    let followed = mean_ratio(&decode(v, opt.state("v").unwrap()));
    let stalled = mean_ratio(&decode(v, &nearest));
    println!("after {STEPS} steps: f32 {exact:.4}, 8 bits {followed:.4}, nearest {stalled:.4}");
    assert!((0.34..0.36).contains(&exact));
    assert!((followed / exact - 1.0).abs() < 0.02, "{followed} is not {exact}");
    assert!(stalled > 0.9, "it was to stall");
    // The updates are those of the twin too.
    let moved = |theta: &[f32]| theta.iter().map(|x| f64::from(*x)).sum::<f64>();
    assert!((moved(&theta) / moved(&twin_theta) - 1.0).abs() < 0.02);
}

/// What a wrong call must not change.
#[derive(Clone, Debug, PartialEq)]
struct Wrong {
    theta: Vec<f32>,
    m: Vec<Block8>,
    v: Vec<Block8>,
}

/// Makes a wrong call with θ, m and v of `len` elements, and checks that it changes nothing.
fn refused(len: usize, call: impl FnOnce(&mut Wrong, &[f32]) -> Error, expected: &str) {
    let blocks = vec![[1; 33]; len.div_ceil(32)];
    let mut buffers = Wrong { theta: vec![0.5; len], m: blocks.clone(), v: blocks };
    let before = buffers.clone();
    let error = call(&mut buffers, &vec![1.0; len]);
    assert_eq!(error.to_string(), expected);
    assert_eq!(buffers, before, "{expected}");
}

/// The number of blocks and the offset are checked by a step on slices, before the first write.
#[test]
fn a_step_on_slices_refuses_what_does_not_fit() {
    let rule = AdamW::default();
    let step = Step::new(&rule, 1);
    refused(
        33,
        |Wrong { theta, m, v }, grad| {
            step.run_mixed(theta, grad, &mut [m, &mut v[..1]]).unwrap_err()
        },
        "`v` has 1 block, expected 2 for 33 elements",
    );
    refused(
        32,
        |Wrong { theta, m, v }, grad| {
            let mut two = [m[0]; 2];
            let error = step.run_mixed(theta, grad, &mut [&mut two, v]).unwrap_err();
            assert_eq!(two, [m[0]; 2]);
            let Error::Blocks { name: "m", blocks: 2, expected: 1, len: 32 } = error else {
                panic!("{error:?}")
            };
            error
        },
        "`m` has 2 blocks, expected 1 for 32 elements",
    );
    refused(
        1,
        |Wrong { theta, v, .. }, grad| {
            step.run_mixed::<_, _, Block8>(theta, grad, &mut [&mut [], v]).unwrap_err()
        },
        "`m` has 0 blocks, expected 1 for 1 element",
    );
    refused(
        0,
        |Wrong { theta, m, .. }, grad| {
            step.run_mixed(theta, grad, &mut [m, &mut [[1; 33]]]).unwrap_err()
        },
        "`v` has 1 block, expected 0 for 0 elements",
    );
    for offset in [1, 31, 33, u64::MAX] {
        refused(
            40,
            |Wrong { theta, m, v }, grad| {
                let step = step.clone().with_offset(offset);
                let error = step.run_mixed(theta, grad, &mut [&mut *m, &mut *v]).unwrap_err();
                assert_eq!(error, Error::Offset { offset });
                let mut copy = vec![bf16::ZERO; 40];
                let copied = step.run_with_copy(theta, grad, &mut [m, v], &mut copy).unwrap_err();
                assert!(copied == error && copy == vec![bf16::ZERO; 40]);
                error
            },
            &format!("`offset` is {offset}, expected a multiple of 32 for states in 8 bits"),
        );
    }
    // Other states begin anywhere.
    let (mut theta, mut m, mut v) = ([1.0_f32; 4], [0.0; 4], [0.0; 4]);
    step.with_offset(5).run(&mut theta, &[1.0; 4], &mut [&mut m, &mut v]).unwrap();
}

/// The same checks by the owner of one buffer, which then has not counted the step.
#[test]
fn an_owner_of_one_buffer_refuses_what_does_not_fit() {
    let resume = |blocks: [usize; 2]| {
        let states = blocks.map(|blocks| vec![[1; 33]; blocks]).to_vec();
        Flat::<_, Block8>::resume(AdamW::default(), 1, states)
    };
    let refused = |opt: Flat<AdamW, Block8>, len: usize, expected: &str| {
        let (mut opt, mut theta) = (opt, vec![0.5_f32; len]);
        let error = opt.step_mixed(&mut theta, &vec![1.0_f32; len]).unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert!(opt.t() == 1 && theta.iter().all(|x| *x == 0.5));
        let (_, _, states, _) = opt.into_parts();
        assert!(states.iter().flatten().all(|block| *block == [1; 33]), "{expected}");
    };
    refused(resume([2, 2]).unwrap(), 32, "`m` has 2 blocks, expected 1 for 32 elements");
    refused(resume([2, 2]).unwrap(), 65, "`m` has 2 blocks, expected 3 for 65 elements");
    let offset = "`offset` is 48, expected a multiple of 32 for states in 8 bits";
    refused(resume([2, 2]).unwrap().with_offset(48), 33, offset);
    let unequal = resume([2, 1]).unwrap_err().to_string();
    assert_eq!(unequal, "`v` has 1 block, expected 2 for 64 elements");
    for len in 33..=64 {
        let mut theta = vec![0.5_f32; len];
        resume([2, 2]).unwrap().step_mixed(&mut theta, &vec![1.0_f32; len]).unwrap();
    }
}

/// Runs of this shard, which has the columns of a matrix of four rows, and its number of elements.
fn columns(of: u64, columns: &[std::ops::Range<u64>]) -> (Shard, usize) {
    let shard = Shard::new(&[4, of], &[&[0..4], columns]).unwrap();
    let len = shard.len() as usize;
    (shard, len)
}

/// Shards whose runs do not begin with a block or are cut within one, with the first wrong index.
fn wrong_shards() -> Vec<(Shard, usize, u64)> {
    let all: [(u64, &[std::ops::Range<u64>], u64); 6] = [
        (96, &[16..48], 16),
        (64, &[0..16], 16),
        // The second row begins within a block.
        (48, &[0..32], 48),
        (96, &[32..63], 63),
        (96, &[0..32, 33..65], 33),
        (96, &[0..33, 64..96], 33),
    ];
    all.into_iter()
        .map(|(of, ranges, wrong)| {
            let (shard, len) = columns(of, ranges);
            (shard, len, wrong)
        })
        .collect()
}

/// The same checks in a step of many tensors, also of shards and of mixed types.
#[test]
fn a_step_of_many_refuses_what_does_not_fit() {
    let step = |tensor: ParamMut<'_>| {
        step_all(&[AdamW::default()], &StepOptions::default(), [tensor]).unwrap_err()
    };
    refused(
        33,
        |Wrong { theta, m, v }, grad| {
            step(ParamMut::new(0, 1, theta, grad).with_state(m).with_state(&mut v[..1]))
        },
        "`v` has 1 block, expected 2 for 33 elements",
    );
    refused(
        40,
        |Wrong { theta, m, v }, grad| {
            step(ParamMut::new(0, 1, theta, grad).with_state(m).with_state(v).with_offset(40))
        },
        "`offset` is 40, expected a multiple of 32 for states in 8 bits",
    );
    for (shard, len, wrong) in wrong_shards() {
        refused(
            len,
            |Wrong { theta, m, v }, grad| {
                step(
                    ParamMut::new(0, 1, theta, grad).with_state(m).with_state(v).with_shard(&shard),
                )
            },
            &format!("`offset` is {wrong}, expected a multiple of 32 for states in 8 bits"),
        );
    }
    // The second of two tensors is named, and the first one has not changed.
    refused(
        64,
        |Wrong { theta, m, v }, grad| {
            let ((theta, rest), (grad, rest_grad)) = (theta.split_at_mut(32), grad.split_at(32));
            let ((m, rest_m), (v, rest_v)) = (m.split_at_mut(1), v.split_at_mut(1));
            let first = ParamMut::new(0, 1, theta, grad).with_state(m).with_state(v);
            let rest = ParamMut::new(0, 1, rest, rest_grad).with_state(rest_m).with_state(rest_v);
            let both = [first, rest.with_offset(1)];
            step_all(&[AdamW::default()], &StepOptions::default(), both).unwrap_err()
        },
        "tensor number 1: `offset` is 1, expected a multiple of 32 for states in 8 bits",
    );
    refused(
        32,
        |Wrong { theta, m, .. }, grad| {
            step(ParamMut::new(0, 1, theta, grad).with_state(m).with_state(&mut [0.0_f32; 32]))
        },
        "`v` is f32, expected 8 bits",
    );
    refused(
        32,
        |Wrong { theta, v, .. }, grad| {
            step(ParamMut::new(0, 1, theta, grad).with_state(&mut [0.0_f32; 32]).with_state(v))
        },
        "`v` is 8 bits, expected f32",
    );
    refused(
        32,
        |Wrong { m, v, .. }, _| {
            let (mut theta, grad) = ([0.5_f64; 32], [1.0_f64; 32]);
            step(ParamMut::new(0, 1, &mut theta, &grad).with_state(m).with_state(v))
        },
        "`m` is 8 bits, expected f64",
    );
}

/// Where a part is in its tensor.
enum Place {
    Offset(u64),
    Shard(Shard),
}

impl Place {
    fn tensor<'a>(&'a self, tensor: Tensor<'a>) -> Tensor<'a> {
        match self {
            Place::Offset(first) => tensor.with_offset(*first),
            Place::Shard(shard) => tensor.with_shard(shard),
        }
    }

    fn param<'a>(&'a self, param: ParamMut<'a>) -> ParamMut<'a> {
        match self {
            Place::Offset(first) => param.with_offset(*first),
            Place::Shard(shard) => param.with_shard(shard),
        }
    }
}

/// The same checks by an optimizer, which then has not counted the step.
#[test]
fn an_optimizer_refuses_what_does_not_fit() {
    let shards = wrong_shards().into_iter();
    let shards = shards.map(|(shard, len, wrong)| (Place::Shard(shard), len, wrong));
    let offsets = [1, 31, 40, u64::MAX].map(|first| (Place::Offset(first), 40, first));
    for (place, len, wrong) in shards.chain(offsets) {
        let mut opt = Optimizer::new(AdamW::default()).unwrap();
        let id = opt.add_mixed::<f32, f32, Block8>(GroupId::default(), "w", len).unwrap();
        let (mut theta, grad) = (vec![0.5_f32; len], vec![1.0_f32; len]);
        opt.step([Tensor::new(id, &mut theta, &grad)]).unwrap();
        let all = |opt: &Optimizer<AdamW>| {
            ["m", "v"].map(|name| opt.state::<Block8>(id, name).unwrap().to_vec())
        };
        let (before, theta_before) = (all(&opt), theta.clone());
        let tensor = place.tensor(Tensor::new(id, &mut theta, &grad));
        let error = opt.step([tensor]).unwrap_err();
        assert_eq!(*error.cause(), Error::Offset { offset: wrong });
        let message =
            format!("`offset` is {wrong}, expected a multiple of 32 for states in 8 bits");
        assert!(error.to_string().ends_with(&message), "{error}");
        assert!(opt.t(id) == Some(1) && opt.steps() == 1 && all(&opt) == before);
        assert_eq!(theta, theta_before);
    }
}

/// The states before the first step.
fn initial<R: Rule>(rule: &R, len: usize) -> Vec<Vec<Block8>> {
    let fresh = |(i, of): (usize, &State)| match rule.initial_state(i) {
        0.0 => vec![[0; 33]; len.div_ceil(32)],
        value => Format::new(*of).encode(&vec![value as f32; len]),
    };
    rule.states().iter().enumerate().map(fresh).collect()
}

/// An initial value is encoded, also in a last block that is not whole.
#[test]
fn initial_values_are_encoded() {
    for initial_accumulator_value in [0.1, 1e-30, 1e30] {
        let rule = AdaGrad { initial_accumulator_value, ..AdaGrad::default() };
        for len in [0, 1, 31, 32, 33, 1000] {
            let opt = Flat::<_, Block8>::new(rule, len).unwrap();
            let (_, _, states, _) = opt.into_parts();
            assert_eq!(states, initial(&rule, len), "{len}");
        }
    }
}

/// Where and how an owner steps.
fn options() -> Vec<StepOptions> {
    #[cfg(feature = "parallel")]
    let chunks = [1, 40, 1000].map(|n| Parallelism::Chunks(n.try_into().unwrap()));
    #[cfg(not(feature = "parallel"))]
    let chunks = [Parallelism::Auto];
    let parallelisms = chunks.into_iter().chain([Parallelism::Serial]);
    let all = parallelisms.flat_map(|parallelism| {
        let rounding = [Rounding::Nearest, Rounding::Stochastic { seed: 77 }];
        let of = move |rounding| {
            [false, true].map(|report_largest_update| StepOptions {
                parallelism,
                rounding,
                report_largest_update,
                ..StepOptions::default()
            })
        };
        rounding.into_iter().flat_map(of)
    });
    all.collect()
}

/// Takes a step in a pool of three threads.
fn on_threads(step: impl FnOnce() -> Result<Report, Error> + Send) {
    #[cfg(feature = "parallel")]
    let report = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap().install(step);
    #[cfg(not(feature = "parallel"))]
    let report = step();
    report.unwrap();
}

fn slices(states: &mut [Vec<Block8>]) -> Vec<&mut [Block8]> {
    states.iter_mut().map(Vec::as_mut_slice).collect()
}

const LENS: [usize; 9] = [0, 1, 31, 32, 33, 64, 100, 2000, 5000];

/// Three steps of an optimizer, and of `step_all`, have the bits of steps on slices with the seed
/// of the tensor: in pieces, while the gradient is set to zero, and while the change of θ is
/// measured.
fn owners_give_the_bits_of_steps<T, G, R>(rule: R)
where
    T: Bits + Element<Float = f32>,
    G: Bits + Element<Float = f32>,
    R: Rule,
{
    for options in options() {
        let mut opt = Optimizer::new(rule.clone()).unwrap();
        opt.options = options;
        let mut random = Random(12);
        let mut tensors = LENS.map(|len| {
            let name = format!("of {len}");
            let id = opt.add_mixed::<T, G, Block8>(GroupId::default(), &name, len).unwrap();
            let theta: Vec<T> = Numbers::Ordinary.fill(&mut random, len);
            (id, theta, Vec::<G>::new())
        });
        let mut others = LENS.map(|len| (Vec::<T>::new(), initial(&rule, len)));
        let mut alone = LENS.map(|len| (Vec::<T>::new(), initial(&rule, len)));
        for (((_, theta, _), (other, _)), (alone, _)) in
            tensors.iter().zip(&mut others).zip(&mut alone)
        {
            other.clone_from(theta);
            alone.clone_from(theta);
        }
        for t in 1..=3 {
            for ((_, theta, grad), (alone, states)) in tensors.iter_mut().zip(&mut alone) {
                *grad = Numbers::Ordinary.fill(&mut random, theta.len());
                let own = opt.seed(opt.id(&format!("of {}", theta.len())).unwrap(), 0).unwrap();
                Step::new(&rule, t)
                    .with_backend(Backend::Scalar)
                    .with_rounding(options.rounding)
                    .with_seed(own)
                    .run_mixed(alone, grad, &mut slices(states))
                    .unwrap();
            }
            let borrowed =
                tensors.iter().zip(&mut others).map(|((id, _, grad), (theta, states))| {
                    let param =
                        ParamMut::new(0, t, theta, grad).with_seed(opt.seed(*id, 0).unwrap());
                    states.iter_mut().fold(param, |param, state| param.with_state(state))
                });
            let borrowed: Vec<ParamMut<'_>> = borrowed.collect();
            let rules = [rule.clone()];
            on_threads(|| step_all(&rules, &options, borrowed));
            let owned: Vec<Tensor<'_>> = (tensors.iter_mut().enumerate())
                .map(|(i, (id, theta, grad))| match i % 2 {
                    0 => Tensor::new(*id, theta, grad),
                    _ => Tensor::zero_grad(*id, theta, grad),
                })
                .collect();
            on_threads(|| opt.step(owned));
        }
        for (((id, theta, _), (other, other_states)), (alone, states)) in
            tensors.iter().zip(&others).zip(&alone)
        {
            let place = format!("{} elements, {options:?}", theta.len());
            assert_eq!(difference("theta", theta, alone), None, "optimizer, {place}");
            assert_eq!(difference("theta", other, alone), None, "step_all, {place}");
            for ((declared, other), state) in rule.states().iter().zip(other_states).zip(states) {
                let name = declared.name();
                let own = opt.state::<Block8>(*id, name).unwrap();
                assert_eq!(difference(name, own, state), None, "optimizer, {place}");
                assert_eq!(difference(name, other, state), None, "step_all, {place}");
            }
        }
    }
}

/// A parameter without elements has states without blocks, and takes its step.
#[test]
fn an_empty_parameter_takes_its_step() {
    let mut opt = Optimizer::new(AdamW::default()).unwrap();
    let id = opt.add_mixed::<f32, f32, Block8>(GroupId::default(), "w", 0).unwrap();
    opt.step([Tensor::new(id, &mut [0.0_f32; 0], &[0.0_f32; 0])]).unwrap();
    assert!(opt.t(id) == Some(1) && opt.state::<Block8>(id, "v").is_some_and(|v| v.is_empty()));
}

#[test]
fn owners_of_f32_parameters() {
    let amsgrad = AdamW { amsgrad: true, ..AdamW::default() };
    owners_give_the_bits_of_steps::<f32, f32, _>(amsgrad);
    owners_give_the_bits_of_steps::<f32, bf16, _>(amsgrad);
}

#[test]
fn owners_of_16_bit_parameters() {
    owners_give_the_bits_of_steps::<bf16, bf16, _>(AdamW::default());
    owners_give_the_bits_of_steps::<f16, f32, _>(AdamW::default());
}

#[test]
fn owners_of_states_with_an_initial_value() {
    let rule = AdaGrad { initial_accumulator_value: 0.1, ..AdaGrad::default() };
    owners_give_the_bits_of_steps::<f32, f32, _>(rule);
}

/// A part whose runs are whole blocks gets the bits of the whole tensor, from an optimizer and from
/// `step_all`: some columns of a matrix, some ranges with the end of the tensor, and one range.
#[test]
fn parts_get_the_bits_of_the_whole() {
    let matrix = |columns: &[std::ops::Range<u64>]| {
        Place::Shard(Shard::new(&[6, 128], &[&[0..2, 3..6], columns]).unwrap())
    };
    let ends = Shard::new(&[5 * 32 + 17], &[&[32..64, 128..177]]).unwrap();
    let every_place: [(Place, usize, Vec<usize>); 5] = [
        (
            matrix(&[32..96]),
            6 * 128,
            [0, 1, 3, 4, 5].iter().flat_map(|row| [4 * row + 1, 4 * row + 2]).collect(),
        ),
        (
            matrix(&[0..32, 96..128]),
            6 * 128,
            [0, 1, 3, 4, 5].iter().flat_map(|row| [4 * row, 4 * row + 3]).collect(),
        ),
        (matrix(&[0..128]), 6 * 128, (0..8).chain(12..24).collect()),
        (Place::Shard(ends), 177, vec![1, 4, 5]),
        (Place::Offset(96), 177, vec![3, 4, 5]),
    ];
    let rule = AdamW::default();
    for (place, len, blocks) in &every_place {
        for options in options() {
            let part = |whole: &[f32]| -> Vec<f32> {
                blocks
                    .iter()
                    .flat_map(|i| &whole[32 * i..(*len).min(32 * (i + 1))])
                    .copied()
                    .collect()
            };
            let mut random = Random(13);
            let mut whole: Vec<f32> = Numbers::Ordinary.fill(&mut random, *len);
            let mut whole_states = initial(&rule, *len);
            let mut theta = part(&whole);
            let (mut other, mut other_states) = (theta.clone(), initial(&rule, theta.len()));
            let mut opt = Optimizer::new(rule).unwrap();
            opt.options = options;
            let id =
                opt.add_mixed::<f32, f32, Block8>(GroupId::default(), "w", theta.len()).unwrap();
            let seed = opt.seed(id, 0).unwrap();
            for t in 1..=3 {
                let grad: Vec<f32> = Numbers::Ordinary.fill(&mut random, *len);
                Step::new(&rule, t)
                    .with_rounding(options.rounding)
                    .with_seed(seed)
                    .run_mixed(&mut whole, &grad, &mut slices(&mut whole_states))
                    .unwrap();
                let grad = part(&grad);
                let tensor = place.tensor(Tensor::new(id, &mut theta, &grad));
                on_threads(|| opt.step([tensor]));
                let param = ParamMut::new(0, t, &mut other, &grad).with_seed(seed);
                let param =
                    other_states.iter_mut().fold(param, |param, state| param.with_state(state));
                let param = place.param(param);
                on_threads(|| step_all(&[rule], &options, [param]));
            }
            assert_eq!(difference("theta", &theta, &part(&whole)), None, "{options:?}");
            assert_eq!(difference("theta", &other, &part(&whole)), None, "{options:?}");
            for (i, name) in ["m", "v"].into_iter().enumerate() {
                let of_part: Vec<Block8> =
                    blocks.iter().map(|block| whole_states[i][*block]).collect();
                let own = opt.state::<Block8>(id, name).unwrap();
                assert_eq!(difference(name, own, &of_part), None, "{options:?}");
                assert_eq!(difference(name, &other_states[i], &of_part), None, "{options:?}");
            }
        }
    }
}
