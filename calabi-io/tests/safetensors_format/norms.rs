//! The normalisation before a layer, read from a folder.

use calabi_api::ndarray::{Array1, array};
use calabi_api::{DType, LayerSource, Normalisation};
use safetensors::Dtype;

use super::support::{Place, Tensor, layer, open, reference};

/// A folder of a model of this type.
fn folder(model_type: &str, tensors: &[Tensor]) -> Box<dyn LayerSource> {
    let place = Place::new();
    place.write("f/config.json", format!(r#"{{"model_type":"{model_type}"}}"#).as_bytes());
    place.write("f/model.safetensors", &reference(tensors));
    open(&place.path("f")).unwrap()
}

fn norm(source: &dyn LayerSource, name: &str) -> Option<Normalisation> {
    source.normalisation(layer(source, name)).unwrap()
}

fn weight(name: &str, dims: [usize; 2]) -> Tensor {
    Tensor::counting(&format!("{name}.weight"), DType::F32, &dims)
}

fn vector(name: &str, values: [f32; 2]) -> Tensor {
    Tensor::of(name, DType::BF16, &[2], values)
}

fn scales(gamma: Array1<f32>) -> Normalisation {
    Normalisation { gamma, beta: None }
}

#[test]
fn llama_and_gemma() {
    let q = "model.layers.1.self_attn.q_proj";
    let gate = "model.layers.1.mlp.gate_proj";
    let down = "model.layers.1.mlp.down_proj";
    let tensors = [
        weight(q, [4, 2]),
        weight(gate, [3, 2]),
        weight(down, [2, 3]),
        vector("model.layers.1.input_layernorm.weight", [0.5, 2.0]),
        vector("model.layers.1.post_attention_layernorm.weight", [4.0, 3.0]),
        vector("model.layers.1.pre_feedforward_layernorm.weight", [-0.5, 0.25]),
    ];
    let llama = folder("llama", &tensors);
    assert_eq!(norm(&*llama, q), Some(scales(array![0.5, 2.0])));
    assert_eq!(norm(&*llama, gate), Some(scales(array![4.0, 3.0])));
    assert_eq!(norm(&*llama, down), None);
    let gemma = folder("gemma3_text", &tensors);
    assert_eq!(norm(&*gemma, q), Some(scales(array![1.5, 3.0])));
    assert_eq!(norm(&*gemma, gate), Some(scales(array![0.5, 1.25])));
    assert_eq!(norm(&*folder("mystery", &tensors), q), None);
}

#[test]
fn gpt2_has_shifts_and_inputs_by_outputs() {
    let tensors = [
        weight("h.0.attn.c_attn", [2, 6]),
        weight("h.0.mlp.c_fc", [2, 8]),
        vector("h.0.ln_1.weight", [1.0, 2.0]),
        vector("h.0.ln_1.bias", [0.5, -1.0]),
        vector("h.0.ln_2.weight", [3.0, 4.0]),
    ];
    let source = folder("gpt2", &tensors);
    let both = Normalisation { gamma: array![1.0, 2.0], beta: Some(array![0.5, -1.0]) };
    assert_eq!(norm(&*source, "h.0.attn.c_attn"), Some(both));
    assert_eq!(norm(&*source, "h.0.mlp.c_fc"), Some(scales(array![3.0, 4.0])));
}

#[test]
fn bert_reads_the_block_before_by_either_name() {
    let query = |block: usize| format!("bert.encoder.layer.{block}.attention.self.query");
    let tensors = [
        weight(&query(0), [2, 2]),
        weight(&query(1), [2, 2]),
        vector("bert.embeddings.LayerNorm.gamma", [1.0, 2.0]),
        vector("bert.embeddings.LayerNorm.beta", [5.0, 6.0]),
        vector("bert.encoder.layer.0.output.LayerNorm.weight", [3.0, 4.0]),
        vector("bert.encoder.layer.0.output.LayerNorm.bias", [7.0, 8.0]),
    ];
    let source = folder("bert", &tensors);
    let expected = |gamma, beta| Normalisation { gamma, beta: Some(beta) };
    assert_eq!(norm(&*source, &query(0)), Some(expected(array![1.0, 2.0], array![5.0, 6.0])));
    assert_eq!(norm(&*source, &query(1)), Some(expected(array![3.0, 4.0], array![7.0, 8.0])));
}

#[test]
fn a_norm_of_another_length_type_or_none_is_none() {
    let q = "model.layers.0.self_attn.q_proj";
    let name = "model.layers.0.input_layernorm.weight";
    for norms in [
        vec![],
        vec![Tensor::counting(name, DType::F32, &[4])],
        vec![Tensor::counting(name, DType::F32, &[1, 2])],
        vec![Tensor::raw(name, Dtype::I64, &[2])],
    ] {
        let tensors: Vec<_> = std::iter::once(weight(q, [4, 2])).chain(norms).collect();
        assert_eq!(norm(&*folder("llama", &tensors), q), None);
    }
    let source = folder("llama", &[weight(q, [4, 2]), vector(name, [1.0, f32::NAN])]);
    let error = source.normalisation(layer(&*source, q)).unwrap_err();
    assert!(error.to_string().contains(&format!("tensor {name} holds NaN")), "{error}");
}
