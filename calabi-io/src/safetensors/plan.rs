//! What the output will hold: its files, and the tensors of each in their order.

use std::collections::{BTreeMap, HashMap};

use calabi_api::{FormatError, Name, Replacement};

use super::bias_keys::BiasKey;
use super::densify::Pair;
use super::dtype::Stored;
use super::encode::{self, Described};
use super::folder;
use super::header::Entry;
use super::roles;
use super::source::Model;
use super::weights::{Shard, TensorAt};

/// A file that will be written.
#[derive(Debug)]
pub(super) struct FilePlan {
    pub(super) name: String,
    pub(super) metadata: Option<Vec<(String, String)>>,
    pub(super) pieces: Vec<Piece>,
}

/// A tensor that will be written.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) name: String,
    pub(super) dtype: &'static Stored,
    pub(super) dims: Vec<u64>,
    /// Bytes.
    pub(super) length: u64,
    pub(super) content: Content,
}

/// Where a tensor's bytes come from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Content {
    /// The input.
    Copy(TensorAt),
    /// The factors of the layer with this key.
    Factor(usize, Part),
    /// The product of the factors of the pair at this index.
    Product(usize),
    /// Nothing but zeros.
    Zeros,
    /// Other values, which are written already.
    Amended,
}

/// A part of a factorized layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Right,
    Left,
    Bias,
}

impl Part {
    /// The name of its tensor.
    pub(super) fn of(self, layer: &str) -> String {
        let part = match self {
            Self::Right => "right.weight",
            Self::Left => "left.weight",
            Self::Bias => "left.bias",
        };
        format!("{layer}.{part}")
    }
}

impl Piece {
    pub(super) fn described(&self) -> Described<'_> {
        Described { name: &self.name, dtype: self.dtype, dims: &self.dims, length: self.length }
    }

    fn copied(at: TensorAt, entry: &Entry, name: String) -> Self {
        let (dims, length) = (entry.dims.clone(), entry.length);
        Self { name, dtype: entry.dtype, dims, length, content: Content::Copy(at) }
    }

    fn factor(replacement: &Replacement<'_>, part: Part) -> Self {
        let Replacement { layer, rank, .. } = replacement;
        let (m, n, r) = (layer.shape.rows() as u64, layer.shape.cols() as u64, rank.get() as u64);
        let dims = match part {
            Part::Right => vec![r, n],
            Part::Left => vec![m, r],
            Part::Bias => vec![m],
        };
        let length = dims.iter().product::<u64>() * layer.dtype.bytes();
        let content = Content::Factor(layer.key, part);
        Self { name: part.of(&layer.name), dtype: Stored::of(layer.dtype), dims, length, content }
    }

    fn product(index: usize, pair: &Pair) -> Self {
        let (dims, dtype) = (pair.dims(), Stored::of(pair.dtype));
        let length = pair.outputs * pair.inputs * pair.dtype.bytes();
        Self { name: format!("{}.weight", pair.layer), dtype, dims, length, content: Content::Product(index) }
    }

    /// A bias that adds nothing, stored as its weight is: outputs by inputs.
    fn zero_bias(layer: &str, weight: &Self) -> Self {
        let dims: Vec<u64> = weight.dims.iter().take(1).copied().collect();
        let inputs = weight.dims.iter().skip(1).product::<u64>().max(1);
        Self {
            name: roles::bias_of(layer),
            dtype: weight.dtype,
            length: weight.length / inputs,
            dims,
            content: Content::Zeros,
        }
    }

    /// The bias of a factorized layer in the place of its own, and stored alike.
    fn sum(replacement: &Replacement<'_>, own: &Entry) -> Self {
        let Replacement { layer, .. } = replacement;
        let content = Content::Factor(layer.key, Part::Bias);
        let (dims, length) = (own.dims.clone(), own.length);
        Self { name: Part::Bias.of(&layer.name), dtype: own.dtype, dims, length, content }
    }
}

/// Plans the files of the output.
///
/// Every file keeps the order of its tensors, with factors in the place of their weight and a bias under its new name. A
/// bias that a layer did not have stands behind its factors.
pub(super) fn plan(
    model: &Model,
    replaced: &[Replacement<'_>],
    shard_size: Option<u64>,
) -> Result<Vec<FilePlan>, FormatError> {
    let changes = changes(replaced);
    files(model, shard_size, |index, shard| pieces(index, shard, &changes))
}

/// Plans the files of the output of densifying: the weight stands in the place of its left factor. A layer without a bias
/// that one of the keys gives a bias gets one of zeros.
pub(super) fn dense(
    model: &Model,
    pairs: &[Pair],
    keys: &[&BiasKey],
    shard_size: Option<u64>,
) -> Result<Vec<FilePlan>, FormatError> {
    let changes = multiplied(pairs);
    let tensors = model.weights.by_name();
    let has_bias =
        |layer: &str| [roles::bias_of(layer), Part::Bias.of(layer)].iter().any(|b| tensors.contains_key(b.as_str()));
    let zeros = |weight: &Piece| {
        let layer = weight.name.strip_suffix(".weight")?;
        (keys.iter().any(|key| key.covers(layer)) && !has_bias(layer)).then(|| Piece::zero_bias(layer, weight))
    };
    files(model, shard_size, |shard, file| {
        let tensors = file.header.tensors.iter().enumerate();
        let kept = tensors.filter_map(|(tensor, entry)| -> Option<Piece> {
            let at = TensorAt { shard, tensor };
            match changes.get(&entry.name) {
                None => Some(Piece::copied(at, entry, entry.name.clone())),
                Some(Multiplied::Renamed(name)) => Some(Piece::copied(at, entry, name.clone())),
                Some(&Multiplied::Product(index, pair)) => Some(Piece::product(index, pair)),
                Some(Multiplied::Dropped) => None,
            }
        });
        kept.flat_map(|piece| [zeros(&piece), Some(piece)].into_iter().flatten().rev()).collect()
    })
}

/// What becomes of a tensor of a factorized layer that is made dense.
enum Multiplied<'a> {
    Product(usize, &'a Pair),
    Dropped,
    Renamed(String),
}

/// The changes of densifying by the names of tensors.
fn multiplied(pairs: &[Pair]) -> HashMap<String, Multiplied<'_>> {
    let mut changes = HashMap::new();
    for (index, pair) in pairs.iter().enumerate() {
        changes.insert(Part::Left.of(&pair.layer), Multiplied::Product(index, pair));
        changes.insert(Part::Right.of(&pair.layer), Multiplied::Dropped);
        changes.insert(Part::Bias.of(&pair.layer), Multiplied::Renamed(roles::bias_of(&pair.layer)));
    }
    changes
}

