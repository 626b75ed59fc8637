#!/usr/bin/env python3
"""How near `plan`'s estimate of time comes to the truth: one measured layer of each shape, summed.

    tests/python/measure_estimate.py CALABI_CLI [--shapes MxN:COUNT,...] [--rank R] [--folder DIR]

Makes a sparse checkpoint of 70B shapes (140 GB that take no disk), asks `plan` about it, then decomposes one real layer of
each shape on one thread at the same rank, and prints both, shape by shape and summed by counts. Truth is the layer's time
in the report, its reading and writing included; beside it the CPU seconds of the whole run, which a busy machine prolongs less.
Layers are uniform noise with fading columns, so that single precision is enough. Needs nothing but Python, and disk for the
largest layer (940 MB) twice.
"""

import argparse
import array
import json
import os
import pathlib
import random
import struct
import subprocess
import sys
import tempfile
import time

BLOCKS = 80
LLAMA_70B = f"28672x8192:{2 * BLOCKS},8192x28672:{BLOCKS},8192x8192:{2 * BLOCKS},1024x8192:{2 * BLOCKS}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--shapes", default=LLAMA_70B)
    parser.add_argument("--rank", type=int, default=512)
    parser.add_argument("--folder", default=None)
    args = parser.parse_args()
    shapes = [(tuple(map(int, shape.split("x"))), int(count)) for shape, count in (part.split(":") for part in args.shapes.split(","))]
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        estimated = whole(args, shapes, pathlib.Path(folder))
    print("shape, count, estimate s, truth s, ratio, CPU s, ratio", flush=True)
    sums = [0.0, 0.0, 0.0]
    for shape, count in shapes:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            figures = one(args, shape, pathlib.Path(folder))
        sums = [total + count * figure for total, figure in zip(sums, figures)]
        row(f"{shape[0]}x{shape[1]}", count, figures)
    row("all", sum(count for _, count in shapes), sums)
    _, truth, cpu = sums
    print(f"the whole plan: {estimated:.0f} s; {estimated / truth:.3f} of the truth, {estimated / cpu:.3f} of the CPU seconds")


def row(name, count, figures):
    estimate, truth, cpu = figures
    print(f"{name}, {count}, {estimate:.2f}, {truth:.2f}, {estimate / truth:.3f}, {cpu:.2f}, {estimate / cpu:.3f}", flush=True)


def whole(args, shapes, folder):
    """The estimate for a sparse checkpoint of all layers in bf16, and what it took to ask."""
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text('{"model_type": "synthetic"}')
    layers = [(f"layers.{rows}x{cols}.{i}.weight", (rows, cols)) for (rows, cols), count in shapes for i in range(count)]
    places, total = {}, 0
    each = 20
    for shard, first in enumerate(range(0, len(layers), each)):
        name = f"model-{shard + 1:05}.safetensors"
        part = layers[first : first + each]
        total += write_header(folder / "model" / name, part, "BF16", 2)
        places |= {tensor: name for tensor, _ in part}
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
    started = time.monotonic()
    plan = asked(args, folder, "model")
    print(f"plan of {len(layers)} layers, {total / 1e9:.0f} GB: {time.monotonic() - started:.1f} s; disk {plan['disk']}")
    return plan["time"]["seconds"]


def write_header(path, tensors, dtype, size):
    """A safetensors file without numbers: a hole as long as they would be."""
    header, end = {}, 0
    for name, (rows, cols) in tensors:
        header[name] = {"dtype": dtype, "shape": [rows, cols], "data_offsets": [end, end + size * rows * cols]}
        end += size * rows * cols
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return end


def one(args, shape, folder):
    """Estimate, measured time and CPU seconds of a model of one layer."""
    path = folder / "model.safetensors"
    write_header(path, [("layer.weight", shape)], "F32", 4)
    write_noise(path, shape)
    plan = asked(args, folder, path.name)
    command = [args.program, "run", "p.toml", "--threads", "1", "--format", "json"]
    with open(folder / "report.json", "wb") as report:
        process = subprocess.Popen(command, cwd=folder, stdout=report, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit("the run failed")
    report = json.loads((folder / "report.json").read_text())
    [layer] = report["layers"]
    if layer["outcome"] != "factorized":
        sys.exit(f"{shape} is {layer['outcome']} at rank {args.rank}: {layer['because']}")
    return plan["time"]["seconds"], layer["seconds"], usage.ru_utime + usage.ru_stime


def write_noise(path, shape):
    """Rows of noise whose columns fade; a row is a piece of one long sequence, from a place of its own."""
    rows, cols = shape
    source = random.Random(1)
    pool = [source.uniform(-1, 1) for _ in range(1 << 20)]
    fading = [(1 + j) ** -0.25 for j in range(cols)]
    with open(path, "r+b") as file:
        file.seek(-4 * rows * cols, os.SEEK_END)
        for _ in range(rows):
            place = source.randrange(len(pool) - cols)
            file.write(array.array("f", map(float.__mul__, pool[place : place + cols], fading)).tobytes())


def asked(args, folder, model):
    (folder / "p.toml").write_text(
        f'[model]\ninput = "{model}"\noutput = "small{pathlib.Path(model).suffix}"\n[rank]\nkind = "fixed"\nrank = {args.rank}\n'
    )
    command = [args.program, "plan", "p.toml", "--threads", "1", "--format", "json"]
    return json.loads(subprocess.run(command, cwd=folder, check=True, capture_output=True).stdout)


if __name__ == "__main__":
    main()
