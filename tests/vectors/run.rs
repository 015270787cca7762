//! One run of a case: the element types of its buffers, how they are rounded, and its steps.

use fused_adam::{
    AnyRule, Backend, Block8, Correction, Element, Error, Flat, Half, Rounding, Rule, StateElement,
    bf16, f16,
};
use serde_json::{Map, Value};

use crate::cases::Options;
use crate::common::Bits;
use crate::inputs::{GRADS, Inputs, LEN, Of};

/// The steps after which the results are published.
pub const STEPS: [u64; 3] = [1, 10, 1000];

/// The seed and the offset of all runs. The seed has more than 32 bits. Element 32 has the index
/// 2^32.
pub const SEED: u64 = 0x1_2345_6789;
pub const OFFSET: u64 = (1 << 32) - 32;

/// The types of θ, of the gradient and of the states, and what is beside θ. A run has this name,
/// with `-stochastic` if it rounds so.
pub const FORMATS: &[&str] = &[
    "f64/f64/f64",
    "f32/f32/f32",
    "f32/f32/f32-copy_bf16",
    "f32/f32/f32-copy_f16",
    "f32/bf16/f32",
    "f32/f16/bf16",
    "f32/f16/bf16-stochastic",
    "f32/f32/f16-stochastic",
    "f32/f32/8bit",
    "bf16/bf16/bf16",
    "bf16/bf16/bf16-stochastic",
    "bf16/f32/f32-stochastic",
    "bf16/bf16/8bit",
    "bf16/bf16/8bit-stochastic",
    "bf16/bf16/f32-correction_16",
    "bf16/bf16/8bit-correction_8",
    "f16/f16/f16",
    "f16/f16/f16-stochastic",
    "f16/f32/f32-stochastic",
    "f16/f16/8bit-stochastic",
];

/// The formats of a case that differs from others only in its arithmetic.
pub const FEW_FORMATS: &[&str] =
    &["f64/f64/f64", "f32/f32/f32", "f16/f16/f16", "bf16/bf16/8bit-stochastic"];

/// The results after one of [`STEPS`]: by the name of the buffer, its bits.
pub type Buffers = Map<String, Value>;

/// Takes all steps, and returns the results after each of [`STEPS`].
pub fn run(
    format: &str,
    rule: AnyRule,
    options: Options,
    inputs: &Inputs,
    backend: Backend,
) -> Result<Vec<Buffers>, Error> {
    let (types, beside) = format.split_once('-').unwrap_or((format, ""));
    let rounding = match beside {
        "stochastic" => Rounding::Stochastic { seed: SEED },
        _ => Rounding::Nearest,
    };
    let start = Start { rule, options, rounding, backend };
    let Inputs { f64, f32, bf16, f16 } = inputs;
    match (types, beside) {
        ("f64/f64/f64", _) => start.plain::<f64, _, f64>(f64, f64),
        ("f32/f32/f32", "copy_bf16") => start.with_copy::<bf16>(inputs),
        ("f32/f32/f32", "copy_f16") => start.with_copy::<f16>(inputs),
        ("f32/f32/f32", _) => start.plain::<_, _, f32>(f32, f32),
        ("f32/bf16/f32", _) => start.plain::<_, _, f32>(f32, bf16),
        ("f32/f16/bf16", _) => start.plain::<_, _, bf16>(f32, f16),
        ("f32/f32/f16", _) => start.plain::<_, _, f16>(f32, f32),
        ("f32/f32/8bit", _) => start.plain::<_, _, Block8>(f32, f32),
        ("bf16/bf16/bf16", _) => start.plain::<_, _, bf16>(bf16, bf16),
        ("bf16/f32/f32", _) => start.plain::<_, _, f32>(bf16, f32),
        ("bf16/bf16/f32", "correction_16") => start.split::<f32, u16>(inputs),
        ("bf16/bf16/8bit", "correction_8") => start.split::<Block8, u8>(inputs),
        ("bf16/bf16/8bit", _) => start.plain::<_, _, Block8>(bf16, bf16),
        ("f16/f16/f16", _) => start.plain::<_, _, f16>(f16, f16),
        ("f16/f32/f32", _) => start.plain::<_, _, f32>(f16, f32),
        ("f16/f16/8bit", _) => start.plain::<_, _, Block8>(f16, f16),
        _ => panic!("there is no format `{format}`"),
    }
}

/// What the runs of all types have in common.
struct Start {
    rule: AnyRule,
    options: Options,
    rounding: Rounding,
    backend: Backend,
}

impl Start {
    fn owner<S: StateElement>(&self) -> Result<Flat<AnyRule, S>, Error> {
        let Options { grad_scale, clip_value } = self.options;
        // The seed of `Flat` and that of the rounding are combined by exclusive or. States in 8
        // bits have random bits also where θ is rounded to the nearest.
        let seed = if self.rounding == Rounding::Nearest { SEED } else { 0 };
        Ok(Flat::new(self.rule, LEN)?
            .with_backend(self.backend)
            .with_rounding(self.rounding)
            .with_seed(seed)
            .with_offset(OFFSET)
            .with_grad_scale(grad_scale)
            .with_clip_value(clip_value))
    }

