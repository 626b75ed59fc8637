//! `calabi-cli plan`: what a run would do, in a moment; with spectra when asked for.

use std::collections::BTreeMap;

use calabi::api::Spectrum;
use calabi::{Pipeline, Plan, RunOptions};

use crate::args::{Format, PlanArgs};
use crate::failure::Failure;
use crate::progress::Progress;
use crate::table::{plan_json, plan_text};
use crate::{Ending, print};

pub(crate) fn plan(args: &PlanArgs) -> Result<Ending, Failure> {
    let pipeline = Pipeline::load(&args.pipeline.pipeline, &args.pipeline.set)?;
    let (plan, spectra) = make(args, &pipeline).map_err(|error| Failure::of(error, pipeline.source.as_ref()))?;
    if let Some(path) = &args.spectra {
        print::json_file(path, &by_name(&plan, &spectra))?;
    }
    if let Some(path) = &args.output {
        print::file(path, &plan.to_text())?;
    }
    match args.format {
        Format::Human => print::text(&plan_text(&plan, &spectra))?,
        Format::Json => print::json(&plan_json(&plan, &spectra))?,
    }
    Ok(Ending::Done)
}

fn make(args: &PlanArgs, pipeline: &Pipeline) -> Result<(Plan, Vec<Option<Spectrum>>), calabi::Error> {
    if !args.with_spectra && args.spectra.is_none() {
        let plan = calabi::plan(pipeline)?;
        let none = vec![None; plan.layers.len()];
        return Ok((plan, none));
    }
    let threads = args.pipeline.work.threads.map(std::num::NonZeroUsize::get);
    let options = RunOptions { threads, ..RunOptions::default() };
    calabi::spectra(pipeline, &options, &Progress::new(args.pipeline.work.verbose))
}

/// All singular values of each decomposed layer, by its name.
fn by_name<'a>(plan: &'a Plan, spectra: &'a [Option<Spectrum>]) -> BTreeMap<&'a str, &'a [f64]> {
    let layers = plan.layers.iter().zip(spectra);
    layers.filter_map(|(planned, spectrum)| Some((&*planned.layer.name, spectrum.as_ref()?.values()))).collect()
}
