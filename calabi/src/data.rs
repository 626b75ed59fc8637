//! Samples that models run on: tensors by input name, or text cut into windows.

use std::path::Path;

use calabi_api::{InputSpec, RunError, Samples};

/// What is read of a file, and how.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(feature = "runtimes"), allow(dead_code))] // nothing is read without runtimes
pub(crate) struct DataRequest<'a> {
    /// The tokenizer of text; none takes the model's own.
    pub(crate) tokenizer: Option<&'a Path>,
    /// The model that will run on it.
    pub(crate) model: &'a Path,
    /// Tokens a sample of text.
    pub(crate) sequence: usize,
    /// How many samples; none takes all.
    pub(crate) samples: Option<usize>,
    /// Chooses the samples of a text.
    pub(crate) seed: u64,
    /// The array that holds the right classes.
    pub(crate) labels: Option<&'a str>,
}

/// Samples, and the right classes apart from them.
#[derive(Debug)]
pub(crate) struct Labelled {
    pub(crate) samples: Samples,
    pub(crate) labels: Option<Vec<i64>>,
}

/// Whether a file holds tensors, judged by its name; text otherwise.
pub(crate) fn holds_tensors(path: &Path) -> bool {
    let known = |extension: &std::ffi::OsStr| ["npz", "safetensors"].iter().any(|k| extension.eq_ignore_ascii_case(k));
    path.extension().is_some_and(known)
}

/// Reads samples that fit these inputs.
///
/// # Errors
/// Where the file cannot be read, or holds what no samples can be made of.
#[cfg(feature = "runtimes")]
pub(crate) fn load(path: &Path, request: &DataRequest<'_>, inputs: &[InputSpec]) -> Result<Labelled, RunError> {
    let DataRequest { tokenizer, model, sequence, samples, seed, labels } = *request;
    let options = calabi_nn::DataOptions { tokenizer, model, sequence, samples, seed, labels };
    let read = calabi_nn::load_data(path, &options, inputs)?;
    Ok(Labelled { samples: read.samples, labels: read.labels.map(|labels| labels.into_iter().collect()) })
}

/// Windows of a text in their order, without overlap: the text is tokenized once and cut.
///
/// # Errors
/// As [`load`], and where the text does not fill a window.
#[cfg(feature = "runtimes")]
pub(crate) fn windows(path: &Path, request: &DataRequest<'_>, inputs: &[InputSpec]) -> Result<Samples, RunError> {
    let DataRequest { tokenizer, model, sequence, samples, .. } = *request;
    calabi_nn::text_windows(path, tokenizer, model, sequence, samples, inputs)
}

#[cfg(not(feature = "runtimes"))]
pub(crate) fn load(path: &Path, _: &DataRequest<'_>, _: &[InputSpec]) -> Result<Labelled, RunError> {
    Err(no_runtimes(path))
}

#[cfg(not(feature = "runtimes"))]
pub(crate) fn windows(path: &Path, _: &DataRequest<'_>, _: &[InputSpec]) -> Result<Samples, RunError> {
    Err(no_runtimes(path))
}

#[cfg(not(feature = "runtimes"))]
fn no_runtimes(path: &Path) -> RunError {
    let problem = "this program was built without the feature `runtimes`".to_owned();
    RunError::Data { path: path.to_owned(), problem }
}
