//! A dense model of a factorized one, for runtimes without factors.

use std::path::{Path, PathBuf};

use calabi_api::{Cost, WriteOptions};
use serde::Serialize;

use crate::run::{on_threads, open_model};
use crate::staging::{Places, Staging};
use crate::{ByteSize, Error, Target};

/// How a model is made dense.
#[derive(Debug, Clone, Default)]
pub struct DensifyOptions {
    /// Whether an output that exists may be replaced.
    pub force: bool,
    /// The largest size of a file with weights; none keeps the files of the input.
    pub shard_size: Option<ByteSize>,
    /// Threads to work on; none takes one per processor.
    pub threads: Option<usize>,
}

/// What a model weighed with its factors, and weighs without.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Densified {
    /// Where the dense model is.
    pub output: PathBuf,
    /// With factors.
    pub before: Cost,
    /// Dense.
    pub after: Cost,
}

/// Multiplies the factors of a checkpoint out: `output` is an ordinary checkpoint of the original architecture.
///
/// Weights are stored in the type of their factors, each value rounded once. All other tensors and files are copied.
///
/// # Errors
/// Where the model cannot be read, has no factors, is an ONNX graph (any runtime runs its factors), or the output cannot be
/// written: then nothing is left at its place.
pub fn densify(model: &Path, output: &Path, options: &DensifyOptions) -> Result<Densified, Error> {
    on_threads(options.threads, || {
        let source = open_model(model, None)?;
        let totals = source.totals();
        let taken: Vec<PathBuf> = std::iter::once(model.to_owned()).chain(totals.files).collect();
        let target = Target { path: output, span: None, taken: &taken, force: options.force };
        let staging = Staging::beside(Places::of(&target, model, &*source)?)?;
        let mut write = WriteOptions::default();
        write.shard_size = options.shard_size.map(ByteSize::bytes);
        let failed = |source| Error::Output { source };
        let written = source.densify(&staging.model(), &write).map_err(failed)?;
        let output = staging.publish(&written.paths, options.force)?;
        Ok(Densified { output, before: totals.cost, after: written.cost })
    })
}
