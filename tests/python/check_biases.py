"""Checks biases that calabi-io adds to real models against onnxruntime and safetensors.

    cargo build -p calabi-io --example add_biases
    python check_biases.py target/debug/examples/add_biases FOLDER

FOLDER holds `minilm-dynamo.onnx`, `minilm` and `smollm2` (Hugging Face folders). Every layer gets factors that are its
weight exactly, and a bias. What the result gives must be what the original gives with an `Add` behind each layer, to
1e-5 relative to the largest output. Needs numpy, safetensors, onnx and onnxruntime; with torch, a graph of Gemms that it
exports is checked as well.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from safetensors import safe_open

PROGRAM, FOLDER = (pathlib.Path(arg).resolve() for arg in sys.argv[1:3])


def rewrite(model, output):
    """Runs the program; gives what it says of each layer."""
    ran = subprocess.run([PROGRAM, model, output], stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in ran.stdout.splitlines()]


def delta(m):
    return np.float32(0.01) * (7 * np.arange(m) % 13 - 6).astype(np.float32)


def reference(path, layers):
    """The original with an Add of the bias behind the node of each layer."""
    model = onnx.load(path)
    makers = {output: node for node in model.graph.node for output in node.output}
    dims = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    for index, layer in enumerate(layers):
        node = makers[layer["output"]]
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        assert node.input[1] == layer["weight"] and node.input[0] == layer["input"], layer["name"]
        m = dims[layer["weight"]][0 if transposed else 1]
        node.output[0] = f"plain.{index}"
        model.graph.initializer.append(numpy_helper.from_array(delta(m), f"delta.{index}"))
        add = helper.make_node("Add", [f"plain.{index}", f"delta.{index}"], [layer["output"]])
        model.graph.node.insert(list(model.graph.node).index(node) + 1, add)
    return model


def outputs(model, inputs):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def check_norms(path, layers):
    """Layers behind a LayerNormalization have its tensors."""
    model = onnx.load(path)
    makers = {output: node for node in model.graph.node for output in node.output}
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for layer in layers:
        node = makers.get(layer["input"])
        if node is not None and node.op_type == "LayerNormalization":
            np.testing.assert_array_equal(layer["gamma"], tensors[node.input[1]])
            np.testing.assert_array_equal(layer["beta"], tensors[node.input[2]])
        else:
            assert layer["gamma"] is None, layer["name"]
    return sum(layer["gamma"] is not None for layer in layers)


def check_graph(path, inputs, work):
    output = work / f"{path.stem}.out.onnx"
    layers = rewrite(path, output)
    onnx.checker.check_model(str(output), full_check=True)
    plain = outputs(str(path), inputs)
    expected = outputs(reference(path, layers).SerializeToString(), inputs)
    found = outputs(str(output), inputs)
    for before, wanted, got in zip(plain, expected, found):
        error = np.abs(got - wanted).max() / np.abs(wanted).max()
        assert error < 1e-5 < np.abs(wanted - before).max(), error
        print(f"{path.name}: {len(layers)} layers, {sum(layer['bias'] for layer in layers)} biases in place, ", end="")
        print(f"{check_norms(path, layers)} behind a norm; relative error {error:.1e}")


def gemms(path):
    """Linear layers with and without bias, one bias shared by two."""
    import torch

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = torch.nn.Linear(24, 48)
            self.second = torch.nn.Linear(48, 48, bias=False)
            self.third = torch.nn.Linear(48, 48)
            self.fourth = torch.nn.Linear(48, 48)
            self.fourth.bias = self.third.bias
            self.norm = torch.nn.LayerNorm(48)
            self.last = torch.nn.Linear(48, 10)

        def forward(self, x):
            x = torch.tanh(self.second(torch.tanh(self.first(x))))
            return self.last(self.norm(torch.tanh(self.fourth(torch.tanh(self.third(x))))))

    torch.manual_seed(0)
    torch.onnx.export(Model(), (torch.zeros(5, 24),), path, dynamo=False)
    operators = [node.op_type for node in onnx.load(path).graph.node]
    assert {"Gemm", "MatMul"} <= set(operators), operators


def check_checkpoint(folder, work, behind):
    """Factors, sums, and norms of a checkpoint; `behind` layers stand behind a norm."""
    output = work / folder.name
    layers = rewrite(folder, output)
    before, after = safe_open(folder / "model.safetensors", "np"), safe_open(output / "model.safetensors", "np")
    names = set(before.keys())
    for layer in layers:
        name = layer["name"]
        bias = after.get_tensor(f"{name}.left.bias")
        own = before.get_tensor(f"{name}.bias").astype(np.float32) if f"{name}.bias" in names else np.float32(0)
        assert layer["bias"] == (f"{name}.bias" in names)
        np.testing.assert_array_equal(bias, (own + delta(len(bias))).astype(bias.dtype))
    found = sum(layer["gamma"] is not None for layer in layers)
    assert found == behind, found
    print(f"{folder.name}: {len(layers)} layers, {found} behind a norm, sums exact")


with tempfile.TemporaryDirectory() as work:
    work = pathlib.Path(work)
    model = FOLDER / "minilm-dynamo.onnx"
    ids = np.random.default_rng(1).integers(1000, 20000, (2, 24))
    given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    wanted = {value.name for value in onnx.load(model, load_external_data=False).graph.input}
    check_graph(model, {name: ids for name, ids in given.items() if name in wanted}, work)
    try:
        gemms(work / "gemms.onnx")
    except ImportError:
        print("no torch: no graph of Gemms")
    else:
        (x,) = onnx.load(work / "gemms.onnx").graph.input
        x_values = np.random.default_rng(2).normal(size=(5, 24)).astype(np.float32)
        check_graph(work / "gemms.onnx", {x.name: x_values}, work)
    check_checkpoint(FOLDER / "minilm", work, behind=24)
    check_checkpoint(FOLDER / "smollm2", work, behind=150)
