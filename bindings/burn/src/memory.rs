//! burn's tensors as plain slices. Every copy is counted.

use std::borrow::Cow;
use std::sync::Arc;

use burn_core::backend::tensor::FloatTensor;
use burn_core::backend::{Element as BurnElement, Flex, TensorMetadata};
use burn_core::tensor::{DType, Shape, Tensor};
use fused_adam::bytemuck::Pod;
use fused_adam::{Block8, Element, ParamMut, Real, State, StateElement, bf16, f16};

use crate::StepError;

/// A tensor of the flex backend: bytes with a reference count, a layout, and a type.
pub type FlexTensor = FloatTensor<Flex>;

/// The memory of a state: that of a tensor, or the blocks of a state in 8 bits, with a reference
/// count as tensors have.
pub enum StateMemory {
    Tensor(FlexTensor),
    Blocks(Arc<Vec<Block8>>),
}

/// Takes out a tensor's memory in row-major order. Copies it only if it has another order.
pub fn take_out<const D: usize>(
    name: &'static str,
    tensor: Tensor<D>,
    copied: &mut u64,
) -> Result<FlexTensor, StepError> {
    if tensor.is_autodiff() {
        return Err(StepError::Autodiff { tensor: name });
    }
    let tensor = tensor
        .try_into_primitive::<Flex>()
        .map_err(|error| StepError::Backend { tensor: name, found: format!("{error:?}") })?;
    if !matches!(tensor.dtype(), DType::F32 | DType::F64 | DType::BF16 | DType::F16) {
        return Err(StepError::DType { tensor: name, found: tensor.dtype().name() });
    }
    let layout = tensor.layout();
    let whole = layout.num_elements() * tensor.dtype().size() == tensor.bytes().len();
    if layout.is_contiguous() && layout.start_offset() == 0 && whole {
        return Ok(tensor);
    }
    let tensor = tensor.to_contiguous();
    *copied += tensor.bytes().len() as u64;
    Ok(tensor)
}

/// Makes a tensor of the memory again.
pub fn put_back<const D: usize>(tensor: FlexTensor) -> Tensor<D> {
    Tensor::from_primitive::<Flex>(tensor)
}

/// The initial value of a state.
pub fn filled(shape: Shape, dtype: DType, value: f64) -> FlexTensor {
    match dtype {
        DType::F64 => FlexTensor::filled_typed(shape, dtype, f64::saturating_from_f64(value)),
        DType::BF16 => FlexTensor::filled_typed(shape, dtype, bf16::saturating_from_f64(value)),
        DType::F16 => FlexTensor::filled_typed(shape, dtype, f16::saturating_from_f64(value)),
        _ => FlexTensor::filled_typed(shape, DType::F32, f32::saturating_from_f64(value)),
    }
}

/// The initial value of a state in 8 bits.
pub fn filled_blocks(state: &State, len: usize, value: f64) -> Vec<Block8> {
    let mut blocks = vec![[0; 33]; Block8::slots(len)];
    if value != 0.0 {
        state.encode(&vec![f32::saturating_from_f64(value); len], &mut blocks);
    }
    blocks
}

/// The elements of a state in `f32`, exactly. None if they are of `f64`.
fn floats(tensor: &FlexTensor) -> Option<Cow<'_, [f32]>> {
    Some(match tensor.dtype() {
        DType::F32 => tensor.storage::<f32>().into(),
        DType::BF16 => tensor.storage::<bf16>().iter().map(|x| x.to_f32()).collect(),
        DType::F16 => tensor.storage::<f16>().iter().map(|x| x.to_f32()).collect(),
        _ => return None,
    })
}

/// The state in `f32` if it has 16 bits. Otherwise the same state.
pub fn widened(state: FlexTensor) -> FlexTensor {
    let Some(Cow::Owned(floats)) = floats(&state) else { return state };
    let mut wide = filled(state.shape(), DType::F32, 0.0);
    wide.storage_mut().copy_from_slice(&floats);
    wide
}

