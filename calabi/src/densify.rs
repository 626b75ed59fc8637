//! A dense model of a factorized one, for runtimes without factors.

use std::path::{Path, PathBuf};

use calabi_api::{Cost, WriteOptions};
use serde::Serialize;

use crate::run::{on_threads, open_model};
use crate::staging::{Places, Staging};
use crate::{ByteSize, Error, Target};

/// How a model is made dense.
///
/// ```
/// use calabi::{DensifyOptions, densify};
/// # use calabi::{Compression, Silent, api::settings::Fraction, compress_hf_model};
///
/// # use std::path::Path;
/// # let folder = tempfile::tempdir()?;
/// # let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
/// # let model = root.join("calabi-nn/tests/models/llama");
/// # let data = root.join("tests/models/tiny-lm/held-out.safetensors");
/// # let half = Compression::keep(Fraction::new(0.5).ok_or("not a share")?);
/// # let [small, dense] = ["small", "dense"].map(|name| folder.path().join(name));
/// # compress_hf_model(&model, &small, half, &Silent)?;
/// let options = DensifyOptions { shard_size: Some("16 KB".parse()?), ..DensifyOptions::default() };
/// densify(&small, &dense, &options)?;
/// assert!(dense.join("model.safetensors.index.json").is_file());
/// assert!(densify(&small, &dense, &options).is_err(), "what exists is not replaced");
/// densify(&small, &dense, &DensifyOptions { force: true, ..options })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
///
/// ```
/// # use calabi::{Compression, DensifyOptions, Silent, api::settings::Fraction, compress_hf_model, densify};
/// # use std::path::Path;
/// # let folder = tempfile::tempdir()?;
/// # let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
/// # let model = root.join("calabi-nn/tests/models/llama");
/// # let data = root.join("tests/models/tiny-lm/held-out.safetensors");
/// # let half = Compression::keep(Fraction::new(0.5).ok_or("not a share")?);
/// # let [small, dense] = ["small", "dense"].map(|name| folder.path().join(name));
/// # compress_hf_model(&model, &small, half, &Silent)?;
/// let made = densify(&small, &dense, &DensifyOptions::default())?;
/// assert!(made.output.ends_with("dense") && made.before.parameters < made.after.parameters);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
/// ```
/// use calabi::{Compression, DensifyOptions, Silent, compress_hf_model, densify};
/// # use calabi::api::settings::Fraction;
///
/// # use std::path::Path;
/// # let folder = tempfile::tempdir()?;
/// # let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
/// # let model = root.join("calabi-nn/tests/models/llama");
/// # let data = root.join("tests/models/tiny-lm/held-out.safetensors");
/// # let half = Compression::keep(Fraction::new(0.5).ok_or("not a share")?);
/// # let [small, dense] = ["small", "dense"].map(|name| folder.path().join(name));
/// let report = compress_hf_model(&model, &small, half, &Silent)?;
/// let made = densify(&small, &dense, &DensifyOptions::default())?;
/// assert_eq!(made.after.parameters, report.parameters.before);
/// assert!(dense.join("config.json").is_file());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
