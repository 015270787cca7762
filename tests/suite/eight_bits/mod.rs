//! States in 8 bits. This file has a codec that is written out by hand, and a rule that only
//! encodes.

mod codec;
mod owners;
mod refusals;
mod rounding;

use fused_adam::{
    Block8, Error, Float, Kernel, KernelVisitor, Lanes, ParamMut, Rounding, Rule, Shard, State,
    Step, Tensor,
};

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

/// Each state becomes g: a step that only encodes. A backend leaves a block with a number below 0
/// in a state without signs to the reference, so such a state becomes |g| unless `below_0`.
#[derive(Clone, Copy, Debug)]
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
