//! Writes a model: factors as they come, then the rest as it was.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use calabi_api::{Cost, Factors, FormatError, IntegerRows, Layer, LayerSink, Written};
use ndarray::{Array1, Array2, Axis};

use super::Model;
use super::rewrite::{BiasSlot, Place, Plan, Slot, Slots};
use super::splice::Part;
use super::store::Origin;
use crate::file::Output;

/// How many bytes of a factor are encoded at once.
const PIECE: usize = 1 << 20;

/// A model that is being written.
#[derive(Debug)]
pub(crate) struct Sink {
    model: Arc<Model>,
    plan: Plan,
    output: Output,
    store: Option<Output>,
    /// By the keys of the layers.
    pending: HashMap<usize, Pending>,
    parameters: u64,
}

/// A declared layer.
#[derive(Debug)]
struct Pending {
    name: String,
    rank: usize,
    slots: Slots,
    written: bool,
}

impl Sink {
    /// `declared` are the plan's targets, in order; `parameters` is what the whole model will have.
    pub(crate) fn new(
        model: Arc<Model>,
        plan: Plan,
        path: &Path,
        declared: &[(&Layer, usize)],
        parameters: u64,
    ) -> Result<Self, FormatError> {
        let pending = declared.iter().zip(&plan.factors).map(|(&(layer, rank), &slots)| {
            (layer.key, Pending { name: layer.name.clone(), rank, slots, written: false })
        });
        let pending = pending.collect();
        let store = plan.store.as_ref().map(|store| Output::create(&path.with_file_name(&store.name))).transpose()?;
        Ok(Self { model, output: Output::create(path)?, store, pending, parameters, plan })
    }

    fn target(&self, place: Place) -> Result<(&Output, u64), FormatError> {
        let missing = || FormatError::Misuse("a factor has no place in the model".to_owned());
        match place {
            Place::Hole(id) => Ok((&self.output, *self.plan.layout.holes.get(&id).ok_or_else(missing)?)),
            Place::Store(position) => Ok((self.store.as_ref().ok_or_else(missing)?, position)),
        }
    }

    /// The bias that is written: one that is added to the values of a tensor of the model is their sum.
    fn sum(&self, layer: &Layer, slot: BiasSlot, bias: &Array1<f32>) -> Result<Array1<f32>, FormatError> {
        let Some(base) = slot.base else { return Ok(bias.clone()) };
        Ok(self.model.vector(base, layer.dtype)? + bias)
    }

    fn put(&self, layer: &Layer, factor: &Array2<f32>, slot: Slot) -> Result<(), FormatError> {
        if let Some(scales) = slot.scales {
            return self.put_integers(layer, factor, slot, scales);
        }
        let (file, mut position) = self.target(slot.place)?;
        let stored = if slot.transposed { factor.t() } else { factor.view() };
        let mut bytes = Vec::new();
        let blocks = slot.kernel.unwrap_or(1).max(1);
        for block in stored.axis_chunks_iter(Axis(0), blocks) {
            let block = if slot.kernel.is_some() { block.t() } else { block };
            layer.dtype.encode(block.iter().copied(), &mut bytes);
            if bytes.len() >= PIECE {
                file.write(position, &bytes)?;
                position += bytes.len() as u64;
                bytes.clear();
            }
        }
        file.write(position, &bytes)
    }
}

impl Sink {
    /// A factor as integers, and the scales of its rows.
    fn put_integers(&self, layer: &Layer, factor: &Array2<f32>, slot: Slot, scales: Place) -> Result<(), FormatError> {
        let rows = IntegerRows::new(factor.view(), layer.dtype);
        let stored = if slot.transposed { rows.integers.t() } else { rows.integers.view() };
        let (file, position) = self.target(slot.place)?;
        file.write(position, &stored.iter().map(|integer| integer.cast_unsigned()).collect::<Vec<_>>())?;
        let mut bytes = Vec::new();
        layer.dtype.encode(rows.scales.into_iter(), &mut bytes);
        let (file, position) = self.target(scales)?;
        file.write(position, &bytes)
    }
}

