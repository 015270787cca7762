//! A checkpoint with one file for each process, which any number of processes can load. Each reads
//! only the ranges that it needs.
//!
//! `step-T-rank-R-of-N` has the shard of rank R: the bytes of `theta`, `m` and `v`, one after the
//! other. `index.json` names the last step whose files are all written. It is replaced after them,
//! so a run that is killed at any time leaves a checkpoint that can be loaded. Files of earlier
//! steps are kept.

use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use fused_adam::{Element, bytemuck};
use serde::{Deserialize, Serialize};

use crate::State;
use crate::group::{Group, shard_of};

type Result<T> = std::result::Result<T, CheckpointError>;

/// A file that cannot be written or read, or that has other content than expected.
#[derive(Debug, thiserror::Error)]
#[error("{}: {found}, expected {expected}", file.display())]
pub struct CheckpointError {
    file: PathBuf,
    found: String,
    expected: String,
}

/// Returns a function that makes an error from what was found.
fn wrong<E: Display>(file: &Path, expected: impl Display) -> impl FnOnce(E) -> CheckpointError {
    let (file, expected) = (file.to_owned(), expected.to_string());
    |found| CheckpointError { file, found: found.to_string(), expected }
}

#[derive(Serialize, Deserialize)]
struct Index {
    /// The number of steps taken.
    t: u64,
    ranks: NonZeroUsize,
    /// The number of parameters.
    len: usize,
    /// The element type of the parameters.
    theta: String,
}

fn shard_file(folder: &Path, t: u64, rank: usize, ranks: usize) -> PathBuf {
    folder.join(format!("step-{t}-rank-{rank}-of-{ranks}"))
}

/// Saves the shard of this process.
pub fn save_shard<T: Element>(folder: &Path, group: &Group, state: &State<T>) -> Result<()> {
    let theta = &state.theta[group.shard(state.theta.len())];
    let (m, v) = (bytemuck::cast_slice(&state.m), bytemuck::cast_slice(&state.v));
    let bytes = [bytemuck::cast_slice(theta), m, v].concat();
    replace(&shard_file(folder, state.t, group.rank, group.ranks), &bytes)
}

/// Makes the files of this step the checkpoint, on rank 0. All processes must have saved theirs.
pub fn save_index<T: Element>(folder: &Path, group: &Group, state: &State<T>) -> Result<()> {
    let (0, Some(ranks)) = (group.rank, NonZeroUsize::new(group.ranks)) else { return Ok(()) };
    let index = Index { t: state.t, ranks, len: state.theta.len(), theta: T::NAME.to_owned() };
    let file = folder.join("index.json");
    let json = serde_json::to_vec(&index).map_err(wrong(&file, "an index"))?;
    replace(&file, &json)
}

/// Writes a file beside `file` and renames it, so that no reader sees a part of it.
fn replace(file: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> io::Result<()> {
        fs::create_dir_all(file.parent().unwrap_or(file))?;
        let unfinished = file.with_extension("unfinished");
        let mut writer = File::create(&unfinished)?;
        writer.write_all(bytes)?;
        writer.sync_all()?;
        fs::rename(unfinished, file)
    };
    write().map_err(wrong(file, "a file that can be written"))
}

/// Loads the shard of this process.
pub fn load<T: Element>(folder: &Path, group: &Group, state: &mut State<T>) -> Result<()> {
    let file = folder.join("index.json");
    let index = fs::read(&file).and_then(|json| Ok(serde_json::from_slice::<Index>(&json)?));
    let index = index.map_err(wrong(&file, "the index of a checkpoint"))?;
    let (len, ranks) = (state.theta.len(), index.ranks.get());
    if (index.len, &*index.theta) != (len, T::NAME) {
        let found = format!("{} parameters of type {}", index.len, index.theta);
        return Err(wrong(&file, format!("{len} of type {}", T::NAME))(found));
    }
    let own = group.shard(len);
    for rank in 0..ranks {
        let theirs = shard_of(rank, ranks, len);
        if theirs.start >= own.end {
            break;
        }
        let common = own.start.max(theirs.start)..own.end.min(theirs.end);
        if common.is_empty() {
            continue;
        }
        let (from, to) = (common.start - theirs.start, common.start - own.start);
        let to = to..to + common.len();
        let m_at = theirs.len() * size_of::<T>();
        let v_at = m_at + theirs.len() * size_of::<f32>();
        let end = v_at + theirs.len() * size_of::<f32>();

        let path = shard_file(folder, index.t, rank, ranks);
        let read = || -> io::Result<()> {
            let file = File::open(&path)?;
            let size = file.metadata()?.len();
            if size != end as u64 {
                return Err(io::Error::other(format!("it has {size} bytes")));
            }
            read_at(&file, 0, from, &mut state.theta[common])?;
            read_at(&file, m_at, from, &mut state.m[to.clone()])?;
            read_at(&file, v_at, from, &mut state.v[to])
        };
        let expected = format!("{end} bytes: theta, m and v of {} parameters", theirs.len());
        read().map_err(wrong(&path, expected))?;
    }
    state.t = index.t;
    Ok(())
}

/// Reads elements of a buffer that starts at byte `buffer` of a file, from element `from` on.
fn read_at<T: Element>(file: &File, buffer: usize, from: usize, to: &mut [T]) -> io::Result<()> {
    let start = buffer + from * size_of::<T>();
    file.read_exact_at(bytemuck::cast_slice_mut(to), start as u64)
}
