#!/usr/bin/env python3
"""Makes the tiny random checkpoints that calabi-nn is tested on, and what transformers says of them.

    torch-python tests/python/make_tiny_models.py [calabi-nn/tests/models]

A folder a family: config.json, model.safetensors (16-bit) and expected.safetensors, which holds the inputs and what the
model gives in f32 on them, of real tokens alone where a sample is padded. Weights are large, and norms and biases
random, so that a wrong sign or a forgotten scale shows.
"""

import json
import pathlib
import sys

import torch
import transformers as hf
from safetensors.torch import save_file

TOKENS, SAMPLES, VOCABULARY = 12, 3, 80
COMMON = dict(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, initializer_range=0.2)
DECODER = COMMON | dict(intermediate_size=48, num_key_value_heads=2, max_position_embeddings=64)
LLAMA3 = dict(rope_type="llama3", rope_theta=1e4, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=16)
YARN = dict(rope_type="yarn", rope_theta=1e4, factor=4.0, original_max_position_embeddings=16)
LINEAR = dict(rope_type="linear", rope_theta=1e4, factor=2.0)

FAMILIES = {
    "llama": (hf.LlamaForCausalLM, hf.LlamaConfig(
        **DECODER, rope_parameters=LLAMA3, attention_bias=True, mlp_bias=True, tie_word_embeddings=False)),
    "mistral": (hf.MistralForCausalLM, hf.MistralConfig(
        **DECODER, rope_parameters=LINEAR, sliding_window=5, head_dim=12, tie_word_embeddings=False)),
    "qwen2": (hf.Qwen2ForCausalLM, hf.Qwen2Config(
        **DECODER, tie_word_embeddings=True, use_sliding_window=True, sliding_window=4, max_window_layers=1)),
    "qwen3": (hf.Qwen3ForCausalLM, hf.Qwen3Config(
        **DECODER, head_dim=16, rope_parameters=YARN, tie_word_embeddings=False)),
    "gemma3": (hf.Gemma3ForCausalLM, hf.Gemma3TextConfig(
        **(DECODER | dict(num_hidden_layers=3)), head_dim=16, query_pre_attn_scalar=24, sliding_window=5,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"], final_logit_softcapping=3.0,
        rope_parameters={"full_attention": LINEAR | dict(rope_theta=1e6),
                         "sliding_attention": dict(rope_type="default", rope_theta=1e4)})),
    "bert": (hf.BertModel, hf.BertConfig(
        **COMMON, intermediate_size=48, max_position_embeddings=24, type_vocab_size=2)),
    "gpt2": (hf.GPT2LMHeadModel, hf.GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=24, initializer_range=0.2,
        bos_token_id=0, eos_token_id=0, scale_attn_by_inverse_layer_idx=True)),
}


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "calabi-nn/tests/models")
    for seed, (name, (kind, config)) in enumerate(FAMILIES.items()):
        torch.manual_seed(seed)
        config._attn_implementation = "eager"
        make(folder / name, kind(config).eval(), dtype=torch.float16 if name == "gpt2" else torch.bfloat16)


@torch.no_grad()
def make(folder, model, dtype):
    for name, values in model.named_parameters():
        if values.dim() == 1:
            values.add_(0.2 * torch.randn_like(values))
        values.copy_(values.to(dtype).float())
    inputs = {"input_ids": torch.randint(1, VOCABULARY, (SAMPLES, TOKENS))}
    mask = torch.ones(SAMPLES, TOKENS, dtype=torch.int64)
    mask[1, TOKENS - 5 :] = 0
    inputs["attention_mask"] = mask
    if isinstance(model, hf.BertModel):
        inputs["token_type_ids"] = (torch.arange(TOKENS) > 5).long().repeat(SAMPLES, 1)
    given = model(**inputs)
    names = [name for name in ("logits", "last_hidden_state", "pooler_output") if getattr(given, name, None) is not None]
    expected = {name: getattr(given, name).clone() for name in names}
    for name in ("logits", "last_hidden_state"):
        if name in expected:
            expected[name][mask == 0] = 0
    print(folder.name, {name: (tuple(v.shape), round(float(v.std()), 3)) for name, v in expected.items()})
    model.to(dtype).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    save_file({k: v.contiguous() for k, v in (inputs | expected).items()}, folder / "expected.safetensors")


if __name__ == "__main__":
    main()
