//! Checkpoints: both twins save the same file, and load the same file, which may be damaged.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr::null_mut;

use fused_adam::{CheckpointError, CheckpointReader};
use fused_adam_c::FusedAdamStatus as Status;
use fused_adam_c::*;

use crate::elements::{BLOCK8, Elements, with_elements};
use crate::optimizer::OptimizerHandle;
use crate::source::{Source, Text};
use crate::status::{c, expect_unless, of_checkpoint};

/// A folder with the files of the two twins.
pub struct Folder {
    _dir: tempfile::TempDir,
    saved: PathBuf,
    twin: PathBuf,
    loaded: PathBuf,
}

impl Folder {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let [saved, twin, loaded] = ["saved", "twin", "loaded"].map(|name| dir.path().join(name));
        Folder { _dir: dir, saved, twin, loaded }
    }

    /// Removes what another input saved.
    pub fn clear(&self) {
        let _ = std::fs::remove_file(&self.saved);
    }

    /// This path, or rarely one that is wrong.
    fn path(path: &Path, source: &mut Source, faults: &mut Vec<Status>) -> Text {
        if !source.rarely() {
            return Text(std::ffi::CString::new(path.as_os_str().as_bytes()).ok());
        }
        let wrong = source.below(4);
        faults.push(if wrong == 0 { Status::Null } else { Status::Io });
        match wrong {
            0 => Text(None),
            1 => Text::new(""),
            2 => Text::new("/"),
            _ => Text(std::ffi::CString::new(path.join("\u{1}").as_os_str().as_bytes()).ok()),
        }
    }
}

/// Extra tensors.
struct Kept {
    names: Vec<Text>,
    tensors: Vec<Elements>,
    lens: Vec<usize>,
}

impl Kept {
    /// θ of some parameters; rarely of another type, length or name.
    fn random(opt: &OptimizerHandle, source: &mut Source) -> Self {
        let (mut names, mut tensors, mut lens) = (Vec::new(), Vec::new(), Vec::new());
        for (i, own) in opt.params.iter().enumerate() {
            if own.len > 1000 || source.below(2) == 0 {
                continue;
            }
            let mut name = Text::new(&format!("theta.{i}"));
            let (mut theta, mut len) = (own.theta[0].clone(), own.len);
            if source.rarely() {
                name = source.name(&["theta.0", "0.m", "0", "__metadata__", "w"]);
            }
            if source.rarely() {
                len = source.below(40);
                theta = Elements::random(source.below(4) as i32, len, source);
            }
            names.push(name);
            tensors.push(theta);
            lens.push(len);
        }
        Kept { names, tensors, lens }
    }

    /// The structures, rarely with a wrong one.
    fn structures(
        &mut self,
        source: &mut Source,
        faults: &mut Vec<Status>,
        written: bool,
    ) -> Vec<FusedAdamExtraTensor> {
        let mut all = Vec::new();
        for ((name, values), len) in self.names.iter().zip(&mut self.tensors).zip(&self.lens) {
            name.checked(faults);
            let element_type = match values {
                Elements::F32(_) => 0,
                Elements::F64(_) => 1,
                Elements::Bf16(_) => 2,
                _ => 3,
            };
            let mut tensor = FusedAdamExtraTensor {
                name: name.pointer(),
                values: values.pointer(),
                len: *len,
                element_type,
            };
            if source.rarely() {
                match source.below(4) {
                    0 if *len > 0 => {
                        faults.push(Status::Null);
                        tensor.values = null_mut();
                    }
                    1 if *len > 1 => {
                        faults.push(Status::Misaligned);
                        tensor.len -= 1;
                        tensor.values = tensor.values.wrapping_byte_add(1);
                    }
                    2 => {
                        faults.push(Status::Type);
                        tensor.element_type = source.pick(&[BLOCK8, -1, 5, i32::MAX]);
                    }
                    _ => {}
                }
            }
            all.push(tensor);
        }
        if all.len() > 1 && all[0].len > 0 && source.rarely() {
            let i = all.len() - 1;
            (all[i].values, all[i].element_type, all[i].len) =
                (all[0].values, all[0].element_type, all[0].len);
            // Reading a buffer twice is fine, but the twin does not.
            faults.push(if written { Status::Overlap } else { Status::Ok });
        }
        all
    }
}

