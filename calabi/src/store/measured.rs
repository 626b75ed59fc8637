//! What was measured on the model is kept as well: statistics of what flows into layers, and sensitivities.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use calabi_api::LayerSource;

use super::Store;
use super::key::Hashed;
use crate::{CalibrationSettings, Error, Pipeline, Plan};

/// What files of statistics and of sensitivities are called after their keys.
pub(super) const STATISTICS: &str = "statistics";
pub(super) const SENSITIVITIES: &str = "sensitivities";

/// A hash of what measurements depend on: the model's files (names, lengths, times of their last change), the data, and
/// how samples are made of it. None where the pipeline brings no data.
fn basis(pipeline: &Pipeline, source: &dyn LayerSource) -> Result<Option<Hashed>, Error> {
    let Some(settings) = &pipeline.calibration else { return Ok(None) };
    let Some(data) = &settings.data else { return Ok(None) };
    let mut hash = Hashed::new();
    hash.text(&calabi_svd::arithmetic());
    for file in source.totals().files {
        let seen = std::fs::metadata(&file).map_err(|e| Error::io("read", &file, e))?;
        let changed = seen.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        hash.text(&format!("{} {} {changed:?}", file.display(), seen.len()));
    }
    for file in std::iter::once(data).chain(&settings.tokenizer) {
        hash.file(file).map_err(|e| Error::io("read", &file.value, e))?;
    }
    let CalibrationSettings { samples, sequence, seed, .. } = &settings.value;
    hash.text(&format!("{samples:?} {sequence} {seed}"));
    Ok(Some(hash))
}

impl Store {
    /// Where the statistics of these layers on this data are, or are to be written.
    pub(crate) fn statistics(
        &self,
        pipeline: &Pipeline,
        source: &dyn LayerSource,
        plan: &Plan,
    ) -> Result<Option<PathBuf>, Error> {
        let hash = basis(pipeline, source)?;
        Ok(hash.map(|mut hash| {
            for planned in plan.layers.iter().filter(|planned| planned.is_selected()) {
                hash.text(&planned.layer.name);
            }
            self.entries.join(format!("{}.{STATISTICS}", hash.finish()))
        }))
    }

    /// Where the divergences of these layers, each cut to its rank, are, or are to be written.
    pub(crate) fn sensitivities(
        &self,
        pipeline: &Pipeline,
        source: &dyn LayerSource,
        cut: impl Iterator<Item = (usize, usize)>,
    ) -> Result<Option<PathBuf>, Error> {
        let Some(mut hash) = basis(pipeline, source)? else { return Ok(None) };
        let samples = pipeline.calibration.as_ref().map(|settings| settings.sensitivity_samples);
        hash.text(&format!("{samples:?}"));
        for (layer, rank) in cut {
            let entry = self.of_layers().get(&layer).map(|entry| entry.path.clone());
            hash.text(&format!("{:?} {rank}", entry.as_deref().and_then(Path::file_name)));
        }
        Ok(Some(self.entries.join(format!("{}.{SENSITIVITIES}", hash.finish()))))
    }
}

/// Divergences that were kept, so many; none where there are none.
pub(crate) fn read_divergences(path: &Path, count: usize) -> Option<Vec<f64>> {
    let bytes = std::fs::read(path).ok()?;
    let (numbers, rest) = bytes.as_chunks::<8>();
    (numbers.len() == count && rest.is_empty()).then(|| numbers.iter().map(|&b| f64::from_le_bytes(b)).collect())
}

/// Keeps divergences, whole or not at all.
pub(crate) fn write_divergences(path: &Path, divergences: &[f64]) -> Result<(), Error> {
    let bytes: Vec<u8> = divergences.iter().flat_map(|v| v.to_le_bytes()).collect();
    let write = || {
        let mut file =
            tempfile::Builder::new().prefix(super::BEGUN).tempfile_in(path.parent().unwrap_or(Path::new(".")))?;
        std::io::Write::write_all(&mut file, &bytes)?;
        file.persist(path).map_err(|error| error.error)
    };
    write().map(drop).map_err(|e| Error::io("write", path, e))
}
