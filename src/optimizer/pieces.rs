//! The tensors of a step in a line, to be taken piece by piece by many threads: small ones share a
//! piece, and a large one is cut on cache lines. What is cut where does not show in the bits, since no
//! element looks at another.

use super::Param;
use super::tensor::{Job, MOST_LENT};
use crate::backend::columns::AnySlice;

/// What a tensor costs beside its elements, as bytes of θ.
const TENSOR_BYTES: usize = 256;

fn cost(job: &Option<Job<'_>>) -> usize {
    job.as_ref().map_or(0, |job| {
        let theta = job.theta.read();
        theta.len() * theta.element_bytes() + TENSOR_BYTES
    })
}

/// What all tensors cost, as bytes of θ.
pub fn total_cost(jobs: &[Option<Job<'_>>]) -> usize {
    jobs.iter().map(cost).sum()
}

/// How many jobs from the first on cost about `chunk` together, and whether that is one which costs
/// more.
fn first_piece(jobs: &[Option<Job<'_>>], chunk: usize) -> (usize, bool) {
    let mut total = 0;
    for (i, job) in jobs.iter().enumerate() {
        let cost = cost(job);
        if cost > chunk {
            // Alone, after those before it.
            return if total == 0 { (i + 1, true) } else { (i, false) };
        }
        total += cost;
        if total >= chunk {
            return (i + 1, false);
        }
    }
    (jobs.len(), false)
}

/// The rows of a large tensor's piece: of `len` that are left.
fn rows(len: usize, chunk: usize, element_bytes: usize) -> usize {
    len.min((chunk / element_bytes).max(1))
}

/// Tensors that are waiting for their step.
pub struct Steps<'q, 's, 'a, R> {
    params: &'q mut [Param<'s, R>],
    jobs: &'q mut [Option<Job<'a>>],
    cut: Option<Part<'q, R>>,
}

/// What is left of a tensor that is taken in parts.
pub struct Part<'q, R> {
    pub param: Param<'q, R>,
    pub job: Job<'q>,
}

#[expect(clippy::large_enum_variant, reason = "one is made and moved for each piece")]
pub enum Piece<'q, 's, 'a, R> {
    Tensors(&'q mut [Param<'s, R>], &'q mut [Option<Job<'a>>]),
    Part(Part<'q, R>),
}

impl<'q, 's, 'a, R> Steps<'q, 's, 'a, R> {
    pub fn new(params: &'q mut [Param<'s, R>], jobs: &'q mut [Option<Job<'a>>]) -> Self {
        Steps { params, jobs, cut: None }
    }

    /// A piece that costs about `chunk`.
    pub fn take(&mut self, chunk: usize) -> Option<Piece<'q, 's, 'a, R>> {
        if self.cut.is_none() {
            let (end, large) = first_piece(self.jobs, chunk);
            let (params, rest) = core::mem::take(&mut self.params).split_at_mut(end);
            self.params = rest;
            let (jobs, rest) = core::mem::take(&mut self.jobs).split_at_mut(end);
            self.jobs = rest;
            if !(large && params.last()?.can_be_cut()) {
                return (!jobs.is_empty()).then_some(Piece::Tensors(params, jobs));
            }
            self.cut = Some(Part::whole(params.last_mut()?, jobs.last_mut()?.take()?)?);
        }
        let part = self.cut.take()?;
        let len = part.param.len;
        let rows = rows(len, chunk, part.job.theta.read().element_bytes());
        let (part, rest) = part.split_at(rows);
        if rows < len {
            self.cut = Some(rest);
        }
        Some(Piece::Part(part))
    }
}

impl<R> Param<'_, R> {
    /// Whether there is room to lend its states.
    fn can_be_cut(&self) -> bool {
        self.states.as_ref().is_some_and(|states| states.names().len() <= MOST_LENT)
    }
}

impl<'q, R> Part<'q, R> {
    /// A whole tensor, which counts as stepped from now on.
    fn whole(param: &'q mut Param<'_, R>, job: Job<'q>) -> Option<Self> {
        let &mut Param { group, len, types, step, t, seed, offset, .. } = param;
        param.t += 1;
        let states = Some(param.states.as_mut()?.lend());
        let name = String::new();
        let param = Param { name, group, len, types, step, t, states, seed, offset };
        Some(Part { param, job })
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        let Part { param, job } = self;
        let Param { group, len, types, step, t, states, seed, offset, .. } = param;
        let (states, rest) = states.map(|states| states.split_at(mid)).unzip();
        let (job, job_rest) = job.split_at(mid);
        let part = |len, states, offset| Param {
            name: String::new(),
            group,
            len,
            types,
            step,
            t,
            states,
            seed,
            offset,
        };
        let (first, rest) =
            (part(mid, states, offset), part(len - mid, rest, offset.wrapping_add(mid as u64)));
        (Part { param: first, job }, Part { param: rest, job: job_rest })
    }
}

/// Gradients whose norm is to be taken.
pub struct Grads<'q, 'a> {
    jobs: &'q [Option<Job<'a>>],
    cut: Option<AnySlice<'q>>,
}

pub enum GradsPiece<'q, 'a> {
    Tensors(&'q [Option<Job<'a>>]),
    Part(AnySlice<'q>),
}

impl<'q, 'a> Grads<'q, 'a> {
    pub fn new(jobs: &'q [Option<Job<'a>>]) -> Self {
        Grads { jobs, cut: None }
    }

    /// A piece that costs about `chunk`.
    pub fn take(&mut self, chunk: usize) -> Option<GradsPiece<'q, 'a>> {
        if self.cut.is_none() {
            let (end, large) = first_piece(self.jobs, chunk);
            let (jobs, rest) = self.jobs.split_at(end);
            self.jobs = rest;
            match jobs.last()? {
                Some(job) if large => self.cut = Some(job.grad.read()),
                _ => return Some(GradsPiece::Tensors(jobs)),
            }
        }
        let grad = self.cut.take()?;
        let rows = rows(grad.len(), chunk, grad.element_bytes());
        let (part, rest) = grad.split_at(rows);
        if rest.len() > 0 {
            self.cut = Some(rest);
        }
        Some(GradsPiece::Part(part))
    }
}
