//! The command line.

use std::path::PathBuf;

use calabi::{Assignment, ByteSize, RunOptions};
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

/// Makes neural networks smaller by low-rank factorization.
#[derive(Debug, Parser)]
#[command(name = "calabi-cli", version, about, propagate_version = true, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Compress a model, as a pipeline file says.
    Run(RunArgs),
    /// Run the model on the calibration data and write what flows into its layers to a file.
    Calibrate(CalibrateArgs),
    /// Show what a run would do: layers, costs, what is left alone and why.
    Plan(PlanArgs),
    /// Make the model of what the shards of a plan have decomposed.
    Merge(MergeArgs),
    /// Print the job script that runs a plan in shards on a cluster.
    Submit(SubmitArgs),
    /// Train the factors of a compressed language model on text, as [finetune] says; goes on where a run was interrupted.
    Finetune(FinetuneArgs),
    /// Measure the perplexity of a language model on a text.
    Eval(EvalArgs),
    /// Multiply the factors of a compressed checkpoint out, for runtimes without factors.
    Densify(DensifyArgs),
    /// List a model's layers by the names that patterns match, with shapes and types.
    Inspect(InspectArgs),
    /// List what can stand in a pipeline file; of one kind, its settings.
    Plugins(PluginsArgs),
    /// Remove what runs have kept in a folder that they were given with --work.
    Clean(CleanArgs),
    /// Print the JSON schema of the pipeline file.
    Schema,
    /// Read a model's spectra and print a commented pipeline that compresses it.
    Init(InitArgs),
}

/// What commands that read a pipeline share.
#[derive(Debug, ClapArgs)]
pub(crate) struct PipelineArgs {
    /// The pipeline file.
    pub(crate) pipeline: PathBuf,
    /// Change a setting: rank.keep=0.6. Setting a `kind` drops the settings of the former kind.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<Assignment>,
    #[command(flatten)]
    pub(crate) work: WorkArgs,
}

/// How work is done and shown.
#[derive(Debug, ClapArgs)]
pub(crate) struct WorkArgs {
    /// Threads to work on [default: one per processor].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// A line for every layer on stderr, also on a terminal.
    #[arg(short, long)]
    pub(crate) verbose: bool,
}

impl WorkArgs {
    /// How the engine is to work.
    pub(crate) fn options(&self) -> RunOptions {
        RunOptions { threads: self.threads.map(usize::from), ..RunOptions::default() }
    }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) pipeline: PipelineArgs,
    /// Replace an output that exists.
    #[arg(long)]
    pub(crate) force: bool,
    /// What is printed on stdout.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
    /// What the layers in work may take together: 4GiB. Layers wait until there is room; one too large alone is refused
    /// before any work. Without it they take what is free when the run begins; `plan` says what they take.
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<ByteSize>,
    /// Keep what is decomposed and measured in this folder: runs after this one take it from there.
    #[arg(long, value_name = "DIR")]
    pub(crate) work: Option<PathBuf>,
    /// Follow this plan, as `calabi-cli plan -o FILE` wrote it, edited or not.
    #[arg(long, value_name = "FILE")]
    pub(crate) plan: Option<PathBuf>,
    /// Decompose this share of the layers into the work store, and write no model: 0/4 is the first of four; `auto` reads it
    /// off the variables of an array job (Slurm) or an indexed job (Kubernetes).
    #[arg(long, value_name = "I/N", requires = "work")]
    pub(crate) shard: Option<String>,
    /// What a shard is for: the spectra that ranks are chosen by, or the factors of a plan without open ranks.
    #[arg(long, value_enum, requires = "shard")]
    pub(crate) phase: Option<Phase>,
}

/// What a shard is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Phase {
    /// Spectra: `plan --with-spectra --work DIR` chooses ranks by them.
    Spectra,
    /// Factors: no rank of the plan may be open.
    Factors,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct MergeArgs {
    /// The pipeline file [default: the one that the plan is of].
    pub(crate) pipeline: Option<PathBuf>,
    /// The plan that the shards followed.
    #[arg(long, value_name = "FILE")]
    pub(crate) plan: PathBuf,
    /// What the layers in work may take together: 4GiB. Layers wait until there is room; one too large alone is refused
    /// before any work. Without it they take what is free when the run begins; `plan` says what they take.
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<ByteSize>,
    /// The work store of the shards.
    #[arg(long, value_name = "DIR")]
    pub(crate) work: PathBuf,
    /// Replace an output that exists.
    #[arg(long)]
    pub(crate) force: bool,
    /// What is printed on stdout.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) how: WorkArgs,
}

