//! Samples for a model: out of tensors by input name, or out of text.

use std::ffi::OsStr;
use std::path::Path;

use calabi_api::{InputSpec, RunError, Samples, Tensor};
use ndarray::{Array2, Axis};

use crate::fill::{IDS, MASK, fill, refused};
use crate::samples::{Labelled, labelled};
use crate::tokens::{Tokens, chosen};
use crate::{read_npz, safetensors, text};

/// How samples are read.
///
/// ```
/// use calabi_api::Runtime;
/// use calabi_nn::{DataOptions, OnnxRuntime, load_data};
///
/// # use std::path::Path;
/// # let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/models/tiny-lm"));
/// # let [model, text] = ["model.onnx", "text.txt"].map(|name| folder.join(name));
/// let inputs = OnnxRuntime::default().load(&model)?.inputs();
/// let options = DataOptions { tokenizer: None, model: &model, sequence: 20, samples: Some(3), seed: 0, labels: None };
/// let first = load_data(&text, &options, &inputs)?;
/// assert_eq!(first, load_data(&text, &options, &inputs)?, "the seed alone chooses");
/// assert_ne!(first, load_data(&text, &DataOptions { seed: 1, ..options }, &inputs)?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct DataOptions<'a> {
    /// The tokenizer for text; none takes `tokenizer.json` in the model's folder.
    pub tokenizer: Option<&'a Path>,
    /// The model: a file or a folder.
    pub model: &'a Path,
    /// Tokens of a sample of text.
    pub sequence: usize,
    /// So many samples; none takes all.
    pub samples: Option<usize>,
    /// Chooses which samples of a text are taken.
    pub seed: u64,
    /// The name of the tensor that holds the right classes; not for text.
    pub labels: Option<&'a str>,
}

/// Samples that fit a model's inputs: out of `.npz` and `.safetensors` files by input name, out of any other file as
/// text in UTF-8.
///
/// ```
/// use calabi_api::Runtime;
/// use calabi_nn::{DataOptions, OnnxRuntime, load_data};
///
/// # use std::path::Path;
/// # let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/models/tiny-lm"));
/// # let [model, text] = ["model.onnx", "text.txt"].map(|name| folder.join(name));
/// let inputs = OnnxRuntime::default().load(&model)?.inputs();
/// let options = DataOptions { tokenizer: None, model: &model, sequence: 20, samples: Some(3), seed: 0, labels: None };
/// let read = load_data(&text, &options, &inputs)?;
/// let shapes: Vec<_> = read.samples.inputs.iter().map(|(name, ids)| (name.as_str(), ids.shape())).collect();
/// assert_eq!(shapes, [("input_ids", &[3, 20][..]), ("attention_mask", &[3, 20][..])]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Text
/// Where the tokenizer puts special tokens behind a text (`[SEP]`: encoders), each line that is not blank is a sample,
/// with its special tokens, cut at `sequence` tokens, padded to the longest. Otherwise the text is tokenized once,
/// without special tokens, and cut into windows of `sequence` tokens; the rest is dropped. Of these samples `samples` are
/// chosen without repetition by a generator that depends on `seed` alone, and kept in the order of the text.
///
/// # Tensors
/// The first `samples` of them.
///
/// # What is filled in
/// Inputs that the model wants and the data do not have: `attention_mask` (1, and 0 on padding), `position_ids`,
/// `token_type_ids` (0), an empty cache for `past_key_values*`, `use_cache_branch` (false).
///
/// # Errors
/// [`RunError::Data`] where a file cannot be read, is damaged, or holds fewer samples than asked for; [`RunError::Input`]
/// where the model wants an input that is not there and cannot be made.
pub fn load_data(path: &Path, options: &DataOptions<'_>, inputs: &[InputSpec]) -> Result<Labelled, RunError> {
    let named = |extension: &str| path.extension().is_some_and(|e: &OsStr| e.eq_ignore_ascii_case(extension));
    let arrays = match () {
        () if named("npz") => Some(read_npz(path)?),
        () if named("safetensors") => Some(safetensors::read(path)?),
        () => None,
    };
    let Labelled { samples, labels } = match arrays {
        Some(arrays) => labelled(arrays, options.labels)
            .and_then(|all| first(all, options.samples))
            .map_err(|problem| refuse(path, problem))?,
        None => Labelled { samples: text_samples(path, options, inputs)?, labels: None },
    };
    Ok(Labelled { samples: fill(samples, inputs)?, labels })
}

