//! The contract of model formats: where weights are, and how factors take their place.

use std::error::Error;
use std::fmt::{self, Debug};
use std::path::{Path, PathBuf};

use ndarray::{Array1, Array2, ArrayD};
use serde::Serialize;
use thiserror::Error;

use crate::{Cost, DType, Factors, LayerCost, Rank, Shape};

/// A kind of model file.
pub trait LayerFormat: Debug + Send + Sync {
    /// Whether this file or folder is of this kind, judged by its name and its first bytes.
    fn detect(&self, path: &Path) -> bool;

    /// Reads the metadata: names, shapes and types, no weights.
    ///
    /// # Errors
    /// Where the model cannot be read, or is not what it claims to be.
    fn open(&self, path: &Path) -> Result<Box<dyn LayerSource>, FormatError>;
}

/// An open model. Reads one weight at a time.
pub trait LayerSource: Debug + Send + Sync {
    /// The weights that can be factorized, in the order of the model.
    fn layers(&self) -> &[Layer];

    /// The matrices that cannot be, and why.
    fn left_alone(&self) -> &[LeftAlone];

    /// What the whole model weighs.
    fn totals(&self) -> Totals;

    /// Reads a layer's weight as `m × n`, outputs by inputs, whatever its order in the file.
    ///
    /// # Errors
    /// Where the file cannot be read or holds a number that is not finite; the error names the tensor.
    fn read(&self, layer: &Layer) -> Result<Array2<f32>, FormatError>;

    /// The normalisation whose output flows into a layer; none where something else does.
    ///
    /// # Errors
    /// Where its tensors cannot be read.
    fn normalisation(&self, _layer: &Layer) -> Result<Option<Normalisation>, FormatError> {
        Ok(None)
    }

    /// The files beside `path` that a model written there may need: checked before any work.
    fn side_files(&self, _path: &Path) -> Vec<PathBuf> {
        Vec::new()
    }

    /// Begins a copy of the model at `path` in which these layers are factorized.
    ///
    /// Every replacement is declared first: headers need lengths before data. `path` does not exist; its folder does.
    ///
    /// # Errors
    /// Where a file cannot be written, or the result would break a limit of the format.
    fn create(
        &self,
        path: &Path,
        replaced: &[Replacement],
        options: &WriteOptions,
    ) -> Result<Box<dyn LayerSink>, FormatError>;

    /// Writes a model to `path` in which every pair of factors is multiplied out again, for runtimes without factors.
    ///
    /// `path` does not exist; its folder does.
    ///
    /// # Errors
    /// Where the model has no factors, a file cannot be written, or this format cannot do it.
    fn densify(&self, _path: &Path, _options: &WriteOptions) -> Result<Written, FormatError> {
        let problem = format!("a model of the format {} is not densified", self.totals().format);
        Err(FormatError::limit(problem, "any runtime of that format runs its factors as they are"))
    }
}

/// A model that is being written.
pub trait LayerSink: Send {
    /// Writes the factors of a declared layer; in any order, each layer once.
    ///
    /// # Errors
    /// Where the layer was not declared, the shapes differ from what was, or the file cannot be written.
    fn write(&mut self, layer: &Layer, factors: &Factors) -> Result<(), FormatError>;

    /// Writes other values in the place of a tensor that is not factorized (a norm), each once: same name, shape and type.
    /// It may come at any time before [`finish`](Self::finish), and need not be declared.
    ///
    /// # Errors
    /// Where there is no such tensor, its shape differs, its type cannot hold the values, or the format cannot do it.
    fn amend(&mut self, tensor: &str, values: &ArrayD<f32>) -> Result<(), FormatError> {
        let _ = values;
        Err(FormatError::Misuse(format!("tensor {}: this format writes layers alone", Name::new(tensor))))
    }

    /// Copies all that is not replaced, as it was, and makes the model durable.
    ///
    /// # Errors
    /// Where a declared layer was not written, or a file cannot be.
    fn finish(self: Box<Self>) -> Result<Written, FormatError>;
}

/// One weight with its name, shape and role.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// The name that patterns match and reports show.
    pub name: String,
    /// `m × n`, outputs by inputs.
    pub shape: Shape,
    /// How the weight is stored; its factors are stored alike.
    pub dtype: DType,
    /// What it does in the model.
    pub role: Role,
    /// What it costs, dense and at every rank.
    pub cost: LayerCost,
    /// How it is wired into the model.
    pub wiring: Wiring,
    /// Whether the model has a bias of this layer that another can be added to: factors with a bias then cost no more.
    pub bias: bool,
    /// Where the source finds it: its own affair.
    pub key: usize,
}

/// How a layer is wired into its model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wiring {
    /// The name of its weight in the file.
    pub weight: String,
    /// In a graph, the name of the value that flows into it: `E[xxᵀ]` is taken over its last axis. None where its features
    /// lie along another axis.
    pub input: Option<String>,
    /// In a graph, the name of the value that its node gives.
    pub output: Option<String>,
}

/// The normalisation whose output is a layer's input: the input's mean is about `beta`, its scales are about `gamma`.
#[derive(Debug, Clone, PartialEq)]
pub struct Normalisation {
    /// `γ`, a scale for every feature.
    pub gamma: Array1<f32>,
    /// `β`, a shift for every feature; none where the normalisation has none.
    pub beta: Option<Array1<f32>>,
}

