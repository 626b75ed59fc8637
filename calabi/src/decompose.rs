//! Decomposes layers, side by side or with all threads inside one: spectra stay in memory, bases go to the store.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use calabi_api::{
    Basis, Choice, DecomposeError, Kept, Layer, LayerSource, LayerSpectrum, Rank, RankRule, SelectError, Side, Spectrum,
};
use ndarray::{Array2, ArrayView2, Axis};

use crate::choose::{options, select};
use crate::made::{Finished, Made};
use crate::memory::{Budget, working_set};
use crate::metric::{Limits, Metric, Room};
use crate::metrics::Metrics;
use crate::parts::Parts;
pub(crate) use crate::store::Decomposed;
use crate::store::{Key, Store};
use crate::turns::in_turns;
use crate::{Decision, Error, Observer, OnError, Pipeline, Plan, PlannedLayer, Rule, Shard, Stage, share};

/// What a run needs at every layer.
pub(crate) struct Context<'a> {
    pub(crate) pipeline: &'a Pipeline,
    pub(crate) source: &'a dyn LayerSource,
    pub(crate) observer: &'a dyn Observer,
    pub(crate) metrics: &'a Metrics<'a>,
    /// What layers in work share.
    pub(crate) memory: &'a Budget,
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

/// What layers are decomposed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Their factors: layers that stay dense are left out.
    Factors,
    /// The same, of what the store knows: nothing is decomposed.
    Merge,
    /// The store: one share of the layers.
    Share(Shard),
    /// Their spectra: of all layers that take part, also of those that are decided already; every singular value, where
    /// `whole` says so.
    Spectra {
        /// Also where rule and decomposer could do with fewer.
        whole: bool,
    },
}

/// Decomposes the layers that take part, and decides about those that a selector decides about. What the store knows is
/// taken from there.
pub(crate) fn decompose(
    context: &Context<'_>,
    plan: &mut Plan,
    store: &Store,
    purpose: Purpose,
) -> Result<Vec<Option<Decomposed>>, Error> {
    let wanted = purpose.wanted(plan);
    let count = wanted.iter().filter(|&&wanted| wanted).count();
    context.observer.begin(Stage::Decompose, count);
    let (found, missing) = (AtomicUsize::new(0), Mutex::default());
    let work = Work { context, store, purpose, found: &found, missing: &missing };
    let groups = context.metrics.groups(plan);
    let results = in_turns(context, plan, groups, |group| {
        let layers = group.into_iter().filter(|&index| wanted[index]);
        let layers: Vec<_> = layers.map(|index| (index, &plan.layers[index])).collect();
        let needs = layers.iter().map(|(_, planned)| working_set(context.pipeline, &planned.layer));
        let _admitted = context.memory.admit(needs.max().unwrap_or(0));
        work.group(&layers)
    })?;
    let missing = missing.into_inner().unwrap_or_else(PoisonError::into_inner);
    if !missing.is_empty() {
        return Err(share::missing(plan, store, missing).into());
    }
    let found = found.load(Ordering::Relaxed);
    if found > 0 {
        context.observer.note(Stage::Decompose, &format!("{found} of {count} layers were decomposed before"));
    }
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
    store: &'a Store,
    purpose: Purpose,
    /// How many layers the store knew.
    found: &'a AtomicUsize,
    /// The layers that it should have known.
    missing: &'a Mutex<Vec<usize>>,
}