/// Windows of a text in order, without overlap: the text is tokenized once, without special tokens, and cut; the rest is
/// dropped. The first `limit` of them, or all. Inputs are filled in as by [`load_data`].
///
/// ```
/// use calabi_api::Runtime;
/// use calabi_nn::{OnnxRuntime, text_windows};
///
/// # use std::path::Path;
/// # let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/models/tiny-lm"));
/// # let [model, text] = ["model.onnx", "text.txt"].map(|name| folder.join(name));
/// let inputs = OnnxRuntime::default().load(&model)?.inputs();
/// let windows = text_windows(&text, None, &model, 20, Some(3), &inputs)?;
/// assert_eq!(windows.count(), 3);
/// assert_eq!(windows.inputs[0].1.shape(), [3, 20]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// As [`load_data`], and where the text is shorter than one window.
pub fn text_windows(
    path: &Path,
    tokenizer: Option<&Path>,
    model: &Path,
    window: usize,
    limit: Option<usize>,
    inputs: &[InputSpec],
) -> Result<Samples, RunError> {
    let ids = Tokens::load(tokenizer, model)?.of(&read_text(path)?)?;
    let windows = windows(path, &ids, window)?;
    let limit = limit.unwrap_or(usize::MAX).min(windows.len());
    if limit == 0 {
        return Err(refuse(path, "no window of it is asked for".to_owned()));
    }
    fill(packed(windows.into_iter().take(limit), window, inputs)?, inputs)
}

/// The first samples.
fn first(all: Labelled, samples: Option<usize>) -> Result<Labelled, String> {
    let Some(wanted) = samples else { return Ok(all) };
    enough(all.samples.count(), wanted)?;
    let labels = all.labels.map(|labels| labels.slice_axis(Axis(0), (0..wanted).into()).to_owned());
    Ok(Labelled { samples: all.samples.some(0, wanted), labels })
}

fn text_samples(path: &Path, options: &DataOptions<'_>, inputs: &[InputSpec]) -> Result<Samples, RunError> {
    if options.labels.is_some() {
        return Err(refuse(path, "text has no labels: take `labels` out, or give tensors".to_owned()));
    }
    let text = read_text(path)?;
    let mut tokens = Tokens::load(options.tokenizer, options.model)?;
    let choose = |count: usize| match options.samples {
        Some(samples) => enough(count, samples).map(|()| chosen(count, samples, options.seed)),
        None => enough(count, 1).map(|()| (0..count).collect()),
    };
    if tokens.closes()? {
        let lines = tokens.lines(&text, options.sequence)?;
        let taken = choose(lines.len()).map_err(|problem| refuse(path, format!("as lines of text, {problem}")))?;
        return padded(path, taken.into_iter().filter_map(|i| lines.get(i)).collect(), tokens.padding(), inputs);
    }
    let ids = tokens.of(&text)?;
    let windows = windows(path, &ids, options.sequence)?;
    let taken = choose(windows.len())
        .map_err(|problem| refuse(path, format!("in windows of {} tokens, {problem}", options.sequence)))?;
    packed(taken.into_iter().filter_map(|i| windows.get(i).copied()), options.sequence, inputs)
}

fn enough(count: usize, wanted: usize) -> Result<(), String> {
    match wanted {
        0 => Err("no samples are asked for".to_owned()),
        _ if count < wanted => Err(format!(
            "it gives {count} samples, fewer than the {wanted} asked for: ask for fewer, or give more data"
        )),
        _ => Ok(()),
    }
}

