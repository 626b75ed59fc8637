//! The number of threads changes no bit.

use calabi_api::{Samples, Tensor};
use ndarray::Array2;
use serde_json::json;

use super::checkpoint::{Tensors, load, write};

/// A model large enough that its products are shared among threads.
fn model() -> (serde_json::Value, Tensors) {
    let config = json!({
        "model_type": "llama", "hidden_size": 192, "intermediate_size": 320, "num_hidden_layers": 1, "vocab_size": 64,
        "num_attention_heads": 6, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
        "hidden_act": "silu",
    });
    let shapes: [(&str, &[usize]); 11] = [
        ("embed_tokens", &[64, 192]),
        ("norm", &[192]),
        ("layers.0.input_layernorm", &[192]),
        ("layers.0.post_attention_layernorm", &[192]),
        ("layers.0.self_attn.q_proj", &[192, 192]),
        ("layers.0.self_attn.k_proj", &[64, 192]),
        ("layers.0.self_attn.v_proj", &[64, 192]),
        ("layers.0.self_attn.o_proj", &[192, 192]),
        ("layers.0.mlp.gate_proj", &[320, 192]),
        ("layers.0.mlp.up_proj", &[320, 192]),
        ("layers.0.mlp.down_proj", &[192, 320]),
    ];
    let noise = |seed: usize| (0..).map(move |i| (((i * 7919 + seed * 104_729) % 1000) as f32 / 1000.0 - 0.5) * 0.2);
    let tensors = shapes.iter().enumerate().map(|(seed, (name, dims))| {
        let values = noise(seed).take(dims.iter().product()).collect();
        (format!("model.{name}.weight"), (dims.to_vec(), values))
    });
    (config, tensors.collect())
}

#[test]
fn one_thread_gives_what_three_give_bit_for_bit() {
    let (config, tensors) = model();
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &config, &tensors);
    let ids = Array2::from_shape_fn((3, 300), |(i, j)| i64::try_from((i * 31 + j * 17 + j * j) % 64).unwrap());
    let samples = Samples { inputs: vec![("input_ids".to_owned(), Tensor::I64(ids.into_dyn()))] };
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| load(folder.path()).outputs(&samples).unwrap())
    };
    assert_eq!(run(1), run(3));
}
