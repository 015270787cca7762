//! Writing a checkpoint: the tensors are collected, then written next to the old file, which the
//! new one replaces.

use core::fmt;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::Serialize;
use tempfile::NamedTempFile;

use super::{
    CheckpointError, Description, GroupDescription, KEY, LONGEST_HEADER, MOST_STEPS,
    ParamDescription, Result, TORCH_KEY, VERSION, blocks, is_torchs, little_endian,
    safetensors_dtype,
};
use crate::elements::Element;
use crate::elements::block8::{Block8, Blocks, FORMAT};
use crate::elements::column::{Column, DType};
use crate::error::Error;
use crate::optimizer::grad_scaler::GradScaler;
use crate::optimizer::owner::{Optimizer, hash};
use crate::optimizer::param::Param;
use crate::rules::{Rule, State};
use crate::step::check_same_states;

/// A checkpoint to be written: the states of an optimizer, and the tensors that are saved with
/// them.
#[must_use = "nothing is written before `save`"]
pub struct CheckpointWriter<'a> {
    metadata: serde_json::Result<HashMap<String, String>>,
    tensors: Vec<Saved<'a>>,
    /// The names of states that do not exist yet. A tensor with such a name would be read as a
    /// state.
    taken: HashSet<String>,
    /// An error if the checkpoint could not be loaded again.
    valid: std::result::Result<(), Error>,
    /// The first shape that does not fit its tensor.
    wrong_shape: Option<String>,
}

struct Saved<'a> {
    name: String,
    shape: Vec<usize>,
    dtype: Dtype,
    bytes: Bytes<'a>,
}

enum Bytes<'a> {
    Of(&'a [u8]),
    Number(Vec<u8>),
    /// An 8-bit state that is decoded.
    Decoded(Blocks<'a>),
}

/// Prints the names of the tensors.
impl fmt::Debug for CheckpointWriter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        f.debug_struct("CheckpointWriter").field("tensors", &names).finish_non_exhaustive()
    }
}

impl Bytes<'_> {
    fn len(&self) -> usize {
        match self {
            Bytes::Of(bytes) => bytes.len(),
            Bytes::Number(bytes) => bytes.len(),
            Bytes::Decoded(state) => size_of::<f32>() * state.len(),
        }
    }

    fn write(&self, writer: &mut impl Write) -> io::Result<()> {
        match self {
            Bytes::Of(bytes) => writer.write_all(bytes),
            Bytes::Number(bytes) => writer.write_all(bytes),
            Bytes::Decoded(state) => blocks::decode(*state, |bytes| writer.write_all(bytes)),
        }
    }
}

impl<R: Rule + Serialize> Optimizer<R> {
    /// Collects the states of all parameters, to be saved. Add other tensors, such as the
    /// parameters, with [`CheckpointWriter::with_tensor`].
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
    /// opt.checkpoint().with_tensor("w", &weights).save(&path)?;
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
        let describe = |param: &Param<'_, R>| ParamDescription {
            name: param.name.clone(),
            group: param.group,
            theta: param.types.theta.name().to_owned(),
            state: (param.types.state == DType::Block8).then(|| FORMAT.to_owned()),
            t: param.t,
            scalars: self.scalars_of(param),
        };
        let groups = self.groups.iter().map(|rule| GroupDescription {
            rule: rule.name().to_owned(),
            hyper_parameters: rule.clone(),
        });
        let description = Description {
            version: VERSION,
            steps: self.steps,
            loss_scale: self.grad_scaler,
            groups: groups.collect(),
            params: self.params.iter().map(describe).collect(),
        };
        let json = serde_json::to_string(&description);
        let metadata = json.map(|json| HashMap::from([(KEY.to_owned(), json)]));
        let mut writer = CheckpointWriter::new(metadata, self.valid());
        for param in &self.params {
            writer.add_states(self, param, State::name, false);
        }
        writer
    }
}

impl<R: Rule> Optimizer<R> {
    /// The scalars of a parameter by name; none before its first step.
    fn scalars_of(&self, param: &Param<'_, R>) -> BTreeMap<String, f64> {
        let names = self.groups[param.group].scalars().iter();
        let of_steps = names.zip(&param.scalars).filter(|_| param.t > 0);
        of_steps.map(|(name, scalar)| ((*name).to_owned(), *scalar)).collect()
    }

    /// Checks that a checkpoint of this optimizer can be loaded again.
    fn valid(&self) -> std::result::Result<(), Error> {
        for rule in &self.groups {
            rule.check()?;
        }
        for param in &self.params {
            if let Some(states) = &param.states {
                check_same_states(self.groups[param.group].states(), states.declared())?;
            }
        }
        self.grad_scaler.as_ref().map_or(Ok(()), GradScaler::check)
    }

