//! An optimizer's states in a safetensors file.
//!
//! The tensors `<param>.<state>` hold the states as they lie in memory; the metadata hold, as JSON,
//! the version of this format, the rule of each group, and each parameter's group, type and number
//! of steps. A file is written beside the one that it replaces, brought to the disk, and renamed: a
//! crash leaves the old file or the new one. States are written from where they are and read to
//! where they will be.
//!
//! A file is not trusted. Its header may not be longer than the file, nor than [`LONGEST_HEADER`]; its
//! tensors must cover the file without gaps; and beside what it takes to read the header, some
//! tens of times its length at worst, memory is allocated only for parameters that are registered.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::tensor::{States, Type};
use super::{LossScale, NamedRule, Optimizer, Param};
use crate::backend::columns::AnySlice;
use crate::step::check_same_states;
use crate::{Element, Error};

/// The version that is written, and the only one that is read.
const VERSION: u32 = 1;

/// Where in the metadata the description is.
const KEY: &str = "fused_adam";

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
}

/// The version alone, which is looked at before the rest.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// A checkpoint that is about to be written: the optimizer's states, and what is kept with them.
#[must_use = "nothing is written before `save`"]
pub struct CheckpointWriter<'a> {
    metadata: serde_json::Result<HashMap<String, String>>,
    tensors: Vec<Saved<'a>>,
    /// That it is well formed, and would be read again.
    valid: std::result::Result<(), Error>,
}

struct Saved<'a> {
    name: String,
    shape: Vec<usize>,
    dtype: Dtype,
    bytes: Bytes<'a>,
}

enum Bytes<'a> {
    Of(&'a [u8]),
    Number([u8; 4]),
}

impl Bytes<'_> {
    fn get(&self) -> &[u8] {
        match self {
            Bytes::Of(bytes) => bytes,
            Bytes::Number(bytes) => bytes,
        }
    }
}

impl<R: NamedRule + Serialize> Optimizer<R> {
    /// The states of all parameters, to be saved.
    ///
    /// ```
    /// use fused_adam::{AdamW, CheckpointReader, GroupId, Optimizer, Tensor};
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("training.safetensors");
    ///
    /// let mut opt = Optimizer::new(AdamW::default())?;
    /// opt.add::<f32>(GroupId::default(), "w", 4)?;
    /// let mut weights = [0.5_f32; 4];
    /// opt.step([Tensor::new("w", &mut weights, &[1.0_f32; 4])])?;
    /// opt.checkpoint().with("w", &weights).save(&path)?;
    ///
    /// let mut resumed = Optimizer::new(AdamW::default())?;
    /// resumed.add::<f32>(GroupId::default(), "w", 4)?;
    /// let mut file = CheckpointReader::open(&path)?;
    /// file.load(&mut resumed)?;
    /// let mut loaded = [0.0_f32; 4];
    /// file.read("w", &mut loaded)?;
    /// assert_eq!((loaded, resumed.steps()), (weights, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn checkpoint(&self) -> CheckpointWriter<'_> {
        let describe = |param: &Param<R>| ParamDescription {
            name: param.name.clone(),
            group: param.group,
            theta: param.types.theta.name().to_owned(),
            t: param.t,
        };
        let groups = self.groups.iter().map(|group| GroupDescription {
            rule: group.rule.name().to_owned(),
            hyper_parameters: group.rule.clone(),
        });
        let description = Description {
            version: VERSION,
            steps: self.steps,
            loss_scale: self.loss_scale,
            groups: groups.collect(),
            params: self.params.iter().map(describe).collect(),
        };
        let mut tensors = Vec::new();
        for param in &self.params {
            let names = self.groups[param.group].rule.state_names();
            for (i, state) in names.iter().enumerate() {
                if let Some(slice) = param.states.as_ref().and_then(|states| states.get(i)) {
                    tensors.push(Saved::new(format!("{}.{state}", param.name), slice));
                }
            }
        }
        let json = serde_json::to_string(&description);
        let metadata = json.map(|json| HashMap::from([(KEY.to_owned(), json)]));
        CheckpointWriter { metadata, tensors, valid: self.valid() }
    }
}

impl<R: NamedRule> Optimizer<R> {
    /// That all of it can be loaded again.
    fn valid(&self) -> std::result::Result<(), Error> {
        for group in &self.groups {
            group.rule.check()?;
        }
        for param in &self.params {
            if let Some(states) = &param.states {
                let names = self.groups[param.group].rule.state_names();
                check_same_states(names, states.names())?;
            }
        }
        self.loss_scale.as_ref().map_or(Ok(()), LossScale::check)
    }

