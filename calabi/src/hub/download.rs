//! Downloads a checkpoint into the local cache.

use std::path::Path;

use hf_hub::api::sync::{ApiBuilder, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};

use super::Hosted;

/// Weights of other formats, and pictures: nothing of them is needed.
const LEFT: [&str; 12] =
    [".bin", ".gguf", ".onnx", ".onnx_data", ".h5", ".msgpack", ".pt", ".pth", ".ckpt", ".ot", ".png", ".jpg"];

/// Fetches the files at the top of a model's repository that a checkpoint folder has.
pub(super) fn download(hosted: &Hosted<'_>, cache: &Path) -> Result<(), String> {
    let repo = Repo::with_revision(hosted.name.to_owned(), RepoType::Model, hosted.revision.to_owned());
    let token = Cache::from_env().token();
    let builder = ApiBuilder::from_env().with_cache_dir(cache.to_owned()).with_token(token).with_progress(false);
    let api = builder.build().map_err(|error| error.to_string())?.repo(repo);
    let info = api.info().map_err(|error| format!("the hub does not give it: {error}"))?;
    let files: Vec<&str> = info.siblings.iter().map(|file| file.rfilename.as_str()).filter(|f| wanted(f)).collect();
    if !files.iter().any(|file| is_weights(file)) {
        return Err("the hub has it in other formats alone: convert it with transformers' save_pretrained".to_owned());
    }
    // The weights come last: a folder without them is known to be unfinished.
    let (weights, others): (Vec<&str>, Vec<&str>) = files.into_iter().partition(|file| is_weights(file));
    others.into_iter().chain(weights).try_for_each(|file| fetch(&api, file))
}

fn fetch(api: &ApiRepo, file: &str) -> Result<(), String> {
    api.get(file).map(drop).map_err(|error| format!("{file} cannot be downloaded: {error}"))
}

fn wanted(file: &str) -> bool {
    !file.contains('/') && !file.starts_with('.') && !LEFT.iter().any(|ending| file.ends_with(ending))
}

fn is_weights(file: &str) -> bool {
    Path::new(file).extension().is_some_and(|ending| ending == "safetensors")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_a_checkpoint_are_fetched_and_no_others() {
        for file in ["config.json", "model-00001-of-00002.safetensors", "tokenizer.json", "merges.txt", "own_code.py"] {
            assert!(wanted(file), "{file}");
        }
        for file in ["pytorch_model.bin", "onnx/model.onnx", ".gitattributes", "q4.gguf", "1_Pooling/config.json"] {
            assert!(!wanted(file), "{file}");
        }
    }
}
