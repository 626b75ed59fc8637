"""Compresses an ONNX model of more than 2 GiB, with its weights in a file beside it, in less than 1 GB of memory.

    python check_large_onnx.py PATH_OF_CALABI_CLI FOLDER

Needs numpy, onnx and onnxruntime, and 5 GB of disk in FOLDER. Prints size, time and peak memory; the result must load in
onnxruntime and give what the original gives there, as far as the reported errors allow: the weights are of low rank.
"""

import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

LAYERS, NARROW, WIDE, RANK = 40, 1024, 16384, 200


def external(name, dims, offset):
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "large.bin"), ("offset", offset), ("length", 4 * dims[0] * dims[1])):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def make(folder):
    random = np.random.default_rng(1)
    nodes, tensors, offset = [], [], 0
    with open(folder / "large.bin", "wb") as file:
        for layer in range(LAYERS):
            dims = (NARROW, WIDE) if layer % 2 == 0 else (WIDE, NARROW)
            left, right = (random.standard_normal(shape, dtype=np.float32) for shape in ((dims[0], RANK), (RANK, dims[1])))
            weight = (left @ right) * np.float32((RANK * dims[0]) ** -0.5)
            tensors.append(external(f"w{layer}", dims, offset))
            file.write(weight.tobytes())
            offset += weight.nbytes
            nodes.append(helper.make_node("MatMul", [f"x{layer}", f"w{layer}"], [f"x{layer + 1}"], name=f"linear{layer}"))
    ends = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, ["n", NARROW]) for i in (0, LAYERS)]
    graph = helper.make_graph(nodes, "large", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    (folder / "large.onnx").write_bytes(model.SerializeToString())
    return offset


def run(path, x):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"x0": x})[0]


def main():
    program, folder = (pathlib.Path(arg).resolve() for arg in sys.argv[1:3])
    folder.mkdir(parents=True, exist_ok=True)
    size = make(folder)
    assert size > 2 << 30, size
    (folder / "p.toml").write_text(
        '[model]\ninput = "large.onnx"\noutput = "small.onnx"\n[rank]\nkind = "energy"\nthreshold = 0.999999\n'
    )
    begun = time.time()
    process = subprocess.Popen([program, "run", folder / "p.toml", "--force", "--format", "json"], stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL)
    report = json.loads(process.stdout.read())
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, status
    peak = usage.ru_maxrss * 1024
    print(f"{size / 1e9:.2f} GB -> {report['bytes']['after'] / 1e9:.2f} GB in {time.time() - begun:.0f} s, peak {peak / 1e6:.0f} MB")
    assert peak < 1e9 and all(layer["outcome"] == "factorized" for layer in report["layers"])
    onnx.checker.check_model(str(folder / "small.onnx"), full_check=True)
    x = np.random.default_rng(2).standard_normal((3, NARROW)).astype(np.float32)
    expected, found = run(folder / "large.onnx", x), run(folder / "small.onnx", x)
    off = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    print(f"loads in onnxruntime; outputs {off:.1e} off the original's")
    assert off < 1e-2, off


if __name__ == "__main__":
    main()
