//! Running block by block: the hidden states of all samples, a few samples at a time.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use calabi_api::{BlockRunner, Layer, Output, RefineSettings, Refined, RunError, Samples, StateSpace, States, Watch};
use candle_core::Tensor;
use ndarray::{Array2, ArrayD, ArrayView2, Axis};

use super::architecture::Architecture;
use super::embed::Embedding;
use super::failed;
use super::pass::{Batch, Site};
use super::runner::HfRunner;
use super::store::tensor_of;
use super::tokens::Tokens;

/// Tokens that run at once; more only where one sample has more.
const TOGETHER: usize = 1024;
/// Tokens whose outputs are given at once where outputs are streamed.
pub(super) const STREAMED: usize = 512;

impl BlockRunner for HfRunner {
    fn count(&self) -> usize {
        self.model.blocks.len()
    }

    fn block_of(&self, layer: &Layer) -> Option<usize> {
        self.layers.place(layer).ok().and_then(|place| place.block)
    }

    fn embed(&mut self, samples: &Samples, space: &StateSpace) -> Result<States, RunError> {
        let tokens = Tokens::read(&self.model, samples)?;
        Embedding::load(&self.store, &self.model, self.prefix, 0..tokens.length)?.states(&tokens, space)
    }

    fn forward(
        &mut self,
        block: usize,
        states: &mut States,
        layers: &[&Layer],
        watch: &mut Watch<'_>,
    ) -> Result<(), RunError> {
        let wanted = self.layers.wanted(Some(block), layers)?;
        let (block, model) = self.block(block)?;
        for group in groups(states, 0..states.count(), TOGETHER)? {
            let (x, batch) = gathered(model, states, group.clone())?;
            let mut probe = |site, input: &Tensor| {
                shown(site, input, &batch, &wanted, watch)?;
                Ok(ControlFlow::Continue(()))
            };
            let Some(y) = block.forward(&x, &batch, &mut probe)? else {
                return Err(RunError::Failed("a block stopped before its end".to_owned()));
            };
            for (sample, values) in group.zip(split(&y, &batch)?) {
                states.set(sample, values)?;
            }
        }
        Ok(())
    }

    fn observe(
        &mut self,
        block: usize,
        states: &States,
        samples: Range<usize>,
        layers: &[&Layer],
        watch: &mut Watch<'_>,
    ) -> Result<(), RunError> {
        let wanted = self.layers.wanted(Some(block), layers)?;
        let Some((last, _)) = wanted.last().cloned() else { return Ok(()) };
        let (block, model) = self.block(block)?;
        for group in groups(states, samples, TOGETHER)? {
            let (x, batch) = gathered(model, states, group)?;
            let mut probe = |site, input: &Tensor| {
                shown(site, input, &batch, &wanted, watch)?;
                Ok(if site == last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            };
            block.forward(&x, &batch, &mut probe)?;
        }
        Ok(())
    }

    fn outputs(&mut self, states: &States, samples: Range<usize>) -> Result<Vec<Output>, RunError> {
        let (head, model) = self.head()?;
        let mut parts: Vec<Vec<Output>> = Vec::new();
        for group in groups(states, samples, TOGETHER)? {
            let (x, batch) = gathered(model, states, group)?;
            parts.push(head.outputs(&x, &batch)?);
        }
        joined(parts)
    }

    fn refine(
        &mut self,
        block: usize,
        inputs: &States,
        targets: &States,
        settings: &RefineSettings,
    ) -> Result<Refined, RunError> {
        self.tuned(block, inputs, targets, settings)
    }
}

impl HfRunner {
    /// What flows into the head's layers.
    pub(super) fn watch_head(
        &mut self,
        states: &States,
        layers: &[&Layer],
        watch: &mut Watch<'_>,
    ) -> Result<(), RunError> {
        let wanted = self.layers.wanted(None, layers)?;
        let (head, model) = self.head()?;
        for group in groups(states, 0..states.count(), TOGETHER)? {
            let (x, batch) = gathered(model, states, group)?;
            shown(Site::End, &head.input(&x, &batch).map_err(failed)?, &batch, &wanted, watch)?;
        }
        Ok(())
    }
}

/// Samples that run together: in a row, of one length, at most `most` tokens.
pub(super) fn groups(states: &States, samples: Range<usize>, most: usize) -> Result<Vec<Range<usize>>, RunError> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    for sample in samples {
        let (tokens, _) = states.dim(sample)?;
        match groups.last_mut() {
            Some(group) if states.dim(group.start)?.0 == tokens && (group.len() + 1) * tokens <= most => {
                group.end = sample + 1;
            }
            _ => groups.push(sample..sample + 1),
        }
    }
    Ok(groups)
}