/// The whole windows of a text.
fn windows<'a>(path: &Path, ids: &'a [u32], window: usize) -> Result<Vec<&'a [u32]>, RunError> {
    if window == 0 || ids.len() < window {
        return Err(refuse(path, format!("its {} tokens do not fill a window of {window}", ids.len())));
    }
    Ok(ids.chunks_exact(window).collect())
}

/// Windows of one length, as the model's tokens.
fn packed<'a>(
    windows: impl Iterator<Item = &'a [u32]>,
    window: usize,
    inputs: &[InputSpec],
) -> Result<Samples, RunError> {
    let input = token_input(inputs)?;
    if let Some(fixed) = fixed_length(input).filter(|&fixed| fixed != window) {
        let problem = format!("samples of {window} tokens do not fit: ask for sequences of {fixed}");
        return Err(refused(input, &problem));
    }
    let ids: Vec<_> = windows.flatten().map(|&id| i64::from(id)).collect();
    let ids = Array2::from_shape_vec((ids.len() / window.max(1), window), ids);
    let ids = ids.map_err(|error| refused(input, &error.to_string()))?.into_dyn();
    Ok(Samples { inputs: vec![(IDS.to_owned(), Tensor::I64(ids))] })
}

/// Lines of different length, padded at the end to the longest, or to the length that the model fixes.
fn padded(path: &Path, lines: Vec<&Vec<u32>>, padding: u32, inputs: &[InputSpec]) -> Result<Samples, RunError> {
    let input = token_input(inputs)?;
    let longest = lines.iter().map(|line| line.len()).max().unwrap_or_default();
    let length = fixed_length(input).unwrap_or(longest);
    if longest > length {
        return Err(refused(input, &format!("samples of {longest} tokens do not fit: ask for sequences of {length}")));
    }
    if lines.iter().any(|line| line.len() < length) && inputs.iter().all(|input| input.name != MASK) {
        let problem = format!("its lines differ in length, and the model has no input {MASK} to tell padding");
        return Err(refuse(path, problem));
    }
    let mut ids = Array2::from_elem((lines.len(), length), i64::from(padding));
    let mut mask = Array2::zeros((lines.len(), length));
    for ((mut ids, mut mask), line) in ids.outer_iter_mut().zip(mask.outer_iter_mut()).zip(&lines) {
        for ((id, token), &given) in ids.iter_mut().zip(&mut mask).zip(line.iter()) {
            (*id, *token) = (i64::from(given), 1);
        }
    }
    let mut filled = vec![(IDS.to_owned(), Tensor::I64(ids.into_dyn()))];
    if inputs.iter().any(|input| input.name == MASK) {
        filled.push((MASK.to_owned(), Tensor::I64(mask.into_dyn())));
    }
    Ok(Samples { inputs: filled })
}

/// The input that tokens go to.
fn token_input(inputs: &[InputSpec]) -> Result<&InputSpec, RunError> {
    let names = || inputs.iter().map(|input| text::shown(&input.name)).collect::<Vec<_>>().join(", ");
    let problem = || {
        RunError::Failed(format!(
            "text needs a model with an input {IDS}, this one has {}: give tensors (.npz, .safetensors)",
            names()
        ))
    };
    inputs.iter().find(|input| input.name == IDS).ok_or_else(problem)
}

/// The number of tokens that the model fixes.
fn fixed_length(input: &InputSpec) -> Option<usize> {
    input.dims.get(1).and_then(|dim| dim.parse().ok())
}

fn read_text(path: &Path) -> Result<String, RunError> {
    let refused = |problem: String| refuse(path, problem);
    if !std::fs::metadata(path).map_err(|error| refused(error.to_string()))?.is_file() {
        return Err(refused("it is no file".to_owned()));
    }
    let bytes = std::fs::read(path).map_err(|error| refused(error.to_string()))?;
    String::from_utf8(bytes)
        .map_err(|_| refused("it is neither text in UTF-8 nor named .npz or .safetensors".to_owned()))
}

fn refuse(path: &Path, problem: String) -> RunError {
    RunError::Data { path: path.to_owned(), problem }
}
