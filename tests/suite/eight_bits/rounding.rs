//! Stochastic rounding: it has no bias, and its random bits belong to one place and one step.

use fused_adam::{AdamW, Backend, Block8, Flat, Rule, State, Step};

use super::{
    D, D_NEAREST, DIVISOR, Format, KEEP, P, P_NEAREST, POSITIVE, S, S_NEAREST, SIGNED, decode,
    encode, keep, power, random_step,
};
use crate::common::{Numbers, Random, difference};

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
