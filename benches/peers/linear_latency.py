#!/usr/bin/env python3
"""Times the linear layers of MiniLM in onnxruntime, dense and with half of their parameters removed, on one thread.

    benches/peers/linear_latency.py MINILM.onnx [--batch 8] [--tokens 128] [--keep 0.5] [--rounds 15] [--program CLI]

The graph has MiniLM's 36 products with their biases, in its order, and the activation between the wide ones: no attention,
no normalisation. `budget` chooses the ranks, once for each `multiple` that ranks are rounded to. Interleaved rounds, medians;
the ratio of times stands beside that of floating-point operations.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile
import time

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from built import ROOT

MULTIPLES = (1, 8, 16, 32, 64)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--keep", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--program", type=pathlib.Path, default=ROOT / "target/release/calabi-cli")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        onnx.save(graph(weights(onnx.load(args.model))), work / "dense.onnx")
        compare(args, work)


def weights(model):
    """Weights of the products of the encoder, in their order."""
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    found = [values[n.input[1]] for n in model.graph.node if n.op_type == "MatMul" and n.input[1] in values]
    return [numpy_helper.to_array(tensor) for tensor in found]


def graph(weights):
    """Query, key and value of one input, their sum through the output's product, then the two wide ones."""
    nodes, tensors, state = [], [], "x"

    def product(name, data, weight):
        tensors.append(numpy_helper.from_array(weight, f"{name}.w"))
        tensors.append(numpy_helper.from_array(np.zeros(weight.shape[1], np.float32), f"{name}.b"))
        nodes.append(helper.make_node("MatMul", [data, f"{name}.w"], [f"{name}.p"], name=name))
        nodes.append(helper.make_node("Add", [f"{name}.p", f"{name}.b"], [f"{name}.y"]))
        return f"{name}.y"

    for block in range(0, len(weights), 6):
        q, k, v, o, up, down = weights[block : block + 6]
        parts = [product(f"{block}.{name}", state, weight) for name, weight in zip("qkv", (q, k, v))]
        nodes.append(helper.make_node("Sum", parts, [f"{block}.sum"]))
        mixed = product(f"{block}.o", f"{block}.sum", o)
        wide = product(f"{block}.up", mixed, up)
        nodes.append(helper.make_node("Relu", [wide], [f"{block}.relu"]))
        state = product(f"{block}.down", f"{block}.relu", down)
    shape = ["batch", "tokens", weights[0].shape[0]]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", state)]
    made = helper.make_graph(nodes, "linear", ends[:1], ends[1:], tensors)
    return helper.make_model(made, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])


def compress(args, work, multiple):
    (work / "p.toml").write_text(
        f'[model]\ninput = "dense.onnx"\noutput = "{multiple}.onnx"\n[layers]\nmultiple = {multiple}\n'
        f'[rank]\nkind = "budget"\nkeep = {args.keep}\n'
    )
    ran = subprocess.run([args.program, "run", work / "p.toml", "--format", "json"], check=True, stdout=subprocess.PIPE,
                         stderr=subprocess.DEVNULL)
    flops = json.loads(ran.stdout)["flops"]
    return flops["after"] / flops["before"]


def opened(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def compare(args, work):
    operations = {multiple: compress(args, work, multiple) for multiple in MULTIPLES}
    sessions = {"dense": opened(work / "dense.onnx")} | {m: opened(work / f"{m}.onnx") for m in MULTIPLES}
    x = {"x": np.random.default_rng(1).standard_normal((args.batch, args.tokens, 384)).astype(np.float32)}
    times = {name: [] for name in sessions}
    for _ in range(args.rounds + 1):
        for name, session in sessions.items():
            start = time.perf_counter()
            session.run(None, x)
            times[name].append(time.perf_counter() - start)
    dense = statistics.median(times["dense"][1:])
    print(f"{args.batch} x {args.tokens} tokens, keep {args.keep}; dense {1e3 * dense:.1f} ms")
    print("multiple  operations  time  times as fast")
    for multiple in MULTIPLES:
        ratio = statistics.median(s / d for s, d in zip(times[multiple][1:], times["dense"][1:]))
        print(f"{multiple:8}  {operations[multiple]:10.3f}  {ratio:.3f}  {1 / ratio:.2f}")


if __name__ == "__main__":
    main()
