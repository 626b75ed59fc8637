//! `calabi-cli run`: the main job.

use calabi::{Pipeline, Plan, RunOptions};

use crate::args::{Format, RunArgs};
use crate::failure::Failure;
use crate::progress::Progress;
use crate::table::report_text;
use crate::{Ending, print};

pub(crate) fn run(args: &RunArgs) -> Result<Ending, Failure> {
    let pipeline = Pipeline::load(&args.pipeline.pipeline, &args.pipeline.set)?;
    let plan = args.plan.as_ref().map(|path| Plan::load(path, &pipeline)).transpose()?;
    let threads = args.pipeline.work.threads.map(std::num::NonZeroUsize::get);
    let options = RunOptions { threads, force: args.force, plan };
    let progress = Progress::new(args.pipeline.work.verbose);
    let report =
        calabi::run(&pipeline, &options, &progress).map_err(|error| Failure::of(error, pipeline.source.as_ref()))?;
    if let Some(path) = &pipeline.report.json {
        print::json_file(path, &report)?;
    }
    match args.format {
        Format::Human => print::text(&report_text(&report))?,
        Format::Json => print::json(&report)?,
    }
    if report.passed() {
        return Ok(Ending::Done);
    }
    let failed = crate::table::short(&report.output);
    anstream::eprintln!("a gate of [verify] is not met: the model is at {}, not in its place", failed.display());
    Ok(Ending::GateNotMet)
}
