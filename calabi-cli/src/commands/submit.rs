//! `calabi-cli submit`: the job script that runs a plan in shards.

use std::path::Path;

use calabi::Plan;

use crate::args::SubmitArgs;
use crate::failure::Failure;
use crate::{Ending, print};

pub(crate) fn submit(args: &SubmitArgs) -> Result<Ending, Failure> {
    let (pipeline, _) = Plan::origin(&args.plan)?;
    let script = if args.slurm { slurm(args, &pipeline) } else { kubernetes(args, &pipeline) };
    print::text(&script)?;
    Ok(Ending::Done)
}

/// A path as one word of a shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}

fn slurm(args: &SubmitArgs, pipeline: &Path) -> String {
    let SubmitArgs { shards, plan, work, .. } = args;
    let (pipeline, plan, work) = (quoted(pipeline), quoted(plan), quoted(work));
    format!(
        "#!/bin/sh\n\
         # calabi-cli submit --slurm --shards {shards} --print > shards.sh\n\
         # array=$(sbatch --parsable shards.sh)\n\
         # sbatch --dependency=afterok:$array --wrap \"calabi-cli merge --plan {plan} --work {work}\"\n\
         # A shard that failed: sbatch --array=INDEX shards.sh\n\
         #SBATCH --job-name=calabi\n\
         #SBATCH --array=0-{last}\n\
         export CALABI_SHARDS={shards}\n\
         exec calabi-cli run {pipeline} --plan {plan} --work {work} --shard auto \\\n    \
         --threads \"${{SLURM_CPUS_PER_TASK:-1}}\"\n",
        last = shards - 1,
    )
}

fn kubernetes(args: &SubmitArgs, pipeline: &Path) -> String {
    let SubmitArgs { shards, plan, work, .. } = args;
    let [pipeline, plan, work] = [pipeline, plan, work].map(|path| path.display().to_string());
    let command = ["calabi-cli", "run", &pipeline, "--plan", &plan, "--work", &work, "--shard", "auto"];
    // A list of strings in JSON is one in YAML.
    let command = serde_json::json!(command);
    format!(
        "# calabi-cli submit --kubernetes --shards {shards} --print | kubectl apply -f -\n\
         # The image and the volume are yours to name: every pod needs the model, the plan and the work store.\n\
         apiVersion: batch/v1\n\
         kind: Job\n\
         metadata:\n  \
           name: calabi\n\
         spec:\n  \
           completions: {shards}\n  \
           parallelism: {shards}\n  \
           completionMode: Indexed\n  \
           template:\n    \
             spec:\n      \
               restartPolicy: OnFailure\n      \
               containers:\n        \
                 - name: calabi\n          \
                   image: calabi-cli\n          \
                   command: {command}\n          \
                   env:\n            \
                     - name: CALABI_SHARDS\n              \
                       value: \"{shards}\"\n          \
                   volumeMounts:\n            \
                     - name: models\n              \
                       mountPath: /models\n      \
               volumes:\n        \
                 - name: models\n          \
                   persistentVolumeClaim:\n            \
                     claimName: models\n",
    )
}
