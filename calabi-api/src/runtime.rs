//! The contract of runtimes: models that run, so that a result is seen before it is shipped.

use std::fmt::Debug;
use std::path::{Path, PathBuf};

use ndarray::{ArrayD, Axis};
use thiserror::Error;

use crate::{BlockRunner, Factors, Layer, Watch};

/// Runs models of one kind.
///
/// ```
/// use calabi_api::{RunError, Runner, Runtime};
/// use std::path::Path;
/// # fn parse(_: &[u8]) -> Result<Box<dyn Runner>, String> { unimplemented!() }
///
/// #[derive(Debug)]
/// struct Tflite;
///
/// impl Runtime for Tflite {
///     fn detect(&self, path: &Path) -> bool {
///         path.extension().is_some_and(|extension| extension == "tflite")
///     }
///
///     fn load(&self, path: &Path) -> Result<Box<dyn Runner>, RunError> {
///         let bytes = std::fs::read(path).map_err(|error| error.to_string());
///         bytes.and_then(|bytes| parse(&bytes)).map_err(|problem| RunError::Load { path: path.to_owned(), problem })
///     }
/// }
///
/// assert!(Tflite.detect(Path::new("model.tflite")) && !Tflite.detect(Path::new("model.onnx")));
/// let error = Tflite.load(Path::new("missing.tflite")).err().unwrap();
/// assert!(error.to_string().starts_with("missing.tflite: cannot be run: "));
/// ```
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
///
/// ```
/// use calabi_api::ndarray::{Array2, ArrayView2, Ix2, array};
/// use calabi_api::{Factors, InputSpec, Layer, Output, RunError, Runner, Samples, Tensor, Watch};
/// # use calabi_api::{DType, LayerCost, Role, Shape, Wiring};
///
/// /// One layer of two inputs, without a bias: `y = W x`.
/// struct Linear {
///     weight: Array2<f32>,
///     in_place: Array2<f32>,
/// }
///
/// fn rows(samples: &Samples) -> Result<ArrayView2<'_, f32>, RunError> {
///     let [(_, Tensor::F32(x))] = &samples.inputs[..] else {
///         return Err(RunError::Failed("the model wants one input of type f32".to_owned()));
///     };
///     let rows = x.view().into_dimensionality::<Ix2>().ok().filter(|rows| rows.ncols() == 2);
///     rows.ok_or_else(|| RunError::Failed("the model wants two numbers a sample".to_owned()))
/// }
///
/// impl Runner for Linear {
///     fn inputs(&self) -> Vec<InputSpec> {
///         let dims = vec!["samples".to_owned(), "2".to_owned()];
///         vec![InputSpec { name: "x".to_owned(), dtype: "f32".to_owned(), dims }]
///     }
///
///     fn outputs(&mut self, samples: &Samples) -> Result<Vec<Output>, RunError> {
///         let values = rows(samples)?.dot(&self.in_place.t()).into_dyn();
///         Ok(vec![Output { name: "y".to_owned(), values }])
///     }
///
///     fn sources(&self, layers: &[&Layer]) -> Result<Vec<String>, RunError> {
///         Ok(vec!["x".to_owned(); layers.len()])
///     }
///
///     fn observe(&mut self, samples: &Samples, layers: &[&Layer], watch: &mut Watch<'_>) -> Result<(), RunError> {
///         if layers.is_empty() { Ok(()) } else { watch("x", rows(samples)?) }
///     }
///
///     fn substitute(&mut self, _: &Layer, factors: Option<&Factors>) -> Result<(), RunError> {
///         self.in_place = match factors {
///             None => self.weight.clone(),
///             Some(Factors { left, right, bias: None }) => left.dot(right),
///             Some(_) => return Err(RunError::Failed("the model has no place for a bias".to_owned())),
///         };
///         Ok(())
///     }
/// }
/// # let shape = Shape::new(2, 2).unwrap();
/// # let cost = LayerCost::new(shape, DType::F32, DType::F32);
/// # let (name, dtype, role, wiring) = ("fc".to_owned(), DType::F32, Role::Linear, Wiring::default());
/// # let layer = Layer { name, shape, dtype, role, cost, wiring, bias: false, key: 0 };
///
/// let weight = array![[1.0, 0.0], [0.0, 0.5]];
/// let mut model = Linear { in_place: weight.clone(), weight };
/// let x = array![[1.0, 2.0], [3.0, 4.0]];
/// let samples = Samples { inputs: vec![(model.inputs()[0].name.clone(), Tensor::F32(x.clone().into_dyn()))] };
///
/// // `layer` is that one layer, as its format gives it.
/// let dense = model.outputs(&samples)?;
/// model.substitute(&layer, Some(&Factors { left: array![[1.0], [0.0]], right: array![[1.0, 0.0]], bias: None }))?;
/// assert_eq!(model.outputs(&samples)?[0].values, array![[1.0, 0.0], [3.0, 0.0]].into_dyn());
/// model.substitute(&layer, None)?;
/// assert_eq!(model.outputs(&samples)?, dense);
///
/// let mut seen = Vec::new();
/// model.stream(&samples, &mut |first, outputs| {
///     seen.push((first, outputs[0].values.shape()[0]));
///     Ok(())
/// })?;
/// assert_eq!(seen, [(0, 1), (1, 1)]);
///
/// let mut gram = Array2::zeros((2, 2));
/// model.observe(&samples, &[&layer], &mut |_, rows| {
///     gram += &rows.t().dot(&rows);
///     Ok(())
/// })?;
/// assert_eq!(gram, x.t().dot(&x));
/// assert_eq!(model.sources(&[&layer])?, ["x"]);
/// assert!(model.blocks().is_none());
/// # Ok::<(), RunError>(())
/// ```
pub trait Runner: Send {
    /// The inputs that the model wants.
    fn inputs(&self) -> Vec<InputSpec>;

