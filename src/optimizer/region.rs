//! One pass over many tensors, in [pieces](super::pieces) that any thread takes.
//!
//! Neighbours of one group, step number and mixture of types are a batch: its kernel is made once.

use core::marker::PhantomData;
use core::sync::atomic::{AtomicU64, Ordering};
#[cfg(feature = "parallel")]
use std::sync::{Mutex, OnceLock, PoisonError};

use half::{bf16, f16};

use super::Param;
#[cfg(feature = "parallel")]
use super::pieces::{Grads, GradsPiece, Part, Piece, Steps, total_cost};
use super::tensor::{Grad, Job, States, Type, Types};
use crate::backend::columns::{AnySlice, AnySliceMut, Buffers, ColumnMut, Mixed, unzip};
#[cfg(feature = "parallel")]
use crate::backend::parallel::{self, Line};
use crate::backend::{Engine, Swept};
use crate::elements::rounding::Noise;
use crate::scaled::GradScale;
use crate::{Element, Error, GradNorm, Kernel, Lanes, NamedRule, WithKernel};

/// Rows that are stepped before their gradient is set to zero or their change is measured: all
/// their columns stay in the second cache, and most in the first.
const BLOCK: usize = 2048;

/// Everything that the pass needs beside the tensors.
pub struct Pass<'p, R> {
    /// Of each group.
    pub(super) rules: &'p [R],
    pub(super) engine: Engine,
    pub(super) scale: GradScale,
    /// The seed of stochastic rounding.
    pub(super) seed: Option<u64>,
    /// Where the largest change of θ is kept, as its bits: numbers from 0 up are in the order of
    /// their bits.
    pub(super) largest: Option<AtomicU64>,
}