/// The states of samples of one length, as rows.
pub(super) fn gathered(
    model: &Architecture,
    states: &States,
    samples: impl ExactSizeIterator<Item = usize> + Clone,
) -> Result<(Tensor, Batch), RunError> {
    let (tokens, width) = states.dim(samples.clone().next().unwrap_or(0))?;
    let count = samples.len();
    if width != model.hidden {
        return Err(RunError::Failed(format!("states of {width} features meet a model of {}", model.hidden)));
    }
    let padded = samples.clone().any(|sample| states.tokens(sample).is_some());
    let (mut values, mut mask) = (Vec::with_capacity(count * tokens * width), Vec::new());
    for sample in samples {
        values.extend(states.get(sample)?.iter());
        match states.tokens(sample) {
            Some(tokens) => mask.extend_from_slice(tokens),
            None => mask.resize(mask.len() + tokens, true),
        }
    }
    let batch = Batch::new(model, count, tokens, padded.then(|| Arc::from(mask)))?;
    Ok((tensor_of(values, (count * tokens, width))?, batch))
}

/// Shows the watcher an input that it wants, sample by sample, without padding.
fn shown(
    site: Site,
    input: &Tensor,
    batch: &Batch,
    wanted: &[(Site, String)],
    watch: &mut Watch<'_>,
) -> Result<(), RunError> {
    let Some((_, source)) = wanted.iter().find(|(other, _)| *other == site) else { return Ok(()) };
    let whole = matrix(input)?;
    // The pooler sees one row of each sample, and no padding.
    let rows = whole.nrows() / batch.samples.max(1);
    for (sample, rows_of) in whole.axis_chunks_iter(Axis(0), rows.max(1)).enumerate() {
        let mask = batch.mask.as_deref().filter(|_| rows == batch.tokens);
        match mask.and_then(|mask| mask.get(sample * rows..(sample + 1) * rows)) {
            Some(mask) if mask.contains(&false) => watch(source, unpadded(rows_of, mask).view())?,
            _ => watch(source, rows_of)?,
        }
    }
    Ok(())
}

fn unpadded(rows: ArrayView2<'_, f32>, mask: &[bool]) -> Array2<f32> {
    let kept: Vec<_> = mask.iter().enumerate().filter(|(_, token)| **token).map(|(row, _)| row).collect();
    rows.select(Axis(0), &kept)
}

/// The states of each sample of a batch.
fn split(rows: &Tensor, batch: &Batch) -> Result<Vec<Array2<f32>>, RunError> {
    let whole = matrix(rows)?;
    Ok(whole.axis_chunks_iter(Axis(0), batch.tokens).map(|sample| sample.to_owned()).collect())
}

/// The rows of a tensor.
pub(super) fn matrix(rows: &Tensor) -> Result<Array2<f32>, RunError> {
    let dims = rows.dims2().map_err(failed)?;
    let values = rows.flatten_all().and_then(|rows| rows.to_vec1()).map_err(failed)?;
    Array2::from_shape_vec(dims, values).map_err(|e| RunError::Failed(e.to_string()))
}

/// The outputs of all samples from those of a few at a time.
fn joined(mut parts: Vec<Vec<Output>>) -> Result<Vec<Output>, RunError> {
    if parts.len() == 1 {
        return Ok(parts.pop().unwrap_or_default());
    }
    let outputs = parts.first().map_or(0, Vec::len);
    let join = |output: usize| {
        let all: Vec<_> = parts.iter().filter_map(|part| part.get(output)).collect();
        let views: Vec<_> = all.iter().map(|output| output.values.view()).collect();
        let values: ArrayD<f32> = ndarray::concatenate(Axis(0), &views).map_err(|_| {
            RunError::Failed("samples of several lengths have no common output: ask for fewer at a time".to_owned())
        })?;
        Ok(Output { name: all.first().map(|output| output.name.clone()).unwrap_or_default(), values })
    };
    (0..outputs).map(join).collect()
}
