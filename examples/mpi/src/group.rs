//! The processes of a training run: how they divide parameters and micro batches, and the
//! collective operations that they call together.
//!
//! A floating-point sum depends on its order, and the order in MPI's reduce-scatter depends on the
//! number of processes. [`Group::reduce_scatter`] has a fixed order: each process gets its shard of
//! every micro batch's gradient by an all-to-all, and adds them in the order of the micro batches.
//! A process that has one micro batch sends no more than in another reduce-scatter. A process that
//! has k sends k times as much, because it cannot add its own k gradients first: that would be
//! another order.

use std::ops::Range;

use fused_adam::{Element, bytemuck};
use mpi::Count;
use mpi::datatype::{Partition, PartitionMut};
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives};

use crate::{MICRO_BATCHES, Result};

/// Shards start at a multiple of this many elements: 4096 bytes of `f32`. The last shard may be
/// shorter, and with many processes some shards are empty. The bits do not depend on it.
const SHARD_MULTIPLE: usize = 1024;

/// Part number `index` when `len` items are divided into `parts` parts, whose length is rounded up
/// to a multiple. The last items may be too few for that: then a part is shorter or empty.
pub fn part(index: usize, parts: usize, len: usize, multiple: usize) -> Range<usize> {
    let part_len = len.div_ceil(parts).next_multiple_of(multiple);
    let start = index.saturating_mul(part_len).min(len);
    start..start.saturating_add(part_len).min(len)
}

/// The shard of a process.
pub fn shard_of(rank: usize, ranks: usize, len: usize) -> Range<usize> {
    part(rank, ranks, len, SHARD_MULTIPLE)
}

pub struct Group {
    world: SimpleCommunicator,
    pub rank: usize,
    pub ranks: usize,
}

impl Group {
    pub fn new(world: SimpleCommunicator) -> Self {
        let (rank, ranks) = (world.rank() as usize, world.size() as usize);
        Group { world, rank, ranks }
    }

    /// The shard of this process.
    pub fn shard(&self, len: usize) -> Range<usize> {
        shard_of(self.rank, self.ranks, len)
    }

    /// Adds the gradients of all micro batches, of which each process has some, and stores the sum
    /// of this process's shard.
    pub fn reduce_scatter(&self, micro_grads: &[Vec<f32>], sum: &mut [f32]) {
        let (mut send, mut send_counts, mut receive_counts) = (vec![], vec![], vec![]);
        let len = micro_grads.first().map_or(0, Vec::len);
        for rank in 0..self.ranks {
            let shard = shard_of(rank, self.ranks, len);
            micro_grads.iter().for_each(|grad| send.extend_from_slice(&grad[shard.clone()]));
            send_counts.push((micro_grads.len() * shard.len()) as Count);
            let micro_batches = part(rank, self.ranks, MICRO_BATCHES, 1).len();
            receive_counts.push((micro_batches * sum.len()) as Count);
        }
        let mut received = vec![0.0_f32; MICRO_BATCHES * sum.len()];
        let (from, to) = (starts(&send_counts), starts(&receive_counts));
        self.world.all_to_all_varcount_into(
            &Partition::new(&send[..], send_counts, from),
            &mut PartitionMut::new(&mut received[..], receive_counts, to),
        );
        // The processes have the micro batches in order, so they are now in order.
        sum.fill(0.0);
        for grad in received.chunks_exact(sum.len().max(1)) {
            sum.iter_mut().zip(grad).for_each(|(sum, g)| *sum += g);
        }
    }

    /// Replaces each shard of `theta` by that of the process that has it.
    pub fn all_gather<T: Element>(&self, theta: &mut [T]) {
        let mine = theta[self.shard(theta.len())].to_vec();
        let bytes = |rank| size_of::<T>() * shard_of(rank, self.ranks, theta.len()).len();
        let counts: Vec<Count> = (0..self.ranks).map(|rank| bytes(rank) as Count).collect();
        let to = starts(&counts);
        let all: &mut [u8] = bytemuck::cast_slice_mut(theta);
        let mine: &[u8] = bytemuck::cast_slice(&mine);
        self.world.all_gather_varcount_into(mine, &mut PartitionMut::new(all, counts, to));
    }

    /// Returns the messages of all processes, which have the same length, in the order of ranks.
    pub fn all_gather_message(&self, message: &[u8]) -> Vec<u8> {
        let mut all = vec![0; self.ranks * message.len()];
        self.world.all_gather_into(message, &mut all[..]);
        all
    }

    /// Returns this process's result, or an error if another process has one. So either all
    /// processes continue or none. All processes must call it.
    pub fn agree<T, E>(&self, mine: std::result::Result<T, E>) -> Result<T>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let failed = self.all_gather_message(&[mine.is_err().into()]);
        match (mine, failed.iter().position(|&failed| failed != 0)) {
            (Ok(_), Some(rank)) => Err(format!("rank {rank} failed").into()),
            (mine, _) => mine.map_err(Into::into),
        }
    }
}

/// Where each part starts, when they follow each other.
fn starts(counts: &[Count]) -> Vec<Count> {
    let next = |end: &mut Count, count: &Count| Some(std::mem::replace(end, *end + count));
    counts.iter().scan(0, next).collect()
}
