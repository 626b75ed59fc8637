//! The contract of model formats: where weights are, and how factors take their place.

mod error;
mod layer;
mod window;

use std::fmt::Debug;
use std::path::{Path, PathBuf};

use ndarray::{Array2, ArrayD};

pub use error::{FormatError, Name};
pub use layer::{Layer, LeftAlone, Normalisation, Replacement, Role, Totals, Wiring, WriteOptions, Written};
pub use window::{Padding, Window, WindowAxis};

use crate::{Factors, LayerCost};

/// A kind of model file.
///
/// ```
/// use std::{fs, path::Path};
///
/// use calabi_api::{FormatError, LayerFormat, LayerSource};
///
/// /// Files `NAME.toy`, which begin with `TOY1`.
/// #[derive(Debug)]
/// struct Toy;
///
/// impl LayerFormat for Toy {
///     fn detect(&self, path: &Path) -> bool {
///         path.extension().is_some_and(|extension| extension == "toy")
///     }
///
///     fn open(&self, path: &Path) -> Result<Box<dyn LayerSource>, FormatError> {
///         let bytes = fs::read(path).map_err(|error| FormatError::io("read", path, error))?;
///         let header = bytes.strip_prefix(b"TOY1").ok_or_else(|| FormatError::malformed(path, "it has no header"))?;
///         source(path, header) // names, shapes and types
///     }
/// }
/// # fn source(path: &Path, _: &[u8]) -> Result<Box<dyn LayerSource>, FormatError> {
/// #     Err(FormatError::malformed(path, "it holds no weights"))
/// # }
///
/// assert!(Toy.detect(Path::new("model.toy")) && !Toy.detect(Path::new("model.onnx")));
/// assert!(matches!(Toy.open(Path::new("missing.toy")), Err(FormatError::Io { action: "read", .. })));
/// ```
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
///
/// ```
/// # use std::path::Path;
/// # use calabi_api::ndarray::{Array2, array};
/// # use calabi_api::{DType, Layer, LayerCost, LayerSink, LeftAlone, Replacement, Role, Shape, Totals, Wiring};
/// use calabi_api::{FormatError, LayerSource, WriteOptions};
///
/// /// One weight, kept in memory.
/// #[derive(Debug)]
/// struct Memory(Layer, Array2<f32>);
///
/// impl LayerSource for Memory {
///     fn layers(&self) -> &[Layer] {
///         std::slice::from_ref(&self.0)
///     }
///
///     fn left_alone(&self) -> &[LeftAlone] {
///         &[]
///     }
///
///     fn totals(&self) -> Totals {
///         Totals { format: "memory", cost: self.0.cost.dense, files: Vec::new() }
///     }
///
///     fn read(&self, layer: &Layer) -> Result<Array2<f32>, FormatError> {
///         FormatError::check_finite(Path::new("memory"), &layer.wiring.weight, &self.1)?;
///         Ok(self.1.clone())
///     }
///
///     fn create(&self, _: &Path, _: &[Replacement], _: &WriteOptions) -> Result<Box<dyn LayerSink>, FormatError> {
///         Err(FormatError::limit("a model in memory is not written", "save it to a file first"))
///     }
/// }
///
/// # let shape = Shape::new(1, 2).ok_or("empty")?;
/// # let (cost, wiring) = (LayerCost::new(shape, DType::F32, DType::F32), Wiring::default());
/// # let name = "fc".to_owned();
/// # let layer = Layer { name, shape, dtype: DType::F32, role: Role::Linear, cost, wiring, bias: false, key: 0 };
/// let source = Memory(layer, array![[3.0, 4.0]]);
/// let layer = &source.layers()[0];
/// assert_eq!(Shape::of(source.read(layer)?.view()), Some(layer.shape));
/// assert_eq!(source.totals().cost.parameters, layer.shape.entries());
/// assert!(source.left_alone().is_empty() && source.normalisation(layer)?.is_none());
///
/// let (path, options) = (Path::new("out"), WriteOptions::default());
/// assert!(source.side_files(path).is_empty());
/// assert!(source.create(path, &[], &options).is_err() && source.densify(path, &options).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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

    /// What a layer costs where its model is written so.
    fn cost(&self, layer: &Layer, _options: &WriteOptions) -> LayerCost {
        layer.cost
    }

    /// A layer's factors as they are read back from a model that is written so.
    fn rounded(&self, layer: &Layer, factors: Factors, _options: &WriteOptions) -> Factors {
        factors.rounded(layer.dtype)
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
///
/// ```
/// # use calabi_api::ndarray::{Array2, ArrayD};
/// # use calabi_api::{DType, LayerCost, Rank, Role, Shape, Wiring};
/// use calabi_api::{Cost, Factors, FormatError, Layer, LayerSink, Written};
///
/// /// Writes nothing, and counts what it would write.
/// #[derive(Default)]
/// struct Counting(Cost);
///
/// impl LayerSink for Counting {
///     fn write(&mut self, layer: &Layer, factors: &Factors) -> Result<(), FormatError> {
///         let Factors { left, right, .. } = factors.clone().rounded(layer.dtype);
///         if left.iter().chain(&right).any(|value| !value.is_finite()) {
///             return Err(FormatError::overflow(layer));
///         }
///         self.0 += Cost::of((left.len() + right.len()) as u64, layer.dtype);
///         Ok(())
///     }
///
///     fn finish(self: Box<Self>) -> Result<Written, FormatError> {
///         Ok(Written { cost: self.0, paths: Vec::new() })
///     }
/// }
///
/// # let shape = Shape::new(8, 4).ok_or("empty")?;
/// # let (cost, wiring) = (LayerCost::new(shape, DType::F16, DType::F16), Wiring::default());
/// # let name = "fc".to_owned();
/// # let layer = Layer { name, shape, dtype: DType::F16, role: Role::Linear, cost, wiring, bias: false, key: 0 };
/// let mut sink: Box<dyn LayerSink> = Box::<Counting>::default();
/// sink.write(&layer, &Factors { left: Array2::ones((8, 1)), right: Array2::ones((1, 4)), bias: None })?;
/// assert!(sink.amend("norm.weight", &ArrayD::ones(vec![4])).is_err()); // unless the format can
/// assert_eq!(sink.finish()?.cost, layer.cost.at(Rank::ONE));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
