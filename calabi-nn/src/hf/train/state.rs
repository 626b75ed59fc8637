//! The state of a training in a file: what a run that was killed goes on from, to the same bits.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use calabi_api::RunError;
use safetensors::{Dtype, SafeTensors, View};
use serde::{Deserialize, Serialize};

use super::parameters::{Parameters, Trainable};
use crate::guard::guarded;
use crate::hf::adam::Adam;
use crate::text;

/// The key of the file's metadata that says where the training was.
const KEY: &str = "calabi-training";
const DAMAGED: &str = "it is no state of a training, or damaged: remove it to begin anew";

/// Where a training is.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Progress {
    /// Of the model, the data and the settings.
    pub(super) fingerprint: String,
    pub(super) step: usize,
    /// Spent in all runs.
    pub(super) seconds: f64,
    /// How often the held-out windows have judged.
    pub(super) judged: usize,
    /// The held-out loss before any step.
    pub(super) before: f64,
    /// The lowest held-out loss, where it is lower than that.
    pub(super) best: Option<f64>,
}

/// All that a training goes on from.
pub(super) struct State {
    pub(super) progress: Progress,
    pub(super) parameters: Parameters,
    pub(super) best: Option<Parameters>,
    pub(super) adam: Adam,
}

/// Trainable under a name, as bytes.
struct Saved<'a> {
    shape: &'a [usize],
    values: &'a [f32],
}

impl View for Saved<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(self.values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    fn data_len(&self) -> usize {
        4 * self.values.len()
    }
}

impl State {
    /// Writes the state, in place of the former one only once it is whole.
    pub(super) fn save(&self, path: &Path) -> Result<(), RunError> {
        let refused = |problem: String| RunError::Data { path: path.to_owned(), problem };
        let mut tensors: Vec<(String, Saved<'_>)> = Vec::new();
        tensors.extend(self.parameters.all().map(|of| saved("now", of, &of.values)));
        tensors.extend(self.best.iter().flat_map(Parameters::all).map(|of| saved("best", of, &of.values)));
        for (of, (mean, square)) in self.parameters.all().zip(self.adam.means()) {
            tensors.extend([saved("mean", of, mean), saved("square", of, square)]);
        }
        let progress = serde_json::to_string(&self.progress).map_err(|error| refused(error.to_string()))?;
        let metadata = HashMap::from([(KEY.to_owned(), progress)]);
        let fresh = beside(path);
        safetensors::serialize_to_file(tensors, Some(metadata), &fresh).map_err(|error| refused(error.to_string()))?;
        File::open(&fresh)
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(&fresh, path))
            .map_err(|error| refused(error.to_string()))
    }

    /// Reads the state of a training of these parameters; none where there is no file.
    pub(super) fn load(path: &Path, like: &Parameters, fingerprint: &str) -> Result<Option<Self>, RunError> {
        if !path.exists() {
            return Ok(None);
        }
        let refused = |problem: String| RunError::Data { path: path.to_owned(), problem };
        let bytes = fs::read(path).map_err(|error| refused(error.to_string()))?;
        let damaged = |_| refused(DAMAGED.to_owned());
        let (_, header) = guarded(|| SafeTensors::read_metadata(&bytes)).map_err(&refused)?.map_err(damaged)?;
        let file = guarded(|| SafeTensors::deserialize(&bytes)).map_err(&refused)?.map_err(damaged)?;
        let progress = header.metadata().as_ref().and_then(|all| all.get(KEY)).map(String::as_str).unwrap_or_default();
        let progress: Progress = serde_json::from_str(progress).map_err(|_| refused(DAMAGED.to_owned()))?;
        if progress.fingerprint != fingerprint {
            let problem = "it is the state of another training: of another model, other data or other settings. \
                           Remove it to begin anew, or name another output";
            return Err(refused(problem.to_owned()));
        }
        let read = |kind: &str, of: &Trainable| {
            let tensor = file.tensor(&named(kind, &of.name)).ok();
            let values: Option<Vec<f32>> = tensor
                .filter(|view| view.dtype() == Dtype::F32 && view.shape() == of.shape)
                .map(|view| view.data().as_chunks::<4>().0.iter().map(|&four| f32::from_le_bytes(four)).collect());
            values.ok_or_else(|| refused(format!("{DAMAGED} ({})", text::shown(&of.name))))
        };
        let parameters = |kind: &str| {
            let mut made = like.clone();
            for values in made.0.iter_mut().flatten() {
                values.values = read(kind, values)?;
            }
            Ok::<_, RunError>(made)
        };
        let means = if progress.step == 0 {
            Vec::new()
        } else {
            like.all().map(|of| Ok((read("mean", of)?, read("square", of)?))).collect::<Result<_, RunError>>()?
        };
        let adam = Adam::resumed(progress.step, means);
        let best = progress.best.map(|_| parameters("best")).transpose()?;
        Ok(Some(Self { parameters: parameters("now")?, best, adam, progress }))
    }
}

fn named(kind: &str, tensor: &str) -> String {
    format!("{kind}:{tensor}")
}

fn saved<'a>(kind: &str, of: &'a Trainable, values: &'a [f32]) -> (String, Saved<'a>) {
    (named(kind, &of.name), Saved { shape: &of.shape, values })
}

/// The file that becomes the state once it is whole.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}
