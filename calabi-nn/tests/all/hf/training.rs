//! Whole models trained: losses go down, what was interrupted goes on to the same bits, and what cannot be is refused.

use std::ops::ControlFlow;
use std::path::Path;

use calabi_api::{RunError, Samples, Tensor};
use calabi_nn::{TrainEvent, TrainLimit, TrainObjective, TrainSettings, Trained, held_out_loss, train};
use ndarray::Array2;

use super::checkpoint::{Tensors, Tiny, write};

const FAMILIES: [&str; 6] = ["llama", "mistral", "qwen2", "qwen3", "gemma3", "gpt2"];
const SETTINGS: TrainSettings = TrainSettings {
    objective: TrainObjective::NextToken,
    limit: TrainLimit { seconds: None, steps: Some(24) },
    learning_rate: 3e-3,
    batch: 4,
    held_out: 3,
    seed: 5,
    save_every: 1e9,
};

/// The model with the layers of its blocks cut to half of their inputs' dimensions, and text that has a rule.
struct Cut {
    tiny: Tiny,
    folder: tempfile::TempDir,
    samples: Samples,
}

impl Cut {
    fn of(family: &str) -> Self {
        let (tiny, folder) = (Tiny::of(family), tempfile::tempdir().unwrap());
        let mut tensors = tiny.tensors();
        for layer in tiny.layers().iter().filter(|layer| layer.name != "lm_head") {
            cut(&mut tensors, &tiny, &layer.name);
        }
        write(folder.path(), &tiny.config(), &tensors);
        let ids = Array2::from_shape_fn((20, 12), |(i, j)| i64::try_from((i * 7 + j * (i % 3 + 1)) % 80).unwrap());
        Self { tiny, folder, samples: Samples { inputs: vec![("input_ids".to_owned(), Tensor::I64(ids.into_dyn()))] } }
    }

    fn train(&self, settings: &TrainSettings) -> Result<Trained, RunError> {
        let state = self.folder.path().join("state");
        let trained = self.until(settings, &state, usize::MAX).map(|trained| trained.unwrap());
        let _ = std::fs::remove_file(state);
        trained
    }

    /// Trains until so many steps are taken, in all runs.
    fn until(&self, settings: &TrainSettings, state: &Path, last: usize) -> Result<Option<Trained>, RunError> {
        let mut watch = |event| match event {
            TrainEvent::Stepped { step, .. } if step >= last => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        };
        train(self.folder.path(), Some(&self.tiny.folder), &self.samples, settings, state, &mut watch)
    }
}

fn cut(tensors: &mut Tensors, tiny: &Tiny, layer: &str) {
    let (weight, _) = tiny.linear(layer);
    let (m, n, rank) = (weight.nrows(), weight.ncols(), weight.ncols() / 2);
    let right = Array2::from_shape_fn((rank, n), |(i, j)| f32::from(u8::from(i == j)) - 2.0 / n as f32);
    tensors.remove(&format!("{layer}.weight"));
    let left = weight.dot(&right.t());
    tensors.insert(format!("{layer}.left.weight"), (vec![m, rank], left.iter().copied().collect()));
    tensors.insert(format!("{layer}.right.weight"), (vec![rank, n], right.iter().copied().collect()));
    if let Some(bias) = tensors.remove(&format!("{layer}.bias")) {
        tensors.insert(format!("{layer}.left.bias"), bias);
    }
}

fn bits(trained: &Trained) -> Vec<(String, Vec<u32>)> {
    let bits = |values: &ndarray::ArrayD<f32>| values.iter().map(|x| x.to_bits()).collect();
    trained.tensors.iter().map(|(name, values)| (name.clone(), bits(values))).collect()
}

