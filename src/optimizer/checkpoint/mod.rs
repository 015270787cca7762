//! An optimizer's states in a safetensors file.
//!
//! The tensors `<param>.<state>` hold the states as they lie in memory; the metadata hold, as JSON,
//! the version of this format, the rule of each group, and each parameter's group, type and number
//! of steps. A file is written beside the one that it replaces, brought to the disk, and renamed: a
//! crash leaves the old file or the new one. States are written from where they are and read to
//! where they will be.
//!
//! A file is not trusted. Its header may not be longer than the file, nor than [`LONGEST_HEADER`];
//! its tensors must cover the file without gaps; and beside what it takes to read the header, some
//! tens of times its length at worst, memory is allocated only for parameters that are registered.

mod reader;
mod writer;

pub use reader::CheckpointReader;
pub use writer::CheckpointWriter;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use safetensors::tensor::Dtype;
use serde::{Deserialize, Serialize};

use super::loss_scale::LossScale;
use crate::elements::column::DType;
use crate::error::Error;
use crate::rules::Rule;

/// The version that is written, and the only one that is read.
const VERSION: u32 = 1;

/// Where in the metadata the description is.
const KEY: &str = "fused_adam";

/// In the metadata of a file of torch's layout: that it was written here, and lacks what has not
/// been stepped.
const TORCH_KEY: &str = "fused_adam_torch";

/// The first number of steps that torch's layout is not trusted with: past it, an `f64` has no
/// halves.
const MOST_STEPS: u64 = 9_000_000_000_000_000;

/// The longest header that is written or read: 32 MiB, enough for some hundred thousand tensors.
const LONGEST_HEADER: u64 = 32 << 20;

/// Why a checkpoint was not saved or loaded.
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

    /// The file is not a checkpoint, or is not whole.
    #[error("{}: {why}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },

    /// The file is a checkpoint of something else.
    #[error("{}: {what} is {found}, expected {expected}", path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: String,
        /// What the file has.
        found: String,
        /// What the optimizer, or the caller, has.
        expected: String,
    },

    /// What the file says is not valid, such as a hyper-parameter outside its range.
    #[error("{}: {source}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Error,
    },
}

type Result<T> = std::result::Result<T, CheckpointError>;

/// What the metadata say of an optimizer.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description<R> {
    version: u32,
    steps: u64,
    loss_scale: Option<LossScale>,
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
    t: u64,
    /// The rule's scalars, by name. Absent where the rule has none, or before the first step.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    scalars: BTreeMap<String, f64>,
}

/// The version alone, which is looked at before the rest.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// Whether torch keeps all of this rule's states, and what it calls them.
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
    }
}

/// That numbers lie in memory as they do in a file.
fn little_endian() -> io::Result<()> {
    if cfg!(target_endian = "big") {
        let why = "safetensors files are little-endian, and this machine is not";
        return Err(io::Error::new(io::ErrorKind::Unsupported, why));
    }
    Ok(())
}
