"""Watches the input of every MatMul and Gemm layer of ONNX models, and compares it with onnxruntime's.

    python check_watched_inputs.py PATH_OF_EXAMPLE_ONNX_SPEED MODEL...

The values are added to the graph's outputs for onnxruntime. Text models are fed random tokens with padding, which must
not be seen; others random numbers, free dimensions as 2. Cubic Resize nodes (of position embeddings) give both what they give
in onnxruntime, since rten 0.27 computes them otherwise: by up to 0.8 where numbers are normal. Prints a line for each model; a difference of more than 1e-4 of
a value's largest entry ends the script. Needs numpy, onnx and onnxruntime.
"""

import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime

PROGRAM, MODELS = sys.argv[1], sys.argv[2:]
COUNT, LENGTH = 5, 24


def main():
    for model in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            check(model, pathlib.Path(folder))


def check(path, folder):
    model = onnx.load(path)
    layers = list(linear(model.graph))
    assert layers, f"{path} has no layers to watch"
    path = without_resize(model, path, folder)
    sources = list(dict.fromkeys(source for _, _, source, _ in layers))
    given = {value.name for value in model.graph.input}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sources if name not in given)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    inputs = feed(session)
    np.savez(folder / "data.npz", **inputs)
    (folder / "layers").write_text("".join(" ".join(map(str, layer)) + "\n" for layer in layers))
    commands = f"watch {folder}/layers {folder}\n"
    answer = subprocess.run([PROGRAM, path, folder / "data.npz"], input=commands, capture_output=True, text=True, check=True)
    worst = max(difference(session, inputs, folder, sources))
    print(f"{path}: {len(layers)} layers, {answer.stdout.strip()}, largest relative difference {worst:.1e}")
    assert worst < 1e-4


def without_resize(model, path, folder):
    resized = [n for n in model.graph.node if any(a.s == b"cubic" for a in n.attribute)]
    if not resized:
        return path
    names = [node.output[0] for node in resized]
    probe = onnx.ModelProto.FromString(model.SerializeToString())
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    for node, name, value in zip(resized, names, session.run(names, feed(session))):
        model.graph.node.remove(node)
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    onnx.save(model, folder / "without_resize.onnx")
    return folder / "without_resize.onnx"


def linear(graph):
    """outputs, inputs, data, output of each MatMul and Gemm whose weight is constant (behind Transpose as well)."""
    constants = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = list(node.attribute[0].t.dims)
        elif node.op_type in ("Transpose", "Identity", "Cast") and node.input[0] in constants:
            dims = constants[node.input[0]]
            constants[node.output[0]] = dims[::-1] if node.op_type == "Transpose" else dims
        elif node.op_type in ("MatMul", "Gemm") and node.input[0] not in constants:
            dims = constants.get(node.input[1], [])
            if len(dims) == 2:
                turned = any(a.name == "transB" and a.i for a in node.attribute)
                n, m = dims[::-1] if turned else dims
                yield m, n, node.input[0], node.output[0]


def feed(session):
    random = np.random.default_rng(2)
    lengths = random.integers(LENGTH // 2, LENGTH + 1, COUNT)
    mask = (np.arange(LENGTH) < lengths[:, None]).astype(np.int64)
    text = {
        "input_ids": random.integers(1000, 20000, (COUNT, LENGTH)),
        "attention_mask": mask,
        "token_type_ids": np.zeros_like(mask),
        "position_ids": np.tile(np.arange(LENGTH), (COUNT, 1)),
    }

    def other(value):
        shape = [dim if isinstance(dim, int) else 2 for dim in value.shape]
        return random.standard_normal(shape).astype(np.float32)

    return {value.name: text[value.name] if value.name in text else other(value) for value in session.get_inputs()}


def difference(session, inputs, folder, sources):
    inner = [name for name in sources if name not in inputs]
    known = {**inputs, **dict(zip(inner, session.run(inner, inputs)))}
    mask = inputs.get("attention_mask")
    for index, name in enumerate(sources):
        value = known[name]
        features = value.shape[-1]
        rows = value.reshape(-1, features)
        if mask is not None and value.shape[:2] == mask.shape:
            rows = value[mask == 1].reshape(-1, features)
        ours = np.fromfile(folder / str(index), np.float32).reshape(-1, features)
        assert ours.shape == rows.shape, f"{name}: {ours.shape} watched, {rows.shape} expected"
        yield float(np.abs(ours - rows).max() / np.abs(rows).max())


main()
