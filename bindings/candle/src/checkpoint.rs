//! Saves an optimizer to a safetensors file, with or without its variables. A crash leaves either
//! the old or the new file.

use std::path::Path;

use candle_core::{CpuStorage, DType, Tensor, WithDType};
use fused_adam::{AnyRule, CheckpointError, CheckpointReader, Element, Optimizer as Core};

use crate::elements::{TensorName, part, part_mut};
use crate::locks::{self, Readers};
use crate::variables::{Variable, Variables};
use crate::{Config, Error, Optimizer};

impl<C: Config> Optimizer<C> {
    /// Saves the states to a file: tensors `<name>.<state>` such as `0.m`, and in the metadata the
    /// rule and the step number of each variable. The new file replaces an older one only when it
    /// is complete.
    ///
    /// It does not save the variables: see [`save_with_variables`](Self::save_with_variables). Nor
    /// does it save [`options`](Self::options) and the learning rate schedule, which the program
    /// sets.
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        self.variables.save(path.as_ref())
    }

    /// Loads a file of [`save`](Self::save) or [`save_with_variables`](Self::save_with_variables):
    /// the states, the step numbers, the hyper-parameters of each group, including the learning
    /// rate, and the loss scale. Without a loss scale in the file, the optimizer has none.
    ///
    /// Variables are matched by name. If the names are numbers, pass the variables to the
    /// optimizer in the same order as before. Add groups in the same order, too.
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`] if the file is not a checkpoint, or has other rules, groups or
    /// variables, variables of another type or length, or states of another type.
    /// [`Error::NoStates`] if it has only variables, such as a file of
    /// [`VarMap::save`](candle_nn::VarMap::save). Nothing has changed in these cases.
    pub fn load(&mut self, path: impl AsRef<Path>) -> Result<(), Error> {
        self.variables.load(path.as_ref())?;
        self.refresh_params();
        Ok(())
    }

    /// Saves the states as [`save`](Self::save) does, and the variables to the same file, under
    /// their names and with their shapes. A crash cannot leave a mixture of old states and new
    /// variables.
    ///
    /// candle reads the variables from this file too: with
    /// [`VarMap::load`](candle_nn::VarMap::load) or `VarBuilder::from_mmaped_safetensors`, for a
    /// program that only runs the model.
    ///
    /// ```
    /// # use candle_core::{Device, Var};
    /// # use candle_nn::{Optimizer as _, ParamsAdamW};
    /// # use fused_adam_candle::AdamW;
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("training.safetensors");
    /// let w = Var::new(&[1.0_f32, -2.0], &Device::Cpu)?;
    /// let mut opt = AdamW::with_names([("w", w.clone())], ParamsAdamW::default())?;
    /// opt.backward_step(&w.sqr()?.sum_all()?)?;
    /// opt.save_with_variables(&path)?;
    ///
    /// let again = Var::new(&[0.0_f32, 0.0], &Device::Cpu)?;
    /// let mut opt = AdamW::with_names([("w", again.clone())], ParamsAdamW::default())?;
    /// opt.load_with_variables(&path)?;
    /// assert_eq!(again.to_vec1::<f32>()?, w.to_vec1::<f32>()?);
    /// assert_eq!(opt.t("w"), Some(1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`save`](Self::save); among them that a variable and a state would have one name.
    pub fn save_with_variables(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        self.variables.save_with_variables(path.as_ref())
    }

    /// Loads a file of [`save_with_variables`](Self::save_with_variables): the same as
    /// [`load`](Self::load), and also the variables. A variable in the file has the same shape, or
    /// one axis with as many elements, as in a file of C. It reads the whole file before it writes
    /// the first variable.
    ///
    /// # Errors
    ///
    /// As for [`load`](Self::load), and [`Error::Checkpoint`] if the file lacks a variable or has
    /// it with another shape than these. Then nothing has changed.
    pub fn load_with_variables(&mut self, path: impl AsRef<Path>) -> Result<(), Error> {
        self.variables.load_with_variables(path.as_ref())?;
        self.refresh_params();
        Ok(())
    }
}

impl Variables {
    fn save(&self, path: &Path) -> Result<(), Error> {
        Ok(self.core.checkpoint().save(path)?)
    }

    fn load(&mut self, path: &Path) -> Result<(), Error> {
        load_states(&mut CheckpointReader::open(path)?, &mut self.core)
    }

