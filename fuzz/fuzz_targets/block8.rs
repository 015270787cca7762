//! Arbitrary bytes as a state in 8 bits, and arbitrary numbers to be encoded. `kernels.md` gives
//! the properties in *States in 8 bits*.
//!
//! - `State::decode` takes any bytes. It gives the numbers of the format's formula.
//! - `State::encode` takes any numbers. Each is decoded to a number within half of the distance of
//!   two codes. Encoding the decoded numbers again gives the same block.
//! - A step on any bytes has the same bits on every backend. θ is that of the step on the decoded
//!   `f32` states. Each new state is within the distance of two codes.
//! - Steps with wrong numbers of blocks are refused, and change nothing.

#![no_main]

use fused_adam::{
    AdaMax, AdamW, Backend, Block8, Error, Flat, Lion, Parallelism, Rounding, Rule, State, Step,
};
use libfuzzer_sys::arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;

/// The number of elements in a block.
const BLOCK: usize = 32;
/// The place of the byte of the scale.
const SCALE: usize = 32;
/// That of a block with an infinity or NaN.
const NOT_FINITE: u8 = 255;

fn power_of_two(exponent: i32) -> f64 {
    2.0_f64.powi(exponent)
}

/// The largest element, in units of the scale.
fn top(state: State) -> f64 {
    if state.is_signed() { 14.75 } else { 251.0 }
}

/// The byte of the largest scale.
fn largest_scale(state: State) -> u8 {
    if state.is_signed() { 251 } else { 247 }
}

/// *Decoding*.
fn decoded(state: State, block: &Block8, i: usize) -> f32 {
    let (one, code) = (u32::from(block[SCALE]) << 23, u32::from(block[i]));
    let magnitude = if state.is_signed() { code & 0x7F } else { code };
    let x = f32::from_bits(one.wrapping_add(magnitude << 18)) - f32::from_bits(one);
    if state.is_signed() && code >= 0x80 { f32::from_bits(x.to_bits() | 1 << 31) } else { x }
}

fn same(one: f32, other: f32) -> bool {
    one.to_bits() == other.to_bits() || (one.is_nan() && other.is_nan())
}

fn blocks(bytes: &mut Unstructured, count: usize) -> Vec<Block8> {
    (0..count).map(|_| bytes.arbitrary().unwrap_or([0; BLOCK + 1])).collect()
}

/// Checks the blocks that encode `numbers`, with an error of at most `distance` of the distance of
/// two codes.
#[track_caller]
fn expect_encoded(state: State, numbers: &[f32], blocks: &[Block8], distance: f64) {
    assert_eq!(blocks.len(), numbers.len().div_ceil(BLOCK));
    for (block, numbers) in blocks.iter().zip(numbers.chunks(BLOCK)) {
        assert!(block[numbers.len()..BLOCK].iter().all(|code| *code == 0), "unused codes");
        if numbers.iter().any(|x| !x.is_finite()) {
            assert_eq!(block[SCALE], NOT_FINITE);
            assert!(block[..BLOCK].iter().all(|code| *code == 0));
            assert!((0..numbers.len()).all(|i| decoded(state, block, i).is_nan()));
            continue;
        }
        assert!((7..=largest_scale(state)).contains(&block[SCALE]), "the scale {}", block[SCALE]);
        let scale = power_of_two(i32::from(block[SCALE]) - 127);
        let size = |x: f32| f64::from(if state.is_signed() { x.abs() } else { x.max(0.0) });
        let largest = numbers.iter().map(|x| size(*x)).fold(0.0, f64::max);
        // The least scale for which all are in the range.
        let fits = |scale: f64| largest <= top(state) * scale;
        assert!(fits(scale) || block[SCALE] == largest_scale(state));
        assert!(!fits(scale / 2.0) || block[SCALE] == 7);
        for (i, &x) in numbers.iter().enumerate() {
            let (new, x) = (decoded(state, block, i), size(x).min(top(state) * scale) / scale);
            assert!(new.is_finite());
            let negative = state.is_signed() && numbers[i].is_sign_negative();
            assert_eq!(new.is_sign_negative(), negative);
            if state.is_divisor() && !state.is_signed() && x > 0.0 {
                assert!(new > 0.0, "{x} became 0");
                if x < 1.0 / 32.0 {
                    assert_eq!(f64::from(new.abs()) / scale, 1.0 / 32.0);
                    continue;
                }
            }
            // The distance at the larger of the two. The sum is rounded to 2^-22 of itself.
            let new = f64::from(new.abs()) / scale;
            let allowed = (x.max(new) + 1.0) / 32.0 * distance * 1.0001;
            assert!((new - x).abs() <= allowed, "{x} became {new}, in units of the scale");
        }
    }
}

