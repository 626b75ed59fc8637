//! The work of a fine-tuning: places, windows, training, writing.

use std::fs;
use std::path::{Path, PathBuf};

use calabi_api::settings::Positive;
use calabi_api::{ConfigError, LayerSource, RunError, Runtime, Samples, WriteOptions, Written};
use calabi_nn::{HfRuntime, TrainLimit, TrainObjective, TrainSettings, Trained};

use super::told::Told;
use super::{FinetuneOptions, FinetuneReport};
use crate::data::{self, DataRequest};
use crate::pipeline::{FINETUNE_MINUTES, FinetuneObjective, FinetuneSettings};
use crate::staging::{Places, Staging, with_suffix};
use crate::{Error, Observer, Pipeline, Sited, Stage, Target, open_model};

/// Trains the compressed model and writes the result.
pub(super) fn trained(
    pipeline: &Pipeline,
    settings: &Sited<FinetuneSettings>,
    options: &FinetuneOptions,
    observer: &dyn Observer,
) -> Result<FinetuneReport, Error> {
    let model = &pipeline.model.output.value;
    if !HfRuntime::default().detect(model) {
        let problem = format!("{} is no checkpoint folder, and nothing else is trained", model.display());
        let help = "compress a checkpoint folder: ONNX graphs and single files run, but not backwards";
        return Err(ConfigError::new(problem).with_help(help).at(pipeline.model.output.span.clone()).into());
    }
    let fail = |source: RunError| Error::Finetune { source: Box::new(source), span: settings.span.clone() };
    let source = open_model(model, None)?;
    let (places, state) = places(pipeline, settings, options, &*source)?;
    let samples = windows(settings, model).map_err(fail)?;
    let staging = Staging::beside(places)?;
    let teacher = Some(&*pipeline.model.input.value);
    let mut told = Told::new(observer, settings.objective);
    observer.begin(Stage::Finetune, 0);
    let trained =
        calabi_nn::train(model, teacher, &samples, &train_settings(settings), &state, &mut |event| told.tell(event));
    let Some(mut trained) = trained.map_err(fail)? else {
        observer.note(Stage::Finetune, "interrupted: the same command goes on from here");
        return Err(Error::Cancelled);
    };
    let held_out = settings.held_out.get();
    let (written, after) = loop {
        let written = write(&*source, &trained, &staging.model())?;
        let after = calabi_nn::held_out_loss(&staging.model(), &samples, held_out).map_err(fail)?;
        if after <= trained.held_out.0 || trained.tensors.is_empty() {
            break (written, after);
        }
        // Rounded to the type of the file, what was gained is lost: the model stays as it was.
        trained.tensors.clear();
        let written = staging.model();
        fs::remove_dir_all(&written).map_err(|error| Error::io("remove", written, error))?;
    };
    observer.end(Stage::Finetune);
    let output = staging.publish(&written.paths, options.force)?;
    // The result is there: what is left of the state does no harm.
    let _ = fs::remove_file(state);
    Ok(report(pipeline, settings.objective, output, &trained, after))
}

/// Where the result goes, and the state of the training.
fn places(
    pipeline: &Pipeline,
    settings: &Sited<FinetuneSettings>,
    options: &FinetuneOptions,
    source: &dyn LayerSource,
) -> Result<(Places, PathBuf), ConfigError> {
    let model = &pipeline.model.output.value;
    let beside = with_suffix(model, ".tuned");
    let named = settings.output.as_ref();
    let path: &Path = options.output.as_deref().or_else(|| named.map(|output| &*output.value)).unwrap_or(&beside);
    let span = named.filter(|_| options.output.is_none()).and_then(|output| output.span.clone());
    let mut taken = vec![model.clone(), pipeline.model.input.value.clone(), settings.data.value.clone()];
    taken.extend(settings.tokenizer.iter().map(|tokenizer| tokenizer.value.clone()));
    taken.extend(source.totals().files);
    taken.extend(options.reads.clone());
    let target = Target { path, span, taken: &taken, force: options.force };
    let places = Places::of(&target, model, source)?;
    let state = with_suffix(places.output(), ".training");
    // A state that is there is gone on from; anything else is not written over.
    Target { path: &state, force: true, ..target }.check_file()?;
    Ok((places, state))
}

fn windows(settings: &FinetuneSettings, model: &Path) -> Result<Samples, RunError> {
    let path = &settings.data.value;
    let tokenizer = settings.tokenizer.as_ref().map(|tokenizer| tokenizer.value.as_path());
    let sequence = settings.sequence.get();
    let request = DataRequest { tokenizer, model, sequence, samples: None, seed: 0, labels: None };
    let inputs = HfRuntime::default().load(model)?.inputs();
    let samples = if data::holds_tensors(path) {
        data::load(path, &request, &inputs)?.samples
    } else {
        data::windows(path, &request, &inputs)?
    };
    let (count, held_out) = (samples.count(), settings.held_out.get());
    if count <= held_out {
        let problem = format!(
            "it gives {count} windows of {sequence} tokens, and {held_out} are kept out of the training: give more text, \
             or a smaller `sequence` or `held_out`"
        );
        return Err(RunError::Data { path: path.clone(), problem });
    }
    Ok(samples)
}

fn train_settings(settings: &FinetuneSettings) -> TrainSettings {
    let minutes = settings.minutes.map(Positive::get);
    let minutes = minutes.or(settings.steps.is_none().then_some(FINETUNE_MINUTES));
    TrainSettings {
        objective: match settings.objective {
            FinetuneObjective::NextToken => TrainObjective::NextToken,
            FinetuneObjective::Distill => TrainObjective::Distill,
        },
        limit: TrainLimit { seconds: minutes.map(|minutes| 60.0 * minutes), steps: settings.steps.map(usize::from) },
        learning_rate: settings.learning_rate.get(),
        batch: settings.batch.get(),
        held_out: settings.held_out.get(),
        seed: settings.seed,
        save_every: 60.0 * settings.save_minutes.get(),
    }
}

/// A copy of the model with what was trained.
fn write(source: &dyn LayerSource, trained: &Trained, path: &Path) -> Result<Written, Error> {
    let fail = |source| Error::Output { source };
    let mut sink = source.create(path, &[], &WriteOptions::default()).map_err(fail)?;
    for (name, values) in &trained.tensors {
        sink.amend(name, values).map_err(fail)?;
    }
    sink.finish().map_err(fail)
}

fn report(
    pipeline: &Pipeline,
    objective: FinetuneObjective,
    output: PathBuf,
    trained: &Trained,
    after: f64,
) -> FinetuneReport {
    let before = trained.held_out.0;
    FinetuneReport {
        model: pipeline.model.output.value.clone(),
        output,
        objective,
        loss_before: before,
        loss_after: after,
        perplexity_before: before.exp(),
        perplexity_after: after.exp(),
        gained: !trained.tensors.is_empty(),
        steps: trained.steps,
        tokens: trained.tokens,
        resumed_at: trained.resumed_at,
        seconds: trained.seconds,
    }
}