/// The files of the input with other pieces, or as many as a shard's size asks for.
fn files(
    model: &Model,
    shard_size: Option<u64>,
    pieces: impl Fn(usize, &Shard) -> Vec<Piece>,
) -> Result<Vec<FilePlan>, FormatError> {
    let shards = model.weights.shards.iter().enumerate();
    let kept = shards.map(|(index, shard)| FilePlan {
        name: shard.name.clone(),
        metadata: shard.header.metadata.clone(),
        pieces: pieces(index, shard),
    });
    match shard_size {
        None => Ok(kept.collect()),
        Some(limit) => distribute(model, kept.collect(), limit),
    }
}

/// What becomes of a tensor that is not copied as it is.
enum Change<'a> {
    Factors(&'a Replacement<'a>),
    Renamed(String),
    Added(&'a Replacement<'a>),
}

/// The changes by the names of tensors.
fn changes<'a>(replaced: &'a [Replacement<'a>]) -> HashMap<String, Change<'a>> {
    let mut changes = HashMap::new();
    for replacement in replaced {
        let name = &replacement.layer.name;
        let bias = if replacement.bias { Change::Added(replacement) } else { Change::Renamed(Part::Bias.of(name)) };
        changes.insert(format!("{name}.weight"), Change::Factors(replacement));
        changes.insert(roles::bias_of(name), bias);
    }
    changes
}

fn pieces(shard: usize, file: &Shard, changes: &HashMap<String, Change<'_>>) -> Vec<Piece> {
    let mut pieces = Vec::with_capacity(file.header.tensors.len());
    for (tensor, entry) in file.header.tensors.iter().enumerate() {
        let at = TensorAt { shard, tensor };
        match changes.get(&entry.name) {
            None => pieces.push(Piece::copied(at, entry, entry.name.clone())),
            Some(Change::Renamed(name)) => pieces.push(Piece::copied(at, entry, name.clone())),
            Some(Change::Added(replacement)) => pieces.push(Piece::sum(replacement, entry)),
            Some(Change::Factors(replacement)) => {
                let new_bias = replacement.bias && !replacement.layer.bias;
                let parts = [Part::Right, Part::Left].into_iter().chain(new_bias.then_some(Part::Bias));
                pieces.extend(parts.map(|part| Piece::factor(replacement, part)));
            }
        }
    }
    pieces
}

/// Deals the tensors out to files of at most `limit` bytes, in their order; a larger tensor has a file of its own.
fn distribute(model: &Model, kept: Vec<FilePlan>, limit: u64) -> Result<Vec<FilePlan>, FormatError> {
    let metadata = common_metadata(model)?;
    let empty = encode::size_bound(metadata.as_deref());
    let mut files: Vec<Vec<Piece>> = Vec::new();
    let mut size = 0;
    for piece in kept.into_iter().flat_map(|file| file.pieces) {
        let added = encode::member_bound(&piece.described()) + piece.length;
        match files.last_mut() {
            Some(file) if size + added <= limit => file.push(piece),
            _ => {
                files.push(vec![piece]);
                size = empty;
            }
        }
        size += added;
    }
    let count = files.len();
    let name = |index| match count {
        1 => model
            .weights
            .shards
            .first()
            .filter(|_| model.folder.is_none())
            .map_or(folder::SINGLE.into(), |s| s.name.clone()),
        _ => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
    };
    let plan = |(index, pieces)| FilePlan { name: name(index), metadata: metadata.clone(), pieces };
    Ok(files.into_iter().enumerate().map(plan).collect())
}

/// The free text of all files, which must not contradict each other where tensors change files.
fn common_metadata(model: &Model) -> Result<Option<Vec<(String, String)>>, FormatError> {
    let mut seen = BTreeMap::new();
    let mut common: Option<Vec<(String, String)>> = None;
    for shard in &model.weights.shards {
        let Some(pairs) = &shard.header.metadata else { continue };
        let common = common.get_or_insert_default();
        for (key, text) in pairs {
            match seen.insert(key, text) {
                None => common.push((key.clone(), text.clone())),
                Some(former) if former == text => {}
                Some(_) => return Err(contradiction(shard, key)),
            }
        }
    }
    Ok(common)
}

fn contradiction(shard: &Shard, key: &str) -> FormatError {
    let problem = format!("its __metadata__ contradicts another shard's on {}", Name::new(key));
    FormatError::malformed(shard.file.path(), problem).with_help("keep the shards as they are: set no shard size")
}