/// The state of a rule with these properties.
fn any_state(choice: u8) -> State {
    let state = if choice & 1 == 0 { State::signed("s") } else { State::non_negative("p") };
    let state = if choice & 2 == 0 { state } else { state.divisor() };
    if choice & 4 == 0 { state } else { state.running_max() }
}

fn codec(bytes: &mut Unstructured) {
    let state = any_state(bytes.arbitrary().unwrap_or(0));
    let len = bytes.int_in_range(0..=100).unwrap_or(0);
    let count = bytes.int_in_range(0..=4).unwrap_or(0);
    let from = blocks(bytes, count);
    let mut elements = vec![0.5; len];
    state.decode(&from, &mut elements);
    for (i, x) in elements.iter().enumerate() {
        let expected = from.get(i / BLOCK).map_or(0.5, |block| decoded(state, block, i % BLOCK));
        assert!(same(*x, expected), "element {i} is {x}, expected {expected}");
    }

    // The decoded numbers, other numbers after them, and some in place of them.
    for x in &mut elements {
        if bytes.arbitrary::<u8>().unwrap_or(0) < 32 {
            *x = f32::from_bits(bytes.arbitrary().unwrap_or(0));
        }
    }
    let mut encoded = vec![[0xA5; BLOCK + 1]; count];
    state.encode(&elements, &mut encoded);
    let used = count.min(len.div_ceil(BLOCK));
    let kept = len.min(count * BLOCK);
    expect_encoded(state, &elements[..kept], &encoded[..used], 0.5);
    let is_0 = |block: &Block8| (0..BLOCK).all(|i| decoded(state, block, i).to_bits() == 0);
    assert!(encoded[used..].iter().all(is_0), "blocks without elements");

    // What is decoded has codes, unless the scale shrinks, which then may have coarser codes.
    let mut again = elements.clone();
    state.decode(&encoded, &mut again);
    let mut twice = encoded.clone();
    state.encode(&again, &mut twice);
    for (block, new) in encoded[..used].iter().zip(&twice) {
        if block[SCALE] == new[SCALE] {
            assert_eq!(block, new);
        } else {
            assert_eq!(block[SCALE], new[SCALE] + 1);
        }
    }
}

