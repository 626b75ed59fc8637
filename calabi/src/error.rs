//! Why a run ends early, with the place in the pipeline file that led there.

use std::ops::Range;
use std::path::PathBuf;

use calabi_api::{ConfigError, DecomposeError, FormatError, RunError, SelectError};
use thiserror::Error;

/// Why a run ended early.
///
/// ```
/// use calabi::{Error, Pipeline};
///
/// let text = "[model]\ninput = 'm.onnx'\noutput = 's.onnx'\n[rank]\nkind = 'energie'\n";
/// let error: Error = *Pipeline::parse("p.toml", text, "".as_ref(), &[]).unwrap_err().error;
/// assert!(matches!(error, Error::Config(_)) && error.refuses_settings() && !error.refuses_input());
/// assert_eq!(error.span().map(|span| &text[span]), Some("'energie'"));
/// assert!(error.help().is_some_and(|help| help.contains("did you mean `energy`?")));
/// ```
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The pipeline file, a plan or the command asks for what cannot be.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The input model cannot be read.
    #[error("the input model cannot be used")]
    Input {
        /// Why.
        source: FormatError,
        /// Where the pipeline file names the model.
        span: Option<Range<usize>>,
    },
    /// The output model cannot be written.
    #[error("the output model cannot be written")]
    Output {
        /// Why.
        source: FormatError,
    },
    /// A folder or a file beside the model cannot be written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried: "create", "write".
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A layer cannot be decomposed.
    #[error("layer {layer} cannot be decomposed")]
    Decompose {
        /// The layer.
        layer: String,
        /// Why.
        source: DecomposeError,
    },
    /// No ranks can be chosen.
    #[error("no rank can be chosen{}", layer.as_ref().map_or_else(String::new, |name| format!(" for layer {name}")))]
    Select {
        /// The layer, where one layer is at fault.
        layer: Option<String>,
        /// Why.
        source: SelectError,
        /// Where the pipeline file states the rule.
        span: Option<Range<usize>>,
    },
    /// The model cannot be run on the calibration data, or statistics cannot be had.
    #[error("the model cannot be calibrated")]
    Calibrate {
        /// Why.
        source: Box<RunError>,
        /// Where the pipeline file asks for it.
        span: Option<Range<usize>>,
    },
    /// Statistics of what flows into layers cannot be read or written.
    #[error("the statistics of the calibration cannot be used")]
    Statistics {
        /// Why.
        source: FormatError,
        /// Where the pipeline file asks for them.
        span: Option<Range<usize>>,
    },
    /// The models cannot be compared.
    #[error("the result cannot be verified")]
    Verify {
        /// Why.
        source: RunError,
        /// Where the pipeline file asks for it.
        span: Option<Range<usize>>,
    },
    /// A model cannot be evaluated.
    #[error("the model cannot be evaluated")]
    Evaluate {
        /// Why.
        source: RunError,
    },
    /// A model cannot be trained.
    #[error("the model cannot be fine-tuned")]
    Finetune {
        /// Why.
        source: Box<RunError>,
        /// Where the pipeline file asks for it.
        span: Option<Range<usize>>,
    },
    /// The observer asked for the run to end.
    #[error("cancelled: nothing was written")]
    Cancelled,
    /// No threads to work on.
    #[error("no threads can be started")]
    Threads(#[from] rayon::ThreadPoolBuildError),
}

impl Error {
    /// An error of the operating system.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { action, path: path.into(), source }
    }

    /// A layer that cannot be decomposed.
    pub(crate) fn decompose(layer: &calabi_api::Layer, source: DecomposeError) -> Self {
        Self::Decompose { layer: calabi_api::Name::new(&layer.name).to_string(), source }
    }

    /// The bytes of the pipeline file that led here.
    #[must_use]
    pub fn span(&self) -> Option<Range<usize>> {
        match self {
            Self::Config(error) => error.span(),
            Self::Input { span, .. }
            | Self::Select { span, .. }
            | Self::Calibrate { span, .. }
            | Self::Statistics { span, .. }
            | Self::Finetune { span, .. }
            | Self::Verify { span, .. } => span.clone(),
            _ => None,
        }
    }

    /// The way out, where there is one.
    #[must_use]
    pub fn help(&self) -> Option<&str> {
        match self {
            Self::Config(error) => error.help(),
            Self::Input { source, .. } | Self::Output { source } | Self::Statistics { source, .. } => source.help(),
            Self::Decompose { .. } => {
                Some("exclude the layer, or set [layers] on_error = \"dense\" to leave it as it is")
            }
            _ => None,
        }
    }

    /// Whether the input model itself is at fault, rather than the machine or the settings.
    #[must_use]
    pub fn refuses_input(&self) -> bool {
        match self {
            Self::Input { source, .. } => source.refuses_input(),
            Self::Finetune { source, .. } => matches!(**source, RunError::Load { .. }),
            _ => false,
        }
    }

    /// Whether the settings are at fault.
    #[must_use]
    pub fn refuses_settings(&self) -> bool {
        match self {
            Self::Config(_) | Self::Select { .. } => true,
            Self::Verify { source, .. } | Self::Evaluate { source } => is_about_data(source),
            Self::Calibrate { source, .. } | Self::Finetune { source, .. } => is_about_data(source),
            _ => false,
        }
    }
}

/// Whether samples or their file are at fault.
fn is_about_data(error: &RunError) -> bool {
    matches!(error, RunError::Input { .. } | RunError::Data { .. })
}
