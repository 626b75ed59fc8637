//! A folder of the Hugging Face kind: which of its files are the model, and which go along with it.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use calabi_api::FormatError;

use super::weights::Weights;
use super::{config, has_extension, index};

/// The only file with weights, where there are no shards.
pub(super) const SINGLE: &str = "model.safetensors";
/// How to convert a `PyTorch` checkpoint.
pub(super) const FROM_PYTORCH: &str = "convert it in Python: load it with transformers' \
    AutoModel.from_pretrained(...) and write it with save_pretrained(FOLDER, safe_serialization=True)";
/// How to convert a GGUF file.
pub(super) const FROM_GGUF: &str = "convert it in Python: load it with transformers' \
    AutoModelForCausalLM.from_pretrained(FOLDER, gguf_file=FILE) and write it with save_pretrained(FOLDER)";
/// Weights in other formats, by the ends of their names.
const OTHER_WEIGHTS: [&str; 12] =
    ["bin", "gguf", "onnx", "onnx_data", "h5", "msgpack", "pt", "pth", "ckpt", "ot", "tflite", "safetensors"];

/// Whether a folder holds a checkpoint, be it one that has to be converted first.
pub(super) fn detect(folder: &Path) -> bool {
    let names = names(folder).unwrap_or_default();
    names.iter().map(Path::new).any(|name| has_extension(name, "safetensors"))
        || folder.join(index::FILE).is_file()
        || unconverted(&names).is_some()
}

/// Opens the files with weights.
pub(super) fn open(folder: &Path) -> Result<Weights, FormatError> {
    let (single, index) = (folder.join(SINGLE), folder.join(index::FILE));
    if !index.exists() {
        return if single.exists() { Weights::single(&single) } else { Err(without_weights(folder)) };
    }
    let map = index::read(&index)?;
    if single.exists() && map.values().all(|shard| shard != SINGLE) {
        let problem = format!("it names other files than {SINGLE}, which is there too: which of them is the model?");
        return Err(FormatError::malformed(index, problem).with_help(format!("take it or {SINGLE} out of the folder")));
    }
    Weights::sharded(folder, map)
}

/// The files that go along with the weights, in the order of their names: all at the top of the folder but weights,
/// indexes of weights and the configuration.
pub(super) fn companions(folder: &Path) -> Result<Vec<PathBuf>, FormatError> {
    let mut paths = Vec::new();
    for name in names(folder)? {
        if name == config::FILE || is_weights(Path::new(&name)) {
            continue;
        }
        let path = folder.join(&name);
        match fs::metadata(&path) {
            Ok(kind) if kind.is_file() => paths.push(path),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(FormatError::malformed(path, "a link that leads nowhere").with_help("remove it"));
            }
            Err(source) => return Err(FormatError::io("read", path, source)),
        }
    }
    Ok(paths)
}

fn is_weights(name: &Path) -> bool {
    let of_weights = |name: &Path| OTHER_WEIGHTS.iter().any(|ending| has_extension(name, ending));
    let indexed = name.to_str().and_then(|name| name.strip_suffix(".index.json"));
    of_weights(name) || indexed.is_some_and(|name| of_weights(Path::new(name)))
}

fn without_weights(folder: &Path) -> FormatError {
    let names = names(folder).unwrap_or_default();
    let (problem, way_out) = if let Some(other) = unconverted(&names) {
        other
    } else if names.iter().map(Path::new).any(|name| has_extension(name, "safetensors")) {
        ("its .safetensors files are not called as a model's are".into(), "name the file itself as the input")
    } else {
        ("no weights in it".into(), "is it the right folder?")
    };
    FormatError::malformed(folder, format!("neither {SINGLE} nor {}: {problem}", index::FILE)).with_help(way_out)
}

/// The weights of another format that a folder holds, and how to convert them.
fn unconverted(names: &[std::ffi::OsString]) -> Option<(String, &'static str)> {
    let found = |fits: &dyn Fn(&str) -> bool| names.iter().filter_map(|name| name.to_str()).find(|name| fits(name));
    let pytorch = |name: &str| name.starts_with("pytorch_model") && has_extension(Path::new(name), "bin");
    if let Some(name) = found(&pytorch) {
        return Some((format!("only {name}, a PyTorch checkpoint"), FROM_PYTORCH));
    }
    found(&|name| has_extension(Path::new(name), "gguf")).map(|name| (format!("only {name}, a GGUF file"), FROM_GGUF))
}

fn names(folder: &Path) -> Result<Vec<std::ffi::OsString>, FormatError> {
    let io = |source| FormatError::io("read", folder, source);
    let entries = fs::read_dir(folder).map_err(io)?;
    let mut names = entries.map(|entry| Ok(entry.map_err(io)?.file_name())).collect::<Result<Vec<_>, _>>()?;
    names.sort_unstable_by(|a: &std::ffi::OsString, b| OsStr::cmp(a, b));
    Ok(names)
}