    fn save_with_variables(&self, path: &Path) -> Result<(), Error> {
        let readers = Readers::new(self.all.iter().map(|of| (of.address, of.var.as_tensor())));
        let mut writer = self.core.checkpoint();
        for Variable { name, var, address, .. } in &self.all {
            let dims = var.dims();
            let what = TensorName::Variable(name);
            writer = match readers.get(*address, what)? {
                CpuStorage::F32(all) => {
                    writer.with_shaped_tensor(name, dims, part(all, what, var)?)
                }
                CpuStorage::F64(all) => {
                    writer.with_shaped_tensor(name, dims, part(all, what, var)?)
                }
                CpuStorage::BF16(all) => {
                    writer.with_shaped_tensor(name, dims, part(all, what, var)?)
                }
                CpuStorage::F16(all) => {
                    writer.with_shaped_tensor(name, dims, part(all, what, var)?)
                }
                other => return Err(what.wrong_type(other)),
            };
        }
        Ok(writer.save(path)?)
    }

    fn load_with_variables(&mut self, path: &Path) -> Result<(), Error> {
        let mut file = CheckpointReader::open(path)?;
        let mut loaded = Vec::with_capacity(self.all.len());
        for of in &self.all {
            check_shape(&file, path, of)?;
            let theta = match of.var.dtype() {
                DType::F64 => CpuStorage::F64(read(&mut file, of)?),
                DType::BF16 => CpuStorage::BF16(read(&mut file, of)?),
                DType::F16 => CpuStorage::F16(read(&mut file, of)?),
                _ => CpuStorage::F32(read(&mut file, of)?),
            };
            loaded.push((of, theta));
        }
        loaded.retain(|(of, _)| of.var.elem_count() > 0);
        loaded.sort_unstable_by_key(|(of, _)| of.address);
        let vars: Vec<&Tensor> = loaded.iter().map(|(of, _)| of.var.as_tensor()).collect();
        let core = &mut self.core;
        locks::write_all(&vars, |storages| {
            let mut writes = Vec::with_capacity(storages.len());
            for ((of, new), storage) in loaded.iter().zip(storages) {
                writes.push(match (storage, new) {
                    (CpuStorage::F32(all), CpuStorage::F32(new)) => write(of, all, new)?,
                    (CpuStorage::F64(all), CpuStorage::F64(new)) => write(of, all, new)?,
                    (CpuStorage::BF16(all), CpuStorage::BF16(new)) => write(of, all, new)?,
                    (CpuStorage::F16(all), CpuStorage::F16(new)) => write(of, all, new)?,
                    (other, _) => return Err(TensorName::Variable(&of.name).wrong_type(other)),
                });
            }
            load_states(&mut file, core)?;
            for write in writes {
                write();
            }
            Ok(())
        })?
    }
}

/// Loads the states. Its error tells a file of variables from one that is damaged.
fn load_states(file: &mut CheckpointReader, core: &mut Core<AnyRule>) -> Result<(), Error> {
    file.load(core).map_err(|source| {
        let is_variable = |name: &str| core.id(name).is_some();
        let is_state = |name: &str| name.rsplit_once('.').is_some_and(|(of, _)| is_variable(of));
        let names = file.names();
        let any = |is: &dyn Fn(&str) -> bool| names.iter().any(|name| is(name));
        match source {
            CheckpointError::Format { .. } if any(&is_variable) && !any(&is_state) => {
                Error::NoStates { source }
            }
            source => Error::Checkpoint(source),
        }
    })
}

/// Checks that a variable has this shape in the file, or is flat there. The error for a missing one
/// is that of [`read`].
fn check_shape(file: &CheckpointReader, path: &Path, of: &Variable) -> Result<(), Error> {
    match file.shape(&of.name) {
        Some(shape) if shape != of.var.dims() && shape != [of.var.elem_count()] => {
            Err(Error::Checkpoint(CheckpointError::Mismatch {
                path: path.to_owned(),
                what: format!("the shape of `{}`", of.name),
                found: format!("{shape:?}"),
                expected: format!("{:?}", of.var.dims()),
            }))
        }
        _ => Ok(()),
    }
}

/// Reads a variable's elements from a file.
fn read<E: Element>(file: &mut CheckpointReader, of: &Variable) -> Result<Vec<E>, Error> {
    let mut theta = vec![E::from_f64(0.0); of.var.elem_count()];
    file.read(&of.name, &mut theta)?;
    Ok(theta)
}

/// A closure that writes the elements to a variable.
fn write<'a, E: Element + WithDType>(
    of: &Variable,
    all: &'a mut [E],
    new: &'a [E],
) -> Result<Box<dyn FnOnce() + 'a>, Error> {
    let theta = part_mut(all, TensorName::Variable(&of.name), &of.var)?;
    Ok(Box::new(|| theta.copy_from_slice(new)))
}
