//! Folders as others write them, and folders that are refused.

use calabi_api::{Runtime, Tensor};
use calabi_nn::HfRuntime;
use serde_json::{Value, json};

use super::checkpoint::{Tensors, Tiny, load, write, write_shard};

/// The distance to transformers once configuration and tensors are changed.
fn changed(family: &str, change: impl Fn(&mut Value, &mut Tensors)) -> f32 {
    let tiny = Tiny::of(family);
    let (mut config, mut tensors) = (tiny.config(), tiny.tensors());
    change(&mut config, &mut tensors);
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &config, &tensors);
    tiny.distance(&load(folder.path()).outputs(&tiny.samples).unwrap())
}

/// Why the changed checkpoint is refused.
fn refusal(family: &str, change: impl Fn(&mut Value, &mut Tensors)) -> String {
    let tiny = Tiny::of(family);
    let (mut config, mut tensors) = (tiny.config(), tiny.tensors());
    change(&mut config, &mut tensors);
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &config, &tensors);
    HfRuntime {}.load(folder.path()).err().expect("it is refused").to_string()
}

fn without(config: &mut Value, key: &str) -> Value {
    config.as_object_mut().unwrap().remove(key).unwrap()
}

#[test]
fn older_configurations_say_the_same() {
    let distance = changed("llama", |config, _| {
        let mut scaling = without(config, "rope_parameters");
        config["rope_theta"] = without(&mut scaling, "rope_theta");
        config["rope_scaling"] = scaling;
    });
    assert!(distance < 1e-4, "{distance}");
    let distance = changed("gemma3", |config, _| {
        let parameters = without(config, "rope_parameters");
        without(config, "layer_types");
        config["sliding_window_pattern"] = 2.into();
        config["rope_theta"] = parameters["full_attention"]["rope_theta"].clone();
        config["rope_local_base_freq"] = parameters["sliding_attention"]["rope_theta"].clone();
        config["rope_scaling"] = json!({ "type": "linear", "factor": parameters["full_attention"]["factor"] });
    });
    assert!(distance < 1e-4, "{distance}");
    let distance = changed("qwen2", |config, _| drop(without(config, "layer_types")));
    assert!(distance < 1e-4, "{distance}");
}

#[test]
fn prefixes_of_names_do_not_matter() {
    for (family, old, new) in [
        ("llama", "model.", ""),
        ("gpt2", "transformer.", ""),
        ("bert", "", "bert."),
        ("gemma3", "model.", "language_model.model."),
    ] {
        let distance = changed(family, |_, tensors| {
            let renamed = |name: String| match name.strip_prefix(old) {
                Some(rest) => format!("{new}{rest}"),
                None => name,
            };
            *tensors = std::mem::take(tensors).into_iter().map(|(name, tensor)| (renamed(name), tensor)).collect();
        });
        assert!(distance < 1e-4, "{family}: {distance}");
    }
}

#[test]
fn shards_are_read_by_their_index() {
    let tiny = Tiny::of("mistral");
    let (tensors, folder) = (tiny.tensors(), tempfile::tempdir().unwrap());
    std::fs::write(folder.path().join("config.json"), tiny.config().to_string()).unwrap();
    let name = |odd: usize| format!("model-0000{}-of-00002.safetensors", odd + 1);
    for odd in [0, 1] {
        let shard = tensors.iter().enumerate().filter(|(i, _)| i % 2 == odd).map(|(_, tensor)| tensor);
        write_shard(&folder.path().join(name(odd)), shard);
    }
    let map: Value = tensors.keys().enumerate().map(|(i, tensor)| (tensor.clone(), Value::from(name(i % 2)))).collect();
    let index = folder.path().join("model.safetensors.index.json");
    std::fs::write(&index, json!({ "weight_map": map }).to_string()).unwrap();
    assert!(tiny.distance(&load(folder.path()).outputs(&tiny.samples).unwrap()) < 1e-4);
    std::fs::write(&index, json!({ "weight_map": { "a": "../model.safetensors" } }).to_string()).unwrap();
    let error = HfRuntime {}.load(folder.path()).err().unwrap().to_string();
    assert!(error.contains("is not the name of a .safetensors file"), "{error}");
}

