//! What the tensors of a family are called.

/// The names of a family's tensors, without `.weight` and `.bias`. Those of a block stand behind its number.
#[derive(Debug)]
pub(super) struct Names {
    /// What may stand before all names but the head's.
    pub(super) prefixes: &'static [&'static str],
    pub(super) embedding: &'static str,
    /// Learned positions.
    pub(super) positions: Option<&'static str>,
    /// Which of two sentences a token belongs to.
    pub(super) segments: Option<&'static str>,
    pub(super) embedding_norm: Option<&'static str>,
    /// The list of blocks.
    pub(super) block: &'static str,
    pub(super) qkv: Qkv,
    pub(super) query_norm: Option<&'static str>,
    pub(super) key_norm: Option<&'static str>,
    pub(super) attention_out: &'static str,
    /// The norm before attention; behind it, and the sum, where norms stand after.
    pub(super) attention_norm: &'static str,
    /// The second norm of attention, where norms stand around.
    pub(super) attention_norm_after: Option<&'static str>,
    pub(super) mlp_norm: &'static str,
    pub(super) mlp_norm_after: Option<&'static str>,
    pub(super) gate: Option<&'static str>,
    pub(super) up: &'static str,
    pub(super) down: &'static str,
    /// What the inputs of queries, keys and values, and of gate and up, are called.
    pub(super) sources: [&'static str; 2],
    pub(super) end: End,
    /// Whether the block's dense weights are stored inputs by outputs (GPT-2's `Conv1D`).
    pub(super) inputs_first: bool,
}

/// The linear maps that give queries, keys and values.
#[derive(Debug, Clone, Copy)]
pub(super) enum Qkv {
    /// Three of them.
    Separate([&'static str; 3]),
    /// One, its outputs in this order.
    Fused(&'static str),
}

/// What follows the last block.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    /// A norm and a map to the vocabulary, whose name has no prefix.
    Language { norm: &'static str, head: &'static str },
    /// Nothing but a pooler of the first token, where there is one.
    Encoder { pooler: &'static str },
}

/// Llama, Mistral, Qwen.
pub(super) static DECODER: Names = PLAIN_DECODER;

const PLAIN_DECODER: Names = Names {
    prefixes: &["model.", ""],
    embedding: "embed_tokens",
    positions: None,
    segments: None,
    embedding_norm: None,
    block: "layers",
    qkv: Qkv::Separate(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    query_norm: Some("self_attn.q_norm"),
    key_norm: Some("self_attn.k_norm"),
    attention_out: "self_attn.o_proj",
    attention_norm: "input_layernorm",
    attention_norm_after: None,
    mlp_norm: "post_attention_layernorm",
    mlp_norm_after: None,
    gate: Some("mlp.gate_proj"),
    up: "mlp.up_proj",
    down: "mlp.down_proj",
    sources: ["self_attn.in", "mlp.in"],
    end: End::Language { norm: "norm", head: "lm_head" },
    inputs_first: false,
};

/// Gemma 3, alone or inside a model that sees.
pub(super) static GEMMA3: Names = Names {
    prefixes: &["model.", "model.language_model.", "language_model.model.", "language_model.", ""],
    attention_norm_after: Some("post_attention_layernorm"),
    mlp_norm: "pre_feedforward_layernorm",
    mlp_norm_after: Some("post_feedforward_layernorm"),
    ..PLAIN_DECODER
};

/// GPT-2.
pub(super) static GPT2: Names = Names {
    prefixes: &["transformer.", ""],
    embedding: "wte",
    positions: Some("wpe"),
    segments: None,
    embedding_norm: None,
    block: "h",
    qkv: Qkv::Fused("attn.c_attn"),
    query_norm: None,
    key_norm: None,
    attention_out: "attn.c_proj",
    attention_norm: "ln_1",
    attention_norm_after: None,
    mlp_norm: "ln_2",
    mlp_norm_after: None,
    gate: None,
    up: "mlp.c_fc",
    down: "mlp.c_proj",
    sources: ["attn.in", "mlp.in"],
    end: End::Language { norm: "ln_f", head: "lm_head" },
    inputs_first: true,
};

/// BERT.
pub(super) static BERT: Names = Names {
    prefixes: &["bert.", ""],
    embedding: "embeddings.word_embeddings",
    positions: Some("embeddings.position_embeddings"),
    segments: Some("embeddings.token_type_embeddings"),
    embedding_norm: Some("embeddings.LayerNorm"),
    block: "encoder.layer",
    qkv: Qkv::Separate(["attention.self.query", "attention.self.key", "attention.self.value"]),
    query_norm: None,
    key_norm: None,
    attention_out: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    attention_norm_after: None,
    mlp_norm: "output.LayerNorm",
    mlp_norm_after: None,
    gate: None,
    up: "intermediate.dense",
    down: "output.dense",
    sources: ["attention.self.in", "intermediate.in"],
    end: End::Encoder { pooler: "pooler.dense" },
    inputs_first: false,
};
