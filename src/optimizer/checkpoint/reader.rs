//! Reading a checkpoint: everything is checked, then read, then moved into the optimizer.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, Metadata};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{
    CheckpointError, Description, GroupDescription, KEY, LONGEST_HEADER, MOST_STEPS,
    ParamDescription, Result, TORCH_KEY, VERSION, Version, blocks, is_torchs, little_endian,
    safetensors_dtype,
};
use crate::elements::block8::{Block8, FORMAT};
use crate::elements::column::{ColumnMut, DType};
use crate::elements::{Element, StateElement};
use crate::error::Error;
use crate::optimizer::owner::Optimizer;
use crate::optimizer::param::Param;
use crate::optimizer::states::States;
use crate::rules::{Rule, State};
use crate::step::{Scalars, scalars_after};

/// An open checkpoint. Opening it reads the header and checks that the length of the file matches
/// it.
#[derive(Debug)]
pub struct CheckpointReader {
    path: PathBuf,
    file: File,
    metadata: Metadata,
    /// The position of the first tensor in the file.
    data: u64,
}

impl CheckpointReader {
    /// Opens a file.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Io`], and [`CheckpointError::Format`] if the file is not a safetensors
    /// file or is truncated.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_owned();
        match Self::header(&path) {
            Ok((file, metadata, data)) => Ok(CheckpointReader { path, file, metadata, data }),
            Err(Failed::Io(source)) => Err(CheckpointError::Io { path, source }),
            Err(Failed::Format(why)) => Err(CheckpointError::Format { path, why }),
        }
    }

    fn header(path: &Path) -> std::result::Result<(File, Metadata, u64), Failed> {
        little_endian()?;
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        if len < 8 {
            let why = format!("is not a safetensors file: it has only {len} bytes");
            return Err(Failed::Format(why));
        }
        let mut bytes = [0; 8];
        file.read_exact(&mut bytes)?;
        let header_len = u64::from_le_bytes(bytes);
        if header_len > LONGEST_HEADER {
            return Err(Failed::Format("is not a safetensors file".to_owned()));
        }
        if header_len > len - 8 {
            let why = format!("is truncated: it has {len} bytes, and its header {header_len}");
            return Err(Failed::Format(why));
        }
        let mut header = vec![0; header_len as usize];
        file.read_exact(&mut header)?;
        let metadata: Metadata = serde_json::from_slice(&header)
            .map_err(|error| Failed::Format(format!("has no valid safetensors header: {error}")))?;
        let (data, tensors) = (8 + header_len, metadata.data_len() as u64);
        if len - data != tensors {
            let has = len - data;
            let why = format!("has {has} bytes of tensors, expected {tensors} by its header");
            return Err(Failed::Format(why));
        }
        Ok((file, metadata, data))
    }

    /// Restores an optimizer: replaces the states, scalars and step counts of its parameters, the
    /// rules of its groups, its number of steps and its loss scale by those of the file. The
    /// optimizer must have the parameters and groups that were saved, with the same element types,
    /// and with the same lengths where they have states.
    ///
    /// Everything is as in the file afterwards. To go on with another learning rate, change the
    /// rule after `load`. The loss scale is replaced too: it is removed if the file has none. The
    /// file does not hold `options` and the learning-rate schedule: set these in your program.
    ///
    /// States of `f32` in the file become states in 8 bits, rounded to nearest, for a parameter
    /// that was registered with those, and the other way round.
    ///
    /// If the optimizer already has states, they are replaced after all new ones have been read. A
    /// new optimizer needs no second copy in memory.
    ///
    /// # Errors
    ///
    /// [`CheckpointError`] says what does not fit. Then the optimizer has not changed.
    pub fn load<R: Rule + DeserializeOwned>(&mut self, opt: &mut Optimizer<R>) -> Result<()> {
        let description: Description<R> = self.description()?;
        self.fits("the number of groups", description.groups.len(), opt.groups.len())?;
        for (i, (group, own)) in description.groups.iter().zip(&opt.groups).enumerate() {
            self.fits(&format!("the rule of group {i}"), &*group.rule, own.name())?;
            let found = group.hyper_parameters.name();
            self.fits(&format!("the rule of group {i}"), found, own.name())?;
            group.hyper_parameters.check().map_err(|source| self.invalid(source))?;
        }
        if let Some(scale) = &description.loss_scale {
            scale.check().map_err(|source| self.invalid(source))?;
        }
        self.fits("the number of parameters", description.params.len(), opt.params.len())?;
        // First check everything, then read, then replace.
        let mut places = vec![None; opt.params.len()];
        for param in &description.params {
            let Some(&id) = opt.by_name.get(&param.name) else {
                let what = "a parameter".to_owned();
                let found = format!("`{}`", param.name);
                return Err(self.mismatch(what, found, "one that is registered".into()));
            };
            let own = &opt.params[id];
            let what = |of| format!("{of} of `{}`", own.name);
            self.fits(&what("the group"), param.group, own.group)?;
            self.fits(&what("the type"), &*param.theta, own.types.theta.name())?;
            if let Some(format) = &param.state {
                self.fits(&what("the format of the states"), &**format, FORMAT)?;
                if !matches!(own.types.state, DType::Block8 | DType::F32) {
                    let (what, found) = (what("the type of the states"), DType::Block8.name());
                    return Err(self.mismatch(what, found.into(), own.types.state.name().into()));
                }
            }
            if places[id].replace(param).is_some() {
                return Err(self.format(format!("has the parameter `{}` twice", own.name)));
            }
        }
        let mut read = Vec::with_capacity(opt.params.len());
        for (own, place) in opt.params.iter().zip(&places) {
            let Some(place) = place else {
                return Err(self.format(format!("lacks the parameter `{}`", own.name)));
            };
            let rule = &description.groups[own.group].hyper_parameters;
            let names: Vec<String> = rule
                .states()
                .iter()
                .map(|state| format!("{}.{}", own.name, state.name()))
                .collect();
            let any = names.iter().any(|name| self.metadata.info(name).is_some());
            let stored = stored_type(own.types.state, place.state.is_some());
            if place.t > 0 || any {
                for name in &names {
                    self.info(name, stored, own.len)?;
                }
            }
            let scalars = self.scalars(place, rule)?;
            read.push((place.t, (place.t > 0 || any).then_some(stored), rule, scalars));
        }
        let mut states = Vec::with_capacity(read.len());
        for (own, (t, stored, rule, scalars)) in opt.params.iter().zip(read) {
            let name = |state: &State| format!("{}.{}", own.name, state.name());
            let new = match stored {
                Some(stored) => Some(self.states(own, rule, stored, name)?),
                None => None,
            };
            states.push((t, new, scalars));
        }
        for (own, (t, new, scalars)) in opt.params.iter_mut().zip(states) {
            (own.t, own.states, own.scalars) = (t, new, scalars);
        }
        for (own, group) in opt.groups.iter_mut().zip(description.groups) {
            *own = group.hyper_parameters;
        }
        opt.steps = description.steps;
        opt.grad_scaler = description.loss_scale;
        Ok(())
    }

    /// Restores an optimizer from the states of torch's optimizers, with the names of
    /// [`Optimizer::torch_checkpoint`]. Tensors may have any shape with the right number of
    /// elements. The number of steps becomes the largest of the parameters' step counts. Parameters
    /// that are not in the file count as not stepped. At least one must be in the file, unless the
    /// file is empty or was written by [`Optimizer::torch_checkpoint`]. Rules and options are not
    /// in the file, and do not change. For parameters with 8-bit states, `f32` states are rounded
    /// to nearest.
    ///
    /// # Errors
    ///
    /// [`CheckpointError`] says what does not fit. Then the optimizer has not changed.
    pub fn load_torch<R: Rule>(&mut self, opt: &mut Optimizer<R>) -> Result<()> {
        let mut states = Vec::with_capacity(opt.params.len());
        let mut any = self.metadata.tensors().is_empty() || self.metadata_of(TORCH_KEY).is_some();
        for own in &opt.params {
            let rule = &opt.groups[own.group];
            let step = format!("{}.step", own.name);
            let name = |state: &State| {
                format!("{}.{}", own.name, state.torch_name().unwrap_or(state.name()))
            };
            if self.metadata.info(&step).is_none() {
                let has = |state: &State| self.metadata.info(&name(state)).is_some();
                if is_torchs(rule) && rule.states().iter().any(has) {
                    return Err(self.format(format!("lacks the tensor `{step}`")));
                }
                states.push((0, None));
                continue;
            }
            any = true;
            if !is_torchs(rule) {
                let what = format!("the rule of `{}`", own.name);
                let found = "one whose states have names in torch".to_owned();
                return Err(self.mismatch(what, found, rule.name().to_owned()));
            }
            let t = self.step_number(&step)?;
            let stored = stored_type(own.types.state, false);
            for state in rule.states() {
                self.info(&name(state), stored, own.len)?;
            }
            states.push((t, Some(self.states(own, rule, stored, name)?)));
        }
        if !any {
            return Err(self.format("has no tensor `<param>.step` of a parameter".to_owned()));
        }
        opt.steps = states.iter().map(|(t, _)| *t).max().unwrap_or(0);
        for (own, (t, new)) in opt.params.iter_mut().zip(states) {
            (own.t, own.states, own.scalars) = (t, new, Scalars::new());
        }
        Ok(())
    }

    /// Reads a tensor that was saved with the states, into a slice of its element type and length.
    ///
    /// # Errors
    ///
    /// [`CheckpointError`] says what does not fit. If reading fails midway, `into` holds what has
    /// been read.
    pub fn read<E: Element>(&mut self, name: &str, into: &mut [E]) -> Result<()> {
        let start = self.info(name, E::DTYPE, into.len())?;
        self.read_at(start, bytemuck::cast_slice_mut(into))
    }

    /// The names of the tensors in the file.
    pub fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    /// The shape of a tensor in the file, or `None` if the file does not have it.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.metadata.info(name).map(|info| &*info.shape)
    }

    fn description<R: DeserializeOwned>(&self) -> Result<Description<R>> {
        let Some(json) = self.metadata_of(KEY) else {
            return Err(self.format(format!("is not a checkpoint: its metadata lack `{KEY}`")));
        };
        let invalid = |error| self.format(format!("its metadata `{KEY}` are not valid: {error}"));
        let version: Version = serde_json::from_str(json).map_err(invalid)?;
        self.fits("the version", version.version, VERSION)?;
        let Description { version, steps, loss_scale, groups, params } =
            serde_json::from_str::<Description<Value>>(json).map_err(invalid)?;
        let groups = groups.into_iter().map(group_of).collect::<serde_json::Result<_>>();
        let groups = groups.map_err(invalid)?;
        Ok(Description { version, steps, loss_scale, groups, params })
    }

    fn metadata_of(&self, key: &str) -> Option<&String> {
        self.metadata.metadata().as_ref()?.get(key)
    }

    /// The position of a tensor in the file, if it has this type and length.
    fn info(&self, name: &str, of: DType, len: usize) -> Result<u64> {
        let Some(info) = self.metadata.info(name) else {
            return Err(self.format(format!("lacks the tensor `{name}`")));
        };
        if info.dtype != safetensors_dtype(of) {
            let found = format!("{:?}", info.dtype).to_lowercase();
            return Err(self.mismatch(
                format!("the type of `{name}`"),
                found,
                of.name().to_owned(),
            ));
        }
        // If this product overflowed, the header would have been rejected.
        let found: usize = info.shape.iter().product();
        let expected = match of {
            DType::Block8 => Block8::slots(len).saturating_mul(size_of::<Block8>()),
            _ => len,
        };
        self.fits(&format!("the length of `{name}`"), found, expected)?;
        Ok(self.data + info.data_offsets.0 as u64)
    }

    /// The scalars of a parameter: those of the file, or else the values after this number of steps
    /// with the rule's hyper-parameters.
    fn scalars(&self, param: &ParamDescription, rule: &impl Rule) -> Result<Scalars> {
        if param.t == 0 {
            return Ok(Scalars::new());
        }
        let mut scalars = scalars_after(rule, param.t);
        for name in param.scalars.keys() {
            if !rule.scalars().contains(&name.as_str()) {
                let what = format!("a scalar of `{}`", param.name);
                let expected = format!("one of {:?}", rule.scalars());
                return Err(self.mismatch(what, format!("`{name}`"), expected));
            }
        }
        for (scalar, name) in scalars.iter_mut().zip(rule.scalars()) {
            *scalar = param.scalars.get(*name).copied().unwrap_or(*scalar);
        }
        Ok(scalars)
    }

    /// Reads the states of a parameter, which the file has in the type `stored`. They have been
    /// checked.
    fn states<R: Rule>(
        &mut self,
        param: &Param<'_, R>,
        rule: &R,
        stored: DType,
        name: impl Fn(&State) -> String,
    ) -> Result<States<'static>> {
        let states = States::new(param.types.state, param.len, rule);
        let mut states = states.map_err(|source| self.invalid(source))?;
        for (i, state) in rule.states().iter().enumerate() {
            let start = self.info(&name(state), stored, param.len)?;
            match states.get_mut(i) {
                Some(ColumnMut::Block8(to)) if stored == DType::F32 => {
                    self.seek(start)?;
                    blocks::encode(to, |bytes| self.read_next(bytes))?;
                }
                Some(ColumnMut::F32(to)) if stored == DType::Block8 => {
                    self.seek(start)?;
                    blocks::decode_to(to, state.code(), |bytes| self.read_next(bytes))?;
                }
                Some(slice) => self.read_at(start, slice.bytes_mut())?,
                None => (),
            }
        }
        Ok(states)
    }

    /// Reads a step number as torch writes it: as `f32`, `f64` or `i64`.
    fn step_number(&mut self, name: &str) -> Result<u64> {
        let Some(info) = self.metadata.info(name) else {
            return Err(self.format(format!("lacks the tensor `{name}`")));
        };
        let (dtype, start) = (info.dtype, self.data + info.data_offsets.0 as u64);
        let one = info.shape.iter().product::<usize>() == 1;
        let mut bytes = [0; 8];
        let t = match dtype {
            Dtype::F32 if one => {
                self.read_at(start, &mut bytes[..4])?;
                f64::from(f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            }
            Dtype::F64 if one => {
                self.read_at(start, &mut bytes)?;
                f64::from_le_bytes(bytes)
            }
            Dtype::I64 if one => {
                self.read_at(start, &mut bytes)?;
                i64::from_le_bytes(bytes) as f64
            }
            _ => f64::NAN,
        };
        if t >= 0.0 && t.fract() == 0.0 && t < MOST_STEPS as f64 {
            return Ok(t as u64);
        }
        Err(self.mismatch(format!("`{name}`"), t.to_string(), "one number of steps".into()))
    }

    fn read_at(&mut self, start: u64, into: &mut [u8]) -> Result<()> {
        self.seek(start)?;
        self.read_next(into)
    }

    fn seek(&mut self, start: u64) -> Result<()> {
        self.file.seek(SeekFrom::Start(start)).map(drop).map_err(|source| self.io(source))
    }

    fn read_next(&mut self, into: &mut [u8]) -> Result<()> {
        self.file.read_exact(into).map_err(|source| self.io(source))
    }

    fn io(&self, source: io::Error) -> CheckpointError {
        CheckpointError::Io { path: self.path.clone(), source }
    }

    fn fits<T: PartialEq + ToString>(&self, what: &str, found: T, expected: T) -> Result<()> {
        if found == expected {
            return Ok(());
        }
        Err(self.mismatch(what.to_owned(), found.to_string(), expected.to_string()))
    }

    fn mismatch(&self, what: String, found: String, expected: String) -> CheckpointError {
        CheckpointError::Mismatch { path: self.path.clone(), what, found, expected }
    }

    fn format(&self, why: String) -> CheckpointError {
        CheckpointError::Format { path: self.path.clone(), why }
    }

    fn invalid(&self, source: Error) -> CheckpointError {
        CheckpointError::Invalid { path: self.path.clone(), source }
    }
}

/// The type of the states in a file, for a parameter with states of type `own`: blocks, or else
/// elements, which are `f32` if they are to be encoded or if blocks are to be decoded.
fn stored_type(own: DType, in_blocks: bool) -> DType {
    match own {
        _ if in_blocks => DType::Block8,
        DType::Block8 => DType::F32,
        own => own,
    }
}

/// The error of reading a header.
enum Failed {
    Io(io::Error),
    Format(String),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Failed::Io(error)
    }
}

/// The group with its rule as an `R`. A rule of the crate and [`AnyRule`](crate::AnyRule), which
/// has its name around the hyper-parameters, read what the other has written.
fn group_of<R: DeserializeOwned>(
    group: GroupDescription<Value>,
) -> serde_json::Result<GroupDescription<R>> {
    let GroupDescription { rule, hyper_parameters } = group;
    let hyper_parameters = R::deserialize(&hyper_parameters).or_else(|error| {
        let within = hyper_parameters.get(&rule).and_then(|within| R::deserialize(within).ok());
        let around = || R::deserialize(json!({ rule.as_str(): &hyper_parameters })).ok();
        within.or_else(around).ok_or(error)
    })?;
    Ok(GroupDescription { rule, hyper_parameters })
}
