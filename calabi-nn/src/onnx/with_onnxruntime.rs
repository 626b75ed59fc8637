//! Graphs that onnxruntime runs, for operators that rten lacks: its shared library is loaded when it is first needed.

use std::path::Path;
use std::sync::OnceLock;

use ort::environment::Environment;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{OutputSelector, RunOptions, Session, SessionInputValue};
use ort::value::{DynValue, Tensor, TensorElementType, ValueType};
use rten::{DataType, Dimension, Value};
use rten_tensor::{AsView, Layout};

use super::graph::Graph;
use crate::guard::guarded;
use crate::inputs::Input;
use crate::text::shown;

/// The variable that names the shared library, as onnxruntime's other users call it.
const LIBRARY: &str = "ORT_DYLIB_PATH";
/// The library where the variable says nothing: the system's.
const SYSTEM: &str = "libonnxruntime.so";
/// The setting that names the folder of external data.
const FOLDER: &str = "session.model_external_initializers_file_folder_path";

/// A model in onnxruntime's memory.
pub(super) struct OrtGraph {
    session: Session,
    /// What it gives without the values that are watched.
    outputs: Vec<String>,
}

impl OrtGraph {
    /// Loads a model from memory whose external data is in `folder`. All of its outputs but the first `outputs` are
    /// watched values; `optimized`: inner values may be merged and dropped.
    pub(super) fn of_bytes(
        bytes: &[u8],
        folder: &Path,
        outputs: Option<usize>,
        optimized: bool,
    ) -> Result<Self, String> {
        let level = if optimized { GraphOptimizationLevel::All } else { GraphOptimizationLevel::Disable };
        let folder = folder.to_str().ok_or("its folder's name is not UTF-8")?;
        let load = || -> Result<Session, String> {
            let builder = Session::builder(environment()?).map_err(said)?;
            let builder = builder.with_optimization_level(level).map_err(said)?;
            let builder = builder.with_intra_threads(rayon::current_num_threads()).map_err(said)?;
            let mut builder: SessionBuilder = builder.with_config_entry(FOLDER, folder).map_err(said)?;
            builder.commit_from_memory(bytes).map_err(said)
        };
        let session = guarded(load)??;
        let names = session.outputs().iter().map(|output| output.name().to_owned());
        let outputs = names.take(outputs.unwrap_or(usize::MAX)).collect();
        Ok(Self { session, outputs })
    }
}

impl Graph for OrtGraph {
    fn inputs(&self) -> Vec<Input> {
        let of = |outlet: &ort::value::Outlet| {
            let (dtype, dims) = match outlet.dtype() {
                ValueType::Tensor { ty, shape, dimension_symbols } => {
                    let dims = shape.iter().zip(dimension_symbols.iter());
                    (data_type(*ty), Some(dims.map(|(&size, name)| dimension(size, name)).collect()))
                }
                _ => (None, None),
            };
            Input::new(outlet.name().to_owned(), dtype, dims)
        };
        self.session.inputs().iter().map(of).collect()
    }

    fn outputs(&self) -> Vec<String> {
        self.outputs.clone()
    }

    fn run(&mut self, inputs: Vec<Value>, names: &[&str]) -> Result<Vec<Value>, String> {
        let outlets = self.session.inputs();
        // A layer may read an input of the model itself, which is no output of it.
        let given: Vec<Option<Value>> = names
            .iter()
            .map(|name| outlets.iter().position(|outlet| outlet.name() == *name).and_then(|i| inputs.get(i).cloned()))
            .collect();
        if given.iter().all(Option::is_some) {
            return Ok(given.into_iter().flatten().collect());
        }
        let fed = outlets.iter().zip(inputs).map(|(outlet, value)| {
            let name = outlet.name().to_owned();
            Ok((name.clone(), fed(&name, outlet.dtype(), value)?))
        });
        let fed: Vec<(String, SessionInputValue<'_>)> = fed.collect::<Result<_, String>>()?;
        let computed = names.iter().zip(&given).filter(|(_, given)| given.is_none()).map(|(name, _)| *name);
        let selector = computed.fold(OutputSelector::no_default(), OutputSelector::with);
        let options = RunOptions::new().map_err(said)?.with_outputs(selector);
        let outputs = guarded(|| self.session.run_with_options(fed, &options))?.map_err(said)?;
        let value = |(name, given): (&&str, Option<Value>)| match given {
            Some(value) => Ok(value),
            None => outputs.get(*name).ok_or_else(|| format!("the model has no value {}", shown(name))).and_then(taken),
        };
        names.iter().zip(given).map(value).collect()
    }
}

/// The library, loaded once.
fn environment() -> Result<&'static Environment, String> {
    static LOADED: OnceLock<Result<Environment, String>> = OnceLock::new();
    let load = || {
        let path = std::env::var_os(LIBRARY).filter(|path| !path.is_empty()).unwrap_or_else(|| SYSTEM.into());
        let refused = |problem: String| format!("onnxruntime's library {} ({LIBRARY}): {problem}", path.display());
        let library =
            guarded(|| ort::init_from(&path)).map_err(refused)?.map_err(|error| refused(error.to_string()))?;
        library.build().map_err(|error| refused(error.to_string()))
    };
    LOADED.get_or_init(load).as_ref().map_err(Clone::clone)
}

