"""Gathers calabi's statistics with PyTorch, on any device: python statistics_hook.py MODEL TEXT OUT.safetensors

Use the result with [calibration] statistics = "OUT.safetensors". Layers that read the same tensor share its statistics.
"""
import json
import sys

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

SAMPLES, SEQUENCE = 64, 512


def main(folder, text, out):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device).eval()
    tokens = AutoTokenizer.from_pretrained(folder)(open(text).read(), add_special_tokens=False)["input_ids"]
    sums, layers, last = {}, {}, {}

    def watch(name):
        def hook(module, inputs):
            source = last.get("name") if last.get("tensor") is inputs[0] else name
            last.update(tensor=inputs[0], name=source)
            layers[name] = source
            if source == name:
                x = inputs[0].reshape(-1, inputs[0].shape[-1])
                gram, mean, count = sums.get(name, (0, 0, 0))
                sums[name] = (gram + (x.T @ x).double(), mean + x.double().sum(0), count + len(x))
        return hook

    for name, module in model.model.named_modules(prefix="model"):
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(watch(name))
    with torch.no_grad():
        for start in range(0, SAMPLES * SEQUENCE, SEQUENCE):
            model(torch.tensor([tokens[start:start + SEQUENCE]], device=device))
    tensors = {}
    for name, (gram, mean, count) in sums.items():
        tensors[f"gram.{name}"] = (gram / count).float().cpu().contiguous()
        tensors[f"mean.{name}"] = (mean / count).float().cpu().contiguous()
        tensors[f"tokens.{name}"] = torch.tensor([count])
    save_file(tensors, out, {"format": "calabi-statistics", "version": "1", "layers": json.dumps(layers)})


if __name__ == "__main__":
    main(*sys.argv[1:])
