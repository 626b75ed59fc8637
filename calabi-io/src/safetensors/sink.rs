//! A model that is being written: factors as they come, all else when it is finished.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use calabi_api::ndarray::ArrayD;
use calabi_api::{Cost, Factors, FormatError, Layer, LayerSink, Name, Replacement, WriteOptions, Written};

use super::config::{self, Replaced};
use super::densify::Pair;
use super::factor::{self, Matrix};
use super::index::{self, WeightMap};
use super::plan::{self, Content, FilePlan, Part, Piece};
use super::source::{Folder, Model};
use super::{encode, folder, loader};
use crate::file::{Input, Output};

mod amend;

/// A model that is being written.
pub(super) struct Sink {
    model: Arc<Model>,
    path: PathBuf,
    files: Vec<OpenFile>,
    /// The declared layers by their keys.
    declared: BTreeMap<usize, Declared>,
    /// The factors that are multiplied out.
    pairs: Vec<Pair>,
    /// Whether tensors are dealt out to new files.
    dealt_out: bool,
}

/// A file whose header is written.
struct OpenFile {
    name: String,
    output: Output,
    /// Its tensors, each with its place.
    pieces: Vec<(u64, Piece)>,
}

/// A layer that is replaced.
struct Declared {
    layer: String,
    rank: usize,
    bias: bool,
    /// Whether that is one where there was none.
    adds_bias: bool,
    written: bool,
    /// The file and the place in it of each part.
    targets: BTreeMap<Part, (usize, u64)>,
}