/// What a layer does in the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Role {
    /// `y = W x + b`.
    Linear,
}

/// A matrix that is not a layer, and why.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LeftAlone {
    /// Its name.
    pub name: String,
    /// Its dimensions as stored.
    pub dims: Vec<u64>,
    /// Its type, as the format calls it.
    pub dtype: String,
    /// Why it is left alone.
    pub why: String,
}

/// What a model weighs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Totals {
    /// The kind of the format: "safetensors".
    pub format: &'static str,
    /// All weights, and the size of all files that hold weights.
    pub cost: Cost,
    /// The files that hold weights.
    pub files: Vec<PathBuf>,
}

/// A layer that will be factorized.
#[derive(Debug, Clone, Copy)]
pub struct Replacement<'a> {
    /// Which one.
    pub layer: &'a Layer,
    /// Its rank.
    pub rank: Rank,
    /// Whether the factors bring a bias, which is added to the layer's own.
    pub bias: bool,
}

/// How a model is written.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct WriteOptions {
    /// The largest size of a file with weights, in bytes, for formats that are split into shards; none keeps the split of the input.
    pub shard_size: Option<u64>,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// All weights, and the size of all files that hold weights.
    pub cost: Cost,
    /// The files and folders at the top of the output; the one that the output is known by comes last.
    pub paths: Vec<PathBuf>,
}

/// Why a model could not be read or written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The operating system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried: "read", "write".
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not what it claims to be, or holds what cannot be a model.
    #[error("{}: {problem}", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong, and where in the file.
        problem: String,
        /// The way out, where there is one.
        help: Option<String>,
    },
    /// A weight holds infinity or NaN.
    #[error("{}: tensor {tensor} holds {value} at row {row}, column {col}", path.display())]
    NonFinite {
        /// Which file.
        path: PathBuf,
        /// Which tensor, as the file calls it.
        tensor: Name,
        /// Row of the weight, counted from zero.
        row: usize,
        /// Column of the weight, counted from zero.
        col: usize,
        /// The value.
        value: f32,
    },
    /// The model that was asked for does not fit its format.
    #[error("{problem}")]
    Limit {
        /// Which limit, and what would break it.
        problem: String,
        /// The way out.
        help: String,
    },
    /// The caller broke the contract of the sink or the source.
    #[error("{0}")]
    Misuse(String),
}

impl FormatError {
    /// An error of the operating system.
    pub fn io(action: &'static str, path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { action, path: path.into(), source }
    }

    /// A file that is not what it claims to be.
    pub fn malformed(path: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Self::Malformed { path: path.into(), problem: problem.into(), help: None }
    }

    /// A result that does not fit its format, and the way out.
    pub fn limit(problem: impl Into<String>, help: impl Into<String>) -> Self {
        Self::Limit { problem: problem.into(), help: help.into() }
    }

    /// Factors and biases of 16 bits can overflow where those of the model did not.
    #[must_use]
    pub fn overflow(layer: &Layer) -> Self {
        let problem =
            format!("layer {}: a factor has a number that {} cannot hold", Name::new(&layer.name), layer.dtype);
        Self::limit(problem, "exclude the layer, or store the model in a wider type")
    }

    /// The same error, with the way out.
    #[must_use]
    pub fn with_help(mut self, way_out: impl Into<String>) -> Self {
        if let Self::Malformed { help, .. } = &mut self {
            *help = Some(way_out.into());
        }
        self
    }

    /// The way out, where there is one.
    #[must_use]
    pub fn help(&self) -> Option<&str> {
        match self {
            Self::Malformed { help, .. } => help.as_deref(),
            Self::Limit { help, .. } => Some(help),
            Self::NonFinite { .. } => Some("repair the weight, or name its layer in [layers] exclude"),
            Self::Io { .. } | Self::Misuse(_) => None,
        }
    }

    /// Whether the input itself is at fault, rather than the machine or the settings.
    #[must_use]
    pub fn refuses_input(&self) -> bool {
        matches!(self, Self::Malformed { .. } | Self::NonFinite { .. })
    }

    /// Checks a weight that was read: every entry is finite.
    ///
    /// # Errors
    /// [`FormatError::NonFinite`], at the first entry that is not.
    pub fn check_finite(path: &Path, tensor: &str, weight: &Array2<f32>) -> Result<(), Self> {
        match weight.indexed_iter().find(|(_, value)| !value.is_finite()) {
            None => Ok(()),
            Some(((row, col), &value)) => {
                Err(Self::NonFinite { path: path.to_owned(), tensor: Name::new(tensor), row, col, value })
            }
        }
    }
}

/// A name out of a file, made fit to be shown: control characters escaped, cut when very long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name(String);

impl Name {
    /// The name, made fit to be shown.
    #[must_use]
    pub fn new(name: &str) -> Self {
        const SHOWN: usize = 160;
        let mut shown: String = name.chars().take(SHOWN).flat_map(char::escape_debug).collect();
        if name.chars().nth(SHOWN).is_some() {
            shown.push_str("...");
        }
        Self(shown)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

const _: fn() = || {
    fn is_error<E: Error + Send + Sync + 'static>() {}
    is_error::<FormatError>();
};
