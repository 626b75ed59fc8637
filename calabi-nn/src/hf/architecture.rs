//! What a family of models computes, as data: read from `config.json`, obeyed by the block.

use calabi_api::RunError;

use super::config::Keys;
use super::names::{BERT, DECODER, GEMMA3, GPT2, Names};
use super::ops::Activation;
use super::pass::Angles;
use super::rotary::Rotary;
use crate::text;

/// The model types that run.
const KNOWN: &str = "llama, mistral, qwen2, qwen3, gemma3, gemma3_text, gpt2 and bert";
/// Keys of other models in these families' clothes: what they switch on is not there.
const UNSUPPORTED: [&str; 12] = [
    "quantization_config",
    "compression_config",
    "partial_rotary_factor",
    "attn_logit_softcapping",
    "use_bidirectional_attention",
    "is_decoder",
    "add_cross_attention",
    "embedding_multiplier",
    "residual_multiplier",
    "attention_multiplier",
    "logits_scaling",
    "no_rope_layers",
];

/// What the model computes.
#[derive(Debug)]
pub(super) struct Architecture {
    pub(super) names: &'static Names,
    pub(super) hidden: usize,
    pub(super) vocabulary: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) blocks: Vec<BlockPlan>,
    /// The rotary positions that blocks name; none where positions are learned.
    pub(super) rotaries: Vec<Rotary>,
    pub(super) angles: Angles,
    pub(super) norm: NormPlan,
    pub(super) placement: Placement,
    pub(super) activation: Activation,
    /// A token sees none behind it.
    pub(super) causal: bool,
    /// What embeddings are multiplied by.
    pub(super) embedding_scale: f64,
    /// Whether the head is the embedding table; none where the file decides.
    pub(super) tied: Option<bool>,
    /// Logits are `cap · tanh(logits / cap)`.
    pub(super) softcap: Option<f64>,
    /// The longest sequence; none where positions are not learned.
    pub(super) longest: Option<usize>,
}

/// How blocks of one model differ.
#[derive(Debug, Clone)]
pub(super) struct BlockPlan {
    /// Which rotary positions.
    pub(super) rotary: Option<usize>,
    /// A token sees so many at most: itself and those right before it.
    pub(super) window: Option<usize>,
    /// What products of queries and keys are multiplied by.
    pub(super) scale: f64,
}

/// A model's norms.
#[derive(Debug, Clone, Copy)]
pub(super) struct NormPlan {
    pub(super) kind: NormKind,
    pub(super) eps: f64,
    /// What the stored weight is short of: 1 for Gemma.
    pub(super) offset: f64,
}

/// Which norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NormKind {
    /// By the root of the mean square.
    Rms,
    /// By mean and variance.
    Layer,
}

/// Where the norms of a block stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Placement {
    /// `x + f(norm(x))`.
    Before,
    /// `x + norm'(f(norm(x)))`.
    Around,
    /// `norm(x + f(x))`.
    After,
}

impl Architecture {
    /// Reads the architecture of a checkpoint, factorized by calabi or not.
    pub(super) fn read(keys: &Keys) -> Result<Self, RunError> {
        let model_type = match keys.text("model_type")? {
            Some("calabi") => {
                let former = keys.object("calabi")?.ok_or_else(|| keys.refuse("calabi", "it is missing"))?;
                former.text("base_model_type")?.map(str::to_owned)
            }
            other => other.map(str::to_owned),
        };
        let model_type = model_type.ok_or_else(|| keys.refuse("model_type", "it is missing"))?;
        keys.refuse_set(&UNSUPPORTED)?;
        match model_type.as_str() {
            "llama" | "mistral" | "qwen2" | "qwen3" => decoder(keys, &model_type),
            "gemma3_text" => gemma3(keys),
            "gemma3" => {
                let keys = keys.object("text_config")?.ok_or_else(|| keys.refuse("text_config", "it is missing"))?;
                keys.refuse_set(&UNSUPPORTED)?;
                gemma3(&keys)
            }
            "gpt2" => gpt2(keys),
            "bert" => bert(keys),
            other => {
                let problem = format!("{} does not run here: {KNOWN} do", text::shown(other));
                Err(keys.refuse("model_type", problem))
            }
        }
    }
}

/// Llama, Mistral, `Qwen2` and `Qwen3`: biases and norms of queries and keys are there where the file has them.
fn decoder(keys: &Keys, model_type: &str) -> Result<Architecture, RunError> {
    let shape = Heads::read(keys)?;
    let rotary = rotary(keys, shape.dim, &["rope_parameters", "rope_scaling"], "rope_theta")?;
    let scale = (shape.dim as f64).powf(-0.5);
    let blocks = (0..keys.count("num_hidden_layers")?)
        .map(|block| Ok(BlockPlan { rotary: Some(0), window: window(keys, model_type, block)?, scale }));
    Ok(Architecture {
        names: &DECODER,
        blocks: blocks.collect::<Result<_, RunError>>()?,
        rotaries: vec![rotary],
        angles: Angles::default(),
        norm: NormPlan { kind: NormKind::Rms, eps: keys.positive("rms_norm_eps")?, offset: 0.0 },
        placement: Placement::Before,
        activation: activation(keys, &["hidden_act"], "silu")?,
        causal: true,
        embedding_scale: 1.0,
        tied: keys.flag("tie_word_embeddings")?,
        softcap: None,
        longest: None,
        hidden: keys.count("hidden_size")?,
        vocabulary: keys.count("vocab_size")?,
        heads: shape.count,
        kv_heads: shape.shared,
        head_dim: shape.dim,
    })
}

