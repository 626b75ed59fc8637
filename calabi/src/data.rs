//! Samples that models run on: tensors by input name, or text cut into windows.

use std::path::Path;

use calabi_api::{InputSpec, RunError, Samples};

/// What is read of a file, and how.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(feature = "runtimes"), allow(dead_code))] // without runtimes nothing is read
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
pub(crate) fn load(path: &Path, request: &DataRequest<'_>, _inputs: &[InputSpec]) -> Result<Labelled, RunError> {
    if !holds_tensors(path) {
        return Err(no_text(path));
    }
    let read = calabi_nn::read_samples(path, request.labels)?;
    let count = request.samples.map_or(read.samples.count(), |wanted| wanted.min(read.samples.count()));
    Ok(Labelled {
        labels: read.labels.map(|labels| {
            labels.outer_iter().take(count).flat_map(|l| l.iter().copied().collect::<Vec<_>>()).collect()
        }),
        samples: read.samples.some(0, count),
    })
}

/// Windows of a text in their order, without overlap: the text is tokenized once and cut.
///
/// # Errors
/// As [`load`], and where the text does not fill a window.
#[cfg(feature = "runtimes")]
pub(crate) fn windows(path: &Path, _request: &DataRequest<'_>, _inputs: &[InputSpec]) -> Result<Samples, RunError> {
    Err(no_text(path))
}

#[cfg(feature = "runtimes")]
fn no_text(path: &Path) -> RunError {
    let problem = "text is not read yet: give tensors by input name, in an .npz file".to_owned();
    RunError::Data { path: path.to_owned(), problem }
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
