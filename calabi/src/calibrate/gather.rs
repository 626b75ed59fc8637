//! Second moments of every distinct input: block by block where the model runs so, else a group of inputs at a time.

use std::collections::BTreeMap;
use std::path::Path;

use calabi_api::{Layer, Name, RunError};
use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

use super::{Calibrator, blocks};
use crate::statistics::{Moments, MomentsError, StatisticsFile, StatisticsHeader, StatisticsWriter};
use crate::{Error, Observer, Plan, Stage};

/// Rows of at most so many bytes wait to be added to their moments, all inputs side by side.
const WAITING: usize = 32 << 20;
/// Moments of a group of inputs take no more bytes than these, where one alone does not.
const GROUP: usize = 512 << 20;

/// A distinct input of the model.
struct Input<'p> {
    name: String,
    /// One of the layers that read it.
    layer: &'p Layer,
    moments: Moments,
    waiting: Vec<Array2<f32>>,
}

impl Calibrator<'_> {
    /// Runs the samples, and writes the statistics of what flows into the layers that take part.
    pub(super) fn gather(
        &mut self,
        plan: &Plan,
        file: &Path,
        observer: &dyn Observer,
    ) -> Result<StatisticsFile, Error> {
        let fail = self.failure();
        let layers: Vec<&Layer> = plan.layers.iter().filter(|l| l.is_selected()).map(|l| &l.layer).collect();
        let sources = self.runner.sources(&layers).map_err(&fail)?;
        let mut inputs: BTreeMap<&str, &Layer> = BTreeMap::new();
        for (source, layer) in sources.iter().zip(&layers) {
            inputs.entry(source).or_insert(layer);
        }
        let widths: Vec<_> = inputs.iter().map(|(name, layer)| ((*name).to_owned(), layer.shape.cols())).collect();
        let known = layers.iter().zip(&sources).map(|(layer, source)| (layer.name.clone(), source.clone()));
        let header = StatisticsHeader { layers: known.collect(), provenance: self.provenance() };
        let writer = StatisticsWriter::create(file, &header, &widths).map_err(|e| self.unwritten(e))?;
        observer.begin(Stage::Calibrate, inputs.len());
        let mut gathering = Gathering { calibrator: self, writer, observer };
        gathering.all(inputs.into_values().collect())?;
        let Gathering { writer, .. } = gathering;
        let path = writer.finish(true).map_err(|e| self.unwritten(e))?;
        observer.end(Stage::Calibrate);
        StatisticsFile::open(&path).map_err(|e| self.unwritten(e))
    }
}

struct Gathering<'g, 'c> {
    calibrator: &'g mut Calibrator<'c>,
    writer: StatisticsWriter,
    observer: &'g dyn Observer,
}

impl Gathering<'_, '_> {
    fn all(&mut self, layers: Vec<&Layer>) -> Result<(), Error> {
        let fail = self.calibrator.failure();
        let Some(model) = self.calibrator.runner.blocks() else { return self.in_groups(&layers) };
        let place: Vec<_> = layers.iter().map(|layer| model.block_of(layer)).collect();
        let count = model.count();
        let of = |block| layers.iter().zip(&place).filter(move |(_, p)| **p == block).map(|(&layer, _)| layer);
        let space = self.calibrator.space();
        let mut states = blocks(&mut *self.calibrator.runner)
            .and_then(|blocks| blocks.embed(&self.calibrator.samples, &space))
            .map_err(&fail)?;
        for block in 0..count {
            let here: Vec<&Layer> = of(Some(block)).collect();
            let mut inputs = Inputs::of(&*self.calibrator.runner, &here).map_err(&fail)?;
            blocks(&mut *self.calibrator.runner)
                .and_then(|blocks| blocks.forward(block, &mut states, &here, &mut |name, rows| inputs.add(name, rows)))
                .map_err(&fail)?;
            self.write(inputs)?;
        }
        drop(states);
        self.in_groups(&of(None).collect::<Vec<_>>())
    }

    /// Runs the whole model once for every group of inputs whose moments fit memory.
    fn in_groups(&mut self, layers: &[&Layer]) -> Result<(), Error> {
        let fail = self.calibrator.failure();
        let mut rest = layers;
        while !rest.is_empty() {
            let bytes = |layer: &&Layer| 12 * layer.shape.cols() * layer.shape.cols();
            let mut sum = 0;
            let fits = rest.iter().map(bytes).take_while(|bytes| {
                sum += bytes;
                sum <= GROUP
            });
            let (group, later) = rest.split_at(fits.count().max(1));
            let mut inputs = Inputs::of(&*self.calibrator.runner, group).map_err(&fail)?;
            let Calibrator { runner, samples, .. } = &mut *self.calibrator;
            runner.observe(samples, group, &mut |name, rows| inputs.add(name, rows)).map_err(&fail)?;
            self.write(inputs)?;
            rest = later;
        }
        Ok(())
    }

    fn write(&mut self, mut inputs: Inputs<'_>) -> Result<(), Error> {
        if self.observer.cancelled() {
            return Err(Error::Cancelled);
        }
        let fail = self.calibrator.failure();
        inputs.flush().map_err(&fail)?;
        for Input { name, layer, moments, .. } in inputs.inputs {
            let statistics = moments.finish().map_err(|error| fail(at(layer, &error)))?;
            self.writer.write(&name, &statistics).map_err(|error| self.calibrator.unwritten(error))?;
            self.observer.step(Stage::Calibrate, &name);
        }
        Ok(())
    }
}

/// The inputs that are watched at a time.
struct Inputs<'p> {
    inputs: Vec<Input<'p>>,
    waiting: usize,
}

impl<'p> Inputs<'p> {
    fn of(runner: &dyn calabi_api::Runner, layers: &[&'p Layer]) -> Result<Self, RunError> {
        let names = runner.sources(layers)?;
        let input = |(name, &layer): (String, &&'p Layer)| Input {
            name,
            layer,
            moments: Moments::new(layer.shape.cols()),
            waiting: Vec::new(),
        };
        Ok(Self { inputs: names.into_iter().zip(layers).map(input).collect(), waiting: 0 })
    }

    fn add(&mut self, name: &str, rows: ArrayView2<'_, f32>) -> Result<(), RunError> {
        let unknown = || RunError::Failed(format!("input {} was not asked for", Name::new(name)));
        let input = self.inputs.iter_mut().find(|input| input.name == name).ok_or_else(unknown)?;
        input.waiting.push(rows.to_owned());
        self.waiting += 4 * rows.len();
        if self.waiting > WAITING { self.flush() } else { Ok(()) }
    }

    /// Adds what waits to the moments: inputs side by side, the rows of each in their order.
    fn flush(&mut self) -> Result<(), RunError> {
        self.waiting = 0;
        self.inputs.par_iter_mut().try_for_each(|Input { layer, moments, waiting, .. }| {
            std::mem::take(waiting)
                .iter()
                .try_for_each(|rows| moments.add(rows.view()))
                .map_err(|error| at(layer, &error))
        })
    }
}

/// Names the layer whose inputs cannot be summed.
pub(crate) fn at(layer: &Layer, error: &MomentsError) -> RunError {
    RunError::Failed(format!("what flows into layer {}: {error}", Name::new(&layer.name)))
}
