//! `calabi-cli run`: the main job.

use std::path::PathBuf;

use calabi::{Pipeline, Plan, Report, RunOptions};

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
    let json = report_target(args, &pipeline).map_err(fail)?;
    let threads = args.pipeline.work.threads.map(usize::from);
    let mut reads = vec![args.pipeline.pipeline.clone()];
    reads.extend(args.plan.clone());
    let options = RunOptions { threads, force: args.force, plan, reads };
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
fn report_target(args: &RunArgs, pipeline: &Pipeline) -> Result<Option<FileTarget>, calabi::Error> {
    let Some(path) = &pipeline.report.json else { return Ok(None) };
    let mut taken = calabi::open_model(&pipeline.model.input, pipeline.model.format.as_deref().map(String::as_str))
        .map(|source| source.totals().files)
        .unwrap_or_default();
    taken.insert(0, pipeline.model.input.value.clone());
    taken.push(args.pipeline.pipeline.clone());
    taken.extend(args.plan.clone());
    if same_name(path, &pipeline.model.output) {
        let error = calabi::api::ConfigError::new(format!("the report {} would replace the output", path.display()));
        return Err(error.with_help("name another file in [report] json").into());
    }
    Ok(Some(FileTarget::check(path, &taken, args.force)?))
}

/// Whether two paths name the same place, as far as their folders exist.
fn same_name(a: &std::path::Path, b: &std::path::Path) -> bool {
    let whole = |path: &std::path::Path| -> Option<PathBuf> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(std::path::Path::new("."));
        Some(parent.canonicalize().ok()?.join(path.file_name()?))
    };
    a == b || whole(a).is_some_and(|a| whole(b) == Some(a))
}

fn say_where(report: &Report) {
    let place = short(&report.output);
    print::note(format_args!("a gate of [verify] is not met: the model is at {}, not in its place", place.display()));
}