impl OptimizerHandle {
    pub fn save(&self, folder: &Folder, source: &mut Source) {
        let mut faults = Vec::new();
        let mut kept = Kept::random(self, source);
        let before = kept.tensors.clone();
        let structures = kept.structures(source, &mut faults, false);
        let path = Folder::path(&folder.saved, source, &mut faults);
        let handle = source.or_null(self.handle, &mut faults);
        let (image, count) = (self.image(), structures.len());
        let save = fused_adam_optimizer_save;
        let status = c!(save(handle, path.pointer(), structures.as_ptr(), count));

        let mut writer = self.core.checkpoint();
        let mut ignored = Vec::new();
        for (name, tensor) in kept.names.iter().zip(&before) {
            let name = name.checked(&mut ignored);
            writer = with_elements!(tensor, tensor => writer.with_tensor(name, tensor));
        }
        let twin = writer.save(&folder.twin);
        let otherwise = twin.as_ref().map_or_else(of_checkpoint, |()| Status::Ok);
        if !faults.is_empty() && otherwise != Status::Ok {
            faults.push(otherwise);
        }
        if faults.contains(&Status::Ok) {
            // The names may be a fault too.
            faults.push(Status::Checkpoint);
        }
        let exact = faults.is_empty();
        if expect_unless(&faults, status, otherwise) && exact {
            let [saved, twin] = [&folder.saved, &folder.twin]
                .map(|path| std::fs::read(path).expect("a file that was saved"));
            // The bits of a NaN are not specified.
            assert!(saved == twin || image.has_nan(), "the files differ");
        }
        self.image().expect_same(&image);
        for (tensor, before) in kept.tensors.iter().zip(&before) {
            assert!(tensor.same(before));
        }
    }

    pub fn load(&mut self, folder: &Folder, source: &mut Source) {
        let Ok(mut bytes) = std::fs::read(&folder.saved) else { return };
        match source.below(8) {
            0 => bytes.truncate(source.below(1 + bytes.len())),
            1 => {
                let (i, mask) = (source.below(bytes.len().max(1)), source.below(256) as u8);
                if let Some(byte) = bytes.get_mut(i) {
                    *byte ^= mask;
                }
            }
            _ => {}
        }
        std::fs::write(&folder.loaded, bytes).expect("a file");
        let mut faults = Vec::new();
        let mut kept = Kept::random(self, source);
        let (before, mut twins) = (kept.tensors.clone(), kept.tensors.clone());
        let structures = kept.structures(source, &mut faults, true);
        let path = Folder::path(&folder.loaded, source, &mut faults);
        let handle = source.or_null(self.handle, &mut faults);
        let (image, count) = (self.image(), structures.len());
        let load = fused_adam_optimizer_load;
        let status = c!(load(handle, path.pointer(), structures.as_ptr(), count));

        let mut otherwise = Status::Ok;
        if faults.is_empty() {
            let twin = self.load_twin(&folder.loaded, &kept.names, &mut twins);
            otherwise = twin.as_ref().map_or_else(of_checkpoint, |()| Status::Ok);
        } else {
            // The order of the checks is not described.
            faults.extend([Status::Checkpoint, Status::Io]);
        }
        let ok = expect_unless(&faults, status, otherwise);
        if !ok {
            self.image().expect_same(&image);
        }
        self.image().expect_same(&self.core_image());
        self.expect_rules();
        for (tensor, expected) in kept.tensors.iter().zip(if ok { &twins } else { &before }) {
            assert!(tensor.same(expected), "an extra tensor is {tensor:?}, expected {expected:?}");
        }
    }

    fn load_twin(
        &mut self,
        path: &Path,
        names: &[Text],
        tensors: &mut [Elements],
    ) -> Result<(), CheckpointError> {
        let mut file = CheckpointReader::open(path)?;
        for (name, tensor) in names.iter().zip(tensors) {
            let name = name.checked(&mut Vec::new()).to_owned();
            with_elements!(tensor, tensor => file.read(&name, tensor))?;
        }
        file.load(&mut self.core)
    }
}
