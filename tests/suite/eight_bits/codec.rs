//! The format against a codec that is written out by hand: `Format`.

use std::collections::BTreeSet;

use fused_adam::{Backend, Rounding, State, Step};

use super::{
    D, D_NEAREST, DIVISOR, Format, Keep, NOT_FINITE, P_NEAREST, POSITIVE, S_NEAREST, SIGNED,
    decode, encode, keep, power,
};
use crate::common::{Bits, Random, difference};

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
