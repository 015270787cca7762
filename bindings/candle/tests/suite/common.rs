//! Variables with random numbers, and functions that read their bits.

#[path = "../../../../tests/common/rules.rs"]
mod core_rules;

use crate::digits::Random;
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Result, Tensor, Var, WithDType};
use fused_adam::{AnyRule, Element, Real};
use fused_adam_candle::{Config, GroupId, Optimizer, fused_adam};

/// An element type of fused-adam and candle.
pub trait Number: Element + WithDType {}
impl<E: Element + WithDType> Number for E {}

/// Uniform in [−1, 1).
pub fn uniform<E: Number>(random: &mut Random, len: usize) -> Vec<E> {
    (0..len).map(|_| <E as Real>::from_f64(random.uniform())).collect()
}

/// The elements of a tensor, in its order.
pub fn elements<E: Number>(tensor: &Tensor) -> Vec<E> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Their bits.
pub fn bits<E: Number>(elements: &[E]) -> Vec<u8> {
    fused_adam::bytemuck::cast_slice(elements).to_vec()
}

/// The bits of a tensor of any type.
pub fn tensor_bits(tensor: &Tensor) -> Vec<u8> {
    match tensor.dtype() {
        DType::F32 => bits(&elements::<f32>(tensor)),
        DType::F64 => bits(&elements::<f64>(tensor)),
        DType::BF16 => bits(&elements::<fused_adam::bf16>(tensor)),
        DType::F16 => bits(&elements::<fused_adam::f16>(tensor)),
        // A state in 8 bits.
        DType::U8 => tensor.flatten_all().unwrap().to_vec1().unwrap(),
        other => panic!("{other:?}"),
    }
}

/// A variable of random numbers.
pub fn var<E: Number>(random: &mut Random, shape: &[usize]) -> Var {
    let numbers = uniform::<E>(random, shape.iter().product());
    Var::from_vec(numbers, shape, &Device::Cpu).unwrap()
}

/// These gradients.
pub fn grads<'a>(of: impl IntoIterator<Item = (&'a Var, Tensor)>) -> GradStore {
    let mut grads = Tensor::new(0.0_f32, &Device::Cpu).unwrap().backward().unwrap();
    for (var, grad) in of {
        grads.insert(var, grad);
    }
    grads
}

/// Everything that a step can change: variables, states, step numbers, hyper-parameters.
pub fn everything<C: Config>(opt: &Optimizer<C>, vars: &[Var]) -> Result<(Vec<Vec<u8>>, String)> {
    use fused_adam::Rule;
    let mut all: Vec<Vec<u8>> = vars.iter().map(|var| tensor_bits(var)).collect();
    let rule = opt.rule(GroupId::default()).unwrap();
    let mut counts = format!("{rule:?} {}", opt.steps());
    for name in opt.names() {
        counts += &format!(" {name}: {:?}", opt.t(name));
        for state in rule.states() {
            all.extend(opt.state(name, state.name())?.map(|state| tensor_bits(&state)));
        }
    }
    Ok((all, counts))
}

/// All rules with their defaults, and the variants with other states; then all of these with weight
/// decay and their other options.
pub fn rules() -> Vec<AnyRule> {
    let variants = core_rules::variants().into_iter().map(|(_, rule)| rule);
    let switched = variants.clone().map(core_rules::switched);
    variants.chain(switched).collect()
}

/// The message of a candle error, without the backtrace that `RUST_BACKTRACE` adds.
pub fn message(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
