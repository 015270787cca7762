//! Split master weights and states in 8 bits through the header, next to the core.

use std::ffi::c_void;
use std::ptr::{null, null_mut};

use fused_adam::{AnyRule, Block8, Correction, Element, Rule, State, StateElement, bf16};
use fused_adam_c::*;

use crate::common::random_rule::random_rule_from;
use crate::common::{Bits, Guarded, Numbers, Random, difference};
use crate::rules::Handle;
use crate::{Buffers, Numbered, Options, compare, every_rule, expect_ok};

/// What is in a correction: `u16` or `u8`.
trait Low: Copy + Default + PartialEq + core::fmt::Debug {
    const BITS: i32;
    fn random(random: &mut Random) -> Self;
}

impl Low for u16 {
    const BITS: i32 = 16;
    fn random(random: &mut Random) -> Self {
        random.bits() as u16
    }
}
impl Low for u8 {
    const BITS: i32 = 8;
    fn random(random: &mut Random) -> Self {
        random.bits() as u8
    }
}

/// The difference in a step on split master weights, if any.
fn differs<G, S, L>(random: &mut Random, name: &str) -> Option<String>
where
    G: Numbered + Bits + Element<Float = f32>,
    S: Numbered + StateElement<Float = f32>,
    L: Low,
    for<'a> Correction<'a>: From<&'a mut [L]>,
{
    let rule = random_rule_from(name, random, 1);
    let asked = Options::random::<S>(random);
    let Buffers { mut theta, grad, mut states } =
        Buffers::<bf16, G, S>::random(random, rule.states());
    let mut correction: Vec<L> = theta.iter().map(|_| L::random(random)).collect();
    let (mut own_theta, mut own_correction) = (Guarded::new(&theta, 7), correction.clone());
    let mut own_states: Vec<_> = states.iter().map(|state| Guarded::new(state, 3)).collect();

    let mut borrowed: Vec<&mut [S]> = states.iter_mut().map(Vec::as_mut_slice).collect();
    let low = Correction::from(&mut correction[..]);
    let expected = asked.reference(&rule).run_split(&mut theta, low, &grad, &mut borrowed);
    let own = own_correction.as_mut_slice();
    let status = by_header(&rule, &asked, own_theta.get_mut(), own, &grad, &mut own_states);
    compare(expected, status, || {
        let names = rule.states().iter().map(State::name);
        let state = names.zip(own_states.iter().zip(&states));
        let mut states = state.filter_map(|(name, (own, s))| difference(name, own.get(), s));
        let beside = !own_theta.intact() || own_states.iter().any(|state| !state.intact());
        let low = (own_correction != correction).then(|| "the correction differs".to_owned());
        let beside = beside.then(|| "wrote beside".to_owned());
        let theta = difference("theta", own_theta.get(), &theta);
        theta.or(low).or_else(|| states.next()).or(beside)
    })
    .map(|what| format!("{rule:?}, {asked:?}, split, {} elements: {what}", theta.len()))
}

fn by_header<G: Numbered, S: Numbered, L: Low>(
    rule: &AnyRule,
    asked: &Options,
    theta: &mut [bf16],
    correction: &mut [L],
    grad: &[G],
    states: &mut [Guarded<S>],
) -> FusedAdamStatus {
    let handle = Handle::of(rule);
    let len = theta.len();
    let (theta, grad) = (theta.as_mut_ptr(), grad.as_ptr());
    let correction: *mut c_void = correction.as_mut_ptr().cast();
    let state_pointers: Vec<*mut c_void> =
        states.iter_mut().map(|state| state.get_mut().as_mut_ptr().cast()).collect();
    let (states, state_count) = (state_pointers.as_ptr(), state_pointers.len());
    let plain = [G::NUMBER, S::NUMBER] == [FusedAdamType::Bf16, FusedAdamType::F32]
        && (asked.seed, asked.offset) == (0, 0);
    // SAFETY: every pointer is to a slice of `len` elements of the given type.
    asked.options(|options| unsafe {
        if plain {
            return fused_adam_step_split(
                handle.get(),
                asked.t,
                len,
                theta.cast(),
                correction,
                L::BITS,
                grad.cast(),
                states.cast(),
                state_count,
                options,
                null_mut(),
            );
        }
        let borrowed = FusedAdamParam {
            rule: 0,
            t: asked.t,
            len,
            theta: theta.cast(),
            grad: grad.cast(),
            states,
            state_count,
            scalars: null(),
            scalar_count: 0,
            copy: null_mut(),
            seed: asked.seed,
            offset: asked.offset,
            theta_type: FusedAdamType::Bf16 as i32,
            grad_type: G::NUMBER as i32,
            state_type: S::NUMBER as i32,
            copy_type: 0,
            correction,
            correction_bits: L::BITS,
        };
        fused_adam_step_all([handle.get()].as_ptr(), 1, &raw const borrowed, 1, options, null_mut())
    })
}

