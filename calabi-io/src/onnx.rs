//! ONNX: a rewrite of the wire format, in which all that is not touched is copied byte for byte.
//!
//! # Design
//!
//! A model file is scanned once by positioned reads ([`scan`]) into its [`structure`]: graphs, nodes, tensors without
//! their data, and where each message stands. [`layers`] finds the weights that can be factorized and says of every
//! other why it cannot. A rewritten model is a set of edits ([`splice`]) on the original bytes: no message that is kept
//! is ever encoded again, because an encoder drops the fields that it does not know.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use calabi_api::{
    Cost, DType, Factors, FormatError, Layer, LayerCost, LayerFormat, LayerSink, LayerSource, LeftAlone, Name,
    Normalisation, Plugin, Replacement, Totals, WriteOptions, schemars, serde,
};
use ndarray::{Array1, Array2, Axis};

use crate::file::Input;
use layers::Found;
use norms::Norm;
use reads::Kind;
use rewrite::Target;
use sink::Sink;
use sites::Site;
use structure::{Structure, TensorId};

mod bias;
mod constants;
mod einsum;
mod element;
mod external;
mod fields;
mod integers;
mod layers;
mod names;
mod norms;
mod operators;
mod order;
mod reads;
mod rewrite;
mod scales;
mod scan;
mod schema;
mod separable;
mod sink;
mod sites;
mod splice;
mod store;
mod stores;
mod structure;
mod uses;
mod values;
mod views;
mod windows;
mod wire;

/// ONNX models: a file, with or without external data beside it.
///
/// Layers are the constant weights of `MatMul`, `Gemm`, onnxruntime's `FusedMatMul`, `Einsum` with a matrix, `Conv` and
/// `ConvTranspose` in one group, and `Gather` along rows (an embedding), in f64, f32, f16 or bf16, or in integers that are
/// dequantised. Each becomes two nodes; its name is its node's, else its weight's, else its node's first output's. A weight
/// is an initializer or a `Constant`, of the graph, a subgraph or a function, or comes from one through `Identity`,
/// `Transpose`, `Reshape`, `Cast` and `DequantizeLinear`. All nodes that read it read its factors, or none does.
///
/// A convolution is a matrix of outputs by inputs and places of the kernel: a convolution to as many channels as its rank,
/// with the original's attributes, then one over single places. Over two axes it may cost less, at full rank, as one along
/// the last axis and one along the first: then it is a matrix of outputs and rows by inputs and columns of the kernel.
///
/// A bias that factors bring is added to the values of the layer's own where nothing else reads them: those of a Gemm's
/// or a convolution's third input, or of an `Add` behind a `MatMul`. Else these two get a third input of their own, unless
/// theirs is computed, and any other layer an `Add` behind it.
#[derive(Debug, Clone, Default, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Onnx {}

calabi_api::submit! { Plugin::format::<Onnx>("onnx", "ONNX models, with or without external data") }

impl LayerFormat for Onnx {
    fn detect(&self, path: &Path) -> bool {
        let extension = path.extension().unwrap_or_default();
        path.is_file() && (extension.eq_ignore_ascii_case("onnx") || looks_like_model(path))
    }

    fn open(&self, path: &Path) -> Result<Box<dyn LayerSource>, FormatError> {
        let input = Input::open(path)?;
        let mut structure = scan::scan(&input)?;
        order::check(&input, &structure)?;
        let files = external::resolve(&input, &mut structure)?;
        let model = Model { input, structure, files };
        let found = layers::find(&model);
        Ok(Box::new(Source { model: Arc::new(model), found }))
    }
}

/// Whether a file begins with an IR version and the producer's name, the graph or the like, as models do.
fn looks_like_model(path: &Path) -> bool {
    let mut start = [0; 3];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut start));
    read.is_ok() && matches!(start, [0x08, 1..=0x7f, 0x12 | 0x1a | 0x22 | 0x28 | 0x32 | 0x3a | 0x42 | 0x72])
}

/// A scanned model and its files.
#[derive(Debug)]
struct Model {
    input: Input,
    structure: Structure,
    /// The files of its external data.
    files: Vec<Input>,
}

impl Model {
    /// The elements of a floating-point tensor; an error where one is not finite.
    fn vector(&self, id: TensorId, dtype: DType) -> Result<Array1<f32>, FormatError> {
        let tensor = self.structure.tensor(id);
        let vector = Array1::from_vec(values::read(self, tensor, dtype)?);
        let shown = vector.view().insert_axis(Axis(0)).to_owned();
        FormatError::check_finite(self.input.path(), self.structure.text(tensor.name), &shown)?;
        Ok(vector)
    }
}

/// An open model.
#[derive(Debug)]
struct Source {
    model: Arc<Model>,
    found: Found,
}

impl Source {
    fn site(&self, layer: &Layer) -> Result<&Site, FormatError> {
        let known = self.found.layers.get(layer.key).is_some_and(|known| known.name == layer.name);
        let site = self.found.sites.get(layer.key).filter(|_| known);
        site.ok_or_else(|| FormatError::Misuse(format!("layer {} is not of this model", Name::new(&layer.name))))
    }

    /// Whether a layer's factors are stored as integers where the user asks for it.
    fn is_requantised(&self, layer: &Layer, options: &WriteOptions) -> bool {
        options.requantise && self.site(layer).is_ok_and(|site| site.scales.is_some())
    }