impl Purpose {
    /// Which layers of a plan are decomposed for it.
    pub(crate) fn wanted(self, plan: &Plan) -> Vec<bool> {
        match self {
            Self::Factors | Self::Merge => plan.layers.iter().map(PlannedLayer::may_be_factorized).collect(),
            Self::Spectra { .. } => plan.layers.iter().map(PlannedLayer::is_selected).collect(),
            Self::Share(shard) => {
                let owners = Shard::owners(shard.count(), plan);
                owners.into_iter().map(|owner| owner == Some(shard.index())).collect()
            }
        }
    }
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
        let decomposer = &*context.pipeline.decomposer;
        let weight = context.read(layer)?;
        let limits = self.limits(planned, metric.is_some());
        let limit = limits.known;
        let key = Key::of(weight.view(), metric, decomposer, limit);
        if let Some(entry) = self.store.find(&key, limit) {
            let decision = self.decide(planned, &weight, &entry.decomposed.spectrum)?;
            let wanted = rank_to_keep(context.pipeline, layer, &decision, &entry.decomposed.spectrum);
            if wanted.is_none_or(|rank| rank.get() <= entry.vectors) {
                self.found.fetch_add(1, Ordering::Relaxed);
                let decomposed = entry.decomposed.clone();
                self.store.adopt(index, entry);
                return Ok((decision, Some(decomposed)));
            }
        }
        if self.purpose == Purpose::Merge {
            self.missing.lock().unwrap_or_else(PoisonError::into_inner).push(index);
            return Ok((planned.decision.clone(), None));
        }
        let room = Room::new();
        let parts = match Parts::of(weight.view(), metric, decomposer, limits, &room) {
            Ok(parts) => parts,
            Err(error) => return failed(context, layer, error),
        };
        let decision = self.decide(planned, &weight, parts.spectrum())?;
        let wanted = rank_to_keep(context.pipeline, layer, &decision, parts.spectrum());
        let lasting = self.store.lasting.then(|| limits.kept.min(largest_that_pays(context.pipeline, layer)));
        let basis = match wanted.max(lasting).map(|rank| parts.basis(rank)).transpose() {
            Ok(basis) => basis.unwrap_or_else(|| Basis { side: Side::Left, vectors: Array2::zeros((0, 0)) }),
            Err(error) => return failed(context, layer, error),
        };
        let seconds = started.elapsed().as_secs_f64();
        let energy = parts.spectrum().energy();
        let measured = metric.map(|metric| (metric, &room));
        let finished = self.finished((index, layer), &decision, weight.view(), measured, &basis, energy)?;
        let (spectrum, remark) = (parts.spectrum().clone(), parts.remark().map(str::to_owned));
        let decomposed = Decomposed { spectrum, limit, remark, seconds, finished };
        self.store.put(index, &key, &decomposed, &basis)?;
        Ok((decision, Some(decomposed)))
    }

    /// Makes the factors, and keeps them, where the rank is decided already and they are made in a metric: it is at hand now.
    fn finished(
        &self,
        (index, layer): (usize, &Layer),
        decision: &Decision,
        weight: ArrayView2<'_, f32>,
        measured: Option<(&Metric, &Room)>,
        basis: &Basis,
        energy: f64,
    ) -> Result<Option<Finished>, Error> {
        let (Decision::Chosen { kept: Kept::Rank(rank), .. }, Some((metric, room))) = (decision, measured) else {
            return Ok(None);
        };
        if self.context.pipeline.is_sequential()
            || self.purpose != Purpose::Factors
            || rank.get() > basis.vectors.ncols()
        {
            return Ok(None);
        }
        let vectors = basis.vectors.slice_axis(Axis(1), (..rank.get()).into()).to_owned();
        let made = Made::of(self.context, layer, weight, Basis { side: basis.side, vectors }, Some(metric))?;
        self.store.put_factors(index, &made.factors)?;
        let measured_error = made.measured_error(energy, room).map_err(|source| Error::decompose(layer, source))?;
        Ok(Some(Finished { rank: *rank, measured_error }))
    }

    /// What becomes of a layer with this spectrum: what is decided already stays, what an allocator decides is open.
    fn decide(&self, planned: &PlannedLayer, weight: &Array2<f32>, spectrum: &Spectrum) -> Result<Decision, Error> {
        if planned.decision != Decision::Open {
            return Ok(planned.decision.clone());
        }
        let (context, layer) = (self.context, &planned.layer);
        let read = || Ok(weight.clone());
        let statistics = context.metrics.reader(layer);
        let seen =
            LayerSpectrum::new(&layer.name, layer.shape, spectrum).with_weight(&read).with_statistics(&statistics);
        Ok(select(context.pipeline, planned.rule, layer, &seen)?.map_or(Decision::Open, Decision::from))
    }

    /// The largest ranks of which vectors may be asked.
    ///
    /// A decomposer whose spectra are complete whatever it is asked gets the same limit from every rule, so that what is kept serves all
    /// of them. In a metric the losses that a rule sees need a vector each.
    fn limits(&self, planned: &PlannedLayer, measured: bool) -> Limits {
        let (pipeline, layer) = (self.context.pipeline, &planned.layer);
        let asked = match self.purpose {
            Purpose::Spectra { whole: true } => layer.shape.full_rank(),
            _ => limit(pipeline, planned),
        };
        let pays = largest_that_pays(pipeline, layer);
        if !pipeline.decomposer.is_complete(layer.shape, asked) {
            return Limits { kept: asked, known: asked };
        }
        let kept = pays.max(planned.rank().unwrap_or(Rank::ONE));
        Limits { kept, known: if measured { pays.max(asked) } else { kept } }
    }
}

/// The largest rank at which factors are smaller than the layer; full rank where that does not count.
pub(crate) fn largest_that_pays(pipeline: &Pipeline, layer: &Layer) -> Rank {
    let full = layer.shape.full_rank();
    let pays = |rank: &Rank| !pipeline.layers.break_even || layer.cost.pays(*rank);
    (1..=full.get()).rev().filter_map(Rank::new).find(pays).unwrap_or(Rank::ONE)
}

/// The largest rank that the layer's rule can choose, whatever it has chosen: what is found does not depend on whether ranks
/// are known already. A plan may say more.
pub(crate) fn limit(pipeline: &Pipeline, planned: &PlannedLayer) -> Rank {
    let shape = planned.layer.shape;
    let bound = match (planned.rule, &pipeline.rank.value) {
        (Rule::Override(number), _) => {
            pipeline.overrides.get(number).map_or(shape.full_rank(), |chosen| chosen.rank.limit(shape))
        }
        (Rule::Main, RankRule::Selector(selector)) => selector.limit(shape),
        (Rule::Main, RankRule::Allocator(allocator)) => allocator.limit(shape),
    };
    // The rank multiple may round the choice up.
    let bound = Rank::clamped(bound.get().next_multiple_of(pipeline.layers.multiple.get()), shape);
    planned.rank().map_or(bound, |rank| rank.max(bound))
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
