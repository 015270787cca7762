//! The paths of all optimizers on two test functions, for the page and for its builder.
//!
//! The functions are those of the example `landscape`: (x − x₀)² + k·(y − b·x²)². Parameters and
//! states are `f32`. The gradient is computed in `f64` and rounded.

#![cfg_attr(not(target_family = "wasm"), forbid(unsafe_code))]

use fused_adam::{AnyRule, Error, Flat, Rule};

pub mod exports;

/// (x − x0)² + steepness·(y − bend·x²)², and the part of the plane that is plotted.
pub struct Landscape {
    pub name: &'static str,
    pub formula: &'static str,
    pub x0: f64,
    pub steepness: f64,
    pub bend: f64,
    pub start: [f64; 2],
    pub left_low: [f64; 2],
    pub right_high: [f64; 2],
    /// The distances of the starts that the builder computes.
    pub grid: [f64; 2],
}

pub const LANDSCAPES: [Landscape; 2] = [
    Landscape {
        name: "Rosenbrock’s valley",
        formula: "(x − 1)² + 10·(y − x²)²",
        x0: 1.0,
        steepness: 10.0,
        bend: 1.0,
        start: [-1.5, 0.5],
        left_low: [-2.0, -0.75],
        right_high: [2.0, 2.75],
        grid: [0.25, 0.25],
    },
    Landscape {
        name: "A ravine",
        formula: "x² + 50·y²",
        x0: 0.0,
        steepness: 50.0,
        bend: 0.0,
        start: [-4.0, 0.9],
        left_low: [-4.5, -1.15],
        right_high: [1.5, 1.15],
        grid: [0.25, 0.15],
    },
];

impl Landscape {
    /// The gradient at a point.
    fn gradient(&self, theta: [f32; 2]) -> [f32; 2] {
        let [x, y] = theta.map(f64::from);
        let wall = 2.0 * self.steepness * (y - self.bend * x * x);
        [(2.0 * (x - self.x0) - 2.0 * self.bend * x * wall) as f32, wall as f32]
    }
}

/// The hyper-parameters of a run, apart from the rule. `None` is the rule's default.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    pub start: [f64; 2],
    /// The initial learning rate. It decreases linearly to zero.
    pub lr: f64,
    pub beta1: Option<f64>,
    pub beta2: Option<f64>,
    pub eps: Option<f64>,
    pub weight_decay: Option<f64>,
    pub steps: u32,
}

/// Sets a field of the rules that have it, if there is a value.
macro_rules! set {
    ($rule:ident.$field:ident = $value:expr, $($Rule:ident)*) => {
        if let Some(value) = $value {
            match &mut $rule {
                $(AnyRule::$Rule(rule) => rule.$field = value,)*
                _ => {}
            }
        }
    };
}

impl Settings {
    /// The rule with these hyper-parameters. A rule ignores those that it does not have.
    fn apply_to(&self, mut rule: AnyRule) -> AnyRule {
        set!(rule.beta1 = self.beta1,
            Adam AdamW AdaMax NAdam RAdam AdaBound AdaBelief Lion AdEMAMix);
        set!(rule.beta2 = self.beta2,
            Adam AdamW AdaMax NAdam RAdam AdaBound AdaBelief Lion AdEMAMix);
        set!(rule.eps = self.eps,
            RmsProp AdaGrad Adam AdamW AdaMax NAdam RAdam AdaBound AdaBelief AdEMAMix);
        set!(rule.weight_decay = self.weight_decay,
            Sgd RmsProp AdaGrad Adam AdamW AdaMax NAdam RAdam AdaBound AdaBelief Lion AdEMAMix);
        rule
    }

    /// Runs the rule of this name. Calls `visit` with θ at the start and after each step, and
    /// returns the hash of θ and the states at the end.
    ///
    /// # Errors
    ///
    /// Those of the crate, such as a hyper-parameter that the rule does not allow.
    pub fn run(
        &self,
        name: &str,
        landscape: &Landscape,
        mut visit: impl FnMut([f32; 2]),
    ) -> Result<u64, Error> {
        let rule = self.apply_to(name.parse()?);
        let mut theta = self.start.map(|x| x as f32);
        let mut opt = Flat::<_, f32>::new(rule, theta.len())?;
        visit(theta);
        for step in 0..self.steps {
            opt.rule_mut().set_lr(self.lr * (1.0 - f64::from(step) / f64::from(self.steps)));
            let grad = landscape.gradient(theta);
            opt.step(&mut theta, &grad)?;
            visit(theta);
        }
        let (_, _, states, _) = opt.into_parts();
        Ok(hash(theta.iter().chain(states.iter().flatten())))
    }
}

/// FNV-1a of the bits in little-endian order. All NaNs count as equal: their signs and payloads are
/// not specified.
fn hash<'a>(values: impl Iterator<Item = &'a f32>) -> u64 {
    let bits = values.map(|x| if x.is_nan() { 0x7fc0_0000 } else { x.to_bits() });
    bits.flat_map(u32::to_le_bytes).fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
