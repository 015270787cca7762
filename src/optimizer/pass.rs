//! One pass over many tensors, in [pieces](super::pieces) that any thread takes.
//!
//! Adjacent parameters with the same group, step number, element types and scalars form a batch,
//! and the kernel is computed once per batch. Each tensor, or part of one, is then stepped by
//! [`step_rows`], as in a [`Step`](crate::Step).

use core::marker::PhantomData;
use core::sync::atomic::Ordering;
#[cfg(feature = "parallel")]
use std::sync::{Mutex, OnceLock, PoisonError};

use half::{bf16, f16};

use super::param::{Batch, Param, PassContext, StepBatch};
#[cfg(feature = "parallel")]
use super::pieces::{Grads, GradsPiece, Part, Piece, Steps};
use super::tensor::{Grad, TensorBuffers};
use crate::elements::block8::Block8;
use crate::elements::column::{Column, ColumnMut, DType};
use crate::elements::convert;
use crate::elements::rounding::Noise;
use crate::elements::rows::{Beside, Rows, unzip};
use crate::elements::{Element, StateElement};
use crate::error::Error;
use crate::norm::GradNorm;
use crate::rules::{Kernel, KernelVisitor, Rule};
use crate::simd::dispatch::Engine;
use crate::simd::{Lanes, Real};
use crate::step::select::{is_8bit, is_fused, step_rows};
#[cfg(feature = "parallel")]
use crate::threads::share::{Queue, share};

#[cfg(feature = "parallel")]
pub(super) use super::pieces::PieceSize;

/// The size of a piece. Without threads there are no pieces.
#[cfg(not(feature = "parallel"))]
#[derive(Clone, Copy)]
pub(super) enum PieceSize {}

/// The number of rows that are stepped before their gradient is zeroed or their change is measured.
/// All their columns fit in the L2 cache, and most in the L1 cache.
const BLOCK: usize = 2048;

