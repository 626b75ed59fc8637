//! `calabi-cli init`: a commented pipeline whose rule really compresses the model, found by looking at its spectra.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use calabi::api::settings::Fraction;
use calabi::api::{ConfigError, RankRule, Spectrum};
use calabi::rank::{Budget, Combined, Energy};
use calabi::{Pipeline, Sited};

use crate::args::InitArgs;
use crate::failure::Failure;
use crate::print::FileTarget;
use crate::progress::Progress;
use crate::{Ending, print};

/// A rule is worth proposing from this share of removed parameters on, in percent.
const WORTHWHILE: f64 = 10.0;

pub(crate) fn init(args: &InitArgs) -> Result<Ending, Failure> {
    let model = calabi::locate(&args.model)?;
    let source = calabi::open_model(&model, None)?;
    if source.layers().is_empty() {
        return Err(ConfigError::new(format!("{} has no layer that can be factorized", args.model.display()))
            .with_help("`calabi-cli inspect` says why")
            .into());
    }
    if args.model.to_str().is_none() {
        return Err(ConfigError::new("the model's path is not UTF-8: a pipeline file cannot name it").into());
    }
    let target =
        args.output.as_ref().map(|path| FileTarget::check(path, std::slice::from_ref(&model), false)).transpose()?;
    let rule = choose(Spectra::take(args, &model)?, source.totals().cost.parameters)?;
    let text = pipeline_text(args, &rule, source.layers().len());
    match target {
        None => print::text(&text)?,
        Some(target) => target.text(&text)?,
    }
    Ok(Ending::Done)
}

/// The model's spectra, and a pipeline in which one rule after the other is tried on them.
struct Spectra {
    pipeline: Pipeline,
    spectra: Vec<Option<Spectrum>>,
}

impl Spectra {
    fn take(args: &InitArgs, model: &Path) -> Result<Self, Failure> {
        let pipeline = Pipeline::new(model, "", Energy { threshold: fraction(0.99)? });
        let (_, spectra) = calabi::spectra(&pipeline, &args.work.options(), true, &Progress::new(args.work.verbose))?;
        Ok(Self { pipeline, spectra })
    }

    /// The parameters that a rule removes.
    fn removed_by(&mut self, rule: RankRule) -> Result<u64, Failure> {
        self.pipeline.rank = Sited::from(rule);
        let plan = calabi::plan_with(&self.pipeline, &self.spectra)?;
        Ok(plan.layers.iter().map(|l| l.layer.cost.dense.parameters.saturating_sub(l.cost().parameters)).sum())
    }
}

/// The lines of `[rank]`, comments included: the first rule that is worth it, measured as it is written.
fn choose(mut spectra: Spectra, parameters: u64) -> Result<String, Failure> {
    let mut tried = String::new();
    let percent = |removed: u64| 100.0 * removed as f64 / parameters.max(1) as f64;
    for energy in [0.99, 0.95, 0.9] {
        let rule = RankRule::Selector(Box::new(Combined::new(fraction(energy)?)));
        let removed = percent(spectra.removed_by(rule)?);
        let kept = 100.0 * energy;
        let _ = writeln!(
            tried,
            "# `combined` with {kept:.0} % of every layer's energy removes {removed:.1} % of the model"
        );
        if removed >= WORTHWHILE {
            return Ok(format!(
                "{tried}# it takes the gap in the spectrum near that rank, and the rank itself where there is none\n\
                 kind = \"combined\"\nenergy = {energy}\n"
            ));
        }
    }
    for keep in [0.8, 0.6, 0.4, 0.2] {
        let budget = RankRule::Allocator(Box::new(Budget::new(fraction(keep)?)));
        // A model of few small layers may have no ranks for a budget this large: the next one is tried.
        let removed = spectra.removed_by(budget).map_or(0.0, percent);
        if removed > 0.0 {
            return Ok(format!(
                "{tried}# so the spectra are flat: a budget says the size, and finds what each layer can spare\n\
                 # this one removes {removed:.1} % of the model; `calabi-cli plan --with-spectra` shows what it does to each layer\n\
                 kind = \"budget\"\nkeep = {keep}          # share of the selected layers' parameters that stays\n"
            ));
        }
    }
    Err(ConfigError::new("no layer of this model becomes smaller by factorization")
        .with_help("`calabi-cli inspect` shows each layer's break-even rank")
        .into())
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
        model = args.model.display().to_string().escape_debug(),
        input = text(&relative_to_file(args)),
        output = text(&output),
    )
}

/// The model's path as the pipeline file has to name it: relative to the file's folder, or its name on the hub.
fn relative_to_file(args: &InitArgs) -> PathBuf {
    match &args.output {
        _ if calabi::is_hosted(&args.model) => args.model.clone(),
        None => args.model.clone(),
        Some(file) if file.parent().is_none_or(|parent| parent.as_os_str().is_empty()) => args.model.clone(),
        Some(_) => std::path::absolute(&args.model).unwrap_or_else(|_| args.model.clone()),
    }
}

fn output_for(model: &Path) -> PathBuf {
    if calabi::is_hosted(model) {
        let named = model.to_string_lossy();
        let model = named.split('@').next().unwrap_or_default();
        return PathBuf::from(format!("{}-small", model.rsplit(['/', ':']).next().unwrap_or_default()));
    }
    let stem = model.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    match model.extension() {
        Some(extension) if model.is_file() => PathBuf::from(format!("{stem}.small.{}", extension.to_string_lossy())),
        _ => PathBuf::from(format!("{}-small", model.file_name().unwrap_or_default().to_string_lossy())),
    }
}
