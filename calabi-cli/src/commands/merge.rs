//! `calabi-cli merge`: the model of what shards have decomposed.

use calabi::{Pipeline, Plan, RunOptions};

use super::run::whole;
use crate::Ending;
use crate::args::MergeArgs;
use crate::failure::Failure;
use crate::progress::Progress;

pub(crate) fn merge(args: &MergeArgs) -> Result<Ending, Failure> {
    let (file, set) = match &args.pipeline {
        Some(pipeline) => (pipeline.clone(), Plan::origin(&args.plan).map_or(Vec::new(), |(_, set)| set)),
        None => Plan::origin(&args.plan)?,
    };
    let pipeline = Pipeline::load(&file, &set)?;
    let plan = Plan::load(&args.plan, &pipeline)?;
    let options = RunOptions {
        force: args.force,
        plan: Some(plan),
        reads: vec![file, args.plan.clone()],
        work: Some(args.work.clone()),
        memory: args.memory,
        merge: true,
        ..args.how.options()
    };
    whole(&pipeline, &options, args.format, &Progress::new(args.how.verbose))
}