    /// Collects the states in torch's layout, for the rules that torch has (Adam, AdamW, RAdam):
    /// `<param>.exp_avg`, `<param>.exp_avg_sq`, with AMSGrad `<param>.max_exp_avg_sq`, and
    /// `<param>.step`, an `f32`, or an `f64` if the `f32` is not exact. As in torch, parameters
    /// without a step are left out, and so are the parameters of other rules. States in 8 bits are
    /// decoded, and written as `f32`.
    pub fn torch_checkpoint(&self) -> CheckpointWriter<'_> {
        let metadata = [("format", "pt"), (TORCH_KEY, "1")].map(|(k, v)| (k.into(), v.into()));
        let mut writer = CheckpointWriter::new(Ok(HashMap::from(metadata)), self.valid());
        let has_layout = |param: &&Param<'_, R>| is_torchs(&self.groups[param.group]);
        for param in self.params.iter().filter(has_layout) {
            let step = format!("{}.step", param.name);
            if param.t > 0 {
                writer.tensors.push(Saved::step_number(step, param.t));
            } else {
                writer.taken.insert(step);
            }
            if param.t >= MOST_STEPS {
                let expected = "less than 9e15 to be written as torch does";
                writer.valid = Err(Error::StepNumber { t: param.t, expected });
            }
            let name = |state: &State| state.torch_name().unwrap_or(state.name());
            writer.add_states(self, param, name, true);
        }
        writer
    }
}

impl<'a> Saved<'a> {
    fn new(name: String, slice: Column<'a>) -> Self {
        let dtype = safetensors_dtype(slice.dtype());
        let shape = match slice {
            Column::Block8(state) => vec![state.blocks.len(), size_of::<Block8>()],
            slice => vec![slice.len()],
        };
        Saved { name, shape, dtype, bytes: Bytes::Of(slice.bytes()) }
    }

    /// As `f32`, like torch, or as `f64` if the `f32` is not exact.
    fn step_number(name: String, t: u64) -> Self {
        let single = t as f32;
        let (dtype, bytes) = match single as u64 == t {
            true => (Dtype::F32, single.to_le_bytes().to_vec()),
            false => (Dtype::F64, (t as f64).to_le_bytes().to_vec()),
        };
        Saved { name, shape: Vec::new(), dtype, bytes: Bytes::Number(bytes) }
    }
}

impl<'a> CheckpointWriter<'a> {
    fn new(
        metadata: serde_json::Result<HashMap<String, String>>,
        valid: std::result::Result<(), Error>,
    ) -> Self {
        let (tensors, taken) = (Vec::new(), HashSet::new());
        CheckpointWriter { metadata, tensors, taken, valid, wrong_shape: None }
    }

    /// Adds the states of a parameter, 8-bit states as blocks or `decoded`. For states that do not
    /// exist yet, it reserves the names.
    fn add_states<R: Rule>(
        &mut self,
        opt: &Optimizer<R>,
        param: &'a Param<'_, R>,
        called: impl Fn(&State) -> &'static str,
        decoded: bool,
    ) {
        for (i, state) in opt.groups[param.group].states().iter().enumerate() {
            let name = format!("{}.{}", param.name, called(state));
            match param.states.as_ref().and_then(|states| states.get(i)) {
                Some(Column::Block8(state)) if decoded => {
                    let (shape, bytes) = (vec![state.len()], Bytes::Decoded(state));
                    self.tensors.push(Saved { name, shape, dtype: Dtype::F32, bytes });
                }
                Some(slice) => self.tensors.push(Saved::new(name, slice)),
                None => _ = self.taken.insert(name),
            }
        }
    }

    /// Adds another tensor to the file under this name, such as the parameter itself. In the file
    /// it has one dimension.
    pub fn with_tensor<E: Element>(mut self, name: &str, tensor: &'a [E]) -> Self {
        self.tensors.push(Saved::new(name.to_owned(), E::column(tensor)));
        self
    }

    /// Adds another tensor of this shape. A shape with another number of elements is an error of
    /// [`save`](Self::save).
    pub fn with_shaped_tensor<E: Element>(
        mut self,
        name: &str,
        shape: &[usize],
        tensor: &'a [E],
    ) -> Self {
        let elements = shape.iter().try_fold(1, |product: usize, &n| product.checked_mul(n));
        if elements != Some(tensor.len()) {
            self.wrong_shape.get_or_insert_with(|| {
                let len = tensor.len();
                format!("the tensor `{name}` has {len} elements, expected those of {shape:?}")
            });
        }
        let shape = shape.to_vec();
        self.tensors.push(Saved { shape, ..Saved::new(name.to_owned(), E::column(tensor)) });
        self
    }

