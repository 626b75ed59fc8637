//! Decomposes layers side by side, each on one thread: spectra stay in memory, bases go to the store.

use std::time::Instant;

use calabi_api::{
    Basis, Choice, DecomposeError, Decomposer, Decomposition, Kept, Layer, LayerSource, LayerSpectrum, Rank, RankRule,
    SelectError, Side, Spectrum,
};
use ndarray::Array2;
use rayon::prelude::*;

use crate::choose::{options, select};
use crate::metric::{Factorization, Metric, factorize};
use crate::metrics::Metrics;
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
    pub(crate) metrics: &'a Metrics<'a>,
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
    let work = Work { context, store, whole };
    let groups = context.metrics.groups(plan);
    let results: Vec<_> = groups
        .into_par_iter()
        .map(|group| {
            let layers: Vec<_> = group.into_iter().map(|index| (index, &plan.layers[index])).collect();
            work.group(&layers.into_iter().filter(|(_, planned)| wanted(planned)).collect::<Vec<_>>())
        })
        .collect::<Result<_, Error>>()?;
    context.observer.end(Stage::Decompose);
    let mut decomposed: Vec<_> = plan.layers.iter().map(|_| None).collect();
    for (index, decision, found) in results.into_iter().flatten() {
        plan.layers[index].decision = decision;
        decomposed[index] = found;
    }
    Ok(decomposed)
}

/// What decomposing a layer needs besides the layer.
#[derive(Clone, Copy)]
struct Work<'a> {
    context: &'a Context<'a>,
    store: Option<&'a Store>,
    whole: bool,
}

/// A layer by index, what became of it, and what is known of it.
type Taken = (usize, Decision, Option<Decomposed>);

impl Work<'_> {
    /// Layers that share a metric, one after the other.
    fn group(&self, layers: &[(usize, &PlannedLayer)]) -> Result<Vec<Taken>, Error> {
        let Some((_, first)) = layers.first() else { return Ok(Vec::new()) };
        let metric = self.context.metrics.of(&first.layer, self.context.source)?;
        let one = |&(index, planned): &(usize, &PlannedLayer)| {
            self.context.go_on()?;
            let (decision, decomposed) = self.layer(index, planned, metric.as_ref())?;
            self.context.observer.step(Stage::Decompose, &planned.layer.name);
            Ok((index, decision, decomposed))
        };
        layers.iter().map(one).collect()
    }

    fn layer(
        &self,
        index: usize,
        planned: &PlannedLayer,
        metric: Option<&Metric>,
    ) -> Result<(Decision, Option<Decomposed>), Error> {
        let started = Instant::now();
        let (context, layer) = (self.context, &planned.layer);
        let weight = context.read(layer)?;
        let limit = if self.whole { layer.shape.full_rank() } else { limit(context.pipeline, planned) };
        let parts = match Parts::of(&weight, metric, &*context.pipeline.decomposer, limit) {
            Ok(parts) => parts,
            Err(error) => return failed(context, layer, error),
        };
        let read = || Ok(weight.clone());
        let statistics = context.metrics.reader(layer);
        let seen = LayerSpectrum::new(&layer.name, layer.shape, parts.spectrum())
            .with_weight(&read)
            .with_statistics(&statistics);
        let decision = match &planned.decision {
            Decision::Open => {
                select(context.pipeline, planned.rule, layer, &seen)?.map_or(Decision::Open, Decision::from)
            }
            decided => decided.clone(),
        };
        if let Some(store) = self.store
            && let Some(rank) = rank_to_keep(context.pipeline, layer, &decision, parts.spectrum())
        {
            match parts.basis(rank) {
                Ok(basis) => store.put(index, &basis)?,
                Err(error) => return failed(context, layer, error),
            }
        }
        let decomposed = Decomposed {
            spectrum: parts.spectrum().clone(),
            remark: parts.remark().map(str::to_owned),
            seconds: started.elapsed().as_secs_f64(),
        };
        Ok((decision, Some(decomposed)))
    }
}

/// A weight taken apart, by itself or in a metric.
enum Parts<'a> {
    Plain(Box<dyn Decomposition + 'a>),
    Measured(Factorization),
}

impl<'a> Parts<'a> {
    fn of(
        weight: &'a Array2<f32>,
        metric: Option<&Metric>,
        decomposer: &dyn Decomposer,
        limit: Rank,
    ) -> Result<Self, DecomposeError> {
        match metric {
            None => decomposer.svd(weight.view(), limit).map(Self::Plain),
            Some(metric) => factorize(weight.view(), metric, decomposer, limit).map(Self::Measured),
        }
    }

    fn spectrum(&self) -> &Spectrum {
        match self {
            Self::Plain(decomposition) => decomposition.spectrum(),
            Self::Measured(factorization) => factorization.spectrum(),
        }
    }

    fn basis(&self, rank: Rank) -> Result<Basis, DecomposeError> {
        match self {
            Self::Plain(decomposition) => decomposition.basis(rank),
            Self::Measured(factorization) => {
                factorization.basis(rank).map(|vectors| Basis { side: Side::Left, vectors })
            }
        }
    }

    fn remark(&self) -> Option<&str> {
        match self {
            Self::Plain(decomposition) => decomposition.remark(),
            Self::Measured(factorization) => factorization.remark(),
        }
    }
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
fn rank_to_keep(pipeline: &Pipeline, layer: &Layer, decision: &Decision, spectrum: &Spectrum) -> Option<Rank> {
    match decision {
        Decision::Chosen { kept: Kept::Rank(rank), .. } => Some(*rank),
        Decision::Chosen { kept: Kept::Dense, .. } | Decision::Skipped { .. } => None,
        Decision::Open => options(layer, &pipeline.layers, spectrum.known()).into_iter().max(),
    }
}

/// Never a guess in place of a failed factorization: the run ends, or the layer stays as it is, by the user's choice.
fn failed(
    context: &Context<'_>,
    layer: &Layer,
    source: DecomposeError,
) -> Result<(Decision, Option<Decomposed>), Error> {
    match context.pipeline.layers.on_error {
        OnError::Stop => Err(Error::decompose(layer, source)),
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
