//! Saves the states of an optimizer to a safetensors file, and loads them.
//!
//! The tensors `<param>.<state>` hold the states as stored in memory. The metadata hold, as JSON,
//! the version of this format, the number of steps, the loss scale, the rule of each group, and the
//! group, element type, number of steps and scalars of each parameter. A file is written next to
//! the one that it replaces, synced to disk, and renamed: after a crash, the path holds either the
//! old or the new file. States are written and read without an intermediate copy.
//!
//! States in 8 bits are stored as blocks, or as `f32` in torch's layout. A file with one of these
//! can be loaded into an optimizer with the other.
//!
//! Files are not trusted. The header may not be longer than the file, nor than [`LONGEST_HEADER`].
//! The tensors must cover the file without gaps. Reading the header takes some tens of times its
//! length in memory at worst. Apart from that, memory is allocated only for parameters that are
//! registered.

mod blocks;
mod reader;
mod writer;

pub use reader::CheckpointReader;
pub use writer::CheckpointWriter;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use safetensors::tensor::Dtype;
use serde::{Deserialize, Serialize};

use super::grad_scaler::GradScaler;
use crate::elements::column::DType;
use crate::error::Error;
use crate::rules::Rule;

/// The version that is written, and the only one that is accepted.
const VERSION: u32 = 1;

/// The metadata key of the description.
const KEY: &str = "fused_adam";

/// The metadata key of a file in torch's layout. It says that this crate wrote the file, and that
/// parameters without a step are missing.
const TORCH_KEY: &str = "fused_adam_torch";

/// The limit on the number of steps in torch's layout, exclusive. It is just below 2^53, above
/// which an `f64` does not hold every integer.
const MOST_STEPS: u64 = 9_000_000_000_000_000;

/// The longest header that is written or read: the limit of the safetensors format.
const LONGEST_HEADER: u64 = 100_000_000;

/// The error of saving or loading a checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },

    /// The file is not a checkpoint, or is truncated or damaged.
    #[error("{}: {why}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },

    /// The file is a checkpoint of another optimizer.
    #[error("{}: {what} is {found}, expected {expected}", path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: String,
        /// The value in the file.
        found: String,
        /// The value in the optimizer, or that the caller expects.
        expected: String,
    },

    /// The file holds an invalid value, such as a hyper-parameter outside its range.
    #[error("{}: {source}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Error,
    },
}

type Result<T> = std::result::Result<T, CheckpointError>;

/// The description of an optimizer in the metadata.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description<R> {
    version: u32,
    steps: u64,
    loss_scale: Option<GradScaler>,
    groups: Vec<GroupDescription<R>>,
    params: Vec<ParamDescription>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupDescription<R> {
    rule: String,
    hyper_parameters: R,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ParamDescription {
    name: String,
    group: usize,
    theta: String,
    /// The format of 8-bit states. Absent for states of elements.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    state: Option<String>,
    t: u64,
    /// The scalars of the rule, by name. Absent if the rule has none, or before the first step.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    scalars: BTreeMap<String, f64>,
}

/// The version alone, which is read before the rest.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// Whether torch has names for all states of this rule, and the rule keeps no scalars.
fn is_torchs(rule: &impl Rule) -> bool {
    let states = rule.states();
    !states.is_empty()
        && rule.scalars().is_empty()
        && states.iter().all(|state| state.torch_name().is_some())
}

fn safetensors_dtype(of: DType) -> Dtype {
    match of {
        DType::F32 => Dtype::F32,
        DType::F64 => Dtype::F64,
        DType::Bf16 => Dtype::BF16,
        DType::F16 => Dtype::F16,
        DType::Block8 => Dtype::U8,
    }
}

/// Checks that this machine is little-endian, as the file is.
fn little_endian() -> io::Result<()> {
    if cfg!(target_endian = "big") {
        let why = "safetensors files are little-endian, and this machine is not";
        return Err(io::Error::new(io::ErrorKind::Unsupported, why));
    }
    Ok(())
}
