//! Layers in safetensors files, under the names that calabi's checkpoints have.

use std::collections::HashMap;
use std::path::Path;

use candle_core::safetensors::{BufferedSafetensors, save};
use candle_core::{Device, Error, Result, Tensor, bail};
use candle_nn::VarBuilder;

use super::LowRankLinear;
use super::make::by_columns;
use crate::guard::guarded;
use crate::text;

/// What follows a layer's name.
const LEFT: &str = "left.weight";
const RIGHT: &str = "right.weight";
const BIAS: &str = "left.bias";

impl LowRankLinear {
    /// The layer `name` of a `.safetensors` file: `name.right.weight` (`r × n`), `name.left.weight` (`m × r`) and, where the
    /// file has it, `name.left.bias` (`m`); in the type that the file has.
    ///
    /// The file is read whole and its other tensors are dropped. For a model in several files, or another type:
    /// [`from_var_builder`](Self::from_var_builder).
    ///
    /// ```
    /// # use calabi_nn::{LowRankLinear, candle_core::{DType, Device, Tensor}};
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("layer.safetensors");
    /// let ones = |shape: (usize, usize)| Tensor::ones(shape, DType::F16, &Device::Cpu);
    /// LowRankLinear::new(ones((3, 1))?, ones((1, 2))?, None)?.save(&path, "mlp.up")?;
    /// let layer = LowRankLinear::load(&path, "mlp.up", &Device::Cpu)?;
    /// assert_eq!((layer.rank().get(), layer.dtype()), (1, DType::F16));
    /// assert!(LowRankLinear::load(&path, "mlp.down", &Device::Cpu).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Where the file cannot be read, has no such layer (or a dense one: the message says so), or the shapes do not fit.
    pub fn load(path: impl AsRef<Path>, name: &str, device: &Device) -> Result<Self> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|error| Error::from(error).with_path(path))?;
        let opened = guarded(|| BufferedSafetensors::new(bytes)).map_err(Error::msg);
        let file = opened.and_then(|file| file).map_err(|error| error.with_path(path))?;
        let has = |what: &str| file.get(&format!("{name}.{what}")).is_ok();
        if !has(LEFT) || !has(RIGHT) {
            let dense = if has("weight") { ": it is dense there" } else { "" };
            bail!("{} holds no factors of {}{dense}", text::shown(&path.to_string_lossy()), text::shown(name))
        }
        let read = |what: &str| file.load(&format!("{name}.{what}"), device);
        Self::new(read(LEFT)?, by_columns(&read(RIGHT)?)?, has(BIAS).then(|| read(BIAS)).transpose()?)
    }

    /// The layer at the path of a [`VarBuilder`], in its type and on its device: tensors named as [`load`](Self::load)
    /// says. The rank is what the tensors have, so a `VarBuilder` over a `VarMap`, which has none yet, will not do.
    ///
    /// ```
    /// use std::collections::HashMap;
    /// use calabi_nn::LowRankLinear;
    /// use calabi_nn::candle_core::{DType, Device, Tensor};
    /// use calabi_nn::candle_nn::VarBuilder;
    ///
    /// let ones = |shape: (usize, usize)| Tensor::ones(shape, DType::F32, &Device::Cpu);
    /// let tensors = HashMap::from([
    ///     ("mlp.up.left.weight".to_owned(), ones((3, 1))?),
    ///     ("mlp.up.right.weight".to_owned(), ones((1, 2))?),
    /// ]);
    /// let model = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    /// assert_eq!(LowRankLinear::from_var_builder(&model.pp("mlp").pp("up"))?.rank().get(), 1);
    /// # Ok::<(), calabi_nn::candle_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// Where a factor is missing, or the shapes do not fit.
    pub fn from_var_builder(vb: &VarBuilder<'_>) -> Result<Self> {
        let bias = vb.contains_tensor(BIAS).then(|| vb.get_unchecked(BIAS)).transpose()?;
        Self::new(vb.get_unchecked(LEFT)?, vb.get_unchecked(RIGHT)?, bias)
    }

    /// The layer's tensors under the names of [`load`](Self::load): several layers go into one file through
    /// [`candle_core::safetensors::save`].
    ///
    /// ```
    /// # use calabi_nn::{LowRankLinear, candle_core::{DType, Device, Tensor}};
    /// let ones = |shape: (usize, usize)| Tensor::ones(shape, DType::F32, &Device::Cpu);
    /// let layer = LowRankLinear::new(ones((3, 1))?, ones((1, 2))?, None)?;
    /// let mut names: Vec<_> = layer.tensors("mlp.up").into_keys().collect();
    /// names.sort();
    /// assert_eq!(names, ["mlp.up.left.weight", "mlp.up.right.weight"]);
    /// # Ok::<(), calabi_nn::candle_core::Error>(())
    /// ```
    #[must_use]
    pub fn tensors(&self, name: &str) -> HashMap<String, Tensor> {
        let all = [(LEFT, Some(&self.left)), (RIGHT, Some(&self.right)), (BIAS, self.bias.as_ref())];
        all.into_iter().filter_map(|(what, tensor)| Some((format!("{name}.{what}"), tensor?.clone()))).collect()
    }

    /// Writes a `.safetensors` file with this layer alone, as [`load`](Self::load) reads it.
    ///
    /// ```
    /// # use calabi_nn::{LowRankLinear, candle_core::{DType, Device, Tensor, safetensors}};
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("layer.safetensors");
    /// let ones = |shape: (usize, usize)| Tensor::ones(shape, DType::F32, &Device::Cpu);
    /// LowRankLinear::new(ones((3, 1))?, ones((1, 2))?, None)?.save(&path, "mlp.up")?;
    /// assert_eq!(safetensors::load(&path, &Device::Cpu)?["mlp.up.right.weight"].dims(), [1, 2]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>, name: &str) -> Result<()> {
        save(&self.tensors(name), path)
    }
}
