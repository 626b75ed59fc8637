#!/usr/bin/env python3
"""A checkpoint compressed in one call: python hf_compression_example.py [MODEL [TEXT]]

MODEL is a folder or a name that transformers finds; without it, a small language model of bytes is trained first, on
this repository's documents (offline, in seconds). Says what it costs to keep 20 % of the parameters
of the layers: by weights, and by what flows through them on three quarters of TEXT; judged on the last. Needs transformers.
"""

import pathlib
import sys
import tempfile

import torch
import transformers

import calabi

ROOT = pathlib.Path(__file__).parents[2]
SEQUENCE = 64


def train(text, folder):
    """A small Llama of bytes."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=256, hidden_size=96, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=SEQUENCE, tie_word_embeddings=True,
    )
    model = transformers.LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(500):
        starts = torch.randint(len(text) - SEQUENCE, (16,))
        ids = torch.stack([text[start : start + SEQUENCE] for start in starts])
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    print(f"trained to {loss.item():.3f} nats a byte\n")


def tokens(name, paths):
    """The text as tokens of the model, or as bytes."""
    text = "".join(pathlib.Path(path).read_text(encoding="utf-8") for path in paths)
    if name is None:
        return torch.tensor(list(text.encode()), dtype=torch.int64)
    ids = transformers.AutoTokenizer.from_pretrained(name)(text, add_special_tokens=False)["input_ids"]
    return torch.tensor(ids, dtype=torch.int64)


def batches(ids, count=24):
    rows = ids[: len(ids) // SEQUENCE * SEQUENCE].reshape(-1, SEQUENCE)
    return [{"input_ids": rows[start : start + 4]} for start in range(0, min(4 * count, len(rows)), 4)]


@torch.no_grad()
def loss(model, ids):
    """Nats a token."""
    losses = [model(**batch, labels=batch["input_ids"]).loss.item() for batch in batches(ids)]
    return sum(losses) / len(losses)


def main():
    name = sys.argv[1] if len(sys.argv) > 1 else None
    ids = tokens(name, sys.argv[2:] or [ROOT / name for name in ("README.md", "REFERENCE.md", "ARCHITECTURE.md")])
    seen, unseen = ids[: len(ids) * 3 // 4], ids[len(ids) * 3 // 4 :]
    with tempfile.TemporaryDirectory() as place:
        if name is None:
            name = str(pathlib.Path(place, "dense"))
            train(seen, name)
        dense = transformers.AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
        print(f"dense:                         {loss(dense, unseen):.3f} nats a token")
        plain = calabi.compress_hf_model(name, keep=0.2, dtype=torch.float32)
        print(f"20 %, errors of the weights:  {loss(plain, unseen):.3f}")
        small = pathlib.Path(place, "small")
        model = calabi.compress_hf_model(name, keep=0.2, calibrate=batches(seen), output=small, dtype=torch.float32)
        print(f"20 %, errors of the outputs:  {loss(model, unseen):.3f}\n")
        print(model.calabi_report)
        again = transformers.AutoModelForCausalLM.from_pretrained(small, dtype=torch.float32)
        assert loss(again, unseen) == loss(model, unseen), "loaded by transformers alone, it is the same model"
        assert loss(model, unseen) < loss(plain, unseen)


if __name__ == "__main__":
    main()
