//! `calabi-cli calibrate`: what flows into the layers of a model, written to a file that other runs read.

use calabi::{Pipeline, RunOptions};

use crate::args::CalibrateArgs;
use crate::failure::Failure;
use crate::progress::Progress;
use crate::units::{bytes, count};
use crate::{Ending, print};

pub(crate) fn calibrate(args: &CalibrateArgs) -> Result<Ending, Failure> {
    let pipeline = Pipeline::load(&args.pipeline.pipeline, &args.pipeline.set)?;
    let fail = |error| Failure::of(error, pipeline.source.as_ref());
    let reads = vec![args.pipeline.pipeline.clone()];
    let options = RunOptions { force: args.force, reads, ..args.pipeline.work.options() };
    let progress = Progress::new(args.pipeline.work.verbose);
    let gathered = calabi::calibrate(&pipeline, &args.output, &options, &progress).map_err(fail)?;
    print::text(&format!(
        "{} inputs of {} layers, {} samples: {} ({})\n",
        count(gathered.inputs as u64),
        count(gathered.layers as u64),
        count(gathered.samples as u64),
        gathered.file.display(),
        bytes(gathered.bytes),
    ))?;
    Ok(Ending::Done)
}