    /// Writes the file. It is written next to `path` first, synced to disk, and then replaces the
    /// file at `path`. If `path` is a symbolic link, the link stays and the file that it points to
    /// is replaced. Temporary files that killed saves of the same path have left are removed.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Invalid`] and [`CheckpointError::Format`] if the result could not be
    /// loaded: a hyper-parameter outside its range, states of another rule, a shape with another
    /// number of elements than its tensor, two tensors with one name, a tensor with the name of a
    /// state that does not exist yet, a header above 100 MB, or in torch's layout a step count of
    /// 9e15 or more. [`CheckpointError::Io`] if writing fails, or on a big-endian machine.
    ///
    /// After an error the old file is unchanged, with one exception: if only syncing the directory
    /// fails, the new file is already in place.
    pub fn save(mut self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let failed = |source| CheckpointError::Io { path: path.to_owned(), source };
        let target = target(path).map_err(failed)?;
        little_endian().map_err(failed)?;
        if let Err(source) = self.valid {
            return Err(CheckpointError::Invalid { path: path.to_owned(), source });
        }
        // Wider types first, so that all tensors are aligned.
        self.tensors.sort_by(|a, b| b.dtype.cmp(&a.dtype).then_with(|| a.name.cmp(&b.name)));
        let format = |why| CheckpointError::Format { path: path.to_owned(), why };
        if let Some(wrong_shape) = self.wrong_shape {
            return Err(format(wrong_shape));
        }
        let mut names = HashSet::from(["__metadata__"]);
        if let Some(twice) = self.tensors.iter().find(|tensor| !names.insert(&tensor.name)) {
            return Err(format(format!("there are two tensors `{}`", twice.name)));
        }
        if let Some(state) = self.tensors.iter().find(|tensor| self.taken.contains(&tensor.name)) {
            let why = format!("a tensor has the name of a parameter's state, `{}`", state.name);
            return Err(format(why));
        }
        let metadata = self.metadata.map_err(|error| failed(error.into()))?;
        let header = header(metadata, &self.tensors).map_err(failed)?;
        if header.len() as u64 > LONGEST_HEADER {
            let len = header.len();
            return Err(format(format!(
                "would have a header of {len} bytes, at most {LONGEST_HEADER}"
            )));
        }

        let directory = match target.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        // A hash has the same length for any name.
        let name = target.file_name().unwrap_or_default().as_encoded_bytes();
        let prefix = format!(".checkpoint-{:016x}-", hash(name));
        remove_leftovers(directory, &prefix);
        let file = temporary_file(directory, &prefix).map_err(failed)?;
        let mut writer = BufWriter::with_capacity(1 << 20, file.as_file());
        let written = writer
            .write_all(&(header.len() as u64).to_le_bytes())
            .and_then(|()| writer.write_all(&header))
            .and_then(|()| self.tensors.iter().try_for_each(|t| t.bytes.write(&mut writer)))
            .and_then(|()| writer.flush());
        drop(writer);
        written.and_then(|()| file.as_file().sync_all()).map_err(failed)?;
        file.persist(&target).map_err(|error| failed(error.error))?;
        // The new name must reach the disk too.
        #[cfg(unix)]
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)?;
        Ok(())
    }
}

/// The file to replace: that of a symbolic link, so that the link stays.
fn target(path: &Path) -> io::Result<PathBuf> {
    match path.symlink_metadata() {
        Ok(metadata) if metadata.is_symlink() => match path.canonicalize() {
            // The link points to a file that does not exist yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let target = path.read_link()?;
                Ok(path.parent().unwrap_or(Path::new("")).join(target))
            }
            target => target,
        },
        _ => Ok(path.to_owned()),
    }
}

/// Removes the temporary files of saves that were killed. Those of saves that run are locked.
/// Failures do no harm: the file stays until the next save.
fn remove_leftovers(directory: &Path, prefix: &str) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        if !entry.file_name().as_encoded_bytes().starts_with(prefix.as_bytes()) {
            continue;
        }
        if let Ok(file) = File::open(entry.path())
            && file.try_lock().is_ok()
        {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// A new file, which is locked.
fn temporary_file(directory: &Path, prefix: &str) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix);
    #[cfg(unix)]
    {
        // The usual permissions of a new file, to which the umask applies.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    loop {
        let file = builder.tempfile_in(directory).map_err(without_path)?;
        // On a file system without locks a leftover stays.
        let _ = file.as_file().lock();
        // Another save may have removed it before it was locked.
        if file.path().exists() {
            return Ok(file);
        }
    }
}

/// The error of the system, without the temporary path that `tempfile` adds to it.
fn without_path(error: io::Error) -> io::Error {
    let code = error
        .get_ref()
        .and_then(|error| error.source())
        .and_then(|error| error.downcast_ref::<io::Error>())
        .and_then(io::Error::raw_os_error);
    code.map_or(error, io::Error::from_raw_os_error)
}

/// The JSON of the header, padded with spaces to a multiple of eight bytes.
fn header(metadata: HashMap<String, String>, tensors: &[Saved<'_>]) -> io::Result<Vec<u8>> {
    let mut end = 0;
    let infos = tensors.iter().map(|tensor| {
        let start = end;
        end += tensor.bytes.len();
        let (dtype, shape) = (tensor.dtype, tensor.shape.clone());
        (tensor.name.clone(), TensorInfo { dtype, shape, data_offsets: (start, end) })
    });
    let metadata = Metadata::new(Some(metadata), infos.collect()).map_err(io::Error::other)?;
    let mut header = serde_json::to_vec(&metadata)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}
