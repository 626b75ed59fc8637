//! `calabi-cli run`: the main job.

use calabi::api::ConfigError;
use calabi::{Observer, Pipeline, Plan, Report, RunOptions, Shard, Target};

use crate::args::{Format, Phase, RunArgs};
use crate::failure::Failure;
use crate::print::FileTarget;
use crate::progress::Progress;
use crate::table::{report_text, short};
use crate::units::seconds;
use crate::{Ending, print};

pub(crate) fn run(args: &RunArgs) -> Result<Ending, Failure> {
    let pipeline = Pipeline::load(&args.pipeline.pipeline, &args.pipeline.set)?;
    let plan = args.plan.as_ref().map(|path| Plan::load(path, &pipeline)).transpose()?;
    let fail = |error| Failure::of(error, pipeline.source.as_ref());
    let reads = std::iter::once(&args.pipeline.pipeline).chain(&args.plan).cloned().collect();
    let options = RunOptions {
        force: args.force,
        plan,
        reads,
        work: args.work.clone(),
        memory: args.memory,
        ..args.pipeline.work.options()
    };
    let progress = Progress::new(args.pipeline.work.verbose);
    if let Some(shard) = &args.shard {
        return share(&pipeline, &options, (shard, args.phase), &progress).map_err(fail);
    }
    whole(&pipeline, &options, args.format, &progress)
}

/// Runs a pipeline to its end, and prints the report.
pub(super) fn whole(
    pipeline: &Pipeline,
    options: &RunOptions,
    format: Format,
    progress: &Progress,
) -> Result<Ending, Failure> {
    let report = reported(pipeline, options, progress)?;
    let printed = match format {
        Format::Human => print::text(&report_text(&report)),
        Format::Json => print::json(&report),
    };
    if !report.passed() {
        say_where(&report);
        return Ok(Ending::GateNotMet);
    }
    printed.map(|()| Ending::Done)
}

/// Runs a pipeline to its end, and writes the report where `[report]` says.
///
/// # Errors
/// As `calabi::run`, and where the report cannot be written.
pub fn reported(pipeline: &Pipeline, options: &RunOptions, observer: &dyn Observer) -> Result<Report, Failure> {
    let fail = |error| Failure::of(error, pipeline.source.as_ref());
    let json = report_target(pipeline, options).map_err(fail)?;
    let report = calabi::run(pipeline, options, observer).map_err(fail)?;
    json.map(|target| target.json(&report)).transpose()?;
    Ok(report)
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

/// Decomposes a share of the layers.
fn share(
    pipeline: &Pipeline,
    options: &RunOptions,
    (shard, phase): (&str, Option<Phase>),
    progress: &Progress,
) -> Result<Ending, calabi::Error> {
    let shard = if shard == "auto" { Shard::of_job(|name| std::env::var(name).ok())? } else { shard.parse()? };
    if phase == Some(Phase::Factors) && options.plan.as_ref().is_none_or(Plan::is_open) {
        let error = ConfigError::new("ranks are still open: factors need a plan that says all of them");
        return Err(error.with_help("after --phase spectra: calabi-cli plan --with-spectra --work DIR -o FILE").into());
    }
    let shared = calabi::run_share(pipeline, options, shard, progress)?;
    let layers = match shared.layers.len() {
        1 => "1 layer".to_owned(),
        count => format!("{count} layers"),
    };
    print::note(format_args!("shard {shard}: {layers} in the work store, {}", seconds(shared.seconds)));
    Ok(Ending::Done)
}
