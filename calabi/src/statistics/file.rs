//! The file of statistics: a safetensors file that any script can write.
//!
//! For each distinct input `NAME` of `n` features:
//!
//! | tensor | type | shape | holds |
//! |---|---|---|---|
//! | `covariance.NAME`, or | `F32` or `F64` | n × n | `E[xxᵀ] − μμᵀ` over all tokens |
//! | `gram.NAME` | `F32` or `F64` | n × n | `E[xxᵀ]`: in `F32` it loses the digits of features whose mean is large |
//! | `mean.NAME` | `F32` or `F64` | n | `μ = E[x]` |
//! | `tokens.NAME` | `I64` | 1 | how many tokens; padding does not count |
//!
//! Its metadata: `format` is `calabi-statistics`, `version` is `1`, `layers` is a JSON object from the name of each
//! layer to the `NAME` of its input; any other key is kept and shown: `model`, `data`, `samples`, `sequence`. calabi
//! writes `covariance` in `F32` and `mean` in `F64`.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use calabi_api::{FormatError, Name};

/// What the metadata say of the format.
pub(super) const FORMAT: &str = "calabi-statistics";
/// The version of the format.
pub(super) const VERSION: &str = "1";
/// The metadata that are no provenance.
pub(super) const KEYS: [&str; 3] = ["format", "version", "layers"];
/// The longest header that is read, as in the reference implementation of safetensors.
pub(super) const LONGEST_HEADER: u64 = 100_000_000;
/// The way out of most troubles with a file of statistics.
pub(super) const MEASURE_AGAIN: &str = "measure the statistics again, or write the file as the documentation says";

/// What a file of statistics says beside the numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StatisticsHeader {
    /// The name of each layer's input.
    pub(crate) layers: BTreeMap<String, String>,
    /// Where the numbers come from: model, data, samples, sequence.
    pub(crate) provenance: BTreeMap<String, String>,
}

impl StatisticsHeader {
    /// The number of layers, and of the distinct inputs that they read.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let inputs: std::collections::BTreeSet<&String> = self.layers.values().collect();
        (self.layers.len(), inputs.len())
    }

    /// As the metadata of a safetensors file.
    pub(super) fn metadata(&self) -> HashMap<String, String> {
        let layers = serde_json::Value::from_iter(self.layers.clone()).to_string();
        let own = [("format", FORMAT.to_owned()), ("version", VERSION.to_owned()), ("layers", layers)];
        let provenance = self.provenance.clone().into_iter().filter(|(key, _)| !KEYS.contains(&key.as_str()));
        provenance.chain(own.map(|(key, value)| (key.to_owned(), value))).collect()
    }

    /// From the metadata of a safetensors file.
    pub(super) fn read(path: &Path, metadata: &HashMap<String, String>) -> Result<Self, FormatError> {
        let found = |key: &str| metadata.get(key).map(String::as_str);
        let wrong = |problem: String| FormatError::malformed(path, problem).with_help(MEASURE_AGAIN);
        if found("format") != Some(FORMAT) {
            return Err(wrong(format!("its metadata do not say format = {FORMAT}: it is no file of statistics")));
        }
        if found("version") != Some(VERSION) {
            let version = Name::new(found("version").unwrap_or("missing"));
            return Err(wrong(format!("the version of its format is {version}; this program reads {VERSION}")));
        }
        let layers = found("layers").ok_or_else(|| wrong("its metadata lack `layers`".to_owned()))?;
        let layers = serde_json::from_str(layers)
            .map_err(|error| wrong(format!("`layers` in its metadata is no JSON object of names: {error}")))?;
        let own = |key: &String| KEYS.contains(&key.as_str());
        let provenance = metadata.iter().filter(|(key, _)| !own(key)).map(|(k, v)| (k.clone(), v.clone())).collect();
        Ok(Self { layers, provenance })
    }
}

/// The tensors of an input.
pub(super) fn tensor(what: &str, input: &str) -> String {
    format!("{what}.{input}")
}
