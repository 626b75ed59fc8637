//! Compresses the variables of a candle model.

use std::path::Path;
use std::sync::PoisonError;

use calabi_api::FormatError;
use candle_core::{Device, Var};
use candle_nn::VarMap;

use super::Compression;
use crate::{Error, Observer, Report};

/// Compresses the weights of `vars` through a temporary file.
pub(super) fn compress(vars: &VarMap, compression: Compression, observer: &dyn Observer) -> Result<Report, Error> {
    let folder = tempfile::tempdir().map_err(|e| Error::io("create a folder in", std::env::temp_dir(), e))?;
    let [input, output] = ["model.safetensors", "small.safetensors"].map(|name| folder.path().join(name));
    let refused = |path: &Path, error: candle_core::Error| FormatError::malformed(path, error.to_string());
    vars.save(&input).map_err(|error| Error::Input { source: refused(&input, error), span: None })?;
    let report = compression.run(&input, &output, observer)?;
    replace(vars, &output).map_err(|error| Error::Output { source: refused(&output, error) })?;
    Ok(report)
}

/// Makes the variables those of a file. One that is in both with the same shape and type did not change, and stays the one
/// that the model's layers hold.
fn replace(vars: &VarMap, file: &Path) -> candle_core::Result<()> {
    let tensors = candle_core::safetensors::load(file, &Device::Cpu)?;
    let mut known = vars.data().lock().unwrap_or_else(PoisonError::into_inner);
    let device = known.values().next().map_or(Device::Cpu, |var| var.device().clone());
    let mut made = Vec::new();
    for (name, tensor) in &tensors {
        let same = |old: &Var| old.dims() == tensor.dims() && old.dtype() == tensor.dtype();
        if !known.get(name).is_some_and(same) {
            made.push((name.clone(), Var::from_tensor(&tensor.to_device(&device)?)?));
        }
    }
    known.retain(|name, _| tensors.contains_key(name));
    known.extend(made);
    Ok(())
}
