//! Which normalisation's output flows into a layer, by the model's type and the layer's name.
//!
//! The tables follow the models of transformers (`models/TYPE/modeling_TYPE.py`). A layer whose input is anything but the
//! output of a normalisation (`o_proj`, `down_proj`) is in none of them, and neither is a model whose type is unknown.

/// Layers of a block, and what stands before them.
struct Rule {
    layers: &'static [&'static str],
    norm: Norm,
}

/// Where a normalisation is.
enum Norm {
    /// In the layer's own block.
    Here(&'static str),
    /// At the end of the block before; of the first block, among the embeddings.
    Before { last: &'static str, embeddings: &'static str },
}

/// Models of one build.
struct Family {
    types: &'static [&'static str],
    /// What holds the numbered blocks.
    blocks: &'static str,
    rules: &'static [Rule],
    /// Whether `γ` is stored less one.
    less_one: bool,
}

const ATTENTION: &[&str] = &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];
const GATED: &[&str] = &["mlp.gate_proj", "mlp.up_proj"];

const FAMILIES: [Family; 4] = [
    Family {
        types: &["llama", "mistral", "qwen2", "qwen3", "smollm3"],
        blocks: "layers",
        rules: &[
            Rule { layers: ATTENTION, norm: Norm::Here("input_layernorm") },
            Rule { layers: GATED, norm: Norm::Here("post_attention_layernorm") },
        ],
        less_one: false,
    },
    // Their post_attention_layernorm stands behind the attention, before it is added to the residual stream.
    Family {
        types: &["gemma2", "gemma3", "gemma3_text"],
        blocks: "layers",
        rules: &[
            Rule { layers: ATTENTION, norm: Norm::Here("input_layernorm") },
            Rule { layers: GATED, norm: Norm::Here("pre_feedforward_layernorm") },
        ],
        less_one: true,
    },
    Family {
        types: &["gpt2"],
        blocks: "h",
        rules: &[
            Rule { layers: &["attn.c_attn"], norm: Norm::Here("ln_1") },
            Rule { layers: &["mlp.c_fc"], norm: Norm::Here("ln_2") },
        ],
        less_one: false,
    },
    Family {
        types: &["bert", "roberta", "xlm-roberta", "camembert"],
        blocks: "encoder.layer",
        rules: &[
            Rule {
                layers: &["attention.self.query", "attention.self.key", "attention.self.value"],
                norm: Norm::Before { last: "output.LayerNorm", embeddings: "embeddings.LayerNorm" },
            },
            Rule { layers: &["intermediate.dense"], norm: Norm::Here("attention.output.LayerNorm") },
        ],
        less_one: false,
    },
];

/// The normalisation before a layer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Before {
    name: String,
    /// Whether `γ` is stored less one.
    pub(super) less_one: bool,
}

impl Before {
    /// The names that `γ` may have: checkpoints from `TensorFlow` call it gamma.
    pub(super) fn gammas(&self) -> [String; 2] {
        ["weight", "gamma"].map(|part| format!("{}.{part}", self.name))
    }

    /// The names that `β` may have.
    pub(super) fn betas(&self) -> [String; 2] {
        ["bias", "beta"].map(|part| format!("{}.{part}", self.name))
    }
}

/// The normalisation whose output flows into a layer; none where something else does, or the model's type is unknown.
pub(super) fn before(model_type: Option<&str>, layer: &str) -> Option<Before> {
    let model_type = model_type?;
    let family = FAMILIES.iter().find(|family| family.types.contains(&model_type))?;
    let place = split(layer, family.blocks)?;
    let rule = family.rules.iter().find(|rule| rule.layers.contains(&place.inside))?;
    let Place { model, number, .. } = place;
    let name = match (&rule.norm, number.parse::<u64>().ok()?) {
        (Norm::Here(norm), _) => format!("{model}{}.{number}.{norm}", family.blocks),
        (Norm::Before { embeddings, .. }, 0) => format!("{model}{embeddings}"),
        (Norm::Before { last, .. }, block) => format!("{model}{}.{}.{last}", family.blocks, block - 1),
    };
    Some(Before { name, less_one: family.less_one })
}

/// A layer's name in its parts: `model` `blocks` `.` `number` `.` `inside`.
struct Place<'a> {
    /// What stands before the blocks, with its last dot.
    model: &'a str,
    number: &'a str,
    inside: &'a str,
}

fn split<'a>(layer: &'a str, blocks: &str) -> Option<Place<'a>> {
    layer.match_indices(blocks).find_map(|(at, _)| {
        let (model, rest) = layer.split_at_checked(at)?;
        let (number, inside) = rest.strip_prefix(blocks)?.strip_prefix('.')?.split_once('.')?;
        let whole = model.is_empty() || model.ends_with('.');
        let numbered = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        (whole && numbered).then_some(Place { model, number, inside })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn norm(model_type: &str, layer: &str) -> Option<String> {
        before(Some(model_type), layer).map(|before| before.name)
    }

    #[test]
    fn each_family_has_its_own_norms() {
        let table = [
            ("llama", "model.layers.3.self_attn.k_proj", Some("model.layers.3.input_layernorm")),
            ("qwen3", "model.layers.12.mlp.up_proj", Some("model.layers.12.post_attention_layernorm")),
            ("llama", "model.layers.3.self_attn.o_proj", None),
            ("mistral", "model.layers.3.mlp.down_proj", None),
            ("gemma3_text", "model.layers.0.mlp.gate_proj", Some("model.layers.0.pre_feedforward_layernorm")),
            (
                "gemma3",
                "language_model.model.layers.0.self_attn.q_proj",
                Some("language_model.model.layers.0.input_layernorm"),
            ),
            ("gpt2", "h.0.attn.c_attn", Some("h.0.ln_1")),
            ("gpt2", "transformer.h.11.mlp.c_fc", Some("transformer.h.11.ln_2")),
            ("gpt2", "transformer.h.11.mlp.c_proj", None),
            ("bert", "bert.encoder.layer.0.attention.self.query", Some("bert.embeddings.LayerNorm")),
            ("bert", "encoder.layer.10.attention.self.value", Some("encoder.layer.9.output.LayerNorm")),
            ("roberta", "encoder.layer.4.intermediate.dense", Some("encoder.layer.4.attention.output.LayerNorm")),
            ("bert", "encoder.layer.4.output.dense", None),
            ("bert", "bert.pooler.dense", None),
            ("llama", "lm_head", None),
            ("llama", "sublayers.3.self_attn.k_proj", None),
            ("llama", "layers.x.self_attn.k_proj", None),
            ("somebody", "model.layers.3.self_attn.k_proj", None),
        ];
        for (model_type, layer, expected) in table {
            assert_eq!(norm(model_type, layer).as_deref(), expected, "{model_type} {layer}");
        }
        assert_eq!(before(None, "model.layers.3.self_attn.k_proj"), None);
    }

    #[test]
    fn gemma_alone_stores_gamma_less_one() {
        let layer = "model.layers.3.self_attn.k_proj";
        assert!(before(Some("gemma3"), layer).unwrap().less_one);
        assert!(!before(Some("llama"), layer).unwrap().less_one);
    }
}
