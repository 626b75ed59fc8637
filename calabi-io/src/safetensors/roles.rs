//! What a tensor's name says of its role in the model.
//!
//! A *layer's* name here is its tensor's without `.weight`; its *last component* is what stands behind its last dot.
//!
//! - **Embedding tables** are looked up by row. Their last component contains `embed`, has a part `emb`, or is one of
//!   `wte`, `wpe`, `shared` (T5), `relative_attention_bias` (T5). A part that names a linear map wins: ELECTRA's
//!   `embeddings_project`, GPT-NeoX's head `embed_out`.
//! - **The head** maps hidden states to the vocabulary; it is the embedding table again where the two are tied.
//! - **`Conv1D`** of GPT-2 and its kin stores inputs by outputs; `nn.Linear` stores outputs by inputs.

/// Model types whose blocks are made of `Conv1D`.
const CONV1D_MODELS: [&str; 4] = ["gpt2", "openai-gpt", "imagegpt", "decision_transformer"];
/// The last components of layers that are `Conv1D` there.
const CONV1D_LAYERS: [&str; 4] = ["c_attn", "c_proj", "c_fc", "q_attn"];
/// Embedding tables whose name does not say so.
const TABLES: [&str; 4] = ["wte", "wpe", "shared", "relative_attention_bias"];
/// Parts of a name that say linear map, whatever else stands beside them.
const LINEAR_PARTS: [&str; 10] =
    ["proj", "project", "projection", "projector", "mapping", "linear", "dense", "fc", "out", "head"];
/// The last components of heads.
const HEADS: [&str; 3] = ["lm_head", "embed_out", "output_projection"];
/// What quantised checkpoints put beside a weight, behind the layer's name.
pub(super) const SCALES: [&str; 7] =
    [".weight_scale", ".weight_scale_inv", ".weight_scale_2", ".weight.absmax", ".weight_scb", ".scales", ".SCB"];

/// The layer's name of a weight's tensor; none where the tensor is no weight.
pub(super) fn layer_of(tensor: &str) -> Option<&str> {
    tensor.strip_suffix(".weight").filter(|layer| !layer.is_empty())
}

/// The name of a layer's bias.
pub(super) fn bias_of(layer: &str) -> String {
    format!("{layer}.bias")
}

/// Whether a layer's weight is a table that is looked up by row.
pub(super) fn is_table(layer: &str) -> bool {
    let last = last_component(layer).to_lowercase();
    let parts = || last.split('_');
    let named = last.contains("embed") || parts().any(|part| part == "emb") || TABLES.contains(&last.as_str());
    named && !parts().any(|part| LINEAR_PARTS.contains(&part))
}

/// Whether a layer is one of several experts: `experts.N` is in its name.
pub(super) fn is_expert(layer: &str) -> bool {
    let components: Vec<_> = layer.split('.').collect();
    components.windows(2).any(|pair| pair[0] == "experts" && pair[1].parse::<u32>().is_ok())
}

/// Whether a layer of this name maps hidden states to the vocabulary.
#[must_use]
pub fn is_head(layer: &str) -> bool {
    HEADS.contains(&last_component(layer))
}

/// Whether models of this type are made of `Conv1D`; none where the type is not known.
pub(super) fn uses_conv1d(model_type: Option<&str>) -> Option<bool> {
    model_type.map(|model_type| CONV1D_MODELS.contains(&model_type))
}

/// Whether a layer is `Conv1D` in models that are made of it: `c_attn` and its like in a block `h.N`.
pub(super) fn is_conv1d(layer: &str) -> bool {
    let components: Vec<_> = layer.split('.').collect();
    let numbered = |pair: &[&str]| pair[0] == "h" && pair[1].bytes().all(|b| b.is_ascii_digit()) && !pair[1].is_empty();
    components.windows(2).any(numbered) && CONV1D_LAYERS.contains(&last_component(layer))
}

/// Whether a weight is the fused query, key and value of such a block, stored inputs by outputs: 1 : 3, or 1 : 2 beside a
/// query of its own. In a file without `config.json` it tells `Conv1D` from linear layers of the same names.
pub(super) fn is_wide_attention(layer: &str, dims: &[u64]) -> bool {
    is_conv1d(layer) && last_component(layer) == "c_attn" && matches!(dims, [rows, cols] if cols > rows)
}

fn last_component(layer: &str) -> &str {
    layer.rsplit('.').next().unwrap_or(layer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn experts_are_numbered() {
        assert!(is_expert("model.layers.0.block_sparse_moe.experts.7.w1"));
        assert!(!is_expert("mlp.shared_experts.up_proj") && !is_expert("experts.gate"));
    }

    #[test]
    fn tables_are_known_by_their_last_component() {
        for table in [
            "model.embed_tokens",
            "transformer.wte",
            "transformer.wpe",
            "bert.embeddings.word_embeddings",
            "embeddings.position_embeddings",
            "embeddings.token_type_embeddings",
            "tok_embeddings",
            "shared",
            "embeddings",
            "embedding",
            "model.decoder.embed_positions",
            "token_emb",
            "encoder.block.0.layer.0.SelfAttention.relative_attention_bias",
        ] {
            assert!(is_table(table), "{table}");
        }
        for layer in [
            "model.layers.0.self_attn.q_proj",
            "embeddings.patch_embeddings.projection",
            "electra.embeddings_project",
            "albert.encoder.embedding_hidden_mapping_in",
            "embed_out",
            "time_embedding.linear_1",
            "lm_head",
            "member.dense",
        ] {
            assert!(!is_table(layer), "{layer}");
        }
    }

    #[test]
    fn conv1d_stands_in_a_numbered_block() {
        for layer in ["h.0.attn.c_attn", "transformer.h.11.mlp.c_proj", "transformer.h.3.mlp.c_fc"] {
            assert!(is_conv1d(layer), "{layer}");
        }
        for layer in ["h.0.attn.q_proj", "layers.0.c_attn", "h.x.c_fc", "h..c_fc", "c_fc", "transformer.h.c_attn"] {
            assert!(!is_conv1d(layer), "{layer}");
        }
        assert_eq!(uses_conv1d(Some("gpt2")), Some(true));
        assert_eq!(uses_conv1d(Some("gpt_bigcode")), Some(false));
        assert_eq!(uses_conv1d(None), None);
    }
}
