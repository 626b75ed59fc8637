//! Decomposes layers side by side, each on one thread: spectra stay in memory, bases go to the store.

use std::time::Instant;

use calabi_api::{
    Choice, DecomposeError, Decomposition, Kept, Layer, LayerSource, LayerSpectrum, Name, Rank, RankRule, SelectError,
    Spectrum,
};
use ndarray::Array2;
use rayon::prelude::*;

use crate::choose::{options, select};
use crate::store::Store;
use crate::{Decision, Error, Observer, OnError, Pipeline, Plan, PlannedLayer, Rule, Stage};

/// What is known of a layer once it is decomposed.
#[derive(Debug)]
pub(crate) struct Decomposed {
    pub(crate) spectrum: Spectrum,
    pub(crate) remark: Option<String>,
    pub(crate) seconds: f64,
}

/// What a run needs at every layer.
pub(crate) struct Context<'a> {
    pub(crate) pipeline: &'a Pipeline,
    pub(crate) source: &'a dyn LayerSource,
    pub(crate) observer: &'a dyn Observer,
}

impl Context<'_> {
    pub(crate) fn read(&self, layer: &Layer) -> Result<Array2<f32>, Error> {
        self.source.read(layer).map_err(|source| input_error(self.pipeline, source))
    }

    pub(crate) fn go_on(&self) -> Result<(), Error> {
        if self.observer.cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }
}

pub(crate) fn input_error(pipeline: &Pipeline, source: calabi_api::FormatError) -> Error {
    Error::Input { source, span: pipeline.model.input.span.clone() }
}

/// Decomposes the layers that take part, and decides about those that a selector decides about.
///
/// Without a store only spectra are wanted, whole ones where `whole` says so: then layers that are decided already are
/// decomposed too.
pub(crate) fn decompose(
    context: &Context<'_>,
    plan: &mut Plan,
    store: Option<&Store>,
    whole: bool,
) -> Result<Vec<Option<Decomposed>>, Error> {
    let wanted =
        |planned: &PlannedLayer| planned.is_selected() && (store.is_none() || planned.kept() != Some(Kept::Dense));
    context.observer.begin(Stage::Decompose, plan.layers.iter().filter(|l| wanted(l)).count());
    let results: Vec<_> = plan
        .layers
        .par_iter()
        .enumerate()
        .map(|(index, planned)| {
            if !wanted(planned) {
                return Ok((planned.decision.clone(), None));
            }
            context.go_on()?;
            let result = one_layer(context, index, planned, store, whole)?;
            context.observer.step(Stage::Decompose, &planned.layer.name);
            Ok(result)
        })
        .collect::<Result<_, Error>>()?;
    context.observer.end(Stage::Decompose);
    let (decisions, decomposed): (Vec<_>, Vec<_>) = results.into_iter().unzip();
    for (planned, decision) in plan.layers.iter_mut().zip(decisions) {
        planned.decision = decision;
    }
    Ok(decomposed)
}

fn one_layer(
    context: &Context<'_>,
    index: usize,
    planned: &PlannedLayer,
    store: Option<&Store>,
    whole: bool,
) -> Result<(Decision, Option<Decomposed>), Error> {
    let started = Instant::now();
    let layer = &planned.layer;
    let weight = context.read(layer)?;
    let limit = if whole { layer.shape.full_rank() } else { limit(context.pipeline, planned) };
    let decomposition = match context.pipeline.decomposer.svd(weight.view(), limit) {
        Ok(decomposition) => decomposition,
        Err(error) => return failed(context, layer, error),
    };
    let read = || Ok(weight.clone());
    let seen = LayerSpectrum::new(&layer.name, layer.shape, decomposition.spectrum()).with_weight(&read);
    let decision = match &planned.decision {
        Decision::Open => select(context.pipeline, planned.rule, layer, &seen)?.map_or(Decision::Open, Decision::from),
        decided => decided.clone(),
    };
    if let Some(store) = store
        && let Some(rank) = rank_to_keep(context.pipeline, layer, &decision, &*decomposition)
    {
        match decomposition.basis(rank) {
            Ok(basis) => store.put(index, &basis)?,
            Err(error) => return failed(context, layer, error),
        }
    }
    let decomposed = Decomposed {
        spectrum: decomposition.spectrum().clone(),
        remark: decomposition.remark().map(str::to_owned),
        seconds: started.elapsed().as_secs_f64(),
    };
    Ok((decision, Some(decomposed)))
}

/// The largest rank that the layer's rule can choose.
fn limit(pipeline: &Pipeline, planned: &PlannedLayer) -> Rank {
    let shape = planned.layer.shape;
    let bound = match (planned.rank(), planned.rule, &pipeline.rank.value) {
        (Some(rank), ..) => return rank,
        (None, Rule::Override(number), _) => {
            pipeline.overrides.get(number).map_or(shape.full_rank(), |chosen| chosen.rank.limit(shape))
        }
        (None, Rule::Main, RankRule::Selector(selector)) => selector.limit(shape),
        (None, Rule::Main, RankRule::Allocator(allocator)) => allocator.limit(shape),
    };
    // The rank multiple may round the choice up.
    Rank::clamped(bound.get().next_multiple_of(pipeline.layers.multiple.get()), shape)
}

/// How much of the basis may still be needed.
fn rank_to_keep(
    pipeline: &Pipeline,
    layer: &Layer,
    decision: &Decision,
    decomposition: &dyn Decomposition,
) -> Option<Rank> {
    match decision {
        Decision::Chosen { kept: Kept::Rank(rank), .. } => Some(*rank),
        Decision::Chosen { kept: Kept::Dense, .. } | Decision::Skipped { .. } => None,
        Decision::Open => options(layer, &pipeline.layers, decomposition.spectrum().known()).into_iter().max(),
    }
}

/// Never a guess in place of a failed factorization: the run ends, or the layer stays as it is, by the user's choice.
fn failed(
    context: &Context<'_>,
    layer: &Layer,
    source: DecomposeError,
) -> Result<(Decision, Option<Decomposed>), Error> {
    match context.pipeline.layers.on_error {
        OnError::Stop => Err(Error::Decompose { layer: Name::new(&layer.name).to_string(), source }),
        OnError::Dense => Ok((Choice::dense(format!("decomposition failed: {source}")).into(), None)),
    }
}

/// A way to read a layer's weight once more, for an allocator that asks for it.
pub(crate) fn read_again<'a>(
    source: &'a dyn LayerSource,
    layer: &'a Layer,
) -> impl Fn() -> Result<Array2<f32>, SelectError> + Sync + 'a {
    move || source.read(layer).map_err(|error| SelectError::because("the weight cannot be read", error))
}
