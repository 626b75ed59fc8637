//! What a block is kept by: each key is a hash of the key before it and of what its block adds.

use std::path::{Path, PathBuf};

use calabi_api::{RefineSettings, States};

use super::Planned;
use crate::Error;
use crate::decompose::Context;
use crate::store::{BlockKey, Hashed};

/// The version of what is kept of a block: another one, and nothing is found.
const VERSION: u8 = 1;

/// A hash of what all blocks depend on: the model's files, the states that enter the first block, the settings, and the
/// arithmetic of this program on this processor.
pub(super) fn base(context: &Context<'_>, refine: Option<&RefineSettings>, embedded: &States) -> Result<Hashed, Error> {
    let (pipeline, metrics) = (context.pipeline, context.metrics);
    let mut hash = Hashed::new();
    hash.text(&format!("{VERSION} {} {}", env!("CARGO_PKG_VERSION"), calabi_svd::arithmetic()));
    hash.text(&format!("{:?} {:?} {:?}", pipeline.decomposer, metrics.bias(), metrics.shrinkage()));
    hash.text(&format!("{refine:?} {:?}", pipeline.model.write_options()));
    let mut files = context.source.totals().files;
    files.extend(descriptions(&pipeline.model.input)?);
    for file in files {
        hash.file(&file).map_err(|e| Error::io("read", &file, e))?;
    }
    for sample in 0..embedded.count() {
        let values = embedded.get(sample).map_err(|e| Error::Calibrate { source: Box::new(e), span: None })?;
        hash.numbers(&*values);
        hash.text(&format!("{:?}", embedded.tokens(sample)));
    }
    Ok(hash)
}

/// What a checkpoint folder says of itself besides its weights, in the order of names.
fn descriptions(model: &Path) -> Result<Vec<PathBuf>, Error> {
    if !model.is_dir() {
        return Ok(Vec::new());
    }
    let paths = std::fs::read_dir(model).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    let mut paths: Vec<PathBuf> = paths.map_err(|e| Error::io("read", model, e))?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json") && path.is_file());
    paths.sort();
    Ok(paths)
}

/// The keys of blocks with these layers.
pub(super) fn keys(base: Hashed, blocks: &[Vec<Planned<'_>>]) -> Vec<BlockKey> {
    let mut hash = base;
    let add = |(number, layers): (usize, &Vec<Planned<'_>>)| {
        hash.text(&format!("block {number} of {}", blocks.len()));
        for planned in layers {
            hash.text(&format!("{:?} {}", planned.layer, planned.rank));
        }
        BlockKey::of(&hash)
    };
    blocks.iter().enumerate().map(add).collect()
}
