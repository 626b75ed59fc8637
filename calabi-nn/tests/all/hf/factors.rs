//! Factors in the place of weights: substituted, or in the file.

use calabi_api::{Factors, Output};
use ndarray::{Array1, Array2};
use serde_json::json;

use super::checkpoint::{FAMILIES, Tiny, load, write};

/// Factors of full rank whose product is the weight to rounding: the weight turned by a reflection, and the reflection.
fn split(weight: &Array2<f32>) -> Factors {
    let n = weight.ncols();
    let reflection = Array2::from_shape_fn((n, n), |(i, j)| f32::from(u8::from(i == j)) - 2.0 / n as f32);
    Factors { left: weight.dot(&reflection), right: reflection, bias: None }
}

fn close(a: &[Output], b: &[Output]) -> bool {
    a.iter().zip(b).all(|(a, b)| (&a.values - &b.values).iter().all(|d| d.abs() < 1e-4))
}

#[test]
fn factors_of_full_rank_change_nothing_and_are_put_back() {
    for family in FAMILIES {
        let tiny = Tiny::of(family);
        let (mut runner, layers) = (tiny.load(), tiny.layers());
        let dense = runner.outputs(&tiny.samples).unwrap();
        for layer in &layers {
            runner.substitute(layer, Some(&split(&tiny.linear(&layer.name).0))).unwrap();
        }
        let split_up = runner.outputs(&tiny.samples).unwrap();
        assert!(close(&split_up, &dense), "{family}");
        assert_ne!(split_up, dense, "{family}: the factors are not used");
        for layer in &layers {
            runner.substitute(layer, None).unwrap();
        }
        assert_eq!(runner.outputs(&tiny.samples).unwrap(), dense, "{family}");
    }
}

#[test]
fn each_substituted_layer_takes_part() {
    for family in FAMILIES {
        let tiny = Tiny::of(family);
        let mut runner = tiny.load();
        let dense = runner.outputs(&tiny.samples).unwrap();
        for layer in tiny.layers() {
            let mut factors = split(&tiny.linear(&layer.name).0);
            factors.left.column_mut(0).fill(0.0);
            runner.substitute(&layer, Some(&factors)).unwrap();
            assert!(!close(&runner.outputs(&tiny.samples).unwrap(), &dense), "{family} {}", layer.name);
            runner.substitute(&layer, None).unwrap();
        }
    }
}

#[test]
fn a_bias_of_factors_is_added_to_the_layers_own() {
    for (family, name) in [("llama", "lm_head"), ("bert", "pooler.dense")] {
        let tiny = Tiny::of(family);
        let mut runner = tiny.load();
        let dense = runner.outputs(&tiny.samples).unwrap().pop().unwrap().values;
        let layer = tiny.layers().into_iter().find(|layer| layer.name == name).unwrap();
        let mut factors = split(&tiny.linear(name).0);
        factors.bias = Some(Array1::from_elem(layer.shape.rows(), 0.5));
        runner.substitute(&layer, Some(&factors)).unwrap();
        let moved = runner.outputs(&tiny.samples).unwrap().pop().unwrap().values;
        let back = if family == "bert" { moved.mapv(|y| (y.atanh() - 0.5).tanh()) } else { moved - 0.5 };
        assert!((back - dense).iter().all(|d| d.abs() < 1e-4), "{family}");
    }
}

#[test]
fn factors_that_do_not_fit_are_refused() {
    let tiny = Tiny::of("llama");
    let mut runner = tiny.load();
    let layer = tiny.layers().into_iter().find(|layer| layer.name.ends_with("up_proj")).unwrap();
    let good = split(&tiny.linear(&layer.name).0);
    let turned = Factors { left: good.right.clone(), right: good.left.clone(), bias: None };
    let biased = Factors { bias: Some(Array1::zeros(3)), ..good.clone() };
    for wrong in [turned, biased] {
        let error = runner.substitute(&layer, Some(&wrong)).unwrap_err().to_string();
        assert!(error.contains(&layer.name), "{error}");
    }
}

/// As calabi's format writes it: `x.right`, `x.left`, the bias with the left factor, always outputs by inputs.
#[test]
fn a_factorized_checkpoint_runs() {
    for family in FAMILIES {
        let tiny = Tiny::of(family);
        let (mut tensors, mut config) = (tiny.tensors(), tiny.config());
        let layers = tiny.layers();
        for layer in layers.iter().step_by(2) {
            let factors = split(&tiny.linear(&layer.name).0);
            tensors.remove(&format!("{}.weight", layer.name)).unwrap();
            for (part, matrix) in [("left", factors.left), ("right", factors.right)] {
                let values = matrix.iter().copied().collect();
                tensors.insert(format!("{}.{part}.weight", layer.name), (matrix.shape().to_vec(), values));
            }
            if let Some(bias) = tensors.remove(&format!("{}.bias", layer.name)) {
                tensors.insert(format!("{}.left.bias", layer.name), bias);
            }
        }
        config["calabi"] = json!({ "version": 1, "base_model_type": config["model_type"], "ranks": {} });
        config["model_type"] = "calabi".into();
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &config, &tensors);
        let distance = tiny.distance(&load(folder.path()).outputs(&tiny.samples).unwrap());
        assert!(distance < 1e-4, "{family}: {distance}");
    }
}