/// The norm of all gradients: in pieces of `chunk` bytes of θ, if there is one, on any thread; else
/// here.
pub(super) fn norm(engine: Engine, chunk: Option<usize>, jobs: &[Option<Job<'_>>]) -> GradNorm {
    let add_all = |norm: &mut GradNorm, jobs: &[Option<Job<'_>>]| {
        for job in jobs.iter().flatten() {
            norm.add_any(engine, job.grad.read());
        }
    };
    let mut all = GradNorm::new();
    #[cfg(feature = "parallel")]
    if let Some(chunk) = chunk {
        let line = Line::new(Grads::new(jobs), |grads| grads.as_mut()?.take(chunk));
        let sum = Mutex::new(all);
        parallel::share(total_cost(jobs).div_ceil(chunk), &|| {
            let mut own = GradNorm::new();
            line.each(|piece| match piece {
                GradsPiece::Tensors(jobs) => add_all(&mut own, jobs),
                GradsPiece::Part(grad) => own.add_any(engine, grad),
            });
            sum.lock().unwrap_or_else(PoisonError::into_inner).merge(&own);
        });
        return sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    }
    let _ = chunk;
    add_all(&mut all, jobs);
    all
}

impl<R: NamedRule> Pass<'_, R> {
    /// Takes the step of every parameter that has a job: in pieces of `chunk` bytes of θ, if there is
    /// one, on any thread; else here.
    pub(super) fn run(
        &self,
        chunk: Option<usize>,
        params: &mut [Param<'_, R>],
        jobs: &mut [Option<Job<'_>>],
    ) -> Result<(), Error> {
        #[cfg(feature = "parallel")]
        if let Some(chunk) = chunk {
            let pieces = total_cost(jobs).div_ceil(chunk);
            let line = Line::new(Steps::new(params, jobs), |steps| steps.as_mut()?.take(chunk));
            let failed = OnceLock::new();
            parallel::share(pieces, &|| {
                line.each(|piece| {
                    let done = match piece {
                        Piece::Tensors(params, jobs) => self.piece(params, jobs),
                        Piece::Part(Part { param, job }) => {
                            self.piece(&mut [param], &mut [Some(job)])
                        }
                    };
                    if let Err(error) = done {
                        let _ = failed.set(error);
                    }
                });
            });
            return failed.into_inner().map_or(Ok(()), Err);
        }
        let _ = chunk;
        self.piece(params, jobs)
    }

    /// Takes the steps of a piece of the list, batch by batch.
    fn piece(
        &self,
        params: &mut [Param<'_, R>],
        jobs: &mut [Option<Job<'_>>],
    ) -> Result<(), Error> {
        let (mut params, mut jobs) = (params, jobs);
        while let Some(first) = jobs.iter().position(Option::is_some) {
            let batch_of = |param: &Param<'_, R>, job: &Option<Job<'_>>| {
                let fused = self.is_fused(param, job.as_ref()?);
                Some((param.group, param.t, param.types, fused))
            };
            let same = batch_of(&params[first], &jobs[first]);
            let others = params[first..].iter().zip(&jobs[first..]);
            let end = first + others.take_while(|(p, j)| batch_of(p, j) == same).count();
            let (batch_params, rest_params) = params.split_at_mut(end);
            let (batch_jobs, rest_jobs) = jobs.split_at_mut(end);
            if let Some((group, t, _, fused)) = same {
                let (params, jobs) = (&mut batch_params[first..], &mut batch_jobs[first..]);
                let (rule, step) = (&self.rules[group], params[0].step);
                let batch = Batch { pass: self, params, jobs };
                if fused {
                    step(batch, rule, t + 1)?;
                } else {
                    rule.with_kernel::<f32, _>(t + 1, ByTiles(batch))?;
                }
            }
            (params, jobs) = (rest_params, rest_jobs);
        }
        Ok(())
    }

    /// Whether a job has the types that its parameter was registered with, and those have a loop of
    /// their own.
    fn is_fused(&self, param: &Param<'_, R>, job: &Job<'_>) -> bool {
        let Types { theta, grad, fused, .. } = param.types;
        let rounds_up_or_down = self.seed.is_some() && theta.bytes() == 2;
        let copy = job.copy.as_ref().map(|copy| Type::of_slice(AnySlice::Single(copy.read())));
        fused
            && !rounds_up_or_down
            && Type::of_slice(job.grad.read()) == grad
            && copy.is_none_or(|copy| copy == grad)
    }
}

/// Jobs of one rule, step number and mixture of types, waiting for their kernel.
pub struct Batch<'b, 'p, 's, 'a, R> {
    pass: &'b Pass<'p, R>,
    params: &'b mut [Param<'s, R>],
    jobs: &'b mut [Option<Job<'a>>],
}

/// How a batch is stepped by the loop of its types.
pub type StepBatch<R> = fn(Batch<'_, '_, '_, '_, R>, &R, u64) -> Result<(), Error>;

/// Takes step `t` of a batch by the loop of these types.
pub(crate) fn fused<T, G, S, R>(
    batch: Batch<'_, '_, '_, '_, R>,
    rule: &R,
    t: u64,
) -> Result<(), Error>
where
    T: Swept,
    G: Swept<Float = T::Float>,
    S: Swept<Float = T::Float>,
    R: NamedRule,
{
    rule.with_kernel(t, ByLoop { batch, types: PhantomData::<(T, G, S)> })
}

/// A batch that is stepped by the loop of its types.
struct ByLoop<'b, 'p, 's, 'a, R, T, G, S> {
    batch: Batch<'b, 'p, 's, 'a, R>,
    types: PhantomData<(T, G, S)>,
}

impl<R, T, G, S> WithKernel<T::Float> for ByLoop<'_, '_, '_, '_, R, T, G, S>
where
    R: NamedRule,
    T: Swept,
    G: Swept<Float = T::Float>,
    S: Swept<Float = T::Float>,
{
    fn with<K: Kernel<T::Float, N>, const N: usize>(self, kernel: &K) -> Result<(), Error> {
        let kernel = &self.batch.pass.scale.before(*kernel)?;
        self.batch.fused::<T, G, S, _, N>(kernel);
        Ok(())
    }
}

/// A batch that is stepped by tiles, whatever its types.
struct ByTiles<'b, 'p, 's, 'a, R>(Batch<'b, 'p, 's, 'a, R>);

impl<R: NamedRule> WithKernel<f32> for ByTiles<'_, '_, '_, '_, R> {
    fn with<K: Kernel<f32, N>, const N: usize>(self, kernel: &K) -> Result<(), Error> {
        let engine = self.0.pass.engine;
        let kernel = &self.0.pass.scale.before(*kernel)?;
        self.0.each::<N>(
            |job, states, noise| job.with(states, noise).mixed(engine, kernel),
            |work| work.mixed(engine, kernel),
        );
        Ok(())
    }
}

impl<R: NamedRule> Batch<'_, '_, '_, '_, R> {
    /// Has each tensor stepped by the loop of its types.
    fn fused<T, G, S, K, const N: usize>(self, kernel: &K)
    where
        T: Swept,
        G: Swept<Float = T::Float>,
        S: Swept<Float = T::Float>,
        K: Kernel<T::Float, N>,
    {
        let engine = self.pass.engine;
        self.each::<N>(
            |job, states, _| {
                let copy = job.copy.map(AnySliceMut::Single);
                let buffers = Buffers {
                    theta: T::of_mut(job.theta).expect(CHECKED),
                    grad: G::of(job.grad.read()).expect(CHECKED),
                    state: states.all_mut::<S, N>().expect(CHECKED),
                    copy: copy.map(|copy| G::of_mut(copy).expect(CHECKED)),
                };
                engine.sweep(kernel, buffers);
            },
            |work| work.fused::<T, G, S, K>(engine, kernel),
        );
    }

    /// Has each tensor stepped: by `whole` if nothing else is to be done, and by `part` in blocks.
    #[inline(always)]
    fn each<const N: usize>(
        self,
        whole: impl Fn(Job<'_>, &mut States<'_>, Option<Noise>),
        part: impl Fn(&mut Work<'_, N>),
    ) {
        let Batch { pass, params, jobs, .. } = self;
        for (param, job) in params.iter_mut().zip(jobs) {
            let (Some(job), Some(states)) = (job.take(), &mut param.states) else { continue };
            param.t += 1;
            let &mut Param { t, seed, offset, .. } = param;
            let noise = pass.seed.map(|pass| Noise::new(pass ^ seed, t, offset));
            match pass.largest.is_some() || matches!(job.grad, Grad::Zero(_)) {
                true => pass.blocks(job.with(states, noise), &part),
                false => whole(job, states, noise),
            }
        }
    }
}

impl<'a> Job<'a> {
    fn with<const N: usize>(self, states: &'a mut States<'_>, noise: Option<Noise>) -> Work<'a, N> {
        let state = states.all_any_mut().expect(CHECKED);
        Work { job: self, state, noise }
    }
}

impl<R> Pass<'_, R> {
    /// Steps a tensor block by block.
    fn blocks<const N: usize>(&self, work: Work<'_, N>, step: &impl Fn(&mut Work<'_, N>)) {
        let mut rest = work;
        while rest.len() > 0 {
            let rows = BLOCK.min(rest.len());
            let (mut block, after) = rest.split_at(rows);
            self.block(&mut block, step);
            rest = after;
        }
    }

    /// Steps at most [`BLOCK`] rows, measures by how much θ has changed if that is wanted, and sets
    /// the gradient to zero if that is.
    fn block<const N: usize>(&self, work: &mut Work<'_, N>, step: &impl Fn(&mut Work<'_, N>)) {
        if let Some(largest) = &self.largest {
            let change = match Type::of_slice(work.job.theta.read()) {
                Type::F32 => largest_change::<f32, N>(work, step),
                Type::F64 => largest_change::<f64, N>(work, step),
                Type::Bf16 => largest_change::<bf16, N>(work, step),
                Type::F16 => largest_change::<f16, N>(work, step),
            };
            largest.fetch_max(change.to_bits(), Ordering::Relaxed);
        } else {
            step(work);
        }
        if let Grad::Zero(grad) = &mut work.job.grad {
            grad.fill_with_zeros();
        }
    }
}