/// Gemma 3: norms around, weights of norms short of one, local and global blocks with rotary positions of their own.
fn gemma3(keys: &Keys) -> Result<Architecture, RunError> {
    let shape = Heads::read(keys)?;
    let parameters = keys.object("rope_parameters")?;
    let rotaries = if let Some(parameters) = &parameters {
        let kinds = ["full_attention", "sliding_attention"].iter();
        kinds.map(|kind| rotary(parameters, shape.dim, &[kind], "rope_theta")).collect::<Result<_, _>>()?
    } else {
        let local = keys.number("rope_local_base_freq")?.unwrap_or(1e4);
        vec![rotary(keys, shape.dim, &["rope_scaling"], "rope_theta")?, Rotary::plain(local, shape.dim)]
    };
    let scale = keys.number("query_pre_attn_scalar")?.unwrap_or(256.0).powf(-0.5);
    let blocks = (0..keys.count("num_hidden_layers")?).map(|block| {
        let window = gemma_window(keys, block)?;
        Ok(BlockPlan { rotary: Some(usize::from(window.is_some())), window, scale })
    });
    let hidden = keys.count("hidden_size")?;
    Ok(Architecture {
        names: &GEMMA3,
        blocks: blocks.collect::<Result<_, RunError>>()?,
        rotaries,
        angles: Angles::default(),
        norm: NormPlan { kind: NormKind::Rms, eps: keys.number("rms_norm_eps")?.unwrap_or(1e-6), offset: 1.0 },
        placement: Placement::Around,
        activation: activation(keys, &["hidden_activation", "hidden_act"], "gelu_pytorch_tanh")?,
        causal: true,
        embedding_scale: (hidden as f64).sqrt(),
        tied: Some(keys.flag("tie_word_embeddings")?.unwrap_or(true)),
        softcap: keys.number("final_logit_softcapping")?,
        longest: None,
        hidden,
        vocabulary: keys.count("vocab_size")?,
        heads: shape.count,
        kv_heads: shape.shared,
        head_dim: shape.dim,
    })
}

/// GPT-2: learned positions, one linear map for queries, keys and values.
fn gpt2(keys: &Keys) -> Result<Architecture, RunError> {
    let (hidden, heads) = (keys.count("n_embd")?, keys.count("n_head")?);
    let head_dim = divided(keys, hidden, heads, "n_head")?;
    let scaled = keys.flag("scale_attn_weights")?.unwrap_or(true);
    let by_depth = keys.flag("scale_attn_by_inverse_layer_idx")?.unwrap_or(false);
    let blocks = (0..keys.count("n_layer")?).map(|block| {
        let scale = if scaled { (head_dim as f64).powf(-0.5) } else { 1.0 };
        let scale = if by_depth { scale / (block as f64 + 1.0) } else { scale };
        BlockPlan { rotary: None, window: None, scale }
    });
    Ok(Architecture {
        names: &GPT2,
        blocks: blocks.collect(),
        rotaries: Vec::new(),
        angles: Angles::default(),
        norm: NormPlan { kind: NormKind::Layer, eps: keys.number("layer_norm_epsilon")?.unwrap_or(1e-5), offset: 0.0 },
        placement: Placement::Before,
        activation: activation(keys, &["activation_function"], "gelu_new")?,
        causal: true,
        embedding_scale: 1.0,
        tied: Some(keys.flag("tie_word_embeddings")?.unwrap_or(true)),
        softcap: None,
        longest: Some(keys.count("n_positions")?),
        hidden,
        vocabulary: keys.count("vocab_size")?,
        heads,
        kv_heads: heads,
        head_dim,
    })
}

/// BERT: norms after, learned positions, tokens see each other.
fn bert(keys: &Keys) -> Result<Architecture, RunError> {
    let (hidden, heads) = (keys.count("hidden_size")?, keys.count("num_attention_heads")?);
    let head_dim = divided(keys, hidden, heads, "num_attention_heads")?;
    if let Some(other) = keys.text("position_embedding_type")?.filter(|kind| *kind != "absolute") {
        let problem = format!("{} is not supported: absolute is", text::shown(other));
        return Err(keys.refuse("position_embedding_type", problem));
    }
    let plan = BlockPlan { rotary: None, window: None, scale: (head_dim as f64).powf(-0.5) };
    Ok(Architecture {
        names: &BERT,
        blocks: vec![plan; keys.count("num_hidden_layers")?],
        rotaries: Vec::new(),
        angles: Angles::default(),
        norm: NormPlan { kind: NormKind::Layer, eps: keys.number("layer_norm_eps")?.unwrap_or(1e-12), offset: 0.0 },
        placement: Placement::After,
        activation: activation(keys, &["hidden_act"], "gelu")?,
        causal: false,
        embedding_scale: 1.0,
        tied: None,
        softcap: None,
        longest: Some(keys.count("max_position_embeddings")?),
        hidden,
        vocabulary: keys.count("vocab_size")?,
        heads,
        kv_heads: heads,
        head_dim,
    })
}

