//! `calabi-cli plan`: what a run would do, in a moment; with spectra when asked for.

use std::collections::BTreeMap;
use std::path::PathBuf;

use calabi::api::Spectrum;
use calabi::{Pipeline, Plan, RunOptions};

use crate::args::{Format, PlanArgs};
use crate::estimates::Estimates;
use crate::failure::Failure;
use crate::print::FileTarget;
use crate::progress::Progress;
use crate::table::{plan_json, plan_text};
use crate::{Ending, print};

pub(crate) fn plan(args: &PlanArgs) -> Result<Ending, Failure> {
    let pipeline = Pipeline::load(&args.pipeline.pipeline, &args.pipeline.set)?;
    let fail = |error| Failure::of(error, pipeline.source.as_ref());
    let taken = taken(args, &pipeline).map_err(fail)?;
    let check =
        |path: &Option<PathBuf>| path.as_ref().map(|path| FileTarget::check(path, &taken, args.force)).transpose();
    let (plan_file, spectra_file) = (check(&args.output)?, check(&args.spectra)?);
    let (plan, spectra) = make(args, &pipeline).map_err(fail)?;
    if let Some(file) = spectra_file {
        file.json(&by_name(&plan, &spectra))?;
    }
    if let Some(file) = plan_file {
        file.text(&plan.to_text_of(&args.pipeline.pipeline, &args.pipeline.set))?;
    }
    let estimates = Estimates::of(&plan, &pipeline, &options(args));
    match args.format {
        Format::Human => print::text(&plan_text(&plan, &spectra, &estimates))?,
        Format::Json => print::json(&plan_json(&plan, &spectra, &estimates))?,
    }
    Ok(Ending::Done)
}

/// What the command reads, where it writes a file: nothing of it is written over.
fn taken(args: &PlanArgs, pipeline: &Pipeline) -> Result<Vec<PathBuf>, calabi::Error> {
    if args.output.is_none() && args.spectra.is_none() {
        return Ok(Vec::new());
    }
    let mut taken = calabi::reads(pipeline)?;
    taken.push(args.pipeline.pipeline.clone());
    Ok(taken)
}

fn make(args: &PlanArgs, pipeline: &Pipeline) -> Result<(Plan, Vec<Option<Spectrum>>), calabi::Error> {
    if !args.with_spectra && args.spectra.is_none() {
        let plan = calabi::plan(pipeline)?;
        let none = vec![None; plan.layers.len()];
        return Ok((plan, none));
    }
    let whole = args.spectra.is_some();
    calabi::spectra(pipeline, &options(args), whole, &Progress::new(args.pipeline.work.verbose))
}

fn options(args: &PlanArgs) -> RunOptions {
    RunOptions { work: args.work.clone(), ..args.pipeline.work.options() }
}

/// All singular values of each decomposed layer, by its name.
fn by_name<'a>(plan: &'a Plan, spectra: &'a [Option<Spectrum>]) -> BTreeMap<&'a str, &'a [f64]> {
    let layers = plan.layers.iter().zip(spectra);
    layers.filter_map(|(planned, spectrum)| Some((&*planned.layer.name, spectrum.as_ref()?.values()))).collect()
}