    /// The outputs of all samples, in the model's order, samples along the first axis.
    ///
    /// # Errors
    /// Where an input is missing, of another type or shape than the model wants, or an operator fails.
    fn outputs(&mut self, samples: &Samples) -> Result<Vec<Output>, RunError>;

    /// The outputs a few samples at a time, in their order, for outputs too large to hold: `each` is given the number
    /// of the first of them and their outputs.
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
///
/// ```
/// use calabi_api::{InputSpec, Tensor, ndarray::ArrayD};
///
/// let spec = InputSpec {
///     name: "mask".to_owned(),
///     dtype: "i64".to_owned(),
///     dims: vec!["batch".to_owned(), "128".to_owned()],
/// };
///
/// // A mask of ones for 4 samples: dimensions that have a name are free.
/// let dims: Vec<usize> = spec.dims.iter().map(|dim| dim.parse().unwrap_or(4)).collect();
/// assert_eq!(Tensor::I64(ArrayD::ones(dims)).shape(), [4, 128]);
/// ```
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
///
/// ```
/// use calabi_api::{Output, ndarray::array};
///
/// let dense = Output { name: "logits".to_owned(), values: array![[3.0, 4.0]].into_dyn() };
/// let compressed = Output { values: array![[3.0, 3.5]].into_dyn(), ..dense.clone() };
///
/// let square = |x: f32| x * x;
/// let error = (&dense.values - &compressed.values).mapv(square).sum() / dense.values.mapv(square).sum();
/// assert_eq!(error, 0.01);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// Its name.
    pub name: String,
    /// Its values, as `f32`, samples along the first axis.
    pub values: ArrayD<f32>,
}

/// A tensor that is fed to a model.
///
/// ```
/// use calabi_api::{Tensor, ndarray::array};
///
/// let ids = Tensor::I64(array![[101, 7592, 102], [101, 2088, 102]].into_dyn());
/// assert_eq!(ids.shape(), [2, 3]);
/// assert_eq!(ids.samples(1, 2), Tensor::I64(array![[101, 2088, 102]].into_dyn()));
/// ```
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
///
/// ```
/// use calabi_api::{Samples, Tensor, ndarray::array};
///
/// let ids = Tensor::I64(array![[101, 7592, 102], [101, 102, 0]].into_dyn());
/// let mask = Tensor::I64(array![[1, 1, 1], [1, 1, 0]].into_dyn());
/// let samples = Samples { inputs: vec![("ids".to_owned(), ids), ("mask".to_owned(), mask)] };
/// assert_eq!(samples.count(), 2);
///
/// let last = samples.some(1, 2);
/// assert_eq!(last.inputs[1].1, Tensor::I64(array![[1, 1, 0]].into_dyn()));
/// ```
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
///
/// ```
/// use calabi_api::{InputSpec, RunError, Tensor};
///
/// fn check(spec: &InputSpec, tensor: &Tensor) -> Result<(), RunError> {
///     if spec.dims.len() == tensor.shape().len() {
///         return Ok(());
///     }
///     let problem = format!("the samples have the shape {:?}", tensor.shape());
///     let InputSpec { name, dtype, dims } = spec.clone();
///     Err(RunError::Input { name, dtype, dims: format!("[{}]", dims.join(", ")), problem })
/// }
///
/// let dims = vec!["batch".to_owned(), "128".to_owned()];
/// let spec = InputSpec { name: "ids".to_owned(), dtype: "i64".to_owned(), dims };
/// let error = check(&spec, &Tensor::I64(calabi_api::ndarray::ArrayD::zeros(vec![128]))).unwrap_err();
/// assert_eq!(error.to_string(), "input ids of the model (i64, [batch, 128]): the samples have the shape [128]");
/// ```
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