/// Heads of a decoder.
struct Heads {
    count: usize,
    shared: usize,
    dim: usize,
}

impl Heads {
    fn read(keys: &Keys) -> Result<Self, RunError> {
        let heads = keys.count("num_attention_heads")?;
        let kv_heads = keys.count_or_none("num_key_value_heads")?.unwrap_or(heads);
        if !heads.is_multiple_of(kv_heads) {
            return Err(keys.refuse("num_key_value_heads", format!("{heads} heads cannot share {kv_heads}")));
        }
        let dim = match keys.count_or_none("head_dim")? {
            Some(dim) => dim,
            None => divided(keys, keys.count("hidden_size")?, heads, "num_attention_heads")?,
        };
        if !dim.is_multiple_of(2) {
            return Err(keys.refuse("head_dim", format!("rotary positions turn pairs, and {dim} is odd")));
        }
        Ok(Self { count: heads, shared: kv_heads, dim })
    }
}

fn divided(keys: &Keys, hidden: usize, heads: usize, key: &str) -> Result<usize, RunError> {
    let even = hidden.is_multiple_of(heads);
    even.then_some(hidden / heads).ok_or_else(|| keys.refuse(key, format!("{heads} heads do not divide {hidden}")))
}

/// Rotary positions from the first of these objects that is there; else plain ones.
fn rotary(keys: &Keys, dim: usize, objects: &[&str], theta_key: &str) -> Result<Rotary, RunError> {
    let given = keys.number(theta_key)?;
    let mut scalings = objects.iter().filter_map(|key| keys.object(key).transpose());
    let Some(scaling) = scalings.next().transpose()? else {
        return Ok(Rotary::plain(given.unwrap_or(1e4), dim));
    };
    let theta = scaling.number(theta_key)?.or(given).unwrap_or(1e4);
    if theta <= 1.0 || !theta.is_finite() {
        return Err(scaling.refuse(theta_key, "it is not above 1"));
    }
    Rotary::scaled(theta, dim, &scaling)
}

/// The window of a decoder's block: transformers slides it in every Mistral block, in Qwen's from `max_window_layers` on.
fn window(keys: &Keys, model_type: &str, block: usize) -> Result<Option<usize>, RunError> {
    let qwen = model_type.starts_with("qwen");
    if model_type == "llama" || (qwen && !keys.flag("use_sliding_window")?.unwrap_or(false)) {
        return Ok(None);
    }
    let Some(window) = keys.count_or_none("sliding_window")? else { return Ok(None) };
    let slides = match layer_type(keys, block)? {
        Some(slides) => slides,
        None if qwen => block >= keys.count_or_none("max_window_layers")?.unwrap_or(28),
        None => true,
    };
    Ok(slides.then_some(window))
}

/// The window of a Gemma block: all but every sixth slide it.
fn gemma_window(keys: &Keys, block: usize) -> Result<Option<usize>, RunError> {
    let slides = match layer_type(keys, block)? {
        Some(slides) => slides,
        None => !(block + 1).is_multiple_of(keys.count_or_none("sliding_window_pattern")?.unwrap_or(6)),
    };
    slides.then(|| keys.count("sliding_window")).transpose()
}

/// Whether `layer_types` says that a block's attention slides; none where it is absent.
fn layer_type(keys: &Keys, block: usize) -> Result<Option<bool>, RunError> {
    let Some(types) = keys.texts("layer_types")? else { return Ok(None) };
    match types.get(block) {
        Some(&"sliding_attention") => Ok(Some(true)),
        Some(&"full_attention") => Ok(Some(false)),
        Some(other) => {
            let problem = format!("{} is not supported: sliding_attention and full_attention are", text::shown(other));
            Err(keys.refuse("layer_types", problem))
        }
        None => Err(keys.refuse("layer_types", format!("it says nothing of block {block}"))),
    }
}

fn activation(keys: &Keys, names: &[&str], default: &str) -> Result<Activation, RunError> {
    let mut given = names.iter().filter_map(|key| keys.text(key).transpose().map(|text| (*key, text)));
    let (key, name) = given.next().map_or(Ok((names[0], default)), |(key, text)| text.map(|text| (key, text)))?;
    match name {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Activation::GeluTanh),
        "gelu" | "gelu_python" => Ok(Activation::GeluErf),
        "relu" => Ok(Activation::Relu),
        other => Err(keys.refuse(key, format!("the activation {} is not supported", text::shown(other)))),
    }
}
