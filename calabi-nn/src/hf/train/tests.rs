//! Gradients of whole models against differences of their losses.

use std::path::{Path, PathBuf};

use calabi_api::{Samples, Tensor};
use ndarray::{Array2, ArrayD, Ix2};

use super::network::Network;
use super::parameters::Parameters;
use super::run::targets;
use crate::hf::ops::Wanted;
use crate::hf::tokens::Tokens;

const FAMILIES: [&str; 6] = ["llama", "mistral", "qwen2", "qwen3", "gemma3", "gpt2"];
const WINDOWS: usize = 3;

fn original(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models").join(family)
}

/// The model with every layer cut to three quarters of its inputs' dimensions.
fn factorized(family: &str, folder: &Path) {
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    let mut push = |name: String, values: ArrayD<f32>| {
        tensors.push((name, values.shape().to_vec(), values.iter().flat_map(|x| x.to_le_bytes()).collect()));
    };
    for (name, tensor) in crate::safetensors::read(&original(family).join("model.safetensors")).unwrap() {
        let Tensor::F32(values) = tensor else { panic!("{name} is no float") };
        let is_table = ["embed", ".wte.", ".wpe."].iter().any(|part| name.contains(part));
        match (name.strip_suffix(".weight"), values.clone().into_dimensionality::<Ix2>()) {
            (Some(layer), Ok(stored)) if !is_table => {
                let weight = if name.contains(".c_") { stored.t().to_owned() } else { stored };
                let n = weight.ncols();
                let right =
                    Array2::from_shape_fn((n * 3 / 4, n), |(i, j)| f32::from(u8::from(i == j)) - 2.0 / n as f32);
                push(format!("{layer}.left.weight"), weight.dot(&right.t()).into_dyn());
                push(format!("{layer}.right.weight"), right.into_dyn());
            }
            _ => push(name, values),
        }
    }
    let views = tensors.iter().map(|(name, shape, bytes)| {
        (name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
    std::fs::copy(original(family).join("config.json"), folder.join("config.json")).unwrap();
}

fn tokens(network: &Network) -> Tokens {
    let ids =
        Array2::from_shape_fn((WINDOWS, 17), |(i, j)| i64::try_from((i * 31 + j * 17 + i * j * j + 3) % 80).unwrap());
    let samples = Samples { inputs: vec![("input_ids".to_owned(), Tensor::I64(ids.into_dyn()))] };
    Tokens::read(&network.runner.model, &samples).unwrap()
}

/// The loss of a model with these parameters.
fn loss(network: &Network, parameters: &Parameters, tokens: &Tokens, wanted: &Wanted<'_>) -> f64 {
    let windows: Vec<_> = (0..WINDOWS).collect();
    let (x, batch) = network.entering(tokens, &windows).unwrap();
    parameters.placed(network).unwrap().0.loss(&x, &batch, wanted).unwrap()
}

/// Moves every tensor along its own gradient, and compares how the loss changes with what the gradient says.
fn agrees(family: &str, distill: bool) {
    let folder = tempfile::tempdir().unwrap();
    factorized(family, folder.path());
    let (network, teacher) = (Network::open(folder.path()).unwrap(), Network::open(&original(family)).unwrap());
    let tokens = tokens(&network);
    let windows: Vec<_> = (0..WINDOWS).collect();
    let targets: Vec<_> = windows.iter().flat_map(|&window| targets(&tokens, window)).collect();
    let (x, batch) = teacher.entering(&tokens, &windows).unwrap();
    let rows = teacher.whole.features(&teacher.whole.behind_blocks(&x, &batch).unwrap()).unwrap();
    let vocabulary = teacher.whole.vocabulary().unwrap();
    let wanted = if distill { Wanted::Probabilities(&vocabulary, &rows, &targets) } else { Wanted::Tokens(&targets) };
    let parameters = Parameters::of(&network).unwrap();
    let (whole, vars) = parameters.placed(&network).unwrap();
    let (x, batch) = network.entering(&tokens, &windows).unwrap();
    let (sum, gradients) = whole.gradients(&vars, (&x, &batch), &wanted, 1.0).unwrap();
    assert!((sum - loss(&network, &parameters, &tokens, &wanted)).abs() < 1e-9 * sum.abs().max(1.0));
    let gradients: Vec<_> = gradients.into_iter().flatten().collect();
    assert_eq!(gradients.len(), parameters.all().count());
    let mut checked = 0;
    for (place, gradient) in gradients.iter().enumerate() {
        let square = gradient.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>();
        let step = 2e-3 / square.sqrt().max(1e-9);
        if square.sqrt() < 0.05 {
            continue; // the difference would drown in rounding
        }
        let moved = |sign: f64| {
            let mut moved = parameters.clone();
            let values = moved.values_mut().nth(place).unwrap();
            #[allow(clippy::cast_possible_truncation)]
            values.iter_mut().zip(gradient).for_each(|(x, &g)| *x += (sign * step * f64::from(g)) as f32);
            loss(&network, &moved, &tokens, &wanted)
        };
        let difference = (moved(1.0) - moved(-1.0)) / (2.0 * step);
        let name = &parameters.all().nth(place).unwrap().name;
        assert!((difference / square - 1.0).abs() < 3e-2, "{family} {name}: {difference} is not {square}");
        checked += 1;
    }
    assert!(checked * 4 > gradients.len() * 3, "{family}: {checked} of {} were looked at", gradients.len());
}

#[test]
fn gradients_of_the_next_token_agree_with_differences() {
    for family in FAMILIES {
        agrees(family, false);
    }
}

#[test]
fn gradients_of_a_divergence_agree_with_differences() {
    for family in FAMILIES {
        agrees(family, true);
    }
}

#[test]
fn a_model_that_is_its_own_teacher_has_nothing_to_learn() {
    for family in FAMILIES {
        let folder = tempfile::tempdir().unwrap();
        factorized(family, folder.path());
        let network = Network::open(folder.path()).unwrap();
        let tokens = tokens(&network);
        let targets: Vec<_> = (0..WINDOWS).flat_map(|window| targets(&tokens, window)).collect();
        let (x, batch) = network.entering(&tokens, &[0, 1, 2]).unwrap();
        let whole = &network.whole;
        let rows = whole.features(&whole.behind_blocks(&x, &batch).unwrap()).unwrap();
        let vocabulary = whole.vocabulary().unwrap();
        let wanted = Wanted::Probabilities(&vocabulary, &rows, &targets);
        assert_eq!(whole.loss(&x, &batch, &wanted).unwrap().to_bits(), 0.0_f64.to_bits(), "{family}");
        let made =
            crate::hf::ops::cross_entropy(&vocabulary, &rows, &wanted, crate::hf::ops::Slopes::OfRows { share: 1.0 });
        let slopes: Vec<f32> = made.unwrap().of_rows.unwrap().flatten_all().unwrap().to_vec1().unwrap();
        assert!(slopes.iter().all(|&slope| slope == 0.0), "{family}");
    }
}

#[test]
fn blocks_that_are_run_once_more_give_the_same_bits() {
    for family in FAMILIES {
        let folder = tempfile::tempdir().unwrap();
        factorized(family, folder.path());
        let network = Network::open(folder.path()).unwrap();
        let tokens = tokens(&network);
        let targets: Vec<_> = (0..WINDOWS).flat_map(|window| targets(&tokens, window)).collect();
        let (x, batch) = network.entering(&tokens, &[0, 1, 2]).unwrap();
        let (mut whole, vars) = Parameters::of(&network).unwrap().placed(&network).unwrap();
        let mut bits = |held: usize| {
            whole.held = held;
            let (_, gradients) = whole.gradients(&vars, (&x, &batch), &Wanted::Tokens(&targets), 0.1).unwrap();
            gradients.concat().concat().into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        let all_held = bits(usize::MAX);
        assert_eq!(bits(0), all_held, "{family}");
        assert_eq!(bits(200_000), all_held, "{family}");
    }
}