    /// The states of Adam, AdamW or RAdam as torch keeps them: `<param>.exp_avg`, `<param>.exp_avg_sq`,
    /// with AMSGrad `<param>.max_exp_avg_sq`, and `<param>.step`, an `f32`. Parameters without a step so
    /// far are left out, as in torch, and so are those of other rules.
    pub fn torch_checkpoint(&self) -> CheckpointWriter<'_> {
        let mut tensors = Vec::new();
        let has_layout = |param: &&Param<R>| is_torchs(&self.groups[param.group].rule);
        for param in self.params.iter().filter(has_layout).filter(|param| param.t > 0) {
            let names = self.groups[param.group].rule.state_names();
            for (i, state) in names.iter().enumerate() {
                if let Some(slice) = param.states.as_ref().and_then(|states| states.get(i)) {
                    let state = torch_name(state).unwrap_or(state);
                    tensors.push(Saved::new(format!("{}.{state}", param.name), slice));
                }
            }
            tensors.push(Saved {
                name: format!("{}.step", param.name),
                shape: Vec::new(),
                dtype: Dtype::F32,
                bytes: Bytes::Number((param.t as f32).to_le_bytes()),
            });
        }
        let metadata = Ok(HashMap::from([("format".into(), "pt".into())]));
        CheckpointWriter { metadata, tensors, valid: self.valid() }
    }
}

/// Whether torch keeps the states of this rule as `exp_avg` and so on.
fn is_torchs(rule: &impl NamedRule) -> bool {
    matches!(rule.name(), "adam" | "adamw" | "radam")
}

/// What torch calls a state.
fn torch_name(state: &str) -> Option<&'static str> {
    match state {
        "m" => Some("exp_avg"),
        "v" => Some("exp_avg_sq"),
        "v_max" => Some("max_exp_avg_sq"),
        _ => None,
    }
}

impl<'a> Saved<'a> {
    fn new(name: String, slice: AnySlice<'a>) -> Self {
        let dtype = dtype(Type::of_slice(slice));
        Saved { name, shape: vec![slice.len()], dtype, bytes: Bytes::Of(slice.bytes()) }
    }
}

fn dtype(of: Type) -> Dtype {
    match of {
        Type::F32 => Dtype::F32,
        Type::F64 => Dtype::F64,
        Type::Bf16 => Dtype::BF16,
        Type::F16 => Dtype::F16,
    }
}

impl<'a> CheckpointWriter<'a> {
    /// Keeps another tensor in the same file, such as the parameter itself, under this name.
    pub fn with<E: Element>(mut self, name: &str, tensor: &'a [E]) -> Self {
        self.tensors.push(Saved::new(name.to_owned(), E::any(tensor)));
        self
    }

    /// Writes the file: beside `path` first, which it replaces when it is whole and on the disk.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Invalid`] and [`CheckpointError::Format`] if what would be written could not
    /// be loaded: hyper-parameters outside their range, states of another rule, two tensors of one name.
    /// [`CheckpointError::Io`]. Then the old file is as it was, unless the new one is whole in its place and
    /// only bringing the directory to the disk has failed.
    pub fn save(mut self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let failed = |source| CheckpointError::Io { path: path.to_owned(), source };
        little_endian().map_err(failed)?;
        if let Err(source) = self.valid {
            return Err(CheckpointError::Invalid { path: path.to_owned(), source });
        }
        // Wider types first, so that all are aligned.
        self.tensors.sort_by(|a, b| b.dtype.cmp(&a.dtype).then_with(|| a.name.cmp(&b.name)));
        let format = |why| CheckpointError::Format { path: path.to_owned(), why };
        let mut names = HashSet::from(["__metadata__"]);
        if let Some(twice) = self.tensors.iter().find(|tensor| !names.insert(&tensor.name)) {
            return Err(format(format!("there are two tensors `{}`", twice.name)));
        }
        let metadata = self.metadata.map_err(|error| failed(error.into()))?;
        let header = header(metadata, &self.tensors).map_err(failed)?;
        if header.len() as u64 > LONGEST_HEADER {
            let len = header.len();
            return Err(format(format!(
                "would have a header of {len} bytes, at most {LONGEST_HEADER}"
            )));
        }

        let directory = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let mut builder = tempfile::Builder::new();
        builder.prefix(".checkpoint-");
        #[cfg(unix)]
        {
            // As any other file: the process's mask applies.
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let file = builder.tempfile_in(directory).map_err(failed)?;
        let mut writer = BufWriter::with_capacity(1 << 20, file.as_file());
        let written = writer
            .write_all(&(header.len() as u64).to_le_bytes())
            .and_then(|()| writer.write_all(&header))
            .and_then(|()| self.tensors.iter().try_for_each(|t| writer.write_all(t.bytes.get())))
            .and_then(|()| writer.flush());
        drop(writer);
        written.and_then(|()| file.as_file().sync_all()).map_err(failed)?;
        file.persist(path).map_err(|error| failed(error.error))?;
        // The name too is to be on the disk.
        #[cfg(unix)]
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)?;
        Ok(())
    }
}

