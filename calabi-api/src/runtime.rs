//! The contract of runtimes: models that run, so that a result is seen before it is shipped.

use std::fmt::Debug;
use std::path::{Path, PathBuf};

use ndarray::{ArrayD, Axis};
use thiserror::Error;

use crate::{BlockRunner, Factors, Layer, Watch};

/// Runs models of one kind.
pub trait Runtime: Debug + Send + Sync {
    /// Whether it runs this file or folder, judged by its name and its first bytes.
    fn detect(&self, path: &Path) -> bool;

    /// Loads a model.
    ///
    /// # Errors
    /// Where the model cannot be read, or holds an operator that the runtime lacks; the error names it.
    fn load(&self, path: &Path) -> Result<Box<dyn Runner>, RunError>;
}

/// A model that runs.
pub trait Runner: Send {
    /// The inputs that the model wants.
    fn inputs(&self) -> Vec<InputSpec>;

    /// The outputs of all samples, in the model's order, samples along the first axis.
    ///
    /// # Errors
    /// Where an input is missing, of another type or shape than the model wants, or an operator fails.
    fn outputs(&mut self, samples: &Samples) -> Result<Vec<Output>, RunError>;

    /// The outputs a few samples at a time, in their order, for outputs too large to hold: `each` is given the number of
    /// the first of them and their outputs.
    ///
    /// # Errors
    /// As [`outputs`](Self::outputs), and where `each` fails.
    fn stream(
        &mut self,
        samples: &Samples,
        each: &mut dyn FnMut(usize, Vec<Output>) -> Result<(), RunError>,
    ) -> Result<(), RunError> {
        (0..samples.count()).try_for_each(|i| each(i, self.outputs(&samples.some(i, i + 1))?))
    }

    /// The name of the distinct input that each of these layers reads: layers that share an input share the name.
    ///
    /// # Errors
    /// Where the model has no such layer, or what flows into it cannot be watched.
    fn sources(&self, layers: &[&Layer]) -> Result<Vec<String>, RunError>;

    /// Runs the samples and lets the caller watch what flows into these layers, each distinct input once.
    ///
    /// # Errors
    /// As [`sources`](Self::sources) and [`outputs`](Self::outputs), and where the watcher fails.
    fn observe(&mut self, samples: &Samples, layers: &[&Layer], watch: &mut Watch<'_>) -> Result<(), RunError>;

    /// Puts factors in the place of a layer's weight, or the weight back.
    ///
    /// # Errors
    /// Where the model has no such layer, or the factors do not fit it.
    fn substitute(&mut self, layer: &Layer, factors: Option<&Factors>) -> Result<(), RunError>;

    /// The model block by block, where it can run so: sequential compression and refinement need it.
    fn blocks(&mut self) -> Option<&mut dyn BlockRunner> {
        None
    }
}

/// An input of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputSpec {
    /// Its name.
    pub name: String,
    /// Its type, as the format calls it.
    pub dtype: String,
    /// Its dimensions: a number, or the name of one that is free.
    pub dims: Vec<String>,
}

/// An output of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// Its name.
    pub name: String,
    /// Its values, as `f32`, samples along the first axis.
    pub values: ArrayD<f32>,
}

/// A tensor that is fed to a model.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Tensor {
    /// 32-bit floating point.
    F32(ArrayD<f32>),
    /// 32-bit integers.
    I32(ArrayD<i32>),
    /// 64-bit integers.
    I64(ArrayD<i64>),
    /// Truth values or bytes.
    U8(ArrayD<u8>),
}

impl Tensor {
    /// Its dimensions.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::F32(a) => a.shape(),
            Self::I32(a) => a.shape(),
            Self::I64(a) => a.shape(),
            Self::U8(a) => a.shape(),
        }
    }

    /// The samples from `start` up to `end` along the first axis, which holds that many.
    #[must_use]
    pub fn samples(&self, start: usize, end: usize) -> Self {
        fn cut<T: Clone>(a: &ArrayD<T>, start: usize, end: usize) -> ArrayD<T> {
            a.slice_axis(Axis(0), (start..end).into()).to_owned()
        }
        match self {
            Self::F32(a) => Self::F32(cut(a, start, end)),
            Self::I32(a) => Self::I32(cut(a, start, end)),
            Self::I64(a) => Self::I64(cut(a, start, end)),
            Self::U8(a) => Self::U8(cut(a, start, end)),
        }
    }
}

/// Inputs by name, all with the same number of samples along the first axis.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Samples {
    /// Name and values of each input.
    pub inputs: Vec<(String, Tensor)>,
}

impl Samples {
    /// The number of samples.
    #[must_use]
    pub fn count(&self) -> usize {
        self.inputs.first().and_then(|(_, tensor)| tensor.shape().first().copied()).unwrap_or(0)
    }

    /// The samples from `start` up to `end`, which are among them.
    #[must_use]
    pub fn some(&self, start: usize, end: usize) -> Self {
        Self { inputs: self.inputs.iter().map(|(name, tensor)| (name.clone(), tensor.samples(start, end))).collect() }
    }
}

/// Why a model could not be run.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunError {
    /// The model cannot be loaded.
    #[error("{}: cannot be run: {problem}", path.display())]
    Load {
        /// Which model.
        path: PathBuf,
        /// What the engine said.
        problem: String,
    },
    /// The samples do not fit the model.
    #[error("input {name} of the model ({dtype}, {dims}): {problem}")]
    Input {
        /// Which input.
        name: String,
        /// The type that the model wants.
        dtype: String,
        /// The shape that the model wants.
        dims: String,
        /// What is wrong.
        problem: String,
    },
    /// The data cannot be read.
    #[error("{}: {problem}", path.display())]
    Data {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The model failed while running.
    #[error("the model fails on these samples: {0}")]
    Failed(String),
}