/// Encodes the elements of a state. None if they are of `f64`.
pub fn encoded(state: &State, tensor: &FlexTensor) -> Option<Vec<Block8>> {
    let elements = floats(tensor)?;
    let mut blocks = vec![[0; 33]; Block8::slots(elements.len())];
    state.encode(&elements, &mut blocks);
    Some(blocks)
}

/// Decodes a state in 8 bits of this shape, which must have so many blocks.
pub fn decoded(state: &State, blocks: &[Block8], shape: Shape) -> FlexTensor {
    let mut tensor = filled(shape, DType::F32, 0.0);
    state.decode(blocks, tensor.storage_mut());
    tensor
}

/// A seed for the random bits of a parameter: a hash of θ and the gradient in its first step. burn
/// does not tell an optimizer which parameter it steps.
pub fn seed_of(theta: &FlexTensor, grad: &FlexTensor) -> u64 {
    let words = [theta, grad].into_iter().flat_map(|tensor| tensor.bytes().chunks(8));
    // The 64-bit FNV-1a hash, of words in place of bytes.
    words.fold(0xCBF2_9CE4_8422_2325, |hash, word| {
        let mut bytes = [0; 8];
        bytes[..word.len()].copy_from_slice(word);
        (hash ^ u64::from_le_bytes(bytes)).wrapping_mul(0x0000_0100_0000_01B3)
    })
}

/// Borrows θ, a gradient and states for step number `t` of the only rule, with the scalars after
/// that step. All tensors come from [`take_out`] and the functions above. A tensor that is
/// written and shares its memory is copied first.
pub fn reborrow<'a>(
    t: u64,
    scalars: &[f64],
    theta: &'a mut FlexTensor,
    grad: &'a FlexTensor,
    states: &'a mut [StateMemory],
    copied: &mut u64,
) -> ParamMut<'a> {
    let borrowed = match theta.dtype() {
        DType::F64 => with_grad(t, writable::<f64>(theta, copied), grad),
        DType::BF16 => with_grad(t, writable::<bf16>(theta, copied), grad),
        DType::F16 => with_grad(t, writable::<f16>(theta, copied), grad),
        _ => with_grad(t, writable::<f32>(theta, copied), grad),
    };
    states.iter_mut().fold(borrowed.with_scalars(scalars), |borrowed, state| match state {
        StateMemory::Tensor(state) => match state.dtype() {
            DType::F64 => borrowed.with_state(writable::<f64>(state, copied)),
            DType::BF16 => borrowed.with_state(writable::<bf16>(state, copied)),
            DType::F16 => borrowed.with_state(writable::<f16>(state, copied)),
            _ => borrowed.with_state(writable::<f32>(state, copied)),
        },
        StateMemory::Blocks(state) => {
            if Arc::get_mut(state).is_none() {
                *copied += size_of_val(&state[..]) as u64;
            }
            borrowed.with_state(&mut Arc::make_mut(state)[..])
        }
    })
}

fn with_grad<'a, T: Element>(t: u64, theta: &'a mut [T], grad: &'a FlexTensor) -> ParamMut<'a> {
    match grad.dtype() {
        DType::F64 => ParamMut::new(0, t, theta, grad.storage::<f64>()),
        DType::BF16 => ParamMut::new(0, t, theta, grad.storage::<bf16>()),
        DType::F16 => ParamMut::new(0, t, theta, grad.storage::<f16>()),
        _ => ParamMut::new(0, t, theta, grad.storage::<f32>()),
    }
}

/// A tensor's memory, for writing. It is a copy if the memory was shared: with a clone of the
/// tensor, or with the file from which it was loaded.
fn writable<'a, E: BurnElement + Pod>(tensor: &'a mut FlexTensor, copied: &mut u64) -> &'a mut [E] {
    let before = tensor.bytes().as_ptr();
    let slice = tensor.storage_mut::<E>();
    if slice.as_ptr().cast() != before {
        *copied += size_of_val(slice) as u64;
    }
    slice
}