    fn targets<'a>(
        &'a self,
        replaced: &[Replacement<'a>],
        options: &WriteOptions,
    ) -> Result<Vec<Target<'a>>, FormatError> {
        let mut targets = Vec::new();
        for replacement in replaced {
            let (layer, rank) = (replacement.layer, replacement.rank);
            let misuse = |problem: &str| FormatError::Misuse(format!("layer {}: {problem}", Name::new(&layer.name)));
            if rank > layer.shape.full_rank() {
                return Err(misuse("its rank is larger than the weight can have"));
            }
            if targets.iter().any(|target: &Target<'_>| target.layer.key == layer.key) {
                return Err(misuse("it is replaced twice"));
            }
            let bias = self.found.biases.get(layer.key).copied().flatten().filter(|_| replacement.bias);
            if replacement.bias && bias.is_none() {
                let problem = format!("layer {}: a bias cannot be added to it", Name::new(&layer.name));
                return Err(FormatError::limit(problem, "factorize it without a bias"));
            }
            let site = self.site(layer)?;
            let integers = self.is_requantised(layer, options).then(|| site.integer_axes(&self.model.structure));
            let integers = integers.transpose().map_err(|why| {
                let problem = format!("layer {}: its factors cannot be integers: {why}", Name::new(&layer.name));
                FormatError::limit(problem, "exclude it, or leave requantise out")
            })?;
            targets.push(Target { layer, site, rank, bias, integers });
        }
        Ok(targets)
    }

    /// The parameters of the model once these layers are factorized.
    fn parameters(&self, targets: &[Target<'_>]) -> u64 {
        let removed: u64 = targets.iter().map(|target| target.layer.shape.entries()).sum();
        let added: u64 = targets.iter().map(Target::parameters).sum();
        self.totals().cost.parameters.saturating_sub(removed).saturating_add(added)
    }
}

impl LayerSource for Source {
    fn layers(&self) -> &[Layer] {
        &self.found.layers
    }

    fn left_alone(&self) -> &[LeftAlone] {
        &self.found.left_alone
    }

    fn totals(&self) -> Totals {
        let files: Vec<_> = std::iter::once(&self.model.input).chain(&self.model.files).collect();
        let parameters = self.model.structure.tensors.iter().fold(0_u64, |sum, t| sum.saturating_add(t.elements));
        let bytes = files.iter().map(|file| file.len()).sum();
        let files = files.iter().map(|file| file.path().to_owned()).collect();
        Totals { format: "onnx", cost: Cost { parameters, bytes }, files }
    }

    fn read(&self, layer: &Layer) -> Result<Array2<f32>, FormatError> {
        let site = self.site(layer)?;
        let tensor = self.model.structure.tensor(site.tensor);
        let mut values = values::numbers(&self.model, tensor)?;
        if let Some(scales) = &site.scales {
            scales.apply(&self.model, &mut values)?;
        }
        if let Kind::SeparableConv(axes) = &site.primary().kind {
            values = axes.as_matrix(&values);
        }
        let weight =
            Array2::from_shape_vec(site.stored, values).map_err(|error| FormatError::Misuse(error.to_string()))?;
        let weight = if site.transposed { weight.t().as_standard_layout().into_owned() } else { weight };
        FormatError::check_finite(self.model.input.path(), self.model.structure.text(tensor.name), &weight)?;
        Ok(weight)
    }

    fn cost(&self, layer: &Layer, options: &WriteOptions) -> LayerCost {
        if self.is_requantised(layer, options) {
            return layer.cost.as_integers(layer.shape.rows(), layer.dtype);
        }
        layer.cost
    }

    fn rounded(&self, layer: &Layer, factors: Factors, options: &WriteOptions) -> Factors {
        if self.is_requantised(layer, options) {
            return factors.as_integers(layer.dtype);
        }
        factors.rounded(layer.dtype)
    }

    fn normalisation(&self, layer: &Layer) -> Result<Option<Normalisation>, FormatError> {
        self.site(layer)?;
        let structure = &self.model.structure;
        let input = layer.wiring.input.as_deref().and_then(|input| structure.names.find(input));
        let graph = structure.graph(structure.main);
        let input = input.filter(|_| layer.wiring.window.is_none());
        let norm = input.and_then(|input| norms::before(structure, graph, input, layer.shape.cols()));
        let read = |id| match structure.tensor(id).element.dtype() {
            Some(dtype) => self.model.vector(id, dtype),
            None => Err(FormatError::Misuse("a normalisation's tensor is no float".to_owned())),
        };
        norm.map(|Norm { gamma, beta }| Ok(Normalisation { gamma: read(gamma)?, beta: beta.map(read).transpose()? }))
            .transpose()
    }

    fn side_files(&self, path: &Path) -> Vec<PathBuf> {
        // Factors at full rank take more room than their weight.
        let stored = !self.model.files.is_empty() || self.model.input.len() > rewrite::LIMIT / 4;
        let name = path.file_name().and_then(|name| name.to_str()).filter(|_| stored);
        name.map(|name| vec![path.with_file_name(store::data_file(name))]).unwrap_or_default()
    }

    fn create(
        &self,
        path: &Path,
        replaced: &[Replacement<'_>],
        options: &WriteOptions,
    ) -> Result<Box<dyn LayerSink>, FormatError> {
        let targets = self.targets(replaced, options)?;
        let name = path.file_name().and_then(|name| name.to_str());
        let misnamed = || FormatError::Misuse(format!("{}: the output's name is not UTF-8", path.display()));
        let plan = rewrite::plan(&self.model, &targets, name.ok_or_else(misnamed)?, rewrite::LIMIT)?;
        let declared: Vec<_> = targets.iter().map(|target| (target.layer, target.rank.get())).collect();
        let sink = Sink::new(self.model.clone(), plan, path, &declared, self.parameters(&targets))?;
        Ok(Box::new(sink))
    }
}