/// The largest |Δθ| of a step on at most [`BLOCK`] rows. A NaN is not larger than anything.
fn largest_change<E: Element, const N: usize>(
    work: &mut Work<'_, N>,
    step: &impl Fn(&mut Work<'_, N>),
) -> f64 {
    const LANES: usize = 16;
    let mut old = [E::zeroed(); BLOCK];
    let old = &mut old[..work.len()];
    old.copy_from_slice(E::of(work.job.theta.read()).expect(CHECKED));
    step(work);
    let new = E::of(work.job.theta.read()).expect(CHECKED);
    let mut most = [E::Float::from_f64(0.0); LANES];
    for (old, new) in old.chunks(LANES).zip(new.chunks(LANES)) {
        for ((old, new), most) in old.iter().zip(new).zip(&mut most) {
            *most = (new.to_float() - old.to_float()).abs().larger(*most);
        }
    }
    most.into_iter().map(Element::to_f64).fold(0.0, f64::max)
}

/// Types, lengths and the number of states have been checked, and the mixture is made of them.
const CHECKED: &str = "buffers were checked against their parameter";

/// A tensor in a step, or a part of one, with its states.
struct Work<'a, const N: usize> {
    job: Job<'a>,
    state: [AnySliceMut<'a>; N],
    noise: Option<Noise>,
}

impl<const N: usize> Work<'_, N> {
    fn len(&self) -> usize {
        self.job.theta.read().len()
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        let Work { job, state, noise } = self;
        let (job, job_rest) = job.split_at(mid);
        let (state, state_rest) = unzip(state.map(|state| state.split_at(mid)));
        let noise_rest = noise.map(|noise| noise.skip(mid));
        (Work { job, state, noise }, Work { job: job_rest, state: state_rest, noise: noise_rest })
    }
}

