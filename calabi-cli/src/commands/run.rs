//! `calabi-cli run`: the main job.

use calabi::api::ConfigError;
use calabi::{Pipeline, Plan, Report, RunOptions, Target};

use crate::args::{Format, RunArgs};
use crate::failure::Failure;
use crate::print::FileTarget;
use crate::progress::Progress;
use crate::table::{report_text, short};
use crate::{Ending, print};

pub(crate) fn run(args: &RunArgs) -> Result<Ending, Failure> {
    let pipeline = Pipeline::load(&args.pipeline.pipeline, &args.pipeline.set)?;
    let plan = args.plan.as_ref().map(|path| Plan::load(path, &pipeline)).transpose()?;
    let fail = |error| Failure::of(error, pipeline.source.as_ref());
    let reads = std::iter::once(&args.pipeline.pipeline).chain(&args.plan).cloned().collect();
    let options =
        RunOptions { force: args.force, plan, reads, work: args.work.clone(), ..args.pipeline.work.options() };
    let json = report_target(&pipeline, &options).map_err(fail)?;
    let progress = Progress::new(args.pipeline.work.verbose);
    let report = calabi::run(&pipeline, &options, &progress).map_err(fail)?;
    let printed = match args.format {
        Format::Human => print::text(&report_text(&report)),
        Format::Json => print::json(&report),
    };
    json.map(|target| target.json(&report)).transpose()?;
    if !report.passed() {
        say_where(&report);
        return Ok(Ending::GateNotMet);
    }
    printed.map(|()| Ending::Done)
}

/// Where the report goes besides stdout, checked before any work.
fn report_target(pipeline: &Pipeline, options: &RunOptions) -> Result<Option<FileTarget>, calabi::Error> {
    let Some(path) = &pipeline.report.json else { return Ok(None) };
    let mut taken = calabi::reads(pipeline)?;
    taken.extend(options.reads.clone());
    let place = |path| Target { path, span: None, taken: &taken, force: options.force }.resolved();
    if place(path)? == place(&pipeline.model.output.value)? {
        let error = ConfigError::new(format!("the report {} would replace the output", path.display()));
        return Err(error.with_help("name another file in [report] json").into());
    }
    Ok(Some(FileTarget::check(path, &taken, options.force)?))
}

fn say_where(report: &Report) {
    let place = short(&report.output);
    print::note(format_args!("a gate of [verify] is not met: the model is at {}, not in its place", place.display()));
}
