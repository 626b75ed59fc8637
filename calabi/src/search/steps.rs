//! One step of a search: a model of other ranks is written aside, compared, and removed.

use std::fs;

use calabi_api::settings::Fraction;
use calabi_api::{ConfigError, RankRule};

use super::{Range, SearchReport, smallest_keep};
use crate::choose::{Known, allocate_by};
use crate::decompose::Context;
use crate::staging::Staging;
use crate::substitute::{Ready, substitute};
use crate::verify::Verifier;
use crate::verify::gates::Gate;
use crate::{Error, Observer, Pipeline, Plan, SearchSettings, Sited, Stage};

/// Lets `[search]` decide about the layers that are still open: the plan of the smallest share that passes its gate.
/// Spectra and bases are those of the run, each layer fitted by itself; none where the pipeline has no search.
pub(crate) fn search(
    context: &Context<'_>,
    plan: &mut Plan,
    known: &Known<'_>,
    (ready, staging): (Ready<'_>, &Staging),
    verifier: Option<&mut Verifier<'_>>,
) -> Result<Option<SearchReport>, Error> {
    let (Some(settings), Some(verifier)) = (&context.pipeline.search, verifier) else { return Ok(None) };
    let Some(&gate) = settings.gates().first() else { return Ok(None) };
    if !plan.is_open() {
        let error = ConfigError::new("[search] has nothing to decide: every layer's rank is stated");
        return Err(error.with_help("leave [search] out, or some layers open").at(settings.span.clone()).into());
    }
    let range = Range::of(settings);
    context.observer.begin(Stage::Search, range.most_steps());
    let found = smallest_keep(range, gate, &mut |keep| {
        let trial = match planned(context, plan, known, settings, keep) {
            Ok(trial) => trial,
            // Too small a budget for any ranks: the search goes on among larger ones.
            Err(Error::Select { .. }) if keep < range.max => return Ok(f64::NAN),
            Err(error) => return Err(error),
        };
        let figure = measured(context, &trial, (ready, staging), verifier, gate)?;
        let verdict = if gate.meets(figure) { "met" } else { "not met" };
        context.observer.step(Stage::Search, &format!("keep {keep}: {} {figure:.5}, {verdict}", gate.name()));
        Ok(figure)
    })
    .map_err(|error| at(error, settings))?;
    context.observer.end(Stage::Search);
    *plan = planned(context, plan, known, settings, found.keep)?;
    Ok(Some(found))
}

/// The plan whose open layers share this budget.
fn planned(
    context: &Context<'_>,
    plan: &Plan,
    known: &Known<'_>,
    settings: &Sited<SearchSettings>,
    keep: f64,
) -> Result<Plan, Error> {
    let pipeline = context.pipeline;
    let allocator = match &pipeline.rank.value {
        RankRule::Allocator(allocator) => Fraction::new(keep).and_then(|keep| allocator.with_keep(keep)),
        RankRule::Selector(_) => None,
    };
    let allocator = allocator.ok_or_else(|| no_keep(settings))?;
    let mut trial = plan.clone();
    allocate_by(pipeline, &mut trial, known, &*allocator)?;
    Ok(trial)
}

/// What the gate looks at for a model of this plan.
fn measured(
    context: &Context<'_>,
    plan: &Plan,
    (ready, staging): (Ready<'_>, &Staging),
    verifier: &mut Verifier<'_>,
    gate: Gate,
) -> Result<f64, Error> {
    let quiet = Quiet(context.observer);
    let context = Context { observer: &quiet, ..*context };
    let model = staging.trial();
    let folder = model.parent().unwrap_or(&model);
    fs::create_dir(folder).map_err(|e| Error::io("create", folder, e))?;
    substitute(&context, plan, ready, &model)?;
    let figures = verifier.figures(&model, 1, &quiet);
    fs::remove_dir_all(folder).map_err(|e| Error::io("remove", folder, e))?;
    Ok(gate.measured(&figures?))
}

/// Checks what `[search]` asks of the rest of a pipeline.
pub(crate) fn check(pipeline: &Pipeline) -> Result<(), ConfigError> {
    let Some(settings) = &pipeline.search else { return Ok(()) };
    super::check_settings(settings)?;
    if pipeline.verify.as_ref().is_none_or(|verify| verify.data.is_none()) {
        return Err(ConfigError::new("[search] needs [verify] with `data`: it measures on that")
            .with_help("add [verify] data = \"held-out.npz\"")
            .at(settings.span.clone()));
    }
    let has_keep = match &pipeline.rank.value {
        RankRule::Allocator(allocator) => Fraction::new(1.0).is_some_and(|keep| allocator.with_keep(keep).is_some()),
        RankRule::Selector(_) => false,
    };
    if has_keep { Ok(()) } else { Err(no_keep(settings)) }
}

fn no_keep(settings: &Sited<SearchSettings>) -> ConfigError {
    ConfigError::new("[search] looks for the smallest `keep`, and the rule of [rank] has none")
        .with_help("write [rank] kind = \"budget\"")
        .at(settings.span.clone())
}

fn at(error: Error, settings: &Sited<SearchSettings>) -> Error {
    match error {
        Error::Config(error) => error.at(settings.span.clone()).into(),
        other => other,
    }
}

/// Passes on nothing but the wish to end.
struct Quiet<'a>(&'a dyn Observer);

impl Observer for Quiet<'_> {
    fn cancelled(&self) -> bool {
        self.0.cancelled()
    }
}
