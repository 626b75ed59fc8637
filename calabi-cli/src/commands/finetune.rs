//! `calabi-cli finetune`: the factors of a compressed language model trained on text.

use calabi::{FinetuneOptions, FinetuneReport, Pipeline};

use crate::args::{FinetuneArgs, Format};
use crate::failure::Failure;
use crate::progress::Progress;
use crate::table::short;
use crate::units::{change, count, seconds};
use crate::{Ending, print};

pub(crate) fn finetune(args: &FinetuneArgs) -> Result<Ending, Failure> {
    let pipeline = Pipeline::load(&args.pipeline.pipeline, &args.pipeline.set)?;
    let fail = |error| Failure::of(error, pipeline.source.as_ref());
    let options = FinetuneOptions {
        output: args.output.clone(),
        threads: args.pipeline.work.options().threads,
        force: args.force,
        reads: vec![args.pipeline.pipeline.clone()],
    };
    let report = calabi::finetune(&pipeline, &options, &Progress::new(args.pipeline.work.verbose)).map_err(fail)?;
    match args.format {
        Format::Human => print::text(&text(&report))?,
        Format::Json => print::json(&report)?,
    }
    Ok(Ending::Done)
}

fn text(report: &FinetuneReport) -> String {
    let (before, after) = (report.perplexity_before, report.perplexity_after);
    let kept = if report.gained { "trained" } else { "nothing was gained: a copy of the compressed model" };
    format!(
        "perplexity on the text that was kept out of the training: {before:.3} -> {after:.3} ({})\n\
         {} steps, {} tokens, {}\n\
         {}: {kept}\n",
        change(before, after),
        count(report.steps as u64),
        count(report.tokens),
        seconds(report.seconds),
        short(&report.output).display(),
    )
}