/// The norm of all gradients: in pieces of this size on any thread, or without a size on this
/// thread.
pub(super) fn norm(
    engine: Engine,
    piece: Option<PieceSize>,
    tensors: &[Option<TensorBuffers<'_>>],
) -> GradNorm {
    let add_all = |norm: &mut GradNorm, tensors: &[Option<TensorBuffers<'_>>]| {
        for buffers in tensors.iter().flatten().filter(|buffers| buffers.in_norm) {
            norm.add_column(engine, buffers.grad.column());
        }
    };
    let mut all = GradNorm::new();
    #[cfg(feature = "parallel")]
    if let Some(size) = piece {
        let queue = Queue::new(Grads::new(tensors), |grads| grads.as_mut()?.take(size));
        let sum = Mutex::new(all);
        share(size.count(tensors), &|| {
            let mut own = GradNorm::new();
            queue.each(|piece| match piece {
                GradsPiece::Tensors(tensors) => add_all(&mut own, tensors),
                GradsPiece::Part(grad) => own.add_column(engine, grad),
            });
            sum.lock().unwrap_or_else(PoisonError::into_inner).merge(&own);
        });
        return sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    }
    let _ = piece;
    add_all(&mut all, tensors);
    all
}

/// Steps every parameter that has buffers: in pieces of this size on any thread, or without a size
/// on this thread.
pub(super) fn run<R: Rule>(
    context: &PassContext<'_, R>,
    piece: Option<PieceSize>,
    params: &mut [Param<'_, R>],
    tensors: &mut [Option<TensorBuffers<'_>>],
) -> Result<(), Error> {
    #[cfg(feature = "parallel")]
    if let Some(size) = piece {
        let pieces = size.count(tensors);
        let queue = Queue::new(Steps::new(params, tensors), |steps| steps.as_mut()?.take(size));
        let failed = OnceLock::new();
        share(pieces, &|| {
            queue.each(|piece| {
                let done = match piece {
                    Piece::Tensors(params, tensors) => batches(context, params, tensors),
                    Piece::Part(Part { param, buffers }) => {
                        batches(context, &mut [param], &mut [Some(buffers)])
                    }
                };
                if let Err(error) = done {
                    let _ = failed.set(error);
                }
            });
        });
        return failed.into_inner().map_or(Ok(()), Err);
    }
    let _ = piece;
    batches(context, params, tensors)
}

/// Steps a piece of the list, batch by batch.
fn batches<R: Rule>(
    context: &PassContext<'_, R>,
    params: &mut [Param<'_, R>],
    tensors: &mut [Option<TensorBuffers<'_>>],
) -> Result<(), Error> {
    let (mut params, mut tensors) = (params, tensors);
    while let Some(first) = tensors.iter().position(Option::is_some) {
        let of = &params[first];
        let same = |param: &Param<'_, R>| {
            (param.group, param.t, param.types) == (of.group, of.t, of.types)
                && same_bits(&param.next_scalars, &of.next_scalars)
        };
        let others = params[first..].iter().zip(&tensors[first..]);
        let count = others.take_while(|(param, buffers)| buffers.is_some() && same(param)).count();
        let (batch, rest) = params.split_at_mut(first + count);
        let (buffers, rest_buffers) = tensors.split_at_mut(first + count);
        let step = batch[first].step;
        step(Batch { context, params: &mut batch[first..], buffers: &mut buffers[first..] })?;
        (params, tensors) = (rest, rest_buffers);
    }
    Ok(())
}

fn same_bits(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

/// The code for these types: their own loop, or tiles.
pub(super) fn step_of<T, G, S, R>() -> StepBatch<R>
where
    T: Element,
    G: Element<Float = T::Float>,
    S: StateElement<Float = T::Float>,
    R: Rule,
{
    if const { is_fused::<T, G, S>() } {
        step_batch::<T, G, S, R>
    } else if const { is_8bit::<S>() } {
        step_of_blocks::<R>()
    } else {
        step_of_tiles::<R>()
    }
}

/// The code for all types without their own loop. It is that of `f32`, so that it is compiled once.
/// It uses tiles for columns of other types.
pub(super) fn step_of_tiles<R: Rule>() -> StepBatch<R> {
    step_batch::<f32, f32, f32, R>
}

/// The same with 8-bit states.
pub(super) fn step_of_blocks<R: Rule>() -> StepBatch<R> {
    step_batch::<f32, f32, Block8, R>
}

/// Steps a batch with the code for these types. Tensors of other types that can be combined with
/// them are accepted too, and use tiles.
fn step_batch<T, G, S, R>(batch: Batch<'_, '_, '_, '_, R>) -> Result<(), Error>
where
    T: Element,
    G: Element<Float = T::Float>,
    S: StateElement<Float = T::Float>,
    R: Rule,
{
    let Some(Param { group, t, next_scalars, .. }) = batch.params.first() else { return Ok(()) };
    let (rule, t, scalars) = (&batch.context.rules[*group], t + 1, next_scalars.clone());
    rule.visit_kernel(t, &scalars, Waiting { batch, types: PhantomData::<(T, G, S)> })
}

/// The visitor that steps a batch with the kernel it receives.
struct Waiting<'b, 'p, 's, 'a, R, Types> {
    batch: Batch<'b, 'p, 's, 'a, R>,
    types: PhantomData<Types>,
}

impl<R, T, G, S> KernelVisitor<T::Float> for Waiting<'_, '_, '_, '_, R, (T, G, S)>
where
    R: Rule,
    T: Element,
    G: Element<Float = T::Float>,
    S: StateElement<Float = T::Float>,
{
    fn visit<K: Kernel<T::Float, N>, const N: usize>(self, kernel: &K) -> Result<(), Error> {
        let Batch { context, params, buffers } = self.batch;
        let kernel = context.scale.before(*kernel)?;
        let step = |rows: Rows<'_, N>| step_rows::<T, G, S, _, N>(context.engine, &kernel, rows);
        for (param, buffers) in params.iter_mut().zip(buffers) {
            let (Some(buffers), Some(states)) = (buffers.take(), &mut param.states) else {
                continue;
            };
            param.t += 1;
            core::mem::swap(&mut param.scalars, &mut param.next_scalars);
            let state = states.columns_mut::<N>().expect("the states were checked");
            let in_8bit = const { is_8bit::<S>() };
            let (buffers, seed) = match (buffers, context.seed, &context.largest_update) {
                (TensorBuffers { theta, grad: Grad::Read(grad), beside, .. }, None, None)
                    if !in_8bit && !beside.is_stochastic() =>
                {
                    step(Rows { theta, grad, state, beside, noise: None });
                    continue;
                }
                (buffers, seed, _) => (buffers, seed),
            };
            // Other types are not rounded, so the position of an element does not matter.
            let is_rounded = buffers.theta.dtype().bytes() == 2
                || state.iter().any(|state| state.dtype().bytes() == 2);
            let drawn = in_8bit || buffers.beside.is_stochastic();
            if !drawn && (seed.is_none() || !is_rounded) {
                in_one_go(context, buffers, state, None, &step);
                continue;
            }
            let (mut buffers, mut state) = (buffers, state);
            let noise = Noise::new(seed, param.seed, param.t, 0);
            // Each run of elements that follow each other in the whole tensor.
            loop {
                let (first, run) = buffers.position.run(buffers.theta.len());
                let (now, after) = buffers.split_at(run);
                let (state_now, state_after) = unzip(state.map(|state| state.split_at(run)));
                in_one_go(context, now, state_now, Some(noise.starting_at(first)), &step);
                (buffers, state) = (after, state_after);
                if buffers.theta.len() == 0 {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Steps a tensor, or a run of a shard. If more is asked for, it does so block by block.
fn in_one_go<R, const N: usize>(
    context: &PassContext<'_, R>,
    buffers: TensorBuffers<'_>,
    state: [ColumnMut<'_>; N],
    noise: Option<Noise>,
    step: &impl Fn(Rows<'_, N>),
) {
    match (buffers, &context.largest_update) {
        (TensorBuffers { theta, grad: Grad::Read(grad), beside, .. }, None) => {
            step(Rows { theta, grad, state, beside, noise });
        }
        (buffers, _) => in_blocks(context, buffers, state, noise, step),
    }
}

/// Steps a tensor block by block. As requested, it measures the change of θ and zeroes the
/// gradient.
fn in_blocks<R, const N: usize>(
    context: &PassContext<'_, R>,
    buffers: TensorBuffers<'_>,
    state: [ColumnMut<'_>; N],
    noise: Option<Noise>,
    step: &impl Fn(Rows<'_, N>),
) {
    let (mut buffers, mut state, mut noise) = (buffers, state, noise);
    while buffers.theta.len() > 0 {
        let rows = BLOCK.min(buffers.theta.len());
        let (buffers_now, after) = buffers.split_at(rows);
        let TensorBuffers { theta, mut grad, beside, .. } = buffers_now;
        let (block, state_after) = unzip(state.map(|state| state.split_at(rows)));
        let (state_now, grad_now) = (block, grad.column());
        let mut block = Rows { theta, grad: grad_now, state: state_now, beside, noise };
        if let Some(largest) = &context.largest_update {
            let change = match block.theta.dtype() {
                DType::F32 => largest_change::<f32, N>(&mut block, step),
                DType::F64 => largest_change::<f64, N>(&mut block, step),
                DType::Bf16 => largest_change::<bf16, N>(&mut block, step),
                DType::F16 => largest_change::<f16, N>(&mut block, step),
                DType::Block8 => unreachable!("only states are stored in 8 bits"),
            };
            largest.fetch_max(change.to_bits(), Ordering::Relaxed);
        } else {
            step(block);
        }
        if let Grad::Zero(grad) = &mut grad {
            grad.fill_with_zeros();
        }
        (buffers, state) = (after, state_after);
        noise = noise.map(|noise| noise.skip(rows));
    }
}

/// The largest |Δθ| of a step on at most [`BLOCK`] rows, not counting NaN.
fn largest_change<E: Element, const N: usize>(
    rows: &mut Rows<'_, N>,
    step: &impl Fn(Rows<'_, N>),
) -> f64 {
    const LANES: usize = 16;
    const CHECKED: &str = "θ is of this type";
    let (mut joined, mut old) = ([0.0; BLOCK], [E::zeroed(); BLOCK]);
    if join(rows, &mut joined) {
        step(rows.reborrow());
        let mut new = [0.0; BLOCK];
        join(rows, &mut new);
        let changes = joined.iter().zip(&new).map(|(old, new)| f64::from((new - old).abs()));
        return changes.fold(0.0, f64::max);
    }
    let old = &mut old[..rows.len()];
    old.copy_from_slice(E::of(rows.theta.as_ref()).expect(CHECKED));
    step(rows.reborrow());
    let new = E::of(rows.theta.as_ref()).expect(CHECKED);
    let mut most = [E::Float::from_f64(0.0); LANES];
    for (old, new) in old.chunks(LANES).zip(new.chunks(LANES)) {
        for ((old, new), most) in old.iter().zip(new).zip(&mut most) {
            *most = (new.to_float() - old.to_float()).abs().fast_max(*most);
        }
    }
    most.into_iter().map(Real::to_f64).fold(0.0, f64::max)
}

/// Joins split master weights to `f32`. Returns false if the rows have none.
fn join<const N: usize>(rows: &Rows<'_, N>, to: &mut [f32; BLOCK]) -> bool {
    let (Beside::Correction(correction), Column::Bf16(theta)) = (&rows.beside, rows.theta.as_ref())
    else {
        return false;
    };
    let theta = bytemuck::cast_slice(theta);
    convert::join(Engine::Scalar, theta, correction, &mut to[..theta.len()]);
    true
}
