//! The tensors of a step in a queue, to be taken piece by piece by many threads: small ones share a
//! piece, and a large one is cut on cache lines. What is cut where does not show in the bits, since
//! no element looks at another.

use super::param::Param;
use super::tensor::TensorBuffers;
use crate::elements::column::Column;
use crate::step::Scalars;

/// What a tensor costs beside its elements, as bytes of θ.
const TENSOR_BYTES: usize = 256;

fn cost(buffers: &Option<TensorBuffers<'_>>) -> usize {
    buffers
        .as_ref()
        .map_or(0, |TensorBuffers { theta, .. }| theta.len() * theta.dtype().bytes() + TENSOR_BYTES)
}

/// What all tensors cost, as bytes of θ.
pub fn total_cost(tensors: &[Option<TensorBuffers<'_>>]) -> usize {
    tensors.iter().map(cost).sum()
}

/// How many tensors from the first on cost about `chunk` together, and whether that is one which
/// costs more.
fn first_piece(tensors: &[Option<TensorBuffers<'_>>], chunk: usize) -> (usize, bool) {
    let mut total = 0;
    for (i, buffers) in tensors.iter().enumerate() {
        let cost = cost(buffers);
        if cost > chunk {
            // Alone, after those before it.
            return if total == 0 { (i + 1, true) } else { (i, false) };
        }
        total += cost;
        if total >= chunk {
            return (i + 1, false);
        }
    }
    (tensors.len(), false)
}

/// The rows of a large tensor's piece: of `len` that are left.
fn rows(len: usize, chunk: usize, element_bytes: usize) -> usize {
    len.min((chunk / element_bytes).max(1))
}

/// Tensors that are waiting for their step.
pub struct Steps<'q, 's, 'a, R> {
    params: &'q mut [Param<'s, R>],
    tensors: &'q mut [Option<TensorBuffers<'a>>],
    cut: Option<Part<'q, R>>,
}

/// What is left of a tensor that is taken in parts.
pub struct Part<'q, R> {
    pub param: Param<'q, R>,
    pub buffers: TensorBuffers<'q>,
}

#[expect(clippy::large_enum_variant, reason = "one is made and moved for each piece")]
pub enum Piece<'q, 's, 'a, R> {
    Tensors(&'q mut [Param<'s, R>], &'q mut [Option<TensorBuffers<'a>>]),
    Part(Part<'q, R>),
}

impl<'q, 's, 'a, R> Steps<'q, 's, 'a, R> {
    pub fn new(
        params: &'q mut [Param<'s, R>],
        tensors: &'q mut [Option<TensorBuffers<'a>>],
    ) -> Self {
        Steps { params, tensors, cut: None }
    }

    /// A piece that costs about `chunk`.
    pub fn take(&mut self, chunk: usize) -> Option<Piece<'q, 's, 'a, R>> {
        if self.cut.is_none() {
            let (end, large) = first_piece(self.tensors, chunk);
            let (params, rest) = core::mem::take(&mut self.params).split_at_mut(end);
            self.params = rest;
            let (tensors, rest) = core::mem::take(&mut self.tensors).split_at_mut(end);
            self.tensors = rest;
            if !large {
                return (!tensors.is_empty()).then_some(Piece::Tensors(params, tensors));
            }
            self.cut = Some(Part::whole(params.last_mut()?, tensors.last_mut()?.take()?)?);
        }
        let part = self.cut.take()?;
        let len = part.param.len;
        let rows = rows(len, chunk, part.buffers.theta.dtype().bytes());
        let (part, rest) = part.split_at(rows);
        if rows < len {
            self.cut = Some(rest);
        }
        Some(Piece::Part(part))
    }
}

impl<'q, R> Part<'q, R> {
    /// A whole tensor, which counts as stepped from now on.
    fn whole(param: &'q mut Param<'_, R>, buffers: TensorBuffers<'q>) -> Option<Self> {
        let &mut Param { group, len, types, step, t, seed, offset, .. } = param;
        let next_scalars = param.next_scalars.clone();
        param.t += 1;
        core::mem::swap(&mut param.scalars, &mut param.next_scalars);
        let states = Some(param.states.as_mut()?.lend());
        let (name, scalars) = (String::new(), Scalars::new());
        let param =
            Param { name, group, len, types, step, t, states, scalars, next_scalars, seed, offset };
        Some(Part { param, buffers })
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        let Part { param, buffers } = self;
        let Param { group, len, types, step, t, states, next_scalars, seed, offset, .. } = param;
        let part = |len, states, next_scalars, offset| Param {
            name: String::new(),
            group,
            len,
            types,
            step,
            t,
            states,
            scalars: Scalars::new(),
            next_scalars,
            seed,
            offset,
        };
        let (states, rest_states) = states.map(|states| states.split_at(mid)).unzip();
        let (buffers, rest_buffers) = buffers.split_at(mid);
        let rest_offset = offset.wrapping_add(mid as u64);
        let rest = part(len - mid, rest_states, next_scalars.clone(), rest_offset);
        let param = part(mid, states, next_scalars, offset);
        (Part { param, buffers }, Part { param: rest, buffers: rest_buffers })
    }
}

/// Gradients whose norm is to be taken.
pub struct Grads<'q, 'a> {
    tensors: &'q [Option<TensorBuffers<'a>>],
    cut: Option<Column<'q>>,
}

pub enum GradsPiece<'q, 'a> {
    Tensors(&'q [Option<TensorBuffers<'a>>]),
    Part(Column<'q>),
}

impl<'q, 'a> Grads<'q, 'a> {
    pub fn new(tensors: &'q [Option<TensorBuffers<'a>>]) -> Self {
        Grads { tensors, cut: None }
    }

    /// A piece that costs about `chunk`.
    pub fn take(&mut self, chunk: usize) -> Option<GradsPiece<'q, 'a>> {
        if self.cut.is_none() {
            let (end, large) = first_piece(self.tensors, chunk);
            let (tensors, rest) = self.tensors.split_at(end);
            self.tensors = rest;
            match tensors.last()? {
                Some(buffers) if large => self.cut = Some(buffers.grad.column()),
                _ => return Some(GradsPiece::Tensors(tensors)),
            }
        }
        let grad = self.cut.take()?;
        let rows = rows(grad.len(), chunk, grad.dtype().bytes());
        let (part, rest) = grad.split_at(rows);
        if rest.len() > 0 {
            self.cut = Some(rest);
        }
        Some(GradsPiece::Part(part))
    }
}