impl<const N: usize> Work<'_, N> {
    /// Steps it by the loop of its types.
    fn fused<T, G, S, K>(&mut self, engine: Engine, kernel: &K)
    where
        T: Swept,
        G: Swept<Float = T::Float>,
        S: Swept<Float = T::Float>,
        K: Kernel<T::Float, N>,
    {
        let state = self.state.each_mut().map(|state| S::of_mut(state.again()).expect(CHECKED));
        let copy = self.job.copy.as_mut().map(|copy| AnySliceMut::Single(copy.again()));
        engine.sweep(
            kernel,
            Buffers {
                theta: T::of_mut(self.job.theta.again()).expect(CHECKED),
                grad: G::of(self.job.grad.read()).expect(CHECKED),
                state,
                copy: copy.map(|copy| G::of_mut(copy).expect(CHECKED)),
            },
        );
    }

    /// Steps it by tiles.
    fn mixed<K: Kernel<f32, N>>(&mut self, engine: Engine, kernel: &K) {
        let AnySlice::Single(grad) = self.job.grad.read() else { unreachable!("{CHECKED}") };
        let mixed = Mixed {
            theta: single(&mut self.job.theta),
            grad,
            state: self.state.each_mut().map(single),
            copy: self.job.copy.as_mut().map(ColumnMut::again),
            noise: self.noise,
        };
        engine.sweep_mixed(kernel, mixed);
    }
}

fn single<'a>(slice: &'a mut AnySliceMut<'_>) -> ColumnMut<'a> {
    match slice {
        AnySliceMut::Single(column) => column.again(),
        AnySliceMut::Double(_) => unreachable!("{CHECKED}"),
    }
}