#[test]
fn split_master_weights() {
    every_rule("bf16 gradients, a correction of 16 bits", differs::<bf16, f32, u16>);
    every_rule("bf16 gradients, a correction of 8 bits", differs::<bf16, f32, u8>);
    every_rule("f32 gradients, states in 8 bits, 16 bits", differs::<f32, Block8, u16>);
    every_rule("bf16 gradients, states in 8 bits, 8 bits", differs::<bf16, Block8, u8>);
}

/// The weights that are split and joined through the header are the core's.
#[test]
fn weights_are_split_and_joined() {
    fn check<L: Low>(weights: &[f32])
    where
        for<'a> Correction<'a>: From<&'a mut [L]>,
    {
        let len = weights.len();
        let (mut theta, mut low) = (vec![bf16::ZERO; len], vec![L::default(); len]);
        let (mut own_theta, mut own_low) = (theta.clone(), low.clone());
        Correction::from(&mut low[..]).split(weights, &mut theta).unwrap();
        let (mut joined, mut own_joined) = (vec![0.0_f32; len], Guarded::new(weights, 3));
        Correction::from(&mut low[..]).join(&theta, &mut joined).unwrap();
        let correction: *mut c_void = own_low.as_mut_ptr().cast();
        // SAFETY: every pointer is to a slice of `len` elements of the given type.
        unsafe {
            let to = own_theta.as_mut_ptr().cast();
            let split = fused_adam_split_weights(len, weights.as_ptr(), to, correction, L::BITS);
            expect_ok(split);
            let into = own_joined.get_mut().as_mut_ptr();
            expect_ok(fused_adam_join_weights(len, to, correction, L::BITS, into));
        }
        assert_eq!(difference("theta", &own_theta, &theta), None);
        assert!(own_low == low && own_joined.intact());
        assert_eq!(difference("joined", own_joined.get(), &joined), None);
        if L::BITS == 16 {
            assert_eq!(difference("joined", own_joined.get(), weights), None);
        }
    }
    for len in [0, 1, 1023, 1024, 5000] {
        let weights: Vec<f32> = Numbers::Wild.fill(&mut Random(len as u64), len);
        check::<u16>(&weights);
        check::<u8>(&weights);
    }
}

/// States that are encoded and decoded through the header are the core's, for every state of every
/// rule.
#[test]
fn states_are_encoded_and_decoded() {
    for rule in crate::core_rules::names().map(crate::core_rules::default) {
        let handle = Handle::of(&rule);
        for (i, state) in rule.states().iter().enumerate() {
            for len in [0, 1, 32, 33, 1000] {
                let elements: Vec<f32> = Numbers::Ordinary.fill(&mut Random(len as u64), len);
                let mut blocks: Vec<Block8> = vec![[9; 33]; Block8::slots(len)];
                let mut own = Guarded::new(&blocks, 5);
                let (mut decoded, mut own_decoded) = (vec![7.0; len], vec![8.0_f32; len]);
                state.encode(&elements, &mut blocks);
                state.decode(&blocks, &mut decoded);
                // SAFETY: every pointer is to a slice of `len` elements of the given type.
                unsafe {
                    let (from, to) = (elements.as_ptr(), own.get_mut().as_mut_ptr().cast::<u8>());
                    expect_ok(fused_adam_rule_encode_state(handle.get(), i, len, from, to));
                    let into = own_decoded.as_mut_ptr();
                    expect_ok(fused_adam_rule_decode_state(handle.get(), i, len, to, into));
                }
                assert!(own.get() == blocks && own.intact(), "{rule:?}, {state:?}, {len}");
                assert_eq!(difference(state.name(), &own_decoded, &decoded), None);
                let of = FusedAdamType::Block8 as i32;
                assert_eq!(fused_adam_state_bytes(of, len), size_of_val(&blocks[..]));
            }
        }
    }
    assert_eq!(fused_adam_state_bytes(FusedAdamType::Bf16 as i32, 7), 14);
}
