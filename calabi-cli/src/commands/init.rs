//! `calabi-cli init`: a commented pipeline whose rule really compresses the model, found by looking at its spectra.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use calabi::api::settings::Fraction;
use calabi::api::{ConfigError, RankRule, Spectrum};
use calabi::rank::{Budget, Energy};
use calabi::{Pipeline, RunOptions, Sited};

use crate::args::InitArgs;
use crate::failure::Failure;
use crate::progress::Progress;
use crate::{Ending, print};

/// A rule is worth proposing from this share of removed parameters on.
const WORTHWHILE: f64 = 0.10;

pub(crate) fn init(args: &InitArgs) -> Result<Ending, Failure> {
    let source = calabi::open_model(&args.model, None)?;
    if source.layers().is_empty() {
        return Err(ConfigError::new(format!("{} has no layer that can be factorized", args.model.display()))
            .with_help("`calabi-cli inspect` says why")
            .into());
    }
    let rule = choose(Spectra::take(args)?, source.totals().cost.parameters)?;
    let text = pipeline_text(args, &rule, source.layers().len());
    match &args.output {
        None => print::text(&text)?,
        Some(path) if path.exists() => {
            let error = ConfigError::new(format!("{} exists already", path.display()));
            return Err(error.with_help("name another file").into());
        }
        Some(path) => print::file(path, &text)?,
    }
    Ok(Ending::Done)
}

/// The model's spectra, and a pipeline in which one rule after the other is tried on them.
struct Spectra {
    pipeline: Pipeline,
    spectra: Vec<Option<Spectrum>>,
}

impl Spectra {
    fn take(args: &InitArgs) -> Result<Self, Failure> {
        let pipeline = Pipeline::new(&args.model, "", Energy { threshold: fraction(0.99)? });
        let threads = args.work.threads.map(std::num::NonZeroUsize::get);
        let options = RunOptions { threads, ..RunOptions::default() };
        let (_, spectra) = calabi::spectra(&pipeline, &options, &Progress::new(args.work.verbose))?;
        Ok(Self { pipeline, spectra })
    }

    /// The parameters that a rule removes.
    fn removed_by(&mut self, rule: RankRule) -> Result<u64, Failure> {
        self.pipeline.rank = Sited::from(rule);
        let plan = calabi::plan_with(&self.pipeline, &self.spectra)?;
        Ok(plan.layers.iter().map(|l| l.layer.cost.dense.parameters.saturating_sub(l.cost().parameters)).sum())
    }
}

/// The lines of `[rank]`, comments included.
fn choose(mut spectra: Spectra, parameters: u64) -> Result<String, Failure> {
    let mut tried = String::new();
    let share = |removed: u64| removed as f64 / parameters.max(1) as f64;
    for energy in [0.99, 0.95, 0.9] {
        let removed = share(spectra.removed_by(RankRule::Selector(Box::new(Energy { threshold: fraction(energy)? })))?);
        let (kept, percent) = (100.0 * energy, 100.0 * removed);
        let _ = writeln!(tried, "# keeping {kept:.0} % of every layer's energy removes {percent:.1} % of the model");
        if removed >= WORTHWHILE {
            return Ok(format!(
                "{tried}# `combined` looks for a gap in the spectrum near that rank, and takes the rank where there is none\n\
                 kind = \"combined\"\nenergy = {energy}\n"
            ));
        }
    }
    let keep = 0.8;
    let budget = RankRule::Allocator(Box::new(Budget::new(fraction(keep)?)));
    let percent = 100.0 * share(spectra.removed_by(budget)?);
    Ok(format!(
        "{tried}# so the spectra are flat: a budget says the size, and finds what each layer can spare\n\
         # this one removes {percent:.1} % of the model; `calabi-cli plan --with-spectra` shows what it does to each layer\n\
         kind = \"budget\"\nkeep = {keep}          # share of the selected layers' parameters that stays\n"
    ))
}

fn fraction(value: f64) -> Result<Fraction, Failure> {
    Fraction::new(value).ok_or_else(|| ConfigError::new(format!("{value} is no share")).into())
}

fn pipeline_text(args: &InitArgs, rule: &str, layers: usize) -> String {
    let text = |path: &Path| serde_json::Value::from(path.to_string_lossy()).to_string();
    let output = output_for(&args.model);
    format!(
        "# A pipeline of calabi for {model}: {layers} layers can be factorized\n\
         # run it: calabi-cli run PIPELINE; change a setting for once: --set rank.keep=0.6\n\
         \n\
         [model]                        # paths are relative to this file\n\
         input = {input}\n\
         output = {output}\n\
         \n\
         [layers]                       # patterns over whole names; `calabi-cli inspect` prints the names\n\
         include = [\"*\"]\n\
         exclude = []\n\
         \n\
         [rank]                         # `calabi-cli plugins` lists the rules\n\
         {rule}",
        model = args.model.display(),
        input = text(&relative_to_file(args)),
        output = text(&output),
    )
}

/// The model's path as the pipeline file has to name it: relative to the file's folder.
fn relative_to_file(args: &InitArgs) -> PathBuf {
    match &args.output {
        None => args.model.clone(),
        Some(file) if file.parent().is_none_or(|parent| parent.as_os_str().is_empty()) => args.model.clone(),
        Some(_) => std::path::absolute(&args.model).unwrap_or_else(|_| args.model.clone()),
    }
}

fn output_for(model: &Path) -> PathBuf {
    let stem = model.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    match model.extension() {
        Some(extension) if model.is_file() => PathBuf::from(format!("{stem}.small.{}", extension.to_string_lossy())),
        _ => PathBuf::from(format!("{}-small", model.file_name().unwrap_or_default().to_string_lossy())),
    }
}
