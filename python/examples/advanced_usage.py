#!/usr/bin/env python3
"""Gradients, spectra with a plot, fine-tuning: python advanced_usage.py [FOLDER]

Checks that gradients through factors are right, plots what each rank of each layer loses (FOLDER/spectra.png), cuts a
trained classifier further than it stands, and trains the factors until it stands again. Needs torch and matplotlib.
"""

import pathlib
import sys

import matplotlib
import torch
from basic_usage import accuracy, classifier, held_out
from torch import nn

import calabi

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402


def check_gradients():
    """Against finite differences, in f64."""
    layer = calabi.LowRankLinear(nn.Linear(12, 10), rank=4).double()
    x = torch.randn(3, 12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))
    parameters = tuple(layer.parameters())
    names = [name for name, _ in layer.named_parameters()]
    call = lambda *values: torch.func.functional_call(layer, dict(zip(names, values)), (x.detach(),))
    assert torch.autograd.gradcheck(call, parameters)
    print("gradients of the input and of both factors agree with finite differences\n")


def plot_spectra(model, path):
    """The relative error of every rank of every layer, and where factors stop being smaller."""
    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            spectrum = calabi.spectrum(module.weight, name=name)
            ranks = range(len(spectrum) + 1)
            outputs, inputs = spectrum.shape
            errors = [100 * spectrum.relative_error(rank) for rank in ranks]
            (line,) = axes.plot(ranks, errors, label=f"layer {name}: {outputs} × {inputs}")
            even = min(spectrum.break_even, len(spectrum))
            axes.plot(even, errors[even], "o", color=line.get_color(), clip_on=False)
    axes.set(xlabel="rank (dots: from here on factors are not smaller)", ylabel="relative error, %", xlim=0, ylim=0)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    print(f"what every rank loses: {path}\n")


def finetune(model, inputs, labels, steps=60):
    """Trains all parameters, factors among them."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()


def main():
    torch.manual_seed(0)
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    check_gradients()
    model, (inputs, labels) = classifier(), held_out()
    plot_spectra(model, folder / "spectra.png")

    half = len(labels) // 2
    seen, unseen = (inputs[:half], labels[:half]), (inputs[half:], labels[half:])
    print(f"dense:                        {accuracy(model, *unseen):.1%} of {len(unseen[1])} digits")
    plain, measured = classifier(), classifier()
    calabi.replace_linear_layers(plain, rank=6, exclude=["4"])
    report = calabi.replace_linear_layers(measured, rank=6, exclude=["4"], calibrate=[seen[0]], bias="joint")
    print(f"rank 6, errors of weights:    {accuracy(plain, *unseen):.1%}")
    print(f"rank 6, errors of outputs:    {accuracy(measured, *unseen):.1%}, {report.removed:.0%} of the parameters gone")
    before = accuracy(plain, *unseen)
    finetune(plain, *seen)
    print(f"the first, factors trained:   {accuracy(plain, *unseen):.1%}")
    assert accuracy(plain, *unseen) > before, "training recovers what was lost"


if __name__ == "__main__":
    main()