/// A value of the type that the model declares.
fn fed(name: &str, wanted: &ValueType, value: Value) -> Result<SessionInputValue<'static>, String> {
    let shape: Vec<usize> = value.shape().to_vec();
    let ty = match wanted {
        ValueType::Tensor { ty, .. } => *ty,
        _ => return Err(format!("input {} is no tensor", shown(name))),
    };
    let made = match (value, ty) {
        (Value::FloatTensor(values), TensorElementType::Float32) => tensor(shape, values.to_vec()),
        (Value::FloatTensor(values), TensorElementType::Float64) => {
            tensor(shape, values.iter().map(|&value| f64::from(value)).collect())
        }
        (Value::Int32Tensor(values), TensorElementType::Int64) => {
            tensor(shape, values.iter().map(|&value| i64::from(value)).collect())
        }
        (Value::Int32Tensor(values), TensorElementType::Int32) => tensor(shape, values.to_vec()),
        (Value::Int32Tensor(values), TensorElementType::Bool) => {
            tensor(shape, values.iter().map(|&value| value != 0).collect())
        }
        (Value::Int8Tensor(values), TensorElementType::Int8) => tensor(shape, values.to_vec()),
        (Value::UInt8Tensor(values), TensorElementType::Uint8) => tensor(shape, values.to_vec()),
        (_, ty) => return Err(format!("input {} of {ty}: values of this type are not made", shown(name))),
    };
    made.map(SessionInputValue::from)
}

fn tensor<T: ort::value::PrimitiveTensorElementType + std::fmt::Debug + Clone + 'static>(
    shape: Vec<usize>,
    values: Vec<T>,
) -> Result<DynValue, String> {
    Tensor::from_array((shape, values)).map(Tensor::into_dyn).map_err(said)
}

/// What onnxruntime gives, as other code here takes it.
fn taken(value: &DynValue) -> Result<Value, String> {
    #[allow(clippy::cast_possible_truncation)] // outputs are compared as f32
    let (shape, values) = match value.dtype() {
        ValueType::Tensor { ty: TensorElementType::Float32, .. } => {
            let (shape, values) = value.try_extract_tensor::<f32>().map_err(said)?;
            (shape, values.to_vec())
        }
        ValueType::Tensor { ty: TensorElementType::Float64, .. } => {
            let (shape, values) = value.try_extract_tensor::<f64>().map_err(said)?;
            (shape, values.iter().map(|&value| value as f32).collect())
        }
        ValueType::Tensor { ty: TensorElementType::Int64, .. } => {
            let (shape, values) = value.try_extract_tensor::<i64>().map_err(said)?;
            (shape, values.iter().map(|&value| value as f32).collect())
        }
        ValueType::Tensor { ty: TensorElementType::Int32, .. } => {
            let (shape, values) = value.try_extract_tensor::<i32>().map_err(said)?;
            (shape, values.iter().map(|&value| value as f32).collect())
        }
        ValueType::Tensor { ty: TensorElementType::Bool, .. } => {
            let (shape, values) = value.try_extract_tensor::<bool>().map_err(said)?;
            (shape, values.iter().map(|&value| f32::from(u8::from(value))).collect())
        }
        other => return Err(format!("it gives a {other}, which is not compared")),
    };
    let shape = shape.iter().map(|&size| usize::try_from(size)).collect::<Result<Vec<_>, _>>();
    let shape = shape.map_err(|_| "a value of negative size".to_owned())?;
    Value::from_shape(shape, values).map_err(|error| error.to_string())
}

/// The type that samples are made as: `int64` and `bool` as `int32`, `double` as `float`.
fn data_type(ty: TensorElementType) -> Option<DataType> {
    match ty {
        TensorElementType::Float32 | TensorElementType::Float64 => Some(DataType::Float),
        TensorElementType::Int64 | TensorElementType::Int32 | TensorElementType::Bool => Some(DataType::Int32),
        TensorElementType::Int8 => Some(DataType::Int8),
        TensorElementType::Uint8 => Some(DataType::UInt8),
        _ => None,
    }
}

fn dimension(size: i64, name: &str) -> Dimension {
    match usize::try_from(size) {
        Ok(size) => Dimension::Fixed(size),
        Err(_) => Dimension::Symbolic(if name.is_empty() { "?".to_owned() } else { name.to_owned() }),
    }
}

#[allow(clippy::needless_pass_by_value)]
fn said<T>(error: ort::Error<T>) -> String {
    error.to_string()
}