#[derive(Debug, ClapArgs)]
#[command(group(clap::ArgGroup::new("cluster").required(true).args(["slurm", "kubernetes"])))]
pub(crate) struct SubmitArgs {
    /// For Slurm: an array job, and a job that merges once it is done.
    #[arg(long)]
    pub(crate) slurm: bool,
    /// For Kubernetes: an indexed job.
    #[arg(long)]
    pub(crate) kubernetes: bool,
    /// How many shards.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) shards: u32,
    /// Print the script: calabi submits nothing itself.
    #[arg(long, required = true)]
    pub(crate) print: bool,
    /// The plan, as every machine sees it.
    #[arg(long, value_name = "FILE", default_value = "plan.toml")]
    pub(crate) plan: PathBuf,
    /// The work store, as every machine sees it.
    #[arg(long, value_name = "DIR", default_value = "work")]
    pub(crate) work: PathBuf,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct CalibrateArgs {
    #[command(flatten)]
    pub(crate) pipeline: PipelineArgs,
    /// The file of statistics: name it in [calibration] statistics.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Replace a file that exists.
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct FinetuneArgs {
    #[command(flatten)]
    pub(crate) pipeline: PipelineArgs,
    /// Where the result goes [default: [finetune] output, else beside the compressed model].
    #[arg(short, long, value_name = "FOLDER")]
    pub(crate) output: Option<PathBuf>,
    /// Replace an output that exists.
    #[arg(long)]
    pub(crate) force: bool,
    /// What is printed on stdout.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) pipeline: PipelineArgs,
    /// Replace files that exist.
    #[arg(long)]
    pub(crate) force: bool,
    /// Write the plan to this file, to be edited and run.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Take what is decomposed already from this folder, and keep there what is not.
    #[arg(long, value_name = "DIR")]
    pub(crate) work: Option<PathBuf>,
    /// Decompose every layer and fill in the ranks.
    #[arg(long)]
    pub(crate) with_spectra: bool,
    /// Decompose every layer and write all singular values to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) spectra: Option<PathBuf>,
    /// What is printed on stdout.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct EvalArgs {
    /// A checkpoint folder or an ONNX graph, compressed or not.
    pub(crate) model: PathBuf,
    /// The text. It is tokenized once and cut into windows.
    #[arg(long, value_name = "FILE")]
    pub(crate) text: PathBuf,
    /// Tokens a window. Windows do not overlap; each scores all of its tokens but the first.
    #[arg(long, value_name = "TOKENS", default_value_t = 512, value_parser = clap::value_parser!(u32).range(2..))]
    pub(crate) window: u32,
    /// Only the first so many windows.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) windows: Option<u32>,
    /// The tokenizer [default: the model's own tokenizer.json].
    #[arg(long, value_name = "FILE")]
    pub(crate) tokenizer: Option<PathBuf>,
    /// What is printed on stdout.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) work: WorkArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DensifyArgs {
    /// A checkpoint that calabi compressed: a folder or a safetensors file.
    pub(crate) model: PathBuf,
    /// Where the dense checkpoint goes.
    pub(crate) output: PathBuf,
    /// Replace an output that exists.
    #[arg(long)]
    pub(crate) force: bool,
    /// Split the weights into files of at most this size: 5GB. Default: as the input is split.
    #[arg(long, value_name = "SIZE")]
    pub(crate) shard_size: Option<ByteSize>,
    /// What is printed on stdout.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) work: WorkArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct InspectArgs {
    /// An ONNX graph, a safetensors file, or a checkpoint folder.
    pub(crate) model: PathBuf,
    /// Decompose every layer and add a line about its spectrum.
    #[arg(long)]
    pub(crate) spectra: bool,
    #[command(flatten)]
    pub(crate) work: WorkArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct PluginsArgs {
    /// The kind to show in full.
    pub(crate) kind: Option<String>,
    /// What is printed on stdout.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct CleanArgs {
    /// The folder.
    #[arg(long, value_name = "DIR")]
    pub(crate) work: PathBuf,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct InitArgs {
    /// An ONNX graph, a safetensors file, or a checkpoint folder.
    pub(crate) model: PathBuf,
    /// Write the pipeline to this file instead of stdout.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) work: WorkArgs,
}

/// What is printed on stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// A table.
    #[default]
    Human,
    /// One JSON object.
    Json,
}