#[test]
fn losses_go_down_and_what_is_written_has_the_loss_that_is_told() {
    for family in FAMILIES {
        for objective in [TrainObjective::NextToken, TrainObjective::Distill] {
            let cut = Cut::of(family);
            let steps = if objective == TrainObjective::Distill { 60 } else { 24 };
            let settings =
                TrainSettings { objective, limit: TrainLimit { seconds: None, steps: Some(steps) }, ..SETTINGS };
            let trained = cut.train(&settings).unwrap();
            let (before, after) = trained.held_out;
            assert_eq!((trained.steps, trained.tokens, trained.resumed_at), (steps, steps as u64 * 48, None));
            let told = held_out_loss(cut.folder.path(), &cut.samples, 3).unwrap();
            assert_eq!(told.to_bits(), before.to_bits(), "{family}");
            if objective == TrainObjective::Distill && trained.tensors.is_empty() {
                continue; // what a random original says need not be what the text says
            }
            assert!(after < before, "{family} {objective:?}: {before} {after}");
            let bytes = std::fs::read(cut.folder.path().join("model.safetensors")).unwrap();
            let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            let known = |name: &str| file.tensor(name).map(|view| view.shape().to_vec()).unwrap();
            assert!(trained.tensors.iter().all(|(name, values)| known(name) == values.shape()), "{family}");
            assert!(trained.tensors.iter().any(|(name, _)| name.ends_with(".left.weight")), "{family}");
            let mut tensors = read(&file);
            for (name, values) in &trained.tensors {
                tensors.insert(name.clone(), (values.shape().to_vec(), values.iter().copied().collect()));
            }
            let written = tempfile::tempdir().unwrap();
            write(written.path(), &cut.tiny.config(), &tensors);
            let told = held_out_loss(written.path(), &cut.samples, 3).unwrap();
            assert!((told - after).abs() < 1e-6, "{family}: {told} {after}");
        }
    }
}

fn read(file: &safetensors::SafeTensors<'_>) -> Tensors {
    let values = |data: &[u8]| data.as_chunks::<4>().0.iter().map(|&four| f32::from_le_bytes(four)).collect();
    file.tensors().into_iter().map(|(name, view)| (name, (view.shape().to_vec(), values(view.data())))).collect()
}

#[test]
fn a_resumed_training_gives_the_bits_of_one_that_nothing_disturbed() {
    for objective in [TrainObjective::NextToken, TrainObjective::Distill] {
        let (cut, settings) = (Cut::of("gemma3"), TrainSettings { objective, ..SETTINGS });
        let whole = cut.train(&settings).unwrap();
        let state = cut.folder.path().join("state");
        for last in [1, 2, 11, 12] {
            assert!(cut.until(&settings, &state, last).unwrap().is_none());
        }
        let resumed = cut.until(&settings, &state, usize::MAX).unwrap().unwrap();
        assert_eq!(resumed.resumed_at, Some(12));
        assert_eq!(resumed.held_out.1.to_bits(), whole.held_out.1.to_bits());
        assert_eq!(bits(&resumed), bits(&whole));
        // Done is done: nothing more is trained.
        let again = cut.until(&settings, &state, usize::MAX).unwrap().unwrap();
        assert_eq!((again.steps, bits(&again)), (24, bits(&whole)));
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let cut = Cut::of("llama");
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| bits(&cut.train(&TrainSettings { objective: TrainObjective::Distill, ..SETTINGS }).unwrap()))
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn a_state_of_another_training_and_a_damaged_one_are_refused() {
    let cut = Cut::of("llama");
    let state = cut.folder.path().join("state");
    assert!(cut.until(&SETTINGS, &state, 2).unwrap().is_none());
    let other = TrainSettings { learning_rate: 1e-3, ..SETTINGS };
    let error = cut.until(&other, &state, usize::MAX).unwrap_err().to_string();
    assert!(error.contains("another training"), "{error}");
    let bytes = std::fs::read(&state).unwrap();
    for length in [0, 7, 100, bytes.len() - 1] {
        std::fs::write(&state, &bytes[..length]).unwrap();
        let error = cut.until(&SETTINGS, &state, usize::MAX).unwrap_err().to_string();
        assert!(error.contains("damaged"), "{error}");
    }
}

#[test]
fn what_cannot_be_trained_is_refused() {
    let cut = Cut::of("llama");
    let state = cut.folder.path().join("state");
    let mut ignore = |_| ControlFlow::Continue(());
    let bert = Tiny::of("bert");
    let error = train(&bert.folder, None, &cut.samples, &SETTINGS, &state, &mut ignore).unwrap_err().to_string();
    assert!(error.contains("predicts no tokens"), "{error}");
    let error = train(&cut.tiny.folder, None, &cut.samples, &SETTINGS, &state, &mut ignore).unwrap_err().to_string();
    assert!(error.contains("no layer of it is factorized"), "{error}");
    let few = cut.samples.some(0, 3);
    let error = train(cut.folder.path(), None, &few, &SETTINGS, &state, &mut ignore).unwrap_err().to_string();
    assert!(error.contains("too few"), "{error}");
    let huge = TrainSettings { learning_rate: 1e30, ..SETTINGS };
    let error = cut.train(&huge).unwrap_err().to_string();
    assert!(error.contains("lower learning rate"), "{error}");
    assert!(!state.exists());
}