impl LayerSink for Sink {
    fn write(&mut self, layer: &Layer, factors: &Factors) -> Result<(), FormatError> {
        let misuse = |problem: &str| FormatError::Misuse(format!("layer {}: {problem}", layer.name));
        let pending = self.pending.get(&layer.key).filter(|pending| pending.name == layer.name);
        let pending = pending.ok_or_else(|| misuse("it was not declared to be factorized"))?;
        let (m, n, r) = (layer.shape.rows(), layer.shape.cols(), pending.rank);
        if factors.left.dim() != (m, r) || factors.right.dim() != (r, n) {
            return Err(misuse("its factors have other shapes than were declared"));
        }
        match (&factors.bias, pending.slots.bias) {
            (Some(bias), Some(_)) if bias.len() != m => {
                return Err(misuse("its bias has another length than its outputs"));
            }
            (Some(_), None) => return Err(misuse("its factors bring a bias that was not declared")),
            (None, Some(_)) => return Err(misuse("its factors lack the bias that was declared")),
            _ => {}
        }
        if pending.written {
            return Err(misuse("its factors are written twice"));
        }
        let Slots { right, left, bias } = pending.slots;
        let bias = bias.zip(factors.bias.as_ref()).map(|(slot, bias)| Ok((slot, self.sum(layer, slot, bias)?)));
        let bias = bias.transpose()?;
        let sums = bias.iter().flat_map(|(_, sum)| sum);
        check_range(layer, factors.right.iter().chain(&factors.left).chain(sums))?;
        self.put(layer, &factors.right, right)?;
        self.put(layer, &factors.left, left)?;
        if let Some((slot, sum)) = bias {
            let (file, position) = self.target(slot.place)?;
            let mut bytes = Vec::new();
            layer.dtype.encode(sum.into_iter(), &mut bytes);
            file.write(position, &bytes)?;
        }
        if let Some(pending) = self.pending.get_mut(&layer.key) {
            pending.written = true;
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Written, FormatError> {
        if let Some(missing) = self.pending.values().filter(|pending| !pending.written).map(|p| &p.name).min() {
            return Err(FormatError::Misuse(format!("layer {missing} was declared, and its factors were not written")));
        }
        let mut paths: Vec<PathBuf> = Vec::new();
        let mut bytes = 0;
        if let (Some(file), Some(store)) = (&self.store, &self.plan.store) {
            for &(origin, span, to) in &store.copies {
                let from = match origin {
                    Origin::Model => &self.model.input,
                    Origin::File(index) => &self.model.files[index],
                };
                from.copy(span.start, span.len(), file, to)?;
            }
            bytes += file.sync()?;
            paths.push(file.path().to_owned());
        }
        bytes += self.copy_model()?;
        paths.push(self.output.path().to_owned());
        Ok(Written { cost: Cost { parameters: self.parameters, bytes }, paths })
    }
}

impl Sink {
    /// Copies all that is not replaced, and returns the length of the model.
    fn copy_model(&self) -> Result<u64, FormatError> {
        for part in &self.plan.layout.parts {
            match part {
                Part::Copy { from, to } => self.model.input.copy(from.start, from.len(), &self.output, *to)?,
                Part::Bytes { bytes, to } => self.output.write(*to, bytes)?,
            }
        }
        let (length, planned) = (self.output.sync()?, self.plan.layout.length);
        if length == planned {
            return Ok(length);
        }
        let problem = format!("{} has {length} bytes, where {planned} were planned", self.output.path().display());
        Err(FormatError::Misuse(problem))
    }
}

/// Factors of 16 bits can overflow where the weight did not.
fn check_range<'a>(layer: &Layer, mut values: impl Iterator<Item = &'a f32>) -> Result<(), FormatError> {
    if values.all(|&value| layer.dtype.rounded(value).is_finite()) {
        return Ok(());
    }
    Err(FormatError::overflow(layer))
}
