//! `calabi-cli densify` on tiny checkpoints that transformers made.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use calabi::nn::HfRuntime;
use calabi_api::{Output, Runtime as _, Samples, Tensor};
use calabi_tests::{Workplace, root};
use half::{bf16, f16};
use ndarray::{Array2, ArrayD};
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_calabi-cli-under-test");

/// A workplace with a checkpoint `model`, and `small`, in which every layer keeps this share of its dimensions.
fn compressed(family: &str, keep: f64) -> Workplace {
    let work = Workplace::new(PROGRAM);
    work.checkpoint(family);
    work.write("model/merges.txt", "kept\n");
    work.write(
        "p.toml",
        format!(
            "[model]\ninput = \"model\"\noutput = \"small\"\n[layers]\nmultiple = 1\nbreak_even = false\n\
             [rank]\nkind = \"fraction\"\nkeep = {keep}\n"
        ),
    );
    let run = work.run(&["run", "p.toml"]);
    assert_eq!(run.code(), 0, "{}", run.stderr());
    work
}

fn config(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap()
}

/// The tensors of a checkpoint: dimensions and values.
fn tensors(folder: &Path) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let bytes = fs::read(folder.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let values = |dtype, data: &[u8]| match dtype {
        Dtype::BF16 => data.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        Dtype::F16 => data.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        Dtype::F32 => data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        other => panic!("{other:?}"),
    };
    file.iter().map(|(name, t)| (name.to_owned(), (t.shape().to_vec(), values(t.dtype(), t.data())))).collect()
}

fn matrix((dims, values): &(Vec<usize>, Vec<f32>)) -> Array2<f32> {
    Array2::from_shape_vec((dims[0], dims[1]), values.clone()).unwrap()
}

fn distance(a: &Array2<f32>, b: &Array2<f32>) -> f32 {
    let norm = |m: &Array2<f32>| m.iter().map(|v| v * v).sum::<f32>().sqrt();
    norm(&(a - b)) / norm(a).max(f32::MIN_POSITIVE)
}

#[test]
fn a_dense_checkpoint_is_the_original_with_the_products_of_the_factors() {
    for family in ["llama", "gemma3", "gpt2", "bert"] {
        let work = compressed(family, 0.5);
        let dense = work.run(&["densify", "small", "dense", "--format", "json"]).json();
        let [model, small, dense_folder] = ["model", "small", "dense"].map(|name| work.path(name));
        assert_eq!(config(&model), config(&dense_folder), "{family}");
        assert_eq!(fs::read(dense_folder.join("merges.txt")).unwrap(), b"kept\n");
        assert_eq!(fs::read_dir(&dense_folder).unwrap().count(), 3, "{family}: no file of calabi's is left");
        let (original, factors, result) = (tensors(&model), tensors(&small), tensors(&dense_folder));
        assert!(original.keys().eq(result.keys()), "{family}");
        let mut products = 0;
        for (name, tensor) in &result {
            assert_eq!(tensor.0, original[name].0, "{family} {name}");
            let layer = name.strip_suffix(".weight").unwrap_or(name);
            let Some(left) = factors.get(&format!("{layer}.left.weight")) else {
                assert_eq!(tensor, &original[name], "{family} {name}");
                continue;
            };
            let product = matrix(left).dot(&matrix(&factors[&format!("{layer}.right.weight")]));
            // `Conv1D` stores inputs by outputs: the shapes of a square one do not tell.
            let turned = family == "gpt2" && layer.starts_with("transformer.h.");
            let wanted = if turned { product.reversed_axes() } else { product };
            assert!(distance(&wanted, &matrix(tensor)) < 4e-3, "{family} {name}");
            products += 1;
        }
        assert_eq!(products, config(&small)["calabi"]["ranks"].as_object().unwrap().len(), "{family}");
        let elements: usize = original.values().map(|(_, values)| values.len()).sum();
        assert_eq!(dense["after"]["parameters"], elements, "{family}");
    }
}