/// The header's JSON, as long as a multiple of eight bytes.
fn header(metadata: HashMap<String, String>, tensors: &[Saved<'_>]) -> io::Result<Vec<u8>> {
    let mut end = 0;
    let infos = tensors.iter().map(|tensor| {
        let start = end;
        end += tensor.bytes.get().len();
        let (dtype, shape) = (tensor.dtype, tensor.shape.clone());
        (tensor.name.clone(), TensorInfo { dtype, shape, data_offsets: (start, end) })
    });
    let metadata = Metadata::new(Some(metadata), infos.collect()).map_err(io::Error::other)?;
    let mut header = serde_json::to_vec(&metadata)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}

/// A checkpoint that is being read. To open it reads the header and checks that the file is as long
/// as that says.
#[derive(Debug)]
pub struct CheckpointReader {
    path: PathBuf,
    file: File,
    metadata: Metadata,
    /// Where the tensors begin.
    data: u64,
}

impl CheckpointReader {
    /// Opens a file.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Io`], and [`CheckpointError::Format`] if it is not a safetensors file or not whole.
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
            return Err(Failed::Format(format!("has {len} bytes, expected at least 8")));
        }
        let mut bytes = [0; 8];
        file.read_exact(&mut bytes)?;
        let header_len = u64::from_le_bytes(bytes);
        if header_len > LONGEST_HEADER.min(len - 8) {
            let why = format!("says that its header has {header_len} bytes, in a file of {len}");
            return Err(Failed::Format(why));
        }
        let mut header = vec![0; header_len as usize];
        file.read_exact(&mut header)?;
        let metadata: Metadata = serde_json::from_slice(&header)
            .map_err(|error| Failed::Format(format!("its header is not valid: {error}")))?;
        let (data, tensors) = (8 + header_len, metadata.data_len() as u64);
        if len - data != tensors {
            let has = len - data;
            let why = format!("has {has} bytes of tensors, expected {tensors} by its header");
            return Err(Failed::Format(why));
        }
        Ok((file, metadata, data))
    }

    /// Has an optimizer go on from here: its parameters' states and step counts, its groups' rules, the
    /// number of its steps, and its loss scale become those of the file. Its parameters and groups
    /// must be those that were saved, and be of the same types.
    ///
    /// If the optimizer has states already, they are replaced when all have been read; a new optimizer
    /// needs no second copy in memory.
    ///
    /// # Errors
    ///
    /// [`CheckpointError`] says what does not fit. Then nothing has changed.
    pub fn load<R: NamedRule + DeserializeOwned>(&mut self, opt: &mut Optimizer<R>) -> Result<()> {
        let description: Description<R> = self.description()?;
        self.fits("the number of groups", description.groups.len(), opt.groups.len())?;
        for (i, (group, own)) in description.groups.iter().zip(&opt.groups).enumerate() {
            self.fits(&format!("the rule of group {i}"), &*group.rule, own.rule.name())?;
            let found = group.hyper_parameters.name();
            self.fits(&format!("the rule of group {i}"), found, own.rule.name())?;
            group.hyper_parameters.check().map_err(|source| self.invalid(source))?;
        }
        if let Some(scale) = &description.loss_scale {
            scale.check().map_err(|source| self.invalid(source))?;
        }
        self.fits("the number of parameters", description.params.len(), opt.params.len())?;
        // Everything is checked, then read, then taken over.
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
            let names = rule.state_names();
            let present = |state: &&str| self.metadata.info(&format!("{}.{state}", own.name));
            let any = names.iter().any(|name| present(name).is_some());
            if place.t > 0 || any {
                for state in names {
                    self.info(&format!("{}.{state}", own.name), own.types.state, own.len)?;
                }
            }
            read.push((place.t, place.t > 0 || any, rule));
        }
        let mut states = Vec::with_capacity(read.len());
        for (own, &(t, has_states, rule)) in opt.params.iter().zip(&read) {
            let name = |state: &str| format!("{}.{state}", own.name);
            let new = if has_states { Some(self.states(own, rule, name)?) } else { None };
            states.push((t, new));
        }
        for (own, (t, new)) in opt.params.iter_mut().zip(states) {
            (own.t, own.states) = (t, new);
        }
        for (own, group) in opt.groups.iter_mut().zip(description.groups) {
            own.rule = group.hyper_parameters;
        }
        opt.steps = description.steps;
        opt.loss_scale = description.loss_scale;
        Ok(())
    }

    /// Has an optimizer go on from the states of torch's Adam, AdamW or RAdam, as
    /// [`Optimizer::torch_checkpoint`] names them, in tensors of any shape with as many elements. Its
    /// steps become the largest of its parameters'. Parameters that the file does not know have not been stepped. Rules and options are not in
    /// the file, and stay.
    ///
    /// # Errors
    ///
    /// [`CheckpointError`] says what does not fit. Then nothing has changed.
    pub fn load_torch<R: NamedRule>(&mut self, opt: &mut Optimizer<R>) -> Result<()> {
        let mut states = Vec::with_capacity(opt.params.len());
        for own in &opt.params {
            let rule = &opt.groups[own.group].rule;
            let step = format!("{}.step", own.name);
            if self.metadata.info(&step).is_none() {
                states.push((0, None));
                continue;
            }
            if !is_torchs(rule) {
                let what = format!("the rule of `{}`", own.name);
                let found = "adam, adamw or radam".to_owned();
                return Err(self.mismatch(what, found, rule.name().to_owned()));
            }
            let t = self.step_number(&step)?;
            let name = |state: &str| format!("{}.{}", own.name, torch_name(state).unwrap_or(state));
            for state in rule.state_names() {
                self.info(&name(state), own.types.state, own.len)?;
            }
            states.push((t, Some(self.states(own, rule, name)?)));
        }
        opt.steps = states.iter().map(|(t, _)| *t).max().unwrap_or(0);
        for (own, (t, new)) in opt.params.iter_mut().zip(states) {
            (own.t, own.states) = (t, new);
        }
        Ok(())
    }

    /// Reads a tensor that was kept with the states, into a slice of its type and length.
    ///
    /// # Errors
    ///
    /// [`CheckpointError`] says what does not fit. If the file cannot be read to the end, `into` holds what could
    /// be.
    pub fn read<E: Element>(&mut self, name: &str, into: &mut [E]) -> Result<()> {
        let start = self.info(name, Type::of::<E>(), into.len())?;
        self.read_at(start, bytemuck::cast_slice_mut(into))
    }

    /// The names of the tensors in the file.
    pub fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    fn description<R: DeserializeOwned>(&self) -> Result<Description<R>> {
        let json = self.metadata.metadata().as_ref().and_then(|metadata| metadata.get(KEY));
        let Some(json) = json else {
            return Err(self.format(format!("is not a checkpoint: its metadata lack `{KEY}`")));
        };
        let invalid = |error| self.format(format!("its metadata `{KEY}` are not valid: {error}"));
        let version: Version = serde_json::from_str(json).map_err(invalid)?;
        self.fits("the version", version.version, VERSION)?;
        serde_json::from_str(json).map_err(invalid)
    }

    /// Where a tensor begins, if it is of this type and length.
    fn info(&self, name: &str, of: Type, len: usize) -> Result<u64> {
        let Some(info) = self.metadata.info(name) else {
            return Err(self.format(format!("lacks the tensor `{name}`")));
        };
        if info.dtype != dtype(of) {
            let found = format!("{:?}", info.dtype);
            return Err(self.mismatch(
                format!("the type of `{name}`"),
                found,
                format!("{:?}", dtype(of)),
            ));
        }
        // The header was refused if this product overflows.
        let found: usize = info.shape.iter().product();
        self.fits(&format!("the length of `{name}`"), found, len)?;
        Ok(self.data + info.data_offsets.0 as u64)
    }

    /// The states of a parameter, which have been checked.
    fn states<R: NamedRule>(
        &mut self,
        param: &Param<R>,
        rule: &R,
        name: impl Fn(&str) -> String,
    ) -> Result<States> {
        let names = rule.state_names();
        let mut states = States::new(param.types.state, param.len, rule);
        for (i, state) in names.iter().enumerate() {
            let start = self.info(&name(state), param.types.state, param.len)?;
            if let Some(slice) = states.get_mut(i) {
                self.read_at(start, slice.bytes_mut())?;
            }
        }
        Ok(states)
    }

    /// A step number as torch writes it: `f32`, or `f64`, or an integer.
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
        if t >= 0.0 && t.fract() == 0.0 && t < 9e15 {
            return Ok(t as u64);
        }
        Err(self.mismatch(format!("`{name}`"), t.to_string(), "one number of steps".into()))
    }

    fn read_at(&mut self, start: u64, into: &mut [u8]) -> Result<()> {
        let read = self.file.seek(SeekFrom::Start(start)).and_then(|_| self.file.read_exact(into));
        read.map_err(|source| CheckpointError::Io { path: self.path.clone(), source })
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

/// That numbers lie in memory as they do in a file.
fn little_endian() -> io::Result<()> {
    if cfg!(target_endian = "big") {
        let why = "safetensors files are little-endian, and this machine is not";
        return Err(io::Error::new(io::ErrorKind::Unsupported, why));
    }
    Ok(())
}

/// Why a header was not read.
enum Failed {
    Io(io::Error),
    Format(String),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Failed::Io(error)
    }
}
