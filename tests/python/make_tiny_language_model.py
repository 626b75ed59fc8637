"""Makes tests/models/tiny-lm: an ONNX language model of 64 words, its tokenizer, a text, samples with padding, and what
onnxruntime makes of them.

    python tests/python/make_tiny_language_model.py        (needs numpy, onnx, onnxruntime, safetensors and
    tokenizers)
"""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

FOLDER = Path(__file__).parents[1] / "models" / "tiny-lm"
WORDS, WIDTH, HIDDEN, WINDOW = 64, 24, 48, 20


def model(noise):
    """Word -> embedding -> tanh layer -> logits; padding gives zeros."""
    decaying = lambda m, n: (noise.normal(size=(m, n)) * 0.9 ** np.arange(n)).astype(np.float32)
    weights = {
        "embedding": noise.normal(size=(WORDS, WIDTH)).astype(np.float32),
        "mix": 0.5 * decaying(WIDTH, HIDDEN),
        "head": 0.5 * decaying(HIDDEN, WORDS),
    }
    nodes = [
        helper.make_node("Gather", ["embedding", "input_ids"], ["x"], name="embed"),
        helper.make_node("MatMul", ["x", "mix"], ["h"], name="mix"),
        helper.make_node("Tanh", ["h"], ["t"], name="tanh"),
        helper.make_node("MatMul", ["t", "head"], ["y"], name="head"),
        helper.make_node("Cast", ["attention_mask"], ["mask"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"], name="unsqueeze"),
        helper.make_node("Mul", ["y", "column"], ["logits"], name="pad"),
    ]
    constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    constants.append(numpy_helper.from_array(np.array([-1], np.int64), "last"))
    shape = ["batch", "sequence"]
    graph = helper.make_graph(
        nodes,
        "tiny-lm",
        [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in ("input_ids", "attention_mask")],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [*shape, WORDS])],
        constants,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    return made


def perplexity(logits, ids, mask):
    """exp of the mean of -ln p(next word), where neither word is padding."""
    logits = logits.astype(np.float64)
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    taken = np.take_along_axis(logp[:, :-1], ids[:, 1:, None], -1)[..., 0]
    counted = (mask[:, :-1] * mask[:, 1:]).astype(bool)
    return float(np.exp(-taken[counted].mean())), int(counted.sum())


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(7)
    onnx.save(model(noise), FOLDER / "model.onnx")
    vocabulary = {"[UNK]": 0} | {f"w{i}": i for i in range(1, WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(FOLDER / "tokenizer.json"))
    words = noise.integers(1, WORDS + 4, size=10 * WINDOW + 7)  # some are unknown
    text = " ".join(f"w{i}" + ("\n" if i % 9 == 0 else "") for i in words)
    (FOLDER / "text.txt").write_text(text)

    session = onnxruntime.InferenceSession(str(FOLDER / "model.onnx"), providers=["CPUExecutionProvider"])
    run = lambda ids, mask: session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
    ids = np.array(tokenizer.encode(text, add_special_tokens=False).ids, np.int64)
    windows = ids[: len(ids) // WINDOW * WINDOW].reshape(-1, WINDOW)
    ones = np.ones_like(windows)
    of_text, tokens = perplexity(run(windows, ones), windows, ones)

    held = noise.integers(1, WORDS, size=(6, 9))
    mask = (np.arange(9)[None, :] < noise.integers(4, 10, size=(6, 1))).astype(np.int64)
    save_file({"input_ids": held, "attention_mask": mask}, FOLDER / "held-out.safetensors")
    of_held, held_tokens = perplexity(run(held, mask), held, mask)
    expected = {
        "window": WINDOW,
        "windows": len(windows),
        "text": {"perplexity": of_text, "tokens": tokens},
        "held_out": {"perplexity": of_held, "tokens": held_tokens, "real": int(mask.sum())},
    }
    (FOLDER / "expected.json").write_text(json.dumps(expected, indent=2) + "\n")


main()