#[test]
fn at_full_rank_the_original_weights_come_back() {
    for family in ["llama", "gpt2"] {
        let work = compressed(family, 1.0);
        assert_eq!(work.run(&["densify", "small", "dense"]).code(), 0);
        let (original, result) = (tensors(&work.path("model")), tensors(&work.path("dense")));
        for (name, tensor) in original.iter().filter(|(_, (dims, _))| dims.len() == 2) {
            let apart = distance(&matrix(tensor), &matrix(&result[name]));
            assert!(apart < 1e-2, "{family} {name}: {apart}");
        }
    }
}

/// Token numbers below 32, samples × sequence.
fn ids() -> Array2<i64> {
    Array2::from_shape_fn((24, 12), |(i, j)| i64::try_from((i * 12 + j) * (i + 7 * j + 3) % 32).unwrap())
}

/// What a checkpoint gives for [`ids`].
fn outputs(folder: &Path) -> Vec<Output> {
    let mut runner = HfRuntime {}.load(folder).unwrap();
    runner.outputs(&Samples { inputs: vec![("input_ids".into(), Tensor::I64(ids().into_dyn()))] }).unwrap()
}

/// Compresses a model without biases into `biased` with some that make up for what is cut.
fn biased(model_type: &str) -> Workplace {
    let work = compressed("mistral", 0.5);
    let mut config = config(&work.path("model"));
    config["model_type"] = model_type.into();
    config["sliding_window"] = Value::Null;
    work.write("model/config.json", config.to_string());
    work.token_ids(24, 12, ids());
    work.write(
        "biased.toml",
        "[model]\ninput = \"model\"\noutput = \"biased\"\n[layers]\nmultiple = 1\nbreak_even = false\n\
         exclude = [\"*.1.*\", \"lm_head\"]\n[calibration]\ndata = \"data.safetensors\"\nbias = \"residual\"\n\
         [rank]\nkind = \"fraction\"\nkeep = 0.5\n",
    );
    let run = work.run(&["run", "biased.toml"]);
    assert_eq!(run.code(), 0, "{}", run.stderr());
    work
}

#[test]
fn added_biases_stay_where_the_architecture_can_have_them() {
    let work = biased("llama");
    let run = work.run(&["densify", "biased", "dense"]);
    assert_eq!(run.code(), 0, "{}", run.stderr());
    let [biased, dense] = ["biased", "dense"].map(|name| work.path(name));
    let config = config(&dense);
    assert_eq!((&config["attention_bias"], &config["mlp_bias"]), (&true.into(), &true.into()), "{config}");
    let made = tensors(&dense);
    assert!(made["model.layers.1.mlp.up_proj.bias"].1.iter().all(|&b| b == 0.0));
    assert!(made["model.layers.0.mlp.up_proj.bias"].1.iter().any(|&b| b != 0.0));
    for (biased, dense) in outputs(&biased).iter().zip(outputs(&dense)) {
        let norm = |values: &ArrayD<f32>| values.iter().map(|v| v * v).sum::<f32>().sqrt();
        assert!(norm(&(&biased.values - &dense.values)) < 1e-2 * norm(&biased.values));
    }
    let refused = self::biased("mistral").run(&["densify", "biased", "dense"]);
    assert!(refused.code() != 0 && refused.stderr().contains("has no place for"), "{}", refused.stderr());
}

#[test]
fn what_cannot_be_made_dense_is_refused_and_nothing_is_written() {
    let work = compressed("llama", 0.5);
    let refused = |args: &[&str], said: &str| {
        let run = work.run(args);
        assert_ne!(run.code(), 0, "{args:?}");
        assert!(run.stderr().contains(said), "{args:?}: {}", run.stderr());
    };
    let before = work.names();
    refused(&["densify", "model", "dense"], "has no factors");
    refused(&["densify", "small", "model"], "exists already");
    refused(&["densify", "small", "small", "--force"], "the input itself");
    refused(&["densify", "nowhere", "dense"], "is not there");
    let digits = root().join("examples/quickstart/digits.onnx");
    refused(&["densify", digits.to_str().unwrap(), "dense.onnx"], "not densified");
    assert_eq!(before, work.names());
}
