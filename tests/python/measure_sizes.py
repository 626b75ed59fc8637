#!/usr/bin/env python3
"""Time and peak memory against the size of the model: synthetic sharded checkpoints, made here and removed after.

    tests/python/measure_sizes.py CALABI_CLI [--sizes 1,2,4,8] [--threads 2] [--folder DIR]

Sizes are in GB of f32 in shards of a GB at most, all of layers of 2048 x 5632. Needs numpy, and disk for twice the largest.
"""

import argparse
import json
import os
import pathlib
import struct
import subprocess
import tempfile
import time

import numpy as np

SHAPE = (2048, 5632)
LAYER = 4 * SHAPE[0] * SHAPE[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--sizes", default="1,2,4,8")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--folder", default=None)
    args = parser.parse_args()
    block = np.random.default_rng(1).standard_normal(SHAPE, dtype=np.float32) * (1 + np.arange(SHAPE[1], dtype=np.float32)) ** -0.5
    print("GB, layers, seconds, seconds a layer, peak MiB")
    for size in map(float, args.sizes.split(",")):
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            row(args, block, size, pathlib.Path(folder))


def row(args, block, size, folder):
    layers = max(1, round(size * 1e9 / LAYER))
    make(folder / "model", block, layers)
    (folder / "p.toml").write_text(
        '[model]\ninput = "model"\noutput = "small"\n[rank]\nkind = "budget"\nkeep = 0.5\n'
    )
    started = time.monotonic()
    process = subprocess.Popen(
        [args.program, "run", "p.toml", "--threads", args.threads], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - started
    assert status == 0, "the run failed"
    print(f"{layers * LAYER / 1e9:.2f}, {layers}, {seconds:.1f}, {seconds / layers:.2f}, {usage.ru_maxrss / 1024:.0f}", flush=True)


def make(folder, block, layers):
    """Layers that are alike but not the same: columns rotated and scaled."""
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "synthetic"}')
    each = int(1e9 // LAYER)
    places = {}
    for shard, first in enumerate(range(0, layers, each)):
        names = [f"layers.{i}.weight" for i in range(first, min(layers, first + each))]
        name = f"model-{shard + 1:05}.safetensors"
        places |= {tensor: name for tensor in names}
        header = json.dumps({
            tensor: {"dtype": "F32", "shape": SHAPE, "data_offsets": [k * LAYER, (k + 1) * LAYER]} for k, tensor in enumerate(names)
        }).encode()
        with open(folder / name, "wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            for k in range(len(names)):
                file.write((np.roll(block, first + k, axis=1) * np.float32(1 + (first + k) / 100)).tobytes())
    index = {"metadata": {"total_size": layers * LAYER}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


if __name__ == "__main__":
    main()
