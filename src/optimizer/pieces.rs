//! A queue of the tensors of a step, which many threads take piece by piece. Small tensors share a
//! piece, and a large one is cut. The position of the cuts does not affect the bits, because each
//! element is computed independently.

use super::param::Param;
use super::tensor::TensorBuffers;
use crate::elements::column::Column;
use crate::step::Scalars;

/// The cost of a tensor in addition to its elements, in bytes of θ.
const TENSOR_BYTES: usize = 256;

/// The size of a piece.
#[derive(Clone, Copy)]
pub enum PieceSize {
    /// Bytes of θ, plus a constant for the work on each tensor.
    Bytes(usize),
    /// Elements of θ.
    Elements(usize),
}

impl PieceSize {
    /// The approximate number of pieces that the tensors make.
    pub fn count(self, tensors: &[Option<TensorBuffers<'_>>]) -> usize {
        let total: usize = tensors.iter().map(|buffers| self.cost(buffers)).sum();
        total.div_ceil(self.get())
    }

    fn get(self) -> usize {
        match self {
            PieceSize::Bytes(size) | PieceSize::Elements(size) => size,
        }
    }

    fn cost(self, buffers: &Option<TensorBuffers<'_>>) -> usize {
        match (self, buffers) {
            (PieceSize::Bytes(_), Some(buffers)) => bytes(buffers),
            // A tensor without elements takes its step too: 0 would be no tensor.
            (PieceSize::Elements(_), Some(buffers)) => buffers.theta.len().max(1),
            (_, None) => 0,
        }
    }

    /// The number of rows in the next piece of a large tensor with `len` rows left. It is cut at a
    /// multiple of `block`.
    fn rows(self, len: usize, element_bytes: usize, block: usize) -> usize {
        let rows = match self {
            PieceSize::Bytes(bytes) => (bytes / element_bytes).max(1),
            PieceSize::Elements(elements) => elements,
        };
        rows.checked_next_multiple_of(block).map_or(len, |rows| len.min(rows))
    }

    /// The number of tensors from the first on that make one piece, and whether that is a single
    /// tensor larger than a piece.
    fn first_piece(self, tensors: &[Option<TensorBuffers<'_>>]) -> (usize, bool) {
        let mut total = 0;
        for (i, buffers) in tensors.iter().enumerate() {
            let cost = self.cost(buffers);
            if cost > self.get() {
                // The tensors before it make a piece first. Then it follows alone.
                return if total == 0 { (i + 1, true) } else { (i, false) };
            }
            total += cost;
            if total >= self.get() {
                return (i + 1, false);
            }
        }
        (tensors.len(), false)
    }
}

fn bytes(TensorBuffers { theta, .. }: &TensorBuffers<'_>) -> usize {
    theta.len() * theta.dtype().bytes() + TENSOR_BYTES
}

/// The cost of all tensors, in bytes of θ.
pub fn total_bytes(tensors: &[Option<TensorBuffers<'_>>]) -> usize {
    tensors.iter().flatten().map(bytes).sum()
}

/// The tensors that have not been stepped yet.
pub struct Steps<'q, 's, 'a, R> {
    params: &'q mut [Param<'s, R>],
    tensors: &'q mut [Option<TensorBuffers<'a>>],
    cut: Option<Part<'q, R>>,
}

/// The rest of a tensor that is taken in parts, or one part of it.
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

    /// Takes a piece of about this size, or `None` if nothing is left.
    pub fn take(&mut self, size: PieceSize) -> Option<Piece<'q, 's, 'a, R>> {
        if self.cut.is_none() {
            let (end, large) = size.first_piece(self.tensors);
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
        let block = part.param.types.state.block();
        let rows = size.rows(len, part.buffers.theta.dtype().bytes(), block);
        let (part, rest) = part.split_at(rows);
        if rows < len {
            self.cut = Some(rest);
        }
        Some(Piece::Part(part))
    }
}

impl<'q, R> Part<'q, R> {
    /// The whole tensor. From now on it counts as stepped.
    fn whole(param: &'q mut Param<'_, R>, buffers: TensorBuffers<'q>) -> Option<Self> {
        let &mut Param { group, len, types, step, t, seed, .. } = param;
        let next_scalars = param.next_scalars.clone();
        param.t += 1;
        core::mem::swap(&mut param.scalars, &mut param.next_scalars);
        let states = Some(param.states.as_mut()?.reborrow());
        let (name, scalars) = (String::new(), Scalars::new());
        let param = Param { name, group, len, types, step, t, states, scalars, next_scalars, seed };
        Some(Part { param, buffers })
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        let Part { param, buffers } = self;
        let Param { group, len, types, step, t, states, next_scalars, seed, .. } = param;
        let part = |len, states, next_scalars| Param {
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
        };
        let (states, rest_states) = states.map(|states| states.split_at(mid)).unzip();
        let (buffers, rest_buffers) = buffers.split_at(mid);
        let rest = part(len - mid, rest_states, next_scalars.clone());
        let param = part(mid, states, next_scalars);
        (Part { param, buffers }, Part { param: rest, buffers: rest_buffers })
    }
}

/// The gradients that have not been added to the norm yet.
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

    /// Takes a piece of about this size, or `None` if nothing is left.
    pub fn take(&mut self, size: PieceSize) -> Option<GradsPiece<'q, 'a>> {
        if self.cut.is_none() {
            let (end, large) = size.first_piece(self.tensors);
            let (tensors, rest) = self.tensors.split_at(end);
            self.tensors = rest;
            match tensors.last()? {
                Some(buffers) if large && buffers.in_norm => self.cut = Some(buffers.grad.column()),
                _ => return Some(GradsPiece::Tensors(tensors)),
            }
        }
        let grad = self.cut.take()?;
        let rows = size.rows(grad.len(), grad.dtype().bytes(), 1);
        let (part, rest) = grad.split_at(rows);
        if rest.len() > 0 {
            self.cut = Some(rest);
        }
        Some(GradsPiece::Part(part))
    }
}
