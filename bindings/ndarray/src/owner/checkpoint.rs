//! Saves an optimizer to a file of the core's format, with or without the arrays, and loads it. In
//! the file all arrays and states are in row-major order.

use std::path::Path;

use fused_adam::{CheckpointError, CheckpointReader, Element, Rule};
use ndarray::{ArrayD, ArrayViewD, ArrayViewMutD};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::ArrayOptimizer;
use crate::copy::copy;
use crate::order::Order;
use crate::slices::{ROW_MAJOR, Slice};

type Result<T> = core::result::Result<T, CheckpointError>;

/// Checkpoints, with the feature `checkpoint`.
///
/// A file is that of [`fused_adam::Optimizer::checkpoint`], which the bindings for candle and C
/// write too. It holds the states by name, in row-major order, with step numbers and scalars, the
/// rule of each group with its hyper-parameters, and the loss scale. It does not hold
/// [`options`](ArrayOptimizer::options) and the learning-rate schedule: set these in your program.
impl<R: Rule> ArrayOptimizer<R> {
    /// Saves the states to a file. The new file replaces an older one only when it is complete.
    /// Memory orders other than row-major are rearranged for the file, and in the next step back.
    ///
    /// # Errors
    ///
    /// [`CheckpointError`]. After an error the old file is unchanged, as for
    /// [`CheckpointWriter::save`](fused_adam::CheckpointWriter::save).
    pub fn save(&mut self, path: impl AsRef<Path>) -> Result<()>
    where
        R: Serialize,
    {
        self.save_with_arrays::<f32>(path, [])
    }

    /// Saves the states as [`save`](Self::save) does, and arrays of one element type to the same
    /// file, with their shapes: the parameters, and others such as running means. A crash cannot
    /// leave a mixture of old states and new arrays.
    ///
    /// ```
    /// use fused_adam_ndarray::fused_adam::{AdamW, GroupId};
    /// use fused_adam_ndarray::{ArrayOptimizer, Pair};
    /// use ndarray::Array2;
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("training.safetensors");
    ///
    /// let mut w = Array2::<f32>::ones((3, 2));
    /// let mut opt = ArrayOptimizer::new(AdamW::default())?;
    /// opt.add(GroupId::default(), "w", &w)?;
    /// let grad = &w * 2.0;
    /// opt.step([Pair::new("w", &mut w, &grad)])?;
    /// opt.save_with_arrays(&path, [("w", w.view().into_dyn())])?;
    ///
    /// let mut again = Array2::<f32>::zeros((3, 2));
    /// let mut opt = ArrayOptimizer::new(AdamW::default())?;
    /// opt.add(GroupId::default(), "w", &again)?;
    /// opt.load_with_arrays(&path, [("w", again.view_mut().into_dyn())])?;
    /// assert_eq!((again, opt.t("w")), (w, Some(1)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`save`](Self::save); among them two tensors with one name.
    pub fn save_with_arrays<'a, T: Element>(
        &mut self,
        path: impl AsRef<Path>,
        arrays: impl IntoIterator<Item = (&'a str, ArrayViewD<'a, T>)>,
    ) -> Result<()>
    where
        R: Serialize,
    {
        let (path, parallel) = (path.as_ref(), self.is_parallel());
        let row_major = Order::default();
        let ArrayOptimizer { core, arrays: kept } = self;
        for kept in kept.values_mut() {
            let arranged = kept.arrange(core, row_major.clone(), parallel);
            arranged
                .map_err(|source| CheckpointError::Invalid { path: path.to_owned(), source })?;
        }
        let slice = |(name, array): (_, ArrayViewD<'a, T>)| {
            (name, array.shape().to_vec(), Slice::of(array, &row_major, parallel))
        };
        let arrays: Vec<_> = arrays.into_iter().map(slice).collect();
        let writer = arrays.iter().fold(core.checkpoint(), |writer, (name, shape, slice)| {
            writer.with_shaped_tensor(name, shape, slice.get())
        });
        writer.save(path)
    }

    /// Loads a file of [`save`](Self::save), [`save_with_arrays`](Self::save_with_arrays), or of
    /// the core, candle or C: the states, step numbers and scalars, the rules with their learning
    /// rates, the number of steps and the loss scale. The optimizer must have the groups and arrays
    /// that were saved. See [`CheckpointReader::load`] for what else must fit.
    ///
    /// The next step rearranges the states into the memory order of each array.
    ///
    /// # Errors
    ///
    /// [`CheckpointError`]; among them another shape than that of an array in the file. Then
    /// nothing has changed.
    pub fn load(&mut self, path: impl AsRef<Path>) -> Result<()>
    where
        R: DeserializeOwned,
    {
        self.load_with_arrays::<f32>(path, [])
    }

    /// Loads a file of [`save_with_arrays`](Self::save_with_arrays): the same as
    /// [`load`](Self::load), and also these arrays. An array in the file has the same shape, or one
    /// axis with as many elements.
    ///
    /// # Errors
    ///
    /// As for [`load`](Self::load). Then nothing has changed.
    pub fn load_with_arrays<'a, T: Element>(
        &mut self,
        path: impl AsRef<Path>,
        arrays: impl IntoIterator<Item = (&'a str, ArrayViewMutD<'a, T>)>,
    ) -> Result<()>
    where
        R: DeserializeOwned,
    {
        let path = path.as_ref();
        let mut file = CheckpointReader::open(path)?;
        for (name, kept) in &self.arrays {
            check_shape(path, &file, name, &kept.shape)?;
        }
        let mut loaded = Vec::new();
        for (name, array) in arrays {
            check_shape(path, &file, name, array.shape())?;
            let mut new = ArrayD::from_elem(array.shape(), T::from_f64(0.0));
            file.read(name, new.as_slice_mut().expect(ROW_MAJOR))?;
            loaded.push((array, new));
        }
        file.load(&mut self.core)?;
        for kept in self.arrays.values_mut() {
            kept.replaced(&self.core);
        }
        for (array, new) in loaded {
            copy(new.view(), array, self.is_parallel());
        }
        Ok(())
    }
}

/// Checks the shape of an array that the file holds. The file may have it flat.
fn check_shape(path: &Path, file: &CheckpointReader, name: &str, expected: &[usize]) -> Result<()> {
    match file.shape(name) {
        Some(found) if found != expected && found != [expected.iter().product::<usize>()] => {
            Err(CheckpointError::Mismatch {
                path: path.to_owned(),
                what: format!("the shape of `{name}`"),
                found: format!("{found:?}"),
                expected: format!("{expected:?}"),
            })
        }
        _ => Ok(()),
    }
}