    /// θ, g and states, and nothing beside them.
    fn plain<T, G, S>(&self, theta: &Of<T>, grad: &Of<G>) -> Result<Vec<Buffers>, Error>
    where
        T: Bits + Hex + Element<Float = S::Float>,
        G: Bits + Element<Float = S::Float>,
        S: StateElement + Hex,
    {
        let running = Running { owner: self.owner::<S>()?, buffers: theta.theta.clone() };
        running.publish(
            |owner, theta, i| owner.step_mixed(theta, &grad.grads[i]),
            |theta| [("theta", words(theta))],
        )
    }

    /// `f32` master weights with a copy.
    fn with_copy<H: Half + Hex>(&self, inputs: &Inputs) -> Result<Vec<Buffers>, Error> {
        let buffers = (inputs.f32.theta.clone(), vec![H::from_f64(0.0); LEN]);
        Running { owner: self.owner::<f32>()?, buffers }.publish(
            |owner, (theta, copy), i| owner.step_with_copy(theta, &inputs.f32.grads[i], copy),
            |(theta, copy)| [("theta", words(theta)), ("copy", words(copy))],
        )
    }

    /// Split master weights.
    fn split<S, C>(&self, inputs: &Inputs) -> Result<Vec<Buffers>, Error>
    where
        S: StateElement<Float = f32> + Hex,
        C: Hex + Default,
        for<'a> Correction<'a>: From<&'a mut [C]>,
    {
        let (mut theta, mut low) = (vec![bf16::ZERO; LEN], vec![C::default(); LEN]);
        Correction::from(&mut low[..]).split(&inputs.f32.theta, &mut theta)?;
        Running { owner: self.owner::<S>()?, buffers: (theta, low) }.publish(
            |owner, (theta, low), i| owner.step_split(theta, &mut low[..], &inputs.bf16.grads[i]),
            |(theta, low)| [("theta", words(theta)), ("correction", words(low))],
        )
    }
}

/// The state of a run: a value of this type takes steps and shows its buffers.
struct Running<S, B> {
    owner: Flat<AnyRule, S>,
    /// θ and what is beside it.
    buffers: B,
}

impl<S: StateElement + Hex, B> Running<S, B> {
    /// Takes all steps, each with the number of its gradient. Keeps the results of [`STEPS`].
    fn publish<const K: usize>(
        mut self,
        step: impl Fn(&mut Flat<AnyRule, S>, &mut B, usize) -> Result<(), Error>,
        show: impl Fn(&B) -> [(&'static str, String); K],
    ) -> Result<Vec<Buffers>, Error> {
        let mut published = Vec::new();
        for t in 1..=STEPS[2] {
            step(&mut self.owner, &mut self.buffers, (t - 1) as usize % GRADS)?;
            if STEPS.contains(&t) {
                published.push(buffers(&self.owner, show(&self.buffers)));
            }
        }
        Ok(published)
    }
}

/// The bits of all buffers and scalars.
fn buffers<S: StateElement + Hex, const K: usize>(
    owner: &Flat<AnyRule, S>,
    theta: [(&str, String); K],
) -> Buffers {
    let rule = owner.rule();
    let theta = theta.into_iter().map(|(name, words)| (name.to_owned(), words));
    let states = rule.states().iter().map(|state| state.name());
    let states = states.map(|name| (name.to_owned(), words(owner.state(name).unwrap())));
    let scalars = rule.scalars().iter().zip(owner.scalars());
    let scalars = scalars.map(|(&name, x)| (name.to_owned(), x.hex()));
    theta.chain(states).chain(scalars).map(|(name, words)| (name, words.into())).collect()
}

/// A number, or a block of them, as a word of hexadecimal digits.
pub trait Hex: Copy {
    fn hex(self) -> String;
}

macro_rules! hex_of_floats {
    ($($float:ty: $digits:literal, $nan:literal;)*) => {$(
        impl Hex for $float {
            /// Every NaN is written as the same one, because its sign and payload are not
            /// specified.
            fn hex(self) -> String {
                let bits = if self.is_nan() { $nan } else { self.to_bits() };
                format!(concat!("{:0", $digits, "x}"), bits)
            }
        }
    )*};
}

hex_of_floats! {
    f64: "16", 0x7FF8_0000_0000_0000;
    f32: "8", 0x7FC0_0000;
    bf16: "4", 0x7FC0;
    f16: "4", 0x7E00;
}

impl Hex for u16 {
    fn hex(self) -> String {
        format!("{self:04x}")
    }
}

impl Hex for u8 {
    fn hex(self) -> String {
        format!("{self:02x}")
    }
}

/// The 32 codes and the scale, in the order in which they are stored.
impl Hex for Block8 {
    fn hex(self) -> String {
        self.iter().map(|byte| byte.hex()).collect()
    }
}

/// The words of a buffer, separated by spaces.
pub fn words<E: Hex>(buffer: &[E]) -> String {
    buffer.iter().map(|x| x.hex()).collect::<Vec<_>>().join(" ")
}
