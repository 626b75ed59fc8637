//! What goes wrong when a model is read or written.

use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};

use ndarray::Array2;
use thiserror::Error;

use super::Layer;

/// Why a model could not be read or written.
///
/// ```
/// # use std::{io, path::Path};
/// # use calabi_api::{DType, Layer, LayerCost, Role, Shape, Wiring, ndarray::array};
/// use calabi_api::FormatError;
///
/// let error = FormatError::malformed("model.onnx", "the header ends early").with_help("copy the file again");
/// assert_eq!(error.to_string(), "model.onnx: the header ends early");
/// assert!(error.refuses_input() && error.help() == Some("copy the file again"));
///
/// let weight = array![[1.0, f32::INFINITY]];
/// let error = FormatError::check_finite(Path::new("model.onnx"), "fc.weight", &weight).unwrap_err();
/// assert_eq!(error.to_string(), "model.onnx: tensor fc.weight holds inf at row 0, column 1");
///
/// let full = FormatError::io("write", "small.onnx", io::ErrorKind::StorageFull.into());
/// assert!(!full.refuses_input() && full.to_string() == "cannot write small.onnx");
/// # let shape = Shape::new(8, 4).ok_or("empty")?;
/// # let (cost, wiring) = (LayerCost::new(shape, DType::F16, DType::F16), Wiring::default());
/// # let name = "fc".to_owned();
/// # let layer = Layer { name, shape, dtype: DType::F16, role: Role::Linear, cost, wiring, bias: false, key: 0 };
/// assert_eq!(FormatError::overflow(&layer).to_string(), "layer fc: a factor has a number that F16 cannot hold");
/// assert_eq!(FormatError::limit("no room for a bias", "set no bias").help(), Some("set no bias"));
/// # Ok::<(), &str>(())
/// ```
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
        let finite = |values: &[f32]| values.iter().fold(true, |all, v| all & v.is_finite());
        if weight.as_slice().is_some_and(finite) {
            return Ok(());
        }
        match weight.indexed_iter().find(|(_, value)| !value.is_finite()) {
            None => Ok(()),
            Some(((row, col), &value)) => {
                Err(Self::NonFinite { path: path.to_owned(), tensor: Name::new(tensor), row, col, value })
            }
        }
    }
}

/// A name out of a file, made fit to be shown: control characters escaped, cut when very long.
///
/// ```
/// use calabi_api::Name;
///
/// assert_eq!(Name::new("fc\u{1b}[2J\n").to_string(), "fc\\u{1b}[2J\\n"); // clears no screen
/// assert_eq!(Name::new(&"w".repeat(100_000)).to_string().len(), 160 + "...".len());
/// ```
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
