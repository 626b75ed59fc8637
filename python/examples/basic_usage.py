#!/usr/bin/env python3
"""A matrix, a layer, a model: python basic_usage.py

Makes a trained classifier of handwritten digits smaller, in memory, and says what that cost. Needs torch.
"""

import pathlib

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

import calabi

DIGITS = pathlib.Path(__file__).parents[2] / "examples/quickstart"


def classifier():
    """The trained model of the quickstart."""
    weights = load_file(DIGITS / "digits.safetensors")
    layers = []
    for name in ("hidden1", "hidden2", "output"):
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        layer = nn.Linear(*reversed(weight.shape))
        layer.weight.data, layer.bias.data = weight, bias
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


def held_out():
    """Digits that the model was not trained on, and what they are."""
    arrays = np.load(DIGITS / "held-out.npz")
    labels = next(name for name in arrays.files if arrays[name].ndim == 1)
    inputs = next(name for name in arrays.files if arrays[name].ndim == 2)
    return torch.from_numpy(arrays[inputs]).float(), torch.from_numpy(arrays[labels]).long()


def accuracy(model, inputs, labels):
    with torch.no_grad():
        return (model(inputs).argmax(1) == labels).float().mean().item()


def main():
    model, (inputs, labels) = classifier(), held_out()

    print("A matrix: factors whose product is the best approximation of their rank")
    weight = model[2].weight
    for rank in (8, 32, 128):
        made = calabi.factorize(weight, rank)
        print(f"  rank {rank:3}: left {made.left.shape}, right {made.right.shape}, error {made.measured_error:.2%}")
    rule = {"kind": "energy", "threshold": 0.9}
    print(f"  nine tenths of its energy need rank {calabi.select(calabi.spectrum(weight), rule).rank}\n")

    print("A layer: one linear layer becomes two")
    layer = calabi.LowRankLinear(model[2], rank=32)
    print(f"  {model[2]} -> {layer}\n")

    print("A model: its layers share a budget of 30 % of their parameters")
    before = accuracy(model, inputs, labels)
    report = calabi.replace_linear_layers(model, keep=0.3)
    print(report)
    print(f"accuracy on {len(labels)} digits it never saw: {before:.1%} before, {accuracy(model, inputs, labels):.1%} after")


if __name__ == "__main__":
    main()
