#!/usr/bin/env python3
"""A compressed checkpoint, its dense form and the compressed ONNX export of the same model give the same outputs.

    torch-python tests/python/check_same_factors.py target/release/calabi-cli

Tiny random models, exported by PyTorch; all layers but the head at half of their dimensions.
"""

import contextlib
import io
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnxruntime
import torch
import transformers as hf

from make_tiny_models import FAMILIES, VOCABULARY

LOADERS = {"llama": hf.AutoModelForCausalLM, "qwen3": hf.AutoModelForCausalLM, "gpt2": hf.AutoModelForCausalLM,
           "bert": hf.AutoModel}
TOLERANCE = 1e-4


class Outputs(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids):
        more = {} if isinstance(self.model, hf.BertModel) else {"use_cache": False}
        return self.model(input_ids=input_ids, **more)[0]


def compress(program, folder, source, result):
    """All layers but the head, which is known by its outputs: the vocabulary."""
    pipeline = folder / f"{result}.toml"
    text = (f'[model]\ninput = "{source}"\noutput = "{result}"\n[rank]\nkind = "fraction"\nkeep = 0.5\n'
            "[layers]\nmultiple = 1\nbreak_even = false\n")
    pipeline.write_text(text)
    plan = subprocess.run([program, "plan", pipeline, "--format", "json"], check=True, capture_output=True).stdout
    heads = [layer["name"] for layer in json.loads(plan)["layers"] if layer["shape"][0] == VOCABULARY]
    pipeline.write_text(f"{text}exclude = {json.dumps(heads)}\n")
    subprocess.run([program, "run", pipeline], check=True, capture_output=True)


@torch.no_grad()
def check(program, family, folder):
    torch.manual_seed(7)
    kind, config = FAMILIES[family]
    model = kind(config).eval()
    model.save_pretrained(folder / "model")
    ids = torch.randint(1, VOCABULARY, (2, 9))
    with contextlib.redirect_stdout(io.StringIO()):
        torch.onnx.export(Outputs(model), (ids,), folder / "model.onnx", dynamo=True, external_data=False,
                          input_names=["input_ids"], output_names=["outputs"])
    compress(program, folder, "model", "small")
    compress(program, folder, "model.onnx", "small.onnx")
    subprocess.run([program, "densify", folder / "small", folder / "dense"], check=True, capture_output=True)

    session = onnxruntime.InferenceSession(str(folder / "small.onnx"), providers=["CPUExecutionProvider"])
    outputs = {"ONNX": session.run(None, {"input_ids": ids.numpy()})[0]}
    for name, more in (("small", {"trust_remote_code": True}), ("dense", {})):
        loaded = LOADERS[family].from_pretrained(folder / name, attn_implementation="eager", **more).eval()
        outputs[name] = Outputs(loaded)(ids).numpy()
    original, wanted = Outputs(model)(ids).numpy(), outputs["small"]
    scale = np.abs(wanted).max()
    lost = np.abs(original - wanted).max() / scale
    assert lost > 100 * TOLERANCE, f"{family}: nothing was cut ({lost:.1e})"
    apart = {name: float(np.abs(found - wanted).max() / scale) for name, found in outputs.items() if name != "small"}
    print(f"{family}: cut {lost:.2f}; to the checkpoint with factors: " + ", ".join(f"{k} {v:.1e}" for k, v in apart.items()))
    assert all(value < TOLERANCE for value in apart.values()), apart


def main():
    program = pathlib.Path(sys.argv[1]).resolve()
    for family in LOADERS:
        with tempfile.TemporaryDirectory() as folder:
            check(program, family, pathlib.Path(folder))


if __name__ == "__main__":
    main()
