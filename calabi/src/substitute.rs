//! Factors stream into the new model, each measured as it will be read back.

use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use calabi_api::{Basis, Factors, FormatError, LayerSink, Rank, Replacement, Side, WriteOptions, Written};
use ndarray::{Array2, ArrayView2, Axis};
use rayon::prelude::*;

use crate::decompose::Context;
use crate::store::Store;
use crate::{Error, Plan, PlannedLayer, Stage};

/// The error of a layer's factors as they were written, relative in the Frobenius norm, and the time it took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Substituted {
    pub(crate) measured_error: f64,
    pub(crate) seconds: f64,
}

/// Writes to `model` a model with factors in place of the weights that the plan factorizes.
pub(crate) fn substitute(
    context: &Context<'_>,
    plan: &Plan,
    store: &Store,
    model: &Path,
) -> Result<(Written, Vec<Option<Substituted>>), Error> {
    let factorized: Vec<_> = plan.layers.iter().filter_map(|l| Some((l, l.rank()?))).collect();
    let replaced: Vec<_> =
        factorized.iter().map(|&(l, rank)| Replacement { layer: &l.layer, rank, bias: false }).collect();
    let mut options = WriteOptions::default();
    options.shard_size = context.pipeline.model.shard_size.as_ref().map(|size| size.bytes());
    let sink = context.source.create(model, &replaced, &options).map_err(output_error)?;
    let sink = Mutex::new(sink);
    context.observer.begin(Stage::Substitute, replaced.len());
    let substituted = plan
        .layers
        .par_iter()
        .enumerate()
        .map(|(index, planned)| match planned.rank() {
            None => Ok(None),
            Some(rank) => one_layer(context, index, planned, rank, store, &sink).map(Some),
        })
        .collect::<Result<_, Error>>()?;
    let sink = sink.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let written = sink.finish().map_err(output_error)?;
    context.observer.end(Stage::Substitute);
    Ok((written, substituted))
}

/// A failure while copying the rest may be the input's or the output's: the error names the file.
fn output_error(source: FormatError) -> Error {
    Error::Output { source }
}

fn one_layer(
    context: &Context<'_>,
    index: usize,
    planned: &PlannedLayer,
    rank: Rank,
    store: &Store,
    sink: &Mutex<Box<dyn LayerSink>>,
) -> Result<Substituted, Error> {
    context.go_on()?;
    let started = Instant::now();
    let layer = &planned.layer;
    let weight = context.read(layer)?;
    let basis = store.take(index, rank, weight.dim())?;
    let factors = project(weight.view(), basis).rounded(layer.dtype);
    let measured_error = relative_error(weight.view(), &factors);
    sink.lock().unwrap_or_else(std::sync::PoisonError::into_inner).write(layer, &factors).map_err(output_error)?;
    context.observer.step(Stage::Substitute, &layer.name);
    Ok(Substituted { measured_error, seconds: started.elapsed().as_secs_f64() })
}

/// The best factors in the span of a basis: `U (Uᵀ W)` or `(W V) Vᵀ`.
pub(crate) fn project(weight: ArrayView2<'_, f32>, basis: Basis) -> Factors {
    let vectors = basis.vectors;
    match basis.side {
        Side::Left => Factors { right: vectors.t().dot(&weight), left: vectors, bias: None },
        Side::Right => {
            Factors { left: weight.dot(&vectors), right: vectors.t().as_standard_layout().into_owned(), bias: None }
        }
    }
}

/// `‖W − left · right‖ / ‖W‖`, a block of rows at a time; zero for a weight that is zero.
pub(crate) fn relative_error(weight: ArrayView2<'_, f32>, factors: &Factors) -> f64 {
    const ROWS: usize = 128;
    let mut lost = 0.0;
    let mut energy = 0.0;
    for (rows, left) in weight.axis_chunks_iter(Axis(0), ROWS).zip(factors.left.axis_chunks_iter(Axis(0), ROWS)) {
        let product: Array2<f32> = left.dot(&factors.right);
        for (&w, &p) in rows.iter().zip(&product) {
            lost += (f64::from(w) - f64::from(p)).powi(2);
            energy += f64::from(w).powi(2);
        }
    }
    if energy > 0.0 { (lost / energy).sqrt() } else { lost.sqrt() }
}