/// A rule of few states, for which the step is compiled for each backend.
fn steps<R: Rule + Copy + PartialEq>(rule: R, bytes: &mut Unstructured) {
    let len: usize = bytes.int_in_range(0..=100).unwrap_or(0);
    let count = len.div_ceil(BLOCK);
    let t = 1 + u64::from(bytes.arbitrary::<u16>().unwrap_or(0));
    let seed = bytes.arbitrary::<u8>().unwrap_or(0).into();
    let offset = 32 * u64::from(bytes.arbitrary::<u8>().unwrap_or(0));
    let names = rule.states();
    let states: Vec<Vec<Block8>> = names.iter().map(|_| blocks(bytes, count)).collect();
    let style: u8 = bytes.arbitrary().unwrap_or(0);
    let mut number = || match style {
        0..64 => f32::from(bytes.arbitrary::<i8>().unwrap_or(1)) / 64.0,
        _ => f32::from_bits(bytes.arbitrary().unwrap_or(0x3F80_0000)),
    };
    let grad: Vec<f32> = (0..len).map(|_| number()).collect();
    let theta: Vec<f32> = (0..len).map(|i| i as f32 / 16.0).collect();
    let step = Step::new(&rule, t)
        .with_rounding(Rounding::Stochastic { seed })
        .with_offset(offset)
        .with_parallelism(Parallelism::Serial);

    let run = |backend: Backend| {
        let (mut theta, mut states) = (theta.clone(), states.clone());
        let mut slices: Vec<&mut [Block8]> = states.iter_mut().map(Vec::as_mut_slice).collect();
        let step = step.clone().with_backend(backend);
        step.run_mixed(&mut theta, &grad, &mut slices).expect("valid buffers");
        (theta, states)
    };
    let expected = run(Backend::Scalar);
    for &backend in Backend::ALL.iter().filter(|backend| backend.is_available()) {
        let (theta, states) = run(backend);
        assert_eq!(states, expected.1, "{}", backend.name());
        for (one, other) in theta.iter().zip(&expected.0) {
            assert!(same(*one, *other), "θ is {one} on {}, expected {other}", backend.name());
        }
    }

    // The same step with the decoded states.
    let mut decoded: Vec<Vec<f32>> = states.iter().map(|_| vec![0.0; len]).collect();
    for ((name, blocks), elements) in names.iter().zip(&states).zip(&mut decoded) {
        name.decode(blocks, elements);
    }
    let mut wide = theta.clone();
    let mut slices: Vec<&mut [f32]> = decoded.iter_mut().map(Vec::as_mut_slice).collect();
    step.run(&mut wide, &grad, &mut slices).expect("valid buffers");
    for (one, other) in expected.0.iter().zip(&wide) {
        assert!(same(*one, *other), "θ is {one}, expected {other} as with f32");
    }
    for ((name, blocks), elements) in names.iter().zip(&expected.1).zip(&decoded) {
        let distance = if name.is_running_max() { 0.5 } else { 1.0 };
        expect_encoded(*name, elements, blocks, distance);
        if name.is_running_max() {
            let mut nearest = blocks.clone();
            name.encode(elements, &mut nearest);
            assert_eq!(*blocks, nearest, "a running maximum");
        }
    }

    owner(rule, &states, &theta, &grad);
    refused(&step, &states, &theta, &grad, bytes);
}

/// `Flat` takes the step that `Step` takes.
fn owner<R: Rule + Copy>(rule: R, states: &[Vec<Block8>], theta: &[f32], grad: &[f32]) {
    let mut flat = Flat::resume(rule, 7, states.to_vec()).expect("states of one length");
    let (mut theta, mut twin, mut states) = (theta.to_vec(), theta.to_vec(), states.to_vec());
    flat.step_mixed(&mut theta, grad).expect("valid buffers");
    let mut slices: Vec<&mut [Block8]> = states.iter_mut().map(Vec::as_mut_slice).collect();
    Step::new(&rule, 8).run_mixed(&mut twin, grad, &mut slices).expect("valid buffers");
    assert!(theta.iter().zip(&twin).all(|(one, other)| same(*one, *other)));
    let (_, t, flat, _) = flat.into_parts();
    assert_eq!((t, &flat), (8, &states));
}

/// Another number of blocks of one state is refused.
fn refused<R: Rule>(
    step: &Step<'_, R>,
    states: &[Vec<Block8>],
    theta: &[f32],
    grad: &[f32],
    bytes: &mut Unstructured,
) {
    let (mut wrong, mut unchanged) = (states.to_vec(), theta.to_vec());
    let i = bytes.int_in_range(0..=wrong.len() - 1).unwrap_or(0);
    let count = bytes.int_in_range(0..=5).unwrap_or(0);
    if count == wrong[i].len() {
        return;
    }
    wrong[i].resize(count, [1; BLOCK + 1]);
    let before = wrong.clone();
    let mut slices: Vec<&mut [Block8]> = wrong.iter_mut().map(Vec::as_mut_slice).collect();
    let error = step.run_mixed(&mut unchanged, grad, &mut slices).expect_err("a wrong number");
    let Error::Blocks { blocks, expected, len, .. } = error else { panic!("{error}") };
    assert_eq!((blocks, expected, len), (count, theta.len().div_ceil(BLOCK), theta.len()));
    assert_eq!(wrong, before);
    assert_eq!(unchanged, theta);
}

fuzz_target!(|bytes: &[u8]| {
    let bytes = &mut Unstructured::new(bytes);
    match bytes.int_in_range(0..=4).unwrap_or(0) {
        0 | 1 => codec(bytes),
        2 => steps(AdamW { amsgrad: true, ..AdamW::default() }, bytes),
        3 => steps(AdaMax::default(), bytes),
        _ => steps(Lion::default(), bytes),
    }
});