impl Sink {
    /// Creates the files and writes their headers.
    pub(super) fn create(
        model: Arc<Model>,
        path: &Path,
        replaced: &[Replacement<'_>],
        options: &WriteOptions,
    ) -> Result<Self, FormatError> {
        let declared = declare(&model, replaced)?;
        let plans = plan::plan(&model, replaced, options.shard_size)?;
        let dealt_out = options.shard_size.is_some();
        let sink = Self { path: path.to_owned(), files: Vec::new(), declared, pairs: Vec::new(), dealt_out, model };
        sink.begun(plans)
    }

    /// The same for a model whose factors become weights again; `dealt_out`: whether a size of shards was given.
    pub(super) fn dense(
        model: Arc<Model>,
        path: &Path,
        plans: Vec<FilePlan>,
        (pairs, dealt_out): (Vec<Pair>, bool),
    ) -> Result<Self, FormatError> {
        let (path, declared) = (path.to_owned(), BTreeMap::new());
        Self { path, files: Vec::new(), declared, pairs, dealt_out, model }.begun(plans)
    }

    fn begun(mut self, plans: Vec<FilePlan>) -> Result<Self, FormatError> {
        let sink = &mut self;
        sink.check_count(plans.len())?;
        if sink.model.folder.is_some() {
            fs::create_dir(&sink.path).map_err(|source| FormatError::io("create", &sink.path, source))?;
        }
        for plan in plans {
            sink.open(plan)?;
        }
        Ok(self)
    }

    /// A single file cannot become several.
    fn check_count(&self, files: usize) -> Result<(), FormatError> {
        if self.model.folder.is_some() || files == 1 {
            return Ok(());
        }
        let input = self.model.path.display();
        let problem = format!("{input} is a single file and cannot become {files} shards");
        Err(FormatError::limit(problem, "give its folder as the input, or leave shard_size out"))
    }

    /// Creates a file, writes its header and notes where its factors go.
    fn open(&mut self, plan: FilePlan) -> Result<(), FormatError> {
        let path = if self.model.folder.is_some() { self.path.join(&plan.name) } else { self.path.clone() };
        let header = encode::encode(plan.metadata.as_deref(), plan.pieces.iter().map(Piece::described));
        let header = header.ok_or_else(|| {
            let problem = "its header would be longer than readers accept";
            FormatError::malformed(&path, problem).with_help("set a shard size: each shard has a header of its own")
        })?;
        let output = Output::create(&path)?;
        output.write(0, &header)?;
        let (index, mut place, mut pieces) = (self.files.len(), header.len() as u64, Vec::new());
        for piece in plan.pieces {
            let length = piece.length;
            if let Content::Factor(key, part) = piece.content
                && let Some(declared) = self.declared.get_mut(&key)
            {
                declared.targets.insert(part, (index, place));
            }
            pieces.push((place, piece));
            place += length;
        }
        self.files.push(OpenFile { name: plan.name, output, pieces });
        Ok(())
    }

    fn check_written(&self) -> Result<(), FormatError> {
        match self.declared.values().find(|declared| !declared.written) {
            None => Ok(()),
            Some(declared) => {
                Err(FormatError::Misuse(format!("the factors of {} were not written", Name::new(&declared.layer))))
            }
        }
    }

    /// Writes the tensors that are neither factors nor amended; returns the cost of all files.
    fn write_tensors(&self) -> Result<Cost, FormatError> {
        let mut cost = Cost::default();
        for file in &self.files {
            for (place, piece) in &file.pieces {
                cost.parameters += piece.dims.iter().product::<u64>();
                match piece.content {
                    Content::Copy(at) => {
                        if let Some((input, entry)) = self.model.weights.at(at) {
                            input.copy(entry.start, entry.length, &file.output, *place)?;
                        }
                    }
                    Content::Product(index) => {
                        if let Some(pair) = self.pairs.get(index) {
                            pair.write(&self.model, &file.output, *place)?;
                        }
                    }
                    Content::Zeros => {
                        let zeros = vec![0; usize::try_from(piece.length).unwrap_or_default()];
                        file.output.write(*place, &zeros)?;
                    }
                    Content::Factor(..) | Content::Amended => {}
                }
            }
            cost.bytes += file.output.sync()?;
        }
        Ok(cost)
    }

    /// Writes all that is not factors.
    pub(super) fn completed(self) -> Result<Written, FormatError> {
        let cost = self.write_tensors()?;
        if let Some(folder) = &self.model.folder {
            self.complete(folder)?;
        }
        Ok(Written { cost, paths: vec![self.path] })
    }

    /// Writes what a folder holds beside its weights.
    fn complete(&self, Folder { config, companions }: &Folder) -> Result<(), FormatError> {
        let as_it_was = self.declared.is_empty() && self.pairs.is_empty();
        for path in companions.iter().filter(|path| as_it_was || !path.ends_with(loader::FILE)) {
            self.copy_file(path)?;
        }
        self.write_index()?;
        if !self.declared.is_empty() {
            let replaced = self.declared.values().map(|declared| Replaced {
                layer: declared.layer.clone(),
                rank: declared.rank as u64,
                adds_bias: declared.adds_bias,
            });
            let names: HashSet<&str> = self.pieces().map(|(_, piece)| piece.name.as_str()).collect();
            let config = config.factorized(&replaced.collect::<Vec<_>>(), |name| names.contains(name))?;
            self.write_file(config::FILE, &config)?;
            self.write_file(loader::FILE, loader::TEXT.as_bytes())?;
        } else if !self.pairs.is_empty() {
            self.write_file(config::FILE, &config.dense()?)?;
        } else if let Some(text) = config.text() {
            self.write_file(config::FILE, text)?;
        }
        let io = |source| FormatError::io("write", &self.path, source);
        File::open(&self.path).and_then(|folder| folder.sync_all()).map_err(io)
    }

    /// Writes the index, where one is needed; one that stays true is copied.
    fn write_index(&self) -> Result<(), FormatError> {
        let former = self.model.path.join(index::FILE);
        if self.declared.is_empty() && self.pairs.is_empty() && !self.dealt_out && former.exists() {
            return self.copy_file(&former);
        }
        if matches!(&self.files[..], [only] if only.name == folder::SINGLE) {
            return Ok(());
        }
        let map: WeightMap = self.pieces().map(|(file, piece)| (piece.name.clone(), file.name.clone())).collect();
        self.write_file(index::FILE, &index::encode(&map, self.pieces().map(|(_, piece)| piece.length).sum()))
    }

    /// All tensors, each with its file.
    fn pieces(&self) -> impl Iterator<Item = (&OpenFile, &Piece)> {
        self.files.iter().flat_map(|file| file.pieces.iter().map(move |(_, piece)| (file, piece)))
    }

    fn copy_file(&self, path: &Path) -> Result<(), FormatError> {
        let input = Input::open(path)?;
        let output = Output::create(&self.path.join(path.file_name().unwrap_or_default()))?;
        input.copy(0, input.len(), &output, 0)?;
        output.sync().map(drop)
    }

    fn write_file(&self, name: &str, text: &[u8]) -> Result<(), FormatError> {
        let output = Output::create(&self.path.join(name))?;
        output.write(0, text)?;
        output.sync().map(drop)
    }
}

impl LayerSink for Sink {
    fn write(&mut self, layer: &Layer, factors: &Factors) -> Result<(), FormatError> {
        let name = Name::new(&layer.name);
        self.model.place(layer)?;
        let Some(declared) = self.declared.get_mut(&layer.key) else {
            return Err(FormatError::Misuse(format!("{name} was not declared as replaced")));
        };
        if declared.written {
            return Err(FormatError::Misuse(format!("the factors of {name} were written before")));
        }
        let mut matrices = factor::matrices(layer, declared.rank, declared.bias, factors)?;
        for matrix in &mut matrices {
            if matrix.part == Part::Bias
                && let Some((own, dtype)) = self.model.bias(layer)?
            {
                matrix.add(own, dtype);
            }
            matrix.check_storable(layer)?;
        }
        for Matrix { part, values, dtype } in &matrices {
            if let Some((file, place)) = declared.targets.get(part).and_then(|&(f, p)| Some((self.files.get(f)?, p))) {
                factor::write(&file.output, place, *dtype, values.iter().copied())?;
            }
        }
        declared.written = true;
        Ok(())
    }

    fn amend(&mut self, tensor: &str, values: &ArrayD<f32>) -> Result<(), FormatError> {
        self.write_amended(tensor, values)
    }

    fn finish(self: Box<Self>) -> Result<Written, FormatError> {
        self.check_written()?;
        self.completed()
    }
}

/// Notes the layers that will be replaced, each once and at a rank that it can have.
fn declare(model: &Model, replaced: &[Replacement<'_>]) -> Result<BTreeMap<usize, Declared>, FormatError> {
    let mut all = BTreeMap::new();
    for &Replacement { layer, rank, bias } in replaced {
        model.place(layer)?;
        if bias {
            model.check_bias(layer)?;
        }
        let name = Name::new(&layer.name);
        if rank > layer.shape.full_rank() {
            let shape = layer.shape;
            return Err(FormatError::Misuse(format!("{name} is {shape}: rank {rank} is more than it can have")));
        }
        let (adds_bias, key, rank) = (bias && !layer.bias, layer.key, rank.get());
        let layer = layer.name.clone();
        let declared = Declared { layer, rank, bias, adds_bias, written: false, targets: BTreeMap::new() };
        if all.insert(key, declared).is_some() {
            return Err(FormatError::Misuse(format!("{name} is declared twice")));
        }
    }
    Ok(all)
}