#[test]
fn what_is_not_supported_is_refused_by_its_key() {
    let set = |key: &'static str, value: Value| move |config: &mut Value, _: &mut Tensors| config[key] = value.clone();
    for (family, key, value) in [
        ("llama", "model_type", json!("mamba")),
        ("llama", "hidden_act", json!("xielu")),
        ("llama", "partial_rotary_factor", json!(0.5)),
        ("llama", "rope_parameters", json!({ "rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0 })),
        ("llama", "num_key_value_heads", json!(3)),
        ("llama", "quantization_config", json!({ "quant_method": "gptq" })),
        ("gemma3", "attn_logit_softcapping", json!(50.0)),
        ("gemma3", "layer_types", json!(["full_attention"])),
        ("bert", "position_embedding_type", json!("relative_key")),
        ("bert", "is_decoder", json!(true)),
        ("gpt2", "n_head", json!(5)),
    ] {
        let error = refusal(family, set(key, value));
        assert!(error.contains(key) && error.contains("config.json"), "{key}: {error}");
    }
}

#[test]
fn missing_and_misshapen_tensors_are_named() {
    let name = "model.layers.1.mlp.down_proj.weight";
    let error = refusal("llama", |_, tensors| drop(tensors.remove(name)));
    assert!(error.contains(name) && error.contains("missing"), "{error}");
    let error = refusal("llama", |config, _| config["hidden_size"] = 40.into());
    assert!(error.contains("80x32"), "{error}");
    let tiny = Tiny::of("llama");
    let (mut tensors, folder) = (tiny.tensors(), tempfile::tempdir().unwrap());
    tensors.get_mut(name).unwrap().1[7] = f32::NAN;
    write(folder.path(), &tiny.config(), &tensors);
    let error = load(folder.path()).outputs(&tiny.samples).unwrap_err().to_string();
    assert!(error.contains(name) && error.contains("not finite"), "{error}");
}

#[test]
fn files_cut_short_are_refused() {
    let tiny = Tiny::of("bert");
    let folder = tempfile::tempdir().unwrap();
    let bytes = std::fs::read(tiny.folder.join("model.safetensors")).unwrap();
    std::fs::write(folder.path().join("config.json"), tiny.config().to_string()).unwrap();
    for length in [0, 7, 8, 100, bytes.len() - 1] {
        std::fs::write(folder.path().join("model.safetensors"), &bytes[..length]).unwrap();
        let error = HfRuntime {}.load(folder.path()).err().expect("it is refused").to_string();
        assert!(error.contains("model.safetensors"), "{error}");
    }
}

#[test]
fn samples_that_do_not_fit_are_refused_by_the_inputs_name() {
    let tiny = Tiny::of("gpt2");
    let ids = |shape, value| Tensor::I64(ndarray::ArrayD::from_elem(ndarray::IxDyn(shape), value));
    for (name, tensor, words) in [
        ("input_ids", ids(&[2, 5], 80), "80 is not among its 80 values"),
        ("input_ids", ids(&[2, 5], -1), "-1 is not among"),
        ("input_ids", ids(&[2, 25], 1), "25 tokens are more than the 24 positions"),
        ("input_ids", ids(&[2], 1), "given is shape [2]"),
        ("input_ids", ids(&[0, 5], 1), "given are no tokens"),
        ("token_type_ids", ids(&[2, 5], 0), "take it out of the data"),
    ] {
        let samples = calabi_api::Samples { inputs: vec![(name.to_owned(), tensor)] };
        let error = tiny.load().outputs(&samples).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(words), "{error}");
    }
}
